//! The state of a removed volume, once nothing else of it is left.

use super::REQUEST;
use crate::catalog::Purged;
use crate::clock::Deadline;
use crate::fault::{at, points};
use crate::store::{ListRequest, Send, delete_unique, scratch_of};
use crate::types::ObjectKey;
use crate::worker::WorkerError;
use crate::worker::format::applied;
use crate::worker::places::Places;

/// Deletes the state folder, `format.json` last. Its names are never used again, so requests need
/// no condition.
pub(super) async fn delete_state(
    places: &Places,
    format: &ObjectKey,
    deadline: Deadline,
) -> Result<Purged, WorkerError> {
    let store = places.state_store.backend();
    let scratch = scratch_of(&places.state);
    let (mut token, mut found, mut refused) = (None, false, None);
    loop {
        let request = ListRequest {
            prefix: places.state.as_str().to_owned(),
            delimiter: false,
            token,
            max_keys: 1000,
        };
        let page = store.list(request, REQUEST).await?;
        let keys: Vec<ObjectKey> =
            page.entries.into_iter().map(|entry| entry.key).filter(|key| key != format).collect();
        found |= !keys.is_empty();
        at(points::PURGE_STATE_BEFORE);
        let outcomes = delete_unique(&*store, &keys, &scratch, REQUEST).await;
        at(points::PURGE_STATE_AFTER);
        // One that stays keeps no other.
        refused = refused.or(outcomes.into_iter().find_map(|outcome| applied(outcome).err()));
        token = page.next;
        if token.is_none() {
            match refused {
                Some(error) => return Err(error),
                None if !found => break,
                None => found = false,
            }
        }
        if deadline.left().is_zero() {
            return Ok(Purged::Later("its objects are deleted, not yet its state".to_owned()));
        }
    }
    at(points::PURGE_FORMAT_BEFORE);
    applied(store.delete(format, Send::plain(REQUEST)).await)?;
    at(points::PURGE_FORMAT_AFTER);
    Ok(Purged::Done)
}
