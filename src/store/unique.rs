//! Deleting objects whose names are never used again: no condition is needed, and a late request does no harm.

use std::time::Duration;

use futures::stream::{self, StreamExt};

use super::{Condition, Doomed, Groups, PutOutcome, Send, StoreBackend};
use crate::types::{KeyPrefix, ObjectKey};

/// Keys that one request deletes.
const GROUP: usize = 256;
/// Fewer keys than this are deleted by themselves, whatever for.
pub const FEW: usize = 8;
/// Requests that are on their way side by side.
const PARALLEL: usize = 8;

/// Deletes what lies at `keys`, of which none is ever used again; what became of each, in their order. In groups where
/// the store has them, which is found out below `scratch` where nobody knows it.
pub async fn delete_unique(
    store: &dyn StoreBackend,
    keys: &[ObjectKey],
    scratch: &KeyPrefix,
    timeout: Duration,
) -> Vec<PutOutcome> {
    if keys.len() < FEW || store.groups(scratch).await == Groups::No {
        return one_by_one(store, keys, timeout).await;
    }
    let mut groups = Vec::new();
    for keys in keys.chunks(GROUP) {
        groups.push(together(store, keys, timeout));
    }
    stream::iter(groups).buffered(PARALLEL).concat().await
}

async fn together(
    store: &dyn StoreBackend,
    keys: &[ObjectKey],
    timeout: Duration,
) -> Vec<PutOutcome> {
    let doomed = |key: &ObjectKey| Doomed { key: key.clone(), condition: Condition::None };
    let group: Vec<Doomed> = keys.iter().map(doomed).collect();
    match store.delete_many(&group, None, timeout).await {
        Ok(outcomes) => outcomes,
        Err(error) => {
            tracing::debug!(%error, "keys are deleted one by one");
            one_by_one(store, keys, timeout).await
        }
    }
}

async fn one_by_one(
    store: &dyn StoreBackend,
    keys: &[ObjectKey],
    timeout: Duration,
) -> Vec<PutOutcome> {
    let mut deletes = Vec::with_capacity(keys.len());
    for key in keys {
        deletes.push(store.delete(key, Send::plain(timeout)));
    }
    stream::iter(deletes).buffered(PARALLEL).collect().await
}
