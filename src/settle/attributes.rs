//! The attributes that an object shows, in the dialects of other tools.
//!
//! Written: s3fs's (`mode` decimal st_mode, `uid`, `gid`, `mtime` decimal seconds with a fraction; its
//! metaheader.cpp; `xattr`, a percent-encoded JSON object of base64 values), and our own marks. Read: s3fs's, AWS's (DataSync, File Gateway, FSx:
//! `file-permissions` octal st_mode, `file-owner`, `file-group`, `file-mtime` integer with `ns`), and
//! Google's (`goog-reserved-posix-mode` octal, `-uid`, `-gid`, `goog-reserved-file-mtime`).

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use sha2::{Digest, Sha256};

use crate::data::BORNE;
use crate::meta::records::InodeRec;
use crate::store::{Attributes, METADATA_MAX};
use crate::types::{
    ATTR_INODE, ATTR_KEY, ATTR_PUT, ATTR_VOLUME, FileKind, Ino, ObjectKey, PutId, Timestamp,
    VolumeId, hex,
};

/// What an object says about the file that it is; `None` where it says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shown {
    pub kind: Option<FileKind>,
    pub perm: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub mtime: Option<Timestamp>,
    pub rdev: Option<u32>,
    pub xattrs: Vec<Xattr>,
}

/// Name and value of an extended attribute.
pub type Xattr = (Bytes, Bytes);

/// What extended attributes may take of an object's metadata at most, encoded. More than that lives in
/// the index alone.
const MAX_XATTRS: usize = 1200;
const XATTR: &str = "xattr";
/// Of the largest number of an inode.
const INODE_DIGITS: usize = 20;

/// The mark that ties a put to its key, so that a copy of the object elsewhere is not taken for ours:
/// the first 16 bytes of the key's SHA-256, in hexadecimal.
pub fn key_mark(key: &ObjectKey) -> String {
    let digest = Sha256::digest(key.as_str().as_bytes());
    hex(&digest[..16])
}

/// What every object that we publish tells.
pub fn to_object(
    (ino, rec): (Ino, &InodeRec),
    key: &ObjectKey,
    volume: VolumeId,
    put_id: PutId,
) -> Attributes {
    let mut attributes = Attributes::new();
    attributes.insert("mode".into(), (rec.kind.mode_bits() | rec.perm).to_string());
    attributes.insert("uid".into(), rec.uid.to_string());
    attributes.insert("gid".into(), rec.gid.to_string());
    attributes.insert("mtime".into(), seconds(rec.mtime));
    if matches!(rec.kind, FileKind::CharDevice | FileKind::BlockDevice) {
        attributes.insert("rdev".into(), rec.rdev.to_string());
    }
    attributes.insert(ATTR_VOLUME.into(), volume.to_string());
    attributes.insert(ATTR_PUT.into(), put_id.to_string());
    attributes.insert(ATTR_KEY.into(), key_mark(key));
    if rec.kind != FileKind::Dir {
        attributes.insert(ATTR_INODE.into(), ino.to_string());
    }
    attributes
}

/// Adds extended attributes, where they fit beside the rest.
pub(super) fn add_xattrs(attributes: &mut Attributes, xattrs: &[Xattr]) {
    if let Some(encoded) = fitting(attributes, xattrs) {
        attributes.insert(XATTR.into(), encoded);
    }
}

fn fitting(attributes: &Attributes, xattrs: &[Xattr]) -> Option<String> {
    let others = attributes.iter().filter(|(name, _)| *name != XATTR);
    let taken: usize = others.map(|(name, value)| name.len() + value.len()).sum();
    let room = METADATA_MAX.saturating_sub(taken + XATTR.len()).min(MAX_XATTRS);
    encode_xattrs(xattrs).filter(|encoded| encoded.len() <= room)
}

/// What an object shows of a file's extended attributes; `None` when it shows none, because they are not text
/// or too large beside the rest of its metadata.
pub fn carried(attributes: &Attributes, xattrs: &[Xattr]) -> Option<Vec<Xattr>> {
    if xattrs.is_empty() {
        return Some(Vec::new());
    }
    // As it is when they are added: without room the inode's number goes afterwards.
    let mut attributes = attributes.clone();
    attributes.entry(ATTR_INODE.into()).or_insert_with(|| "0".repeat(INODE_DIGITS));
    fitting(&attributes, xattrs).map(|encoded| decode_xattrs(&encoded))
}

/// Whether we published what lies at `key`, whatever somebody changed of its headers since.
pub fn is_ours(attributes: &Attributes, key: &ObjectKey, volume: VolumeId) -> bool {
    attributes.get(ATTR_VOLUME) == Some(&volume.to_string())
        && attributes.get(ATTR_KEY) == Some(&key_mark(key))
}

/// Whether the object at `key` bears this put-id and belongs there.
pub fn is_put(attributes: &Attributes, key: &ObjectKey, volume: VolumeId, put_id: PutId) -> bool {
    attributes.get(ATTR_PUT).and_then(|text| PutId::parse(text)) == Some(put_id)
        && is_ours(attributes, key, volume)
}

fn seconds(time: Timestamp) -> String {
    if time.nanos == 0 || time.secs < 0 {
        return time.secs.to_string();
    }
    // All nine digits: s3fs reads what follows the point as a number of nanoseconds.
    format!("{}.{:09}", time.secs, time.nanos)
}

/// What an object's metadata shows; `is_dir` for a directory marker, whose mode may lack S_IFDIR.
pub fn from_object(attributes: &Attributes, is_dir: bool) -> Shown {
    let get = |name: &str| attributes.get(name).map(|text| text.trim());
    let decimal = |name: &str| get(name).and_then(|text| text.parse::<u32>().ok());
    let octal = |name: &str| get(name).and_then(|text| u32::from_str_radix(text, 8).ok());
    let mode = decimal("mode")
        .or_else(|| octal("file-permissions"))
        .or_else(|| octal("goog-reserved-posix-mode"));
    let kind = match mode.and_then(FileKind::from_mode) {
        _ if is_dir => Some(FileKind::Dir),
        Some(FileKind::Dir) => None,
        other => other,
    };
    Shown {
        kind,
        perm: mode.map(|mode| mode & 0o7777),
        uid: decimal("uid")
            .or_else(|| decimal("file-owner"))
            .or_else(|| decimal("goog-reserved-posix-uid")),
        gid: decimal("gid")
            .or_else(|| decimal("file-group"))
            .or_else(|| decimal("goog-reserved-posix-gid")),
        mtime: get("mtime")
            .and_then(parse_seconds)
            .or_else(|| get("file-mtime").and_then(parse_nanoseconds))
            .or_else(|| get("goog-reserved-file-mtime").and_then(parse_seconds)),
        rdev: decimal("rdev"),
        xattrs: get(XATTR).map(decode_xattrs).unwrap_or_default(),
    }
}

/// `None` when there are none, or one whose name is not text.
fn encode_xattrs(xattrs: &[Xattr]) -> Option<String> {
    let map: Option<BTreeMap<&str, String>> = xattrs
        .iter()
        .map(|(name, value)| Some((std::str::from_utf8(name).ok()?, BASE64.encode(value))))
        .collect();
    let text = serde_json::to_string(&map.filter(|map| !map.is_empty())?).ok()?;
    Some(utf8_percent_encode(&text, NON_ALPHANUMERIC).to_string())
}

/// What others wrote may be anything: what makes no sense is left out.
fn decode_xattrs(text: &str) -> Vec<Xattr> {
    let decoded = percent_decode_str(text).decode_utf8_lossy();
    let map: BTreeMap<String, String> = serde_json::from_str(&decoded).unwrap_or_default();
    map.into_iter()
        .filter_map(|(name, value)| {
            let value = BASE64.decode(value).ok()?;
            let acl = name == "system.posix_acl_access" || name == "system.posix_acl_default";
            let kept = !name.starts_with(BORNE)
                && match name.split_once('.') {
                    Some(("user" | "trusted" | "security", rest)) => !rest.is_empty(),
                    // The kernel refuses every access to a file whose list it cannot read.
                    _ => acl && value.starts_with(&[2, 0, 0, 0]) && value.len() % 8 == 4,
                };
            (kept && name.len() <= 255).then(|| (Bytes::from(name), Bytes::from(value)))
        })
        .collect()
}

fn parse_seconds(text: &str) -> Option<Timestamp> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let secs: i64 = whole.parse().ok()?;
    if secs < 0 || fraction.is_empty() {
        return Some(Timestamp { secs, nanos: 0 });
    }
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    Some(Timestamp { secs, nanos: digits.parse().ok()? })
}

fn parse_nanoseconds(text: &str) -> Option<Timestamp> {
    let total: i128 = text.strip_suffix("ns").unwrap_or(text).parse().ok()?;
    let secs = i64::try_from(total.div_euclid(1_000_000_000)).ok()?;
    Some(Timestamp { secs, nanos: total.rem_euclid(1_000_000_000) as u32 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> Attributes {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn times_keep_all_digits_of_their_fraction() {
        let time = |secs, nanos| seconds(Timestamp { secs, nanos });
        assert_eq!(time(12, 500_000_000), "12.500000000");
        assert_eq!(time(12, 7), "12.000000007");
        assert_eq!(time(12, 0), "12");
        let read = parse_seconds(&time(12, 500_000_000));
        assert_eq!(read, Some(Timestamp { secs: 12, nanos: 500_000_000 }));
    }

    #[test]
    fn extended_attributes_come_back_and_nonsense_does_not() {
        let pair = |name: &str, value: &[u8]| {
            (Bytes::copy_from_slice(name.as_bytes()), Bytes::copy_from_slice(value))
        };
        let acl = [&[2, 0, 0, 0][..], &[1, 0, 6, 0, 255, 255, 255, 255]].concat();
        let all = [
            pair("security.capability", &[1, 0, 0, 2, 0xff]),
            pair("system.posix_acl_access", &acl),
            pair("user.\"ä%", b""),
        ];
        let encoded = encode_xattrs(&all).unwrap();
        assert!(encoded.is_ascii() && !encoded.contains(['"', ' ', '\n']));
        assert_eq!(decode_xattrs(&encoded), all);
        assert_eq!(encode_xattrs(&[]), None);
        let carried = |mut attributes: Attributes, size: usize| {
            add_xattrs(&mut attributes, &[pair("user.big", &vec![0; size])]);
            attributes.contains_key(XATTR)
        };
        assert!(carried(Attributes::new(), 500) && !carried(Attributes::new(), 2000));
        assert!(!carried(map(&[("theirs", &"x".repeat(1800))]), 500));
        assert_eq!(encode_xattrs(&[(Bytes::from_static(b"user.\xff"), Bytes::new())]), None);
        // As s3fs writes them.
        let s3fs = "%7B%22user.a%22%3A%22YmFy%22%2C%22user.b%22%3A%22%22%7D";
        assert_eq!(decode_xattrs(s3fs), [pair("user.a", b"bar"), pair("user.b", b"")]);
        for bad in [
            "",
            "%7B",
            "[1]",
            "{\"user.\":\"\"}",
            "{\"a\":\"\"}",
            "{\"user.a\":\"!\"}",
            "{\"system.posix_acl_access\":\"AAAA\"}",
            "{\"system.other\":\"\"}",
        ] {
            assert_eq!(decode_xattrs(bad), [], "{bad}");
        }
    }

    #[test]
    fn reads_each_dialect() {
        let s3fs = from_object(&map(&[("mode", "33188"), ("uid", "7"), ("mtime", "12.5")]), false);
        assert_eq!(s3fs.kind, Some(FileKind::File));
        assert_eq!((s3fs.perm, s3fs.uid, s3fs.gid), (Some(0o644), Some(7), None));
        assert_eq!(s3fs.mtime, Some(Timestamp { secs: 12, nanos: 500_000_000 }));
        let aws = from_object(
            &map(&[
                ("file-permissions", "0100600"),
                ("file-owner", "9"),
                ("file-mtime", "1500000000ns"),
            ]),
            false,
        );
        assert_eq!((aws.perm, aws.uid), (Some(0o600), Some(9)));
        assert_eq!(aws.mtime, Some(Timestamp { secs: 1, nanos: 500_000_000 }));
        let marker = from_object(&map(&[("mode", "493")]), true);
        assert_eq!((marker.kind, marker.perm), (Some(FileKind::Dir), Some(0o755)));
        assert_eq!(from_object(&map(&[("mode", "x"), ("mtime", "1.x")]), false), Shown::default());
    }
}
