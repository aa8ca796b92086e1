//! The bucket as one process of a host reaches it: the objects' side.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use s3vol::clock::{Deadline, boottime};
use s3vol::store::{
    Attributes, Condition, Doomed, Entry, GetResult, Groups, ListPage, ListRequest, ObjectInfo,
    Part, PartSource, Properties, PutOutcome, RequestCounts, Send, StandIn, StoreBackend,
    StoreError, StoreErrorKind, Tags, UploadId, Verb,
};
use s3vol::types::{KeyPrefix, ObjectKey, StoreTime, Version};

use crate::bucket::{Access, Bucket, Trouble, Upload, ask};
use crate::engine_port::EnginePort;
use crate::outside;

/// The name of the bucket, and how it is reached.
pub const BUCKET: &str = "bucket";
pub const ENDPOINT: &str = "http://simulated";

/// A read is tried so often.
const READ_ATTEMPTS: u32 = 4;

/// One process's way to the bucket.
#[derive(Debug)]
pub struct Port {
    pub host: usize,
    counts: Mutex<RequestCounts>,
    /// The store's clock at the last answer, and the monotonic time then.
    clock: Mutex<Option<(i64, Duration)>>,
}

impl Port {
    pub fn new(host: usize) -> Arc<Self> {
        Arc::new(Port { host, counts: Mutex::default(), clock: Mutex::default() })
    }

    pub fn count(&self, count: impl FnOnce(&mut RequestCounts)) {
        count(&mut self.counts.lock());
    }

    /// What an answer's `Date`, in whole seconds, tells.
    pub fn saw_date(&self) {
        let date = crate::sim::sim().bucket.clock().div_euclid(1000) * 1000;
        let at = boottime();
        let mut clock = self.clock.lock();
        let projected =
            clock.map(|(then, since)| then + at.saturating_sub(since).as_millis() as i64);
        let now = projected.filter(|p| (0..5000).contains(&(p - date))).unwrap_or(date);
        *clock = Some((now, at));
    }

    fn store_time(&self) -> Option<StoreTime> {
        let (then, since) = (*self.clock.lock())?;
        Some(StoreTime(then + boottime().saturating_sub(since).as_millis() as i64))
    }

    async fn once<T: std::marker::Send + 'static>(
        &self,
        (access, what): (Access, &'static str),
        key: &str,
        not_after: Option<StoreTime>,
        timeout: Duration,
        apply: impl FnOnce(&Bucket) -> T + std::marker::Send + 'static,
    ) -> Result<T, StoreError> {
        if let Some(end) = not_after
            && end <= self.now(timeout).await?
        {
            let why = format!("{what} of {key}: the request expired before it was sent");
            return Err(StoreError::new(StoreErrorKind::Timeout, why));
        }
        let answer = ask(self.host, access, what, key, not_after, timeout, apply).await;
        match answer {
            Ok(_) | Err(Trouble::Conflict | Trouble::Expired | Trouble::Denied) => self.saw_date(),
            Err(Trouble::Unreachable | Trouble::Timeout) => {}
        }
        answer.map_err(|trouble| {
            let kind = match trouble {
                Trouble::Unreachable | Trouble::Conflict => StoreErrorKind::Unreachable,
                Trouble::Timeout => StoreErrorKind::Timeout,
                Trouble::Expired | Trouble::Denied => StoreErrorKind::Denied,
            };
            StoreError::new(kind, format!("{what} of {key}: {trouble:?}"))
        })
    }

    async fn read<T: std::marker::Send + 'static>(
        &self,
        what: &'static str,
        key: &str,
        timeout: Duration,
        apply: impl Fn(&Bucket) -> T + std::marker::Send + Clone + 'static,
    ) -> Result<T, StoreError> {
        let end = Deadline::after(timeout);
        let mut pause = Duration::from_millis(50);
        let mut attempt = 1;
        loop {
            let apply = apply.clone();
            match self.once((Access::Reads, what), key, None, end.left(), apply).await {
                Err(e) if e.is_transient() && attempt < READ_ATTEMPTS && end.left() > pause * 2 => {
                    tokio::time::sleep(pause).await;
                    attempt += 1;
                    pause *= 3;
                }
                done => return done,
            }
        }
    }

    async fn write(
        &self,
        what: &'static str,
        key: &str,
        send: &Send,
        apply: impl FnOnce(&Bucket) -> Applied + std::marker::Send + 'static,
    ) -> PutOutcome {
        let access = (Access::Writes, what);
        match self.once(access, key, send.not_after, send.timeout, apply).await {
            Ok(Applied::Won(version)) => PutOutcome::Won(version),
            Ok(Applied::Lost) => PutOutcome::Lost,
            Ok(Applied::NoSource) => PutOutcome::Ambiguous(StoreError::new(
                StoreErrorKind::NotFound,
                format!("{what} of {key}: there is no source"),
            )),
            Ok(Applied::NoUpload) => PutOutcome::Ambiguous(StoreError::new(
                StoreErrorKind::NotFound,
                format!("{what} of {key}: there is no such upload"),
            )),
            Ok(Applied::BadPart) => PutOutcome::Failed(StoreError::new(
                StoreErrorKind::Protocol,
                format!("{what} of {key}: a part is not what was said"),
            )),
            // The store itself says that it did not do it.
            Err(error) if error.kind == StoreErrorKind::Denied => PutOutcome::Failed(error),
            Err(error) => PutOutcome::Ambiguous(error),
        }
    }
}

enum Applied {
    Won(Version),
    Lost,
    NoSource,
    NoUpload,
    BadPart,
}

/// Whether a condition holds for what lies at a key. As on S3, a version is its ETag.
fn holds(bucket: &Bucket, key: &str, condition: &Condition) -> bool {
    let objects = bucket.objects.borrow();
    match (condition, objects.get(key)) {
        (Condition::None, _) | (Condition::Absent, None) => true,
        (Condition::Absent, Some(_)) | (Condition::Is(_), None) => false,
        (Condition::Is(version), Some(object)) => object.etag == version.etag,
    }
}

/// Whether a key of a group is deleted.
fn delete_of_group(bucket: &Bucket, one: &Doomed) -> bool {
    let key = one.key.as_str();
    if bucket.honours(Verb::DeleteManyConditional) && !holds(bucket, key, &one.condition) {
        return false;
    }
    bucket.objects.borrow_mut().remove(key);
    true
}

/// The version that a PUT answers.
fn told(bucket: &Bucket, key: &str) -> Version {
    let objects = bucket.objects.borrow();
    let version = objects.get(key).map(crate::bucket::Object::version);
    let version = version.expect("it was put just now");
    Version { modified: None, ..version }
}

fn info(object: &crate::bucket::Object) -> ObjectInfo {
    // HEAD and GET tell whole seconds.
    let second = StoreTime(object.modified.div_euclid(1000) * 1000);
    ObjectInfo {
        version: Version { modified: Some(second), ..object.version() },
        attributes: object.attributes.clone(),
        properties: Properties { tags: None, ..object.properties.clone() },
        tag_count: object.properties.tags.as_ref().map(|tags| tags.len() as u32).or(Some(0)),
    }
}

#[async_trait]
impl StoreBackend for Port {
    async fn put(
        &self,
        key: &ObjectKey,
        body: Bytes,
        attributes: &Attributes,
        properties: &Properties,
        send: Send,
    ) -> PutOutcome {
        self.count(|counts| {
            counts.put += 1;
            counts.bytes_up += body.len() as u64;
        });
        let (at, condition) = (key.as_str().to_owned(), send.condition.clone());
        let (attributes, properties) = (attributes.clone(), properties.clone());
        let looked = outside::looked(key.as_str());
        self.write("PUT", key.as_str(), &send, move |bucket| {
            let honoured =
                bucket.honours(Verb::PutIfMatch) || matches!(condition, Condition::Absent);
            if honoured && !holds(bucket, &at, &condition) {
                return Applied::Lost;
            }
            if !honoured {
                outside::overwrites(&at, looked);
            }
            bucket.put(&at, body, attributes, properties);
            Applied::Won(told(bucket, &at))
        })
        .await
    }

    async fn get(
        &self,
        key: &ObjectKey,
        range: Option<Range<u64>>,
        expect: Option<&Version>,
        timeout: Duration,
    ) -> Result<GetResult, StoreError> {
        self.count(|counts| counts.get += 1);
        let (at, expect) = (key.as_str().to_owned(), expect.cloned());
        let got = self
            .read("GET", key.as_str(), timeout, move |bucket| {
                outside::looks(&at);
                let objects = bucket.objects.borrow();
                let Some(object) = objects.get(&at) else { return Err(StoreErrorKind::NotFound) };
                if expect.as_ref().is_some_and(|version| version.etag != object.etag) {
                    return Err(StoreErrorKind::Changed);
                }
                let size = object.body.len() as u64;
                let range = range.clone().unwrap_or(0..size);
                let (start, end) = (range.start.min(size), range.end.min(size));
                let data = object.body.slice(start as usize..end.max(start) as usize);
                Ok(GetResult { info: info(object), data })
            })
            .await?;
        match got {
            Ok(got) => {
                self.count(|counts| counts.bytes_down += got.data.len() as u64);
                Ok(got)
            }
            Err(kind) => Err(StoreError::new(kind, format!("GET of {key}: {kind:?}"))),
        }
    }

    async fn head(
        &self,
        key: &ObjectKey,
        timeout: Duration,
    ) -> Result<Option<ObjectInfo>, StoreError> {
        self.count(|counts| counts.head += 1);
        let at = key.as_str().to_owned();
        let head = move |bucket: &Bucket| {
            outside::looks(&at);
            bucket.objects.borrow().get(&at).map(info)
        };
        self.read("HEAD", key.as_str(), timeout, head).await
    }

    async fn get_tags(
        &self,
        key: &ObjectKey,
        timeout: Duration,
    ) -> Result<Option<Tags>, StoreError> {
        self.count(|counts| counts.get += 1);
        let at = key.as_str().to_owned();
        let tags = self
            .read("GET tags", key.as_str(), timeout, move |bucket| {
                let objects = bucket.objects.borrow();
                objects.get(&at).map(|object| object.properties.tags.clone().unwrap_or_default())
            })
            .await?;
        let missing = || StoreError::new(StoreErrorKind::NotFound, format!("tags of {key}"));
        tags.map(Some).ok_or_else(missing)
    }

    async fn list(&self, request: ListRequest, timeout: Duration) -> Result<ListPage, StoreError> {
        self.count(|counts| counts.list += 1);
        let prefix = request.prefix.clone();
        self.read("LIST", &prefix, timeout, move |bucket| list(bucket, &request)).await
    }

    async fn delete(&self, key: &ObjectKey, send: Send) -> PutOutcome {
        self.count(|counts| counts.delete += 1);
        let (at, condition) = (key.as_str().to_owned(), send.condition.clone());
        self.write("DELETE", key.as_str(), &send, move |bucket| {
            if bucket.honours(Verb::DeleteConditional) && !holds(bucket, &at, &condition) {
                return Applied::Lost;
            }
            let gone = bucket.objects.borrow_mut().remove(&at);
            let none = Version { etag: String::new(), size: 0, modified: None, generation: None };
            Applied::Won(gone.map_or(none, |object| object.version()))
        })
        .await
    }

    async fn delete_many(
        &self,
        group: &[Doomed],
        not_after: Option<StoreTime>,
        timeout: Duration,
    ) -> Result<Vec<PutOutcome>, StoreError> {
        self.count(|counts| counts.delete += 1);
        let bucket = &crate::sim::sim().bucket;
        let Some(first) = group.first() else { return Ok(Vec::new()) };
        if !bucket.honours(Verb::DeleteMany) {
            let why = format!("DELETE of {} keys: not implemented", group.len());
            return Err(StoreError::new(StoreErrorKind::Unsupported, why));
        }
        // The first one is sent as a request of its own is.
        group[1..].iter().for_each(|one| bucket.sent("DELETE", one.key.as_str()));
        let (share, later) = bucket.share(group.len());
        let (now, rest): (Vec<Doomed>, Vec<Doomed>) =
            (group[..share].to_vec(), group[share..].to_vec());
        let apply = move |bucket: &Bucket| {
            if let Some(wait) = later {
                crate::sim::sim().at(wait, move || {
                    let bucket = &crate::sim::sim().bucket;
                    for one in &rest {
                        delete_of_group(bucket, one);
                    }
                });
            }
            now.iter().map(|one| delete_of_group(bucket, one)).collect::<Vec<bool>>()
        };
        let key = first.key.as_str();
        let access = (Access::Writes, "DELETE");
        let answer = self.once(access, key, not_after, timeout, apply).await;
        let nobody_knows = |error: &StoreError| {
            group.iter().map(|_| PutOutcome::Ambiguous(error.again())).collect()
        };
        let done = match answer {
            Ok(done) => done,
            Err(error) if error.kind == StoreErrorKind::Denied => return Err(error),
            Err(error) => return Ok(nobody_knows(&error)),
        };
        let unnamed = StoreError::new(StoreErrorKind::Unreachable, "DELETE: not named");
        let none = || Version { etag: String::new(), size: 0, modified: None, generation: None };
        let outcome = |place| match done.get(place) {
            Some(true) => PutOutcome::Won(none()),
            Some(false) => PutOutcome::Lost,
            None => PutOutcome::Ambiguous(unnamed.again()),
        };
        Ok((0..group.len()).map(outcome).collect())
    }

    async fn groups(&self, _: &KeyPrefix) -> Groups {
        self.known_groups().unwrap_or(Groups::No)
    }

    fn known_groups(&self) -> Option<Groups> {
        let honours = |verb| crate::sim::sim().bucket.honours(verb);
        Some(match (honours(Verb::DeleteMany), honours(Verb::DeleteManyConditional)) {
            (true, true) => Groups::Conditional,
            (true, false) => Groups::Plain,
            (false, _) => Groups::No,
        })
    }

    async fn copy(
        &self,
        from: &ObjectKey,
        expect: &Version,
        to: &ObjectKey,
        attributes: &Attributes,
        properties: &Properties,
        send: Send,
    ) -> PutOutcome {
        self.count(|counts| counts.copy += 1);
        let (source, at) = (from.as_str().to_owned(), to.as_str().to_owned());
        let (expect, condition) = (expect.clone(), send.condition.clone());
        let (attributes, mut properties) = (attributes.clone(), properties.clone());
        if !crate::sim::sim().bucket.honours(Verb::Copy) {
            let why = format!("COPY to {to}: not implemented");
            return PutOutcome::Failed(StoreError::new(StoreErrorKind::Unsupported, why));
        }
        self.write("COPY", to.as_str(), &send, move |bucket| {
            let found = bucket.objects.borrow().get(&source).cloned();
            let Some(found) = found else { return Applied::NoSource };
            let same = found.etag == expect.etag;
            let free = !bucket.honours(Verb::CopyConditional) || holds(bucket, &at, &condition);
            if !same || !free {
                return Applied::Lost;
            }
            properties.tags = properties.tags.take().or(found.properties.tags);
            bucket.put(&at, found.body, attributes, properties);
            Applied::Won(told(bucket, &at))
        })
        .await
    }

    fn copies_bear_all(&self) -> bool {
        true
    }

    async fn create_upload(
        &self,
        key: &ObjectKey,
        attributes: &Attributes,
        properties: &Properties,
        timeout: Duration,
    ) -> Result<UploadId, StoreError> {
        self.count(|counts| counts.multipart += 1);
        let upload = Upload {
            key: key.as_str().to_owned(),
            attributes: attributes.clone(),
            properties: properties.clone(),
            parts: BTreeMap::new(),
        };
        let begin = move |bucket: &Bucket| {
            let mut uploads = bucket.uploads.borrow_mut();
            bucket.begun.set(bucket.begun.get() + 1);
            let id = format!("upload-{}", bucket.begun.get());
            uploads.insert(id.clone(), upload);
            UploadId(id)
        };
        self.once((Access::Writes, "BEGIN"), key.as_str(), None, timeout, begin).await
    }

    async fn upload_part(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        part: Part,
        body: Bytes,
        timeout: Duration,
    ) -> Result<String, StoreError> {
        self.count(|counts| counts.multipart += 1);
        let id = upload.0.clone();
        let put = move |bucket: &Bucket| {
            let mut uploads = bucket.uploads.borrow_mut();
            let upload = uploads.get_mut(&id)?;
            let tag = crate::bucket::etag(&body);
            upload.parts.insert(part.number, (tag.clone(), body));
            Some(tag)
        };
        let tag = self.once((Access::Writes, "PART"), key.as_str(), None, timeout, put).await?;
        let gone =
            || StoreError::new(StoreErrorKind::NotFound, format!("PART of {key}: no upload"));
        tag.ok_or_else(gone)
    }

    async fn copy_part(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        part: Part,
        source: &PartSource,
        timeout: Duration,
    ) -> Result<String, StoreError> {
        self.count(|counts| counts.multipart += 1);
        if !crate::sim::sim().bucket.honours(Verb::PartCopy) {
            let why = format!("PART of {key}: no copies");
            return Err(StoreError::new(StoreErrorKind::Unsupported, why));
        }
        let (id, source) = (upload.0.clone(), source.clone());
        let copy = move |bucket: &Bucket| {
            let found = bucket.objects.borrow().get(source.key.as_str()).cloned();
            let found = found.ok_or(StoreErrorKind::NotFound)?;
            if found.etag != source.expect.etag {
                return Err(StoreErrorKind::Changed);
            }
            let range = source.range.clone().unwrap_or(0..found.body.len() as u64);
            if range.end > found.body.len() as u64 {
                return Err(StoreErrorKind::Unsupported);
            }
            let body = found.body.slice(range.start as usize..range.end as usize);
            let mut uploads = bucket.uploads.borrow_mut();
            let upload = uploads.get_mut(&id).ok_or(StoreErrorKind::NotFound)?;
            let tag = crate::bucket::etag(&body);
            upload.parts.insert(part.number, (tag.clone(), body));
            Ok(tag)
        };
        let access = (Access::Writes, "COPY PART");
        let copied = self.once(access, key.as_str(), None, timeout, copy).await?;
        copied.map_err(|kind| StoreError::new(kind, format!("PART of {key}: {kind:?}")))
    }

    async fn complete_upload(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        parts: &[String],
        _: u64,
        send: Send,
    ) -> PutOutcome {
        self.count(|counts| counts.multipart += 1);
        let (id, tags, condition) = (upload.0.clone(), parts.to_vec(), send.condition.clone());
        let looked = outside::looked(key.as_str());
        self.write("COMPLETE", key.as_str(), &send, move |bucket| {
            let Some(upload) = bucket.uploads.borrow().get(&id).cloned() else {
                return Applied::NoUpload;
            };
            let at = upload.key.clone();
            let honoured = bucket.honours(Verb::CompleteConditional);
            if honoured && !holds(bucket, &at, &condition) {
                return Applied::Lost;
            }
            let there: Vec<&String> = upload.parts.values().map(|(tag, _)| tag).collect();
            if there != tags.iter().collect::<Vec<_>>() {
                return Applied::BadPart;
            }
            let mut body = BytesMut::new();
            upload.parts.values().for_each(|(_, part)| body.extend_from_slice(part));
            bucket.uploads.borrow_mut().remove(&id);
            if !honoured {
                outside::overwrites(&at, looked);
            }
            // As on S3: the hash of the hashes, and how many.
            let etag = format!("{}-{}", crate::bucket::etag(tags.concat().as_bytes()), tags.len());
            bucket.put_as(&at, body.freeze(), upload.attributes, upload.properties, etag);
            Applied::Won(told(bucket, &at))
        })
        .await
    }

    async fn abort_upload(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        timeout: Duration,
    ) -> Result<(), StoreError> {
        self.count(|counts| counts.multipart += 1);
        let id = upload.0.clone();
        let abort = move |bucket: &Bucket| {
            bucket.uploads.borrow_mut().remove(&id);
        };
        self.once((Access::Writes, "ABORT"), key.as_str(), None, timeout, abort).await
    }

    async fn now(&self, timeout: Duration) -> Result<StoreTime, StoreError> {
        if self.store_time().is_none() {
            self.read("HEAD", "", timeout, |_| ()).await?;
        }
        Ok(self.store_time().expect("an answer was seen"))
    }

    fn requests(&self) -> RequestCounts {
        *self.counts.lock()
    }

    fn endpoint(&self) -> &str {
        ENDPOINT
    }
}

fn list(bucket: &Bucket, request: &ListRequest) -> ListPage {
    let objects = bucket.objects.borrow();
    let mut page = ListPage::default();
    let after = request.token.clone().unwrap_or_default();
    for (key, object) in objects.range(request.prefix.clone()..) {
        let Some(rest) = key.strip_prefix(&request.prefix) else { break };
        let folded = match rest.find('/') {
            Some(end) if request.delimiter => Some(&key[..request.prefix.len() + end + 1]),
            _ => None,
        };
        let name = folded.unwrap_or(key);
        if !after.is_empty() && name <= after.as_str()
            || page.prefixes.last().is_some_and(|last| Some(last.as_str()) == folded)
        {
            continue;
        }
        if page.entries.len() + page.prefixes.len() == request.max_keys as usize {
            let last_key = page.entries.last().map(|e| e.key.as_str().to_owned());
            page.next = last_key.max(page.prefixes.last().cloned());
            break;
        }
        match folded {
            Some(prefix) => page.prefixes.push(prefix.to_owned()),
            None => page
                .entries
                .push(Entry { key: ObjectKey::new(key.clone()), version: object.version() }),
        }
    }
    page
}

#[async_trait]
impl StandIn for Port {
    fn objects(&self, prefix: &KeyPrefix) -> Arc<dyn object_store::ObjectStore> {
        Arc::new(EnginePort { host: self.host, prefix: prefix.as_str().to_owned() })
    }

    async fn expired(&self, key: &ObjectKey, timeout: Duration) -> Result<bool, StoreError> {
        let at = key.as_str().to_owned();
        let end = Some(StoreTime(0));
        let delete = move |bucket: &Bucket| {
            bucket.objects.borrow_mut().remove(&at);
        };
        match ask(self.host, Access::Writes, "DELETE", key.as_str(), end, timeout, delete).await {
            Ok(()) => Ok(false),
            Err(Trouble::Expired) => Ok(true),
            Err(trouble) => Err(StoreError::new(
                StoreErrorKind::Unreachable,
                format!("DELETE of {key}: {trouble:?}"),
            )),
        }
    }
}
