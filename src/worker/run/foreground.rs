//! `s3vol mount`: one volume served by this process, without Docker.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio_util::sync::CancellationToken;

use super::control::{Heard, Served, Stage, listen};
use super::mount::{Signals, detach, mount};
use super::{LOOPS, runtime, runtime_of};
use crate::data::Trash;
use crate::fuse::{HandoffFiles, serve};
use crate::meta::log::StateDirLock;
use crate::sys::FuseMount;
use crate::worker::bill::{Bill, requests};
use crate::worker::leave::{self, Ending};
use crate::worker::life::{COMMIT_BUDGET, Left, Shared, Waited, give_back, open_locked, tasks};
use crate::worker::{Mounted, Successor, VolumeState, What, WorkerSpec, WorkerStatus};

/// An opening that is no longer wanted has this long to come to its end, so that others do not have to
/// wait for a lease that never began.
const HALF_OPEN: Duration = Duration::from_secs(5);
/// How often a background process is asked whether it serves.
const PACE: Duration = Duration::from_millis(20);

/// Serves until SIGTERM, SIGINT or umount, and gives the volume back. The caller ends the process then.
pub fn serve_foreground(spec: WorkerSpec, how: FuseMount<'_>) -> anyhow::Result<Left> {
    let (runtime, span) = runtime_of(&spec)?;
    let _entered = span.enter();
    // Before the socket, so that no two processes ever have that.
    let lock = runtime.block_on(leave::lock(&spec.state_dir))?;
    let left = match spec.options.readonly {
        true => runtime.block_on(super::following::run_foreground(&spec, how, &lock)),
        false => runtime.block_on(run(&spec, how, &lock)),
    };
    empty_later(&spec.state_dir);
    // Before the lock goes: whoever has that next makes a socket of its own. One that stays is removed then.
    let _ = std::fs::remove_file(&spec.control_socket);
    // Nobody waits for requests that hang. Tasks may so be cut off anywhere: the kernel gives the lock away
    // with the last of them, when the process ends.
    runtime.shutdown_background();
    std::mem::forget(lock);
    left
}

/// Leaves what the trash still has to a process of its own: the next mount may come late.
fn empty_later(state_dir: &Path) {
    let trash = Trash::beside(state_dir);
    let Some(volumes) = state_dir.parent().filter(|_| !trash.is_empty()) else { return };
    let mut child = Command::new("/proc/self/exe");
    child.arg0("s3vol").arg("empty").arg(volumes).current_dir("/");
    child.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    if let Err(error) = child.spawn() {
        tracing::warn!(folder = %volumes.display(), %error,
            "what the volume had on the local disk goes with the next mount");
    }
}

async fn run(spec: &WorkerSpec, how: FuseMount<'_>, lock: &StateDirLock) -> anyhow::Result<Left> {
    let bill = Bill::begin();
    let Heard { stage, exit, ending, events } = listen(spec)?;
    let mut signals = Signals::new()?;
    let mounted = open_unless_ended(spec, lock, &mut signals, &ending).await?;
    let shared = Shared::telling(spec.clone(), &mounted, events);
    let Mounted { fs, changes, .. } = mounted;
    let handoff = HandoffFiles::new(&spec.state_dir);
    let served = async {
        handoff.clear()?;
        let (device, mounted) = mount(&spec.mountpoint, how, lock)
            .with_context(|| format!("mounting at {}", spec.mountpoint.display()))?;
        let runtime = tokio::runtime::Handle::current();
        let serve = move || serve(device, fs, runtime, &handoff, LOOPS);
        match tokio::task::spawn_blocking(serve).await? {
            Ok(serving) => Ok((serving, mounted)),
            Err(error) => {
                detach(&spec.mountpoint, &mounted).await;
                Err(anyhow::Error::from(error))
            }
        }
    };
    let (mut serving, mounted) = match served.await {
        Ok(served) => served,
        Err(error) => {
            ending.begin();
            if let Err(error) = shared.close(COMMIT_BUDGET, Duration::ZERO).await {
                tracing::warn!(error = &error as &dyn std::error::Error, "not given back in order");
            }
            return Err(error);
        }
    };
    let stop = CancellationToken::new();
    let running = tasks::start(&shared, changes, Some(serving.notifier()), &stop);
    let _ = stage.send(Stage::Serving(Served::Writing(Arc::clone(&shared))));
    shared.tell(What::Mounted, None);
    tracing::info!(mountpoint = %spec.mountpoint.display(), "the volume is mounted");
    bill.log("mount", requests(&shared.volume));
    let waited = tokio::select! {
        () = signals.any() => Waited::For,
        () = exit.notified() => Waited::For,
        ended = serving.wait() => {
            if let Err(error) = ended {
                tracing::error!(error = &error as &dyn std::error::Error, "the FUSE connection broke");
            }
            Waited::Not
        }
    };
    shared.turn.closes();
    let bill = Bill::begin_with(requests(&shared.volume));
    ending.begin();
    shared.set_state(VolumeState::Draining);
    tracing::info!("unmounting; what was written goes to the bucket");
    detach(&spec.mountpoint, &mounted).await;
    stop.cancel();
    let given_back = async {
        let left = give_back(&shared, running, &ending, waited).await;
        bill.log("unmount", requests(&shared.volume));
        left
    };
    let mut given_back = std::pin::pin!(given_back);
    tokio::select! {
        left = &mut given_back => Ok(left),
        // From now on somebody waits.
        () = signals.any() => {
            tracing::info!("told to end while it was unmounting; the next mount goes on");
            ending.hurry();
            Ok(given_back.await)
        }
    }
}

/// Opens the volume. An end that is asked for meanwhile is an error.
async fn open_unless_ended(
    spec: &WorkerSpec,
    lock: &StateDirLock,
    signals: &mut Signals,
    ending: &Ending,
) -> anyhow::Result<Mounted> {
    let mut opening = std::pin::pin!(open_locked(spec, Successor::No, lock));
    tokio::select! {
        mounted = &mut opening => return Ok(mounted?),
        () = signals.any() => {}
    }
    ending.begin();
    let end = async {
        if let Ok(opened) = tokio::time::timeout(HALF_OPEN, opening).await {
            Shared::new(spec.clone(), &opened?).close(COMMIT_BUDGET, Duration::ZERO).await?;
        }
        Ok::<(), super::WorkerError>(())
    };
    let ended = tokio::select! {
        ended = end => ended,
        () = ending.hurried() => Ok(()),
    };
    if let Err(error) = ended {
        tracing::warn!(error = &error as &dyn std::error::Error, "not given back in order");
    }
    bail!("it was ended before the volume was open");
}

/// Starts this command again in the background, with `--detach` taken back, and returns once the
/// volume is mounted.
pub fn serve_detached(spec: &WorkerSpec, command: &[std::ffi::OsString]) -> anyhow::Result<()> {
    let log_path = spec.state_dir.join("worker.log");
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log_path)
        .with_context(|| log_path.display().to_string())?;
    let mut child = Command::new("/proc/self/exe");
    child.arg0("s3vol").args(command).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    child.process_group(0);
    let before = log_path.metadata().map_or(0, |log| log.len());
    let mut child = child.spawn().context("starting the background process")?;
    let socket = spec.control_socket.clone();
    runtime()?.block_on(async move {
        loop {
            if let Some(status) = child.try_wait()? {
                // Of this run alone. What cannot be read explains nothing.
                let log = std::fs::read(&log_path).unwrap_or_default();
                let text = String::from_utf8_lossy(log.get(before as usize..).unwrap_or_default());
                let last = text.lines().rev().find(|line| line.starts_with("s3vol: "));
                bail!(
                    "{}",
                    last.map_or_else(
                        || format!("it ended with {status}"),
                        |l| l["s3vol: ".len()..].to_owned()
                    )
                );
            }
            if serving_process(&socket).await == Some(child.id()) {
                return Ok(());
            }
            tokio::time::sleep(PACE).await;
        }
    })
}

/// Who serves at a control socket. Somebody else's may be there for a moment.
async fn serving_process(socket: &Path) -> Option<u32> {
    use http_body_util::{BodyExt, Empty};
    use hyper_util::client::legacy::Client;
    use hyperlocal::{UnixClientExt, UnixConnector, Uri};
    let client: Client<UnixConnector, Empty<bytes::Bytes>> = Client::unix();
    let ask = |path: &'static str| client.get(Uri::new(socket, path).into());
    let status = ask("/status").await.ok()?.into_body().collect().await.ok()?.to_bytes();
    let status: WorkerStatus = serde_json::from_slice(&status).ok()?;
    // It comes when the volume is served, or cannot be.
    ask("/ready").await.ok().filter(|ready| ready.status().is_success())?;
    Some(status.pid)
}
