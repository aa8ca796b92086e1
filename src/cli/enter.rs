//! Entering a volume that a process of this host is leaving, and a place where one was killed.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};

use super::reach::sockets;
use crate::clock::Deadline;
use crate::config::VolumeOptions;
use crate::driver::{ControlClient, DriverSettings, Stays};
use crate::meta::LogError;
use crate::meta::log::StateDirLock;
use crate::sys::{self, Answers};
use crate::worker::{WorkerSpec, WorkerStatus};

/// One answer of a process of this host.
const ANSWER: Duration = Duration::from_secs(3);
/// From when it was asked: a process that leaves does so in less than 2 s.
const GOES: Duration = Duration::from_secs(10);
const PACE: Duration = Duration::from_millis(10);
/// A mount that is served answers from memory.
const SERVED: Duration = Duration::from_secs(2);

/// Has whoever serves this volume with the state folder `state` make room, and refuses if it stays. Asks nothing
/// of the bucket. Returns what is to be said if this mount cannot go on.
pub(super) async fn make_way(
    state: &Path,
    volume: &VolumeOptions,
    mountpoint: &Path,
) -> anyhow::Result<Option<String>> {
    let mut left = None;
    let folder = DriverSettings::control_sockets(state);
    for socket in sockets(&folder).with_context(|| folder.display().to_string())? {
        let Some(name) = socket.file_stem().and_then(|name| name.to_str()) else { continue };
        // A volume that is only read has a process for each place, none of which is in another's way.
        let ours = WorkerSpec::place_name(volume.readonly, mountpoint.as_os_str().as_bytes());
        if WorkerSpec::place_of(name) != ours.as_deref() {
            continue;
        }
        let serves = ControlClient::new(&socket).status(ANSWER).await;
        if let Ok(status) = serves
            && status.url == volume.url
        {
            let kept = state.join("volumes").join(name);
            vacate(&socket, &kept).await?;
            left = Some(format!(
                "process {} has left the volume for this mount, which cannot go on; what had not reached \
                 the bucket is kept in {} for the next one",
                status.pid,
                kept.display()
            ));
        }
    }
    Ok(left)
}

/// Has the process at a control socket leave its volume, and waits until it has. Two workers on one local
/// state would write one log, so one that stays is an error.
pub(super) async fn vacate(socket: &Path, state_dir: &Path) -> anyhow::Result<()> {
    let client = ControlClient::new(socket);
    match client.vacate(ANSWER).await {
        Ok(true) => {}
        Ok(false) => return Ok(()),
        Err(Stays::Serves(status)) => return Err(served(&status)),
        Err(Stays::Silent(error)) => {
            return Err(error)
                .context("the process that serves the volume does not say whether it ends");
        }
    }
    let end = Deadline::after(GOES);
    while state_dir.exists() {
        match StateDirLock::acquire(state_dir) {
            Ok(_at_once_let_go) => break,
            Err(LogError::InUse { holder, .. }) if end.passed() => bail!(
                "the volume is still being left by process {holder}, which was asked to go {} s ago; try \
                 again when it has ended",
                GOES.as_secs()
            ),
            Err(LogError::InUse { .. }) => tokio::time::sleep(PACE).await,
            Err(error) => return Err(error.into()),
        }
        // Of several that wait, another may have come first.
        if let Err(Stays::Serves(status)) = client.vacate(ANSWER.min(end.left())).await {
            return Err(served(&status));
        }
    }
    Ok(())
}

fn served(by: &WorkerStatus) -> anyhow::Error {
    anyhow!(
        "the volume is already served by process {} at {}; use that mount, or give another --state",
        by.pid,
        by.mountpoint.display()
    )
}

/// Refuses a place where a volume is mounted, and takes away what a process of ours left there when it was
/// killed: nobody can use that any more.
pub(super) fn free_place(state: &Path, mountpoint: &Path) -> anyhow::Result<()> {
    if let Some(there) = sys::top_mount(mountpoint)?
        && there.kind == sys::FUSE_TYPE
    {
        let path = mountpoint.display();
        match sys::answers(mountpoint, SERVED) {
            Answers::Yes => bail!("{} is mounted at {path}; unmount it first", there.source),
            Answers::NotNow if !was_killed(state, &there.device) => bail!(
                "{} is mounted at {path} and does not answer; unmount it first (umount -l)",
                there.source
            ),
            Answers::Never | Answers::NotNow => sys::detach_dead(mountpoint)
                .with_context(|| format!("removing the dead mount at {path}"))?,
        }
    }
    if !mountpoint.is_dir() {
        bail!("the mount point {} is not a directory", mountpoint.display());
    }
    Ok(())
}

/// Whether the server of a mount was killed. A thread of it can be left in the kernel, which keeps the
/// connection: then no request on it ever returns.
fn was_killed(state: &Path, device: &str) -> bool {
    let Ok(folders) = std::fs::read_dir(state.join("volumes")) else { return false };
    folders.flatten().any(|folder| StateDirLock::served_dead(&folder.path(), device))
}
