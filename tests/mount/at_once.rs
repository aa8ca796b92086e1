//! Several programs at once under a worker that dies: while it carries one request out, others are on their way
//! to it or back. The kernel answers EIO itself where it cannot finish a copy to or from a process that is killed.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use s3vol::fault::points;

use super::plugin::Plugin;
use super::support::orders::Orders;
use super::support::s3server::TestS3;
use super::support::wait_for;

const MIB: usize = 1 << 20;
/// Of each kind.
const PROGRAMS: usize = 3;
const VOLUMES: usize = 4;
const DEATHS: usize = 5;
const MET: Duration = Duration::from_secs(60);

/// Writes the largest requests that there are.
fn writes(path: &Path, stop: &AtomicBool) -> io::Result<()> {
    let (file, piece) = (File::create(path)?, vec![7; MIB]);
    loop {
        file.write_all_at(&piece, 0)?;
        if stop.load(Ordering::SeqCst) {
            return Ok(());
        }
    }
}

/// Reads the largest answers, of a hole: nobody but the worker's heap has memory for that.
fn reads(path: &Path, stop: &AtomicBool) -> io::Result<()> {
    File::create(path)?.set_len(16 * MIB as u64)?;
    let file = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path)?;
    let mut buffer = vec![1; MIB];
    for piece in (0..16).cycle() {
        file.read_exact_at(&mut buffer, piece * MIB as u64)?;
        if stop.load(Ordering::SeqCst) {
            break;
        }
    }
    assert!(buffer.iter().all(|byte| *byte == 0));
    Ok(())
}

/// Ends the programs, also when the test fails.
struct Stop<'s>(&'s AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn programs_see_no_error_when_their_worker_dies_over_the_request_of_another_one() {
    let server = TestS3::start();
    let scratch = tempfile::tempdir().unwrap();
    let orders = Orders::below(scratch.path());
    let url = format!("s3://{}/team", server.bucket());
    let mut plugin = Plugin::with(Some(&server), &[("S3VOL_URL", url.as_str()), orders.env()]);
    // A supervisor waits longer from crash to crash, so each volume has few of them.
    for volume in 0..VOLUMES {
        let name = format!("v{volume}");
        plugin.create(&name, &[]).unwrap();
        let dir = plugin.mount(&name, "c");
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let at_the_end = Stop(&stop);
            let mut programs = Vec::new();
            for program in 0..PROGRAMS {
                let (dir, stop) = (&dir, &stop);
                programs.push(scope.spawn(move || writes(&dir.join(format!("w{program}")), stop)));
                programs.push(scope.spawn(move || reads(&dir.join(format!("r{program}")), stop)));
            }
            for _ in 0..DEATHS {
                orders.give(&name, points::PWRITE_BEFORE, "");
                let met = || (!orders.is_open(&name, points::PWRITE_BEFORE)).then_some(());
                wait_for("a write", MET, met);
            }
            drop(at_the_end);
            for program in programs {
                let done = program.join().unwrap();
                done.unwrap_or_else(|error| panic!("a program saw: {error}"));
            }
        });
        plugin.unmount(&name, "c");
    }
}
