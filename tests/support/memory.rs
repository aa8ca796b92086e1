//! A bucket in memory for the catalog's and the driver's tests: conditions under one lock, and a
//! switch that makes it unreachable. What those two never ask is unsupported.

#![allow(dead_code, reason = "each test file uses another part")]

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use s3vol::catalog::{Opener, Site};
use s3vol::config::{BucketUrl, VolumeOptions};
use s3vol::store::{
    Attributes, Capabilities, Condition, Entry, GetResult, Knowledge, Known, ListPage, ListRequest,
    ObjectInfo, Part, Properties, PutOutcome, RequestCounts, Send, StoreBackend, StoreError,
    StoreErrorKind, Tags, UploadId, Verb,
};
use s3vol::types::{KeyPrefix, ObjectKey, StoreTime, Version};

/// All buckets; keys are `bucket/key`.
#[derive(Debug, Default)]
pub struct Memory {
    objects: Mutex<BTreeMap<String, (Bytes, u64)>>,
    serial: AtomicU64,
    pub requests: AtomicU64,
    /// Requests hang, as when packets are dropped.
    pub unreachable: AtomicBool,
    /// The probe finds create-if-absent ignored.
    pub careless: AtomicBool,
    /// Every condition on a version is refused, whether it holds or not.
    pub refuses_versions: AtomicBool,
    /// The store's clock, milliseconds.
    pub clock: AtomicI64,
    known: Known,
}

impl Memory {
    pub fn put_object(&self, key: &str, body: &str) {
        let serial = self.serial.fetch_add(1, Ordering::SeqCst);
        self.objects.lock().insert(key.to_owned(), (Bytes::from(body.to_owned()), serial));
    }

    pub fn keys(&self) -> Vec<String> {
        self.objects.lock().keys().cloned().collect()
    }

    pub fn remove(&self, key: &str) {
        self.objects.lock().remove(key);
    }

    async fn request(&self) {
        self.requests.fetch_add(1, Ordering::SeqCst);
        if self.unreachable.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }
}

#[derive(Debug, Clone)]
pub struct MemoryOpener(pub Arc<Memory>);

#[async_trait]
impl Opener for MemoryOpener {
    async fn open(
        &self,
        url: &BucketUrl,
        _options: &VolumeOptions,
    ) -> Result<Arc<dyn Site>, StoreError> {
        Ok(Arc::new(MemorySite {
            known: self.0.known.of(&format!("s3://{}", url.bucket), "memory"),
            prefix: url.prefix.clone(),
            bucket: MemoryBucket { name: url.bucket.clone(), memory: Arc::clone(&self.0) },
        }))
    }
}

#[derive(Debug)]
struct MemorySite {
    known: Arc<Knowledge>,
    prefix: KeyPrefix,
    bucket: MemoryBucket,
}

#[async_trait]
impl Site for MemorySite {
    fn store(&self) -> &dyn StoreBackend {
        &self.bucket
    }

    fn prefix(&self) -> &KeyPrefix {
        &self.prefix
    }

    async fn check(&self) -> Result<ListPage, StoreError> {
        if self.bucket.name == "missing" {
            return Err(StoreError::new(StoreErrorKind::NoBucket, "there is no bucket missing"));
        }
        let prefix = self.prefix.as_str().to_owned();
        let first = ListRequest { prefix, delimiter: true, token: None, max_keys: 2 };
        self.bucket.list(first, Duration::from_secs(9)).await
    }

    fn known(&self) -> &Knowledge {
        &self.known
    }

    async fn probe(&self, _scratch: &KeyPrefix) -> Result<Capabilities, StoreError> {
        self.bucket.memory.request().await;
        let mut capabilities = Capabilities::default();
        if !self.bucket.memory.careless.load(Ordering::SeqCst) {
            capabilities.0.insert(Verb::CreateIfAbsent);
        }
        self.known.found(&capabilities, false);
        Ok(capabilities)
    }
}

#[derive(Debug)]
struct MemoryBucket {
    name: String,
    memory: Arc<Memory>,
}

impl MemoryBucket {
    fn path(&self, key: &ObjectKey) -> String {
        format!("{}/{key}", self.name)
    }
}

fn version(object: &(Bytes, u64)) -> Version {
    Version {
        etag: format!("e{}", object.1),
        size: object.0.len() as u64,
        modified: None,
        generation: None,
    }
}

fn not_asked() -> StoreError {
    StoreError::new(StoreErrorKind::Unsupported, "not in memory")
}

async fn within<T>(
    timeout: Duration,
    work: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    tokio::time::timeout(timeout, work).await.unwrap_or_else(|_| {
        Err(StoreError::new(StoreErrorKind::Timeout, "the store did not answer in time"))
    })
}

#[async_trait]
impl StoreBackend for MemoryBucket {
    async fn put(
        &self,
        key: &ObjectKey,
        body: Bytes,
        _attributes: &Attributes,
        _properties: &Properties,
        send: Send,
    ) -> PutOutcome {
        let arrived = within(send.timeout, async {
            self.memory.request().await;
            Ok(())
        });
        if let Err(error) = arrived.await {
            return PutOutcome::Ambiguous(error);
        }
        let mut objects = self.memory.objects.lock();
        let there = objects.get(&self.path(key)).map(version);
        let allowed = match &send.condition {
            Condition::None => true,
            Condition::Absent => there.is_none(),
            Condition::Is(_) if self.memory.refuses_versions.load(Ordering::SeqCst) => false,
            Condition::Is(wanted) => there.is_some_and(|v| v.same(wanted)),
        };
        if !allowed {
            return PutOutcome::Lost;
        }
        let object = (body, self.memory.serial.fetch_add(1, Ordering::SeqCst));
        let won = PutOutcome::Won(version(&object));
        objects.insert(self.path(key), object);
        won
    }

    async fn get(
        &self,
        key: &ObjectKey,
        _range: Option<Range<u64>>,
        _expect: Option<&Version>,
        timeout: Duration,
    ) -> Result<GetResult, StoreError> {
        within(timeout, async {
            self.memory.request().await;
            match self.memory.objects.lock().get(&self.path(key)) {
                Some(object) => Ok(GetResult {
                    info: ObjectInfo {
                        version: version(object),
                        attributes: Attributes::new(),
                        properties: Properties::default(),
                        tag_count: None,
                    },
                    data: object.0.clone(),
                }),
                None => Err(StoreError::new(StoreErrorKind::NotFound, format!("no {key}"))),
            }
        })
        .await
    }

    async fn head(
        &self,
        key: &ObjectKey,
        timeout: Duration,
    ) -> Result<Option<ObjectInfo>, StoreError> {
        match self.get(key, None, None, timeout).await {
            Ok(got) => Ok(Some(got.info)),
            Err(e) if e.kind == StoreErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn get_tags(
        &self,
        _key: &ObjectKey,
        _timeout: Duration,
    ) -> Result<Option<Tags>, StoreError> {
        Err(not_asked())
    }

    async fn list(&self, request: ListRequest, timeout: Duration) -> Result<ListPage, StoreError> {
        within(timeout, async {
            self.memory.request().await;
            let start = format!("{}/{}", self.name, request.prefix);
            let objects = self.memory.objects.lock();
            let entries = objects
                .iter()
                .filter(|(path, _)| path.starts_with(&start))
                .take(request.max_keys as usize)
                .map(|(path, object)| Entry {
                    key: ObjectKey::new(&path[self.name.len() + 1..]),
                    version: version(object),
                })
                .collect();
            Ok(ListPage { entries, prefixes: Vec::new(), next: None })
        })
        .await
    }

    async fn delete(&self, key: &ObjectKey, _send: Send) -> PutOutcome {
        self.memory.request().await;
        match self.memory.objects.lock().remove(&self.path(key)) {
            Some(object) => PutOutcome::Won(version(&object)),
            None => PutOutcome::Lost,
        }
    }

    async fn copy(
        &self,
        _from: &ObjectKey,
        _expect: &Version,
        _to: &ObjectKey,
        _attributes: &Attributes,
        _properties: &Properties,
        _send: Send,
    ) -> PutOutcome {
        PutOutcome::Ambiguous(not_asked())
    }

    async fn create_upload(
        &self,
        _key: &ObjectKey,
        _attributes: &Attributes,
        _properties: &Properties,
        _timeout: Duration,
    ) -> Result<UploadId, StoreError> {
        Err(not_asked())
    }

    async fn upload_part(
        &self,
        _key: &ObjectKey,
        _upload: &UploadId,
        _part: Part,
        _body: Bytes,
        _timeout: Duration,
    ) -> Result<String, StoreError> {
        Err(not_asked())
    }

    async fn complete_upload(
        &self,
        _key: &ObjectKey,
        _upload: &UploadId,
        _parts: &[String],
        _size: u64,
        _send: Send,
    ) -> PutOutcome {
        PutOutcome::Ambiguous(not_asked())
    }

    async fn abort_upload(
        &self,
        _key: &ObjectKey,
        _upload: &UploadId,
        _timeout: Duration,
    ) -> Result<(), StoreError> {
        Err(not_asked())
    }

    async fn now(&self, _timeout: Duration) -> Result<StoreTime, StoreError> {
        Ok(StoreTime(self.memory.clock.load(Ordering::SeqCst)))
    }

    fn requests(&self) -> RequestCounts {
        RequestCounts::default()
    }

    fn endpoint(&self) -> &str {
        "memory"
    }
}
