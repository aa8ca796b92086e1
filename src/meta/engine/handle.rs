//! Opening, judging and replacing handles of SlateDB.

use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use slatedb::admin::{Admin, AdminBuilder};
use slatedb::config::{CloseOptions, ScanOptions, Settings};
use slatedb::db_cache::moka::{MokaCache, MokaCacheOptions};
use slatedb::db_cache::{DbCache, SplitCache};
use slatedb::object_store::ObjectStore;
use slatedb::{CloseReason, Db, DbReadOps, ErrorKind, VersionedManifest, WriteBatch};

use super::super::hybrid_clock::HybridClock;
use super::{Batch, EngineError, EngineState, Inner, Mirror, RESERVED_KEY, Slot, WatchedStore};
use crate::fault::Mutant;
use crate::meta::keys;
use crate::types::{Epoch, Lsn};

const BLOCK_CACHE_BYTES: u64 = 16 << 20;
/// Pairs; a longer scan reads ahead and keeps nothing.
const LONG_SCAN: usize = 4096;
const SCAN_AHEAD: usize = 256 << 10;
const META_CACHE_BYTES: u64 = 8 << 20;
/// What one miss of the mirror fetches: a sixteenth of a file of the first level.
pub(super) const MIRROR_PART: usize = 1 << 20;
const MIRROR_DESCRIPTORS: usize = 64;
/// Beyond this SlateDB makes writers wait, in the middle of a change: it must not come to that. It counts
/// every byte twice, for its log and its memtable, and memtables on their way to L0: so twice what may
/// be kept, with room for three memtables.
const MAX_UNFLUSHED_BYTES: usize = 2 * (super::MAX_KEPT_BYTES + (8 << 20)) + 3 * L0_BYTES;
/// Each is in memory twice while it goes to the bucket, beside the next.
const L0_BYTES: usize = 8 << 20;

/// Files in L0 before the engine makes writers wait. Maintenance runs long before.
const MAX_L0: usize = 32;

/// Polling is off: an idle volume makes no request. (Ten years; the timer takes no `MAX`.)
const NEVER: Duration = Duration::from_secs(10 * 365 * 86_400);

const BACKOFF_FIRST: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// A handle that failed gets this long to end by itself.
const DISCARD_LIMIT: Duration = Duration::from_secs(30);

/// Attempts of an open whose claim was won but that failed afterwards.
const OPEN_ATTEMPTS: u32 = 5;

/// The last batch that a database holds. Part of every batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    pub epoch: Epoch,
    pub lsn: Lsn,
    /// The engine clock's tick of that batch; no file time.
    pub tick: i64,
}

/// One opened database.
#[derive(Clone)]
pub(in crate::meta) struct Handle {
    pub(in crate::meta) generation: u64,
    pub(in crate::meta) epoch: Epoch,
    pub(in crate::meta) db: Db,
}

/// What is the same for all handles of an engine.
pub(in crate::meta) struct Backend {
    pub(in crate::meta) store: Arc<WatchedStore>,
    /// The same through the local mirror, if there is one.
    mirrored: Arc<dyn ObjectStore>,
    pub(in crate::meta) path: String,
    /// The database's own epochs count from here.
    after: Epoch,
    pub(in crate::meta) if_match: bool,
    pub(in crate::meta) clock: Arc<HybridClock>,
}

/// An epoch that is ours.
pub(super) struct Claim {
    pub(super) db: Db,
    pub(super) epoch: Epoch,
    pub(super) applied: Option<Applied>,
}

/// Why a claim did not succeed.
enum Refused {
    /// The bucket's epoch is another one, and not by our doing.
    Foreign(Epoch),
    /// Try again; with this epoch, if it is known.
    Again(EngineError),
}

pub(super) async fn writer_epoch(
    store: Arc<dyn ObjectStore>,
    path: &str,
    after: Epoch,
) -> Result<Option<Epoch>, EngineError> {
    let manifest = newest(store, path).await?;
    Ok(manifest.map(|m| Epoch(after.0 + m.writer_epoch())))
}

/// The newest manifest of the database at `path`.
pub(super) async fn newest(
    store: Arc<dyn ObjectStore>,
    path: &str,
) -> Result<Option<VersionedManifest>, EngineError> {
    let admin = AdminBuilder::new(path.to_owned(), store).build();
    admin.read_manifest(None).await.map_err(EngineError::from_slate)
}

/// Several batches as one write of the database; of two changes of a key the later one counts.
pub(super) fn write_batch(batches: &[Arc<Batch>], applied: &Applied) -> WriteBatch {
    let mut out = WriteBatch::new();
    for (key, value) in batches.iter().flat_map(|batch| batch.changes()) {
        match value {
            Some(value) => out.put_bytes(key.clone(), value.clone()),
            None => out.delete(key),
        }
    }
    // A struct of three integers always serialises.
    out.put(RESERVED_KEY, postcard::to_stdvec(applied).unwrap_or_default());
    out
}

pub(in crate::meta) async fn scan(
    db: &(impl DbReadOps + Sync),
    from: &Bound<Vec<u8>>,
    to: &Bound<Vec<u8>>,
    limit: usize,
) -> Result<Vec<(Bytes, Bytes)>, slatedb::Error> {
    // SlateDB keeps no blocks of scans unless asked to, and then every lookup of extents or names in
    // a table costs a request. A long scan would only push out what others need.
    let options = if limit <= LONG_SCAN {
        ScanOptions { cache_blocks: true, ..ScanOptions::default() }
    } else {
        ScanOptions { read_ahead_bytes: SCAN_AHEAD, ..ScanOptions::default() }
    };
    let mut pairs = Vec::new();
    let mut found = match keys::within_inode(from, to) {
        Some((prefix, to_the_end)) => {
            let rest =
                |bound: &Bound<Vec<u8>>| bound.clone().map(|key| key[prefix.len()..].to_vec());
            let end = if to_the_end { Bound::Unbounded } else { rest(to) };
            db.scan_prefix_with_options(&prefix, (rest(from), end), &options).await?
        }
        None => db.scan_with_options((from.clone(), to.clone()), &options).await?,
    };
    while pairs.len() < limit
        && let Some(pair) = found.next().await?
    {
        if pair.key != RESERVED_KEY {
            pairs.push((pair.key, pair.value));
        }
    }
    Ok(pairs)
}

impl Backend {
    pub(super) async fn new(
        store: Arc<dyn ObjectStore>,
        path: String,
        after: Epoch,
        if_match: bool,
        mirror: Option<Mirror>,
        clock: HybridClock,
    ) -> Result<Self, EngineError> {
        let store = Arc::new(WatchedStore::new(store));
        let mirrored = match mirror {
            Some(mirror) => through_mirror(mirror, Arc::clone(&store) as _).await?,
            None => Arc::clone(&store) as _,
        };
        Ok(Backend { store, mirrored, path, after, if_match, clock: Arc::new(clock) })
    }

    /// What the database and its compactor read and write.
    pub(in crate::meta) fn object_store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.mirrored)
    }

    /// The volume's epoch that the database calls `raw`.
    pub(in crate::meta) fn epoch(&self, raw: u64) -> Epoch {
        Epoch(self.after.0 + raw)
    }

    pub(in crate::meta) fn admin(&self) -> Admin {
        AdminBuilder::new(self.path.clone(), Arc::clone(&self.store) as _)
            .with_system_clock(Arc::clone(&self.clock) as _)
            .build()
    }

    /// The first claim of an engine.
    pub(super) async fn claim_first(&self, expected: Option<Epoch>) -> Result<Claim, EngineError> {
        let mut base = expected.unwrap_or(self.after);
        let mut backoff = Backoff::default();
        for attempt in 1.. {
            match self.claim(base).await {
                Ok(claim) => return Ok(claim),
                Err(Refused::Foreign(found)) => {
                    return Err(EngineError::Fenced { ours: base, found });
                }
                Err(Refused::Again(error)) => {
                    // Without a claim of ours in the bucket nothing has happened yet, and the
                    // caller judges anew. With one, nobody else will finish it.
                    let found = self.current_epoch().await.unwrap_or(None).unwrap_or(base);
                    if attempt >= OPEN_ATTEMPTS || found == base {
                        return Err(error);
                    }
                    tracing::debug!(error = &error as &dyn std::error::Error, "opening again");
                }
            }
            backoff.wait().await;
            base = self.ours_after(base).await?;
        }
        Err(EngineError::Closed)
    }

    async fn current_epoch(&self) -> Result<Option<Epoch>, EngineError> {
        let manifest = self.admin().read_manifest(None).await.map_err(EngineError::from_slate)?;
        Ok(manifest.map(|m| self.epoch(m.writer_epoch())))
    }

    /// The bucket's epoch, if it is `ours` or one that this engine claimed after it without
    /// learning of its success.
    pub(super) async fn ours_after(&self, ours: Epoch) -> Result<Epoch, EngineError> {
        let admin = self.admin();
        let read = |id| {
            let admin = &admin;
            async move { admin.read_manifest(id).await.map_err(EngineError::from_slate) }
        };
        let Some(latest) = read(None).await? else {
            // A bucket that is gone for a moment looks like this; a volume that was removed is the
            // lease's business.
            return match ours == self.after {
                true => Ok(ours),
                false => Err(EngineError::Unavailable(Arc::new(std::io::Error::other(
                    "the metadata's manifest is missing",
                )))),
            };
        };
        let found = self.epoch(latest.writer_epoch());
        if found == ours {
            return Ok(ours);
        }
        if Mutant::NoFence.lives() {
            return Ok(found);
        }
        let fenced = EngineError::Fenced { ours, found };
        if found < ours {
            return Err(fenced);
        }
        let mut claimed_by = latest.id();
        // Manifests are numbered from 1. Later ones of the same epoch may come from our compactor,
        // so only the first one tells, and if that is gone it was not ours: they are kept for
        // longer than a claim takes.
        while claimed_by > 1 {
            match read(Some(claimed_by - 1)).await? {
                None => return Err(fenced),
                Some(before) if self.epoch(before.writer_epoch()) == found => claimed_by -= 1,
                Some(_) => break,
            }
        }
        match self.store.wrote_manifest(claimed_by).await {
            Ok(true) => Ok(found),
            Ok(false) => Err(fenced),
            Err(error) => Err(EngineError::Unavailable(Arc::new(error))),
        }
    }

    /// Tables are named by the clock, some time after their rows. The collector takes one that is named before the
    /// newest for left over, so that those of this host must come after all that are there.
    fn stay_after(&self, manifest: &VersionedManifest) {
        self.clock.stay_after(manifest.last_l0_clock_tick());
        let merged = manifest.compacted().iter().flat_map(|run| run.sst_views());
        let tables = manifest.l0().iter().chain(merged).map(|view| view.id);
        let named = tables.chain(manifest.last_compacted_l0_sst_view_id());
        if let Some(last) = named.map(|id| id.timestamp_ms()).max() {
            self.clock.stay_after(i64::try_from(last).unwrap_or_default());
        }
    }

    /// Claims the epoch after `base` and reads what the database holds.
    async fn claim(&self, base: Epoch) -> Result<Claim, Refused> {
        let again = |error| Refused::Again(EngineError::from_slate(error));
        let manifest = self.admin().read_manifest(None).await.map_err(again)?;
        if let Some(manifest) = &manifest {
            self.stay_after(manifest);
        }
        let db = match self.build(base).await {
            Ok(db) => db,
            Err(error) if error.kind() == ErrorKind::Closed(CloseReason::Fenced) => {
                return match self.ours_after(base).await {
                    Err(EngineError::Fenced { found, .. }) => Err(Refused::Foreign(found)),
                    Err(error) => Err(Refused::Again(error)),
                    Ok(_) => Err(again(error)),
                };
            }
            Err(error) => return Err(again(error)),
        };
        let epoch = self.epoch(db.manifest().writer_epoch());
        self.stay_after(&db.manifest());
        let applied = match db.get(RESERVED_KEY).await {
            Ok(value) => value,
            Err(error) => {
                discard(db);
                return Err(again(error));
            }
        };
        let applied = match applied.map(|v| postcard::from_bytes::<Applied>(&v)).transpose() {
            Ok(applied) => applied,
            Err(error) => {
                discard(db);
                return Err(Refused::Again(EngineError::Damaged(Arc::new(error))));
            }
        };
        if let Some(applied) = applied {
            self.clock.stay_after(applied.tick);
        }
        Ok(Claim { db, epoch, applied })
    }

    /// In a task of its own: an open that is dropped half-way would leave its tasks behind.
    async fn build(&self, expected: Epoch) -> Result<Db, slatedb::Error> {
        let builder = Db::builder(self.path.clone(), self.object_store())
            .with_settings(settings())
            .with_db_cache(cache(), 0)
            .with_filter_policies(super::filters())
            .with_system_clock(Arc::clone(&self.clock) as _)
            .with_expected_epoch(expected.0.saturating_sub(self.after.0));
        let (send, receive) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            if let Err(Ok(db)) = send.send(builder.build().await) {
                discard(db);
            }
        });
        receive.await.unwrap_or_else(|_| {
            Err(slatedb::Error::internal("the task that opens the database died".to_owned()))
        })
    }
}

/// The engine's own read-through cache. Its successor, the `slatedb-mirror` crate, downloads a whole
/// database before it opens it, so that a mount would take longer the more files a volume has.
#[allow(deprecated)]
pub(in crate::meta) async fn through_mirror(
    mirror: Mirror,
    store: Arc<dyn ObjectStore>,
) -> Result<Arc<dyn ObjectStore>, EngineError> {
    use slatedb::cached_object_store::CachedObjectStore;
    let store = CachedObjectStore::builder(mirror.dir, store)
        .with_max_cache_size_bytes(Some(mirror.max_bytes))
        .with_part_size_bytes(MIRROR_PART)
        .with_cache_on_flush(true)
        .with_cache_on_compaction(true)
        .with_scan_interval(None)
        .with_max_open_file_handles(MIRROR_DESCRIPTORS)
        .build()
        .await
        .map_err(EngineError::from_slate)?;
    Ok(store)
}

fn settings() -> Settings {
    Settings {
        flush_interval: None,
        manifest_poll_interval: NEVER,
        max_unflushed_bytes: MAX_UNFLUSHED_BYTES,
        l0_sst_size_bytes: L0_BYTES,
        l0_max_ssts: MAX_L0,
        l0_max_ssts_per_key: MAX_L0,
        l0_flush_parallelism: 1,
        compactor_options: None,
        garbage_collector_options: None,
        ..Settings::default()
    }
}

/// Blocks of tables kept in memory.
pub(in crate::meta) fn cache() -> Arc<dyn DbCache> {
    let part = |max_capacity| -> Arc<dyn DbCache> {
        Arc::new(MokaCache::new_with_opts(MokaCacheOptions {
            max_capacity,
            time_to_live: None,
            time_to_idle: None,
        }))
    };
    Arc::new(
        SplitCache::new()
            .with_block_cache(Some(part(BLOCK_CACHE_BYTES)))
            .with_meta_cache(Some(part(META_CACHE_BYTES)))
            .build(),
    )
}

/// Ends a handle that nobody needs any more, without flushing. A handle that is only dropped would
/// keep its tasks and its memory.
fn discard(db: Db) {
    tokio::spawn(async move {
        let options = CloseOptions::default().with_flush_type(None);
        if tokio::time::timeout(DISCARD_LIMIT, db.close_with_options(options)).await.is_err() {
            tracing::warn!("a failed handle of the engine does not end");
        }
    });
}

/// Replaces the handle whenever it is reported broken. Ends with the engine.
pub(super) async fn replace_broken(inner: Arc<Inner>) {
    let mut broken = inner.broken.subscribe();
    let mut generation = 1;
    let mut last = match &*inner.slot.borrow() {
        Slot::Open(handle) => Some(handle.db.clone()),
        _ => None,
    };
    loop {
        let report = tokio::select! {
            _ = inner.stop.cancelled() => break,
            report = broken.wait_for(|broken| *broken >= generation) => report.map(|_| ()),
        };
        if report.is_err() {
            break;
        }
        if let Some(db) = last.take() {
            discard(db);
        }
        let replaced = tokio::select! {
            _ = inner.stop.cancelled() => break,
            replaced = replace(&inner, generation + 1) => replaced,
        };
        match replaced {
            Ok(db) => {
                generation += 1;
                last = Some(db);
            }
            Err(found) => {
                tracing::error!(
                    ours = inner.epoch.borrow().0,
                    found = found.0,
                    "another host has taken over this volume"
                );
                inner.slot.send_if_modified(|slot| match slot {
                    Slot::Closed => false,
                    _ => {
                        *slot = Slot::Fenced { found };
                        inner.state.send_replace(EngineState::Fenced);
                        true
                    }
                });
                return;
            }
        }
    }
    // Otherwise the engine is being closed, which ends the handle.
    if let Some(db) = last.take()
        && inner.backend.store.is_cut()
    {
        discard(db);
    }
}

/// Opens a new handle and brings it up to date. Fails only with the epoch of another host.
async fn replace(inner: &Inner, generation: u64) -> Result<Db, Epoch> {
    let mut backoff = Backoff::default();
    let mut base = *inner.epoch.borrow();
    loop {
        match try_replace(inner, generation, &mut base).await {
            Ok(db) => return Ok(db),
            Err(EngineError::Fenced { found, .. }) => return Err(found),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::debug!(error, "the engine could not be reopened yet");
            }
        }
        backoff.wait().await;
    }
}

async fn try_replace(inner: &Inner, generation: u64, base: &mut Epoch) -> Result<Db, EngineError> {
    *base = inner.backend.ours_after(*base).await?;
    let claim = match inner.backend.claim(*base).await {
        Ok(claim) => claim,
        Err(Refused::Foreign(found)) => return Err(EngineError::Fenced { ours: *base, found }),
        Err(Refused::Again(error)) => return Err(error),
    };
    *base = claim.epoch;
    let handle = Handle { generation, epoch: claim.epoch, db: claim.db };
    if let Err(error) = bring_up_to_date(inner, &handle, claim.applied).await {
        discard(handle.db);
        return Err(error);
    }
    Ok(handle.db)
}

async fn bring_up_to_date(
    inner: &Inner,
    handle: &Handle,
    applied: Option<Applied>,
) -> Result<(), EngineError> {
    if let Some(on_epoch) = &inner.on_epoch {
        on_epoch(handle.epoch).map_err(|error| EngineError::Unavailable(error.into()))?;
    }
    let _order = inner.order.lock().await;
    {
        let mut kept = inner.kept.lock();
        kept.mark_none_handed();
        if let Some(applied) = applied
            && applied.epoch >= inner.first_epoch
        {
            kept.drop_durable(applied.lsn);
        }
    }
    inner.hand_all_to(handle).await.map_err(EngineError::from_slate)?;
    if let Some(applied) = applied
        && applied.epoch >= inner.first_epoch
    {
        inner.durable.send_if_modified(|lsn| {
            let newer = applied.lsn > *lsn;
            *lsn = (*lsn).max(applied.lsn);
            newer
        });
    }
    inner.epoch.send_replace(handle.epoch);
    let installed = inner.slot.send_if_modified(|slot| match slot {
        Slot::Reopening => {
            *slot = Slot::Open(handle.clone());
            inner.state.send_replace(EngineState::Active);
            true
        }
        _ => false,
    });
    match installed {
        true => {
            tracing::info!(epoch = handle.epoch.0, "metadata engine reopened");
            Ok(())
        }
        false => Err(EngineError::Closed),
    }
}

/// Doubling waits between attempts at something that only the bucket can make succeed.
#[derive(Debug, Default)]
struct Backoff {
    attempts: u32,
}

impl Backoff {
    async fn wait(&mut self) {
        let factor = 2u32.saturating_pow(self.attempts.min(16));
        self.attempts += 1;
        tokio::time::sleep(BACKOFF_FIRST.saturating_mul(factor).min(BACKOFF_MAX)).await;
    }
}
