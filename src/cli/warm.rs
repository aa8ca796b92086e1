//! `s3vol warm`: reads content of a mounted volume, so that it lies in the cache before somebody waits for it.
//!
//! The files are read through the mount, as a program would, by a few threads. So nothing else decides what the cache
//! keeps, it works for volumes that are only read, and stopping it leaves nothing to clean up. What was read is
//! dropped from the kernel's memory again; it is the cache on the local disk that is to have it.

use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::args::WarmArgs;
use super::tool::{Line, size};
use super::{reach, settings};
use crate::driver::ControlClient;
use crate::metrics::{Group, names};
use crate::sys::{FUSE_TYPE, MountEntry, holder_of, mount_table};

/// One answer of a process of this host.
const ANSWER: Duration = Duration::from_secs(5);
/// Files that are read at a time. Within one the volume reads ahead by itself.
const READERS: usize = 8;
/// Bytes of one read.
const READ: usize = 1 << 20;
/// How often progress is shown.
const PACE: Duration = Duration::from_millis(200);
/// So many files that could not be read are named.
const NAMED: usize = 10;

/// What is to be read: where it lies, and how much the cache takes, if somebody says so.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    limit: Option<u64>,
}

/// Returns the exit code: 0 when everything was read; 4 when something was not, which is listed.
pub fn warm(args: WarmArgs) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let place = runtime.block_on(find(&args))?;
    // A name lookup that hangs must not hold the command.
    runtime.shutdown_timeout(Duration::from_secs(1));
    let began = Instant::now();
    let mut line = Line::new();
    let found = walk(&place.path, |files| line.show(&format!("{files} files found")))?;
    if let Some(limit) = place.limit.filter(|limit| found.bytes > *limit) {
        line.clear();
        eprintln!(
            "s3vol: {} are more than the {} that the cache may take now; the least recently used content goes. A \
             larger cache_size keeps more",
            size(found.bytes as f64),
            size(limit as f64)
        );
    }
    let done = read_all(&found, &mut line);
    line.clear();
    let mut failed = found.failed;
    failed.extend(done.failed.into_inner());
    let mut out = io::stdout();
    writeln!(
        out,
        "{} of {} files read, {} in {:.1} s",
        done.files.load(Ordering::Relaxed),
        found.files.len(),
        size(done.bytes.load(Ordering::Relaxed) as f64),
        began.elapsed().as_secs_f64()
    )?;
    for (path, error) in failed.iter().take(NAMED) {
        writeln!(out, "  not read: {}: {error}", path.display())?;
    }
    if failed.len() > NAMED {
        writeln!(out, "  and {} more", failed.len() - NAMED)?;
    }
    Ok(if failed.is_empty() { 0 } else { 4 })
}

async fn find(args: &WarmArgs) -> anyhow::Result<Place> {
    let (what, state) = (&args.volume, settings(args.state.clone())?.state);
    let table = mount_table().context("the mount table")?;
    let mounted = |is_it: &dyn Fn(&MountEntry) -> bool| {
        let mount = table.iter().rev().find(|m| m.kind == FUSE_TYPE && is_it(m));
        mount.map(|mount| mount.path.clone())
    };
    let of_url = |url: &str| mounted(&|mount| mount.whole && mount.source == url);
    let unmounted = || {
        format!(
            "{what} is not mounted where this command sees it; start a container that uses it, or mount it, and run \
             this on the same host"
        )
    };
    if what.contains('/') && !reach::is_url(what) {
        let path = Path::new(what).canonicalize().with_context(|| what.clone())?;
        let holder = holder_of(&table, &path).filter(|mount| mount.kind == FUSE_TYPE);
        let Some(holder) = holder else {
            bail!(
                "{what} lies on no volume of s3vol; give a path below a mounted one, or a volume's name"
            )
        };
        let served = reach::served_by(&state, |status| status.url == holder.source).await?;
        let limit = match served {
            Some((worker, _)) => limit_of(&worker).await,
            None => None,
        };
        return Ok(Place { path, limit });
    }
    let is_it = |name: &str, url: &str| name == what || url == what;
    if let Some((worker, status)) =
        reach::served_by(&state, |status| is_it(&status.name, &status.url)).await?
    {
        let there = mounted(&|mount| mount.path == status.mountpoint);
        let path = there.or_else(|| of_url(&status.url)).with_context(unmounted)?;
        return Ok(Place { path, limit: limit_of(&worker).await });
    }
    if reach::is_url(what) {
        let path = of_url(what).with_context(unmounted)?;
        return Ok(Place { path, limit: None });
    }
    let plugin = reach::plugin(args.socket.as_deref(), what)?;
    let asked = json!({ "Name": what });
    let got: Value = plugin.call("/VolumeDriver.Get", &asked, ANSWER).await?;
    let url = got["Volume"]["Status"]["url"].as_str().unwrap_or_default();
    let path = of_url(url).with_context(unmounted)?;
    // As in `limit_of`.
    let groups = plugin.groups(ANSWER).await.unwrap_or_default();
    let group = groups.iter().find(|group| group.volume.as_deref() == Some(what));
    Ok(Place { path, limit: group.and_then(cache_limit) })
}

/// Who does not answer only leaves a warning out.
async fn limit_of(worker: &ControlClient) -> Option<u64> {
    worker.group(ANSWER).await.ok().as_ref().and_then(cache_limit)
}

fn cache_limit(group: &Group) -> Option<u64> {
    let sample = group.samples.iter().find(|s| s.name == names::CACHE_LIMIT.name);
    sample.map(|sample| sample.total() as u64)
}

/// What lies below a place.
#[derive(Debug, Default)]
struct Found {
    /// With their sizes, directory by directory.
    files: Vec<(PathBuf, u64)>,
    bytes: u64,
    failed: Vec<(PathBuf, io::Error)>,
}

/// Lists all regular files, each once, and does not leave the file system.
fn walk(top: &Path, mut shows: impl FnMut(usize)) -> anyhow::Result<Found> {
    let about = top.symlink_metadata().with_context(|| top.display().to_string())?;
    let mut found = Found::default();
    // Of a file with several names one is enough.
    let mut several = BTreeSet::new();
    let mut take = |path: PathBuf, about: &std::fs::Metadata, found: &mut Found| {
        if about.is_file() && (about.nlink() == 1 || several.insert(about.ino())) {
            found.bytes += about.len();
            found.files.push((path, about.len()));
        }
    };
    if !about.is_dir() {
        take(top.to_owned(), &about, &mut found);
        return Ok(found);
    }
    let mut dirs = VecDeque::from([top.to_owned()]);
    while let Some(dir) = dirs.pop_front() {
        let entries = std::fs::read_dir(&dir).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut entries = match entries {
            Ok(entries) => entries,
            Err(error) => {
                found.failed.push((dir, error));
                continue;
            }
        };
        // In the order of names the volume sees who goes through it, and fetches ahead.
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            match entry.metadata() {
                Ok(new) if new.is_dir() && new.dev() == about.dev() => dirs.push_back(entry.path()),
                Ok(new) => take(entry.path(), &new, &mut found),
                // It was removed meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => found.failed.push((entry.path(), error)),
            }
        }
        shows(found.files.len());
    }
    Ok(found)
}

/// How far the readers are.
#[derive(Debug, Default)]
struct Progress {
    next: AtomicU64,
    files: AtomicU64,
    bytes: AtomicU64,
    failed: Mutex<Vec<(PathBuf, io::Error)>>,
    ended: AtomicBool,
}

fn read_all(found: &Found, line: &mut Line) -> Progress {
    let progress = Progress::default();
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS.min(found.files.len()))
            .map(|_| scope.spawn(|| read_some(found, &progress)))
            .collect();
        let shows = scope.spawn(|| {
            while !progress.ended.load(Ordering::SeqCst) {
                line.show(&format!(
                    "{} of {} files, {} of {}",
                    progress.files.load(Ordering::Relaxed),
                    found.files.len(),
                    size(progress.bytes.load(Ordering::Relaxed) as f64),
                    size(found.bytes as f64)
                ));
                std::thread::park_timeout(PACE);
            }
        });
        for reader in readers {
            // A panic of a reader shows when the scope ends.
            let _ = reader.join();
        }
        progress.ended.store(true, Ordering::SeqCst);
        shows.thread().unpark();
    });
    progress
}

fn read_some(found: &Found, progress: &Progress) {
    let mut buffer = vec![0; READ];
    loop {
        let next = progress.next.fetch_add(1, Ordering::Relaxed);
        let Some((path, _)) = usize::try_from(next).ok().and_then(|next| found.files.get(next))
        else {
            return;
        };
        match read(path, &mut buffer, &progress.bytes) {
            Ok(()) => drop(progress.files.fetch_add(1, Ordering::Relaxed)),
            // It was removed meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => progress.failed.lock().push((path.clone(), error)),
        }
    }
}

fn read(path: &Path, buffer: &mut [u8], bytes: &AtomicU64) -> io::Result<()> {
    let file = File::open(path)?;
    // What the kernel has already would not be asked for, and so not come into the cache.
    let forget = || posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    forget()?;
    let mut at = 0;
    loop {
        let read = match file.read_at(buffer, at) {
            Ok(0) => break,
            Ok(read) => read as u64,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        bytes.fetch_add(read, Ordering::Relaxed);
        at += read;
    }
    // Only the memory of the kernel would not be freed.
    let _ = forget();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_finds_each_file_once_and_no_links() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::fs::write(dir.path().join("a/b/one"), "1234").unwrap();
        std::fs::hard_link(dir.path().join("a/b/one"), dir.path().join("two")).unwrap();
        std::fs::write(dir.path().join("a/three"), "123").unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("away")).unwrap();
        let found = walk(dir.path(), |_| {}).unwrap();
        assert_eq!((found.files.len(), found.bytes), (2, 7));
        let done = read_all(&found, &mut Line::new());
        assert_eq!((done.files.into_inner(), done.bytes.into_inner()), (2, 7));
        let one = walk(&dir.path().join("two"), |_| {}).unwrap();
        assert_eq!(one.files.len(), 1);
        assert!(walk(&dir.path().join("nothing"), |_| {}).is_err());
    }
}
