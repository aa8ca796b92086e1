//! Bodies that are in the bucket and not in the cache: those of a round are fetched side by side, because each is a
//! request. Nothing depends on it. A file that changes meanwhile is read again by its plan, and so is one that does
//! not come.

use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use tokio::sync::Semaphore;

use super::{SettleError, Settler};
use crate::data::Inode;
use crate::meta::records::ContentRec;
use crate::types::{FileKind, Ino};

/// So many small bodies are fetched side by side, and a fraction of that of larger ones: readers wait for the same
/// shares of memory.
const LANES: u32 = 32;
/// A body takes a lane for each of so many bytes.
const SMALL: u64 = 256 << 10;
const MOST_LANES: u64 = 8;

/// The bytes of a file, and of which state of it.
#[derive(Debug)]
pub(super) struct Ready {
    generation: u64,
    write_seq: u64,
    bytes: Bytes,
}

impl Ready {
    /// They are those of this state of their file.
    pub fn of(&self, content: &ContentRec, write_seq: u64) -> Option<Bytes> {
        let same = (self.generation, self.write_seq) == (content.generation, write_seq)
            && self.bytes.len() as u64 == content.size;
        same.then(|| self.bytes.clone())
    }
}

/// Whether some of a file has to be fetched before it can be sent.
pub(super) fn is_away(inode: &Inode) -> bool {
    let live = inode.live();
    live.attr.kind == FileKind::File && !live.cache.present.gaps(0..live.size).is_empty()
}

impl Settler {
    /// Reads the bodies of these inodes that are not cached, as far as `room` bytes hold them. `seen`: what of them the
    /// store may copy.
    ///
    /// # Errors
    /// Those that say something about more than one file.
    pub(super) async fn bodies(
        &self,
        inodes: impl Iterator<Item = Ino>,
        seen: &HashSet<Ino>,
        room: u64,
    ) -> Result<HashMap<Ino, Ready>, SettleError> {
        let mut wanted: Vec<Arc<Inode>> = Vec::new();
        let mut bytes = 0;
        for inode in inodes.filter_map(|ino| self.volume.inodes.get(ino)) {
            let size = inode.live().content.size;
            let copied = seen.contains(&inode.ino) && self.copied_bytes(&inode).is_some();
            if copied || size > self.in_memory() || !is_away(&inode) {
                continue;
            }
            bytes += size;
            if bytes > room {
                break;
            }
            wanted.push(inode);
        }
        let lanes = &Semaphore::new(LANES as usize);
        let reads = stream::iter(wanted)
            .map(|inode| async move {
                let takes = inode.live().size.div_ceil(SMALL).clamp(1, MOST_LANES) as u32;
                // It is never closed.
                let _lanes = lanes.acquire_many(takes).await.ok();
                (inode.ino, self.ready(&inode).await)
            })
            .buffer_unordered(LANES as usize)
            .take_until(self.at_its_end.cancelled());
        let (mut reads, mut ready) = (pin!(reads), HashMap::new());
        while let Some((ino, read)) = reads.next().await {
            match read {
                Ok(read) => ready.extend(read.map(|read| (ino, read))),
                // Its plan meets it again, and tells.
                Err(error) if error.is_of_one() => {
                    tracing::debug!(%ino, %error, "a body is not read beside others");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(ready)
    }

    /// `None`: it is being written.
    async fn ready(&self, inode: &Arc<Inode>) -> Result<Option<Ready>, SettleError> {
        let (generation, write_seq, size) = {
            let live = inode.live();
            if !live.pending.is_clean() {
                return Ok(None);
            }
            (live.content.generation, live.write_seq, live.content.size)
        };
        let bytes = self.copy(inode, 0, size).await?;
        Ok(Some(Ready { generation, write_seq, bytes }))
    }
}
