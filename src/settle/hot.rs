//! Keys and inodes that a request without a known outcome may still change.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;

use crate::store::{Capabilities, Verb};
use crate::types::{Ino, ObjectKey, PutId};

/// How far ahead of the store's clock a request expires.
pub const NOT_AFTER: Duration = Duration::from_secs(20);

/// How long after it was sent a request may still be applied.
pub fn hot_time(store: &Capabilities) -> Duration {
    if store.has(Verb::Expiry) {
        let margin = Duration::from_secs(60);
        NOT_AFTER + crate::fault::duration(crate::fault::HOT_MARGIN, margin)
    } else {
        Duration::from_secs(15 * 60)
    }
}

#[derive(Debug, Clone, Copy)]
struct Open {
    ino: Ino,
    put_id: PutId,
    /// Boot time when the request can no longer arrive; `None` while it is being sent.
    until: Option<Duration>,
}

/// The open intents, by key. Kept in step with the engine's records.
#[derive(Debug, Default)]
pub(super) struct Hot {
    by_key: Mutex<HashMap<ObjectKey, Open>>,
    /// Boot time of the last publish or deletion of a key, for listings that were sent before it.
    finished: Mutex<HashMap<ObjectKey, Duration>>,
}

impl Hot {
    pub fn announce(&self, key: &ObjectKey, ino: Ino, put_id: PutId) {
        self.by_key.lock().insert(key.clone(), Open { ino, put_id, until: None });
    }

    /// Nobody knows what became of it.
    pub fn ambiguous(&self, key: &ObjectKey, ino: Ino, put_id: PutId, until: Duration) {
        self.by_key.lock().insert(key.clone(), Open { ino, put_id, until: Some(until) });
    }

    pub fn resolved(&self, key: &ObjectKey, now: Duration) {
        self.by_key.lock().remove(key);
        let mut finished = self.finished.lock();
        finished.insert(key.clone(), now);
        if finished.len() > 10_000 {
            // A listing takes minutes at the very most.
            finished.retain(|_, at| now.saturating_sub(*at) < Duration::from_secs(600));
        }
    }

    pub fn is_hot(&self, key: &ObjectKey) -> bool {
        self.by_key.lock().contains_key(key)
    }

    pub fn inode_is_hot(&self, ino: Ino) -> bool {
        self.by_key.lock().values().any(|open| open.ino == ino)
    }

    /// Whether a request of ours was under way at or after `since`.
    pub fn touched_since(&self, key: &ObjectKey, since: Duration) -> bool {
        self.is_hot(key) || self.finished.lock().get(key).is_some_and(|at| *at >= since)
    }

    /// What can be decided now, and when the next can.
    pub fn ripe(&self, now: Duration) -> (Vec<PutId>, Option<Duration>) {
        let by_key = self.by_key.lock();
        let ripe = |open: &&Open| open.until.is_some_and(|until| until <= now);
        let decide = by_key.values().filter(ripe).map(|open| open.put_id).collect();
        let next = by_key.values().filter_map(|open| open.until).filter(|u| *u > now).min();
        (decide, next)
    }

    pub fn len(&self) -> usize {
        self.by_key.lock().len()
    }
}
