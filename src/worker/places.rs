//! The stores of a volume, and where its keys start in them.

use std::time::Duration;

use super::WorkerError;
use crate::catalog::VolumeFormat;
use crate::config::VolumeOptions;
use crate::store::{Known, Listing, Location, Store, StoreError, StoreSettings};
use crate::types::{KeyPrefix, StoreTime, VolumeId};

pub(super) struct Places {
    pub store: Store,
    pub state_store: Store,
    pub prefix: KeyPrefix,
    pub state: KeyPrefix,
    pub same_bucket: bool,
}

impl Places {
    /// How long ago the youngest object of a folder of the state was written, by the store's clock; `None`: there is
    /// none, or the store does not say when.
    pub async fn last_written(
        &self,
        folder: &str,
        timeout: Duration,
    ) -> Result<Option<Duration>, StoreError> {
        let store = self.state_store.backend();
        let mut latest = None;
        let mut pages = Listing::of_keys(self.state.join(folder).as_str());
        while let Some(page) = pages.next(&*store, timeout).await? {
            latest = latest.max(page.entries.iter().filter_map(|e| e.version.modified).max());
        }
        let now = store.now(timeout).await?;
        let ago = |at: StoreTime| u64::try_from(now.0.saturating_sub(at.0)).unwrap_or(0);
        Ok(latest.map(|at| Duration::from_millis(ago(at))))
    }

    /// `format.json` with what is known by now of its stores, if a probe since then found something
    /// else; where nothing is known, the stores learn what it says.
    pub fn learn(&self, mut format: VolumeFormat) -> VolumeFormat {
        for (store, honours) in [
            (&self.store, &mut format.capabilities),
            (&self.state_store, &mut format.state_capabilities),
        ] {
            match store.known().current() {
                // What is missing there may be only what could not be tried.
                Some(known) if known.in_doubt => honours.0.extend(known.capabilities.0),
                Some(known) => *honours = known.capabilities,
                None => store.known().guess(honours),
            }
        }
        format
    }
}

/// In `store`, which has the objects and the state.
pub(super) fn places_in(
    id: VolumeId,
    options: &VolumeOptions,
    store: &Store,
) -> Result<Places, WorkerError> {
    let state = Location::parse(&options.state_url)?.prefix;
    Ok(Places {
        store: store.clone(),
        state_store: store.clone(),
        prefix: Location::parse(&options.url)?.prefix,
        state: state.join(&format!(".s3vol/v/{id}/")),
        same_bucket: true,
    })
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
