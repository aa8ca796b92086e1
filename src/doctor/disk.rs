//! The state folder: what is written and not in the bucket yet lies there, and the cache.

use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use super::Finding;
use super::bench::Times;
use crate::sys::{disk_space, holder_of, mount_table};

const ABOUT: &str = "state folder";
/// Below this, or below a twentieth of all, the disk counts as full.
const FREE: u64 = 1 << 30;
const FREE_INODES: u64 = 10_000;
/// How often a file is synced to see how long that takes.
const SYNCS: usize = 16;
/// A commit of names waits for this, too.
const SLOW_SYNC: Duration = Duration::from_millis(50);

pub(super) fn look(state: &Path) -> Vec<Finding> {
    // What is not there yet will be made where this is.
    let there = state.ancestors().find(|folder| folder.symlink_metadata().is_ok()).unwrap_or(state);
    if !there.is_dir() {
        let cure = "make it, or take another (S3VOL_STATE, or --state)";
        return vec![Finding::bad(ABOUT, format!("{} is no folder", there.display()), cure)];
    }
    let mut findings = vec![kind(state, there)];
    if there != state
        && let Err(error) = may_write(there)
    {
        findings.push(Finding::bad(
            ABOUT,
            format!("it cannot be made in {}: {error}", there.display()),
            "put it where s3vol may write (S3VOL_STATE, or --state)",
        ));
    }
    findings.extend(space(there));
    if there == state {
        findings.push(speed(state));
    }
    findings
}

fn kind(state: &Path, there: &Path) -> Finding {
    let table = mount_table().unwrap_or_default();
    let kind = holder_of(&table, there).map_or("unknown", |mount| mount.kind.as_str());
    let yet = if state == there { "" } else { " (it will be made when a volume is mounted)" };
    let text = format!("{}{yet} on {kind}", state.display());
    match kind {
        "nfs" | "nfs4" | "cifs" | "smb3" | "9p" | "ceph" | "virtiofs" => Finding::bad(
            ABOUT,
            format!("{text}, a network file system"),
            "put it on a local disk (S3VOL_STATE, or --state): an acknowledged write lies there until it is committed",
        ),
        kind if kind.starts_with("fuse") => Finding::bad(
            ABOUT,
            format!("{text}, a file system of a program"),
            "put it on a local disk (S3VOL_STATE, or --state)",
        ),
        "tmpfs" | "ramfs" => Finding::note(
            ABOUT,
            format!(
                "{text}: after a crash of the host what was not synced is gone, and the cache is cold"
            ),
            "put it on a disk that survives a restart",
        ),
        _ => Finding::good(ABOUT, text),
    }
}

fn space(there: &Path) -> Option<Finding> {
    const ABOUT: &str = "local disk";
    let space = match disk_space(there) {
        Ok(space) => space,
        Err(error) => {
            let text = format!("{}: {error}", there.display());
            return Some(Finding::bad(ABOUT, text, "see that this folder can be read"));
        }
    };
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let text = format!("{:.1} of {:.1} GiB free", gib(space.available), gib(space.total));
    let full = space.available < FREE || space.available < space.total / 20;
    let crowded = space.inodes > 0 && space.inodes_available < FREE_INODES;
    Some(match (full, crowded) {
        (false, false) => Finding::good(ABOUT, text),
        (true, _) => Finding::bad(
            ABOUT,
            text,
            "free some: volumes drop what they cache, and then writes wait until they are in the bucket",
        ),
        (false, true) => Finding::bad(
            ABOUT,
            format!("{text}, but only {} inodes", space.inodes_available),
            "remove files there: each cached file needs one",
        ),
    })
}

/// How long a synced write of one page takes.
fn speed(state: &Path) -> Finding {
    const ABOUT: &str = "local sync";
    let times = match syncs(state) {
        Ok(times) => times,
        Err(error) => {
            let text = format!("{}: {error}", state.display());
            return Finding::bad(
                ABOUT,
                text,
                "the folder must be writable for s3vol; or take another (S3VOL_STATE, or --state)",
            );
        }
    };
    let text = format!("4 KiB are synced in {times}");
    match times.median() > SLOW_SYNC {
        false => Finding::good(ABOUT, text),
        true => Finding::note(
            ABOUT,
            text,
            "a faster disk: every fsync of a program waits for it, in addition to the request to the bucket",
        ),
    }
}

fn syncs(state: &Path) -> io::Result<Times> {
    // Without a name, so that nothing of it can be left.
    let mut file = tempfile_in(state)?;
    let mut times = Times::default();
    for _ in 0..SYNCS {
        let began = Instant::now();
        file.write_all(&[0x5a; 4096])?;
        file.sync_data()?;
        times.add(began.elapsed());
    }
    Ok(times)
}

/// Also of a file system that is mounted read-only, which stops root, too.
fn may_write(folder: &Path) -> io::Result<()> {
    Ok(nix::unistd::eaccess(folder, nix::unistd::AccessFlags::W_OK)?)
}

/// A file that goes with its descriptor.
fn tempfile_in(folder: &Path) -> io::Result<std::fs::File> {
    let path = folder.join(format!(".doctor-{}", std::process::id()));
    let file = std::fs::File::options().write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::super::Grade;
    use super::*;

    #[test]
    fn a_folder_is_looked_at_and_nothing_is_left_there() {
        let dir = tempfile::tempdir().unwrap();
        let found = look(dir.path());
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[2].text.starts_with("4 KiB are synced in "), "{found:?}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let found = look(&dir.path().join("not/yet"));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].text.contains("it will be made"), "{found:?}");
    }

    #[test]
    fn a_folder_of_the_kernel_is_no_place_for_it() {
        let found = look(Path::new("/proc/self"));
        assert_eq!(found.last().unwrap().grade, Grade::Bad, "{found:?}");
        let found = look(Path::new("/proc/version/below"));
        assert_eq!(found[0].text, "/proc/version is no folder");
    }
}
