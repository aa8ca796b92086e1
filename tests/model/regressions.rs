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

/// With others at work.
fn shared(ops: &[Op]) {
    if let Err(why) = play(ops, Duration::ZERO) {
        panic!("{why}");
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

#[test]
fn a_removed_directory_stays_away_until_it_is_tidied() {
    // Its marker, still to be deleted, made it appear again.
    keeps(&[
        Mkdir { dir: 0, name: 1 },
        Mkdir { dir: 0, name: 0 },
        Settle,
        Rename { entry: 0, dir: 1, name: 0, how: 0 },
        Reopen { empty: false },
        Compare,
    ]);
}

#[test]
fn a_replaced_name_of_several_goes_its_own_way() {
    shared(&[
        Create { dir: 0, name: 0 },
        Link { entry: 0, dir: 0, name: 1 },
        PutReplaced { file: 0, len: 5, seed: 0 },
    ]);
    shared(&[
        Create { dir: 0, name: 0 },
        Write { file: 0, at: 0, len: 50, seed: 1 },
        Link { entry: 0, dir: 0, name: 1 },
        DeleteObject { entry: 0 },
        Evict,
    ]);
}

#[test]
fn a_file_whose_first_name_goes_rests_at_the_other() {
    keeps(&[
        Create { dir: 0, name: 0 },
        Write { file: 0, at: 0, len: 50, seed: 1 },
        Link { entry: 0, dir: 0, name: 1 },
        Settle,
        Unlink { entry: 0 },
        Evict,
    ]);
    keeps(&[
        Create { dir: 0, name: 0 },
        Write { file: 0, at: 0, len: 50, seed: 1 },
        Link { entry: 0, dir: 0, name: 1 },
        Settle,
        Unlink { entry: 1 },
        Evict,
    ]);
}

#[test]
fn a_settled_file_gets_another_name() {
    // What tidying queued again was taken off the queue by the look whether it was empty.
    keeps(&[Create { dir: 0, name: 1 }, Settle, Link { entry: 0, dir: 0, name: 0 }, Settle]);
}

#[test]
fn times_after_a_crash_are_those_of_the_last_change() {
    // They were the latest of all times, whichever came last.
    keeps(&[
        Create { dir: 0, name: 0 },
        Utimens { entry: 0, secs: 4_000_000_000, nanos: 5 },
        Rewrite { file: 0, len: 100, seed: 1 },
        Crash { empty: false },
        Write { file: 0, at: 10, len: 100, seed: 2 },
        Utimens { entry: 0, secs: 1000, nanos: 7 },
        Crash { empty: false },
    ]);
}

#[test]
fn a_parked_copy_goes_with_its_file() {
    keeps(&[
        Create { dir: 0, name: 1 },
        Create { dir: 0, name: 0 },
        Write { file: 1, at: 0, len: 100, seed: 1 },
        Settle,
        Open { file: 1 },
        RenameOnto { entry: 1, other: 0, how: 0 },
        Settle,
    ]);
    keeps(&[
        Create { dir: 0, name: 0 },
        Write { file: 0, at: 0, len: 100, seed: 1 },
        Settle,
        Open { file: 0 },
        Unlink { entry: 0 },
        Create { dir: 0, name: 0 },
        Settle,
        Evict,
        Compare,
    ]);
}

#[test]
fn a_directory_that_moved_along_does_not_vanish() {
    // Nothing lies at its new key yet, and its marker still lies at the old one.
    keeps(&[
        Mkdir { dir: 0, name: 0 },
        Mkdir { dir: 1, name: 0 },
        Mkdir { dir: 2, name: 0 },
        Settle,
        Rename { entry: 0, dir: 0, name: 1, how: 0 },
        Compare,
    ]);
    shared(&[
        PutBelow { dir: 0, name: 0, len: 9, seed: 1 },
        DeleteObject { entry: 1 },
        PutBelow { dir: 0, name: 0, len: 9, seed: 1 },
        PutBelow { dir: 1, name: 0, len: 9, seed: 1 },
        Rename { entry: 0, dir: 0, name: 1, how: 0 },
        Compare,
    ]);
}

#[test]
fn somebody_elses_object_that_moves_there_and_back_stays_theirs() {
    // The model wanted it published anew, although nothing of it had changed by then.
    shared(&[
        PutNew { dir: 0, name: 1, len: 276, seed: 162 },
        Rename { entry: 0, dir: 0, name: 2, how: 0 },
        Rename { entry: 0, dir: 0, name: 1, how: 0 },
    ]);
    shared(&[
        PutNew { dir: 0, name: 1, len: 276, seed: 162 },
        Rename { entry: 0, dir: 0, name: 2, how: 0 },
        Create { dir: 0, name: 1 },
        RenameOnto { entry: 0, other: 1, how: 2 },
    ]);
    shared(&[
        PutNew { dir: 0, name: 1, len: 276, seed: 162 },
        Rename { entry: 0, dir: 0, name: 2, how: 0 },
        Settle,
        Rename { entry: 0, dir: 0, name: 1, how: 0 },
    ]);
}

#[test]
fn a_hole_punched_past_the_end_moves_the_times() {
    // It did nothing at all; ext4 takes it for a change.
    shared(&[
        Create { dir: 0, name: 0 },
        PutReplaced { file: 0, len: 28, seed: 2 },
        Punch { file: 0, at: 31086, len: 195 },
    ]);
}

#[test]
fn a_name_that_others_took_counts_until_its_directory_is_looked_at() {
    // The model counted the links of the file before anybody had looked there.
    shared(&[
        Mkdir { dir: 0, name: 1 },
        Create { dir: 0, name: 0 },
        Link { entry: 0, dir: 1, name: 1 },
        DeleteObject { entry: 2 },
    ]);
}

#[test]
fn a_file_copied_behind_its_own_end_does_not_grow_meanwhile() {
    keeps(&[
        Create { dir: 0, name: 0 },
        Rewrite { file: 0, len: 31290, seed: 0 },
        CopyRange { from: 0, at: 0, to: 0, to_at: 130000, len: 31291 },
    ]);
}

#[test]
fn a_directory_that_moved_and_got_another_owner_takes_its_children_along() {
    // The new owner took the place of what was still to be done: its children stayed at their old keys.
    keeps(&[
        Mkdir { dir: 0, name: 2 },
        Create { dir: 1, name: 0 },
        Settle,
        Rename { entry: 0, dir: 0, name: 0, how: 0 },
        Chown { entry: 0, uid: 7, gid: 7 },
    ]);
}

#[test]
fn a_directory_kept_for_a_changed_file_is_ours_from_then_on() {
    // The model let it vanish with that file, although it had a marker by then.
    shared(&[
        PutBelow { dir: 0, name: 0, len: 0, seed: 0 },
        ChangedAndDeleted { file: 0, len: 0, seed: 0, commit: false },
        DeleteObject { entry: 1 },
    ]);
}

#[test]
fn a_directory_in_which_a_file_was_replaced_gets_a_marker() {
    // The model let it vanish with its last object.
    shared(&[
        Create { dir: 0, name: 1 },
        PutBelow { dir: 0, name: 0, len: 0, seed: 0 },
        RenameOnto { entry: 1, other: 2, how: 0 },
        DeleteObject { entry: 1 },
    ]);
}

#[test]
fn a_directory_that_is_open_stays_when_its_last_object_goes() {
    // The model let it vanish under whoever has it open.
    shared(&[
        PutBelow { dir: 0, name: 1, len: 0, seed: 0 },
        OpenDir { dir: 1 },
        DeleteObject { entry: 1 },
        Settle,
        CloseDir { handle: 0 },
    ]);
}

#[test]
fn times_that_others_changed_are_the_same_after_a_remount() {
    // The clock was asked twice, for the record and for the inode in memory.
    shared(&[
        Mkdir { dir: 0, name: 1 },
        Create { dir: 0, name: 0 },
        Link { entry: 0, dir: 1, name: 0 },
        DeleteObject { entry: 2 },
        Reopen { empty: false },
    ]);
}
