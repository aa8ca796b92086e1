//! Content: open, read, seek.

use std::ops::Range;

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};

use super::ReadFs;
use super::cache::{Found, Piece};
use super::newest::Failed;
use crate::data::{
    DataError, Fetch, GET_TIMEOUT, PARALLEL, Share, cut_up, fetches, hull, pieces, read_inline,
    read_run, seek, zeros,
};
use crate::fs::{FsError, Opened};
use crate::meta::records::{ContentRec, IntentOp, IntentRec};
use crate::meta::{Lookup, RangeMap, View, keys};
use crate::settle::is_put;
use crate::store::{ObjectInfo, StoreErrorKind};
use crate::types::{ATTR_PUT, Base, FileKind, Ino, PutId};

/// Fetches for one read; others may empty the cache in between.
const FETCHES: usize = 50;

impl ReadFs {
    /// `flags` are open(2)'s.
    pub async fn open_file(&self, ino: Ino, flags: i32) -> Result<Opened, FsError> {
        if flags & libc::O_ACCMODE != libc::O_RDONLY || flags & libc::O_TRUNC != 0 {
            return Err(FsError::ReadOnly);
        }
        let (attr, generation) = self.newest_attributes(ino).await?;
        if attr.kind == FileKind::Dir {
            return Err(FsError::IsDir);
        }
        if let Some(generation) = generation {
            self.pages.opened(ino, generation);
        }
        // The pages are of this generation or were dropped just now.
        let direct_io = flags & libc::O_DIRECT != 0;
        Ok(Opened { fh: self.new_handle(), keep_cache: true, direct_io })
    }

    /// At the last close of a handle.
    pub fn release(&self, ino: Ino) {
        self.pages.closed(ino);
        self.cache.close(ino);
    }

    /// At most `len` bytes from `offset`; fewer only at the end of the file.
    pub async fn read(&self, ino: Ino, offset: u64, len: u32) -> Result<Bytes, FsError> {
        let len = u64::from(len);
        self.answer(self.fresh().await, |view| async move {
            let content: Option<ContentRec> = view.get(&keys::content(ino)).await?;
            let content = content.ok_or(FsError::Stale)?;
            let end = offset.saturating_add(len).min(content.size);
            if offset >= end {
                return Ok(Bytes::new());
            }
            for attempt in 0..FETCHES {
                let ahead = self.fetching.window();
                let found = self
                    .cache
                    .read(ino, content.generation, offset..end, content.size, ahead)
                    .map_err(|e| DataError::disk(ino, e))?;
                match found {
                    Found::All(bytes) => {
                        if attempt == 0 {
                            self.meters.cache.hit();
                        }
                        return Ok(bytes);
                    }
                    Found::Missing(range) => {
                        if attempt == 0 {
                            self.meters.cache.missed();
                        }
                        let (share, pieces) = self.fetch(&view, ino, &content, range).await?;
                        let cached = self
                            .cache
                            .fill(ino, content.generation, &pieces, content.size)
                            .map_err(|e| DataError::disk(ino, e))?;
                        drop((pieces, share));
                        if !cached {
                            // The local disk is full: this read goes without.
                            let (_share, pieces) =
                                self.fetch(&view, ino, &content, offset..end).await?;
                            return Ok(joined(pieces, offset..end));
                        }
                    }
                    Found::Newer => break,
                }
            }
            Err(DataError::Late(format!("inode {ino} has newer content")).into())
        })
        .await
    }

    /// Content of `range` as `view` has it.
    async fn fetch(
        &self,
        view: &View,
        ino: Ino,
        content: &ContentRec,
        range: Range<u64>,
    ) -> Result<(Share, Vec<Piece>), Failed> {
        let wanted = fetches(pieces(view, ino, content, range).await?);
        let share = self.fetching.share(wanted.iter().map(Fetch::bytes).sum()).await;
        let reads = wanted.into_iter().map(|fetch| async move {
            Ok::<_, Failed>(match fetch {
                Fetch::Run(run) => {
                    let state = (&*self.state_store, &self.state);
                    read_run(state, ino, run).await?
                }
                Fetch::Base(run) => {
                    let bytes = self.read_base(view, ino, content, hull(&run)).await?;
                    cut_up(ino, run, &bytes)?
                }
                Fetch::Here(span, extent) => {
                    let bytes = read_inline(ino, &span, extent.as_ref())?;
                    vec![(span, bytes)]
                }
            })
        });
        let mut found: Vec<Piece> =
            stream::iter(reads).buffered(PARALLEL).try_collect::<Vec<_>>().await?.concat();
        found.sort_by_key(|(span, _)| span.start);
        Ok((share, found))
    }

    async fn read_base(
        &self,
        view: &View,
        ino: Ino,
        content: &ContentRec,
        range: Range<u64>,
    ) -> Result<Bytes, Failed> {
        let Some(base) = &content.base else {
            return Err(DataError::Damaged(format!("inode {ino} has no base")).into());
        };
        let store = if base.parked { &self.state_store } else { &self.store };
        let gone = || DataError::BaseGone { ino, key: base.key.to_string() };
        match store.get(&base.key, Some(range.clone()), Some(&base.version), GET_TIMEOUT).await {
            Ok(found) => return Ok(found.data),
            Err(e) if e.kind == StoreErrorKind::Changed || e.kind == StoreErrorKind::NotFound => {}
            Err(e) => return Err(e.into()),
        }
        // The writer may have published the file again and not yet recorded how that went. Where no
        // extent covers the file, the old object and the new one hold the same bytes.
        let now = store.head(&base.key, GET_TIMEOUT).await?.ok_or_else(gone)?;
        if !self.replaces(view, ino, base, &now).await? {
            return Err(gone().into());
        }
        Ok(store.get(&base.key, Some(range), Some(&now.version), GET_TIMEOUT).await?.data)
    }

    /// Whether the object at the base's key is the base under another version, or that of an open
    /// intent which replaces this base.
    async fn replaces(
        &self,
        view: &View,
        ino: Ino,
        base: &Base,
        now: &ObjectInfo,
    ) -> Result<bool, Failed> {
        // Others changed only what it bears besides its bytes.
        if base.version.same_bytes(&now.version) {
            return Ok(true);
        }
        let put_id = now.attributes.get(ATTR_PUT).and_then(|text| PutId::parse(text));
        let Some(put_id) = put_id else { return Ok(false) };
        if base.parked || !is_put(&now.attributes, &base.key, self.id, put_id) {
            return Ok(false);
        }
        if base.put_id == Some(put_id) {
            return Ok(true);
        }
        let intent: Option<IntentRec> = view.get(&keys::intent(put_id)).await?;
        Ok(intent.is_some_and(|intent| {
            intent.op == IntentOp::Put
                && intent.ino == ino
                && intent.key == base.key
                && intent.replaces.as_ref() == Some(base)
        }))
    }

    /// SEEK_DATA (`hole` false) or SEEK_HOLE.
    pub async fn lseek(&self, ino: Ino, offset: u64, hole: bool) -> Result<u64, FsError> {
        self.answer(self.fresh().await, |view| async move {
            let content = self.content_of(&view, ino).await?;
            if offset >= content.size {
                return Err(FsError::NoSeek.into());
            }
            let nothing = RangeMap::default();
            let found = seek(&*view, ino, &content, &nothing, offset..content.size, hole).await?;
            match found {
                None if hole => Ok(content.size),
                found => Ok(found.ok_or(FsError::NoSeek)?),
            }
        })
        .await
    }
}

/// The bytes of a range that the pieces cover.
fn joined(pieces: Vec<Piece>, range: Range<u64>) -> Bytes {
    let mut buffer = zeros((range.end - range.start) as usize);
    for (span, bytes) in pieces {
        let part = span.start.max(range.start)..span.end.min(range.end);
        let Some(bytes) = bytes.filter(|_| !part.is_empty()) else { continue };
        let from = (part.start - span.start) as usize..(part.end - span.start) as usize;
        let to = (part.start - range.start) as usize..(part.end - range.start) as usize;
        buffer[to].copy_from_slice(&bytes[from]);
    }
    buffer.freeze()
}
