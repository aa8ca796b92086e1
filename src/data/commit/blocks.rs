//! Blocks: stretches of a file that become one part each of its object at rest. A block that lies in one segment need
//! not be sent again for that, so what is written in one go is stored block by block.

use std::ops::Range;
use std::sync::Arc;

use super::super::{Inode, Live, Volume};
use super::SEGMENT;
use super::steps::Step;
use crate::meta::records::ContentRec;
use crate::meta::{Change, Pending};
use crate::types::Lsn;

/// Of a block that was begun before, so much is stored again at most, to have all of it in one segment, bytes. At rest it
/// would be all of the block.
const AGAIN: u64 = 4 << 20;
/// And of one that is not complete yet this part of what is new.
const HARDLY: u64 = 16;
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

/// What of the block in which a run of data begins was stored before, if that was little. Unless the run has the rest of
/// the block, little is what hardly counts beside it.
fn begun(run: &Range<u64>) -> Option<Range<u64>> {
    let block = run.start / SEGMENT * SEGMENT;
    let (before, now) = (run.start - block, run.end.saturating_sub(run.start));
    let most = if run.end >= block + SEGMENT { AGAIN } else { now / HARDLY };
    (1..=most).contains(&before).then_some(block..run.start)
}

/// Each step stores again what the one before it has of a block that it completes.
pub(super) fn join(steps: &mut [Step]) {
    let joins = |before: &Step, step: &Step| {
        let first = step.ranges.first()?;
        let begun = begun(&(first.0.start..end_of_run(&step.ranges)))?;
        let from = before.ranges.iter().position(|(range, _)| range.end > begun.start)?;
        let has = before.ranges[from].0.start <= begun.start
            && end_of_run(&before.ranges[from..]) == begun.end;
        has.then_some(begun)
    };
    for at in 1..steps.len() {
        if let Some(begun) = joins(&steps[at - 1], &steps[at]) {
            steps[at].ranges.insert(0, (begun, Change::Data));
        }
    }
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

/// The record up to which a stream has whole blocks and little more, and where it ends. `None`: it has none, or that
/// is all that there is, or it was not written from front to back.
pub(super) fn blocks_of(pending: &Pending, content: &ContentRec) -> Option<Lsn> {
    let run = stream(pending, content)?;
    let end = blocks_end(&run)?;
    let mut through = Lsn(0);
    for (range, (lsn, _)) in pending.ranges.iter() {
        if lsn < through {
            return None;
        }
        through = lsn;
        if range.end >= end {
            return (range.end < run.end).then_some(through);
        }
    }
    None
}

impl Live {
    /// Whether a program that writes from front to back has written enough to begin to send it.
    pub(in crate::data) fn has_blocks(&self) -> bool {
        self.pending.data_bytes() >= LEAST
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
        stream(&live.pending, &live.content).is_some_and(|run| blocks_end(&run).is_none())
    }

    /// What of a block was committed before and is in the cache, if a commit now has the rest of it. Its bytes are those
    /// of their record.
    pub(super) async fn begun_before(&self, inode: &Arc<Inode>) -> Option<Range<u64>> {
        let begun = inode.live().begun_block()?;
        let len = begun.end - begun.start;
        match self.read_proven(inode, begun.start, len as usize).await {
            Ok(read) => (read.len() as u64 == len).then_some(begun),
            Err(error) => {
                tracing::debug!(ino = %inode.ino, %error, "what a block begins with is not stored again");
                None
            }
        }
    }
}

impl Live {
    fn begun_block(&self) -> Option<Range<u64>> {
        let begun = begun(&stream(&self.pending, &self.content)?)?;
        let clean =
            self.content.size == begun.end && self.cache.present.gaps(begun.clone()).is_empty();
        clean.then_some(begun)
    }

    /// Puts `begun` into the first of these steps, if it still is what it was.
    pub(super) fn join_begun(&self, begun: Option<Range<u64>>, steps: &mut [Step]) {
        if let Some(begun) = begun.filter(|begun| self.begun_block().as_ref() == Some(begun))
            && let Some(step) = steps.first_mut()
            && step.ranges.first().is_some_and(|(range, _)| range.start == begun.end)
        {
            step.ranges.insert(0, (begun, Change::Data));
        }
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
        // The record in which the block ends goes as a whole.
        let (pending, _) = streamed(0, 20 * MIB, 3 * MIB);
        let part = pending.up_to(Lsn(6));
        assert_eq!((part.ranges.end(), part.data_bytes()), (18 * MIB, 18 * MIB));
        assert_eq!(blocks_of(&pending, &ContentRec::default()), Some(Lsn(6)));
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

    #[test]
    fn a_block_that_was_begun_is_stored_again_in_the_step_that_completes_it() {
        let step = |ranges: &[Range<u64>]| Step {
            through: Lsn(0),
            size: 0,
            limit: u64::MAX,
            ranges: ranges.iter().map(|range| (range.clone(), Change::Data)).collect(),
            places: Vec::new(),
        };
        let joined = |before: &[Range<u64>], range: Range<u64>| {
            let mut steps = [step(before), step(std::slice::from_ref(&range))];
            join(&mut steps);
            steps[1].ranges[0].0.start
        };
        let before = [0..16 * MIB, 16 * MIB..17 * MIB];
        assert_eq!(joined(&before, 17 * MIB..40 * MIB), 16 * MIB);
        assert_eq!(joined(&before, 17 * MIB..31 * MIB), 17 * MIB, "it is not all of the block");
        assert_eq!(joined(&[0..17 * MIB], 17 * MIB..40 * MIB), 16 * MIB);
        let few = [0..16 * MIB + 9];
        assert_eq!(joined(&few, 16 * MIB + 9..20 * MIB), 16 * MIB, "it hardly counts");
        assert_eq!(joined(&before[1..], 17 * MIB..40 * MIB), 16 * MIB);
        assert_eq!(joined(&[0..22 * MIB], 22 * MIB..40 * MIB), 22 * MIB, "it is much");
        let other = [0..5 * MIB, 16 * MIB + 1..17 * MIB];
        assert_eq!(joined(&other, 17 * MIB..40 * MIB), 17 * MIB, "that step does not have it");
    }
}
