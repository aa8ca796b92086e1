//! Blocks: stretches of a file that become one part each of its object at rest. A block that lies in one segment need
//! not be sent again for that, so what is written in one go is stored block by block.

use std::ops::Range;

use super::super::{Inode, Live, Volume};
use super::SEGMENT;
use crate::meta::records::ContentRec;
use crate::meta::{Change, Pending};
use crate::types::Lsn;

/// A stream is stored in advance if that is at least so much, bytes.
const LEAST: u64 = SEGMENT / 2;

/// How much of a file is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Much {
    All,
    /// Of what a program writes from front to back only what ends with a block; of other files all.
    Blocks,
}

/// How far the data goes on from the first of these ranges.
pub(super) fn end_of_run(ranges: &[(Range<u64>, Change)]) -> u64 {
    let mut end = ranges.first().map_or(0, |(range, _)| range.start);
    for (range, change) in ranges {
        if *change != Change::Data || range.start != end {
            break;
        }
        end = range.end;
    }
    end
}

/// Whether a whole block begins at `at`, of data that goes on to `end`.
pub(super) fn is_block(at: u64, end: u64) -> bool {
    at.is_multiple_of(SEGMENT) && end - at.min(end) >= SEGMENT
}

/// What was written to the end of a file and is not committed, if that is all that is not.
fn stream(pending: &Pending, content: &ContentRec) -> Option<Range<u64>> {
    let (first, _) = pending.ranges.iter().next()?;
    let run = first.start..pending.ranges.end();
    let all = pending.data_bytes() == run.end - run.start && pending.cuts.is_empty();
    (all && run.start >= content.size).then_some(run)
}

/// Where the last block of a stream begins, if what comes before it is worth a commit.
fn blocks_end(run: &Range<u64>) -> Option<u64> {
    let end = run.end / SEGMENT * SEGMENT;
    (end >= run.start + LEAST).then_some(end)
}

/// The record with which the last whole block of a stream ends. `None`: with none does a block end that is worth a commit,
/// or that is all that there is, or it was not written from front to back.
pub(super) fn blocks_of(pending: &Pending, content: &ContentRec) -> Option<Lsn> {
    let run = stream(pending, content)?;
    blocks_end(&run)?;
    let (mut last, mut through) = (Lsn(0), None);
    for (range, (lsn, _)) in pending.ranges.iter() {
        if lsn < last {
            return None;
        }
        last = lsn;
        let ends = range.end.is_multiple_of(SEGMENT) && range.end >= run.start + LEAST;
        if ends && range.end < run.end {
            through = Some(lsn);
        }
    }
    through
}

impl Live {
    /// Whether a program that writes from front to back has ended a block with what it wrote up to `end`.
    pub(in crate::data) fn ends_block(&self, end: u64) -> bool {
        end.is_multiple_of(SEGMENT)
            && self.pending.data_bytes() >= LEAST
            && stream(&self.pending, &self.content).is_some_and(|run| blocks_end(&run).is_some())
    }
}

impl Volume {
    /// Whether what is written to a file is better left until there is more of it, or its time has come.
    pub fn gathers(&self, inode: &Inode) -> bool {
        if self.is_pressed() {
            return false;
        }
        let live = inode.live();
        live.pending.data_bytes() < self.eager_commit()
            && stream(&live.pending, &live.content).is_some()
            && blocks_of(&live.pending, &live.content).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_goes_on_over_ranges_that_meet() {
        let data = |range| (range, Change::Data);
        assert_eq!(end_of_run(&[]), 0);
        assert_eq!(end_of_run(&[(0..4, Change::Zero)]), 0);
        let ranges = [data(2..4), data(4..9), data(10..11)];
        assert_eq!(end_of_run(&ranges), 9);
        assert_eq!(end_of_run(&ranges[1..]), 9);
        assert_eq!(end_of_run(&[data(2..4), (4..9, Change::Zero), data(9..10)]), 4);
    }

    #[test]
    fn a_block_begins_where_all_of_a_part_follows() {
        assert!(is_block(0, SEGMENT) && is_block(SEGMENT, 2 * SEGMENT + 1));
        for (at, end) in
            [(0, SEGMENT - 1), (1, 2 * SEGMENT), (SEGMENT, 2 * SEGMENT - 1), (SEGMENT, 0)]
        {
            assert!(!is_block(at, end), "{at} {end}");
        }
    }

    const MIB: u64 = 1 << 20;

    /// A file of `size` bytes to which so many were written, in pieces.
    fn streamed(size: u64, len: u64, piece: u64) -> (Pending, ContentRec) {
        let mut pending = Pending::default();
        let (mut at, mut lsn) = (size, 0);
        while at < size + len {
            let end = (at + piece).min(size + len);
            lsn += 1;
            pending.changed(Lsn(lsn), at, end, Change::Data, end);
            at = end;
        }
        (pending, ContentRec { size, ..ContentRec::default() })
    }

    #[test]
    fn a_stream_is_committed_up_to_the_end_of_a_block() {
        let blocks = |(pending, content): &(Pending, ContentRec)| blocks_of(pending, content);
        assert_eq!(blocks(&streamed(0, 15 * MIB, MIB)), None);
        assert_eq!(blocks(&streamed(0, 20 * MIB, MIB)), Some(Lsn(16)));
        assert_eq!(blocks(&streamed(0, 16 * MIB, MIB)), None, "that is all that there is");
        assert_eq!(blocks(&streamed(10 * MIB, 8 * MIB, MIB)), None, "it is not much");
        assert_eq!(blocks(&streamed(8 * MIB, 60 * MIB, MIB)), Some(Lsn(56)));
        // A record in which a block ends would leave the next one begun.
        assert_eq!(blocks(&streamed(0, 20 * MIB, 3 * MIB)), None);
        let (pending, content) = streamed(0, 50 * MIB, 3 * MIB);
        let part = pending.up_to(Lsn(16));
        assert_eq!((part.ranges.end(), part.data_bytes()), (48 * MIB, 48 * MIB));
        assert_eq!(blocks_of(&pending, &content), Some(Lsn(16)));
    }

    #[test]
    fn what_is_not_written_from_front_to_back_at_the_end_is_no_stream() {
        let (mut pending, content) = streamed(0, 40 * MIB, MIB);
        let other = ContentRec { size: 1, ..ContentRec::default() };
        assert_eq!(blocks_of(&pending, &other), None, "it was rewritten");
        pending.changed(Lsn(100), 5, 6, Change::Data, 40 * MIB);
        assert_eq!(blocks_of(&pending, &content), None, "here, too");
        let (mut pending, content) = streamed(0, 40 * MIB, MIB);
        pending.changed(Lsn(100), 50 * MIB, 60 * MIB, Change::Data, 60 * MIB);
        assert_eq!(blocks_of(&pending, &content), None, "it has a hole");
        let (mut pending, content) = streamed(0, 40 * MIB, MIB);
        pending.cut(Lsn(100), 30 * MIB);
        assert_eq!(blocks_of(&pending, &content), None, "it was cut");
    }
}
