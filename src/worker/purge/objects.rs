//! The objects of a removed volume, by its records.

use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt};

use super::{EXPIRES_MS, NAMED, PAGE, PARALLEL, REQUEST, WorkerError, bucket_is_gone};
use crate::clock::Deadline;
use crate::fault::{at, points};
use crate::lease::Keeper;
use crate::meta::records::{IntentOp, IntentRec, RestRec, decode};
use crate::meta::{Batch, Engine, MetaError, Pages, keys};
use crate::settle::is_put;
use crate::store::{
    Condition, Doomed, FEW, PutOutcome, Send, StoreBackend, StoreError, StoreErrorKind, is_file_key,
};
use crate::types::{KeyPrefix, Lsn, ObjectKey, PutId, StoreTime, Version, VolumeId};

/// Keys that one request deletes.
const GROUP: usize = 250;

/// What became of one recorded key.
enum Fate {
    /// It lies there, and is to be deleted.
    Ours(Doomed),
    /// Nothing of ours lies there any more.
    Gone,
    Foreign,
    /// It lies there, and the store does not delete it.
    Refused(String),
    /// Nobody knows yet.
    Open(StoreError),
    /// A request may still arrive.
    Hot,
}

fn others_left() -> String {
    "many objects are deleted, others are still left".to_owned()
}

/// The objects of one volume, while this host holds it.
pub(super) struct Objects<'a> {
    pub(super) volume: VolumeId,
    pub(super) store: Arc<dyn StoreBackend>,
    pub(super) prefix: &'a KeyPrefix,
    pub(super) conditional: bool,
    /// Whether the store compares versions in groups.
    pub(super) groups: bool,
    /// How long an announced request may still arrive.
    pub(super) hot: Duration,
    pub(super) engine: &'a Engine,
    pub(super) keeper: &'a Keeper,
    pub(super) next: Lsn,
    pub(super) foreign: usize,
    /// Why an object of the volume cannot be deleted. All others are.
    pub(super) refused: Option<String>,
    /// The last record that was looked at, where the call before or this one had no more time.
    pub(super) after: Option<Bytes>,
}

impl Objects<'_> {
    /// Deletes what the records name; `Some` says why some are left.
    pub(super) async fn delete(
        &mut self,
        deadline: Deadline,
    ) -> Result<Option<String>, WorkerError> {
        let begin = self.after.take();
        for prefix in [keys::INTENT, keys::REST] {
            let mut range = keys::below(prefix, &[]);
            if let Some(begin) = begin.as_ref().filter(|_| prefix == keys::REST) {
                range.0 = Bound::Excluded(begin.to_vec());
            }
            let mut pages = Pages::new(range, PAGE);
            while let Some(page) = pages.next(self.engine).await? {
                let last = page.last().filter(|_| page.len() == PAGE).map(|(key, _)| key.clone());
                if let Some(why) = self.page(prefix, page).await? {
                    return Ok(Some(why));
                }
                if let Some(last) = last
                    && deadline.left().is_zero()
                {
                    // What the store does not let go would take the time of the next call, too.
                    let stays = prefix == keys::REST && self.refused.is_some();
                    self.after = stays.then_some(last);
                    return Ok(Some(self.refused.take().unwrap_or_else(others_left)));
                }
            }
        }
        Ok(self.refused.take().or_else(|| begin.map(|_| others_left())))
    }

    async fn page(
        &mut self,
        prefix: u8,
        page: Vec<(Bytes, Bytes)>,
    ) -> Result<Option<String>, WorkerError> {
        self.keeper.follow(self.engine.epoch(), Deadline::after(REQUEST)).await?;
        if self.keeper.authority().is_none() {
            return Ok(Some("the lease could not be renewed".to_owned()));
        }
        // What is looked at now is deleted soon, or not by this call: others may have the volume later.
        let not_after = self.store.now(REQUEST).await?.plus(EXPIRES_MS);
        let this = &*self;
        let fates: Vec<(Bytes, Result<Fate, WorkerError>)> = stream::iter(page)
            .map(|(key, value)| async move {
                let fate = match prefix {
                    keys::INTENT => this.intent(&key, &value).await,
                    _ => this.rest(&key, &value).await,
                };
                let fate = match fate {
                    Err(error) if bucket_is_gone(&error) => Ok(Fate::Gone),
                    fate => fate,
                };
                (key, fate)
            })
            .buffer_unordered(PARALLEL)
            .collect()
            .await;
        let fates = Box::pin(self.deleted_together(fates, not_after)).await;
        let mut batch = Batch::new();
        let mut refused = None;
        let mut why = None;
        let mut failure = None;
        for (key, fate) in fates {
            match fate {
                Ok(Fate::Gone) => batch.delete(key.to_vec()),
                Ok(Fate::Foreign) => {
                    if self.foreign < NAMED
                        && let Some(key) = keys::parse_object(&key)
                    {
                        tracing::info!(%key, "not made by the volume, or changed since: it stays");
                    }
                    self.foreign += 1;
                    batch.delete(key.to_vec());
                }
                Ok(Fate::Refused(why)) => drop(refused.get_or_insert(why)),
                Ok(Fate::Open(error)) => why = Some(format!("a deletion has no outcome: {error}")),
                // There is none by now.
                Ok(Fate::Ours(_)) => why = Some(others_left()),
                Ok(Fate::Hot) => why = Some("requests of its last host may still arrive".into()),
                Err(error) => failure = Some(error),
            }
        }
        self.refused = self.refused.take().or(refused);
        if !batch.is_empty() {
            at(points::PURGE_BATCH_BEFORE);
            self.engine.write(self.next, batch).await?;
            self.next = Lsn(self.next.0 + 1);
            // Also tells whether the volume is still ours.
            let _receipt = self.engine.flush(Deadline::after(REQUEST)).await?;
            at(points::PURGE_BATCH_AFTER);
        }
        match failure {
            Some(error) => Err(error),
            None => Ok(why),
        }
    }

    /// A request without an outcome may have left an object that no other record names.
    async fn intent(&self, key: &[u8], value: &[u8]) -> Result<Fate, WorkerError> {
        let intent: IntentRec = decode(value).map_err(MetaError::from)?;
        let Some(put_id) = keys::parse_id(key).map(PutId) else { return Ok(Fate::Gone) };
        if !is_file_key(&intent.key, self.prefix) {
            return Ok(Fate::Gone);
        }
        let now = self.store.now(REQUEST).await?;
        if now.0 < intent.not_after.plus(self.hot.as_millis() as i64).0 {
            return Ok(Fate::Hot);
        }
        if let Some(upload) = &intent.upload {
            self.store.abort_upload(&intent.key, upload, REQUEST).await?;
        }
        match intent.op {
            IntentOp::Put => self.object(&intent.key, put_id, None).await,
            // The record of what lay there is still there.
            IntentOp::Delete => Ok(Fate::Gone),
        }
    }

    async fn rest(&self, key: &[u8], value: &[u8]) -> Result<Fate, WorkerError> {
        let rest: RestRec = decode(value).map_err(MetaError::from)?;
        let (Some(key), Some(put_id)) = (keys::parse_object(key), rest.put_id) else {
            return Ok(Fate::Foreign);
        };
        self.object(&key, put_id, Some(&rest.version)).await
    }

    /// Deletes the object if it is the one that `put_id` made and, where it is known, has `version`.
    async fn object(
        &self,
        key: &ObjectKey,
        put_id: PutId,
        version: Option<&Version>,
    ) -> Result<Fate, WorkerError> {
        // A record says so that somebody edited.
        if !is_file_key(key, self.prefix) {
            return Ok(Fate::Foreign);
        }
        let info = match self.store.head(key, REQUEST).await {
            Ok(Some(info)) => info,
            Ok(None) => return Ok(Fate::Gone),
            Err(error) if error.is_transient() || error.kind == StoreErrorKind::NoBucket => {
                return Err(error.into());
            }
            Err(error) => {
                return Ok(Fate::Refused(format!("{key} cannot be looked at: {error}")));
            }
        };
        // ETags alone prove nothing: they are equal for equal content.
        let ours = is_put(&info.attributes, key, self.volume, put_id);
        if !ours || version.is_some_and(|version| !version.same(&info.version)) {
            return Ok(Fate::Foreign);
        }
        match self.groups {
            true => {
                let condition = Condition::Is(info.version);
                Ok(Fate::Ours(Doomed { key: key.clone(), condition }))
            }
            false => self.delete_one(key, info.version).await,
        }
    }

    /// Those of a page that are the volume's, deleted by few requests.
    async fn deleted_together(
        &self,
        mut fates: Vec<(Bytes, Result<Fate, WorkerError>)>,
        not_after: StoreTime,
    ) -> Vec<(Bytes, Result<Fate, WorkerError>)> {
        let is_ours =
            |(_, fate): &mut (Bytes, Result<Fate, WorkerError>)| matches!(fate, Ok(Fate::Ours(_)));
        let ours = fates.extract_if(.., is_ours).filter_map(|(row, fate)| match fate {
            Ok(Fate::Ours(doomed)) => Some((row, doomed)),
            _ => None,
        });
        let (rows, doomed): (Vec<Bytes>, Vec<Doomed>) = ours.unzip();
        for (rows, group) in rows.chunks(GROUP).zip(doomed.chunks(GROUP)) {
            let deleted = match group.len() < FEW {
                true => self.delete_each(group).await,
                false => self.delete_group(group, not_after).await,
            };
            fates.extend(rows.iter().cloned().zip(deleted));
        }
        fates
    }

    async fn delete_group(
        &self,
        group: &[Doomed],
        not_after: StoreTime,
    ) -> Vec<Result<Fate, WorkerError>> {
        if self.keeper.authority().is_none() {
            return group.iter().map(|_| Ok(Fate::Hot)).collect();
        }
        let answer = deleting(self.store.delete_many(group, Some(not_after), REQUEST)).await;
        match answer {
            Ok(outcomes) => {
                let fate = |(one, outcome): (&Doomed, _)| Ok(fate(&one.key, outcome));
                group.iter().zip(outcomes).map(fate).collect()
            }
            // Nothing was done; what each of them is refused for, it says alone.
            Err(error) => {
                tracing::debug!(%error, "objects are deleted one by one");
                self.delete_each(group).await
            }
        }
    }

    async fn delete_each(&self, group: &[Doomed]) -> Vec<Result<Fate, WorkerError>> {
        let mut alone = Vec::with_capacity(group.len());
        for one in group {
            alone.push(self.delete_alone(one));
        }
        stream::iter(alone).buffered(PARALLEL).collect().await
    }

    async fn delete_alone(&self, one: &Doomed) -> Result<Fate, WorkerError> {
        match &one.condition {
            Condition::Is(version) => self.delete_one(&one.key, version.clone()).await,
            Condition::None | Condition::Absent => Ok(Fate::Foreign),
        }
    }

    async fn delete_one(&self, key: &ObjectKey, version: Version) -> Result<Fate, WorkerError> {
        // Where the store cannot compare, a foreign PUT in between is the documented risk.
        let condition = match self.conditional {
            true => Condition::Is(version),
            false => Condition::None,
        };
        let not_after = Some(self.store.now(REQUEST).await?.plus(EXPIRES_MS));
        let send = Send { condition, not_after, timeout: REQUEST };
        let outcome = deleting(self.store.delete(key, send)).await;
        Ok(fate(key, outcome))
    }
}

/// The step of a deletion, of one object or of several.
async fn deleting<T>(request: impl Future<Output = T>) -> T {
    at(points::PURGE_OBJECT_BEFORE);
    let answer = request.await;
    at(points::PURGE_OBJECT_AFTER);
    answer
}

fn fate(key: &ObjectKey, outcome: PutOutcome) -> Fate {
    match outcome {
        PutOutcome::Won(_) => Fate::Gone,
        PutOutcome::Lost => Fate::Foreign,
        PutOutcome::Failed(error) if !error.is_transient() => {
            Fate::Refused(format!("{key} cannot be deleted: {error}"))
        }
        PutOutcome::Failed(error) | PutOutcome::Ambiguous(error) => Fate::Open(error),
    }
}
