//! Listings of objects, in both forms.

use std::sync::atomic::Ordering;

use base64::Engine as _;
use s3s::dto::*;
use s3s::{S3Request, S3Result, s3_error};

use super::super::model::{self, Listing};
use super::Backend;
use super::wire::{Reply, encode, limit, ok, stamp, strong, wants_url};

impl Backend {
    fn page(
        &self,
        bucket: &str,
        listing: &Listing<'_>,
        url: bool,
    ) -> S3Result<(Vec<s3s::dto::Object>, Vec<CommonPrefix>, Option<String>)> {
        self.with(bucket, |b| {
            let page = model::list(&b.objects, listing);
            let mut contents: Vec<_> = page
                .keys
                .iter()
                .map(|key| {
                    let object = &b.objects[key];
                    s3s::dto::Object {
                        key: Some(encode(key, url)),
                        e_tag: strong(&object.etag),
                        size: Some(object.body.len() as i64),
                        last_modified: stamp(object.modified),
                        storage_class: Some(ObjectStorageClass::from_static(
                            ObjectStorageClass::STANDARD,
                        )),
                        ..Default::default()
                    }
                })
                .collect();
            if self.0.disorder.load(Ordering::Relaxed) {
                contents.reverse();
            }
            let prefixes = page
                .prefixes
                .iter()
                .map(|p| CommonPrefix { prefix: Some(encode(p, url)) })
                .collect();
            Ok((contents, prefixes, page.next))
        })
    }

    pub fn list(&self, req: S3Request<ListObjectsV2Input>) -> Reply<ListObjectsV2Output> {
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

    pub fn list_v1(&self, req: S3Request<ListObjectsInput>) -> Reply<ListObjectsOutput> {
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
}
