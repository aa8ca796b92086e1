//! Batches that were accepted and may not be durable yet.
//!
//! They stay in memory until a flush covers them: the handle gets them in groups, and one that dies can be
//! replaced without its callers noticing. Handing one over twice in a row is harmless: nothing
//! else lies between the two.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::ahead::{Ahead, Rows};
use super::{Batch, EngineError};
use crate::types::Lsn;

/// One group for the handle is not much larger than this, bytes.
const GROUP: usize = 1 << 20;

#[derive(Debug, Default)]
pub(in crate::meta) struct Kept {
    batches: VecDeque<(Lsn, Arc<Batch>)>,
    /// When each of them came, boot time.
    since: VecDeque<Duration>,
    /// How many of them, from the front, the current handle has.
    handed: usize,
    /// The last batch of which nothing is in `ahead` any more.
    fed: Lsn,
    ahead: Ahead,
    bytes: usize,
    last: Option<Lsn>,
}

impl Kept {
    /// Takes a batch; its number must be greater than the last one's.
    pub(super) fn push(&mut self, lsn: Lsn, batch: Arc<Batch>) -> Result<(), EngineError> {
        if let Some(last) = self.last
            && lsn <= last
        {
            return Err(EngineError::OutOfOrder { last, given: lsn });
        }
        self.last = Some(lsn);
        self.bytes += batch.len_bytes();
        self.ahead.put(lsn, &batch);
        self.batches.push_back((lsn, batch));
        self.since.push_back(crate::clock::boottime());
        Ok(())
    }

    /// The first batches that the current handle does not have, and the number of the last one of them.
    pub(super) fn next_group(&self) -> Option<(Lsn, Vec<Arc<Batch>>)> {
        let mut group = Vec::new();
        let (mut last, mut bytes) = (None, 0);
        for (lsn, batch) in self.batches.range(self.handed..) {
            bytes += batch.len_bytes();
            if bytes > GROUP && last.is_some() {
                break;
            }
            last = Some(*lsn);
            group.push(Arc::clone(batch));
        }
        last.map(|last| (last, group))
    }

    /// The current handle has everything up to `lsn`.
    pub(super) fn mark_handed(&mut self, lsn: Lsn) {
        while let Some((number, batch)) = self.batches.get(self.handed)
            && *number <= lsn
        {
            self.ahead.drop_batch(*number, batch);
            self.handed += 1;
        }
        self.fed = self.fed.max(lsn);
    }

    /// Grows with what readers find in a handle only.
    pub(super) fn fed(&self) -> Lsn {
        self.fed
    }

    /// Whether the handle has everything.
    pub(super) fn all_fed(&self) -> bool {
        self.ahead.is_empty()
    }

    /// What a key is, if the handle does not have that yet.
    pub(super) fn newer(&self, key: &[u8]) -> Option<Option<Bytes>> {
        self.ahead.get(key).cloned()
    }

    /// Whether there is anything in a range that the handle does not have yet.
    pub(super) fn has_newer(&self, from: &Bound<Vec<u8>>, to: &Bound<Vec<u8>>) -> bool {
        self.ahead.touches(from, to)
    }

    /// The rows of a range that the handle does not have yet, as many as a page of `limit` pairs can show.
    pub(super) fn newer_rows(
        &self,
        from: &Bound<Vec<u8>>,
        to: &Bound<Vec<u8>>,
        limit: usize,
    ) -> Rows {
        self.ahead.range(from, to, limit)
    }

    /// A new handle has none of them.
    pub(super) fn mark_none_handed(&mut self) {
        self.handed = 0;
    }

    /// The last one that the current handle has.
    pub(in crate::meta) fn last_handed(&self) -> Option<Lsn> {
        self.handed.checked_sub(1).and_then(|i| self.batches.get(i)).map(|(lsn, _)| *lsn)
    }

    /// Forgets everything up to `lsn`: it is durable.
    pub(in crate::meta) fn drop_durable(&mut self, lsn: Lsn) {
        while self.batches.front().is_some_and(|(l, _)| *l <= lsn) {
            self.since.pop_front();
            if let Some((number, batch)) = self.batches.pop_front() {
                self.bytes -= batch.len_bytes();
                if self.handed == 0 {
                    self.ahead.drop_batch(number, &batch);
                }
            }
            self.handed = self.handed.saturating_sub(1);
        }
        self.fed = self.fed.max(lsn);
    }

    /// The last one that was taken, durable or not.
    pub(super) fn last(&self) -> Option<Lsn> {
        self.last
    }

    /// Since when the oldest one waits, boot time.
    pub(super) fn since(&self) -> Option<Duration> {
        self.since.front().copied()
    }

    pub(in crate::meta) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    pub(super) fn each_batch(&self, mut each: impl FnMut(&Batch)) {
        self.batches.iter().for_each(|(_, batch)| each(batch));
    }

    pub(super) fn keys(&self) -> BTreeSet<Vec<u8>> {
        self.batches
            .iter()
            .flat_map(|(_, batch)| batch.iter())
            .map(|(key, _)| key.to_vec())
            .collect()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}
