//! Tags are a question of their own: no HEAD tells them, and reading them is a right of its own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::Settler;
use crate::store::{ObjectInfo, StoreError, StoreErrorKind, Tags};
use crate::types::ObjectKey;

const TIMEOUT: Duration = Duration::from_secs(15);

/// What was found out about tags in this bucket.
#[derive(Debug, Default)]
pub(super) struct TagSight {
    /// A HEAD told how many there are: then one that tells nothing means that there are none.
    counted: AtomicBool,
    /// What the store said when it did not let us read them.
    denied: Mutex<Option<String>>,
}

impl TagSight {
    /// Whether an object may have tags that nobody here can read.
    pub fn unreadable(&self) -> bool {
        self.denied.lock().is_some()
    }

    /// For the status.
    pub fn missing_right(&self) -> Option<String> {
        self.denied.lock().clone()
    }
}

impl Settler {
    /// The tags of an object whose HEAD said this; `None`: nobody knows. A store that does not tell
    /// their number is only asked when `unsure`.
    pub(super) async fn tags_of(
        &self,
        key: &ObjectKey,
        info: &ObjectInfo,
        unsure: bool,
    ) -> Result<Option<Tags>, StoreError> {
        let sight = &self.tags;
        match info.tag_count {
            Some(count) => {
                sight.counted.store(true, Ordering::Relaxed);
                if count == 0 {
                    return Ok(Some(Tags::new()));
                }
            }
            None if sight.counted.load(Ordering::Relaxed) => return Ok(Some(Tags::new())),
            None if !unsure => return Ok(None),
            None => {}
        }
        if sight.unreadable() {
            return Ok(None);
        }
        match self.volume.store.get_tags(key, TIMEOUT).await {
            Ok(tags) => Ok(tags),
            Err(error) if error.kind == StoreErrorKind::TagsDenied => {
                let why = error.to_string();
                if sight.denied.lock().replace(why.clone()).is_none() {
                    tracing::warn!(
                        %why,
                        "tags cannot be read; they stay only where an object is copied by the store"
                    );
                }
                Ok(None)
            }
            // It went meanwhile; whoever publishes over it finds that out.
            Err(error) if error.kind == StoreErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}
