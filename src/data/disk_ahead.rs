//! Has the local disk read a cache file ahead of who reads it from front to back. The disk's own read-ahead does not see
//! that order: reads come 128 KiB at a time and from several threads.

use std::ops::Range;

/// A reader reads in order once it has read this much, bytes.
const BEGINS: u64 = 256 << 10;
/// Reads this close are one reader's: the kernel sends several at once, in any order, bytes.
const SLACK: u64 = 1 << 20;
/// How far ahead of the reader the disk reads, bytes.
const AHEAD: u64 = 4 << 20;
/// What it is told at a time, bytes. Of one request Linux reads no more than the largest that the disk takes, which is more.
const STEP: u64 = 512 << 10;

/// The last reader's run through one cache file.
#[derive(Debug, Default)]
pub(super) struct DiskAhead {
    /// How far it has read, and how much of that.
    end: u64,
    read: u64,
    /// Up to where the disk was told.
    told: u64,
}

impl DiskAhead {
    /// A range is being read. Returns what the disk is to read now.
    pub fn next(&mut self, range: Range<u64>) -> Option<Range<u64>> {
        if range.start > self.end + SLACK || range.start + SLACK < self.end {
            *self = DiskAhead { end: range.end, read: range.end - range.start, told: 0 };
            return None;
        }
        self.read += range.end.saturating_sub(self.end);
        self.end = self.end.max(range.end);
        let from = self.told.max(self.end);
        if self.read < BEGINS || from + STEP > self.end + AHEAD {
            return None;
        }
        self.told = from + STEP;
        Some(from..self.told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 128 << 10;

    #[test]
    fn a_reader_in_order_finds_the_disk_ahead_of_it() {
        let mut ahead = DiskAhead::default();
        let told: Vec<Range<u64>> =
            (0..128).filter_map(|at| ahead.next(at * PAGE..(at + 1) * PAGE)).collect();
        assert_eq!(told[0], 2 * PAGE..2 * PAGE + STEP);
        for two in told.windows(2) {
            assert_eq!(two[0].end, two[1].start, "without a gap");
            assert_eq!(two[1].end - two[1].start, STEP);
        }
        let last = told[told.len() - 1].end;
        assert!(last > 128 * PAGE + AHEAD - 2 * STEP && last <= 128 * PAGE + AHEAD, "{last}");
    }

    #[test]
    fn neighbours_may_come_in_any_order() {
        let mut ahead = DiskAhead::default();
        let order = [1, 0, 3, 2, 5, 4, 7, 6];
        let told = order.iter().filter_map(|at| ahead.next(at * PAGE..(at + 1) * PAGE)).count();
        assert!(told >= 6, "{told}");
    }

    #[test]
    fn random_reads_have_nothing_read_ahead() {
        let mut ahead = DiskAhead::default();
        for at in [0, 900, 100, 800, 200, 700] {
            assert_eq!(ahead.next(at * PAGE..at * PAGE + 4096), None);
        }
    }
}
