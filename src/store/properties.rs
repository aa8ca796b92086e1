//! What an object carries besides its bytes and its user metadata.
//!
//! A PUT replaces all of it, so whoever publishes a file sends again what lay on its object. What no
//! store takes back is left out here ([`Properties::writable_class`]) or refused before it is sent
//! ([`Properties::check`]).

use std::collections::BTreeMap;

use crate::config::VolumeOptions;

/// An object's tags.
pub type Tags = BTreeMap<String, String>;

/// A header that is kept with an object and answered with it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Header {
    ContentType,
    CacheControl,
    ContentDisposition,
    ContentEncoding,
    ContentLanguage,
    Expires,
    WebsiteRedirectLocation,
}

/// User metadata of an object, without the provider's prefix (`x-amz-meta-`). Ours has names of
/// `[a-z0-9_]` that start with a letter and ASCII values, at most 1.5 KiB together; what others wrote
/// may have any name that a header can have (Azure refuses all but the above).
pub type Attributes = BTreeMap<String, String>;

impl Header {
    pub const ALL: [Header; 7] = [
        Header::ContentType,
        Header::CacheControl,
        Header::ContentDisposition,
        Header::ContentEncoding,
        Header::ContentLanguage,
        Header::Expires,
        Header::WebsiteRedirectLocation,
    ];

    /// The name for people and extended attributes.
    pub fn name(self) -> &'static str {
        match self {
            Header::ContentType => "content-type",
            Header::CacheControl => "cache-control",
            Header::ContentDisposition => "content-disposition",
            Header::ContentEncoding => "content-encoding",
            Header::ContentLanguage => "content-language",
            Header::Expires => "expires",
            Header::WebsiteRedirectLocation => "website-redirect-location",
        }
    }

    /// The header of this [`Header::name`].
    pub fn by_name(name: &str) -> Option<Header> {
        Header::ALL.into_iter().find(|header| header.name() == name)
    }

    /// The name on the wire of S3.
    pub fn s3(self) -> &'static str {
        match self {
            Header::WebsiteRedirectLocation => "x-amz-website-redirect-location",
            other => other.name(),
        }
    }
}

/// Encryption by the store, as it names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Encryption {
    /// `AES256`, `aws:kms`, `aws:kms:dsse`.
    pub algorithm: String,
    /// The key in the key service; `None`: the store's own.
    pub key_id: Option<String>,
}

impl Encryption {
    /// What a volume asks for.
    pub fn of(options: &VolumeOptions) -> Option<Encryption> {
        let algorithm = options.sse.clone()?;
        Some(Encryption { algorithm, key_id: options.sse_kms_key_id.clone() })
    }
}

/// What goes with an object. The default is what a new object of the bucket gets.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Properties {
    pub headers: BTreeMap<Header, String>,
    /// `None`: not known. A PUT then sends none, a copy on the server keeps the source's.
    pub tags: Option<Tags>,
    /// The storage class (Azure: access tier). Readers fill it where the store tells it.
    pub class: Option<String>,
    pub encryption: Option<Encryption>,
    /// A canned access list. Never read back; a PUT without it makes the object private.
    pub acl: Option<String>,
}

/// Why a store cannot hold a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("a store cannot hold this name or value")]
    Syntax,
    #[error("this name or value is longer than a store takes")]
    TooLong,
    #[error("an object cannot carry as much as this")]
    TooMuch,
}

/// User metadata, names and values together (S3's limit; Azure and Google take more).
pub const METADATA_MAX: usize = 2048;
/// The headers of an object together (S3's limit).
pub const HEADERS_MAX: usize = 2048;
/// Tags on one object.
pub const TAGS_MAX: usize = 10;
const TAG_NAME_MAX: usize = 128;
const TAG_VALUE_MAX: usize = 256;
/// The class that an object has when nobody says anything.
pub const STANDARD: &str = "STANDARD";
/// Classes whose objects cannot be read until somebody restores them.
/// Google's `ARCHIVE` is not one of them.
const ARCHIVED: [&str; 3] = ["GLACIER", "DEEP_ARCHIVE", "Archive"];

impl Properties {
    /// Whether a store can hold all of it, beside this user metadata (ours included).
    ///
    /// # Errors
    /// The first thing that no S3 store takes.
    pub fn check(&self, attributes: &Attributes) -> Result<(), Unfit> {
        for (header, value) in &self.headers {
            Self::check_header(*header, value)?;
        }
        let headers = self.headers.iter().map(|(header, value)| header.name().len() + value.len());
        if headers.sum::<usize>() > HEADERS_MAX {
            return Err(Unfit::TooMuch);
        }
        for (name, value) in self.tags.iter().flatten() {
            Self::check_tag(name, value)?;
        }
        if self.tags.as_ref().is_some_and(|tags| tags.len() > TAGS_MAX) {
            return Err(Unfit::TooMuch);
        }
        let metadata = attributes.iter().map(|(name, value)| name.len() + value.len());
        if metadata.sum::<usize>() > METADATA_MAX {
            return Err(Unfit::TooMuch);
        }
        self.class.as_deref().map_or(Ok(()), Self::check_class)
    }

    /// One header alone.
    ///
    /// # Errors
    /// Text that is not visible ASCII, has space at its ends or is too long; a redirect to nowhere.
    pub fn check_header(header: Header, value: &str) -> Result<(), Unfit> {
        plain_text(value)?;
        if value.is_empty() {
            return Err(Unfit::Syntax);
        }
        if header.name().len() + value.len() > HEADERS_MAX {
            return Err(Unfit::TooLong);
        }
        let somewhere = ["/", "http://", "https://"].iter().any(|start| value.starts_with(start));
        if header == Header::WebsiteRedirectLocation && !somewhere {
            return Err(Unfit::Syntax);
        }
        Ok(())
    }

    /// One name and value of user metadata. Stores fold names to small letters, so others are refused.
    ///
    /// # Errors
    /// A name that no header has, a value that is not visible ASCII, or too long.
    pub fn check_metadata(name: &str, value: &str) -> Result<(), Unfit> {
        let token =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&b);
        if name.is_empty() || !name.bytes().all(token) {
            return Err(Unfit::Syntax);
        }
        plain_text(value)?;
        if name.len() + value.len() > METADATA_MAX { Err(Unfit::TooLong) } else { Ok(()) }
    }

    /// One tag.
    ///
    /// # Errors
    /// Characters that S3 does not take in tags; names and values that are too long.
    pub fn check_tag(name: &str, value: &str) -> Result<(), Unfit> {
        let good = |c: char| c.is_alphanumeric() || c == ' ' || "+-=._:/@".contains(c);
        if name.is_empty()
            || name.starts_with("aws:")
            || !name.chars().chain(value.chars()).all(good)
        {
            return Err(Unfit::Syntax);
        }
        if name.chars().count() > TAG_NAME_MAX || value.chars().count() > TAG_VALUE_MAX {
            return Err(Unfit::TooLong);
        }
        Ok(())
    }

    /// A storage class.
    ///
    /// # Errors
    /// A name that no store has, and one whose objects cannot be read.
    pub fn check_class(class: &str) -> Result<(), Unfit> {
        let good = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        if class.is_empty() || !class.bytes().all(good) || is_archived(class) {
            return Err(Unfit::Syntax);
        }
        if class.len() > 64 { Err(Unfit::TooLong) } else { Ok(()) }
    }

    /// The class to send with new content: none for the usual one, and none for an archive, because
    /// what a container has just written must stay readable.
    pub fn writable_class(&self) -> Option<&str> {
        self.class.as_deref().filter(|class| *class != STANDARD && !is_archived(class))
    }

    /// These, and what a volume gives to new objects where they say nothing.
    #[must_use]
    pub fn or(mut self, defaults: &Properties) -> Properties {
        for (header, value) in &defaults.headers {
            self.headers.entry(*header).or_insert_with(|| value.clone());
        }
        self.tags = self.tags.or_else(|| defaults.tags.clone());
        self.class = self.class.or_else(|| defaults.class.clone());
        self.encryption = self.encryption.or_else(|| defaults.encryption.clone());
        self.acl = self.acl.or_else(|| defaults.acl.clone());
        self
    }
}

/// Whether objects of this class must be restored before anybody can read them.
pub fn is_archived(class: &str) -> bool {
    ARCHIVED.contains(&class)
}

/// What a header carries unchanged: visible ASCII and spaces inside (HTTP drops those at the ends).
fn plain_text(value: &str) -> Result<(), Unfit> {
    let visible = value.bytes().all(|b| (b' '..=b'~').contains(&b));
    let spaces = value.starts_with(' ') || value.ends_with(' ');
    if visible && !spaces { Ok(()) } else { Err(Unfit::Syntax) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_text_that_http_carries_unchanged() {
        let check = Properties::check_header;
        assert_eq!(check(Header::ContentType, "text/html; charset=utf-8"), Ok(()));
        for bad in ["", " x", "x ", "a\nb", "a\tb", "ä", "a\u{7f}"] {
            assert_eq!(check(Header::CacheControl, bad), Err(Unfit::Syntax), "{bad:?}");
        }
        assert_eq!(check(Header::Expires, &"x".repeat(3000)), Err(Unfit::TooLong));
        assert_eq!(check(Header::WebsiteRedirectLocation, "/other"), Ok(()));
        assert_eq!(check(Header::WebsiteRedirectLocation, "other"), Err(Unfit::Syntax));
    }

    #[test]
    fn metadata_names_are_those_of_headers() {
        let check = Properties::check_metadata;
        assert_eq!(check("my-key.2", "value"), Ok(()));
        assert_eq!(check("empty", ""), Ok(()));
        for bad in ["", "Upper", "two words", "ä", "a:b", "a/b"] {
            assert_eq!(check(bad, "v"), Err(Unfit::Syntax), "{bad:?}");
        }
        assert_eq!(check("k", "ü"), Err(Unfit::Syntax));
        assert_eq!(check("k", &"x".repeat(2048)), Err(Unfit::TooLong));
    }

    #[test]
    fn tags_are_those_of_s3() {
        let check = Properties::check_tag;
        assert_eq!(check("Ünït 1", "a+b-c=d._:/@"), Ok(()));
        assert_eq!(check("empty", ""), Ok(()));
        for (name, value) in [("", "v"), ("aws:x", "v"), ("a,b", ""), ("a", "x\ny"), ("a", "x?")] {
            assert_eq!(check(name, value), Err(Unfit::Syntax), "{name:?}={value:?}");
        }
        assert_eq!(check(&"n".repeat(129), ""), Err(Unfit::TooLong));
        assert_eq!(check("n", &"ä".repeat(257)), Err(Unfit::TooLong));
        let tags = (0..11).map(|n| (n.to_string(), String::new())).collect();
        let many = Properties { tags: Some(tags), ..Properties::default() };
        assert_eq!(many.check(&Attributes::new()), Err(Unfit::TooMuch));
    }

    #[test]
    fn metadata_and_headers_have_a_sum() {
        let large = |n: usize| (n.to_string(), "x".repeat(1100));
        let two: Attributes = (0..2).map(large).collect();
        assert_eq!(Properties::default().check(&two), Err(Unfit::TooMuch));
        let mut headers = BTreeMap::from([(Header::CacheControl, "x".repeat(1100))]);
        let one = Properties { headers: headers.clone(), ..Properties::default() };
        assert_eq!(one.check(&(0..1).map(large).collect()), Ok(()));
        headers.insert(Header::Expires, "x".repeat(1100));
        let both = Properties { headers, ..Properties::default() };
        assert_eq!(both.check(&Attributes::new()), Err(Unfit::TooMuch));
    }

    #[test]
    fn new_content_never_goes_to_an_archive() {
        let of = |class: &str| Properties { class: Some(class.into()), ..Properties::default() };
        assert_eq!(of("STANDARD_IA").writable_class(), Some("STANDARD_IA"));
        for none in ["STANDARD", "GLACIER", "DEEP_ARCHIVE", "Archive"] {
            assert_eq!(of(none).writable_class(), None, "{none}");
        }
        assert_eq!(Properties::check_class("GLACIER_IR"), Ok(()));
        assert_eq!(Properties::check_class("GLACIER"), Err(Unfit::Syntax));
    }

    #[test]
    fn own_values_win_over_the_volumes() {
        let own = Properties { class: Some(STANDARD.into()), ..Properties::default() };
        let headers = BTreeMap::from([(Header::ContentType, "a/b".to_owned())]);
        let acl = Some("public-read".to_owned());
        let class = Some("STANDARD_IA".to_owned());
        let volume = Properties { headers, class, acl: acl.clone(), ..Properties::default() };
        let both = own.or(&volume);
        assert_eq!((both.class.as_deref(), both.acl), (Some(STANDARD), acl));
        assert_eq!(both.headers, volume.headers);
    }
}
