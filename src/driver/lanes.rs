//! One lane a volume: its worker's process is started and ended by one task at a time.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::Mutex;
use tokio::sync::{Mutex as Turn, OwnedMutexGuard};

use crate::types::VolumeName;
use crate::worker::{Asked, WorkerSpec};

/// What the driver last did with a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// In use, or being opened.
    Used,
    /// Told to commit everything and to wait for the next mount.
    Draining,
}

/// A worker that runs, as far as the driver knows.
#[derive(Debug, Clone)]
pub(super) struct Attached {
    pub spec: WorkerSpec,
    pub phase: Phase,
    /// It was opened for somebody.
    pub served: Arc<AtomicBool>,
}

impl Attached {
    /// A worker that is being opened.
    pub fn new(spec: WorkerSpec) -> Self {
        Attached { spec, phase: Phase::Used, served: Arc::default() }
    }
}

/// State of one volume's lane.
#[derive(Debug, Default)]
pub(super) struct Lane {
    pub worker: Option<Attached>,
    /// Where a worker that ended by itself left what is not in the bucket.
    pub left: Option<PathBuf>,
    /// Grows with every use and every end, so that what was planned before is dropped. It is also when that was, for
    /// the worker.
    pub turn: u64,
}

impl Lane {
    /// Voids everything that was planned before, and names the present.
    pub fn next_turn(&mut self) -> u64 {
        self.turn = Asked::now().at.max(self.turn + 1);
        self.turn
    }
}

/// The lanes of all volumes that were ever mounted here since the driver started.
#[derive(Debug, Default)]
pub(super) struct Lanes(Mutex<HashMap<VolumeName, Arc<Turn<Lane>>>>);

impl Lanes {
    /// Waits for the volume's lane.
    pub async fn enter(&self, name: &VolumeName) -> OwnedMutexGuard<Lane> {
        let lane = Arc::clone(self.0.lock().entry(name.clone()).or_default());
        lane.lock_owned().await
    }

    pub fn has(&self, name: &VolumeName) -> bool {
        self.0.lock().contains_key(name)
    }

    /// Volumes that have a lane.
    pub fn names(&self) -> Vec<VolumeName> {
        self.0.lock().keys().cloned().collect()
    }
}
