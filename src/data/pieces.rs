//! What committed content is made of, and reading one piece of it.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;

use super::{DataError, live_extents};
use crate::meta::Lookup;
use crate::meta::records::{ContentRec, ExtentRec, Place};
use crate::store::StoreBackend;
use crate::types::{Ino, KeyPrefix, ObjectKey};

/// How long one GET may go without progress.
pub const GET_TIMEOUT: Duration = Duration::from_secs(20);
/// A window is fetched in ranges of this size, in parallel.
const CHUNK: u64 = 4 << 20;
pub const PARALLEL: usize = 4;

/// Where a piece lies.
#[derive(Debug)]
pub enum Source {
    Zero,
    Extent(ExtentRec),
    Base,
}

/// The pieces of `range`, in order: extents over the base over zeros. They may reach past it.
pub async fn pieces<L: Lookup>(
    meta: &L,
    ino: Ino,
    content: &ContentRec,
    range: Range<u64>,
) -> Result<Vec<(Range<u64>, Source)>, DataError> {
    let mut wanted: Vec<(Range<u64>, Source)> = Vec::new();
    let mut at = range.start;
    let below = |from: u64, to: u64, wanted: &mut Vec<(Range<u64>, Source)>| {
        let base_end = match &content.base {
            Some(base) => content.base_limit.min(base.version.size),
            None => 0,
        };
        let mut start = from;
        while start < to.min(base_end) {
            let end = (start + CHUNK).min(to).min(base_end);
            wanted.push((start..end, Source::Base));
            start = end;
        }
        if start < to {
            wanted.push((start..to, Source::Zero));
        }
    };
    for (span, extent) in live_extents(meta, ino, range.clone(), content.drop_gen).await? {
        let span = span.start..span.end.min(content.size);
        if span.is_empty() {
            continue;
        }
        if span.start > at {
            below(at, span.start, &mut wanted);
        }
        at = at.max(span.end);
        wanted.push((span, Source::Extent(extent)));
    }
    if at < range.end {
        below(at, range.end, &mut wanted);
    }
    Ok(wanted)
}

/// The key of a segment in a volume's state.
pub fn segment_key(state: &KeyPrefix, id: u128) -> ObjectKey {
    state.key(&format!("segments/{id:032x}"))
}

/// The bytes of `span`, which the extent covers; `None` is zeros.
pub async fn read_extent(
    (store, state): (&dyn StoreBackend, &KeyPrefix),
    ino: Ino,
    span: &Range<u64>,
    extent: &ExtentRec,
) -> Result<Option<Bytes>, DataError> {
    let len = (span.end - span.start) as usize;
    match &extent.place {
        Place::Zero => Ok(None),
        Place::Inline(bytes) if bytes.len() >= len => Ok(Some(bytes.slice(..len))),
        Place::Inline(_) => Err(DataError::Damaged(format!("an inline extent of {ino}"))),
        Place::Segment { id, offset, crc, crc_offset, crc_len } => {
            let key = segment_key(state, *id);
            let whole = *crc_offset..*crc_offset + u64::from(*crc_len);
            let found = store.get(&key, Some(whole.clone()), None, GET_TIMEOUT).await?;
            if crc32c::crc32c(&found.data) != *crc {
                return Err(DataError::Damaged(format!(
                    "segment {key}, bytes {}..{}: checksum of inode {ino} does not match",
                    whole.start, whole.end
                )));
            }
            let from = (offset - crc_offset) as usize;
            Ok(Some(found.data.slice(from..from + len)))
        }
    }
}
