//! One sequence: each step is done to the model and to the file system, and the answers are compared.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use s3vol::fs::{
    Attr, Fallocate, FileHandle, Fs, FsError, RenameMode, SetAttr, SetTime, XattrMode,
};
use s3vol::types::{Caller, FileKind, FileName, Ino, Timestamp};

use crate::ops::{Op, bytes, name_of};
use crate::oracle::{Entry, Id, Node, ROOT, Refused, Tree};
use crate::world::{World, kind};

/// No file grows past this, bytes.
const LARGEST: u32 = 600_000;
const NONE: FileHandle = FileHandle(0);

pub struct Run {
    pub world: World,
    pub tree: Tree,
    handles: Vec<(FileHandle, Id)>,
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
        Run { world, tree, handles: Vec::new() }
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
                    .create(Caller::ROOT, ino, file_name(&name_of(name)), 0o640, libc::O_RDWR)
                    .await;
                if let Some((attr, opened)) = agree(made, &expected)? {
                    self.fs().release(attr.ino, opened.fh).await.map_err(failed("release"))?;
                    self.made(dir, name, FileKind::File, 0o640, &attr);
                }
            }
            Op::Mkdir { dir, name } => {
                let (dir, ino) = self.dir(dir);
                let expected = self.vacant(dir, &name_of(name));
                let made =
                    self.fs().mkdir(Caller::ROOT, ino, file_name(&name_of(name)), 0o751).await;
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
                    .symlink(
                        Caller::ROOT,
                        ino,
                        file_name(&name_of(name)),
                        Bytes::from(target.clone()),
                    )
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
                    self.fs().mknod(Caller::ROOT, ino, file_name(&name_of(name)), mode, rdev).await;
                if let Some(attr) = agree(made, &expected)? {
                    let id = self.made(dir, name, node, 0o600, &attr);
                    self.tree.node_mut(id).rdev = rdev;
                }
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
                let made =
                    self.fs().link(Caller::ROOT, ino, dir_ino, file_name(&name_of(name))).await;
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
                let gone = self.fs().unlink(Caller::ROOT, dir, file_name(&entry.name)).await;
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
                let gone = self.fs().rmdir(Caller::ROOT, dir, file_name(&entry.name)).await;
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
                    self.setattr(entry, change, |node| node.perm = perm).await?;
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
            Op::SetXattr { entry, name, len } => {
                if let Some(entry) = self.entry(entry) {
                    let (key, value) = (xattr_name(name), bytes(len, u32::from(len)));
                    self.fs()
                        .setxattr(
                            Caller::ROOT,
                            self.ino(entry.id),
                            Bytes::from(key.clone()),
                            Bytes::from(value.clone()),
                            XattrMode::Any,
                        )
                        .await
                        .map_err(failed("setxattr"))?;
                    self.tree.node_mut(entry.id).xattrs.insert(key, value);
                }
            }
            Op::RemoveXattr { entry, name } => {
                if let Some(entry) = self.entry(entry) {
                    let there = self.tree.node_mut(entry.id).xattrs.remove(&xattr_name(name));
                    let expected = if there.is_some() { Ok(()) } else { Err(vec!["no attribute"]) };
                    let name = Bytes::from(xattr_name(name));
                    let ino = self.ino(entry.id);
                    agree(self.fs().removexattr(Caller::ROOT, ino, name).await, &expected)?;
                }
            }
            Op::Open { file } => {
                if let Some((id, ino)) = self.file(file) {
                    let opened = self.fs().open(Caller::ROOT, ino, libc::O_RDWR).await;
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
                while !self.handles.is_empty() {
                    self.close(0).await?;
                }
                self.world.reopen(empty).await?;
                self.reopened(before).await?;
            }
            Op::Crash { empty } => {
                let before = self.compare().await?;
                self.handles.clear();
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
        while !self.handles.is_empty() {
            self.close(0).await?;
        }
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
        if left > 0 && !orphans {
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
        let node = Node::new(kind, perm, Some(attr.ino));
        self.tree.node_mut(dir).mtime = None;
        self.tree.add(dir, &name_of(name), node)
    }

    async fn write(&mut self, id: Id, at: u32, data: Vec<u8>) -> Outcome {
        let room = LARGEST.saturating_sub(at) as usize;
        let data = &data[..data.len().min(room)];
        let bytes = Bytes::copy_from_slice(data);
        let wrote = self.fs().write(self.ino(id), NONE, u64::from(at), bytes, false).await;
        wrote.map_err(failed("write"))?;
        if data.is_empty() {
            return Ok(());
        }
        let node = self.tree.node_mut(id);
        let end = at as usize + data.len();
        if node.data.len() < end {
            node.data.resize(end, 0);
        }
        node.data[at as usize..end].copy_from_slice(data);
        self.changed(id);
        Ok(())
    }

    async fn truncate(&mut self, id: Id, size: u32) -> Outcome {
        let change = SetAttr { size: Some(u64::from(size)), ..SetAttr::default() };
        let done = self.fs().setattr(Caller::ROOT, self.ino(id), change).await;
        done.map_err(failed("truncate"))?;
        self.tree.node_mut(id).data.resize(size as usize, 0);
        self.changed(id);
        Ok(())
    }

    pub async fn rewrite(&mut self, id: Id, len: u32, seed: u8) -> Outcome {
        let ino = self.ino(id);
        let opened = self.fs().open(Caller::ROOT, ino, libc::O_WRONLY | libc::O_TRUNC).await;
        let opened = opened.map_err(failed("open"))?;
        self.tree.node_mut(id).data.clear();
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
        if mode == (Fallocate::ZeroRange { keep_size: false }) && data.len() < end {
            data.resize(end, 0);
        }
        let to = end.min(data.len());
        // Past the end there is nothing to change.
        if (at as usize) < to {
            data[at as usize..to].fill(0);
            self.changed(id);
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
        let nothing = self.tree.child(dir, &name) == Some(entry.id);
        let expected = self.tree.rename(entry, dir, &name, how % 3);
        let done = self
            .fs()
            .rename(Caller::ROOT, from, file_name(&entry.name), to, file_name(&name), mode)
            .await;
        if agree(done, &expected)?.is_some() && !nothing {
            self.tree.node_mut(entry.dir).mtime = None;
            self.tree.node_mut(entry.dir).theirs = None;
            self.tree.node_mut(dir).mtime = None;
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
        let done = self.fs().setattr(Caller::ROOT, self.ino(entry.id), change).await;
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
        let fh = fs.opendir(ino).await.map_err(failed("opendir"))?;
        let mut found = BTreeMap::new();
        let mut cookie = 0;
        loop {
            let entries = fs.readdir(ino, fh, cookie, page).await.map_err(failed("readdir"))?;
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
        fs.releasedir(ino, fh).await.map_err(failed("releasedir"))?;
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

fn xattr_name(index: u8) -> Vec<u8> {
    format!("user.x{index}").into_bytes()
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
