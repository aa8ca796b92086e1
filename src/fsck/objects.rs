//! What is recorded of the bucket's keys, beside the listing of the bucket.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::stream::{self, StreamExt};

use super::queues::Intents;
use super::report::short_hex;
use super::rows::Walk;
use super::{Change, Check, FsckError, Kind, Mend, PARALLEL, REQUEST};
use crate::data::{escape_name, own_name, unescape_name};
use crate::meta::records::{ContentRec, InodeRec, IntentRec, RestRec, WorkRec, decode};
use crate::meta::{View, keys};
use crate::settle::is_put;
use crate::store::{Entry, Listing, ObjectInfo, StoreError};
use crate::types::{ATTR_PUT, FileKind, FileName, Ino, ObjectKey, PutId};

/// Records that are looked at together, so that their objects can be asked for side by side.
const TOGETHER: usize = 500;
/// Names of an inode that are compared with a key of its; a file of more is not looked at so closely.
const NAMES: usize = 1000;
/// Keys that stores allow are shorter than this many directories.
const DEEPEST: usize = 1024;

/// The objects of the volume, in the order of their keys.
struct Objects {
    listing: Listing,
    page: VecDeque<Entry>,
}

/// A record whose object is asked for.
pub(super) struct There {
    pub key: ObjectKey,
    pub rest: RestRec,
    pub inode: InodeRec,
    pub content: Option<ContentRec>,
}

impl Check<'_> {
    pub(super) async fn objects(&mut self, intents: &Intents) -> Result<(), FsckError> {
        self.begin("objects");
        let view = Arc::clone(&self.view);
        let mut records = Walk::table(&view, keys::REST);
        let listing = Listing::of_keys(self.parts.prefix.as_str());
        let mut objects = Objects { listing, page: VecDeque::new() };
        let mut unseen = Vec::new();
        loop {
            let rows = records.some(TOGETHER).await?;
            if rows.is_empty() {
                break;
            }
            let mut there = Vec::new();
            for (row, value) in rows {
                self.went_on(1);
                let Some(key) = keys::parse_object(&row) else {
                    let mend = Mend::Rows(vec![Change::drop(row.to_vec())]);
                    let what = format!("the row {}", short_hex(&row));
                    self.report.found(Kind::Record, what, "the key of an object is no text", mend);
                    continue;
                };
                while objects.key(self).await?.is_some_and(|at| *at < key) {
                    self.unseen(&mut unseen, objects.take());
                    self.whose(&mut unseen, TOGETHER, intents).await?;
                }
                let is_here = objects.key(self).await?.is_some_and(|at| *at == key);
                if is_here {
                    objects.take();
                    self.report.checked.objects += 1;
                }
                let rest = match decode::<RestRec>(&value) {
                    Ok(rest) => rest,
                    Err(_) => {
                        self.unreadable_rest(&key).await?;
                        continue;
                    }
                };
                there.extend(self.one_record(key, rest, intents).await?);
            }
            self.ask(there, intents).await?;
        }
        while objects.key(self).await?.is_some() {
            self.unseen(&mut unseen, objects.take());
            self.whose(&mut unseen, TOGETHER, intents).await?;
        }
        self.whose(&mut unseen, 1, intents).await
    }

    async fn one_record(
        &mut self,
        key: ObjectKey,
        rest: RestRec,
        intents: &Intents,
    ) -> Result<Option<There>, FsckError> {
        let tidied = self.has(&keys::tidy(&key)).await?;
        let row = keys::rests(rest.ino, &key);
        let Some(inode) = self.inode(rest.ino).await? else {
            // Where a name leads to it, the inode is what is missing.
            let named = self.at_key(&key).await? == Some(rest.ino);
            if !named && !tidied && !intents.about(&key) {
                let rows = vec![Change::drop(keys::rest(&key)), Change::drop(row)];
                let detail = format!("rests there as inode {}, which is not there", rest.ino);
                self.report.found(Kind::Rest, key.to_string(), detail, Mend::Rows(rows));
            }
            return Ok(None);
        };
        if !self.has(&row).await? {
            let mend = Mend::Rows(vec![Change::mark(row)]);
            let detail = format!("inode {} does not know that it rests there", rest.ino);
            self.report.found(Kind::Rest, key.to_string(), detail, mend);
        }
        let content: Option<ContentRec> = self.get(&keys::content(rest.ino)).await?.flatten();
        if tidied || intents.about(&key) {
            return Ok(None);
        }
        let needed = content.as_ref().and_then(|content| content.base.as_ref());
        let needed = needed.is_some_and(|base| !base.parked && base.key == key);
        if !needed && self.is_stray(&key, rest.ino, inode.kind).await? {
            let work = Change::put(keys::work(rest.ino), &WorkRec::Inode);
            let detail = format!("none of the names of inode {} is there", rest.ino);
            self.report.found(Kind::Rest, key.to_string(), detail, Mend::Rows(vec![work]));
        }
        // The object is asked itself: a listing may be behind, and its order is not everywhere that of the keys.
        Ok(Some(There { key, rest, inode, content }))
    }

    /// There is another object than that of the record, or none.
    async fn another_object(
        &mut self,
        key: &ObjectKey,
        rest: &RestRec,
        content: Option<&ContentRec>,
        is_one: bool,
    ) -> Result<(), FsckError> {
        if self.how.in_use && self.changed_since(key, rest).await? {
            return Ok(());
        }
        let at_rest = content.is_none_or(ContentRec::at_rest);
        let (detail, asks) = match (is_one, at_rest) {
            (true, true) => ("somebody else replaced the object", None),
            (true, false) => (
                "somebody else replaced the object below a changed file",
                Some("the file as it is here stands beside it as a conflict"),
            ),
            (false, true) => (
                "somebody else removed the object",
                Some("the file goes, too; by itself on its next use"),
            ),
            (false, false) => (
                "somebody else removed the object below a changed file",
                Some("what is left of the file is published again"),
            ),
        };
        let mend = Mend::Look(key.clone(), asks);
        self.report.found(Kind::Object, key.to_string(), detail, mend);
        Ok(())
    }

    /// Whether a writer has gone on since these records, or is about to change the key.
    pub(super) async fn changed_since(
        &self,
        key: &ObjectKey,
        rest: &RestRec,
    ) -> Result<bool, FsckError> {
        // The object first: what announces it is then among the newest records.
        let head = self.parts.store.head(key, REQUEST).await?;
        let newest = self.newest().await?;
        let now: Option<bytes::Bytes> = newest.get_raw(&keys::rest(key)).await?;
        let now = now.and_then(|value| decode::<RestRec>(&value).ok());
        if now.as_ref() != Some(rest) {
            return Ok(true);
        }
        if head.as_ref().is_some_and(|info| info.version.same(&rest.version)) {
            return Ok(true);
        }
        let put_id = head.and_then(|info| PutId::parse(info.attributes.get(ATTR_PUT)?));
        if let Some(put_id) = put_id
            && newest.get_raw(&keys::intent(put_id)).await?.is_some()
        {
            return Ok(true);
        }
        self.announced(&newest, key).await
    }

    /// Whether a request about a key is open in these records.
    pub(super) async fn announced(&self, view: &View, key: &ObjectKey) -> Result<bool, FsckError> {
        let mut open = Walk::table(view, keys::INTENT);
        while let Some((_, value)) = open.next().await? {
            if decode::<IntentRec>(&value).is_ok_and(|intent| intent.key == *key) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Asks for these objects, side by side, and compares what they say.
    async fn ask(&mut self, there: Vec<There>, intents: &Intents) -> Result<(), FsckError> {
        let store = Arc::clone(&self.parts.store);
        let heads: Vec<(There, Result<Option<ObjectInfo>, StoreError>)> = stream::iter(there)
            .map(|one| {
                let store = &store;
                async move {
                    let head = store.head(&one.key, REQUEST).await;
                    (one, head)
                }
            })
            .buffered(PARALLEL)
            .collect()
            .await;
        for (one, head) in heads {
            match head? {
                Some(info) if info.version.same(&one.rest.version) => {
                    self.says(&one, &info).await?
                }
                // Since it was listed.
                other if !intents.about(&one.key) => {
                    let content = one.content.as_ref();
                    self.another_object(&one.key, &one.rest, content, other.is_some()).await?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A record that cannot be read is made again from its object.
    async fn unreadable_rest(&mut self, key: &ObjectKey) -> Result<(), FsckError> {
        let row = keys::rest(key);
        let mut rows = vec![Change::drop(row.clone())];
        if let Some(info) = self.parts.store.head(key, REQUEST).await?
            && let Some(ino) = self.at_key(key).await?
        {
            let put_id = info.attributes.get(ATTR_PUT).and_then(|text| PutId::parse(text));
            let put_id = put_id.filter(|id| is_put(&info.attributes, key, self.parts.id, *id));
            let content: Option<ContentRec> = self.get(&keys::content(ino)).await?.flatten();
            // As far as it can be told: where it is not shown, it is published again.
            let generation = content.map_or(0, |content| match content.at_rest() {
                true => content.generation,
                false => content.drop_gen,
            });
            let rest = RestRec { ino, put_id, version: info.version, generation, attr_gen: 0 };
            rows = vec![
                Change::put(row, &rest),
                Change::mark(keys::rests(ino, key)),
                Change::put(keys::work(ino), &WorkRec::Inode),
            ];
        }
        let detail = "what is known of the object cannot be read";
        self.report.found(Kind::Record, key.to_string(), detail, Mend::Rows(rows));
        Ok(())
    }

    /// Whether an inode rests at a key that is none of its names, and nothing is on its way to tidy that.
    async fn is_stray(
        &mut self,
        key: &ObjectKey,
        ino: Ino,
        kind: FileKind,
    ) -> Result<bool, FsckError> {
        if ino == Ino::ROOT || self.has(&keys::work(ino)).await? {
            return Ok(false);
        }
        let names = self.first(keys::of_inode(keys::PARENT, ino), NAMES).await?;
        if names.len() == NAMES {
            return Ok(false);
        }
        for (row, _) in &names {
            let Some((dir, name)) = keys::parse_parent(row) else { return Ok(false) };
            let Some(prefix) = self.dir_key(dir).await? else { return Ok(false) };
            let own = match own_name(&name) {
                Some(own) if self.has(&keys::beside(dir, &name)).await? => own,
                _ => name,
            };
            let slash = if kind == FileKind::Dir { "/" } else { "" };
            if format!("{prefix}{}{slash}", escape_name(&own)) == key.as_str() {
                return Ok(false);
            }
            // A renamed directory takes its time to reach all that is below it.
            if self.moves(dir).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether a directory or one above it was renamed and has not reached its children yet.
    async fn moves(&self, dir: Ino) -> Result<bool, FsckError> {
        let mut at = dir;
        for _ in 0..DEEPEST {
            if self.has(&keys::work(at)).await? {
                return Ok(true);
            }
            let page = self.first(keys::of_inode(keys::PARENT, at), 1).await?;
            let Some((parent, _)) = page.first().and_then(|(row, _)| keys::parse_parent(row))
            else {
                return Ok(false);
            };
            at = parent;
        }
        Ok(false)
    }

    /// What the tree has at a key.
    pub(super) async fn at_key(&self, key: &ObjectKey) -> Result<Option<Ino>, FsckError> {
        let Some(path) = self.parts.prefix.strip(key) else { return Ok(None) };
        let mut at = Ino::ROOT;
        for segment in path.strip_suffix('/').unwrap_or(path).split('/') {
            let name: Option<FileName> = unescape_name(segment);
            let Some(name) = name else { return Ok(None) };
            match self.dirent(at, &name).await? {
                Some(dirent) => at = dirent.ino,
                None => return Ok(None),
            }
        }
        Ok(Some(at))
    }
}

impl Objects {
    async fn key(&mut self, check: &Check<'_>) -> Result<Option<&ObjectKey>, FsckError> {
        while self.page.is_empty() {
            match self.listing.next(&*check.parts.store, REQUEST).await? {
                Some(page) => self.page.extend(page.entries),
                None => return Ok(None),
            }
        }
        Ok(self.page.front().map(|entry| &entry.key))
    }

    fn take(&mut self) -> Option<Entry> {
        self.page.pop_front()
    }
}
