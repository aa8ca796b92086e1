//! The keys of directories, remembered: whoever makes or removes a name in one wants it, and finding it
//! out is a look for each directory above.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::types::Ino;

/// More are forgotten, all at once.
const MOST: usize = 4096;

/// Keys of linked directories as of the last change of names. A leaf lock.
#[derive(Debug, Default)]
pub(super) struct DirKeys(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    keys: HashMap<Ino, String>,
    /// Grows with every change of names: what was found out before one may be wrong after it.
    changes: u64,
}

impl DirKeys {
    pub fn get(&self, dir: Ino) -> Option<String> {
        self.0.lock().keys.get(&dir).cloned()
    }

    /// To be taken before a key is found out for [`DirKeys::keep`].
    pub fn ticket(&self) -> u64 {
        self.0.lock().changes
    }

    /// Takes the keys of a directory and of all above it: when one of those moves, this one does, too.
    pub fn keep<'k>(&self, ticket: u64, chain: impl Iterator<Item = (Ino, &'k str)>) {
        let mut known = self.0.lock();
        if known.changes != ticket {
            return;
        }
        if known.keys.len() >= MOST {
            known.keys.clear();
        }
        known.keys.extend(chain.map(|(dir, key)| (dir, key.to_owned())));
    }

    /// These got or lost a name. If one of them is a directory, so did all below it.
    pub fn changed(&self, inodes: &[Ino]) {
        let mut known = self.0.lock();
        known.changes += u64::from(!inodes.is_empty());
        if inodes.iter().any(|ino| known.keys.contains_key(ino)) {
            known.keys.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_known_until_a_directory_moves() {
        let keys = DirKeys::default();
        let chain = [(Ino(2), "a/"), (Ino(3), "a/b/")];
        keys.keep(keys.ticket(), chain.into_iter());
        keys.changed(&[Ino(7)]);
        assert_eq!(keys.get(Ino(2)).as_deref(), Some("a/"), "a file came or went");
        keys.changed(&[Ino(2)]);
        assert_eq!((keys.get(Ino(2)), keys.get(Ino(3))), (None, None));
        let ticket = keys.ticket();
        keys.changed(&[Ino(9)]);
        keys.keep(ticket, chain.into_iter());
        assert_eq!(keys.get(Ino(2)), None, "it was found out before the change");
    }
}
