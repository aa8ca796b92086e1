//! Whether the store still does what the volume lives by, tried again by each mount.
//!
//! What a probe found is believed for a week, and a store may be replaced, upgraded or put behind a
//! proxy on any day. Two requests tell soon enough (`Store::still_refuses`), at one key of the volume's
//! state that nobody reads.

use crate::catalog::VolumeFormat;
use crate::store::{Verb, scratch_of};
use crate::worker::WorkerError;
use crate::worker::places::Places;

/// Below the state of a volume.
const KEY: &str = "trial";

/// `format` as it still is true. A store that overlooks a condition that it honoured is probed anew, and
/// refused if two hosts could write the volume at once (unless the user promised that there is one).
pub(super) async fn essentials(
    places: &Places,
    format: VolumeFormat,
    single_host: bool,
) -> Result<VolumeFormat, WorkerError> {
    let store = &places.state_store;
    let overlooked = store.overlooks(&places.state.key(KEY), &format.state_capabilities).await;
    let Some(verb) = overlooked else { return Ok(format) };
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
