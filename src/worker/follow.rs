//! A volume that is only read: opened beside whoever writes it, and left without a trace.
//!
//! Nothing is claimed and nothing is owed, so there is no draining: an unmount ends the process at
//! once, and one that died is replaced by a successor that knows nothing of it.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::bill::Bill;
use super::control::{Control, Served, Stage, listen};
use super::engine_change::unreadable;
use super::foreground::Signals;
use super::format::Format;
use super::give_back::Left;
use super::leave::Ending;
use super::open::{LAST_STEPS, Successor, clear_local, mirror};
use super::places::{Places, places};
use super::ready::Ready;
use super::supervised::{EXIT_NOT_OPENED, LAST_WORDS, LINGER, LOOPS, exit_code};
use super::turn::Turn;
use super::{DrainReply, Events, VolumeState, What, WorkerError, WorkerSpec, WorkerStatus};
use crate::clock::Deadline;
use crate::data::Trash;
use crate::follow::{FollowParts, ReadFs};
use crate::fs::FsError;
use crate::fuse::{HandoffFiles, Serving, serve_following};
use crate::meta::Follower;
use crate::meta::log::StateDirLock;
use crate::sys::FuseMount;

/// Reading the newest state: a long log takes some hundred requests.
const OPEN: Duration = Duration::from_secs(60);

/// A followed volume as the control socket sees it.
#[derive(Debug)]
pub(super) struct Followed {
    spec: WorkerSpec,
    fs: Arc<ReadFs>,
    trash: Trash,
    turn: Turn,
}

/// Opens the newest state of the volume. Writes nothing to the bucket.
async fn open(spec: &WorkerSpec, successor: Successor) -> Result<Arc<Followed>, WorkerError> {
    open_in(spec, successor, places(spec.id, &spec.options, &spec.known())?).await
}

/// The same in `places`.
pub(super) async fn open_in(
    spec: &WorkerSpec,
    successor: Successor,
    places: Places,
) -> Result<Arc<Followed>, WorkerError> {
    let dir = &spec.state_dir;
    let trash = Trash::beside(dir);
    trash.start();
    let (known, _) = Format::of(&places, spec.id).open(&places).await?;
    if !known.engine.is_readable() {
        return Err(unreadable(&known.engine, "a read-only mount changes nothing"));
    }
    let store = places.state_store.engine(&places.state)?.into_inner();
    let mirror = (!crate::fault::one_thread()).then(|| mirror(spec));
    let follower =
        Follower::open(store, &known.engine.folder, mirror, Deadline::after(OPEN)).await?;
    let unwritten = || WorkerError::NeverWritten(spec.options.url.clone());
    let parts = FollowParts {
        id: spec.id,
        follower: follower.ok_or_else(unwritten)?,
        store: places.store.backend(),
        prefix: places.prefix,
        state_store: places.state_store.backend(),
        state: places.state,
        options: spec.options.clone(),
        cache_dir: dir.join("cache"),
        trash: trash.clone(),
        inherited: successor == Successor::Yes,
    };
    let fs = ReadFs::open(parts).await.map_err(|e| match e {
        FsError::NotFound => unwritten(),
        other => other.into(),
    })?;
    Ok(Arc::new(Followed { spec: spec.clone(), fs, trash, turn: Turn::default() }))
}

impl Followed {
    pub fn fs(&self) -> &Arc<ReadFs> {
        &self.fs
    }

    pub fn state(&self) -> VolumeState {
        match self.fs.trouble() {
            None => VolumeState::Active,
            Some(_) => VolumeState::Degraded,
        }
    }

    pub async fn status(&self) -> WorkerStatus {
        let counters = self.fs.counters().await;
        let trouble = self.fs.trouble();
        WorkerStatus {
            name: self.spec.name.clone(),
            id: self.spec.id,
            url: self.spec.options.url.clone(),
            state: self.state(),
            pid: std::process::id(),
            mountpoint: self.spec.mountpoint.clone(),
            epoch: None,
            holder: None,
            bytes: counters.as_ref().map_or(0, |c| c.bytes),
            files: counters.as_ref().map_or(0, |c| c.inodes.saturating_sub(1)),
            uncommitted_bytes: 0,
            unsettled_files: 0,
            unsettleable: Vec::new(),
            conflicts: 0,
            missing_rights: Vec::new(),
            deletions: String::new(),
            credentials: self.spec.credentials(),
            last_error: trouble,
            requests: self.fs.requests(),
        }
    }

    /// There is never anything to bring into the bucket.
    pub fn drain(&self, asked: u64) -> DrainReply {
        let _ = self.turn.drained(self.turn.drains(asked, || ()), true, || ());
        DrainReply { committed: true, ..DrainReply::default() }
    }

    /// Back into use; false when the process ends.
    pub fn resume(&self, asked: u64) -> bool {
        self.turn.resumes(asked).is_some_and(|resuming| resuming.done(|| ()))
    }

    /// What was cached means nothing to the next process. The folder stays if somebody's log is in it.
    pub fn clear_local(&self, lock: &StateDirLock) {
        let dir = &self.spec.state_dir;
        clear_local(dir, &self.trash);
        if let Err(error) = HandoffFiles::new(dir).clear() {
            tracing::warn!(path = %dir.display(), %error, "local state could not be removed");
        }
        // Before the lock: whoever has that next makes a socket of its own. One that stays is removed then.
        let _ = std::fs::remove_file(&self.spec.control_socket);
        lock.remove(dir);
        let _ = std::fs::remove_dir(dir);
        self.trash.finish_within(LAST_STEPS);
    }
}

/// What asks a served volume to end.
struct Ends {
    ending: Ending,
    exit: Arc<Notify>,
    stage: watch::Sender<Stage>,
    events: Events,
    mounting: Bill,
    ready: Ready,
}

fn control(spec: &WorkerSpec) -> Result<Ends, WorkerError> {
    let (stage, stage_seen) = watch::channel(Stage::Opening);
    let exit = Arc::new(Notify::new());
    let ending = Ending::default();
    let events = Events::default();
    let control = Control {
        spec: Arc::new(spec.clone()),
        stage: stage_seen,
        exit: Arc::clone(&exit),
        ending: ending.clone(),
        events: events.clone(),
    };
    listen(&spec.control_socket, control)?;
    let ready = Ready::default();
    Ok(Ends { ending, exit, stage, events, mounting: Bill::begin(), ready })
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
    let _ = ends.stage.send(Stage::Serving(Served::Following(Arc::clone(followed))));
    ends.ready.tell();
    ends.events.tell(&followed.spec.name, What::Mounted, None);
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
            () = ends.exit.notified() => break,
            // Only what nobody uses is left, and only if nobody just takes it back.
            () = ends.ending.hurried() => match turn.closes_unused() {
                true => break,
                false => ends.ending.call_off(),
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
                    true => ends.ending.begin(),
                    false => ends.ending.call_off(),
                }
            }
        }
    }
    turn.closes();
    ends.ending.begin();
    let bill = Bill::begin_with(followed.fs.requests());
    stop.cancel();
    // It may be waiting for the bucket or the kernel, and nothing depends on it any more.
    following.abort();
    bill.log("unmount", followed.fs.requests());
    ends.events.tell(&followed.spec.name, What::Unmounted, None);
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
    let ends = Ends { ready, ..control(&spec)? };
    let stage = ends.stage.clone();
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
    let ends = control(spec)?;
    let followed = open(spec, Successor::No).await?;
    let handoff = HandoffFiles::new(&spec.state_dir);
    handoff.clear()?;
    let mounted = super::foreground::mount(&spec.mountpoint, how, lock)
        .with_context(|| format!("mounting at {}", spec.mountpoint.display()));
    let served = match mounted {
        Ok((device, mounted)) => {
            let served = serve_until_end(&followed, device, handoff, ends).await;
            super::foreground::detach(&spec.mountpoint, &mounted).await;
            served
        }
        Err(error) => Err(error),
    };
    followed.clear_local(lock);
    served.map(|()| Left::ReadOnly)
}
