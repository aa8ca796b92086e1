//! What an object of ours shows of its file, beside what the records say of it.

use super::objects::There;
use super::{Change, Check, FsckError, Kind, Mend, REQUEST};
use crate::data::{BORNE, Borne, Slot};
use crate::meta::records::{ContentRec, InodeRec, RestRec, WorkRec, decode};
use crate::meta::{Lookup, keys};
use crate::settle::{Shown, Xattr, carried, from_object, is_put};
use crate::store::{ObjectInfo, STANDARD, StoreErrorKind, Tags};
use crate::types::{ATTR_INODE, FileKind, Ino};

impl Check<'_> {
    /// An object has the recorded bytes; is it the recorded one, and does it show what the inode is?
    pub(super) async fn says(&mut self, one: &There, info: &ObjectInfo) -> Result<(), FsckError> {
        let There { key, rest, inode, content } = one;
        if let Some(put_id) = rest.put_id
            && !is_put(&info.attributes, key, self.parts.id, put_id)
        {
            if self.how.in_use && self.changed_since(key, rest).await? {
                return Ok(());
            }
            let mut rows =
                vec![Change::put(keys::rest(key), &RestRec { put_id: None, ..rest.clone() })];
            if let Some(content) = content
                && let Some(base) = content.base.as_ref().filter(|b| !b.parked && b.key == *key)
            {
                let base = crate::types::Base { put_id: None, ..base.clone() };
                let content = ContentRec { base: Some(base), ..content.clone() };
                rows.push(Change::put(keys::content(rest.ino), &content));
            }
            let detail = "has the recorded bytes, and is not the object that the volume put there";
            self.report.found(Kind::Object, key.to_string(), detail, Mend::Rows(rows));
            return Ok(());
        }
        let shown = from_object(&info.attributes, inode.kind == FileKind::Dir);
        let content_shown = content
            .as_ref()
            .is_none_or(|content| content.at_rest() && content.generation == rest.generation);
        if !inode.known || rest.attr_gen != inode.attr_gen || !content_shown {
            return Ok(());
        }
        let mut wrong = match rest.put_id {
            Some(_) => plainly_wrong(one, info, &shown),
            // Of a directory that has attributes of its own others' markers may say anything.
            None if inode.kind == FileKind::Dir => return Ok(()),
            None => adopted_wrong(inode, &shown),
        };
        wrong.extend(self.borne(one, info, &shown).await?);
        if wrong.is_empty() || self.how.in_use && self.changed_since_shown(one).await? {
            return Ok(());
        }
        let detail = format!("shows another {} than the file has", wrong.join(", "));
        let mend = published_again(rest.ino, inode);
        self.report.found(Kind::Attributes, key.to_string(), detail, mend);
        Ok(())
    }

    async fn changed_since_shown(&self, one: &There) -> Result<bool, FsckError> {
        let newest = self.newest().await?;
        let now: Option<bytes::Bytes> = newest.get_raw(&keys::inode(one.rest.ino)).await?;
        Ok(now.and_then(|value| decode::<InodeRec>(&value).ok()).as_ref() != Some(&one.inode))
    }

    /// Extended attributes, and what the object bears for others. What nobody gave (a content type by the name,
    /// the bucket's class and encryption) is not in the records, and an access list is never told by stores.
    async fn borne(
        &mut self,
        one: &There,
        info: &ObjectInfo,
        shown: &Shown,
    ) -> Result<Vec<&'static str>, FsckError> {
        let mut wrong = Vec::new();
        let rows = Lookup::xattrs(&*self.view, one.rest.ino).await?;
        let (borne, others): (Vec<Xattr>, Vec<Xattr>) =
            rows.into_iter().partition(|(name, _)| name.starts_with(BORNE.as_bytes()));
        let ours = one.rest.put_id.is_some();
        let same = match ours {
            // Where the object has just no room for them, both are right: others may have changed its metadata since.
            true => {
                shown.xattrs == others
                    || shown.xattrs == carried(&info.attributes, &others).unwrap_or_default()
            }
            // It was read once, and there may be more than it told.
            false => shown.xattrs.iter().all(|xattr| others.contains(xattr)),
        };
        if !same {
            wrong.push("extended attributes");
        }
        let recorded = Borne::of_rows(&borne);
        let there = Borne::of_object(&info.properties, &info.attributes);
        if recorded.metadata() != there.metadata() {
            wrong.push("metadata");
        }
        let headers = recorded.properties().headers;
        if headers
            .iter()
            .any(|(header, value)| there.get(&Slot::Header(*header)) != Some(value.as_str()))
        {
            wrong.push("headers");
        }
        let given = |borne: &Borne, slot| borne.get(slot).map(str::to_owned);
        let class = given(&there, &Slot::Class).unwrap_or_else(|| STANDARD.to_owned());
        if given(&recorded, &Slot::Class).is_some_and(|recorded| recorded != class) {
            wrong.push("storage class");
        }
        // A key may have several names.
        let encryption = given(&recorded, &Slot::Encryption);
        if encryption.is_some() && encryption != given(&there, &Slot::Encryption) {
            wrong.push("encryption");
        }
        if self.how.data && !self.has_tags(one, &recorded.tags()).await? {
            wrong.push("tags");
        }
        Ok(wrong)
    }

    /// Whether an object has all tags that are recorded. Others may have given it more, which the volume learns
    /// before it publishes the file again.
    async fn has_tags(&mut self, one: &There, recorded: &Tags) -> Result<bool, FsckError> {
        if recorded.is_empty() {
            return Ok(true);
        }
        match self.parts.store.get_tags(&one.key, REQUEST).await {
            Ok(Some(there)) => Ok(recorded.iter().all(|(name, tag)| there.get(name) == Some(tag))),
            Ok(None) => Ok(true),
            // Found with the objects, or gone since.
            Err(error) if error.kind == StoreErrorKind::NotFound => Ok(true),
            Err(error) if error.kind == StoreErrorKind::TagsDenied => {
                let why = format!("the tags of objects: {error}");
                if !self.report.not_judged.contains(&why) {
                    self.report.cannot_judge(why);
                }
                Ok(true)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Of what somebody else's object says of the file that it became.
fn adopted_wrong(inode: &InodeRec, shown: &Shown) -> Vec<&'static str> {
    let other = |shown: Option<u32>, recorded| shown.is_some_and(|shown| shown != recorded);
    let device = matches!(inode.kind, FileKind::CharDevice | FileKind::BlockDevice);
    let mtime = shown.mtime.is_some_and(|shown| shown != inode.mtime);
    let pairs = [
        ("mode", other(shown.perm, inode.perm)),
        ("uid", other(shown.uid, inode.uid)),
        ("gid", other(shown.gid, inode.gid)),
        ("kind", shown.kind.is_some_and(|kind| kind != inode.kind)),
        ("mtime", inode.kind == FileKind::File && mtime),
        ("device number", device && other(shown.rdev, inode.rdev)),
    ];
    pairs.into_iter().filter_map(|(what, wrong)| wrong.then_some(what)).collect()
}

/// What a file is is shown anew by all of its objects.
pub(super) fn published_again(ino: Ino, inode: &InodeRec) -> Mend {
    let right = InodeRec { attr_gen: inode.attr_gen.saturating_add(1), ..inode.clone() };
    let rows =
        vec![Change::put(keys::inode(ino), &right), Change::put(keys::work(ino), &WorkRec::Inode)];
    Mend::Ask("what the file has is published again", rows)
}

/// Of what every object shows.
fn plainly_wrong(one: &There, info: &ObjectInfo, shown: &Shown) -> Vec<&'static str> {
    let There { rest, inode, .. } = one;
    let mut wrong = Vec::new();
    let pairs = [
        ("mode", shown.perm, Some(inode.perm)),
        ("uid", shown.uid, Some(inode.uid)),
        ("gid", shown.gid, Some(inode.gid)),
    ];
    wrong.extend(pairs.iter().filter(|(_, a, b)| a != b).map(|(what, ..)| *what));
    if shown.kind != Some(inode.kind) {
        wrong.push("kind");
    }
    // Times of directories and of before 1970 are not shown exactly.
    if inode.kind == FileKind::File
        && inode.mtime.secs >= 0
        && shown.mtime.is_some_and(|shown| shown != inode.mtime)
    {
        wrong.push("mtime");
    }
    if matches!(inode.kind, FileKind::CharDevice | FileKind::BlockDevice)
        && shown.rdev != Some(inode.rdev)
    {
        wrong.push("device number");
    }
    if inode.kind == FileKind::Symlink
        && inode.target.as_ref().map(|target| target.len() as u64) != Some(info.version.size)
    {
        wrong.push("target");
    }
    // Earlier versions did not show it, and an object without room for it does not.
    if info.attributes.get(ATTR_INODE).is_some_and(|text| *text != rest.ino.to_string()) {
        wrong.push("inode");
    }
    wrong
}
