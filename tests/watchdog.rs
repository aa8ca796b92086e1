//! The watchdog frees a test that hangs in a mount whose server does nothing.
//!
//! Needs /dev/fuse and the right to mount; without them there is nothing that could hang.

mod support;

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use support::watchdog::{Watchdog, mounted};

/// Mounts a FUSE file system that never answers; `None` where that is not possible.
fn deaf(at: &Path) -> Option<File> {
    let device = File::options().read(true).write(true).open("/dev/fuse").ok()?;
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("deaf"), at, Some("fuse.deaf"), flags, Some(options.as_str())).ok()?;
    Some(device)
}

#[test]
fn a_hanging_mount_is_freed_in_time_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("mount point");
    fs::create_dir(&at).unwrap();
    let Some(_device) = deaf(&at) else {
        eprintln!("skipped: /dev/fuse cannot be mounted here");
        return;
    };
    let watchdog = Watchdog::guard(&at, Duration::from_secs(1));
    assert!(mounted(&at));
    let began = Instant::now();
    // Hangs until the connection is aborted.
    assert!(fs::read_dir(&at).is_err() || !mounted(&at));
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    drop(watchdog);
    assert!(!mounted(&at));
}

#[test]
fn a_finished_test_leaves_no_mount() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("mount");
    fs::create_dir(&at).unwrap();
    let watchdog = Watchdog::guard(&at, Duration::from_secs(60));
    let Some(_device) = deaf(&at) else { return };
    let began = Instant::now();
    drop(watchdog);
    assert!(!mounted(&at));
    assert!(began.elapsed() < Duration::from_secs(5));
}
