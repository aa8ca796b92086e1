//! The local log's records, and what of them is still needed.
//!
//! The log makes a crash of the process lose nothing. Order is the engine's order. What can be
//! forgotten: batches that the engine made durable, and changes that a logged commit holds. The
//! [`Fold`] keeps what is left, both while running (to shorten the log) and after a crash (to
//! replay it): one piece of code for both.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::pending::{Change, Pending};
use super::{Batch, LocalLog, LogError, keys};
use crate::fault::{Mutant, at, points};
use crate::types::{Epoch, Ino, Lsn, Timestamp};

/// One record of the local log. A batch is shared with the engine, which keeps it as long.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Record {
    /// A whole namespace or attribute change. `unique` is the FUSE request that it answers (0:
    /// none), within connection `conn`.
    Op {
        conn: u64,
        unique: u64,
        batch: Arc<Batch>,
    },
    /// Commits: each inode with the last record whose change the batch holds.
    Commit {
        inodes: Vec<(Ino, Lsn)>,
        batch: Arc<Batch>,
    },
    /// Bytes are in the cache file; the file then has `size` bytes.
    Wrote {
        ino: Ino,
        start: u64,
        end: u64,
        size: u64,
        time: Timestamp,
    },
    /// Zeros over whatever was there.
    Zeroed {
        ino: Ino,
        start: u64,
        end: u64,
        size: u64,
        time: Timestamp,
    },
    /// The size was set.
    Cut {
        ino: Ino,
        size: u64,
        time: Timestamp,
    },
    /// A handle was opened or closed; an unlinked file lives while one is open.
    Opened {
        ino: Ino,
    },
    Closed {
        ino: Ino,
    },
    /// A new FUSE connection: handles and requests of earlier ones are gone.
    Connected {
        conn: u64,
    },
    /// What rotation leaves of an [`Record::Op`] that a request may still ask about.
    Answered {
        conn: u64,
        unique: u64,
    },
    /// A handle was closed by this FUSE request: sent again, it must not close another one.
    Released {
        conn: u64,
        unique: u64,
        ino: Ino,
    },
    /// Batches up to this one are in the bucket. What a log has beyond it may be nowhere else.
    Durable {
        through: Lsn,
    },
    /// A handle was opened by this FUSE request: sent again, it must not count another one.
    OpenedBy {
        conn: u64,
        unique: u64,
        ino: Ino,
    },
}

/// Stands for the handle that a request opened, among the requests that were carried out: CREATE
/// makes a name first, and a worker may die in between. The kernel's own numbers are even.
fn handle_of(unique: u64) -> u64 {
    match unique {
        0 => 0,
        request => request | 1,
    }
}

/// Requests remembered for the kernel's resending: far more than it can have unanswered.
const ANSWERS: usize = 16_384;

/// The FUSE requests of one connection that were carried out, the latest of them.
#[derive(Debug, Clone, Default)]
struct Answers {
    conn: u64,
    order: VecDeque<u64>,
    known: HashSet<u64>,
}

impl Answers {
    fn add(&mut self, conn: u64, unique: u64) {
        if unique == 0 || conn != self.conn || !self.known.insert(unique) {
            return;
        }
        self.order.push_back(unique);
        if self.order.len() > ANSWERS
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

/// What the log still has to remember.
#[derive(Debug, Clone, Default)]
pub struct Fold {
    /// Batches by position, dropped once durable.
    pub batches: BTreeMap<Lsn, Record>,
    pub pending: HashMap<Ino, Pending>,
    /// Last content change that no record holds yet, for mtime and ctime.
    pub times: HashMap<Ino, Timestamp>,
    pub opens: HashMap<Ino, u32>,
    answers: Answers,
}

impl Fold {
    /// Takes one record in.
    pub fn apply(&mut self, lsn: Lsn, record: &Record) {
        match record {
            Record::Op { conn, unique, batch } => {
                self.attributes_changed(batch);
                self.answers.add(*conn, *unique);
                self.batches.insert(lsn, record.clone());
            }
            Record::Commit { inodes, .. } => {
                for (ino, through) in inodes {
                    if let Some(pending) = self.pending.get_mut(ino) {
                        pending.committed(*through);
                        if pending.is_clean() {
                            self.pending.remove(ino);
                            self.times.remove(ino);
                        }
                    }
                }
                self.batches.insert(lsn, record.clone());
            }
            Record::Wrote { ino, start, end, size, time } => {
                let pending = self.pending.entry(*ino).or_default();
                pending.changed(lsn, *start, *end, Change::Data, *size);
                self.changed_at(*ino, *time);
            }
            Record::Zeroed { .. } if Mutant::HoleForgotten.lives() => {}
            Record::Cut { .. } if Mutant::CutForgotten.lives() => {}
            Record::Zeroed { ino, start, end, size, time } => {
                let pending = self.pending.entry(*ino).or_default();
                pending.changed(lsn, *start, *end, Change::Zero, *size);
                self.changed_at(*ino, *time);
            }
            Record::Cut { ino, size, time } => {
                self.pending.entry(*ino).or_default().cut(lsn, *size);
                self.changed_at(*ino, *time);
            }
            Record::Opened { ino } => *self.opens.entry(*ino).or_default() += 1,
            Record::Closed { ino } => self.closed(*ino),
            Record::Released { conn, unique, ino } => {
                self.answers.add(*conn, *unique);
                self.closed(*ino);
            }
            Record::OpenedBy { conn, unique, ino } => {
                self.answers.add(*conn, handle_of(*unique));
                *self.opens.entry(*ino).or_default() += 1;
            }
            Record::Connected { conn } => {
                self.opens.clear();
                self.answers = Answers { conn: *conn, ..Answers::default() };
            }
            Record::Answered { conn, unique } => self.answers.add(*conn, *unique),
            Record::Durable { through } => self.durable(*through),
        }
    }

    /// The FUSE connection that answers are remembered of; 0 when there was none.
    pub fn connection(&self) -> u64 {
        self.answers.conn
    }

    fn closed(&mut self, ino: Ino) {
        if let Some(count) = self.opens.get_mut(&ino) {
            *count -= 1;
            if *count == 0 {
                self.opens.remove(&ino);
            }
        }
    }

    /// An inode's record holds its times as of then; one that is gone has nothing left to commit.
    fn attributes_changed(&mut self, batch: &Batch) {
        for (key, value) in batch.iter() {
            if key.first() != Some(&keys::INODE) {
                continue;
            }
            if let Some(ino) = keys::parse_ino(key) {
                match value {
                    Some(_) => drop(self.times.remove(&ino)),
                    None => self.removed(ino),
                }
            }
        }
    }

    /// A rewritten log says nothing of times that an operation has recorded since.
    fn changed_at(&mut self, ino: Ino, time: Timestamp) {
        if time != Timestamp::default() {
            self.times.insert(ino, time);
        }
    }

    /// Forgets an inode that is gone.
    pub fn removed(&mut self, ino: Ino) {
        if let Some(pending) = self.pending.remove(&ino) {
            pending.ranges.forget();
        }
        self.times.remove(&ino);
    }

    /// Forgets batches up to `durable`.
    pub fn durable(&mut self, durable: Lsn) {
        self.batches = self.batches.split_off(&Lsn(durable.0 + 1));
    }

    /// Bytes that [`Fold::snapshot`] takes in a log, roughly.
    fn weight(&self) -> u64 {
        let small = self.opens.values().map(|count| *count as usize).sum::<usize>()
            + self.answers.order.len()
            + self.pending.values().map(|p| p.ranges.len() + p.cuts.len()).sum::<usize>();
        let batches = self.batches.values().map(|record| match record {
            Record::Op { batch, .. } | Record::Commit { batch, .. } => batch.len_bytes() as u64,
            _ => 0,
        });
        small as u64 * SMALL_RECORD + batches.sum::<u64>()
    }

    /// The records that rebuild this fold, in log order. What has no place in it comes first, at
    /// position 0.
    fn snapshot(&self) -> Vec<(Lsn, Record)> {
        let conn = self.answers.conn;
        let mut records: Vec<(Lsn, Record)> = vec![(Lsn(0), Record::Connected { conn })];
        for unique in &self.answers.order {
            records.push((Lsn(0), Record::Answered { conn, unique: *unique }));
        }
        for (ino, count) in &self.opens {
            for _ in 0..*count {
                records.push((Lsn(0), Record::Opened { ino: *ino }));
            }
        }
        for (lsn, record) in &self.batches {
            records.push((*lsn, record.clone()));
        }
        for (ino, pending) in &self.pending {
            let time = self.times.get(ino).copied().unwrap_or_default();
            let size = pending.size.map_or(0, |(_, size)| size);
            for (lsn, size) in &pending.cuts {
                records.push((*lsn, Record::Cut { ino: *ino, size: *size, time }));
            }
            for (range, (lsn, change)) in pending.ranges.iter() {
                let (start, end) = (range.start, range.end);
                records.push((
                    lsn,
                    match change {
                        Change::Data => Record::Wrote { ino: *ino, start, end, size, time },
                        Change::Zero => Record::Zeroed { ino: *ino, start, end, size, time },
                    },
                ));
            }
        }
        // One record may have left several ranges; a stable sort keeps each file's own order.
        records.sort_by_key(|(lsn, _)| *lsn);
        records
    }
}

/// The log together with what of it is needed.
#[derive(Debug)]
pub struct Journal {
    log: LocalLog<Record>,
    fold: Fold,
    /// The log is rewritten when it is longer than this, bytes: rewriting costs a pass over what is left, so
    /// it waits until that is worth it.
    limit: u64,
    accepts: Accepts,
    /// Whether the fold knows everything that the log holds.
    replayed: bool,
}

/// What is still acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Accepts {
    All,
    /// The volume is about to be given back: only what brings the rest into the bucket.
    Batches,
    Nothing,
}

/// A record without a batch, in a frame, bytes.
const SMALL_RECORD: u64 = 48;
/// What a rotation has to give back where the disk is full, bytes.
const WORTH: u64 = 64 << 10;

impl Journal {
    pub fn new(log: LocalLog<Record>, fold: Fold) -> Self {
        let limit = log.long();
        Journal { log, fold, limit, accepts: Accepts::All, replayed: true }
    }

    /// Takes a log whose records are not replayed yet; [`Journal::go_on_from`] comes before its first one.
    pub fn before_replay(log: LocalLog<Record>) -> Self {
        Journal { replayed: false, ..Journal::new(log, Fold::default()) }
    }

    /// Writes a record; it survives a crash of the process from here on.
    pub fn append(&mut self, record: &Record) -> Result<Lsn, LogError> {
        let content =
            matches!(record, Record::Wrote { .. } | Record::Zeroed { .. } | Record::Cut { .. });
        match self.accepts {
            Accepts::All => {}
            Accepts::Batches if !content => {}
            Accepts::Batches | Accepts::Nothing => return Err(LogError::Ended),
        }
        at(points::LOG_APPEND_BEFORE);
        let lsn = match self.log.append(record) {
            Err(LogError::NoSpace { .. }) if self.shorten() => self.log.append(record),
            other => other,
        }?;
        at(points::LOG_APPEND_AFTER);
        self.fold.apply(lsn, record);
        Ok(lsn)
    }

    /// Whether so many bytes of commits can be appended whatever happens to the local disk, and then some
    /// more. Whoever asks for changes that have to be committed later waits until it is so.
    pub fn has_room(&mut self, bytes: u64) -> bool {
        self.log.has_room(bytes) || self.shorten() && self.log.has_room(bytes)
    }

    /// Whether so many bytes can be appended whatever happens to the local disk.
    pub fn fits(&mut self, bytes: u64) -> bool {
        self.log.fits(bytes) || self.shorten() && self.log.fits(bytes)
    }

    /// The error that there is no room.
    pub fn full(&self) -> LogError {
        self.log.full()
    }

    /// Rewrites the log of a full disk, if that gives something back.
    fn shorten(&mut self) -> bool {
        if !self.replayed || self.log.len_bytes() < self.fold.weight() + WORTH {
            return false;
        }
        match self.rotate() {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the local log stays long"
                );
                false
            }
        }
    }

    fn rotate(&mut self) -> Result<(), LogError> {
        self.log.rotate(self.fold.snapshot().into_iter())?;
        self.limit = self.log.long().max(self.log.len_bytes() * 2);
        Ok(())
    }

    /// Goes on from what a replay left; the next record gets a number beyond `durable`.
    pub fn go_on_from(&mut self, fold: Fold, durable: Lsn) {
        self.fold = fold;
        self.replayed = true;
        self.log.skip_to(Lsn(durable.0 + 1));
    }

    /// Batches that are not known to be durable.
    #[cfg(test)]
    pub(super) fn undurable(&self) -> Vec<Arc<Batch>> {
        let batch = |record: &Record| match record {
            Record::Op { batch, .. } | Record::Commit { batch, .. } => Some(Arc::clone(batch)),
            _ => None,
        };
        self.fold.batches.values().filter_map(batch).collect()
    }

    /// Writes an epoch that this host claimed, before its first batch.
    pub fn append_epoch(&mut self, epoch: Epoch) -> Result<(), LogError> {
        self.log.append_epoch(epoch)
    }

    /// The position that the next record gets.
    pub fn next_lsn(&self) -> Lsn {
        self.log.next_lsn()
    }

    /// From now on content stays as it is; batches are still taken.
    pub fn refuse_content(&mut self) {
        if self.accepts == Accepts::All {
            self.accepts = Accepts::Batches;
        }
    }

    /// From now on nothing is acknowledged, if all content changes are in batches by now.
    pub fn seal(&mut self) -> bool {
        let committed = self.fold.pending.is_empty();
        if committed {
            self.accepts = Accepts::Nothing;
        }
        committed
    }

    /// Whether this request of the current FUSE connection was carried out before.
    pub fn answered(&self, unique: u64) -> bool {
        self.fold.answers.known.contains(&unique)
    }

    /// Whether the handle that this request of the current FUSE connection opens was counted before.
    pub fn opened(&self, unique: u64) -> bool {
        self.fold.answers.known.contains(&handle_of(unique))
    }

    /// Forgets an inode that is gone.
    pub fn removed(&mut self, ino: Ino) {
        self.fold.removed(ino);
    }

    /// Everything up to `durable` is in the bucket: forget it, and shorten the log when it pays.
    pub fn durable(&mut self, durable: Lsn) -> Result<(), LogError> {
        let held = self.fold.batches.len();
        self.fold.durable(durable);
        if self.fold.batches.len() < held {
            let noted = self.log.append(&Record::Durable { through: durable });
            if let Err(error) = noted
                && !self.shorten()
            {
                return Err(error);
            }
        }
        if self.log.len_bytes() > self.limit {
            self.rotate()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
