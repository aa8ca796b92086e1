//! Keys whose name is gone: their objects are deleted, by intents like every other change.

use std::time::Duration;

use futures::stream::{self, StreamExt};

use super::groups::{Deletion, PAUSE, deleting};
use super::hot::group_lasts;
use super::outcome::{Outcome, absent, other_copy};
use super::round::{Leaving, PARALLEL, SEND_TIMEOUT};
use super::seen::Seen;
use super::{SettleError, Settler, TIDY, chunk_size, round_size};
use crate::clock::boottime;
use crate::data::DataError;
use crate::fault::Mutant;
use crate::meta::records::{ContentRec, IntentOp, IntentRec, RestRec, WorkRec};
use crate::meta::{Logged, MetaError, Pages, keys};
use crate::store::{Condition, FEW, Send, Verb};
use crate::types::{Ino, ObjectKey, PutId, StoreTime};

/// Rounds that a page of keys is as large as, where the store deletes groups. Each page costs a flush, and ends only with
/// its last answer; what is announced and not sent has to be recorded before a mount ends.
const GROUPS_OF_A_PAGE: usize = 4;

enum Verdict {
    /// Nothing of ours lies there, or a name leads there again.
    Drop(Option<Ino>),
    /// Another file has the name and does not rest there yet: its publish replaces the object. The row stays
    /// until then, because that file may be renamed before, its directory too, and then nobody replaces it.
    Keep(Ino),
    Wait,
    /// The file has other names, and rests there as well.
    Move(Ino, ContentRec),
    Delete(RestRec),
}

/// What one batch of judged keys came to.
struct Announced {
    deletes: Vec<Deletion>,
    /// Whether some keys must wait.
    waiting: bool,
}

impl Settler {
    /// Looks at every queued key; deletes the objects that nothing needs any more.
    pub(super) async fn tidy_round(&self) -> Result<(), SettleError> {
        // Raises the queue's floor over what the rounds before took off it.
        if self.volume.meta.queue(keys::TIDY, 1).await?.is_empty() {
            return Ok(());
        }
        self.learn_groups(self.volume.meta.superblock().tidy).await;
        // Where they go in groups, some of these are on their way side by side.
        let size = match self.deletes_in_groups() {
            true => GROUPS_OF_A_PAGE * round_size(),
            false => self.manner().keys,
        };
        let mut pages = Pages::new(self.volume.meta.queued(keys::TIDY), size);
        let mut waiting = false;
        while let Some(page) =
            pages.next(&self.volume.meta.engine).await.map_err(MetaError::from)?
        {
            if self.is_held_back() {
                waiting = true;
                break;
            }
            let keys: Vec<ObjectKey> =
                page.iter().filter_map(|(key, _)| keys::parse_object(key)).collect();
            waiting |= self.tidy_keys(keys).await?;
        }
        if waiting {
            self.schedule.by(TIDY, boottime() + PAUSE);
        }
        Ok(())
    }

    /// Returns whether some keys must wait.
    async fn tidy_keys(&self, wanted: Vec<ObjectKey>) -> Result<bool, SettleError> {
        if wanted.is_empty() {
            return Ok(false);
        }
        if !self.permit.may_publish() {
            return Err(SettleError::NoAuthority);
        }
        let announced = self.expiry().await?;
        // Whoever takes over counts from this.
        let in_groups = self.way_of(wanted.len()).is_grouped();
        let lasts = if in_groups { group_lasts() } else { Duration::ZERO };
        let not_after = announced.plus(lasts.as_millis() as i64);
        let mut waiting = false;
        let mut deletes: Vec<Deletion> = Vec::new();
        let mut failed = Ok(());
        for some in wanted.chunks(chunk_size()) {
            // Whatever is announced now would be recorded as not sent.
            if self.is_held_back() {
                break;
            }
            let began = boottime();
            match self.announce_deletes(some, not_after).await {
                Ok(mut announced) => {
                    waiting |= announced.waiting;
                    deletes.append(&mut announced.deletes);
                    self.leaves_room(boottime() - began).await;
                }
                Err(error) => {
                    failed = Err(error);
                    break;
                }
            }
        }
        if deletes.is_empty() {
            return failed.map(|()| waiting);
        }
        let durable = match failed {
            Ok(()) => self.announced_in_time(announced).await,
            Err(error) => Err(error),
        };
        if !matches!(durable, Ok(true)) {
            let unsent = deletes.into_iter().map(|(id, intent)| (id, intent, Outcome::Not));
            let resolved = self.resolve(unsent.collect()).await;
            return durable.and_then(|_| resolved.map(|()| waiting));
        }
        // Nobody waits for a group whose time was not announced.
        let way = self.way(in_groups && deletes.len() >= FEW);
        let mut seen = Seen::default();
        if way.looks() {
            let keys = deletes.iter().map(|(_, intent)| &intent.key);
            tokio::select! {
                looked = Seen::look(&*self.volume.store, keys) => seen = looked,
                () = self.at_its_end.cancelled() => {}
            }
        }
        let intents = deletes.iter().cloned().collect();
        let (leaving, seen) = (&Leaving::default(), &seen);
        let sends = stream::iter(self.batches(deletes, way))
            .map(|batch| self.send_batch(batch, announced, leaving, (way, seen)))
            .buffer_unordered(self.lanes.width(self.programs_wait()).min(PARALLEL));
        let sent = self.outcomes(intents, leaving, sends.flat_map(stream::iter)).await;
        let results = sent.into_iter().map(|(id, intent, outcome, _)| (id, intent, outcome));
        self.resolve(results.collect()).await?;
        Ok(waiting)
    }

    /// Judges some keys, and announces the deletions among them, in one batch.
    async fn announce_deletes(
        &self,
        wanted: &[ObjectKey],
        not_after: StoreTime,
    ) -> Result<Announced, SettleError> {
        let mut waiting = false;
        let mut deletes: Vec<Deletion> = Vec::new();
        let mut txn = self.volume.meta.begin().await?;
        let mut touched = Vec::new();
        let mut moved = Vec::new();
        for key in wanted {
            match self.judge(&txn, key).await? {
                Verdict::Wait => waiting = true,
                Verdict::Move(ino, content) => {
                    // Also one that nobody uses now: whoever loaded it meanwhile would keep the old
                    // record.
                    match self.volume.inode(ino).await {
                        Ok(inode) => {
                            txn.put(keys::content(ino), &content);
                            moved.push((inode.changing(), inode, content));
                        }
                        Err(DataError::Gone(_)) => {}
                        Err(error) => return Err(error.into()),
                    }
                    touched.push(TIDY);
                }
                // Each publish has this queue looked at again, so no timer is needed.
                Verdict::Keep(ino) => {
                    if txn.get::<WorkRec>(&keys::work(ino)).await?.is_none() {
                        txn.put(keys::work(ino), &WorkRec::Inode);
                        touched.push(ino);
                    }
                }
                Verdict::Drop(ino) => {
                    txn.delete(keys::tidy(key));
                    if let Some(ino) = ino {
                        if txn.get::<WorkRec>(&keys::work(ino)).await?.is_none() {
                            txn.put(keys::work(ino), &WorkRec::Inode);
                        }
                        touched.push(ino);
                    }
                }
                Verdict::Delete(rest) => {
                    let put_id = PutId::random();
                    let intent = IntentRec {
                        key: key.clone(),
                        op: IntentOp::Delete,
                        ino: rest.ino,
                        generation: rest.generation,
                        attr_gen: rest.attr_gen,
                        expected: Some(rest.version),
                        not_after,
                        upload: None,
                        moves_base: false,
                        replaces: None,
                    };
                    txn.put(keys::intent(put_id), &intent);
                    deletes.push((put_id, intent));
                }
            }
        }
        txn.commit(Logged::Op { unique: 0 }, || {
            for (_, inode, content) in &moved {
                inode.live().content = content.clone();
            }
            for (put_id, intent) in &deletes {
                self.hot.announce(&intent.key, intent.ino, *put_id);
            }
        })
        .await?;
        drop(moved);
        self.volume.wants_settling(touched);
        Ok(Announced { deletes, waiting })
    }

    async fn judge(
        &self,
        txn: &crate::meta::Txn<'_>,
        key: &ObjectKey,
    ) -> Result<Verdict, SettleError> {
        if self.hot.is_hot(key) || !self.hurried() && self.hot.is_spared(key, boottime()) {
            return Ok(Verdict::Wait);
        }
        let Some(rest): Option<RestRec> = txn.get(&keys::rest(key)).await? else {
            return Ok(Verdict::Drop(None));
        };
        if let Some(ino) = self.volume.lookup_key(key).await? {
            return Ok(match rest.ino == ino {
                true => Verdict::Drop(Some(ino)),
                false => Verdict::Keep(ino),
            });
        }
        let content: Option<ContentRec> = txn.get(&keys::content(rest.ino)).await?;
        let needed = |content: &ContentRec| {
            content.base.as_ref().is_some_and(|b| !b.parked && b.key == *key)
        };
        let Some(content) = content.filter(needed) else { return Ok(Verdict::Delete(rest)) };
        Ok(match other_copy(txn, rest.ino, &content, key).await? {
            Some(moved) if content.publishing.is_none() => Verdict::Move(rest.ino, moved),
            // Its publish elsewhere, or its last close, frees the key.
            _ => Verdict::Wait,
        })
    }

    /// Whether the store cannot compare before it deletes.
    fn compares_itself(&self) -> bool {
        !self.volume.capabilities.has(Verb::DeleteConditional)
            && !Mutant::DeleteUnconditional.lives()
    }

    pub(super) async fn send_delete(
        &self,
        (put_id, intent): (PutId, &IntentRec),
        announced: StoreTime,
        leaving: &Leaving,
        seen: &Seen,
    ) -> Outcome {
        let volume = &self.volume;
        let time = self.in_time(announced).await.filter(|_| self.may_send());
        let Some((not_after, until)) = time else { return Outcome::Not };
        let Some(expected) = &intent.expected else { return Outcome::Not };
        if self.compares_itself() {
            // Look first. A foreign PUT in between is the documented risk.
            let there = match seen.fresh(&intent.key) {
                Some(version) => version.clone(),
                None => match volume.store.head(&intent.key, SEND_TIMEOUT).await {
                    Ok(None) => return Outcome::Applied(absent()),
                    Ok(Some(info)) => info.version,
                    Err(_) => return Outcome::Not,
                },
            };
            if !there.same(expected) {
                return Outcome::Refused;
            }
        }
        let careless = Mutant::DeleteUnconditional.lives();
        let conditional = volume.capabilities.has(Verb::DeleteConditional) && !careless;
        let condition = if conditional { Condition::Is(expected.clone()) } else { Condition::None };
        let send = Send { condition, not_after: Some(not_after), timeout: SEND_TIMEOUT };
        leaving.add(put_id);
        let request = volume.store.delete(&intent.key, send);
        let outcome = deleting(self.on_its_way(until, leaving, request)).await;
        match outcome {
            Some(outcome) => self.deleted(intent, outcome).await,
            None => Outcome::Open,
        }
    }
}
