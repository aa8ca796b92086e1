//! Segments of which little is still in use, written anew.
//!
//! A database that rewrites its pages leaves segments in which one page lives; with `settle=never`
//! nothing else would ever free them. What still lives in such a segment is fetched and marked as
//! changed, so that the next commit stores it again and the segment loses its last reference. No
//! rule of its own is needed: cached bytes are the file's bytes, and to commit them again is always
//! right. A crash forgets the marks, and with them nothing.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::extents::extent_of;
use super::{DataError, Inode, Patience, Volume};
use crate::meta::records::{Place, SegmentRec, decode};
use crate::meta::{Change, Pages, keys};
use crate::types::{Ino, Lsn};

/// Garbage that is left alone besides as much as there is living data, bytes.
pub const SLACK: u64 = 1 << 30;
/// Living bytes moved in one pass: a minute's tenth of an uplink of 100 Mbit/s.
const PASS: u64 = 64 << 20;
const PAGE: usize = 1000;
const ROOM: Duration = Duration::from_secs(60);

/// What a pass did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Repacked {
    /// Segments chosen.
    pub segments: usize,
    /// Bytes stored again.
    pub bytes: u64,
}

/// What one file does not let be stored again stays where it is: that holds up no other.
pub(super) fn unless_unreadable(
    ino: Ino,
    stored: Result<u64, DataError>,
) -> Result<u64, DataError> {
    match stored {
        Err(error) if error.is_of_what_was_read() => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(%ino, error, "a file is not stored again");
            Ok(0)
        }
        other => other,
    }
}

impl Volume {
    /// One pass: nothing happens until the dead bytes of segments exceed the living ones by `slack`;
    /// then the emptiest segments go first.
    pub async fn repack(&self, slack: u64) -> Result<Repacked, DataError> {
        let chosen = self.half_dead(slack).await?;
        let mut done = Repacked { segments: chosen.len(), bytes: 0 };
        if chosen.is_empty() {
            return Ok(done);
        }
        let mut pages = Pages::new(keys::below(keys::EXTENT, &[]), PAGE);
        while let Some(page) = pages.next(&self.meta.engine).await? {
            let mut found: Vec<((Ino, u64), Range<u64>)> = Vec::new();
            for (key, value) in &page {
                let (Some(ino), Some((map, _))) = (keys::parse_ino(key), keys::parse_extent(key))
                else {
                    continue;
                };
                // A damaged row is told to whoever reads the file.
                let Ok((range, extent)) = extent_of(ino, key, value) else { continue };
                if matches!(extent.place, Place::Segment { id, .. } if chosen.contains(&id)) {
                    found.push(((ino, map), range));
                }
            }
            for file in found.chunk_by(|a, b| a.0 == b.0) {
                let ranges: Vec<_> = file.iter().map(|(_, range)| range.clone()).collect();
                if let Some(((ino, map), _)) = file.first() {
                    done.bytes +=
                        unless_unreadable(*ino, self.store_again(*ino, *map, ranges).await)?;
                }
            }
        }
        Ok(done)
    }

    /// The segments of a pass: at most half alive, emptiest first.
    async fn half_dead(&self, slack: u64) -> Result<BTreeSet<u128>, DataError> {
        let (mut alive, mut dead) = (0, 0);
        let mut candidates: Vec<(u64, u128)> = Vec::new();
        let mut pages = Pages::new(keys::below(keys::SEGMENT, &[]), PAGE);
        while let Some(page) = pages.next(&self.meta.engine).await? {
            for (key, value) in &page {
                let Some(id) = keys::parse_id(key) else { continue };
                let segment: SegmentRec = decode(value)?;
                alive += segment.live;
                dead += segment.total.saturating_sub(segment.live);
                // A parked copy is all alive until it is gone.
                if segment.live <= segment.total / 2 {
                    candidates.push((segment.live, id));
                }
            }
        }
        if dead <= alive + slack {
            return Ok(BTreeSet::new());
        }
        candidates.sort_unstable();
        let mut bytes = 0;
        let chosen = candidates.into_iter().take_while(|(live, _)| {
            bytes += live;
            bytes <= PASS
        });
        Ok(chosen.map(|(_, id)| id).collect())
    }

    /// Marks ranges of one file as changed and commits them. What is gone, cut or newly written
    /// meanwhile is nothing to store, and neither is what lies in a map that was given up.
    pub(super) async fn store_again(
        &self,
        ino: Ino,
        map: u64,
        ranges: Vec<Range<u64>>,
    ) -> Result<u64, DataError> {
        let inode = match self.inode(ino).await {
            Ok(inode) => inode,
            Err(DataError::Gone(_)) => return Ok(0),
            Err(error) => return Err(error),
        };
        let mut bytes = 0;
        for range in ranges {
            if inode.live().content.map != map {
                break;
            }
            let len = range.end - range.start;
            self.room_for(len, &mut Patience::new(self, ROOM)).await?;
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            match self.read(&inode, range.start, len).await {
                Err(DataError::Gone(_)) => break,
                read => drop(read?),
            }
            // No commit may be between its snapshot and its end: it would take the marks for its own.
            let _commit = inode.commit.lock().await;
            bytes += self.mark_changed(&inode, range);
        }
        self.mark_dirty(&inode);
        self.commit(vec![inode]).await?;
        Ok(bytes)
    }

    /// Only what is cached and has no uncommitted change; returns how many bytes.
    fn mark_changed(&self, inode: &Arc<Inode>, range: Range<u64>) -> u64 {
        let mut live = inode.live();
        if live.removed {
            return 0;
        }
        let range = range.start..range.end.min(live.size);
        let clean: Vec<Range<u64>> = live
            .pending
            .ranges
            .gaps(range)
            .into_iter()
            .flat_map(|gap| live.cache.present.overlapping(gap).map(|(r, _)| r).collect::<Vec<_>>())
            .filter(|range| !range.is_empty())
            .collect();
        let lsn = Lsn(self.meta.journal.lock().next_lsn().0.saturating_sub(1));
        let (before, size) = (live.pending.weight(), live.size);
        let mut bytes = 0;
        for range in clean {
            bytes += range.end - range.start;
            live.cache.present.remove(range.clone());
            live.pending.changed(lsn, range.start, range.end, Change::Data, size);
        }
        self.dirty_adjust(before, live.pending.weight());
        bytes
    }
}
