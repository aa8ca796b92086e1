//! What inodes made since the volume was opened can have.
//!
//! Most have no xattrs and never rested, and are removed as they were made. Whoever removes one need not
//! look for such rows: those that were put since are remembered.

use std::collections::HashSet;

use parking_lot::Mutex;

use super::keys;
use crate::types::Ino;

/// Tables with a few rows for few inodes.
const TABLES: [u8; 2] = [keys::XATTR, keys::RESTS];
/// More than this is not remembered; then every inode may have rows.
const MOST: usize = 64 << 10;

/// A leaf lock.
#[derive(Debug)]
pub(super) struct Newborn {
    /// Lower numbers are of inodes that were there before.
    first: u64,
    /// Table and inode of rows that were put.
    rows: Mutex<Option<HashSet<(u8, Ino)>>>,
}

impl Newborn {
    pub fn from(first: u64) -> Self {
        Newborn { first, rows: Mutex::new(Some(HashSet::new())) }
    }

    /// A row is being put.
    pub fn put(&self, key: &[u8]) {
        let Some(table) = key.first().filter(|table| TABLES.contains(table)) else { return };
        let Some(ino) = keys::parse_ino(key).filter(|ino| ino.0 >= self.first) else { return };
        let mut rows = self.rows.lock();
        if let Some(known) = rows.as_mut() {
            known.insert((*table, ino));
            if known.len() > MOST {
                *rows = None;
            }
        }
    }

    /// Whether this table can have rows of the inode.
    pub fn may_have(&self, table: u8, ino: Ino) -> bool {
        ino.0 < self.first
            || !TABLES.contains(&table)
            || self.rows.lock().as_ref().is_none_or(|rows| rows.contains(&(table, ino)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_new_inodes_without_rows_are_known_to_have_none() {
        let newborn = Newborn::from(10);
        assert!(newborn.may_have(keys::XATTR, Ino(9)));
        assert!(!newborn.may_have(keys::XATTR, Ino(10)));
        assert!(newborn.may_have(keys::PARENT, Ino(10)));
        newborn.put(&keys::xattr(Ino(10), b"user.a"));
        assert!(newborn.may_have(keys::XATTR, Ino(10)));
        assert!(!newborn.may_have(keys::RESTS, Ino(10)));
        for ino in 0..2 * MOST as u64 {
            newborn.put(&keys::xattr(Ino(1000 + ino), b"user.a"));
        }
        assert!(newborn.may_have(keys::RESTS, Ino(10)), "nobody knows any more");
    }
}
