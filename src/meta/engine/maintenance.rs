//! Compaction and garbage collection of the engine, run by us.
//!
//! Left to itself the engine would poll the bucket all day, and its collector believes wall clocks.
//! So neither runs in the background. Maintenance is asked for by the worker when a volume is idle
//! and every minute; it does something only when enough has gathered. It always runs at the
//! current epoch: first flushing the memtable (which fences a handle whose epoch is old), then, once
//! some tables have gathered, compacting until L0 is nearly empty, then collecting what nothing refers to.
//!
//! What a database takes in the bucket is what it holds and what was replaced lately. Nothing refers any
//! more to what was replaced but readers that began before: views of followers and checks, scans under way.
//! They have [`REPLACED_KEPT`], and take a newer view when that is over. The log goes by the same time,
//! which followers know ([`crate::meta::follower`]).
//!
//! Nobody waits for it, and dropping it half-way leaves nothing worse than garbage.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use slatedb::config::{
    CompactionWorkerOptions, CompactorOptions, GarbageCollectorDirectoryOptions,
    GarbageCollectorOptions, SizeTieredCompactionSchedulerOptions,
};
use slatedb::{CompactorBuilder, GarbageCollectorBuilder, VersionedManifest};

use super::{EngineError, Handle, Inner, WatchedStore, filters};
use crate::meta::hybrid_clock::{HybridClock, WallClock};

/// So many files in L0 start maintenance even if nobody asked.
pub(super) const URGENT_L0: usize = 8;

const DUE_L0: usize = 6;
const DUE_WAL_OBJECTS: u64 = 512;
const DUE_WAL_BYTES: u64 = 8 << 20;

/// A log of more than this goes to a table when the engine is closed, bytes: the next open reads it all.
const LONG_WAL_BYTES: u64 = 1 << 20;
/// So does one of more objects than this, whoever wrote them: each is a request for the next open.
const LONG_WAL_OBJECTS: u64 = 32;
/// A log of more objects than this, as processes leave it that were killed again and again, goes to a table
/// when the engine is opened.
const TOO_LONG_WAL_OBJECTS: u64 = 64;
/// With more files in L0 than this it stays in the log: closing compacts nothing.
const CLOSING_L0: usize = 16;

/// Compaction ends when L0 holds no more than this.
const L0_GOAL: usize = 1;

/// What a merge holds in memory: of each source some pieces that were fetched ahead, and of its result a table,
/// which is in memory until its parts are in the bucket.
const MOST_SOURCES: usize = 16;
const FETCHES: usize = 2;
const FETCH_BYTES: usize = 256 << 10;
const TABLE_BYTES: usize = 16 << 20;

/// One run; what is left waits for the next.
const LIMIT: Duration = Duration::from_secs(120);

/// How often the compactor and we look for its progress. Only while maintenance runs.
const POLL: Duration = Duration::from_millis(100);

/// Tables stay for so long after they were replaced, and objects of the log after they were written. No view of
/// a follower is older than this when it is read, and none goes on with the log after a pause of nearly so long.
const REPLACED_KEPT: Duration = Duration::from_secs(300);

/// Age of collected manifests, which are small.
const GARBAGE_AGE: Duration = Duration::from_secs(3600);

/// After a change that left garbage it is collected again when that is over, by these multiples of its time: clocks
/// differ, so what one pass finds too young is left to the next. The last one is for the manifests.
const PASSES: [u32; 3] = [1, 3, 13];

/// How long a merge of what is no more in L0 is waited for. One that is cut off goes on with the next run.
const MERGE_LIMIT: Duration = Duration::from_secs(30);

/// Age of collected manifests on stores without If-Match: nothing but time keeps a host that slept
/// from reusing the number of a deleted manifest there.
const MANIFEST_AGE_WITHOUT_IF_MATCH: Duration = Duration::from_secs(30 * 86_400);

/// What a run of maintenance found and did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Maintained {
    /// Whether anything was due.
    pub ran: bool,
    pub l0_before: usize,
    pub l0_after: usize,
    pub sorted_runs: usize,
}

/// How much WAL there was at the last maintenance.
#[derive(Debug)]
pub(super) struct Meter {
    /// One run at a time.
    running: tokio::sync::Mutex<()>,
    last: Mutex<(u64, u64)>,
    /// The number of the log's next object when the engine was opened, and how many were written by then.
    opened: (u64, u64),
    garbage: Mutex<Garbage>,
}

/// When something was left behind that is to be collected.
#[derive(Debug, Clone, Copy)]
struct Garbage {
    /// A tick of the engine's clock.
    left: i64,
    /// How often it was looked for since.
    passes: usize,
}

impl Garbage {
    /// What an opened database shows: what a merge replaced, or a log. Either may be old enough by now.
    fn found(opened: &VersionedManifest, tick: i64) -> Self {
        let some = !opened.checkpoints().is_empty() || log_read(opened) > 0;
        let kept = i64::try_from(replaced_kept().as_millis()).unwrap_or(i64::MAX);
        Garbage { left: if some { tick.saturating_sub(kept) - 1 } else { tick }, passes: 0 }
    }

    /// Whether a pass would find more than the one before.
    fn is_due(&self, tick: i64) -> bool {
        let wait = |times: &u32| i64::try_from((replaced_kept() * *times).as_millis()).ok();
        PASSES.get(self.passes).and_then(wait).is_some_and(|wait| tick - self.left > wait)
    }
}

fn garbage_age() -> Duration {
    crate::fault::duration(crate::fault::GARBAGE_AGE, GARBAGE_AGE)
}

fn replaced_kept() -> Duration {
    REPLACED_KEPT.min(garbage_age())
}

impl Meter {
    /// `tick`: now by the engine's clock. Who had the database before may have left garbage, and whoever always
    /// dies within its time would leave it for ever.
    pub(super) fn new(store: &WatchedStore, opened: &VersionedManifest, tick: i64) -> Self {
        let written = store.wal_written();
        Meter {
            running: tokio::sync::Mutex::default(),
            last: Mutex::new(written),
            opened: (opened.next_wal_sst_id(), written.0),
            garbage: Mutex::new(Garbage::found(opened, tick)),
        }
    }

    /// How many objects of the log the next open would read, about.
    fn log_objects(&self, store: &WatchedStore, manifest: &VersionedManifest) -> u64 {
        let next = self.opened.0 + (store.wal_written().0 - self.opened.1);
        next.saturating_sub(manifest.replay_after_wal_id() + 1)
    }
}

/// How many objects of the log this open has read.
pub(super) fn log_read(opened: &VersionedManifest) -> u64 {
    opened.next_wal_sst_id().saturating_sub(opened.replay_after_wal_id() + 1)
}

/// Whether an opened engine has something to do at once.
pub(super) fn is_urgent(opened: &VersionedManifest) -> bool {
    opened.l0().len() >= URGENT_L0 || log_read(opened) >= TOO_LONG_WAL_OBJECTS
}

/// Runs maintenance whenever it is urgent. Ends with the engine.
pub(super) async fn run(inner: Arc<Inner>) {
    loop {
        tokio::select! {
            _ = inner.stop.cancelled() => return,
            _ = inner.maintain_soon.notified() => {}
        }
        match maintain(&inner, false).await {
            Ok(done) => tracing::debug!(?done, "maintenance"),
            Err(error) if error.is_final() => return,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "maintenance of the engine failed");
            }
        }
    }
}

/// See [`super::Engine::maintain`].
pub(super) async fn maintain(inner: &Inner, force: bool) -> Result<Maintained, EngineError> {
    inner.alive()?;
    let Ok(_running) = inner.meter.running.try_lock() else { return Ok(Maintained::default()) };
    let handle = inner.handle().await?;
    let l0_before = handle.db.manifest().l0().len();
    let written = inner.backend.store.wal_written();
    let (objects, bytes) = {
        let last = inner.meter.last.lock();
        (written.0 - last.0, written.1 - last.1)
    };
    let opened_with =
        inner.meter.opened.0.saturating_sub(handle.db.manifest().replay_after_wal_id());
    let due = l0_before >= DUE_L0
        || opened_with > TOO_LONG_WAL_OBJECTS
        || objects >= DUE_WAL_OBJECTS
        || bytes >= DUE_WAL_BYTES;
    let idle = Maintained { l0_before, l0_after: l0_before, ..Maintained::default() };
    let tick = inner.backend.clock.tick();
    let to_collect = inner.meter.garbage.lock().is_due(tick);
    if !due && !force && !to_collect {
        return Ok(idle);
    }
    let work = async {
        if due || force {
            // With what is flushed now there are enough.
            let crowded = force || l0_before + 1 >= DUE_L0;
            maintain_now(inner, &handle, crowded).await?;
        }
        collect(inner, &handle).await
    };
    let done = tokio::select! {
        _ = inner.stop.cancelled() => return Err(EngineError::Closed),
        done = tokio::time::timeout(LIMIT, work) => done,
    };
    let collected = done.map_err(|_| EngineError::Deadline)??;
    if !due && !force {
        inner.meter.garbage.lock().passes += usize::from(collected);
        return Ok(idle);
    }
    *inner.meter.garbage.lock() = Garbage { left: inner.backend.clock.tick(), passes: 0 };
    *inner.meter.last.lock() = written;
    let manifest = handle.db.manifest();
    Ok(Maintained {
        ran: true,
        l0_before,
        l0_after: manifest.l0().len(),
        sorted_runs: manifest.compacted().len(),
    })
}

/// For closing: what was written lately goes from the log to a table, if it is much.
pub(super) async fn shorten_log(inner: &Inner) -> Result<(), EngineError> {
    let handle = inner.handle().await?;
    let written = inner.backend.store.wal_written().1 - inner.meter.last.lock().1;
    let manifest = handle.db.manifest();
    let objects = inner.meter.log_objects(&inner.backend.store, &manifest);
    let long = written >= LONG_WAL_BYTES || objects > LONG_WAL_OBJECTS;
    if !long || handle.db.manifest().l0().len() > CLOSING_L0 {
        return Ok(());
    }
    flush_memtable(inner, &handle).await
}

async fn flush_memtable(inner: &Inner, handle: &Handle) -> Result<(), EngineError> {
    let options =
        slatedb::config::FlushOptions { flush_type: slatedb::config::FlushType::MemTable };
    let flushed = handle.db.flush_with_options(options).await;
    flushed.map_err(|error| broken(inner, handle, error))
}

/// `crowded`: there are tables enough to be merged.
async fn maintain_now(inner: &Inner, handle: &Handle, crowded: bool) -> Result<(), EngineError> {
    match crowded {
        true => compact(inner, handle).await,
        false => flush_memtable(inner, handle).await,
    }
}

fn broken(inner: &Inner, handle: &Handle, error: slatedb::Error) -> EngineError {
    inner.report_broken(handle, &error);
    EngineError::from_slate(error)
}

/// The compactor epoch, if the writer epoch in the bucket is the handle's.
async fn is_current(inner: &Inner, handle: &Handle) -> Result<Option<u64>, EngineError> {
    let manifest = inner.backend.admin().read_manifest(None).await;
    let manifest = manifest.map_err(EngineError::from_slate)?;
    let ours = |m: &VersionedManifest| inner.backend.epoch(m.writer_epoch()) == handle.epoch;
    Ok(manifest.filter(ours).map(|m| m.compactor_epoch()))
}

/// Flushes the memtable while a compactor makes room for it, until L0 is at its goal.
async fn compact(inner: &Inner, handle: &Handle) -> Result<(), EngineError> {
    let Some(compactor_epoch) = is_current(inner, handle).await? else {
        // The next flush will find out whose epoch it is.
        return Ok(());
    };
    let compactor = CompactorBuilder::new(inner.backend.path.clone(), inner.backend.object_store())
        .with_system_clock(Arc::clone(&inner.backend.clock) as _)
        .with_filter_policies(filters())
        .with_options(compactor_options())
        .with_expected_epoch(compactor_epoch)
        .build();
    let done = tokio::select! {
        done = compactor.run() => done.map_err(EngineError::from_slate),
        done = flush_and_watch(inner, handle) => done,
    };
    if let Err(error) = compactor.stop().await {
        tracing::debug!(%error, "the compactor ended with an error");
    }
    done
}

async fn flush_and_watch(inner: &Inner, handle: &Handle) -> Result<(), EngineError> {
    flush_memtable(inner, handle).await?;
    let admin = inner.backend.admin();
    loop {
        // The compactor tells nobody when it is done; the manifest does.
        let manifest = admin.read_manifest(None).await.map_err(EngineError::from_slate)?;
        if manifest.is_none_or(|m| m.l0().len() <= L0_GOAL) {
            break;
        }
        tokio::time::sleep(POLL).await;
    }
    // What came out of L0 may be merged with what lies below.
    let merges = async {
        // Between two of them none is there for a moment.
        let mut quiet = 0;
        while quiet < 2 {
            tokio::time::sleep(POLL).await;
            let compactions = admin.read_compactions(None).await?;
            let busy = compactions.is_some_and(|c| c.recent_compactions().any(|one| one.active()));
            quiet = if busy { 0 } else { quiet + 1 };
        }
        Ok(())
    };
    match tokio::time::timeout(MERGE_LIMIT, merges).await {
        Ok(done) => done.map_err(EngineError::from_slate),
        Err(_) => Ok(()),
    }
}

fn compactor_options() -> CompactorOptions {
    CompactorOptions {
        poll_interval: POLL,
        commit_compacted_interval: POLL,
        max_concurrent_compactions: 1,
        scheduler_options: SizeTieredCompactionSchedulerOptions {
            min_compaction_sources: 2,
            max_compaction_sources: MOST_SOURCES,
            ..Default::default()
        }
        .into(),
        worker: Some(CompactionWorkerOptions {
            max_concurrent_compactions: 1,
            compactions_poll_interval: POLL,
            max_sst_size: TABLE_BYTES,
            max_subcompactions: 1,
            max_fetch_tasks: FETCHES,
            bytes_to_fetch: FETCH_BYTES,
            ..Default::default()
        }),
        // With each result the compactor keeps what it replaced for so long.
        checkpoint_lifetime: replaced_kept(),
        ..Default::default()
    }
}

/// WAL fences are kept for ever: a host that slept could otherwise write where one lay.
///
/// Whether it was looked for: not where the volume may be another host's, or the bucket's time is not known.
async fn collect(inner: &Inner, handle: &Handle) -> Result<bool, EngineError> {
    if is_current(inner, handle).await?.is_none() {
        return Ok(false);
    }
    // A host that has lost the volume may have merged tables that this one still reads.
    handle.db.refresh_manifest().await.map_err(|error| broken(inner, handle, error))?;
    let aged = |min_age| {
        Some(GarbageCollectorDirectoryOptions { interval: None, min_age, dry_run: false })
    };
    let manifest_age = match inner.backend.if_match {
        true => garbage_age(),
        false => MANIFEST_AGE_WITHOUT_IF_MATCH,
    };
    let options = GarbageCollectorOptions {
        manifest_options: aged(manifest_age),
        wal_options: aged(replaced_kept()),
        wal_fence_options: None,
        compacted_options: aged(replaced_kept()),
        compactions_options: aged(manifest_age),
        detach_options: None,
        metric_level: None,
        boundary_files_enabled: inner.backend.if_match,
        object_store_max_retries: None,
    };
    let Some(clock) = collectors_clock(inner).await else { return Ok(false) };
    // Not through the engine's `Admin`: that judges the log by the host's clock, whatever clock it is given.
    let collector =
        GarbageCollectorBuilder::new(inner.backend.path.clone(), inner.backend.object_store())
            .with_system_clock(Arc::new(HybridClock::new(clock)) as _)
            .with_options(options)
            .build();
    collector.run_gc_once().await;
    Ok(true)
}

/// The earlier one of two clocks, so that nothing looks older than it is: the host's, by which it names its
/// tables, may be ahead, and so may the bucket's. The engine's own is ahead on purpose. `None`: the bucket's is not
/// known, and nothing is collected this time.
async fn collectors_clock(inner: &Inner) -> Option<WallClock> {
    let wall = inner.backend.clock.wall();
    let Some(bucket) = &inner.bucket_clock else { return Some(wall) };
    let now = bucket().await?;
    Some(Arc::new(move || wall().min(now)))
}

#[cfg(test)]
mod tests;
