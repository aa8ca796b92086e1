//! The stores of a volume, and where its keys start in them.

use super::WorkerError;
use crate::catalog::VolumeFormat;
use crate::config::VolumeOptions;
use crate::store::{Location, Store, StoreSettings};
use crate::types::{KeyPrefix, VolumeId};

pub(super) struct Places {
    pub store: Store,
    pub state_store: Store,
    pub prefix: KeyPrefix,
    pub state: KeyPrefix,
    pub same_bucket: bool,
}

impl Places {
    /// Takes over what the stores were proven to honour.
    pub fn learn(&self, known: &VolumeFormat) {
        self.store.remember(&known.capabilities);
        if !self.same_bucket {
            self.state_store.remember(&known.state_capabilities);
        }
    }
}

pub(super) fn places(id: VolumeId, options: &VolumeOptions) -> Result<Places, WorkerError> {
    let settings = StoreSettings::of(options);
    let location = Location::parse(&options.url)?;
    let state_location = Location::parse(&options.state_url)?;
    let same_bucket =
        location.scheme == state_location.scheme && location.bucket == state_location.bucket;
    let store = Store::open(&location, &settings)?;
    let state_store =
        if same_bucket { store.clone() } else { Store::open(&state_location, &settings)? };
    let state = state_location.prefix.join(&format!(".s3vol/v/{id}/"));
    Ok(Places { store, state_store, prefix: location.prefix, state, same_bucket })
}
