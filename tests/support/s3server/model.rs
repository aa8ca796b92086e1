//! The buckets in memory: plain data and the operations on it, without HTTP.
//!
//! Every method of a bucket runs under the one mutex that its caller holds, so a condition is judged and
//! the change is made in one step: exactly one of several racing conditional writes can win. Bodies are
//! hashed and put together outside of it.

use std::collections::BTreeMap;
use std::time::SystemTime;

use bytes::Bytes;
use md5::{Digest, Md5};

use super::carried::Carried;

/// S3 refuses a part other than the last that is smaller.
pub const MIN_PART: usize = 5 << 20;

/// One object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    pub body: Bytes,
    /// Without quotes: `md5`, or `md5-n` for a multipart object.
    pub etag: String,
    /// Whole seconds of the server's clock, as S3 keeps it.
    pub modified: SystemTime,
    pub metadata: BTreeMap<String, String>,
    pub carried: Carried,
}

/// A multipart upload that was begun and neither completed nor aborted.
#[derive(Debug, Clone)]
pub struct Upload {
    pub key: String,
    pub begun: SystemTime,
    pub metadata: BTreeMap<String, String>,
    pub carried: Carried,
    pub parts: BTreeMap<i32, Part>,
}

/// One uploaded part.
#[derive(Debug, Clone)]
pub struct Part {
    pub body: Bytes,
    pub etag: String,
    pub modified: SystemTime,
}

#[derive(Debug, Default)]
pub struct Bucket {
    pub objects: BTreeMap<String, Object>,
    pub uploads: BTreeMap<String, Upload>,
}

/// What a conditional header asks of the object at the key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conditions {
    /// `If-Match`: an ETag without quotes, or `*`.
    pub matches: Option<String>,
    /// `If-None-Match`: an ETag without quotes, or `*`.
    pub none_match: Option<String>,
}

/// Why an operation was refused. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    NoSuchKey,
    Precondition,
    NoSuchUpload,
    InvalidPart,
    InvalidPartOrder,
    TooSmall,
}

impl Conditions {
    /// Judges the conditions of a change against what is at the key, as S3 does: `If-Match` on a
    /// missing key is a 404, everything else that does not hold a 412.
    pub fn check(&self, current: Option<&Object>) -> Result<(), Refused> {
        if let Some(wanted) = &self.matches {
            let object = current.ok_or(Refused::NoSuchKey)?;
            if wanted != "*" && *wanted != object.etag {
                return Err(Refused::Precondition);
            }
        }
        if let (Some(unwanted), Some(object)) = (&self.none_match, current)
            && (unwanted == "*" || *unwanted == object.etag)
        {
            return Err(Refused::Precondition);
        }
        Ok(())
    }
}

/// The ETag of bytes that were uploaded in one piece.
pub fn etag_of(body: &[u8]) -> String {
    hex(&Md5::digest(body))
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

impl Bucket {
    pub fn put(
        &mut self,
        key: &str,
        object: Object,
        conditions: &Conditions,
    ) -> Result<(), Refused> {
        conditions.check(self.objects.get(key))?;
        self.objects.insert(key.to_owned(), object);
        Ok(())
    }

    /// Without a condition a missing key is deleted successfully.
    pub fn delete(&mut self, key: &str, conditions: &Conditions) -> Result<(), Refused> {
        conditions.check(self.objects.get(key))?;
        self.objects.remove(key);
        Ok(())
    }

    pub fn upload(&mut self, key: &str, id: &str) -> Result<&mut Upload, Refused> {
        self.uploads.get_mut(id).filter(|u| u.key == key).ok_or(Refused::NoSuchUpload)
    }

    /// The named parts of an upload, which may become one object.
    pub fn chosen(
        &mut self,
        key: &str,
        id: &str,
        parts: &[(i32, Option<String>)],
    ) -> Result<Vec<Part>, Refused> {
        let upload = self.upload(key, id)?;
        if parts.is_empty() {
            return Err(Refused::InvalidPart);
        }
        if parts.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
            return Err(Refused::InvalidPartOrder);
        }
        let mut chosen = Vec::new();
        for (i, (number, etag)) in parts.iter().enumerate() {
            let part = upload.parts.get(number).ok_or(Refused::InvalidPart)?;
            if etag.as_ref().is_some_and(|etag| *etag != part.etag) {
                return Err(Refused::InvalidPart);
            }
            if i + 1 < parts.len() && part.body.len() < MIN_PART {
                return Err(Refused::TooSmall);
            }
            chosen.push(part.clone());
        }
        Ok(chosen)
    }

    /// Puts the object that the upload became and drops the upload; a refusal leaves both as they are.
    pub fn complete(
        &mut self,
        key: &str,
        id: &str,
        whole: Whole,
        now: SystemTime,
        conditions: &Conditions,
    ) -> Result<(), Refused> {
        let upload = self.upload(key, id)?.clone();
        let object = Object {
            body: whole.body,
            etag: whole.etag,
            modified: now,
            metadata: upload.metadata,
            carried: upload.carried,
        };
        self.put(key, object, conditions)?;
        self.uploads.remove(id);
        Ok(())
    }
}

/// What the parts of an upload are together.
#[derive(Debug)]
pub struct Whole {
    body: Bytes,
    pub etag: String,
}

impl Whole {
    /// Takes long: to be called outside the mutex.
    pub fn of(parts: &[Part]) -> Whole {
        let mut body = Vec::new();
        let mut digests = Md5::new();
        for part in parts {
            body.extend_from_slice(&part.body);
            digests.update(Md5::digest(&part.body));
        }
        let etag = format!("{}-{}", hex(&digests.finalize()), parts.len());
        Whole { body: body.into(), etag }
    }
}

/// What a listing asks for.
#[derive(Debug, Default)]
pub struct Listing<'a> {
    pub prefix: &'a str,
    pub delimiter: Option<&'a str>,
    /// Only what sorts after this.
    pub after: Option<&'a str>,
    /// `after` may itself be a common prefix of the page before: then all of it is skipped.
    pub after_is_position: bool,
    pub max: usize,
}

/// One page of a listing.
#[derive(Debug, Default)]
pub struct Page {
    pub keys: Vec<String>,
    pub prefixes: Vec<String>,
    /// The last key or common prefix of this page, when there is more.
    pub next: Option<String>,
}

/// Lists sorted keys the way S3 does: a common prefix counts like a key and is given once.
pub fn list<'k, V: 'k>(map: &'k BTreeMap<String, V>, want: &Listing<'_>) -> Page {
    use std::ops::Bound;
    let mut page = Page::default();
    if want.max == 0 {
        return page;
    }
    let fold = |key: &str| {
        let delimiter = want.delimiter.filter(|d| !d.is_empty())?;
        let at = key[want.prefix.len()..].find(delimiter)?;
        Some(key[..want.prefix.len() + at + delimiter.len()].to_owned())
    };
    let skipped = want.after.filter(|_| want.after_is_position);
    let start = match want.after {
        Some(after) if after >= want.prefix => Bound::Excluded(after.to_owned()),
        _ => Bound::Included(want.prefix.to_owned()),
    };
    let mut last: Option<String> = None;
    for (key, _) in map.range((start, Bound::Unbounded)) {
        if !key.starts_with(want.prefix) {
            break;
        }
        let folded = fold(key);
        if folded.is_some() && (folded.as_deref() == skipped || folded == last) {
            continue;
        }
        if page.keys.len() + page.prefixes.len() == want.max {
            page.next = last;
            break;
        }
        match folded {
            Some(prefix) => {
                last = Some(prefix.clone());
                page.prefixes.push(prefix);
            }
            None => {
                last = Some(key.clone());
                page.keys.push(key.clone());
            }
        }
    }
    page
}
