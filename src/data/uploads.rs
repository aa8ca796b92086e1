//! Objects among the segments that this process stores and that no record names yet.
//!
//! To a collector that only looks at records they are orphans, however long they take: so it asks here
//! first. Those that no batch will ever name are garbage, and the collector is told.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::patience::Progress;
use super::{DataError, Volume};
use crate::meta::{Logged, keys};
use crate::types::ObjectKey;

/// The ids of uploads under way, and how uploads went.
#[derive(Debug, Default)]
pub struct Uploads {
    under_way: Mutex<HashSet<u128>>,
    /// Those that are over, may lie in the bucket, and are named by no batch.
    unused: Mutex<Vec<u128>>,
    /// Bytes.
    stored: AtomicU64,
    /// Attempts.
    failed: AtomicU64,
}

impl Uploads {
    /// Whether this process is storing it, or is about to hand over the batch that names it. To be asked
    /// before the records: what is not under way any more is in them, if it ever will be.
    pub(super) fn has(&self, id: u128) -> bool {
        self.under_way.lock().contains(&id)
    }
}

/// One upload, under a fresh id. To be kept until the batch that names it is handed over.
#[derive(Debug)]
pub struct Upload<'v> {
    volume: &'v Volume,
    id: u128,
    stands: Stands,
}

/// What is known of an upload's object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stands {
    /// It is not there.
    Nowhere,
    /// It may be there.
    There,
    /// It may be there, and a batch names it that may be in the local log.
    Named,
}

impl Upload<'_> {
    /// From now on it may be there.
    pub fn sent(&mut self) {
        self.stands = Stands::There;
    }

    /// The batch that names it is about to be handed over.
    pub fn named(&mut self) {
        self.stands = Stands::Named;
    }

    /// The local log did not take that batch.
    pub fn not_named(&mut self) {
        self.stands = Stands::There;
    }

    /// An attempt has stored so many bytes.
    pub(super) fn stored(&self, bytes: u64) {
        self.volume.uploads.stored.fetch_add(bytes, Ordering::Relaxed);
    }

    /// An attempt has failed; `nothing` if the store said so.
    pub(super) fn failed(&mut self, nothing: bool) {
        if nothing {
            self.stands = Stands::Nowhere;
        }
        self.volume.uploads.failed.fetch_add(1, Ordering::Relaxed);
    }

    pub fn id(&self) -> u128 {
        self.id
    }

    pub fn key(&self) -> ObjectKey {
        self.volume.segment_key(self.id)
    }
}

impl Drop for Upload<'_> {
    fn drop(&mut self) {
        let uploads = &self.volume.uploads;
        uploads.under_way.lock().remove(&self.id);
        if self.stands == Stands::There {
            uploads.unused.lock().push(self.id);
            self.volume.meta.garbage.notify_one();
        }
    }
}

impl Volume {
    /// How far uploads are.
    pub(super) fn progress(&self) -> Progress {
        Progress {
            sent: self.state_store.requests().bytes_up,
            stored: self.uploads.stored.load(Ordering::Relaxed),
            failed: self.uploads.failed.load(Ordering::Relaxed),
        }
    }

    /// Announces an object among the segments.
    pub fn upload(&self) -> Upload<'_> {
        let id = uuid::Uuid::new_v4().as_u128();
        self.uploads.under_way.lock().insert(id);
        Upload { volume: self, id, stands: Stands::Nowhere }
    }

    /// Queues for the collector what was uploaded in vain.
    pub(super) async fn give_up_unused(&self) -> Result<(), DataError> {
        let unused = std::mem::take(&mut *self.uploads.unused.lock());
        if unused.is_empty() {
            return Ok(());
        }
        let queued = async {
            let mut txn = self.meta.begin_owed().await?;
            for id in &unused {
                txn.put_raw(keys::garbage(*id), Vec::new());
            }
            txn.commit(Logged::Op { unique: 0 }, || {}).await
        };
        let queued = queued.await;
        if queued.is_err() {
            self.uploads.unused.lock().extend(unused);
        }
        Ok(queued?)
    }
}
