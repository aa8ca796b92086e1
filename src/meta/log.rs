//! The local log: what this host has acknowledged and the bucket may not hold yet.
//!
//! One file of framed records on local disk, generic over the record. It is written, never synced:
//! the page cache outlives the process, so `kill -9` loses nothing, and another boot makes the log
//! void, because a file system may bring back anything after a power cut.
//!
//! Invariants:
//! * Records lie in the order of their [`Lsn`]s, which is the order in which their batches go to
//!   the engine. A number is never given twice while the log lives, also across rotations.
//! * An append is one write. If it fails, its bytes are cut off again, so that an error never
//!   leaves half a frame below the next one; until that succeeds the log refuses everything.
//! * Epochs stand in the log before the first batch of that epoch. The log belongs to the bucket's
//!   state exactly if `applied.epoch` is one of [`Opened::epochs`]: then nobody else wrote between.
//! * A log that cannot be trusted is moved aside whole, never deleted.
//! * Blocks are allocated ahead of the log's end ([`Reserve`]): a full disk keeps nobody from bringing
//!   content into the bucket.
//!
//! One process uses a state folder; [`StateDirLock`] sees to it.

mod frame;
mod lock;
mod replay;
mod reserve;

#[cfg(test)]
mod tests;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::marker::PhantomData;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{FallocateFlags, fallocate};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::fault::{at, points};
use crate::types::{Epoch, Lsn, VolumeId};
use frame::Kind;
use reserve::Reserve;

pub use lock::StateDirLock;
pub use replay::{Damage, Opened, Void, VoidReason};

const FILE: &str = "log";
const NEW_FILE: &str = "log.new";

/// The first bytes of a log of this format.
const MAGIC: &[u8; 8] = b"s3vlog1\n";

/// Epochs remembered across a rotation; one a mount or reopening.
const MAX_EPOCHS: usize = 64;

/// Whose log it is.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Header {
    pub volume: VolumeId,
    /// The kernel's boot id.
    pub boot: String,
}

impl Header {
    /// For a volume on this host, since its last boot.
    pub fn here(volume: VolumeId) -> Result<Self, LogError> {
        let path = Path::new("/proc/sys/kernel/random/boot_id");
        let boot = match crate::fault::text(crate::fault::BOOT_ID) {
            Some(boot) => boot,
            None => fs::read_to_string(path).map_err(|source| LogError::io(path, source))?,
        };
        Ok(Header { volume, boot: boot.trim().to_owned() })
    }
}

/// An error of the local log. Nothing was acknowledged by a call that returns one.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The local disk is full; the log is as it was before the call.
    #[error("no space left for the local log at {}; free space there", path.display())]
    NoSpace { path: PathBuf, source: io::Error },
    /// The local disk failed; the log is as it was before the call.
    #[error("the local log at {} cannot be used", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// A failed append could not be undone, and still cannot.
    #[error("the local log failed before and accepts nothing more")]
    Broken,
    /// The volume is being given back, so that nothing more is acknowledged.
    #[error("the volume is being unmounted and accepts no more changes")]
    Ended,
    /// A record that cannot be written: too large, or its type cannot be serialised.
    #[error("a record of the local log cannot be written")]
    Record(#[source] Option<postcard::Error>),
    /// Another process uses the state folder.
    #[error("the state folder {} is in use by process {holder}", path.display())]
    InUse { path: PathBuf, holder: String },
}

impl LogError {
    fn io(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                LogError::NoSpace { path, source }
            }
            _ => LogError::Io { path, source },
        }
    }
}

/// The disk below the log; replaced in tests.
trait Media: Send {
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()>;
    fn set_len(&mut self, len: u64) -> io::Result<()>;
    /// Blocks for a range that lies beyond the end, which stays where it is.
    fn allocate(&mut self, range: Range<u64>) -> io::Result<()>;
}

impl Media for File {
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }

    fn allocate(&mut self, range: Range<u64>) -> io::Result<()> {
        let len = range.end - range.start;
        fallocate(self, FallocateFlags::FALLOC_FL_KEEP_SIZE, range.start as i64, len as i64)?;
        Ok(())
    }
}

/// Records of a log, in order.
pub type Records<R> = Vec<(Lsn, R)>;

/// An open log. See the module.
pub struct LocalLog<R> {
    media: Box<dyn Media>,
    dir: PathBuf,
    header: Header,
    epochs: Vec<Epoch>,
    len: u64,
    reserve: Reserve,
    next: Lsn,
    broken: bool,
    /// Reused between appends.
    buffer: Vec<u8>,
    record: PhantomData<fn(R) -> R>,
}

impl<R: Serialize + DeserializeOwned> LocalLog<R> {
    /// Opens or begins the log in `dir`, which must exist. Returns everything it holds.
    pub fn open(dir: &Path, header: Header) -> Result<Opened<R>, LogError> {
        replay::open(dir, header)
    }

    fn begin(
        dir: &Path,
        header: Header,
        file: &str,
        next: Lsn,
        epochs: Vec<Epoch>,
    ) -> Result<Self, LogError> {
        let path = dir.join(file);
        let io_error = |source| LogError::io(&path, source);
        let mut out = MAGIC.to_vec();
        let head = postcard::to_stdvec(&header).map_err(|e| LogError::Record(Some(e)))?;
        frame::write(&mut out, Kind::Header, next, &head)?;
        for epoch in &epochs {
            frame::write(&mut out, Kind::Epoch, next, &epoch.0.to_le_bytes())?;
        }
        let media = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        let mut media = media.map_err(io_error)?;
        // To cut off nothing would give away the blocks that wait here for this.
        if media.metadata().map_err(io_error)?.len() > 0 {
            media.set_len(0).map_err(io_error)?;
        }
        let reserve = Reserve::ahead_of(0, &mut media, dir);
        Media::write_all_at(&mut media, &out, 0).map_err(io_error)?;
        Ok(LocalLog {
            media: Box::new(media),
            reserve,
            dir: dir.to_owned(),
            header,
            epochs,
            len: out.len() as u64,
            next,
            broken: false,
            buffer: out,
            record: PhantomData,
        })
    }

    /// The epochs in the log of `header`; none in any other's.
    pub fn epochs(dir: &Path, header: &Header) -> Result<Vec<Epoch>, LogError> {
        let (found, held) = replay::read::<R>(dir)?;
        Ok(if found.as_ref() == Some(header) { held.epochs } else { Vec::new() })
    }

    /// Whose log it is and its records, of a log that nobody writes any more.
    pub fn found(dir: &Path) -> Result<(Option<Header>, Records<R>), LogError> {
        let (header, held) = replay::read(dir)?;
        Ok((header, held.records))
    }

    /// The records of a log that nobody writes any more, up to its end or its damage. Changes nothing.
    pub fn read(dir: &Path) -> Result<Vec<(Lsn, R)>, LogError> {
        Ok(replay::read(dir)?.1.records)
    }

    /// Writes one record. When this returns, the record survives the end of this process.
    pub fn append(&mut self, record: &R) -> Result<Lsn, LogError> {
        let payload = postcard::to_stdvec(record).map_err(|e| LogError::Record(Some(e)))?;
        let lsn = self.next;
        self.append_frame(Kind::Record, lsn, &payload)?;
        self.next = Lsn(lsn.0 + 1);
        Ok(lsn)
    }

    /// Writes down that `epoch` is this host's, before the first batch of it.
    pub fn append_epoch(&mut self, epoch: Epoch) -> Result<(), LogError> {
        self.append_frame(Kind::Epoch, self.next, &epoch.0.to_le_bytes())?;
        self.epochs.push(epoch);
        Ok(())
    }

    /// The number that the next record gets.
    pub fn next_lsn(&self) -> Lsn {
        self.next
    }

    /// Raises [`LocalLog::next_lsn`] to at least `lsn`, for a log that began anew under an engine
    /// that has already seen higher numbers.
    pub fn skip_to(&mut self, lsn: Lsn) {
        self.next = self.next.max(lsn);
    }

    /// Bytes on disk; rotation is due when this is much more than what is still needed.
    pub fn len_bytes(&self) -> u64 {
        self.len
    }

    /// Bytes beyond which a log that is mostly forgotten is worth a rotation on this disk.
    pub fn long(&self) -> u64 {
        self.reserve.long()
    }

    /// Whether so many bytes can be appended whatever happens to the disk, and as much again as has to
    /// be there for the unforeseen.
    pub fn has_room(&mut self, bytes: u64) -> bool {
        self.reserve.ensure(&mut *self.media, self.len + bytes, true)
    }

    /// Whether so many bytes can be appended whatever happens to the disk.
    pub fn fits(&mut self, bytes: u64) -> bool {
        self.reserve.ensure(&mut *self.media, self.len + bytes, false)
    }

    /// The error that there is no room.
    pub fn full(&self) -> LogError {
        LogError::io(&self.dir.join(FILE), io::Error::from(io::ErrorKind::StorageFull))
    }

    /// Sees to it that there are blocks for the next log, too. What cannot be had now is tried again with
    /// the next rotation.
    fn keep_spare(&self) {
        let path = self.dir.join(NEW_FILE);
        let spare = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        let kept = spare.and_then(|mut file| {
            if file.metadata()?.len() > 0 {
                file.set_len(0)?;
            }
            Ok(Reserve::ahead_of(0, &mut file, &self.dir))
        });
        if let Err(error) = kept {
            tracing::debug!(%error, "no room is kept for the next local log");
        }
    }

    /// Replaces the log by the records that are still needed, with the numbers they have, in
    /// ascending order. If it fails the old log stays in use.
    pub fn rotate(&mut self, snapshot: impl Iterator<Item = (Lsn, R)>) -> Result<(), LogError> {
        let (from, to) = (self.dir.join(NEW_FILE), self.dir.join(FILE));
        at(points::LOG_ROTATE_BEFORE);
        let rotated = self.write_rotated(snapshot).and_then(|new| {
            at(points::LOG_ROTATE_WRITTEN);
            fs::rename(&from, &to).map_err(|source| LogError::io(&to, source))?;
            at(points::LOG_ROTATE_AFTER);
            Ok(new)
        });
        match rotated {
            Ok(new) => {
                *self = new;
                self.keep_spare();
                Ok(())
            }
            Err(error) => {
                self.keep_spare();
                Err(error)
            }
        }
    }

    fn write_rotated(&self, snapshot: impl Iterator<Item = (Lsn, R)>) -> Result<Self, LogError> {
        let recent = self.epochs.len().saturating_sub(MAX_EPOCHS);
        let epochs = self.epochs[recent..].to_vec();
        let mut new = Self::begin(&self.dir, self.header.clone(), NEW_FILE, self.next, epochs)?;
        for (lsn, record) in snapshot {
            let payload = postcard::to_stdvec(&record).map_err(|e| LogError::Record(Some(e)))?;
            new.append_frame(Kind::Record, lsn, &payload)?;
        }
        Ok(new)
    }

    fn append_frame(&mut self, kind: Kind, lsn: Lsn, payload: &[u8]) -> Result<(), LogError> {
        if self.broken {
            // The disk may be well again.
            self.media.set_len(self.len).map_err(|_| LogError::Broken)?;
            self.broken = false;
        }
        self.buffer.clear();
        frame::write(&mut self.buffer, kind, lsn, payload)?;
        // Nothing of a frame is written that might not fit.
        if !self.reserve.ensure(&mut *self.media, self.len + self.buffer.len() as u64, false) {
            return Err(self.full());
        }
        if let Err(source) = self.media.write_all_at(&self.buffer, self.len) {
            if let Err(error) = self.media.set_len(self.len) {
                tracing::error!(%error, "a failed append to the local log cannot be undone");
                self.broken = true;
            }
            self.reserve.cut(self.len);
            return Err(LogError::io(&self.dir.join(FILE), source));
        }
        self.len += self.buffer.len() as u64;
        Ok(())
    }
}

impl<R> std::fmt::Debug for LocalLog<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalLog")
            .field("dir", &self.dir)
            .field("len", &self.len)
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}
