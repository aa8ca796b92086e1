//! What a plain file cannot say: the user metadata of its object, as one extended attribute, or in
//! a sidecar where the file system has none. Bound to the inode, so it never describes another
//! file that took the name.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::store::{Attributes, Properties};
use crate::types::{StoreTime, Version, hex};

const XATTR: &CStr = c"user.s3vol.object";
/// Larger than any record we write.
const RECORD_MAX: usize = 64 << 10;

/// The record of one file or directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Record {
    /// Random, new with each write: inode numbers are used again and file times can be set.
    pub id: String,
    /// When it was written, by the store's clock, which is this host's.
    pub written: i64,
    pub attributes: Attributes,
    pub properties: Properties,
    /// The real permissions and owner at that time: a later `chmod` by hand counts.
    pub real: Option<(u32, u32, u32)>,
    /// A directory that only exists to hold others, not a marker.
    pub implicit: bool,
}

/// What an upload keeps until it is complete.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct About {
    pub attributes: Attributes,
    pub properties: Properties,
}

impl About {
    pub(super) fn new(attributes: &Attributes, properties: &Properties) -> About {
        About { attributes: attributes.clone(), properties: properties.clone() }
    }
}

impl Record {
    pub(super) fn new(about: About, now: StoreTime) -> Record {
        Record {
            id: format!("{:016x}", uuid::Uuid::new_v4().as_u128() as u64),
            written: now.0,
            attributes: about.attributes,
            properties: about.properties,
            ..Record::default()
        }
    }

    /// Gives the file its attributes: real ones where possible, then this record.
    pub(super) fn apply(&mut self, file: &File, sidecar: &Path) -> io::Result<()> {
        let number = |name: &str| self.attributes.get(name)?.trim().parse::<u32>().ok();
        let (mode, uid, gid) = (number("mode"), number("uid"), number("gid"));
        if uid.is_some() || gid.is_some() {
            // Without the right to give files away the record alone tells the owner.
            let _ = std::os::unix::fs::fchown(file, uid, gid);
        }
        if let Some(mode) = mode {
            // No set-id bits on files that anybody on this host may start. Without root's rights
            // we must still be able to read what we wrote.
            let root = nix::unistd::geteuid().is_root();
            let is_dir = file.metadata()?.is_dir();
            let own = if root {
                0
            } else if is_dir {
                0o700
            } else {
                0o600
            };
            file.set_permissions(std::fs::Permissions::from_mode(mode & 0o777 | own))?;
        }
        if let Some(mtime) = self.attributes.get("mtime").and_then(|t| file_time(t)) {
            let times = std::fs::FileTimes::new().set_modified(mtime);
            let _ = file.set_times(times);
        }
        let meta = file.metadata()?;
        self.real = Some((meta.mode() & 0o7777, meta.uid(), meta.gid()));
        let bytes = serde_json::to_vec(self)?;
        match set_xattr(file, &bytes) {
            Ok(()) => Ok(()),
            Err(_) => {
                remove_xattr(file);
                let path = sidecar_of(sidecar, meta.ino());
                if let Some(dir) = path.parent() {
                    std::fs::create_dir_all(dir)?;
                }
                let out = File::create(&path)?;
                io::Write::write_all(&mut &out, &bytes)?;
                out.sync_all()
            }
        }
    }

    /// The record of an open file; `None` for files that others made.
    pub(super) fn read(file: &File, sidecar: &Path) -> Option<Record> {
        if let Some(bytes) = get_xattr(file) {
            return serde_json::from_slice(&bytes).ok();
        }
        let ino = file.metadata().ok()?.ino();
        serde_json::from_slice(&std::fs::read(sidecar_of(sidecar, ino)).ok()?).ok()
    }

    /// Drops the sidecar of a file that is gone, if it had one.
    pub(super) fn forget(sidecar: &Path, ino: u64) {
        let _ = std::fs::remove_file(sidecar_of(sidecar, ino));
    }
}

/// Where the sidecars of a key lie, but for the inode's number.
pub(super) fn sidecar_base(own: &Path, key: &str) -> PathBuf {
    let hash = Sha256::digest(key.trim_end_matches('/').as_bytes());
    own.join("attrs").join(hex(&hash))
}

fn sidecar_of(base: &Path, ino: u64) -> PathBuf {
    let mut name = base.as_os_str().to_owned();
    name.push(format!("-{ino}.json"));
    name.into()
}

/// The version of a file. Its time and size change when somebody edits it in place.
pub(super) fn version_of(meta: &std::fs::Metadata, record: Option<&Record>) -> Version {
    let id = record.map_or("", |r| r.id.as_str());
    let mtime = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
    if meta.is_dir() {
        return Version {
            etag: format!("d{:x}-{id}", meta.ino()),
            size: 0,
            modified: record.map(|r| StoreTime(r.written)),
            generation: None,
        };
    }
    let mtime_ms = (mtime / 1_000_000) as i64;
    Version {
        etag: format!("{:x}-{:x}-{:x}-{id}", meta.ino(), mtime, meta.size()),
        size: meta.size(),
        modified: Some(StoreTime(record.map_or(mtime_ms, |r| r.written))),
        generation: None,
    }
}

/// The attributes that an object shows: the recorded ones, corrected by what was changed by hand.
pub(super) fn attributes_of(meta: &std::fs::Metadata, record: Option<&Record>) -> Attributes {
    let mut attributes = record.map(|r| r.attributes.clone()).unwrap_or_default();
    let real = (meta.mode() & 0o7777, meta.uid(), meta.gid());
    let known = record.and_then(|r| r.real);
    if known == Some(real) {
        return attributes;
    }
    let kind = attributes.get("mode").and_then(|m| m.parse::<u32>().ok()).unwrap_or(meta.mode());
    let mut changed = |name: &str, value: u32, before: Option<u32>| {
        if before != Some(value) {
            attributes.insert(name.to_owned(), value.to_string());
        }
    };
    let before = known.map(|k| k.0);
    if before != Some(real.0) {
        changed("mode", kind & libc::S_IFMT | real.0, None);
    }
    changed("uid", real.1, known.map(|k| k.1));
    changed("gid", real.2, known.map(|k| k.2));
    if record.is_none() {
        attributes.insert("mtime".to_owned(), format!("{}.{:09}", meta.mtime(), meta.mtime_nsec()));
    }
    attributes
}

/// Seconds, perhaps with a fraction.
fn file_time(text: &str) -> Option<std::time::SystemTime> {
    let (secs, fraction) = text.trim().split_once('.').unwrap_or((text.trim(), ""));
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let time = crate::types::Timestamp { secs: secs.parse().ok()?, nanos: digits.parse().ok()? };
    // Beyond this no file system can store it, and the arithmetic would overflow.
    (time.secs.unsigned_abs() < 1 << 40).then(|| time.into())
}

fn set_xattr(file: &File, value: &[u8]) -> io::Result<()> {
    // SAFETY: the descriptor is open, both pointers are valid for the given lengths.
    let done = unsafe {
        libc::fsetxattr(file.as_raw_fd(), XATTR.as_ptr(), value.as_ptr().cast(), value.len(), 0)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// So that an earlier record does not hide the sidecar.
fn remove_xattr(file: &File) {
    // SAFETY: the descriptor is open.
    unsafe { libc::fremovexattr(file.as_raw_fd(), XATTR.as_ptr()) };
}

fn get_xattr(file: &File) -> Option<Vec<u8>> {
    let mut value = vec![0u8; RECORD_MAX];
    // SAFETY: the descriptor is open, the buffer is valid for its length.
    let length = unsafe {
        libc::fgetxattr(file.as_raw_fd(), XATTR.as_ptr(), value.as_mut_ptr().cast(), value.len())
    };
    value.truncate(usize::try_from(length).ok()?);
    Some(value)
}
