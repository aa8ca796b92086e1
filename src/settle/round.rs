//! One round of publishing: announce, flush, send, resolve.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::stream::{self, Stream, StreamExt};
use parking_lot::Mutex;

use super::SettleError;
use super::attributes::is_put;
use super::body::{Body, unchanged};
use super::dress::Dress;
use super::hot::NOT_AFTER;
use super::outcome::Outcome;
use super::pace::Pace;
use super::plan::Item;
use super::plan::TIMES_TOOK;
use super::settler::{FLUSH_TIMEOUT, LONGEST_PAUSE, Settler};
use crate::clock::boottime;
use crate::fault::{Mutant, at, points};
use crate::meta::records::{ContentRec, InodeRec, IntentRec, Publishing, RestRec};
use crate::meta::{Logged, keys};
use crate::store::{Condition, PutOutcome, Send, StoreError, Verb};
use crate::types::{FileKind, Ino, PutId, StoreTime};

/// A request that cannot leave this long before its expiry does not leave.
const MARGIN_MS: i64 = 2_000;
/// How long one request may take.
pub(super) const SEND_TIMEOUT: Duration = Duration::from_secs(15);
const PARALLEL: usize = 16;

/// Which requests of a round may have left.
#[derive(Debug, Default)]
pub(super) struct Leaving(Mutex<HashSet<PutId>>);

impl Leaving {
    /// To be called before anything is sent.
    pub fn add(&self, put_id: PutId) {
        self.0.lock().insert(put_id);
    }

    fn has(&self, put_id: PutId) -> bool {
        self.0.lock().contains(&put_id)
    }
}

/// An announced request, what became of it, and how long it took.
pub(super) type Sent = (PutId, IntentRec, Outcome, Duration);

impl Settler {
    /// Publishes the planned items. Whatever happens, every announced request ends resolved or open
    /// in the engine.
    pub(super) async fn publish(&self, items: Vec<Item>) -> Result<(), SettleError> {
        if !self.permit.may_publish() {
            self.give_up(items).await;
            return Err(SettleError::NoAuthority);
        }
        let not_after = self.expiry().await?;
        let announced = self.announce(items, not_after).await?;
        if announced.is_empty() {
            return Ok(());
        }
        let durable = self.announced_in_time().await;
        if !matches!(durable, Ok(true)) {
            // They may be durable or not; none was sent, and this process knows it.
            let unsent = announced.into_iter().map(|item| (item.put_id, item.intent, Outcome::Not));
            self.resolve(unsent.collect()).await?;
            return durable.map(drop);
        }
        let intents = announced.iter().map(|item| (item.put_id, item.intent.clone())).collect();
        let leaving = &Leaving::default();
        // Each with the time of its own request: one that hangs says nothing about the others.
        let sends = stream::iter(announced).map(|item| async move {
            let began = boottime();
            let outcome = self.send(&item, not_after, leaving).await;
            let took = match outcome {
                Outcome::Applied(_) => item.prepared + (boottime() - began),
                Outcome::Failed => LONGEST_PAUSE / TIMES_TOOK,
                _ => Duration::ZERO,
            };
            if matches!(outcome, Outcome::Not | Outcome::Failed | Outcome::Refused) {
                self.drop_body(&item.intent.key, &item.body).await;
            }
            (item.put_id, outcome, took)
        });
        let sent = self.outcomes(intents, leaving, sends.buffer_unordered(PARALLEL)).await;
        let now = boottime();
        {
            let mut pace = self.pace.lock();
            for (_, intent, outcome, took) in &sent {
                if matches!(outcome, Outcome::Not) {
                    continue;
                }
                pace.insert(intent.ino, Pace { at: now, took: *took });
            }
        }
        let results = sent.into_iter().map(|(id, intent, outcome, _)| (id, intent, outcome));
        self.resolve(results.collect()).await
    }

    /// Makes what was announced durable; false when this process ends before that.
    pub(super) async fn announced_in_time(&self) -> Result<bool, SettleError> {
        if Mutant::UnannouncedSend.lives() {
            return Ok(true);
        }
        tokio::select! {
            flushed = self.volume.meta.flush(FLUSH_TIMEOUT) => Ok(flushed.map(drop).map(|()| true)?),
            () = self.at_its_end.cancelled() => Ok(false),
        }
    }

    /// What became of each announced request, and how long it took. When this process has no more time,
    /// what is on its way stays open, and what has not begun to leave does not.
    pub(super) async fn outcomes(
        &self,
        mut intents: HashMap<PutId, IntentRec>,
        leaving: &Leaving,
        sends: impl Stream<Item = (PutId, Outcome, Duration)>,
    ) -> Vec<Sent> {
        let mut sent = Vec::with_capacity(intents.len());
        let answered = sends.take_until(self.out_of_time.cancelled()).for_each(|answer| {
            let (put_id, outcome, took) = answer;
            let intent = intents.remove(&put_id);
            sent.extend(intent.map(|intent| (put_id, intent, outcome, took)));
            std::future::ready(())
        });
        answered.await;
        for (put_id, intent) in intents {
            let outcome = if leaving.has(put_id) { Outcome::Open } else { Outcome::Not };
            sent.push((put_id, intent, outcome, Duration::ZERO));
        }
        sent
    }

    /// The expiry of requests announced now, by the store's clock.
    pub(super) async fn expiry(&self) -> Result<StoreTime, SettleError> {
        let now = self.volume.store.now(SEND_TIMEOUT).await?;
        Ok(now.plus(NOT_AFTER.as_millis() as i64))
    }

    pub(super) async fn give_up(&self, items: Vec<Item>) {
        for item in items {
            self.drop_body(&item.intent.key, &item.body).await;
            self.schedule.by(item.inode.ino, boottime() + self.volume.options.settle_after);
        }
    }

    /// Records the intents of those items that are still right, in one batch.
    async fn announce(
        &self,
        items: Vec<Item>,
        not_after: StoreTime,
    ) -> Result<Vec<Item>, SettleError> {
        let mut txn = self.volume.meta.begin().await?;
        let mut announced = Vec::new();
        let mut stale = Vec::new();
        for mut item in items {
            item.intent.not_after = not_after;
            let ino = item.intent.ino;
            let attr: Option<InodeRec> = txn.get(&keys::inode(ino)).await?;
            let content: ContentRec = txn.get(&keys::content(ino)).await?.unwrap_or_default();
            let rest: Option<RestRec> = txn.get(&keys::rest(&item.intent.key)).await?;
            let is_file = attr.as_ref().is_some_and(|attr| attr.kind == FileKind::File);
            let right = attr.as_ref().is_some_and(|a| a.attr_gen == item.intent.attr_gen)
                && (!is_file
                    || content.generation == item.intent.generation
                        && content.base == item.intent.replaces
                        && unchanged(&item.inode, &content, item.write_seq))
                && rest.map(|rest| rest.version) == item.intent.expected
                && self.volume.lookup_key(&item.intent.key).await? == Some(ino)
                && !self.hot.is_hot(&item.intent.key);
            if !right {
                self.note_interruption(ino, "it changed before it was announced");
                stale.push(item);
                continue;
            }
            if item.intent.moves_base {
                let publishing = Publishing {
                    put_id: item.put_id,
                    generation: content.generation,
                    limit: content.size,
                };
                let content = ContentRec { publishing: Some(publishing), ..content };
                txn.put(keys::content(ino), &content);
            }
            txn.put(keys::intent(item.put_id), &item.intent);
            announced.push(item);
        }
        at(points::ANNOUNCE_BEFORE);
        txn.commit(Logged::Op { unique: 0 }, || {
            for item in &announced {
                self.hot.announce(&item.intent.key, item.intent.ino, item.put_id);
                if item.intent.moves_base {
                    let mut live = item.inode.live();
                    live.content.publishing = Some(Publishing {
                        put_id: item.put_id,
                        generation: item.intent.generation,
                        limit: live.content.size,
                    });
                }
            }
        })
        .await?;
        at(points::ANNOUNCE_AFTER);
        self.give_up(stale).await;
        Ok(announced)
    }

    /// Whether there still is time to send what expires then.
    pub(super) async fn in_time(&self, not_after: StoreTime) -> bool {
        tokio::select! {
            now = self.volume.store.now(SEND_TIMEOUT) => {
                now.is_ok_and(|now| now.0 + MARGIN_MS < not_after.0)
            }
            () = self.at_its_end.cancelled() => false,
        }
    }

    async fn send(&self, item: &Item, not_after: StoreTime, leaving: &Leaving) -> Outcome {
        let volume = &self.volume;
        if !self.in_time(not_after).await || !self.may_send() {
            self.note_interruption(item.intent.ino, "it was not sent in time");
            return Outcome::Not;
        }
        let verb = match item.body {
            Body::Upload { .. } => Verb::CompleteConditional,
            Body::Copy { .. } => Verb::CopyConditional,
            Body::Bytes(_) if item.intent.expected.is_some() => Verb::PutIfMatch,
            Body::Bytes(_) => Verb::CreateIfAbsent,
        };
        let condition = match &item.intent.expected {
            _ if !volume.capabilities.has(verb) || Mutant::PutUnconditional.lives() => {
                Condition::None
            }
            Some(version) => Condition::Is(version.clone()),
            None => Condition::Absent,
        };
        let send = Send { condition, not_after: Some(not_after), timeout: SEND_TIMEOUT };
        let key = &item.intent.key;
        let Dress { attributes, properties } = &item.dress;
        at(points::SEND_BEFORE);
        leaving.add(item.put_id);
        let outcome = match &item.body {
            Body::Bytes(bytes) => {
                volume.store.put(key, bytes.clone(), attributes, properties, send).await
            }
            Body::Upload { id, parts, size } => {
                volume.store.complete_upload(key, id, parts, *size, send).await
            }
            Body::Copy { from, expect } => {
                volume.store.copy(from, expect, key, attributes, properties, send).await
            }
        };
        at(points::SEND_AFTER);
        match outcome {
            PutOutcome::Won(version) => Outcome::Applied(version),
            PutOutcome::Lost => self.refused(item).await,
            PutOutcome::Failed(error) => self.failed(item, error),
            PutOutcome::Ambiguous(error) => {
                volume.note_error(&error);
                if let Body::Copy { .. } = item.body {
                    self.tags.copy_failed(&error);
                }
                tracing::warn!(%key, %error, "a publish has no known outcome yet");
                Outcome::Open
            }
        }
    }

    /// A condition refused it, which may have been met by its own first arrival: proxies send a request again
    /// when they get no answer in time. Only the object tells.
    async fn refused(&self, item: &Item) -> Outcome {
        let key = &item.intent.key;
        match self.volume.store.head(key, SEND_TIMEOUT).await {
            Ok(Some(there)) if is_put(&there.attributes, key, self.volume.id, item.put_id) => {
                tracing::info!(%key, "a publish arrived twice");
                Outcome::Applied(there.version)
            }
            Ok(_) => Outcome::Refused,
            Err(error) => {
                self.volume.note_error(&error);
                tracing::warn!(%key, %error, "a publish was refused, and the key cannot be looked at");
                Outcome::Open
            }
        }
    }

    /// A publish came to nothing, and the same again may do.
    pub(super) fn note_interruption(&self, ino: Ino, why: &str) {
        tracing::debug!(%ino, why, "a publish was interrupted");
        self.interrupted.store(true, Ordering::SeqCst);
    }

    /// The store did not do it: others are in nobody's way, and it comes again when that may help.
    fn failed(&self, item: &Item, error: StoreError) -> Outcome {
        let key = &item.intent.key;
        if let Body::Copy { .. } = item.body
            && self.tags.copy_failed(&error)
        {
            tracing::info!(%key, %error, "the store does not copy it; it is sent from here");
            self.note_interruption(item.intent.ino, "no copies are made");
            return Outcome::Not;
        }
        if error.is_transient() {
            self.volume.note_error(&error);
            tracing::warn!(%key, %error, "a publish was not sent");
            return Outcome::Not;
        }
        self.cannot_settle(item.intent.ino, &error.into());
        Outcome::Failed
    }
}
