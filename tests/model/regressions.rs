//! Sequences that once failed, each with what was wrong.

use std::time::Duration;

use crate::ops::Op::{self, *};
use crate::play;

/// Both with knowledge of the bucket that stays fresh, and asked anew each time.
fn keeps(ops: &[Op]) {
    for refresh in [Duration::from_secs(3600), Duration::ZERO] {
        if let Err(why) = play(ops, refresh) {
            panic!("refresh {refresh:?}: {why}");
        }
    }
}

#[test]
fn an_empty_volume() {
    keeps(&[Settle, Reopen { empty: true }, Crash { empty: false }]);
}

#[test]
fn a_takeover_that_crashes_before_its_first_flush() {
    // The log was taken for another past's: the bucket still named the epoch before.
    keeps(&[Crash { empty: true }, Create { dir: 0, name: 0 }, Crash { empty: false }]);
}
