//! Where the queues of the engine begin.
//!
//! A queue is a table whose rows come and go. What went leaves a tombstone, and whoever looks for the
//! first row goes over all of them until they are compacted. So it is remembered, in memory, below which
//! key a queue is known to have no rows.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::keys;

/// Tables that are read from their beginning again and again.
const QUEUES: [u8; 6] =
    [keys::ORPHAN, keys::WORK, keys::TIDY, keys::DEAD, keys::GARBAGE, keys::TOMB];

/// The first key that each queue may have. A leaf lock.
#[derive(Debug, Default)]
pub(super) struct Floors(Mutex<HashMap<u8, Queue>>);

#[derive(Debug, Default)]
struct Queue {
    floor: Vec<u8>,
    /// Looks at its beginning that are under way.
    looking: u32,
    /// The smallest key that was put since the first of them began.
    put: Option<Vec<u8>>,
}

/// A look at the beginning of a queue. Only [`Look::found`] raises the floor.
pub(super) struct Look<'f> {
    floors: &'f Floors,
    queue: u8,
    pub floor: Vec<u8>,
}

impl Floors {
    /// The first key that `queue` may have; empty when nobody knows.
    pub fn floor(&self, queue: u8) -> Vec<u8> {
        self.0.lock().get(&queue).map(|queue| queue.floor.clone()).unwrap_or_default()
    }

    pub fn look(&self, queue: u8) -> Look<'_> {
        let mut queues = self.0.lock();
        let known = queues.entry(queue).or_default();
        known.looking += 1;
        Look { floors: self, queue, floor: known.floor.clone() }
    }

    /// A row was put, and readers see it.
    pub fn put(&self, key: &[u8]) {
        let Some(&table) = key.first() else { return };
        if !QUEUES.contains(&table) {
            return;
        }
        let mut queues = self.0.lock();
        let queue = queues.entry(table).or_default();
        if queue.floor.as_slice() > key {
            queue.floor = key.to_vec();
        }
        if queue.looking > 0 && queue.put.as_deref().is_none_or(|put| put > key) {
            queue.put = Some(key.to_vec());
        }
    }
}

impl Look<'_> {
    /// Nothing lies below `first`, as far as the look went.
    pub fn found(&self, first: Vec<u8>) {
        let mut queues = self.floors.0.lock();
        let queue = queues.entry(self.queue).or_default();
        let first = match &queue.put {
            Some(put) if *put < first => put.clone(),
            _ => first,
        };
        if first > queue.floor {
            queue.floor = first;
        }
    }
}

impl Drop for Look<'_> {
    fn drop(&mut self) {
        let mut queues = self.floors.0.lock();
        let queue = queues.entry(self.queue).or_default();
        queue.looking -= 1;
        if queue.looking == 0 {
            queue.put = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8) -> Vec<u8> {
        vec![keys::TIDY, number]
    }

    #[test]
    fn the_floor_rises_with_what_is_found_and_falls_with_what_is_put() {
        let floors = Floors::default();
        assert_eq!(floors.floor(keys::TIDY), Vec::<u8>::new());
        floors.look(keys::TIDY).found(key(9));
        assert_eq!(floors.floor(keys::TIDY), key(9));
        floors.put(&key(4));
        assert_eq!(floors.floor(keys::TIDY), key(4));
        floors.put(&key(7));
        assert_eq!(floors.floor(keys::TIDY), key(4));
        assert_eq!(floors.floor(keys::WORK), Vec::<u8>::new());
    }

    #[test]
    fn what_is_put_during_a_look_is_not_lost() {
        let floors = Floors::default();
        let (look, other) = (floors.look(keys::TIDY), floors.look(keys::TIDY));
        floors.put(&key(3));
        look.found(key(9));
        assert_eq!(floors.floor(keys::TIDY), key(3));
        drop(look);
        other.found(key(8));
        assert_eq!(floors.floor(keys::TIDY), key(3));
        drop(other);
        floors.look(keys::TIDY).found(key(5));
        assert_eq!(floors.floor(keys::TIDY), key(5));
    }
}
