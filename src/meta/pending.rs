//! What was done to a file's content since its last commit.

use super::RangeMap;
use crate::types::Lsn;

/// What a changed range holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Bytes in the cache file.
    Data,
    /// Zeros over older content.
    Zero,
}

/// What uncommitted changes cost: bytes in the cache, and records of a commit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Weight {
    pub bytes: u64,
    pub ranges: u64,
}

/// Uncommitted changes of one file, each with the position of the log record that made it. The
/// newest record of a range wins; a cut hides everything older at and after its offset.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pending {
    pub ranges: RangeMap<(Lsn, Change)>,
    /// Truncations: (record, size). Sizes that later ones undercut are dropped.
    pub cuts: Vec<(Lsn, u64)>,
    /// The file's size after the last change; `None` when nothing changed it.
    pub size: Option<(Lsn, u64)>,
    /// Bytes of `ranges` that hold data.
    data: u64,
}

impl Pending {
    pub fn is_clean(&self) -> bool {
        self.ranges.is_empty() && self.cuts.is_empty() && self.size.is_none()
    }

    /// A write or zeroing of `start..end`; the file then has `size` bytes.
    pub fn changed(&mut self, lsn: Lsn, start: u64, end: u64, change: Change, size: u64) {
        self.data -= self.data_in(start, end);
        if change == Change::Data {
            self.data += end - start;
        }
        self.ranges.insert(start..end, (lsn, change));
        self.size = Some((lsn, size));
    }

    /// The size was set.
    pub fn cut(&mut self, lsn: Lsn, size: u64) {
        self.data -= if size == 0 { self.data } else { self.data_in(size, u64::MAX) };
        self.ranges.truncate(size);
        self.cuts.retain(|(_, other)| *other < size);
        self.cuts.push((lsn, size));
        self.size = Some((lsn, size));
    }

    /// A commit that holds every change up to `through` was handed over.
    pub fn committed(&mut self, through: Lsn) {
        self.ranges.retain(|(lsn, _)| lsn > through);
        self.data = self.data_in(0, u64::MAX);
        self.cuts.retain(|(lsn, _)| *lsn > through);
        if self.size.is_some_and(|(lsn, _)| lsn <= through) {
            self.size = None;
        }
    }

    /// Committed content shows only below this offset.
    pub fn limit(&self) -> u64 {
        self.cuts.iter().map(|(_, size)| *size).min().unwrap_or(u64::MAX)
    }

    /// What was changed up to `through` shows only below this offset.
    pub fn cut_since(&self, through: Lsn) -> u64 {
        let newer = self.cuts.iter().filter(|(lsn, _)| *lsn > through);
        newer.map(|(_, size)| *size).min().unwrap_or(u64::MAX)
    }

    /// What was changed up to `through`, where nothing was truncated.
    pub fn up_to(&self, through: Lsn) -> Pending {
        let mut part = Pending::default();
        for (range, (lsn, change)) in self.ranges.iter().filter(|(_, (lsn, _))| *lsn <= through) {
            if change == Change::Data {
                part.data += range.end - range.start;
            }
            part.ranges.insert(range, (lsn, change));
        }
        part.size = Some((through, part.ranges.end()));
        part
    }

    /// The size of a file with these changes over `committed` bytes, which may not be those that they were
    /// made over.
    pub fn size_over(&self, committed: u64) -> u64 {
        match (self.size, self.cuts.is_empty()) {
            // Whatever was there before the truncation.
            (Some((_, size)), false) => size,
            _ => committed.max(self.ranges.end()),
        }
    }

    /// Bytes of data that a commit will have to send.
    pub fn data_bytes(&self) -> u64 {
        self.data
    }

    /// What a commit of this costs.
    pub fn weight(&self) -> Weight {
        Weight { bytes: self.data, ranges: self.ranges.len() as u64 }
    }

    fn data_in(&self, start: u64, end: u64) -> u64 {
        self.ranges
            .overlapping(start..end)
            .filter(|(_, (_, change))| *change == Change::Data)
            .map(|(range, _)| range.end - range.start)
            .sum()
    }
}
