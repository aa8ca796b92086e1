//! SlateDB behind one handle of ours.
//!
//! Owns the database under one path of the bucket, as its only writer. Invariants:
//! * Batches become durable in the order of their [`Lsn`]s, each whole or not at all. Every batch
//!   carries [`Applied`], so the bucket itself says what it holds.
//! * Readers see a batch as soon as it is accepted. The handle gets it a moment later, in one write with
//!   others ([`feeder`]); until then its rows lie over the handle's ([`ahead`]).
//! * One epoch, one writer. The epoch is claimed by an open that expects the one before it; exactly
//!   one challenger wins. An engine only ever adopts an epoch that it claimed itself.
//! * A SlateDB handle that fails is replaced, not mourned: it says "fenced" or "closed" for causes
//!   as small as one 404. The bucket decides: if the epoch there is still ours, it is claimed anew
//!   and the batches that are not durable are handed over again, while callers wait. If it is not,
//!   the engine is [`EngineState::Fenced`] for good.
//!
//! Calls wait while the bucket is away; callers bring deadlines. Every future here may be dropped
//! at any await. What survives a crash is what a flush covered, and the local log's batches.

mod ahead;
mod batch;
mod costs;
mod error;
mod feeder;
mod filter;
mod flusher;
mod handle;
mod home;
mod kept;
mod maintenance;
mod opening;
mod watched_store;

#[cfg(test)]
pub(super) mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use slatedb::DbSnapshot;
use slatedb::config::{CloseOptions, FlushType};
use slatedb::object_store::ObjectStore;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use batch::{Batch, RESERVED_KEY};
pub use costs::Costs;
pub use error::EngineError;
pub(in crate::meta) use error::guarded;
pub(super) use filter::filters;
pub use flusher::Receipt;
pub use handle::Applied;
pub(super) use handle::{Handle, cache as table_cache, scan, through_mirror};
pub use home::EngineHome;
pub(super) use kept::Kept;
pub use maintenance::Maintained;
pub use opening::{Newest, Opening};
pub(super) use watched_store::WatchedStore;

use super::hybrid_clock::{HybridClock, WallClock};
use crate::clock::Deadline;
use crate::types::{Epoch, Lsn};
use flusher::Rounds;
use handle::{Backend, Claim};
use maintenance::Meter;

/// The most that [`EngineConfig::most_kept`] may be, and what it is unless the local disk is small.
const MAX_KEPT_BYTES: usize = 32 << 20;

/// And so much before those wait who hand over batch after batch.
const BULK_KEPT_BYTES: usize = 8 << 20;

/// How often a scan looks for a moment in which nothing is handed over before it keeps others from that.
const SNAPSHOT_ATTEMPTS: u32 = 3;

/// How often one lookup may meet a failing handle before the data itself is to blame.
const MAX_READ_ATTEMPTS: u32 = 5;

/// The last step of closing has nothing left to lose, so it may not take long.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// Called with every epoch that the engine adopts by itself, before the first batch of it: writes
/// it to the local log, so that this host recognises its own batches after a crash. Callers of the
/// engine are waiting meanwhile: whatever lock the hook takes may not be held over a call of the
/// engine. If it fails, the engine tries again later.
pub type EpochHook =
    Arc<dyn Fn(Epoch) -> Result<(), Box<dyn std::error::Error + Send + Sync>> + Send + Sync>;

/// How to open an engine.
#[derive(Clone)]
pub struct EngineConfig {
    /// The store of the engine's files, with deadlines of its own on every request.
    pub object_store: Arc<dyn ObjectStore>,
    /// The database's path in it.
    pub path: String,
    /// The volume's last epoch before this database was made; 0 for its first one. The database
    /// counts its own from 1.
    pub after: Epoch,
    /// The epoch that the caller judged to be free; `None` if it saw no database.
    pub expected: Option<Epoch>,
    /// See [`EpochHook`]. Not called for the epoch that `open` itself claims: the caller logs that
    /// one when it has compared `applied` with its log.
    pub on_epoch: Option<EpochHook>,
    /// Whether the store was proven to honour If-Match. Without it old manifests are kept longer.
    pub if_match: bool,
    /// Batches not yet durable may hold this much, bytes; then writers wait for a flush.
    pub most_kept: usize,
    /// Where the database's immutable files are kept on this host, if anywhere.
    pub mirror: Option<Mirror>,
    /// The host's clock; replaced in tests.
    pub wall: WallClock,
    /// The bucket's clock. What the collector deletes has been there for its time by both, because followers
    /// count on that, and go by no clock of the writer.
    pub bucket_clock: Option<BucketClock>,
}

/// Milliseconds since 1970 by the bucket's clock; `None`: it does not say now.
pub type BucketClock = Arc<dyn Fn() -> BoxFuture<'static, Option<i64>> + Send + Sync>;

/// Local copies of the files that the engine wrote or read, so that a lookup costs no request and
/// does not depend on the bucket. Their blocks carry checksums: a copy that a crash of the host
/// damaged is fetched again. May be removed while no engine uses it.
#[derive(Debug, Clone)]
pub struct Mirror {
    pub dir: PathBuf,
    pub max_bytes: usize,
}

impl EngineConfig {
    /// A configuration with the host's clock and a store that honours If-Match.
    pub fn new(
        object_store: Arc<dyn ObjectStore>,
        path: impl Into<String>,
        expected: Option<Epoch>,
    ) -> Self {
        EngineConfig {
            object_store,
            path: path.into(),
            after: Epoch(0),
            expected,
            on_epoch: None,
            if_match: true,
            most_kept: MAX_KEPT_BYTES,
            mirror: None,
            wall: HybridClock::host_wall(),
            bucket_clock: None,
        }
    }
}

impl fmt::Debug for EngineConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineConfig")
            .field("path", &self.path)
            .field("after", &self.after)
            .field("expected", &self.expected)
            .field("if_match", &self.if_match)
            .field("most_kept", &self.most_kept)
            .field("mirror", &self.mirror)
            .finish_non_exhaustive()
    }
}

/// What an engine is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineState {
    Active,
    /// The handle failed and is being replaced; callers wait.
    Reopening,
    /// Another host writes this volume. Final.
    Fenced,
    /// Closed or abandoned. Final.
    Closed,
}

/// What callers find when they need the handle.
#[derive(Clone)]
pub(super) enum Slot {
    Open(Handle),
    Reopening,
    Fenced { found: Epoch },
    Closed,
}

/// The engine of one volume. Share it by `Arc`; close it, or it is abandoned when dropped.
pub struct Engine {
    inner: Arc<Inner>,
    meter: costs::Meter,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// What the engine's tasks share.
pub(super) struct Inner {
    pub(super) backend: Backend,
    pub(super) on_epoch: Option<EpochHook>,
    pub(super) slot: watch::Sender<Slot>,
    pub(super) state: watch::Sender<EngineState>,
    pub(super) epoch: watch::Sender<Epoch>,
    pub(super) durable: watch::Sender<Lsn>,
    /// The highest generation of a handle that failed.
    pub(super) broken: watch::Sender<u64>,
    /// The epoch claimed by `open`; all from here to the current one are ours.
    pub(super) first_epoch: Epoch,
    opened_with: Option<Applied>,
    pub(super) kept: Mutex<Kept>,
    most_kept: usize,
    pub(super) bucket_clock: Option<BucketClock>,
    /// Held while batches go to the handle, so that they go in order, and while it is replaced.
    /// Taken before `kept`, which is a leaf.
    pub(super) order: tokio::sync::Mutex<()>,
    rounds: Rounds,
    meter: Meter,
    /// Batches wait for the handle.
    pub(super) accepted: Notify,
    /// Asks for maintenance that nobody waits for.
    pub(super) maintain_soon: Notify,
    pub(super) stop: CancellationToken,
}

impl Engine {
    /// The writer epoch in the bucket of the database that was made after the epoch `after`; `None` when
    /// there is none yet. Changes nothing.
    pub async fn writer_epoch(
        object_store: &Arc<dyn ObjectStore>,
        path: &str,
        after: Epoch,
    ) -> Result<Option<Epoch>, EngineError> {
        guarded(handle::writer_epoch(Arc::clone(object_store), path, after)).await
    }

    /// Claims the epoch after `config.expected` and opens the database. Of several challengers that
    /// saw the same epoch exactly one succeeds; the others get [`EngineError::Fenced`] and have
    /// changed nothing. Dropped half-way, it may have claimed the epoch all the same.
    pub async fn open(config: EngineConfig) -> Result<Engine, EngineError> {
        let backend = Backend::new(
            config.object_store,
            config.path,
            config.after,
            config.if_match,
            config.mirror,
            HybridClock::new(config.wall),
        )
        .await?;
        let Claim { db, epoch, applied } = guarded(backend.claim_first(config.expected)).await?;
        let manifest = db.manifest();
        let (l0, log) = (manifest.l0().len(), maintenance::log_read(&manifest));
        tracing::info!(epoch = epoch.0, l0, log, "metadata engine opened");
        let durable = applied.map_or(Lsn::default(), |a| a.lsn);
        let handle = Handle { generation: 1, epoch, db };
        let inner = Arc::new(Inner {
            meter: Meter::new(&backend.store, &manifest, backend.clock.tick()),
            backend,
            on_epoch: config.on_epoch,
            slot: watch::Sender::new(Slot::Open(handle)),
            state: watch::Sender::new(EngineState::Active),
            epoch: watch::Sender::new(epoch),
            durable: watch::Sender::new(durable),
            broken: watch::Sender::new(0),
            first_epoch: epoch,
            opened_with: applied,
            kept: Mutex::default(),
            most_kept: config.most_kept.min(MAX_KEPT_BYTES),
            bucket_clock: config.bucket_clock,
            order: tokio::sync::Mutex::default(),
            rounds: Rounds::default(),
            accepted: Notify::new(),
            maintain_soon: Notify::new(),
            stop: CancellationToken::new(),
        });
        let tasks = vec![
            tokio::spawn(handle::replace_broken(Arc::clone(&inner))),
            tokio::spawn(feeder::run(Arc::clone(&inner))),
            tokio::spawn(flusher::run(Arc::clone(&inner))),
            tokio::spawn(maintenance::run(Arc::clone(&inner))),
        ];
        if maintenance::is_urgent(&manifest) {
            inner.maintain_soon.notify_one();
        }
        Ok(Engine { inner, meter: costs::Meter::default(), tasks: Mutex::new(tasks) })
    }

    /// The epoch that is ours now. It grows when the handle is replaced.
    pub fn epoch(&self) -> Epoch {
        *self.inner.epoch.borrow()
    }

    /// Follows [`Engine::epoch`]; the lease is kept under the current one.
    pub fn epoch_changes(&self) -> watch::Receiver<Epoch> {
        self.inner.epoch.subscribe()
    }

    pub fn state(&self) -> watch::Receiver<EngineState> {
        self.inner.state.subscribe()
    }

    /// The last durable batch of any epoch, as found by `open`.
    pub fn applied(&self) -> Option<Applied> {
        self.inner.opened_with
    }

    /// Everything up to this is in the bucket.
    pub fn durable_lsn(&self) -> Lsn {
        *self.inner.durable.borrow()
    }

    pub fn durable_changes(&self) -> watch::Receiver<Lsn> {
        self.inner.durable.subscribe()
    }

    /// Size of the batches that were handed over and are not known to be durable.
    pub fn undurable_bytes(&self) -> u64 {
        self.inner.kept.lock().bytes() as u64
    }

    /// The last batch that was handed over; grows with every one.
    pub fn last_accepted(&self) -> Option<Lsn> {
        self.inner.kept.lock().last()
    }

    /// Boot time since when the oldest of these batches waits.
    pub fn undurable_since(&self) -> Option<Duration> {
        self.inner.kept.lock().since()
    }

    /// What was asked of this engine so far.
    pub fn costs(&self) -> Costs {
        self.meter.costs()
    }

    /// From now on [`Costs::tombstones`] counts what scans go over. Takes memory for every deleted key.
    pub fn watch_tombstones(&self) {
        self.meter.watch_tombstones();
    }

    /// Goes over all batches that are not known to be durable.
    pub fn each_undurable_batch(&self, each: impl FnMut(&Batch)) {
        self.inner.kept.lock().each_batch(each);
    }

    /// The keys of all changes that are not known to be durable.
    pub fn undurable_keys(&self) -> BTreeSet<Vec<u8>> {
        self.inner.kept.lock().keys()
    }

    /// The value of a key, the batches handed over included.
    pub async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        if key.is_empty() {
            return Err(EngineError::BadKey);
        }
        self.meter.got();
        let mut attempts = 0;
        self.inner.alive()?;
        if let Some(value) = self.inner.kept.lock().newer(key) {
            return Ok(value);
        }
        guarded(async {
            loop {
                let handle = self.inner.handle().await?;
                match handle.db.get(key).await {
                    Ok(value) => return Ok(value),
                    Err(error) => attempts = self.inner.read_failed(&handle, error, attempts)?,
                }
            }
        })
        .await
    }

    /// The first `limit` pairs of a range in ascending order of keys, the batches handed over
    /// included.
    pub async fn scan(
        &self,
        from: Bound<Vec<u8>>,
        to: Bound<Vec<u8>>,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, EngineError> {
        if is_empty_range(&from, &to) {
            return Ok(Vec::new());
        }
        let mut attempts = 0;
        guarded(async {
            loop {
                let handle = self.inner.handle().await?;
                match self.inner.scan(&handle, &from, &to, limit).await {
                    Ok(pairs) => {
                        self.meter.scanned(&from, &to, &pairs, pairs.len() >= limit);
                        return Ok(pairs);
                    }
                    Err(error) => attempts = self.inner.read_failed(&handle, error, attempts)?,
                }
            }
        })
        .await
    }

    /// Takes a batch. The caller calls in the order of `lsn`, one at a time. Once this has been polled the
    /// batch is taken even if the future is dropped. Returns when the handle has it, too; durable it is only
    /// after [`Engine::flush`]. Waits while too much is not durable.
    pub async fn write(&self, lsn: Lsn, batch: impl Into<Arc<Batch>>) -> Result<(), EngineError> {
        self.accept(lsn, batch.into())?;
        self.inner.hand_over().await?;
        self.room().await
    }

    /// As [`Engine::write`], but waits for nothing: reads see the batch at once, and the handle gets it when
    /// it can take it. Whoever goes on and on asks for [`Engine::room`] before.
    pub fn accept(&self, lsn: Lsn, batch: Arc<Batch>) -> Result<(), EngineError> {
        if batch.iter().any(|(key, _)| key.is_empty() || key == RESERVED_KEY) {
            return Err(EngineError::BadKey);
        }
        self.inner.alive()?;
        self.meter.changed(&batch);
        let first = {
            let mut kept = self.inner.kept.lock();
            let first = kept.all_fed();
            kept.push(lsn, batch)?;
            first
        };
        if first {
            self.inner.accepted.notify_one();
        }
        Ok(())
    }

    /// Returns when not too much is waiting to become durable.
    pub async fn room(&self) -> Result<(), EngineError> {
        self.room_below(MAX_KEPT_BYTES).await
    }

    /// The same for those who bring much and in whose way nobody should wait: they leave most of the
    /// room to others.
    pub async fn room_for_bulk(&self) -> Result<(), EngineError> {
        self.room_below(BULK_KEPT_BYTES).await
    }

    async fn room_below(&self, most: usize) -> Result<(), EngineError> {
        let bytes = self.inner.kept.lock().bytes();
        if bytes > most.min(self.inner.most_kept) {
            let _receipt = self.inner.join_flush().await?;
        }
        Ok(())
    }

    /// The error that will meet every call from now on, if there is one.
    pub fn alive(&self) -> Result<(), EngineError> {
        self.inner.alive()
    }

    /// Whether the bucket's epoch is still ours, by reading alone. `Ok` holds for the past only:
    /// what must not race with another host is proven by a flush.
    pub async fn check_epoch(&self, deadline: Deadline) -> Result<(), EngineError> {
        let check = self.inner.backend.ours_after(self.epoch());
        match tokio::time::timeout(deadline.left(), check).await {
            Ok(found) => found.map(drop),
            Err(_) => Err(EngineError::Deadline),
        }
    }

    /// Compacts and collects garbage when it is due, or now if `force`. For idle moments, and every
    /// few minutes. Nothing else ever waits for it.
    pub async fn maintain(&self, force: bool) -> Result<Maintained, EngineError> {
        maintenance::maintain(&self.inner, force).await
    }

    /// Flushes and closes. If the flush fails or the deadline passes, the engine stays open, and
    /// closing can be tried again.
    pub async fn close(&self, deadline: Deadline) -> Result<(), EngineError> {
        let flushed = match self.flush(deadline).await {
            Ok(_receipt) => Ok(()),
            Err(EngineError::Closed) => return Ok(()),
            Err(error) if error.is_final() => Err(error),
            Err(error) => return Err(error),
        };
        if flushed.is_ok() {
            match tokio::time::timeout(CLOSE_LIMIT, maintenance::shorten_log(&self.inner)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::debug!(error, "the log stays long; the next open reads it");
                }
                Err(_) => tracing::debug!("there was no time to shorten the log"),
            }
        }
        let last = self.inner.slot.send_replace(Slot::Closed);
        self.inner.stop.cancel();
        if let Slot::Open(handle) = last {
            // By itself this would flush the memtable and leave one L0 file a mount, until the
            // engine waits for a compaction that nobody runs.
            let options = CloseOptions::default().with_flush_type(Some(FlushType::Wal));
            let closing = tokio::spawn(async move { handle.db.close_with_options(options).await });
            match tokio::time::timeout(CLOSE_LIMIT, closing).await {
                Ok(Ok(Ok(()))) => {}
                Ok(Ok(Err(error))) => tracing::debug!(%error, "engine closed with an error"),
                Ok(Err(error)) => tracing::warn!(%error, "closing the engine panicked"),
                Err(_) => tracing::warn!("the engine does not close; it is cut off"),
            }
        }
        self.end().await;
        flushed
    }

    /// Stops at once without flushing, as a crash would: no request of this engine is answered any
    /// more. For tests, and for a worker that must not write any more.
    pub fn abandon(&self) {
        self.inner.backend.store.cut();
        self.inner.stop.cancel();
        self.inner.slot.send_replace(Slot::Closed);
        self.inner.state.send_replace(EngineState::Closed);
    }

    async fn end(&self) {
        self.abandon();
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            if let Err(error) = task.await {
                tracing::warn!(%error, "a task of the engine did not end well");
            }
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.abandon();
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("path", &self.inner.backend.path)
            .field("epoch", &self.epoch())
            .field("state", &*self.inner.state.borrow())
            .finish_non_exhaustive()
    }
}

impl Inner {
    /// The error that will meet every call from now on, if there is one.
    pub(super) fn alive(&self) -> Result<(), EngineError> {
        match &*self.slot.borrow() {
            Slot::Open(_) | Slot::Reopening => Ok(()),
            Slot::Fenced { found } => {
                Err(EngineError::Fenced { ours: *self.epoch.borrow(), found: *found })
            }
            Slot::Closed => Err(EngineError::Closed),
        }
    }

    /// The handle, as soon as there is one.
    pub(super) async fn handle(&self) -> Result<Handle, EngineError> {
        let mut slot = self.slot.subscribe();
        loop {
            if let Slot::Open(handle) = &*slot.borrow_and_update() {
                return Ok(handle.clone());
            }
            self.alive()?;
            if slot.changed().await.is_err() {
                return Err(EngineError::Closed);
            }
        }
    }

    /// Has the handle replaced, unless that has happened already.
    pub(super) fn report_broken(&self, handle: &Handle, error: &slatedb::Error) {
        self.slot.send_if_modified(|slot| match slot {
            Slot::Open(current) if current.generation == handle.generation => {
                tracing::warn!(%error, epoch = handle.epoch.0, "the engine's handle failed");
                *slot = Slot::Reopening;
                self.state.send_replace(EngineState::Reopening);
                true
            }
            _ => false,
        });
        self.broken.send_if_modified(|broken| {
            let newer = handle.generation > *broken;
            *broken = (*broken).max(handle.generation);
            newer
        });
    }

    fn read_failed(
        &self,
        handle: &Handle,
        error: slatedb::Error,
        attempts: u32,
    ) -> Result<u32, EngineError> {
        self.report_broken(handle, &error);
        match attempts + 1 {
            MAX_READ_ATTEMPTS => Err(EngineError::from_slate(error)),
            attempts => Ok(attempts),
        }
    }

    /// Gives the handle every batch that it does not have yet, in order.
    pub(super) async fn hand_over(&self) -> Result<(), EngineError> {
        loop {
            self.handle().await?;
            let order = self.order.lock().await;
            let Slot::Open(handle) = self.slot.borrow().clone() else { continue };
            match self.hand_all_to(&handle).await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    drop(order);
                    self.report_broken(&handle, &error);
                }
            }
        }
    }

    /// The first `limit` pairs of a range: the handle's, under what it does not have yet. All of one moment.
    async fn scan(
        &self,
        handle: &Handle,
        from: &Bound<Vec<u8>>,
        to: &Bound<Vec<u8>>,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, slatedb::Error> {
        if !self.kept.lock().has_newer(from, to) {
            return handle::scan(&handle.db, from, to, limit).await;
        }
        let (stored, rows) = self.one_moment(handle, from, to, limit).await?;
        let more = limit.saturating_add(rows.len());
        let stored = handle::scan(stored.as_ref(), from, to, more).await?;
        Ok(ahead::merged(stored, rows, limit))
    }

    /// What the handle has, and the rows of a range that lie over it.
    async fn one_moment(
        &self,
        handle: &Handle,
        from: &Bound<Vec<u8>>,
        to: &Bound<Vec<u8>>,
        limit: usize,
    ) -> Result<(Arc<DbSnapshot>, ahead::Rows), slatedb::Error> {
        for _ in 0..SNAPSHOT_ATTEMPTS {
            let before = self.kept.lock().fed();
            let snapshot = handle.db.snapshot()?;
            let kept = self.kept.lock();
            if kept.fed() == before {
                return Ok((snapshot, kept.newer_rows(from, to, limit)));
            }
        }
        let _order = self.order.lock().await;
        let snapshot = handle.db.snapshot()?;
        Ok((snapshot, self.kept.lock().newer_rows(from, to, limit)))
    }

    /// Caller holds `order`.
    async fn hand_all_to(&self, handle: &Handle) -> Result<(), slatedb::Error> {
        loop {
            let Some((lsn, batches)) = self.kept.lock().next_group() else { return Ok(()) };
            let tick = self.backend.clock.tick();
            let applied = Applied { epoch: handle.epoch, lsn, tick };
            handle.db.write(handle::write_batch(&batches, &applied)).await?;
            self.kept.lock().mark_handed(lsn);
        }
    }
}

/// Runs `future` until the deadline.
pub(super) async fn within<T>(
    deadline: Deadline,
    future: impl Future<Output = T>,
) -> Result<T, EngineError> {
    tokio::time::timeout(deadline.left(), future).await.map_err(|_| EngineError::Deadline)
}

/// The rows of a map in a range. An empty range makes a map panic by itself.
pub(super) fn rows_between<'m, V>(
    map: &'m BTreeMap<Bytes, V>,
    from: &Bound<Vec<u8>>,
    to: &Bound<Vec<u8>>,
) -> impl Iterator<Item = (&'m Bytes, &'m V)> {
    let range = (from.as_ref().map(Vec::as_slice), to.as_ref().map(Vec::as_slice));
    let rows = (!is_empty_range(from, to)).then(|| map.range::<[u8], _>(range));
    rows.into_iter().flatten()
}

pub(super) fn is_empty_range(from: &Bound<Vec<u8>>, to: &Bound<Vec<u8>>) -> bool {
    match (from, to) {
        (Bound::Included(from), Bound::Included(to)) => from > to,
        (Bound::Included(from), Bound::Excluded(to))
        | (Bound::Excluded(from), Bound::Included(to))
        | (Bound::Excluded(from), Bound::Excluded(to)) => from >= to,
        _ => false,
    }
}
