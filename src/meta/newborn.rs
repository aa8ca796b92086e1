//! Which rows the inodes have that were made since the volume was opened.
//!
//! Most have one name, no xattrs, and rest at one key. So whoever looks for such rows of one inode need not go through
//! the engine's tables: the keys that were put since are remembered, and where it was one, that one is looked at.

use std::collections::HashMap;
use std::ops::Bound;

use parking_lot::Mutex;

use super::keys;
use crate::types::Ino;

/// Tables with few rows for each inode.
const TABLES: [u8; 3] = [keys::PARENT, keys::XATTR, keys::RESTS];
/// When there are more in a table, all are forgotten, and only inodes that are made from then on are new.
const MOST: usize = 32 << 10;

/// The rows of an inode in one table, removed ones among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Rows {
    None,
    /// None but this one, if it was not removed.
    One(Vec<u8>),
    Unknown,
}

/// By table. A leaf lock.
#[derive(Debug)]
pub(super) struct Newborn(Mutex<[Known; TABLES.len()]>);

#[derive(Debug)]
struct Known {
    /// Of lower numbers nothing is known.
    first: u64,
    /// The highest number of which a row was put.
    last: u64,
    /// The only key that was put of an inode; `None`: there was another one.
    rows: HashMap<Ino, Option<Vec<u8>>>,
}

impl Known {
    fn put(&mut self, ino: Ino, key: &[u8]) {
        self.last = self.last.max(ino.0);
        if ino.0 < self.first {
            return;
        }
        if let Some(row) = self.rows.get_mut(&ino) {
            if row.as_deref() != Some(key) {
                *row = None;
            }
        } else if self.rows.len() < MOST {
            self.rows.insert(ino, Some(key.to_vec()));
        } else {
            self.rows = HashMap::new();
            self.first = self.last.saturating_add(1);
        }
    }

    fn rows(&self, ino: Ino) -> Rows {
        if ino.0 < self.first {
            return Rows::Unknown;
        }
        match self.rows.get(&ino) {
            None => Rows::None,
            Some(Some(key)) => Rows::One(key.clone()),
            Some(None) => Rows::Unknown,
        }
    }
}

fn place(key: &[u8]) -> Option<usize> {
    TABLES.iter().position(|table| Some(table) == key.first())
}

impl Newborn {
    /// `first`: lower numbers are of inodes that were there before.
    pub fn from(first: u64) -> Self {
        let known = || Known { first, last: 0, rows: HashMap::new() };
        Newborn(Mutex::new(std::array::from_fn(|_| known())))
    }

    /// A row is being put. It must not be seen before this returns.
    pub fn put(&self, key: &[u8]) {
        if let (Some(table), Some(ino)) = (place(key), keys::parse_ino(key)) {
            self.0.lock()[table].put(ino, key);
        }
    }

    /// The rows of an inode, if the range is all of them in one table.
    pub fn rows(&self, range: &keys::Range) -> Rows {
        let (Bound::Included(from), Bound::Excluded(_)) = range else { return Rows::Unknown };
        let (Some(table), Some(ino)) = (place(from), keys::parse_ino(from)) else {
            return Rows::Unknown;
        };
        match *range == keys::of_inode(TABLES[table], ino) {
            true => self.0.lock()[table].rows(ino),
            false => Rows::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(newborn: &Newborn, table: u8, ino: u64) -> Rows {
        newborn.rows(&keys::of_inode(table, Ino(ino)))
    }

    #[test]
    fn the_only_row_of_a_new_inode_is_known() {
        let newborn = Newborn::from(10);
        assert_eq!(rows(&newborn, keys::XATTR, 9), Rows::Unknown, "an old inode");
        assert_eq!(rows(&newborn, keys::XATTR, 10), Rows::None);
        assert_eq!(rows(&newborn, keys::DIRENT, 10), Rows::Unknown, "a table with many rows");
        let one = keys::xattr(Ino(10), b"user.a");
        newborn.put(&one);
        newborn.put(&one);
        assert_eq!(rows(&newborn, keys::XATTR, 10), Rows::One(one));
        assert_eq!(rows(&newborn, keys::RESTS, 10), Rows::None);
        newborn.put(&keys::xattr(Ino(10), b"user.b"));
        assert_eq!(rows(&newborn, keys::XATTR, 10), Rows::Unknown);
    }

    #[test]
    fn a_part_of_the_rows_is_not_taken_for_all() {
        let newborn = Newborn::from(10);
        let (from, to) = keys::of_inode(keys::XATTR, Ino(10));
        let after = Bound::Excluded(keys::xattr(Ino(10), b"user.a"));
        assert_eq!(newborn.rows(&(after, to)), Rows::Unknown);
        assert_eq!(newborn.rows(&(from, Bound::Unbounded)), Rows::Unknown);
        assert_eq!(newborn.rows(&keys::below(keys::XATTR, &[])), Rows::Unknown);
    }

    #[test]
    fn of_those_that_were_forgotten_nothing_is_known() {
        let newborn = Newborn::from(10);
        for ino in 10..=10 + MOST as u64 {
            newborn.put(&keys::xattr(Ino(ino), b"user.a"));
        }
        let last = 10 + MOST as u64;
        assert_eq!(rows(&newborn, keys::XATTR, last), Rows::Unknown);
        assert_eq!(rows(&newborn, keys::XATTR, last + 1), Rows::None, "made later");
        let key = keys::xattr(Ino(last + 1), b"user.a");
        newborn.put(&key);
        assert_eq!(rows(&newborn, keys::XATTR, last + 1), Rows::One(key));
        assert_eq!(rows(&newborn, keys::RESTS, 10), Rows::None, "another table");
    }
}
