//! A small cache of engine values, so that hits need neither the engine nor a future.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::RwLock;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

/// Values above this are not worth a place.
const LARGEST: usize = 4096;

#[derive(Debug, Clone)]
struct ByBytes;

impl Weighter<Bytes, Option<Bytes>> for ByBytes {
    fn weight(&self, key: &Bytes, value: &Option<Bytes>) -> u64 {
        (key.len() + value.as_ref().map_or(0, Bytes::len) + 64) as u64
    }
}

/// Key to value, absence included. Never older than the engine: a reader that missed may only fill
/// in what it read if nothing was written since it began.
#[derive(Debug)]
pub struct KvCache {
    cache: Cache<Bytes, Option<Bytes>, ByBytes>,
    written: AtomicU64,
    fill: RwLock<()>,
}

impl KvCache {
    /// Holds about `bytes`.
    pub fn new(bytes: u64) -> Self {
        KvCache {
            cache: Cache::with_weighter((bytes / 160) as usize, bytes, ByBytes),
            written: AtomicU64::new(0),
            fill: RwLock::new(()),
        }
    }

    pub fn get(&self, key: &[u8]) -> Option<Option<Bytes>> {
        self.cache.get(key)
    }

    /// To be taken before a read of the engine whose result goes to [`KvCache::fill`].
    pub fn ticket(&self) -> u64 {
        self.written.load(Ordering::SeqCst)
    }

    /// Takes a value that was read from the engine.
    pub fn fill(&self, ticket: u64, key: &[u8], value: &Option<Bytes>) {
        if value.as_ref().is_some_and(|v| v.len() > LARGEST) {
            return;
        }
        let _guard = self.fill.read();
        if self.written.load(Ordering::SeqCst) == ticket {
            self.cache.insert(Bytes::copy_from_slice(key), value.clone());
        }
    }

    /// Takes what a batch wrote, after the engine has it.
    pub fn wrote<'b>(&self, writes: impl Iterator<Item = (&'b Bytes, &'b Option<Bytes>)>) {
        let _guard = self.fill.write();
        self.written.fetch_add(1, Ordering::SeqCst);
        for (key, value) in writes {
            match value {
                Some(v) if v.len() > LARGEST => {
                    self.cache.remove(key);
                }
                value => self.cache.insert(key.clone(), value.clone()),
            }
        }
    }
}
