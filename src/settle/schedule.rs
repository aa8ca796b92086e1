//! When each inode is looked at next.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use parking_lot::Mutex;

use crate::types::Ino;

/// Inodes by boot time. One entry an inode; the earlier wish wins unless it is moved.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    by_time: BTreeSet<(Duration, Ino)>,
    by_ino: HashMap<Ino, Duration>,
}

impl Schedule {
    /// Looks at `ino` at `at`, or earlier if that was asked before.
    pub fn by(&self, ino: Ino, at: Duration) {
        let mut inner = self.inner.lock();
        match inner.by_ino.get(&ino) {
            Some(&before) if before <= at => {}
            before => {
                if let Some(&before) = before {
                    inner.by_time.remove(&(before, ino));
                }
                inner.by_ino.insert(ino, at);
                inner.by_time.insert((at, ino));
            }
        }
    }

    /// At most `max` inodes whose time has come, taken out.
    pub fn due(&self, now: Duration, max: usize) -> Vec<Ino> {
        let mut inner = self.inner.lock();
        let due: Vec<(Duration, Ino)> =
            inner.by_time.iter().take_while(|(at, _)| *at <= now).take(max).copied().collect();
        for entry in &due {
            inner.by_time.remove(entry);
            inner.by_ino.remove(&entry.1);
        }
        due.into_iter().map(|(_, ino)| ino).collect()
    }

    pub fn next(&self) -> Option<Duration> {
        self.inner.lock().by_time.first().map(|(at, _)| *at)
    }

    /// Whether the time of so many comes until `at`.
    pub fn has_until(&self, at: Duration, many: usize) -> bool {
        let inner = self.inner.lock();
        inner.by_time.len() >= many
            && inner.by_time.iter().take_while(|(time, _)| *time <= at).take(many).count() == many
    }

    /// Nothing waits for longer than until `at`: it is not to wait for so long any more.
    pub fn all_by(&self, at: Duration) {
        let mut inner = self.inner.lock();
        let later = inner.by_time.split_off(&(at, Ino(u64::MAX)));
        for (_, ino) in later {
            inner.by_time.insert((at, ino));
            inner.by_ino.insert(ino, at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_longer_comes_by_then_and_the_rest_stays() {
        let (schedule, at) = (Schedule::default(), Duration::from_secs);
        for ino in 1..=4 {
            schedule.by(Ino(ino), at(10 * ino));
        }
        schedule.all_by(at(20));
        assert_eq!(schedule.due(at(19), 9), [Ino(1)]);
        assert_eq!(schedule.due(at(20), 9), [Ino(2), Ino(3), Ino(4)]);
        assert_eq!(schedule.next(), None);
    }
}
