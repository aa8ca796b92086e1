//! Parking: the content of a file that stands in another's way at rest gets a copy under a unique
//! name, so that its key can be reused. Cycles (`mv a t; mv b a; mv t b`) are broken this way.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;

use super::body::{COPY_LIMIT, part_size};
use super::outcome::forget_base;
use super::parts::{Parts, TIMEOUT};
use super::{SettleError, Settler};
use crate::clock::boottime;
use crate::data::{DataError, Inode, MAX_KEY, PathMemo, Upload, escape_name, own_name};
use crate::fault::{at, points};
use crate::meta::records::{ContentRec, RestRec, SegmentRec, WorkRec};
use crate::meta::{Logged, keys};
use crate::store::{Condition, Part, PutOutcome, Send, Verb};
use crate::types::{Base, FileKind, Ino, ObjectKey, Version};

/// Read at a time, bytes.
const READ: u64 = 16 << 20;
/// Whoever is about to free a key by itself is waited for no longer than this before it begins.
const SOON: Duration = Duration::from_secs(60);

impl Settler {
    /// Makes sure that no live inode's content lies at `key`. False: not yet.
    pub(super) async fn make_way(
        &self,
        key: &ObjectKey,
        rest: &RestRec,
    ) -> Result<bool, SettleError> {
        let inode = match self.volume.inode(rest.ino).await {
            Ok(inode) => inode,
            Err(DataError::Gone(_)) => return Ok(true),
            Err(e) => return Err(e.into()),
        };
        self.own_key_only(rest.ino, key).await?;
        if self.moves_by_itself(&inode, key).await? {
            self.schedule.by(rest.ino, boottime());
            return Ok(false);
        }
        if !self.hot.inode_is_hot(rest.ino) && !self.know_before_it_goes(rest.ino, key).await? {
            return Ok(false);
        }
        let base = {
            let live = inode.live();
            live.content.base.clone().filter(|base| !base.parked && base.key == *key)
        };
        match base {
            None => Ok(true),
            // A publish of it is under way; its outcome moves the base or leaves it.
            Some(_) if self.hot.inode_is_hot(rest.ino) => Ok(false),
            Some(base) => {
                self.park(&inode, &base).await?;
                Ok(true)
            }
        }
    }

    /// Whether a file's own publish is about to free `key`: to park it before would send all its bytes twice. Not so
    /// where that publish may have to wait for others.
    async fn moves_by_itself(&self, inode: &Inode, key: &ObjectKey) -> Result<bool, SettleError> {
        let volume = &self.volume;
        let (size, here) = {
            let live = inode.live();
            let base = live.content.base.as_ref();
            (live.size, base.is_some_and(|base| !base.parked && base.key == *key))
        };
        let soon = self.not_yet(inode).is_none_or(|wait| wait < SOON) && !inode.has_writer();
        let cheap = self.copies_away(size) || size <= part_size(size);
        if !here || !soon || cheap || self.unsettleable.lock().has(inode.ino) {
            return Ok(false);
        }
        if volume.meta.get_raw(&keys::work(inode.ino)).await?.is_none() {
            return Ok(false);
        }
        let own = self.keys_of(inode.ino, FileKind::File, &mut PathMemo::default()).await?;
        for key in &own {
            let rest: Option<RestRec> = volume.meta.get(&keys::rest(key)).await?;
            if key.as_str().len() > MAX_KEY || rest.is_some_and(|rest| rest.ino != inode.ino) {
                return Ok(false);
            }
        }
        Ok(!own.is_empty())
    }

    /// Whether parking is one request.
    fn copies_away(&self, size: u64) -> bool {
        let volume = &self.volume;
        volume.same_bucket && volume.capabilities.has(Verb::Copy) && size <= COPY_LIMIT
    }

    /// Looks at what an inode's object at `key` bears, because afterwards it is not there any more. False:
    /// something else lies there, which has its own way into the tree.
    async fn know_before_it_goes(&self, ino: Ino, key: &ObjectKey) -> Result<bool, SettleError> {
        let mut learned = self.learn([ino], true).await?;
        if let Some(error) = learned.failed.remove(&ino) {
            return Err(error.into());
        }
        let replaced = learned.replaced.remove(&ino).is_some_and(|there| there == *key);
        if replaced
            && let Some(reconciler) = self.reconciler.get().and_then(std::sync::Weak::upgrade)
        {
            reconciler.recheck_key(key).await?;
        }
        Ok(!replaced)
    }

    /// A file that shows the object of a key which another file is about to take rests at the key of
    /// its own name from now on.
    async fn own_key_only(&self, ino: Ino, key: &ObjectKey) -> Result<(), SettleError> {
        let mut memo = PathMemo::default();
        for (parent, name) in self.volume.names_of(ino).await? {
            let Some(own) = own_name(&name) else { continue };
            let shows = match self.volume.dir_key(parent, &mut memo).await? {
                Some(dir) => format!("{dir}{}", escape_name(&own)) == key.as_str(),
                None => false,
            };
            let mut tx = self.volume.begin().await?;
            if shows && tx.kv.get_raw(&keys::beside(parent, &name)).await?.is_some() {
                tx.kv.delete(keys::beside(parent, &name));
                tx.needs_rest(ino, WorkRec::Inode).await?;
                tx.commit(0).await?;
            }
        }
        Ok(())
    }

    async fn park(&self, inode: &Arc<Inode>, base: &Base) -> Result<(), SettleError> {
        at(points::PARK_BEFORE);
        // Held until the copy is recorded.
        let (mut upload, version) = self.away(base).await?;
        at(points::PARK_AFTER);
        let parked = Base { key: upload.key(), parked: true, version, put_id: None };
        let guard = inode.changing();
        let result = self.record_parked(inode, base, parked, &mut upload).await;
        drop(guard);
        tracing::info!(key = %base.key, ino = %inode.ino, "content is parked to free its key");
        result
    }

    async fn record_parked(
        &self,
        inode: &Arc<Inode>,
        base: &Base,
        parked: Base,
        upload: &mut Upload<'_>,
    ) -> Result<(), SettleError> {
        let mut txn = self.volume.meta.begin().await?;
        let content: Option<ContentRec> = txn.get(&keys::content(inode.ino)).await?;
        let content = match content {
            Some(mut content) if content.base.as_ref() == Some(base) => {
                if let Some(id) = self.volume.parked_id(&parked) {
                    let size = parked.version.size.max(1);
                    txn.put(keys::segment(id), &SegmentRec { total: size, live: size });
                }
                content.base = Some(parked);
                txn.put(keys::content(inode.ino), &content);
                Some(content)
            }
            _ => {
                forget_base(&mut txn, &self.volume, &parked);
                None
            }
        };
        upload.named();
        txn.commit(Logged::Op { unique: 0 }, || {
            if let Some(content) = content {
                inode.live().content = content;
            }
        })
        .await?;
        Ok(())
    }

    /// Copies a base object to a unique name in the state's bucket. Each attempt has its own name: a copy that
    /// the store goes on with, though nobody waits for it any more, comes over nothing.
    async fn away(&self, base: &Base) -> Result<(Upload<'_>, Version), SettleError> {
        let volume = &self.volume;
        let size = base.version.size;
        if self.copies_away(size) {
            let mut upload = volume.upload();
            let to = upload.key();
            upload.sent();
            let send = Send { condition: Condition::None, not_after: None, timeout: TIMEOUT };
            let (none, plain) = Default::default();
            match volume.store.copy(&base.key, &base.version, &to, &none, &plain, send).await {
                PutOutcome::Won(version) if version.size == size => return Ok((upload, version)),
                PutOutcome::Won(_) | PutOutcome::Lost => {}
                PutOutcome::Failed(error) | PutOutcome::Ambiguous(error) => {
                    tracing::debug!(%error, "a server-side copy failed; copying through this host");
                }
            }
        }
        let mut upload = volume.upload();
        upload.sent();
        let version = self.carry_away(base, &upload.key()).await?;
        Ok((upload, version))
    }

    async fn carry_away(&self, base: &Base, to: &ObjectKey) -> Result<Version, SettleError> {
        let volume = &self.volume;
        let size = base.version.size;
        let whole = |from: u64, to: u64| {
            volume.store.get(&base.key, Some(from..to), Some(&base.version), TIMEOUT)
        };
        let to_store = &volume.state_store;
        let (none, plain) = Default::default();
        let part = part_size(size);
        // Readers are not to wait for hours, so of a large part no more counts than is asked for at a time.
        let _share = volume.fetching.share(size.min(READ)).await;
        if size <= part {
            let body = if size == 0 { Default::default() } else { whole(0, size).await?.data };
            return match to_store.put(to, body, &none, &plain, Send::plain(TIMEOUT)).await {
                PutOutcome::Won(version) => Ok(version),
                PutOutcome::Failed(error) | PutOutcome::Ambiguous(error) => Err(error.into()),
                PutOutcome::Lost => Err(unexpected_loss()),
            };
        }
        let id = to_store.create_upload(to, &none, &plain, TIMEOUT).await?;
        let outcome = match self.parts_away(base, &Parts::new(to_store.as_ref(), to, &id)).await {
            Ok(tags) => to_store.complete_upload(to, &id, &tags, size, Send::plain(TIMEOUT)).await,
            Err(error) => {
                self.abort(to_store.as_ref(), to, &id).await;
                return Err(error);
            }
        };
        let error = match outcome {
            PutOutcome::Won(version) => return Ok(version),
            PutOutcome::Failed(error) | PutOutcome::Ambiguous(error) => error.into(),
            PutOutcome::Lost => unexpected_loss(),
        };
        self.abort(to_store.as_ref(), to, &id).await;
        Err(error)
    }

    /// Sends a base object through this host; the tags of its parts.
    async fn parts_away(&self, base: &Base, to: &Parts<'_>) -> Result<Vec<String>, SettleError> {
        let size = base.version.size;
        let part = part_size(size);
        let mut tags = Vec::new();
        let mut at = 0;
        while at < size {
            let part_of = Part { number: tags.len() as u32 + 1, offset: at };
            let end = (at + part).min(size);
            let mut body = BytesMut::with_capacity((end - at) as usize);
            while at < end {
                let range = at..(at + READ).min(end);
                let piece = self.patiently(to, || async {
                    let (range, version) = (range.clone(), &base.version);
                    let got = self.volume.store.get(&base.key, Some(range), Some(version), TIMEOUT);
                    Ok(got.await?.data)
                });
                body.extend_from_slice(&piece.await?);
                at = range.end;
            }
            tags.push(self.send_part(to, part_of, body.freeze()).await?);
        }
        Ok(tags)
    }
}

fn unexpected_loss() -> SettleError {
    crate::store::StoreError::new(
        crate::store::StoreErrorKind::Protocol,
        "the store refused an unconditional request for a fresh name",
    )
    .into()
}
