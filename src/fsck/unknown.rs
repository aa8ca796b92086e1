//! Objects below the prefix that no record knows: those of others, and those that this volume published.

use futures::stream::{self, StreamExt};

use super::queues::Intents;
use super::{Check, FsckError, Kind, Mend, PARALLEL, REQUEST};
use crate::data::unescape_name;
use crate::meta::{Lookup, keys};
use crate::settle::is_ours;
use crate::store::{Entry, ObjectInfo, StoreError};
use crate::types::{ATTR_INODE, ATTR_PUT, FileKind, Ino, ObjectKey, PutId};

impl Check<'_> {
    /// An object that no record knows.
    pub(super) fn unseen(&mut self, unseen: &mut Vec<ObjectKey>, entry: Option<Entry>) {
        let Some(entry) = entry else { return };
        self.went_on(1);
        let path = self.parts.prefix.strip(&entry.key).unwrap_or_default();
        // What can be no file of the volume, our own folder for one, is nobody's business here.
        let path = path.strip_suffix('/').unwrap_or(path);
        if !path.is_empty() && path.split('/').all(|segment| unescape_name(segment).is_some()) {
            unseen.push(entry.key);
        }
    }

    /// Asks whose these are, side by side, once there are so many.
    pub(super) async fn whose(
        &mut self,
        unseen: &mut Vec<ObjectKey>,
        enough: usize,
        intents: &Intents,
    ) -> Result<(), FsckError> {
        if unseen.len() < enough {
            return Ok(());
        }
        let mut unknown = Vec::new();
        for key in std::mem::take(unseen) {
            // Listed out of the order of the keys: with its record it is looked at all the same.
            if self.has(&keys::rest(&key)).await? {
                self.report.checked.objects += 1;
            } else {
                unknown.push(key);
            }
        }
        let store = std::sync::Arc::clone(&self.parts.store);
        let heads: Vec<(ObjectKey, Result<Option<ObjectInfo>, StoreError>)> = stream::iter(unknown)
            .map(|key| {
                let store = &store;
                async move {
                    let head = store.head(&key, REQUEST).await;
                    (key, head)
                }
            })
            .buffered(PARALLEL)
            .collect()
            .await;
        for (key, head) in heads {
            // Gone since it was listed.
            let Some(info) = head? else { continue };
            if is_ours(&info.attributes, &key, self.parts.id) {
                self.unknown(&key, &info, intents).await?;
            } else {
                self.report.checked.unseen_objects += 1;
            }
        }
        Ok(())
    }

    /// An object that this volume once published, and of which it knows nothing: one that was restored after the
    /// volume had removed it, or a request that arrived when nobody expected it any more.
    async fn unknown(
        &mut self,
        key: &ObjectKey,
        info: &ObjectInfo,
        intents: &Intents,
    ) -> Result<(), FsckError> {
        if intents.about(key) || self.has(&keys::tidy(key)).await? {
            return Ok(());
        }
        let put_id = info.attributes.get(ATTR_PUT).and_then(|text| PutId::parse(text));
        if self.how.in_use {
            if self.known_since(key).await? {
                return Ok(());
            }
            // Its record may be gone because it is, since it was looked at.
            let now = self.parts.store.head(key, REQUEST).await?;
            if !now.is_some_and(|now| now.version.same(&info.version)) {
                return Ok(());
            }
        }
        self.report.checked.objects += 1;
        let here = self.at_key(key).await?;
        let inode = match here {
            Some(ino) => self.inode(ino).await?,
            None => None,
        };
        let is_dir = key.as_str().ends_with('/');
        let asks = inode
            .filter(|inode| !is_dir && inode.kind != FileKind::Dir)
            .map(|_| "the file as it is here stands beside it as a conflict");
        let put_id = put_id.map_or_else(|| "an unknown put".to_owned(), |id| format!("put {id}"));
        let published = info.attributes.get(ATTR_INODE).and_then(|text| text.parse().ok()).map(Ino);
        let of = match published {
            Some(ino) if self.has(&keys::inode(ino)).await? => {
                format!(" of inode {ino}, which is {}", self.called(ino).await?)
            }
            Some(ino) => format!(" of inode {ino}, which is not there any more"),
            None => String::new(),
        };
        let detail = format!("this volume published it ({put_id}{of}), and no record knows it");
        self.report.found(Kind::Object, key.to_string(), detail, Mend::Look(key.clone(), asks));
        Ok(())
    }

    /// Whether newer records know something of the key.
    async fn known_since(&self, key: &ObjectKey) -> Result<bool, FsckError> {
        let newest = self.newest().await?;
        for row in [keys::rest(key), keys::tidy(key)] {
            if Lookup::get_raw(&*newest, &row).await?.is_some() {
                return Ok(true);
            }
        }
        self.announced(&newest, key).await
    }
}
