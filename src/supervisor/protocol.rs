//! What the driver and the supervisor say to each other: one JSON object a line, over a socket pair.
//!
//! The driver sends [`Request`]s. Each gets one [`Reply`] with the same `id`; replies to different
//! requests may come in any order, because a stop takes as long as its worker does. Between replies
//! the supervisor sends [`Event`]s, which have an `event` and no `id`. Both sides pass over fields and events that they
//! do not know.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::VolumeOptions;
use crate::worker::{Versions, WorkerSpec};

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
    /// The first request of a driver: which versions of this protocol it speaks. Refused when none of them is spoken
    /// here. A driver that sends none speaks version 1.
    Hello { speaks: Versions },
    /// The driver has come up and answers calls.
    Serves,
    /// Become the program in `file`, which was checked, and let driver and workers follow. Answered when that begins;
    /// [`Command::Program`] says what becomes of it. Refused while an earlier one is under way.
    Upgrade { file: PathBuf, version: String },
    /// What program this is, and what became of the last upgrade.
    Program,
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
    /// Only in the reply to `hello`: what the supervisor speaks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speaks: Option<Versions>,
    /// Only in the reply to `program`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<ProgramEntry>,
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

/// The program that the supervisor runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramEntry {
    pub version: String,
    /// Names the program that the plugin was installed with, if this is a newer one that took its place.
    pub over: String,
    /// Of this process's life.
    pub upgrade: Option<UpgradeEntry>,
}

/// An upgrade, and how far it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradeEntry {
    pub from: String,
    pub to: String,
    pub file: PathBuf,
    pub stage: UpgradeStage,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UpgradeStage {
    /// The new program shows with copies of everything that it could go on. Nothing has changed.
    Trial,
    /// The supervisor is the new program; driver and workers follow.
    Replacing,
    /// The new program did not come up; what had changed is changed back.
    Back,
    Done,
    /// All is as it was.
    Failed,
}

/// Unasked, to the driver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    /// A worker ended. `restarting`: a successor takes over the same mount; otherwise the volume is
    /// being unmounted. `planned`: it made place for another version.
    Exit {
        name: String,
        code: i32,
        restarting: bool,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        planned: bool,
    },
    /// An upgrade has ended; [`Command::Program`] says how.
    Upgraded,
}

/// Any line from the supervisor.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FromSupervisor {
    Event(Event),
    Reply(Reply),
}
