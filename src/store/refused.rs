//! Keys that are refused, and keys that cannot be had.

use std::time::Duration;

use http::StatusCode;
use object_store::client::{HttpError, HttpErrorKind};

use super::{StoreError, StoreErrorKind};
use crate::credentials::Source;

/// Waiting for credentials (metadata services included) must fit into the ten seconds of a check.
pub(super) const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(7);

/// Why there are none. Never holds what was answered.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {why}")]
pub(super) struct Failed {
    pub(super) what: String,
    pub(super) why: String,
    /// What the caller can do about it.
    pub(super) kind: StoreErrorKind,
}

impl From<Failed> for object_store::Error {
    fn from(failed: Failed) -> Self {
        object_store::Error::Generic { store: "credentials", source: Box::new(failed) }
    }
}

/// Whether a refusal may mean that the keys are others by now.
pub(super) fn is_about_keys(status: StatusCode) -> bool {
    // S3 says 400 of a session token that has expired.
    matches!(status, StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}

/// A refusal says whose keys were refused.
pub(super) fn blamed(mut error: StoreError, source: Option<&Source>) -> StoreError {
    if let Some(source) = source.filter(|_| error.kind == StoreErrorKind::Denied) {
        error.message = format!("{}; {}", error.message, source.blame());
    }
    error
}

/// There are no keys to sign with. `None`: there was no answer in time.
pub(super) fn no_keys(
    source: &Source,
    bucket: &str,
    error: Option<&object_store::Error>,
) -> (StoreErrorKind, String) {
    let kind = error.map_or(StoreErrorKind::Timeout, |error| kind_of(error));
    let message =
        format!("no keys for the bucket {bucket:?}: {}, and give no keys", source.blame());
    (kind, message)
}

/// Whether a client of a store did not even ask it, because there were no keys.
pub(super) fn is_without_keys(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut chain = std::iter::successors(Some(error), |error| error.source());
    chain.any(|error| error.is::<Failed>())
}

/// Whether it was the network, or the time, that kept us from keys.
pub(super) fn kind_of(error: &(dyn std::error::Error + 'static)) -> StoreErrorKind {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(failed) = error.downcast_ref::<Failed>() {
            return failed.kind;
        }
        if let Some(http) = error.downcast_ref::<HttpError>() {
            return match http.kind() {
                HttpErrorKind::Timeout => StoreErrorKind::Timeout,
                _ => StoreErrorKind::Unreachable,
            };
        }
        next = error.source();
    }
    StoreErrorKind::Denied
}
