//! Sending much in parts, which may take hours: a break of the line does not throw away what is up.

use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::{SettleError, Settler};
use crate::clock::boottime;
use crate::data::DataError;
use crate::store::{Part, StoreBackend, UploadId};
use crate::types::ObjectKey;

pub(super) const TIMEOUT: Duration = Duration::from_secs(30);
/// For how long nothing may get through.
const PATIENCE: Duration = Duration::from_secs(15 * 60);
/// Between two attempts, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(20));

/// An upload whose parts are being sent.
pub(super) struct Parts<'s> {
    pub store: &'s dyn StoreBackend,
    pub key: &'s ObjectKey,
    pub id: &'s UploadId,
    /// Boot time when something got through.
    moved: Mutex<Duration>,
}

impl<'s> Parts<'s> {
    pub fn new(store: &'s dyn StoreBackend, key: &'s ObjectKey, id: &'s UploadId) -> Self {
        Parts { store, key, id, moved: Mutex::new(boottime()) }
    }

    /// Something got through.
    pub fn moved(&self) {
        *self.moved.lock() = boottime();
    }
}

impl Settler {
    /// Does what a part needs until it succeeds: as long as some part gets on now and then.
    pub(super) async fn patiently<T, F>(
        &self,
        parts: &Parts<'_>,
        what: impl Fn() -> F,
    ) -> Result<T, SettleError>
    where
        F: Future<Output = Result<T, SettleError>>,
    {
        let mut failing_since = None;
        let mut pause = PAUSES.0;
        loop {
            let error = match what().await {
                Ok(done) => {
                    parts.moved();
                    return Ok(done);
                }
                Err(error) => error,
            };
            let now = boottime();
            let since = (*failing_since.get_or_insert(now)).max(*parts.moved.lock());
            if !may_pass(&error) || now.saturating_sub(since) > PATIENCE {
                return Err(error);
            }
            tracing::debug!(key = %parts.key, %error, "a part is tried again");
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSES.1),
                () = self.at_its_end.cancelled() => return Err(error),
            }
        }
    }

    pub(super) async fn send_part(
        &self,
        parts: &Parts<'_>,
        part: Part,
        bytes: Bytes,
    ) -> Result<String, SettleError> {
        let send = || async {
            let Parts { store, key, id, .. } = *parts;
            Ok(store.upload_part(key, id, part, bytes.clone(), TIMEOUT).await?)
        };
        self.patiently(parts, send).await
    }

    /// Drops parts that no intent names. What a failure leaves here, the bucket's lifecycle rule for
    /// incomplete uploads removes.
    pub(super) async fn abort(&self, store: &dyn StoreBackend, key: &ObjectKey, id: &UploadId) {
        if let Err(error) = store.abort_upload(key, id, TIMEOUT).await {
            tracing::warn!(%error, %key, "an abandoned upload could not be dropped");
        }
    }
}

/// Whether the same may succeed later.
fn may_pass(error: &SettleError) -> bool {
    match error {
        SettleError::Store(error) | SettleError::Data(DataError::Store(error)) => {
            error.is_transient()
        }
        SettleError::Data(DataError::Late(_)) => true,
        _ => false,
    }
}
