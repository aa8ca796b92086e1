//! Records as objects: read, created if absent, replaced if unchanged.

use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::CatalogError;
use crate::store::{
    Attributes, Condition, Properties, PutOutcome, Send, StoreBackend, StoreError, StoreErrorKind,
};
use crate::types::{ObjectKey, Version};

/// For one request of a user's command; the whole command has less than dockerd's 30 s.
pub(super) const REQUEST: Duration = Duration::from_secs(8);

/// The record at `key` and its version, `None` when there is none.
pub(super) async fn read<T: DeserializeOwned>(
    store: &dyn StoreBackend,
    key: &ObjectKey,
    timeout: Duration,
) -> Result<Option<(T, Version)>, CatalogError> {
    match store.get(key, None, None, timeout).await {
        Ok(got) => match serde_json::from_slice(&got.data) {
            Ok(record) => Ok(Some((record, got.info.version))),
            Err(source) => Err(CatalogError::Damaged { key: key.to_string(), source }),
        },
        Err(StoreError { kind: StoreErrorKind::NotFound, .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Writes `record` if the key is in the state that `condition` says; `false` when it is not.
pub(super) async fn write<T: Serialize>(
    store: &dyn StoreBackend,
    key: &ObjectKey,
    record: &T,
    condition: Condition,
) -> Result<bool, CatalogError> {
    let body = serde_json::to_vec_pretty(record)
        .map_err(|source| CatalogError::Damaged { key: key.to_string(), source })?;
    // A request that we gave up on must not arrive later and undo somebody's work.
    let expires = store.now(REQUEST).await?.plus(REQUEST.as_millis() as i64);
    let send = Send { condition, not_after: Some(expires), timeout: REQUEST };
    match store
        .put(key, Bytes::from(body.clone()), &Attributes::new(), &Properties::default(), send)
        .await
    {
        PutOutcome::Won(_) => Ok(true),
        PutOutcome::Lost => Ok(false),
        PutOutcome::Ambiguous(error) => {
            tracing::warn!(%key, %error, "a write has an unknown outcome; reading it back");
            match store.get(key, None, None, REQUEST).await {
                Ok(got) if got.data == body => Ok(true),
                Ok(_) => Ok(false),
                Err(StoreError { kind: StoreErrorKind::NotFound, .. }) => {
                    if error.is_transient() {
                        Err(CatalogError::Unknown(key.to_string()))
                    } else {
                        Err(error.into())
                    }
                }
                Err(_) => Err(error.into()),
            }
        }
    }
}

/// Removes a record if it still is `version`. Stores that ignore conditions on DELETE are common,
/// so the version is looked at just before, which leaves a window of one request.
pub(super) async fn delete(
    store: &dyn StoreBackend,
    key: &ObjectKey,
    version: &Version,
) -> Result<bool, CatalogError> {
    match store.head(key, REQUEST).await? {
        None => return Ok(true),
        Some(now) if !now.version.same(version) => return Ok(false),
        Some(_) => {}
    }
    let expires = store.now(REQUEST).await?.plus(REQUEST.as_millis() as i64);
    let send = Send { condition: Condition::None, not_after: Some(expires), timeout: REQUEST };
    match store.delete(key, send).await {
        PutOutcome::Won(_) => Ok(true),
        PutOutcome::Lost => Ok(false),
        PutOutcome::Ambiguous(error) => Err(error.into()),
    }
}
