//! Keys and inodes that a request without a known outcome may still change.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;

use crate::store::{Capabilities, Verb};
use crate::types::{Ino, ObjectKey, PutId, StoreTime};

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

/// How much longer a request of an earlier run may be applied, which expires at `not_after` by the
/// clock of the store, where it is `now`. A store that does not look at the expiry gets its whole time.
pub(super) fn time_left(store: &Capabilities, not_after: StoreTime, now: StoreTime) -> Duration {
    let whole = hot_time(store);
    if !store.has(Verb::Expiry) {
        return whole;
    }
    let margin = whole.saturating_sub(NOT_AFTER).as_millis() as i64;
    let left = not_after.0.saturating_add(margin).saturating_sub(now.0);
    Duration::from_millis(u64::try_from(left).unwrap_or(0)).min(whole)
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

    /// There is no such request.
    pub fn forget(&self, put_id: PutId) {
        self.by_key.lock().retain(|_, open| open.put_id != put_id);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_a_request_is_told_by_the_stores_clock() {
        let mut store = Capabilities::default();
        let seconds = |n: i64| StoreTime(n * 1000);
        let left = |store: &Capabilities, now| time_left(store, seconds(120), seconds(now));
        assert_eq!(left(&store, 1000), hot_time(&store));
        store.0.insert(Verb::Expiry);
        // Announced at 100 s.
        assert_eq!(left(&store, 100), hot_time(&store));
        assert_eq!(left(&store, 130), hot_time(&store) - Duration::from_secs(30));
        assert_eq!(left(&store, 1000), Duration::ZERO);
        // A clock that went back.
        assert_eq!(left(&store, 50), hot_time(&store));
    }
}
