//! One sequence: each step is done to the model and to the file system, and the answers are compared.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use s3vol::fs::{
    Attr, Fallocate, FileHandle, Fs, FsError, RenameMode, SetAttr, SetTime, Show, XattrMode,
};
use s3vol::types::{Caller, FileKind, FileName, Ino, Timestamp};

use crate::ops::{Op, bytes, name_of, user, xattr_of};
use crate::oracle::{Entry, Id, Node, ROOT, Refused, Tree};
use crate::world::{World, kind};

/// No file grows past this, bytes.
const LARGEST: u32 = 600_000;
const NONE: FileHandle = FileHandle(0);

pub struct Run {
    pub world: World,
    pub tree: Tree,
    handles: Vec<(FileHandle, Id)>,
    dirs: Vec<(FileHandle, Id)>,
    /// Whoever does what comes next.
    who: Caller,
    /// What others removed, by its key.
    pub tombs: BTreeMap<String, Node>,
}

pub type Outcome = Result<(), String>;

pub fn file_name(name: &[u8]) -> FileName {
    FileName::new(name).expect("a name of the pool")
}

fn pick<T: Clone>(of: &[T], index: u8) -> Option<T> {
    of.get(usize::from(index) % of.len().max(1)).cloned()
}

/// Both succeeded, or the file system refused for a reason that the model has.
fn agree<T>(what: Result<T, FsError>, expected: &Result<(), Refused>) -> Result<Option<T>, String> {
    match (what, expected) {
        (Ok(value), Ok(())) => Ok(Some(value)),
        (Err(e), Err(reasons)) if reasons.contains(&kind(&e)) => Ok(None),
        (Ok(_), Err(reasons)) => Err(format!("succeeded, expected {reasons:?}")),
        (Err(e), expected) => Err(format!("{} ({e:?}), expected {expected:?}", kind(&e))),
    }
}

pub fn failed(what: &str) -> impl Fn(FsError) -> String + '_ {
    move |e| format!("{what}: {e:?}")
}

impl Run {
    pub async fn new(refresh: Duration) -> Run {
        let world = World::new(refresh).await;
        let tree = Tree::new(world.spec.options.dir_mode);
        let (handles, dirs) = (Vec::new(), Vec::new());
        Run { world, tree, handles, dirs, who: Caller::ROOT, tombs: BTreeMap::new() }
    }

    pub fn fs(&self) -> &Fs {
        self.world.fs()
    }

    fn dir(&self, index: u8) -> (Id, Ino) {
        let id = pick(&self.tree.dirs(), index).unwrap_or(ROOT);
        (id, self.ino(id))
    }

    pub fn ino(&self, id: Id) -> Ino {
        self.tree.node(id).ino.expect("looked up when it appeared")
    }

    fn entry(&self, index: u8) -> Option<Entry> {
        pick(&self.tree.entries(), index)
    }

    fn file(&self, index: u8) -> Option<(Id, Ino)> {
        pick(&self.tree.files(), index).map(|id| (id, self.ino(id)))
    }

    pub async fn step(&mut self, op: &Op) -> Outcome {
        match *op {
            Op::Create { dir, name } => {
                let (dir, ino) = self.dir(dir);
                let expected = self.vacant(dir, &name_of(name));
                let made = self
                    .fs()
                    .create(self.who, ino, file_name(&name_of(name)), 0o640, libc::O_RDWR)
                    .await;
                if let Some((attr, opened)) = agree(made, &expected)? {
                    self.fs().release(attr.ino, opened.fh).await.map_err(failed("release"))?;
                    self.made(dir, name, FileKind::File, 0o640, &attr);
                }
            }
            Op::Mkdir { dir, name } => {
                let (dir, ino) = self.dir(dir);
                let expected = self.vacant(dir, &name_of(name));
                let made = self.fs().mkdir(self.who, ino, file_name(&name_of(name)), 0o751).await;
                if let Some(attr) = agree(made, &expected)? {
                    self.made(dir, name, FileKind::Dir, 0o751, &attr);
                }
            }
            Op::Symlink { dir, name, target } => {
                let (dir, ino) = self.dir(dir);
                let expected = self.vacant(dir, &name_of(name));
                let target = format!("../target-{target}");
                let made = self
                    .fs()
                    .symlink(self.who, ino, file_name(&name_of(name)), Bytes::from(target.clone()))
                    .await;
                if let Some(attr) = agree(made, &expected)? {
                    let id = self.made(dir, name, FileKind::Symlink, 0o777, &attr);
                    self.tree.node_mut(id).target = target.into_bytes();
                }
            }
            Op::Mknod { dir, name, device } => {
                let (dir, ino) = self.dir(dir);
                let expected = self.vacant(dir, &name_of(name));
                let (node, rdev) =
                    if device { (FileKind::CharDevice, 0x105) } else { (FileKind::Fifo, 0) };
                let mode = node.mode_bits() | 0o600;
                let made =
                    self.fs().mknod(self.who, ino, file_name(&name_of(name)), mode, rdev).await;
                if let Some(attr) = agree(made, &expected)? {
                    let id = self.made(dir, name, node, 0o600, &attr);
                    self.tree.node_mut(id).rdev = rdev;
                }
            }
            Op::Make { dir, name, kind, perm } => {
                self.make(dir, name, kind, u32::from(perm)).await?
            }
            Op::As { who, umask } => {
                let (uid, gid, _) = user(who);
                self.who = Caller { uid, gid, umask: u32::from(umask), ..Caller::ROOT };
            }
            Op::Write { file, at, len, seed } => {
                if let Some((id, _)) = self.file(file) {
                    self.write(id, at, bytes(seed, len)).await?;
                }
            }
            Op::Append { file, len, seed } => {
                if let Some((id, _)) = self.file(file) {
                    let at = self.tree.node(id).data.len() as u32;
                    self.write(id, at, bytes(seed, len)).await?;
                }
            }
            Op::Truncate { file, size } => {
                if let Some((id, _)) = self.file(file) {
                    self.truncate(id, size).await?;
                }
            }
            Op::Punch { file, at, len } => {
                self.zero(file, at, len, Fallocate::PunchHole).await?;
            }
            Op::Zero { file, at, len, keep } => {
                self.zero(file, at, len, Fallocate::ZeroRange { keep_size: keep }).await?;
            }
            Op::Allocate { file, at, len, keep } => {
                self.zero(file, at, len, Fallocate::Allocate { keep_size: keep }).await?;
            }
            Op::Seek { file, at, hole } => {
                if let Some((id, _)) = self.file(file) {
                    self.seek(id, u64::from(at), hole).await?;
                }
            }
            Op::CopyRange { from, at, to, to_at, len } => {
                if let (Some((from, _)), Some((to, _))) = (self.file(from), self.file(to)) {
                    self.copy(from, at, to, to_at, len).await?;
                }
            }
            Op::Rewrite { file, len, seed } => {
                if let Some((id, _)) = self.file(file) {
                    self.rewrite(id, len, seed).await?;
                }
            }
            Op::Read { file, at, len } => {
                if let Some((id, ino)) = self.file(file) {
                    let read = self.fs().read(ino, NONE, u64::from(at), len).await;
                    let read = read.map_err(failed("read"))?;
                    let data = &self.tree.node(id).data;
                    let from = (at as usize).min(data.len());
                    let to = (at as usize + len as usize).min(data.len());
                    same_bytes(&read, &data[from..to])?;
                }
            }
            Op::Rename { entry, dir, name, how } => {
                if let Some(entry) = self.entry(entry) {
                    let (dir, _) = self.dir(dir);
                    self.rename(&entry, dir, name_of(name), how).await?;
                }
            }
            Op::RenameOnto { entry, other, how } => {
                if let (Some(entry), Some(other)) = (self.entry(entry), self.entry(other)) {
                    self.rename(&entry, other.dir, other.name, how).await?;
                }
            }
            Op::Link { entry, dir, name } => {
                let Some(entry) = self.entry(entry) else { return Ok(()) };
                let (dir, dir_ino) = self.dir(dir);
                let mut wrong = Vec::new();
                if self.tree.node(entry.id).is_dir() {
                    wrong.push("not permitted");
                }
                if self.tree.child(dir, &name_of(name)).is_some() {
                    wrong.push("exists");
                }
                let expected = if wrong.is_empty() { Ok(()) } else { Err(wrong) };
                let ino = self.ino(entry.id);
                let made = self.fs().link(self.who, ino, dir_ino, file_name(&name_of(name))).await;
                if agree(made, &expected)?.is_some() {
                    self.tree.link(dir, &name_of(name), entry.id);
                    self.tree.node_mut(dir).mtime = None;
                }
            }
            Op::Unlink { entry } => {
                let Some(entry) = self.entry(entry) else { return Ok(()) };
                let is_dir = self.tree.node(entry.id).is_dir();
                let expected = if is_dir { Err(vec!["is a directory"]) } else { Ok(()) };
                let dir = self.ino(entry.dir);
                let gone = self.fs().unlink(self.who, dir, file_name(&entry.name)).await;
                if agree(gone, &expected)?.is_some() {
                    self.tree.unlink(entry.dir, &entry.name);
                    self.tree.node_mut(entry.dir).theirs = None;
                    self.tree.node_mut(entry.dir).mtime = None;
                }
            }
            Op::Rmdir { entry } => {
                let Some(entry) = self.entry(entry) else { return Ok(()) };
                let node = self.tree.node(entry.id);
                let expected = match (node.is_dir(), node.children.is_empty()) {
                    (false, _) => Err(vec!["not a directory"]),
                    (true, false) => Err(vec!["not empty"]),
                    (true, true) => Ok(()),
                };
                let dir = self.ino(entry.dir);
                let gone = self.fs().rmdir(self.who, dir, file_name(&entry.name)).await;
                if agree(gone, &expected)?.is_some() {
                    self.tree.unlink(entry.dir, &entry.name);
                    self.tree.node_mut(entry.dir).theirs = None;
                    self.tree.node_mut(entry.dir).mtime = None;
                }
            }
            Op::Chmod { entry, perm } => {
                let perm = u32::from(perm);
                let change = SetAttr { mode: Some(perm), ..SetAttr::default() };
                let symlink = self
                    .entry(entry)
                    .is_some_and(|e| self.tree.node(e.id).kind == FileKind::Symlink);
                if !symlink {
                    let who = self.who;
                    let edit = |node: &mut Node| {
                        let foreign = who.uid != 0 && who.gid != node.gid && !node.is_dir();
                        node.perm = if foreign { perm & !0o2000 } else { perm };
                    };
                    self.setattr(entry, change, edit).await?;
                }
            }
            Op::Chown { entry, uid, gid } => {
                let (uid, gid) = (u32::from(uid), u32::from(gid));
                let change = SetAttr { uid: Some(uid), gid: Some(gid), ..SetAttr::default() };
                self.setattr(entry, change, |node| (node.uid, node.gid) = (uid, gid)).await?;
            }
            Op::Utimens { entry, secs, nanos } => {
                let time = Timestamp { secs: i64::from(secs), nanos };
                let change = SetAttr { mtime: Some(SetTime::At(time)), ..SetAttr::default() };
                self.setattr(entry, change, |node| node.mtime = Some(time)).await?;
            }
            Op::Touch { entry } => {
                let now = Some(SetTime::Now);
                let change = SetAttr { atime: now, mtime: now, ..SetAttr::default() };
                self.setattr(entry, change, |node| node.mtime = None).await?;
            }
            Op::SetXattr { entry, name, len } => self.set_xattr(entry, name, len, 0).await?,
            Op::XattrHow { entry, name, len, how } => {
                self.set_xattr(entry, name, len, how).await?;
            }
            Op::RemoveXattr { entry, name } => {
                if let Some(entry) = self.entry(entry) {
                    let (name, _) = xattr_of(name, 0);
                    let there = self.tree.node_mut(entry.id).xattrs.remove(name.as_bytes());
                    let expected = if there.is_some() { Ok(()) } else { Err(vec!["no attribute"]) };
                    let name = Bytes::from_static(name.as_bytes());
                    let ino = self.ino(entry.id);
                    agree(self.fs().removexattr(self.who, ino, name).await, &expected)?;
                }
            }
            Op::Open { file } => {
                if let Some((id, ino)) = self.file(file) {
                    let opened = self.fs().open(self.who, ino, libc::O_RDWR).await;
                    self.handles.push((opened.map_err(failed("open"))?.fh, id));
                    self.tree.node_mut(id).opens += 1;
                }
            }
            Op::Close { handle } => {
                if !self.handles.is_empty() {
                    let at = usize::from(handle) % self.handles.len();
                    self.close(at).await?;
                }
            }
            Op::Fsync { file } => {
                if let Some((_, ino)) = self.file(file) {
                    let _receipt = self.fs().fsync(ino, false).await.map_err(failed("fsync"))?;
                }
            }
            Op::OpenDir { dir } => {
                let (id, ino) = self.dir(dir);
                let fh = self.fs().opendir(Caller::ROOT, ino).await.map_err(failed("opendir"))?;
                self.dirs.push((fh, id));
                self.tree.node_mut(id).opens += 1;
            }
            Op::CreateIn { handle, name } => {
                if let Some((_, dir)) = pick(&self.dirs, handle) {
                    self.create_in(dir, name).await?;
                }
            }
            Op::CloseDir { handle } => {
                if !self.dirs.is_empty() {
                    let at = usize::from(handle) % self.dirs.len();
                    self.close_dir(at).await?;
                }
            }
            Op::ReadDir { dir, page } => {
                let (id, ino) = self.dir(dir);
                self.list(id, ino, usize::from(page)).await?;
            }
            Op::Settle => {
                self.settle().await?;
            }
            Op::Commit => self.world.commit().await?,
            Op::Evict => {
                let evicted = self.world.mounted().volume.evict_all();
                evicted.map_err(|e| format!("evict: {e}"))?;
            }
            Op::Compare => {
                self.compare().await?;
            }
            Op::Reopen { empty } => {
                let before = self.compare().await?;
                self.close_everything().await?;
                self.world.reopen(empty).await?;
                self.reopened(before).await?;
            }
            Op::Crash { empty } => {
                let before = self.compare().await?;
                self.handles.clear();
                self.dirs.clear();
                self.tree.close_all();
                self.world.crash(empty).await?;
                self.reopened(before).await?;
            }
            Op::PutNew { .. }
            | Op::PutBelow { .. }
            | Op::PutReplaced { .. }
            | Op::DeleteObject { .. }
            | Op::BothChanged { .. }
            | Op::ChangedAndDeleted { .. } => self.outside(op).await?,
        }
        Ok(())
    }

    async fn reopened(&mut self, before: BTreeMap<Vec<u8>, Attr>) -> Outcome {
        let after = self.compare().await.map_err(|e| format!("after it: {e}"))?;
        for (path, old) in before {
            let Some(new) = after.get(&path) else { continue };
            if (new.mtime, new.ino) != (old.mtime, old.ino) {
                let path = String::from_utf8_lossy(&path).into_owned();
                return Err(format!("{path} was {old:?}, is now {new:?}"));
            }
        }
        Ok(())
    }

    /// What holds at the end of every sequence.
    pub async fn finish(&mut self) -> Outcome {
        self.compare().await?;
        self.close_everything().await?;
        self.settle().await?;
        self.at_rest().await?;
        self.world.reopen(true).await?;
        self.compare().await.map_err(|e| format!("from the bucket: {e}"))?;
        self.settle().await?;
        self.at_rest().await.map_err(|e| format!("from the bucket: {e}"))
    }

    /// Settles; unless something is unlinked and open, everything can.
    pub async fn settle(&mut self) -> Outcome {
        let left = self.world.settle().await?;
        let orphans = self.handles.iter().any(|(_, id)| self.tree.node(*id).links == 0);
        if left > 0 && !orphans && self.stuck().is_empty() {
            let why = self.world.settle_report().await;
            return Err(format!("{left} do not settle: {why}"));
        }
        let keys = self.keys();
        for (id, node) in &mut self.tree.nodes {
            node.theirs.take_if(|key| keys.get(key) != Some(id));
        }
        Ok(())
    }

    fn vacant(&self, dir: Id, name: &[u8]) -> Result<(), Refused> {
        match self.tree.child(dir, name) {
            Some(_) => Err(vec!["exists"]),
            None => Ok(()),
        }
    }

    fn made(&mut self, dir: Id, name: u8, kind: FileKind, perm: u32, attr: &Attr) -> Id {
        let (who, parent) = (self.who, self.tree.node_mut(dir));
        parent.mtime = None;
        let mut node = Node::new(kind, perm, Some(attr.ino));
        node.uid = who.uid;
        node.gid = who.gid;
        if kind != FileKind::Symlink {
            node.perm &= !who.umask;
        }
        if parent.perm & 0o2000 != 0 {
            node.gid = parent.gid;
            if node.is_dir() {
                node.perm |= 0o2000;
            }
        }
        let foreign = who.uid != 0 && who.gid != node.gid;
        if foreign && !node.is_dir() && node.perm & 0o2010 == 0o2010 {
            node.perm &= !0o2000;
        }
        self.tree.add(dir, &name_of(name), node)
    }

    async fn make(&mut self, dir: u8, name: u8, kind: u8, perm: u32) -> Outcome {
        let (dir, ino) = self.dir(dir);
        let expected = self.vacant(dir, &name_of(name));
        let file = file_name(&name_of(name));
        let kinds = [
            FileKind::File,
            FileKind::Dir,
            FileKind::Fifo,
            FileKind::Socket,
            FileKind::CharDevice,
            FileKind::BlockDevice,
        ];
        let kind = kinds[usize::from(kind) % kinds.len()];
        let rdev = match kind {
            FileKind::CharDevice | FileKind::BlockDevice => 0x10203,
            _ => 0,
        };
        let made = match kind {
            FileKind::Dir => self.fs().mkdir(self.who, ino, file, perm).await,
            _ => self.fs().mknod(self.who, ino, file, kind.mode_bits() | perm, rdev).await,
        };
        if let Some(attr) = agree(made, &expected)? {
            let id = self.made(dir, name, kind, perm, &attr);
            self.tree.node_mut(id).rdev = rdev;
        }
        Ok(())
    }

    async fn create_in(&mut self, dir: Id, name: u8) -> Outcome {
        let removed = dir != ROOT && self.tree.node(dir).links == 0;
        let expected =
            if removed { Err(vec!["not found"]) } else { self.vacant(dir, &name_of(name)) };
        let (ino, file) = (self.ino(dir), file_name(&name_of(name)));
        let made = self.fs().create(self.who, ino, file, 0o644, libc::O_RDWR).await;
        if let Some((attr, opened)) = agree(made, &expected)? {
            self.fs().release(attr.ino, opened.fh).await.map_err(failed("release"))?;
            self.made(dir, name, FileKind::File, 0o644, &attr);
        }
        Ok(())
    }

    async fn write(&mut self, id: Id, at: u32, data: Vec<u8>) -> Outcome {
        let room = LARGEST.saturating_sub(at) as usize;
        let data = &data[..data.len().min(room)];
        let bytes = Bytes::copy_from_slice(data);
        let wrote = self.fs().write(self.ino(id), NONE, u64::from(at), bytes, false).await;
        wrote.map_err(failed("write"))?;
        self.put_bytes(id, at, data);
        Ok(())
    }

    fn put_bytes(&mut self, id: Id, at: u32, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        let node = self.tree.node_mut(id);
        let end = at as usize + data.len();
        if node.data.len() < end {
            node.data.resize(end, 0);
        }
        node.data[at as usize..end].copy_from_slice(data);
        self.changed(id);
    }

    async fn truncate(&mut self, id: Id, size: u32) -> Outcome {
        let change = SetAttr { size: Some(u64::from(size)), ..SetAttr::default() };
        let done = self.fs().setattr(self.who, self.ino(id), change).await;
        done.map_err(failed("truncate"))?;
        self.tree.node_mut(id).data.resize(size as usize, 0);
        self.changed(id);
        Ok(())
    }

    pub async fn rewrite(&mut self, id: Id, len: u32, seed: u8) -> Outcome {
        let ino = self.ino(id);
        let opened = self.fs().open(self.who, ino, libc::O_WRONLY | libc::O_TRUNC).await;
        let opened = opened.map_err(failed("open"))?;
        let root = self.who.uid == 0;
        let node = self.tree.node_mut(id);
        node.data.clear();
        if !root && node.perm & 0o010 != 0 {
            node.perm &= !0o6000;
        } else if !root {
            node.perm &= !0o4000;
        }
        self.changed(id);
        self.write(id, 0, bytes(seed, len)).await?;
        self.fs().release(ino, opened.fh).await.map_err(failed("release"))
    }

    async fn zero(&mut self, file: u8, at: u32, len: u32, mode: Fallocate) -> Outcome {
        let Some((id, ino)) = self.file(file) else { return Ok(()) };
        let expected = if len == 0 { Err(vec!["invalid"]) } else { Ok(()) };
        let done = self.fs().fallocate(ino, NONE, mode, u64::from(at), u64::from(len)).await;
        if agree(done, &expected)?.is_none() {
            return Ok(());
        }
        let data = &mut self.tree.node_mut(id).data;
        let end = at as usize + len as usize;
        if let Fallocate::Allocate { keep_size } = mode {
            if !keep_size && data.len() < end {
                data.resize(end, 0);
            }
            self.changed(id);
            return Ok(());
        }
        if mode == (Fallocate::ZeroRange { keep_size: false }) && data.len() < end {
            data.resize(end, 0);
        }
        let to = end.min(data.len());
        if (at as usize) < to {
            data[at as usize..to].fill(0);
        }
        self.changed(id);
        Ok(())
    }

    /// What is data and what a hole is the file system's to choose, but a hole reads as zeros.
    async fn seek(&self, id: Id, at: u64, hole: bool) -> Outcome {
        let data = &self.tree.node(id).data;
        let size = data.len() as u64;
        let found = self.fs().lseek(self.ino(id), NONE, at, hole).await;
        let zeros = |from: u64, to: u64| data[from as usize..to as usize].iter().all(|b| *b == 0);
        let right = match &found {
            Ok(found) if !(at..=size).contains(found) => false,
            Ok(found) if hole => at < size && (*found == size || zeros(*found, found + 1)),
            Ok(found) => *found < size && zeros(at, *found),
            Err(FsError::NoSeek) => at >= size || !hole && zeros(at, size),
            Err(_) => false,
        };
        if right { Ok(()) } else { Err(format!("found {found:?} of {size} bytes")) }
    }

    async fn copy(&mut self, from: Id, at: u32, to: Id, to_at: u32, len: u32) -> Outcome {
        let len = len.min(LARGEST.saturating_sub(to_at));
        // The kernel refuses to copy a range onto itself.
        if from == to && at.abs_diff(to_at) < len {
            return Ok(());
        }
        let data = &self.tree.node(from).data;
        let start = (at as usize).min(data.len());
        let piece = data[start..(at as usize + len as usize).clamp(start, data.len())].to_vec();
        let (from, into) = (self.ino(from), self.ino(to));
        let copied = self
            .fs()
            .copy_range(from, u64::from(at), into, NONE, u64::from(to_at), u64::from(len))
            .await
            .map_err(failed("copy_file_range"))?;
        if copied != piece.len() as u64 {
            return Err(format!("copied {copied} bytes, expected {}", piece.len()));
        }
        self.put_bytes(to, to_at, &piece);
        Ok(())
    }

    async fn set_xattr(&mut self, entry: u8, name: u8, len: u8, how: u8) -> Outcome {
        let Some(entry) = self.entry(entry) else { return Ok(()) };
        let (name, value) = xattr_of(name, len);
        let there = self.tree.node(entry.id).xattrs.contains_key(name.as_bytes());
        let (mode, expected) = match how % 3 {
            1 if there => (XattrMode::Create, Err(vec!["exists"])),
            1 => (XattrMode::Create, Ok(())),
            2 if !there => (XattrMode::Replace, Err(vec!["no attribute"])),
            2 => (XattrMode::Replace, Ok(())),
            _ => (XattrMode::Any, Ok(())),
        };
        let (ino, key) = (self.ino(entry.id), Bytes::from_static(name.as_bytes()));
        let set = self.fs().setxattr(self.who, ino, key, Bytes::from(value.clone()), mode).await;
        if agree(set, &expected)?.is_some() {
            self.tree.node_mut(entry.id).xattrs.insert(name.into(), value);
        }
        Ok(())
    }

    fn changed(&mut self, id: Id) {
        let node = self.tree.node_mut(id);
        node.mtime = None;
        node.theirs = None;
    }

    async fn rename(&mut self, entry: &Entry, dir: Id, name: Vec<u8>, how: u8) -> Outcome {
        let (from, to) = (self.ino(entry.dir), self.ino(dir));
        let mode = [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange]
            [usize::from(how) % 3];
        let target = self.tree.child(dir, &name);
        let nothing = target == Some(entry.id);
        let expected = self.tree.rename(entry, dir, &name, how % 3);
        let done = self
            .fs()
            .rename(self.who, from, file_name(&entry.name), to, file_name(&name), mode)
            .await;
        if agree(done, &expected)?.is_some() && !nothing {
            self.tree.node_mut(entry.dir).mtime = None;
            self.tree.node_mut(entry.dir).theirs = None;
            self.tree.node_mut(dir).mtime = None;
            if target.is_some() {
                // What lay there goes, and the directory must not go with it.
                self.tree.node_mut(dir).theirs = None;
            }
            for id in [Some(entry.id), self.tree.child(entry.dir, &entry.name)] {
                self.moved(id);
            }
        }
        Ok(())
    }

    /// Directories that moved get markers. A file is published anew where it is when it settles, if
    /// that is another place by then.
    fn moved(&mut self, id: Option<Id>) {
        let Some(id) = id else { return };
        if self.tree.node(id).is_dir() {
            self.tree.node_mut(id).theirs = None;
        }
        let children: Vec<Id> = self.tree.node(id).children.values().copied().collect();
        for child in children {
            self.moved(Some(child));
        }
    }

    async fn setattr(
        &mut self,
        entry: u8,
        change: SetAttr,
        edit: impl FnOnce(&mut Node),
    ) -> Outcome {
        let Some(entry) = self.entry(entry) else { return Ok(()) };
        let done = self.fs().setattr(self.who, self.ino(entry.id), change).await;
        done.map_err(failed("setattr"))?;
        let node = self.tree.node_mut(entry.id);
        node.theirs = None;
        edit(node);
        Ok(())
    }

    async fn close(&mut self, at: usize) -> Outcome {
        let (fh, id) = self.handles.remove(at);
        let ino = self.ino(id);
        self.fs().release(ino, fh).await.map_err(failed("release"))?;
        self.tree.node_mut(id).opens -= 1;
        self.tree.drop_if_gone(id);
        Ok(())
    }

    async fn close_dir(&mut self, at: usize) -> Outcome {
        let (fh, id) = self.dirs.remove(at);
        self.fs().releasedir(Caller::ROOT, self.ino(id), fh).await.map_err(failed("releasedir"))?;
        self.tree.node_mut(id).opens -= 1;
        self.tree.drop_if_gone(id);
        Ok(())
    }

    async fn close_everything(&mut self) -> Outcome {
        while !self.handles.is_empty() {
            self.close(0).await?;
        }
        while !self.dirs.is_empty() {
            self.close_dir(0).await?;
        }
        Ok(())
    }

    /// Reads a directory in pages and compares names and kinds.
    pub async fn list(&mut self, id: Id, ino: Ino, page: usize) -> Outcome {
        let found = self.names(ino, page).await?;
        let expected: BTreeMap<Vec<u8>, FileKind> = self
            .tree
            .node(id)
            .children
            .iter()
            .map(|(name, child)| (name.clone(), self.tree.node(*child).kind))
            .collect();
        let shown = |map: &BTreeMap<Vec<u8>, FileKind>| {
            map.iter()
                .map(|(name, kind)| format!("{} {kind:?}", String::from_utf8_lossy(name)))
                .collect::<Vec<_>>()
        };
        if found.keys().ne(expected.keys()) {
            return Err(format!(
                "directory {ino} holds {:?}, expected {:?}",
                shown(&found),
                shown(&expected)
            ));
        }
        Ok(())
    }

    pub async fn names(
        &self,
        ino: Ino,
        page: usize,
    ) -> Result<BTreeMap<Vec<u8>, FileKind>, String> {
        let fs = self.fs();
        let fh = fs.opendir(Caller::ROOT, ino).await.map_err(failed("opendir"))?;
        let mut found = BTreeMap::new();
        let mut cookie = 0;
        loop {
            let entries = fs
                .readdir(ino, fh, cookie, page, Show::Attributes)
                .await
                .map_err(failed("readdir"))?;
            let Some(last) = entries.last() else { break };
            cookie = last.cookie;
            for entry in entries {
                if entry.name == b"." || entry.name == b".." {
                    continue;
                }
                if found.insert(entry.name.clone(), entry.kind).is_some() {
                    return Err(format!("{:?} is listed twice", entry.name));
                }
            }
        }
        fs.releasedir(Caller::ROOT, ino, fh).await.map_err(failed("releasedir"))?;
        Ok(found)
    }

    /// Compares the whole tree; returns every path's attributes.
    pub async fn compare(&mut self) -> Result<BTreeMap<Vec<u8>, Attr>, String> {
        let mut seen = BTreeMap::new();
        let mut stack = vec![(ROOT, Vec::new())];
        while let Some((dir, path)) = stack.pop() {
            let ino = self.ino(dir);
            self.list(dir, ino, 3)
                .await
                .map_err(|e| format!("in {:?}: {e}", String::from_utf8_lossy(&path)))?;
            let children: Vec<(Vec<u8>, Id)> =
                self.tree.node(dir).children.iter().map(|(n, id)| (n.clone(), *id)).collect();
            for (name, id) in children {
                let path = [path.as_slice(), b"/", &name].concat();
                let at = |e: String| format!("{:?}: {e}", String::from_utf8_lossy(&path));
                let looked = self.fs().lookup(ino, file_name(&name)).await;
                let mut attr = looked.map_err(failed("lookup")).map_err(at)?;
                if self.tree.node(id).is_dir() {
                    // The count of links knows the directories below once somebody looked.
                    self.names(attr.ino, 100).await.map_err(at)?;
                    attr = self.fs().getattr(attr.ino).await.map_err(failed("stat")).map_err(at)?;
                }
                self.tree.node_mut(id).ino.get_or_insert(attr.ino);
                self.compare_node(id, &attr).await.map_err(at)?;
                seen.insert(path.clone(), attr);
                if self.tree.node(id).is_dir() {
                    stack.push((id, path));
                }
            }
        }
        let orphans: Vec<Id> = self.handles.iter().map(|(_, id)| *id).collect();
        for id in orphans {
            let attr = self.fs().getattr(self.ino(id)).await.map_err(failed("getattr"))?;
            self.compare_node(id, &attr).await.map_err(|e| format!("an open file: {e}"))?;
        }
        Ok(seen)
    }

    async fn compare_node(&self, id: Id, attr: &Attr) -> Outcome {
        let fs = self.fs();
        let node = self.tree.node(id);
        let ours =
            (node.ino.unwrap_or(attr.ino), node.kind, node.perm, self.tree.nlink(id), node.uid);
        let theirs = (attr.ino, attr.kind, attr.perm, attr.nlink, attr.uid);
        if ours != theirs || node.gid != attr.gid || node.rdev != attr.rdev {
            return Err(format!("is {attr:?}, expected {ours:?}"));
        }
        if let Some(mtime) = node.mtime
            && mtime != attr.mtime
        {
            return Err(format!("mtime is {:?}, expected {mtime:?}", attr.mtime));
        }
        match node.kind {
            FileKind::File => {
                let len = node.data.len() as u64;
                if attr.size != len {
                    return Err(format!("has {} bytes, expected {len}", attr.size));
                }
                let read = fs.read(attr.ino, NONE, 0, LARGEST * 2).await;
                same_bytes(&read.map_err(failed("read"))?, &node.data)?;
            }
            FileKind::Symlink => {
                let target = fs.readlink(attr.ino).await.map_err(failed("readlink"))?;
                if *target != *node.target || attr.size != target.len() as u64 {
                    return Err(format!("leads to {target:?}, size {}", attr.size));
                }
            }
            _ => {}
        }
        let names = fs.listxattr(attr.ino).await.map_err(failed("listxattr"))?;
        let names: Vec<&[u8]> = names.split(|b| *b == 0).filter(|n| !n.is_empty()).collect();
        let expected: Vec<&[u8]> = node.xattrs.keys().map(Vec::as_slice).collect();
        if names != expected {
            return Err(format!("has attributes {names:?}, expected {expected:?}"));
        }
        for (name, value) in &node.xattrs {
            let found = fs.getxattr(attr.ino, Bytes::from(name.clone())).await;
            if *found.map_err(failed("getxattr"))? != **value {
                return Err("an extended attribute has another value".into());
            }
        }
        Ok(())
    }
}

/// Says where two contents part.
pub fn same_bytes(found: &[u8], expected: &[u8]) -> Outcome {
    if found == expected {
        return Ok(());
    }
    let at = found.iter().zip(expected).position(|(a, b)| a != b);
    let at = at.unwrap_or(found.len().min(expected.len()));
    let around = |data: &[u8]| data[at..(at + 8).min(data.len())].to_vec();
    Err(format!(
        "content differs at {at}: {:?} of {} bytes, expected {:?} of {}",
        around(found),
        found.len(),
        around(expected),
        expected.len()
    ))
}
