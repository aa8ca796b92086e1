//! One round of publishing: announce and flush (`launch`), then send and resolve (`fly`).

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::stream::{self, Stream, StreamExt};
use parking_lot::Mutex;

use super::attributes::is_put;
use super::body::{Body, unchanged};
use super::copies::Tagged;
use super::dress::Dress;
use super::hot::NOT_AFTER;
use super::item::Item;
use super::lanes::Answers;
use super::outcome::Outcome;
use super::pace::Pace;
use super::plan::TIMES_TOOK;
use super::{FLUSH_TIMEOUT, LONGEST_PAUSE, Manner, SettleError, Settler, chunk_size};
use crate::clock::{Deadline, boottime};
use crate::fault::{Mutant, at, points};
use crate::meta::records::{ContentRec, InodeRec, IntentRec, Publishing, RestRec};
use crate::meta::{Logged, keys};
use crate::store::{Condition, PutOutcome, Send, StoreError, StoreErrorKind, Verb};
use crate::types::{FileKind, Ino, ObjectKey, PutId, StoreTime, Version};

/// A request that cannot leave this long before its expiry does not leave.
const MARGIN_MS: i64 = 2_000;
/// How long one request may take.
pub(super) const SEND_TIMEOUT: Duration = Duration::from_secs(15);
/// Requests of a page of deletions that are on their way side by side.
pub(super) const PARALLEL: usize = 32;
/// How long a larger body takes depends on the uplink.
const SMALL: usize = 64 << 10;
/// Between two looks whether this host still may publish.
const PERMIT_PACE: Duration = Duration::from_secs(1);

/// Which requests of a round may have left.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    ids: Mutex<HashSet<PutId>>,
    /// Whether one was cut off on its way.
    cut: AtomicBool,
    answers: Mutex<Answers>,
}

impl Leaving {
    /// To be called before anything is sent.
    pub fn add(&self, put_id: PutId) {
        self.ids.lock().insert(put_id);
    }

    fn has(&self, put_id: PutId) -> bool {
        self.ids.lock().contains(&put_id)
    }

    /// `small`: that it was soon applied tells how fast the store is.
    fn answered(&self, outcome: &PutOutcome, took: Duration, small: bool) {
        let mut answers = self.answers.lock();
        answers.answered += 1;
        match outcome {
            PutOutcome::Won(_) if small => answers.took.push(took),
            PutOutcome::Failed(error) | PutOutcome::Ambiguous(error)
                if error.kind == StoreErrorKind::Busy =>
            {
                answers.busy += 1;
            }
            _ => {}
        }
    }

    /// How the store answered all of them.
    pub fn answers(&self) -> Answers {
        std::mem::take(&mut *self.answers.lock())
    }
}

/// Requests of one round whose announcement is durable.
pub(super) struct Flight {
    items: Vec<Item>,
    intents: HashMap<PutId, IntentRec>,
    /// The latest expiry that was announced.
    not_after: StoreTime,
    manner: Manner,
}

/// An announced request, what became of it, and how long it took.
pub(super) type Sent = (PutId, IntentRec, Outcome, Duration);

impl Settler {
    /// Announces the planned items, and returns when that is durable. `None`: nothing of it is to be sent. What was
    /// announced and fails here ends resolved or open in the engine.
    pub(super) async fn launch(
        &self,
        mut items: Vec<Item>,
        manner: Manner,
    ) -> Result<Option<Flight>, SettleError> {
        if items.is_empty() {
            return Ok(None);
        }
        if !self.permit.may_publish() {
            self.give_up(items).await;
            return Err(SettleError::NoAuthority);
        }
        let not_after = match self.expiry().await {
            Ok(not_after) => not_after,
            Err(error) => {
                self.give_up(items).await;
                return Err(error);
            }
        };
        if let Err(error) = self.announce(&mut items, not_after).await {
            self.give_up(items).await;
            return Err(error);
        }
        if items.is_empty() {
            return Ok(None);
        }
        let intents: HashMap<_, _> =
            items.iter().map(|item| (item.put_id, item.intent.clone())).collect();
        let durable = self.announced_in_time(not_after).await;
        if !matches!(durable, Ok(true)) {
            // They may be durable or not; none was sent, and this process knows it.
            let unsent = intents.into_iter().map(|(id, intent)| (id, intent, Outcome::Not));
            let resolved = self.resolve(unsent.collect()).await;
            self.give_up(items).await;
            return resolved.and(durable.map(|_| None));
        }
        Ok(Some(Flight { items, intents, not_after, manner }))
    }

    /// Sends what was announced. Whatever happens, every request ends resolved or open in the engine.
    pub(super) async fn fly(&self, flight: Flight) -> Result<(), SettleError> {
        let Flight { items, intents, not_after, manner } = flight;
        let sizes: HashMap<PutId, u64> =
            items.iter().map(|item| (item.put_id, item.bytes_held())).collect();
        let leaving = &Leaving::default();
        let began = boottime();
        // Each with the time of its own request: one that hangs says nothing about the others.
        let sends = stream::iter(items).map(|item| async move {
            let began = boottime();
            let outcome = self.send(&item, not_after, leaving).await;
            let took = match outcome {
                Outcome::Applied(_) => item.prepared + (boottime() - began),
                // As long as it takes to send it again, if that is much.
                Outcome::Failed => item.prepared.max(LONGEST_PAUSE / TIMES_TOOK),
                _ => Duration::ZERO,
            };
            let put_id = item.put_id;
            match outcome {
                Outcome::Not => self.keep(item).await,
                Outcome::Failed | Outcome::Refused => {
                    self.drop_body(&item.intent.key, &item.body).await;
                }
                Outcome::Applied(_) | Outcome::Open => {}
            }
            (put_id, outcome, took)
        });
        // Whoever gives the volume up waits for this round.
        let beside = manner.beside && !self.hurried();
        let width = self.lanes.width(beside);
        let sent = self.outcomes(intents, leaving, sends.buffer_unordered(width)).await;
        let now = boottime();
        let arrived = sent.iter().filter(|(.., outcome, _)| matches!(outcome, Outcome::Applied(_)));
        let arrived = arrived.filter_map(|(id, ..)| sizes.get(id)).sum();
        self.reach.learn(arrived, now - began, leaving.cut.load(Ordering::Relaxed));
        self.lanes.learn(leaving.answers(), beside, now);
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

    /// Makes what was announced, with this latest expiry, durable, as long as something goes up; false when this
    /// process ends before that.
    pub(super) async fn announced_in_time(&self, expiry: StoreTime) -> Result<bool, SettleError> {
        if Mutant::UnannouncedSend.lives() {
            self.learn_lead(expiry).await;
            return Ok(true);
        }
        let flush = async {
            match self.programs_wait() {
                true => self.volume.meta.flush_beside_patiently(FLUSH_TIMEOUT).await,
                false => self.volume.meta.flush_patiently(FLUSH_TIMEOUT).await,
            }
        };
        let durable = tokio::select! {
            flushed = flush => flushed.map(|_receipt| true),
            () = self.at_its_end.cancelled() => Ok(false),
        };
        self.learn_lead(expiry).await;
        Ok(durable?)
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

    /// The latest expiry of requests announced now, by the store's clock: they are sent when that is durable.
    pub(super) async fn expiry(&self) -> Result<StoreTime, SettleError> {
        let now = self.volume.store.now(SEND_TIMEOUT).await?;
        Ok(now.plus((NOT_AFTER + self.reach.lead()).as_millis() as i64))
    }

    /// How long it took until what expires at `announced` was durable, by the clock that judges its requests.
    async fn learn_lead(&self, announced: StoreTime) {
        let now = tokio::select! {
            now = self.volume.store.now(SEND_TIMEOUT) => now,
            () = self.at_its_end.cancelled() => return,
        };
        if let Ok(now) = now {
            let began = announced.plus(-((NOT_AFTER + self.reach.lead()).as_millis() as i64));
            let took = now.0.saturating_sub(began.0).max(0).unsigned_abs();
            self.reach.learn_lead(Duration::from_millis(took));
        }
    }

    /// They come again; what was uploaded for them may still do then.
    pub(super) async fn give_up(&self, items: Vec<Item>) {
        for item in items {
            self.schedule.by(item.inode.ino, boottime() + self.volume.tuned().settle_after);
            self.keep(item).await;
        }
    }

    /// Records the intents of those items that are still right, some in each batch. Those stay; after an error all do,
    /// and nothing of it is announced.
    async fn announce(
        &self,
        items: &mut Vec<Item>,
        not_after: StoreTime,
    ) -> Result<(), SettleError> {
        let mut left = std::mem::take(items);
        while !left.is_empty() && !self.at_its_end.is_cancelled() {
            let mut some = left.drain(..left.len().min(chunk_size())).collect();
            let began = boottime();
            let announced = self.announce_some(&mut some, not_after).await;
            if announced.is_err() {
                let unsent =
                    items.iter().map(|item| (item.put_id, item.intent.clone(), Outcome::Not));
                let resolved = self.resolve(unsent.collect()).await;
                items.append(&mut some);
                items.append(&mut left);
                return announced.and(resolved);
            }
            items.append(&mut some);
            self.leaves_room(boottime() - began).await;
        }
        self.give_up(left).await;
        Ok(())
    }

    /// One batch of [`announce`](Self::announce).
    async fn announce_some(
        &self,
        items: &mut Vec<Item>,
        not_after: StoreTime,
    ) -> Result<(), SettleError> {
        let mut txn = self.volume.meta.begin().await?;
        let mut stale = HashSet::new();
        for item in items.iter_mut() {
            item.intent.not_after = not_after;
            let ino = item.intent.ino;
            let attr: Option<InodeRec> = txn.get(&keys::inode(ino)).await?;
            let content: ContentRec = txn.get(&keys::content(ino)).await?.unwrap_or_default();
            let rest: Option<RestRec> = txn.get(&keys::rest(&item.intent.key)).await?;
            let is_file = attr.as_ref().is_some_and(|attr| attr.kind == FileKind::File);
            if Mutant::BodyUnchecked.lives() {
                item.intent.generation = content.generation;
            }
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
                stale.insert(item.put_id);
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
        }
        let stale: Vec<Item> = items.extract_if(.., |item| stale.contains(&item.put_id)).collect();
        at(points::ANNOUNCE_BEFORE);
        let committed = txn.commit(Logged::Op { unique: 0 }, || {
            for item in &*items {
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
        });
        let committed = committed.await;
        at(points::ANNOUNCE_AFTER);
        self.give_up(stale).await;
        committed?;
        Ok(())
    }

    /// What is sent now expires then, and must be over by that deadline, whatever became of it; `None`: there is no
    /// time left to send it. `announced`: the latest expiry that others know of.
    pub(super) async fn in_time(&self, announced: StoreTime) -> Option<(StoreTime, Deadline)> {
        let now = tokio::select! {
            now = self.volume.store.now(SEND_TIMEOUT) => now.ok()?,
            () = self.at_its_end.cancelled() => return None,
        };
        let not_after = announced.min(now.plus(NOT_AFTER.as_millis() as i64));
        let left = not_after.0.saturating_sub(now.0);
        // A store looks at the expiry when a request begins, and others count from then on: half of what they
        // wait is for the request's end, the other half for what is on its way after that.
        let margin = self.hot_time().saturating_sub(NOT_AFTER);
        let until = || Duration::from_millis(left.unsigned_abs()) + margin / 2;
        (left > MARGIN_MS).then(|| (not_after, Deadline::after(until())))
    }

    /// What becomes of a request on its way. `None`: it was cut off, because it was not over in time, or because
    /// another host may have the volume by now.
    pub(super) async fn on_its_way<T>(
        &self,
        until: Deadline,
        leaving: &Leaving,
        request: impl Future<Output = T>,
    ) -> Option<T> {
        let lapses = async {
            while !until.passed() && self.permit.may_publish() {
                tokio::time::sleep(until.left().min(PERMIT_PACE)).await;
            }
        };
        tokio::select! {
            biased;
            outcome = request => Some(outcome),
            () = lapses => {
                leaving.cut.store(true, Ordering::Relaxed);
                None
            }
        }
    }

    async fn send(&self, item: &Item, announced: StoreTime, leaving: &Leaving) -> Outcome {
        let volume = &self.volume;
        let time = self.in_time(announced).await.filter(|_| self.may_send());
        let Some((not_after, until)) = time else {
            self.note_interruption(item.intent.ino, "it was not sent in time");
            return Outcome::Not;
        };
        if let Body::Copy { .. } = item.body
            && !self.copies.are_made(Tagged::of(&item.dress))
        {
            self.note_interruption(item.intent.ino, "no copies are made");
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
        let request = match &item.body {
            Body::Bytes(bytes) => {
                volume.store.put(key, bytes.clone(), attributes, properties, send)
            }
            Body::Upload { id, parts, size } => {
                volume.store.complete_upload(key, id, parts, *size, send)
            }
            Body::Copy { from, expect } => {
                volume.store.copy(from, expect, key, attributes, properties, send)
            }
        };
        let began = boottime();
        let outcome = self.on_its_way(until, leaving, request).await;
        if let Some(outcome) = &outcome {
            let small = matches!(&item.body, Body::Bytes(bytes) if bytes.len() <= SMALL);
            leaving.answered(outcome, boottime().saturating_sub(began), small);
        }
        at(points::SEND_AFTER);
        let Some(outcome) = outcome else {
            tracing::warn!(%key, "a publish did not arrive in time and was cut off");
            return Outcome::Open;
        };
        match outcome {
            PutOutcome::Won(version) => {
                if let Body::Copy { .. } = item.body {
                    self.copies.made(item.intent.ino, Tagged::of(&item.dress));
                }
                Outcome::Applied(version)
            }
            PutOutcome::Lost => Box::pin(self.refused(item)).await,
            PutOutcome::Failed(error) => self.failed(item, error),
            PutOutcome::Ambiguous(error) => {
                volume.note_error(&error);
                if let Body::Copy { .. } = item.body {
                    let (ino, tags) = (item.intent.ino, Tagged::of(&item.dress));
                    if !self.copies.failed(ino, tags, &error) {
                        self.copies.doubts(ino, tags);
                    }
                } else if error.kind == StoreErrorKind::Timeout {
                    leaving.cut.store(true, Ordering::Relaxed);
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
            Ok(_) => {
                if let Body::Copy { from, expect } = &item.body {
                    self.copy_was_refused(item, from, expect).await;
                }
                Outcome::Refused
            }
            Err(error) => {
                self.volume.note_error(&error);
                tracing::warn!(%key, %error, "a publish was refused, and the key cannot be looked at");
                Outcome::Open
            }
        }
    }

    /// One of the two conditions of a copy did not hold: which one, only a look at the source tells.
    async fn copy_was_refused(&self, item: &Item, from: &ObjectKey, expect: &Version) {
        let (ino, to) = (item.intent.ino, &item.intent.key);
        match self.volume.store.head(from, SEND_TIMEOUT).await {
            Ok(Some(there)) if there.version.same_bytes(expect) => return,
            Ok(_) => tracing::info!(%from, %to, "an object changed before the store copied it"),
            Err(error) => tracing::debug!(%from, %error, "the object to copy cannot be looked at"),
        }
        if Tagged::of(&item.dress) == Tagged::Known {
            // What it was to take may be in the cache, if it is no more in the bucket. Of tags that nobody can read, the
            // look before the next publish says whether they are lost.
            self.copies.spare(ino, Tagged::Known, None);
        }
        self.note_interruption(ino, "the object to copy changed");
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
            && self.copies.failed(item.intent.ino, Tagged::of(&item.dress), &error)
        {
            tracing::debug!(%key, %error, "the store does not copy it; it is sent from here");
            self.note_interruption(item.intent.ino, "no copies are made");
            return Outcome::Not;
        }
        if let Body::Upload { .. } = item.body
            && error.kind == StoreErrorKind::NotFound
        {
            self.note_interruption(item.intent.ino, "its upload is gone");
            return Outcome::Failed;
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
