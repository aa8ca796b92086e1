//! What one inode needs in order to rest.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::bodies::{Ready, is_away};
use super::body::Body;
use super::copies::{MOST_COPIED, Source};
use super::item::Item;
use super::kept::Upload;
use super::{SettleError, Settler, round_size};
use crate::clock::boottime;
use crate::config::SettleMode;
use crate::data::{DataError, Inode, MAX_KEY, PathMemo, Tx};
use crate::meta::records::{
    ContentRec, DirentRec, InodeRec, IntentOp, IntentRec, RestRec, WorkRec, decode,
};
use crate::meta::{Lookup, Txn, keys};
use crate::types::{FileKind, Ino, ObjectKey, PutId, StoreTime};

/// Attribute-only changes wait this long: a recursive chown would otherwise rewrite every object.
const ATTR_SETTLE: Duration = Duration::from_secs(5 * 60);
/// While a request of an inode has no known outcome, the inode is looked at this often.
pub(super) const UNDECIDED: Duration = Duration::from_secs(5);
/// A file with a writer is looked at again when it is closed; this is only the fallback.
const WRITER_PAUSE: Duration = Duration::from_secs(60);
/// A growing file is rewritten at most at this rate, bytes a second.
const PACE_RATE: u64 = 1 << 20;
/// A file rests so many times as long as its publish took.
pub(super) const TIMES_TOOK: u32 = 10;
const LONGEST_PACE: Duration = Duration::from_secs(3600);
/// Files above this that are mostly holes stay in motion, bytes.
const SPARSE: u64 = 64 << 20;
/// Children queued in one batch after a directory was renamed.
const CHILDREN: usize = 1000;

/// What to do about one inode now.
pub(super) enum Plan {
    /// It rests as it is.
    Done,
    /// There is nothing to do for it, now or later.
    Gone,
    Later(Duration),
    /// A request for it is on its way; it comes again when that is over.
    InFlight,
    /// Its object, or that of another inode at its key, is to be replaced, so what that bears now must be looked at
    /// first; or its bytes must be fetched, or sent in parts.
    Look,
    Publish(Vec<Item>),
}

impl Plan {
    /// Of what a request may still change.
    fn hot(in_flight: bool) -> Plan {
        match in_flight {
            true => Plan::InFlight,
            false => Plan::Later(UNDECIDED),
        }
    }
}

/// What was brought from the bucket for an inode just now, before it is planned for good.
#[derive(Debug, Default)]
pub(super) struct Brought {
    /// The object lies there that it shows through.
    pub seen: bool,
    /// It does not: another one does, or none.
    pub lost: bool,
    pub body: Option<Ready>,
}

/// An inode as it is published.
#[derive(Clone, Copy)]
struct State<'s> {
    inode: &'s Arc<Inode>,
    attr: &'s InodeRec,
    content: &'s ContentRec,
    write_seq: u64,
    xattrs: &'s [(Bytes, Bytes)],
    brought: Option<&'s Brought>,
}

/// Whether a file of so many bytes, with so many that are not holes, stays in motion.
fn mostly_holes(size: u64, data: u64) -> bool {
    size > SPARSE && data < size / 2
}

impl Settler {
    /// `brought`: its object was looked at just now, and this was fetched.
    pub(super) async fn plan(
        &self,
        ino: Ino,
        memo: &mut PathMemo,
        brought: Option<&Brought>,
    ) -> Result<Plan, SettleError> {
        let volume = &self.volume;
        let Some(work) = volume.meta.get::<WorkRec>(&keys::work(ino)).await? else {
            return Ok(Plan::Gone);
        };
        let inode = match volume.inode(ino).await {
            Ok(inode) => inode,
            Err(DataError::Gone(_)) => return Ok(Plan::Gone),
            Err(e) => return Err(e.into()),
        };
        if work == WorkRec::Subtree {
            self.spread(ino).await?;
        }
        let kind = inode.live().attr.kind;
        if volume.options.settle == SettleMode::Never && kind == FileKind::File {
            return Ok(Plan::Gone);
        }
        if let Some(wait) = self.not_yet(&inode) {
            return Ok(Plan::Later(wait));
        }
        if self.hot.inode_is_hot(ino) {
            return Ok(Plan::hot(self.hot.inode_is_in_flight(ino)));
        }
        if kind == FileKind::File {
            volume.commit(vec![Arc::clone(&inode)]).await.map_err(SettleError::Commit)?;
        }
        self.plan_keys(&inode, memo, brought).await
    }

    /// How long this inode should be left alone.
    pub(super) fn not_yet(&self, inode: &Inode) -> Option<Duration> {
        if self.hurried() {
            return None;
        }
        if inode.has_writer() {
            return Some(WRITER_PAUSE);
        }
        let now = boottime();
        let (changed_at, sent) = {
            let live = inode.live();
            let data = live.content.allocated().saturating_add(live.pending.data_bytes());
            // What stays in motion is not sent, and says so at once.
            let sent = if mostly_holes(live.size, data) { 0 } else { live.size };
            (live.changed_at, sent)
        };
        let mut ready = changed_at + self.volume.tuned().settle_after;
        if let Some(pace) = self.pace.lock().get(inode.ino) {
            let rest = (pace.took * TIMES_TOOK)
                .max(Duration::from_secs(sent / PACE_RATE))
                .max(self.volume.tuned().settle_after)
                .min(LONGEST_PACE);
            ready = ready.max(pace.at + rest);
        }
        (ready > now).then(|| ready - now)
    }

    async fn plan_keys(
        &self,
        inode: &Arc<Inode>,
        memo: &mut PathMemo,
        brought: Option<&Brought>,
    ) -> Result<Plan, SettleError> {
        let volume = &self.volume;
        let ino = inode.ino;
        let (attr, content, write_seq, clean) = {
            let live = inode.live();
            let clean = live.pending.is_clean();
            (live.attr.clone(), live.content.clone(), live.write_seq, clean)
        };
        let kind = attr.kind;
        if !clean {
            self.note_interruption(ino, "it was written");
            return Ok(Plan::Later(volume.tuned().settle_after.max(Duration::from_millis(50))));
        }
        let mut wanted: Vec<(ObjectKey, Option<RestRec>)> = Vec::new();
        let mut attr_only = true;
        let keys = self.keys_of(ino, kind, memo).await?;
        let in_place = in_place(kind, &content, &keys);
        let base_at = |key: &ObjectKey| {
            content.base.as_ref().is_some_and(|base| !base.parked && base.key == *key)
        };
        for key in keys {
            if key.as_str().len() > MAX_KEY {
                let why = format!("{key}: the key would be longer than {MAX_KEY} bytes");
                return Ok(self.stays_in_motion(ino, why));
            }
            // Before its row is read: a request that ends meanwhile changes that, and none begins while this is planned.
            let (hot, in_flight) = (self.hot.is_hot(&key), self.hot.is_in_flight(&key));
            let rest: Option<RestRec> = volume.meta.get(&keys::rest(&key)).await?;
            let ours = rest.as_ref().filter(|rest| rest.ino == ino);
            match ours {
                Some(rest) if in_place && shows(rest, &attr, &content) => continue,
                Some(rest)
                    if in_place
                        && rest.generation == content.generation
                        && content_rests(kind, &content) => {}
                _ => attr_only = false,
            }
            if hot {
                return Ok(Plan::hot(in_flight));
            }
            wanted.push((key, rest));
        }
        if wanted.is_empty() {
            return Ok(Plan::Done);
        }
        if kind == FileKind::File && mostly_holes(content.size, content.allocated()) {
            let why = format!("{}: more than half of it is holes", wanted[0].0);
            return Ok(self.stays_in_motion(ino, why));
        }
        if attr_only && kind != FileKind::Dir && !self.hurried() {
            let ready = inode.live().changed_at.max(self.pace_at(ino)) + ATTR_SETTLE;
            let now = boottime();
            if ready > now {
                return Ok(Plan::Later(ready - now));
            }
        }
        // What lies at a key and is another inode's is looked at, and perhaps parked, before that is replaced.
        let others = |rest: &Option<RestRec>| rest.as_ref().is_some_and(|rest| rest.ino != ino);
        let taken = wanted.iter().any(|(_, rest)| others(rest));
        let in_parts = kind == FileKind::File && content.size > self.in_memory();
        let looks = taken || in_parts || is_away(inode);
        if brought.is_none() && (looks || self.has_source(ino).await?) {
            return Ok(Plan::Look);
        }
        if self.drop_false_encoding(inode, &attr, &content).await? {
            return Box::pin(self.plan_keys(inode, memo, brought)).await;
        }
        for (key, rest) in &wanted {
            if let Some(rest) = rest
                && rest.ino != ino
                && !self.make_way(key, rest).await?
            {
                return Ok(Plan::Later(Duration::from_secs(1)));
            }
        }
        // The object at the base's own key must become the base when it is replaced: until the outcome is
        // known, readers accept either. Every other name gets a copy.
        let moves = match wanted.iter().position(|(key, _)| base_at(key)) {
            Some(at) => Some(at),
            None if in_place && content.at_rest() => None,
            None => Some(0),
        };
        let xattrs = volume.meta.xattrs(ino).await?;
        if let Some(first) = moves {
            wanted.swap(0, first);
        }
        let mut items: Vec<Item> = Vec::new();
        let state =
            State { inode, attr: &attr, content: &content, write_seq, xattrs: &xattrs, brought };
        match Box::pin(self.make_items(&state, wanted, moves.is_some(), memo, &mut items)).await {
            Ok(None) => Ok(Plan::Publish(items)),
            Ok(Some(plan)) => {
                self.give_up(items).await;
                Ok(plan)
            }
            Err(error) => {
                self.give_up(items).await;
                Err(error)
            }
        }
    }

    /// Makes what is to lie at the keys, as far as one round takes it; `Some`: nothing of this is published now.
    async fn make_items(
        &self,
        state: &State<'_>,
        wanted: Vec<(ObjectKey, Option<RestRec>)>,
        moves: bool,
        memo: &mut PathMemo,
        items: &mut Vec<Item>,
    ) -> Result<Option<Plan>, SettleError> {
        let State { inode, attr, content, write_seq, xattrs, brought } = *state;
        let ready = brought.and_then(|brought| brought.body.as_ref());
        let (ino, kind) = (inode.ino, attr.kind);
        let (mut held, mut copied) = (0, 0);
        for (index, (key, rest)) in wanted.into_iter().enumerate() {
            // A file of many names goes on in the next round.
            if items.len() >= round_size() || held > self.reach.bytes() || copied > MOST_COPIED {
                break;
            }
            let dress = |put_id| self.dress((ino, attr), xattrs, &key, put_id);
            let put_id = PutId::random();
            let fresh = dress(put_id);
            if let Some(why) = fresh.too_much(&key) {
                return Ok(Some(self.stays_in_motion(ino, why)));
            }
            let began = boottime();
            let kept = self.take_kept(&key, (inode, content, write_seq), dress).await;
            let mut upload = kept.unwrap_or_else(|| Upload {
                inode: Arc::clone(inode),
                content: content.clone(),
                write_seq,
                put_id,
                dress: fresh,
                body: None,
                prepared: Duration::ZERO,
            });
            if upload.body.is_none() {
                let source = Source {
                    seen: brought.is_some_and(|brought| brought.seen),
                    lost: brought.is_some_and(|brought| brought.lost),
                    first: index == 0,
                };
                let of = (&**inode, content);
                let copied = self.copy_on_server(of, &upload.dress, source, memo);
                upload.body = Box::pin(copied).await?;
            }
            let body = match (upload.body.take(), kind) {
                (Some(body), _) => Some(body),
                (None, FileKind::Symlink) => {
                    Some(Body::Bytes(attr.target.clone().unwrap_or_default()))
                }
                (None, FileKind::File) if self.beside.sends(&key) => {
                    return Ok(Some(Plan::Later(Duration::from_secs(1))));
                }
                (None, FileKind::File) if self.goes_beside(content.size) => {
                    let later = self.send_beside(key, upload);
                    return Ok(items.is_empty().then_some(later));
                }
                (None, FileKind::File) => upload.send(self, &key, ready).await?,
                (None, _) => Some(Body::Bytes(Bytes::new())),
            };
            let Some(body) = body else { return Ok(Some(self.changed_under_it(ino))) };
            let intent = IntentRec {
                key,
                op: IntentOp::Put,
                ino,
                generation: content.generation,
                attr_gen: attr.attr_gen,
                expected: rest.map(|rest| rest.version),
                not_after: StoreTime(0),
                upload: match &body {
                    Body::Upload { id, .. } => Some(id.clone()),
                    Body::Bytes(_) | Body::Copy { .. } => None,
                },
                moves_base: kind == FileKind::File && moves && index == 0,
                replaces: content.base.clone(),
            };
            let item = Item {
                inode: Arc::clone(inode),
                put_id: upload.put_id,
                intent,
                dress: upload.dress,
                body,
                write_seq,
                prepared: upload.prepared + boottime().saturating_sub(began),
            };
            held += item.bytes_held();
            copied += item.bytes_copied();
            items.push(item);
            let last = items.last().map(|item| &item.body);
            if let Some(body) = last
                && !self.still_bears(ino, body, xattrs).await?
            {
                return Ok(Some(self.changed_under_it(ino)));
            }
        }
        Ok(None)
    }

    /// It changed under the copy, or what its object bears did.
    fn changed_under_it(&self, ino: Ino) -> Plan {
        self.note_interruption(ino, "its content changed");
        Plan::Later(self.volume.tuned().settle_after)
    }

    fn pace_at(&self, ino: Ino) -> Duration {
        self.pace.lock().get(ino).map_or(Duration::ZERO, |pace| pace.at)
    }

    fn stays_in_motion(&self, ino: Ino, why: String) -> Plan {
        if self.unsettleable.lock().insert(ino, &why) {
            tracing::info!(%ino, %why, "a file stays in motion");
        }
        Plan::Later(LONGEST_PACE)
    }

    /// The keys at which an inode belongs: one a name; a directory's marker ends in `/`.
    pub(super) async fn keys_of(
        &self,
        ino: Ino,
        kind: FileKind,
        memo: &mut PathMemo,
    ) -> Result<Vec<ObjectKey>, SettleError> {
        let mut found = Vec::new();
        for (parent, name) in self.volume.names_of(ino).await? {
            if let Some(key) = self.volume.key_of(parent, &name, memo).await? {
                found.push(match kind {
                    FileKind::Dir => ObjectKey::new(format!("{key}/")),
                    _ => key,
                });
            }
        }
        Ok(found)
    }

    /// Whether every name of an inode shows what the inode is.
    pub(super) async fn at_rest(
        &self,
        txn: &Txn<'_>,
        ino: Ino,
        memo: &mut PathMemo,
    ) -> Result<bool, SettleError> {
        let Some(attr) = txn.get::<InodeRec>(&keys::inode(ino)).await? else { return Ok(true) };
        let content: ContentRec = txn.get(&keys::content(ino)).await?.unwrap_or_default();
        if txn.get::<WorkRec>(&keys::work(ino)).await? == Some(WorkRec::Subtree) {
            return Ok(false);
        }
        let keys = self.keys_of(ino, attr.kind, memo).await?;
        if !keys.is_empty() && !in_place(attr.kind, &content, &keys) {
            return Ok(false);
        }
        for key in keys {
            match txn.get::<RestRec>(&keys::rest(&key)).await? {
                Some(rest) if rest.ino == ino && shows(&rest, &attr, &content) => {}
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Keys at which an inode was seen and no longer belongs: what moved with a renamed directory.
    pub(super) async fn tidy_strays(
        &self,
        txn: &mut Txn<'_>,
        ino: Ino,
        memo: &mut PathMemo,
    ) -> Result<(), SettleError> {
        let Some(attr) = txn.get::<InodeRec>(&keys::inode(ino)).await? else { return Ok(()) };
        let right: HashSet<ObjectKey> =
            self.keys_of(ino, attr.kind, memo).await?.into_iter().collect();
        let seen = txn.scan_all(keys::of_inode(keys::RESTS, ino)).await?;
        for (key, _) in seen {
            if let Some(key) = keys::parse_rests(&key)
                && !right.contains(&key)
            {
                txn.put_raw(keys::tidy(&key), Vec::new());
            }
        }
        Ok(())
    }

    /// A renamed directory: its children move too. Each batch queues some, the last one turns the
    /// directory into plain work.
    async fn spread(&self, dir: Ino) -> Result<(), SettleError> {
        let mut after = 0;
        loop {
            let range = keys::dirents_after(dir, after);
            let page = self.volume.meta.scan(range, CHILDREN).await?;
            let more = page.len() == CHILDREN;
            let mut tx: Tx<'_> = self.volume.begin().await?;
            for (key, value) in &page {
                let Some((cookie, _)) = keys::parse_dirent(key) else { continue };
                after = cookie;
                let child: DirentRec = decode(value)?;
                let work = match child.kind {
                    FileKind::Dir => WorkRec::Subtree,
                    _ => WorkRec::Inode,
                };
                if tx.kv.get_raw(&keys::inode(child.ino)).await?.is_some() {
                    tx.needs_rest(child.ino, work).await?;
                }
            }
            if !more {
                tx.kv.put(keys::work(dir), &WorkRec::Inode);
            }
            tx.commit(0).await?;
            if !more {
                return Ok(());
            }
        }
    }
}

/// Whether what lies at a key shows this state of its inode.
fn shows(rest: &RestRec, attr: &InodeRec, content: &ContentRec) -> bool {
    let content_shown =
        attr.kind != FileKind::File || rest.generation == content.generation && content.at_rest();
    content_shown && rest.attr_gen == attr.attr_gen
}

/// Whether a file's base lies under one of its own names. A base that lost its name (one of several
/// hard links, or the old name of a file that moved) keeps a key that somebody else may want.
fn in_place(kind: FileKind, content: &ContentRec, keys: &[ObjectKey]) -> bool {
    kind != FileKind::File
        || content.base.as_ref().is_some_and(|base| !base.parked && keys.contains(&base.key))
}

fn content_rests(kind: FileKind, content: &ContentRec) -> bool {
    kind != FileKind::File || content.at_rest()
}
