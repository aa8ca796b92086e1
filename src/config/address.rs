//! Where something lies: a bucket, and a prefix of its keys.

use crate::types::KeyPrefix;

/// The kinds of store that a URL can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    S3,
    Azure,
    Google,
    /// A folder of this machine.
    File,
}

impl Scheme {
    /// As it stands before `://`.
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::S3 => "s3",
            Scheme::Azure => "az",
            Scheme::Google => "gs",
            Scheme::File => "file",
        }
    }
}

/// A parsed URL of a volume, a home or a state. Its text form always ends with `/`.
///
/// Keys are raw: the text after the bucket is taken byte for byte, without percent-decoding. For
/// `file://` the bucket is empty and the prefix is the folder's path without the leading `/`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BucketUrl {
    pub scheme: Scheme,
    pub bucket: String,
    pub prefix: KeyPrefix,
}

impl BucketUrl {
    /// Takes `scheme://bucket/prefix`. The error says what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").ok_or_else(|| {
            format!("{text:?} is not a URL; write for example s3://bucket/prefix")
        })?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "s3" => Scheme::S3,
            "az" | "azure" => Scheme::Azure,
            "gs" => Scheme::Google,
            "file" => Scheme::File,
            other => {
                return Err(format!(
                    "{other}:// is not a kind of store; there are s3://, az://, gs:// and file://"
                ));
            }
        };
        if rest.contains(['?', '#', '\\']) || rest.chars().any(char::is_control) {
            return Err(format!(
                "{text:?} holds '?', '#', '\\' or a control character; settings are given as \
                 options, not in the URL"
            ));
        }
        let (bucket, prefix) = match scheme {
            Scheme::File => match rest.strip_prefix('/') {
                Some(path) if !path.trim_matches('/').is_empty() => ("", path),
                _ => {
                    return Err(format!(
                        "{text:?} does not name a folder; write file:///absolute/path"
                    ));
                }
            },
            _ => rest.split_once('/').unwrap_or((rest, "")),
        };
        if bucket.contains('@') {
            return Err("credentials do not belong in a URL; give them in the environment of \
                        the plugin or use an instance role"
                .to_owned());
        }
        if scheme != Scheme::File && bucket.is_empty() {
            return Err(format!("{text:?} names no bucket"));
        }
        check_prefix(prefix)?;
        Ok(BucketUrl { scheme, bucket: bucket.to_owned(), prefix: KeyPrefix::new(prefix) })
    }

    /// The same bucket at `prefix`, or what is wrong with that prefix.
    pub fn at(&self, prefix: &str) -> Result<BucketUrl, String> {
        check_prefix(prefix)?;
        Ok(BucketUrl { prefix: KeyPrefix::new(prefix), ..self.clone() })
    }

    /// What lies at `rest` (one or more checked segments) below this.
    pub fn join(&self, rest: &str) -> BucketUrl {
        BucketUrl { prefix: self.prefix.join(rest), ..self.clone() }
    }

    /// Whether both lie in one bucket (or both on this machine).
    pub fn same_bucket(&self, other: &BucketUrl) -> bool {
        self.scheme == other.scheme && self.bucket == other.bucket
    }

    /// Whether one lies inside the other, or both are the same place.
    pub fn overlaps(&self, other: &BucketUrl) -> bool {
        self.same_bucket(other) && self.prefix.overlaps(&other.prefix)
    }

    /// Whether this lies at or below `outer`.
    pub fn is_inside(&self, outer: &BucketUrl) -> bool {
        self.same_bucket(outer) && self.prefix.as_str().starts_with(outer.prefix.as_str())
    }

    /// One step up, `None` at the bucket's root.
    pub fn parent(&self) -> Option<BucketUrl> {
        let path = self.prefix.as_str().trim_end_matches('/');
        if path.is_empty() {
            return None;
        }
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        Some(BucketUrl { prefix: KeyPrefix::new(parent), ..self.clone() })
    }
}

impl std::fmt::Display for BucketUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}/{}", self.scheme.as_str(), self.bucket, self.prefix)
    }
}

/// A prefix that no other spelling names too, and that cannot lead out of where it stands.
fn check_prefix(prefix: &str) -> Result<(), String> {
    let inner = prefix.strip_suffix('/').unwrap_or(prefix);
    if inner.is_empty() {
        return Ok(());
    }
    if prefix.chars().any(char::is_control) {
        return Err(format!("the prefix {prefix:?} holds a control character"));
    }
    if inner.len() > 700 {
        return Err("the prefix is longer than 700 bytes, which leaves no room for names (a key \
                    has at most 1,024)"
            .to_owned());
    }
    for segment in inner.split('/') {
        match segment {
            "" => return Err(format!("the prefix {prefix:?} holds an empty segment ('//')")),
            "." | ".." => return Err(format!("the prefix {prefix:?} holds '.' or '..'")),
            ".s3vol" => {
                return Err(format!(
                    "the prefix {prefix:?} holds '.s3vol', where the state of volumes lies"
                ));
            }
            _ => {}
        }
    }
    Ok(())
}
