//! Files whose pieces lie all over many segments, put in order.
//!
//! A commit lays what it has in the order of the file, so one commit's pieces come back in a few large
//! requests. A file that is rewritten here and there for hours ends with each neighbour in another
//! segment, and reading it costs a request for every few KiB. Such stretches are stored again.

use std::ops::Range;

use super::pieces::{Fetch, Source, fetches};
use super::repack::unless_unreadable;
use super::{DataError, Volume, live_extents};
use crate::meta::records::Place;
use crate::types::Ino;

/// Files of fewer rows are left alone.
const ROWS: u64 = 1024;
/// Looked at and stored again at a time, bytes of the file.
const STRETCH: u64 = 16 << 20;
/// A stretch may cost so many requests, and one more for every so many bytes of data.
const REQUESTS: usize = 16;
const BYTES_PER_REQUEST: u64 = 256 << 10;
/// Stored again in one pass, bytes.
const PASS: u64 = 256 << 20;

impl Volume {
    /// A commit left a file with so many rows: it may be worth a look.
    pub(super) fn may_be_scattered(&self, ino: Ino, rows: u64) {
        if rows >= ROWS {
            self.scattered.lock().insert(ino);
        }
    }

    /// One pass over the files that were committed since the last one; returns the bytes stored again.
    pub async fn repack_scattered(&self) -> Result<u64, DataError> {
        let mut files = std::mem::take(&mut *self.scattered.lock()).into_iter();
        let mut done = 0;
        while let Some(ino) = files.next() {
            let ordered = self.put_in_order(ino, PASS.saturating_sub(done)).await;
            done += unless_unreadable(ino, ordered).inspect_err(|_| {
                // It was not their fault.
                self.scattered.lock().extend(files.by_ref().chain([ino]));
            })?;
            if done >= PASS {
                // What is in order by then is passed over quickly.
                self.scattered.lock().insert(ino);
            }
        }
        Ok(done)
    }

    async fn put_in_order(&self, ino: Ino, most: u64) -> Result<u64, DataError> {
        let content = match self.inode(ino).await {
            Ok(inode) => inode.live().content.clone(),
            Err(DataError::Gone(_)) => return Ok(0),
            Err(error) => return Err(error),
        };
        let (mut at, mut done) = (0, 0);
        while at < content.size && done < most {
            let stretch = at..content.size.min(at + STRETCH);
            let mut data: Vec<Range<u64>> = Vec::new();
            let mut wanted = Vec::new();
            for (span, extent) in live_extents(&self.meta, ino, &content, stretch.clone()).await? {
                if matches!(extent.place, Place::Segment { .. }) {
                    match data.last_mut() {
                        Some(last) if last.end == span.start => last.end = span.end,
                        _ => data.push(span.clone()),
                    }
                    wanted.push((span, Source::Extent(extent)));
                }
            }
            at = stretch.end.max(data.last().map_or(0, |last| last.end));
            let bytes: u64 = data.iter().map(|range| range.end - range.start).sum();
            let runs = fetches(wanted).iter().filter(|f| matches!(f, Fetch::Run(_))).count();
            if runs > REQUESTS + (bytes / BYTES_PER_REQUEST) as usize {
                done += self.store_again(ino, content.map, data).await?;
            }
        }
        Ok(done)
    }
}
