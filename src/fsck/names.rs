//! Names: a directory's rows, the ways back from inodes, and whether both say the same.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::rows::Row;
use super::{Change, Check, FsckError, Kind, Mend};
use crate::meta::keys;
use crate::meta::records::{DirentRec, InodeRec, WorkRec, decode};
use crate::types::{FileKind, FileName, Ino};

/// Names that cannot be read and are kept until their way back is met.
const KEPT: usize = 10_000;

/// Rows of directories that cannot be read, and whether the way back told what they led to.
#[derive(Debug, Default)]
pub(super) struct Unreadable(BTreeMap<Bytes, bool>);

impl Unreadable {
    fn met(&mut self, key: &[u8], told: bool) {
        if self.0.len() < KEPT || self.0.contains_key(key) {
            *self.0.entry(Bytes::copy_from_slice(key)).or_default() |= told;
        }
    }
}

impl Check<'_> {
    /// One row of a directory; returns whether it is a subdirectory.
    pub(super) async fn name(
        &mut self,
        dir: Ino,
        (key, value): Row,
        unreadable: &mut Unreadable,
    ) -> Result<bool, FsckError> {
        self.report.checked.names += 1;
        let Some((cookie, name)) = keys::parse_dirent(&key) else {
            let what = self.called(dir).await?;
            let mend = Mend::Ask("the name is lost", vec![Change::drop(key.to_vec())]);
            self.report.found(Kind::Record, what, "a name in it cannot be read", mend);
            return Ok(false);
        };
        let Ok(dirent) = decode::<DirentRec>(&value) else {
            unreadable.met(&key, false);
            return Ok(false);
        };
        let is_dir = dirent.kind == FileKind::Dir;
        if cookie != keys::cookie(&name) {
            let what = self.called_in(dir, &name).await?;
            let right = Change::put(keys::dirent(dir, &name), &dirent);
            let mend = Mend::Rows(vec![Change::drop(key.to_vec()), right]);
            self.report.found(Kind::Name, what, "lies where it is not looked for", mend);
            return Ok(is_dir);
        }
        let back = self.has(&keys::parent(dirent.ino, dir, &name)).await?;
        match self.inode(dirent.ino).await? {
            Some(inode) if inode.kind != dirent.kind => {
                let what = self.called_in(dir, &name).await?;
                let right = DirentRec { kind: inode.kind, ..dirent };
                let mend = Mend::Rows(vec![Change::put(key.to_vec(), &right)]);
                let detail = format!("recorded as {:?}, is {:?}", dirent.kind, inode.kind);
                self.report.found(Kind::Name, what, detail, mend);
                return Ok(inode.kind == FileKind::Dir);
            }
            Some(_) if !back => {
                let what = self.called_in(dir, &name).await?;
                let row = Change::mark(keys::parent(dirent.ino, dir, &name));
                let detail = "its inode does not know the name";
                self.report.found(Kind::Name, what, detail, Mend::Rows(vec![row]));
            }
            Some(_) => {}
            // The way back says more of it.
            None if back => {}
            None => {
                let what = self.called_in(dir, &name).await?;
                let mend = Mend::Ask("the name goes", vec![Change::drop(key.to_vec())]);
                let detail = format!("leads to inode {}, which is not there", dirent.ino);
                self.report.found(Kind::Name, what, detail, mend);
                return Ok(false);
            }
        }
        Ok(is_dir)
    }

    /// One way back from an inode; returns the kind that the name says, if it is a name.
    pub(super) async fn way_back(
        &mut self,
        ino: Ino,
        key: &Bytes,
        inode: Option<&InodeRec>,
        unreadable: &mut Unreadable,
    ) -> Result<Option<FileKind>, FsckError> {
        let drop = || Mend::Rows(vec![Change::drop(key.to_vec())]);
        let Some((dir, name)) = keys::parse_parent(key) else {
            let what = format!("inode {ino}");
            self.report.found(Kind::Record, what, "the way to a name cannot be read", drop());
            return Ok(None);
        };
        let row = keys::dirent(dir, &name);
        let found: Option<Option<DirentRec>> = self.get(&row).await?;
        match found {
            Some(Some(dirent)) if dirent.ino == ino => return Ok(Some(dirent.kind)),
            Some(Some(_)) => {
                let what = self.called_in(dir, &name).await?;
                let detail = format!("inode {ino} records the name as its own");
                self.report.found(Kind::Name, what, detail, drop());
                return Ok(None);
            }
            _ => {}
        }
        let cut = found.is_some();
        if cut {
            unreadable.met(&row, true);
        }
        let what = self.called_in(dir, &name).await?;
        let Some(inode) = inode else {
            self.report.found(Kind::Name, what, "only its way back is left", drop());
            return Ok(None);
        };
        let kind = if cut { Kind::Record } else { Kind::Name };
        let detail = match cut {
            true => "the name cannot be read",
            false => "its directory does not have the name",
        };
        let dirent = Change::put(row, &DirentRec { ino, kind: inode.kind });
        self.report.found(kind, what, detail, Mend::Rows(vec![dirent]));
        Ok(Some(inode.kind))
    }

    /// What no way back told of.
    pub(super) async fn unreadable_names(
        &mut self,
        unreadable: Unreadable,
    ) -> Result<(), FsckError> {
        for (key, _) in unreadable.0.into_iter().filter(|(_, told)| !told) {
            let Some(dir) = keys::parse_ino(&key) else { continue };
            let what = match keys::parse_dirent(&key) {
                Some((_, name)) => self.called_in(dir, &name).await?,
                None => self.called(dir).await?,
            };
            let mend = Mend::Ask("the name goes", vec![Change::drop(key.to_vec())]);
            self.report.found(Kind::Record, what, "where the name led is not known", mend);
        }
        Ok(())
    }

    /// An inode that is whole and that no name leads to gets one in the root.
    pub(super) fn nameless(&mut self, ino: Ino, inode: InodeRec) {
        let Ok(name) = FileName::new(format!("lost+found-{ino}")) else { return };
        let kind = inode.kind;
        let rows = vec![
            Change::put(keys::dirent(Ino::ROOT, &name), &DirentRec { ino, kind }),
            Change::mark(keys::parent(ino, Ino::ROOT, &name)),
            Change::put(
                keys::inode(ino),
                &InodeRec { attr_gen: inode.attr_gen.saturating_add(1), ..inode },
            ),
            Change::put(keys::work(ino), &WorkRec::Inode),
        ];
        let detail = format!("no name leads to it; it gets the name /{name}");
        self.report.found(Kind::Orphan, format!("inode {ino}"), detail, Mend::Rows(rows));
    }
}
