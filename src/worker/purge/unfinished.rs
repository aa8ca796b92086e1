//! The deletion of a volume by this host, written down before it claims the volume.
//!
//! The lease of one that was cut short would keep its successor waiting like that of a host that is gone. By this
//! note it is known as our own. It proves nothing beyond that, and only shortens a wait: who deletes has claimed the
//! epoch, and whoever else does goes by the same records.

use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::lease::Holder;
use crate::types::{Epoch, VolumeId};
use crate::worker::life::Claiming;

const FOLDER: &str = "purging";

#[derive(Debug, Clone)]
pub(super) struct Unfinished(Option<PathBuf>);

impl Unfinished {
    /// `volumes`: where the state folders of this host's volumes are; the notes lie beside that.
    pub fn of(volumes: Option<&Path>, id: VolumeId) -> Self {
        let folder = volumes.map(|volumes| volumes.with_file_name(FOLDER));
        Unfinished(folder.map(|folder| folder.join(id.to_string())))
    }

    /// Writes down that `instance` is about to claim an epoch after `after`.
    pub fn begin(&self, instance: Uuid, after: Epoch) {
        let Some(path) = &self.0 else { return };
        if let Some(Err(error)) = path.parent().map(std::fs::create_dir_all) {
            // Without the note the next attempt only waits longer.
            tracing::debug!(%error, "a deletion is not noted");
        }
        Claiming::begin(after, instance).write(path);
    }

    /// Whether `holder` is, or may be, a deletion that began here and did not end.
    pub fn is(&self, holder: &Holder) -> bool {
        let Some(claim) = self.0.as_deref().map(Claiming::read) else { return false };
        match holder.record {
            Some(_) => claim.made(holder),
            // It may have claimed the epoch, and not got as far as to say so.
            None => claim.reaches(holder.epoch),
        }
    }

    /// Its lease is given back.
    pub fn end(&self) {
        if let Some(path) = &self.0 {
            // One that stays names a lease that nobody holds any more.
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::lease::{LeaseRecord, LeaseState};
    use crate::types::StoreTime;

    #[test]
    fn a_deletion_is_known_by_its_instance_and_before_that_by_its_epoch() {
        let dir = tempfile::tempdir().unwrap();
        let here = Unfinished::of(Some(&dir.path().join("volumes")), VolumeId::random());
        let (ours, theirs) = (Uuid::new_v4(), Uuid::new_v4());
        let holder = |epoch, instance: Option<Uuid>| Holder {
            epoch: Epoch(epoch),
            record: instance.map(|instance| LeaseRecord {
                instance,
                host: "host".to_owned(),
                endpoint: String::new(),
                state: LeaseState::Held,
                renewals: 1,
                since: StoreTime(0),
                note: None,
            }),
            remaining: Duration::from_secs(60),
        };
        assert!(!here.is(&holder(5, Some(ours))));
        here.begin(ours, Epoch(4));
        assert!(here.is(&holder(5, Some(ours))) && here.is(&holder(5, None)));
        assert!(!here.is(&holder(5, Some(theirs))) && !here.is(&holder(4, None)));
        assert!(!here.is(&holder(500, None)));
        here.end();
        assert!(!here.is(&holder(5, Some(ours))));
        assert!(!Unfinished::of(None, VolumeId::random()).is(&holder(5, None)));
    }
}
