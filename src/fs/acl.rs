//! POSIX access control lists: what they do to modes, and what they pass on to new inodes.
//!
//! The kernel judges permissions by them; it leaves to the file system that the mode and the access
//! list always say the same (POSIX.1e draft 17, acl(5)), and inheritance.

use super::{Fs, FsError};
use crate::data::Tx;
use crate::meta::keys;
use crate::types::{FileKind, Ino};

pub(super) const ACCESS: &[u8] = b"system.posix_acl_access";
pub(super) const DEFAULT: &[u8] = b"system.posix_acl_default";

/// linux/posix_acl_xattr.h: the version that heads a value, then entries of tag, permissions and id.
const VERSION: u32 = 2;
const HEADER: usize = 4;
const ENTRY: usize = 8;

const USER_OBJ: u16 = 0x01;
const GROUP_OBJ: u16 = 0x04;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    tag: u16,
    perm: u16,
    id: u32,
}

/// One list, as the kernel sends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Acl {
    entries: Vec<Entry>,
}

impl Acl {
    /// Reads an xattr's value. The kernel has checked what it means already; this checks that it is
    /// one, since a mode is made from it.
    pub fn parse(value: &[u8]) -> Result<Self, FsError> {
        const INVALID: FsError = FsError::Invalid("access control list");
        let (head, rest) = value.split_first_chunk::<HEADER>().ok_or(INVALID)?;
        if u32::from_le_bytes(*head) != VERSION || rest.len() % ENTRY != 0 {
            return Err(INVALID);
        }
        let entries: Vec<Entry> = rest
            .chunks_exact(ENTRY)
            .map(|e| Entry {
                tag: u16::from_le_bytes([e[0], e[1]]),
                perm: u16::from_le_bytes([e[2], e[3]]) & 7,
                id: u32::from_le_bytes([e[4], e[5], e[6], e[7]]),
            })
            .collect();
        let acl = Acl { entries };
        let whole = [USER_OBJ, GROUP_OBJ, OTHER].into_iter().all(|tag| acl.perm(tag).is_some());
        if whole { Ok(acl) } else { Err(INVALID) }
    }

    pub fn value(&self) -> Vec<u8> {
        let mut value = VERSION.to_le_bytes().to_vec();
        for entry in &self.entries {
            value.extend_from_slice(&entry.tag.to_le_bytes());
            value.extend_from_slice(&entry.perm.to_le_bytes());
            value.extend_from_slice(&entry.id.to_le_bytes());
        }
        value
    }

    fn perm(&self, tag: u16) -> Option<u32> {
        self.entries.iter().find(|e| e.tag == tag).map(|e| u32::from(e.perm))
    }

    fn entry(&mut self, tag: u16) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|e| e.tag == tag)
    }

    /// The entry that the mode's group bits stand for.
    fn group_class(&self) -> u16 {
        if self.perm(MASK).is_some() { MASK } else { GROUP_OBJ }
    }

    /// The nine bits of a mode that say the same, as far as a mode can.
    pub fn mode(&self) -> u32 {
        let bits = |tag| self.perm(tag).unwrap_or(0);
        bits(USER_OBJ) << 6 | bits(self.group_class()) << 3 | bits(OTHER)
    }

    /// Whether a mode says all of it, so that no list needs to be kept.
    pub fn is_a_mode(&self) -> bool {
        self.entries.iter().all(|e| matches!(e.tag, USER_OBJ | GROUP_OBJ | OTHER))
    }

    /// chmod of a file that has this list.
    pub fn set_mode(&mut self, mode: u32) {
        let group = self.group_class();
        for (tag, shift) in [(USER_OBJ, 6), (group, 3), (OTHER, 0)] {
            if let Some(entry) = self.entry(tag) {
                entry.perm = (mode >> shift & 7) as u16;
            }
        }
    }

    /// Makes a default list the access list of a new inode that was asked for with `mode`.
    pub fn inherit(&mut self, mode: u32) {
        let group = self.group_class();
        for (tag, shift) in [(USER_OBJ, 6), (group, 3), (OTHER, 0)] {
            if let Some(entry) = self.entry(tag) {
                entry.perm &= (mode >> shift & 7) as u16;
            }
        }
    }
}

/// What a new inode gets from its directory.
pub(super) struct Inherited {
    pub perm: u32,
    access: Option<Vec<u8>>,
    default: Option<Vec<u8>>,
}

impl Fs {
    /// A directory's default list takes the place of the umask.
    pub(super) async fn inherit(
        &self,
        tx: &Tx<'_>,
        parent: Ino,
        kind: FileKind,
        perm: u32,
        umask: u32,
    ) -> Result<Inherited, FsError> {
        let plain = |perm| Inherited { perm, access: None, default: None };
        if kind == FileKind::Symlink {
            return Ok(plain(perm));
        }
        let Some(default) = tx.kv.get_raw(&keys::xattr(parent, DEFAULT)).await? else {
            return Ok(plain(perm & !umask));
        };
        let mut acl = Acl::parse(&default)?;
        acl.inherit(perm);
        Ok(Inherited {
            perm: perm & !0o777 | acl.mode(),
            access: (!acl.is_a_mode()).then(|| acl.value()),
            default: (kind == FileKind::Dir).then(|| default.to_vec()),
        })
    }

    /// The access list of an inode whose mode is about to become `perm`.
    pub(super) async fn chmod_acl(
        &self,
        tx: &mut Tx<'_>,
        ino: Ino,
        perm: u32,
    ) -> Result<(), FsError> {
        let key = keys::xattr(ino, ACCESS);
        if let Some(value) = tx.kv.get_raw(&key).await? {
            let mut acl = Acl::parse(&value)?;
            acl.set_mode(perm);
            tx.kv.put_raw(key, acl.value());
        }
        Ok(())
    }
}

impl Inherited {
    pub fn store(self, tx: &mut Tx<'_>, ino: Ino) {
        for (name, value) in [(ACCESS, self.access), (DEFAULT, self.default)] {
            if let Some(value) = value {
                tx.kv.put_raw(keys::xattr(ino, name), value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: u16 = 0x02;

    fn acl(entries: &[(u16, u16, u32)]) -> Acl {
        let entries = entries.iter().map(|&(tag, perm, id)| Entry { tag, perm, id }).collect();
        Acl { entries }
    }

    fn named() -> Acl {
        acl(&[(USER_OBJ, 7, 0), (USER, 6, 12), (GROUP_OBJ, 5, 0), (MASK, 7, 0), (OTHER, 1, 0)])
    }

    #[test]
    fn values_round_trip_and_damaged_ones_are_refused() {
        let value = named().value();
        assert_eq!(value.len(), HEADER + 5 * ENTRY);
        assert_eq!(Acl::parse(&value).unwrap(), named());
        for end in 0..value.len() {
            assert!(Acl::parse(&value[..end]).is_err(), "{end} bytes");
        }
        let mut other_version = value;
        other_version[0] = 1;
        assert!(Acl::parse(&other_version).is_err());
    }

    #[test]
    fn the_mask_is_the_group_of_the_mode() {
        assert_eq!(named().mode(), 0o771);
        assert!(!named().is_a_mode());
        let plain = acl(&[(USER_OBJ, 6, 0), (GROUP_OBJ, 4, 0), (OTHER, 0, 0)]);
        assert_eq!(plain.mode(), 0o640);
        assert!(plain.is_a_mode());
        let mut changed = named();
        changed.set_mode(0o640);
        assert_eq!(changed.perm(MASK), Some(4));
        assert_eq!(changed.perm(GROUP_OBJ), Some(5));
        assert_eq!(changed.mode(), 0o640);
    }

    #[test]
    fn a_new_inode_gets_no_more_than_was_asked_for() {
        let mut inherited = named();
        inherited.inherit(0o660);
        assert_eq!(inherited.mode(), 0o660);
        assert_eq!(inherited.perm(USER), Some(6));
        assert_eq!(inherited.perm(GROUP_OBJ), Some(5));
    }
}
