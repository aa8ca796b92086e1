//! A mount made by hand: how it is made and taken away, and the signals that end it.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::meta::log::StateDirLock;
use crate::sys::{self, FuseMount, MountPoint};

/// Taking the mount away waits for nobody; whoever hangs in it all the same is left behind.
const DETACH: Duration = Duration::from_secs(5);

/// The signals that end a mount.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub fn new() -> std::io::Result<Self> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    pub async fn any(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// A mount made by hand, by its device in the mount table. Nothing covers its place: that is free at once
/// when the mount is gone.
pub(super) fn mount(
    path: &Path,
    how: FuseMount<'_>,
    lock: &StateDirLock,
) -> std::io::Result<(OwnedFd, String)> {
    let root = path.parent().unwrap_or(Path::new("/"));
    let at = MountPoint::new(root, path)?;
    let device = sys::open_fuse_device()?;
    sys::mount_fuse(&at, &device, how)?;
    let noted = sys::top_mount(path).and_then(|top| {
        let gone = || std::io::Error::other("it was unmounted at once");
        let mounted = top.filter(|top| top.kind == sys::FUSE_TYPE).ok_or_else(gone)?.device;
        lock.note_mount(&mounted)?;
        Ok(mounted)
    });
    match noted {
        Ok(mounted) => Ok((device, mounted)),
        Err(error) => {
            sys::detach_all(path)?;
            Err(error)
        }
    }
}

/// Takes the mount away, if it is still there: by now somebody else's may lie at that place. What is wrong
/// with it keeps nothing from the bucket.
pub(super) async fn detach(path: &Path, mounted: &str) {
    let (at, device) = (path.to_owned(), mounted.to_owned());
    let detach = tokio::task::spawn_blocking(move || sys::detach_one(&at, &device));
    let error = match tokio::time::timeout(DETACH, detach).await {
        Ok(Ok(Ok(()))) => return,
        Ok(Ok(Err(error))) => error.to_string(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it takes too long".to_owned(),
    };
    tracing::warn!(path = %path.display(), error, "the mount could not be removed");
}
