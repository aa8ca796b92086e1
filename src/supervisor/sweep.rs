//! Mounts that an earlier run left behind: their FUSE connection died with it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use std::os::fd::AsFd;

use super::{Settings, child};
use crate::clock::Deadline;
use crate::sys::{self, MountPoint};

/// dockerd already has its socket; it waits longer than this for the first answer.
const LIMIT: Duration = Duration::from_secs(5);

/// Detaches every mount of ours directly below the mount root and removes its directory. What
/// cannot be detached is logged and left; a later start of that volume then says so.
pub(super) fn sweep(settings: &Settings, signals: &SignalFd) {
    let table = match sys::mount_table() {
        Ok(table) => table,
        Err(error) => {
            tracing::warn!(%error, "cannot read the mount table; left mounts stay");
            return;
        }
    };
    let left: BTreeSet<PathBuf> = table
        .into_iter()
        .filter(|entry| entry.is_ours() && entry.path.parent() == Some(&settings.mount_root))
        .map(|entry| entry.path)
        .collect();
    let mut helpers = Vec::new();
    for path in &left {
        tracing::info!(path = %path.display(), "detaching a mount of an earlier run");
        // Not by force: its worker may still be bringing in what programs wrote.
        match child::umount(settings, path, false) {
            Ok(pid) => helpers.push(pid),
            Err(error) => tracing::warn!(%error, "cannot start the helper that unmounts"),
        }
    }
    wait(&mut helpers, signals);
    for path in &left {
        let removed =
            MountPoint::new(&settings.mount_root, path).and_then(|at| sys::remove_mountpoint(&at));
        if let Err(error) = removed {
            tracing::warn!(%error, path = %path.display(), "a mount of an earlier run stays");
        }
    }
}

fn wait(helpers: &mut Vec<u32>, signals: &SignalFd) {
    let deadline = Deadline::after(LIMIT);
    loop {
        while let Ok(Some((pid, _))) = sys::reap() {
            helpers.retain(|helper| *helper != pid);
        }
        if helpers.is_empty() {
            return;
        }
        if deadline.passed() {
            tracing::warn!(left = helpers.len(), "unmounting takes too long; going on without");
            for pid in helpers.iter() {
                let _ = sys::send_signal(*pid, Signal::SIGKILL);
            }
            return;
        }
        let timeout = PollTimeout::try_from(deadline.left() + Duration::from_millis(1))
            .unwrap_or(PollTimeout::MAX);
        // Only SIGCHLD may be consumed here; SIGTERM stays for the main loop because reading stops
        // at the first event that wakes us, and a termination during these seconds is rare enough
        // to be honoured by ending the wait.
        let _ = poll(&mut [PollFd::new(signals.as_fd(), PollFlags::POLLIN)], timeout);
        match signals.read_signal() {
            Ok(Some(signal)) if signal.ssi_signo != Signal::SIGCHLD as u32 => {
                let _ = sys::send_signal(std::process::id(), Signal::SIGTERM);
                return;
            }
            _ => {}
        }
    }
}
