//! How keys become paths.
//!
//! A key is stored at its natural path below the bucket's directory, so that people find their
//! files. Segments that no path can hold are escaped, reversibly: `%s3vol-x.` and the segment with
//! every byte outside `[A-Za-z0-9_-]` as `%XX`. That concerns the empty segment (`a//b`), `.` and
//! `..`, NUL, names that look escaped themselves, and our own folder. A file whose natural name is
//! taken by a directory (`a` next to `a/b`) is stored as `%s3vol-f.` and its name.

use std::path::{Path, PathBuf};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// Our folder in each root: temporary files, uploads, sidecars, the lock.
pub(super) const OWN: &str = ".s3vol-file";
const ESCAPED: &str = "%s3vol-x.";
const BESIDE: &str = "%s3vol-f.";
const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'_').remove(b'-');
/// What file systems accept.
const NAME_MAX: usize = 255;

/// A key that cannot be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooLong;

/// Where one key lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// The directory that holds it.
    pub dir: PathBuf,
    /// The natural name; `None` for the marker of `dir` itself.
    pub name: Option<String>,
    /// The directory whose [`OWN`] folder serves this key: that of the key's first segment, which
    /// is what the user named, so that nothing is written beside it.
    pub root: PathBuf,
}

impl Place {
    pub(super) fn of(bucket: &Path, key: &str) -> Result<Place, TooLong> {
        let mut segments: Vec<&str> = key.split('/').collect();
        let last = segments.pop().unwrap_or_default();
        let mut dir = bucket.to_owned();
        let mut root = None;
        for segment in segments {
            dir.push(encode(segment)?);
            root.get_or_insert_with(|| dir.clone());
        }
        let name = if last.is_empty() { None } else { Some(encode(last)?) };
        if name.as_ref().is_some_and(|n| n.len() + BESIDE.len() > NAME_MAX && n.starts_with('%')) {
            return Err(TooLong);
        }
        Ok(Place { dir, name, root: root.unwrap_or_else(|| bucket.to_owned()) })
    }

    /// The natural path, or the directory for a marker.
    pub(super) fn natural(&self) -> PathBuf {
        match &self.name {
            Some(name) => self.dir.join(name),
            None => self.dir.clone(),
        }
    }

    /// The path beside a directory of the same name; `None` for markers and names too long for it.
    pub(super) fn beside(&self) -> Option<PathBuf> {
        let name = self.name.as_ref()?;
        (name.len() + BESIDE.len() <= NAME_MAX).then(|| self.dir.join(format!("{BESIDE}{name}")))
    }

    pub(super) fn own(&self) -> PathBuf {
        self.root.join(OWN)
    }
}

/// One segment of a key as a file name.
pub(super) fn encode(segment: &str) -> Result<String, TooLong> {
    let odd = segment.is_empty()
        || segment == "."
        || segment == ".."
        || segment == OWN
        || segment.contains('\0')
        || segment.starts_with(ESCAPED)
        || segment.starts_with(BESIDE);
    let name = if odd {
        format!("{ESCAPED}{}", utf8_percent_encode(segment, KEPT))
    } else {
        segment.to_owned()
    };
    if name.len() > NAME_MAX { Err(TooLong) } else { Ok(name) }
}

/// The segment of a file name, and whether it is the name of a file beside its directory. `None`
/// for names that are no part of a key.
pub(super) fn decode(name: &str) -> Option<(String, bool)> {
    let (name, beside) = match name.strip_prefix(BESIDE) {
        Some(name) => (name, true),
        None => (name, false),
    };
    if name == OWN {
        return None;
    }
    let segment = match name.strip_prefix(ESCAPED) {
        Some(escaped) => percent_decode_str(escaped).decode_utf8().ok()?.into_owned(),
        None => name.to_owned(),
    };
    // Foreign names that only look escaped do not lead back to themselves.
    (encode(&segment).ok()? == name).then_some((segment, beside))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn natural_names_stay() {
        for name in ["a", "100%", "%41", "é ü", "a\nb", ".hidden", "...", "x#1"] {
            assert_eq!(encode(name).unwrap(), name);
        }
    }

    #[test]
    fn places() {
        let at = |key| Place::of(Path::new("/b"), key).unwrap();
        let path = |key| at(key).natural().to_str().unwrap().to_owned();
        assert_eq!(path("p/a"), "/b/p/a");
        assert_eq!(path("p/d/"), "/b/p/d");
        assert_eq!(path("p//a"), "/b/p/%s3vol-x./a");
        assert_eq!(path("p/../a"), "/b/p/%s3vol-x.%2E%2E/a");
        assert_eq!(at("p/d/a").root, Path::new("/b/p"));
        assert_eq!(at("a").root, Path::new("/b"));
        assert_eq!(at("p/a").beside().unwrap(), Path::new("/b/p/%s3vol-f.a"));
        assert_eq!(Place::of(Path::new("/b"), &"x".repeat(256)), Err(TooLong));
    }

    proptest! {
        #[test]
        fn encoding_is_reversible(segment in "[%a-z0-9.\\x00\\-]{0,12}|%s3vol-[xf]\\.[a-z.%]{0,5}") {
            let name = encode(&segment).unwrap();
            prop_assert!(!name.contains('/') && !name.contains('\0') && !name.is_empty());
            prop_assert!(name != "." && name != "..");
            prop_assert_eq!(decode(&name), Some((segment, false)));
        }
    }
}
