//! A volume's view of its buckets: its own keys and its state, and nothing else.
//!
//! What a volume's records say comes from the bucket, and whoever may write there may have written it. A key that
//! leads out of the volume is refused here, whoever asks, so that a record can harm no other volume.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    Attributes, Doomed, GetResult, Groups, ListPage, ListRequest, ObjectInfo, Part, PartSource,
    Properties, PutOutcome, RequestCounts, Send, StoreBackend, StoreError, StoreErrorKind, Tags,
    Take, UploadId,
};
use crate::types::{KeyPrefix, ObjectKey, StoreTime, Version};

/// The segment of a key below which states and catalogs lie; no file's key has it.
const RESERVED: &str = ".s3vol";

#[derive(Debug)]
struct Confined {
    inner: Arc<dyn StoreBackend>,
    prefix: KeyPrefix,
    state: KeyPrefix,
}

/// `inner`, of which only what lies below `prefix` and below `state` can be reached. Below `prefix`, what other
/// volumes keep in `.s3vol/` cannot.
pub fn confined(
    inner: Arc<dyn StoreBackend>,
    prefix: &KeyPrefix,
    state: &KeyPrefix,
) -> Arc<dyn StoreBackend> {
    Arc::new(Confined { inner, prefix: prefix.clone(), state: state.clone() })
}

/// Whether a file of the volume at `prefix` may rest at `key`.
pub fn is_file_key(key: &ObjectKey, prefix: &KeyPrefix) -> bool {
    prefix.strip(key).is_some_and(|rest| !rest.split('/').any(|segment| segment == RESERVED))
}

impl Confined {
    fn may(&self, key: &ObjectKey) -> Result<(), StoreError> {
        if self.state.strip(key).is_some() || is_file_key(key, &self.prefix) {
            return Ok(());
        }
        let key = key.as_str();
        Err(StoreError::new(
            StoreErrorKind::Protocol,
            format!(
                "{key:?} is not a key of this volume, although a record of its state names it; the state is damaged, or somebody edited it: run s3vol fsck"
            ),
        ))
    }
}

fn no_outcome() -> StoreError {
    StoreError::new(StoreErrorKind::Protocol, "a deletion of a group has no outcome")
}

#[async_trait]
impl StoreBackend for Confined {
    async fn put(
        &self,
        key: &ObjectKey,
        body: Bytes,
        attributes: &Attributes,
        properties: &Properties,
        send: Send,
    ) -> PutOutcome {
        match self.may(key) {
            Ok(()) => self.inner.put(key, body, attributes, properties, send).await,
            Err(error) => PutOutcome::Failed(error),
        }
    }

    async fn put_summed(
        &self,
        key: &ObjectKey,
        body: Bytes,
        sum: u32,
        send: Send,
    ) -> (PutOutcome, bool) {
        match self.may(key) {
            Ok(()) => self.inner.put_summed(key, body, sum, send).await,
            Err(error) => (PutOutcome::Failed(error), false),
        }
    }

    async fn get(
        &self,
        key: &ObjectKey,
        range: Option<Range<u64>>,
        expect: Option<&Version>,
        timeout: Duration,
    ) -> Result<GetResult, StoreError> {
        self.may(key)?;
        self.inner.get(key, range, expect, timeout).await
    }

    fn pieces_held(&self) -> u64 {
        self.inner.pieces_held()
    }

    async fn get_pieces(
        &self,
        key: &ObjectKey,
        range: Range<u64>,
        expect: &Version,
        timeout: Duration,
        take: &mut Take<'_>,
    ) -> Result<(), StoreError> {
        self.may(key)?;
        self.inner.get_pieces(key, range, expect, timeout, take).await
    }

    async fn head(
        &self,
        key: &ObjectKey,
        timeout: Duration,
    ) -> Result<Option<ObjectInfo>, StoreError> {
        self.may(key)?;
        self.inner.head(key, timeout).await
    }

    async fn get_tags(
        &self,
        key: &ObjectKey,
        timeout: Duration,
    ) -> Result<Option<Tags>, StoreError> {
        self.may(key)?;
        self.inner.get_tags(key, timeout).await
    }

    async fn list(&self, request: ListRequest, timeout: Duration) -> Result<ListPage, StoreError> {
        // Prefixes come from names, not from records; a listing reads nothing of an object.
        self.inner.list(request, timeout).await
    }

    async fn delete(&self, key: &ObjectKey, send: Send) -> PutOutcome {
        match self.may(key) {
            Ok(()) => self.inner.delete(key, send).await,
            Err(error) => PutOutcome::Failed(error),
        }
    }

    async fn delete_many(
        &self,
        group: &[Doomed],
        not_after: Option<StoreTime>,
        timeout: Duration,
    ) -> Result<Vec<PutOutcome>, StoreError> {
        // One that leads out of the volume keeps no other.
        let ours = |one: &&Doomed| self.may(&one.key).is_ok();
        let ours: Vec<Doomed> = group.iter().filter(ours).cloned().collect();
        let mut outcomes = match ours.is_empty() {
            true => Vec::new(),
            false => self.inner.delete_many(&ours, not_after, timeout).await?,
        }
        .into_iter();
        let outcome = |one: &Doomed| match self.may(&one.key) {
            Ok(()) => outcomes.next().unwrap_or_else(|| PutOutcome::Ambiguous(no_outcome())),
            Err(error) => PutOutcome::Failed(error),
        };
        Ok(group.iter().map(outcome).collect())
    }

    async fn groups(&self, scratch: &KeyPrefix) -> Groups {
        match self.may(&scratch.key("")) {
            Ok(()) => self.inner.groups(scratch).await,
            Err(_) => Groups::No,
        }
    }

    fn known_groups(&self) -> Option<Groups> {
        self.inner.known_groups()
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
        match self.may(from).and_then(|()| self.may(to)) {
            Ok(()) => self.inner.copy(from, expect, to, attributes, properties, send).await,
            Err(error) => PutOutcome::Failed(error),
        }
    }

    fn copies_bear_all(&self) -> bool {
        self.inner.copies_bear_all()
    }

    async fn create_upload(
        &self,
        key: &ObjectKey,
        attributes: &Attributes,
        properties: &Properties,
        timeout: Duration,
    ) -> Result<UploadId, StoreError> {
        self.may(key)?;
        self.inner.create_upload(key, attributes, properties, timeout).await
    }

    async fn upload_part(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        part: Part,
        body: Bytes,
        timeout: Duration,
    ) -> Result<String, StoreError> {
        self.may(key)?;
        self.inner.upload_part(key, upload, part, body, timeout).await
    }

    async fn copy_part(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        part: Part,
        source: &PartSource,
        timeout: Duration,
    ) -> Result<String, StoreError> {
        self.may(key)?;
        self.may(&source.key)?;
        self.inner.copy_part(key, upload, part, source, timeout).await
    }

    async fn complete_upload(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        parts: &[String],
        size: u64,
        send: Send,
    ) -> PutOutcome {
        match self.may(key) {
            Ok(()) => self.inner.complete_upload(key, upload, parts, size, send).await,
            Err(error) => PutOutcome::Failed(error),
        }
    }

    async fn abort_upload(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        timeout: Duration,
    ) -> Result<(), StoreError> {
        self.may(key)?;
        self.inner.abort_upload(key, upload, timeout).await
    }

    async fn now(&self, timeout: Duration) -> Result<StoreTime, StoreError> {
        self.inner.now(timeout).await
    }

    fn requests(&self) -> RequestCounts {
        self.inner.requests()
    }

    fn measured(&self) -> Option<Arc<crate::metrics::Requests>> {
        self.inner.measured()
    }

    fn endpoint(&self) -> &str {
        self.inner.endpoint()
    }
}
