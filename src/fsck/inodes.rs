//! All tables that are in the order of inodes, side by side: one inode at a time.

use std::sync::Arc;

use bytes::Bytes;

use super::names::Unreadable;
use super::queues::Intents;
use super::report::short_hex;
use super::rows::Walk;
use super::{Change, Check, FsckError, Kind, Mend, made_anew};
use crate::data::DataError;
use crate::meta::records::{ContentRec, InodeRec, RestRec, decode};
use crate::meta::{View, keys};
use crate::types::{FileKind, Ino};

struct Tables<'v> {
    inodes: Walk<'v>,
    contents: Walk<'v>,
    dirents: Walk<'v>,
    parents: Walk<'v>,
    xattrs: Walk<'v>,
    extents: Walk<'v>,
    rests: Walk<'v>,
    besides: Walk<'v>,
}

impl<'v> Tables<'v> {
    fn of(view: &'v View) -> Self {
        Tables {
            inodes: Walk::table(view, keys::INODE),
            contents: Walk::table(view, keys::CONTENT),
            dirents: Walk::table(view, keys::DIRENT),
            parents: Walk::table(view, keys::PARENT),
            xattrs: Walk::table(view, keys::XATTR),
            extents: Walk::table(view, keys::EXTENT),
            rests: Walk::table(view, keys::RESTS),
            besides: Walk::table(view, keys::BESIDE),
        }
    }

    /// The smallest inode that has a row anywhere.
    async fn next(&mut self, junk: &mut Vec<Bytes>) -> Result<Option<Ino>, FsckError> {
        let mut next: Option<Ino> = None;
        for walk in [
            &mut self.inodes,
            &mut self.contents,
            &mut self.dirents,
            &mut self.parents,
            &mut self.xattrs,
            &mut self.extents,
            &mut self.rests,
            &mut self.besides,
        ] {
            let here = walk.ino(junk).await?;
            next = [next, here].into_iter().flatten().min();
        }
        Ok(next)
    }
}

/// What hangs on one inode.
#[derive(Default)]
struct Hangs {
    names: u32,
    /// The kind that a name says.
    named: Option<FileKind>,
    /// Ways back, whether they lead anywhere or not.
    ways: Vec<Bytes>,
    subdirs: u32,
    xattrs: bool,
}

/// Ways back that are kept to be dropped with an inode that is not there.
const FEW: usize = 100;

impl Check<'_> {
    pub(super) async fn inodes(&mut self, intents: &Intents) -> Result<(), FsckError> {
        self.begin("inodes");
        let view = Arc::clone(&self.view);
        let mut tables = Tables::of(&view);
        let mut junk = Vec::new();
        let mut unreadable = Unreadable::default();
        while let Some(ino) = tables.next(&mut junk).await? {
            self.no_keys(&mut junk);
            self.one(ino, &mut tables, intents, &mut unreadable).await?;
            self.went_on(1);
        }
        self.no_keys(&mut junk);
        self.unreadable_names(unreadable).await?;
        if !self.has(&keys::inode(Ino::ROOT)).await? && self.tally.inodes > 0 {
            let root = made_anew(FileKind::Dir, 2, 1);
            let mend = Mend::Rows(vec![Change::put(keys::inode(Ino::ROOT), &root)]);
            self.report.found(Kind::Record, "/", "the root has no record", mend);
        }
        Ok(())
    }

    /// Keys that are none of ours.
    pub(super) fn no_keys(&mut self, junk: &mut Vec<Bytes>) {
        for key in junk.drain(..) {
            let what = format!("the key {}", short_hex(&key));
            let mend = Mend::Ask("the row goes", vec![Change::drop(key.to_vec())]);
            self.report.found(Kind::Record, what, "is no key of this format", mend);
        }
    }

    async fn one(
        &mut self,
        ino: Ino,
        tables: &mut Tables<'_>,
        intents: &Intents,
        unreadable: &mut Unreadable,
    ) -> Result<(), FsckError> {
        let row = tables.inodes.of(ino).await?;
        let there = row.is_some();
        let inode: Option<InodeRec> = row.and_then(|(_, value)| decode(&value).ok());
        if there {
            self.tally.inodes += 1;
            self.report.checked.inodes += 1;
            // Numbers are given one by one: one from the upper half was never given.
            if ino.0 < i64::MAX as u64 {
                self.tally.next_ino = self.tally.next_ino.max(ino.0 + 1);
            }
        }
        let row = tables.contents.of(ino).await?;
        let content_there = row.is_some();
        let content: Option<ContentRec> = row.and_then(|(_, value)| decode(&value).ok());
        self.tally.bytes = self.tally.bytes.saturating_add(content.as_ref().map_or(0, |c| c.size));

        let mut hangs = Hangs::default();
        while let Some(row) = tables.dirents.of(ino).await? {
            hangs.subdirs += u32::from(self.name(ino, row, unreadable).await?);
            self.went_on(1);
        }
        while let Some((key, _)) = tables.parents.of(ino).await? {
            let named = self.way_back(ino, &key, inode.as_ref(), unreadable).await?;
            hangs.names += u32::from(named.is_some());
            hangs.named = hangs.named.or(named);
            if hangs.ways.len() < FEW {
                hangs.ways.push(key);
            }
        }
        while tables.xattrs.of(ino).await?.is_some() {
            hangs.xattrs = true;
        }
        let laid = self.extents(ino, content.as_ref(), &mut tables.extents).await?;
        self.rests(ino, &mut tables.rests).await?;
        self.besides(ino, &mut tables.besides).await?;

        let Some(inode) = inode else {
            self.lost_inode(ino, there, content.as_ref(), content_there, &hangs).await?;
            return Ok(());
        };
        self.links(ino, &inode, &hangs).await?;
        self.content(ino, &inode, (content, content_there), laid, intents).await
    }

    /// Rows that hang on an inode which has no record, or none that can be read.
    async fn lost_inode(
        &mut self,
        ino: Ino,
        there: bool,
        content: Option<&ContentRec>,
        content_there: bool,
        hangs: &Hangs,
    ) -> Result<(), FsckError> {
        if ino == Ino::ROOT && !there {
            // Said at the end.
            return Ok(());
        }
        let is_dir = hangs.subdirs > 0 || hangs.named == Some(FileKind::Dir) || ino == Ino::ROOT;
        if hangs.names > 0 || there || content.is_some() || is_dir {
            let kind = match hangs.named {
                Some(kind) => kind,
                None if is_dir => FileKind::Dir,
                None => FileKind::File,
            };
            let nlink = if kind == FileKind::Dir { 2 + hangs.subdirs } else { hangs.names };
            let rec = made_anew(kind, nlink, self.shown_attr_gen(ino).await?);
            let mut rows = vec![Change::put(keys::inode(ino), &rec)];
            if kind == FileKind::File && !content_there {
                rows.push(Change::put(keys::content(ino), &ContentRec::default()));
            }
            let detail = match there {
                true => "its attributes cannot be read",
                false => "its attributes are not there",
            };
            let asks = "it gets usual ones, until those of its object are read again";
            let what = self.called(ino).await?;
            self.report.found(Kind::Record, what, detail, Mend::Ask(asks, rows));
            return Ok(());
        }
        let mut rows: Vec<Change> = Vec::new();
        if content_there {
            rows.push(Change::drop(keys::content(ino)));
        }
        if hangs.xattrs && !self.has(&keys::dead(ino, keys::XATTRS)).await? {
            let dead = crate::meta::records::DeadRec::whole();
            rows.push(Change::put(keys::dead(ino, keys::XATTRS), &dead));
        }
        // Its ways back are findings of their own.
        if !rows.is_empty() {
            let detail = "rows of an inode that is not there";
            self.report.found(Kind::Record, format!("inode {ino}"), detail, Mend::Rows(rows));
        }
        Ok(())
    }

    /// The state of the attributes that its object shows: then what that says counts again.
    async fn shown_attr_gen(&mut self, ino: Ino) -> Result<u64, FsckError> {
        let rows = self.first(keys::of_inode(keys::RESTS, ino), 1).await?;
        let Some(key) = rows.first().and_then(|(key, _)| keys::parse_rests(key)) else {
            return Ok(1);
        };
        let rest: Option<RestRec> = self.get(&keys::rest(&key)).await?.flatten();
        Ok(rest.map_or(1, |rest| rest.attr_gen))
    }

    async fn links(&mut self, ino: Ino, inode: &InodeRec, hangs: &Hangs) -> Result<(), FsckError> {
        let is_dir = inode.kind == FileKind::Dir;
        if hangs.subdirs > 0 && !is_dir {
            let what = self.called(ino).await?;
            let cure = Mend::No("restore the volume from a copy, or remove the file");
            self.report.found(Kind::Name, what, "has names in it and is no directory", cure);
        }
        if is_dir && hangs.names > 1 {
            let what = self.called(ino).await?;
            let cure = Mend::No("rename it away from one of its names, and remove that");
            self.report.found(Kind::Name, what, "a directory with two names", cure);
        }
        if ino != Ino::ROOT && hangs.names == 0 {
            if !self.has(&keys::orphan(ino)).await? {
                let nlink = if is_dir { 2 + hangs.subdirs } else { 1 };
                self.nameless(ino, InodeRec { nlink, ..inode.clone() });
            }
            return Ok(());
        }
        let nlink = if is_dir { 2 + hangs.subdirs } else { hangs.names };
        if inode.nlink != nlink {
            let what = self.called(ino).await?;
            let detail = format!("{} links are recorded, {nlink} exist", inode.nlink);
            let right = InodeRec { nlink, ..inode.clone() };
            let mend = Mend::Rows(vec![Change::put(keys::inode(ino), &right)]);
            self.report.found(Kind::LinkCount, what, detail, mend);
        }
        if is_dir && ino != Ino::ROOT {
            let key = crate::data::dir_key(&*self.view, &self.parts.prefix, ino, &mut self.memo);
            match key.await {
                Ok(_) => {}
                Err(DataError::Damaged(why)) => {
                    let cure = Mend::No("restore the volume from a copy");
                    self.report.found(Kind::Name, format!("inode {ino}"), why, cure);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// From an inode to the keys where it was last seen.
    async fn rests(&mut self, ino: Ino, walk: &mut Walk<'_>) -> Result<(), FsckError> {
        while let Some((row, _)) = walk.of(ino).await? {
            let drop = Mend::Rows(vec![Change::drop(row.to_vec())]);
            let Some(key) = keys::parse_rests(&row) else {
                let what = format!("inode {ino}");
                self.report.found(Kind::Record, what, "the key of its object is no text", drop);
                continue;
            };
            let rest: Option<Option<RestRec>> = self.get(&keys::rest(&key)).await?;
            match rest {
                // One that cannot be read is found among its own.
                Some(None) => {}
                Some(Some(rest)) if rest.ino == ino => {}
                _ => {
                    let detail = format!("inode {ino} is recorded as at rest there, and is not");
                    self.report.found(Kind::Rest, key.to_string(), detail, drop);
                }
            }
        }
        Ok(())
    }

    async fn besides(&mut self, dir: Ino, walk: &mut Walk<'_>) -> Result<(), FsckError> {
        while let Some((row, _)) = walk.of(dir).await? {
            // Under what is no name nothing can be.
            let name = crate::types::FileName::new(keys::after_ino(&row)).ok();
            let there = match &name {
                Some(name) => self.dirent(dir, name).await?.is_some(),
                None => false,
            };
            if !there {
                let what = self.called(dir).await?;
                let mend = Mend::Rows(vec![Change::drop(row.to_vec())]);
                let detail = "a name that is not there is recorded as showing another's object";
                self.report.found(Kind::Queue, what, detail, mend);
            }
        }
        Ok(())
    }
}
