//! Names: what makes, moves and removes them.

use bytes::Bytes;
use s3vol::fs::{Attr, RenameMode};
use s3vol::types::FileKind;

use crate::ops::{Op, name_of};
use crate::oracle::{Entry, Id, Node, ROOT, Refused};
use crate::run::{Outcome, Run, agree, failed, file_name, pick};

impl Run {
    pub async fn change_names(&mut self, op: &Op) -> Outcome {
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
            Op::CreateIn { handle, name } => {
                if let Some((_, dir)) = pick(&self.dirs, handle) {
                    self.create_in(dir, name).await?;
                }
            }
            _ => unreachable!("not one of these: {op:?}"),
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
}
