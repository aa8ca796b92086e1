//! How a program asks: each operation as the requests that the kernel would send for it.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use s3vol::fs::{Fallocate, FileHandle, Fs, FsError, RenameMode, SetAttr, SetTime, Show};
use s3vol::types::{Caller, FileKind, FileName, Ino};

use super::op::Op;
use crate::model::{Seen, Survey};
use crate::requests::Wire;
use crate::sim::sim;
use crate::tell;

const CALLER: Caller = Caller { uid: 0, gid: 0, pid: 1, unique: 0, resent: false, umask: 0 };

/// A client's hands.
pub struct Hands {
    pub fs: Arc<Fs>,
    /// Its directory's name.
    pub home: String,
}

impl Hands {
    async fn dir(&self, wire: &Wire, path: &str) -> Result<Ino, FsError> {
        let mut at = Ino::ROOT;
        let whole = format!("{}/{path}", self.home);
        for part in whole.split('/').filter(|part| !part.is_empty()) {
            at = wire.ask(async |_| Ok(self.fs.lookup(at, name(part)).await?.ino)).await?;
        }
        Ok(at)
    }

    async fn place(&self, wire: &Wire, path: &str) -> Result<(Ino, FileName), FsError> {
        let (dir, last) = name_of(path);
        Ok((self.dir(wire, dir).await?, name(last)))
    }

    async fn open(&self, wire: &Wire, ino: Ino) -> Result<FileHandle, FsError> {
        wire.ask(async |caller| Ok(self.fs.open(caller, ino, libc::O_RDWR).await?.fh)).await
    }

    /// No program hears what becomes of it.
    async fn release(&self, wire: &Wire, ino: Ino, fh: FileHandle) {
        let released = wire.ask(async |caller| self.fs.released(caller, ino, fh).await).await;
        if let Err(error) = released {
            tell!("a handle is closed: {error}");
        }
    }

    pub async fn carry_out(&self, wire: &Wire, op: &Op) -> Result<Option<Bytes>, FsError> {
        let fs = &self.fs;
        match op {
            Op::Create { path } => {
                let (dir, name) = self.place(wire, path).await?;
                let create = async |caller| {
                    let (attr, opened) =
                        fs.create(caller, dir, name.clone(), 0o644, libc::O_RDWR).await?;
                    Ok((attr.ino, opened.fh))
                };
                let (ino, fh) = wire.ask(create).await?;
                self.release(wire, ino, fh).await;
            }
            Op::Write { path, at, bytes } => {
                let ino = self.dir(wire, path).await?;
                let fh = self.open(wire, ino).await?;
                let write = async |_| fs.write(ino, fh, *at, bytes.clone(), false).await;
                let written = wire.ask(write).await;
                self.release(wire, ino, fh).await;
                written?;
            }
            Op::Truncate { path, size } => {
                let ino = self.dir(wire, path).await?;
                let change = SetAttr { size: Some(*size), ..SetAttr::default() };
                self.set(wire, ino, change).await?;
            }
            Op::Punch { path, at, len } => {
                let ino = self.dir(wire, path).await?;
                let fh = self.open(wire, ino).await?;
                let punch = async |_| fs.fallocate(ino, fh, Fallocate::PunchHole, *at, *len).await;
                let punched = wire.ask(punch).await;
                self.release(wire, ino, fh).await;
                punched?;
            }
            Op::Mkdir { path } => {
                let (dir, name) = self.place(wire, path).await?;
                let make =
                    async |caller| fs.mkdir(caller, dir, name.clone(), 0o755).await.map(drop);
                wire.ask(make).await?;
            }
            Op::Remove { path } => {
                let (dir, name) = self.place(wire, path).await?;
                let kind = async |_| Ok(fs.lookup(dir, name.clone()).await?.kind);
                let remove = match wire.ask(kind).await? {
                    FileKind::Dir => wire.ask(async |c| fs.rmdir(c, dir, name.clone()).await).await,
                    _ => wire.ask(async |c| fs.unlink(c, dir, name.clone()).await).await,
                };
                remove?;
            }
            Op::Rename { from, to } => {
                self.rename(wire, from, to, RenameMode::Replace).await?;
            }
            Op::Exchange { one, other } => {
                self.rename(wire, one, other, RenameMode::Exchange).await?;
            }
            Op::Link { from, to } => {
                let (ino, to) = (self.dir(wire, from).await?, self.place(wire, to).await?);
                let link = async |caller| fs.link(caller, ino, to.0, to.1.clone()).await.map(drop);
                wire.ask(link).await?;
            }
            Op::Symlink { path, target } => {
                let (dir, name) = self.place(wire, path).await?;
                let link = async |caller| {
                    let target = Bytes::from(target.clone());
                    fs.symlink(caller, dir, name.clone(), target).await.map(drop)
                };
                wire.ask(link).await?;
            }
            Op::Chmod { path, perm } => {
                let change = SetAttr { mode: Some(*perm), ..SetAttr::default() };
                let ino = self.dir(wire, path).await?;
                self.set(wire, ino, change).await?;
            }
            Op::Chown { path, uid } => {
                let change = SetAttr { uid: Some(*uid), ..SetAttr::default() };
                let ino = self.dir(wire, path).await?;
                self.set(wire, ino, change).await?;
            }
            Op::Utimes { path, time } => {
                let change = SetAttr { mtime: Some(SetTime::At(*time)), ..SetAttr::default() };
                let ino = self.dir(wire, path).await?;
                self.set(wire, ino, change).await?;
            }
            Op::Sync { path } => {
                let ino = self.dir(wire, path).await?;
                wire.ask(async |_| fs.fsync(ino, false).await.map(drop)).await?;
            }
            Op::Read { path } => {
                let ino = self.dir(wire, path).await?;
                return Ok(Some(self.whole(wire, ino).await?));
            }
        }
        Ok(None)
    }

    async fn set(&self, wire: &Wire, ino: Ino, change: SetAttr) -> Result<(), FsError> {
        let set = async |caller| self.fs.setattr(caller, ino, change).await.map(drop);
        wire.ask(set).await
    }

    async fn rename(
        &self,
        wire: &Wire,
        from: &str,
        to: &str,
        mode: RenameMode,
    ) -> Result<(), FsError> {
        let (from, to) = (self.place(wire, from).await?, self.place(wire, to).await?);
        let rename = async |caller| {
            self.fs.rename(caller, from.0, from.1.clone(), to.0, to.1.clone(), mode).await
        };
        wire.ask(rename).await
    }

    async fn whole(&self, wire: &Wire, ino: Ino) -> Result<Bytes, FsError> {
        let open = async |caller| Ok(self.fs.open(caller, ino, libc::O_RDONLY).await?.fh);
        let fh = wire.ask(open).await?;
        let mut all = BytesMut::new();
        let read = async {
            loop {
                let at = all.len() as u64;
                let piece = wire.ask(async |_| self.fs.read(ino, fh, at, 128 << 10).await).await?;
                if piece.is_empty() {
                    return Ok(());
                }
                all.extend_from_slice(&piece);
            }
        }
        .await;
        self.release(wire, ino, fh).await;
        read.map(|()| all.freeze())
    }

    /// Everything below the client's directory.
    pub async fn survey(&self) -> Result<Survey, FsError> {
        let mut seen = Survey::new();
        let mut dirs = vec![String::new()];
        while let Some(dir) = dirs.pop() {
            let ino = self.dir(&Wire::NONE, &dir).await?;
            let fh = self.fs.opendir(CALLER, ino).await?;
            let mut cookie = 0;
            loop {
                let page = self.fs.readdir(ino, fh, cookie, 7, Show::Attributes).await?;
                let Some(last) = page.last() else { break };
                cookie = last.cookie;
                for entry in page.into_iter().filter(|entry| !entry.is_dot()) {
                    let name = String::from_utf8_lossy(&entry.name).into_owned();
                    let path = if dir.is_empty() { name } else { format!("{dir}/{name}") };
                    let attr = self.fs.getattr(entry.ino).await?;
                    let bytes = match attr.kind {
                        FileKind::File => self.whole(&Wire::NONE, entry.ino).await?,
                        FileKind::Symlink => self.fs.readlink(entry.ino).await?,
                        _ => Bytes::new(),
                    };
                    if attr.kind == FileKind::File && bytes.len() as u64 != attr.size {
                        sim().fail(format!(
                            "{path} says {} bytes and has {}",
                            attr.size,
                            bytes.len()
                        ));
                    }
                    if attr.kind == FileKind::Dir {
                        dirs.push(path.clone());
                    }
                    let there = Seen::of(&attr, bytes);
                    seen.insert(path, there);
                }
            }
            self.fs.releasedir(CALLER, ino, fh).await?;
        }
        Ok(seen)
    }
}

fn name(text: &str) -> FileName {
    FileName::new(text).expect("a name")
}

fn name_of(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}
