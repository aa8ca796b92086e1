//! How much of a file goes in one batch.

use std::ops::Range;

use super::SEGMENT;
use crate::meta::records::{ContentRec, Place};
use crate::meta::{Change, Pending};
use crate::types::Lsn;

/// Ranges of one file that go in one batch, about: a few milliseconds of everybody's time.
const STEP: usize = 4096;
/// And data, bytes, about: what is uploaded before it is handed over. A writer that waits for room waits for
/// this much at a time.
const STEP_BYTES: u64 = 64 << 20;
const LEAST_STEP_BYTES: u64 = 1 << 20;
/// Rows that it lays data over, about.
const STEP_ROWS: u64 = 16 << 10;

/// Bytes of a file for each row of its map.
pub(super) fn row_bytes(content: &ContentRec) -> u64 {
    (content.size / content.pieces.max(1)).max(1)
}

/// What of a file goes in one batch: all of it, or where it is scattered over thousands of ranges, or large,
/// the changes up to a record of the log. A batch holds everybody else up.
#[derive(Debug)]
pub(super) struct Step {
    pub through: Lsn,
    pub size: u64,
    pub limit: u64,
    pub ranges: Vec<(Range<u64>, Change)>,
    pub places: Vec<(Range<u64>, Place)>,
}

impl Step {
    /// The file's size after it, over content of `before` bytes, which may not be what it was made over.
    pub fn size_over(&self, before: u64) -> u64 {
        if self.limit < u64::MAX {
            return self.size;
        }
        let end = self.ranges.iter().map(|(range, _)| range.end).max();
        before.max(end.unwrap_or(0))
    }

    /// Bytes of data.
    pub fn data(&self) -> u64 {
        let data = self.ranges.iter().filter(|(_, change)| *change == Change::Data);
        data.map(|(range, _)| range.end - range.start).sum()
    }
}

/// What is pending up to `through`, in steps of about [`STEP`] ranges or [`STEP_BYTES`]. Each holds what was
/// done up to one record of the log, so that whatever becomes durable is what the file was at some moment.
/// `committed` is the content before, `size` the file's size after.
pub(super) fn steps(
    pending: &Pending,
    committed: &ContentRec,
    size: u64,
    through: Lsn,
) -> Vec<Step> {
    let step_bytes = match committed.pieces {
        0..STEP_ROWS => crate::fault::number(crate::fault::STEP, STEP_BYTES),
        _ => (row_bytes(committed) * STEP_ROWS).clamp(LEAST_STEP_BYTES, STEP_BYTES),
    };
    let limit = pending.limit();
    let all = || pending.ranges.iter().map(|(range, (lsn, change))| (lsn, range, change));
    if pending.ranges.len() <= STEP + STEP / 2
        && pending.data_bytes() <= step_bytes + step_bytes / 2
    {
        let ranges = all().map(|(_, range, change)| (range, change)).collect();
        return vec![Step { through, size, limit, ranges, places: Vec::new() }];
    }
    let mut by_lsn: Vec<_> = all().collect();
    by_lsn.sort_by_key(|(lsn, range, _)| (*lsn, range.start));
    // Truncations go with the first step, and all that was done before the last of them.
    let last_cut = pending.cuts.iter().max().copied();
    let mut grown = last_cut.map_or(committed.size, |(_, size)| size);
    let mut steps: Vec<Step> = Vec::new();
    let mut filled = 0;
    for (lsn, range, change) in by_lsn {
        let step = match steps.last_mut() {
            Some(step)
                if (step.ranges.len() < STEP && !is_full(step, filled, step_bytes))
                    || step.through >= lsn =>
            {
                step
            }
            _ => {
                filled = 0;
                let (through, limit) = match (steps.is_empty(), last_cut) {
                    (true, Some((cut, _))) => (cut, limit),
                    _ => (lsn, u64::MAX),
                };
                steps.push(Step { through, size: 0, limit, ranges: vec![], places: vec![] });
                steps.last_mut().expect("invariant: pushed just above")
            }
        };
        grown = grown.max(range.end);
        if change == Change::Data {
            filled += range.end - range.start;
        }
        step.through = step.through.max(lsn);
        step.size = grown;
        step.ranges.push((range, change));
    }
    if let Some(last) = steps.last_mut() {
        (last.through, last.size) = (through, size);
    }
    for step in &mut steps {
        step.ranges.sort_by_key(|(range, _)| range.start);
    }
    steps
}

/// Whether a step has enough data. It may have some more, so that it ends with a block.
fn is_full(step: &Step, filled: u64, step_bytes: u64) -> bool {
    let ends_block =
        step.ranges.last().is_some_and(|(range, _)| range.start / SEGMENT < range.end / SEGMENT);
    let more = if step_bytes > SEGMENT && !ends_block { SEGMENT } else { 0 };
    filled >= step_bytes + more
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: u64 = 10;

    /// Blocks at a stride of two, in an order without a pattern.
    fn scattered(pending: &mut Pending, count: u64, mut lsn: u64, mut size: u64) -> u64 {
        for block in (0..count).map(|number| number * 7919 % count) {
            lsn += 1;
            let at = block * 2 * BLOCK;
            size = size.max(at + BLOCK);
            pending.changed(Lsn(lsn), at, at + BLOCK, Change::Data, size);
        }
        lsn
    }

    fn checked(pending: &Pending, committed: u64, size: u64, through: Lsn) -> Vec<Step> {
        let content = ContentRec { size: committed, ..ContentRec::default() };
        let steps = steps(pending, &content, size, through);
        let of = |step: &Step, lsn: Lsn| lsn <= step.through;
        let mut before = Lsn(0);
        let mut seen = 0;
        for step in &steps {
            assert!(step.through > before, "steps go on from each other");
            let wanted: Vec<_> = pending
                .ranges
                .iter()
                .filter(|(_, (lsn, _))| *lsn > before && of(step, *lsn))
                .map(|(range, (_, change))| (range, change))
                .collect();
            assert_eq!(step.ranges, wanted, "all that was done up to a moment, in order");
            assert!(wanted.iter().all(|(range, _)| range.end <= step.size));
            seen += wanted.len();
            before = step.through;
        }
        assert_eq!(seen, pending.ranges.len());
        let last = steps.last().unwrap();
        assert_eq!((last.size, last.through), (size, through));
        steps
    }

    #[test]
    fn few_ranges_are_one_step() {
        let mut pending = Pending::default();
        let lsn = scattered(&mut pending, 100, 0, 0);
        assert_eq!(checked(&pending, 0, 5000, Lsn(lsn + 3)).len(), 1);
        assert_eq!(checked(&Pending::default(), 7, 7, Lsn(1)).len(), 1);
    }

    #[test]
    fn many_ranges_are_steps_along_the_log() {
        let mut pending = Pending::default();
        let count = 3 * STEP as u64 + 5;
        let lsn = scattered(&mut pending, count, 0, 0);
        let size = count * 2 * BLOCK - BLOCK;
        let steps = checked(&pending, 0, size, Lsn(lsn));
        assert_eq!(steps.len(), 4);
        assert!(steps.iter().all(|step| step.limit == u64::MAX));
        // One record of the log goes whole, into however many ranges others have cut it.
        let mut cut_up = Pending::default();
        cut_up.changed(Lsn(1), 0, size, Change::Zero, size);
        let lsn = scattered(&mut cut_up, count, 1, size);
        let steps = checked(&cut_up, 0, size, Lsn(lsn));
        assert!(steps[0].ranges.len() as u64 >= count - 1);
    }

    #[test]
    fn much_data_is_steps_along_the_log() {
        let mut pending = Pending::default();
        let len = STEP_BYTES / 4;
        for number in 0..10 {
            pending.changed(
                Lsn(number + 1),
                number * len,
                (number + 1) * len,
                Change::Data,
                10 * len,
            );
        }
        // What is punched costs nothing to send.
        pending.changed(Lsn(11), 0, len, Change::Zero, 10 * len);
        let steps = checked(&pending, 0, 10 * len, Lsn(11));
        let bytes: Vec<u64> = steps.iter().map(Step::data).collect();
        assert_eq!(bytes, [STEP_BYTES, STEP_BYTES, len]);
        assert_eq!(steps[0].size, 5 * len);
        // Over a file of many rows less at a time.
        let content =
            ContentRec { size: 10 * len, pieces: 10 * len / 512, ..ContentRec::default() };
        let steps = super::steps(&pending, &content, 10 * len, Lsn(11));
        assert!(steps.iter().all(|step| step.data() <= 2 * len.max(512 * STEP_ROWS)), "{steps:?}");
        assert_eq!(steps.len(), 10);
    }

    #[test]
    fn a_truncation_goes_with_the_first_step() {
        let mut pending = Pending::default();
        let count = 3 * STEP as u64;
        let before = scattered(&mut pending, 50, 0, 0);
        pending.cut(Lsn(before + 1), 100);
        let lsn = scattered(&mut pending, count, before + 1, 100);
        pending.cut(Lsn(lsn + 1), count * 100);
        let steps_after = checked(&pending, 1 << 30, count * 100, Lsn(lsn + 1));
        assert_eq!(steps_after.len(), 1, "what was done before the last one goes with it");
        let lsn = scattered(&mut pending, count, lsn + 1, count * 100);
        let steps = checked(&pending, 1 << 30, count * 100, Lsn(lsn));
        assert_eq!(steps[0].limit, 100);
        assert!(steps.len() > 1 && steps[1..].iter().all(|step| step.limit == u64::MAX));
        assert!(steps.iter().all(|step| step.size == count * 100));
    }
}
