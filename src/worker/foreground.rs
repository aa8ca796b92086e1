//! `s3vol mount`: one volume served by this process, without Docker.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::bill::{Bill, requests};
use super::commits::commit_all;
use super::control::{Control, Served, Stage, listen};
use super::open::{Mounted, Successor, open};
use super::serve::{COMMIT_BUDGET, Shared};
use super::supervised::{runtime, runtime_of};
use super::{VolumeState, WorkerSpec, tasks};
use crate::config::SettleMode;
use crate::fuse::{HandoffFiles, serve};
use crate::sys::{self, FuseMount, MountPoint};

/// How long bringing everything into the bucket may take after the end was asked for. Nobody waits
/// with a limit of his own here, and what does not fit waits for the next mount on this host.
const COMMIT: Duration = Duration::from_secs(600);
/// Less than this within one attempt is no progress (lease renewals and refused requests), bytes.
const PROGRESS: u64 = 1 << 20;
/// How long settling may take after the end was asked for. Requests of an earlier process, which was
/// killed, may arrive for 80 s.
const SETTLE: Duration = Duration::from_secs(90);
/// An opening that is no longer wanted has this long to come to its end, so that others do not have to
/// wait for a lease that never began.
const HALF_OPEN: Duration = Duration::from_secs(5);
const LOOPS: usize = 2;

/// Serves until SIGTERM, SIGINT or umount. Returns once everything is committed and settled; the error
/// says what is left.
pub fn serve_foreground(spec: WorkerSpec, how: FuseMount<'_>) -> anyhow::Result<()> {
    let (runtime, span) = runtime_of(&spec)?;
    let _entered = span.enter();
    match spec.options.readonly {
        true => runtime.block_on(super::follow::run_foreground(spec, how)),
        false => runtime.block_on(run(spec, how)),
    }
}

async fn run(spec: WorkerSpec, how: FuseMount<'_>) -> anyhow::Result<()> {
    let bill = Bill::begin();
    let (stage, stage_seen) = watch::channel(Stage::Opening);
    let (drained, _) = watch::channel(None);
    let exit = Arc::new(Notify::new());
    let control = Control {
        spec: Arc::new(spec.clone()),
        stage: stage_seen,
        exit: Arc::clone(&exit),
        drained,
    };
    listen(&spec.control_socket, control)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mounted = {
        let mut opening = std::pin::pin!(open(&spec, Successor::No));
        tokio::select! {
            mounted = &mut opening => mounted?,
            () = asked_to_end(&mut terminate, &mut interrupt) => {
                if let Ok(opened) = tokio::time::timeout(HALF_OPEN, opening).await {
                    Shared::new(spec.clone(), &opened?).close(COMMIT_BUDGET, Duration::ZERO).await?;
                }
                bail!("it was ended before the volume was open");
            }
        }
    };
    let shared = Shared::new(spec.clone(), &mounted);
    let Mounted { fs, changes, _lock: lock, .. } = mounted;
    let handoff = HandoffFiles::new(&spec.state_dir);
    handoff.clear()?;
    let device = match mount(&spec.mountpoint, how) {
        Ok(device) => device,
        Err(error) => {
            shared.close(COMMIT_BUDGET, Duration::ZERO).await?;
            return Err(error)
                .with_context(|| format!("mounting at {}", spec.mountpoint.display()));
        }
    };
    let handle = tokio::runtime::Handle::current();
    let served =
        tokio::task::spawn_blocking(move || serve(device, fs, handle, &handoff, LOOPS)).await?;
    let mut serving = match served {
        Ok(serving) => serving,
        Err(error) => {
            sys::detach_all(&spec.mountpoint)?;
            shared.close(COMMIT_BUDGET, Duration::ZERO).await?;
            return Err(error.into());
        }
    };
    let stop = CancellationToken::new();
    let mut running = tasks::start(&shared, changes, Some(serving.notifier()), &stop);
    let _ = stage.send(Stage::Serving(Served::Writing(Arc::clone(&shared))));
    tracing::info!(mountpoint = %spec.mountpoint.display(), "the volume is mounted");
    bill.log("mount", requests(&shared.volume));
    tokio::select! {
        () = asked_to_end(&mut terminate, &mut interrupt) => {}
        () = exit.notified() => {}
        ended = serving.wait() => {
            if let Err(error) = ended {
                tracing::error!(error = &error as &dyn std::error::Error, "the FUSE connection broke");
            }
        }
    }
    shared.closes();
    let bill = Bill::begin_with(requests(&shared.volume));
    tracing::info!("unmounting; what was written goes to the bucket");
    let mountpoint = spec.mountpoint.clone();
    tokio::task::spawn_blocking(move || sys::detach_all(&mountpoint)).await??;
    stop.cancel();
    shared.end_content();
    if let Err(error) = commit_while_it_moves(&shared).await {
        tracing::warn!(error = &error as &dyn std::error::Error, "not everything is committed yet");
    }
    // What does not end goes on beside; it has no longer than settling has.
    tasks::ended(&mut running, &shared.settler).await;
    let closed = shared.close(COMMIT_BUDGET, SETTLE).await;
    if closed.is_err() && shared.state() == VolumeState::Fenced {
        shared.save_lost().await;
    }
    bill.log("unmount", requests(&shared.volume));
    drop(lock);
    // A socket that stays is removed by the next mount of this volume.
    let _ = std::fs::remove_file(&spec.control_socket);
    match closed {
        Ok(0) => Ok(()),
        Ok(_) if spec.options.settle == SettleMode::Never => Ok(()),
        Ok(left) => bail!(
            "everything is in the bucket, but {left} changes are not plain objects yet; the next mount goes on settling"
        ),
        Err(error) if shared.state() == VolumeState::Fenced => Err(error).with_context(|| {
            format!(
                "another host has the volume now; what did not reach the bucket before is kept in {}",
                spec.state_dir.display()
            )
        }),
        Err(error) => Err(error).with_context(|| {
            format!(
                "{} bytes are not in the bucket; they are kept in {} and go up with the next mount on this host",
                shared.volume.uncommitted_bytes(),
                spec.state_dir.display()
            )
        }),
    }
}

async fn asked_to_end(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Goes on as long as data goes up or less is left than before: a slow bucket gets its time, one that is
/// gone must not keep a command or a shutdown of the machine waiting.
async fn commit_while_it_moves(shared: &Shared) -> Result<(), super::WorkerError> {
    let end = crate::clock::Deadline::after(COMMIT);
    let volume = &shared.volume;
    loop {
        let (left, sent) = (volume.uncommitted_bytes(), volume.state_store.requests().bytes_up);
        let result = commit_all(volume, COMMIT_BUDGET).await;
        let moved = volume.uncommitted_bytes() < left
            || volume.state_store.requests().bytes_up > sent + PROGRESS;
        match result {
            Err(_) if moved && !end.passed() => {}
            done => return done,
        }
    }
}

pub(super) fn mount(path: &Path, how: FuseMount<'_>) -> std::io::Result<std::os::fd::OwnedFd> {
    let root = path.parent().unwrap_or(Path::new("/"));
    let at = MountPoint::new(root, path)?;
    let device = sys::open_fuse_device()?;
    sys::cover(&at)?;
    if let Err(error) = sys::mount_fuse(&at, &device, how) {
        sys::detach_all(path)?;
        return Err(error);
    }
    Ok(device)
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
    let mut child = child.spawn().context("starting the background process")?;
    let client_socket = spec.control_socket.clone();
    runtime()?.block_on(async move {
        loop {
            if let Some(status) = child.try_wait()? {
                let text = std::fs::read_to_string(&log_path).unwrap_or_default();
                let last = text.lines().rev().find(|line| line.starts_with("s3vol: "));
                bail!(
                    "{}",
                    last.map_or_else(
                        || format!("it ended with {status}"),
                        |l| l["s3vol: ".len()..].to_owned()
                    )
                );
            }
            if is_ready(&client_socket).await {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
}

async fn is_ready(socket: &Path) -> bool {
    use http_body_util::{BodyExt, Empty};
    use hyper_util::client::legacy::Client;
    use hyperlocal::{UnixClientExt, UnixConnector, Uri};
    let client: Client<UnixConnector, Empty<bytes::Bytes>> = Client::unix();
    match client.get(Uri::new(socket, "/ready").into()).await {
        Ok(answer) => {
            let ok = answer.status().is_success();
            // Only the status matters.
            let _ = answer.into_body().collect().await;
            ok
        }
        Err(_) => false,
    }
}
