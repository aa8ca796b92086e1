//! One mounted volume: its FUSE connection and the worker that serves it.
//!
//! `Running -> Waiting -> Running` on crashes, `Running -> (Stopping ->) Unmounting -> gone`
//! otherwise. The FUSE descriptor lives until `Unmounting` begins, so a request of a container
//! waits for a successor instead of failing.
//!
//! A worker that is killed while it tells the kernel about a name may not end: its last thread waits in the
//! kernel for the directory, which a program has that waits for an answer of this worker. The answer can only
//! come from a successor, so such a worker counts as ended when all that could touch the volume is gone:
//! its first thread has ended, and its descriptors are closed but for that thread's FUSE device.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::child::{self, Worker};
use super::protocol::{EXIT_CANNOT_OPEN, Event, Phase, WorkerEntry};
use super::{Backoff, HEALTHY, Settings};
use crate::clock::Deadline;
use crate::config::VolumeOptions;
use crate::sys::{self, Exit, FuseMount, MountPoint};
use crate::worker::WorkerSpec;

/// From SIGTERM to SIGKILL when the driver names no other time.
pub(super) const GRACE: Duration = Duration::from_secs(10);
/// The helper only makes system calls that return at once.
const UNMOUNT: Duration = Duration::from_secs(10);
/// A worker whose descriptors are closed is reaped within this time, unless a thread of it is stuck.
const REAPED: Duration = Duration::from_secs(1);
const BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(50), most: Duration::from_secs(10) };

/// Why a volume could not be mounted.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    #[error("the mount point is refused: {0}")]
    Place(#[source] io::Error),
    #[error("{what} of {path} failed: {source}")]
    Mount { what: &'static str, path: String, source: io::Error },
    #[error("cannot open the FUSE device: {0}")]
    Device(#[source] io::Error),
    #[error("cannot start the worker: {0}")]
    Spawn(#[source] io::Error),
}

/// What the supervisor has to do after a step.
#[derive(Default)]
pub(super) struct Next {
    pub(super) event: Option<Event>,
    /// The mount is gone and the volume can be forgotten.
    pub(super) gone: bool,
}

pub(super) struct Volume {
    spec: WorkerSpec,
    at: MountPoint,
    state: State,
    /// Crashes in a row, for the pause before the next attempt.
    failures: u32,
    restarts: u32,
    /// Requests that are answered when the volume is gone.
    stops: Vec<u64>,
    /// A start that came while the mount was being taken away.
    queued: Option<(u64, Box<WorkerSpec>)>,
}

enum State {
    Running { process: Process, device: OwnedFd, healthy: Deadline },
    Waiting { device: OwnedFd, until: Deadline },
    Stopping { process: Process, _device: OwnedFd, kill_at: Option<Deadline> },
    Unmounting { helper: Option<u32>, limit: Deadline },
}

/// A worker's process.
struct Process {
    pid: u32,
    /// Until it is known to be closed.
    input: Option<OwnedFd>,
    /// From then on: when it is looked at whether it has ended although nobody could reap it.
    look_at: Option<Deadline>,
}

impl From<Worker> for Process {
    fn from(Worker { pid, input }: Worker) -> Self {
        Process { pid, input: Some(input), look_at: None }
    }
}

impl Volume {
    /// Creates the mount point, covers it, mounts FUSE and starts the first worker. Undoes all of it
    /// on failure.
    pub(super) fn start(spec: WorkerSpec, settings: &Settings) -> Result<Self, StartError> {
        let at =
            MountPoint::new(&settings.mount_root, &spec.mountpoint).map_err(StartError::Place)?;
        let path = at.path();
        let failed = |what: &'static str| {
            let path = path.display().to_string();
            move |source| StartError::Mount { what, path, source }
        };
        let mounted = sys::mount_table().map_err(failed("looking up the mounts"))?;
        if mounted.iter().any(|entry| entry.path == path) {
            let busy = io::Error::new(io::ErrorKind::AlreadyExists, "something is mounted there");
            return Err(failed("mounting")(busy));
        }
        let device = sys::open_fuse_device().map_err(StartError::Device)?;
        sys::make_mountpoint(&at).map_err(failed("making the directory"))?;
        let started = (|| {
            sys::cover(&at).map_err(failed("covering"))?;
            let readonly = spec.options.readonly;
            let how = FuseMount { readonly, ..FuseMount::of(&spec.options.url) };
            sys::mount_fuse(&at, &device, how).map_err(failed("mounting"))?;
            child::worker(settings, &spec, &device, false).map_err(StartError::Spawn)
        })();
        match started {
            Ok(worker) => {
                tracing::info!(volume = spec.name, pid = worker.pid, "mounted");
                let (process, healthy) = (worker.into(), Deadline::after(HEALTHY));
                let state = State::Running { process, device, healthy };
                let (stops, queued) = (Vec::new(), None);
                Ok(Volume { spec, at, state, failures: 0, restarts: 0, stops, queued })
            }
            Err(error) => {
                undo(&at, device);
                Err(error)
            }
        }
    }

    /// The process whose end this volume waits for.
    pub(super) fn pid(&self) -> Option<u32> {
        match &self.state {
            State::Running { process, .. } | State::Stopping { process, .. } => Some(process.pid),
            State::Waiting { .. } => None,
            State::Unmounting { helper, .. } => *helper,
        }
    }

    fn process(&mut self) -> Option<&mut Process> {
        match &mut self.state {
            State::Running { process, .. } | State::Stopping { process, .. } => Some(process),
            State::Waiting { .. } | State::Unmounting { .. } => None,
        }
    }

    /// Has an error when the worker's descriptors are closed.
    pub(super) fn input(&self) -> Option<BorrowedFd<'_>> {
        match &self.state {
            State::Running { process, .. } | State::Stopping { process, .. } => {
                process.input.as_ref().map(AsFd::as_fd)
            }
            State::Waiting { .. } | State::Unmounting { .. } => None,
        }
    }

    /// What [`Self::input`] leads to is closed.
    pub(super) fn on_closed(&mut self) {
        if let Some(process) = self.process() {
            process.input = None;
            process.look_at = Some(Deadline::after(REAPED));
        }
    }

    pub(super) fn deadline(&self) -> Option<Deadline> {
        match &self.state {
            State::Running { process, .. } => process.look_at,
            State::Waiting { until, .. } => Some(*until),
            State::Stopping { process, kill_at, .. } => {
                [process.look_at, *kill_at].into_iter().flatten().min()
            }
            State::Unmounting { limit, .. } => Some(*limit),
        }
    }

    pub(super) fn on_deadline(&mut self, settings: &Settings, ending: bool) -> Next {
        if let Some(process) = self.process()
            && process.look_at.is_some_and(Deadline::passed)
        {
            let pid = process.pid;
            process.look_at = Some(Deadline::after(REAPED));
            match sys::leader_exit(pid) {
                Ok(Some(exit)) => {
                    tracing::warn!(
                        volume = self.spec.name,
                        pid,
                        "the worker has ended, but a thread of it still waits in the kernel"
                    );
                    return self.on_exit(exit, settings, ending);
                }
                // It closed its input by itself.
                Ok(None) => {}
                Err(error) => tracing::debug!(pid, %error, "cannot look at the worker"),
            }
            return Next::default();
        }
        match std::mem::replace(&mut self.state, nothing()) {
            State::Waiting { device, .. } => {
                match child::worker(settings, &self.spec, &device, true) {
                    Ok(worker) => {
                        self.restarts += 1;
                        tracing::info!(
                            volume = self.spec.name,
                            pid = worker.pid,
                            "successor started"
                        );
                        let (process, healthy) = (worker.into(), Deadline::after(HEALTHY));
                        self.state = State::Running { process, device, healthy };
                    }
                    Err(error) => {
                        tracing::error!(volume = self.spec.name, %error, "cannot start a successor");
                        let until = Deadline::after(BACKOFF.delay(self.failures));
                        self.failures += 1;
                        self.state = State::Waiting { device, until };
                    }
                }
                Next::default()
            }
            State::Stopping { process, _device, .. } => {
                let pid = process.pid;
                tracing::warn!(volume = self.spec.name, pid, "did not end in time; killed");
                let _ = sys::send_signal(pid, Signal::SIGKILL);
                // A process stuck in the kernel may need long to die even then; its end is awaited.
                self.state = State::Stopping { process, _device, kill_at: None };
                Next::default()
            }
            State::Unmounting { helper, .. } => {
                tracing::error!(volume = self.spec.name, "unmounting takes too long; given up");
                if let Some(pid) = helper {
                    let _ = sys::send_signal(pid, Signal::SIGKILL);
                }
                Next { event: None, gone: true }
            }
            running @ State::Running { .. } => {
                self.state = running;
                Next::default()
            }
        }
    }

    /// The process of [`Self::pid`] has ended.
    pub(super) fn on_exit(&mut self, exit: Exit, settings: &Settings, ending: bool) -> Next {
        let name = self.spec.name.clone();
        let code = exit.code();
        match std::mem::replace(&mut self.state, nothing()) {
            State::Running { device, healthy, .. } => {
                let failures = if healthy.passed() { 0 } else { self.failures };
                let restarting = !ending && code != 0 && code != EXIT_CANNOT_OPEN;
                let event = Some(Event::Exit { name, code, restarting });
                if restarting {
                    let delay = BACKOFF.delay(failures);
                    tracing::error!(volume = self.spec.name, code, ?delay, "the worker died");
                    self.failures = failures + 1;
                    self.state = State::Waiting { device, until: Deadline::after(delay) };
                    Next { event, gone: false }
                } else {
                    tracing::info!(volume = self.spec.name, code, "the worker ended");
                    drop(device);
                    Next { event, ..self.unmount(settings) }
                }
            }
            State::Stopping { .. } => {
                tracing::info!(volume = self.spec.name, code, "the worker ended as asked");
                let event = Some(Event::Exit { name, code, restarting: false });
                Next { event, ..self.unmount(settings) }
            }
            State::Unmounting { .. } => {
                if let Err(error) = sys::remove_mountpoint(&self.at) {
                    tracing::warn!(volume = self.spec.name, %error, code, "the mount point stays");
                }
                Next { event: None, gone: true }
            }
            waiting @ State::Waiting { .. } => {
                self.state = waiting;
                Next::default()
            }
        }
    }

    /// Asks the worker to end; `id` is answered when the mount is gone.
    pub(super) fn stop(&mut self, id: u64, grace: Duration, settings: &Settings) -> Next {
        self.stops.push(id);
        self.end(grace, settings)
    }

    /// Asks the worker to end, killing it after `grace`. The earlier of two limits counts.
    pub(super) fn end(&mut self, grace: Duration, settings: &Settings) -> Next {
        match std::mem::replace(&mut self.state, nothing()) {
            State::Running { process, device, .. } => {
                let _ = sys::send_signal(process.pid, Signal::SIGTERM);
                let kill_at = Some(Deadline::after(grace));
                self.state = State::Stopping { process, _device: device, kill_at };
                Next::default()
            }
            State::Stopping { process, _device, kill_at } => {
                let kill_at = kill_at.map(|at| at.min(Deadline::after(grace)));
                self.state = State::Stopping { process, _device, kill_at };
                Next::default()
            }
            State::Waiting { .. } => self.unmount(settings),
            unmounting @ State::Unmounting { .. } => {
                self.state = unmounting;
                Next::default()
            }
        }
    }

    /// Remembers a start for when the mount is gone; refuses it while a worker runs.
    pub(super) fn queue_start(&mut self, id: u64, spec: WorkerSpec) -> Result<(), String> {
        match (&self.state, &self.queued) {
            (State::Unmounting { .. }, None) => {
                self.queued = Some((id, Box::new(spec)));
                Ok(())
            }
            _ => Err(format!("the volume {} has a worker already", self.spec.name)),
        }
    }

    /// For successors of the worker.
    pub(super) fn tune(&mut self, options: &VolumeOptions) {
        self.spec.options.tune(options);
        if let Some((_, queued)) = &mut self.queued {
            queued.options.tune(options);
        }
    }

    pub(super) fn entry(&self) -> WorkerEntry {
        let (phase, pid) = match &self.state {
            State::Running { process, .. } => (Phase::Running, Some(process.pid)),
            State::Waiting { .. } => (Phase::Waiting, None),
            State::Stopping { process, .. } => (Phase::Stopping, Some(process.pid)),
            State::Unmounting { .. } => (Phase::Unmounting, None),
        };
        WorkerEntry {
            name: self.spec.name.clone(),
            phase,
            pid,
            restarts: self.restarts,
            mountpoint: self.at.path(),
            spec: self.spec.clone(),
        }
    }

    /// The stops to answer and the start to begin, once gone.
    pub(super) fn into_requests(self) -> (Vec<u64>, Option<(u64, Box<WorkerSpec>)>) {
        (self.stops, self.queued)
    }

    fn unmount(&mut self, settings: &Settings) -> Next {
        let helper = match child::umount(settings, &self.at.path(), true) {
            Ok(pid) => Some(pid),
            Err(error) => {
                tracing::error!(volume = self.spec.name, %error, "cannot start the helper that unmounts");
                None
            }
        };
        let gone = helper.is_none();
        self.state = State::Unmounting { helper, limit: Deadline::after(UNMOUNT) };
        Next { event: None, gone }
    }
}

/// A state for the moment of a transition.
fn nothing() -> State {
    State::Unmounting { helper: None, limit: Deadline::after(UNMOUNT) }
}

/// Takes away what a failed start has mounted. Closing the device first ends the connection, so
/// that detaching cannot wait for anything.
fn undo(at: &MountPoint, device: OwnedFd) {
    drop(device);
    let path: &Path = &at.path();
    if let Err(error) = sys::detach_all(path).and_then(|()| sys::remove_mountpoint(at)) {
        tracing::warn!(%error, path = %path.display(), "cannot clean up after a failed mount");
    }
}
