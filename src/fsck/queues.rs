//! What waits to be done, and the requests that were announced and have no outcome yet.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::report::short_hex;
use super::rows::Walk;
use super::{Change, Check, FsckError, Kind, Mend};
use crate::meta::keys;
use crate::meta::records::{ContentRec, DeadRec, IntentRec, TombRec, WorkRec, decode};
use crate::types::{FileKind, Ino, ObjectKey, PutId};

/// Open requests that are kept; a volume has some dozens.
const KEPT: usize = 200_000;

/// The open requests.
#[derive(Debug, Default)]
pub(super) struct Intents {
    ids: HashSet<PutId>,
    keys: HashMap<ObjectKey, PutId>,
    /// There are more than are kept: what they are about is not judged.
    more: bool,
}

impl Intents {
    pub fn has(&self, put_id: PutId) -> bool {
        self.more || self.ids.contains(&put_id)
    }

    /// Whether a request about this key may be under way.
    pub fn about(&self, key: &ObjectKey) -> bool {
        self.more || self.keys.contains_key(key)
    }
}

impl Check<'_> {
    pub(super) async fn queues(&mut self) -> Result<Intents, FsckError> {
        self.begin("queues");
        let intents = self.intents().await?;
        self.orphans().await?;
        self.work().await?;
        self.keys_of_queues().await?;
        self.dead().await?;
        self.garbage().await?;
        Ok(intents)
    }

    /// A row of a queue that cannot be what it should be.
    fn wrong(&mut self, kind: Kind, key: &[u8], detail: &str) {
        let mend = Mend::Rows(vec![Change::drop(key.to_vec())]);
        self.report.found(kind, format!("the row {}", short_hex(key)), detail, mend);
    }

    async fn intents(&mut self) -> Result<Intents, FsckError> {
        let view = Arc::clone(&self.view);
        let mut walk = Walk::table(&view, keys::INTENT);
        let mut intents = Intents::default();
        while let Some((key, value)) = walk.next().await? {
            self.went_on(1);
            let id = keys::parse_id(&key).map(PutId);
            let (Some(id), Ok(intent)) = (id, decode::<IntentRec>(&value)) else {
                let asks = "if its request arrives all the same, the object is taken for another's";
                let mend = Mend::Ask(asks, vec![Change::drop(key.to_vec())]);
                let what = format!("the row {}", short_hex(&key));
                self.report.found(Kind::Record, what, "an open request cannot be read", mend);
                // Which key it is about nobody knows.
                intents.more = true;
                continue;
            };
            self.report.waits("requests without an outcome");
            if intents.ids.len() < KEPT {
                intents.ids.insert(id);
                intents.keys.insert(intent.key, id);
            } else {
                intents.more = true;
            }
        }
        if intents.more {
            self.report.cannot_judge("objects of which open requests say too little");
        }
        Ok(intents)
    }

    /// Unlinked while open. Whoever opens the volume removes them, so none may be one that has a name.
    async fn orphans(&mut self) -> Result<(), FsckError> {
        let view = Arc::clone(&self.view);
        let mut walk = Walk::table(&view, keys::ORPHAN);
        while let Some((key, _)) = walk.next().await? {
            let Some(ino) = keys::parse_ino(&key) else {
                self.wrong(Kind::Record, &key, "is no orphan's");
                continue;
            };
            if !self.has(&keys::inode(ino)).await? {
                self.wrong(Kind::Orphan, &key, "an orphan that is not there");
                continue;
            }
            let mut leads = false;
            let mut names = Walk::range(&view, keys::PARENT, keys::of_inode(keys::PARENT, ino));
            while let Some((name, _)) = names.next().await? {
                let Some((dir, name)) = keys::parse_parent(&name) else { continue };
                leads |= self.dirent(dir, &name).await?.is_some_and(|there| there.ino == ino);
            }
            if leads || ino == Ino::ROOT {
                let what = self.called(ino).await?;
                let mend = Mend::Rows(vec![Change::drop(key.to_vec())]);
                let detail = "is recorded as removed, and has a name";
                self.report.found(Kind::Orphan, what, detail, mend);
            } else {
                self.report.waits("removed files that were open");
            }
        }
        Ok(())
    }

    async fn work(&mut self) -> Result<(), FsckError> {
        let view = Arc::clone(&self.view);
        let mut walk = Walk::table(&view, keys::WORK);
        while let Some((key, value)) = walk.next().await? {
            self.tally.work += 1;
            self.went_on(1);
            let Some(ino) = keys::parse_ino(&key) else {
                self.wrong(Kind::Record, &key, "is no inode's");
                continue;
            };
            if decode::<WorkRec>(&value).is_err() {
                let what = self.called(ino).await?;
                // All that the other one could say.
                let is_dir = self.inode(ino).await?.is_some_and(|i| i.kind == FileKind::Dir);
                let work = if is_dir { WorkRec::Subtree } else { WorkRec::Inode };
                let mend = Mend::Rows(vec![Change::put(key.to_vec(), &work)]);
                self.report.found(
                    Kind::Record,
                    what,
                    "why it is to be settled cannot be read",
                    mend,
                );
            } else if !self.has(&keys::inode(ino)).await? {
                self.wrong(Kind::Queue, &key, "an inode is to be settled that is not there");
            } else {
                self.report.waits("files to settle");
            }
        }
        Ok(())
    }

    async fn keys_of_queues(&mut self) -> Result<(), FsckError> {
        let view = Arc::clone(&self.view);
        let mut walk = Walk::table(&view, keys::TIDY);
        while let Some((key, _)) = walk.next().await? {
            self.tally.tidy += 1;
            self.went_on(1);
            match keys::parse_object(&key) {
                Some(_) => self.report.waits("keys to tidy"),
                None => self.wrong(Kind::Record, &key, "a key to tidy is no text"),
            }
        }
        let mut walk = Walk::table(&view, keys::TOMB);
        while let Some((key, value)) = walk.next().await? {
            self.went_on(1);
            if keys::parse_object(&key).is_none() || decode::<TombRec>(&value).is_err() {
                self.wrong(Kind::Record, &key, "what was removed by others cannot be read");
            }
        }
        Ok(())
    }

    async fn dead(&mut self) -> Result<(), FsckError> {
        let view = Arc::clone(&self.view);
        let mut walk = Walk::table(&view, keys::DEAD);
        while let Some((key, value)) = walk.next().await? {
            self.went_on(1);
            let Some((ino, map)) = keys::parse_dead(&key) else {
                self.wrong(Kind::Record, &key, "what is to be collected cannot be read");
                continue;
            };
            let Ok(dead) = decode::<DeadRec>(&value) else {
                self.unreadable_dead(&key, ino, map).await?;
                continue;
            };
            let alive = match map {
                keys::XATTRS => self.inode(ino).await?.is_some(),
                _ => {
                    let content = self.get::<ContentRec>(&keys::content(ino)).await?.flatten();
                    content.is_some_and(|content| {
                        content.map == map && dead.through > content.drop_gen
                    })
                }
            };
            if alive {
                let what = self.called(ino).await?;
                let mend = Mend::Rows(vec![Change::drop(key.to_vec())]);
                let detail = "what it is made of is to be collected, and is in use";
                self.report.found(Kind::Queue, what, detail, mend);
            } else {
                self.report.waits("maps of extents to collect");
            }
        }
        Ok(())
    }

    async fn unreadable_dead(&mut self, key: &[u8], ino: Ino, map: u64) -> Result<(), FsckError> {
        let content = self.get::<ContentRec>(&keys::content(ino)).await?.flatten();
        let change = match content {
            _ if map == keys::XATTRS && self.inode(ino).await?.is_some() => {
                Change::drop(key.to_vec())
            }
            // Those up to the generation that the record gives up.
            Some(content) if content.map == map => {
                let dead = DeadRec { through: content.drop_gen, ..DeadRec::whole() };
                Change::put(key.to_vec(), &dead)
            }
            _ => Change::put(key.to_vec(), &DeadRec::whole()),
        };
        let what = self.called(ino).await?;
        let detail = "how far its garbage is collected cannot be read";
        self.report.found(Kind::Record, what, detail, Mend::Rows(vec![change]));
        Ok(())
    }

    async fn garbage(&mut self) -> Result<(), FsckError> {
        let view = Arc::clone(&self.view);
        let mut walk = Walk::table(&view, keys::GARBAGE);
        while let Some((key, _)) = walk.next().await? {
            self.went_on(1);
            let Some(id) = keys::parse_id(&key).filter(|_| key.len() == 17) else {
                self.wrong(Kind::Record, &key, "is no segment's");
                continue;
            };
            if self.has(&keys::segment(id)).await? {
                let what = format!("segment {id:032x}");
                let mend = Mend::Rows(vec![Change::drop(key.to_vec())]);
                let detail = "is to be deleted, and is in use";
                self.report.found(Kind::Segment, what, detail, mend);
            } else {
                self.report.waits("segments to delete");
            }
        }
        Ok(())
    }
}
