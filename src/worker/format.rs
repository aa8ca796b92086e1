//! `format.json`: what a volume is, read before anything else and at every renewal of the lease.

mod engine_change;
mod epochs;
pub(super) mod export;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use super::WorkerError;
use super::places::Places;
use crate::catalog::{Deleting, VolumeFormat};
use crate::lease::{FormatCheck, FormatTrouble};
use crate::store::{
    Attributes, Condition, Properties, PutOutcome, Send, StoreBackend, StoreError, StoreErrorKind,
    Verb,
};
use crate::types::{ObjectKey, Version, VolumeId};

pub(super) use engine_change::{Unchecked, to_ours, unreadable};
pub(super) use epochs::EpochLog;
pub use export::Progress;
pub(super) use export::delete_below;

const REQUEST: Duration = Duration::from_secs(10);

/// The file, and what it said when it was last looked at.
pub(super) struct Format {
    store: Arc<dyn StoreBackend>,
    pub(super) key: ObjectKey,
    id: VolumeId,
    seen: Mutex<Option<VolumeFormat>>,
}

impl Format {
    pub fn of(places: &Places, id: VolumeId) -> Self {
        Format {
            store: places.state_store.backend(),
            key: places.state.key("format.json"),
            id,
            seen: Mutex::default(),
        }
    }

    /// Reads it for the first time: refuses a removed volume and another endpoint, and takes over
    /// what is known of the stores.
    pub async fn open(&self, places: &Places) -> Result<(VolumeFormat, Version), WorkerError> {
        let (known, version) = self.read_present().await?;
        if known.deleting.is_some() {
            return Err(WorkerError::Removed);
        }
        if let Some(new) = known.replaced_by {
            return Err(WorkerError::Rebuilt(new));
        }
        if known.endpoint != places.store.endpoint() {
            return Err(WorkerError::OtherEndpoint {
                ours: places.store.endpoint().to_owned(),
                theirs: known.endpoint,
            });
        }
        Ok((places.learn(known), version))
    }

    /// `None`: there is none.
    pub async fn read(&self) -> Result<Option<(VolumeFormat, Version)>, WorkerError> {
        match self.look(REQUEST).await {
            Ok(found) => Ok(found),
            Err(FormatTrouble::Damaged(text)) => Err(WorkerError::Damaged(text)),
            Err(FormatTrouble::Unknown(error)) => Err(error.into()),
        }
    }

    pub async fn read_present(&self) -> Result<(VolumeFormat, Version), WorkerError> {
        self.read().await?.ok_or_else(|| WorkerError::Damaged(self.missing()))
    }

    /// Whether the file that was last looked at says that somebody is changing the volume's engine.
    pub fn engine_changes(&self) -> bool {
        self.seen.lock().as_ref().is_some_and(|format| format.switching.is_some())
    }

    /// Writes it whatever is there: for the one who holds the volume.
    pub async fn write(&self, format: &VolumeFormat) -> Result<(), WorkerError> {
        applied(self.put(format, Condition::None).await?)?;
        *self.seen.lock() = Some(format.clone());
        Ok(())
    }

    /// Says how far the deletion of the volume has come, and returns that: further than `to` where another host was
    /// faster. `None`: the file is gone, or was changed just now. It is not made again, nor goes anything back.
    pub async fn deletes(&self, to: Deleting) -> Result<Option<Deleting>, WorkerError> {
        let Some((now, version)) = self.read().await? else { return Ok(None) };
        let begun = now.deleting.filter(|_| !now.withdrawn);
        if begun == Some(Deleting::State) || begun == Some(to) {
            return Ok(begun);
        }
        let if_match = now.state_capabilities.has(Verb::PutIfMatch);
        let marked = VolumeFormat { deleting: Some(to), withdrawn: false, ..now };
        let written = match if_match {
            true => self.replace(&marked, version).await?,
            false => self.write(&marked).await.map(|()| true)?,
        };
        Ok(written.then_some(to))
    }

    /// Writes it if it still is `version`; `false` if it is not.
    pub async fn replace(
        &self,
        format: &VolumeFormat,
        version: Version,
    ) -> Result<bool, WorkerError> {
        let unsure = match self.put(format, Condition::Is(version)).await? {
            PutOutcome::Won(_) => {
                *self.seen.lock() = Some(format.clone());
                return Ok(true);
            }
            // It may have been sent twice on its way.
            PutOutcome::Lost => None,
            PutOutcome::Failed(error) | PutOutcome::Ambiguous(error) => Some(error),
        };
        // Its engine's folder has a name of its own, so equal content is ours.
        match (self.read().await?, unsure) {
            (Some((now, _)), _) if now == format.recorded() => Ok(true),
            (_, None) => Ok(false),
            (_, Some(error)) => Err(error.into()),
        }
    }

    async fn put(
        &self,
        format: &VolumeFormat,
        condition: Condition,
    ) -> Result<PutOutcome, WorkerError> {
        let body = serde_json::to_vec_pretty(format)
            .map_err(|e| WorkerError::Damaged(format!("{} cannot be written: {e}", self.key)))?;
        // One that is late must not undo what came after.
        let expires = self.store.now(REQUEST).await?.plus(REQUEST.as_millis() as i64);
        let send = Send { condition, not_after: Some(expires), timeout: REQUEST };
        Ok(self
            .store
            .put(&self.key, Bytes::from(body), &Attributes::new(), &Properties::default(), send)
            .await)
    }

    async fn look(
        &self,
        timeout: Duration,
    ) -> Result<Option<(VolumeFormat, Version)>, FormatTrouble> {
        let found = match self.store.get(&self.key, None, None, timeout).await {
            Ok(found) => found,
            Err(e) if e.kind == StoreErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(FormatTrouble::Unknown(e)),
        };
        let format: VolumeFormat = serde_json::from_slice(&found.data)
            .map_err(|e| FormatTrouble::Damaged(format!("{} cannot be read: {e}", self.key)))?;
        if format.uuid != self.id {
            return Err(FormatTrouble::Damaged(format!(
                "{} belongs to the volume {}, not to {}",
                self.key, format.uuid, self.id
            )));
        }
        if !format.engine.is_sound() {
            return Err(FormatTrouble::Damaged(format!(
                "{} names a folder or an epoch that s3vol does not write",
                self.key
            )));
        }
        *self.seen.lock() = Some(format.clone());
        Ok(Some((format, found.info.version)))
    }

    fn missing(&self) -> String {
        format!(
            "{} is missing. The volume's state was removed from the bucket; nothing that was synced since is acknowledged, and the local state is kept",
            self.key
        )
    }
}

#[async_trait]
impl FormatCheck for Format {
    async fn check(&self, timeout: Duration) -> Result<(), FormatTrouble> {
        let before = self.seen.lock().as_ref().map(|format| format.engine.clone());
        let Some((now, _)) = self.look(timeout).await? else {
            return Err(FormatTrouble::Damaged(self.missing()));
        };
        if now.deleting.is_some() {
            return Err(FormatTrouble::Damaged(WorkerError::Removed.to_string()));
        }
        if let Some(new) = now.replaced_by {
            return Err(FormatTrouble::Damaged(WorkerError::Rebuilt(new).to_string()));
        }
        match before {
            Some(before) if before != now.engine => Err(FormatTrouble::Damaged(format!(
                "its metadata was moved from {} to {} meanwhile, by version {} of the plugin",
                before.folder, now.engine.folder, now.engine.plugin
            ))),
            _ => Ok(()),
        }
    }
}

/// The outcome of an unconditional request.
pub(super) fn applied(outcome: PutOutcome) -> Result<(), WorkerError> {
    match outcome {
        PutOutcome::Won(_) => Ok(()),
        PutOutcome::Failed(error) | PutOutcome::Ambiguous(error) => Err(error.into()),
        PutOutcome::Lost => Err(StoreError::new(
            StoreErrorKind::Protocol,
            "the store refused an unconditional request",
        )
        .into()),
    }
}
