//! The bytes of an object to publish: exactly one generation of a file, never a mixture.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::Semaphore;

use super::bodies::Ready;
use super::dress::Dress;
use super::parts::{Parts, TIMEOUT};
use super::{SettleError, Settler};
use crate::data::{DataError, Inode, SEGMENT};
use crate::fault::{self, Mutant};
use crate::meta::Lookup;
use crate::meta::records::ContentRec;
use crate::store::{Part, UploadId};
use crate::types::{Ino, ObjectKey, Version};

/// Bodies up to this are copied before they are sent; larger ones are uploaded in parts, bytes.
const IN_MEMORY: u64 = 8 << 20;
/// Size of a part; grown for files that would need more than 10,000 of them (S3's limit).
const PART: u64 = SEGMENT;
const MOST_PARTS: u64 = 10_000;
const PARALLEL: u64 = 3;
/// Parts that are on their way side by side, those that the store copies included: they hold no memory here.
const LANES: usize = 16;
/// What parts that are on their way may hold in memory, unless one alone is larger, bytes.
const PARTS_HELD: u64 = 96 << 20;
/// S3's limit for one server-side copy, bytes.
pub(super) const COPY_LIMIT: u64 = 5 << 30;

/// Of the parts in which an object of this size is published, bytes.
pub fn part_size(size: u64) -> u64 {
    match fault::number(fault::PART, 0) {
        0 => PART.max(size.div_ceil(MOST_PARTS).next_multiple_of(1 << 20)),
        small => small.max(size.div_ceil(MOST_PARTS)),
    }
}

/// How many parts of this size are sent side by side.
fn parallel(part: u64) -> usize {
    (PARTS_HELD / part.max(1)).clamp(1, PARALLEL) as usize
}

/// What is ready to be published.
pub(super) enum Body {
    Bytes(Bytes),
    /// Parts that lie in the store and are no object yet.
    Upload {
        id: UploadId,
        parts: Vec<String>,
        size: u64,
    },
    /// The bytes of an object that lies in the store already.
    Copy {
        from: ObjectKey,
        expect: Version,
    },
}

impl Settler {
    /// Bodies up to this are sent from memory. What does not arrive in time goes up in parts, before it is announced.
    pub(super) fn in_memory(&self) -> u64 {
        fault::number(fault::PART, IN_MEMORY).min(self.reach.bytes())
    }

    /// The content of `generation`, or `None` when somebody writes to the file meanwhile. Writers never
    /// wait for this. `ready`: what was read of it before.
    pub(super) async fn body(
        &self,
        inode: &Arc<Inode>,
        key: &ObjectKey,
        content: &ContentRec,
        write_seq: u64,
        dress: &Dress,
        ready: Option<&Ready>,
    ) -> Result<Option<Body>, SettleError> {
        let part = part_size(content.size);
        if content.size <= self.in_memory() {
            let bytes = match ready.and_then(|ready| ready.of(content, write_seq)) {
                Some(bytes) => bytes,
                None => self.copy(inode, 0, content.size).await?,
            };
            return Ok(unchanged(inode, content, write_seq).then_some(Body::Bytes(bytes)));
        }
        let store = &self.volume.store;
        let id = store.create_upload(key, &dress.attributes, &dress.properties, TIMEOUT).await?;
        let sending = &Parts::new(store.as_ref(), key, &id);
        let count = content.size.div_ceil(part);
        let in_memory = &Semaphore::new(parallel(part));
        let interrupted =
            || !unchanged(inode, content, write_seq) || self.at_its_end.is_cancelled();
        let sends = (0..count).map(|index| async move {
            if interrupted() {
                return Ok(None);
            }
            let start = index * part;
            let len = part.min(content.size - start);
            let part = Part { number: index as u32 + 1, offset: start };
            let range = start..start + len;
            let copied = Box::pin(self.composed(sending, part, inode, content, range)).await?;
            if copied.is_some() {
                return Ok(copied);
            }
            // It is never closed.
            let _held = in_memory.acquire().await.ok();
            if interrupted() {
                return Ok(None);
            }
            let bytes = self.patiently(sending, || self.copy(inode, start, len)).await?;
            let tag = self.send_part(sending, part, bytes).await?;
            Ok::<_, SettleError>(Some(tag))
        });
        let parts: Result<Vec<Option<String>>, SettleError> =
            stream::iter(sends).buffered(LANES).try_collect().await;
        let parts = match parts {
            Ok(parts) => parts.into_iter().collect::<Option<Vec<String>>>(),
            Err(e) => {
                self.abort(store.as_ref(), key, &id).await;
                return Err(e);
            }
        };
        match parts {
            Some(parts) if unchanged(inode, content, write_seq) => {
                Ok(Some(Body::Upload { id, parts, size: content.size }))
            }
            _ => {
                self.abort(store.as_ref(), key, &id).await;
                Ok(None)
            }
        }
    }

    /// Whether an object bears what its upload was begun with, which may be hours ago.
    pub(super) async fn still_bears(
        &self,
        ino: Ino,
        body: &Body,
        xattrs: &[(Bytes, Bytes)],
    ) -> Result<bool, SettleError> {
        if !matches!(body, Body::Upload { .. }) {
            return Ok(true);
        }
        // What cannot be looked at now was looked at before.
        self.learn([ino], true).await?;
        Ok(self.volume.meta.xattrs(ino).await? == xattrs)
    }

    /// Drops a body that will not be sent.
    pub(super) async fn drop_body(&self, key: &ObjectKey, body: &Body) {
        if let Body::Upload { id, .. } = body {
            self.abort(self.volume.store.as_ref(), key, id).await;
        }
    }

    pub(super) async fn copy(
        &self,
        inode: &Arc<Inode>,
        start: u64,
        len: u64,
    ) -> Result<Bytes, SettleError> {
        const STEP: u64 = 4 << 20;
        let mut body = BytesMut::with_capacity(len as usize);
        let mut at = start;
        while at < start + len {
            let want = STEP.min(start + len - at) as usize;
            let bytes = match self.volume.read_proven(inode, at, want).await {
                Err(DataError::Gone(_)) => Bytes::new(),
                read => read?,
            };
            if bytes.is_empty() {
                // Truncated or removed meanwhile: the caller's check refuses this copy.
                break;
            }
            at += bytes.len() as u64;
            body.extend_from_slice(&bytes);
        }
        Ok(body.freeze())
    }
}

/// Whether the inode still is this generation, without uncommitted changes.
pub(super) fn unchanged(inode: &Inode, content: &ContentRec, write_seq: u64) -> bool {
    if Mutant::BodyUnchecked.lives() {
        return true;
    }
    let live = inode.live();
    !live.removed
        && live.pending.is_clean()
        && live.write_seq == write_seq
        && live.content.generation == content.generation
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_on_their_way_hold_no_more_memory_however_large_they_are() {
        for size in [1u64 << 30, 1 << 37, 1 << 38, 1 << 39, 1 << 40] {
            let part = part_size(size);
            let held = part * parallel(part) as u64;
            assert!(held <= PARTS_HELD.max(part), "{held} of {size}");
            assert!(size.div_ceil(part) <= MOST_PARTS);
        }
        assert_eq!(parallel(PART), PARALLEL as usize);
    }
}
