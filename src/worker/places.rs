//! The stores of a volume, and where its keys start in them.

use super::WorkerError;
use crate::catalog::VolumeFormat;
use crate::config::VolumeOptions;
use crate::store::{Known, Location, Store, StoreSettings};
use crate::types::{KeyPrefix, VolumeId};

pub(super) struct Places {
    pub store: Store,
    pub state_store: Store,
    pub prefix: KeyPrefix,
    pub state: KeyPrefix,
    pub same_bucket: bool,
}

impl Places {
    /// `format.json` with what is known by now of its stores, if a probe since then found something
    /// else; where nothing is known, the stores learn what it says.
    pub fn learn(&self, mut format: VolumeFormat) -> VolumeFormat {
        for (store, honours) in [
            (&self.store, &mut format.capabilities),
            (&self.state_store, &mut format.state_capabilities),
        ] {
            match store.known().current() {
                Some(known) => *honours = known.capabilities,
                None => store.known().guess(honours),
            }
        }
        format
    }
}

/// `known`: what this host knows of stores.
pub(super) fn places(
    id: VolumeId,
    options: &VolumeOptions,
    known: &Known,
) -> Result<Places, WorkerError> {
    let settings = StoreSettings { known: known.clone(), ..StoreSettings::of(options) };
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
