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
//! | `15` | ino, end offset | [`super::ExtentRec`] | the first extent that reaches past an offset is one seek |
//! | `16` | ino | nothing | unlinked while open |
//! | `20` | object key | [`super::RestRec`] | what we know lies at a key |
//! | `21` | ino | [`super::WorkRec`] | inodes whose rest differs from the tree |
//! | `22` | object key | nothing | keys that may have to go |
//! | `23` | put-id | [`super::IntentRec`] | announced requests without an outcome |
//! | `24` | ino | nothing | extents and xattrs left to drop |
//! | `25` | segment id | [`super::SegmentRec`] | live bytes of a segment |
//! | `26` | segment id | nothing | segments whose object may be deleted |
//! | `27` | ino, object key | nothing | from an inode to the keys where it was last seen |
//! | `28` | parent, name | nothing | names of objects that lie beside a directory of their own name |
//! | `29` | object key | [`super::TombRec`] | attributes of what somebody else removed |
//!
//! Numbers are big-endian, so that byte order is number order.

use std::ops::Bound;

use crate::types::{FileName, Ino, ObjectKey, PutId};

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
    (Bound::Included(from), Bound::Excluded(with_ino(DIRENT, Ino(parent.0 + 1), &[])))
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

/// The key of the extent that ends at `end` (exclusive).
pub fn extent(ino: Ino, end: u64) -> Vec<u8> {
    with_ino(EXTENT, ino, &end.to_be_bytes())
}

/// End offset of an extent's key.
pub fn parse_extent(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.get(9..17)?.try_into().ok()?))
}

/// The extents of `ino` that end after `offset`.
pub fn extents_after(ino: Ino, offset: u64) -> Range {
    (
        Bound::Included(extent(ino, offset.saturating_add(1))),
        Bound::Excluded(with_ino(EXTENT, Ino(ino.0 + 1), &[])),
    )
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

pub fn dead(ino: Ino) -> Vec<u8> {
    with_ino(DEAD, ino, &[])
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
