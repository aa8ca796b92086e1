//! Local files that are to go and may take long to: moved aside by a rename, which takes no time, and given
//! back in small steps by a thread of their own.
//!
//! No unmount and no end of a process waits for more than one step. What is left then is still there, and
//! goes on with whoever starts next with the same folder. One process works in it at a time; others may put
//! things in.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use parking_lot::{Condvar, Mutex};

use super::freeing::Freeing;
use crate::clock::{Deadline, boottime};

const FOLDER: &str = "trash";
/// It rests as long as it worked, but does not for less than this, and not for longer at a time.
const LEAST_REST: Duration = Duration::from_millis(5);
const LONGEST_REST: Duration = Duration::from_millis(200);

/// A folder of what is to go. Clones share the thread.
#[derive(Debug, Clone)]
pub struct Trash(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    running: bool,
    /// Something came since the thread looked.
    wanted: bool,
    /// Somebody waits for it.
    hurried: bool,
}

impl Trash {
    /// In `folder`, which need not exist, and holds nothing else.
    fn at(folder: PathBuf) -> Self {
        let (state, changed) = (Mutex::default(), Condvar::new());
        Trash(Arc::new(Shared { folder, state, changed }))
    }

    /// That of a volume's state folder: beside it, so that it outlives that.
    pub fn beside(state_dir: &Path) -> Self {
        Self::at(state_dir.with_file_name(FOLDER))
    }

    /// That of the folder which holds the volumes' state folders.
    pub fn within(volumes: &Path) -> Self {
        Self::at(volumes.join(FOLDER))
    }

    /// Makes a file or folder disappear; one that is not there is fine. What cannot be moved is deleted
    /// where it is.
    pub fn take(&self, path: &Path) -> io::Result<()> {
        if std::fs::symlink_metadata(path).is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
            return Ok(());
        }
        let to = self.0.folder.join(unused_name());
        let moved = std::fs::rename(path, &to).or_else(|_| {
            std::fs::create_dir_all(&self.0.folder)?;
            std::fs::rename(path, &to)
        });
        match moved {
            Ok(()) => {
                self.start();
                Ok(())
            }
            Err(error) => {
                tracing::debug!(path = %path.display(), %error, "deleted where it is");
                unless_gone(match path.is_dir() {
                    true => std::fs::remove_dir_all(path),
                    false => std::fs::remove_file(path),
                })
            }
        }
    }

    /// Goes on with what is there.
    pub fn start(&self) {
        if crate::fault::one_thread() {
            return;
        }
        let mut state = self.0.state.lock();
        state.wanted = true;
        if state.running || self.is_empty() {
            return;
        }
        state.running = true;
        let shared = Arc::clone(&self.0);
        let thread = std::thread::Builder::new().name("trash".into());
        if let Err(error) = thread.spawn(move || shared.work()) {
            tracing::warn!(%error, "what was removed stays on the local disk for now");
            state.running = false;
        }
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        std::fs::read_dir(&self.0.folder).map_or(true, |mut entries| entries.next().is_none())
    }

    /// Waits until nothing is left, or nothing more can be done.
    pub fn finish(&self) {
        self.start();
        let mut state = self.0.state.lock();
        while state.running {
            self.0.changed.wait(&mut state);
        }
    }

    /// Works without rests from now on, and waits so long for the end. False when something is left.
    pub fn finish_within(&self, limit: Duration) -> bool {
        self.start();
        let deadline = Deadline::after(limit);
        let mut state = self.0.state.lock();
        state.hurried = true;
        self.0.changed.notify_all();
        while state.running && !deadline.passed() {
            self.0.changed.wait_for(&mut state, deadline.left());
        }
        drop(state);
        self.is_empty()
    }
}

impl Shared {
    fn work(&self) {
        loop {
            self.state.lock().wanted = false;
            if let Err(error) = self.empty() {
                let folder = self.folder.display();
                tracing::warn!(%folder, %error, "what was removed stays on the local disk for now");
            }
            let mut state = self.state.lock();
            if !state.wanted {
                state.running = false;
                self.changed.notify_all();
                return;
            }
        }
    }

    fn empty(&self) -> io::Result<()> {
        let folder = match File::open(&self.folder) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let _alone = loop {
            // It waits for another process, which may take its time: that one finds what comes meanwhile.
            match Flock::lock(folder.try_clone()?, FlockArg::LockExclusive) {
                Ok(lock) => break lock,
                Err((_, Errno::EINTR)) => {}
                Err((_, errno)) => return Err(errno.into()),
            }
        };
        let mut pace = Pace { trash: self, worked: Duration::ZERO };
        loop {
            let mut failed = None;
            let mut removed = 0;
            for entry in std::fs::read_dir(&self.folder)? {
                match pace.remove(&entry?.path()) {
                    Ok(()) => removed += 1,
                    Err(error) => failed = Some(error),
                }
            }
            match failed {
                _ if removed > 0 => {}
                Some(error) => return Err(error),
                None => return Ok(()),
            }
        }
    }
}

/// Works half of the time.
struct Pace<'a> {
    trash: &'a Shared,
    worked: Duration,
}

impl Pace<'_> {
    fn remove(&mut self, path: &Path) -> io::Result<()> {
        let found = match std::fs::symlink_metadata(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        if found.is_dir() {
            for entry in std::fs::read_dir(path)? {
                self.remove(&entry?.path())?;
            }
            return unless_gone(std::fs::remove_dir(path));
        }
        if found.is_file() && found.len() > 0 {
            let file = OpenOptions::new().write(true).open(path)?;
            let mut freeing = Freeing::over(0..found.len());
            while self.timed(|| freeing.go(&file, |part| file.set_len(part.start)))? {}
        }
        unless_gone(self.timed(|| std::fs::remove_file(path)))
    }

    /// Rests after `work`, unless somebody waits for the end.
    fn timed<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let began = boottime();
        let done = work();
        self.worked += boottime().saturating_sub(began);
        if self.worked >= LEAST_REST {
            let rest = Deadline::after(self.worked.min(LONGEST_REST));
            self.worked = Duration::ZERO;
            let mut state = self.trash.state.lock();
            while !state.hurried && !rest.passed() {
                self.trash.changed.wait_for(&mut state, rest.left());
            }
        }
        done
    }
}

fn unless_gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// No other process of this boot has it, nor one of another boot that lasted as long.
fn unused_name() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let (pid, next) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    format!("{:x}-{pid:x}-{next:x}", boottime().as_nanos())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    const SOON: Duration = Duration::from_secs(60);

    fn scattered(path: &Path) {
        let file = File::create(path).unwrap();
        (0..200).for_each(|i| file.write_all_at(&[1; 4096], i * 8192).unwrap());
    }

    #[test]
    fn what_is_taken_is_gone_at_once_and_given_back_in_time() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("volume");
        std::fs::create_dir_all(state.join("cache/01")).unwrap();
        scattered(&state.join("cache/01/1"));
        scattered(&state.join("log"));
        let trash = Trash::beside(&state);
        for path in ["cache", "log", "nothing"] {
            trash.take(&state.join(path)).unwrap();
            assert!(!state.join(path).exists());
        }
        assert!(trash.finish_within(SOON));
        assert_eq!(std::fs::read_dir(&state).unwrap().count(), 0);
        assert!(trash.0.folder.starts_with(dir.path()) && trash.is_empty());
        // And again.
        trash.take(&state).unwrap();
        assert!(trash.finish_within(SOON) && !state.exists());
    }

    #[test]
    fn what_a_process_leaves_goes_on_with_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let trash = Trash::within(dir.path());
        std::fs::create_dir(&trash.0.folder).unwrap();
        scattered(&trash.0.folder.join("left"));
        // Nobody waits for longer while another process is at it.
        let other = Flock::lock(File::open(&trash.0.folder).unwrap(), FlockArg::LockExclusive);
        assert!(!trash.finish_within(Duration::from_millis(20)));
        drop(other);
        assert!(trash.finish_within(SOON));
    }

    #[test]
    fn what_cannot_be_moved_is_deleted_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, file) = (dir.path().join("trash"), dir.path().join("file"));
        std::fs::write(&folder, "in the way").unwrap();
        scattered(&file);
        Trash::at(folder).take(&file).unwrap();
        assert!(!file.exists());
    }
}
