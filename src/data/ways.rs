//! The ranges of a file that are in flight, so that a reader that misses them can wait for them.
//!
//! No reader waits for a fetch that is itself waiting for memory, nor for one that stalled: no byte arrived for a
//! while. That one is never waited for again.

use std::ops::Range;
use std::time::Duration;

/// A fetch has stalled after this long without a byte: a new connection may be faster.
const PATIENCE: Duration = Duration::from_secs(2);
/// One read waits for others' fetches no longer than this, however steadily bytes arrive.
pub(super) const LATE: Duration = Duration::from_secs(10);

/// A range that is being fetched, and how far it has arrived.
#[derive(Debug)]
pub(super) struct Way {
    number: u64,
    range: Range<u64>,
    pub at: u64,
    /// Boot time of its last byte, or of the request.
    pub moved: Duration,
    /// No reader waits for it.
    pub stalled: bool,
}

/// All ranges of a file that are in flight. They may overlap.
#[derive(Debug, Default)]
pub struct Ways {
    ways: Vec<Way>,
    begun: u64,
}

impl Ways {
    pub fn is_empty(&self) -> bool {
        self.ways.is_empty()
    }

    /// The end of the range in flight here.
    pub fn end_of(&self, at: u64) -> Option<u64> {
        self.ways.iter().find(|way| way.range.contains(&at)).map(|way| way.range.end)
    }

    /// The start of the next one after this.
    pub fn next_after(&self, at: u64) -> Option<u64> {
        self.ways.iter().map(|way| way.range.start).filter(|start| *start > at).min()
    }

    /// Bytes that have not arrived yet.
    pub fn coming(&self) -> u64 {
        self.ways.iter().map(|way| way.range.end.saturating_sub(way.at)).sum()
    }

    /// How long to wait at most for the byte at `at`, if less than `near` has to arrive before it; `None`: the reader
    /// has to fetch it.
    pub fn patience(&mut self, at: u64, near: u64, now: Duration) -> Option<Duration> {
        for way in &mut self.ways {
            // What is missing before `way.at` arrived and found no room.
            let comes = way.range.contains(&at) && at >= way.at && at - way.at < near;
            if !comes || way.stalled {
                continue;
            }
            let left = (way.moved + PATIENCE).saturating_sub(now);
            if !left.is_zero() {
                return Some(left);
            }
            way.stalled = true;
        }
        None
    }

    pub(super) fn begin(&mut self, range: Range<u64>, now: Duration) -> u64 {
        self.begun += 1;
        let (number, at) = (self.begun, range.start);
        self.ways.push(Way { number, range, at, moved: now, stalled: false });
        number
    }

    pub(super) fn end(&mut self, number: u64) {
        self.ways.retain(|way| way.number != number);
    }

    pub(super) fn with(&mut self, number: u64, change: impl FnOnce(&mut Way)) {
        if let Some(way) = self.ways.iter_mut().find(|way| way.number == number) {
            change(way);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn whoever_waits_for_bytes_waits_as_long_as_some_come() {
        let mut ways = Ways::default();
        let number = ways.begin(0..8 << 20, MS);
        for second in 1..100 {
            let now = MS * 1000 * second;
            assert_eq!(
                ways.patience(1 << 20, u64::MAX, now),
                Some(PATIENCE - 999 * MS),
                "{second}"
            );
            ways.with(number, |way| way.moved = now + MS);
        }
    }

    #[test]
    fn where_nothing_comes_one_wait_is_the_only_one() {
        let mut ways = Ways::default();
        let number = ways.begin(0..8 << 20, MS);
        assert_eq!(ways.patience(0, u64::MAX, MS), Some(PATIENCE));
        assert_eq!(ways.patience(0, u64::MAX, PATIENCE + MS), None);
        ways.with(number, |way| way.moved = PATIENCE + MS);
        assert_eq!(ways.patience(4 << 20, u64::MAX, PATIENCE + MS), None, "nor for later bytes");
        assert_eq!(ways.end_of(4 << 20), Some(8 << 20), "but it is not started again");
    }

    #[test]
    fn of_two_ways_from_one_place_each_ends_by_itself() {
        let mut ways = Ways::default();
        let (long, short) = (ways.begin(0..8 << 20, MS), ways.begin(0..4096, MS));
        ways.with(short, |way| way.at = 4096);
        ways.end(short);
        assert_eq!(ways.patience(0, 1 << 20, MS), Some(PATIENCE));
        assert_eq!((ways.coming(), ways.end_of(0)), (8 << 20, Some(8 << 20)));
        ways.end(long);
        assert!(ways.is_empty());
    }
}
