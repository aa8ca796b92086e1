//! Objects: reading, writing, deleting and copying them.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use s3s::dto::*;
use s3s::{S3Error, S3Request, S3Response, S3Result, s3_error};

use super::super::carried::Carried;
use super::super::model::{self, Bucket, Conditions, Object, Refused};
use super::Backend;
use super::wire::{
    IgnoreConditions, KeyFaults, Reply, conditions, header, made_up, metadata, ok, read_body,
    stamp, strong, summed, unquote,
};

impl Backend {
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
    pub(super) fn source<T>(
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

    pub async fn put(&self, mut req: S3Request<PutObjectInput>) -> Reply<PutObjectOutput> {
        let body = read_body(
            req.input.body.take(),
            req.input.content_length,
            req.input.content_md5.as_deref(),
        )
        .await?;
        let sum = req.input.checksum_crc32c.take();
        let sum = summed(&req, sum, &body)?;
        let conditions = conditions(&req);
        let carried = Carried::of(&req.headers);
        self.check_tags(&carried.tags)?;
        let input = req.input;
        let etag = model::etag_of(&body);
        let object = Object {
            body,
            etag: etag.clone(),
            modified: self.0.now_secs(),
            metadata: metadata(input.metadata),
            carried,
        };
        self.with(&input.bucket, |b| Ok(b.put(&input.key, object, &conditions)?))?;
        ok(PutObjectOutput { e_tag: strong(&etag), checksum_crc32c: sum, ..Default::default() })
    }

    pub fn get(&self, req: S3Request<GetObjectInput>) -> Reply<GetObjectOutput> {
        let object = self.read(&req.input.bucket, &req.input.key, &req)?;
        if matches!(object.carried.class.as_deref(), Some("GLACIER" | "DEEP_ARCHIVE")) {
            return Err(s3_error!(InvalidObjectState, "not valid for the object's storage class"));
        }
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
            e_tag: strong(&object.etag),
            last_modified: stamp(object.modified),
            tag_count: self.tag_count(&object).map(|count| count as i32),
            metadata: Some(object.metadata.into_iter().collect()),
            body: Some(StreamingBlob::from(s3s::Body::from(body))),
            ..Default::default()
        };
        let status = if partial { http::StatusCode::PARTIAL_CONTENT } else { http::StatusCode::OK };
        let mut reply = S3Response::with_status(output, status);
        reply.headers = object.carried.answer();
        Ok(reply)
    }

    pub fn head(&self, req: S3Request<HeadObjectInput>) -> Reply<HeadObjectOutput> {
        let object = self.read(&req.input.bucket, &req.input.key, &req)?;
        let mut reply = S3Response::new(HeadObjectOutput {
            accept_ranges: Some("bytes".into()),
            content_length: Some(object.body.len() as i64),
            e_tag: strong(&object.etag),
            last_modified: stamp(object.modified),
            metadata: Some(object.metadata.clone().into_iter().collect()),
            ..Default::default()
        });
        reply.headers = object.carried.answer();
        if let Some(count) = self.tag_count(&object) {
            reply.headers.insert("x-amz-tagging-count", count.into());
        }
        Ok(reply)
    }

    pub fn delete(&self, req: S3Request<DeleteObjectInput>) -> Reply<DeleteObjectOutput> {
        let conditions = conditions(&req);
        self.with(&req.input.bucket, |b| Ok(b.delete(&req.input.key, &conditions)?))?;
        Ok(S3Response::with_status(DeleteObjectOutput::default(), http::StatusCode::NO_CONTENT))
    }

    pub fn delete_many(&self, req: S3Request<DeleteObjectsInput>) -> Reply<DeleteObjectsOutput> {
        let ignore = req.extensions.get::<IgnoreConditions>().is_some();
        let KeyFaults { refused, applied, named } =
            req.extensions.get::<KeyFaults>().cloned().unwrap_or_default();
        let quiet = req.input.delete.quiet.unwrap_or(false);
        let mut output = DeleteObjectsOutput::default();
        let (mut deleted, mut errors) = (Vec::new(), Vec::new());
        self.with(&req.input.bucket, |b| {
            for (place, one) in req.input.delete.objects.iter().enumerate() {
                let matches = one.e_tag.as_ref().filter(|_| !ignore).map(|e| e.value().to_owned());
                let outcome = match refused.get(&one.key) {
                    Some(status) => Err(made_up(*status)),
                    None if applied.is_some_and(|most| place >= most) => Ok(()),
                    None => b
                        .delete(&one.key, &Conditions { matches, none_match: None })
                        .map_err(S3Error::from),
                };
                if named.is_some_and(|most| place >= most) {
                    continue;
                }
                match outcome {
                    Ok(()) => deleted
                        .push(DeletedObject { key: Some(one.key.clone()), ..Default::default() }),
                    Err(error) => {
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

    pub fn copy(&self, req: S3Request<CopyObjectInput>) -> Reply<CopyObjectOutput> {
        let conditions = conditions(&req);
        let input = &req.input;
        let replace = input
            .metadata_directive
            .as_ref()
            .is_some_and(|d| d.as_str() == MetadataDirective::REPLACE);
        let now = self.0.now_secs();
        // S3 gives the copy of a multipart object a fresh ETag of its content. What takes long is done
        // outside the mutex, and once more when the source is another one by then.
        let mut hashed: Option<(Bytes, String)> = None;
        let etag = loop {
            let copied = self.with(&input.bucket, |b| {
                let mut object = Self::source(b, &input.copy_source, &input.bucket, &req)?;
                if let CopySource::Bucket { key, .. } = &input.copy_source
                    && **key == *input.key
                    && !replace
                {
                    return Err(s3_error!(
                        InvalidRequest,
                        "a copy onto itself must change something"
                    ));
                }
                let same = |body: &Bytes| {
                    (body.as_ptr(), body.len()) == (object.body.as_ptr(), object.body.len())
                };
                let Some((_, etag)) = hashed.take().filter(|(body, _)| same(body)) else {
                    return Ok(Err(object.body));
                };
                object.etag = etag.clone();
                object.modified = now;
                if replace {
                    object.metadata = metadata(input.metadata.clone());
                }
                let tagged = !object.carried.tags.is_empty();
                object.carried = Carried::of_copy(&req.headers, &object.carried);
                let free = self.0.copies_any_tags.load(Ordering::Relaxed);
                if tagged && !object.carried.tags.is_empty() && !free {
                    self.allowed("s3:GetObjectTagging")?;
                }
                self.check_tags(&object.carried.tags)?;
                b.put(&input.key, object, &conditions)?;
                Ok(Ok(etag))
            })?;
            match copied {
                Ok(etag) => break etag,
                Err(body) => {
                    let etag = model::etag_of(&body);
                    hashed = Some((body, etag));
                }
            }
        };
        ok(CopyObjectOutput {
            copy_object_result: Some(CopyObjectResult {
                e_tag: strong(&etag),
                last_modified: stamp(now),
                ..Default::default()
            }),
            ..Default::default()
        })
    }
}
