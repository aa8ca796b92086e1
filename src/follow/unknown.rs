//! The attributes of adopted objects, which the writer has listed but not looked at yet.
//!
//! They are read from the object when they are first asked for, because a guess may open private
//! files. What was read is remembered here, for the writer's record stays as it is.

use std::collections::HashMap;

use bytes::Bytes;
use parking_lot::Mutex;

use super::ReadFs;
use super::newest::Failed;
use crate::data::{Borne, GET_TIMEOUT, PathMemo, dir_key};
use crate::meta::View;
use crate::meta::records::{ContentRec, InodeRec};
use crate::settle::{borne_by, from_object, is_ours};
use crate::store::{ObjectInfo, StoreError, StoreErrorKind};
use crate::types::{FileKind, Ino, ObjectKey};

/// Inodes remembered.
const KEEP: usize = 50_000;
/// Bodies of symlinks are read whole; a target cannot be longer.
const TARGET: u64 = 4096;

/// What an object says of its file.
#[derive(Debug, Clone)]
pub(super) struct ByObject {
    /// The completed record.
    pub rec: InodeRec,
    /// Lists of access control among them, without which the mode would say too much.
    pub xattrs: Vec<(Bytes, Bytes)>,
}

/// What was read, and the generation of the content that it belongs to.
#[derive(Debug, Default)]
pub(super) struct Unknown(Mutex<HashMap<Ino, (u64, ByObject)>>);

impl ReadFs {
    async fn borne_by(&self, key: &ObjectKey, info: &ObjectInfo) -> Result<Borne, StoreError> {
        let mut borne = borne_by(&self.options, info, is_ours(&info.attributes, key, self.id));
        if info.tag_count.is_some_and(|count| count > 0) {
            match self.store.get_tags(key, GET_TIMEOUT).await {
                Ok(tags) => borne.set_tags(tags.unwrap_or_default()),
                // Without the right to read them they do not show.
                Err(error) if error.kind == StoreErrorKind::TagsDenied => {
                    tracing::debug!(%key, %error, "tags cannot be read");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(borne)
    }

    /// `rec` with what the object itself says.
    pub(super) async fn shown_by_object(
        &self,
        view: &View,
        ino: Ino,
        rec: InodeRec,
        content: Option<&ContentRec>,
    ) -> Result<ByObject, Failed> {
        let generation = content.map_or(0, |content| content.generation);
        if let Some((of, known)) = self.unknown.0.lock().get(&ino)
            && *of == generation
        {
            return Ok(known.clone());
        }
        let is_dir = rec.kind == FileKind::Dir;
        let key = match content.and_then(|content| content.base.as_ref()) {
            Some(base) => Some(base.key.clone()),
            None if is_dir => {
                let key = dir_key(view, &self.prefix, ino, &mut PathMemo::default()).await?;
                key.filter(|key| !key.is_empty()).map(ObjectKey::new)
            }
            None => None,
        };
        let Some(key) = key else { return Ok(ByObject { rec, xattrs: Vec::new() }) };
        let info = self.store.head(&key, GET_TIMEOUT).await?;
        let shown = info.as_ref().map(|i| from_object(&i.attributes, is_dir)).unwrap_or_default();
        let mut rec = rec;
        rec.kind = shown.kind.filter(|kind| *kind != FileKind::Dir).unwrap_or(rec.kind);
        rec.perm = shown.perm.unwrap_or(rec.perm);
        rec.uid = shown.uid.unwrap_or(rec.uid);
        rec.gid = shown.gid.unwrap_or(rec.gid);
        rec.rdev = shown.rdev.unwrap_or(rec.rdev);
        if let Some(time) = shown.mtime {
            rec.mtime = time;
            rec.ctime = rec.ctime.max(time);
        }
        if let (FileKind::Symlink, Some(info)) = (rec.kind, &info) {
            let range = 0..info.version.size.min(TARGET);
            let body = match range.is_empty() {
                true => Bytes::new(),
                false => self.store.get(&key, Some(range), None, GET_TIMEOUT).await?.data,
            };
            rec.target = Some(body);
        }
        let mut xattrs = shown.xattrs;
        // Of another version than the record's the writer will tell.
        let base = content.and_then(|content| content.base.as_ref());
        let same =
            |info: &&ObjectInfo| base.is_none_or(|base| base.version.same_bytes(&info.version));
        if let Some(info) = info.as_ref().filter(same) {
            xattrs.extend(self.borne_by(&key, info).await?.rows());
            xattrs.sort();
        }
        let mut known = self.unknown.0.lock();
        if known.len() >= KEEP {
            known.clear();
        }
        let found = ByObject { rec, xattrs };
        known.insert(ino, (generation, found.clone()));
        Ok(found)
    }
}
