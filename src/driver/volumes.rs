//! Create, Remove, and the answers from memory.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::Driver;
use super::caller::Caller;
use super::jobs::Answer;
use crate::catalog::Definition;
use crate::clock::Deadline;
use crate::types::VolumeName;

/// How long a Create waits for a worker to follow changed options: dockerd waits for the answer.
const FOLLOW: Duration = Duration::from_secs(2);

impl Driver {
    pub(super) fn mountpoint(&self, name: &VolumeName) -> PathBuf {
        self.settings.mounts.join(name.as_str())
    }

    pub(super) async fn create(
        self: &Arc<Self>,
        name: VolumeName,
        options: BTreeMap<String, String>,
        caller: Caller,
    ) -> Answer {
        // Only a repetition of the same request may share its answer.
        let key = ("Create", format!("{name}\n{options:?}"));
        let driver = Arc::clone(self);
        let work = async move {
            let created = driver.catalog.create(&name, &options);
            let deadline = Deadline::after(driver.settings.budget);
            match tokio::time::timeout(deadline.left(), created).await {
                Ok(Ok(_)) => {
                    // Docker has no place for what is said beside success; the log has it.
                    let soon = Deadline::after(FOLLOW.min(deadline.left()));
                    if let Err(text) = driver.follow_options(&name, soon).await {
                        tracing::warn!(volume = %name, "{text}");
                    }
                    Ok(json!({ "Err": "" }))
                }
                Ok(Err(error)) => {
                    tracing::warn!(volume = %name, %error, "not created");
                    Err(error.to_string())
                }
                Err(_) => Err(format!(
                    "the bucket was too slow to create volume {name} within {} s; try again",
                    driver.settings.budget.as_secs()
                )),
            }
        };
        self.jobs.run(key, caller, work, |_| {}).await
    }

    pub(super) async fn remove(self: &Arc<Self>, name: VolumeName, caller: Caller) -> Answer {
        let key = ("Remove", name.to_string());
        let driver = Arc::clone(self);
        let work = async move {
            let deadline = Deadline::after(driver.settings.budget);
            driver.retire(&name, deadline).await?;
            let removed = driver.catalog.remove(&name, driver.purge.as_ref());
            match tokio::time::timeout(deadline.left(), removed).await {
                Ok(Ok(())) => Ok(json!({ "Err": "" })),
                Ok(Err(error)) => {
                    tracing::warn!(volume = %name, %error, "not removed");
                    Err(error.to_string())
                }
                Err(_) => Err(format!(
                    "the bucket was too slow to remove volume {name} within {} s; try again",
                    driver.settings.budget.as_secs()
                )),
            }
        };
        self.jobs.run(key, caller, work, |_| {}).await
    }

    /// Get: from memory for a known volume; an unknown name is looked up within 500 ms.
    pub(super) async fn get(&self, name: &VolumeName) -> Answer {
        match self.catalog.lookup(name).await {
            Ok(Some(volume)) => Ok(json!({ "Volume": self.shown(&volume), "Err": "" })),
            Ok(None) => Err(format!("there is no volume {name}")),
            Err(error) => {
                tracing::debug!(volume = %name, %error, "lookup failed");
                Err(error.to_string())
            }
        }
    }

    pub(super) fn list(&self) -> Answer {
        let volumes: Vec<Value> = self.catalog.all().iter().map(|v| self.shown(v)).collect();
        Ok(json!({ "Volumes": volumes, "Err": "" }))
    }

    pub(super) fn path(&self, name: &VolumeName) -> Answer {
        match self.catalog.known(name) {
            Some(_) => Ok(json!({ "Mountpoint": self.mountpoint(name), "Err": "" })),
            None => Err(format!("there is no volume {name}")),
        }
    }

    fn shown(&self, volume: &Definition) -> Value {
        let mut shown = json!({
            "Name": volume.name.as_str(),
            "Mountpoint": self.mountpoint(&volume.name),
            "Status": self.status_of(volume),
        });
        // A time that Go cannot read would make dockerd drop the whole answer.
        if volume.created_at.parse::<jiff::Timestamp>().is_ok() {
            shown["CreatedAt"] = json!(volume.created_at);
        }
        shown
    }
}
