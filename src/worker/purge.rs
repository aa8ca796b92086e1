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

mod objects;
mod state;
mod unfinished;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use objects::Objects;
use state::delete_state;

use super::format::{Format, Unchecked, to_ours};
use super::places::{Places, places, places_in};
use super::{WorkerError, recovery, takeover};
use crate::catalog::{CatalogError, Definition, Deleting, Hold, Purge, Purged, VolumeFormat};
use crate::clock::Deadline;
use crate::lease::{
    Holder, Judgement, Keeper, KeeperConfig, LeaseRecord, Observation, epochs_above, judge,
    last_epoch, record_key,
};
use crate::meta::{Engine, EngineConfig, EngineError, EngineHome};
use crate::settle::hot_time;
use crate::store::{Groups, Known, Store, StoreError, StoreErrorKind, Verb, scratch_of};
use crate::types::{Epoch, Lsn, VolumeId};
use unfinished::Unfinished;

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
    /// Has everything, instead of what the volumes' URLs lead to.
    stand_in: Option<Store>,
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
            stand_in: None,
        }
    }

    /// For a simulation: `store` has everything.
    pub fn over(store: Store) -> Self {
        EnginePurge { stand_in: Some(store), ..Self::new() }
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
        crate::sys::beside(move || work(folder)).await
    }

    fn places(&self, volume: &Definition) -> Result<Places, WorkerError> {
        match &self.stand_in {
            Some(store) => places_in(volume.uuid, &volume.options, store),
            None => places(volume.uuid, &volume.options, &self.known),
        }
    }

    fn unfinished(&self, volume: &Definition) -> Unfinished {
        Unfinished::of(self.local.as_deref(), volume.uuid)
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
        let places = self.places(volume)?;
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
        if let Some(holder) = self.judged(volume, places, epoch).await?
            && !self.unfinished(volume).is(&holder)
        {
            return Ok(Some(Purged::Later(holder.to_string())));
        }
        Ok(match known.deleting {
            None => used_since(volume, places).await?.map(Purged::Used),
            Some(_) => None,
        })
    }

    async fn work(&self, volume: &Definition) -> Result<Purged, WorkerError> {
        let deadline = Deadline::after(self.slice);
        let places = self.places(volume)?;
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
        let mut known = places.learn(known);
        // Whoever was about to take it away did not know that it had become a volume.
        known.deleting = known.deleting.filter(|_| !known.withdrawn);
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
            let deleted = match deleted.await {
                Err(WorkerError::Engine(EngineError::Fenced { .. })) => {
                    Ok(Purged::Later("somebody has just taken it".to_owned()))
                }
                deleted => deleted,
            };
            if !matches!(deleted, Ok(Purged::Done)) {
                // Another host was faster, and deleted all but what was written here since.
                return match format.read().await {
                    Ok(None) => delete_state(&places, &format.key, deadline).await,
                    _ => deleted,
                };
            }
        }
        delete_state(&places, &format.key, deadline).await
    }

    /// Deletes the objects and marks that in `format.json`, unless some are left. `found` is the last epoch, as it was
    /// judged; without one the volume was never mounted.
    async fn delete_objects(
        &self,
        volume: &Definition,
        places: &Places,
        format: &Format,
        known: VolumeFormat,
        found: Option<Epoch>,
        deadline: Deadline,
    ) -> Result<Purged, WorkerError> {
        let object_store = places.state_store.engine(&places.state)?.into_inner();
        let home = known.engine.clone();
        let mut config = EngineConfig::new(object_store, home.folder, found);
        config.after = home.after;
        config.if_match = known.state_capabilities.has(Verb::PutIfMatch);
        let (unfinished, instance) = (self.unfinished(volume), uuid::Uuid::new_v4());
        unfinished.begin(instance, found.unwrap_or(home.after));
        let engine = Engine::open(config).await?;
        let mut keeper = KeeperConfig::new(
            places.state_store.backend(),
            places.state.clone(),
            engine.epoch(),
            self.host.clone(),
            Arc::new(Unchecked),
        );
        keeper.note = Some(REMOVAL.to_owned());
        keeper.instance = instance;
        let begins = known.deleting.is_none();
        let keeper = Keeper::start(keeper, Deadline::after(REQUEST)).await?;
        let next = engine.applied().map_or(Lsn(1), |applied| Lsn(applied.lsn.0 + 1));
        // Where the store does not compare, the look at an object has to be followed by its own request at once.
        let groups = known.capabilities.has(Verb::DeleteConditional)
            && places.store.groups(&scratch_of(&places.state)).await == Groups::Conditional;
        let mut objects = Objects {
            volume: volume.uuid,
            store: places.store.backend(),
            prefix: &places.prefix,
            conditional: known.capabilities.has(Verb::DeleteConditional),
            groups,
            hot: hot_time(&known.capabilities),
            engine: &engine,
            keeper: &keeper,
            next,
            foreign: 0,
            refused: None,
            after: self.after.lock().remove(&volume.uuid),
        };
        let result: Result<Purged, WorkerError> = async {
            // Until the epoch was claimed somebody may have come and gone.
            if begins && let Some(host) = used_since(volume, places).await? {
                return Ok(Purged::Used(host));
            }
            match format.deletes(Deleting::Objects).await? {
                Some(Deleting::Objects) => {}
                Some(Deleting::State) => return Ok(Purged::Done),
                None => return Ok(faster()),
            }
            if let Some(why) = objects.delete(deadline).await? {
                return Ok(Purged::Later(why));
            }
            let marked = format.deletes(Deleting::State).await?;
            Ok(marked.map_or_else(faster, |_| Purged::Done))
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
        let purged = result?;
        closed?;
        released?;
        unfinished.end();
        Ok(purged)
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
            let places = self.places(volume)?;
            let store = places.state_store.backend();
            Ok(last_epoch(&*store, &places.state, REQUEST).await?.map(|epoch| epoch.0))
        };
        let looked = tokio::time::timeout(HOLDER, looked).await;
        match looked.unwrap_or_else(|_| Err(late(volume))) {
            Err(error) if bucket_is_gone(&error) => Ok(None),
            looked => looked.map_err(failed),
        }
    }

    async fn used_since(&self, volume: &Definition) -> Result<Option<String>, CatalogError> {
        let looked = async { used_since(volume, &self.places(volume)?).await };
        let looked = tokio::time::timeout(HOLDER, looked).await;
        match looked.unwrap_or_else(|_| Err(late(volume))) {
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
            self.unfinished(volume).end();
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
    let (store, state) = (places.state_store.backend(), &places.state);
    let noted = removing.epoch.map(Epoch);
    // All of them: the last one may be of an attempt to delete it.
    for epoch in epochs_above(&*store, state, noted, REQUEST).await? {
        let found = match store.get(&record_key(state, epoch), None, None, REQUEST).await {
            Err(error) if error.kind == StoreErrorKind::NotFound => continue,
            found => found?,
        };
        // One that cannot be read does not say that anybody did.
        let record: Option<LeaseRecord> = serde_json::from_slice(&found.data).ok();
        let theirs = |record: &LeaseRecord| record.note.as_deref() != Some(REMOVAL);
        if let Some(record) = record.filter(theirs) {
            return Ok(Some(record.host));
        }
    }
    Ok(None)
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

fn faster() -> Purged {
    Purged::Later("another host deletes it".to_owned())
}
