//! Epochs that the engine claims by itself, after a broken handle, on their way to the local log.
//!
//! They must be there before the first batch of theirs: a host that does not know its own epoch after
//! a crash takes its batches for another host's. The engine may replace its handle from the moment it
//! is open, long before the volume is.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::meta::{EpochHook, Journal, LogError};
use crate::types::Epoch;

/// Where the epochs go.
#[derive(Debug, Default)]
pub(in crate::worker) struct EpochLog(Mutex<Place>);

#[derive(Debug)]
enum Place {
    /// It is not decided yet which log goes on; no batch is handed over before.
    Noted(Vec<Epoch>),
    Journal(Arc<Mutex<Journal>>),
}

impl Default for Place {
    fn default() -> Self {
        Place::Noted(Vec::new())
    }
}

impl EpochLog {
    /// For the engine.
    pub fn hook(self: &Arc<Self>) -> EpochHook {
        let this = Arc::clone(self);
        Arc::new(move |epoch| match &mut *this.0.lock() {
            Place::Noted(epochs) => {
                epochs.push(epoch);
                Ok(())
            }
            Place::Journal(journal) => Ok(journal.lock().append_epoch(epoch)?),
        })
    }

    /// From now on they go to `journal`, which first gets the epoch that the opening claimed and those
    /// claimed since.
    pub fn log_to(&self, journal: &Arc<Mutex<Journal>>, claimed: Epoch) -> Result<(), LogError> {
        let mut place = self.0.lock();
        let noted = match &mut *place {
            Place::Noted(epochs) => std::mem::take(epochs),
            Place::Journal(_) => Vec::new(),
        };
        for epoch in std::iter::once(claimed).chain(noted) {
            journal.lock().append_epoch(epoch)?;
        }
        *place = Place::Journal(Arc::clone(journal));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::log::Header;
    use crate::meta::{Fold, LocalLog, Record};
    use crate::types::VolumeId;

    #[test]
    fn an_epoch_claimed_at_any_moment_of_the_opening_is_in_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let header = Header::here(VolumeId::random()).unwrap();
        let log = LocalLog::<Record>::open(dir.path(), header.clone()).unwrap().log;
        let journal = Arc::new(Mutex::new(Journal::new(log, Fold::default())));
        let epochs: Arc<EpochLog> = Arc::default();
        let hook = epochs.hook();
        // While it is looked at whose batches the log has.
        hook(Epoch(6)).unwrap();
        epochs.log_to(&journal, Epoch(5)).unwrap();
        // During the replay, and when the volume is served.
        hook(Epoch(7)).unwrap();
        drop((hook, epochs, journal));
        let found = LocalLog::<Record>::epochs(dir.path(), &header).unwrap();
        assert_eq!(found, [Epoch(5), Epoch(6), Epoch(7)]);
    }
}
