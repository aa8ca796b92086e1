//! What somebody asks for by hand through the plugin's socket: settling now, taking a volume over, and other options
//! for it.
//!
//! Docker passes no options to a volume that it knows, so there is no volume option for the first two. All calls
//! are answered within the time of any other call; settling is asked for again and again.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::Driver;
use super::control::ControlClient;
use super::jobs::Answer;
use super::lanes::Attached;
use crate::catalog::{Asked, Definition};
use crate::clock::Deadline;
use crate::config::VolumeOptions;
use crate::credentials::Places;
use crate::types::VolumeName;

/// One slice of settling, and what it takes to look what is left.
const SETTLE: Duration = Duration::from_secs(20);
/// A worker only notes its new options.
const TUNE: Duration = Duration::from_secs(2);

impl Driver {
    /// Settles for a slice of time; the answer is the worker's.
    pub(super) async fn settle(&self, name: &VolumeName) -> Answer {
        self.defined(name).await?;
        let worker = self.lanes.enter(name).await.worker.clone();
        let Some(worker) = worker else {
            return Err(format!(
                "volume {name} is not mounted on this host; settle it on the host that has it, or here once a \
                 container uses it"
            ));
        };
        let reply = ControlClient::new(&worker.spec.control_socket).settle(SETTLE).await;
        let reply = reply.map_err(|e| format!("volume {name}: {e}"))?;
        serde_json::to_value(reply).map_err(|e| e.to_string())
    }

    /// Without an epoch: who holds the volume, and what would be at risk (`Hold`, null when it is free).
    /// With the epoch of that answer: ends it.
    pub(super) async fn take_over(&self, name: &VolumeName, epoch: Option<u64>) -> Answer {
        let volume = self.defined(name).await?;
        // While it is taken no worker of ours is started: it would be the one that is robbed.
        let lane = self.lanes.enter(name).await;
        if lane.worker.is_some() {
            return Err(format!(
                "volume {name} is used on this host, or is just being mounted; try again when it is not"
            ));
        }
        let failed = |e: crate::catalog::CatalogError| format!("volume {name}: {e}");
        match epoch {
            None => {
                drop(lane);
                let hold = self.purge.hold(&volume).await.map_err(failed)?;
                Ok(json!({ "Hold": hold, "Err": "" }))
            }
            Some(epoch) => {
                let taken = self.purge.take_over(&volume, epoch);
                match tokio::time::timeout(self.settings.budget, taken).await {
                    Ok(taken) => taken.map_err(failed)?,
                    Err(_) => {
                        return Err(format!("volume {name}: the bucket was too slow; try again"));
                    }
                }
                tracing::warn!(volume = %name, epoch, "taken over by hand");
                Ok(json!({ "Hold": Value::Null, "Err": "" }))
            }
        }
    }

    /// Changes options of a volume, and says what is different, and whether a process here writes the volume.
    pub(super) async fn set(&self, name: &VolumeName, options: BTreeMap<String, String>) -> Answer {
        let deadline = Deadline::after(self.settings.budget);
        let changed = tokio::time::timeout(deadline.left(), self.catalog.change(name, &options));
        let (_, differences) = match changed.await {
            Ok(changed) => changed.map_err(|e| e.to_string())?,
            Err(_) => return Err(format!("volume {name}: the bucket was too slow; try again")),
        };
        let told = self.follow_options(name, deadline).await?;
        Ok(json!({ "Changes": differences, "Told": told, "Err": "" }))
    }

    /// Has the worker of this host, if one writes the volume, follow the options as they are known by now, as far as
    /// they take effect at once. Says whether one does.
    pub(super) async fn follow_options(
        &self,
        name: &VolumeName,
        deadline: Deadline,
    ) -> Result<bool, String> {
        let Ok(mut lane) = tokio::time::timeout(deadline.left(), self.lanes.enter(name)).await
        else {
            return Err(format!(
                "volume {name} is just being mounted or unmounted; its new options take effect at the next mount"
            ));
        };
        // Of two who change them, the later one may come here first.
        let Some(volume) = self.catalog.known(name) else { return Ok(false) };
        let Some(worker) = &mut lane.worker else { return Ok(false) };
        self.tune(worker, &volume.options).await.map_err(|why| {
            format!(
                "volume {name} has new options, but they take effect at its next mount only: {why}"
            )
        })
    }

    /// Tells a worker what takes effect at once, also if it should know: an earlier driver may have ended half-way.
    pub(super) async fn tune(
        &self,
        worker: &mut Attached,
        options: &VolumeOptions,
    ) -> Result<bool, String> {
        if worker.spec.options.readonly {
            return Ok(false);
        }
        let mut wanted = worker.spec.options.clone();
        wanted.tune(options);
        // First for its successors: it may die before it answers.
        let successors = self.workers.tune(&worker.spec.name, &wanted);
        match tokio::time::timeout(TUNE, successors).await {
            Ok(told) => told.map_err(|e| e.to_string())?,
            Err(_) => return Err("the plugin's supervisor does not answer".to_owned()),
        }
        let client = ControlClient::new(&worker.spec.control_socket);
        client.tune(&wanted, TUNE).await.map_err(|e| e.to_string())?;
        worker.spec.options = wanted;
        Ok(true)
    }

    /// The names of credentials that the plugin finds.
    pub(super) fn credentials(&self) -> Answer {
        serde_json::to_value(Places::of_process().list()).map_err(|e| e.to_string())
    }

    /// What credentials may do.
    pub(super) async fn check_credentials(&self, asked: &Asked) -> Answer {
        let checking = self.catalog.check_credentials(asked);
        let checked = match tokio::time::timeout(self.settings.budget, checking).await {
            Ok(checked) => checked.map_err(|e| e.to_string())?,
            Err(_) => {
                return Err(format!(
                    "credentials {}: the bucket was too slow; try again",
                    asked.name
                ));
            }
        };
        serde_json::to_value(checked).map_err(|e| e.to_string())
    }

    async fn defined(&self, name: &VolumeName) -> Result<Definition, String> {
        match self.catalog.lookup(name).await {
            Ok(Some(volume)) => Ok(volume),
            Ok(None) => Err(format!("there is no volume {name}")),
            Err(error) => Err(error.to_string()),
        }
    }
}
