//! Why files stay in motion, for the status.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::types::Ino;

/// The status shows a few; a tree of keys that are too long must not cost memory for each.
const MOST: usize = 1000;

#[derive(Debug, Default)]
pub(super) struct Reasons(HashMap<Ino, String>);

impl Reasons {
    /// Whether this is worth a line in the log: it is not when it was known, nor when there are very many.
    pub fn insert(&mut self, ino: Ino, why: &str) -> bool {
        let full = self.0.len() >= MOST;
        match self.0.entry(ino) {
            Entry::Occupied(known) if known.get() == why => false,
            Entry::Occupied(mut known) => {
                why.clone_into(known.get_mut());
                true
            }
            Entry::Vacant(_) if full => false,
            Entry::Vacant(free) => {
                free.insert(why.to_owned());
                true
            }
        }
    }

    pub fn remove(&mut self, ino: Ino) {
        self.0.remove(&ino);
    }

    pub fn has(&self, ino: Ino) -> bool {
        self.0.contains_key(&ino)
    }

    pub fn some(&self, most: usize) -> Vec<String> {
        self.0.values().take(most).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_news_once_and_few_are_kept() {
        let mut reasons = Reasons::default();
        assert!(reasons.insert(Ino(1), "a"));
        assert!(!reasons.insert(Ino(1), "a"));
        assert!(reasons.insert(Ino(1), "b"));
        for number in 0..5 * MOST as u64 {
            reasons.insert(Ino(number), "c");
        }
        assert_eq!(reasons.some(usize::MAX).len(), MOST);
        assert!(!reasons.insert(Ino(1 << 40), "d"));
        reasons.remove(Ino(1));
        assert!(reasons.insert(Ino(1 << 40), "d"));
    }
}
