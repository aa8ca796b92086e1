//! The record at `lease/<epoch>`.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::store::{Listing, PutOutcome, Send, StoreBackend, StoreError};
use crate::types::{Epoch, KeyPrefix, ObjectKey, StoreTime};

/// What the owner of an epoch intends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaseState {
    /// The volume is in use.
    Held,
    /// No longer in use here; still settling, and anyone may take over at once.
    Yielding,
    /// Done with.
    Released,
}

/// Who holds an epoch. Holders are told apart by `instance`; host names may repeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRecord {
    pub instance: Uuid,
    pub host: String,
    pub endpoint: String,
    pub state: LeaseState,
    /// Grows by one with every write.
    pub renewals: u64,
    /// When this instance took the volume, by the store's clock.
    pub since: StoreTime,
    /// For people: for example how much is left to upload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// The key of an epoch's record below a volume's state.
pub fn record_key(state: &KeyPrefix, epoch: Epoch) -> ObjectKey {
    // Twenty digits hold every epoch, so that listings come in order.
    state.key(&format!("lease/{:020}", epoch.0))
}

/// The highest epoch that has a record.
pub async fn last_epoch(
    store: &dyn StoreBackend,
    state: &KeyPrefix,
    timeout: Duration,
) -> Result<Option<Epoch>, StoreError> {
    let prefix = state.join("lease");
    let mut last = None;
    let mut pages = Listing::of_keys(prefix.as_str());
    while let Some(page) = pages.next(store, timeout).await? {
        let epochs = page.entries.iter().filter_map(|entry| epoch_of(&prefix, &entry.key));
        last = last.max(epochs.max());
    }
    Ok(last)
}

/// The epochs above `after` that have a record.
pub async fn epochs_above(
    store: &dyn StoreBackend,
    state: &KeyPrefix,
    after: Option<Epoch>,
    timeout: Duration,
) -> Result<Vec<Epoch>, StoreError> {
    let prefix = state.join("lease");
    let mut above = Vec::new();
    let mut pages = Listing::of_keys(prefix.as_str());
    while let Some(page) = pages.next(store, timeout).await? {
        let epochs = page.entries.iter().filter_map(|entry| epoch_of(&prefix, &entry.key));
        above.extend(epochs.filter(|epoch| Some(*epoch) > after));
    }
    Ok(above)
}

fn epoch_of(prefix: &KeyPrefix, key: &ObjectKey) -> Option<Epoch> {
    // What somebody else put there is no epoch that anybody could go on from.
    prefix.strip(key)?.parse().ok().filter(|epoch| *epoch <= i64::MAX as u64).map(Epoch)
}

/// Deletes the records below `epoch - 1`, which nobody will judge again. Returns how many.
pub async fn forget_older(
    store: &dyn StoreBackend,
    state: &KeyPrefix,
    epoch: Epoch,
    timeout: Duration,
) -> Result<usize, StoreError> {
    let prefix = state.join("lease");
    let mut deleted = 0;
    let mut pages = Listing::of_keys(prefix.as_str());
    while let Some(page) = pages.next(store, timeout).await? {
        for entry in page.entries {
            let of = epoch_of(&prefix, &entry.key);
            if of.is_some_and(|of| of.0.saturating_add(1) < epoch.0) {
                match store.delete(&entry.key, Send::plain(timeout)).await {
                    PutOutcome::Won(_) => deleted += 1,
                    PutOutcome::Lost => {}
                    PutOutcome::Failed(error) | PutOutcome::Ambiguous(error) => return Err(error),
                }
            }
        }
    }
    Ok(deleted)
}
