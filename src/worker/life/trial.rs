//! Whether the store still does what the volume lives by, tried again by each mount, or just before it by the worker
//! that makes place for it (`parting.rs`).
//!
//! What a probe found is believed for a week, and a store may be replaced, upgraded or put behind a
//! proxy on any day. Two requests tell soon enough (`Store::overlooks`), at one key of the volume's
//! state that nobody reads.

use crate::catalog::VolumeFormat;
use crate::store::{Verb, scratch_of};
use crate::worker::WorkerError;
use crate::worker::places::Places;

/// Below the state of a volume.
const KEY: &str = "trial";

/// What the store of the state does not do any more that `format` says of it.
pub(super) async fn overlooked(places: &Places, format: &VolumeFormat) -> Option<Verb> {
    places.state_store.overlooks(&places.state.key(KEY), &format.state_capabilities).await
}

/// Whether the store was seen to do all of it just now.
pub(super) async fn honoured(places: &Places, format: &VolumeFormat) -> bool {
    places.state_store.honours(&places.state.key(KEY), &format.state_capabilities).await
}

/// `format` as it still is true. A store that overlooks a condition that it honoured is probed anew, and
/// refused if two hosts could write the volume at once (unless the user promised that there is one).
pub(super) async fn essentials(
    places: &Places,
    format: VolumeFormat,
    single_host: bool,
) -> Result<VolumeFormat, WorkerError> {
    let Some(verb) = overlooked(places, &format).await else { return Ok(format) };
    let store = &places.state_store;
    tracing::warn!(
        ?verb,
        endpoint = store.endpoint(),
        "the store no longer refuses what it must; it is probed again"
    );
    store.known().contradicted();
    let found = store.probe(&scratch_of(&places.state)).await?;
    if !found.has(Verb::CreateIfAbsent) && !single_host {
        return Err(WorkerError::Careless(store.endpoint().to_owned()));
    }
    Ok(places.learn(format))
}
