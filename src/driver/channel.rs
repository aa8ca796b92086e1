//! The driver's end of its channel to the supervisor: one JSON object a line.

use std::collections::HashMap;
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{broadcast, oneshot};

use super::workers::{RunningProgram, RunningWorker, WorkerExit, Workers, WorkersError};
use crate::config::VolumeOptions;
use crate::worker::{DRIVER_PROTOCOL, Versions, WorkerSpec};

/// A start waits for the unmount of the worker before.
const START: Duration = Duration::from_secs(20);
/// From SIGTERM to SIGKILL; everything is committed before, the rest may settle.
const STOP_GRACE: Duration = Duration::from_secs(15);
const STOP: Duration = Duration::from_secs(20);
const LIST: Duration = Duration::from_secs(5);
/// No line is longer: the supervisor keeps no more for us. Its list of workers is one, with some 1.5 KiB a volume.
const LONGEST_LINE: u64 = 4 << 20;

#[derive(Debug, Deserialize)]
struct Line {
    #[serde(default)]
    id: u64,
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    workers: Option<Vec<Entry>>,
    #[serde(default)]
    event: Option<String>,
    #[serde(default)]
    name: String,
    #[serde(default)]
    code: i32,
    #[serde(default)]
    restarting: bool,
    #[serde(default)]
    planned: bool,
    #[serde(default)]
    speaks: Option<Versions>,
    #[serde(default)]
    program: Option<RunningProgram>,
}

#[derive(Debug, Deserialize)]
struct Entry {
    name: String,
    pid: Option<u32>,
    mountpoint: std::path::PathBuf,
    #[serde(default)]
    restarts: u32,
    spec: WorkerSpec,
    /// `running`, or `waiting` for its successor; others are being ended.
    #[serde(default)]
    phase: Option<String>,
}

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Line>>>>;

/// [`Workers`] through the supervisor. Ends with its channel, which the supervisor closes only by
/// ending.
pub struct SupervisorChannel {
    instance: String,
    next: AtomicU64,
    waiting: Waiting,
    to: tokio::sync::Mutex<OwnedWriteHalf>,
    exits: broadcast::Sender<WorkerExit>,
    upgrades: tokio::sync::watch::Sender<u64>,
    closed: tokio::sync::watch::Receiver<bool>,
}

impl SupervisorChannel {
    /// Takes the connected stream. Must be called on the runtime.
    pub fn new(stream: StdStream) -> std::io::Result<SupervisorChannel> {
        let instance = peer_instance(&stream)?;
        stream.set_nonblocking(true)?;
        let (from, to) = UnixStream::from_std(stream)?.into_split();
        let waiting = Waiting::default();
        let (exits, _) = broadcast::channel(256);
        let (tell, closed) = tokio::sync::watch::channel(false);
        let upgrades = tokio::sync::watch::Sender::new(0);
        let reader = read(from, Arc::clone(&waiting), exits.clone(), upgrades.clone());
        tokio::spawn(async move {
            reader.await;
            tell.send_replace(true);
        });
        Ok(SupervisorChannel {
            instance,
            next: AtomicU64::new(1),
            waiting,
            to: tokio::sync::Mutex::new(to),
            exits,
            upgrades,
            closed,
        })
    }

    /// The first thing to be said: fails where the supervisor is of a version that this driver cannot work with.
    pub async fn hello(&self) -> anyhow::Result<()> {
        let hello = self.ask(json!({ "op": "hello", "speaks": DRIVER_PROTOCOL }), LIST).await?;
        if let Some(speaks) = hello.speaks {
            DRIVER_PROTOCOL.agree("the supervisor", speaks).map_err(anyhow::Error::msg)?;
        }
        Ok(())
    }

    /// Says that calls are answered from now on.
    pub async fn serves(&self) -> anyhow::Result<()> {
        self.ask(json!({ "op": "serves" }), LIST).await?;
        Ok(())
    }

    /// Returns when the supervisor is gone: the driver has nobody to work for.
    pub async fn closed(&self) {
        let mut closed = self.closed.clone();
        drop(closed.wait_for(|closed| *closed).await);
    }

    async fn ask(&self, mut request: Value, timeout: Duration) -> Result<Line, WorkersError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        request["id"] = json!(id);
        let mut line = request.to_string();
        line.push('\n');
        let (tell, told) = oneshot::channel();
        self.waiting.lock().insert(id, tell);
        let exchange = async {
            self.to.lock().await.write_all(line.as_bytes()).await.ok()?;
            told.await.ok()
        };
        let answer = tokio::time::timeout(timeout, exchange).await;
        self.waiting.lock().remove(&id);
        match answer {
            Ok(Some(Line { error: Some(error), .. })) => Err(WorkersError::Refused(error)),
            Ok(Some(line)) => Ok(line),
            Ok(None) | Err(_) => Err(WorkersError::Gone),
        }
    }
}

async fn read(
    from: OwnedReadHalf,
    waiting: Waiting,
    exits: broadcast::Sender<WorkerExit>,
    upgrades: tokio::sync::watch::Sender<u64>,
) {
    let mut from = BufReader::new(from);
    loop {
        let mut text = Vec::new();
        match (&mut from).take(LONGEST_LINE).read_until(b'\n', &mut text).await {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => {
                tracing::error!(%error, "the channel to the supervisor broke");
                break;
            }
        }
        let line: Line = match serde_json::from_slice(&text) {
            Ok(line) => line,
            Err(error) => {
                tracing::error!(%error, "the supervisor sent a line that cannot be read");
                continue;
            }
        };
        if line.event.as_deref() == Some("upgraded") {
            upgrades.send_modify(|ended| *ended += 1);
        } else if line.event.as_deref() == Some("exit") {
            // Nobody listening is fine.
            drop(exits.send(WorkerExit {
                name: line.name,
                code: line.code,
                restarting: line.restarting,
                planned: line.planned,
            }));
        } else if line.event.is_some() {
            // Of a newer supervisor.
        } else if let Some(tell) = waiting.lock().remove(&line.id) {
            drop(tell.send(line));
        }
    }
    // Whoever waits learns that no answer will come.
    waiting.lock().clear();
}

#[async_trait]
impl Workers for SupervisorChannel {
    async fn start(&self, spec: WorkerSpec) -> Result<(), WorkersError> {
        self.ask(json!({ "op": "start", "spec": spec }), START).await.map(drop)
    }

    async fn stop(&self, name: &str) -> Result<(), WorkersError> {
        let grace = STOP_GRACE.as_millis() as u64;
        let request = json!({ "op": "stop", "name": name, "grace_ms": grace });
        self.ask(request, STOP).await.map(drop)
    }

    async fn tune(&self, name: &str, options: &VolumeOptions) -> Result<(), WorkersError> {
        let request = json!({ "op": "tune", "name": name, "options": options });
        self.ask(request, LIST).await.map(drop)
    }

    async fn running(&self) -> Result<Vec<RunningWorker>, WorkersError> {
        let line = self.ask(json!({ "op": "list" }), LIST).await?;
        let alive = |e: &Entry| matches!(e.phase.as_deref(), None | Some("running" | "waiting"));
        Ok(line
            .workers
            .unwrap_or_default()
            .into_iter()
            .filter(alive)
            .map(|e| RunningWorker {
                name: e.name,
                pid: e.pid,
                mountpoint: e.mountpoint,
                restarts: e.restarts,
                spec: e.spec,
            })
            .collect())
    }

    async fn upgrade(&self, file: &Path, version: &str) -> Result<(), WorkersError> {
        let request = json!({ "op": "upgrade", "file": file, "version": version });
        self.ask(request, START).await.map(drop)
    }

    async fn program(&self) -> Result<RunningProgram, WorkersError> {
        let line = self.ask(json!({ "op": "program" }), LIST).await?;
        line.program.ok_or(WorkersError::Gone)
    }

    fn upgrades(&self) -> tokio::sync::watch::Receiver<u64> {
        self.upgrades.subscribe()
    }

    fn instance(&self) -> String {
        self.instance.clone()
    }

    fn exits(&self) -> broadcast::Receiver<WorkerExit> {
        self.exits.subscribe()
    }
}

/// Process id and start time of the other end: in a container the id alone is always 1.
fn peer_instance(stream: &StdStream) -> std::io::Result<String> {
    let peer = nix::sys::socket::getsockopt(stream, nix::sys::socket::sockopt::PeerCredentials)?;
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", peer.pid()))?;
    // The name in parentheses may hold anything; the start time is the 20th field after it.
    let start = stat
        .rsplit_once(')')
        .and_then(|(_, rest)| rest.split_whitespace().nth(19))
        .unwrap_or("unknown");
    Ok(format!("{}@{start}", peer.pid()))
}
