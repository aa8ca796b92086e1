//! Keys as `object_store`'s paths, reversibly.
//!
//! Segments that a path or the provider cannot hold are escaped as `%s3vol-x.` and the segment with
//! `%XX`: the empty one, `.`, `..`, control characters, names that look escaped themselves, our
//! marker, and on Azure everything with a backslash, which Azure takes for a slash.

use object_store::path::Path;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::{Dialect, PathResult};

const ESCAPED: &str = "%s3vol-x.";
/// The object that stands for its directory.
const MARKER: &str = ".s3vol-dir";
const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'_').remove(b'-');
/// What a URL's path and Google's signatures leave as it is.
const URL_PATH: &AsciiSet = &KEPT.remove(b'.').remove(b'~').remove(b'/');

/// The path to sign for a key's object.
pub(super) fn path_of(dialect: Dialect, key: &str) -> PathResult {
    let name = name_of(dialect, key);
    match dialect {
        Dialect::Azure => Path::parse(name),
        // `object_store` 0.14 puts a path as it is into the URL that it signs for Google: `?` and
        // `#` would end it, `\` would become `/`, and `%41` would name `A`.
        Dialect::Google => Path::parse(utf8_percent_encode(&name, URL_PATH).to_string()),
    }
}

/// The name of a key's object.
fn name_of(dialect: Dialect, key: &str) -> String {
    match key.strip_suffix('/') {
        Some(dir) => format!("{}/{MARKER}", encode_all(dialect, dir)),
        None => encode_all(dialect, key),
    }
}

/// A raw prefix of keys as a prefix of names. Its last, incomplete segment stays as it is, so it
/// finds no escaped names.
pub(super) fn prefix_of(dialect: Dialect, prefix: &str) -> String {
    match prefix.rsplit_once('/') {
        Some((dirs, rest)) => format!("{}/{rest}", encode_all(dialect, dirs)),
        None => prefix.to_owned(),
    }
}

/// The key of an object's name.
pub(super) fn key_of(dialect: Dialect, path: &str) -> String {
    let marker = path.strip_suffix(MARKER).filter(|dir| dir.ends_with('/'));
    let path = marker.unwrap_or(path);
    let segments: Vec<String> = path.split('/').map(|s| decode(dialect, s)).collect();
    segments.join("/")
}

fn encode_all(dialect: Dialect, key: &str) -> String {
    let segments: Vec<String> = key.split('/').map(|s| encode(dialect, s)).collect();
    segments.join("/")
}

fn encode(dialect: Dialect, segment: &str) -> String {
    let odd = matches!(segment, "" | "." | ".." | MARKER)
        || segment.bytes().any(|b| b.is_ascii_control())
        || segment.starts_with(ESCAPED)
        || dialect == Dialect::Azure && segment.contains('\\');
    if odd {
        format!("{ESCAPED}{}", utf8_percent_encode(segment, KEPT))
    } else {
        segment.to_owned()
    }
}

fn decode(dialect: Dialect, segment: &str) -> String {
    let decoded = segment
        .strip_prefix(ESCAPED)
        .and_then(|escaped| percent_decode_str(escaped).decode_utf8().ok())
        .filter(|decoded| encode(dialect, decoded) == segment);
    decoded.map_or_else(|| segment.to_owned(), |decoded| decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Dialect; 2] = [Dialect::Azure, Dialect::Google];

    #[test]
    fn keys_survive() {
        for key in [
            "a",
            "a/b",
            "dir/",
            "a//b",
            "a/../b",
            "x\u{1}y",
            "%s3vol-x.q",
            "%s3vol-x.back%5Cslash",
            "d/.s3vol-dir",
            "é%41",
            "back\\slash",
            "a\\/b\\",
        ] {
            for dialect in BOTH {
                assert_eq!(key_of(dialect, &name_of(dialect, key)), key);
                path_of(dialect, key).unwrap();
            }
        }
        assert_eq!(name_of(Dialect::Google, "dir/"), "dir/.s3vol-dir");
        assert_eq!(name_of(Dialect::Google, "a b/c"), "a b/c");
        assert_eq!(prefix_of(Dialect::Azure, "a//b"), "a/%s3vol-x./b");
        assert_eq!(prefix_of(Dialect::Azure, "a/"), "a/");
    }

    #[test]
    fn azure_gets_no_backslash() {
        assert_eq!(name_of(Dialect::Azure, "d\\e/f\\g"), "%s3vol-x.d%5Ce/%s3vol-x.f%5Cg");
        assert_eq!(prefix_of(Dialect::Azure, "d\\e/"), "%s3vol-x.d%5Ce/");
        assert_eq!(name_of(Dialect::Google, "d\\e"), "d\\e");
    }

    #[test]
    fn google_signs_encoded_paths() {
        let path = |key| path_of(Dialect::Google, key).unwrap().to_string();
        assert_eq!(path("a b/?x#%41\\é~"), "a%20b/%3Fx%23%2541%5C%C3%A9~");
    }
}
