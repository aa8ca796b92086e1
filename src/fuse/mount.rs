//! mount(2) of a FUSE connection.

use std::fs::OpenOptions;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::mount::MsFlags;

use super::FuseError;

/// Mounts a new FUSE connection at `mountpoint` and returns its descriptor; the mount lives while any
/// copy of the descriptor is open. `source` is what `mount` and `df` show.
///
/// Neither `nosuid` nor `nodev` is set: a volume of Docker's local driver sets neither, and programs
/// in images rely on set-id files and device nodes in volumes. `default_permissions` lets the kernel check
/// permissions against the attributes we report; `allow_other` lets users other than root in.
pub fn mount(mountpoint: &Path, source: &str, readonly: bool) -> Result<OwnedFd, FuseError> {
    let failed = |step: &'static str, source: std::io::Error| FuseError::Mount {
        mountpoint: mountpoint.to_owned(),
        step,
        source,
    };
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .map_err(|e| failed("opening /dev/fuse", e))?;
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other",
        device.as_raw_fd()
    );
    let flags = if readonly { MsFlags::MS_RDONLY } else { MsFlags::empty() };
    nix::mount::mount(Some(source), mountpoint, Some("fuse.s3vol"), flags, Some(options.as_str()))
        .map_err(|e| failed("mount(2)", e.into()))?;
    Ok(device.into())
}
