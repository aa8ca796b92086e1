//! What workers last said about themselves, for `docker volume inspect`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use serde_json::{Map, Value, json};

use super::Driver;
use super::control::ControlClient;
use crate::catalog::Definition;
use crate::types::VolumeName;
use crate::worker::WorkerStatus;

/// Between questions to the workers.
const PACE: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(2);

/// Never asks anybody while dockerd waits.
#[derive(Debug, Default)]
pub(super) struct StatusCache(RwLock<HashMap<VolumeName, WorkerStatus>>);

impl StatusCache {
    /// Asks a worker and keeps its answer.
    pub async fn ask(&self, name: &VolumeName, client: &ControlClient) {
        match client.status(TIMEOUT).await {
            Ok(status) => {
                self.0.write().insert(name.clone(), status);
            }
            Err(error) => tracing::debug!(volume = %name, %error, "no status"),
        }
    }

    pub fn get(&self, name: &VolumeName) -> Option<WorkerStatus> {
        self.0.read().get(name).cloned()
    }

    pub fn forget(&self, name: &VolumeName) {
        self.0.write().remove(name);
    }
}

impl Driver {
    /// Refreshes the cache until the process ends.
    pub(super) async fn keep_status(self: Arc<Self>) {
        let mut pace = tokio::time::interval(PACE);
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            pace.tick().await;
            for name in self.lanes.names() {
                // A held lane means that the worker is just being started or ended.
                let entered =
                    tokio::time::timeout(Duration::from_millis(100), self.lanes.enter(&name));
                let Ok(lane) = entered.await else { continue };
                let socket = lane.worker.as_ref().map(|w| w.spec.control_socket.clone());
                drop(lane);
                if let Some(socket) = socket {
                    self.status.ask(&name, &ControlClient::new(&socket)).await;
                }
            }
        }
    }

    /// The free-form Status of a volume, from memory.
    pub(super) fn status_of(&self, volume: &Definition) -> Value {
        let mut status = Map::new();
        let mut put = |name: &str, value: Value| status.insert(name.to_owned(), value);
        put("url", json!(volume.options.url));
        put("uuid", json!(volume.uuid.to_string()));
        put("mounts", json!(self.accounts.total(&volume.name)));
        if volume.options.readonly {
            put("readonly", json!(true));
        }
        match self.status.get(&volume.name) {
            Some(worker) => {
                put("state", json!(worker.state));
                put("holder", json!(worker.holder));
                put("bytes", json!(worker.bytes));
                put("files", json!(worker.files));
                put("uncommitted_bytes", json!(worker.uncommitted_bytes));
                put("unsettled_files", json!(worker.unsettled_files));
                put("unsettleable", json!(worker.unsettleable));
                put("conflicts", json!(worker.conflicts));
                if !worker.missing_rights.is_empty() {
                    put("missing_rights", json!(worker.missing_rights));
                }
                if let Some(credentials) = &worker.credentials {
                    put("credentials", json!(credentials.to_string()));
                }
                if !worker.deletions.is_empty() {
                    put("deletions", json!(worker.deletions));
                }
                put("last_error", json!(worker.last_error));
            }
            None => {
                put("state", json!("unmounted"));
            }
        }
        if self.catalog.is_embedded() && volume.options.url.starts_with("file://") {
            put(
                "warning",
                json!(
                    "kept inside the plugin; docker plugin rm deletes it. Set S3VOL_URL to keep \
                     volumes in a bucket"
                ),
            );
        }
        Value::Object(status)
    }
}
