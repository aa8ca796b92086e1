//! Records as objects: read, created if absent, replaced if unchanged.

use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{CatalogError, Site};
use crate::fault::{Mutant, at, points};
use crate::store::{
    Attributes, Condition, Properties, PutOutcome, Send, StoreBackend, StoreError, StoreErrorKind,
    Verb,
};
use crate::types::{ObjectKey, Version};

/// For one request of a user's command; the whole command has less than dockerd's 30 s.
pub(super) const REQUEST: Duration = Duration::from_secs(8);

/// No record is as long as this many bytes; of what is, no more is read.
const LONGEST: u64 = 1 << 20;

/// The record at `key` and its version, `None` when there is none.
pub(super) async fn read<T: DeserializeOwned>(
    store: &dyn StoreBackend,
    key: &ObjectKey,
    timeout: Duration,
) -> Result<Option<(T, Version)>, CatalogError> {
    match store.get(key, Some(0..LONGEST), None, timeout).await {
        Ok(got) => match serde_json::from_slice(&got.data) {
            Ok(record) => Ok(Some((record, got.info.version))),
            Err(source) => Err(CatalogError::Damaged { key: key.to_string(), source }),
        },
        Err(StoreError { kind: StoreErrorKind::NotFound, .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Writes `record` where nothing is; `None` when something else is there.
pub(super) async fn create<T: Serialize>(
    store: &dyn StoreBackend,
    key: &ObjectKey,
    record: &T,
) -> Result<Option<Version>, CatalogError> {
    let body = bytes_of(key, record)?;
    let send = expiring(store, Condition::Absent).await?;
    put(store, key, body, send).await
}

/// The same for a name that is used once, so that nobody minds when it arrives.
pub(super) async fn create_unique<T: Serialize>(
    store: &dyn StoreBackend,
    key: &ObjectKey,
    record: &T,
) -> Result<Option<Version>, CatalogError> {
    let send = Send { condition: Condition::Absent, ..Send::plain(REQUEST) };
    put(store, key, bytes_of(key, record)?, send).await
}

/// What became of a replacement.
#[must_use]
pub(super) enum Replaced<T> {
    Yes(Version),
    /// It is another record by now, or none.
    No(Option<T>),
}

/// Writes `new` if the record at `key` still is `old` of this version.
///
/// A refusal is looked into: who rewrote the same record changed nothing, and a store that refuses every
/// condition on a version gets the request without one, right after that look.
pub(super) async fn replace<T: Serialize + DeserializeOwned + PartialEq>(
    store: &dyn StoreBackend,
    key: &ObjectKey,
    (old, version): (&T, Version),
    new: &T,
) -> Result<Replaced<T>, CatalogError> {
    let body = bytes_of(key, new)?;
    let mut condition = match Mutant::CatalogUnconditional.lives() {
        true => Condition::None,
        false => Condition::Is(version.clone()),
    };
    loop {
        let send = expiring(store, condition.clone()).await?;
        let unsure = match plain_put(store, key, body.clone(), send).await {
            PutOutcome::Won(version) => return Ok(Replaced::Yes(version)),
            PutOutcome::Lost => None,
            PutOutcome::Failed(error) | PutOutcome::Ambiguous(error) => Some(error),
        };
        let (now, at) = match read::<T>(store, key, REQUEST).await {
            Ok(Some(now)) => now,
            Ok(None) => return Ok(Replaced::No(None)),
            Err(error) => return Err(unsure.map_or(error, Into::into)),
        };
        match (now == *new, now == *old) {
            (true, _) => return Ok(Replaced::Yes(at)),
            (_, false) => return Ok(Replaced::No(Some(now))),
            _ => {}
        }
        // Nothing was changed by anybody.
        condition = match (&condition, unsure) {
            (_, Some(error)) if error.kind != StoreErrorKind::Unsupported => {
                return Err(error.into());
            }
            (Condition::Is(asked), None) if !at.same(asked) => Condition::Is(at),
            (Condition::Is(_), refused) => {
                tracing::warn!(%key, error = refused.map(|e| e.to_string()),
                    "the store refuses a condition that holds (If-Match); the record is replaced \
                     without it, because it was just seen to be unchanged");
                Condition::None
            }
            (_, Some(error)) => return Err(error.into()),
            (_, None) => return Err(CatalogError::Unknown(key.to_string())),
        };
    }
}

fn bytes_of<T: Serialize>(key: &ObjectKey, record: &T) -> Result<Bytes, CatalogError> {
    match serde_json::to_vec_pretty(record) {
        Ok(body) => Ok(Bytes::from(body)),
        Err(source) => Err(CatalogError::Damaged { key: key.to_string(), source }),
    }
}

/// A request that we gave up on must not arrive later and undo somebody's work.
async fn expiring(store: &dyn StoreBackend, condition: Condition) -> Result<Send, CatalogError> {
    let expires = store.now(REQUEST).await?.plus(REQUEST.as_millis() as i64);
    Ok(Send { condition, not_after: Some(expires), timeout: REQUEST })
}

async fn plain_put(
    store: &dyn StoreBackend,
    key: &ObjectKey,
    body: Bytes,
    send: Send,
) -> PutOutcome {
    at(points::CATALOG_WRITE_BEFORE);
    let outcome = store.put(key, body, &Attributes::new(), &Properties::default(), send).await;
    at(points::CATALOG_WRITE_AFTER);
    outcome
}

async fn put(
    store: &dyn StoreBackend,
    key: &ObjectKey,
    body: Bytes,
    send: Send,
) -> Result<Option<Version>, CatalogError> {
    let unsure = match plain_put(store, key, body.clone(), send).await {
        PutOutcome::Won(version) => return Ok(Some(version)),
        // What passes requests on may have sent it twice, and then it is ours that is there.
        PutOutcome::Lost => None,
        PutOutcome::Failed(error) | PutOutcome::Ambiguous(error) => Some(error),
    };
    if let Some(error) = &unsure {
        tracing::warn!(%key, %error, "a write has an unknown outcome; reading it back");
    }
    match (store.get(key, None, None, REQUEST).await, unsure) {
        (Ok(got), _) if got.data == body => Ok(Some(got.info.version)),
        (Ok(_), _) => Ok(None),
        (Err(StoreError { kind: StoreErrorKind::NotFound, .. }), None) => Ok(None),
        (Err(StoreError { kind: StoreErrorKind::NotFound, .. }), Some(error))
            if error.is_transient() =>
        {
            Err(CatalogError::Unknown(key.to_string()))
        }
        (Err(_), Some(error)) | (Err(error), None) => Err(error.into()),
    }
}

/// Removes a record if it still is `version`. Stores that ignore conditions on DELETE are common, so the version is
/// looked at just before; there that leaves a window of one request.
pub(super) async fn delete(
    site: &dyn Site,
    key: &ObjectKey,
    version: &Version,
) -> Result<bool, CatalogError> {
    let store = site.store();
    let known = site.known().current();
    let mut conditional = known.is_some_and(|f| f.capabilities.has(Verb::DeleteConditional));
    loop {
        let condition = match store.head(key, REQUEST).await? {
            None => return Ok(true),
            Some(now) if !now.version.same(version) => return Ok(false),
            Some(now) if conditional => Condition::Is(now.version),
            Some(_) => Condition::None,
        };
        let send = expiring(store, condition).await?;
        at(points::CATALOG_DELETE_BEFORE);
        let outcome = store.delete(key, send).await;
        at(points::CATALOG_DELETE_AFTER);
        match outcome {
            PutOutcome::Won(_) => return Ok(true),
            // Somebody was faster, or the store refuses every condition.
            PutOutcome::Lost if conditional => {}
            PutOutcome::Failed(error)
                if conditional && error.kind == StoreErrorKind::Unsupported => {}
            PutOutcome::Lost => return Ok(false),
            PutOutcome::Failed(error) | PutOutcome::Ambiguous(error) => return Err(error.into()),
        }
        conditional = false;
    }
}
