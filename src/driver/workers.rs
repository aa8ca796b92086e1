//! What the driver wants from whoever runs the workers.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, watch};

use crate::config::VolumeOptions;
use crate::worker::WorkerSpec;

/// A worker that runs.
#[derive(Debug, Clone)]
pub struct RunningWorker {
    pub name: String,
    pub pid: Option<u32>,
    pub mountpoint: PathBuf,
    /// How often it was started anew after it died.
    pub restarts: u32,
    pub spec: WorkerSpec,
}

/// A worker that ended by itself.
#[derive(Debug, Clone)]
pub struct WorkerExit {
    pub name: String,
    pub code: i32,
    /// A successor takes over the same mount.
    pub restarting: bool,
    /// It made place for another version of the program.
    pub planned: bool,
}

/// The program that runs the workers, and what became of the last attempt to put another in its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningProgram {
    pub version: String,
    /// Names the program that the plugin was installed with.
    #[serde(default)]
    pub over: String,
    #[serde(default)]
    pub upgrade: Option<Upgrading>,
}

/// An upgrade, under way or over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upgrading {
    pub from: String,
    pub to: String,
    pub file: PathBuf,
    /// `trial`, `replacing`, `back`; at the end `done` or `failed`.
    pub stage: String,
    #[serde(default)]
    pub why: Option<String>,
}

impl Upgrading {
    pub fn is_over(&self) -> bool {
        self.is_done() || self.stage == "failed"
    }

    pub fn is_done(&self) -> bool {
        self.stage == "done"
    }
}

/// Why a worker could not be started or ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WorkersError {
    /// Refused or failed, in the supervisor's words.
    #[error("{0}")]
    Refused(String),
    /// The supervisor does not answer; it starts the driver anew when it ended.
    #[error("the plugin's supervisor does not answer")]
    Gone,
}

/// Starts and ends workers with their mounts.
#[async_trait]
pub trait Workers: Send + Sync + 'static {
    /// Mounts the volume and starts its worker; returns before the volume is open.
    async fn start(&self, spec: WorkerSpec) -> Result<(), WorkersError>;

    /// Ends the worker and unmounts; succeeds when there is none.
    async fn stop(&self, name: &str) -> Result<(), WorkersError>;

    /// Successors of a worker get what of these options takes effect at once.
    async fn tune(&self, name: &str, options: &VolumeOptions) -> Result<(), WorkersError>;

    /// The workers that run.
    async fn running(&self) -> Result<Vec<RunningWorker>, WorkersError>;

    /// Puts the program in `file`, which was checked, in the place of the one that runs. Returns when that begins.
    async fn upgrade(&self, _file: &Path, _version: &str) -> Result<(), WorkersError> {
        Err(WorkersError::Refused("this plugin cannot become another program".to_owned()))
    }

    /// What runs, and how far an upgrade is.
    async fn program(&self) -> Result<RunningProgram, WorkersError> {
        Err(WorkersError::Gone)
    }

    /// Changes when an upgrade has ended.
    fn upgrades(&self) -> watch::Receiver<u64> {
        watch::channel(0).1
    }

    /// Names this run of the supervisor: mounts do not outlive it.
    fn instance(&self) -> String;

    /// Exits from now on.
    fn exits(&self) -> broadcast::Receiver<WorkerExit>;
}
