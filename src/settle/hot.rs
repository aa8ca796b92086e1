//! Keys and inodes that a request without a known outcome may still change.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use parking_lot::Mutex;

use crate::fault::Mutant;
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

/// How much longer than a single request a group of deletions may be under way: a store that works through its keys one
/// after the other may wait for the disks of one before it comes to the next.
pub(super) fn group_lasts() -> Duration {
    crate::fault::duration(crate::fault::GROUP_LASTS, Duration::from_secs(5 * 60))
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
    Duration::from_millis(u64::try_from(left).unwrap_or(0)).min(whole + group_lasts())
}

#[derive(Debug, Clone, Copy)]
struct Open {
    ino: Ino,
    put_id: PutId,
    /// Boot time when the request can no longer arrive; `None` while it is being sent.
    until: Option<Duration>,
    /// It could not be looked at then, and is to be tried again.
    tried: bool,
}

/// The open intents, and how many of them an inode has.
#[derive(Debug, Default)]
struct Opened {
    by_key: HashMap<ObjectKey, Open>,
    by_ino: HashMap<Ino, Count>,
}

#[derive(Debug, Default)]
struct Count {
    open: u32,
    in_flight: u32,
}

impl Opened {
    fn insert(&mut self, key: &ObjectKey, open: Open) {
        self.remove(key);
        let count = self.by_ino.entry(open.ino).or_default();
        count.open += 1;
        count.in_flight += u32::from(open.until.is_none());
        self.by_key.insert(key.clone(), open);
    }

    fn remove(&mut self, key: &ObjectKey) {
        let Some(open) = self.by_key.remove(key) else { return };
        let Entry::Occupied(mut count) = self.by_ino.entry(open.ino) else { return };
        count.get_mut().open -= 1;
        count.get_mut().in_flight -= u32::from(open.until.is_none());
        if count.get().open == 0 {
            count.remove();
        }
    }
}

/// The open intents, by key. Kept in step with the engine's records.
#[derive(Debug, Default)]
pub(super) struct Hot {
    opened: Mutex<Opened>,
    /// Keys whose deletion the store refused, and until when nobody tries again.
    spared: Mutex<HashMap<ObjectKey, Duration>>,
    finished: Mutex<Finished>,
    /// Keys whose deletion is no part of a group any more: one had no clear answer for them.
    alone: Mutex<HashSet<ObjectKey>>,
}

/// How long and how many: a listing takes minutes at the very most.
const KEPT: Duration = Duration::from_secs(600);
const MOST_KEPT: usize = 128 << 10;
/// Keys that go by themselves and are remembered.
const MOST_ALONE: usize = 10_000;

/// When keys were published or deleted last, for listings that were sent before it. Each costs the
/// same, however many there are: a removed tree resolves hundreds of keys a second.
#[derive(Debug, Default)]
struct Finished {
    /// Boot time by the hash of the key: of two keys that share one both count as touched.
    at: HashMap<u64, Duration>,
    order: VecDeque<(Duration, u64)>,
    /// Of keys that were done by then nothing is known any more.
    forgotten: Option<Duration>,
}

impl Finished {
    fn add(&mut self, key: &ObjectKey, now: Duration) {
        let key = hash(key);
        self.at.insert(key, now);
        self.order.push_back((now, key));
        while let Some((at, key)) = self.order.front().copied()
            && (self.order.len() > MOST_KEPT || now.saturating_sub(at) > KEPT)
        {
            self.order.pop_front();
            self.forgotten = self.forgotten.max(Some(at));
            // Unless it was done again since.
            if self.at.get(&key) == Some(&at) {
                self.at.remove(&key);
            }
        }
    }

    /// Whether the key may have been done at or after `since`.
    fn since(&self, key: &ObjectKey, since: Duration) -> bool {
        self.forgotten.is_some_and(|at| at >= since)
            || self.at.get(&hash(key)).is_some_and(|at| *at >= since)
    }
}

fn hash(key: &ObjectKey) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

impl Hot {
    pub fn announce(&self, key: &ObjectKey, ino: Ino, put_id: PutId) {
        self.opened.lock().insert(key, Open { ino, put_id, until: None, tried: false });
    }

    /// Nobody knows what became of it.
    pub fn ambiguous(&self, key: &ObjectKey, ino: Ino, put_id: PutId, until: Duration) {
        let open = Open { ino, put_id, until: Some(until), tried: false };
        self.opened.lock().insert(key, open);
    }

    /// It can no longer arrive, and still nobody knows; the next try is at `again`.
    pub fn undecided(&self, key: &ObjectKey, ino: Ino, put_id: PutId, again: Duration) {
        let open = Open { ino, put_id, until: Some(again), tried: true };
        self.opened.lock().insert(key, open);
    }

    /// When the next request can be decided that was not tried in vain.
    pub fn ripens(&self, now: Duration) -> Option<Duration> {
        let opened = self.opened.lock();
        opened
            .by_key
            .values()
            .filter(|open| !open.tried)
            .filter_map(|open| open.until.filter(|u| *u > now))
            .min()
    }

    pub fn resolved(&self, key: &ObjectKey, now: Duration) {
        self.opened.lock().remove(key);
        self.alone.lock().remove(key);
        self.finished.lock().add(key, now);
    }

    /// There is no such request.
    pub fn forget(&self, put_id: PutId) {
        let mut opened = self.opened.lock();
        let key = opened
            .by_key
            .iter()
            .find(|(_, open)| open.put_id == put_id)
            .map(|(key, _)| key.clone());
        if let Some(key) = key {
            opened.remove(&key);
        }
    }

    pub fn is_hot(&self, key: &ObjectKey) -> bool {
        self.opened.lock().by_key.contains_key(key) && !Mutant::HotKeyIgnored.lives()
    }

    /// Whether its request is being sent just now.
    pub fn is_in_flight(&self, key: &ObjectKey) -> bool {
        self.opened.lock().by_key.get(key).is_some_and(|open| open.until.is_none())
    }

    pub fn inode_is_hot(&self, ino: Ino) -> bool {
        self.opened.lock().by_ino.contains_key(&ino) && !Mutant::HotKeyIgnored.lives()
    }

    /// Whether a request of it is being sent just now.
    pub fn inode_is_in_flight(&self, ino: Ino) -> bool {
        self.opened.lock().by_ino.get(&ino).is_some_and(|count| count.in_flight > 0)
    }

    pub fn spare(&self, key: &ObjectKey, until: Duration) {
        self.spared.lock().insert(key.clone(), until);
    }

    /// The next deletion of this key goes by itself.
    pub fn alone(&self, key: &ObjectKey) {
        let mut alone = self.alone.lock();
        if alone.len() < MOST_ALONE {
            alone.insert(key.clone());
        }
    }

    pub fn goes_alone(&self, key: &ObjectKey) -> bool {
        self.alone.lock().contains(key)
    }

    pub fn is_spared(&self, key: &ObjectKey, now: Duration) -> bool {
        let mut spared = self.spared.lock();
        let waits = spared.get(key).is_some_and(|until| *until > now);
        if !waits {
            spared.remove(key);
        }
        waits
    }

    /// Whether a request of ours was under way at or after `since`.
    pub fn touched_since(&self, key: &ObjectKey, since: Duration) -> bool {
        self.is_hot(key) || self.finished.lock().since(key, since)
    }

    /// What can be decided now, and when the next can.
    pub fn ripe(&self, now: Duration) -> (Vec<PutId>, Option<Duration>) {
        let by_key = &self.opened.lock().by_key;
        let ripe = |open: &&Open| open.until.is_some_and(|until| until <= now);
        let decide = by_key.values().filter(ripe).map(|open| open.put_id).collect();
        let next = by_key.values().filter_map(|open| open.until).filter(|u| *u > now).min();
        (decide, next)
    }

    pub fn len(&self) -> usize {
        self.opened.lock().by_key.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> ObjectKey {
        ObjectKey::new(format!("key {number}"))
    }

    fn millis(number: usize) -> Duration {
        Duration::from_millis(number as u64)
    }

    #[test]
    fn an_inode_is_hot_as_long_as_one_of_its_keys_is() {
        let (hot, [a, b], ino) = (Hot::default(), [key(1), key(2)], Ino(7));
        let ids = [PutId(1), PutId(2)];
        let state = || (hot.inode_is_hot(ino), hot.inode_is_in_flight(ino), hot.len());
        hot.announce(&a, ino, ids[0]);
        hot.announce(&b, ino, ids[1]);
        hot.ambiguous(&a, ino, ids[0], millis(5));
        assert_eq!(state(), (true, true, 2));
        hot.resolved(&b, millis(1));
        assert_eq!(state(), (true, false, 1));
        assert!(hot.is_hot(&a) && !hot.is_in_flight(&a));
        hot.undecided(&a, ino, ids[0], millis(9));
        hot.forget(ids[1]);
        assert_eq!(state(), (true, false, 1));
        hot.forget(ids[0]);
        assert_eq!(state(), (false, false, 0));
    }

    #[test]
    fn few_finished_keys_are_kept_and_none_is_taken_for_untouched() {
        let hot = Hot::default();
        let many = MOST_KEPT + 1000;
        for number in 0..many {
            hot.resolved(&key(number), millis(number));
        }
        assert_eq!(hot.finished.lock().at.len(), MOST_KEPT);
        assert_eq!(hot.finished.lock().order.len(), MOST_KEPT);
        // A listing that was sent before one of them was forgotten.
        assert!(hot.touched_since(&key(500), millis(400)));
        assert!(hot.touched_since(&key(many - 1), millis(many - 1)));
        assert!(!hot.touched_since(&key(many - 1), millis(many)));
        assert!(!hot.touched_since(&key(500), millis(2000)));
    }

    #[test]
    fn finished_keys_are_forgotten_when_no_listing_can_be_older() {
        let hot = Hot::default();
        hot.resolved(&key(1), millis(1));
        hot.resolved(&key(2), millis(2));
        hot.resolved(&key(1), millis(700_000));
        assert_eq!(hot.finished.lock().at.len(), 1);
        assert!(hot.touched_since(&key(1), millis(600_000)));
        assert!(!hot.touched_since(&key(2), millis(600_000)));
    }

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
        // A clock that went back, as far as what a group of deletions may take.
        assert_eq!(left(&store, 50), hot_time(&store) + Duration::from_secs(50));
        assert_eq!(left(&store, -5000), hot_time(&store) + group_lasts());
    }
}
