//! The blocking side of `file://`: how one object is found, written and removed.
//!
//! A write goes to a temporary file in our own folder, is synced there, and takes its name under
//! the root's lock: by `link(2)` if the name must be free, else by `rename(2)`. The condition and
//! the expiry are judged under that lock, right before. Then the directory is synced. A crash
//! leaves at most a temporary file, which [`Disk::sweep`] removes after a day.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};

use super::name::{Place, TooLong};
use super::record::{Record, sidecar_base, version_of};
use crate::store::meter::host_time;
use crate::store::wire::Progress;
use crate::store::{Condition, PutOutcome, StoreError, StoreErrorKind};
use crate::types::{StoreTime, Version};

/// Temporary files and uploads older than this belong to nobody.
const STALE: Duration = Duration::from_secs(24 * 3600);

/// Written and synced at a time, bytes: what even a slow disk does within a few seconds.
pub(super) const STEP: usize = 4 << 20;
/// Copied at a time, bytes.
const COPIED: u64 = 16 << 20;

/// The directory that stands for the bucket.
#[derive(Debug, Clone)]
pub(super) struct Disk {
    pub bucket: PathBuf,
}

/// An object that is there.
#[derive(Debug)]
pub(super) struct Found {
    pub path: PathBuf,
    pub file: File,
    pub meta: fs::Metadata,
    pub record: Option<Record>,
}

impl Found {
    pub(super) fn version(&self) -> Version {
        version_of(&self.meta, self.record.as_ref())
    }
}

/// A temporary file that disappears unless it was given its name.
pub(super) struct Temp {
    pub path: PathBuf,
    pub file: File,
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Ends a changing operation: refused by its condition, or failed.
pub(super) enum Stop {
    Lost,
    Failed(StoreError),
}

impl From<StoreError> for Stop {
    fn from(e: StoreError) -> Self {
        Stop::Failed(e)
    }
}

pub(super) fn outcome(result: Result<Version, Stop>) -> PutOutcome {
    match result {
        Ok(version) => PutOutcome::Won(version),
        Err(Stop::Lost) => PutOutcome::Lost,
        Err(Stop::Failed(e)) => PutOutcome::Ambiguous(e),
    }
}

impl Disk {
    pub(super) fn place(&self, key: &str) -> Result<Place, StoreError> {
        let unsupported = |why: &str| {
            StoreError::new(StoreErrorKind::Unsupported, format!("the key {key:?} {why}"))
        };
        if key.is_empty() || key == "/" {
            return Err(unsupported("is empty"));
        }
        Place::of(&self.bucket, key).map_err(|TooLong| {
            unsupported("has a segment that is longer than 255 bytes, more than a file name can be")
        })
    }

    /// An error of the file system, for the user.
    pub(super) fn error(&self, doing: &str, e: io::Error) -> StoreError {
        let (kind, cure) = match e.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => {
                (StoreErrorKind::NoSpace, "; free space on this disk")
            }
            Some(libc::EACCES | libc::EPERM | libc::EROFS) => {
                (StoreErrorKind::Denied, "; give this process the right to write there")
            }
            Some(libc::ENOENT) if !self.bucket.is_dir() => return self.no_bucket(),
            Some(libc::ENOENT) => (StoreErrorKind::NotFound, ""),
            Some(libc::EXDEV) => (
                StoreErrorKind::Unsupported,
                "; another file system is mounted inside the store, which is not possible",
            ),
            Some(libc::ENAMETOOLONG | libc::ENOTDIR | libc::EISDIR) => {
                (StoreErrorKind::Unsupported, "")
            }
            _ => (StoreErrorKind::Unreachable, ""),
        };
        StoreError {
            kind,
            message: format!("{doing} in file://{}: {e}{cure}", self.bucket.display()),
            source: Some(Box::new(e)),
        }
    }

    fn no_bucket(&self) -> StoreError {
        StoreError::new(
            StoreErrorKind::NoBucket,
            format!(
                "the directory {} does not exist; create it, or correct the URL",
                self.bucket.display()
            ),
        )
    }

    pub(super) fn need_bucket(&self) -> Result<(), StoreError> {
        if self.bucket.is_dir() { Ok(()) } else { Err(self.no_bucket()) }
    }

    /// Looks an object up. Symbolic links and special files are none.
    pub(super) fn find(&self, key: &str) -> Result<Option<Found>, StoreError> {
        let place = self.place(key)?;
        let sidecar = sidecar_base(&place.own(), key);
        let open = |path: PathBuf, dir: bool| -> io::Result<Option<Found>> {
            let opened = OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
                .open(&path);
            let file = match opened {
                Ok(file) => file,
                Err(e) => {
                    return match e.raw_os_error() {
                        Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::ENXIO) => Ok(None),
                        _ => Err(e),
                    };
                }
            };
            let meta = file.metadata()?;
            if if dir { !meta.is_dir() } else { !meta.is_file() } {
                return Ok(None);
            }
            let record = Record::read(&file, &sidecar);
            if record.as_ref().is_some_and(|r| r.implicit) {
                return Ok(None);
            }
            Ok(Some(Found { path, file, meta, record }))
        };
        let marker = place.name.is_none();
        let mut found =
            open(place.natural(), marker).map_err(|e| self.error(&format!("open {key:?}"), e))?;
        if found.is_none()
            && let Some(beside) = place.beside()
        {
            found = open(beside, false).map_err(|e| self.error(&format!("open {key:?}"), e))?;
        }
        if found.is_none() {
            self.need_bucket()?;
        }
        Ok(found)
    }

    /// A temporary file on the file system of `place`.
    pub(super) fn temp(&self, place: &Place) -> Result<Temp, StoreError> {
        self.need_bucket()?;
        self.make_dirs(&place.root)?;
        let dir = place.own().join("tmp");
        let made = || -> io::Result<Temp> {
            fs::create_dir_all(&dir)?;
            let path = dir.join(uuid::Uuid::new_v4().simple().to_string());
            let file = create(&path)?;
            Ok(Temp { path, file })
        };
        made().map_err(|e| self.error("create a temporary file", e))
    }

    fn lock(&self, place: &Place) -> Result<Flock<File>, StoreError> {
        let open = || -> io::Result<File> {
            fs::create_dir_all(place.own())?;
            File::options().create(true).truncate(false).write(true).open(place.own().join("lock"))
        };
        let file = open().map_err(|e| self.error("open the lock", e))?;
        Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, e)| self.error("take the lock", e.into()))
    }

    /// Makes missing directories as holders only, moving files of their names aside.
    pub(super) fn make_dirs(&self, dir: &Path) -> Result<(), StoreError> {
        if dir == self.bucket || dir.is_dir() {
            return Ok(());
        }
        let Some(parent) = dir.parent() else { return Ok(()) };
        self.make_dirs(parent)?;
        let make = || -> io::Result<()> {
            if fs::symlink_metadata(dir).is_ok_and(|m| m.is_file())
                && let Some(name) = dir.file_name().and_then(|n| n.to_str())
                && let Some(beside) =
                    (Place { dir: parent.into(), name: Some(name.into()), root: parent.into() })
                        .beside()
            {
                fs::rename(dir, beside)?;
            }
            match fs::create_dir(dir) {
                Ok(()) => {
                    let mut record = Record { implicit: true, ..Record::default() };
                    if let Some((own, key)) = self.own_and_key(dir) {
                        record.apply(&File::open(dir)?, &sidecar_base(&own, &key))?;
                    }
                    File::open(parent)?.sync_all()
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                Err(e) => Err(e),
            }
        };
        make().map_err(|e| self.error("make a directory", e))
    }

    /// Our folder and the key for a directory below the bucket.
    fn own_and_key(&self, dir: &Path) -> Option<(PathBuf, String)> {
        let inside = dir.strip_prefix(&self.bucket).ok()?;
        let root = self.bucket.join(inside.components().next()?);
        let mut key = String::new();
        for part in inside.components() {
            key.push_str(&super::name::decode(part.as_os_str().to_str()?)?.0);
            key.push('/');
        }
        Some((root.join(super::name::OWN), key))
    }

    /// Gives a complete and synced temporary file its name.
    pub(super) fn commit(
        &self,
        key: &str,
        place: &Place,
        temp: Temp,
        record: &Record,
        condition: &Condition,
        not_after: Option<StoreTime>,
    ) -> Result<Version, Stop> {
        let fail = |e: io::Error| Stop::Failed(self.error(&format!("write {key:?}"), e));
        let lock = self.lock(place)?;
        self.make_dirs(&place.dir)?;
        let old = self.find(key)?;
        judge(condition, old.as_ref())?;
        let natural = place.natural();
        let target = match &old {
            Some(old) => old.path.clone(),
            None if natural.is_dir() => place.beside().ok_or_else(|| {
                Stop::Failed(StoreError::new(
                    StoreErrorKind::Unsupported,
                    format!(
                        "the name of {key:?} is taken by a directory, and too long for another"
                    ),
                ))
            })?,
            None => natural,
        };
        in_time(key, not_after)?;
        if *condition == Condition::Absent {
            match fs::hard_link(&temp.path, &target) {
                Ok(()) => {}
                // Somebody without our lock was faster.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Err(Stop::Lost),
                Err(e) => return Err(fail(e)),
            }
        } else {
            fs::rename(&temp.path, &target).map_err(fail)?;
        }
        if let Some(old) = &old {
            Record::forget(&sidecar_base(&place.own(), key), old.meta.ino());
        }
        drop(lock);
        File::open(&place.dir).and_then(|d| d.sync_all()).map_err(fail)?;
        let meta = temp.file.metadata().map_err(fail)?;
        Ok(version_of(&meta, Some(record)))
    }

    /// Makes `dir/` a marker.
    pub(super) fn put_marker(
        &self,
        key: &str,
        mut record: Record,
        condition: &Condition,
        not_after: Option<StoreTime>,
    ) -> Result<Version, Stop> {
        let fail = |e: io::Error| Stop::Failed(self.error(&format!("write {key:?}"), e));
        let place = self.place(key)?;
        self.need_bucket()?;
        self.make_dirs(&place.root)?;
        let _lock = self.lock(&place)?;
        let old = self.find(key)?;
        judge(condition, old.as_ref())?;
        in_time(key, not_after)?;
        self.make_dirs(&place.dir)?;
        let dir = File::open(&place.dir).map_err(fail)?;
        record.apply(&dir, &sidecar_base(&place.own(), key)).map_err(fail)?;
        dir.sync_all().map_err(fail)?;
        let meta = dir.metadata().map_err(fail)?;
        Ok(version_of(&meta, Some(&record)))
    }

    pub(super) fn delete(
        &self,
        key: &str,
        condition: &Condition,
        not_after: Option<StoreTime>,
    ) -> Result<Version, Stop> {
        let fail = |e: io::Error| Stop::Failed(self.error(&format!("remove {key:?}"), e));
        let nothing = Version { etag: String::new(), size: 0, modified: None, generation: None };
        let place = self.place(key)?;
        self.need_bucket()?;
        if !place.root.is_dir() {
            return if *condition == Condition::None { Ok(nothing) } else { Err(Stop::Lost) };
        }
        let _lock = self.lock(&place)?;
        let old = self.find(key)?;
        judge(condition, old.as_ref())?;
        in_time(key, not_after)?;
        let Some(old) = old else { return Ok(nothing) };
        let sidecar = sidecar_base(&place.own(), key);
        let parent = if old.meta.is_dir() {
            match fs::remove_dir(&old.path) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => {
                    let mut record = Record { implicit: true, ..Record::default() };
                    record.apply(&old.file, &sidecar).map_err(fail)?;
                    old.file.sync_all().map_err(fail)?;
                    return Ok(nothing);
                }
                Err(e) => return Err(fail(e)),
            }
            old.path.parent().unwrap_or(&self.bucket).to_owned()
        } else {
            fs::remove_file(&old.path).map_err(fail)?;
            place.dir.clone()
        };
        Record::forget(&sidecar, old.meta.ino());
        let kept = self.prune(&parent);
        File::open(kept).and_then(|d| d.sync_all()).map_err(fail)?;
        Ok(nothing)
    }

    /// Removes directories that hold nothing any more and are no markers. Returns the first that
    /// stays.
    fn prune(&self, dir: &Path) -> PathBuf {
        let mut dir = dir.to_owned();
        while dir != self.bucket
            && self.is_implicit(&dir)
            && fs::remove_dir(&dir).is_ok()
            && dir.pop()
        {}
        dir
    }

    /// Whether a directory only holds others. Those that people made by hand are markers.
    pub(super) fn is_implicit(&self, dir: &Path) -> bool {
        let Some((own, key)) = self.own_and_key(dir) else { return true };
        File::open(dir)
            .ok()
            .and_then(|d| Record::read(&d, &sidecar_base(&own, &key)))
            .is_some_and(|r| r.implicit)
    }

    /// Removes what crashes left behind below one root.
    pub(super) fn sweep(&self, own: &Path) {
        for dir in ["tmp", "uploads"] {
            let Ok(entries) = fs::read_dir(own.join(dir)) else { continue };
            for entry in entries.flatten() {
                let stale = |last: StoreTime| host_time().0 - last.0 > STALE.as_millis() as i64;
                if touched(&entry.path()).is_some_and(stale) {
                    let path = entry.path();
                    let removed = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
                    if let Err(error) = removed {
                        tracing::debug!(path = %path.display(), %error, "leftover stays");
                    }
                }
            }
        }
    }
}

/// When something was last done to a file, or to any in a folder. What is written may bear any time of its own, so
/// that of the last change counts.
fn touched(path: &Path) -> Option<StoreTime> {
    let changed = |path: &Path| Some(fs::symlink_metadata(path).ok()?.ctime() * 1000);
    let inside = fs::read_dir(path).into_iter().flatten().flatten();
    let last = inside.filter_map(|entry| changed(&entry.path())).max();
    Some(StoreTime(changed(path)?.max(last.unwrap_or(0))))
}

/// Whether the condition holds for what is there.
fn judge(condition: &Condition, there: Option<&Found>) -> Result<(), Stop> {
    let holds = match (condition, there) {
        (Condition::None, _) | (Condition::Absent, None) => true,
        (Condition::Absent, Some(_)) | (Condition::Is(_), None) => false,
        (Condition::Is(version), Some(there)) => version.same(&there.version()),
    };
    if holds { Ok(()) } else { Err(Stop::Lost) }
}

/// The store's clock is this host's, so expiry is judged here.
pub(super) fn in_time(key: &str, not_after: Option<StoreTime>) -> Result<(), Stop> {
    match not_after {
        Some(time) if time <= host_time() => Err(Stop::Failed(StoreError::new(
            StoreErrorKind::Timeout,
            format!("the change of {key:?} expired before it was applied"),
        ))),
        _ => Ok(()),
    }
}

/// Writes all of it. What is more than one step is synced step by step: whoever waits sees that it gets on.
pub(super) fn fill(temp: &mut Temp, body: &[u8], progress: &Progress) -> io::Result<()> {
    for piece in body.chunks(STEP) {
        temp.file.write_all(piece)?;
        if body.len() > STEP {
            temp.file.sync_data()?;
        }
        progress.touch();
    }
    Ok(())
}

/// Copies all of a file in the same way; the file system may share the blocks.
pub(super) fn pour(from: &File, temp: &mut Temp, progress: &Progress) -> io::Result<()> {
    while io::copy(&mut from.take(COPIED), &mut temp.file)? == COPIED {
        temp.file.sync_data()?;
        progress.touch();
    }
    Ok(())
}

/// A new file, for us to write.
pub(super) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o644).open(path)
}
