//! One mounted volume: its FUSE connection and the worker that serves it.
//!
//! `Running -> Waiting -> Running` on crashes, `Running -> (Stopping ->) Unmounting -> gone`
//! otherwise. A worker of another program than the supervisor's makes place when it is told to ([`Turn`]), and its
//! successor goes on like that of one that crashed. The FUSE descriptor lives until `Unmounting` begins, so a request of a container
//! waits for a successor instead of failing.
//!
//! A worker that is killed while it tells the kernel about a name may not end: its last thread waits in the
//! kernel for the directory, which a program has that waits for an answer of this worker. The answer can only
//! come from a successor, so such a worker counts as ended when all that could touch the volume is gone:
//! its first thread has ended, and its descriptors are closed but for that thread's FUSE device.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::child::{self, Worker};
use super::handed::{HandedProcess, HandedState, HandedTurn, HandedVolume, left_ms, until};
use super::protocol::{EXIT_CANNOT_OPEN, Event, Phase, WorkerEntry};
use super::{Backoff, HEALTHY, Settings};
use crate::clock::Deadline;
use crate::config::VolumeOptions;
use crate::sys::{self, Exit, FuseMount, HandedKind, MountPoint, handed};
use crate::worker::{READY, WorkerSpec};

/// From SIGTERM to SIGKILL when the driver names no other time.
pub(super) const GRACE: Duration = Duration::from_secs(10);
/// The helper only makes system calls that return at once.
const UNMOUNT: Duration = Duration::from_secs(10);
/// From when a worker is told to make place until it is killed: it commits, and waits for what is under way.
pub(super) const MAKES_PLACE: Duration = Duration::from_secs(20);
/// A worker whose descriptors are closed is reaped within this time, unless a thread of it is stuck.
const REAPED: Duration = Duration::from_secs(1);
const BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(50), most: Duration::from_secs(10) };
/// How long the new program, its driver, and each of its workers may take until they say that they are there.
const UP: Duration = Duration::from_secs(20);

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
    /// What the worker did not do, while there is a program to go back to.
    pub(super) failed: Option<String>,
}

/// What a volume cannot know by itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Around {
    /// The plugin ends.
    pub(super) ending: bool,
    /// This program is new here, and the one before it could take over again.
    pub(super) can_go_back: bool,
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
    /// It comes back from a program that failed, and has not been opened since: nothing is given up until then.
    taken_back: bool,
    /// A start that came while the mount was being taken away.
    queued: Option<(u64, Box<WorkerSpec>)>,
}

enum State {
    Running { process: Process, device: OwnedFd, healthy: Deadline, turn: Turn },
    Waiting { device: OwnedFd, until: Deadline },
    Stopping { process: Process, _device: OwnedFd, kill_at: Option<Deadline> },
    Unmounting { helper: Option<u32>, limit: Deadline },
}

/// What is expected of a running worker.
enum Turn {
    Serves,
    /// A successor that has not said yet that it serves. `says` is closed when nothing more is to be heard.
    Opens {
        says: Option<OwnedFd>,
        until: Deadline,
    },
    /// It makes place for one of another program.
    Leaves {
        kill_at: Option<Deadline>,
        /// When it should have ended even if it had to be killed.
        gone_by: Deadline,
    },
}

impl Turn {
    fn opens(says: Option<OwnedFd>) -> Self {
        Turn::Opens { says, until: Deadline::after(up_within()) }
    }
}

/// A worker's process.
struct Process {
    pid: u32,
    /// The identity of the program that it runs.
    program: String,
    /// Until it is known to be closed.
    input: Option<OwnedFd>,
    /// From then on: when it is looked at whether it has ended although nobody could reap it.
    look_at: Option<Deadline>,
}

impl Process {
    fn of(worker: Worker, settings: &Settings) -> (Self, Option<OwnedFd>) {
        let Worker { pid, input, says } = worker;
        let program = settings.identity.clone();
        (Process { pid, program, input: Some(input), look_at: None }, says)
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
                let ((process, _), healthy) =
                    (Process::of(worker, settings), Deadline::after(HEALTHY));
                let state = State::Running { process, device, healthy, turn: Turn::Serves };
                let (stops, queued) = (Vec::new(), None);
                let (failures, restarts, taken_back) = (0, 0, false);
                Ok(Volume { spec, at, state, failures, restarts, stops, taken_back, queued })
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
            State::Running { process, turn, .. } => {
                let kill_at = match turn {
                    Turn::Leaves { kill_at, .. } => *kill_at,
                    Turn::Serves | Turn::Opens { .. } => None,
                };
                [process.look_at, kill_at].into_iter().flatten().min()
            }
            State::Waiting { until, .. } => Some(*until),
            State::Stopping { process, kill_at, .. } => {
                [process.look_at, *kill_at].into_iter().flatten().min()
            }
            State::Unmounting { limit, .. } => Some(*limit),
        }
    }

    pub(super) fn on_deadline(&mut self, settings: &Settings, around: Around) -> Next {
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
                    return self.on_exit(exit, settings, around);
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
                        let (process, says) = Process::of(worker, settings);
                        let (healthy, turn) = (Deadline::after(HEALTHY), Turn::opens(says));
                        self.state = State::Running { process, device, healthy, turn };
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
                Next { gone: true, ..Next::default() }
            }
            State::Running { process, device, healthy, turn } => {
                let turn = match turn {
                    Turn::Leaves { kill_at: Some(at), gone_by } if at.passed() => {
                        let (volume, pid) = (&self.spec.name, process.pid);
                        tracing::warn!(volume, pid, "does not end in time to be replaced; killed");
                        let _ = sys::send_signal(pid, Signal::SIGKILL);
                        Turn::Leaves { kill_at: None, gone_by }
                    }
                    turn => turn,
                };
                self.state = State::Running { process, device, healthy, turn };
                Next::default()
            }
        }
    }

    /// The process of [`Self::pid`] has ended.
    pub(super) fn on_exit(&mut self, exit: Exit, settings: &Settings, around: Around) -> Next {
        let name = self.spec.name.clone();
        let code = exit.code();
        match std::mem::replace(&mut self.state, nothing()) {
            State::Running { process, device, healthy, turn } => {
                let failures = if healthy.passed() { 0 } else { self.failures };
                let planned = matches!(turn, Turn::Leaves { .. });
                // Another program may be able to.
                let failed = match turn {
                    _ if !around.can_go_back || process.program != settings.identity => None,
                    // With whatever code.
                    Turn::Opens { .. } => {
                        Some(format!("its worker of volume {name} does not open it"))
                    }
                    _ if code == 0 => None,
                    // A volume that was mounted just now: whoever wanted that is told.
                    Turn::Serves if code == EXIT_CANNOT_OPEN => None,
                    Turn::Serves => {
                        Some(format!("its worker of volume {name} ended with code {code}"))
                    }
                    Turn::Leaves { .. } => None,
                };
                // What the other program has left may have to settle; and one that was told to go does not decide.
                let comes_back = self.taken_back && matches!(turn, Turn::Opens { .. });
                let not_yet = planned || comes_back;
                let for_good = match code {
                    0 => failed.is_none() && !comes_back,
                    EXIT_CANNOT_OPEN => failed.is_none() && !not_yet,
                    _ => false,
                };
                let restarting = !around.ending && !for_good;
                let event = Some(Event::Exit { name, code, restarting, planned });
                if restarting && planned {
                    tracing::info!(volume = self.spec.name, "the worker ended, to be replaced");
                    self.state = State::Waiting { device, until: Deadline::after(Duration::ZERO) };
                    Next { event, ..Next::default() }
                } else if restarting {
                    let delay = match failed {
                        Some(_) if failures == 0 => Duration::ZERO,
                        _ => BACKOFF.delay(failures),
                    };
                    tracing::error!(volume = self.spec.name, code, ?delay, "the worker died");
                    self.failures = failures + 1;
                    self.state = State::Waiting { device, until: Deadline::after(delay) };
                    Next { event, gone: false, failed }
                } else {
                    tracing::info!(volume = self.spec.name, code, "the worker ended");
                    drop(device);
                    Next { event, ..self.unmount(settings) }
                }
            }
            State::Stopping { .. } => {
                tracing::info!(volume = self.spec.name, code, "the worker ended as asked");
                let event = Some(Event::Exit { name, code, restarting: false, planned: false });
                Next { event, ..self.unmount(settings) }
            }
            State::Unmounting { .. } => {
                if let Err(error) = sys::remove_mountpoint(&self.at) {
                    tracing::warn!(volume = self.spec.name, %error, code, "the mount point stays");
                }
                Next { gone: true, ..Next::default() }
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
        Next { gone, ..Next::default() }
    }

    /// A successor that has not said yet that it serves says it here.
    pub(super) fn says(&self) -> Option<BorrowedFd<'_>> {
        match &self.state {
            State::Running { turn: Turn::Opens { says: Some(says), .. }, .. } => Some(says.as_fd()),
            _ => None,
        }
    }

    /// There is something to be heard at [`Self::says`], if only its end.
    pub(super) fn on_said(&mut self) {
        let State::Running { turn, .. } = &mut self.state else { return };
        let Turn::Opens { says, .. } = turn else { return };
        let Some(pipe) = says.take() else { return };
        let mut said = [0; READY.len()];
        // It is one write of few bytes, so that it is there as a whole or not at all.
        if File::from(pipe).read(&mut said).is_ok_and(|len| said[..len] == *READY) {
            tracing::debug!(volume = self.spec.name, "the successor serves");
            *turn = Turn::Serves;
            self.taken_back = false;
        }
    }

    /// Whether nothing is to be done for this volume to be served by the program `own`. What ends, or waits for its
    /// mount to go, needs nothing.
    pub(super) fn is_of(&self, own: &str) -> bool {
        match &self.state {
            State::Running { process, turn, .. } => {
                process.program == own && matches!(turn, Turn::Serves)
            }
            State::Waiting { .. } => false,
            State::Stopping { .. } | State::Unmounting { .. } => true,
        }
    }

    /// The program `own` takes it back from one that failed.
    pub(super) fn is_taken_back(&mut self, own: &str) {
        self.taken_back |= !self.is_of(own);
    }

    /// Whether it has no worker, but is to have one.
    pub(super) fn is_without(&self) -> bool {
        matches!(self.state, State::Waiting { .. })
    }

    /// Whether a worker of another program than `own` can be told to make place: [`Self::make_place`].
    pub(super) fn can_make_place(&self, own: &str) -> bool {
        let State::Running { process, turn, .. } = &self.state else { return false };
        process.program != own && !matches!(turn, Turn::Leaves { .. })
    }

    /// Whether its worker is one of another program than `own` that has not opened the volume.
    pub(super) fn waits_for_other(&self, own: &str) -> bool {
        let State::Running { process, turn, .. } = &self.state else { return false };
        process.program != own && matches!(turn, Turn::Opens { .. })
    }

    /// Tells the worker to make place. One that did not even open the volume is killed.
    pub(super) fn make_place(&mut self) {
        let State::Running { process, turn, .. } = &mut self.state else { return };
        let (signal, kill_at) = match turn {
            Turn::Serves => (Signal::SIGUSR1, Some(Deadline::after(MAKES_PLACE))),
            Turn::Opens { .. } | Turn::Leaves { .. } => (Signal::SIGKILL, None),
        };
        tracing::info!(
            volume = self.spec.name,
            pid = process.pid,
            "the worker has to end, to be replaced"
        );
        let _ = sys::send_signal(process.pid, signal);
        let most = kill_at.map_or(Duration::ZERO, Deadline::left) + up_within();
        *turn = Turn::Leaves { kill_at, gone_by: Deadline::after(most) };
    }

    /// When a successor of the program `own` should have said that it serves.
    pub(super) fn opened_by(&self, own: &str) -> Option<Deadline> {
        match &self.state {
            State::Running { process, turn: Turn::Opens { until, .. }, .. } => {
                (process.program == own).then_some(*until)
            }
            _ => None,
        }
    }

    /// When a worker that makes place should have ended, if it has to be killed for that.
    pub(super) fn gone_by(&self) -> Option<Deadline> {
        match &self.state {
            State::Running { turn: Turn::Leaves { gone_by, .. }, .. } => Some(*gone_by),
            _ => None,
        }
    }

    /// Whoever asked is gone: nobody waits for an answer.
    pub(super) fn forget_requests(&mut self) {
        self.stops.clear();
        if let Some((id, _)) = &mut self.queued {
            *id = super::NOBODY;
        }
    }

    /// For the program that this process becomes.
    pub(super) fn hand(&self) -> HandedVolume {
        let process = |process: &Process| HandedProcess {
            pid: process.pid,
            program: process.program.clone(),
            input: process.input.as_ref().map(AsRawFd::as_raw_fd),
            look_in_ms: process.look_at.map(left_ms),
        };
        let state = match &self.state {
            State::Running { process: runs, device, healthy, turn } => HandedState::Running {
                process: process(runs),
                device: device.as_raw_fd(),
                healthy_in_ms: left_ms(*healthy),
                turn: match turn {
                    Turn::Serves => HandedTurn::Serves,
                    Turn::Opens { says, until } => HandedTurn::Opens {
                        says: says.as_ref().map(AsRawFd::as_raw_fd),
                        late_in_ms: left_ms(*until),
                    },
                    Turn::Leaves { kill_at, gone_by } => HandedTurn::Leaves {
                        kill_in_ms: kill_at.map(left_ms),
                        gone_in_ms: left_ms(*gone_by),
                    },
                },
            },
            State::Waiting { device, until } => {
                HandedState::Waiting { device: device.as_raw_fd(), in_ms: left_ms(*until) }
            }
            State::Stopping { process: ends, _device, kill_at } => HandedState::Stopping {
                process: process(ends),
                device: _device.as_raw_fd(),
                kill_in_ms: kill_at.map(left_ms),
            },
            State::Unmounting { helper, limit } => {
                HandedState::Unmounting { helper: *helper, late_in_ms: left_ms(*limit) }
            }
        };
        HandedVolume {
            spec: self.spec.clone(),
            failures: self.failures,
            restarts: self.restarts,
            stops: self.stops.clone(),
            taken_back: self.taken_back,
            queued: self.queued.clone(),
            state,
        }
    }

    /// Goes on with what the program before handed over.
    pub(super) fn take(volume: HandedVolume, settings: &Settings) -> io::Result<Self> {
        let HandedVolume { spec, failures, restarts, stops, taken_back, queued, state } = volume;
        let at = MountPoint::new(&settings.mount_root, &spec.mountpoint)?;
        let process = |process: HandedProcess| -> io::Result<Process> {
            let HandedProcess { pid, program, input, look_in_ms } = process;
            let input = input.map(|input| handed(input, HandedKind::Pipe)).transpose()?;
            Ok(Process { pid, program, input, look_at: look_in_ms.map(until) })
        };
        let device = |device| handed(device, HandedKind::Device);
        let state = match state {
            HandedState::Running { process: runs, device: fd, healthy_in_ms, turn } => {
                let turn = match turn {
                    HandedTurn::Serves => Turn::Serves,
                    HandedTurn::Opens { says, late_in_ms } => Turn::Opens {
                        says: says.map(|says| handed(says, HandedKind::Pipe)).transpose()?,
                        until: until(late_in_ms),
                    },
                    HandedTurn::Leaves { kill_in_ms, gone_in_ms } => {
                        Turn::Leaves { kill_at: kill_in_ms.map(until), gone_by: until(gone_in_ms) }
                    }
                };
                let (process, device) = (process(runs)?, device(fd)?);
                State::Running { process, device, healthy: until(healthy_in_ms), turn }
            }
            HandedState::Waiting { device: fd, in_ms } => {
                State::Waiting { device: device(fd)?, until: until(in_ms) }
            }
            HandedState::Stopping { process: ends, device: fd, kill_in_ms } => {
                let (process, _device) = (process(ends)?, device(fd)?);
                State::Stopping { process, _device, kill_at: kill_in_ms.map(until) }
            }
            HandedState::Unmounting { helper, late_in_ms } => {
                State::Unmounting { helper, limit: until(late_in_ms) }
            }
        };
        Ok(Volume { spec, at, state, failures, restarts, stops, taken_back, queued })
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

pub(super) fn up_within() -> Duration {
    crate::fault::duration(crate::fault::UP, UP)
}
