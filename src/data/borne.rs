//! What an object bears besides its bytes and our attributes, and where the index keeps it.
//!
//! Headers, user metadata, tags, storage class and encryption are extended attributes of the inode:
//! `user.s3.content-type`, `user.s3.meta.NAME`, `user.s3.tag.NAME` and so on. So whatever carries
//! extended attributes (tombs, followers, exports, another host) carries them too, and programs see and
//! set them like any other. A value that nobody gave, such as a content type guessed by the file's name,
//! is never kept here.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::config::ContentType;
use crate::store::{Attributes, Encryption, Header, Properties, Tags, Unfit};
use crate::types::ObjectKey;

/// Name and value of an extended attribute.
type Xattr = (Bytes, Bytes);

/// What all these attributes begin with.
pub const BORNE: &str = "user.s3.";
const META: &str = "meta.";
const TAG: &str = "tag.";
const CLASS: &str = "storage-class";
const ENCRYPTION: &str = "encryption";
const ENCRYPTION_KEY: &str = "encryption-key-id";

/// What of an object's 2 KiB of metadata our own attributes may need, bytes: mode, owner, time and the
/// marks of the publishing protocol. Programs cannot fill this part.
const OURS: usize = 320;

/// How the store encrypts, as S3 names it.
const ALGORITHMS: [&str; 3] = ["AES256", "aws:kms", "aws:kms:dsse"];
const KEY_ID_MAX: usize = 2048;

/// Metadata that tells a file's own attributes, in our dialect (s3fs's) and in those that we read.
/// It belongs to the inode; a copy of it here would contradict it after the first chmod.
const ATTRIBUTES: [&str; 13] = [
    "mode",
    "uid",
    "gid",
    "rdev",
    "atime",
    "mtime",
    "ctime",
    "xattr",
    "file-permissions",
    "file-owner",
    "file-group",
    "file-mtime",
    "file-atime",
];
const MARKS: [&str; 2] = ["s3vol", "goog-reserved-"];

/// Whether metadata of this name is the file's own attribute or a mark of ours.
pub fn is_attribute(name: &str) -> bool {
    ATTRIBUTES.contains(&name) || MARKS.iter().any(|mark| name.starts_with(mark))
}

/// One thing that an object bears.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Slot {
    Header(Header),
    Class,
    Encryption,
    EncryptionKey,
    Meta(String),
    Tag(String),
}

impl Slot {
    /// The place that an extended attribute names: `None` when it has nothing to do with the object,
    /// an error when it looks so and there is no such place.
    pub fn parse(name: &[u8]) -> Option<Result<Slot, Unfit>> {
        let rest = name.strip_prefix(BORNE.as_bytes())?;
        Some(std::str::from_utf8(rest).map_err(|_| Unfit::Syntax).and_then(Slot::named))
    }

    fn named(name: &str) -> Result<Slot, Unfit> {
        if let Some(meta) = name.strip_prefix(META) {
            return if is_attribute(meta) {
                Err(Unfit::Syntax)
            } else {
                Ok(Slot::Meta(meta.into()))
            };
        }
        if let Some(tag) = name.strip_prefix(TAG) {
            return Ok(Slot::Tag(tag.into()));
        }
        match name {
            CLASS => Ok(Slot::Class),
            ENCRYPTION => Ok(Slot::Encryption),
            ENCRYPTION_KEY => Ok(Slot::EncryptionKey),
            name => Header::by_name(name).map(Slot::Header).ok_or(Unfit::Syntax),
        }
    }

    /// The extended attribute of this place.
    pub fn xattr(&self) -> Bytes {
        let name = match self {
            Slot::Header(header) => format!("{BORNE}{}", header.name()),
            Slot::Class => format!("{BORNE}{CLASS}"),
            Slot::Encryption => format!("{BORNE}{ENCRYPTION}"),
            Slot::EncryptionKey => format!("{BORNE}{ENCRYPTION_KEY}"),
            Slot::Meta(name) => format!("{BORNE}{META}{name}"),
            Slot::Tag(name) => format!("{BORNE}{TAG}{name}"),
        };
        Bytes::from(name)
    }

    /// Whether a store can hold this value here.
    ///
    /// # Errors
    /// What is wrong with it.
    fn check(&self, value: &str) -> Result<(), Unfit> {
        match self {
            Slot::Header(header) => Properties::check_header(*header, value),
            Slot::Class => Properties::check_class(value),
            Slot::Encryption if ALGORITHMS.contains(&value) => Ok(()),
            Slot::EncryptionKey if value.len() > KEY_ID_MAX => Err(Unfit::TooLong),
            Slot::EncryptionKey if value.bytes().all(|b| b.is_ascii_graphic()) => Ok(()),
            Slot::Encryption | Slot::EncryptionKey => Err(Unfit::Syntax),
            Slot::Meta(name) => Properties::check_metadata(name, value),
            Slot::Tag(name) => Properties::check_tag(name, value),
        }
    }
}

/// All that an object bears.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Borne(BTreeMap<Slot, String>);

impl Borne {
    /// From the extended attributes of an inode.
    pub fn of_rows(rows: &[Xattr]) -> Borne {
        let slot = |(name, value): &Xattr| {
            let slot = Slot::parse(name)?.ok()?;
            Some((slot, std::str::from_utf8(value).ok()?.to_owned()))
        };
        Borne(rows.iter().filter_map(slot).collect())
    }

    /// As extended attributes of an inode.
    pub fn rows(&self) -> BTreeMap<Bytes, Bytes> {
        self.0.iter().map(|(slot, value)| (slot.xattr(), Bytes::from(value.clone()))).collect()
    }

    /// From what a store says about an object. Its tags are a question of their own.
    pub fn of_object(properties: &Properties, attributes: &Attributes) -> Borne {
        let mut borne = Borne::default();
        for (header, value) in &properties.headers {
            borne.set(Slot::Header(*header), value);
        }
        if let Some(class) = &properties.class {
            borne.set(Slot::Class, class);
        }
        if let Some(encryption) = &properties.encryption {
            borne.set(Slot::Encryption, &encryption.algorithm);
            if let Some(key) = &encryption.key_id {
                borne.set(Slot::EncryptionKey, key);
            }
        }
        for (name, value) in attributes.iter().filter(|(name, _)| !is_attribute(name)) {
            borne.set(Slot::Meta(name.clone()), value);
        }
        borne
    }

    pub fn get(&self, slot: &Slot) -> Option<&str> {
        self.0.get(slot).map(String::as_str)
    }

    pub fn set(&mut self, slot: Slot, value: &str) {
        self.0.insert(slot, value.to_owned());
    }

    pub fn remove(&mut self, slot: &Slot) {
        self.0.remove(slot);
    }

    /// Replaces the tags.
    pub fn set_tags(&mut self, tags: impl IntoIterator<Item = (String, String)>) {
        self.0.retain(|slot, _| !matches!(slot, Slot::Tag(_)));
        self.0.extend(tags.into_iter().map(|(name, value)| (Slot::Tag(name), value)));
    }

    pub fn tags(&self) -> Tags {
        let tag = |(slot, value): (&Slot, &String)| match slot {
            Slot::Tag(name) => Some((name.clone(), value.clone())),
            _ => None,
        };
        self.0.iter().filter_map(tag).collect()
    }

    /// Metadata of others.
    pub fn metadata(&self) -> Attributes {
        let meta = |(slot, value): (&Slot, &String)| match slot {
            Slot::Meta(name) => Some((name.clone(), value.clone())),
            _ => None,
        };
        self.0.iter().filter_map(meta).collect()
    }

    /// What goes with a PUT besides metadata.
    pub fn properties(&self) -> Properties {
        let header = |(slot, value): (&Slot, &String)| match slot {
            Slot::Header(header) => Some((*header, value.clone())),
            _ => None,
        };
        let key = self.get(&Slot::EncryptionKey);
        Properties {
            headers: self.0.iter().filter_map(header).collect(),
            tags: Some(self.tags()),
            class: self.get(&Slot::Class).map(str::to_owned),
            encryption: self.get(&Slot::Encryption).map(|algorithm| Encryption {
                algorithm: algorithm.to_owned(),
                key_id: key.filter(|_| algorithm != "AES256").map(str::to_owned),
            }),
            acl: None,
        }
    }

    /// Sets what a program gives.
    ///
    /// # Errors
    /// A value that no store can hold there, alone or beside the others.
    pub fn change(&mut self, slot: Slot, value: &[u8]) -> Result<(), Unfit> {
        let value = std::str::from_utf8(value).map_err(|_| Unfit::Syntax)?;
        slot.check(value)?;
        self.set(slot.clone(), value);
        let bears = self.properties();
        // Only the sum that this change takes part in: what others put may be more than we would take.
        let sum = match slot {
            Slot::Header(_) => Properties { headers: bears.headers, ..Properties::default() },
            Slot::Tag(_) => Properties { tags: bears.tags, ..Properties::default() },
            Slot::Meta(_) => Properties::default(),
            Slot::Class | Slot::Encryption | Slot::EncryptionKey => return Ok(()),
        };
        let mut metadata = Attributes::new();
        if let Slot::Meta(_) = slot {
            metadata = self.metadata();
            metadata.insert(String::new(), "-".repeat(OURS));
        }
        sum.check(&metadata)
    }
}

/// The content type of an object that nobody gave one: by the name of its file.
pub fn guessed(how: &ContentType, key: &ObjectKey) -> Option<String> {
    match how {
        ContentType::None => None,
        ContentType::Always(given) => Some(given.clone()),
        ContentType::Auto => {
            let name = key.as_str().rsplit('/').next().unwrap_or_default();
            // A conflict copy is what its file was.
            let name = name.split(".s3vol-conflict-").next().unwrap_or(name);
            let guess = mime_guess::from_path(name).first_raw()?;
            Some(match guess.strip_prefix("text/") {
                Some(_) => format!("{guess}; charset=utf-8"),
                None => guess.to_owned(),
            })
        }
    }
}

/// Whether content that begins like this can bear this `Content-Encoding`. Formats with a magic number
/// tell; of the others (Brotli has none) all that can be said is that plain text is not one.
pub fn is_encoded(encoding: &str, head: &[u8]) -> bool {
    // The last one was applied last.
    let outermost = encoding.rsplit(',').next().unwrap_or_default().trim().to_ascii_lowercase();
    match outermost.as_str() {
        "gzip" | "x-gzip" => head.starts_with(&[0x1f, 0x8b]),
        "compress" | "x-compress" => head.starts_with(&[0x1f, 0x9d]),
        "zstd" => head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]),
        // RFC 9110: the zlib format; its two first bytes are a multiple of 31.
        "deflate" => {
            matches!(head, [first, second, ..] if first & 0x0f == 8
                && (u16::from(*first) << 8 | u16::from(*second)) % 31 == 0)
        }
        "identity" => true,
        _ => !head.is_empty() && !is_text(head),
    }
}

/// UTF-8 (that may be cut in its last character) without control characters but those of text.
fn is_text(head: &[u8]) -> bool {
    let valid = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&head[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return false,
    };
    !valid.is_empty() && !valid.chars().any(|c| c.is_control() && !"\t\n\r\u{c}".contains(c))
}

#[cfg(test)]
mod tests;
