//! Serving a volume that is only read.
//!
//! Nothing is claimed and nothing is owed, so there is no draining: an unmount ends the process at
//! once, and one that died is replaced by a successor that knows nothing of it.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use super::control::{Heard, Served, Stage, listen};
use super::followed::{Followed, open};
use super::mount::Signals;
use super::ready::Ready;
use super::{EXIT_NOT_OPENED, LAST_WORDS, LINGER, LOOPS, exit_code};
use crate::fuse::{HandoffFiles, Serving, serve_following};
use crate::meta::log::StateDirLock;
use crate::sys::FuseMount;
use crate::worker::bill::Bill;
use crate::worker::life::Left;
use crate::worker::{Successor, What, WorkerError, WorkerSpec};

/// What a served volume hears, and whom it tells that it serves.
struct Ends {
    heard: Heard,
    mounting: Bill,
    ready: Ready,
}

impl Ends {
    fn listening(spec: &WorkerSpec, ready: Ready) -> Result<Ends, WorkerError> {
        let heard = listen(spec)?;
        Ok(Ends { heard, mounting: Bill::begin(), ready })
    }
}

/// Serves on `device` until the mount is gone, a signal comes, or somebody asks for the end.
async fn serve_until_end(
    followed: &Arc<Followed>,
    device: OwnedFd,
    handoff: HandoffFiles,
    mut ends: Ends,
) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let (handle, fs) = (tokio::runtime::Handle::current(), Arc::clone(&followed.fs));
    let serving =
        tokio::task::spawn_blocking(move || serve_following(device, fs, handle, &handoff, LOOPS));
    let mut serving: Serving = serving.await??;
    let stop = CancellationToken::new();
    let following = tokio::spawn(Arc::clone(&followed.fs).run(stop.clone()));
    let _ = ends.heard.stage.send(Stage::Serving(Served::Following(Arc::clone(followed))));
    ends.ready.tell();
    ends.heard.events.tell(&followed.spec.name, What::Mounted, None);
    tracing::info!(id = %followed.spec.id, mountpoint = %followed.spec.mountpoint.display(),
        "the volume is followed, read-only");
    ends.mounting.log("mount", followed.fs.requests());
    let (turn, mut drain_seen) = (&followed.turn, followed.turn.seen());
    let mut linger: Option<tokio::time::Instant> = None;
    loop {
        let lingering = async {
            match linger {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = signals.any() => break,
            () = ends.heard.exit.notified() => break,
            // Only what nobody uses is left, and only if nobody just takes it back.
            () = ends.heard.ending.hurried() => match turn.closes_unused() {
                true => break,
                false => ends.heard.ending.call_off(),
            },
            () = lingering => match turn.closes_unused() {
                true => break,
                false => linger = None,
            },
            ended = serving.wait() => {
                if let Err(error) = ended {
                    tracing::error!(error = &error as &dyn std::error::Error, "the FUSE connection broke");
                }
                break;
            }
            changed = drain_seen.changed() => {
                changed?;
                let drained = drain_seen.borrow_and_update().drained().is_some();
                linger = drained.then(|| tokio::time::Instant::now() + LINGER);
                match drained {
                    true => ends.heard.ending.begin(),
                    false => ends.heard.ending.call_off(),
                }
            }
        }
    }
    turn.closes();
    ends.heard.ending.begin();
    let bill = Bill::begin_with(followed.fs.requests());
    stop.cancel();
    // It may be waiting for the bucket or the kernel, and nothing depends on it any more.
    following.abort();
    bill.log("unmount", followed.fs.requests());
    ends.heard.events.tell(&followed.spec.name, What::Unmounted, None);
    Ok(())
}

/// As [`super::serve_supervised`], for a volume that is only read. Returns the process's exit code.
pub(super) async fn run_supervised(
    spec: WorkerSpec,
    device: OwnedFd,
    successor: Successor,
    ready: Ready,
    lock: &StateDirLock,
) -> anyhow::Result<u8> {
    let ends = Ends::listening(&spec, ready)?;
    let stage = ends.heard.stage.clone();
    match open_and_serve(&spec, device, successor, ends, lock).await {
        Ok(()) => Ok(0),
        Err(error) => {
            let why = crate::telemetry::with_causes(error.as_ref());
            tracing::error!("the volume cannot be followed: {why}");
            let _ = stage.send(match error.downcast_ref() {
                Some(WorkerError::Rebuilt(_)) => Stage::Rebuilt(why),
                _ => Stage::Failed(why),
            });
            tokio::time::sleep(LAST_WORDS).await;
            Ok(error.downcast_ref().map_or(EXIT_NOT_OPENED, |error| exit_code(error, successor)))
        }
    }
}

async fn open_and_serve(
    spec: &WorkerSpec,
    device: OwnedFd,
    successor: Successor,
    ends: Ends,
    lock: &StateDirLock,
) -> anyhow::Result<()> {
    let followed = open(spec, successor).await?;
    let handoff = HandoffFiles::new(&spec.state_dir);
    if successor == Successor::No {
        handoff.clear()?;
    }
    let served = serve_until_end(&followed, device, handoff, ends).await;
    followed.clear_local(lock);
    served
}

/// As [`super::serve_foreground`], for a volume that is only read.
pub(super) async fn run_foreground(
    spec: &WorkerSpec,
    how: FuseMount<'_>,
    lock: &StateDirLock,
) -> anyhow::Result<Left> {
    let ends = Ends::listening(spec, Ready::default())?;
    let followed = open(spec, Successor::No).await?;
    let handoff = HandoffFiles::new(&spec.state_dir);
    handoff.clear()?;
    let mounted = super::mount::mount(&spec.mountpoint, how, lock)
        .with_context(|| format!("mounting at {}", spec.mountpoint.display()));
    let served = match mounted {
        Ok((device, mounted)) => {
            let served = serve_until_end(&followed, device, handoff, ends).await;
            super::mount::detach(&spec.mountpoint, &mounted).await;
            served
        }
        Err(error) => Err(error),
    };
    followed.clear_local(lock);
    served.map(|()| Left::ReadOnly)
}
