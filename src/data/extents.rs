//! Committed pieces of files, in the engine.

use std::collections::HashMap;
use std::ops::Range;

use bytes::Bytes;

use super::DataError;
use crate::meta::records::{ExtentRec, Place, SegmentRec, decode};
use crate::meta::{Lookup, Txn, keys};
use crate::types::Ino;

/// Changes of segments' live bytes that a batch will apply.
#[derive(Debug, Default)]
pub struct SegmentDelta {
    live: HashMap<u128, i64>,
}

/// Extents looked at in one engine scan.
const PAGE: usize = 64;

impl SegmentDelta {
    pub fn add(&mut self, place: &Place, bytes: u64) {
        if let Place::Segment { id, .. } = place {
            *self.live.entry(*id).or_default() += bytes as i64;
        }
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
            Place::Inline(Bytes::copy_from_slice(&bytes[from..to]))
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

/// Lays a new extent over `range`: what lies below is trimmed, split or removed.
pub(super) async fn overlay(
    txn: &mut Txn<'_>,
    ino: Ino,
    range: Range<u64>,
    place: Place,
    generation: u64,
    drop_gen: u64,
    delta: &mut SegmentDelta,
) -> Result<(), DataError> {
    clear(txn, ino, range.clone(), drop_gen, delta).await?;
    delta.add(&place, range.end - range.start);
    txn.put(keys::extent(ino, range.end), &ExtentRec { start: range.start, generation, place });
    Ok(())
}

/// Removes whatever extents lie in `range`, keeping their parts outside of it.
pub(super) async fn clear(
    txn: &mut Txn<'_>,
    ino: Ino,
    range: Range<u64>,
    drop_gen: u64,
    delta: &mut SegmentDelta,
) -> Result<(), DataError> {
    let mut from = range.start;
    loop {
        let (page, more) = txn.scan(keys::extents_after(ino, from), PAGE).await?;
        for (key, value) in &page {
            let end = keys::parse_extent(key)
                .ok_or_else(|| DataError::Damaged(format!("an extent key of inode {ino}")))?;
            let rec: ExtentRec = decode(value)?;
            if rec.start >= range.end {
                return Ok(());
            }
            from = end;
            let len = end - rec.start;
            txn.delete(key.to_vec());
            delta.sub(&rec.place, len);
            if rec.generation <= drop_gen {
                continue;
            }
            if rec.start < range.start {
                let kept = range.start - rec.start;
                let place = tail_of(&rec.place, 0, kept);
                delta.add(&place, kept);
                let left = ExtentRec { start: rec.start, generation: rec.generation, place };
                txn.put(keys::extent(ino, range.start), &left);
            }
            if end > range.end {
                let kept = end - range.end;
                let place = tail_of(&rec.place, range.end - rec.start, kept);
                delta.add(&place, kept);
                let right = ExtentRec { start: range.end, generation: rec.generation, place };
                txn.put(keys::extent(ino, end), &right);
                return Ok(());
            }
        }
        if !more {
            return Ok(());
        }
    }
}

/// The live extents that touch `range`, in order, each with its whole span.
pub async fn live_extents<L: Lookup>(
    meta: &L,
    ino: Ino,
    range: Range<u64>,
    drop_gen: u64,
) -> Result<Vec<(Range<u64>, ExtentRec)>, DataError> {
    let mut found = Vec::new();
    let mut from = range.start;
    loop {
        let page = meta.scan(keys::extents_after(ino, from), PAGE).await?;
        let full = page.len() >= PAGE;
        for (key, value) in &page {
            let end = keys::parse_extent(key)
                .ok_or_else(|| DataError::Damaged(format!("an extent key of inode {ino}")))?;
            let rec: ExtentRec = decode(value)?;
            if rec.start >= range.end {
                return Ok(found);
            }
            from = end;
            if rec.generation > drop_gen {
                found.push((rec.start..end, rec));
            }
        }
        if !full {
            return Ok(found);
        }
    }
}

#[cfg(test)]
mod tests;
