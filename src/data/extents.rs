//! Committed pieces of files, in the engine.

use std::collections::{BTreeMap, HashMap};
use std::ops::{Bound, Range};

use bytes::Bytes;

use super::DataError;
use crate::meta::records::{ContentRec, ExtentRec, Place, SegmentRec, decode};
use crate::meta::{Lookup, Txn, keys};
use crate::types::Ino;

/// Changes of segments' live bytes that a batch will apply.
#[derive(Debug, Default)]
pub struct SegmentDelta {
    live: HashMap<u128, i64>,
    /// Bytes that a file's live extents hold more (or fewer) than before.
    laid: i64,
    /// Rows of a file's map that came or went.
    rows: i64,
}

/// Extents looked at in one engine scan: few at first, because most changes and reads are small and an
/// extent may hold 16 KiB itself, then up to so many.
const PAGE_FIRST: usize = 4;
const PAGE: usize = 256;
/// The same for readers, who hold nobody up.
const LONG_PAGE: usize = 2048;
/// A page was too long if less than one in so many was used: each range counts, and each extent it cuts.
const SPARSE: usize = 4;

impl SegmentDelta {
    pub fn add(&mut self, place: &Place, bytes: u64) {
        if let Place::Segment { id, .. } = place {
            *self.live.entry(*id).or_default() += bytes as i64;
        }
    }

    /// How the bytes of one file changed; counts the next one's from zero.
    pub fn take_laid(&mut self) -> i64 {
        std::mem::take(&mut self.laid)
    }

    /// The same of its rows.
    pub fn take_rows(&mut self) -> i64 {
        std::mem::take(&mut self.rows)
    }

    fn lay(&mut self, place: &Place, bytes: u64) {
        if *place != Place::Zero {
            self.laid += bytes as i64;
        }
        self.add(place, bytes);
    }

    pub fn sub(&mut self, place: &Place, bytes: u64) {
        if let Place::Segment { id, .. } = place {
            *self.live.entry(*id).or_default() -= bytes as i64;
        }
    }

    /// Writes the new counts; a segment without live bytes becomes garbage in the same batch.
    pub async fn apply(self, txn: &mut Txn<'_>) -> Result<(), DataError> {
        for (id, delta) in self.live {
            let key = keys::segment(id);
            let mut rec: SegmentRec =
                txn.get(&key).await?.unwrap_or(SegmentRec { total: 0, live: 0 });
            if delta >= 0 {
                rec.live += delta as u64;
                rec.total = rec.total.max(rec.live);
            } else {
                rec.live = rec.live.saturating_sub(delta.unsigned_abs());
            }
            if rec.live == 0 {
                txn.delete(key);
                txn.put_raw(keys::garbage(id), Vec::new());
            } else {
                txn.put(key, &rec);
            }
        }
        Ok(())
    }
}

/// The part of an extent from `from`, `skip` bytes after its start.
pub(super) fn tail_of(place: &Place, skip: u64, len: u64) -> Place {
    match place {
        Place::Inline(bytes) => {
            let from = (skip as usize).min(bytes.len());
            let to = ((skip + len) as usize).min(bytes.len());
            Place::Inline(match to - from == bytes.len() {
                true => bytes.clone(),
                false => Bytes::copy_from_slice(&bytes[from..to]),
            })
        }
        Place::Segment { id, offset, crc, crc_offset, crc_len } => Place::Segment {
            id: *id,
            offset: offset + skip,
            crc: *crc,
            crc_offset: *crc_offset,
            crc_len: *crc_len,
        },
        Place::Zero => Place::Zero,
    }
}

/// The extents of one inode while one change rewrites them.
///
/// Ranges in ascending order cost one pass: what lies ahead is read in pages and kept. A change of
/// thousands of pages holds the sequencer meanwhile, so looking each of them up would stop the volume.
pub(super) struct Editor<'t, 'm> {
    txn: &'t mut Txn<'m>,
    ino: Ino,
    map: u64,
    drop_gen: u64,
    /// By their ends: all that end after `known.start` and not after `known.end`.
    ahead: BTreeMap<u64, ExtentRec>,
    known: Range<u64>,
    /// What ends behind it is not looked for.
    up_to: u64,
    /// Extents to read next time.
    page: usize,
    /// What was done with the last page: a page that is hardly used was too long.
    used: usize,
    scans: usize,
}

impl<'t, 'm> Editor<'t, 'm> {
    pub fn new(txn: &'t mut Txn<'m>, ino: Ino, content: &ContentRec) -> Self {
        Editor {
            txn,
            ino,
            map: content.map,
            drop_gen: content.drop_gen,
            ahead: BTreeMap::new(),
            known: 0..0,
            up_to: u64::MAX,
            page: PAGE_FIRST,
            used: PAGE_FIRST,
            scans: 0,
        }
    }

    /// Only for changes before `end`, where an extent ends: what was deleted behind it is not gone over.
    pub fn up_to(self, end: u64) -> Self {
        Editor { up_to: end, ..self }
    }

    /// Lays a new extent over `range`: what lies below is trimmed, split or removed.
    pub async fn overlay(
        &mut self,
        range: Range<u64>,
        place: Place,
        generation: u64,
        delta: &mut SegmentDelta,
    ) -> Result<(), DataError> {
        self.clear(range.clone(), delta).await?;
        delta.lay(&place, range.end - range.start);
        self.put(range.end, ExtentRec { start: range.start, generation, place }, delta);
        Ok(())
    }

    /// Removes whatever extents lie in `range`, keeping their parts outside of it.
    pub async fn clear(
        &mut self,
        range: Range<u64>,
        delta: &mut SegmentDelta,
    ) -> Result<(), DataError> {
        self.used += 1;
        self.look_from(range.start);
        loop {
            let Some((&end, next)) = self.ahead.first_key_value() else {
                // Extents do not overlap: what ends further on begins there, too.
                if self.known.end >= range.end {
                    return Ok(());
                }
                self.look_further().await?;
                continue;
            };
            if next.start >= range.end {
                return Ok(());
            }
            let Some(rec) = self.ahead.remove(&end) else { continue };
            self.used += 1;
            let len = end - rec.start;
            self.txn.delete(keys::extent(self.ino, self.map, end));
            delta.rows -= 1;
            delta.sub(&rec.place, len);
            if rec.generation <= self.drop_gen {
                continue;
            }
            if rec.place != Place::Zero {
                delta.laid -= len as i64;
            }
            if rec.start < range.start {
                let kept = range.start - rec.start;
                let place = tail_of(&rec.place, 0, kept);
                delta.lay(&place, kept);
                let left = ExtentRec { start: rec.start, generation: rec.generation, place };
                self.txn.put(keys::extent(self.ino, self.map, range.start), &left);
                delta.rows += 1;
            }
            if end > range.end {
                let kept = end - range.end;
                let place = tail_of(&rec.place, range.end - rec.start, kept);
                delta.lay(&place, kept);
                let right = ExtentRec { start: range.end, generation: rec.generation, place };
                self.put(end, right, delta);
                return Ok(());
            }
        }
    }

    fn put(&mut self, end: u64, rec: ExtentRec, delta: &mut SegmentDelta) {
        self.txn.put(keys::extent(self.ino, self.map, end), &rec);
        delta.rows += 1;
        self.ahead.insert(end, rec);
    }

    /// Forgets what ends at `from` or before.
    fn look_from(&mut self, from: u64) {
        if from < self.known.start || from > self.known.end {
            self.ahead.clear();
            self.known = from..from;
        } else {
            self.ahead = self.ahead.split_off(&from.saturating_add(1));
            self.known.start = from;
        }
    }

    async fn look_further(&mut self) -> Result<(), DataError> {
        let dense = self.used * SPARSE > self.page;
        self.page = if dense { self.page * 2 } else { self.page / 2 }.clamp(PAGE_FIRST, PAGE);
        self.used = 0;
        self.scans += 1;
        let (from, mut to) = keys::extents_after(self.ino, self.map, self.known.end);
        if self.up_to < u64::MAX {
            to = Bound::Included(keys::extent(self.ino, self.map, self.up_to));
        }
        let (page, more) = self.txn.scan((from, to), self.page).await?;
        for (key, value) in &page {
            let (range, rec) = extent_of(self.ino, key, value)?;
            self.known.end = range.end;
            self.ahead.insert(range.end, rec);
        }
        if !more {
            self.known.end = self.up_to;
        }
        Ok(())
    }
}

/// One row of a map of extents: which bytes of the file it is about, and what they are. It holds all of them, and
/// where they lie in a segment overflows nowhere.
pub(super) fn extent_of(
    ino: Ino,
    key: &[u8],
    value: &[u8],
) -> Result<(Range<u64>, ExtentRec), DataError> {
    let damaged = || DataError::Damaged(format!("an extent of inode {ino} cannot be right"));
    let (_, end) = keys::parse_extent(key).ok_or_else(damaged)?;
    let rec: ExtentRec = decode(value)?;
    let len = end.checked_sub(rec.start).filter(|len| *len > 0).ok_or_else(damaged)?;
    let there = match &rec.place {
        Place::Zero => i64::MAX as u64 - rec.start,
        Place::Inline(bytes) => bytes.len() as u64,
        Place::Segment { offset, crc_offset, crc_len, .. } => {
            crc_offset + u64::from(*crc_len) - offset
        }
    };
    if len > there { Err(damaged()) } else { Ok((rec.start..end, rec)) }
}

/// An extent and the part of the file that it is about.
pub type Extent = (Range<u64>, ExtentRec);

/// The live extents of a content that touch `range`, in order, each with its whole span.
pub async fn live_extents<L: Lookup>(
    meta: &L,
    ino: Ino,
    content: &ContentRec,
    range: Range<u64>,
) -> Result<Vec<Extent>, DataError> {
    Ok(first_extents(meta, ino, content, range, usize::MAX).await?.0)
}

/// The same, but about `most` of them at most, and how far they are all that there are.
pub(super) async fn first_extents<L: Lookup>(
    meta: &L,
    ino: Ino,
    content: &ContentRec,
    range: Range<u64>,
    most: usize,
) -> Result<(Vec<Extent>, u64), DataError> {
    let mut found = Vec::new();
    if range.is_empty() || content.pieces == 0 {
        return Ok((found, range.end));
    }
    let mut from = range.start;
    let mut limit = PAGE_FIRST;
    while found.len() < most {
        let page = meta.scan(keys::extents_after(ino, content.map, from), limit).await?;
        let full = page.len() >= limit;
        limit = (limit * 4).min(LONG_PAGE).min(most);
        for (key, value) in &page {
            let (span, rec) = extent_of(ino, key, value)?;
            if span.start >= range.end {
                return Ok((found, range.end));
            }
            from = span.end;
            if rec.generation > content.drop_gen {
                found.push((span, rec));
            }
        }
        if !full {
            return Ok((found, range.end));
        }
    }
    Ok((found, from.min(range.end)))
}

#[cfg(test)]
mod tests;
