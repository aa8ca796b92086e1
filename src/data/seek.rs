//! SEEK_DATA and SEEK_HOLE over committed content and changes on top of it.

use std::ops::Range;

use super::extents::first_extents;
use super::{DataError, Inode, Volume};
use crate::meta::records::{ContentRec, Place};
use crate::meta::{Change, Lookup, RangeMap};
use crate::types::Ino;

/// How far the first look goes, bytes; each further one goes twice as far. A program that walks over a
/// file hole by hole asks from each of them, so no look may be at all that follows.
const FIRST_LOOK: u64 = 64 << 10;
/// Extents that a look keeps in memory: each may hold bytes itself.
const LOOK_EXTENTS: usize = 1024;

/// Content that changes under every look is somebody else's fault.
const ATTEMPTS: usize = 50;

impl Volume {
    /// SEEK_DATA (`hole` false) or SEEK_HOLE; `None` behind the last byte, or the last data.
    pub async fn seek(
        &self,
        inode: &Inode,
        offset: u64,
        hole: bool,
    ) -> Result<Option<u64>, DataError> {
        for _ in 0..ATTEMPTS {
            let (content, changes, size) = {
                let live = inode.live();
                let size = live.size;
                let shown = live.committed_size();
                let mut content = live.content.clone();
                content.size = shown;
                let mut changes = RangeMap::default();
                for (range, (_, change)) in live.pending.ranges.overlapping(offset..size) {
                    changes.insert(range, change);
                }
                (content, changes, size)
            };
            if offset >= size {
                return Ok(None);
            }
            let range = offset..size;
            let found = seek(&self.meta, inode.ino, &content, &changes, range, hole).await?;
            // Of content that went another way meanwhile the extents may be gone.
            let same = {
                let live = inode.live();
                (live.content.generation, live.content.map) == (content.generation, content.map)
            };
            if same {
                return Ok(if hole { Some(found.unwrap_or(size)) } else { found });
            }
        }
        Err(DataError::Late(format!("inode {} changes faster than it can be looked at", inode.ino)))
    }
}

/// Where the first data (or hole) of `range` begins; `None` when there is none in it. `changes` lie over
/// the content.
pub async fn seek<L: Lookup>(
    meta: &L,
    ino: Ino,
    content: &ContentRec,
    changes: &RangeMap<Change>,
    range: Range<u64>,
    hole: bool,
) -> Result<Option<u64>, DataError> {
    let base_end = match &content.base {
        Some(base) => base.version.size.min(content.base_limit).min(content.size),
        None => 0,
    };
    let mut look = FIRST_LOOK;
    let mut at = range.start;
    while at < range.end {
        let mut window = at..range.end.min(at.saturating_add(look));
        let mut committed = at..window.end.min(content.size).max(at);
        let (extents, known) =
            first_extents(meta, ino, content, committed.clone(), LOOK_EXTENTS).await?;
        if known < committed.end {
            (window.end, committed.end) = (known, known);
        }
        let mut data = RangeMap::default();
        data.insert(at..committed.end.min(base_end).max(at), ());
        for (span, extent) in extents {
            let span = span.start.max(at)..span.end.min(committed.end);
            match extent.place {
                _ if span.is_empty() => {}
                Place::Zero => data.remove(span),
                Place::Inline(_) | Place::Segment { .. } => data.insert(span, ()),
            }
        }
        for (span, change) in changes.overlapping(window.clone()) {
            match change {
                Change::Data => data.insert(span, ()),
                Change::Zero => data.remove(span),
            }
        }
        let found = match hole {
            true => data.gaps(window.clone()).first().map(|gap| gap.start),
            false => data.overlapping(window.clone()).next().map(|(span, ())| span.start),
        };
        if found.is_some() {
            return Ok(found);
        }
        at = window.end;
        look = look.saturating_mul(2);
    }
    Ok(None)
}
