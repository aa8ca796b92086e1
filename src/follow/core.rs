//! The parts of a followed volume, and when the bucket is asked for news.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::cache::Cache;
use super::pages::{KernelPages, Pages};
use super::unknown::Unknown;
use super::{Cause, ReadFs};
use crate::clock::{Deadline, boottime};
use crate::config::VolumeOptions;
use crate::data::{Fetching, Trash};
use crate::fault::Mutant;
use crate::fs::FsError;
use crate::meta::records::{InodeRec, SuperRec};
use crate::meta::{Follower, Lookup, View, keys};
use crate::store::{StoreBackend, confined};
use crate::types::{Ino, KeyPrefix, VolumeId};

/// How long the kernel may believe names and attributes.
pub(super) const TTL: Duration = Duration::from_secs(1);
/// Between looks while the volume is used.
const PACE: Duration = Duration::from_secs(2);
/// A request that comes when the last look is older than this waits for a new one: nothing looks
/// while nobody uses the volume. Longer than the pace, so that requests in use do not wait.
const FRESH: Duration = Duration::from_secs(3);
/// The volume is in use while files are open, and this long after the last request.
const USE: Duration = Duration::from_secs(60);
/// A request waits no longer for news than this; then what is known serves, to others too, until a
/// look succeeds again.
const LOOK: Duration = Duration::from_secs(5);
/// In use somebody looks again before the last attempt is so old, also while looks fail. What is older tells
/// nothing of whether the next one would.
const TRIED: Duration = Duration::from_secs(PACE.as_secs() + LOOK.as_secs() + 1);

/// What a followed volume is made of.
#[derive(Debug)]
pub struct FollowParts {
    pub id: VolumeId,
    pub follower: Follower,
    /// The bucket of the objects, and where they start.
    pub store: Arc<dyn StoreBackend>,
    pub prefix: KeyPrefix,
    /// The bucket of the state, and where it starts.
    pub state_store: Arc<dyn StoreBackend>,
    pub state: KeyPrefix,
    pub options: VolumeOptions,
    /// Removed and made anew.
    pub cache_dir: PathBuf,
    /// On the same file system.
    pub trash: Trash,
    /// The kernel's connection was made by a worker that died, so its pages may show anything.
    pub inherited: bool,
}

impl ReadFs {
    /// Puts the parts together.
    ///
    /// # Errors
    /// The folder of the cache, or a volume without a root directory: no writer ever served it.
    pub async fn open(parts: FollowParts) -> Result<Arc<ReadFs>, FsError> {
        let view = parts.follower.view();
        if Lookup::get::<InodeRec>(&*view, &keys::inode(Ino::ROOT)).await?.is_none() {
            return Err(FsError::NotFound);
        }
        let cache = Cache::open(parts.cache_dir, parts.options.cache_size, parts.trash)
            .map_err(|e| FsError::io("the folder of the cache", e))?;
        let now = millis(boottime());
        let confined = |store| confined(store, &parts.prefix, &parts.state);
        let (store, state_store) = (confined(parts.store), confined(parts.state_store));
        Ok(Arc::new(ReadFs {
            id: parts.id,
            follower: parts.follower,
            store,
            prefix: parts.prefix,
            state_store,
            state: parts.state,
            options: parts.options,
            cache,
            fetching: Fetching::default(),
            meters: Arc::default(),
            pages: Pages::new(parts.inherited),
            unknown: Unknown::default(),
            next_handle: AtomicU64::new(1),
            used: AtomicU64::new(now),
            looked: AtomicU64::new(now),
            tried: AtomicU64::new(now),
            seen: AtomicU64::new(view.number()),
            news: Notify::new(),
            trouble: Mutex::new(None),
        }))
    }

    /// Where the kernel is told that its pages are old. Only the first call counts.
    pub fn tell(&self, kernel: Arc<dyn KernelPages>) {
        self.pages.tell(kernel);
    }

    /// Follows the writer until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.news.notified() => {}
                () = tokio::time::sleep(PACE) => {
                    if self.in_use() {
                        self.look().await;
                    }
                }
            }
            let view = self.follower.view();
            if self.seen.swap(view.number(), Ordering::SeqCst) != view.number() {
                self.pages.catch_up(&view).await;
            }
        }
    }

    fn in_use(&self) -> bool {
        let idle = millis(boottime()).saturating_sub(self.used.load(Ordering::Relaxed));
        self.pages.in_use() || idle < millis(USE)
    }

    /// A state that is as new as a request may ask.
    pub(super) async fn fresh(&self) -> Arc<View> {
        let now = millis(boottime());
        self.used.store(now, Ordering::Relaxed);
        let age = |at: &AtomicU64| now.saturating_sub(at.load(Ordering::Relaxed));
        let fails = self.trouble.lock().is_some() && age(&self.tried) <= millis(TRIED);
        let old = age(&self.looked) > millis(FRESH) && !Mutant::FollowerOldView.lives();
        if old && !fails {
            self.look().await;
        }
        self.follower.view()
    }

    async fn look(&self) {
        let began = boottime();
        let polled = self.follower.poll(Deadline::after(LOOK)).await;
        if polled.is_ok() {
            self.looked.store(millis(began), Ordering::Relaxed);
        }
        self.tried.store(millis(boottime()), Ordering::Relaxed);
        self.learned(polled.as_ref().map(|_| ()).map_err(|e| e as Cause<'_>));
    }

    /// Remembers how a look went, and has the kernel's pages follow.
    pub(super) fn learned(&self, looked: Result<(), Cause<'_>>) {
        let mut trouble = self.trouble.lock();
        match looked {
            Ok(()) => {
                if trouble.take().is_some() {
                    tracing::info!("the volume is followed again");
                }
            }
            Err(error) => {
                if trouble.is_none() {
                    tracing::warn!(error, "the writer cannot be followed; what is known serves");
                }
                *trouble = Some(error.to_string());
            }
        }
        drop(trouble);
        if self.follower.view().number() != self.seen.load(Ordering::SeqCst) {
            self.news.notify_one();
        }
    }

    /// Later states have greater numbers.
    pub fn state_number(&self) -> u64 {
        self.follower.view().number()
    }

    /// Why the writer cannot be followed at the moment.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }

    /// Counters of the volume, as far as they are known here.
    pub async fn counters(&self) -> Option<SuperRec> {
        Lookup::get(&*self.follower.view(), &keys::superblock()).await.ok().flatten()
    }

    /// Bytes that the cache takes on the local disk, and how many it may take now.
    pub fn cache_size(&self) -> (u64, u64) {
        self.cache.size()
    }

    /// What came of the requests to the buckets of objects and of the state.
    pub fn stores(&self) -> [&Arc<dyn StoreBackend>; 2] {
        [&self.store, &self.state_store]
    }

    /// Requests to the bucket of the objects since this volume was opened.
    pub fn requests(&self) -> crate::store::RequestCounts {
        self.store.requests()
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
