//! One order for all changes.
//!
//! Under the sequencer's lock, in this order: the batch is appended to the local log, accepted by the
//! engine, and shown to readers. Log order is engine order, so a crash of the process replays exactly
//! the history that was acknowledged. A batch is accepted only when it may become durable at
//! that instant, because any flush makes it so.
//!
//! Lock order: sequencer, then an inode's live state, then the journal. Nothing but the sequencer is
//! held over an await.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::{Mutex as AsyncMutex, MutexGuard, Notify};

use super::floors::Floors;
use super::journal::{Journal, Record};
use super::kvcache::KvCache;
use super::newborn::{Newborn, Rows};
use super::records::{RecordError, RestRec, Row, SuperRec, decode, encode};
use super::uplink::{ROUNDS, Uplink};
use super::{Batch, Engine, EngineError, LogError, Receipt, keys};
use crate::clock::Deadline;
use crate::fault::{Mutant, at, points};
use crate::types::{Ino, Lsn, ObjectKey};

/// Why metadata could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum MetaError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("the local log cannot be written: {0}")]
    Log(#[from] LogError),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error("{0}")]
    Refused(String),
    /// Nothing was changed.
    #[error(
        "the bucket that holds the volume's metadata did not answer for {} s; check that it can be reached",
        .0.as_secs()
    )]
    Late(Duration),
}

/// How long a program waits for the bucket before it gets EIO, when metadata has to be read or too
/// much of it is not durable. As long as a write waits for room, and for the same reason: shorter than
/// the kernel's hung-task warning (120 s).
const PATIENCE: Duration = Duration::from_secs(60);

/// On a full disk the log is looked at again after this long: who has filled the disk may free it.
const LOOK: Duration = Duration::from_millis(200);

/// Bytes of engine values kept for readers.
const CACHE_BYTES: u64 = 8 << 20;

/// The metadata of one volume: the engine behind a cache, and the sequencer before it.
#[derive(Debug)]
pub struct Meta {
    pub engine: Engine,
    pub journal: Arc<Mutex<Journal>>,
    cache: KvCache,
    floors: Floors,
    newborn: Newborn,
    /// Rung when rows were put that only the collector looks at.
    pub garbage: Notify,
    sequencer: AsyncMutex<SuperRec>,
    /// The sequencer's counters, for readers that must not wait for a change under way. A leaf.
    counters: Mutex<SuperRec>,
    /// Names this worker's FUSE connection in the log.
    connection: u64,
    /// The last batch handed over.
    handed: AtomicU64,
    /// What the journal was told to forget.
    forgotten: AtomicU64,
    patience: Duration,
    uplink: Uplink,
    /// Why nothing is acknowledged any more.
    refused: OnceLock<String>,
}

/// What a batch is logged as.
#[derive(Debug)]
pub enum Logged {
    /// The answer to a FUSE request (0: to none).
    Op { unique: u64 },
    /// Content commits.
    Commit { inodes: Vec<(Ino, Lsn)> },
}

impl Meta {
    /// Takes an open engine and a replayed log. `superblock` is the engine's, or a new volume's.
    pub fn new(engine: Engine, journal: Journal, superblock: SuperRec, connection: u64) -> Self {
        Meta::sharing(engine, Arc::new(Mutex::new(journal)), superblock, connection)
    }

    /// [`Meta::new`] with a log that others write epochs to.
    pub fn sharing(
        engine: Engine,
        journal: Arc<Mutex<Journal>>,
        superblock: SuperRec,
        connection: u64,
    ) -> Self {
        Meta {
            engine,
            journal,
            cache: KvCache::new(CACHE_BYTES),
            floors: Floors::default(),
            newborn: Newborn::from(superblock.next_ino),
            garbage: Notify::new(),
            counters: Mutex::new(superblock.clone()),
            sequencer: AsyncMutex::new(superblock),
            connection,
            handed: AtomicU64::new(0),
            forgotten: AtomicU64::new(0),
            patience: crate::fault::duration(crate::fault::SYNC_TIMEOUT, PATIENCE),
            uplink: Uplink::default(),
            refused: OnceLock::new(),
        }
    }

    /// From now on changes wait as long as the bytes that `sent` counts go up.
    pub fn watch_uplink(&self, sent: impl Fn() -> u64 + Send + Sync + 'static) {
        self.uplink.watch(Box::new(sent));
    }

    /// How long a program waits for the bucket or for the local disk before it gets an error.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// From now on nothing is acknowledged: the volume's state is not what it was.
    pub fn refuse(&self, why: &str) {
        // The first reason stays.
        let _ = self.refused.set(why.to_owned());
    }

    fn accepting(&self) -> Result<(), MetaError> {
        match self.refused.get() {
            Some(why) => Err(MetaError::Refused(why.clone())),
            None => Ok(()),
        }
    }

    /// Whether batches were handed over that are not known to be durable.
    pub fn undurable(&self) -> bool {
        self.handed.load(Ordering::SeqCst) > self.engine.durable_lsn().0
    }

    /// Proves by a durable batch that no other host has taken the volume over.
    pub async fn confirm_ownership(&self, timeout: Duration) -> Result<Receipt, MetaError> {
        let deadline = Deadline::after(timeout);
        let mut txn = in_time(timeout, self.begun()).await??;
        txn.put(keys::owner(), &self.engine.epoch());
        txn.commit(Logged::Op { unique: 0 }, || {}).await?;
        self.flush(deadline.left()).await
    }

    /// The value of a key as of the last change.
    pub async fn get_raw(&self, key: &[u8]) -> Result<Option<Bytes>, MetaError> {
        if key.first() == Some(&keys::EXTENT) {
            return Ok(in_time(self.patience, self.engine.get(key)).await??);
        }
        if let Some(hit) = self.cache.get(key) {
            return Ok(hit);
        }
        let ticket = self.cache.ticket();
        let value = in_time(self.patience, self.engine.get(key)).await??;
        self.cache.fill(ticket, key, &value);
        Ok(value)
    }

    /// A record, if the key is there.
    pub async fn get<T: Row>(&self, key: &[u8]) -> Result<Option<T>, MetaError> {
        match self.get_raw(key).await? {
            Some(bytes) => Ok(Some(decode(&bytes)?)),
            None => Ok(None),
        }
    }

    /// Keys and values of a range, in order, at most `limit`.
    pub async fn scan(
        &self,
        range: keys::Range,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, MetaError> {
        match self.newborn.rows(&range) {
            Rows::None => return Ok(Vec::new()),
            Rows::One(key) => {
                let value = self.get_raw(&key).await?;
                // Else another row may have taken its place meanwhile: one that is put is known before it is seen.
                if self.newborn.rows(&range) == Rows::One(key.clone()) {
                    return Ok(value.map(|value| (Bytes::from(key), value)).into_iter().collect());
                }
            }
            Rows::Unknown => {}
        }
        let (from, to) = range;
        Ok(in_time(self.patience, self.engine.scan(from, to, limit)).await??)
    }

    /// The first rows of a queue, at most `limit`, without going over what was taken off it before.
    pub async fn queue(&self, queue: u8, limit: usize) -> Result<Vec<(Bytes, Bytes)>, MetaError> {
        let look = self.floors.look(queue);
        let (from, to) = keys::below(queue, &[]);
        let from = if look.floor.is_empty() { from } else { Bound::Included(look.floor.clone()) };
        let page = self.scan((from, to.clone()), limit).await?;
        match (page.first(), to) {
            (Some((first, _)), _) => look.found(first.to_vec()),
            (None, Bound::Excluded(end)) => look.found(end),
            (None, _) => {}
        }
        Ok(page)
    }

    /// The range of a queue, for a walk over all of it.
    pub fn queued(&self, queue: u8) -> keys::Range {
        let (from, to) = keys::below(queue, &[]);
        let floor = self.floors.floor(queue);
        (if floor.is_empty() { from } else { Bound::Included(floor) }, to)
    }

    /// As [`Meta::begin`], for one of many batches in a row: waits much earlier for what was handed over
    /// to become durable, so that nobody else has to.
    pub async fn begin_bulk(&self) -> Result<Txn<'_>, MetaError> {
        self.room_for_bulk().await?;
        self.begin_owed().await
    }

    /// Returns when [`Meta::begin_bulk`] would not wait for long.
    pub async fn room_for_bulk(&self) -> Result<(), MetaError> {
        let room = self.uplink.wait(self.patience, self.engine.room_for_bulk()).await;
        Ok(room.ok_or(MetaError::Late(self.patience))??)
    }

    /// Begins a change; others wait until it is committed or dropped. All waiting for the bucket is
    /// done here and by reading: what is refused for that has changed nothing, and a commit does not
    /// wait.
    pub async fn begin(&self) -> Result<Txn<'_>, MetaError> {
        self.log_room(Deadline::after(self.patience)).await?;
        self.begin_owed().await
    }

    /// [`Meta::begin`] for what brings others' changes into the bucket: it may use what the log keeps for
    /// a full disk, because nothing else makes room.
    pub async fn begin_owed(&self) -> Result<Txn<'_>, MetaError> {
        let begun = self.uplink.wait(self.patience, self.begun()).await;
        begun.ok_or(MetaError::Late(self.patience))?
    }

    /// Returns when the log has room for more than what commits may need. Where the local disk is full it
    /// gets shorter by what becomes durable.
    pub async fn log_room(&self, deadline: Deadline) -> Result<(), MetaError> {
        self.until_log(deadline, |journal| journal.has_room(0)).await
    }

    /// Returns when so many bytes of commits fit into the log, whatever happens to the local disk.
    pub async fn log_fits(&self, bytes: u64, deadline: Deadline) -> Result<(), MetaError> {
        self.until_log(deadline, |journal| journal.fits(bytes)).await
    }

    async fn until_log(
        &self,
        deadline: Deadline,
        enough: impl Fn(&mut Journal) -> bool,
    ) -> Result<(), MetaError> {
        while !enough(&mut self.journal.lock()) {
            let flushed = self.engine.flush(deadline).await;
            self.forget_durable();
            if enough(&mut self.journal.lock()) {
                break;
            }
            let _receipt = flushed?;
            if deadline.passed() {
                return Err(self.journal.lock().full().into());
            }
            tokio::time::sleep(LOOK.min(deadline.left())).await;
        }
        Ok(())
    }

    async fn begun(&self) -> Result<Txn<'_>, MetaError> {
        // Before the lock: those who find no room wait side by side.
        self.engine.room().await?;
        self.forget_durable();
        let guard = self.sequencer.lock().await;
        let superblock = guard.clone();
        Ok(Txn { meta: self, guard, superblock, writes: BTreeMap::new() })
    }

    /// Drops from memory and from the log what became durable, by whosever flush.
    fn forget_durable(&self) {
        let durable = match Mutant::LogTrimmedEarly.lives() {
            true => Lsn(self.handed.load(Ordering::SeqCst)),
            false => self.engine.durable_lsn(),
        };
        if self.forgotten.fetch_max(durable.0, Ordering::SeqCst) >= durable.0 {
            return;
        }
        // What is durable stays so when the log cannot be shortened.
        if let Err(error) = self.journal.lock().durable(durable) {
            tracing::warn!(error = &error as &dyn std::error::Error, "the local log stays long");
        }
    }

    /// Everything handed over before this call is in the bucket when it returns.
    pub async fn flush(&self, timeout: Duration) -> Result<Receipt, MetaError> {
        self.accepting()?;
        let receipt = self.engine.flush(Deadline::after(timeout)).await?;
        self.forget_durable();
        Ok(receipt)
    }

    /// As [`Meta::flush`], for work beside programs: none of those waits for a flush of its own behind this one.
    pub async fn flush_beside(&self, timeout: Duration) -> Result<Receipt, MetaError> {
        self.accepting()?;
        let receipt = self.engine.flush_beside(Deadline::after(timeout)).await?;
        self.forget_durable();
        Ok(receipt)
    }

    /// As [`Meta::flush_beside`], and as patient as [`Meta::flush_patiently`].
    pub async fn flush_beside_patiently(&self, patience: Duration) -> Result<Receipt, MetaError> {
        let flushed = self.uplink.wait(patience, self.flush_beside(patience * ROUNDS)).await;
        flushed.unwrap_or(Err(EngineError::Deadline.into()))
    }

    /// As [`Meta::flush`]; takes longer than `patience` only as long as something goes up.
    pub async fn flush_patiently(&self, patience: Duration) -> Result<Receipt, MetaError> {
        let flushed = self.uplink.wait(patience, self.flush(patience * ROUNDS)).await;
        flushed.unwrap_or(Err(EngineError::Deadline.into()))
    }

    /// Names this worker's FUSE connection in the log.
    pub fn connection(&self) -> u64 {
        self.connection
    }

    /// Counters as of the last change.
    pub fn superblock(&self) -> SuperRec {
        self.counters.lock().clone()
    }

    /// Ends acknowledging, if everything that was acknowledged is in batches that the engine has.
    pub async fn seal(&self) -> bool {
        let _order = self.sequencer.lock().await;
        self.journal.lock().seal()
    }
}

/// A change being put together. Dropping it changes nothing.
#[derive(Debug)]
pub struct Txn<'m> {
    meta: &'m Meta,
    guard: MutexGuard<'m, SuperRec>,
    pub superblock: SuperRec,
    writes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl Txn<'_> {
    /// The value as this change leaves it.
    pub async fn get_raw(&self, key: &[u8]) -> Result<Option<Bytes>, MetaError> {
        match self.writes.get(key) {
            Some(value) => Ok(value.as_ref().map(|v| Bytes::copy_from_slice(v))),
            None => self.meta.get_raw(key).await,
        }
    }

    pub async fn get<T: Row>(&self, key: &[u8]) -> Result<Option<T>, MetaError> {
        match self.get_raw(key).await? {
            Some(bytes) => Ok(Some(decode(&bytes)?)),
            None => Ok(None),
        }
    }

    /// The range as this change leaves it, in pages: looks at `limit` of the engine's keys at a time
    /// and returns the first page that is not empty, and whether there may be more behind it.
    pub async fn scan(
        &self,
        (mut from, to): keys::Range,
        limit: usize,
    ) -> Result<(Vec<(Bytes, Bytes)>, bool), MetaError> {
        loop {
            let engine = self.meta.scan((from.clone(), to.clone()), limit).await?;
            let last = engine.last().map(|(key, _)| key.to_vec());
            let more = engine.len() >= limit;
            // Beyond a cut-off page of the engine's keys nothing is known yet.
            let known_to = match (&last, more) {
                (Some(last), true) => Bound::Included(last.clone()),
                _ => to.clone(),
            };
            let mut merged: BTreeMap<Bytes, Option<Bytes>> =
                engine.into_iter().map(|(k, v)| (k, Some(v))).collect();
            for (key, value) in self.writes.range((from, known_to)) {
                let value = value.as_ref().map(|v| Bytes::copy_from_slice(v));
                merged.insert(Bytes::copy_from_slice(key), value);
            }
            let page: Vec<_> = merged.into_iter().filter_map(|(k, v)| v.map(|v| (k, v))).collect();
            match last {
                Some(last) if page.is_empty() && more => from = Bound::Excluded(last),
                _ => return Ok((page, more)),
            }
        }
    }

    /// Keys and values of a range that is known to be short, as this change leaves it.
    pub async fn scan_all(
        &self,
        (mut from, to): keys::Range,
    ) -> Result<Vec<(Bytes, Bytes)>, MetaError> {
        let mut found: Vec<(Bytes, Bytes)> = Vec::new();
        loop {
            let (page, more) = self.scan((from, to.clone()), super::pages::PAGE).await?;
            found.extend(page);
            match found.last() {
                Some((last, _)) if more => from = Bound::Excluded(last.to_vec()),
                _ => return Ok(found),
            }
        }
    }

    pub fn put<T: Serialize>(&mut self, key: Vec<u8>, record: &T) {
        self.put_raw(key, encode(record));
    }

    pub fn put_raw(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.meta.newborn.put(&key);
        self.writes.insert(key, Some(value));
    }

    pub fn delete(&mut self, key: Vec<u8>) {
        self.writes.insert(key, None);
    }

    /// Records what lies at a key, and under its inode that it lies there.
    pub async fn put_rest(&mut self, key: &ObjectKey, rest: &RestRec) -> Result<(), MetaError> {
        self.delete_rest(key).await?;
        self.put(keys::rest(key), rest);
        self.put_raw(keys::rests(rest.ino, key), Vec::new());
        Ok(())
    }

    /// Nothing that we know lies at a key any more.
    pub async fn delete_rest(&mut self, key: &ObjectKey) -> Result<(), MetaError> {
        if let Some(old) = self.get::<RestRec>(&keys::rest(key)).await? {
            self.delete(keys::rests(old.ino, key));
            self.delete(keys::rest(key));
        }
        Ok(())
    }

    /// A fresh inode number.
    pub fn new_ino(&mut self) -> Ino {
        let ino = Ino(self.superblock.next_ino);
        self.superblock.next_ino += 1;
        ino
    }

    /// Whether nothing was changed so far.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.superblock == *self.guard
    }

    /// Counts the rows that come to the queues of settling or leave them.
    async fn count_queues(&mut self) -> Result<(), MetaError> {
        let (mut work, mut tidy) = (0_i64, 0_i64);
        for (key, value) in &self.writes {
            let counter = match key.first() {
                Some(&keys::WORK) => &mut work,
                Some(&keys::TIDY) => &mut tidy,
                _ => continue,
            };
            // A number that this change gives out has no row yet.
            let new = key.first() == Some(&keys::WORK)
                && keys::parse_ino(key).is_some_and(|ino| ino.0 >= self.guard.next_ino);
            let was = !new && self.meta.get_raw(key).await?.is_some();
            *counter += i64::from(value.is_some()) - i64::from(was);
        }
        self.superblock.work = self.superblock.work.saturating_add_signed(work);
        self.superblock.tidy = self.superblock.tidy.saturating_add_signed(tidy);
        Ok(())
    }

    /// Logs the change, hands it to the engine and shows it to readers; then `applied` runs, still
    /// in order. An error changes nothing, and what the log took is no error: a host that loses the volume in
    /// that moment has one more change that was answered and not synced. Nothing is waited for once the log
    /// has it.
    pub async fn commit(mut self, logged: Logged, applied: impl FnOnce()) -> Result<(), MetaError> {
        self.count_queues().await?;
        if self.superblock != *self.guard {
            let superblock = encode(&self.superblock);
            self.writes.insert(keys::superblock(), Some(superblock));
        }
        if self.writes.is_empty() {
            applied();
            return Ok(());
        }
        self.meta.accepting()?;
        self.meta.engine.alive()?;
        let mut batch = Batch::default();
        for (key, value) in std::mem::take(&mut self.writes) {
            match value {
                Some(value) => batch.put(key, value),
                None => batch.delete(key),
            }
        }
        let batch = Arc::new(batch);
        let answers = matches!(logged, Logged::Op { unique } if unique != 0);
        let record = match logged {
            Logged::Op { unique } => {
                Record::Op { conn: self.meta.connection, unique, batch: Arc::clone(&batch) }
            }
            Logged::Commit { inodes } => Record::Commit { inodes, batch: Arc::clone(&batch) },
        };
        let lsn = self.meta.journal.lock().append(&record)?;
        if answers {
            crate::fault::die_if_asked(crate::fault::DIE_LOGGED);
        }
        self.meta.handed.store(lsn.0, Ordering::SeqCst);
        at(points::BATCH_BEFORE);
        match self.meta.engine.accept(lsn, Arc::clone(&batch)) {
            // The log goes on with it when the other host made nothing durable.
            Err(error) if !error.is_final() => return Err(error.into()),
            Ok(()) | Err(_) => {}
        }
        at(points::BATCH_AFTER);
        self.show(&batch);
        applied();
        Ok(())
    }

    fn show(&mut self, batch: &Batch) {
        *self.guard = self.superblock.clone();
        *self.meta.counters.lock() = self.superblock.clone();
        // Nobody looks extents up one by one, and a batch may hold thousands.
        let single = batch.changes().filter(|(key, _)| key.first() != Some(&keys::EXTENT));
        self.meta.cache.wrote(single);
        let mut garbage = false;
        for (key, value) in batch.changes() {
            if value.is_some() {
                self.meta.floors.put(key);
                garbage |= matches!(key.first(), Some(&keys::DEAD | &keys::GARBAGE));
            }
        }
        if garbage {
            self.meta.garbage.notify_one();
        }
    }
}

async fn in_time<T>(patience: Duration, work: impl Future<Output = T>) -> Result<T, MetaError> {
    tokio::time::timeout(patience, work).await.map_err(|_| MetaError::Late(patience))
}

#[cfg(test)]
mod tests;
