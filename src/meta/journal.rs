//! The local log's records, and what of them is still needed.
//!
//! The log makes a crash of the process lose nothing. Order is the engine's order. What can be
//! forgotten: batches that the engine made durable, and changes that a logged commit holds. The
//! [`Fold`] keeps what is left, both while running (to shorten the log) and after a crash (to
//! replay it): one piece of code for both.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::pending::{Change, Pending};
use super::{Batch, LocalLog, LogError, keys};
use crate::types::{Epoch, Ino, Lsn, Timestamp};

/// One record of the local log.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Record {
    /// A whole namespace or attribute change. `unique` is the FUSE request that it answers (0:
    /// none), within connection `conn`.
    Op {
        conn: u64,
        unique: u64,
        batch: Batch,
    },
    /// Commits: each inode with the last record whose change the batch holds.
    Commit {
        inodes: Vec<(Ino, Lsn)>,
        batch: Batch,
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
}

/// What the log still has to remember.
#[derive(Debug, Clone, Default)]
pub struct Fold {
    /// Batches by position, dropped once durable.
    pub batches: BTreeMap<Lsn, Record>,
    pub pending: HashMap<Ino, Pending>,
    /// Last content change since the attributes were recorded, for mtime and ctime.
    pub times: HashMap<Ino, Timestamp>,
    pub opens: HashMap<Ino, u32>,
}

impl Fold {
    /// Takes one record in.
    pub fn apply(&mut self, lsn: Lsn, record: &Record) {
        match record {
            Record::Op { batch, .. } => {
                // The attributes of this record hold what earlier writes made of the times.
                for (key, value) in batch.iter() {
                    if let (Some(&keys::INODE), Some(_), Some(ino)) =
                        (key.first(), value, keys::parse_ino(key))
                    {
                        self.times.remove(&ino);
                    }
                }
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
            Record::Closed { ino } => {
                if let Some(count) = self.opens.get_mut(ino) {
                    *count -= 1;
                    if *count == 0 {
                        self.opens.remove(ino);
                    }
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
        self.pending.remove(&ino);
        self.times.remove(&ino);
    }

    /// Forgets batches up to `durable`.
    pub fn durable(&mut self, durable: Lsn) {
        self.batches = self.batches.split_off(&Lsn(durable.0 + 1));
    }

    /// The records that rebuild this fold, in log order. Opens come first and carry position 0.
    fn snapshot(&self) -> Vec<(Lsn, Record)> {
        let mut records: Vec<(Lsn, Record)> = Vec::new();
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
        for (ino, count) in &self.opens {
            for _ in 0..*count {
                records.insert(0, (Lsn(0), Record::Opened { ino: *ino }));
            }
        }
        records
    }
}

/// The log together with what of it is needed.
#[derive(Debug)]
pub struct Journal {
    log: LocalLog<Record>,
    fold: Fold,
    /// The log is rewritten when it is longer than this and mostly forgotten, bytes.
    limit: u64,
}

/// Rewriting costs a pass over what is left, so it waits until the log is worth it.
const ROTATE_AT: u64 = 64 << 20;

impl Journal {
    pub fn new(log: LocalLog<Record>, fold: Fold) -> Self {
        Journal { log, fold, limit: ROTATE_AT }
    }

    /// Writes a record; it survives a crash of the process from here on.
    pub fn append(&mut self, record: &Record) -> Result<Lsn, LogError> {
        let lsn = self.log.append(record)?;
        self.fold.apply(lsn, record);
        Ok(lsn)
    }

    /// Writes an epoch that this host claimed, before its first batch.
    pub fn append_epoch(&mut self, epoch: Epoch) -> Result<(), LogError> {
        self.log.append_epoch(epoch)
    }

    /// The position that the next record gets.
    pub fn next_lsn(&self) -> Lsn {
        self.log.next_lsn()
    }

    /// Forgets an inode that is gone.
    pub fn removed(&mut self, ino: Ino) {
        self.fold.removed(ino);
    }

    /// Everything up to `durable` is in the bucket: forget it, and shorten the log when it pays.
    pub fn durable(&mut self, durable: Lsn) -> Result<(), LogError> {
        self.fold.durable(durable);
        if self.log.len_bytes() > self.limit {
            self.log.rotate(self.fold.snapshot().into_iter())?;
            self.limit = ROTATE_AT.max(self.log.len_bytes() * 2);
        }
        Ok(())
    }
}
