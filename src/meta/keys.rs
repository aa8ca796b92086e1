//! The key layout of the engine, in one place.
//!
//! | prefix | key | value | why it is its own prefix |
//! |---|---|---|---|
//! | `00` | `applied` | epoch, lsn, tick | written with every batch by the engine module |
//! | `02` | – | [`super::SuperRec`] | counters of the volume |
//! | `03` | – | epoch and host of the writer | the first batch of an epoch |
//! | `10` | ino | [`super::InodeRec`] | attributes change without the content |
//! | `11` | ino | [`super::ContentRec`] | written by commits and publishes only |
//! | `12` | parent, hash(name), name | [`super::DirentRec`] | a directory is one range, in cookie order |
//! | `13` | ino, parent, name | nothing | from an inode to its names |
//! | `14` | ino, name | value of an xattr | |
//! | `15` | ino, map, end offset | [`super::ExtentRec`] | the first extent that reaches past an offset is one seek; a whole map is given up at once |
//! | `16` | ino | nothing | unlinked while open |
//! | `20` | object key | [`super::RestRec`] | what we know lies at a key |
//! | `21` | ino | [`super::WorkRec`] | inodes whose rest differs from the tree |
//! | `22` | object key | nothing | keys that may have to go |
//! | `23` | put-id | [`super::IntentRec`] | announced requests without an outcome |
//! | `24` | ino, map | [`super::DeadRec`] | extents or xattrs left to drop |
//! | `25` | segment id | [`super::SegmentRec`] | live bytes of a segment |
//! | `26` | segment id | nothing | segments whose object may be deleted |
//! | `27` | ino, object key | nothing | from an inode to the keys where it was last seen |
//! | `28` | parent, name | nothing | names of objects that lie beside a directory of their own name |
//! | `29` | object key | [`super::TombRec`] | attributes of what somebody else removed |
//! | `2a` | volume, ino | the inode here | only while a volume is rebuilt: which file an object was of before |
//!
//! Numbers are big-endian, so that byte order is number order.

use std::ops::Bound;

use crate::types::{FileName, Ino, ObjectKey, PutId, VolumeId};

pub const SUPER: u8 = 0x02;
pub const OWNER: u8 = 0x03;
pub const INODE: u8 = 0x10;
pub const CONTENT: u8 = 0x11;
pub const DIRENT: u8 = 0x12;
pub const PARENT: u8 = 0x13;
pub const XATTR: u8 = 0x14;
pub const EXTENT: u8 = 0x15;
pub const ORPHAN: u8 = 0x16;
pub const REST: u8 = 0x20;
pub const WORK: u8 = 0x21;
pub const TIDY: u8 = 0x22;
pub const INTENT: u8 = 0x23;
pub const DEAD: u8 = 0x24;
pub const SEGMENT: u8 = 0x25;
pub const GARBAGE: u8 = 0x26;
pub const RESTS: u8 = 0x27;
pub const BESIDE: u8 = 0x28;
pub const TOMB: u8 = 0x29;
pub const FORMER: u8 = 0x2a;

/// Directory cookies 0 to 2 are the start, `.` and `..`.
pub const FIRST_COOKIE: u64 = 3;

fn with_ino(prefix: u8, ino: Ino, rest: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(9 + rest.len());
    key.push(prefix);
    key.extend_from_slice(&ino.0.to_be_bytes());
    key.extend_from_slice(rest);
    key
}

fn with_bytes(prefix: u8, rest: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + rest.len());
    key.push(prefix);
    key.extend_from_slice(rest);
    key
}

pub fn superblock() -> Vec<u8> {
    vec![SUPER]
}

pub fn owner() -> Vec<u8> {
    vec![OWNER]
}

pub fn inode(ino: Ino) -> Vec<u8> {
    with_ino(INODE, ino, &[])
}

pub fn content(ino: Ino) -> Vec<u8> {
    with_ino(CONTENT, ino, &[])
}

/// The place of a name in its directory: FNV-1a, mixed, 62 bits, above the reserved cookies. Two
/// names may share a cookie; readers of a directory never split such a group between two pages.
pub fn cookie(name: &FileName) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for &byte in name.as_bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash ^= hash >> 32;
    hash = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (hash >> 2).max(FIRST_COOKIE)
}

pub fn dirent(parent: Ino, name: &FileName) -> Vec<u8> {
    let mut rest = cookie(name).to_be_bytes().to_vec();
    rest.extend_from_slice(name.as_bytes());
    with_ino(DIRENT, parent, &rest)
}

/// Cookie and name of a dirent's key.
pub fn parse_dirent(key: &[u8]) -> Option<(u64, FileName)> {
    let cookie = u64::from_be_bytes(key.get(9..17)?.try_into().ok()?);
    Some((cookie, FileName::new(key.get(17..)?).ok()?))
}

/// The dirents of `parent` whose cookie is greater than `after`.
pub fn dirents_after(parent: Ino, after: u64) -> Range {
    let from = with_ino(DIRENT, parent, &(after.saturating_add(1)).to_be_bytes());
    (Bound::Included(from), of_inode(DIRENT, parent).1)
}

pub fn parent(ino: Ino, parent: Ino, name: &FileName) -> Vec<u8> {
    let mut rest = parent.0.to_be_bytes().to_vec();
    rest.extend_from_slice(name.as_bytes());
    with_ino(PARENT, ino, &rest)
}

/// Parent and name of a parent key.
pub fn parse_parent(key: &[u8]) -> Option<(Ino, FileName)> {
    let parent = u64::from_be_bytes(key.get(9..17)?.try_into().ok()?);
    Some((Ino(parent), FileName::new(key.get(17..)?).ok()?))
}

pub fn xattr(ino: Ino, name: &[u8]) -> Vec<u8> {
    with_ino(XATTR, ino, name)
}

/// The last part of a key made of a prefix, an inode and bytes.
pub fn after_ino(key: &[u8]) -> &[u8] {
    key.get(9..).unwrap_or_default()
}

/// The inode of a key made of a prefix and an inode.
pub fn parse_ino(key: &[u8]) -> Option<Ino> {
    Some(Ino(u64::from_be_bytes(key.get(1..9)?.try_into().ok()?)))
}

/// The extents of one map of an inode. A file whose content goes begins a new one, and the old one is
/// dropped later, row by row.
fn extent_map(prefix: u8, ino: Ino, map: u64, rest: &[u8]) -> Vec<u8> {
    let mut tail = map.to_be_bytes().to_vec();
    tail.extend_from_slice(rest);
    with_ino(prefix, ino, &tail)
}

/// The key of the extent of a map that ends at `end` (exclusive).
pub fn extent(ino: Ino, map: u64, end: u64) -> Vec<u8> {
    extent_map(EXTENT, ino, map, &end.to_be_bytes())
}

/// Map and end offset of an extent's key.
pub fn parse_extent(key: &[u8]) -> Option<(u64, u64)> {
    let map = u64::from_be_bytes(key.get(9..17)?.try_into().ok()?);
    Some((map, u64::from_be_bytes(key.get(17..25)?.try_into().ok()?)))
}

/// The extents of a map that end after `offset`.
pub fn extents_after(ino: Ino, map: u64, offset: u64) -> Range {
    let (_, to) = below(EXTENT, &extent_map(EXTENT, ino, map, &[])[1..]);
    (Bound::Included(extent(ino, map, offset.saturating_add(1))), to)
}

pub fn orphan(ino: Ino) -> Vec<u8> {
    with_ino(ORPHAN, ino, &[])
}

pub fn rest(key: &ObjectKey) -> Vec<u8> {
    with_bytes(REST, key.as_str().as_bytes())
}

pub fn tidy(key: &ObjectKey) -> Vec<u8> {
    with_bytes(TIDY, key.as_str().as_bytes())
}

/// From an inode to a key where it rests.
pub fn rests(ino: Ino, key: &ObjectKey) -> Vec<u8> {
    with_ino(RESTS, ino, key.as_str().as_bytes())
}

/// The object key of a `rests` key.
pub fn parse_rests(key: &[u8]) -> Option<ObjectKey> {
    Some(ObjectKey::new(std::str::from_utf8(key.get(9..)?).ok()?))
}

/// Says that a name shows the object of another name, which is a directory's.
pub fn beside(parent: Ino, name: &FileName) -> Vec<u8> {
    with_ino(BESIDE, parent, name.as_bytes())
}

pub fn tomb(key: &ObjectKey) -> Vec<u8> {
    with_bytes(TOMB, key.as_str().as_bytes())
}

/// The file that an object was of in another state.
pub fn former(volume: VolumeId, ino: u64) -> Vec<u8> {
    with_bytes(FORMER, &[&volume.0.as_bytes()[..], &ino.to_be_bytes()].concat())
}

/// The object key of a `rest`, `tidy` or `tomb` key.
pub fn parse_object(key: &[u8]) -> Option<ObjectKey> {
    Some(ObjectKey::new(std::str::from_utf8(key.get(1..)?).ok()?))
}

pub fn work(ino: Ino) -> Vec<u8> {
    with_ino(WORK, ino, &[])
}

pub fn intent(put_id: PutId) -> Vec<u8> {
    with_bytes(INTENT, &put_id.0.to_be_bytes())
}

/// What is left to drop of an inode: a map of extents, or its xattrs ([`XATTRS`]).
pub fn dead(ino: Ino, map: u64) -> Vec<u8> {
    extent_map(DEAD, ino, map, &[])
}

/// Inode and map of a dead key.
pub fn parse_dead(key: &[u8]) -> Option<(Ino, u64)> {
    Some((parse_ino(key)?, u64::from_be_bytes(key.get(9..17)?.try_into().ok()?)))
}

/// Stands for the xattrs in a dead key; no map has this number.
pub const XATTRS: u64 = u64::MAX;

/// The rows that a dead key speaks of, from behind the last one that was dropped.
pub fn dead_rows(ino: Ino, map: u64, after: &[u8]) -> Range {
    let prefix = match map {
        XATTRS => with_ino(XATTR, ino, &[]),
        _ => extent_map(EXTENT, ino, map, &[]),
    };
    let (from, to) = below(prefix[0], &prefix[1..]);
    if after.is_empty() {
        (from, to)
    } else {
        (Bound::Excluded([prefix.as_slice(), after].concat()), to)
    }
}

/// What [`dead_rows`] goes on behind, of one of its keys.
pub fn dead_row_id(map: u64, key: &[u8]) -> &[u8] {
    key.get(if map == XATTRS { 9 } else { 17 }..).unwrap_or_default()
}

pub fn segment(id: u128) -> Vec<u8> {
    with_bytes(SEGMENT, &id.to_be_bytes())
}

pub fn garbage(id: u128) -> Vec<u8> {
    with_bytes(GARBAGE, &id.to_be_bytes())
}

/// The id of a `segment` or `garbage` key.
pub fn parse_id(key: &[u8]) -> Option<u128> {
    Some(u128::from_be_bytes(key.get(1..17)?.try_into().ok()?))
}

/// A range of engine keys.
pub type Range = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// Everything that starts with `prefix` and `rest`.
pub fn below(prefix: u8, rest: &[u8]) -> Range {
    let from = with_bytes(prefix, rest);
    let mut to = from.clone();
    while let Some(last) = to.last_mut() {
        if *last == u8::MAX {
            to.pop();
        } else {
            *last += 1;
            return (Bound::Included(from), Bound::Excluded(to));
        }
    }
    (Bound::Included(from), Bound::Unbounded)
}

/// All keys of `prefix` that belong to `ino`.
pub fn of_inode(prefix: u8, ino: Ino) -> Range {
    below(prefix, &ino.0.to_be_bytes())
}

/// Bytes of a table's prefix and an inode.
const OF_INODE: usize = 9;

/// How much of a key names its table and inode, where rows are looked for by inode.
pub fn inode_prefix(key: &[u8]) -> Option<usize> {
    let table = *key.first()?;
    let by_inode = matches!(table, INODE..=ORPHAN | DEAD | RESTS | BESIDE);
    (by_inode && key.len() >= OF_INODE).then_some(OF_INODE)
}

/// Table and inode of a range that lies within the rows of one inode, and whether it goes on to
/// their end.
pub fn within_inode(from: &Bound<Vec<u8>>, to: &Bound<Vec<u8>>) -> Option<(Vec<u8>, bool)> {
    let (Bound::Included(from) | Bound::Excluded(from)) = from else { return None };
    let (Bound::Included(end) | Bound::Excluded(end)) = to else { return None };
    let prefix = &from[..inode_prefix(from)?];
    if end.starts_with(prefix) {
        return Some((prefix.to_vec(), false));
    }
    let next = with_ino(prefix[0], Ino(parse_ino(prefix)?.0.checked_add(1)?), &[]);
    let bare = |key: &[u8]| key.len() - key.iter().rev().take_while(|byte| **byte == 0).count();
    let ends = matches!(to, Bound::Excluded(_)) && end[..bare(end)] == next[..bare(&next)];
    ends.then(|| (prefix.to_vec(), true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_one_inode_is_known_as_one() {
        for number in [7, 0xff, 0xffff, 1 << 40] {
            let ino = Ino(number);
            let prefix = xattr(ino, b"");
            let (from, to) = of_inode(XATTR, ino);
            assert_eq!(within_inode(&from, &to), Some((prefix.clone(), true)), "{number:x}");
            let (from, to) = dirents_after(ino, 12);
            assert!(within_inode(&from, &to).is_some_and(|(_, whole)| whole), "{number:x}");
            let (from, to) = extents_after(ino, 3, 12);
            assert!(within_inode(&from, &to).is_some_and(|(_, whole)| !whole), "{number:x}");
            let two = Bound::Excluded(xattr(Ino(number + 2), b""));
            assert_eq!(within_inode(&Bound::Included(prefix), &two), None);
        }
        let (from, to) = below(EXTENT, &[]);
        assert_eq!(within_inode(&from, &to), None);
        let (from, to) = below(TIDY, b"a long object key");
        assert_eq!(within_inode(&from, &to), None);
    }

    #[test]
    fn the_rows_of_a_map_are_its_own() {
        let ino = Ino(7);
        let (from, to) = dead_rows(ino, 3, &[]);
        let inside =
            |key: Vec<u8>| std::ops::RangeBounds::contains(&(from.clone(), to.clone()), &key);
        assert!(inside(extent(ino, 3, 1)) && inside(extent(ino, 3, u64::MAX)));
        assert!(!inside(extent(ino, 2, u64::MAX)) && !inside(extent(ino, 4, 1)));
        let row = extent(ino, 3, 9);
        let (from, _) = dead_rows(ino, 3, dead_row_id(3, &row));
        assert_eq!(from, Bound::Excluded(row));
        let name = xattr(ino, b"user.a");
        let (from, _) = dead_rows(ino, XATTRS, dead_row_id(XATTRS, &name));
        assert_eq!(from, Bound::Excluded(name));
    }
}
