//! Waiting for the bucket: a slow uplink that makes progress is waited for, a bucket that takes nothing is not.

use std::time::Duration;

use super::Volume;
use crate::clock::Deadline;

/// Less than this is no sign of progress (lease renewals, requests that are tried again), bytes.
const SIGN: u64 = 1 << 20;

/// How far a volume's uploads were at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Progress {
    /// Bytes that went out, whatever became of them.
    pub sent: u64,
    /// Bytes that are in segments.
    pub stored: u64,
    /// Attempts to store one that failed.
    pub failed: u64,
}

impl Progress {
    /// Whether data went up since `before`. What a bucket took only to refuse it did not.
    fn since(self, before: Progress) -> bool {
        self.stored > before.stored
            || self.failed == before.failed && self.sent > before.sent + SIGN
    }
}

/// A deadline that begins anew as long as data goes up.
#[derive(Debug)]
pub struct Patience<'v> {
    volume: &'v Volume,
    each: Duration,
    until: Deadline,
    seen: Progress,
}

impl<'v> Patience<'v> {
    pub fn new(volume: &'v Volume, each: Duration) -> Self {
        let seen = volume.progress();
        Patience { volume, each, until: Deadline::after(each), seen }
    }

    /// What is left before it is worth another look.
    pub fn left(&self) -> Duration {
        self.until.left()
    }

    /// The deadline as it is now, for what nothing that goes up would help.
    pub(super) fn until(&self) -> Deadline {
        self.until
    }

    /// Whether nothing went up for all of the time.
    pub fn is_over(&mut self) -> bool {
        if !self.until.passed() {
            return false;
        }
        let now = self.volume.progress();
        let over = !now.since(self.seen);
        if !over {
            (self.until, self.seen) = (Deadline::after(self.each), now);
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_goes_up_and_is_not_refused_is_progress() {
        let before = Progress { sent: 5, stored: 7, failed: 1 };
        assert!(!before.since(before));
        assert!(!Progress { sent: 5 + SIGN, ..before }.since(before));
        let under_way = Progress { sent: 6 + SIGN, ..before };
        assert!(under_way.since(before));
        let refused = Progress { failed: 2, sent: 64 * SIGN, ..before };
        assert!(!refused.since(before));
        assert!(Progress { stored: 8, ..refused }.since(before));
    }
}
