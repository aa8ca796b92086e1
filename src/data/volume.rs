//! The shared heart of a mounted volume.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::{Mutex as AsyncMutex, Notify};

use super::dir_keys::DirKeys;
use super::neighbours::Neighbours;
use super::series::Series;
use super::whole::Stored;
use super::{
    CacheFile, Churn, DataError, Fetching, Inode, InodeTable, Room, Trash, Tx, Uploads, Volume,
};
use crate::config::{Tuned, VolumeOptions};
use crate::meta::records::{ContentRec, InodeRec, SuperRec};
use crate::meta::{Fold, Meta, Pending, Weight, keys};
use crate::store::{Capabilities, StoreBackend, confined};
use crate::types::{FileKind, Ino, KeyPrefix, Timestamp, VolumeId};

/// What a volume is made of.
#[derive(Debug)]
pub struct VolumeParts {
    pub id: VolumeId,
    pub name: String,
    pub meta: Meta,
    /// The bucket of the objects, and where they start.
    pub store: Arc<dyn StoreBackend>,
    pub prefix: KeyPrefix,
    /// The bucket of the state, and where it starts (`…/.s3vol/v/<uuid>/`).
    pub state_store: Arc<dyn StoreBackend>,
    pub state: KeyPrefix,
    /// Whether both are one bucket through one endpoint.
    pub same_bucket: bool,
    pub options: VolumeOptions,
    pub capabilities: Capabilities,
    pub cache_dir: PathBuf,
    /// On the same file system.
    pub trash: Trash,
}

/// What the local log still knew after a crash of the process.
#[derive(Debug, Default)]
pub struct Recovered {
    pub pending: HashMap<Ino, Pending>,
    pub times: HashMap<Ino, Timestamp>,
    pub opens: HashMap<Ino, u32>,
}

impl From<Fold> for Recovered {
    fn from(fold: Fold) -> Self {
        Recovered { pending: fold.pending, times: fold.times, opens: fold.opens }
    }
}

impl Volume {
    /// Puts the parts together and loads what a crash left uncommitted. The root directory is made on
    /// a volume's first day.
    pub async fn open(parts: VolumeParts, recovered: Recovered) -> Result<Arc<Self>, DataError> {
        let disk = |source| DataError::disk(Ino::ROOT, source);
        std::fs::create_dir_all(&parts.cache_dir).map_err(disk)?;
        let room = Room::new(&parts.cache_dir, parts.options.cache_size, parts.trash.clone());
        let confined = |store| confined(store, &parts.prefix, &parts.state);
        let (store, state_store) = (confined(parts.store), confined(parts.state_store));
        let volume = Arc::new_cyclic(|this| Volume {
            this: Weak::clone(this),
            id: parts.id,
            name: parts.name,
            meta: parts.meta,
            store,
            prefix: parts.prefix,
            state_store,
            state: parts.state,
            same_bucket: parts.same_bucket,
            tuned: RwLock::new(Tuned::of(&parts.options)),
            retuned: Notify::new(),
            options: parts.options,
            capabilities: parts.capabilities,
            inodes: InodeTable::default(),
            meters: Arc::default(),
            cache_dir: parts.cache_dir,
            trash: parts.trash,
            dirty: Mutex::default(),
            dirty_bytes: AtomicU64::new(0),
            dirty_ranges: AtomicU64::new(0),
            room,
            fetching: Fetching::default(),
            programs: Arc::default(),
            evicting: Mutex::default(),
            commit_wanted: Notify::new(),
            block_ended: Notify::new(),
            committed: Notify::new(),
            settle_queue: Mutex::default(),
            settle_wanted: Notify::new(),
            churn: Churn::default(),
            dir_keys: DirKeys::default(),
            scattered: Mutex::default(),
            collecting: AsyncMutex::new(()),
            uploads: Uploads::default(),
            stored: Stored::default(),
            last_error: Mutex::new(None),
            neighbours: Neighbours::default(),
            series: Series::default(),
        });
        let store = Arc::clone(&volume.state_store);
        volume.meta.watch_uplink(move || store.requests().bytes_up);
        volume.clear_cache_except(&recovered.pending)?;
        if volume.meta.get::<InodeRec>(&keys::inode(Ino::ROOT)).await?.is_none() {
            volume.make_root().await?;
        }
        for (ino, pending) in recovered.pending {
            volume.adopt(ino, pending, recovered.times.get(&ino).copied()).await?;
        }
        for (ino, count) in recovered.opens {
            match volume.inode(ino).await {
                Ok(inode) => inode.opens.store(count, Ordering::SeqCst),
                Err(DataError::Gone(_)) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(volume)
    }

    /// The counters of a volume that has none yet.
    pub fn first_superblock() -> SuperRec {
        SuperRec { next_ino: Ino::ROOT.0 + 1, ..SuperRec::default() }
    }

    async fn make_root(self: &Arc<Self>) -> Result<(), DataError> {
        let now = crate::clock::now();
        let root = InodeRec {
            uid: self.options.uid,
            gid: self.options.gid,
            ..InodeRec::new(FileKind::Dir, self.options.dir_mode & 0o7777, now)
        };
        let mut tx = self.begin().await?;
        tx.create(Ino::ROOT, root);
        tx.commit(0).await
    }

    async fn adopt(
        self: &Arc<Self>,
        ino: Ino,
        pending: Pending,
        time: Option<Timestamp>,
    ) -> Result<(), DataError> {
        let inode = match self.inode(ino).await {
            Ok(inode) => inode,
            // Its removal was logged after these changes.
            Err(DataError::Gone(_)) => {
                self.meta.journal.lock().removed(ino);
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        {
            let mut live = inode.live();
            live.cache.adopt();
            live.size = pending.size_over(live.content.size);
            if let Some(time) = time {
                // The fold has it only where no later change of attributes was recorded.
                live.attr.mtime = time;
                live.attr.ctime = live.attr.ctime.max(time);
            }
            self.dirty_adjust(Weight::default(), pending.weight());
            live.pending = pending;
        }
        self.mark_dirty(&inode);
        Ok(())
    }

    fn clear_cache_except(&self, keep: &HashMap<Ino, Pending>) -> Result<(), DataError> {
        let disk = |source| DataError::disk(Ino::ROOT, source);
        if keep.is_empty() {
            self.trash.take(&self.cache_dir).map_err(disk)?;
        }
        std::fs::create_dir_all(&self.cache_dir).map_err(disk)?;
        for shard in std::fs::read_dir(&self.cache_dir).map_err(disk)? {
            let shard = shard.map_err(disk)?;
            if !shard.file_type().map_err(disk)?.is_dir() {
                continue;
            }
            for file in std::fs::read_dir(shard.path()).map_err(disk)? {
                let file = file.map_err(disk)?;
                let needed = file
                    .file_name()
                    .to_str()
                    .and_then(|name| name.parse().ok())
                    .is_some_and(|ino| keep.contains_key(&Ino(ino)));
                if !needed {
                    self.trash.take(&file.path()).map_err(disk)?;
                }
            }
        }
        Ok(())
    }

    /// The live inode of a number.
    pub async fn inode(&self, ino: Ino) -> Result<Arc<Inode>, DataError> {
        loop {
            if let Some(inode) = self.inodes.get(ino) {
                return Ok(inode);
            }
            let ticket = self.inodes.ticket();
            let attr: InodeRec =
                self.meta.get(&keys::inode(ino)).await?.ok_or(DataError::Gone(ino))?;
            let content = match attr.kind {
                FileKind::File => {
                    self.meta.get(&keys::content(ino)).await?.unwrap_or(ContentRec::default())
                }
                _ => ContentRec::default(),
            };
            let inode = Inode::new(ino, attr, content, self.cache_file(ino));
            if let Some(inode) = self.inodes.insert(ticket, inode) {
                return Ok(inode);
            }
        }
    }

    /// An inode that a change has just made.
    pub(super) fn new_inode(&self, ino: Ino, attr: InodeRec, content: ContentRec) -> Arc<Inode> {
        Arc::new(Inode::new(ino, attr, content, self.cache_file(ino)))
    }

    fn cache_file(&self, ino: Ino) -> CacheFile {
        CacheFile::new(&self.cache_dir, ino, Arc::clone(self.room.taken()))
    }

    /// Files that programs can still make, as far as the local disk is concerned: each needs an inode
    /// there until it is in the bucket. `None` when that is not what runs out first.
    pub fn local_files_free(&self) -> Option<u64> {
        self.room.inodes_left().filter(|left| *left < self.room.files())
    }

    /// Begins a change of the namespace or of attributes; see [`Meta::begin`].
    pub async fn begin(&self) -> Result<Tx<'_>, DataError> {
        Ok(Tx::new(self, self.meta.begin().await?))
    }

    /// The same for a removal, which a full local disk does not keep waiting; see [`Meta::begin_owed`].
    pub async fn begin_owed(&self) -> Result<Tx<'_>, DataError> {
        Ok(Tx::new(self, self.meta.begin_owed().await?))
    }

    /// Tells settling that these inodes (or keys below them) may need work.
    pub fn wants_settling(&self, inodes: impl IntoIterator<Item = Ino>) {
        self.settle_queue.lock().extend(inodes);
        self.settle_wanted.notify_one();
    }

    /// Tells settling that there may be keys to tidy, and the collector that there may be orphans.
    pub fn wants_tidying(&self) {
        self.wants_settling([Ino(0)]);
        self.meta.garbage.notify_one();
    }

    /// What changed since the last call.
    pub fn take_settle_queue(&self) -> HashSet<Ino> {
        std::mem::take(&mut *self.settle_queue.lock())
    }

    /// The options that may have been changed since the volume was opened, as they are now.
    pub fn tuned(&self) -> Tuned {
        *self.tuned.read()
    }

    /// Changes them.
    pub fn tune(&self, new: Tuned) {
        *self.tuned.write() = new;
        self.room.allow(new.cache_size);
        self.retuned.notify_one();
    }

    /// Bytes written and in no commit yet.
    pub fn dirty_bytes(&self) -> u64 {
        self.dirty_bytes.load(Ordering::Relaxed)
    }

    /// Bytes that are not in the bucket: written and not committed, or committed in batches that
    /// did not arrive yet.
    pub fn uncommitted_bytes(&self) -> u64 {
        self.dirty_bytes() + self.meta.engine.undurable_bytes()
    }

    /// Inodes with uncommitted changes.
    pub fn dirty_inodes(&self) -> Vec<Arc<Inode>> {
        self.dirty.lock().values().map(|dirty| Arc::clone(&dirty.inode)).collect()
    }

    /// Boot time since when something waits that is not in the bucket: written and not committed, or in a batch
    /// that did not arrive yet, whose time is that of its commit. `None` when there is nothing.
    pub fn uncommitted_since(&self) -> Option<Duration> {
        let written = self.dirty.lock().values().map(|dirty| dirty.since).min();
        [written, self.meta.engine.undurable_since()].into_iter().flatten().min()
    }

    /// Bytes that the cache takes on the local disk, and how many it may take now.
    pub fn cache_size(&self) -> (u64, u64) {
        (self.room.taken().bytes(), self.room.limit())
    }

    /// Remembers the latest trouble for the status.
    pub fn note_error(&self, error: &dyn std::fmt::Display) {
        *self.last_error.lock() = Some(error.to_string());
    }

    pub fn last_error(&self) -> Option<String> {
        self.last_error.lock().clone()
    }
}

impl Volume {
    /// Bytes by which uncommitted changes make files longer than their records say.
    pub fn growth(&self) -> u64 {
        self.dirty
            .lock()
            .values()
            .map(|dirty| {
                let live = dirty.inode.live();
                live.size.saturating_sub(live.content.size)
            })
            .sum()
    }
}
