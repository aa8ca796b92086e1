//! Objects among the segments that this process stores and that no record names yet.
//!
//! To a collector that only looks at records they are orphans, however long they take: so it asks here
//! first.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::Volume;
use super::patience::Progress;
use crate::types::ObjectKey;

/// The ids of uploads under way, and how uploads went.
#[derive(Debug, Default)]
pub struct Uploads {
    under_way: Mutex<HashSet<u128>>,
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
}

impl Upload<'_> {
    /// An attempt has stored so many bytes.
    pub(super) fn stored(&self, bytes: u64) {
        self.volume.uploads.stored.fetch_add(bytes, Ordering::Relaxed);
    }

    /// An attempt has failed.
    pub(super) fn failed(&self) {
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
        self.volume.uploads.under_way.lock().remove(&self.id);
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
        Upload { volume: self, id }
    }
}
