//! Changes of the state of all volumes in one list: what their processes tell, and what only the plugin knows.
//!
//! For each worker one request is open that waits for its next event, so nothing is asked again and again. A worker
//! that ends, and one that dies, are told from here: they may have no time for it.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;

use super::Driver;
use super::control::{ControlClient, ControlError};
use super::workers::WorkerExit;
use crate::catalog::{CatalogError, Definition, Hold, Purge, Purged};
use crate::types::VolumeName;
use crate::worker::{Events, Since, What};

/// Longer than a worker lets anybody wait.
const ANSWER: Duration = Duration::from_secs(30);
/// Between attempts to reach a worker that is just starting or ending.
const PACE: Duration = Duration::from_millis(200);

/// The workers whose events are passed on.
#[derive(Debug, Default)]
pub(super) struct Followed(Mutex<HashSet<PathBuf>>);

impl Driver {
    /// Passes on what this worker and its successors tell, once.
    pub(super) fn follow_events(self: &Arc<Self>, name: &VolumeName, socket: PathBuf) {
        if !self.followed.0.lock().insert(socket.clone()) {
            return;
        }
        let (driver, name) = (Arc::clone(self), name.clone());
        tokio::spawn(async move {
            driver.pass_on(&name, &socket).await;
            driver.followed.0.lock().remove(&socket);
        });
    }

    async fn pass_on(&self, name: &VolumeName, socket: &PathBuf) {
        let client = ControlClient::new(socket);
        let mut since = Since::start();
        loop {
            match client.events(&since, ANSWER).await {
                Ok(page) => {
                    since = Since::page(&page);
                    // The end of its process is told when it has ended.
                    let told = page.events.into_iter().filter(|e| e.event != What::Unmounted);
                    told.for_each(|event| self.events.pass_on(event));
                }
                // A worker of a version that tells nothing.
                Err(ControlError::Refused { status: 404, .. }) => return,
                Err(error) => {
                    tracing::trace!(volume = %name, %error, "no events");
                    let lane = self.lanes.enter(name).await;
                    let ours = lane.worker.as_ref().map(|w| &w.spec.control_socket);
                    if ours != Some(socket) {
                        return;
                    }
                    drop(lane);
                    tokio::time::sleep(PACE).await;
                }
            }
        }
    }

    /// A worker has ended.
    pub(super) fn tell_exit(&self, exit: &WorkerExit) {
        // Its successor tells that it serves.
        if exit.planned && exit.restarting {
            return;
        }
        let (event, text) = match (exit.code, exit.restarting) {
            (code, true) => {
                (What::Died, Some(format!("code {code}; a successor takes over its mount")))
            }
            (0, false) => (What::Unmounted, None),
            (code, false) => (What::Died, Some(format!("code {code}"))),
        };
        self.events.tell(&exit.name, event, text);
    }
}

/// Tells of what was purged.
pub(super) struct Telling {
    pub purge: Arc<dyn Purge>,
    pub events: Events,
}

#[async_trait]
impl Purge for Telling {
    async fn holder(&self, volume: &Definition) -> Result<Option<String>, CatalogError> {
        self.purge.holder(volume).await
    }

    async fn last_epoch(&self, volume: &Definition) -> Result<Option<u64>, CatalogError> {
        self.purge.last_epoch(volume).await
    }

    async fn used_since(&self, volume: &Definition) -> Result<Option<String>, CatalogError> {
        self.purge.used_since(volume).await
    }

    async fn purge(&self, volume: &Definition) -> Result<Purged, CatalogError> {
        let purged = self.purge.purge(volume).await?;
        if purged == Purged::Done {
            self.events.tell(volume.name.as_str(), What::Purged, None);
        }
        Ok(purged)
    }

    async fn hold(&self, volume: &Definition) -> Result<Option<Hold>, CatalogError> {
        self.purge.hold(volume).await
    }

    async fn take_over(&self, volume: &Definition, epoch: u64) -> Result<(), CatalogError> {
        self.purge.take_over(volume, epoch).await
    }
}
