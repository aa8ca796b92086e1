//! Listing directories and looking at single keys.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::shown::{Names, Seen};
use super::{Reconciler, USE_TIMEOUT};
use crate::clock::boottime;
use crate::data::{DataError, PathMemo, beside, escape_name, own_name, unescape_name};
use crate::meta::records::{DirentRec, RestRec, decode};
use crate::meta::{Logged, keys};
use crate::settle::SettleError;
use crate::store::{ListPage, ListRequest, Listing};
use crate::types::{FileKind, FileName, Ino, ObjectKey};

/// Objects per request: S3's most.
pub(super) const PAGE: u32 = 1000;
/// A listing with which nobody went on for so long begins anew.
const WALK_KEPT: Duration = Duration::from_secs(600);

/// How far the comparison of a directory with its listing is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Compared {
    pub after: u64,
    pub names: usize,
    pub missing: usize,
}

impl Reconciler {
    pub(super) async fn child_dirs(&self, dir: Ino) -> Result<Vec<Ino>, DataError> {
        let mut found = Vec::new();
        let mut after = 0;
        loop {
            let page = self.volume.meta.scan(keys::dirents_after(dir, after), 1000).await?;
            for (key, value) in &page {
                let Some((cookie, _)) = keys::parse_dirent(key) else { continue };
                after = cookie;
                let dirent: DirentRec = decode(value)?;
                if dirent.kind == FileKind::Dir {
                    found.push(dirent.ino);
                }
            }
            if page.len() < 1000 {
                return Ok(found);
            }
        }
    }

    pub(super) async fn page(
        &self,
        prefix: &str,
        token: Option<String>,
    ) -> Result<ListPage, SettleError> {
        let request =
            ListRequest { prefix: prefix.to_owned(), delimiter: true, token, max_keys: PAGE };
        let page = self.volume.store.list(request, USE_TIMEOUT).await?;
        self.ahead.overtaken(prefix);
        Ok(page)
    }

    /// Lists a directory and applies what differs, from its beginning to its end.
    pub(super) async fn list_whole(&self, dir: Ino) -> Result<(), SettleError> {
        let Some(prefix) = self.prefix_of(dir).await? else { return Ok(()) };
        let mut walk = self.begin_walk(dir, prefix).await?;
        while !self.list_page(dir, &mut walk).await? {}
        Ok(())
    }

    /// One more page of a directory. Says whether it was the last. What fails or is cut off is done again by
    /// the next call.
    pub(super) async fn list_on(
        &self,
        dir: Ino,
        walks: &mut HashMap<Ino, Walk>,
    ) -> Result<bool, SettleError> {
        let now = boottime();
        walks.retain(|_, walk| now.saturating_sub(walk.at) < WALK_KEPT);
        let Some(prefix) = self.prefix_of(dir).await? else {
            walks.remove(&dir);
            return Ok(true);
        };
        if walks.get(&dir).is_some_and(|walk| prefix != walk.prefix) {
            // It has another name by now.
            walks.remove(&dir);
        }
        let walk = match walks.entry(dir) {
            Entry::Occupied(begun) => begun.into_mut(),
            Entry::Vacant(place) => place.insert(self.begin_walk(dir, prefix).await?),
        };
        let result = self.list_page(dir, walk).await;
        let done = match &result {
            Ok(last) => *last,
            // A store may know nothing of an old place in a listing.
            Err(SettleError::Store(error)) => walk.compared.is_none() && !error.is_transient(),
            Err(_) => false,
        };
        if done {
            walks.remove(&dir);
        }
        result
    }

    /// Of the keys of a directory; `None`: it is gone.
    async fn prefix_of(&self, dir: Ino) -> Result<Option<String>, SettleError> {
        Ok(self.volume.dir_key(dir, &mut PathMemo::default()).await?)
    }

    async fn begin_walk(&self, dir: Ino, prefix: String) -> Result<Walk, SettleError> {
        let empty = self.volume.meta.scan(keys::dirents_after(dir, 0), 1).await?.is_empty();
        Ok(Walk {
            prefix,
            began: boottime(),
            at: boottime(),
            token: None,
            pages: 0,
            held: BTreeMap::new(),
            shown: (!empty).then(Names::default),
            compared: None,
        })
    }

    /// The next page of a walk, applied; after the last one what is missing, a portion at a time.
    async fn list_page(&self, dir: Ino, walk: &mut Walk) -> Result<bool, SettleError> {
        if walk.compared.is_none() {
            self.take_page(dir, walk).await?;
        }
        let whole = walk.compared.is_some() && self.compare_on(dir, walk).await?;
        match whole {
            true => self.learned(dir, walk.began, walk.pages),
            false => self.goes_on(dir, walk.pages),
        }
        Ok(whole)
    }

    async fn take_page(&self, dir: Ino, walk: &mut Walk) -> Result<(), SettleError> {
        let (sent, page) = match walk.token.clone() {
            None => self.first_page(&walk.prefix).await?,
            token => (boottime(), self.page(&walk.prefix, token).await?),
        };
        walk.began = walk.began.min(sent);
        let next = page.next.clone();
        let (mut seen, mut since) = (BTreeMap::new(), sent);
        if !walk.held.is_empty() {
            (seen, since) = (walk.held.clone(), walk.at);
        }
        self.marker_of(dir, &walk.prefix, &page, sent).await?;
        let last = last_of(&page);
        collect(&walk.prefix, page, &mut seen);
        let mut held = BTreeMap::new();
        if let (Some(last), Some(_)) = (&last, &next) {
            let more = |name: &FileName| format!("{}{}/", walk.prefix, escape_name(name)) > *last;
            held = seen.extract_if(.., |name, _| more(name)).collect();
        } else if next.is_some() {
            // An empty page that is not the last.
            held = std::mem::take(&mut seen);
        }
        if let Some(shown) = &mut walk.shown {
            seen.iter().for_each(|(name, seen)| shown.add(name, seen));
        }
        self.apply(dir, &walk.prefix, since, seen).await?;
        walk.pages += 1;
        if next.is_none() {
            walk.shown.iter_mut().for_each(Names::seal);
            walk.compared = Some(Compared::default());
        }
        (walk.token, walk.held, walk.at) = (next, held, sent);
        Ok(())
    }

    /// The first look at a directory, for one name: one page, and if there is more the name itself.
    pub(super) async fn list_first_page(
        &self,
        dir: Ino,
        name: &FileName,
    ) -> Result<(), SettleError> {
        let Some(prefix) = self.prefix_of(dir).await? else { return Ok(()) };
        let mut walk = self.begin_walk(dir, prefix).await?;
        if self.list_page(dir, &mut walk).await? {
            return Ok(());
        }
        self.check_name(dir, name).await
    }

    /// The marker of the listed directory itself, which is the first of its keys.
    async fn marker_of(
        &self,
        dir: Ino,
        prefix: &str,
        page: &ListPage,
        sent: Duration,
    ) -> Result<(), SettleError> {
        match page.entries.first().filter(|entry| entry.key.as_str() == prefix) {
            Some(marker) => self.marker_seen(dir, &marker.key, &marker.version, sent).await,
            None => Ok(()),
        }
    }

    /// Looks at one name: its object, and whether keys lie below it.
    pub(super) async fn check_name(&self, dir: Ino, name: &FileName) -> Result<(), SettleError> {
        let mut memo = PathMemo::default();
        let Some(prefix) = self.volume.dir_key(dir, &mut memo).await? else { return Ok(()) };
        self.look_at(dir, &prefix, name).await
    }

    pub(super) async fn check_key(&self, key: &ObjectKey) -> Result<(), SettleError> {
        let Some(path) = self.volume.prefix.strip(key) else { return Ok(()) };
        let path = path.strip_suffix('/').unwrap_or(path);
        let (parent, segment) = path.rsplit_once('/').unwrap_or(("", path));
        let dir = match parent {
            "" => Some(Ino::ROOT),
            parent => {
                let key = self.volume.prefix.key(&format!("{parent}/"));
                self.volume.lookup_key(&key).await?
            }
        };
        let (Some(dir), Some(name)) = (dir, unescape_name(segment)) else { return Ok(()) };
        self.check_name(dir, &name).await
    }

    async fn look_at(&self, dir: Ino, prefix: &str, name: &FileName) -> Result<(), SettleError> {
        if let Some(own) = own_name(name) {
            Box::pin(self.look_at(dir, prefix, &own)).await?;
            if self.volume.stands_beside(dir, name).await?.is_some() {
                return Ok(());
            }
        }
        let sent = boottime();
        let segment = escape_name(name);
        let key = ObjectKey::new(format!("{prefix}{segment}"));
        let below =
            ListRequest { prefix: format!("{key}/"), delimiter: false, token: None, max_keys: 1 };
        let (head, below) = tokio::join!(
            self.volume.store.head(&key, USE_TIMEOUT),
            self.volume.store.list(below, USE_TIMEOUT)
        );
        let (head, below) = (head?, below?);
        self.ahead.overtaken(prefix);
        self.ahead.overtaken(&format!("{key}/"));
        let seen = Seen {
            object: head.map(|info| info.version),
            below: !below.entries.is_empty() || !below.prefixes.is_empty(),
        };
        let mut vanished = Vec::new();
        if seen.object.is_none()
            && let Some(aside) = beside(name)
            && self.volume.stands_beside(dir, &aside).await?.is_some()
            && self.was_at_rest(dir, prefix, &aside).await?
        {
            vanished.push(aside);
        }
        let dirent: Option<DirentRec> = self.volume.meta.get(&keys::dirent(dir, name)).await?;
        let is_dir = dirent.is_some_and(|dirent| dirent.kind == FileKind::Dir);
        if let Some(dirent) = dirent.filter(|_| is_dir) {
            self.marker_of(dirent.ino, &format!("{key}/"), &below, sent).await?;
        }
        if !seen.below
            && (is_dir || seen.object.is_none())
            && self.was_at_rest(dir, prefix, name).await?
        {
            vanished.push(name.clone());
        } else if seen == Seen::default() && vanished.is_empty() {
            self.forget_rest(&key, sent).await?;
        }
        let vanished = self.believed(vanished).await?;
        self.apply(dir, prefix, sent, BTreeMap::from([(name.clone(), seen)])).await?;
        self.vanished(dir, prefix, sent, vanished).await
    }

    /// What lay at a key for an inode that is no longer there is gone: the next publish expects
    /// nothing.
    async fn forget_rest(&self, key: &ObjectKey, sent: Duration) -> Result<(), SettleError> {
        self.prove_ownership().await?;
        let mut txn = self.volume.meta.begin().await?;
        self.still_ours()?;
        if !self.settler.hot.touched_since(key, sent) {
            txn.delete_rest(key).await?;
            txn.commit(Logged::Op { unique: 0 }, || {}).await?;
        }
        Ok(())
    }

    /// Whether the tree has this name because of what lay at its key.
    pub(super) async fn was_at_rest(
        &self,
        dir: Ino,
        prefix: &str,
        name: &FileName,
    ) -> Result<bool, SettleError> {
        let dirent: Option<DirentRec> = self.volume.meta.get(&keys::dirent(dir, name)).await?;
        let Some(dirent) = dirent else { return Ok(false) };
        let slash = if dirent.kind == FileKind::Dir { "/" } else { "" };
        let segment = self.volume.segment_of(dir, name).await?;
        let key = ObjectKey::new(format!("{prefix}{segment}{slash}"));
        let rest: Option<RestRec> = self.volume.meta.get(&keys::rest(&key)).await?;
        match rest {
            Some(rest) => Ok(rest.ino == dirent.ino),
            // A directory that was never made here was seen only because keys lay below it.
            None if dirent.kind == FileKind::Dir => {
                let seen = self.prefixes.lock().get(&dirent.ino) == Some(&key);
                Ok(seen && self.volume.meta.get_raw(&keys::work(dirent.ino)).await?.is_none())
            }
            None => Ok(false),
        }
    }

    /// Whether anything lies below a prefix that is not ours: what a removed or renamed directory
    /// leaves until it is tidied does not make it appear again.
    pub(super) async fn foreign_below(&self, prefix: &str) -> Result<bool, SettleError> {
        let mut pages = Listing::of_keys(prefix);
        loop {
            let sent = boottime();
            let Some(page) = pages.next(self.volume.store.as_ref(), USE_TIMEOUT).await? else {
                return Ok(false);
            };
            for entry in page.entries {
                let rest: Option<RestRec> = self.volume.meta.get(&keys::rest(&entry.key)).await?;
                let ours = rest.is_some_and(|rest| rest.version.same(&entry.version))
                    || self.settler.hot.touched_since(&entry.key, sent);
                if !ours {
                    return Ok(true);
                }
            }
        }
    }
}

/// A listing of a directory, as far as it came.
#[derive(Debug)]
pub(super) struct Walk {
    pub(super) prefix: String,
    began: Duration,
    /// When its last page was asked for, or the last portion of its names was compared.
    pub(super) at: Duration,
    token: Option<String>,
    pages: u32,
    /// Objects at the end of the last page below whose name there may be keys on the next one.
    held: BTreeMap<FileName, Seen>,
    /// All that was shown, where names of the tree may be missing in it: not in a directory that had none.
    pub(super) shown: Option<Names>,
    /// Once all was shown: how far the tree's names are compared with that.
    pub(super) compared: Option<Compared>,
}

/// The last key or common prefix of a page.
fn last_of(page: &ListPage) -> Option<String> {
    let entry = page.entries.last().map(|entry| entry.key.as_str());
    entry.max(page.prefixes.last().map(String::as_str)).map(str::to_owned)
}

/// Names of one page. Keys that no file can have are left alone.
fn collect(prefix: &str, page: ListPage, seen: &mut BTreeMap<FileName, Seen>) {
    for entry in page.entries {
        let Some(segment) = entry.key.as_str().strip_prefix(prefix) else { continue };
        if let Some(name) = unescape_name(segment) {
            seen.entry(name).or_default().object = Some(entry.version);
        }
    }
    for common in page.prefixes {
        let segment = common.strip_prefix(prefix).and_then(|rest| rest.strip_suffix('/'));
        if let Some(name) = segment.and_then(unescape_name) {
            seen.entry(name).or_default().below = true;
        }
    }
}
