//! The bytes of an object to publish: exactly one generation of a file, never a mixture.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream::{self, StreamExt, TryStreamExt};

use super::SettleError;
use super::settler::Settler;
use crate::data::{DataError, Inode};
use crate::meta::records::ContentRec;
use crate::store::{Attributes, Properties, UploadId};
use crate::types::ObjectKey;

/// Bodies up to this are copied before they are sent; larger ones are uploaded in parts, bytes.
const IN_MEMORY: u64 = 8 << 20;
/// Size of a part; grown for files that would need more than 10,000 of them (S3's limit).
const PART: u64 = 16 << 20;
const MOST_PARTS: u64 = 10_000;
const PARALLEL: usize = 3;
const TIMEOUT: Duration = Duration::from_secs(30);
const PART_ATTEMPTS: u32 = 5;

/// What is ready to be published.
pub(super) enum Body {
    Bytes(Bytes),
    /// Parts that lie in the store and are no object yet.
    Upload {
        id: UploadId,
        parts: Vec<String>,
        size: u64,
    },
}

impl Settler {
    /// The content of `generation`, or `None` when somebody writes to the file meanwhile. Writers never
    /// wait for this.
    pub(super) async fn body(
        &self,
        inode: &Arc<Inode>,
        key: &ObjectKey,
        content: &ContentRec,
        write_seq: u64,
        attributes: &Attributes,
        properties: &Properties,
    ) -> Result<Option<Body>, SettleError> {
        if content.size <= IN_MEMORY {
            let bytes = self.copy(inode, 0, content.size).await?;
            return Ok(unchanged(inode, content, write_seq).then_some(Body::Bytes(bytes)));
        }
        let part = PART.max(content.size.div_ceil(MOST_PARTS).next_multiple_of(1 << 20));
        let store = &self.volume.store;
        let id = store.create_upload(key, attributes, properties, TIMEOUT).await?;
        let count = content.size.div_ceil(part);
        let sends = (0..count).map(|index| {
            let id = &id;
            async move {
                if !unchanged(inode, content, write_seq) {
                    return Ok(None);
                }
                let start = index * part;
                let bytes = self.copy(inode, start, part.min(content.size - start)).await?;
                let tag = self.send_part(key, id, index as u32 + 1, bytes).await?;
                Ok::<_, SettleError>(Some(tag))
            }
        });
        let parts: Result<Vec<Option<String>>, SettleError> =
            stream::iter(sends).buffered(PARALLEL).try_collect().await;
        let parts = match parts {
            Ok(parts) => parts.into_iter().collect::<Option<Vec<String>>>(),
            Err(e) => {
                self.abort(key, &id).await;
                return Err(e);
            }
        };
        match parts {
            Some(parts) if unchanged(inode, content, write_seq) => {
                Ok(Some(Body::Upload { id, parts, size: content.size }))
            }
            _ => {
                self.abort(key, &id).await;
                Ok(None)
            }
        }
    }

    async fn send_part(
        &self,
        key: &ObjectKey,
        id: &UploadId,
        number: u32,
        bytes: Bytes,
    ) -> Result<String, SettleError> {
        let mut attempt = 1;
        loop {
            match self.volume.store.upload_part(key, id, number, bytes.clone(), TIMEOUT).await {
                Ok(tag) => return Ok(tag),
                Err(e) if e.is_transient() && attempt < PART_ATTEMPTS => {
                    tracing::debug!(error = %e, number, attempt, "a part was not stored");
                    tokio::time::sleep(Duration::from_millis(100) * 2u32.pow(attempt)).await;
                    attempt += 1;
                }
                Err(e) => return Err(e.into()),
            }
        }
    }

    async fn copy(&self, inode: &Arc<Inode>, start: u64, len: u64) -> Result<Bytes, SettleError> {
        const STEP: u64 = 4 << 20;
        let mut body = BytesMut::with_capacity(len as usize);
        let mut at = start;
        while at < start + len {
            let want = STEP.min(start + len - at) as usize;
            let bytes = match self.volume.read(inode, at, want).await {
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

    /// Drops parts that no intent names. What a failure leaves here, the bucket's lifecycle rule for
    /// incomplete uploads removes.
    pub(super) async fn abort(&self, key: &ObjectKey, id: &UploadId) {
        if let Err(error) = self.volume.store.abort_upload(key, id, TIMEOUT).await {
            tracing::warn!(%error, %key, "an abandoned upload could not be dropped");
        }
    }
}

/// Whether the inode still is this generation, without uncommitted changes.
pub(super) fn unchanged(inode: &Inode, content: &ContentRec, write_seq: u64) -> bool {
    let live = inode.live();
    !live.removed
        && live.pending.is_clean()
        && live.write_seq == write_seq
        && live.content.generation == content.generation
}
