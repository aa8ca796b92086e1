//! The verbs on user objects.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use bytes::Bytes;
use http::{Method, StatusCode};

use super::dialect::Spelling;
use super::properties::{about_tags, dressed, info_of, tags_of, version_of};
use super::xml::{ErrorBody, Written, hides_error, is_rejection, list_page};
use super::{Call, S3Store, quoted};
use crate::store::api::get_in_steps;
use crate::store::wire::{Answer, Progress, parse_iso_date, unanswered, unquote};
use crate::store::{
    Attributes, Condition, Doomed, GetResult, Groups, ListPage, ListRequest, ObjectInfo, Part,
    PartSource, Properties, PutOutcome, RequestCounts, Send, StoreBackend, StoreError,
    StoreErrorKind, Tags, Take, UploadId, find_groups,
};
use crate::types::{KeyPrefix, ObjectKey, StoreTime, Version};

/// The CRC32C of a body, in base64, most significant byte first. S3 says it again when it has compared it.
const CHECKSUM: &str = "x-amz-checksum-crc32c";

impl S3Store {
    /// Sends a changing request once and judges its answer. `won` reads the version of a success.
    async fn change(
        &self,
        call: Call<'_>,
        send: &Send,
        won: impl FnOnce(&Answer) -> Version,
    ) -> PutOutcome {
        self.change_as(call, send, self.spelling(), won).await
    }

    /// The same with ETags in this spelling.
    pub(super) async fn change_as(
        &self,
        mut call: Call<'_>,
        send: &Send,
        spelling: Spelling,
        won: impl FnOnce(&Answer) -> Version,
    ) -> PutOutcome {
        match &send.condition {
            Condition::None => {}
            Condition::Absent => call = call.header("if-none-match", "*"),
            Condition::Is(version) => call = call.header("if-match", spelling.write(&version.etag)),
        }
        call.not_after = send.not_after;
        let answer = match self.send(&call, &Progress::new(send.timeout)).await {
            Ok(answer) => answer,
            Err(e) => return unanswered(e),
        };
        if answer.status.is_success() && !hides_error(&answer) {
            return PutOutcome::Won(won(&answer));
        }
        let error = self.refusal_of_change(&call, &answer);
        if answer.status == StatusCode::NOT_IMPLEMENTED {
            self.known.contradicted();
        }
        let copies = call.headers.iter().any(|(n, _)| n == "x-amz-copy-source-if-match");
        let wants_version = copies || matches!(send.condition, Condition::Is(_));
        match error.kind {
            StoreErrorKind::Changed if copies || send.condition != Condition::None => {
                PutOutcome::Lost
            }
            // If-Match on a key that is gone answers 404, also for the source of a copy.
            StoreErrorKind::NotFound
                if wants_version && ErrorBody::of(&answer).code != "NoSuchUpload" =>
            {
                PutOutcome::Lost
            }
            _ if is_rejection(&answer) => PutOutcome::Failed(error),
            _ => PutOutcome::Ambiguous(error),
        }
    }

    /// Names an object as the source of a copy: in the same encoding as in a URL, so that the key cannot end the header
    /// or name a version.
    fn copy_source(&self, from: &ObjectKey) -> Result<String, StoreError> {
        let url = self.object_url(from.as_str())?;
        let base = self.bucket.base_url().path().len();
        Ok(format!("/{}/{}", self.bucket.name(), &url.path()[base..]))
    }

    fn dressed<'a>(
        &self,
        call: Call<'a>,
        attributes: &Attributes,
        properties: &Properties,
    ) -> Call<'a> {
        dressed(call, attributes, properties, self.encryption.as_ref())
    }

    /// Tells a missing right to tags from others, as far as the store says which one it is.
    fn refusal_of_change(&self, call: &Call<'_>, answer: &Answer) -> StoreError {
        let error = self.refusal(call, answer);
        let right = ["s3:PutObjectTagging", "s3:GetObjectTagging"]
            .into_iter()
            .find(|right| ErrorBody::of(answer).message.contains(right));
        match right {
            Some(right) => about_tags(error, right),
            None => error,
        }
    }

    /// Tells a missing key from a missing bucket, for answers without a body.
    async fn confirm_bucket(&self, timeout: Duration) -> Result<(), StoreError> {
        if self.bucket_is_proven() {
            return Ok(());
        }
        let one = ListRequest { prefix: String::new(), delimiter: false, token: None, max_keys: 1 };
        match self.list(one, timeout).await {
            // A key may be readable without the right to list.
            Err(e) if e.kind != StoreErrorKind::Denied => Err(e),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl StoreBackend for S3Store {
    async fn put(
        &self,
        key: &ObjectKey,
        body: Bytes,
        attributes: &Attributes,
        properties: &Properties,
        send: Send,
    ) -> PutOutcome {
        let size = body.len() as u64;
        let mut call = self.dressed(Call::new(Method::PUT, key.as_str()), attributes, properties);
        call.body = body;
        self.put_matching(call, &send, |answer| version_of(answer, size)).await
    }

    async fn put_summed(
        &self,
        key: &ObjectKey,
        body: Bytes,
        sum: u32,
        send: Send,
    ) -> (PutOutcome, bool) {
        let size = body.len() as u64;
        let sum = base64::engine::general_purpose::STANDARD.encode(sum.to_be_bytes());
        let mut call = Call::new(Method::PUT, key.as_str()).header(CHECKSUM, sum.clone());
        call = self.dressed(call, &Attributes::new(), &Properties::default());
        call.body = body;
        let compared = AtomicBool::new(false);
        let outcome = self
            .put_matching(call, &send, |answer| {
                let said = answer.headers.get(CHECKSUM).and_then(|value| value.to_str().ok());
                compared.store(said == Some(&sum), Ordering::Relaxed);
                version_of(answer, size)
            })
            .await;
        (outcome, compared.into_inner())
    }

    async fn get(
        &self,
        key: &ObjectKey,
        range: Option<Range<u64>>,
        expect: Option<&Version>,
        timeout: Duration,
    ) -> Result<GetResult, StoreError> {
        if range.as_ref().is_some_and(|r| r.end <= r.start) {
            let range = range.unwrap_or_default();
            return Err(StoreError::new(
                StoreErrorKind::Unsupported,
                format!("GET of {key:?}: the range {range:?} is empty"),
            ));
        }
        let mut call = Call::new(Method::GET, key.as_str());
        if let Some(range) = &range {
            call = call.header("range", format!("bytes={}-{}", range.start, range.end - 1));
        }
        if let Some(version) = expect {
            // Reads are fine with quotes everywhere; the version is compared below anyway.
            call = call.header("if-match", quoted(&version.etag));
        }
        let result = self
            .read(&call, timeout, |answer| match answer.status {
                status if status.is_success() => {
                    get_result(answer, range.as_ref(), info_of).map(Some).map_err(|why| {
                        StoreError::new(
                            // Cut or mixed up on the way: the next try can be whole.
                            StoreErrorKind::Unreachable,
                            format!("{} at {}: {why}", self.doing(&call), self.endpoint),
                        )
                    })
                }
                StatusCode::RANGE_NOT_SATISFIABLE => Ok(None),
                StatusCode::NOT_MODIFIED => Err(StoreError::new(
                    StoreErrorKind::Changed,
                    format!("{}: it is no longer the expected version", self.doing(&call)),
                )),
                _ => Err(self.refusal(&call, &answer)),
            })
            .await?;
        let result = match result {
            Some(result) => result,
            // The range starts at or behind the end, which an empty object always does.
            None => {
                let info = self.head(key, timeout).await?.ok_or_else(|| {
                    StoreError::new(
                        StoreErrorKind::NotFound,
                        format!("{}: it does not exist", self.doing(&call)),
                    )
                })?;
                GetResult { info, data: Bytes::new() }
            }
        };
        match expect {
            Some(version) if !version.same(&result.info.version) => Err(StoreError::new(
                StoreErrorKind::Changed,
                format!("{}: it is no longer the expected version", self.doing(&call)),
            )),
            _ => Ok(result),
        }
    }

    fn pieces_held(&self) -> u64 {
        0
    }

    async fn get_pieces(
        &self,
        key: &ObjectKey,
        range: Range<u64>,
        expect: &Version,
        timeout: Duration,
        take: &mut Take<'_>,
    ) -> Result<(), StoreError> {
        if self.stream(key, &range, expect, timeout, take).await? {
            return Ok(());
        }
        get_in_steps(self, key, range, expect, timeout, take).await
    }

    async fn head(
        &self,
        key: &ObjectKey,
        timeout: Duration,
    ) -> Result<Option<ObjectInfo>, StoreError> {
        let call = Call::new(Method::HEAD, key.as_str());
        let info = self
            .read(&call, timeout, |answer| match answer.status {
                status if status.is_success() => {
                    let size = length(&answer).ok_or_else(|| {
                        StoreError::new(
                            StoreErrorKind::Protocol,
                            format!("{}: the answer has no Content-Length", self.doing(&call)),
                        )
                    })?;
                    Ok(Some(info_of(&answer, size)))
                }
                StatusCode::NOT_FOUND => Ok(None),
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
        let call = Call::new(Method::GET, key.as_str()).query("tagging", "");
        self.read(&call, timeout, |answer| match answer.status {
            status if status.is_success() => tags_of(&answer).map(Some).map_err(|why| {
                let text = format!("{} at {}: {why}", self.doing(&call), self.endpoint);
                StoreError::new(StoreErrorKind::Protocol, text)
            }),
            // Stores without tags say so in one of these ways.
            StatusCode::NOT_IMPLEMENTED | StatusCode::METHOD_NOT_ALLOWED => Ok(None),
            StatusCode::NOT_FOUND if ErrorBody::of(&answer).code == "NoSuchTagSet" => {
                Ok(Some(Tags::new()))
            }
            _ => Err(about_tags(self.refusal(&call, &answer), "s3:GetObjectTagging")),
        })
        .await
    }

    async fn list(&self, request: ListRequest, timeout: Duration) -> Result<ListPage, StoreError> {
        let mut call = Call { method: Method::GET, ..Call::default() }
            .query("list-type", "2")
            .query("encoding-type", "url")
            .query("max-keys", request.max_keys.clamp(1, 1000).to_string())
            .query("prefix", request.prefix.as_str());
        if request.delimiter {
            call = call.query("delimiter", "/");
        }
        if let Some(token) = &request.token {
            call = call.query("continuation-token", token.as_str());
        }
        self.read(&call, timeout, |answer| {
            if !answer.status.is_success() {
                return Err(match (answer.status, self.refusal(&call, &answer)) {
                    // Nothing but the bucket can be missing here.
                    (StatusCode::NOT_FOUND, e) => {
                        StoreError { kind: StoreErrorKind::NoBucket, ..e }
                    }
                    (_, e) => e,
                });
            }
            list_page(&answer.body).map_err(|why| {
                StoreError::new(
                    StoreErrorKind::Protocol,
                    format!("{} at {}: {why}", self.doing(&call), self.endpoint),
                )
            })
        })
        .await
    }

    async fn delete(&self, key: &ObjectKey, send: Send) -> PutOutcome {
        let call = Call::new(Method::DELETE, key.as_str());
        match self.change(call, &send, |answer| version_of(answer, 0)).await {
            PutOutcome::Failed(e) | PutOutcome::Ambiguous(e)
                if e.kind == StoreErrorKind::NotFound && send.condition == Condition::None =>
            {
                PutOutcome::Won(nothing())
            }
            PutOutcome::Won(_) => PutOutcome::Won(nothing()),
            other => other,
        }
    }

    async fn delete_many(
        &self,
        group: &[Doomed],
        not_after: Option<StoreTime>,
        timeout: Duration,
    ) -> Result<Vec<PutOutcome>, StoreError> {
        self.delete_group(group, not_after, timeout).await
    }

    async fn groups(&self, scratch: &KeyPrefix) -> Groups {
        match self.known.groups() {
            Some(groups) => groups,
            None => find_groups(self, &self.known, scratch).await,
        }
    }

    fn known_groups(&self) -> Option<Groups> {
        self.known.groups()
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
        let source = match self.copy_source(from) {
            Ok(source) => source,
            Err(e) => return PutOutcome::Failed(e),
        };
        let mut call = self
            .dressed(Call::new(Method::PUT, to.as_str()), attributes, properties)
            .header("x-amz-copy-source", source)
            .header("x-amz-copy-source-if-match", self.spelling().write(&expect.etag))
            .header("x-amz-metadata-directive", "REPLACE");
        if properties.tags.is_some() {
            call = call.header("x-amz-tagging-directive", "REPLACE");
        }
        let copied = self.change(call, &send, |answer| {
            let (written, head) = (Written::of(answer), version_of(answer, expect.size));
            let etag = unquote(&written.etag);
            Version {
                etag: if etag.is_empty() { head.etag } else { etag.to_owned() },
                modified: parse_iso_date(&written.last_modified).or(head.modified),
                ..head
            }
        });
        match copied.await {
            // An object that nobody can name again: a look at it has to tell what it is.
            PutOutcome::Won(version) if version.etag.is_empty() => {
                PutOutcome::Ambiguous(StoreError::new(
                    StoreErrorKind::Protocol,
                    format!("COPY to {to:?}: the answer has no ETag"),
                ))
            }
            outcome => outcome,
        }
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
        let call = Call::new(Method::POST, key.as_str()).query("uploads", "");
        let call = self.dressed(call, attributes, properties);
        let answer = self.send(&call, &Progress::new(timeout)).await?;
        if !answer.status.is_success() || hides_error(&answer) {
            return Err(self.refusal_of_change(&call, &answer));
        }
        match Written::of(&answer).upload_id {
            id if id.is_empty() => Err(StoreError::new(
                StoreErrorKind::Protocol,
                format!("{}: the answer has no upload id", self.doing(&call)),
            )),
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
        let mut call = Call::new(Method::PUT, key.as_str())
            .query("partNumber", part.number.to_string())
            .query("uploadId", upload.0.as_str());
        call.body = body;
        let answer = self.send(&call, &Progress::new(timeout)).await?;
        if !answer.status.is_success() {
            return Err(self.refusal(&call, &answer));
        }
        match answer.header("etag") {
            Some(etag) => Ok(unquote(&etag).to_owned()),
            None => Err(StoreError::new(
                StoreErrorKind::Protocol,
                format!("{}: the answer has no ETag", self.doing(&call)),
            )),
        }
    }

    async fn copy_part(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        part: Part,
        source: &PartSource,
        timeout: Duration,
    ) -> Result<String, StoreError> {
        let mut call = Call::new(Method::PUT, key.as_str())
            .query("partNumber", part.number.to_string())
            .query("uploadId", upload.0.as_str())
            .header("x-amz-copy-source", self.copy_source(&source.key)?)
            .header("x-amz-copy-source-if-match", self.spelling().write(&source.expect.etag));
        if let Some(range) = &source.range {
            let range = format!("bytes={}-{}", range.start, range.end.saturating_sub(1));
            call = call.header("x-amz-copy-source-range", range);
        }
        let answer = self.send(&call, &Progress::new(timeout)).await?;
        if !answer.status.is_success() || hides_error(&answer) {
            return Err(self.refusal(&call, &answer));
        }
        match unquote(&Written::of(&answer).etag) {
            "" => Err(StoreError::new(
                StoreErrorKind::Protocol,
                format!("{}: the answer has no ETag", self.doing(&call)),
            )),
            etag => Ok(etag.to_owned()),
        }
    }

    async fn complete_upload(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        parts: &[String],
        size: u64,
        send: Send,
    ) -> PutOutcome {
        let mut body = String::from(
            r#"<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">"#,
        );
        for (number, etag) in (1..).zip(parts) {
            let etag = quoted(etag);
            let etag = quick_xml::escape::escape(etag.as_str());
            body.push_str(&format!(
                "<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"
            ));
        }
        body.push_str("</CompleteMultipartUpload>");
        let mut call = Call::new(Method::POST, key.as_str()).query("uploadId", upload.0.as_str());
        call.body = Bytes::from(body);
        self.change(call, &send, |answer| Version {
            etag: unquote(&Written::of(answer).etag).to_owned(),
            ..version_of(answer, size)
        })
        .await
    }

    async fn abort_upload(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        timeout: Duration,
    ) -> Result<(), StoreError> {
        let call = Call::new(Method::DELETE, key.as_str()).query("uploadId", upload.0.as_str());
        // Aborting twice is the same as once.
        self.read(&call, timeout, |answer| match answer.status {
            status if status.is_success() => Ok(()),
            StatusCode::NOT_FOUND if ErrorBody::of(&answer).code != "NoSuchBucket" => Ok(()),
            _ => Err(self.refusal(&call, &answer)),
        })
        .await
    }

    async fn now(&self, timeout: Duration) -> Result<StoreTime, StoreError> {
        self.store_time(&Progress::new(timeout)).await
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

pub(in crate::store) fn nothing() -> Version {
    Version { etag: String::new(), size: 0, modified: None, generation: None }
}

pub(in crate::store) fn length(answer: &Answer) -> Option<u64> {
    answer.header("content-length")?.parse().ok()
}

/// Cuts the asked range out of an answer, or says why that is not possible.
pub(in crate::store) fn get_result(
    answer: Answer,
    range: Option<&Range<u64>>,
    info_of: impl Fn(&Answer, u64) -> ObjectInfo,
) -> Result<GetResult, String> {
    let got = answer.body.len() as u64;
    if let Some(length) = length(&answer)
        && length != got
    {
        return Err(format!("the answer has {got} of {length} bytes"));
    }
    let Some(range) = range else {
        return Ok(GetResult { info: info_of(&answer, got), data: answer.body });
    };
    if answer.status != StatusCode::PARTIAL_CONTENT {
        // The server overlooked the range and sent everything.
        let end = range.end.min(got);
        let start = range.start.min(end);
        let data = answer.body.slice(start as usize..end as usize);
        return Ok(GetResult { info: info_of(&answer, got), data });
    }
    let text = answer.header("content-range").unwrap_or_default();
    if got == 0
        && let Some(size) = empty_at_end(&text)
        && size == range.start
    {
        return Ok(GetResult { info: info_of(&answer, size), data: answer.body });
    }
    let (start, end, size) =
        content_range(&text).ok_or_else(|| format!("the Content-Range {text:?} makes no sense"))?;
    if start != range.start || end != range.end.min(size) || end - start != got {
        return Err(format!("asked for {range:?}, got {text:?} with {got} bytes"));
    }
    Ok(GetResult { info: info_of(&answer, size), data: answer.body })
}

/// Reads `bytes 0-4/10` as start, end (exclusive) and size.
pub(super) fn content_range(text: &str) -> Option<(u64, u64, u64)> {
    let (range, size) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, size): (u64, u64, u64) =
        (first.parse().ok()?, last.parse().ok()?, size.parse().ok()?);
    (first <= last && last < size).then_some((first, last + 1, size))
}

/// The size in `bytes 10-9/10`, with which azurite answers a range that starts at the end, where
/// others answer 416.
fn empty_at_end(text: &str) -> Option<u64> {
    let (range, size) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, size): (u64, u64, u64) =
        (first.parse().ok()?, last.parse().ok()?, size.parse().ok()?);
    (first == size && last.checked_add(1) == Some(size)).then_some(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_an_empty_part_at_the_end_only() {
        assert_eq!(empty_at_end("bytes 10-9/10"), Some(10));
        for wrong in ["", "bytes 9-9/10", "bytes 10-9/11", "bytes 0-18446744073709551615/0"] {
            assert_eq!(empty_at_end(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn reads_content_ranges() {
        assert_eq!(content_range("bytes 0-4/10"), Some((0, 5, 10)));
        for wrong in ["", "bytes */10", "bytes 5-4/10", "bytes 0-10/10", "0-4/10"] {
            assert_eq!(content_range(wrong), None, "{wrong}");
        }
    }
}
