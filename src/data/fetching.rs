//! How much content is fetched at a time: for readers, for prefetch, and for publishing.
//!
//! A fetch that has a share waits for the store only, and takes no second share: so each wait for a share ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

/// Fetched content of one volume in memory, bytes: what was requested and is not in the cache yet.
pub const MOST: u64 = 32 << 20;
/// The unit of shares, bytes.
const UNIT: u64 = 4 << 10;
/// The window is never less, bytes.
const LEAST_WINDOW: u64 = 512 << 10;

/// In flight at a time, over all files: ranges ahead of streams, ranges of whole-file fetches, prefetched small files,
/// and lookups of what a range consists of, which may load inline content.
const AHEAD: usize = 16;
pub(super) const WHOLE: usize = 4;
const SMALL: usize = 64;
const LOOKS: usize = 2;

/// What may still be fetched.
#[derive(Debug)]
pub struct Fetching {
    asked: Arc<Semaphore>,
    /// The same for prefetch, so that it is in no reader's way.
    beside: Arc<Semaphore>,
    ahead: Arc<Semaphore>,
    whole: Arc<Semaphore>,
    small: Arc<Semaphore>,
    looks: Semaphore,
    streams: Arc<AtomicU64>,
}

/// A file that is being prefetched.
#[derive(Debug)]
pub(super) struct Stream(Arc<AtomicU64>);

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The right to fetch something, held as long as it is in memory.
#[derive(Debug)]
pub struct Share {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Default for Fetching {
    fn default() -> Self {
        let units = || Arc::new(Semaphore::new((MOST / UNIT) as usize));
        let [ahead, whole, small] = [AHEAD, WHOLE, SMALL].map(|n| Arc::new(Semaphore::new(n)));
        let looks = Semaphore::new(LOOKS);
        Fetching {
            asked: units(),
            beside: units(),
            ahead,
            whole,
            small,
            looks,
            streams: Arc::default(),
        }
    }
}

impl Fetching {
    /// Waits until so many bytes may be fetched. Asking for more than the limit gets all of it.
    pub async fn share(&self, bytes: u64) -> Share {
        share_of(&self.asked, bytes).await
    }

    /// The same for prefetch.
    pub async fn share_beside(&self, bytes: u64) -> Share {
        share_of(&self.beside, bytes).await
    }

    /// Slots for ranges ahead of streams.
    pub(super) fn ahead(&self) -> Arc<Semaphore> {
        Arc::clone(&self.ahead)
    }

    /// Slots for ranges of whole-file fetches.
    pub(super) fn whole(&self) -> Arc<Semaphore> {
        Arc::clone(&self.whole)
    }

    /// Counts a file that is being prefetched, as long as the guard lives.
    pub(super) fn stream(&self) -> Stream {
        self.streams.fetch_add(1, Ordering::Relaxed);
        Stream(Arc::clone(&self.streams))
    }

    /// How many of them there are.
    pub(super) fn streams(&self) -> u64 {
        self.streams.load(Ordering::Relaxed)
    }

    /// A slot to look up what a prefetched range consists of.
    pub(super) async fn look(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed.
        self.looks.acquire().await.ok()
    }

    /// Slots for prefetched small files.
    pub(super) fn small(&self) -> Arc<Semaphore> {
        Arc::clone(&self.small)
    }

    /// How far one reader should read ahead now: some is always left for others.
    pub fn window(&self) -> u64 {
        (self.asked.available_permits() as u64 * UNIT / 2).max(LEAST_WINDOW)
    }
}

async fn share_of(semaphore: &Arc<Semaphore>, bytes: u64) -> Share {
    let units = bytes.min(MOST).div_ceil(UNIT) as u32;
    // It is never closed.
    let permit = Arc::clone(semaphore).acquire_many_owned(units).await.ok();
    Share { _permit: permit }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn what_is_fetched_together_has_a_bound() {
        let fetching = Fetching::default();
        assert_eq!(fetching.window(), MOST / 2);
        let half = fetching.share(MOST / 2 + 1).await;
        assert!(fetching.window() < MOST / 4);
        assert!(fetching.share(MOST / 2).now_or_never().is_none());
        let small = fetching.share(1).now_or_never();
        assert!(small.is_some(), "the waiter is gone");
        drop((half, small));
        let all = fetching.share(u64::MAX).now_or_never().expect("as much as there is");
        assert!(fetching.share(1).now_or_never().is_none());
        assert_eq!(fetching.window(), LEAST_WINDOW);
        drop(all);
        assert_eq!(fetching.window(), MOST / 2);
    }
}
