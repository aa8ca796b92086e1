//! The first process of the plugin: holds what must outlive everything else, and nothing more.
//!
//! It owns the listening plugin socket and the FUSE descriptor of every mounted volume, so neither a
//! crash of the driver nor of a worker is seen by dockerd or by a container. It is synchronous and
//! small, has neither TLS nor a runtime, and never looks at a path on a mount: whatever could block
//! on one is done by a helper process (`s3vol umount PATH`).
//!
//! Invariants: one thread; every child is spawned by it and reaped by it; a volume's FUSE descriptor
//! is dropped only when its mount is being taken away. A worker has a successor when nothing of it is left
//! that could touch the volume ([`volume`]). Nothing here survives a crash; the next
//! start detaches the mounts that were left, before the driver serves.
//!
//! It can become another version of itself without letting go of anything ([`upgrade`]).

mod channel;
mod child;
mod going_on;
mod handed;
mod listen;
pub mod protocol;
mod sweep;
mod upgrade;
mod volume;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;

use crate::clock::Deadline;
use crate::sys::{self, Exit};
use crate::worker::{DRIVER_PROTOCOL, version};
use channel::{Channel, ChannelError};
use protocol::{Command, Event, Reply, Request, WorkerEntry};
use upgrade::Upgrade;
use volume::{Around, Next, Volume};

pub use going_on::{go_on, step_back, try_to_go_on};
pub use upgrade::TRIAL_PASSED;

/// What is looked at by descriptor, and blocked.
const SIGNALS: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD];
/// dockerd kills a plugin 10 s after SIGTERM.
const SHUTDOWN: Duration = Duration::from_secs(9);
/// For the last helpers, within [`SHUTDOWN`].
const LAST_KILL: Duration = Duration::from_millis(500);
const DRIVER_BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(100), most: Duration::from_secs(5) };
/// The number of requests that nobody waits for any more.
const NOBODY: u64 = 0;
/// From when a driver is told to make place until it is killed. It answers what was asked, which it ends by itself after a
/// minute.
const DRIVER_LEAVES: Duration = Duration::from_secs(65);
/// A child that lived this long starts its backoff anew.
const HEALTHY: Duration = Duration::from_secs(60);

/// Where the supervisor works.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The plugin socket.
    pub socket: PathBuf,
    /// Mount points lie directly below this directory.
    pub mount_root: PathBuf,
    /// The program and leading arguments of every child; the role follows (`driver`, `worker`,
    /// `umount PATH`). `/proc/self/exe` unless a test says otherwise.
    pub program: Vec<OsString>,
    /// What follows the role `driver`.
    pub driver_args: Vec<OsString>,
    /// Names this program's file, among those that this process may become.
    pub identity: String,
    /// Names the program that the plugin was installed with; see [`protocol::ProgramEntry`].
    pub over: String,
}

impl Settings {
    /// This program's own children.
    pub fn new(socket: impl Into<PathBuf>, mount_root: impl Into<PathBuf>) -> Self {
        Settings {
            socket: socket.into(),
            mount_root: mount_root.into(),
            program: vec!["/proc/self/exe".into()],
            driver_args: Vec::new(),
            identity: sys::own_program()
                .and_then(|own| sys::program_identity(&own))
                .unwrap_or_default(),
            over: String::new(),
        }
    }

    /// The arguments of a program that is used instead of the one that was installed.
    pub fn starting(&self) -> Vec<OsString> {
        let mut args: Vec<OsString> = ["s3vol", "plugin", "--socket"].map(OsString::from).into();
        args.push(self.socket.clone().into());
        args.extend(["--over".into(), self.over.clone().into()]);
        args
    }

    /// The same, for one that goes on with the state in the descriptor `state`.
    fn going_on(&self, state: RawFd) -> Vec<OsString> {
        let mut args = self.starting();
        args.extend(["--go-on".into(), state.to_string().into()]);
        args
    }
}

/// Why the supervisor ended or could not start.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    #[error("cannot listen on {path}: {source}")]
    Listen { path: PathBuf, source: io::Error },
    #[error("cannot prepare the mount directory {path}: {source}")]
    MountRoot { path: PathBuf, source: io::Error },
    #[error("{what}: {source}")]
    System { what: &'static str, source: io::Error },
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> SupervisorError {
    move |source| SupervisorError::System { what, source }
}

/// The helper process: takes every mount of ours at `path` away, without waiting for its users. Where its
/// server is `dead`, what waits for it ends, too.
pub fn umount_helper(path: &Path, dead: bool) -> io::Result<()> {
    if dead { sys::detach_dead(path) } else { sys::detach_all(path) }
}

/// Whether [`run`] could listen. Says nothing of the rest.
pub fn can_listen(settings: &Settings) -> Result<(), SupervisorError> {
    listen::can_bind(&settings.socket)
        .map_err(|source| SupervisorError::Listen { path: settings.socket.clone(), source })
}

/// Runs until SIGTERM or SIGINT. Must be called from the main thread of a process that has no
/// children of its own.
pub fn run(settings: Settings) -> Result<(), SupervisorError> {
    // Before anything that could fail or take time: dockerd gives up after a few seconds.
    let listener = listen::bind(&settings.socket)
        .map_err(|source| SupervisorError::Listen { path: settings.socket.clone(), source })?;
    let low = sys::reserve_low_fds().map_err(system("cannot reserve descriptors"))?;
    let signals = sys::block_signals(&SIGNALS).map_err(system("cannot block signals"))?;
    match sys::raise_open_files() {
        Ok(limit) => tracing::debug!(limit, "open files"),
        Err(error) => tracing::warn!(%error, "cannot raise the limit of open files"),
    }
    std::fs::create_dir_all(&settings.mount_root).map_err(|source| SupervisorError::MountRoot {
        path: settings.mount_root.clone(),
        source,
    })?;
    sweep::sweep(&settings, &signals);
    tracing::info!(socket = %settings.socket.display(), version = version(), "listening");
    let mut supervisor = Supervisor {
        settings,
        listener,
        signals,
        _low: low,
        driver: Driver::Waiting { until: Deadline::after(Duration::ZERO), failures: 0 },
        volumes: BTreeMap::new(),
        ending: None,
        upgrade: None,
    };
    supervisor.serve()
}

struct Supervisor {
    settings: Settings,
    listener: UnixListener,
    signals: SignalFd,
    _low: Vec<OwnedFd>,
    driver: Driver,
    volumes: BTreeMap<String, Volume>,
    /// Set by SIGTERM.
    ending: Option<Deadline>,
    /// The last one of this process's life.
    upgrade: Option<Upgrade>,
}

enum Driver {
    /// Without a channel: it broke, the driver was killed, and its end is awaited.
    Running {
        pid: u32,
        channel: Option<Channel>,
        failures: u32,
        healthy: Deadline,
        /// The identity of the program that it runs.
        program: String,
        /// It has said that it answers calls; a new one should have by then.
        serves: bool,
        up_by: Deadline,
        /// It makes place for one of another program.
        leaves: Option<Leaves>,
    },
    Waiting {
        until: Deadline,
        failures: u32,
    },
    Ended,
}

/// How long one that was told to leave may still take; no time when it was killed.
struct Leaves {
    kill_at: Option<Deadline>,
    /// When it should have ended even if it had to be killed.
    gone_by: Deadline,
}

impl Leaves {
    fn told() -> Self {
        let kill_at = Some(Deadline::after(DRIVER_LEAVES));
        Leaves { kill_at, gone_by: Deadline::after(DRIVER_LEAVES + volume::up_within()) }
    }

    fn killed() -> Self {
        Leaves { kill_at: None, gone_by: Deadline::after(volume::up_within()) }
    }
}

/// Volumes of which something was heard.
#[derive(Default)]
struct Heard {
    /// Their workers have no descriptors any more.
    closed: Vec<String>,
    /// Their successors say something.
    said: Vec<String>,
}

impl Supervisor {
    fn serve(&mut self) -> Result<(), SupervisorError> {
        loop {
            self.timers();
            if self.finished() {
                return Ok(());
            }
            let heard = self.wait()?;
            for name in heard.said {
                if let Some(volume) = self.volumes.get_mut(&name) {
                    volume.on_said();
                }
            }
            for name in heard.closed {
                if let Some(volume) = self.volumes.get_mut(&name) {
                    volume.on_closed();
                }
            }
            while let Ok(Some(signal)) = self.signals.read_signal() {
                if signal.ssi_signo != Signal::SIGCHLD as u32 {
                    self.shut_down();
                }
            }
            self.reap()?;
            self.talk();
            self.advance();
        }
    }

    fn reap(&mut self) -> Result<(), SupervisorError> {
        while let Some((pid, exit)) = sys::reap().map_err(system("cannot reap children"))? {
            self.child_ended(pid, exit);
        }
        Ok(())
    }

    /// Sleeps until a signal, a line from the driver, the end of a worker, or the next deadline.
    fn wait(&self) -> Result<Heard, SupervisorError> {
        let deadlines = self.volumes.values().filter_map(Volume::deadline);
        let driver = match &self.driver {
            Driver::Waiting { until, .. } => Some(*until),
            Driver::Running { leaves: Some(leaves), .. } => leaves.kill_at,
            _ => None,
        };
        let next = deadlines.chain(driver).chain(self.ending).chain(self.upgrade_deadline()).min();
        let timeout = match next {
            // Rounded up: waking a moment early would only spin.
            Some(at) => PollTimeout::try_from(at.left() + Duration::from_millis(1))
                .unwrap_or(PollTimeout::MAX),
            None => PollTimeout::NONE,
        };
        let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        if let Driver::Running { channel: Some(channel), .. } = &self.driver {
            fds.push(PollFd::new(channel.as_fd(), channel.interest()));
        }
        let others = fds.len();
        let inputs = || self.volumes.iter().filter_map(|(name, v)| Some((name, v.input()?)));
        // An error is told without being asked for.
        fds.extend(inputs().map(|(_, input)| PollFd::new(input, PollFlags::empty())));
        let sayings = fds.len();
        let says = || self.volumes.iter().filter_map(|(name, v)| Some((name, v.says()?)));
        fds.extend(says().map(|(_, says)| PollFd::new(says, PollFlags::POLLIN)));
        match poll(&mut fds, timeout) {
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => return Ok(Heard::default()),
            Err(e) => return Err(system("cannot wait for events")(e.into())),
        }
        let has_any = |fd: &PollFd<'_>| fd.revents().is_some_and(|e| !e.is_empty());
        let closed = inputs().zip(&fds[others..sayings]).filter(|(_, fd)| has_any(fd));
        let said = says().zip(&fds[sayings..]).filter(|(_, fd)| has_any(fd));
        Ok(Heard {
            closed: closed.map(|((name, _), _)| name.clone()).collect(),
            said: said.map(|((name, _), _)| name.clone()).collect(),
        })
    }

    fn around(&self) -> Around {
        Around { ending: self.ending.is_some(), can_go_back: self.can_go_back() }
    }

    fn timers(&mut self) {
        if let Driver::Waiting { until, failures } = self.driver
            && until.passed()
            && self.ending.is_none()
        {
            self.start_driver(failures);
        }
        if let Driver::Running { pid, leaves: Some(leaves), .. } = &mut self.driver
            && leaves.kill_at.is_some_and(Deadline::passed)
        {
            tracing::warn!(pid, "the driver does not end in time to be replaced; killed");
            let _ = sys::send_signal(*pid, Signal::SIGKILL);
            *leaves = Leaves::killed();
        }
        let due: Vec<String> = self
            .volumes
            .iter()
            .filter(|(_, volume)| volume.deadline().is_some_and(Deadline::passed))
            .map(|(name, _)| name.clone())
            .collect();
        let around = self.around();
        for name in due {
            if let Some(volume) = self.volumes.get_mut(&name) {
                let next = volume.on_deadline(&self.settings, around);
                self.apply(&name, next);
            }
        }
    }

    fn start_driver(&mut self, failures: u32) {
        self.driver = match child::driver(&self.settings, &self.listener) {
            Ok((pid, channel)) => {
                tracing::debug!(pid, "driver started");
                Driver::Running {
                    pid,
                    channel: Some(channel),
                    failures,
                    healthy: Deadline::after(HEALTHY),
                    program: self.settings.identity.clone(),
                    serves: false,
                    up_by: Deadline::after(volume::up_within()),
                    leaves: None,
                }
            }
            Err(error) => {
                tracing::error!(%error, "cannot start the driver");
                let until = Deadline::after(DRIVER_BACKOFF.delay(failures));
                Driver::Waiting { until, failures: failures + 1 }
            }
        };
    }

    fn child_ended(&mut self, pid: u32, exit: Exit) {
        if let Driver::Running { pid: driver, failures, healthy, leaves, program, .. } =
            &self.driver
            && *driver == pid
        {
            let failures = if healthy.passed() { 0 } else { *failures };
            let (planned, own) = (leaves.is_some(), *program == self.settings.identity);
            // Its numbers begin anew with the next one.
            self.volumes.values_mut().for_each(Volume::forget_requests);
            self.driver = if self.ending.is_some() {
                Driver::Ended
            } else if planned {
                Driver::Waiting { until: Deadline::after(Duration::ZERO), failures: 0 }
            } else {
                let delay = DRIVER_BACKOFF.delay(failures);
                tracing::warn!(code = exit.code(), ?delay, "the driver ended; it is started again");
                Driver::Waiting { until: Deadline::after(delay), failures: failures + 1 }
            };
            if !planned && own {
                self.new_program_fails(&format!("its driver ended with code {}", exit.code()));
            }
            return;
        }
        if self.trial_ended(pid, exit) {
            return;
        }
        let around = self.around();
        let owner = self.volumes.iter().find(|(_, v)| v.pid() == Some(pid)).map(|(n, _)| n.clone());
        // Anything else is an orphan that init has to reap.
        if let Some(name) = owner
            && let Some(volume) = self.volumes.get_mut(&name)
        {
            let next = volume.on_exit(exit, &self.settings, around);
            self.apply(&name, next);
        }
    }

    /// Carries out what a volume's state machine asks for.
    fn apply(&mut self, name: &str, next: Next) {
        if let Some(event) = next.event {
            self.tell(&event);
        }
        if let Some(why) = next.failed {
            self.new_program_fails(&why);
        }
        if !next.gone {
            return;
        }
        let Some(volume) = self.volumes.remove(name) else { return };
        let (waiting, queued) = volume.into_requests();
        for id in waiting {
            self.answer(Reply::ok(id));
        }
        if let Some((id, spec)) = queued {
            self.start(id, *spec);
        }
    }

    fn talk(&mut self) {
        let Driver::Running { pid, channel: Some(channel), .. } = &mut self.driver else { return };
        let pid = *pid;
        let result = channel.pump();
        let lines = channel.take_lines();
        for line in lines {
            match serde_json::from_slice::<Request>(&line) {
                Ok(request) => self.handle(request),
                Err(error) => {
                    tracing::warn!(%error, "the driver sent a line that is no request");
                    let id = channel::id_of(&line);
                    self.answer(Reply::error(id, format!("not a request: {error}")));
                }
            }
        }
        if let Err(error) = result {
            self.give_up_driver(pid, &error);
        }
    }

    fn give_up_driver(&mut self, pid: u32, error: &ChannelError) {
        let Driver::Running { channel, leaves, .. } = &mut self.driver else { return };
        *channel = None;
        // It ends, as it was told to.
        if leaves.is_some() {
            return;
        }
        if self.ending.is_none() {
            tracing::warn!(%error, "the driver's channel is broken; the driver is killed");
        }
        let _ = sys::send_signal(pid, Signal::SIGKILL);
    }

    fn handle(&mut self, request: Request) {
        let Request { id, command } = request;
        match command {
            Command::Start { spec } => self.start(id, *spec),
            Command::Stop { name, grace_ms } => match self.volumes.get_mut(&name) {
                Some(volume) => {
                    let grace = grace_ms.map_or(volume::GRACE, Duration::from_millis);
                    let next = volume.stop(id, grace, &self.settings);
                    self.apply(&name, next);
                }
                None => self.answer(Reply::ok(id)),
            },
            Command::Tune { name, options } => {
                if let Some(volume) = self.volumes.get_mut(&name) {
                    volume.tune(&options);
                }
                self.answer(Reply::ok(id));
            }
            Command::List => {
                let workers: Vec<WorkerEntry> = self.volumes.values().map(Volume::entry).collect();
                self.answer(Reply { workers: Some(workers), ..Reply::ok(id) });
            }
            Command::Hello { speaks } => {
                let reply = match DRIVER_PROTOCOL.agree("the driver", speaks) {
                    Ok(_) => Reply { speaks: Some(DRIVER_PROTOCOL), ..Reply::ok(id) },
                    Err(refused) => Reply::error(id, refused),
                };
                self.answer(reply);
            }
            Command::Serves => {
                if let Driver::Running { serves, .. } = &mut self.driver {
                    *serves = true;
                }
                self.answer(Reply::ok(id));
            }
            Command::Upgrade { file, version } => {
                let reply = match self.begin_upgrade(file, version) {
                    Ok(()) => Reply::ok(id),
                    Err(refused) => Reply::error(id, refused),
                };
                self.answer(reply);
            }
            Command::Program => {
                let program = Some(self.program());
                self.answer(Reply { program, ..Reply::ok(id) });
            }
        }
    }

    fn start(&mut self, id: u64, spec: crate::worker::WorkerSpec) {
        if self.ending.is_some() {
            self.answer(Reply::error(id, "the plugin is shutting down"));
            return;
        }
        let name = spec.name.clone();
        if let Some(volume) = self.volumes.get_mut(&name) {
            if let Err(refused) = volume.queue_start(id, spec) {
                self.answer(Reply::error(id, refused));
            }
            return;
        }
        match Volume::start(spec, &self.settings) {
            Ok(volume) => {
                self.volumes.insert(name, volume);
                self.answer(Reply::ok(id));
            }
            Err(error) => self.answer(Reply::error(id, error.to_string())),
        }
    }

    fn answer(&mut self, reply: Reply) {
        if let Driver::Running { channel: Some(channel), .. } = &mut self.driver {
            channel.send(&reply);
        }
    }

    fn tell(&mut self, event: &Event) {
        if let Driver::Running { channel: Some(channel), .. } = &mut self.driver {
            channel.send(event);
        }
    }

    fn shut_down(&mut self) {
        if self.ending.is_some() {
            return;
        }
        tracing::info!(volumes = self.volumes.len(), "ending");
        self.end_upgrade();
        self.ending = Some(Deadline::after(SHUTDOWN));
        match &self.driver {
            Driver::Running { pid, .. } => {
                let _ = sys::send_signal(*pid, Signal::SIGTERM);
            }
            _ => self.driver = Driver::Ended,
        }
        let names: Vec<String> = self.volumes.keys().cloned().collect();
        for name in names {
            if let Some(volume) = self.volumes.get_mut(&name) {
                let next = volume.end(SHUTDOWN.saturating_sub(LAST_KILL), &self.settings);
                self.apply(&name, next);
            }
        }
    }

    fn finished(&self) -> bool {
        let Some(deadline) = self.ending else { return false };
        let idle = self.volumes.is_empty() && matches!(self.driver, Driver::Ended);
        if deadline.passed() && !idle {
            for (name, volume) in &self.volumes {
                tracing::warn!(volume = name, phase = ?volume.entry().phase, "did not end in time");
            }
            if let Driver::Running { pid, .. } = &self.driver {
                let _ = sys::send_signal(*pid, Signal::SIGKILL);
            }
            return true;
        }
        idle
    }
}

/// Growing pauses between attempts.
#[derive(Debug, Clone, Copy)]
struct Backoff {
    first: Duration,
    most: Duration,
}

impl Backoff {
    fn delay(self, failures: u32) -> Duration {
        self.first.saturating_mul(1 << failures.min(16)).min(self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit() {
        assert_eq!(DRIVER_BACKOFF.delay(0), Duration::from_millis(100));
        assert_eq!(DRIVER_BACKOFF.delay(2), Duration::from_millis(400));
        assert_eq!(DRIVER_BACKOFF.delay(60), Duration::from_secs(5));
    }
}
