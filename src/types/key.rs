//! Raw object keys. Keys are not paths: `a//b`, `dir/` and `dir` are three different keys.

use serde::{Deserialize, Serialize};

/// A full key inside one bucket, byte for byte as the store knows it (UTF-8, at most 1,024 bytes
/// where S3 keeps it; the limit is checked where a key is made from a path).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ObjectKey(String);

impl ObjectKey {
    /// Takes the key as it is.
    pub fn new(key: impl Into<String>) -> Self {
        ObjectKey(key.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The start of the keys of a volume or of its state: empty, or ends with `/`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyPrefix(String);

impl KeyPrefix {
    /// Takes `prefix`, adding the closing `/` and dropping a leading one.
    pub fn new(prefix: &str) -> Self {
        let trimmed = prefix.trim_start_matches('/');
        if trimmed.is_empty() || trimmed.ends_with('/') {
            KeyPrefix(trimmed.to_owned())
        } else {
            KeyPrefix(format!("{trimmed}/"))
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key `rest` below this prefix.
    pub fn key(&self, rest: &str) -> ObjectKey {
        ObjectKey(format!("{}{rest}", self.0))
    }

    /// What follows this prefix in `key`, or `None` when the key lies elsewhere.
    pub fn strip<'k>(&self, key: &'k ObjectKey) -> Option<&'k str> {
        key.0.strip_prefix(self.0.as_str())
    }

    /// The prefix `rest` below this one.
    pub fn join(&self, rest: &str) -> KeyPrefix {
        KeyPrefix::new(&format!("{}{rest}", self.0))
    }

    /// Whether one of the two lies inside the other (or both are the same).
    pub fn overlaps(&self, other: &KeyPrefix) -> bool {
        self.0.starts_with(&other.0) || other.0.starts_with(&self.0)
    }
}

impl std::fmt::Display for KeyPrefix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
