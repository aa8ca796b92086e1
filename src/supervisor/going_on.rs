//! A program goes on as the supervisor with what another one left, or hands it back untouched.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use super::channel::Channel;
use super::handed::{Handed, HandedDriver, HandedUpgrade, until};
use super::upgrade::{Stage, TRIAL_PASSED, Upgrade, driver_back_by, memory};
use super::volume::{Volume, up_within};
use super::{Driver, Leaves, SIGNALS, Settings, Supervisor, SupervisorError, child, system};
use crate::clock::Deadline;
use crate::sys::{self, Exit, HandedKind};
use crate::worker::version;

fn gone_on() -> impl FnOnce(io::Error) -> SupervisorError {
    system("cannot go on with what the program before left")
}

fn read(state: RawFd) -> Result<Handed, SupervisorError> {
    let bytes = sys::is_handed(state, HandedKind::File)
        .and_then(|()| std::fs::read(format!("/proc/self/fd/{state}")))
        .map_err(gone_on())?;
    Handed::read(&bytes).map_err(|error| gone_on()(io::Error::other(error)))
}

/// The trial: whether this program could go on with `state`. Changes nothing.
pub fn try_to_go_on(settings: &Settings, state: RawFd) -> Result<(), SupervisorError> {
    match crate::fault::noted("trial") {
        Some("ends") => return Err(failed_for_a_test()),
        Some(_) => crate::fault::hang(),
        None => {}
    }
    let handed = read(state)?;
    // As many descriptors as it will need.
    let spare = spares(&handed, state, settings)?;
    let supervisor = take(settings.clone(), state)?;
    drop(spare);
    tracing::info!(version = version(), volumes = supervisor.volumes.len(), "could go on");
    // The copies of this process go with it; nothing is to be done about what they lead to.
    std::mem::forget(supervisor);
    Ok(())
}

/// Goes on as the supervisor with what the program before left in `state`. As [`run`] otherwise.
pub fn go_on(settings: Settings, state: RawFd) -> Result<(), SupervisorError> {
    let back = |error: &SupervisorError| {
        step_back(&settings, state, &crate::telemetry::with_causes(error))
    };
    // What can be seen before anything is taken.
    let read = match crate::fault::noted("becomes") {
        Some("fails") => Err(failed_for_a_test()),
        _ => read(state),
    };
    let spare = match read.and_then(|handed| spares(&handed, state, &settings)) {
        Ok(spare) => spare,
        Err(error) => return Err(back(&error)),
    };
    let taken = take(settings.clone(), state);
    let taken = match crate::fault::noted("becomes") {
        Some("halfway") => taken.and_then(|_closed| Err(failed_for_a_test())),
        _ => taken,
    };
    // While nothing is replaced.
    let taken = taken.and_then(|supervisor| {
        way_back(&supervisor).map_err(gone_on())?;
        Ok(supervisor)
    });
    let mut supervisor = match taken {
        Ok(supervisor) => supervisor,
        Err(error) => {
            // With what was taken its descriptors went.
            if let Err(error) = sys::put_back(spare) {
                return Err(gone_on()(error));
            }
            return Err(back(&error));
        }
    };
    drop(spare);
    let upgrade = supervisor.upgrade.as_ref();
    let (from, to) = upgrade.map(|u| (u.from.clone(), u.to.clone())).unwrap_or_default();
    let volumes = supervisor.volumes.len();
    tracing::info!(version = version(), from, to, volumes, "upgrade: this program goes on");
    // What happened between the two programs.
    supervisor.reap()?;
    supervisor.talk();
    supervisor.advance();
    supervisor.serve()
}

fn failed_for_a_test() -> SupervisorError {
    gone_on()(io::Error::other("a test has it fail"))
}

/// A second descriptor for each that is about to be taken, so that all of it can be handed back. Where nobody is there to
/// take it back, it goes without.
fn spares(
    handed: &Handed,
    state: RawFd,
    settings: &Settings,
) -> Result<Vec<(RawFd, OwnedFd)>, SupervisorError> {
    let numbers = handed.numbers().into_iter().chain([state]);
    let spares = numbers.map(|number| Ok((number, sys::spare(number)?)));
    match spares.collect::<io::Result<_>>() {
        Err(error) if handed.back.is_none_or(|back| is_own(back, settings)) => {
            tracing::warn!(%error, "descriptors are scarce");
            Ok(Vec::new())
        }
        spares => spares.map_err(gone_on()),
    }
}

/// The file of a descriptor, opened once more.
fn opened(number: RawFd) -> io::Result<File> {
    File::open(format!("/proc/self/fd/{number}"))
}

/// Whether the program in the descriptor `back` is the one of this process. Both are looked at now: what was noted of a
/// file long ago may have changed with it.
fn is_own(back: RawFd, settings: &Settings) -> bool {
    let identity = || -> io::Result<String> { sys::program_identity(&opened(back)?.into()) };
    let own = sys::own_program().and_then(|own| sys::program_identity(&own));
    match (identity(), own) {
        (Ok(back), Ok(own)) => back == own,
        (Ok(back), Err(_)) => back == settings.identity,
        (Err(_), _) => false,
    }
}

/// Tries whether the program before could go on again with what this one would leave. Nothing is to be tried on the way
/// back.
fn way_back(supervisor: &Supervisor) -> io::Result<()> {
    let Some((back, handed)) = supervisor.hand_back() else { return Ok(()) };
    let state = memory(&handed)?;
    // The trial has the other end until it ends.
    let (ends, lives) = io::pipe()?;
    let mut kept = handed.numbers();
    kept.push(lives.as_raw_fd());
    let pid = child::trial(&supervisor.settings, back, &state, kept)?;
    drop(lives);
    let late = Deadline::after(up_within());
    loop {
        let timeout = PollTimeout::try_from(late.left()).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(ends.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) => {
                // Whoever goes on reaps it.
                let _ = sys::send_signal(pid, Signal::SIGKILL);
                return Err(io::Error::other(
                    "the program before does not say whether it could come back",
                ));
            }
            Ok(_) => break,
            Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    match sys::reap_child(pid)? {
        Exit::Code(code) if code == i32::from(TRIAL_PASSED) => Ok(()),
        exit => Err(io::Error::other(format!(
            "the program before could not come back (code {})",
            exit.code()
        ))),
    }
}

/// Becomes the program before again, which goes on with `state` as it left it. Returns only if that failed.
pub fn step_back(settings: &Settings, state: RawFd, why: &str) -> SupervisorError {
    tracing::error!(why, "upgrade: this program cannot go on; going back");
    let failed = system("the program before cannot be started again");
    // Without a look at anything but what is needed for this.
    #[derive(serde::Deserialize)]
    struct OnlyBack {
        back: Option<RawFd>,
    }
    let numbers = || -> io::Result<(RawFd, Vec<RawFd>)> {
        let bytes = std::fs::read(format!("/proc/self/fd/{state}"))?;
        let left: OnlyBack = serde_json::from_slice(&bytes)?;
        // A program that is the one before would try that for ever.
        let back = left.back.filter(|back| !is_own(*back, settings));
        let back = back.ok_or_else(|| io::Error::other("it left no way back"))?;
        // All that came with execve goes on.
        let open = std::fs::read_dir("/proc/self/fd")?.flatten();
        let numbers = open.filter_map(|entry| entry.file_name().to_str()?.parse::<RawFd>().ok());
        let came = |number: &RawFd| *number > 2 && sys::came_with_exec(*number);
        Ok((back, numbers.filter(came).collect()))
    };
    let (back, kept) = match numbers() {
        Ok(numbers) => numbers,
        Err(error) => return failed(error),
    };
    match opened(back) {
        Ok(program) => {
            failed(sys::become_program(&program.into(), &settings.going_on(state), &kept))
        }
        Err(error) => failed(error),
    }
}

/// Takes everything over.
fn take(mut settings: Settings, state: RawFd) -> Result<Supervisor, SupervisorError> {
    let handed = read(state)?;
    // It came straight back, without having changed anything.
    let straight = handed.back.is_some_and(|back| is_own(back, &settings));
    if straight {
        // Its workers are noted by that.
        settings.identity.clone_from(&handed.identity);
    }
    let low = sys::reserve_low_fds().map_err(system("cannot reserve descriptors"))?;
    let signals = sys::block_signals(&SIGNALS).map_err(system("cannot block signals"))?;
    // With that goes the file in memory.
    drop(sys::handed(state, HandedKind::File).map_err(gone_on())?);
    let listener = sys::handed(handed.listener, HandedKind::Socket).map_err(gone_on())?;
    let driver = match handed.driver {
        HandedDriver::Running {
            pid,
            program,
            channel,
            failures,
            healthy_in_ms,
            late_in_ms,
            serves,
            kill_in_ms,
            gone_in_ms,
            leaves,
        } => Driver::Running {
            pid,
            channel: channel.map(Channel::take).transpose().map_err(gone_on())?,
            failures,
            healthy: until(healthy_in_ms),
            program,
            serves,
            up_by: until(late_in_ms),
            leaves: leaves.then(|| Leaves {
                kill_at: kill_in_ms.map(until),
                gone_by: gone_in_ms.map_or_else(driver_back_by, until),
            }),
        },
        HandedDriver::Waiting { in_ms, failures } => {
            Driver::Waiting { until: until(in_ms), failures }
        }
    };
    let mut volumes = BTreeMap::new();
    for volume in handed.volumes {
        let name = volume.spec.name.clone();
        volumes.insert(name, Volume::take(volume, &settings).map_err(gone_on())?);
    }
    let back = handed.back.map(|back| sys::handed(back, HandedKind::File)).transpose();
    let stage = match (back.map_err(gone_on())?, handed.upgrade.why) {
        (Some(_), _) if straight => {
            let why = "it could not go on with what runs".to_owned();
            Stage::Back { why, late: driver_back_by(), without_driver: false }
        }
        (Some(back), _) => {
            let (started_by, proven, retry) = (None, None, None);
            Stage::Replacing { back, format: handed.format, started_by, proven, retry }
        }
        (None, why) => {
            let why = why.unwrap_or_default();
            Stage::Back { why, late: driver_back_by(), without_driver: false }
        }
    };
    if matches!(stage, Stage::Back { .. }) {
        volumes.values_mut().for_each(|volume| volume.is_taken_back(&settings.identity));
    }
    let HandedUpgrade { from, to, file, .. } = handed.upgrade;
    Ok(Supervisor {
        settings,
        listener: listener.into(),
        signals,
        _low: low,
        driver,
        volumes,
        ending: None,
        upgrade: Some(Upgrade { from, to, file, stage }),
    })
}
