//! Where a volume is served on this host: by a process with a control socket of its own, or through the
//! plugin, which knows volumes by Docker's names.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};

use super::args::SOCKET;
use crate::driver::{ControlClient, DriverSettings};
use crate::worker::WorkerStatus;

/// One answer of a process of this host.
const ANSWER: Duration = Duration::from_secs(3);
/// dockerd keeps the sockets of managed plugins in folders beside the others.
const PLUGINS: &str = "/run/docker/plugins";
const MANAGED: &str = "s3vol.sock";

/// Whether this names a place in a bucket, and no volume of Docker's.
pub(super) fn is_url(volume: &str) -> bool {
    volume.contains("://")
}

/// A process that serves a volume, and what it says of itself. One that only reads does not count: such hold nothing.
pub(super) async fn serving(
    state: &Path,
    is_it: impl Fn(&WorkerStatus) -> bool,
) -> anyhow::Result<Option<(ControlClient, WorkerStatus)>> {
    served_by(state, |status| status.epoch.is_some() && is_it(status)).await
}

/// As [`serving`], but one that only reads counts, too.
pub(super) async fn served_by(
    state: &Path,
    is_it: impl Fn(&WorkerStatus) -> bool,
) -> anyhow::Result<Option<(ControlClient, WorkerStatus)>> {
    let folder = DriverSettings::control_sockets(state);
    for socket in sockets(&folder).with_context(|| folder.display().to_string())? {
        let client = ControlClient::new(&socket);
        // Sockets of killed processes answer nothing.
        if let Ok(status) = client.status(ANSWER).await
            && is_it(&status)
        {
            return Ok(Some((client, status)));
        }
    }
    Ok(None)
}

/// The plugin of this host: at `given`, or where dockerd finds one.
pub(super) fn plugin(given: Option<&Path>, volume: &str) -> anyhow::Result<ControlClient> {
    plugin_if_any(given)?.with_context(|| {
        format!(
            "no process with this state folder serves {volume}, and no plugin answers below {PLUGINS}; run it as \
             root, and give --state or --socket, or the volume's URL"
        )
    })
}

/// As [`plugin`], for what nobody else can do.
pub(super) fn plugin_itself(given: Option<&Path>) -> anyhow::Result<ControlClient> {
    plugin_if_any(given)?.with_context(|| {
        format!("no plugin answers below {PLUGINS}; run it as root on the host of the plugin, or give --socket")
    })
}

/// The plugin of this host, if one answers; one that was `given` must.
pub(super) fn plugin_if_any(given: Option<&Path>) -> anyhow::Result<Option<ControlClient>> {
    let answers = |path: &PathBuf| std::os::unix::net::UnixStream::connect(path).is_ok();
    let looked = match given {
        Some(path) => vec![path.to_owned()],
        None => plugin_sockets(),
    };
    match looked.iter().find(|path| answers(path)) {
        Some(path) => Ok(Some(ControlClient::new(path))),
        None if given.is_some() => {
            bail!("no plugin answers at {}; is it enabled?", looked[0].display())
        }
        None => Ok(None),
    }
}

/// Where plugins of this host listen, or would.
pub(super) fn plugin_sockets() -> Vec<PathBuf> {
    let managed = std::fs::read_dir(PLUGINS).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = managed.map(|folder| folder.path().join(MANAGED)).collect();
    found.sort();
    found.insert(0, PathBuf::from(SOCKET));
    found
}

pub(super) fn sockets(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut sockets = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "sock") {
            sockets.push(path);
        }
    }
    Ok(sockets)
}
