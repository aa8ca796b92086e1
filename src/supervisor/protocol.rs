//! What the driver and the supervisor say to each other: one JSON object a line, over a socket pair.
//!
//! The driver sends [`Request`]s. Each gets one [`Reply`] with the same `id`; replies to different
//! requests may come in any order, because a stop takes as long as its worker does. Between replies
//! the supervisor sends [`Event`]s, which have an `event` and no `id`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::VolumeOptions;
use crate::worker::WorkerSpec;

/// Exit code of a worker that could not open its volume: it is not started again.
pub const EXIT_CANNOT_OPEN: i32 = 75;
/// Set to `1` in the environment of a worker that takes over the FUSE connection of one that died.
pub const SUCCESSOR_ENV: &str = "S3VOL_SUCCESSOR";
/// No line is longer.
pub const MAX_LINE: usize = 1 << 20;

/// From the driver.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the driver, echoed in the reply.
    #[serde(default)]
    pub id: u64,
    #[serde(flatten)]
    pub command: Command,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Command {
    /// Mount the volume and start its worker. Answered as soon as the worker runs; whether it could
    /// open the volume is asked from the worker itself. When the previous worker of that name is
    /// just being unmounted, this waits for it. Refused when one runs.
    Start { spec: Box<WorkerSpec> },
    /// SIGTERM, at most `grace_ms` (10 s unless told) until SIGKILL, then unmount. Answered when the
    /// mount is gone. Succeeds when there is no such worker.
    Stop {
        name: String,
        #[serde(default)]
        grace_ms: Option<u64>,
    },
    /// A worker that is started from now on for this volume gets what of these options takes effect at once.
    /// Succeeds when there is no such worker.
    Tune { name: String, options: Box<VolumeOptions> },
    /// All workers, for a driver that was started anew.
    List,
}

/// To the driver: `{"id":…,"ok":true}`, or `{"id":…,"error":"…"}`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Reply {
    pub id: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ok: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Only in the reply to `list`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<Vec<WorkerEntry>>,
}

impl Reply {
    pub fn ok(id: u64) -> Self {
        Reply { id, ok: true, ..Reply::default() }
    }

    pub fn error(id: u64, error: impl Into<String>) -> Self {
        Reply { id, error: Some(error.into()), ..Reply::default() }
    }
}

/// One worker as the supervisor sees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WorkerEntry {
    pub name: String,
    pub phase: Phase,
    /// Of the running process.
    pub pid: Option<u32>,
    /// How often it was started anew after a crash.
    pub restarts: u32,
    pub mountpoint: PathBuf,
    pub spec: WorkerSpec,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    Running,
    /// It died; a successor starts shortly.
    Waiting,
    /// It was asked to end.
    Stopping,
    Unmounting,
}

/// Unasked, to the driver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    /// A worker ended. `restarting`: a successor takes over the same mount; otherwise the volume is
    /// being unmounted.
    Exit { name: String, code: i32, restarting: bool },
}

/// Any line from the supervisor.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FromSupervisor {
    Event(Event),
    Reply(Reply),
}
