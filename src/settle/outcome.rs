//! Outcomes of announced requests, and what they release.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::hot::group_lasts;
use super::{SettleError, Settler, TIDY, attributes, chunk_size, round_size};
use crate::clock::boottime;
use crate::data::{ChangeGuard, DataError, Inode, PathMemo, Volume, give_up_map, give_up_older};
use crate::fault::{at, points};
use crate::meta::records::{ContentRec, IntentOp, IntentRec, RestRec};
use crate::meta::{Logged, Txn, keys};
use crate::store::{Groups, ObjectInfo, StoreError};
use crate::types::{Base, Ino, ObjectKey, PutId, Version};

/// What became of one announced request.
#[derive(Debug, Clone)]
pub(super) enum Outcome {
    Applied(Version),
    /// Never sent.
    Not,
    /// Certainly not applied, and the same again would fare no better for now.
    Failed,
    /// Refused by its condition: somebody else changed the key.
    Refused,
    /// Nobody knows yet.
    Open,
}

const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// A key whose object cannot be looked at stays hot, and is looked at again after this.
const UNDECIDED_PAUSE: Duration = Duration::from_secs(60);

impl Settler {
    /// Records outcomes, some in each batch. Extents that a published object replaces become dead in the batch that
    /// records it and no earlier.
    pub(super) async fn resolve(
        &self,
        results: Vec<(PutId, IntentRec, Outcome)>,
    ) -> Result<(), SettleError> {
        let now = boottime();
        let mut resolved: Vec<(PutId, IntentRec, Outcome)> = Vec::new();
        for (put_id, intent, outcome) in results {
            if matches!(outcome, Outcome::Open) {
                self.hot.ambiguous(&intent.key, intent.ino, put_id, now + self.late(&intent));
            } else {
                resolved.push((put_id, intent, outcome));
            }
        }
        let mut done = 0;
        let mut failed = Ok(());
        for some in resolved.chunks(chunk_size()) {
            let began = boottime();
            failed = self.resolve_batch(some).await;
            if failed.is_err() {
                break;
            }
            self.are_resolved(some);
            done += some.len();
            self.leaves_room(boottime() - began).await;
        }
        // Their intents stay open; once cold they are decided as if nobody had seen an answer.
        for (put_id, intent, _) in resolved.drain(done..) {
            self.hot.ambiguous(&intent.key, intent.ino, put_id, now + self.late(&intent));
        }
        let finished = boottime();
        let refused = || resolved.iter().filter(|(.., o)| matches!(o, Outcome::Refused));
        for (_, intent, _) in refused() {
            self.schedule.by(intent.ino, finished + Duration::from_secs(1));
        }
        failed?;
        for (_, intent, _) in refused() {
            match self.somebody_else(intent).await {
                // The next publish is refused again, and with it comes the next look.
                Err(error) if error.is_of_one() => self.waits(&intent.key, &error),
                other => other?,
            }
        }
        Ok(())
    }

    /// Their outcomes are recorded: the keys are nobody's any more.
    fn are_resolved(&self, resolved: &[(PutId, IntentRec, Outcome)]) {
        let finished = boottime();
        for (_, intent, outcome) in resolved {
            self.hot.resolved(&intent.key, finished);
            if let (IntentOp::Put, Outcome::Applied(_)) = (intent.op, outcome) {
                self.unsettleable.lock().remove(intent.ino);
                self.copies.rests(intent.ino);
            }
            if matches!(outcome, Outcome::Not | Outcome::Failed) {
                let pause = self.volume.tuned().settle_after.max(Duration::from_millis(200));
                self.schedule.by(intent.ino, finished + pause);
                if intent.op == IntentOp::Delete {
                    self.schedule.by(TIDY, finished + pause);
                }
            }
        }
    }

    /// How long a request that was sent just now may still change its key.
    fn late(&self, intent: &IntentRec) -> Duration {
        let grouped = intent.op == IntentOp::Delete
            && self.volume.store.known_groups().is_some_and(|groups| groups != Groups::No);
        self.hot_time() + if grouped { group_lasts() } else { Duration::ZERO }
    }

    async fn resolve_batch(
        &self,
        resolved: &[(PutId, IntentRec, Outcome)],
    ) -> Result<(), SettleError> {
        let mut live: BTreeMap<Ino, (Arc<Inode>, ChangeGuard)> = BTreeMap::new();
        for (_, intent, _) in resolved.iter().filter(|(_, intent, _)| intent.op == IntentOp::Put) {
            // Also one that nobody uses now: whoever loaded it meanwhile would keep the old record.
            match self.volume.inode(intent.ino).await {
                Ok(inode) => {
                    // Fetches that began before the record changes must not end after it.
                    live.entry(intent.ino)
                        .or_insert_with(|| (Arc::clone(&inode), inode.changing()));
                }
                Err(DataError::Gone(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let mut txn = self.volume.meta.begin().await?;
        let mut touched = vec![];
        let mut contents: Vec<(Ino, ContentRec)> = Vec::new();
        let mut memo = PathMemo::default();
        let mut published = BTreeSet::new();
        for (put_id, intent, outcome) in resolved {
            txn.delete(keys::intent(*put_id));
            match (intent.op, outcome) {
                (IntentOp::Put, Outcome::Applied(version)) => {
                    let content = self.published(&mut txn, *put_id, intent, version).await?;
                    contents.extend(content.map(|content| (intent.ino, content)));
                    published.insert(intent.ino);
                    if self.volume.lookup_key(&intent.key).await? != Some(intent.ino) {
                        txn.put_raw(keys::tidy(&intent.key), Vec::new());
                    }
                    touched.push(TIDY);
                }
                (IntentOp::Put, _) => {
                    let content: Option<ContentRec> = txn.get(&keys::content(intent.ino)).await?;
                    if let Some(mut content) = content
                        && content.publishing.is_some_and(|p| p.put_id == *put_id)
                    {
                        content.publishing = None;
                        txn.put(keys::content(intent.ino), &content);
                        contents.push((intent.ino, content));
                    }
                }
                (IntentOp::Delete, Outcome::Applied(_)) => {
                    txn.delete_rest(&intent.key).await?;
                    txn.delete(keys::tidy(&intent.key));
                }
                // Its time comes by itself.
                (IntentOp::Delete, Outcome::Failed) => {}
                (IntentOp::Delete, _) => touched.push(TIDY),
            }
        }
        // Once an inode, not once a name of it: each look goes over all of its names.
        for ino in published {
            if self.at_rest(&txn, ino, &mut memo).await? {
                txn.delete(keys::work(ino));
                self.tidy_strays(&mut txn, ino, &mut memo).await?;
            } else {
                touched.push(ino);
            }
        }
        at(points::RESOLVE_BEFORE);
        txn.commit(Logged::Op { unique: 0 }, || {
            for (ino, content) in contents {
                if let Some((inode, _)) = live.get(&ino) {
                    inode.live().content = content;
                }
            }
        })
        .await?;
        at(points::RESOLVE_AFTER);
        if !touched.is_empty() {
            self.volume.wants_settling(touched);
        }
        Ok(())
    }

    /// An object of ours lies at its key.
    async fn published(
        &self,
        txn: &mut Txn<'_>,
        put_id: PutId,
        intent: &IntentRec,
        version: &Version,
    ) -> Result<Option<ContentRec>, SettleError> {
        let rest = RestRec {
            ino: intent.ino,
            put_id: Some(put_id),
            version: version.clone(),
            generation: intent.generation,
            attr_gen: intent.attr_gen,
        };
        txn.put_rest(&intent.key, &rest).await?;
        if !intent.moves_base {
            return Ok(None);
        }
        let content: Option<ContentRec> = txn.get(&keys::content(intent.ino)).await?;
        let Some(mut content) = content else { return Ok(None) };
        let Some(publishing) = content.publishing.take_if(|p| p.put_id == put_id) else {
            return Ok(None);
        };
        if !is_same(content.base.as_ref(), intent.replaces.as_ref()) {
            // The inode's content went another way meanwhile; the object is only what lies there.
            txn.put(keys::content(intent.ino), &content);
            return Ok(Some(content));
        }
        if let Some(old) = &content.base
            && old.key != intent.key
        {
            forget_base(txn, &self.volume, old);
        }
        content.base = Some(Base {
            key: intent.key.clone(),
            parked: false,
            version: version.clone(),
            put_id: Some(put_id),
        });
        content.base_limit = publishing.limit.min(version.size);
        if content.drop_gen < intent.generation {
            content.drop_gen = intent.generation;
            if content.generation == intent.generation {
                give_up_map(txn, intent.ino, &mut content);
            } else {
                give_up_older(txn, intent.ino, &content);
            }
        }
        txn.put(keys::content(intent.ino), &content);
        Ok(Some(content))
    }

    /// Decides requests that can no longer arrive, each by one HEAD, for ever.
    pub(super) async fn decide_ripe(&self) -> Result<(), SettleError> {
        let (ripe, _) = self.hot.ripe(boottime());
        let mut results = Vec::new();
        for put_id in ripe.into_iter().take(round_size()) {
            let Some(intent): Option<IntentRec> =
                self.volume.meta.get(&keys::intent(put_id)).await?
            else {
                self.hot.forget(put_id);
                continue;
            };
            let outcome = match self.decide(put_id, &intent).await {
                Ok(outcome) => outcome,
                Err(error) => {
                    let error = SettleError::from(error);
                    self.waits(&intent.key, &error);
                    let again = boottime() + UNDECIDED_PAUSE;
                    self.hot.undecided(&intent.key, intent.ino, put_id, again);
                    // Each of the others would wait as long for a bucket that does not answer.
                    if !error.is_of_one() {
                        break;
                    }
                    continue;
                }
            };
            tracing::info!(key = %intent.key, ?outcome, "an open request is decided");
            if matches!(outcome, Outcome::Not) {
                self.note_interruption(intent.ino, "its request never arrived");
            }
            results.push((put_id, intent, outcome));
        }
        self.resolve(results).await
    }

    /// What became of a request that can no longer arrive.
    async fn decide(&self, put_id: PutId, intent: &IntentRec) -> Result<Outcome, StoreError> {
        if let Some(upload) = &intent.upload {
            self.volume.store.abort_upload(&intent.key, upload, HEAD_TIMEOUT).await?;
            self.forget_kept(&intent.key);
        }
        let head = self.volume.store.head(&intent.key, HEAD_TIMEOUT).await?;
        let ours = |info: &ObjectInfo| {
            attributes::is_put(&info.attributes, &intent.key, self.volume.id, put_id)
        };
        Ok(match (intent.op, head) {
            (IntentOp::Put, Some(info)) if ours(&info) => Outcome::Applied(info.version),
            (IntentOp::Put, _) => Outcome::Not,
            (IntentOp::Delete, None) => Outcome::Applied(absent()),
            (IntentOp::Delete, Some(_)) => Outcome::Not,
        })
    }

    fn waits(&self, key: &ObjectKey, error: &SettleError) {
        self.volume.note_error(error);
        tracing::warn!(%key, error = error as &dyn std::error::Error, "a key has to wait");
    }

    /// A condition refused our publish: bring the key's real state into the tree.
    async fn somebody_else(&self, intent: &IntentRec) -> Result<(), SettleError> {
        tracing::info!(key = %intent.key, "somebody else changed an object that was to be published");
        if let Some(reconciler) = self.reconciler.get().and_then(std::sync::Weak::upgrade) {
            reconciler.recheck_key(&intent.key).await?;
        }
        Ok(())
    }
}

/// Whether a file still shows through the object that it showed through when a publish was announced. Others may
/// have changed what that bears.
fn is_same(now: Option<&Base>, then: Option<&Base>) -> bool {
    match (now, then) {
        (Some(now), Some(then)) => {
            now.key == then.key
                && now.parked == then.parked
                && now.version.same_bytes(&then.version)
        }
        (now, then) => now == then,
    }
}

/// The version that stands for "nothing there".
pub(super) fn absent() -> Version {
    Version { etag: String::new(), size: 0, modified: None, generation: None }
}

/// Nothing shows through this object any more: a parked copy is garbage, an old key is to be tidied.
pub(super) fn forget_base(txn: &mut Txn<'_>, volume: &Volume, base: &Base) {
    if base.parked {
        volume.release_parked(txn, base);
    } else {
        txn.put_raw(keys::tidy(&base.key), Vec::new());
    }
}

/// The same content with its base at another name of the same file, where a copy of the same
/// generation rests; `None` when there is no such copy.
pub(super) async fn other_copy(
    txn: &Txn<'_>,
    ino: Ino,
    content: &ContentRec,
    away_from: &ObjectKey,
) -> Result<Option<ContentRec>, SettleError> {
    let Some(here) = txn.get::<RestRec>(&keys::rest(away_from)).await? else { return Ok(None) };
    let seen = txn.scan_all(keys::of_inode(keys::RESTS, ino)).await?;
    for (key, _) in seen {
        let Some(key) = keys::parse_rests(&key).filter(|key| key != away_from) else { continue };
        let rest: Option<RestRec> = txn.get(&keys::rest(&key)).await?;
        if let Some(rest) = rest
            && rest.ino == ino
            && rest.generation == here.generation
            && rest.version.size == here.version.size
            && txn.get_raw(&keys::tidy(&key)).await?.is_none()
        {
            let base = Base { key, parked: false, version: rest.version, put_id: rest.put_id };
            return Ok(Some(ContentRec { base: Some(base), ..content.clone() }));
        }
    }
    Ok(None)
}
