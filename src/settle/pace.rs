//! How inodes were published last, so that what changes all the time is not sent all the time.

use std::collections::HashMap;
use std::time::Duration;

use crate::types::Ino;

#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    pub at: Duration,
    pub took: Duration,
}

/// The latest inodes that are remembered at least; at most there are twice as many. To forget one
/// only publishes it earlier.
const LATEST: usize = 50_000;

#[derive(Debug, Default)]
pub(super) struct Paces {
    young: HashMap<Ino, Pace>,
    old: HashMap<Ino, Pace>,
}

impl Paces {
    pub fn insert(&mut self, ino: Ino, pace: Pace) {
        if self.young.len() >= LATEST {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(ino, pace);
    }

    pub fn get(&self, ino: Ino) -> Option<Pace> {
        self.young.get(&ino).or_else(|| self.old.get(&ino)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_are_remembered() {
        let mut paces = Paces::default();
        let pace = |number| Pace { at: Duration::from_millis(number), took: Duration::ZERO };
        let many = 5 * LATEST as u64;
        for number in 0..many {
            paces.insert(Ino(number), pace(number));
            paces.insert(Ino(0), pace(number));
        }
        assert!(paces.young.len() + paces.old.len() <= 2 * LATEST);
        assert_eq!(paces.get(Ino(0)).map(|pace| pace.at), Some(pace(many - 1).at));
        assert!(paces.get(Ino(many - LATEST as u64 + 1)).is_some());
        assert!(paces.get(Ino(1)).is_none());
    }
}
