//! What the local disk gives back of committed bytes, compared with what was committed: nothing that it changed since
//! gets into an object.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::pieces::{Source, pieces};
use super::{DataError, Inode, Volume};
use crate::meta::records::{ContentRec, Place};

impl Volume {
    /// As [`Volume::read`], for who copies a file that nobody writes to. Bytes that are not those of their record are
    /// read from the bucket.
    pub async fn read_proven(
        &self,
        inode: &Arc<Inode>,
        offset: u64,
        len: usize,
    ) -> Result<Bytes, DataError> {
        let mut again = true;
        loop {
            let content = inode.live().content.clone();
            let bytes = self.read(inode, offset, len).await?;
            let rotten = self.rotten(inode, &content, offset, &bytes).await?;
            {
                let mut live = inode.live();
                let same = live.pending.is_clean() && live.content.generation == content.generation;
                if rotten.is_empty() || !same {
                    return Ok(bytes);
                }
                for range in &rotten {
                    live.cache.present.remove(range.clone());
                }
                live.evicted += 1;
            }
            let (ino, count) = (inode.ino, rotten.len());
            if !std::mem::take(&mut again) {
                let text = format!("inode {ino}: bytes {rotten:?} are not what was committed");
                return Err(DataError::Damaged(text));
            }
            tracing::error!(%ino, count, "the local disk changed committed bytes; reading them from the bucket");
        }
    }

    /// Where bytes are not those of their record, as far as that tells. One of which only a part shows is looked
    /// at as a whole.
    async fn rotten(
        &self,
        inode: &Arc<Inode>,
        content: &ContentRec,
        offset: u64,
        bytes: &Bytes,
    ) -> Result<Vec<Range<u64>>, DataError> {
        let range = offset..offset + bytes.len() as u64;
        let mut rotten = Vec::new();
        for (span, source) in pieces(&self.meta, inode.ino, content, range.clone()).await? {
            let Source::Extent(extent) = source else { continue };
            let len = span.end - span.start;
            let whole;
            let here = if range.start <= span.start && span.end <= range.end {
                &bytes[(span.start - offset) as usize..(span.end - offset) as usize]
            } else {
                whole = self.read(inode, span.start, len as usize).await?;
                if whole.len() as u64 != len {
                    continue;
                }
                &whole[..]
            };
            let proven = match &extent.place {
                Place::Segment { offset, crc, crc_offset, crc_len, .. } => {
                    let whole = offset == crc_offset && u64::from(*crc_len) == len;
                    !whole || crc32c::crc32c(here) == *crc
                }
                Place::Inline(there) => there.get(..len as usize).is_none_or(|there| there == here),
                Place::Zero => true,
            };
            if !proven {
                rotten.push(span);
            }
        }
        Ok(rotten)
    }
}
