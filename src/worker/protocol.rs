//! What the supervisor, the driver and the command line say to a worker, and what it answers.
//!
//! The control socket speaks HTTP/1.1 with JSON bodies: `GET /status` → [`WorkerStatus`] at any time;
//! `GET /ready` waits until the volume is served (200) or cannot be (500 and the error as text; 423
//! when another host holds it);
//! `POST /drain` commits everything and yields the lease → [`DrainReply`]; `POST /resume` takes a
//! lingering volume back into use (200) or says that it is gone (409); `POST /exit` commits, settles
//! what fits, releases the lease and ends the process; `POST /settle` commits and settles for some seconds
//! → [`SettleReply`], and is repeated as long as the caller wants (409 for a volume that is only read);
//! `POST /tune` with the options of the volume: what of them takes effect at once does (200);
//! `GET /metrics` → what is counted, as text for Prometheus, and `GET /samples` as a [`crate::metrics::Group`];
//! `GET /events?after=N&instance=I` waits some seconds for changes of the volume's state after the N-th of that process
//! → [`super::EventPage`];
//! `POST /leave` does so at once where the process is
//! ending anyway (200), and is refused where the volume is in use (409).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::clock::boottime;
use crate::config::VolumeOptions;
use crate::credentials::Places;
use crate::store::Known;
use crate::types::VolumeId;

/// Everything that a worker needs besides credentials, which it takes from its environment. Sent as
/// one JSON line on its standard input; the FUSE descriptor, if any, is inherited as descriptor 3.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WorkerSpec {
    /// For messages; the URL for a volume without a name.
    pub name: String,
    pub id: VolumeId,
    pub options: VolumeOptions,
    /// This volume's folder on the local disk: log, cache, control socket.
    pub state_dir: PathBuf,
    pub control_socket: PathBuf,
    /// Where this host keeps what it knows of stores.
    pub stores: PathBuf,
    /// Where the volume is seen; for status and messages only.
    pub mountpoint: PathBuf,
}

/// In local names, before the place of a volume that is only read.
const READER: &str = "-ro-";

impl WorkerSpec {
    /// How the volume's credentials fare in this process, if they have a name.
    pub(super) fn credentials(&self) -> Option<crate::credentials::State> {
        Places::of_process().state(self.options.credentials.as_ref()?)
    }

    /// What this host knows of stores.
    pub fn known(&self) -> Known {
        Known::in_folder(&self.stores)
    }

    /// The name of a volume's local folder and socket. A volume that is only read has its own for each
    /// `place` (a name or a path) where this host shows it, beside that of a writer.
    pub fn local_name(id: VolumeId, readonly: bool, place: &[u8]) -> String {
        match Self::place_name(readonly, place) {
            None => id.to_string(),
            Some(place) => format!("{id}{READER}{place}"),
        }
    }

    /// What tells apart the places of a volume that is only read.
    pub fn place_name(readonly: bool, place: &[u8]) -> Option<String> {
        readonly.then(|| format!("{:08x}", crc32c::crc32c(place)))
    }

    /// The [`place_name`](Self::place_name) in a local name.
    pub fn place_of(local_name: &str) -> Option<&str> {
        local_name.split_once(READER).map(|(_, place)| place)
    }
}

/// Where a volume stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VolumeState {
    Opening,
    Active,
    /// The store does not answer; cached data is served, writes wait.
    Degraded,
    /// The engine's handle is being replaced.
    Reopening,
    /// No container uses it; it commits, settles and waits for the next mount, with a yielding lease.
    Draining,
    Closed,
    /// Another host took over.
    Fenced,
    /// The state in the bucket is missing or foreign.
    Damaged,
    /// It could not be opened.
    Failed,
}

impl VolumeState {
    pub const ALL: [VolumeState; 9] = [
        VolumeState::Opening,
        VolumeState::Active,
        VolumeState::Degraded,
        VolumeState::Reopening,
        VolumeState::Draining,
        VolumeState::Closed,
        VolumeState::Fenced,
        VolumeState::Damaged,
        VolumeState::Failed,
    ];

    /// As the status has it.
    pub fn name(self) -> &'static str {
        match self {
            VolumeState::Opening => "opening",
            VolumeState::Active => "active",
            VolumeState::Degraded => "degraded",
            VolumeState::Reopening => "reopening",
            VolumeState::Draining => "draining",
            VolumeState::Closed => "closed",
            VolumeState::Fenced => "fenced",
            VolumeState::Damaged => "damaged",
            VolumeState::Failed => "failed",
        }
    }
}

/// What `docker volume inspect` and `s3vol status` show of a worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WorkerStatus {
    pub name: String,
    pub id: VolumeId,
    pub url: String,
    pub state: VolumeState,
    pub pid: u32,
    pub mountpoint: PathBuf,
    pub epoch: Option<u64>,
    /// The holder of the lease as `host (instance)`.
    pub holder: Option<String>,
    pub bytes: u64,
    pub files: u64,
    /// Written and not yet in the bucket.
    pub uncommitted_bytes: u64,
    pub unsettled_files: u64,
    /// Why some files cannot settle, with one example each.
    pub unsettleable: Vec<String>,
    pub conflicts: u64,
    /// Rights that the credentials lack and without which something is left out.
    pub missing_rights: Vec<String>,
    /// How objects whose names are gone are deleted in this bucket; empty where none are.
    #[serde(default)]
    pub deletions: String,
    pub last_error: Option<String>,
    /// Those that have a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<crate::credentials::State>,
    pub requests: crate::store::RequestCounts,
}

/// When somebody decided to drain or resume a volume, by CLOCK_BOOTTIME, nanoseconds: one request may overtake the
/// other. The body of both; without one it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    pub at: u64,
}

impl Asked {
    pub fn now() -> Self {
        Asked { at: u64::try_from(boottime().as_nanos()).unwrap_or(u64::MAX) }
    }

    pub(super) fn read(body: &[u8]) -> u64 {
        serde_json::from_slice(body).unwrap_or_else(|_| Asked::now()).at
    }
}

/// The answer to drain.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct DrainReply {
    /// Everything is in the bucket.
    pub committed: bool,
    /// Another host has the volume now; what was not committed is kept beside it.
    #[serde(default)]
    pub lost: bool,
    pub uncommitted_bytes: u64,
    pub unsettled_files: u64,
    pub error: Option<String>,
    /// The volume's state in the bucket is damaged: what is not committed stays on this host.
    #[serde(default)]
    pub damaged: bool,
}

impl DrainReply {
    /// The error in parentheses, for the middle of a sentence.
    pub fn because(&self) -> String {
        self.error.as_ref().map(|error| format!(" ({error})")).unwrap_or_default()
    }
}

/// How far a slice of settling on demand came.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettleReply {
    /// Written and not yet in the bucket.
    pub uncommitted_bytes: u64,
    /// In the bucket and not yet plain objects, and objects whose names are gone.
    pub unsettled_files: u64,
    /// What these files hold; `None` when they are too many to add up.
    pub unsettled_bytes: Option<u64>,
    /// Nothing of it could be settled now.
    pub stuck: bool,
    /// Requests of an earlier process may still arrive, and names wait for them.
    pub late: bool,
    /// `settle=never`.
    pub never: bool,
    /// Why some files cannot settle, with one example each.
    pub unsettleable: Vec<String>,
    pub error: Option<String>,
}
