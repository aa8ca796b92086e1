//! Applying differences: `Outside` operations through the sequencer, validated there.

use std::collections::BTreeMap;
use std::time::Duration;

use super::heads::modified;
use super::rows::Rows;
use super::shown::Seen;
use super::{Changed, Reconciler};
use crate::data::{Tx, beside, escape_name, give_up_map};
use crate::meta::keys;
use crate::meta::records::{ContentRec, DirentRec, InodeRec, RestRec, WorkRec};
use crate::settle::SettleError;
use crate::settle::outcome::other_copy;
use crate::types::{Base, FileKind, FileName, Ino, ObjectKey, Version};

/// Names changed in one batch.
const BATCH: usize = 256;

impl Reconciler {
    /// Brings what was seen in `dir` into the tree.
    pub(super) async fn apply(
        &self,
        dir: Ino,
        prefix: &str,
        sent: Duration,
        seen: BTreeMap<FileName, Seen>,
    ) -> Result<(), SettleError> {
        // The first look at a directory finds what was always there.
        let names_were_known = self.listed(dir);
        let mut differing = Vec::new();
        let rows = Rows::of(&self.volume.meta, dir, prefix, &seen).await?;
        for (name, what) in seen {
            let what = self.differences_of(&rows, (dir, prefix), &name, what).await?;
            if what != Seen::default() {
                differing.push((name, what));
            }
        }
        for chunk in differing.chunks(BATCH) {
            let mut tx = self.taking_in().await?;
            let mut changed = Vec::new();
            for (name, what) in chunk {
                let key = ObjectKey::new(format!("{prefix}{}", escape_name(name)));
                if self.settler.hot.touched_since(&key, sent) {
                    continue;
                }
                if what.below {
                    let appeared = self.prefix_appeared(&mut tx, dir, name, &key, &mut changed);
                    Box::pin(appeared).await?;
                }
                if let Some(version) = &what.object {
                    let seen = self.object_seen(&mut tx, dir, name, key, version, &mut changed);
                    Box::pin(seen).await?;
                }
            }
            if names_were_known && changed.iter().any(|c| matches!(c, Changed::Entry { .. })) {
                names_changed(&mut tx, dir).await?;
            }
            let _told = self.telling(changed);
            self.taken_in(tx).await?;
        }
        Ok(())
    }

    /// Takes what has vanished from `dir` out of the tree.
    pub(super) async fn vanished(
        &self,
        dir: Ino,
        prefix: &str,
        sent: Duration,
        names: Vec<FileName>,
    ) -> Result<(), SettleError> {
        self.ahead.overtaken(prefix);
        for name in names {
            let dirent: Option<DirentRec> = self.volume.meta.get(&keys::dirent(dir, &name)).await?;
            if let Some(below) = dirent.filter(|dirent| dirent.kind == FileKind::Dir) {
                let segment = self.volume.segment_of(dir, &name).await?;
                let prefix = format!("{prefix}{segment}/");
                self.ahead.gone(&prefix);
                self.empty(below.ino, prefix, sent).await?;
            }
            self.vanish(dir, prefix, sent, &name).await?;
        }
        Ok(())
    }

    /// A quick look without the sequencer: most of a listing is what is known. What is left differs.
    async fn differences_of(
        &self,
        rows: &Rows,
        (dir, prefix): (Ino, &str),
        name: &FileName,
        mut what: Seen,
    ) -> Result<Seen, SettleError> {
        let meta = &self.volume.meta;
        let dirent = rows.dirent(meta, dir, name).await?;
        let is_dir = dirent.is_some_and(|dirent| dirent.kind == FileKind::Dir);
        if what.below {
            let below = format!("{prefix}{}/", escape_name(name));
            what.below = match dirent {
                Some(dirent) if is_dir => {
                    self.saw_prefix(dirent.ino, ObjectKey::new(below));
                    false
                }
                _ => self.foreign_below(&below).await?,
            };
        }
        let Some(version) = what.object.take() else { return Ok(what) };
        if self.volume.stands_beside(dir, name).await?.is_some() {
            // Another object shows under this name.
            return Ok(what);
        }
        let key = ObjectKey::new(format!("{prefix}{}", escape_name(name)));
        let rest = rows.rest(meta, &key).await?;
        let known = rest.is_some_and(|rest| rest.version.same(&version));
        let differs = match (known, beside(name)) {
            (true, Some(aside)) => {
                dirent.is_none() && self.volume.stands_beside(dir, &aside).await?.is_some()
            }
            (true, None) => false,
            (false, Some(aside)) if is_dir => {
                let free = meta.get_raw(&keys::dirent(dir, &aside)).await?.is_none();
                free || self.volume.stands_beside(dir, &aside).await?.is_some()
            }
            (false, None) if is_dir => false,
            (false, _) => true,
        };
        if !known && !differs {
            tracing::warn!(%key, "an object cannot be shown beside the directory of its name");
        }
        what.object = differs.then_some(version);
        Ok(what)
    }

    fn adopted(&self, kind: FileKind, version: Option<&Version>) -> InodeRec {
        let options = &self.volume.options;
        let time = version.map_or_else(crate::clock::now, modified);
        let perm =
            if kind == FileKind::Dir { options.dir_mode } else { options.file_mode } & 0o7777;
        InodeRec {
            uid: options.uid,
            gid: options.gid,
            known: false,
            ..InodeRec::new(kind, perm, time)
        }
    }

    /// A directory that others made, by keys below it. It has the name, also where a file had it: the
    /// file's object stays where it is and shows beside.
    async fn prefix_appeared(
        &self,
        tx: &mut Tx<'_>,
        dir: Ino,
        name: &FileName,
        key: &ObjectKey,
        changed: &mut Vec<Changed>,
    ) -> Result<(), SettleError> {
        match tx.dirent(dir, name).await? {
            Some(dirent) if dirent.kind == FileKind::Dir => return Ok(()),
            Some(dirent) => {
                let Some(aside) = beside(name) else { return Ok(()) };
                if tx.dirent(dir, &aside).await?.is_some() {
                    return Ok(());
                }
                tx.unlink(dir, name, dirent.ino);
                tx.link_beside(dir, &aside, dirent.ino, dirent.kind);
                tracing::warn!(%key, shown = %aside, "a directory has the name of an object now");
                changed.push(Changed::Entry { parent: dir, name: aside });
            }
            None => {}
        }
        let ino = tx.new_ino();
        let marker = ObjectKey::new(format!("{key}/"));
        let rec = self.revived(tx, &marker, ino, self.adopted(FileKind::Dir, None)).await?;
        tx.create(ino, rec);
        tx.link(dir, name, ino, FileKind::Dir);
        tx.edit(dir, |dir| dir.nlink += 1).await?;
        // It goes again when the next look finds nothing below it.
        self.saw_prefix(ino, marker);
        changed.push(Changed::Entry { parent: dir, name: name.clone() });
        Ok(())
    }

    async fn object_seen(
        &self,
        tx: &mut Tx<'_>,
        dir: Ino,
        name: &FileName,
        key: ObjectKey,
        version: &Version,
        changed: &mut Vec<Changed>,
    ) -> Result<(), SettleError> {
        let rest: Option<RestRec> = tx.kv.get(&keys::rest(&key)).await?;
        let there = tx.dirent(dir, name).await?;
        let aside = beside(name);
        let shown_aside = match &aside {
            Some(aside) if tx.kv.get_raw(&keys::beside(dir, aside)).await?.is_some() => {
                tx.dirent(dir, aside).await?
            }
            _ => None,
        };
        if let Some(rest) = &rest
            && rest.version.same(version)
        {
            if let (None, Some(dirent), Some(aside)) = (there, shown_aside, aside)
                && dirent.ino == rest.ino
            {
                // The directory is gone: the object has its name again.
                tx.unlink(dir, &aside, dirent.ino);
                tx.link(dir, name, dirent.ino, dirent.kind);
                changed.push(Changed::Entry { parent: dir, name: aside });
                changed.push(Changed::Entry { parent: dir, name: name.clone() });
            }
            return Ok(());
        }
        let is_dir = there.is_some_and(|dirent| dirent.kind == FileKind::Dir);
        let (name, there, beside) = match aside {
            // A directory has the name; the object shows beside it.
            Some(aside) if is_dir || there.is_none() && shown_aside.is_some() => {
                let there = tx.dirent(dir, &aside).await?;
                if there.is_some() && shown_aside.is_none() {
                    return Ok(());
                }
                (aside, there, true)
            }
            _ if is_dir => return Ok(()),
            _ => (name.clone(), there, false),
        };
        let name = &name;
        let returns = there.is_none();
        match there {
            None if rest.as_ref().is_some_and(|r| r.put_id.is_some())
                && self.tidying(tx, &key).await? =>
            {
                // Somebody put a new object at a key that we are about to tidy: it is theirs.
                tx.kv.delete(keys::tidy(&key));
            }
            None => {}
            Some(dirent) if self.break_link(tx, dir, name, dirent.ino, &key).await? => {
                changed.push(Changed::Inode { ino: dirent.ino });
            }
            Some(dirent) if self.unchanged_special(tx, dirent, rest.as_ref()).await? => {
                tx.unlink(dir, name, dirent.ino);
                tx.remove(dirent.ino).await?;
            }
            Some(dirent) => {
                if self.replace_clean(tx, dirent.ino, &key, version).await?
                    || self.reheaded(tx, dirent.ino, &key, version).await?
                {
                    changed.push(Changed::Inode { ino: dirent.ino });
                    return Ok(());
                }
                let aside = self.set_aside(tx, dir, name, dirent.ino, dirent.kind).await?;
                changed.push(Changed::Entry { parent: dir, name: aside });
            }
        }
        let ino = tx.new_ino();
        let content = ContentRec {
            size: version.size,
            base: Some(base(&key, version)),
            base_limit: version.size,
            generation: 1,
            drop_gen: 1,
            ..ContentRec::default()
        };
        let mut rec = self.adopted(FileKind::File, Some(version));
        if returns {
            rec = self.revived(tx, &key, ino, rec).await?;
        }
        tx.create_with(ino, rec, content);
        match beside {
            true => tx.link_beside(dir, name, ino, FileKind::File),
            false => tx.link(dir, name, ino, FileKind::File),
        }
        tx.kv.put_rest(&key, &rest_of(ino, version, 1)).await?;
        changed.push(Changed::Entry { parent: dir, name: name.clone() });
        Ok(())
    }

    async fn tidying(&self, tx: &Tx<'_>, key: &ObjectKey) -> Result<bool, SettleError> {
        Ok(tx.kv.get_raw(&keys::tidy(key)).await?.is_some())
    }

    /// A file with several names, one of which somebody replaced or removed: that name goes its own
    /// way. False when the file was changed here, or when its only copy lay there.
    async fn break_link(
        &self,
        tx: &mut Tx<'_>,
        dir: Ino,
        name: &FileName,
        ino: Ino,
        key: &ObjectKey,
    ) -> Result<bool, SettleError> {
        let inode = tx.live(ino).await?;
        let rest: Option<RestRec> = tx.kv.get(&keys::rest(key)).await?;
        if tx.inode(ino).await?.nlink < 2 || rest.is_none_or(|rest| rest.ino != ino) {
            return Ok(false);
        }
        let content: ContentRec = tx.kv.get(&keys::content(ino)).await?.unwrap_or_default();
        let is_file = tx.inode(ino).await?.kind == FileKind::File;
        if is_file && (!content.at_rest() || !inode.live().pending.is_clean()) {
            return Ok(false);
        }
        if content.base.as_ref().is_some_and(|b| !b.parked && b.key == *key) {
            match other_copy(&tx.kv, ino, &content, key).await? {
                Some(content) => tx.move_content(ino, content).await?,
                None => return Ok(false),
            }
        }
        tx.unlink(dir, name, ino);
        let now = crate::clock::now();
        tx.edit(ino, move |rec| {
            rec.nlink -= 1;
            rec.ctime = now;
        })
        .await?;
        tx.needs_rest(ino, WorkRec::Inode).await?;
        Ok(true)
    }

    /// Whether a symbolic link or special file rests here unchanged, so that somebody's object may
    /// take its place.
    async fn unchanged_special(
        &self,
        tx: &mut Tx<'_>,
        dirent: DirentRec,
        rest: Option<&RestRec>,
    ) -> Result<bool, SettleError> {
        let rec = tx.inode(dirent.ino).await?;
        Ok(dirent.kind != FileKind::File
            && rec.nlink == 1
            && rest.is_some_and(|rest| rest.ino == dirent.ino && rest.attr_gen == rec.attr_gen)
            && tx.is_unused(dirent.ino).await?)
    }

    /// Replaces the content of a file that rests at this key and was not changed here.
    async fn replace_clean(
        &self,
        tx: &mut Tx<'_>,
        ino: Ino,
        key: &ObjectKey,
        version: &Version,
    ) -> Result<bool, SettleError> {
        let inode = tx.live(ino).await?;
        let content: ContentRec = match tx.kv.get(&keys::content(ino)).await? {
            Some(content) => content,
            None => return Ok(false),
        };
        let here = content.base.as_ref().is_some_and(|b| !b.parked && b.key == *key);
        let clean = inode.live().pending.is_clean();
        let several_names = tx.inode(ino).await?.nlink > 1;
        if !here || !content.at_rest() || !clean || several_names {
            return Ok(false);
        }
        let generation = content.generation + 1;
        let before = content.size;
        let mut next = ContentRec {
            size: version.size,
            base: Some(base(key, version)),
            base_limit: version.size,
            generation,
            drop_gen: generation,
            publishing: None,
            ..content
        };
        give_up_map(&mut tx.kv, ino, &mut next);
        tx.kv.superblock.bytes = (tx.kv.superblock.bytes + version.size).saturating_sub(before);
        tx.replace_content(ino, next).await?;
        self.keep_unpublished(tx, ino, key, rest_of(ino, version, generation)).await?;
        let (time, now) = (modified(version), crate::clock::now());
        tx.edit(ino, move |rec| {
            rec.mtime = time;
            rec.ctime = now;
        })
        .await?;
        Ok(true)
    }

    /// Records somebody's object at the key of a file. What it says is read when it is asked for; but what
    /// was changed here and is not published yet counts more, and is published over it.
    async fn keep_unpublished(
        &self,
        tx: &mut Tx<'_>,
        ino: Ino,
        key: &ObjectKey,
        mut rest: RestRec,
    ) -> Result<(), SettleError> {
        let shown: Option<RestRec> = tx.kv.get(&keys::rest(key)).await?;
        let shown = shown.filter(|shown| shown.ino == ino).map(|shown| shown.attr_gen);
        let rec = tx.inode(ino).await?;
        if rec.known && shown.is_some_and(|shown| shown != rec.attr_gen) {
            let theirs = shown.is_some_and(|shown| rec.borne_gen <= shown);
            tx.edit(ino, move |rec| rec.borne_gen = if theirs { 0 } else { rec.borne_gen }).await?;
            rest.attr_gen = 0;
            tx.needs_rest(ino, WorkRec::Inode).await?;
        } else {
            tx.edit(ino, |rec| {
                rec.known = false;
                rec.attr_gen = 1;
                rec.borne_gen = 0;
            })
            .await?;
            rest.attr_gen = 1;
        }
        tx.kv.put_rest(key, &rest).await?;
        Ok(())
    }

    /// Others changed what an object bears, and not its bytes: that is no conflict with what was written
    /// here.
    async fn reheaded(
        &self,
        tx: &mut Tx<'_>,
        ino: Ino,
        key: &ObjectKey,
        version: &Version,
    ) -> Result<bool, SettleError> {
        let content: Option<ContentRec> = tx.kv.get(&keys::content(ino)).await?;
        let Some(mut content) = content else { return Ok(false) };
        let rest: Option<RestRec> = tx.kv.get(&keys::rest(key)).await?;
        let Some(rest) = rest.filter(|rest| rest.ino == ino) else { return Ok(false) };
        let here =
            |base: &Base| !base.parked && base.key == *key && base.version.same_bytes(version);
        // An empty object is like any other that is empty: somebody may well have made it anew.
        if version.size == 0 || !content.base.as_ref().is_some_and(here) {
            return Ok(false);
        }
        content.base = Some(base(key, version));
        tx.move_content(ino, content).await?;
        let rest = RestRec { put_id: None, version: version.clone(), ..rest };
        self.keep_unpublished(tx, ino, key, rest).await?;
        tx.needs_rest(ino, WorkRec::Inode).await?;
        Ok(true)
    }

    /// An object that we knew is gone. A file that rested there goes with it; one that was changed here
    /// is published again under its name.
    pub(super) async fn vanish(
        &self,
        dir: Ino,
        prefix: &str,
        sent: Duration,
        name: &FileName,
    ) -> Result<(), SettleError> {
        let dirent: Option<DirentRec> = self.volume.meta.get(&keys::dirent(dir, name)).await?;
        let Some(dirent) = dirent else { return Ok(()) };
        let slash = if dirent.kind == FileKind::Dir { "/" } else { "" };
        let segment = self.volume.segment_of(dir, name).await?;
        let key = ObjectKey::new(format!("{prefix}{segment}{slash}"));
        let mut tx = self.taking_in().await?;
        if self.settler.hot.touched_since(&key, sent) || tx.dirent(dir, name).await? != Some(dirent)
        {
            return Ok(());
        }
        let inode = tx.live(dirent.ino).await?;
        let rec = tx.inode(dirent.ino).await?;
        let rests = match dirent.kind {
            FileKind::Dir => {
                let (page, _) = tx.kv.scan(keys::dirents_after(dirent.ino, 0), 8).await?;
                page.is_empty()
            }
            FileKind::File => {
                let content: ContentRec =
                    tx.kv.get(&keys::content(dirent.ino)).await?.unwrap_or_default();
                content.at_rest()
                    && content.base.as_ref().is_some_and(|b| !b.parked && b.key == key)
                    && inode.live().pending.is_clean()
            }
            _ => true,
        } && rec.nlink <= if dirent.kind == FileKind::Dir { 2 } else { 1 };
        if dirent.kind != FileKind::Dir
            && self.break_link(&mut tx, dir, name, dirent.ino, &key).await?
        {
            tx.kv.delete_rest(&key).await?;
            names_changed(&mut tx, dir).await?;
            let _told = self.telling(vec![
                Changed::Entry { parent: dir, name: name.clone() },
                Changed::Inode { ino: dirent.ino },
            ]);
            self.taken_in(tx).await?;
            return Ok(());
        }
        tx.kv.delete_rest(&key).await?;
        if !rests || !tx.is_unused(dirent.ino).await? {
            tx.needs_rest(dirent.ino, WorkRec::Inode).await?;
            self.taken_in(tx).await?;
            return Ok(());
        }
        self.bury(&mut tx, &key, dirent.ino, &rec).await?;
        tx.unlink(dir, name, dirent.ino);
        tx.remove(dirent.ino).await?;
        if dirent.kind == FileKind::Dir {
            tx.edit(dir, |dir| dir.nlink = dir.nlink.saturating_sub(1)).await?;
        }
        names_changed(&mut tx, dir).await?;
        // All of this took a while: whoever opened and changed it meanwhile has an answer. The next look finds it
        // changed, and publishes it again.
        if inode.is_open() || !inode.live().pending.is_clean() {
            return Ok(());
        }
        let _told = self.telling(vec![Changed::Entry { parent: dir, name: name.clone() }]);
        self.taken_in(tx).await?;
        tracing::info!(%key, "an object was removed by somebody else; so is its file");
        Ok(())
    }
}

/// Programs tell by a directory's times whether its names are those that they read before.
async fn names_changed(tx: &mut Tx<'_>, dir: Ino) -> Result<(), SettleError> {
    let now = crate::clock::now();
    let edit = move |dir: &mut InodeRec| (dir.mtime, dir.ctime) = (now, now);
    Ok(tx.edit(dir, edit).await?)
}

fn base(key: &ObjectKey, version: &Version) -> Base {
    Base { key: key.clone(), parked: false, version: version.clone(), put_id: None }
}

fn rest_of(ino: Ino, version: &Version, generation: u64) -> RestRec {
    RestRec { ino, put_id: None, version: version.clone(), generation, attr_gen: 1 }
}
