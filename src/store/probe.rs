//! What a store really honours, verb by verb. Documentation and version numbers are not believed:
//! servers overlook conditions without a word.

mod groups;

use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

pub(super) use groups::find_groups;

use super::{
    Attributes, Backend, Capabilities, Condition, Groups, Knowledge, Part, PartSource, Properties,
    PutOutcome, Send, StoreError, StoreErrorKind, Verb,
};
use crate::types::{KeyPrefix, ObjectKey, StoreTime, Version};

/// For each request of the probe.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Parallel creates; exactly one may win.
const RACERS: usize = 8;
/// What makes a store fit for a volume. That these are missing has to be sure.
const ESSENTIAL: [Verb; 3] = [Verb::CreateIfAbsent, Verb::PutIfMatch, Verb::ReadAfterWrite];
/// Before a store that did not answer clearly is tried again.
const PAUSES: [Duration; 2] = [Duration::from_millis(200), Duration::from_millis(800)];

/// Below the state of a volume: keys with which it is tried what a store does.
pub fn scratch_of(state: &KeyPrefix) -> KeyPrefix {
    state.join("probe/")
}

/// What a probe found.
pub(super) struct Probed {
    pub capabilities: Capabilities,
    /// A verb is missing only because the store was not well: to be tried again before long.
    pub in_doubt: bool,
}

/// Tries every verb on keys of its own under `scratch` and removes them again.
pub(super) async fn probe(
    store: &dyn Backend,
    known: &Knowledge,
    scratch: &KeyPrefix,
) -> Result<Probed, StoreError> {
    let mut pauses = PAUSES.into_iter();
    loop {
        let run = Probe::new(store, known, scratch);
        let found = run.verbs().await;
        run.clean(&[&KEYS, &groups::KEYS]).await;
        let (capabilities, doubt) = (found?, run.doubt.into_inner());
        let Some(error) = doubt else { return Ok(Probed { capabilities, in_doubt: false }) };
        match pauses.next() {
            Some(pause) => tokio::time::sleep(pause).await,
            None if ESSENTIAL.iter().all(|verb| capabilities.has(*verb)) => {
                return Ok(Probed { capabilities, in_doubt: true });
            }
            // Whoever believed that would not use the store at all, or would use it as it never was.
            None => return Err(error),
        }
    }
}

struct Probe<'a> {
    store: &'a dyn Backend,
    /// How ETags are spelled.
    known: &'a Knowledge,
    keys: KeyPrefix,
    /// What a *no* may be due to.
    doubt: Mutex<Option<StoreError>>,
}

/// Every key that the probe may write, but for groups.
const KEYS: [&str; 11] = [
    "create", "race", "match", "source", "copy", "delete", "upload", "expiry", "part", "composed",
    "sum",
];

impl<'a> Probe<'a> {
    fn new(store: &'a dyn Backend, known: &'a Knowledge, scratch: &KeyPrefix) -> Self {
        let keys = scratch.join(&format!("probe-{}", uuid::Uuid::new_v4()));
        Probe { store, known, keys, doubt: Mutex::default() }
    }
}

impl Probe<'_> {
    async fn verbs(&self) -> Result<Capabilities, StoreError> {
        let mut caps = Capabilities::default();
        let mut note = |verb, yes| {
            if yes {
                caps.0.insert(verb);
            }
        };
        // The keys are different ones, so that only the order within a verb matters; but what names
        // an ETag waits until it is known how. None is broken off: what it sent could arrive late.
        let (create, race, matched) = futures::join!(self.create(), self.race(), self.matching());
        note(Verb::CreateIfAbsent, create? && race?);
        let (read, bare) = matched?;
        note(Verb::ReadAfterWrite, read);
        note(Verb::PutIfMatch, bare.is_some());
        note(Verb::UnquotedEtag, bare == Some(true));
        let (copied, delete, complete, expiry, groups, part, sum) = futures::join!(
            self.copy(),
            self.delete(),
            self.complete(),
            self.expiry(),
            self.groups(),
            self.part_copy(),
            self.checksum()
        );
        let (copy, conditional) = copied?;
        note(Verb::Copy, copy);
        note(Verb::CopyConditional, conditional);
        note(Verb::DeleteConditional, delete?);
        note(Verb::CompleteConditional, complete?);
        note(Verb::Expiry, expiry?);
        // A store that fails over it can be used without.
        let groups = groups.unwrap_or_else(|error| {
            self.weigh(&error);
            Groups::No
        });
        note(Verb::DeleteMany, groups != Groups::No);
        note(Verb::DeleteManyConditional, groups == Groups::Conditional);
        note(Verb::PartCopy, part?);
        note(Verb::Checksum, sum?);
        Ok(caps)
    }

    fn key(&self, name: &str) -> ObjectKey {
        self.keys.key(name)
    }

    async fn put(&self, key: &ObjectKey, body: &'static str, condition: Condition) -> PutOutcome {
        let send = Send { condition, ..Send::plain(TIMEOUT) };
        self.store
            .put(
                key,
                Bytes::from_static(body.as_bytes()),
                &Attributes::new(),
                &Properties::default(),
                send,
            )
            .await
    }

    /// Writes without a condition; the probe cannot go on without.
    async fn write(&self, key: &ObjectKey, body: &'static str) -> Result<Version, StoreError> {
        match self.put(key, body, Condition::None).await {
            PutOutcome::Won(version) => Ok(version),
            PutOutcome::Failed(e) | PutOutcome::Ambiguous(e) => Err(e),
            PutOutcome::Lost => Err(StoreError::new(
                StoreErrorKind::Protocol,
                format!("the store refused an unconditional write of {:?}", key.as_str()),
            )),
        }
    }

    /// What lies at the key now; `None` when nothing does.
    async fn body(&self, key: &ObjectKey) -> Result<Option<Bytes>, StoreError> {
        match self.store.get(key, None, None, TIMEOUT).await {
            Ok(got) => Ok(Some(got.data)),
            Err(e) if e.kind == StoreErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Create-if-absent: the first wins, the second is refused, and the first one's bytes stay.
    async fn create(&self) -> Result<bool, StoreError> {
        let key = self.key("create");
        match self.put(&key, "one", Condition::Absent).await {
            PutOutcome::Won(_) => {}
            outcome => return unsupported(outcome),
        }
        let refused = self.is_lost(&self.put(&key, "two", Condition::Absent).await);
        Ok(refused && self.body(&key).await?.as_deref() == Some(b"one"))
    }

    /// In parallel exactly one may win, and its bytes stay. A 409 or 5xx is no win.
    async fn race(&self) -> Result<bool, StoreError> {
        const BODIES: [&str; RACERS] = ["r0", "r1", "r2", "r3", "r4", "r5", "r6", "r7"];
        let key = self.key("race");
        let racers = BODIES.iter().map(|body| self.put(&key, body, Condition::Absent));
        let outcomes = futures::future::join_all(racers).await;
        let winners: Vec<_> = outcomes
            .iter()
            .zip(BODIES)
            .filter(|(outcome, _)| matches!(outcome, PutOutcome::Won(_)))
            .map(|(_, body)| body)
            .collect();
        if winners.is_empty() {
            outcomes.iter().for_each(|outcome| self.consider(outcome));
        }
        let there = self.body(&key).await?;
        Ok(match (winners.as_slice(), there) {
            ([winner], Some(there)) => there == winner.as_bytes(),
            // Every answer was ambiguous, yet one was applied: sound.
            ([], Some(_)) => true,
            _ => false,
        })
    }

    /// The two that share a key.
    async fn matching(&self) -> Result<(bool, Option<bool>), StoreError> {
        Ok((self.read_after_write().await?, self.put_if_match().await?))
    }

    async fn read_after_write(&self) -> Result<bool, StoreError> {
        let key = self.key("match");
        for body in ["first", "second"] {
            self.write(&key, body).await?;
            if self.body(&key).await?.as_deref() != Some(body.as_bytes()) {
                return Ok(false);
            }
            let request = super::ListRequest {
                prefix: key.as_str().to_owned(),
                delimiter: false,
                token: None,
                max_keys: 10,
            };
            let page = self.store.list(request, TIMEOUT).await?;
            let size = body.len() as u64;
            if !page.entries.iter().any(|e| e.key == key && e.version.size == size) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// If-Match with the right and with a stale version, in both spellings of the ETag. Says
    /// whether the one that works is the bare one; `None` when neither does.
    async fn put_if_match(&self) -> Result<Option<bool>, StoreError> {
        let key = self.key("match");
        // What is known is tried first: others may be using it now.
        let usual = self.known.is_bare();
        let trying = self.known.trying();
        for bare in [usual, !usual] {
            trying.spelling(bare);
            let old = self.write(&key, "a").await?;
            let new = self.write(&key, "bb").await?;
            let stale = self.put(&key, "ccc", Condition::Is(old)).await;
            if !self.is_lost(&stale) {
                continue;
            }
            let right = self.put(&key, "dddd", Condition::Is(new)).await;
            if self.is_won(&right) && self.body(&key).await?.as_deref() == Some(b"dddd") {
                return Ok(Some(bare));
            }
        }
        trying.spelling(false);
        Ok(None)
    }

    /// Copies at all, and copies under a condition about the target. A copy that takes any source
    /// for the expected one does not count.
    async fn copy(&self) -> Result<(bool, bool), StoreError> {
        let (from, to) = (self.key("source"), self.key("copy"));
        let old_source = self.write(&from, "old").await?;
        let source = self.write(&from, "content").await?;
        let plain = Properties::default();
        let mut attributes = Attributes::new();
        attributes.insert("s3volprobe".to_owned(), "1".to_owned());
        let stale = Send::plain(TIMEOUT);
        let stale = self.store.copy(&from, &old_source, &to, &attributes, &plain, stale).await;
        if !self.is_lost(&stale) || self.body(&to).await?.is_some() {
            return Ok((false, false));
        }
        let copy = |condition| {
            let send = Send { condition, ..Send::plain(TIMEOUT) };
            self.store.copy(&from, &source, &to, &attributes, &plain, send)
        };
        if !self.is_won(&copy(Condition::None).await) {
            return Ok((false, false));
        }
        let info = self.store.head(&to, TIMEOUT).await?;
        let replaced = info.is_some_and(|i| i.attributes == attributes);
        if !replaced || self.body(&to).await?.as_deref() != Some(b"content") {
            return Ok((false, false));
        }
        let stale = self.write(&to, "x").await?;
        let current = self.write(&to, "yy").await?;
        let conditional = self.is_lost(&copy(Condition::Absent).await)
            && self.is_lost(&copy(Condition::Is(stale)).await)
            && self.body(&to).await?.as_deref() == Some(b"yy")
            && self.is_won(&copy(Condition::Is(current)).await);
        Ok((true, conditional))
    }

    async fn delete(&self) -> Result<bool, StoreError> {
        let key = self.key("delete");
        let old = self.write(&key, "a").await?;
        let new = self.write(&key, "bb").await?;
        let delete = |version| {
            let send = Send { condition: Condition::Is(version), ..Send::plain(TIMEOUT) };
            self.store.delete(&key, send)
        };
        Ok(self.is_lost(&delete(old).await)
            && self.body(&key).await?.is_some()
            && self.is_won(&delete(new).await)
            && self.body(&key).await?.is_none())
    }

    async fn complete(&self) -> Result<bool, StoreError> {
        let key = self.key("upload");
        let old = self.write(&key, "a").await?;
        self.write(&key, "bb").await?;
        for condition in [Condition::Absent, Condition::Is(old)] {
            let (none, plain) = (Attributes::new(), Properties::default());
            let upload = self.store.create_upload(&key, &none, &plain, TIMEOUT).await;
            let Some(upload) = self.done(upload) else { return Ok(false) };
            let body = Bytes::from_static(b"part");
            let part = self
                .store
                .upload_part(&key, &upload, Part { number: 1, offset: 0 }, body, TIMEOUT)
                .await;
            let lost = match self.done(part) {
                Some(tag) => {
                    let send = Send { condition, ..Send::plain(TIMEOUT) };
                    let done = self.store.complete_upload(&key, &upload, &[tag], 4, send).await;
                    self.is_lost(&done)
                }
                None => false,
            };
            let aborted = self.store.abort_upload(&key, &upload, TIMEOUT).await;
            if let Err(error) = aborted {
                tracing::debug!(%error, "an upload of the probe could not be aborted");
            }
            if !lost || self.body(&key).await?.as_deref() != Some(b"bb") {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// An object is made from another one: not from one whose version is another by now. Ranges are not tried, because S3
    /// takes none of what is as small as this.
    async fn part_copy(&self) -> Result<bool, StoreError> {
        let (from, to) = (self.key("part"), self.key("composed"));
        let old = self.write(&from, "old").await?;
        let source = self.write(&from, "content").await?;
        let (none, plain) = (Attributes::new(), Properties::default());
        let upload = self.store.create_upload(&to, &none, &plain, TIMEOUT).await;
        let Some(upload) = self.done(upload) else { return Ok(false) };
        let copy = async |expect| {
            let source = PartSource { key: from.clone(), expect, range: None };
            let first = Part { number: 1, offset: 0 };
            self.store.copy_part(&to, &upload, first, &source, TIMEOUT).await
        };
        let stale = copy(old).await;
        let refused = match stale {
            Err(error) if error.kind == StoreErrorKind::Changed => true,
            Err(error) => {
                self.weigh(&error);
                false
            }
            Ok(_) => false,
        };
        let tag = if refused { self.done(copy(source).await) } else { None };
        let made = match tag {
            Some(tag) => {
                let send = Send::plain(TIMEOUT);
                let done = self.store.complete_upload(&to, &upload, &[tag], 7, send).await;
                self.is_won(&done)
            }
            None => false,
        };
        if !made && let Err(error) = self.store.abort_upload(&to, &upload, TIMEOUT).await {
            tracing::debug!(%error, "an upload of the probe could not be aborted");
        }
        Ok(made && self.body(&to).await?.as_deref() == Some(b"content"))
    }

    /// A body that is not what its checksum says is refused and not kept, and one that is comes with the store's word.
    async fn checksum(&self) -> Result<bool, StoreError> {
        let key = self.key("sum");
        let body = Bytes::from_static(b"content");
        let sum = crc32c::crc32c(&body);
        let send = || Send { condition: Condition::Absent, ..Send::plain(TIMEOUT) };
        let (wrong, _) = self.store.put_summed(&key, body.clone(), !sum, send()).await;
        self.consider(&wrong);
        let refused = matches!(&wrong, PutOutcome::Failed(error) if error.kind == StoreErrorKind::Unsupported);
        if !refused || self.body(&key).await?.is_some() {
            return Ok(false);
        }
        let (right, compared) = self.store.put_summed(&key, body.clone(), sum, send()).await;
        Ok(self.is_won(&right) && compared && self.body(&key).await? == Some(body))
    }

    /// A request that is already expired is refused and changes nothing, and one in time is taken: a store that
    /// refuses both says nothing about time. Late requests are waited for no longer where this is a yes, so an answer
    /// that may have another reason is none, and makes the finding one in doubt.
    async fn expiry(&self) -> Result<bool, StoreError> {
        let key = self.key("expiry");
        self.write(&key, "stays").await?;
        let refused = self.done(self.store.expired_delete(&key, TIMEOUT).await) == Some(true);
        Ok(refused
            && self.body(&key).await?.is_some()
            && self.is_won(&self.store.delete(&key, Send::plain(TIMEOUT)).await)
            && self.body(&key).await?.is_none())
    }

    /// Whether the store did it. That it was not well when it was asked is no answer.
    fn is_won(&self, outcome: &PutOutcome) -> bool {
        self.consider(outcome);
        matches!(outcome, PutOutcome::Won(_))
    }

    /// Whether the store refused it for its condition.
    fn is_lost(&self, outcome: &PutOutcome) -> bool {
        self.consider(outcome);
        matches!(outcome, PutOutcome::Lost)
    }

    fn consider(&self, outcome: &PutOutcome) {
        if let PutOutcome::Failed(error) | PutOutcome::Ambiguous(error) = outcome {
            self.weigh(error);
        }
    }

    fn done<T>(&self, result: Result<T, StoreError>) -> Option<T> {
        result.inspect_err(|error| self.weigh(error)).ok()
    }

    /// A *no* may be due to `error`, and not to what the store can do.
    fn weigh(&self, error: &StoreError) {
        if error.is_transient() {
            tracing::debug!(%error, "the store that is probed answers with a passing error");
            self.doubt.lock().get_or_insert_with(|| error.again());
        }
    }

    async fn clean(&self, names: &[&[&str]]) {
        let keys: Vec<ObjectKey> = names.concat().into_iter().map(|name| self.key(name)).collect();
        let clean = keys.into_iter().map(|key| async move {
            if let PutOutcome::Failed(error) | PutOutcome::Ambiguous(error) =
                self.store.delete(&key, Send::plain(TIMEOUT)).await
            {
                tracing::warn!(%key, %error, "a key of the probe is left behind");
            }
        });
        futures::future::join_all(clean).await;
    }
}

/// The first conditional create decides whether the store can be used at all: a refusal of the
/// header means "no", everything else ends the probe.
fn unsupported(outcome: PutOutcome) -> Result<bool, StoreError> {
    match outcome {
        PutOutcome::Failed(e) | PutOutcome::Ambiguous(e)
            if e.kind != StoreErrorKind::Unsupported =>
        {
            Err(e)
        }
        _ => Ok(false),
    }
}

/// A time that has passed on every store.
pub(super) const LONG_AGO: StoreTime = StoreTime(1);
