//! What the tree has and a whole listing did not show: it goes, each missing key confirmed on its own. A portion at
//! a time, because somebody may have removed very many: whoever looks elsewhere comes in between, and what is cut
//! off goes on where it was.

use std::time::Duration;

use super::listing::{Compared, Walk};
use super::{Reconciler, USE_TIMEOUT};
use crate::clock::boottime;
use crate::data::escape_name;
use crate::meta::keys;
use crate::meta::records::{DirentRec, decode};
use crate::settle::SettleError;
use crate::store::ListRequest;
use crate::types::{FileKind, FileName, Ino, ObjectKey};

/// Names that are confirmed, and taken out, in one turn.
const PORTION: usize = 256;
/// Names that are compared with the listing in one turn.
const COMPARED: usize = 20_000;
/// Rows that are read at a time.
const ROWS: usize = 1000;
/// More missing keys than this (and than a tenth of the known ones) look like a wrong bucket, a lost
/// permission or a stale answer; then the volume's own state must be readable, too.
const MANY: usize = 1000;
const HEAD_PARALLEL: usize = 16;

/// What is known of keys that begin with a name and a slash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Below {
    Unknown,
    Nothing,
}

/// One directory on the way down a tree that is gone.
struct Level {
    dir: Ino,
    prefix: String,
    /// How far it is looked through.
    after: u64,
    /// Its name in the level above.
    name: Option<FileName>,
}

impl Reconciler {
    /// The next portion of a directory whose listing is whole. Says whether it was the last.
    pub(super) async fn compare_on(&self, dir: Ino, walk: &mut Walk) -> Result<bool, SettleError> {
        let (Some(shown), Some(mut at)) = (&walk.shown, walk.compared) else { return Ok(true) };
        let sent = boottime();
        let mut missing = Vec::new();
        let (mut whole, most) = (false, at.names + COMPARED);
        while !whole && missing.len() < PORTION && at.names < most {
            let page = self.volume.meta.scan(keys::dirents_after(dir, at.after), ROWS).await?;
            whole = page.len() < ROWS;
            for (key, value) in &page {
                if missing.len() == PORTION {
                    whole = false;
                    break;
                }
                let Some((cookie, name)) = keys::parse_dirent(key) else { continue };
                at.after = cookie;
                at.names += 1;
                let is_dir = decode::<DirentRec>(value)?.kind == FileKind::Dir;
                let there = match self.volume.stands_beside(dir, &name).await? {
                    Some(own) => shown.get(&own).is_some_and(|shown| shown.object()),
                    None if is_dir => shown.get(&name).is_some_and(|shown| shown.below()),
                    None => shown.get(&name).is_some(),
                };
                if !there && self.was_at_rest(dir, &walk.prefix, &name).await? {
                    missing.push(name);
                }
            }
        }
        at.missing += missing.len();
        if !missing.is_empty() && !self.take_out(dir, &walk.prefix, sent, at, missing).await? {
            return Ok(true);
        }
        (walk.compared, walk.at) = (Some(at), boottime());
        Ok(whole)
    }

    /// False when what is missing says something about the bucket, and nothing about files.
    async fn take_out(
        &self,
        dir: Ino,
        prefix: &str,
        sent: Duration,
        at: Compared,
        missing: Vec<FileName>,
    ) -> Result<bool, SettleError> {
        if at.missing >= MANY || at.missing * 10 > at.names {
            // An empty answer from a wrong place must not empty the volume.
            let format = self.volume.state.key("format.json");
            if self.volume.state_store.head(&format, USE_TIMEOUT).await?.is_none() {
                tracing::error!(
                    missing = at.missing,
                    "many objects seem to be gone, and so is the volume's state: nothing is believed"
                );
                return Ok(false);
            }
        }
        let gone = self.confirm(dir, prefix, missing, Below::Unknown).await?;
        if gone.is_empty() {
            return Ok(true);
        }
        let gone = self.believed(gone).await?;
        if gone.is_empty() {
            return Ok(false);
        }
        self.vanished(dir, prefix, sent, gone).await?;
        Ok(true)
    }

    /// Takes out what rested below a directory of which the bucket shows nothing any more. However deep that is, no
    /// directory of it is listed: only the files' own keys are asked for. What goes, goes from below, so that what
    /// is cut off goes on where it was. `sent`: when nothing was seen below `prefix`.
    pub(super) async fn empty(
        &self,
        dir: Ino,
        prefix: String,
        sent: Duration,
    ) -> Result<(), SettleError> {
        let mut levels = vec![Level { dir, prefix, after: 0, name: None }];
        while let Some(level) = levels.last_mut() {
            let asked = boottime();
            let page = self.volume.meta.scan(keys::dirents_after(level.dir, level.after), PORTION);
            let page = page.await?;
            let (mut files, mut below) = (Vec::new(), None);
            for (key, value) in &page {
                let Some((cookie, name)) = keys::parse_dirent(key) else { continue };
                level.after = cookie;
                if !self.was_at_rest(level.dir, &level.prefix, &name).await? {
                    continue;
                }
                let dirent = decode::<DirentRec>(value)?;
                if dirent.kind == FileKind::Dir {
                    let segment = self.volume.segment_of(level.dir, &name).await?;
                    let prefix = format!("{}{segment}/", level.prefix);
                    below = Some(Level { dir: dirent.ino, prefix, after: 0, name: Some(name) });
                    break;
                }
                files.push(name);
            }
            let files = self.confirm(level.dir, &level.prefix, files, Below::Nothing).await?;
            for name in files {
                self.vanish(level.dir, &level.prefix, asked, &name).await?;
            }
            if below.is_some() {
                levels.extend(below);
            } else if page.len() < PORTION {
                let name = levels.pop().and_then(|level| level.name);
                if let (Some(name), Some(above)) = (name, levels.last()) {
                    self.vanish(above.dir, &above.prefix, sent, &name).await?;
                }
            }
        }
        Ok(())
    }

    /// Keeps the names whose keys are really gone.
    async fn confirm(
        &self,
        dir: Ino,
        prefix: &str,
        names: Vec<FileName>,
        below: Below,
    ) -> Result<Vec<FileName>, SettleError> {
        use futures::stream::{self, StreamExt, TryStreamExt};
        let checks = names.into_iter().map(|name| async move {
            match self.is_gone(dir, prefix, &name, below).await {
                Ok(gone) => Ok(gone.then_some(name)),
                // One that cannot be asked about stays, and holds up no other.
                Err(error) if error.is_of_one() => {
                    self.note(dir, &error);
                    Ok(None)
                }
                Err(error) => Err(error),
            }
        });
        let gone: Vec<Option<FileName>> =
            stream::iter(checks).buffered(HEAD_PARALLEL).try_collect().await?;
        Ok(gone.into_iter().flatten().collect())
    }

    async fn is_gone(
        &self,
        dir: Ino,
        prefix: &str,
        name: &FileName,
        below: Below,
    ) -> Result<bool, SettleError> {
        let dirent: Option<DirentRec> = self.volume.meta.get(&keys::dirent(dir, name)).await?;
        let is_dir = dirent.is_some_and(|dirent| dirent.kind == FileKind::Dir);
        let own = self.volume.stands_beside(dir, name).await?;
        let segment = escape_name(own.as_ref().unwrap_or(name));
        let key = ObjectKey::new(format!("{prefix}{segment}"));
        // An object says nothing about the directory of its name, nor the other way.
        if !is_dir && self.volume.store.head(&key, USE_TIMEOUT).await?.is_some() {
            return Ok(false);
        }
        if own.is_some() || below == Below::Nothing {
            return Ok(true);
        }
        let marker =
            ListRequest { prefix: format!("{key}/"), delimiter: false, token: None, max_keys: 1 };
        Ok(self.volume.store.list(marker, USE_TIMEOUT).await?.entries.is_empty())
    }
}
