//! The end of a removed volume: its objects and its state are deleted from the bucket.
//!
//! Owns nothing in this process; works on one volume at a time and leaves the rest for the next call
//! when its time is up. Invariants:
//! * Only the host that claimed the volume's epoch and holds its lease deletes.
//! * An object is deleted only if the volume recorded it, it still bears the recorded put-id and is
//!   the recorded version. Everything else stays.
//! * `format.json` says how far the deletion has come and goes last, so that nobody mounts what is
//!   half gone.
//!
//! A crash loses nothing: the records of what is deleted go away page by page, and the next call
//! finds the others.

use std::collections::HashMap;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use parking_lot::Mutex;

use super::engine_change::{Unchecked, to_ours};
use super::format::{Format, applied};
use super::places::{Places, places};
use super::{WorkerError, recovery, takeover};
use crate::catalog::{CatalogError, Definition, Deleting, Hold, Purge, Purged, VolumeFormat};
use crate::clock::Deadline;
use crate::fault::{at, points};
use crate::lease::{
    Holder, Judgement, Keeper, KeeperConfig, LeaseRecord, Observation, judge, last_epoch,
    record_key,
};
use crate::meta::records::{IntentOp, IntentRec, RestRec, decode};
use crate::meta::{Batch, Engine, EngineConfig, EngineError, EngineHome, MetaError, Pages, keys};
use crate::settle::{hot_time, is_put};
use crate::store::{
    Condition, Known, ListRequest, PutOutcome, Send, StoreBackend, StoreError, StoreErrorKind,
    Verb, is_file_key,
};
use crate::types::{Epoch, KeyPrefix, Lsn, ObjectKey, PutId, Version, VolumeId};

const REQUEST: Duration = Duration::from_secs(15);
/// `docker volume rm` waits for this, and dockerd gives up after 30 s.
const HOLDER: Duration = Duration::from_secs(12);
/// Requests under way at a time.
const PARALLEL: usize = 16;
/// Records looked at before the engine forgets them.
const PAGE: usize = 500;
/// One call ends after this; what is left waits for the next.
const SLICE: Duration = Duration::from_secs(45);
/// A delete that nobody answered must not arrive after its key was given to a new volume.
const EXPIRES_MS: i64 = 15_000;
const CLOSE: Duration = Duration::from_secs(10);
/// The note of a lease that is held for deleting.
const REMOVAL: &str = "the volume is being deleted";
/// Foreign objects that the log names, a volume.
const NAMED: usize = 20;

/// Deletes removed volumes by their own records.
#[derive(Debug)]
pub struct EnginePurge {
    host: String,
    slice: Duration,
    /// The state folders of this host's volumes.
    local: Option<PathBuf>,
    /// What was seen of the leases of volumes that are waited for.
    seen: Mutex<HashMap<VolumeId, Observation>>,
    /// How far the records of volumes were gone over that have objects which stay.
    after: Mutex<HashMap<VolumeId, Bytes>>,
    known: Known,
}

impl Default for EnginePurge {
    fn default() -> Self {
        Self::new()
    }
}

impl EnginePurge {
    /// For this host.
    pub fn new() -> Self {
        EnginePurge {
            host: crate::sys::hostname(),
            slice: SLICE,
            local: None,
            seen: Mutex::default(),
            after: Mutex::default(),
            known: Known::default(),
        }
    }

    /// As [`EnginePurge::new`], but a call stops after `slice`. It always does some work.
    pub fn with_slice(slice: Duration) -> Self {
        EnginePurge { slice, ..Self::new() }
    }

    /// Knows the state folders below `volumes`: a lease that a worker of this host left behind when it
    /// died is no other host's, and the folder of a deleted volume goes with it.
    pub fn with_local(self, volumes: PathBuf) -> Self {
        EnginePurge { local: Some(volumes), ..self }
    }

    /// With what this host knows of stores.
    pub fn knowing(self, known: Known) -> Self {
        EnginePurge { known, ..self }
    }

    /// Runs `work` on the volume's local folder, if there may be one.
    async fn locally<T: std::marker::Send + 'static>(
        &self,
        volume: &Definition,
        work: impl FnOnce(PathBuf) -> T + std::marker::Send + 'static,
    ) -> Option<T> {
        let folder = self.local.as_ref()?.join(volume.uuid.to_string());
        tokio::task::spawn_blocking(move || work(folder)).await.ok()
    }

    async fn clear_local(&self, volume: &Definition) {
        let removed = self.locally(volume, |folder| recovery::remove_folder(&folder)).await;
        match removed {
            None | Some(Ok(true)) => {}
            Some(Ok(false)) => tracing::warn!(volume = %volume.name, uuid = %volume.uuid,
                "the local folder of the deleted volume stays: it is in use, or has content that was never synced"),
            Some(Err(error)) => tracing::warn!(volume = %volume.name, uuid = %volume.uuid, %error,
                "the local folder of the deleted volume could not be removed"),
        }
    }

    /// Who holds the volume.
    async fn holding(&self, volume: &Definition) -> Result<Option<Holder>, WorkerError> {
        let places = places(volume.uuid, &volume.options, &self.known)?;
        let known = match Format::of(&places, volume.uuid).read().await {
            Ok(Some((known, _))) => known,
            Ok(None) => return Ok(None),
            // Nobody can hold what went with its bucket.
            Err(error) if bucket_is_gone(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let epoch = writer_epoch(&places, &known.engine).await?;
        self.judged(volume, &places, epoch).await
    }

    /// Who holds the volume in its last epoch.
    async fn judged(
        &self,
        volume: &Definition,
        places: &Places,
        epoch: Option<Epoch>,
    ) -> Result<Option<Holder>, WorkerError> {
        let Some(epoch) = epoch else { return Ok(None) };
        let mut seen = self.seen.lock().remove(&volume.uuid).unwrap_or_default();
        let store = places.state_store.backend();
        match judge(&*store, &places.state, epoch, &mut seen, REQUEST).await? {
            Judgement::Free(_) => Ok(None),
            Judgement::Held(holder) => {
                self.seen.lock().insert(volume.uuid, seen);
                Ok(Some(holder))
            }
        }
    }

    /// Why nothing of the volume is deleted whose last epoch this is.
    async fn in_the_way(
        &self,
        volume: &Definition,
        places: &Places,
        known: &VolumeFormat,
        epoch: Option<Epoch>,
    ) -> Result<Option<Purged>, WorkerError> {
        if let Some(holder) = self.judged(volume, places, epoch).await? {
            return Ok(Some(Purged::Later(holder.to_string())));
        }
        Ok(match known.deleting {
            None => used_since(volume, places).await?.map(Purged::Used),
            Some(_) => None,
        })
    }

    async fn work(&self, volume: &Definition) -> Result<Purged, WorkerError> {
        let deadline = Deadline::after(self.slice);
        let places = places(volume.uuid, &volume.options, &self.known)?;
        let format = Format::of(&places, volume.uuid);
        let found = match format.read().await {
            Err(error) if bucket_is_gone(&error) => return Ok(Purged::Done),
            found => found?,
        };
        let Some((known, version)) = found else {
            // Deleted last, so the objects went before; or somebody else deleted it, and then
            // nothing tells which objects were ours.
            return delete_state(&places, &format.key, deadline).await;
        };
        if let Some(new) = known.replaced_by {
            // What its records call theirs are the objects of that one.
            tracing::info!(volume = %volume.name, %new,
                "the volume was rebuilt, and has another state since: the removal leaves its objects alone");
            return Ok(Purged::Done);
        }
        let known = places.learn(known);
        if known.deleting != Some(Deleting::State) {
            if !known.engine.is_readable() {
                let epoch = writer_epoch(&places, &known.engine).await?;
                if let Some(why) = self.in_the_way(volume, &places, &known, epoch).await? {
                    return Ok(why);
                }
            }
            let single_host = volume.options.single_host;
            let known = to_ours(&places, &format, (known, version), single_host).await?;
            // The epoch that is judged is the one that is claimed over: who took the volume since keeps it.
            let found = writer_epoch(&places, &known.engine).await?;
            if let Some(why) = self.in_the_way(volume, &places, &known, found).await? {
                return Ok(why);
            }
            let deleted = self.delete_objects(volume, &places, &format, known, found, deadline);
            let later = match deleted.await {
                Err(WorkerError::Engine(EngineError::Fenced { .. })) => {
                    Some("somebody has just taken it".to_owned())
                }
                later => later?,
            };
            if let Some(why) = later {
                return Ok(Purged::Later(why));
            }
        }
        delete_state(&places, &format.key, deadline).await
    }

    /// Deletes the objects and marks that in `format.json`; `Some` says why some are left. `found` is the last epoch, as
    /// it was judged; without one the volume was never mounted.
    async fn delete_objects(
        &self,
        volume: &Definition,
        places: &Places,
        format: &Format,
        known: VolumeFormat,
        found: Option<Epoch>,
        deadline: Deadline,
    ) -> Result<Option<String>, WorkerError> {
        let object_store = places.state_store.engine(&places.state)?.into_inner();
        let home = known.engine.clone();
        let mut config = EngineConfig::new(object_store, home.folder, found);
        config.after = home.after;
        config.if_match = known.state_capabilities.has(Verb::PutIfMatch);
        let engine = Engine::open(config).await?;
        let mut keeper = KeeperConfig::new(
            places.state_store.backend(),
            places.state.clone(),
            engine.epoch(),
            self.host.clone(),
            Arc::new(Unchecked),
        );
        keeper.note = Some(REMOVAL.to_owned());
        let keeper = Keeper::start(keeper, Deadline::after(REQUEST)).await?;
        let begun = VolumeFormat { deleting: Some(Deleting::Objects), ..known };
        let next = engine.applied().map_or(Lsn(1), |applied| Lsn(applied.lsn.0 + 1));
        let mut objects = Objects {
            volume: volume.uuid,
            store: places.store.backend(),
            prefix: &places.prefix,
            conditional: begun.capabilities.has(Verb::DeleteConditional),
            hot: hot_time(&begun.capabilities),
            engine: &engine,
            keeper: &keeper,
            next,
            foreign: 0,
            refused: None,
            after: self.after.lock().remove(&volume.uuid),
        };
        let result: Result<Option<String>, WorkerError> = async {
            format.write(&begun).await?;
            let left = objects.delete(deadline).await?;
            if left.is_none() {
                format.write(&VolumeFormat { deleting: Some(Deleting::State), ..begun }).await?;
            }
            Ok(left)
        }
        .await;
        if let Some(after) = objects.after.take() {
            self.after.lock().insert(volume.uuid, after);
        }
        if objects.foreign > 0 {
            tracing::info!(volume = %volume.name, objects = objects.foreign,
                "objects that the volume did not make stay");
        }
        // Not released before the engine is closed: another host may take the volume right after.
        let closed = engine.close(Deadline::after(CLOSE)).await;
        let note = Some(REMOVAL.to_owned());
        let released = keeper.release(engine.epoch(), note, CLOSE).await;
        keeper.stop().await;
        let left = result?;
        closed?;
        released?;
        Ok(left)
    }
}

#[async_trait]
impl Purge for EnginePurge {
    async fn holder(&self, volume: &Definition) -> Result<Option<String>, CatalogError> {
        let judged = tokio::time::timeout(HOLDER, self.holding(volume)).await;
        let mut holder = judged.unwrap_or_else(|_| Err(late(volume))).map_err(failed)?;
        if let Some(Holder { epoch, .. }) = holder {
            let id = volume.uuid;
            let ours = self.locally(volume, move |folder| recovery::was_ours(&folder, id, epoch));
            if ours.await == Some(true) {
                tracing::info!(volume = %volume.name, %epoch, "held by a worker of this host that died");
                holder = None;
            }
        }
        Ok(holder.map(|holder| match holder.record {
            Some(record) => format!("{} ({})", record.host, record.instance),
            None => "a host that has just taken it".to_owned(),
        }))
    }

    async fn last_epoch(&self, volume: &Definition) -> Result<Option<u64>, CatalogError> {
        let looked = async {
            let places = places(volume.uuid, &volume.options, &self.known)?;
            let store = places.state_store.backend();
            Ok(last_epoch(&*store, &places.state, REQUEST).await?.map(|epoch| epoch.0))
        };
        match looked.await {
            Err(error) if bucket_is_gone(&error) => Ok(None),
            looked => looked.map_err(failed),
        }
    }

    async fn hold(&self, volume: &Definition) -> Result<Option<Hold>, CatalogError> {
        let looked = takeover::look_at_hold(volume.uuid, &volume.options, &self.known);
        let looked = tokio::time::timeout(HOLDER, looked).await;
        looked.unwrap_or_else(|_| Err(late(volume))).map_err(failed)
    }

    async fn take_over(&self, volume: &Definition, epoch: u64) -> Result<(), CatalogError> {
        let (id, options) = (volume.uuid, &volume.options);
        takeover::take_over(id, options, &self.known, Epoch(epoch)).await.map_err(failed)
    }

    async fn purge(&self, volume: &Definition) -> Result<Purged, CatalogError> {
        let purged = self.work(volume).await.map_err(failed)?;
        if purged == Purged::Done {
            self.clear_local(volume).await;
        }
        Ok(purged)
    }
}

/// The volume's last epoch.
async fn writer_epoch(places: &Places, home: &EngineHome) -> Result<Option<Epoch>, WorkerError> {
    if !home.is_readable() {
        // Of another engine only the leases can be read.
        return Ok(last_epoch(&*places.state_store.backend(), &places.state, REQUEST).await?);
    }
    let object_store = places.state_store.engine(&places.state)?.into_inner();
    Ok(Engine::writer_epoch(&object_store, &home.folder, home.after).await?)
}

/// Who took the volume after it was removed: by its URL, or with another catalog. Their epoch tells, because
/// clocks of stores are exact to a second at best.
async fn used_since(volume: &Definition, places: &Places) -> Result<Option<String>, WorkerError> {
    let Some(removing) = &volume.removing else { return Ok(None) };
    let store = places.state_store.backend();
    let Some(epoch) = last_epoch(&*store, &places.state, REQUEST).await? else { return Ok(None) };
    if removing.epoch.is_some_and(|last| epoch.0 <= last) {
        return Ok(None);
    }
    let found = store.get(&record_key(&places.state, epoch), None, None, REQUEST).await?;
    // One that cannot be read does not say that anybody did.
    let record: Option<LeaseRecord> = serde_json::from_slice(&found.data).ok();
    let ours = |record: &LeaseRecord| record.note.as_deref() == Some(REMOVAL);
    Ok(record.filter(|record| !ours(record)).map(|record| record.host))
}

fn late(volume: &Definition) -> WorkerError {
    let message = format!(
        "{}: the bucket did not tell in time whether another host holds the volume; try again",
        volume.options.state_url
    );
    StoreError::new(StoreErrorKind::Timeout, message).into()
}

/// The bucket that was asked does not exist any more, nor anything that it held.
fn bucket_is_gone(error: &WorkerError) -> bool {
    matches!(error, WorkerError::Store(error) if error.kind == StoreErrorKind::NoBucket)
}

fn failed(error: WorkerError) -> CatalogError {
    CatalogError::Volume(Box::new(error))
}

/// What became of one recorded key.
enum Fate {
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
struct Objects<'a> {
    volume: VolumeId,
    store: Arc<dyn StoreBackend>,
    prefix: &'a KeyPrefix,
    conditional: bool,
    /// How long an announced request may still arrive.
    hot: Duration,
    engine: &'a Engine,
    keeper: &'a Keeper,
    next: Lsn,
    foreign: usize,
    /// Why an object of the volume cannot be deleted. All others are.
    refused: Option<String>,
    /// The last record that was looked at, where the call before or this one had no more time.
    after: Option<Bytes>,
}

impl Objects<'_> {
    /// Deletes what the records name; `Some` says why some are left.
    async fn delete(&mut self, deadline: Deadline) -> Result<Option<String>, WorkerError> {
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
        // Where the store cannot compare, a foreign PUT in between is the documented risk.
        let condition = match self.conditional {
            true => Condition::Is(info.version),
            false => Condition::None,
        };
        let not_after = Some(self.store.now(REQUEST).await?.plus(EXPIRES_MS));
        at(points::PURGE_OBJECT_BEFORE);
        let send = Send { condition, not_after, timeout: REQUEST };
        let outcome = self.store.delete(key, send).await;
        at(points::PURGE_OBJECT_AFTER);
        Ok(match outcome {
            PutOutcome::Won(_) => Fate::Gone,
            PutOutcome::Lost => Fate::Foreign,
            PutOutcome::Failed(error) if !error.is_transient() => {
                Fate::Refused(format!("{key} cannot be deleted: {error}"))
            }
            PutOutcome::Failed(error) | PutOutcome::Ambiguous(error) => Fate::Open(error),
        })
    }
}

/// Deletes the state folder, `format.json` last. Its names are never used again, so requests need
/// no condition.
async fn delete_state(
    places: &Places,
    format: &ObjectKey,
    deadline: Deadline,
) -> Result<Purged, WorkerError> {
    let store = places.state_store.backend();
    let (mut token, mut found, mut refused) = (None, false, None);
    loop {
        let request = ListRequest {
            prefix: places.state.as_str().to_owned(),
            delimiter: false,
            token,
            max_keys: 1000,
        };
        let page = store.list(request, REQUEST).await?;
        let keys: Vec<ObjectKey> =
            page.entries.into_iter().map(|entry| entry.key).filter(|key| key != format).collect();
        found |= !keys.is_empty();
        let outcomes: Vec<PutOutcome> = stream::iter(keys)
            .map(|key| {
                let store = &store;
                async move {
                    at(points::PURGE_STATE_BEFORE);
                    let outcome = store.delete(&key, Send::plain(REQUEST)).await;
                    at(points::PURGE_STATE_AFTER);
                    outcome
                }
            })
            .buffer_unordered(PARALLEL)
            .collect()
            .await;
        // One that stays keeps no other.
        refused = refused.or(outcomes.into_iter().find_map(|outcome| applied(outcome).err()));
        token = page.next;
        if token.is_none() {
            match refused {
                Some(error) => return Err(error),
                None if !found => break,
                None => found = false,
            }
        }
        if deadline.left().is_zero() {
            return Ok(Purged::Later("its objects are deleted, not yet its state".to_owned()));
        }
    }
    at(points::PURGE_FORMAT_BEFORE);
    applied(store.delete(format, Send::plain(REQUEST)).await)?;
    at(points::PURGE_FORMAT_AFTER);
    Ok(Purged::Done)
}
