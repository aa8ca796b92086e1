//! Keys as `object_store`'s paths, reversibly.

use object_store::path::Path;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::PathResult;

const ESCAPED: &str = "%s3vol-x.";
/// The object that stands for its directory.
const MARKER: &str = ".s3vol-dir";
const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'_').remove(b'-');

/// The path of a key's object.
pub(super) fn path_of(key: &str) -> PathResult {
    match key.strip_suffix('/') {
        Some(dir) => Path::parse(format!("{}/{MARKER}", encode_all(dir))),
        None => Path::parse(encode_all(key)),
    }
}

/// A raw prefix of keys as a prefix of paths. Its last, incomplete segment stays as it is.
pub(super) fn prefix_of(prefix: &str) -> String {
    match prefix.rsplit_once('/') {
        Some((dirs, rest)) => format!("{}/{rest}", encode_all(dirs)),
        None => prefix.to_owned(),
    }
}

/// The key of an object's path.
pub(super) fn key_of(path: &str) -> String {
    let marker = path.strip_suffix(MARKER).filter(|dir| dir.ends_with('/'));
    let path = marker.unwrap_or(path);
    let segments: Vec<String> = path.split('/').map(decode).collect();
    segments.join("/")
}

fn encode_all(key: &str) -> String {
    let segments: Vec<String> = key.split('/').map(encode).collect();
    segments.join("/")
}

fn encode(segment: &str) -> String {
    let odd = matches!(segment, "" | "." | ".." | MARKER)
        || segment.bytes().any(|b| b.is_ascii_control())
        || segment.starts_with(ESCAPED);
    if odd {
        format!("{ESCAPED}{}", utf8_percent_encode(segment, KEPT))
    } else {
        segment.to_owned()
    }
}

fn decode(segment: &str) -> String {
    let decoded = segment
        .strip_prefix(ESCAPED)
        .and_then(|escaped| percent_decode_str(escaped).decode_utf8().ok())
        .filter(|decoded| encode(decoded) == segment);
    decoded.map_or_else(|| segment.to_owned(), |decoded| decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive() {
        for key in
            ["a", "a/b", "dir/", "a//b", "a/../b", "x\u{1}y", "%s3vol-x.q", "d/.s3vol-dir", "é%41"]
        {
            let path = path_of(key).unwrap();
            assert_eq!(key_of(path.as_ref()), key);
        }
        assert_eq!(path_of("dir/").unwrap().as_ref(), "dir/.s3vol-dir");
        assert_eq!(path_of("a b/c").unwrap().as_ref(), "a b/c");
        assert_eq!(prefix_of("a//b"), "a/%s3vol-x./b");
        assert_eq!(prefix_of("a/"), "a/");
    }
}
