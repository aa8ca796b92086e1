//! Multipart uploads.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::super::carried::Carried;
use super::super::model;
use super::Backend;
use super::wire::{
    CopyOtherBytes, Reply, conditions, encode, limit, metadata, ok, read_body, stamp, strong,
    wants_url,
};

impl Backend {
    fn new_upload_id(&self) -> String {
        format!("upload-{}", self.0.next_id.fetch_add(1, Ordering::Relaxed))
    }

    pub fn begin(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> Reply<CreateMultipartUploadOutput> {
        let carried = Carried::of(&req.headers);
        self.check_tags(&carried.tags)?;
        let input = req.input;
        let id = self.new_upload_id();
        let upload = model::Upload {
            key: input.key.clone(),
            begun: self.0.now_secs(),
            metadata: metadata(input.metadata),
            carried,
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

    pub async fn put_part(&self, mut req: S3Request<UploadPartInput>) -> Reply<UploadPartOutput> {
        let body = read_body(
            req.input.body.take(),
            req.input.content_length,
            req.input.content_md5.as_deref(),
        )
        .await?;
        let input = req.input;
        let etag =
            self.keep_part(&input.bucket, &input.key, &input.upload_id, input.part_number, body)?;
        ok(UploadPartOutput { e_tag: strong(&etag), ..Default::default() })
    }

    pub fn copy_part(&self, req: S3Request<UploadPartCopyInput>) -> Reply<UploadPartCopyOutput> {
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
        if req.extensions.get::<CopyOtherBytes>().is_some() {
            let mut other = body.to_vec();
            other[0] ^= 1;
            body = other.into();
        }
        let etag =
            self.keep_part(&input.bucket, &input.key, &input.upload_id, input.part_number, body)?;
        ok(UploadPartCopyOutput {
            copy_part_result: Some(CopyPartResult {
                e_tag: strong(&etag),
                last_modified: stamp(self.0.now_secs()),
                ..Default::default()
            }),
            ..Default::default()
        })
    }

    pub fn complete(
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
        let mut chosen =
            self.with(&input.bucket, |b| Ok(b.chosen(&input.key, &input.upload_id, &parts)?))?;
        let etag = loop {
            let whole = model::Whole::of(&chosen);
            let etag = whole.etag.clone();
            let other = self.with(&input.bucket, |b| {
                let now_chosen = b.chosen(&input.key, &input.upload_id, &parts)?;
                if !now_chosen.iter().map(|part| &part.etag).eq(chosen.iter().map(|p| &p.etag)) {
                    return Ok(Some(now_chosen));
                }
                b.complete(&input.key, &input.upload_id, whole, now, &conditions)?;
                Ok(None)
            })?;
            match other {
                None => break etag,
                Some(other) => chosen = other,
            }
        };
        ok(CompleteMultipartUploadOutput {
            location: Some(format!("/{}/{}", input.bucket, input.key)),
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag: strong(&etag),
            ..Default::default()
        })
    }

    pub fn abort(
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

    pub fn parts(&self, req: S3Request<ListPartsInput>) -> Reply<ListPartsOutput> {
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
                last_modified: stamp(part.modified),
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

    pub fn uploads(
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
                        initiated: stamp(begun),
                        ..Default::default()
                    })
                    .collect(),
            ),
            ..Default::default()
        })
    }

    fn keep_part(
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
