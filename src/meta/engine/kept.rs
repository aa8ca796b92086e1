//! Batches that were handed over and may not be durable yet.
//!
//! They stay in memory until a flush covers them, so that a handle of the engine that dies can be
//! replaced without its callers noticing. Handing one over twice in a row is harmless: nothing
//! else lies between the two.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use super::{Batch, EngineError};
use crate::types::Lsn;

#[derive(Debug, Default)]
pub(in crate::meta) struct Kept {
    batches: VecDeque<(Lsn, Arc<Batch>)>,
    /// How many of them, from the front, the current handle has.
    handed: usize,
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
        self.batches.push_back((lsn, batch));
        Ok(())
    }

    /// The first batch that the current handle does not have.
    pub(super) fn next(&self) -> Option<(Lsn, Arc<Batch>)> {
        self.batches.get(self.handed).map(|(lsn, batch)| (*lsn, Arc::clone(batch)))
    }

    /// The current handle has everything up to `lsn`.
    pub(super) fn mark_handed(&mut self, lsn: Lsn) {
        while self.batches.get(self.handed).is_some_and(|(l, _)| *l <= lsn) {
            self.handed += 1;
        }
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
            if let Some((_, batch)) = self.batches.pop_front() {
                self.bytes -= batch.len_bytes();
            }
            self.handed = self.handed.saturating_sub(1);
        }
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
