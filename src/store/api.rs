//! What every backend offers, and the outcomes that its callers must look at.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::Deserialize as _;

use super::{Attributes, Properties, StoreError, StoreErrorKind, Tags};
use crate::metrics::{RequestKind, Requests};
use crate::types::{KeyPrefix, ObjectKey, StoreTime, Version};

/// The state that the key must be in for a change to be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Whatever is there.
    None,
    /// Nothing at the key (`If-None-Match: *`).
    Absent,
    /// Exactly this version (`If-Match`).
    Is(Version),
}

/// How one request is sent.
#[derive(Debug, Clone)]
pub struct Send {
    pub condition: Condition,
    /// The store must refuse the request after this time of its own clock, where it can (S3: a
    /// query signature that expires, rounded up to a whole second). `None` for names that are
    /// never reused.
    pub not_after: Option<StoreTime>,
    /// The caller stops waiting after this; the request's fate is then [`PutOutcome::Ambiguous`].
    /// The time counts from the last progress of the body, not from its start.
    pub timeout: Duration,
}

impl Send {
    /// An unconditional request without expiry, for names that are never reused.
    pub fn plain(timeout: Duration) -> Self {
        Send { condition: Condition::None, not_after: None, timeout }
    }
}

/// What became of a request that changes an object.
#[must_use]
#[derive(Debug)]
pub enum PutOutcome {
    /// Applied. The version is as far as the answer told it (`modified` is usually unknown).
    Won(Version),
    /// Refused by its condition. That may have met the request itself, if something in between sent it twice:
    /// who has to know looks at what is there.
    Lost,
    /// Certainly not applied, and never will be: it was not sent, or the store itself refused it for
    /// another reason than the condition (denied, unsupported, ...).
    Failed(StoreError),
    /// Nobody knows (timeout, cut connection, 409, 5xx, what a proxy answers): it may still be applied
    /// until it expires.
    Ambiguous(StoreError),
}

/// An object as HEAD or GET shows it.
#[derive(Debug, Clone)]
pub struct ObjectInfo {
    pub version: Version,
    pub attributes: Attributes,
    /// All but the tags and the access list, which no HEAD tells. On Azure a GET tells no class.
    pub properties: Properties,
    /// How many tags it has; `None`: the store does not tell, or only those who may read tags.
    pub tag_count: Option<u32>,
}

/// A range of an object's bytes.
#[derive(Debug, Clone)]
pub struct GetResult {
    pub info: ObjectInfo,
    /// Exactly the asked range, cut at the object's end; never shorter for another reason.
    pub data: Bytes,
}

/// What to list.
#[derive(Debug, Clone)]
pub struct ListRequest {
    /// Raw prefix of the keys, not necessarily ending in `/`.
    pub prefix: String,
    /// Fold everything after the next `/` into [`ListPage::prefixes`].
    pub delimiter: bool,
    /// Where the page before ended ([`ListPage::next`]).
    pub token: Option<String>,
    /// At most 1,000.
    pub max_keys: u32,
}

/// One key of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: ObjectKey,
    pub version: Version,
}

/// One page of a listing, in key order.
#[derive(Debug, Clone, Default)]
pub struct ListPage {
    pub entries: Vec<Entry>,
    /// Common prefixes, each ending in `/`; only with a delimiter.
    pub prefixes: Vec<String>,
    /// `Some` when there is more.
    pub next: Option<String>,
}

/// A multipart upload that was begun.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct UploadId(pub String);

/// One part of a multipart upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// From 1.
    pub number: u32,
    /// Where its bytes begin in the object.
    pub offset: u64,
}

/// What lies in the bucket and is to become a part of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartSource {
    pub key: ObjectKey,
    /// It is copied only if it still is this.
    pub expect: Version,
    /// `None`: all of it. Of what is not larger than 5 MiB S3 copies no range.
    pub range: Option<Range<u64>>,
}

/// Requests sent so far, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RequestCounts {
    pub get: u64,
    pub head: u64,
    pub put: u64,
    pub list: u64,
    pub delete: u64,
    pub copy: u64,
    pub multipart: u64,
    pub bytes_up: u64,
    pub bytes_down: u64,
}

impl RequestCounts {
    /// What was sent since `before`.
    pub fn since(self, before: RequestCounts) -> RequestCounts {
        RequestCounts {
            get: self.get - before.get,
            head: self.head - before.head,
            put: self.put - before.put,
            list: self.list - before.list,
            delete: self.delete - before.delete,
            copy: self.copy - before.copy,
            multipart: self.multipart - before.multipart,
            bytes_up: self.bytes_up - before.bytes_up,
            bytes_down: self.bytes_down - before.bytes_down,
        }
    }

    /// Of one kind.
    pub fn of(&self, kind: RequestKind) -> u64 {
        match kind {
            RequestKind::Get => self.get,
            RequestKind::Head => self.head,
            RequestKind::Put => self.put,
            RequestKind::List => self.list,
            RequestKind::Delete => self.delete,
            RequestKind::Copy => self.copy,
            RequestKind::Multipart => self.multipart,
        }
    }

    fn kinds(&self) -> [(&'static str, u64); 7] {
        RequestKind::ALL.map(|kind| (kind.name(), self.of(kind)))
    }
}

impl std::ops::Add for RequestCounts {
    type Output = RequestCounts;

    fn add(self, other: RequestCounts) -> RequestCounts {
        RequestCounts {
            get: self.get + other.get,
            head: self.head + other.head,
            put: self.put + other.put,
            list: self.list + other.list,
            delete: self.delete + other.delete,
            copy: self.copy + other.copy,
            multipart: self.multipart + other.multipart,
            bytes_up: self.bytes_up + other.bytes_up,
            bytes_down: self.bytes_down + other.bytes_down,
        }
    }
}

/// `5 requests (3 get, 2 put), 4 KiB up, 12 KiB down`.
impl std::fmt::Display for RequestCounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sent: Vec<String> = self
            .kinds()
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|(kind, count)| format!("{count} {kind}"))
            .collect();
        let all: u64 = self.kinds().into_iter().map(|(_, count)| count).sum();
        let of = if sent.is_empty() { String::new() } else { format!(" ({})", sent.join(", ")) };
        let kib = |bytes: u64| bytes.div_ceil(1024);
        write!(
            f,
            "{all} requests{of}, {} KiB up, {} KiB down",
            kib(self.bytes_up),
            kib(self.bytes_down)
        )
    }
}

/// The verbs that the probe judges one by one.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// `If-None-Match: *` on PUT, also in parallel.
    CreateIfAbsent,
    /// `If-Match` on PUT.
    PutIfMatch,
    CompleteConditional,
    CopyConditional,
    DeleteConditional,
    /// Server-side copy at all.
    Copy,
    /// Server-side copy into a part of an upload, if the source is what is expected.
    PartCopy,
    /// Refusal of a request after its expiry.
    Expiry,
    ReadAfterWrite,
    /// Not a verb: `If-Match` works here only with the ETag *without* quotes (Ceph RGW 16).
    UnquotedEtag,
    /// One request that deletes several keys, and says of each what became of it.
    DeleteMany,
    /// The same with a version for each key.
    DeleteManyConditional,
    /// Refusal of a body that is not what its CRC32C says, and word that one is.
    Checksum,
}

impl Verb {
    /// Whether each version of s3vol knows it. The first ones take a record that names any other for damaged, so others
    /// are in no volume's `format.json`, only among what was found out about a store.
    pub fn is_everywhere(self) -> bool {
        let later = [Verb::DeleteMany, Verb::DeleteManyConditional, Verb::PartCopy, Verb::Checksum];
        !later.contains(&self)
    }
}

/// What a store was proven to honour. Recorded in a volume's `format.json`. Verbs that this version does not know are
/// not read.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Capabilities(#[serde(deserialize_with = "known_verbs")] pub BTreeSet<Verb>);

impl Capabilities {
    /// Whether the probe saw the store honour this verb.
    pub fn has(&self, verb: Verb) -> bool {
        self.0.contains(&verb)
    }

    /// What of it each version of s3vol can read.
    pub fn everywhere(&self) -> Capabilities {
        Capabilities(self.0.iter().copied().filter(|verb| verb.is_everywhere()).collect())
    }
}

fn known_verbs<'de, D: serde::Deserializer<'de>>(from: D) -> Result<BTreeSet<Verb>, D::Error> {
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum Named {
        Known(Verb),
        OfALaterVersion(String),
    }
    let known = Vec::<Named>::deserialize(from)?.into_iter().filter_map(|named| match named {
        Named::Known(verb) => Some(verb),
        Named::OfALaterVersion(name) => {
            tracing::debug!(name, "a verb that this version does not know");
            None
        }
    });
    Ok(known.collect())
}

/// A key of a group that one request deletes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doomed {
    pub key: ObjectKey,
    /// None, or a version.
    pub condition: Condition,
}

/// What a store does with one request that deletes several keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Groups {
    /// There is no such request, or it does not do what it says.
    No,
    /// Whatever lies there is deleted.
    Plain,
    /// The version of each key is compared first.
    Conditional,
}

impl Groups {
    /// As the probe found it.
    pub(super) fn of(found: &Capabilities) -> Groups {
        match (found.has(Verb::DeleteMany), found.has(Verb::DeleteManyConditional)) {
            (true, true) => Groups::Conditional,
            (true, false) => Groups::Plain,
            (false, _) => Groups::No,
        }
    }
}

/// Takes a piece of an object; false: no more is wanted.
pub type Take<'t> = dyn FnMut(Bytes) -> bool + std::marker::Send + 't;
/// Where a store does not hand over what arrives, it is asked for so much at a time, bytes.
const STEP: u64 = 4 << 20;

/// One bucket. Implementations never retry a changing request by themselves; reads are retried a
/// few times within `timeout`.
#[async_trait]
pub trait StoreBackend: std::fmt::Debug + std::marker::Send + Sync + 'static {
    /// One object from memory (at most 5 GiB; callers keep it under 64 MiB).
    async fn put(
        &self,
        key: &ObjectKey,
        body: Bytes,
        attributes: &Attributes,
        properties: &Properties,
        send: Send,
    ) -> PutOutcome;

    /// The same for bytes alone, which the store compares with `sum`, their CRC32C, before it keeps them, where it can
    /// ([`Verb::Checksum`]). True beside [`PutOutcome::Won`] is its word that it did.
    async fn put_summed(
        &self,
        key: &ObjectKey,
        body: Bytes,
        _sum: u32,
        send: Send,
    ) -> (PutOutcome, bool) {
        let (none, plain) = (Attributes::new(), Properties::default());
        (self.put(key, body, &none, &plain, send).await, false)
    }

    /// `range` of an object, if it still is `expect` (a different version is
    /// [`super::StoreErrorKind::Changed`]). `None` reads the whole object.
    async fn get(
        &self,
        key: &ObjectKey,
        range: Option<Range<u64>>,
        expect: Option<&Version>,
        timeout: Duration,
    ) -> Result<GetResult, StoreError>;

    /// `range` of `expect`, handed to `take` as it arrives, in order, so that it need not be held as a whole. It is
    /// shorter only at the object's end, or when `take` wants no more. What was taken before an error is of that
    /// version all the same. Nothing is tried again once something was taken.
    async fn get_pieces(
        &self,
        key: &ObjectKey,
        range: Range<u64>,
        expect: &Version,
        timeout: Duration,
        take: &mut Take<'_>,
    ) -> Result<(), StoreError> {
        get_in_steps(self, key, range, expect, timeout, take).await
    }

    /// Bytes that [`StoreBackend::get_pieces`] holds at a time.
    fn pieces_held(&self) -> u64 {
        STEP
    }

    /// Attributes and version; `None` when the key does not exist.
    async fn head(
        &self,
        key: &ObjectKey,
        timeout: Duration,
    ) -> Result<Option<ObjectInfo>, StoreError>;

    /// The object's tags as they are now; `None` where the store has no tags. Whoever needs those of
    /// a version looks at the version again afterwards.
    ///
    /// # Errors
    /// [`super::StoreErrorKind::TagsDenied`] when only the right to read tags is missing.
    async fn get_tags(
        &self,
        key: &ObjectKey,
        timeout: Duration,
    ) -> Result<Option<Tags>, StoreError>;

    async fn list(&self, request: ListRequest, timeout: Duration) -> Result<ListPage, StoreError>;

    /// Removes a key. A missing key is `Won` without a condition and `Lost` with one.
    async fn delete(&self, key: &ObjectKey, send: Send) -> PutOutcome;

    /// Removes up to 1,000 keys by one request, for who knows that the store can ([`StoreBackend::groups`]). What
    /// became of each, in their order: the store may have done a part of them, now or later, and one that its answer
    /// does not name is `Ambiguous`. Keys that such a request cannot name go by themselves.
    ///
    /// # Errors
    /// Nothing was removed, and nothing will be: the store refused the request as a whole, or it was not sent.
    async fn delete_many(
        &self,
        group: &[Doomed],
        _not_after: Option<StoreTime>,
        _timeout: Duration,
    ) -> Result<Vec<PutOutcome>, StoreError> {
        let text = format!("{} cannot delete {} keys by one request", self.endpoint(), group.len());
        Err(StoreError::new(StoreErrorKind::Unsupported, text))
    }

    /// What can be relied on in [`StoreBackend::delete_many`]. Where nobody knows, it is found out with keys below
    /// `scratch`, which are removed again, in about 20 requests.
    async fn groups(&self, _scratch: &KeyPrefix) -> Groups {
        Groups::No
    }

    /// The same as far as it is known now.
    fn known_groups(&self) -> Option<Groups> {
        Some(Groups::No)
    }

    /// Copies `from` (if it still is `expect`) to `to` on the server, replacing its attributes and
    /// properties; only tags that are not known are taken over from the source.
    /// `send.condition` is about `to`. At most 5 GiB.
    async fn copy(
        &self,
        from: &ObjectKey,
        expect: &Version,
        to: &ObjectKey,
        attributes: &Attributes,
        properties: &Properties,
        send: Send,
    ) -> PutOutcome;

    /// Whether a copy bears what it is sent with, all of it and nothing else, as what is put does (but for tags that
    /// are not known), and takes its source by one request.
    fn copies_bear_all(&self) -> bool {
        false
    }

    /// Begins a multipart upload.
    async fn create_upload(
        &self,
        key: &ObjectKey,
        attributes: &Attributes,
        properties: &Properties,
        timeout: Duration,
    ) -> Result<UploadId, StoreError>;

    /// Sends a part (all but the last have the same size, at least 5 MiB) and returns its tag. Of a
    /// part that is sent again the later one counts.
    async fn upload_part(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        part: Part,
        body: Bytes,
        timeout: Duration,
    ) -> Result<String, StoreError>;

    /// Makes a part of bytes that lie in the bucket, without their coming here, and returns its tag. An error says
    /// nothing about whether it was made; of a part that is made again the later one counts.
    ///
    /// # Errors
    /// [`super::StoreErrorKind::Unsupported`] where no store of this kind can,
    /// [`super::StoreErrorKind::Changed`] and [`super::StoreErrorKind::NotFound`] when the source is another one by now.
    async fn copy_part(
        &self,
        key: &ObjectKey,
        _upload: &UploadId,
        part: Part,
        source: &PartSource,
        _timeout: Duration,
    ) -> Result<String, StoreError> {
        Err(StoreError::new(
            super::StoreErrorKind::Unsupported,
            format!("part {} of {key}: no parts are copied here from {}", part.number, source.key),
        ))
    }

    /// Makes the object from the tags of its parts, in order. `size` is the sum of the parts. Whatever
    /// its outcome, nobody completes the same upload again.
    async fn complete_upload(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        parts: &[String],
        size: u64,
        send: Send,
    ) -> PutOutcome;

    /// Drops an upload; a missing one is fine. Azure cannot take blocks back: there a completion
    /// that is still under way, or sent later, makes the object all the same.
    async fn abort_upload(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        timeout: Duration,
    ) -> Result<(), StoreError>;

    /// The store's clock now: its last `Date` plus the monotonic time since. Asks the store once
    /// when no answer was seen yet.
    async fn now(&self, timeout: Duration) -> Result<StoreTime, StoreError>;

    /// Requests since this store was opened, the engine's included.
    fn requests(&self) -> RequestCounts;

    /// The same by what came of them, with their times; `None` where nobody counts that.
    fn measured(&self) -> Option<Arc<Requests>> {
        None
    }

    /// The endpoint as records and error messages name it, without credentials.
    fn endpoint(&self) -> &str;
}

/// Reads a range in steps, each held as a whole. See [`StoreBackend::get_pieces`].
pub(super) async fn get_in_steps<S: StoreBackend + ?Sized>(
    store: &S,
    key: &ObjectKey,
    range: Range<u64>,
    expect: &Version,
    timeout: Duration,
    take: &mut Take<'_>,
) -> Result<(), StoreError> {
    let mut at = range.start;
    while at < range.end {
        let step = at..range.end.min(at + STEP);
        let found = store.get(key, Some(step.clone()), Some(expect), timeout).await?.data;
        at += found.len() as u64;
        if found.is_empty() || !take(found) || at < step.end {
            break;
        }
    }
    Ok(())
}
