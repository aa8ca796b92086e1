//! Attributes, extended ones too.

use bytes::Bytes;
use s3vol::fs::{SetAttr, SetTime, XattrMode};
use s3vol::types::{FileKind, Timestamp};

use crate::ops::{Op, xattr_of};
use crate::oracle::Node;
use crate::run::{Outcome, Run, agree, failed};

impl Run {
    pub async fn change_attributes(&mut self, op: &Op) -> Outcome {
        match *op {
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
            _ => unreachable!("not one of these: {op:?}"),
        }
        Ok(())
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
}
