//! How much content is fetched at a time: for readers, for reading ahead, and for what is published.
//!
//! Whoever has a share waits for the store and for nobody here, and asks for no second one: so everybody who
//! waits for a share gets it.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Fetched content of one volume in memory, bytes: what was asked for and has not found its place in the cache
/// yet.
pub const MOST: u64 = 32 << 20;
/// What shares are counted in, bytes.
const UNIT: u64 = 4 << 10;
/// Reading ahead is never less, bytes.
const LEAST_WINDOW: u64 = 512 << 10;

/// What may still be fetched.
#[derive(Debug)]
pub struct Fetching(Arc<Semaphore>);

/// The right to fetch something, as long as it is in memory.
#[derive(Debug)]
pub struct Share {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Default for Fetching {
    fn default() -> Self {
        Fetching(Arc::new(Semaphore::new((MOST / UNIT) as usize)))
    }
}

impl Fetching {
    /// Waits until so many bytes may be fetched. Who wants more than there may be at all has everything.
    pub async fn share(&self, bytes: u64) -> Share {
        let units = bytes.min(MOST).div_ceil(UNIT) as u32;
        // It is never closed.
        let permit = Arc::clone(&self.0).acquire_many_owned(units).await.ok();
        Share { _permit: permit }
    }

    /// How far one reader should read ahead now: some is always left to others.
    pub fn window(&self) -> u64 {
        (self.0.available_permits() as u64 * UNIT / 2).max(LEAST_WINDOW)
    }
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
        assert!(small.is_some(), "nobody waits any more");
        drop((half, small));
        let all = fetching.share(u64::MAX).now_or_never().expect("as much as there is");
        assert!(fetching.share(1).now_or_never().is_none());
        assert_eq!(fetching.window(), LEAST_WINDOW);
        drop(all);
        assert_eq!(fetching.window(), MOST / 2);
    }
}
