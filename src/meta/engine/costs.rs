//! What was asked of the engine, counted: whether work grows with what there is to do, or faster.

use std::collections::BTreeSet;
use std::ops::{Bound, Sub};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

use super::Batch;

/// Operations of an engine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Costs {
    pub gets: u64,
    pub scans: u64,
    /// Rows that scans returned.
    pub rows: u64,
    /// Deleted keys that scans went over, while [`super::Engine::watch_tombstones`] is on.
    pub tombstones: u64,
    pub puts: u64,
    pub deletes: u64,
    /// Keys of the largest batch so far. No part of the total.
    pub batch: u64,
}

impl Costs {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.gets + self.scans + self.rows + self.tombstones + self.puts + self.deletes
    }
}

impl Sub for Costs {
    type Output = Costs;

    fn sub(self, before: Costs) -> Costs {
        Costs {
            gets: self.gets - before.gets,
            scans: self.scans - before.scans,
            rows: self.rows - before.rows,
            tombstones: self.tombstones - before.tombstones,
            puts: self.puts - before.puts,
            deletes: self.deletes - before.deletes,
            batch: self.batch,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Meter {
    gets: AtomicU64,
    scans: AtomicU64,
    rows: AtomicU64,
    passed: AtomicU64,
    puts: AtomicU64,
    deletes: AtomicU64,
    batch: AtomicU64,
    /// Keys deleted since watching began. The engine itself does not say what a scan goes over.
    tombstones: Mutex<Option<BTreeSet<Vec<u8>>>>,
}

impl Meter {
    pub fn costs(&self) -> Costs {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Costs {
            gets: read(&self.gets),
            scans: read(&self.scans),
            rows: read(&self.rows),
            tombstones: read(&self.passed),
            puts: read(&self.puts),
            deletes: read(&self.deletes),
            batch: read(&self.batch),
        }
    }

    pub fn watch_tombstones(&self) {
        self.tombstones.lock().get_or_insert_default();
    }

    pub fn got(&self) {
        self.gets.fetch_add(1, Ordering::Relaxed);
    }

    /// `full`: it ended at its limit and not at the end of its range.
    pub fn scanned(
        &self,
        from: &Bound<Vec<u8>>,
        to: &Bound<Vec<u8>>,
        found: &[(Bytes, Bytes)],
        full: bool,
    ) {
        self.scans.fetch_add(1, Ordering::Relaxed);
        self.rows.fetch_add(found.len() as u64, Ordering::Relaxed);
        if let Some(deleted) = self.tombstones.lock().as_ref() {
            let to = match found.last() {
                Some((last, _)) if full => Bound::Excluded(last.to_vec()),
                _ => to.clone(),
            };
            if !super::is_empty_range(from, &to) {
                let passed = deleted.range((from.clone(), to)).count();
                self.passed.fetch_add(passed as u64, Ordering::Relaxed);
            }
        }
    }

    pub fn changed(&self, batch: &Batch) {
        let mut deleted = self.tombstones.lock();
        let mut keys = 0;
        for (key, value) in batch.iter() {
            let counter = if value.is_some() { &self.puts } else { &self.deletes };
            counter.fetch_add(1, Ordering::Relaxed);
            keys += 1;
            if let Some(deleted) = deleted.as_mut() {
                match value {
                    Some(_) => deleted.remove(key),
                    None => deleted.insert(key.to_vec()),
                };
            }
        }
        self.batch.fetch_max(keys, Ordering::Relaxed);
    }
}
