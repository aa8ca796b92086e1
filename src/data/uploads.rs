//! Objects among the segments that this process stores and that no record names yet.
//!
//! To a collector that only looks at records they are orphans, however long they take: so it asks here
//! first.

use std::collections::HashSet;

use parking_lot::Mutex;

use super::Volume;
use crate::types::ObjectKey;

/// The ids of uploads under way.
#[derive(Debug, Default)]
pub struct Uploads {
    under_way: Mutex<HashSet<u128>>,
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
    /// Announces an object among the segments.
    pub fn upload(&self) -> Upload<'_> {
        let id = uuid::Uuid::new_v4().as_u128();
        self.uploads.under_way.lock().insert(id);
        Upload { volume: self, id }
    }
}
