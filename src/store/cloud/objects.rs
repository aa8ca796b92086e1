//! The verbs, in the words of each provider.

use std::borrow::Cow;
use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{Method, StatusCode};
use object_store::list::{PaginatedListOptions, PaginatedListResult};
use serde::{Deserialize, Serialize};

use super::properties::{as_stored, dressed, info_of};
use super::{Call, CloudStore, Dialect, PLAIN_EXPIRY_MS, name};
use crate::store::meter::host_time;
use crate::store::s3::objects::{get_result, length, nothing};
use crate::store::s3::properties::{about_tags, tags_of, version_of};
use crate::store::s3::xml::{ErrorBody, Written, hides_error, is_rejection};
use crate::store::wire::{Answer, Progress, unanswered, unquote};
use crate::store::{
    Attributes, Condition, Entry, GetResult, ListPage, ListRequest, ObjectInfo, Part, Properties,
    PutOutcome, RequestCounts, Send, StoreBackend, StoreError, StoreErrorKind, Tags, UploadId,
};
use crate::types::{ObjectKey, StoreTime, Version};

/// Azure's right to read and write tags, which *Storage Blob Data Contributor* does not hold.
const TAGS_RIGHT: &str = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs/tags";

/// An Azure upload is only a common start of block names; its attributes come at the end.
#[derive(Serialize, Deserialize)]
struct AzureUpload {
    id: String,
    attributes: Attributes,
    properties: Properties,
}

impl CloudStore {
    /// A page of a listing, asked for once more where the store refused it for keys that are others by now.
    async fn listed(
        &self,
        prefix: &str,
        shown: &str,
        options: &PaginatedListOptions,
    ) -> Result<PaginatedListResult, StoreError> {
        let before = self.source.as_ref().map(|source| (source, source.keys().0));
        let list = async || {
            let listed = self.listing.list_paginated(Some(prefix), options.clone()).await;
            listed.map_err(|error| self.list_error(shown, error))
        };
        match list().await {
            Err(error)
                if error.kind == StoreErrorKind::Denied
                    && before.is_some_and(|(source, before)| source.has_others(before)) =>
            {
                list().await
            }
            listed => listed,
        }
    }

    /// The header that names a version, for the object (`""`) or for a copy's source.
    fn is_version(&self, call: Call, version: &Version, source: bool) -> Call {
        match (self.dialect, source) {
            (Dialect::Azure, false) => call.header("if-match", quoted(&version.etag)),
            (Dialect::Azure, true) => call.header("x-ms-source-if-match", quoted(&version.etag)),
            (Dialect::Google, source) => {
                let name = if source {
                    "x-goog-copy-source-if-generation-match"
                } else {
                    "x-goog-if-generation-match"
                };
                match &version.generation {
                    Some(generation) => call.header(name, generation),
                    // No object has this generation: unknown versions never match.
                    None => call.header(name, "1"),
                }
            }
        }
    }

    fn dressed(
        &self,
        call: Call,
        attributes: &Attributes,
        properties: &Properties,
    ) -> Result<Call, StoreError> {
        let what = self.doing(&call);
        dressed(self.dialect, call, attributes, properties, false).map_err(|e| naming(&what, e))
    }

    /// A copy on Azure has the tags that are sent and no others.
    async fn with_tags_of(
        &self,
        source: &ObjectKey,
        properties: &Properties,
        timeout: Duration,
    ) -> Result<Properties, StoreError> {
        let mut properties = properties.clone();
        if properties.tags.is_none() {
            properties.tags = match self.get_tags(source, timeout).await {
                Err(e)
                    if matches!(e.kind, StoreErrorKind::TagsDenied | StoreErrorKind::NotFound) =>
                {
                    None
                }
                tags => tags?,
            };
        }
        Ok(properties)
    }

    async fn change(
        &self,
        mut call: Call,
        send: &Send,
        wants_source: bool,
        won: impl FnOnce(&Answer) -> Version,
    ) -> PutOutcome {
        match (&send.condition, self.dialect) {
            (Condition::None, _) => {}
            (Condition::Absent, Dialect::Azure) => call = call.header("if-none-match", "*"),
            (Condition::Absent, Dialect::Google) => {
                call = call.header("x-goog-if-generation-match", "0");
            }
            (Condition::Is(version), _) => {
                call = match self.pinned(&call.key, version, send.timeout).await {
                    Ok(Some(version)) => self.is_version(call, &version, false),
                    Ok(None) => return PutOutcome::Lost,
                    Err(e) => return PutOutcome::Failed(e),
                }
            }
        }
        call.not_after = send.not_after;
        let answer = match self.send(&call, &Progress::new(send.timeout)).await {
            Ok(answer) => answer,
            Err(e) => return unanswered(e),
        };
        if answer.status.is_success() && !hides_error(&answer) {
            return PutOutcome::Won(won(&answer));
        }
        // Azure's way to refuse a create.
        if send.condition == Condition::Absent && ErrorBody::of(&answer).code == "BlobAlreadyExists"
        {
            return PutOutcome::Lost;
        }
        let error = match self.refusal(&call, &answer) {
            error if call.is_about_tags() => about_tags(error, TAGS_RIGHT),
            error => error,
        };
        match error.kind {
            StoreErrorKind::Changed if wants_source || send.condition != Condition::None => {
                PutOutcome::Lost
            }
            StoreErrorKind::NotFound
                if (wants_source || matches!(send.condition, Condition::Is(_)))
                    && ErrorBody::of(&answer).code != "NoSuchUpload" =>
            {
                PutOutcome::Lost
            }
            _ if is_rejection(&answer) => PutOutcome::Failed(error),
            _ => PutOutcome::Ambiguous(error),
        }
    }

    async fn confirm_bucket(&self, timeout: Duration) -> Result<(), StoreError> {
        if self.bucket_is_proven() {
            return Ok(());
        }
        let one = ListRequest { prefix: String::new(), delimiter: true, token: None, max_keys: 1 };
        match self.list(one, timeout).await {
            Err(e) if e.kind == StoreErrorKind::NoBucket => Err(e),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl StoreBackend for CloudStore {
    async fn put(
        &self,
        key: &ObjectKey,
        body: Bytes,
        attributes: &Attributes,
        properties: &Properties,
        send: Send,
    ) -> PutOutcome {
        let size = body.len() as u64;
        let mut call = match self.dressed(Call::new(Method::PUT, key), attributes, properties) {
            Ok(call) => call,
            Err(e) => return PutOutcome::Failed(e),
        };
        if self.dialect == Dialect::Azure {
            call = call.header("x-ms-blob-type", "BlockBlob");
        }
        call.body = body;
        self.change(call, &send, false, |answer| version_of(answer, size)).await
    }

    async fn get(
        &self,
        key: &ObjectKey,
        range: Option<Range<u64>>,
        expect: Option<&Version>,
        timeout: Duration,
    ) -> Result<GetResult, StoreError> {
        let mut call = Call::new(Method::GET, key);
        if self.dialect == Dialect::Google {
            call = as_stored(call);
        }
        if let Some(range) = &range {
            if range.end <= range.start {
                return Err(StoreError::new(
                    StoreErrorKind::Unsupported,
                    format!("{}: the range {range:?} is empty", self.doing(&call)),
                ));
            }
            call = call.header("range", format!("bytes={}-{}", range.start, range.end - 1));
        }
        if let Some(version) = expect {
            call = match (self.dialect, &version.generation) {
                (Dialect::Google, None) => call.header("if-match", quoted(&version.etag)),
                _ => self.is_version(call, version, false),
            };
        }
        let changed = || {
            StoreError::new(
                StoreErrorKind::Changed,
                format!("{key:?} in {:?} is no longer the expected version", self.bucket),
            )
        };
        let result = self
            .read(&call, timeout, |answer| match answer.status {
                status if status.is_success() => {
                    get_result(answer, range.as_ref(), |answer, size| {
                        info_of(self.dialect, answer, size)
                    })
                    .map(Some)
                    .map_err(|why| {
                        let text = format!("{} at {}: {why}", self.doing(&call), self.endpoint);
                        StoreError::new(StoreErrorKind::Unreachable, text)
                    })
                }
                StatusCode::RANGE_NOT_SATISFIABLE => Ok(None),
                StatusCode::NOT_MODIFIED => Err(changed()),
                _ => Err(self.refusal(&call, &answer)),
            })
            .await?;
        let result = match result {
            Some(result) => result,
            None => GetResult {
                info: self.head(key, timeout).await?.ok_or_else(changed)?,
                data: Bytes::new(),
            },
        };
        match expect {
            Some(version) if !version.same(&result.info.version) => Err(changed()),
            _ => Ok(result),
        }
    }

    async fn head(
        &self,
        key: &ObjectKey,
        timeout: Duration,
    ) -> Result<Option<ObjectInfo>, StoreError> {
        let call = Call::new(Method::HEAD, key);
        let info = self
            .read(&call, timeout, |answer| match answer.status {
                status if status.is_success() => {
                    let size = length(&answer).ok_or_else(|| {
                        let text = format!("{}: no Content-Length", self.doing(&call));
                        StoreError::new(StoreErrorKind::Protocol, text)
                    })?;
                    Ok(Some(info_of(self.dialect, &answer, size)))
                }
                StatusCode::NOT_FOUND if ErrorBody::of(&answer).code != "ContainerNotFound" => {
                    Ok(None)
                }
                _ => Err(self.refusal(&call, &answer)),
            })
            .await?;
        if info.is_none() {
            self.confirm_bucket(timeout).await?;
        }
        Ok(info)
    }

    async fn get_tags(
        &self,
        key: &ObjectKey,
        timeout: Duration,
    ) -> Result<Option<Tags>, StoreError> {
        if self.dialect == Dialect::Google {
            return Ok(None);
        }
        let call = Call::new(Method::GET, key).query("comp", "tags");
        self.read(&call, timeout, |answer| match answer.status {
            status if status.is_success() => tags_of(&answer).map(Some).map_err(|why| {
                let text = format!("{} at {}: {why}", self.doing(&call), self.endpoint);
                StoreError::new(StoreErrorKind::Protocol, text)
            }),
            // Accounts with a hierarchical name space have no tags.
            StatusCode::NOT_IMPLEMENTED | StatusCode::BAD_REQUEST | StatusCode::CONFLICT => {
                Ok(None)
            }
            _ => Err(about_tags(self.refusal(&call, &answer), TAGS_RIGHT)),
        })
        .await
    }

    async fn list(&self, request: ListRequest, timeout: Duration) -> Result<ListPage, StoreError> {
        let prefix = name::prefix_of(self.dialect, &request.prefix);
        // `object_store` leaves out the object whose name is the prefix itself.
        let exact = match request.token {
            None if !request.prefix.is_empty() && !request.prefix.ends_with('/') => {
                let key = ObjectKey::new(request.prefix.as_str());
                let info = self.head(&key, timeout).await?;
                info.map(|info| Entry { key, version: info.version })
            }
            _ => None,
        };
        let max_keys = request.max_keys.clamp(1, 1000) as usize;
        let options = PaginatedListOptions {
            delimiter: request.delimiter.then_some(Cow::Borrowed("/")),
            max_keys: Some((max_keys - exact.iter().len()).max(1)),
            page_token: request.token,
            ..Default::default()
        };
        let listing = self.listed(&prefix, &request.prefix, &options);
        let listed = match tokio::time::timeout(timeout, listing).await {
            Ok(listed) => listed?,
            Err(_) => {
                return Err(StoreError::new(
                    StoreErrorKind::Timeout,
                    format!(
                        "LIST of {:?} in {:?}: no answer from {} within {:.1} s; check the \
                         endpoint and the network",
                        request.prefix,
                        self.bucket,
                        self.endpoint,
                        timeout.as_secs_f64()
                    ),
                ));
            }
        };
        self.prove();
        let mut page = ListPage { next: listed.page_token, ..ListPage::default() };
        for object in listed.result.objects {
            let etag = object.e_tag.unwrap_or_default();
            page.entries.push(Entry {
                key: ObjectKey::new(name::key_of(self.dialect, object.location.as_ref())),
                version: Version {
                    etag: unquote(&etag).to_owned(),
                    size: object.size,
                    modified: Some(StoreTime(object.last_modified.timestamp_millis())),
                    generation: object.version.filter(|_| self.dialect == Dialect::Google),
                },
            });
        }
        if let Some(exact) = exact
            && !page.entries.iter().any(|e| e.key == exact.key)
        {
            page.entries.push(exact);
        }
        // A marker sorts by another name than its key.
        page.entries.sort_by(|a, b| a.key.cmp(&b.key));
        for common in listed.result.common_prefixes {
            page.prefixes.push(format!("{}/", name::key_of(self.dialect, common.as_ref())));
        }
        page.prefixes.sort_unstable();
        Ok(page)
    }

    async fn delete(&self, key: &ObjectKey, send: Send) -> PutOutcome {
        let call = Call::new(Method::DELETE, key);
        match self.change(call, &send, false, |_| nothing()).await {
            PutOutcome::Failed(e) | PutOutcome::Ambiguous(e)
                if e.kind == StoreErrorKind::NotFound && send.condition == Condition::None =>
            {
                PutOutcome::Won(nothing())
            }
            other => other,
        }
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
        let call = Call::new(Method::PUT, to);
        let what = self.doing(&call);
        let properties = &match self.with_tags_of(from, properties, send.timeout).await {
            Ok(properties) => properties,
            Err(e) => return PutOutcome::Failed(e),
        };
        let call = match dressed(self.dialect, call, attributes, properties, true) {
            Ok(call) => call,
            Err(e) => return PutOutcome::Failed(naming(&what, e)),
        };
        let call = match self.pinned(from.as_str(), expect, send.timeout).await {
            Ok(Some(expect)) => self.is_version(call, &expect, true),
            Ok(None) => return PutOutcome::Lost,
            Err(e) => return PutOutcome::Failed(e),
        };
        let source = match self.sign(&Call::new(Method::GET, from), PLAIN_EXPIRY_MS).await {
            Ok((url, _)) => url,
            Err(e) => return PutOutcome::Failed(e),
        };
        if self.dialect == Dialect::Azure && source.query().is_none_or(|q| !q.contains("sig=")) {
            return PutOutcome::Failed(StoreError::new(
                StoreErrorKind::Unsupported,
                format!("{from:?} cannot be copied by Azure, because its name needs encoding"),
            ));
        }
        let call = match self.dialect {
            Dialect::Azure => {
                call.header("x-ms-copy-source", source).header("x-ms-requires-sync", "true")
            }
            Dialect::Google => {
                // Path style always: the signed path starts with the bucket.
                call.header("x-goog-copy-source", source.path())
                    .header("x-goog-metadata-directive", "REPLACE")
            }
        };
        self.change(call, &send, true, |answer| {
            let version = version_of(answer, expect.size);
            match version.etag.as_str() {
                "" => Version { etag: unquote(&Written::of(answer).etag).to_owned(), ..version },
                _ => version,
            }
        })
        .await
    }

    async fn create_upload(
        &self,
        key: &ObjectKey,
        attributes: &Attributes,
        properties: &Properties,
        timeout: Duration,
    ) -> Result<UploadId, StoreError> {
        let call = self
            .dressed(Call::new(Method::POST, key), attributes, properties)?
            .query("uploads", "");
        let broken = |what: &str| {
            StoreError::new(StoreErrorKind::Protocol, format!("{}: {what}", self.doing(&call)))
        };
        if self.dialect == Dialect::Azure {
            let id = uuid::Uuid::new_v4().simple().to_string();
            let upload =
                AzureUpload { id, attributes: attributes.clone(), properties: properties.clone() };
            let bytes = serde_json::to_vec(&upload).map_err(|e| broken(&e.to_string()))?;
            return Ok(UploadId(URL_SAFE_NO_PAD.encode(bytes)));
        }
        let answer = self.send(&call, &Progress::new(timeout)).await?;
        if !answer.status.is_success() {
            return Err(self.refusal(&call, &answer));
        }
        match Written::of(&answer).upload_id {
            id if id.is_empty() => Err(broken("the answer has no upload id")),
            id => Ok(UploadId(id)),
        }
    }

    async fn upload_part(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        part: Part,
        body: Bytes,
        timeout: Duration,
    ) -> Result<String, StoreError> {
        let call = Call::new(Method::PUT, key);
        let (mut call, block) = match self.dialect {
            Dialect::Azure => {
                let upload = azure_upload(key, upload)?;
                // All names of one blob's blocks have the same length.
                let block = STANDARD.encode(format!("{}{:05}", upload.id, part.number));
                (call.query("comp", "block").query("blockid", block.as_str()), Some(block))
            }
            Dialect::Google => (
                call.query("partNumber", part.number.to_string())
                    .query("uploadId", upload.0.as_str()),
                None,
            ),
        };
        call.body = body;
        let answer = self.send(&call, &Progress::new(timeout)).await?;
        if !answer.status.is_success() {
            return Err(self.refusal(&call, &answer));
        }
        block.or_else(|| answer.header("etag").map(|e| unquote(&e).to_owned())).ok_or_else(|| {
            let text = format!("{}: the answer has no ETag", self.doing(&call));
            StoreError::new(StoreErrorKind::Protocol, text)
        })
    }

    async fn complete_upload(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        parts: &[String],
        size: u64,
        send: Send,
    ) -> PutOutcome {
        if self.dialect == Dialect::Google && send.condition != Condition::None {
            return PutOutcome::Failed(StoreError::new(
                StoreErrorKind::Unsupported,
                format!("{key:?}: Google overlooks conditions when an upload is completed"),
            ));
        }
        let mut body = String::new();
        let mut call = match self.dialect {
            Dialect::Azure => {
                let upload = match azure_upload(key, upload) {
                    Ok(upload) => upload,
                    Err(e) => return PutOutcome::Failed(e),
                };
                body.push_str("<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>");
                for block in parts {
                    body.push_str(&format!("<Uncommitted>{block}</Uncommitted>"));
                }
                body.push_str("</BlockList>");
                let call = Call::new(Method::PUT, key).query("comp", "blocklist");
                match self.dressed(call, &upload.attributes, &upload.properties) {
                    Ok(call) => call,
                    Err(e) => return PutOutcome::Failed(e),
                }
            }
            Dialect::Google => {
                body.push_str("<CompleteMultipartUpload>");
                for (number, etag) in (1..).zip(parts) {
                    body.push_str(&format!(
                        "<Part><PartNumber>{number}</PartNumber><ETag>\"{etag}\"</ETag></Part>"
                    ));
                }
                body.push_str("</CompleteMultipartUpload>");
                Call::new(Method::POST, key).query("uploadId", upload.0.as_str())
            }
        };
        call.body = Bytes::from(body);
        self.change(call, &send, false, |answer| {
            let version = version_of(answer, size);
            match version.etag.as_str() {
                "" => Version { etag: unquote(&Written::of(answer).etag).to_owned(), ..version },
                _ => version,
            }
        })
        .await
    }

    async fn abort_upload(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        timeout: Duration,
    ) -> Result<(), StoreError> {
        if self.dialect == Dialect::Azure {
            // Blocks that nobody commits are dropped by Azure after a week.
            return Ok(());
        }
        let call = Call::new(Method::DELETE, key).query("uploadId", upload.0.as_str());
        self.read(&call, timeout, |answer| match answer.status {
            status if status.is_success() => Ok(()),
            StatusCode::NOT_FOUND if ErrorBody::of(&answer).code != "NoSuchBucket" => Ok(()),
            _ => Err(self.refusal(&call, &answer)),
        })
        .await
    }

    async fn now(&self, timeout: Duration) -> Result<StoreTime, StoreError> {
        if self.wire.clock().now().is_none() {
            let one =
                ListRequest { prefix: String::new(), delimiter: true, token: None, max_keys: 1 };
            self.list(one, timeout).await?;
        }
        Ok(self.wire.clock().now().unwrap_or_else(host_time))
    }

    fn requests(&self) -> RequestCounts {
        self.wire.meter().counts()
    }

    fn measured(&self) -> Option<std::sync::Arc<crate::metrics::Requests>> {
        Some(std::sync::Arc::clone(self.wire.meter().requests()))
    }

    fn endpoint(&self) -> &str {
        &self.endpoint
    }
}

/// The same error, which also says what was asked.
fn naming(what: &str, error: StoreError) -> StoreError {
    StoreError { message: format!("{what}: {}", error.message), ..error }
}

fn quoted(etag: &str) -> String {
    format!("\"{etag}\"")
}

fn azure_upload(key: &ObjectKey, upload: &UploadId) -> Result<AzureUpload, StoreError> {
    URL_SAFE_NO_PAD
        .decode(&upload.0)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .ok_or_else(|| {
            StoreError::new(StoreErrorKind::NotFound, format!("there is no such upload of {key:?}"))
        })
}
