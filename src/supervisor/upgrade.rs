//! The supervisor becomes another version of the program, and driver and workers follow.
//!
//! 1. *Trial.* The new program is started as a child with copies of all descriptors and of the state. It reads the
//!    state, finds every descriptor, changes nothing, and ends with [`TRIAL_PASSED`]. Meanwhile everything goes on as it
//!    was, and whatever goes wrong here ends the upgrade without a trace.
//! 2. *Becoming.* execve(2) of the new program: one process with one number, whose children stay its children. The
//!    descriptors that the state names stay open, all others are closed. Signals are blocked from the first to the last
//!    moment, and pending ones stay pending.
//! 3. *Replacing.* The driver makes place for one of the new program; when that serves, one volume after the other gets a
//!    worker of it, by the hand-over of a worker that crashed, but at a moment of the worker's choice. When all of them
//!    serve, they have to go on for [`PROVES`] before all is done.
//! 4. *Back.* If the new driver or one of the new workers ends by itself until then, or cannot be started or does not serve
//!    within [`up_within`], the process becomes the program before in the same way, and what was replaced is replaced
//!    again. That program is at hand as a descriptor until all is done, whatever becomes of its file. Nothing is given up
//!    on that way: a volume that cannot be opened yet is tried again.
//!
//! Invariants: some process holds each FUSE descriptor at any time, and it is this one; a volume has a worker only when
//! the one before is gone. A new program that cannot read the state becomes the old one at once ([`step_back`]).

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::channel::Channel;
use super::handed::{Handed, HandedDriver, HandedUpgrade, left_ms};
use super::protocol::{Event, ProgramEntry, UpgradeEntry, UpgradeStage};
use super::volume::{MAKES_PLACE, Volume, up_within};
use super::{DRIVER_LEAVES, Driver, Leaves, Supervisor, child};
use crate::clock::Deadline;
use crate::sys::{self, Exit};
use crate::worker::{HANDED_FORMAT, version};

/// With what a program ends that could go on.
pub const TRIAL_PASSED: u8 = 86;
/// How long all of the new program has to go on before the one before it is let go: what fails at once fails by then.
const PROVES: Duration = Duration::from_secs(10);
/// After which the way back is tried again where the program before could not be started.
const RETRY: Duration = Duration::from_secs(1);
const STATE: &str = "s3vol-state";

fn proves() -> Duration {
    crate::fault::duration(crate::fault::PROVES, PROVES)
}

/// A worker makes place, and its successor opens the volume.
fn gone_back_by() -> Deadline {
    Deadline::after(MAKES_PLACE + up_within())
}

/// A driver makes place, and another serves.
pub(super) fn driver_back_by() -> Deadline {
    Deadline::after(DRIVER_LEAVES + up_within())
}

/// An upgrade, under way or over.
pub(super) struct Upgrade {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) file: PathBuf,
    pub(super) stage: Stage,
}

pub(super) enum Stage {
    Trial {
        pid: u32,
        program: OwnedFd,
        late: Option<Deadline>,
    },
    /// This is the new program. `back` is the one before, which reads state in `format`.
    Replacing {
        back: OwnedFd,
        format: u32,
        /// While the driver or a worker is missing: when it should have been started.
        started_by: Option<Deadline>,
        /// While all of the new program serves: when it has shown enough.
        proven: Option<Deadline>,
        /// It has failed, but the way back could not be gone: when that is tried again, and why.
        retry: Option<(Deadline, String)>,
    },
    /// This is the program before, and the new one has failed. The driver, and then a volume, is waited for until `late`.
    Back {
        why: String,
        late: Deadline,
        /// The driver was waited for in vain; volumes are given back all the same.
        without_driver: bool,
    },
    Done,
    Failed {
        why: String,
    },
}

impl Upgrade {
    /// For the program that this process becomes. `why` where it is the one before.
    fn handed(&self, why: Option<String>) -> HandedUpgrade {
        HandedUpgrade { from: self.from.clone(), to: self.to.clone(), file: self.file.clone(), why }
    }
}

impl Supervisor {
    pub(super) fn program(&self) -> ProgramEntry {
        let upgrade = self.upgrade.as_ref().map(|upgrade| {
            let (stage, why) = match &upgrade.stage {
                Stage::Trial { .. } => (UpgradeStage::Trial, None),
                Stage::Replacing { .. } => (UpgradeStage::Replacing, None),
                Stage::Back { why, .. } => (UpgradeStage::Back, Some(why.clone())),
                Stage::Done => (UpgradeStage::Done, None),
                Stage::Failed { why } => (UpgradeStage::Failed, Some(why.clone())),
            };
            let (from, to, file) = (upgrade.from.clone(), upgrade.to.clone(), upgrade.file.clone());
            UpgradeEntry { from, to, file, stage, why }
        });
        ProgramEntry { version: version().to_owned(), over: self.settings.over.clone(), upgrade }
    }

    /// Begins with the trial. `file` was checked and lies where only the plugin writes.
    pub(super) fn begin_upgrade(&mut self, file: PathBuf, to: String) -> Result<(), String> {
        if self.ending.is_some() {
            return Err("the plugin is shutting down".to_owned());
        }
        let under_way = |stage: &Stage| !matches!(stage, Stage::Done | Stage::Failed { .. });
        if let Some(upgrade) = self.upgrade.as_ref().filter(|upgrade| under_way(&upgrade.stage)) {
            return Err(format!(
                "an upgrade to version {} is under way; wait for its end (`s3vol upgrade --status`)",
                upgrade.to
            ));
        }
        let failed = |error: io::Error| format!("{} cannot be tried: {error}", file.display());
        // What was checked is no link.
        let mut how = File::options();
        how.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        let program = OwnedFd::from(how.open(&file).map_err(failed)?);
        let own = sys::own_program().map_err(failed)?;
        let from = version().to_owned();
        tracing::info!(from, to, file = %file.display(), "upgrade: the new program is tried");
        let handed = self.hand(
            Some(&own),
            None,
            HandedUpgrade { from: from.clone(), to: to.clone(), file: file.clone(), why: None },
        );
        let state = memory(&handed).map_err(failed)?;
        let pid =
            child::trial(&self.settings, &program, &state, handed.numbers()).map_err(failed)?;
        let late = Some(Deadline::after(up_within()));
        self.upgrade = Some(Upgrade { from, to, file, stage: Stage::Trial { pid, program, late } });
        Ok(())
    }

    /// Whether this was the trial, which then has its consequence.
    pub(super) fn trial_ended(&mut self, pid: u32, exit: Exit) -> bool {
        let Some(upgrade) = &mut self.upgrade else { return false };
        match &upgrade.stage {
            Stage::Trial { pid: trial, .. } if *trial == pid => {}
            _ => return false,
        }
        let nothing = Stage::Failed { why: "it was cut short".to_owned() };
        let Stage::Trial { program, late, .. } = std::mem::replace(&mut upgrade.stage, nothing)
        else {
            return false;
        };
        let why = match (exit.code(), late) {
            _ if self.ending.is_some() => "the plugin is shutting down".to_owned(),
            (_, None) => format!("it did not come up within {} s", up_within().as_secs_f32()),
            (code, Some(_)) if code == i32::from(TRIAL_PASSED) => {
                self.become_new(&program);
                return true;
            }
            (code, Some(_)) => format!("it cannot go on with what runs (code {code})"),
        };
        self.upgrade_failed(why);
        true
    }

    /// Does not return where that works.
    fn become_new(&mut self, program: &OwnedFd) {
        let Some(upgrade) = &self.upgrade else { return };
        let upgrade = upgrade.handed(None);
        let failed = match sys::own_program() {
            Ok(own) => self.becomes(program, Some(&own), None, upgrade),
            Err(error) => error,
        };
        self.upgrade_failed(format!("it could not be started: {failed}"));
    }

    /// Something of the new program does not come up. Does nothing where there is none, or no way back.
    pub(super) fn new_program_fails(&mut self, why: &str) {
        let Some(upgrade) = &self.upgrade else { return };
        if !matches!(upgrade.stage, Stage::Replacing { .. }) || self.ending.is_some() {
            return;
        }
        // Not over and over, where that cannot be done just now.
        if matches!(upgrade.stage, Stage::Replacing { retry: Some((at, _)), .. } if !at.passed()) {
            return;
        }
        tracing::error!(
            to = upgrade.to,
            why,
            "upgrade: the new program does not come up; going back"
        );
        let handed = upgrade.handed(Some(why.to_owned()));
        let Stage::Replacing { back, format, .. } = &upgrade.stage else { return };
        let error = self.becomes(back, None, Some(*format), handed);
        tracing::error!(%error, "the program before cannot be started; it is tried again");
        if let Some(Stage::Replacing { retry, .. }) = self.upgrade.as_mut().map(|u| &mut u.stage) {
            *retry = Some((Deadline::after(RETRY), why.to_owned()));
        }
    }

    /// The program before, and what it would be left.
    pub(super) fn hand_back(&self) -> Option<(&OwnedFd, Handed)> {
        let upgrade = self.upgrade.as_ref()?;
        let Stage::Replacing { back, format, .. } = &upgrade.stage else { return None };
        let why = Some("it is tried whether there is a way back".to_owned());
        Some((back, self.hand(None, Some(*format), upgrade.handed(why))))
    }

    /// Becomes `program`, with everything. Returns only if that failed, and nothing has changed then.
    fn becomes(
        &self,
        program: &OwnedFd,
        back: Option<&OwnedFd>,
        format: Option<u32>,
        upgrade: HandedUpgrade,
    ) -> io::Error {
        let handed = self.hand(back, format, upgrade);
        let state = match memory(&handed) {
            Ok(state) => state,
            Err(error) => return error,
        };
        let mut kept = handed.numbers();
        kept.push(state.as_raw_fd());
        sys::become_program(program, &self.settings.going_on(state.as_raw_fd()), &kept)
    }

    fn hand(&self, back: Option<&OwnedFd>, format: Option<u32>, upgrade: HandedUpgrade) -> Handed {
        let driver = match &self.driver {
            Driver::Running { pid, channel, failures, healthy, program, serves, up_by, leaves } => {
                HandedDriver::Running {
                    pid: *pid,
                    program: program.clone(),
                    channel: channel.as_ref().map(Channel::hand),
                    failures: *failures,
                    healthy_in_ms: left_ms(*healthy),
                    late_in_ms: left_ms(*up_by),
                    serves: *serves,
                    kill_in_ms: leaves.as_ref().and_then(|leaves| leaves.kill_at).map(left_ms),
                    gone_in_ms: leaves.as_ref().map(|leaves| left_ms(leaves.gone_by)),
                    leaves: leaves.is_some(),
                }
            }
            Driver::Waiting { until, failures } => {
                HandedDriver::Waiting { in_ms: left_ms(*until), failures: *failures }
            }
            Driver::Ended => HandedDriver::Waiting { in_ms: 0, failures: 0 },
        };
        Handed {
            format: format.unwrap_or(HANDED_FORMAT.newest),
            version: version().to_owned(),
            identity: self.settings.identity.clone(),
            back: back.map(AsRawFd::as_raw_fd),
            listener: self.listener.as_raw_fd(),
            driver,
            volumes: self.volumes.values().map(Volume::hand).collect(),
            upgrade,
        }
    }

    pub(super) fn can_go_back(&self) -> bool {
        self.ending.is_none()
            && self.upgrade.as_ref().is_some_and(|u| matches!(u.stage, Stage::Replacing { .. }))
    }

    pub(super) fn goes_back(&self) -> bool {
        self.ending.is_none()
            && self.upgrade.as_ref().is_some_and(|u| matches!(u.stage, Stage::Back { .. }))
    }

    /// When there is something to be done about the upgrade, whatever happens.
    pub(super) fn upgrade_deadline(&self) -> Option<Deadline> {
        match &self.upgrade.as_ref()?.stage {
            Stage::Trial { late, .. } => *late,
            Stage::Replacing { proven, retry, .. } if self.ending.is_none() => {
                // What is late already is waited for no more while the way back is to be tried again.
                let expected = self.expected().map(|(by, _)| by);
                let expected = expected.filter(|by| retry.is_none() || !by.passed());
                expected.chain(*proven).chain(retry.as_ref().map(|(at, _)| *at)).min()
            }
            // Not waited for once more when it has passed.
            Stage::Back { late, .. } if !late.passed() => Some(*late),
            _ => None,
        }
    }

    /// What the new program should do by when, and what it does not do if it has not done it then.
    fn expected(&self) -> impl Iterator<Item = (Deadline, String)> {
        let started_by = match self.upgrade.as_ref().map(|upgrade| &upgrade.stage) {
            Some(Stage::Replacing { started_by, .. }) => *started_by,
            _ => None,
        };
        let driver = match &self.driver {
            Driver::Running { serves: false, up_by, leaves: None, .. } => {
                Some((*up_by, "its driver does not come up".to_owned()))
            }
            Driver::Waiting { .. } => {
                started_by.map(|by| (by, "its driver cannot be started".to_owned()))
            }
            Driver::Running { leaves: Some(leaves), .. } => Some((
                leaves.gone_by,
                "the driver before, which was killed, does not end".to_owned(),
            )),
            Driver::Running { .. } | Driver::Ended => None,
        };
        let own = &self.settings.identity;
        let volumes = self.volumes.iter().filter_map(move |(name, volume)| {
            let opened = volume
                .opened_by(own)
                .map(|by| (by, format!("its worker of volume {name} does not open it")));
            let gone = volume.gone_by().map(|by| {
                (by, format!("the worker before of volume {name}, which was killed, does not end"))
            });
            let started = started_by
                .filter(|_| volume.is_without())
                .map(|by| (by, format!("its worker of volume {name} cannot be started")));
            opened.or(gone).or(started)
        });
        driver.into_iter().chain(volumes)
    }

    /// Sees to it that what is missing now has a deadline. One that was set counts for all that is missing until nothing
    /// is: there is one driver, and one worker is replaced at a time.
    fn expect_what_is_missing(&mut self) {
        let missing = matches!(self.driver, Driver::Waiting { .. })
            || self.volumes.values().any(Volume::is_without);
        if let Some(Stage::Replacing { started_by, .. }) =
            self.upgrade.as_mut().map(|upgrade| &mut upgrade.stage)
        {
            match missing {
                true => {
                    started_by.get_or_insert_with(|| Deadline::after(up_within()));
                }
                false => *started_by = None,
            }
        }
    }

    /// The next step, if it is time for it.
    pub(super) fn advance(&mut self) {
        if let Some(Upgrade { stage: Stage::Trial { pid, late, .. }, .. }) = &mut self.upgrade
            && late.is_some_and(Deadline::passed)
        {
            let _ = sys::send_signal(*pid, Signal::SIGKILL);
            *late = None;
        }
        if !self.can_go_back() && !self.goes_back() {
            return;
        }
        self.expect_what_is_missing();
        if let Some(Stage::Replacing { retry: Some((at, why)), .. }) =
            self.upgrade.as_ref().map(|upgrade| &upgrade.stage)
            && at.passed()
        {
            let why = why.clone();
            self.new_program_fails(&why);
        }
        let late = self.expected().find(|(by, _)| by.passed());
        if self.can_go_back()
            && let Some((_, what)) = late
        {
            let seconds = up_within().as_secs_f32();
            return self.new_program_fails(&format!("{what} within {seconds} s"));
        }
        // Somebody waits for these, and for nothing else that they could give.
        let own = &self.settings.identity;
        for volume in self.volumes.values_mut().filter(|volume| volume.waits_for_other(own)) {
            volume.make_place();
        }
        let replaced =
            (self.replace_driver() || self.goes_without_driver()) && self.replace_workers();
        if self.is_proven(replaced) {
            self.upgrade_ended();
        }
    }

    /// Whether everything is `replaced`, and has been for long enough to be believed.
    fn is_proven(&mut self, replaced: bool) -> bool {
        match self.upgrade.as_mut().map(|upgrade| &mut upgrade.stage) {
            Some(Stage::Replacing { proven, .. }) if replaced => {
                proven.get_or_insert_with(|| Deadline::after(proves())).passed()
            }
            Some(Stage::Replacing { proven, .. }) => {
                *proven = None;
                false
            }
            _ => replaced,
        }
    }

    /// Whether the driver is not waited for any more: on the way back, where it cannot be started.
    fn goes_without_driver(&mut self) -> bool {
        let Some(Stage::Back { late, without_driver, .. }) =
            self.upgrade.as_mut().map(|upgrade| &mut upgrade.stage)
        else {
            return false;
        };
        if !*without_driver && late.passed() {
            tracing::error!("upgrade: the driver does not come back; the volumes do");
            *without_driver = true;
            *late = gone_back_by();
        }
        *without_driver
    }

    /// Whether a driver of this program serves.
    fn replace_driver(&mut self) -> bool {
        let Driver::Running { pid, program, serves, leaves, .. } = &mut self.driver else {
            return false;
        };
        if *program == self.settings.identity {
            return *serves && leaves.is_none();
        }
        // One that failed has taken nothing on.
        if self.upgrade.as_ref().is_some_and(|u| matches!(u.stage, Stage::Back { .. })) && !*serves
        {
            if leaves.as_ref().is_none_or(|leaves| leaves.kill_at.is_some()) {
                tracing::info!(pid, "upgrade: the driver that does not serve is killed");
                let _ = sys::send_signal(*pid, Signal::SIGKILL);
                *leaves = Some(Leaves::killed());
            }
            return false;
        }
        if leaves.is_none() {
            tracing::info!(pid, "upgrade: the driver is told to end, to be replaced");
            let _ = sys::send_signal(*pid, Signal::SIGUSR1);
            *leaves = Some(Leaves::told());
        }
        false
    }

    /// Whether all workers are of this program. Replaces one at a time.
    fn replace_workers(&mut self) -> bool {
        let own = &self.settings.identity;
        let others = self.volumes.values_mut().filter(|volume| !volume.is_of(own));
        let mut others: Vec<&mut Volume> = others.collect();
        if others.is_empty() {
            return true;
        }
        // One that is between two workers is waited for; on the way back not for ever: it opens when it can.
        let late = match self.upgrade.as_mut().map(|upgrade| &mut upgrade.stage) {
            Some(Stage::Back { late, .. }) => Some(late),
            _ => None,
        };
        let waits = !late.as_ref().is_some_and(|late| late.passed());
        if waits && others.iter().any(|volume| !volume.can_make_place(own)) {
            return false;
        }
        match others.iter_mut().find(|volume| volume.can_make_place(own)) {
            Some(volume) => {
                volume.make_place();
                if let Some(late) = late {
                    *late = gone_back_by();
                }
                false
            }
            None => !waits,
        }
    }

    fn upgrade_ended(&mut self) {
        let Some(upgrade) = &mut self.upgrade else { return };
        let nothing = Stage::Done;
        match std::mem::replace(&mut upgrade.stage, nothing) {
            Stage::Back { why, .. } => self.upgrade_failed(why),
            _ => {
                tracing::info!(from = upgrade.from, to = upgrade.to, "upgrade: done");
                self.tell(&Event::Upgraded);
            }
        }
    }

    fn upgrade_failed(&mut self, why: String) {
        let Some(upgrade) = &mut self.upgrade else { return };
        let (from, to) = (&upgrade.from, &upgrade.to);
        tracing::error!(from, to, why, "upgrade: failed; all is as it was");
        upgrade.stage = Stage::Failed { why };
        self.tell(&Event::Upgraded);
    }

    /// The plugin ends.
    pub(super) fn end_upgrade(&mut self) {
        if let Some(Upgrade { stage: Stage::Trial { pid, .. }, .. }) = &self.upgrade {
            let _ = sys::send_signal(*pid, Signal::SIGKILL);
        }
    }
}

pub(super) fn memory(handed: &Handed) -> io::Result<OwnedFd> {
    let mut state = serde_json::to_value(handed)?;
    if crate::fault::noted("hands").is_some() {
        // A later version knows an option that this one does not.
        let volumes = state["volumes"].as_array_mut();
        for volume in volumes.into_iter().flatten() {
            volume["spec"]["options"]["of-a-later-version"] = true.into();
        }
    }
    sys::memory_file(STATE, &serde_json::to_vec(&state)?)
}
