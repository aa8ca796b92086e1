//! The S3 operations on objects and buckets, in the types of `s3s`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use base64::Engine as _;
use bytes::Bytes;
use futures::TryStreamExt as _;
use http::HeaderMap;
use s3s::auth::{S3Auth, SecretKey};
use s3s::dto::*;
use s3s::{S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};

use super::model::{self, Bucket, Conditions, Listing, Object, Refused};
use super::state::State;

/// Marks a request whose conditions shall be ignored (an extension of the request).
#[derive(Debug, Clone, Copy)]
pub struct IgnoreConditions;

#[derive(Debug, Clone)]
pub struct Backend(pub Arc<State>);

/// Looks secrets up among the server's keys.
#[derive(Debug, Clone)]
pub struct Auth(pub Arc<State>);

#[async_trait::async_trait]
impl S3Auth for Auth {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        match self.0.keys.get(access_key) {
            Some(secret) => Ok(SecretKey::from(secret.clone())),
            None => Err(s3_error!(
                InvalidAccessKeyId,
                "The AWS Access Key Id you provided does not exist in our records."
            )),
        }
    }
}

type Reply<T> = S3Result<S3Response<T>>;

fn ok<T>(output: T) -> Reply<T> {
    Ok(S3Response::new(output))
}

impl From<Refused> for S3Error {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::NoSuchKey => {
                s3_error!(NoSuchKey, "The specified key does not exist.")
            }
            Refused::Precondition => s3_error!(
                PreconditionFailed,
                "At least one of the pre-conditions you specified did not hold"
            ),
            Refused::NoSuchUpload => s3_error!(NoSuchUpload),
            Refused::InvalidPart => s3_error!(InvalidPart),
            Refused::InvalidPartOrder => s3_error!(InvalidPartOrder),
            Refused::TooSmall => s3_error!(EntityTooSmall),
        }
    }
}

fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn unquote(etag: &str) -> String {
    etag.trim().trim_matches('"').to_owned()
}

/// The conditions of a change, from the raw headers: `s3s` does not know all of them on every verb.
fn conditions<T>(req: &S3Request<T>) -> Conditions {
    if req.extensions.get::<IgnoreConditions>().is_some() {
        return Conditions::default();
    }
    Conditions {
        matches: header(&req.headers, "if-match").map(unquote),
        none_match: header(&req.headers, "if-none-match").map(unquote),
    }
}

fn strong(etag: &str) -> Option<ETag> {
    Some(ETag::Strong(etag.to_owned()))
}

async fn read_body(
    body: Option<StreamingBlob>,
    length: Option<i64>,
    md5: Option<&str>,
) -> S3Result<Bytes> {
    let mut bytes = Vec::new();
    if let Some(mut body) = body {
        while let Some(chunk) = body.try_next().await.map_err(|_| s3_error!(IncompleteBody))? {
            bytes.extend_from_slice(&chunk);
        }
    }
    if length.is_some_and(|length| length != bytes.len() as i64) {
        return Err(s3_error!(IncompleteBody));
    }
    if let Some(md5) = md5 {
        let sent = base64::engine::general_purpose::STANDARD
            .decode(md5)
            .map_err(|_| s3_error!(InvalidDigest))?;
        if model::hex(&sent) != model::etag_of(&bytes) {
            return Err(s3_error!(BadDigest));
        }
    }
    Ok(bytes.into())
}

/// Keys and prefixes as `encoding-type=url` sends them: S3 leaves `/` and writes a space as `+`.
fn encode(name: &str, url: bool) -> String {
    if !url {
        return name.to_owned();
    }
    url::form_urlencoded::byte_serialize(name.as_bytes()).collect::<String>().replace("%2F", "/")
}

fn wants_url(encoding: &Option<EncodingType>) -> bool {
    encoding.as_ref().is_some_and(|e| e.as_str() == EncodingType::URL)
}

impl Backend {
    /// Runs `f` on a bucket under the mutex.
    fn with<R>(&self, bucket: &str, f: impl FnOnce(&mut Bucket) -> S3Result<R>) -> S3Result<R> {
        let mut buckets = self.0.buckets.lock();
        let bucket = buckets
            .live
            .get_mut(bucket)
            .ok_or_else(|| s3_error!(NoSuchBucket, "The specified bucket does not exist"))?;
        f(bucket)
    }

    fn stamp(time: SystemTime) -> Option<Timestamp> {
        Some(Timestamp::from(time))
    }

    /// The object of a GET or HEAD, if its conditions hold.
    fn read<T>(&self, bucket: &str, key: &str, req: &S3Request<T>) -> S3Result<Object> {
        let Conditions { matches, none_match } = conditions(req);
        self.with(bucket, |b| {
            let object = b.objects.get(key).ok_or(Refused::NoSuchKey)?;
            Conditions { matches, none_match: None }.check(Some(object))?;
            if none_match.is_some_and(|etag| etag == "*" || etag == object.etag) {
                return Err(s3_error!(NotModified));
            }
            Ok(object.clone())
        })
    }

    /// The source of a copy, its conditions judged, inside the caller's critical section.
    fn source<T>(
        bucket: &Bucket,
        source: &CopySource,
        home: &str,
        req: &S3Request<T>,
    ) -> S3Result<Object> {
        let CopySource::Bucket { bucket: name, key, .. } = source else {
            return Err(s3_error!(NotImplemented, "only plain copy sources"));
        };
        if **name != *home {
            return Err(s3_error!(NotImplemented, "copies stay within one bucket here"));
        }
        let object = bucket.objects.get(&**key).ok_or(Refused::NoSuchKey)?;
        if req.extensions.get::<IgnoreConditions>().is_none() {
            Conditions {
                matches: header(&req.headers, "x-amz-copy-source-if-match").map(unquote),
                none_match: header(&req.headers, "x-amz-copy-source-if-none-match").map(unquote),
            }
            .check(Some(object))?;
        }
        Ok(object.clone())
    }

    fn page(
        &self,
        bucket: &str,
        listing: &Listing<'_>,
        url: bool,
    ) -> S3Result<(Vec<s3s::dto::Object>, Vec<CommonPrefix>, Option<String>)> {
        self.with(bucket, |b| {
            let page = model::list(&b.objects, listing);
            let contents = page
                .keys
                .iter()
                .map(|key| {
                    let object = &b.objects[key];
                    s3s::dto::Object {
                        key: Some(encode(key, url)),
                        e_tag: strong(&object.etag),
                        size: Some(object.body.len() as i64),
                        last_modified: Self::stamp(object.modified),
                        storage_class: Some(ObjectStorageClass::from_static(
                            ObjectStorageClass::STANDARD,
                        )),
                        ..Default::default()
                    }
                })
                .collect();
            let prefixes = page
                .prefixes
                .iter()
                .map(|p| CommonPrefix { prefix: Some(encode(p, url)) })
                .collect();
            Ok((contents, prefixes, page.next))
        })
    }

    pub(super) fn new_upload_id(&self) -> String {
        format!("upload-{}", self.0.next_id.fetch_add(1, Ordering::Relaxed))
    }
}

fn metadata(map: Option<Metadata>) -> BTreeMap<String, String> {
    map.unwrap_or_default().into_iter().map(|(k, v)| (k.to_lowercase(), v)).collect()
}

fn limit(max: Option<i32>) -> S3Result<usize> {
    let max = max.unwrap_or(1000);
    usize::try_from(max).map(|m| m.min(1000)).map_err(|_| s3_error!(InvalidArgument))
}

#[async_trait::async_trait]
impl S3 for Backend {
    async fn put_object(&self, mut req: S3Request<PutObjectInput>) -> Reply<PutObjectOutput> {
        let body = read_body(
            req.input.body.take(),
            req.input.content_length,
            req.input.content_md5.as_deref(),
        )
        .await?;
        let conditions = conditions(&req);
        let input = req.input;
        let etag = model::etag_of(&body);
        let object = Object {
            body,
            etag: etag.clone(),
            modified: self.0.now_secs(),
            metadata: metadata(input.metadata),
            content_type: input.content_type,
        };
        self.with(&input.bucket, |b| Ok(b.put(&input.key, object, &conditions)?))?;
        ok(PutObjectOutput { e_tag: strong(&etag), ..Default::default() })
    }

    async fn get_object(&self, req: S3Request<GetObjectInput>) -> Reply<GetObjectOutput> {
        let object = self.read(&req.input.bucket, &req.input.key, &req)?;
        let full = object.body.len() as u64;
        let (body, range) = match &req.input.range {
            None => (object.body.clone(), None),
            Some(range) => {
                let range = range.check(full)?;
                let text = format!("bytes {}-{}/{full}", range.start, range.end - 1);
                (object.body.slice(range.start as usize..range.end as usize), Some(text))
            }
        };
        let partial = range.is_some();
        let output = GetObjectOutput {
            accept_ranges: Some("bytes".into()),
            content_length: Some(body.len() as i64),
            content_range: range,
            content_type: object.content_type.or_else(|| Some("binary/octet-stream".into())),
            e_tag: strong(&object.etag),
            last_modified: Self::stamp(object.modified),
            metadata: Some(object.metadata.into_iter().collect()),
            body: Some(StreamingBlob::from(s3s::Body::from(body))),
            ..Default::default()
        };
        let status = if partial { http::StatusCode::PARTIAL_CONTENT } else { http::StatusCode::OK };
        Ok(S3Response::with_status(output, status))
    }

    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> Reply<HeadObjectOutput> {
        let object = self.read(&req.input.bucket, &req.input.key, &req)?;
        ok(HeadObjectOutput {
            accept_ranges: Some("bytes".into()),
            content_length: Some(object.body.len() as i64),
            content_type: object.content_type.or_else(|| Some("binary/octet-stream".into())),
            e_tag: strong(&object.etag),
            last_modified: Self::stamp(object.modified),
            metadata: Some(object.metadata.into_iter().collect()),
            ..Default::default()
        })
    }

    async fn delete_object(&self, req: S3Request<DeleteObjectInput>) -> Reply<DeleteObjectOutput> {
        let conditions = conditions(&req);
        self.with(&req.input.bucket, |b| Ok(b.delete(&req.input.key, &conditions)?))?;
        Ok(S3Response::with_status(DeleteObjectOutput::default(), http::StatusCode::NO_CONTENT))
    }

    async fn delete_objects(
        &self,
        req: S3Request<DeleteObjectsInput>,
    ) -> Reply<DeleteObjectsOutput> {
        let ignore = req.extensions.get::<IgnoreConditions>().is_some();
        let quiet = req.input.delete.quiet.unwrap_or(false);
        let mut output = DeleteObjectsOutput::default();
        let (mut deleted, mut errors) = (Vec::new(), Vec::new());
        self.with(&req.input.bucket, |b| {
            for one in &req.input.delete.objects {
                let matches = one.e_tag.as_ref().filter(|_| !ignore).map(|e| e.value().to_owned());
                match b.delete(&one.key, &Conditions { matches, none_match: None }) {
                    Ok(()) => deleted
                        .push(DeletedObject { key: Some(one.key.clone()), ..Default::default() }),
                    Err(refused) => {
                        let error = S3Error::from(refused);
                        errors.push(Error {
                            key: Some(one.key.clone()),
                            code: Some(error.code().as_str().to_owned()),
                            message: error.message().map(str::to_owned),
                            ..Default::default()
                        });
                    }
                }
            }
            Ok(())
        })?;
        output.deleted = (!quiet).then_some(deleted);
        output.errors = (!errors.is_empty()).then_some(errors);
        ok(output)
    }

    async fn copy_object(&self, req: S3Request<CopyObjectInput>) -> Reply<CopyObjectOutput> {
        let conditions = conditions(&req);
        let input = &req.input;
        let replace = input
            .metadata_directive
            .as_ref()
            .is_some_and(|d| d.as_str() == MetadataDirective::REPLACE);
        let now = self.0.now_secs();
        let etag = self.with(&input.bucket, |b| {
            let mut object = Self::source(b, &input.copy_source, &input.bucket, &req)?;
            if let CopySource::Bucket { key, .. } = &input.copy_source
                && **key == *input.key
                && !replace
            {
                return Err(s3_error!(InvalidRequest, "a copy onto itself must change something"));
            }
            // S3 gives the copy of a multipart object a fresh ETag of its content.
            object.etag = model::etag_of(&object.body);
            object.modified = now;
            if replace {
                object.metadata = metadata(input.metadata.clone());
                object.content_type = input.content_type.clone();
            }
            let etag = object.etag.clone();
            b.put(&input.key, object, &conditions)?;
            Ok(etag)
        })?;
        ok(CopyObjectOutput {
            copy_object_result: Some(CopyObjectResult {
                e_tag: strong(&etag),
                last_modified: Self::stamp(now),
                ..Default::default()
            }),
            ..Default::default()
        })
    }

    async fn list_objects_v2(
        &self,
        req: S3Request<ListObjectsV2Input>,
    ) -> Reply<ListObjectsV2Output> {
        let input = req.input;
        let engine = base64::engine::general_purpose::STANDARD;
        let position = match &input.continuation_token {
            None => None,
            Some(token) => Some(
                engine
                    .decode(token)
                    .ok()
                    .and_then(|bytes| String::from_utf8(bytes).ok())
                    .ok_or_else(|| {
                        s3_error!(InvalidArgument, "The continuation token provided is incorrect")
                    })?,
            ),
        };
        let url = wants_url(&input.encoding_type);
        let max = limit(input.max_keys)?;
        let listing = Listing {
            prefix: input.prefix.as_deref().unwrap_or(""),
            delimiter: input.delimiter.as_deref(),
            after: position.as_deref().or(input.start_after.as_deref()),
            after_is_position: position.is_some(),
            max,
        };
        let (contents, prefixes, next) = self.page(&input.bucket, &listing, url)?;
        ok(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: Some(encode(input.prefix.as_deref().unwrap_or(""), url)),
            max_keys: Some(max as i32),
            key_count: Some((contents.len() + prefixes.len()) as i32),
            continuation_token: input.continuation_token,
            is_truncated: Some(next.is_some()),
            next_continuation_token: next.map(|key| engine.encode(key)),
            contents: Some(contents),
            common_prefixes: Some(prefixes),
            delimiter: input.delimiter.map(|d| encode(&d, url)),
            encoding_type: input.encoding_type,
            start_after: input.start_after.map(|s| encode(&s, url)),
            ..Default::default()
        })
    }

    async fn list_objects(&self, req: S3Request<ListObjectsInput>) -> Reply<ListObjectsOutput> {
        let input = req.input;
        let url = wants_url(&input.encoding_type);
        let max = limit(input.max_keys)?;
        let listing = Listing {
            prefix: input.prefix.as_deref().unwrap_or(""),
            delimiter: input.delimiter.as_deref(),
            after: input.marker.as_deref(),
            after_is_position: true,
            max,
        };
        let (contents, prefixes, next) = self.page(&input.bucket, &listing, url)?;
        ok(ListObjectsOutput {
            name: Some(input.bucket),
            prefix: Some(encode(input.prefix.as_deref().unwrap_or(""), url)),
            marker: input.marker.map(|m| encode(&m, url)),
            max_keys: Some(max as i32),
            is_truncated: Some(next.is_some()),
            // S3 names the next marker only for listings with a delimiter.
            next_marker: next.filter(|_| input.delimiter.is_some()).map(|m| encode(&m, url)),
            contents: Some(contents),
            common_prefixes: Some(prefixes),
            delimiter: input.delimiter.map(|d| encode(&d, url)),
            encoding_type: input.encoding_type,
            ..Default::default()
        })
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> Reply<CreateMultipartUploadOutput> {
        let input = req.input;
        let id = self.new_upload_id();
        let upload = model::Upload {
            key: input.key.clone(),
            begun: self.0.now_secs(),
            metadata: metadata(input.metadata),
            content_type: input.content_type,
            parts: BTreeMap::new(),
        };
        self.with(&input.bucket, |b| {
            b.uploads.insert(id.clone(), upload);
            Ok(())
        })?;
        ok(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(id),
            ..Default::default()
        })
    }

    async fn upload_part(&self, mut req: S3Request<UploadPartInput>) -> Reply<UploadPartOutput> {
        let body = read_body(
            req.input.body.take(),
            req.input.content_length,
            req.input.content_md5.as_deref(),
        )
        .await?;
        let input = req.input;
        let etag =
            self.put_part(&input.bucket, &input.key, &input.upload_id, input.part_number, body)?;
        ok(UploadPartOutput { e_tag: strong(&etag), ..Default::default() })
    }

    async fn upload_part_copy(
        &self,
        req: S3Request<UploadPartCopyInput>,
    ) -> Reply<UploadPartCopyOutput> {
        let input = &req.input;
        let mut body = self
            .with(&input.bucket, |b| Self::source(b, &input.copy_source, &input.bucket, &req))?
            .body;
        if let Some(range) = &input.copy_source_range {
            let (first, last) = range
                .strip_prefix("bytes=")
                .and_then(|r| r.split_once('-'))
                .and_then(|(a, b)| Some((a.parse::<usize>().ok()?, b.parse::<usize>().ok()?)))
                .filter(|(first, last)| first <= last)
                .ok_or_else(|| s3_error!(InvalidArgument, "bad x-amz-copy-source-range"))?;
            if last >= body.len() {
                return Err(s3_error!(InvalidArgument, "the range exceeds the source"));
            }
            body = body.slice(first..=last);
        }
        let etag =
            self.put_part(&input.bucket, &input.key, &input.upload_id, input.part_number, body)?;
        ok(UploadPartCopyOutput {
            copy_part_result: Some(CopyPartResult {
                e_tag: strong(&etag),
                last_modified: Self::stamp(self.0.now_secs()),
                ..Default::default()
            }),
            ..Default::default()
        })
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> Reply<CompleteMultipartUploadOutput> {
        let conditions = conditions(&req);
        let input = req.input;
        let parts: Vec<_> = input
            .multipart_upload
            .and_then(|m| m.parts)
            .unwrap_or_default()
            .into_iter()
            .map(|p| (p.part_number.unwrap_or(0), p.e_tag.map(|e| e.value().to_owned())))
            .collect();
        let now = self.0.now_secs();
        let etag = self.with(&input.bucket, |b| {
            Ok(b.complete(&input.key, &input.upload_id, &parts, &conditions, now)?)
        })?;
        ok(CompleteMultipartUploadOutput {
            location: Some(format!("/{}/{}", input.bucket, input.key)),
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag: strong(&etag),
            ..Default::default()
        })
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> Reply<AbortMultipartUploadOutput> {
        let input = req.input;
        self.with(&input.bucket, |b| {
            b.upload(&input.key, &input.upload_id)?;
            b.uploads.remove(&input.upload_id);
            Ok(())
        })?;
        let output = AbortMultipartUploadOutput::default();
        Ok(S3Response::with_status(output, http::StatusCode::NO_CONTENT))
    }

    async fn list_parts(&self, req: S3Request<ListPartsInput>) -> Reply<ListPartsOutput> {
        let input = req.input;
        let max = limit(input.max_parts)?;
        let after = input.part_number_marker.unwrap_or(0);
        let upload =
            self.with(&input.bucket, |b| Ok(b.upload(&input.key, &input.upload_id)?.clone()))?;
        let mut rest = upload.parts.into_iter().filter(|(number, _)| *number > after);
        let parts: Vec<Part> = rest
            .by_ref()
            .take(max)
            .map(|(number, part)| Part {
                part_number: Some(number),
                e_tag: strong(&part.etag),
                size: Some(part.body.len() as i64),
                last_modified: Self::stamp(part.modified),
                ..Default::default()
            })
            .collect();
        ok(ListPartsOutput {
            is_truncated: Some(rest.next().is_some()),
            next_part_number_marker: parts.last().and_then(|p| p.part_number),
            part_number_marker: Some(after),
            max_parts: Some(max as i32),
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(input.upload_id),
            parts: Some(parts),
            ..Default::default()
        })
    }

    async fn list_multipart_uploads(
        &self,
        req: S3Request<ListMultipartUploadsInput>,
    ) -> Reply<ListMultipartUploadsOutput> {
        let input = req.input;
        let url = wants_url(&input.encoding_type);
        let max = limit(input.max_uploads)?;
        let prefix = input.prefix.clone().unwrap_or_default();
        let marker = (
            input.key_marker.clone().unwrap_or_default(),
            input.upload_id_marker.clone().unwrap_or_default(),
        );
        let mut found = self.with(&input.bucket, |b| {
            Ok(b.uploads
                .iter()
                .filter(|(_, u)| u.key.starts_with(&prefix))
                .map(|(id, u)| ((u.key.clone(), id.clone()), u.begun))
                .filter(|(at, _)| match (marker.0.is_empty(), marker.1.is_empty()) {
                    (true, _) => true,
                    (false, true) => at.0 > marker.0,
                    (false, false) => *at > marker,
                })
                .collect::<Vec<_>>())
        })?;
        found.sort();
        let truncated = found.len() > max;
        found.truncate(max);
        let last = found.last().filter(|_| truncated).map(|(at, _)| at.clone());
        ok(ListMultipartUploadsOutput {
            bucket: Some(input.bucket),
            prefix: Some(encode(&prefix, url)),
            max_uploads: Some(max as i32),
            is_truncated: Some(truncated),
            next_key_marker: last.as_ref().map(|(key, _)| encode(key, url)),
            next_upload_id_marker: last.map(|(_, id)| id),
            encoding_type: input.encoding_type,
            uploads: Some(
                found
                    .into_iter()
                    .map(|((key, id), begun)| MultipartUpload {
                        key: Some(encode(&key, url)),
                        upload_id: Some(id),
                        initiated: Self::stamp(begun),
                        ..Default::default()
                    })
                    .collect(),
            ),
            ..Default::default()
        })
    }

    async fn create_bucket(&self, req: S3Request<CreateBucketInput>) -> Reply<CreateBucketOutput> {
        let name = req.input.bucket;
        let mut buckets = self.0.buckets.lock();
        if buckets.live.contains_key(&name) {
            return Err(s3_error!(BucketAlreadyOwnedByYou));
        }
        buckets.live.insert(name.clone(), Bucket::default());
        ok(CreateBucketOutput { location: Some(format!("/{name}")), ..Default::default() })
    }

    async fn delete_bucket(&self, req: S3Request<DeleteBucketInput>) -> Reply<DeleteBucketOutput> {
        let name = req.input.bucket;
        let mut buckets = self.0.buckets.lock();
        match buckets.live.get(&name) {
            None => return Err(s3_error!(NoSuchBucket)),
            Some(bucket) if !bucket.objects.is_empty() => return Err(s3_error!(BucketNotEmpty)),
            Some(_) => buckets.live.remove(&name),
        };
        Ok(S3Response::with_status(DeleteBucketOutput::default(), http::StatusCode::NO_CONTENT))
    }

    async fn head_bucket(&self, req: S3Request<HeadBucketInput>) -> Reply<HeadBucketOutput> {
        self.with(&req.input.bucket, |_| Ok(()))?;
        ok(HeadBucketOutput { bucket_region: Some("us-east-1".into()), ..Default::default() })
    }

    async fn list_buckets(&self, _req: S3Request<ListBucketsInput>) -> Reply<ListBucketsOutput> {
        let buckets = self.0.buckets.lock();
        let list = buckets
            .live
            .keys()
            .map(|name| s3s::dto::Bucket {
                name: Some(name.clone()),
                creation_date: Self::stamp(SystemTime::UNIX_EPOCH),
                ..Default::default()
            })
            .collect();
        ok(ListBucketsOutput { buckets: Some(list), ..Default::default() })
    }

    async fn get_bucket_location(
        &self,
        req: S3Request<GetBucketLocationInput>,
    ) -> Reply<GetBucketLocationOutput> {
        self.with(&req.input.bucket, |_| Ok(()))?;
        ok(GetBucketLocationOutput::default())
    }
}

impl Backend {
    fn put_part(
        &self,
        bucket: &str,
        key: &str,
        upload: &str,
        number: i32,
        body: Bytes,
    ) -> S3Result<String> {
        if !(1..=10_000).contains(&number) {
            return Err(s3_error!(InvalidArgument, "part numbers are 1 to 10000"));
        }
        let etag = model::etag_of(&body);
        let part = model::Part { body, etag: etag.clone(), modified: self.0.now_secs() };
        self.with(bucket, |b| {
            b.upload(key, upload)?.parts.insert(number, part);
            Ok(etag)
        })
    }
}

/// The status and XML code of an error that the fault plan makes up.
pub fn made_up(status: u16) -> S3Error {
    let code = match status {
        400 => S3ErrorCode::InvalidRequest,
        403 => S3ErrorCode::AccessDenied,
        404 => S3ErrorCode::NoSuchBucket,
        409 => S3ErrorCode::ConditionalRequestConflict,
        412 => S3ErrorCode::PreconditionFailed,
        501 => S3ErrorCode::NotImplemented,
        503 => S3ErrorCode::SlowDown,
        _ => S3ErrorCode::InternalError,
    };
    let mut error = S3Error::with_message(code, "made up by the fault plan");
    if let Ok(status) = http::StatusCode::from_u16(status) {
        error.set_status_code(status);
    }
    error
}
