//! Opening a log that a worker left behind.

use std::fs::{self, OpenOptions};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::frame::{self, Kind, Next};
use super::reserve::Reserve;
use super::{FILE, Header, LocalLog, LogError, MAGIC};
use crate::types::{Epoch, Lsn};

/// An opened log and what it held.
#[derive(Debug)]
pub struct Opened<R> {
    pub log: LocalLog<R>,
    /// Every record, in order.
    pub replayed: Vec<(Lsn, R)>,
    /// The last epoch written down.
    pub epoch: Option<Epoch>,
    /// All epochs written down: the log fits the bucket if `applied.epoch` is among them.
    pub epochs: Vec<Epoch>,
    /// A log that could not be used at all; the open one is new and empty.
    pub void: Option<Void>,
    /// Damage inside the log: what follows it was not replayed.
    pub damage: Option<Damage>,
}

/// A log that was moved aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Void {
    pub reason: VoidReason,
    /// The folder that holds it, untouched.
    pub kept_in: PathBuf,
}

/// Why a log says nothing about the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VoidReason {
    /// The host was started anew since; unsynced files may hold anything.
    Rebooted,
    /// It belongs to another volume.
    OtherVolume,
    /// Its first bytes are not those of a log of this format.
    Unreadable,
}

/// A place in the log that cannot be read although it was written whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    pub offset: u64,
    /// Bytes from there to the end.
    pub lost: u64,
    /// The folder that holds a copy of the whole log.
    pub kept_in: PathBuf,
}

/// See [`LocalLog::open`].
pub(super) fn open<R: Serialize + DeserializeOwned>(
    dir: &Path,
    header: Header,
) -> Result<Opened<R>, LogError> {
    let path = dir.join(FILE);
    let io_error = |source| LogError::io(&path, source);
    let file = match OpenOptions::new().read(true).write(true).open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return begin_empty(dir, header, None);
        }
        Err(error) => return Err(io_error(error)),
    };
    let total = file.metadata().map_err(io_error)?.len();
    let mut reader = BufReader::with_capacity(1 << 20, &file);
    let (first, head_len) = match read_header(&mut reader).map_err(io_error)? {
        Head::Ok(next, found, len) if found == header => (next, len),
        // An empty or torn file: its writer died while beginning it, nothing was acknowledged.
        Head::Torn => return begin_empty(dir, header, None),
        Head::Ok(_, found, _) => {
            let reason = match found.volume == header.volume {
                true => VoidReason::Rebooted,
                false => VoidReason::OtherVolume,
            };
            return move_aside(dir, header, reason);
        }
        Head::Unreadable => return move_aside(dir, header, VoidReason::Unreadable),
    };
    let mut held = Held::default();
    held.read(&mut reader, head_len, first).map_err(io_error)?;
    drop(reader);
    let damage = match held.damaged {
        false => None,
        true => {
            let folder = recovery_folder(dir)?;
            fs::copy(&path, folder.join(FILE)).map_err(io_error)?;
            Some(Damage { offset: held.end, lost: total - held.end, kept_in: folder })
        }
    };
    if held.end < total {
        file.set_len(held.end).map_err(io_error)?;
    }
    let mut file = file;
    let reserve = Reserve::ahead_of(held.end, &mut file, dir);
    let log = LocalLog {
        media: Box::new(file),
        reserve,
        dir: dir.to_owned(),
        header,
        epochs: held.epochs.clone(),
        len: held.end,
        next: held.next,
        broken: false,
        buffer: Vec::new(),
        record: std::marker::PhantomData,
    };
    log.keep_spare();
    Ok(Opened {
        log,
        replayed: held.records,
        epoch: held.epochs.last().copied(),
        epochs: held.epochs,
        void: None,
        damage,
    })
}

/// What a log holds, and whose it is.
pub(super) fn read<R: DeserializeOwned>(dir: &Path) -> Result<(Option<Header>, Held<R>), LogError> {
    let path = dir.join(FILE);
    let io_error = |source| LogError::io(&path, source);
    let file = match fs::File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok((None, Held::default()));
        }
        Err(error) => return Err(io_error(error)),
    };
    let mut reader = BufReader::with_capacity(1 << 20, &file);
    let mut held = Held::default();
    let Head::Ok(first, header, head_len) = read_header(&mut reader).map_err(io_error)? else {
        return Ok((None, held));
    };
    held.read(&mut reader, head_len, first).map_err(io_error)?;
    Ok((Some(header), held))
}

enum Head {
    Ok(Lsn, Header, u64),
    Torn,
    Unreadable,
}

fn read_header(reader: &mut impl Read) -> io::Result<Head> {
    let mut magic = Vec::with_capacity(MAGIC.len());
    reader.by_ref().take(MAGIC.len() as u64).read_to_end(&mut magic)?;
    if magic != MAGIC {
        return Ok(match MAGIC.starts_with(&magic) {
            true => Head::Torn,
            false => Head::Unreadable,
        });
    }
    Ok(match frame::read(reader)? {
        Next::Frame(frame) if frame.kind == Kind::Header => {
            match postcard::from_bytes(&frame.payload) {
                Ok(header) => Head::Ok(frame.lsn, header, MAGIC.len() as u64 + frame.len_on_disk()),
                Err(_) => Head::Unreadable,
            }
        }
        Next::End | Next::Torn => Head::Torn,
        Next::Frame(_) | Next::Damaged => Head::Unreadable,
    })
}

pub(super) struct Held<R> {
    pub records: Vec<(Lsn, R)>,
    pub epochs: Vec<Epoch>,
    next: Lsn,
    /// Where the last good frame ends.
    end: u64,
    damaged: bool,
}

impl<R> Default for Held<R> {
    fn default() -> Self {
        Held { records: Vec::new(), epochs: Vec::new(), next: Lsn(1), end: 0, damaged: false }
    }
}

impl<R: DeserializeOwned> Held<R> {
    fn read(&mut self, reader: &mut impl Read, start: u64, first: Lsn) -> io::Result<()> {
        self.end = start;
        self.next = first;
        loop {
            let frame = match frame::read(reader)? {
                Next::Frame(frame) => frame,
                Next::End | Next::Torn => return Ok(()),
                Next::Damaged => break,
            };
            let len = frame.len_on_disk();
            match frame.kind {
                Kind::Record => {
                    // Equal after a rotation: one record may have left several.
                    let in_order = self.records.last().is_none_or(|(last, _)| *last <= frame.lsn);
                    let Ok(record) = postcard::from_bytes(&frame.payload) else { break };
                    if !in_order {
                        break;
                    }
                    self.records.push((frame.lsn, record));
                    self.next = self.next.max(Lsn(frame.lsn.0 + 1));
                }
                Kind::Epoch => {
                    let Ok(epoch) = frame.payload.as_slice().try_into() else { break };
                    self.epochs.push(Epoch(u64::from_le_bytes(epoch)));
                    self.next = self.next.max(frame.lsn);
                }
                Kind::Header => break,
            }
            self.end += len;
        }
        self.damaged = true;
        Ok(())
    }
}

fn begin_empty<R: Serialize + DeserializeOwned>(
    dir: &Path,
    header: Header,
    void: Option<Void>,
) -> Result<Opened<R>, LogError> {
    let log = LocalLog::begin(dir, header, FILE, Lsn(1), Vec::new())?;
    log.keep_spare();
    Ok(Opened { log, replayed: Vec::new(), epoch: None, epochs: Vec::new(), void, damage: None })
}

fn move_aside<R: Serialize + DeserializeOwned>(
    dir: &Path,
    header: Header,
    reason: VoidReason,
) -> Result<Opened<R>, LogError> {
    let folder = recovery_folder(dir)?;
    let path = dir.join(FILE);
    fs::rename(&path, folder.join(FILE)).map_err(|source| LogError::io(&path, source))?;
    begin_empty(dir, header, Some(Void { reason, kept_in: folder }))
}

/// A new `recovery-<n>` folder beside the log.
pub(super) fn recovery_folder(dir: &Path) -> Result<PathBuf, LogError> {
    for n in 1u32.. {
        let folder = dir.join(format!("recovery-{n}"));
        match fs::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(LogError::io(&folder, error)),
        }
    }
    Err(LogError::io(dir, io::Error::other("no free name for a recovery folder")))
}
