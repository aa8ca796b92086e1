//! `s3vol mount`: from the arguments to what a worker needs.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use anyhow::Context;

use super::args::{MountArgs, mount_options};
use super::{enter, settings};
use crate::catalog::{Stores, incarnate};
use crate::config::{PluginConfig, VolumeOptions};
use crate::driver::DriverSettings;
use crate::store::Known;
use crate::sys::{MountFlags, make_private};
use crate::types::{VolumeId, VolumeName};
use crate::worker::WorkerSpec;

/// A volume whose state is found or made, ready to be served.
#[derive(Debug)]
pub struct PreparedMount {
    pub spec: WorkerSpec,
    /// The URL as given: the mount's source.
    pub source: String,
    pub flags: MountFlags,
    /// With `--detach`: the arguments of the process that serves in the background.
    pub background: Option<Vec<OsString>>,
}

/// Checks the arguments and the bucket, and finds or makes the volume's state. Leaves no thread
/// behind, so that the caller may fork.
pub fn prepare_mount(args: MountArgs) -> anyhow::Result<PreparedMount> {
    let config = settings(args.volume.state.clone())?;
    let (given, flags) = mount_options(&args.volume.options)?;
    let mut volume = VolumeOptions::parse_for_url(&args.volume.url, &given, &config.defaults)?;
    let place = std::fs::canonicalize(&args.mountpoint).with_context(|| {
        format!("the mount point {} (an existing directory)", args.mountpoint.display())
    });
    let mountpoint = place?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let spec = runtime.block_on(async {
        // Before anything is asked of the bucket: whoever is ending here may be waiting for it.
        let left = enter::make_way(&config.state, &volume, &mountpoint).await?;
        enter::free_place(&config.state, &mountpoint)?;
        let stores = Stores::knowing(Known::of_host(&config.state));
        let found = incarnate(&stores, &volume).await.map_err(anyhow::Error::from);
        let found = match left {
            Some(left) => found.context(left)?,
            None => found?,
        };
        volume.state_url = found.state_url;
        local_spec(&config, &args.volume.url, found.id, volume, mountpoint).await
    })?;
    // A name lookup that hangs must not hold the command.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    let background = args.detach.then(|| foreground_again(&args));
    Ok(PreparedMount { spec, source: args.volume.url, flags, background })
}

/// What a worker of this volume needs on this host, its folders included. Refuses a second worker.
pub(super) async fn local_spec(
    config: &PluginConfig,
    url: &str,
    id: VolumeId,
    options: VolumeOptions,
    mountpoint: PathBuf,
) -> anyhow::Result<WorkerSpec> {
    let sockets = DriverSettings::control_sockets(&config.state);
    let place = mountpoint.as_os_str().as_bytes();
    let local = WorkerSpec::local_name(id, options.readonly, place);
    let spec = WorkerSpec {
        name: name_of(url),
        id,
        options,
        state_dir: config.state.join("volumes").join(&local),
        control_socket: sockets.join(format!("{local}.sock")),
        stores: Known::folder(&config.state),
        mountpoint,
    };
    enter::vacate(&spec.control_socket, &spec.state_dir).await?;
    for folder in [&spec.state_dir, &sockets] {
        make_private(folder).with_context(|| folder.display().to_string())?;
    }
    Ok(spec)
}

/// The same mount without `--detach`.
fn foreground_again(args: &MountArgs) -> Vec<OsString> {
    let mut command: Vec<OsString> = vec!["mount".into()];
    if let Some(state) = &args.volume.state {
        command.push("--state".into());
        command.push(state.into());
    }
    for options in &args.volume.options {
        command.push("-o".into());
        command.push(options.into());
    }
    command.push("--".into());
    command.push((&args.volume.url).into());
    command.push((&args.mountpoint).into());
    command
}

/// What messages call the volume: the last part of its URL where that is a name.
fn name_of(url: &str) -> String {
    let last = url.trim_end_matches('/').rsplit('/').next().unwrap_or(url);
    match VolumeName::new(last) {
        Ok(name) => name.to_string(),
        Err(_) => url.to_owned(),
    }
}
