//! A change of namespace and attributes, over live inodes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::garbage::{give_up_map, give_up_xattrs};
use super::inode::LeaveGuard;
use super::paths::own_name;
use super::{ChangeGuard, DataError, Inode, Volume};
use crate::meta::records::{ContentRec, DirentRec, InodeRec, WorkRec};
use crate::meta::{Logged, Txn, Weight, keys};
use crate::types::{FileKind, FileName, Ino, ObjectKey};

/// As many keys where an inode rests are found by one look.
const FEW_RESTS: usize = 16;

type Edit = Box<dyn Fn(&mut InodeRec) + Send + Sync>;

/// One atomic change. Edits of attributes are closures, because a write may move an inode's times
/// between the moment the record is made and the moment the live inode is brought up to date.
pub struct Tx<'v> {
    volume: &'v Volume,
    pub kv: Txn<'v>,
    working: BTreeMap<Ino, InodeRec>,
    held: BTreeMap<Ino, Arc<Inode>>,
    /// Files whose attributes are ahead of their content: they tell the time of an uncommitted write.
    ahead: BTreeSet<Ino>,
    edits: Vec<(Ino, Edit)>,
    created: Vec<(Ino, ContentRec)>,
    /// New files that are open for writing before anybody else sees them.
    written: Vec<Ino>,
    contents: Vec<Replaced>,
    removed: Vec<Ino>,
    /// Inodes that nobody opens until this change is over.
    leaving: Vec<LeaveGuard>,
    /// Inodes that lose their last name while they are open.
    orphaned: Vec<Ino>,
    touched: Vec<Ino>,
    /// Directories in which a name came or went.
    names: Vec<Ino>,
    /// What the names lead or led to.
    named: Vec<Ino>,
}

/// A content record that a change puts in the place of another one.
struct Replaced {
    inode: Arc<Inode>,
    content: ContentRec,
    /// Whether the bytes are others, too.
    other_bytes: bool,
    _guard: ChangeGuard,
}

impl std::fmt::Debug for Tx<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tx").field("working", &self.working).finish_non_exhaustive()
    }
}

impl<'v> Tx<'v> {
    pub(super) fn new(volume: &'v Volume, kv: Txn<'v>) -> Self {
        Tx {
            volume,
            kv,
            working: BTreeMap::new(),
            held: BTreeMap::new(),
            ahead: BTreeSet::new(),
            edits: Vec::new(),
            created: Vec::new(),
            written: Vec::new(),
            contents: Vec::new(),
            removed: Vec::new(),
            leaving: Vec::new(),
            orphaned: Vec::new(),
            touched: Vec::new(),
            names: Vec::new(),
            named: Vec::new(),
        }
    }

    /// The inode's attributes as this change leaves them.
    pub async fn inode(&mut self, ino: Ino) -> Result<InodeRec, DataError> {
        if let Some(rec) = self.working.get(&ino) {
            return Ok(rec.clone());
        }
        let inode = self.volume.inode(ino).await?;
        let (rec, clean) = {
            let live = inode.live();
            (live.attr.clone(), live.pending.is_clean())
        };
        if !clean {
            self.ahead.insert(ino);
        }
        self.working.insert(ino, rec.clone());
        self.held.insert(ino, inode);
        Ok(rec)
    }

    /// The live inode, pinned until the change is over.
    pub async fn live(&mut self, ino: Ino) -> Result<Arc<Inode>, DataError> {
        self.inode(ino).await?;
        match self.held.get(&ino) {
            Some(inode) => Ok(Arc::clone(inode)),
            None => Err(DataError::Gone(ino)),
        }
    }

    /// Changes attributes; `edit` runs on the record now and on the live inode at the commit, and must
    /// do the same both times: what the clock says is taken before.
    pub async fn edit(
        &mut self,
        ino: Ino,
        edit: impl Fn(&mut InodeRec) + Send + Sync + 'static,
    ) -> Result<(), DataError> {
        let mut rec = self.inode(ino).await?;
        let ahead = self.ahead.remove(&ino);
        if ahead {
            // The host may be lost with the bytes of the write while this record is not: then the object
            // has to show its times all the same.
            let raise = |rec: &mut InodeRec| rec.attr_gen += 1;
            raise(&mut rec);
            self.edits.push((ino, Box::new(raise)));
        }
        edit(&mut rec);
        if ahead && rec.nlink > 0 {
            self.kv.put(keys::work(ino), &WorkRec::Inode);
            self.touched.push(ino);
        }
        self.kv.put(keys::inode(ino), &rec);
        self.working.insert(ino, rec);
        self.edits.push((ino, Box::new(edit)));
        Ok(())
    }

    /// A fresh inode number.
    pub fn new_ino(&mut self) -> Ino {
        self.kv.new_ino()
    }

    /// A new inode without content.
    pub fn create(&mut self, ino: Ino, rec: InodeRec) {
        self.create_with(ino, rec, ContentRec::default());
    }

    /// A new inode with content that already lies in the bucket.
    pub fn create_with(&mut self, ino: Ino, rec: InodeRec, content: ContentRec) {
        self.kv.put(keys::inode(ino), &rec);
        if rec.kind == FileKind::File {
            self.kv.put(keys::content(ino), &content);
            self.kv.superblock.bytes += content.size;
        }
        self.kv.superblock.inodes += 1;
        self.working.insert(ino, rec);
        self.created.push((ino, content));
    }

    /// This new file has a writer from its first moment: it is not settled before that one closes it.
    pub fn open_for_writing(&mut self, ino: Ino) {
        self.written.push(ino);
    }

    /// The same bytes lie elsewhere: another base.
    pub async fn move_content(&mut self, ino: Ino, content: ContentRec) -> Result<(), DataError> {
        self.set_content(ino, content, false).await
    }

    /// Other bytes: nothing cached of the old ones is shown with the new record.
    pub async fn replace_content(
        &mut self,
        ino: Ino,
        content: ContentRec,
    ) -> Result<(), DataError> {
        if self.inode(ino).await?.reserved > 0 {
            self.edit(ino, |rec| rec.reserved = 0).await?;
        }
        self.set_content(ino, content, true).await
    }

    async fn set_content(
        &mut self,
        ino: Ino,
        content: ContentRec,
        other_bytes: bool,
    ) -> Result<(), DataError> {
        let inode = self.live(ino).await?;
        self.kv.put(keys::content(ino), &content);
        let guard = inode.changing();
        self.contents.push(Replaced { inode, content, other_bytes, _guard: guard });
        Ok(())
    }

    /// Whether nobody has an inode open. If so nobody opens it before this change is over, so that it may be
    /// removed.
    pub async fn is_unused(&mut self, ino: Ino) -> Result<bool, DataError> {
        let inode = match Box::pin(self.live(ino)).await {
            Err(DataError::Gone(_)) => return Ok(true),
            live => live?,
        };
        let guard = inode.leaves();
        let unused = guard.is_some();
        self.leaving.extend(guard);
        Ok(unused)
    }

    /// Leaves an inode without a name to its last close.
    pub fn orphan(&mut self, ino: Ino) {
        self.kv.put_raw(keys::orphan(ino), Vec::new());
        self.kv.delete(keys::work(ino));
        self.orphaned.push(ino);
    }

    /// Removes an inode and leaves what hangs on it to the collector.
    pub async fn remove(&mut self, ino: Ino) -> Result<(), DataError> {
        let content: Option<ContentRec> = self.kv.get(&keys::content(ino)).await?;
        let mut content = content.unwrap_or_default();
        if let Some(base) = &content.base {
            self.volume.release_parked(&mut self.kv, base);
        }
        let size = content.size;
        give_up_map(&mut self.kv, ino, &mut content);
        give_up_xattrs(&mut self.kv, ino).await?;
        self.kv.superblock.bytes = self.kv.superblock.bytes.saturating_sub(size);
        self.kv.superblock.inodes = self.kv.superblock.inodes.saturating_sub(1);
        self.kv.delete(keys::inode(ino));
        self.kv.delete(keys::content(ino));
        self.kv.delete(keys::orphan(ino));
        self.kv.delete(keys::work(ino));
        let (mut seen, more) = self.kv.scan(keys::of_inode(keys::RESTS, ino), FEW_RESTS).await?;
        if more {
            seen = self.kv.scan_all(keys::of_inode(keys::RESTS, ino)).await?;
        }
        for (key, _) in seen {
            if let Some(key) = keys::parse_rests(&key) {
                self.needs_tidying(&key);
            }
        }
        self.removed.push(ino);
        Ok(())
    }

    /// What a name leads to.
    pub async fn dirent(
        &self,
        parent: Ino,
        name: &FileName,
    ) -> Result<Option<DirentRec>, DataError> {
        Ok(self.kv.get(&keys::dirent(parent, name)).await?)
    }

    /// Adds a name (over whatever had it).
    pub fn link(&mut self, parent: Ino, name: &FileName, ino: Ino, kind: FileKind) {
        self.kv.put(keys::dirent(parent, name), &DirentRec { ino, kind });
        self.kv.put_raw(keys::parent(ino, parent, name), Vec::new());
        self.names.push(parent);
        self.named.push(ino);
    }

    /// Adds a name that shows the object of another name, which is a directory's.
    pub fn link_beside(&mut self, parent: Ino, name: &FileName, ino: Ino, kind: FileKind) {
        self.link(parent, name, ino, kind);
        self.kv.put_raw(keys::beside(parent, name), Vec::new());
    }

    /// Takes a name away.
    pub fn unlink(&mut self, parent: Ino, name: &FileName, ino: Ino) {
        self.kv.delete(keys::dirent(parent, name));
        self.kv.delete(keys::parent(ino, parent, name));
        self.names.push(parent);
        self.named.push(ino);
        if own_name(name).is_some() {
            self.kv.delete(keys::beside(parent, name));
        }
    }

    /// Queues an inode for settling. A directory whose children have still to move keeps that work.
    pub async fn needs_rest(&mut self, ino: Ino, work: WorkRec) -> Result<(), DataError> {
        let queued: Option<WorkRec> = self.kv.get(&keys::work(ino)).await?;
        if queued != Some(WorkRec::Subtree) {
            self.kv.put(keys::work(ino), &work);
        }
        self.touched.push(ino);
        Ok(())
    }

    /// Queues a key: what lies there may have to go.
    pub fn needs_tidying(&mut self, key: &ObjectKey) {
        self.kv.put_raw(keys::tidy(key), Vec::new());
        self.touched.push(Ino(0));
    }

    /// Hands the change over; see [`Txn::commit`].
    pub async fn commit(self, unique: u64) -> Result<(), DataError> {
        let Tx { volume, kv, working, held, edits, created, contents, .. } = self;
        let (removed, touched, names, named) = (self.removed, self.touched, self.names, self.named);
        let written = self.written;
        let _leaving = self.leaving;
        // Before anybody can read their records, who would make others of the same numbers.
        let mut made = Made { volume, inodes: Vec::new() };
        for (ino, content) in created {
            if let Some(rec) = working.get(&ino)
                && !removed.contains(&ino)
            {
                let inode = volume.new_inode(ino, rec.clone(), content);
                inode.writers.store(u32::from(written.contains(&ino)), Ordering::SeqCst);
                volume.inodes.created(Arc::clone(&inode));
                made.inodes.push(inode);
            }
        }
        kv.commit(Logged::Op { unique }, || {
            made.inodes.clear();
            volume.churn.note(&names);
            volume.dir_keys.changed(&named);
            for replaced in &contents {
                volume.show_content(replaced);
            }
            for (ino, edit) in edits {
                if let Some(inode) = held.get(&ino) {
                    edit(&mut inode.live().attr);
                }
            }
            for ino in removed {
                volume.forget_inode(ino, held.get(&ino));
            }
        })
        .await?;
        if !touched.is_empty() {
            volume.wants_settling(touched);
        }
        // Closed since they were looked at, by somebody who saw a name yet.
        let closed = |ino: &Ino| held.get(ino).is_some_and(|inode: &Arc<Inode>| !inode.is_open());
        if self.orphaned.iter().any(closed) {
            volume.wants_tidying();
        }
        Ok(())
    }
}

/// New inodes of a change that is not made yet. If it is not, they never were.
struct Made<'v> {
    volume: &'v Volume,
    inodes: Vec<Arc<Inode>>,
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        for inode in self.inodes.drain(..) {
            self.volume.inodes.remove(inode.ino);
        }
    }
}

impl Volume {
    /// Brings a live inode to its new content record.
    fn show_content(&self, replaced: &Replaced) {
        let Replaced { inode, content, other_bytes, .. } = replaced;
        // No fetch ends while the guard lives, so nothing old comes back in between.
        if *other_bytes && let Err(error) = self.evict(inode) {
            tracing::warn!(ino = %inode.ino, %error, "cached bytes of a replaced object could not be dropped");
        }
        let mut live = inode.live();
        live.content = content.clone();
        if *other_bytes {
            live.size = live.pending.size_over(content.size);
        }
    }

    /// Drops the live state of an inode that is gone.
    fn forget_inode(&self, ino: Ino, held: Option<&Arc<Inode>>) {
        let from_table = self.inodes.remove(ino);
        self.dirty.lock().remove(&ino);
        if let Some(inode) = held.cloned().or(from_table) {
            let mut live = inode.live();
            live.removed = true;
            let pending = std::mem::take(&mut live.pending);
            self.dirty_adjust(pending.weight(), Weight::default());
            pending.ranges.forget();
            if let Err(error) = live.cache.remove() {
                tracing::warn!(%ino, %error, "a cache file could not be deleted");
            }
        }
        self.meta.journal.lock().removed(ino);
    }
}
