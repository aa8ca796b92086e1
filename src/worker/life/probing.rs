//! A probe's finding counts for a week, and no mount waits for a probe: what is known no more is found out beside a mount,
//! for those that come after it.

use super::Shared;
use super::collector::MAINTENANCE;
use crate::store::{Store, StoreError, scratch_of};
use crate::types::KeyPrefix;
use crate::worker::places::places;

/// Looks are so many times as rare as maintenance: one an hour.
const RARE: u32 = 60;

/// Ends with the volume. What is cut off half-way leaves keys that nobody reads.
pub(super) async fn again(shared: &Shared) {
    if crate::fault::one_thread() {
        // What a simulated bucket honours is its own affair, and eight requests that race have no order.
        return;
    }
    let pace = crate::fault::duration(crate::fault::MAINTENANCE, MAINTENANCE);
    let mut next = pace;
    loop {
        tokio::time::sleep(next).await;
        next = pace * RARE;
        let spec = &shared.spec;
        // With a memory of its own: a probe tries spellings that requests of now are not to be sent in.
        let places = match places(spec.id, &spec.options, &spec.known()) {
            Ok(places) => places,
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "no probe");
                continue;
            }
        };
        // No file has such a key.
        let beside_files = places.prefix.join(".s3vol/");
        for (store, below) in [(&places.state_store, &places.state), (&places.store, &beside_files)]
        {
            if let Err(error) = probe(store, below).await {
                tracing::warn!(endpoint = store.endpoint(), %error, "the store cannot be probed again");
            }
        }
    }
}

/// Of one bucket with objects and state the second look finds what the first one found out.
async fn probe(store: &Store, below: &KeyPrefix) -> Result<(), StoreError> {
    if store.known().current().is_some() {
        return Ok(());
    }
    let found = store.probe(&scratch_of(below)).await?;
    tracing::info!(
        endpoint = store.endpoint(),
        ?found,
        "the store was probed again, for the next mount"
    );
    Ok(())
}
