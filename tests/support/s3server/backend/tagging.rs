//! The tags of objects.

use s3s::dto::*;
use s3s::{S3Request, S3Result, s3_error};

use super::super::carried::Tags;
use super::super::model::{Object, Refused};
use super::Backend;
use super::wire::{Reply, ok};

const LIMIT: usize = 10;

impl Backend {
    /// Whether every account has this right.
    pub(super) fn allowed(&self, right: &str) -> S3Result<()> {
        if !self.0.denied.lock().contains(right) {
            return Ok(());
        }
        let message =
            format!("User: somebody is not authorized to perform: {right} on resource: an object");
        Err(s3s::S3Error::with_message(s3s::S3ErrorCode::AccessDenied, message))
    }

    /// Refuses tags that the account may not write, or that are too many.
    pub(super) fn check_tags(&self, tags: &Tags) -> S3Result<()> {
        if tags.len() > LIMIT {
            return Err(s3_error!(InvalidTag, "Object tags cannot be greater than 10"));
        }
        if tags.is_empty() { Ok(()) } else { self.allowed("s3:PutObjectTagging") }
    }

    /// The number of tags, as far as the account may know it.
    pub(super) fn tag_count(&self, object: &Object) -> Option<usize> {
        let count = object.carried.tags.len();
        (count > 0 && self.allowed("s3:GetObjectTagging").is_ok()).then_some(count)
    }

    pub fn tags(&self, req: S3Request<GetObjectTaggingInput>) -> Reply<GetObjectTaggingOutput> {
        self.allowed("s3:GetObjectTagging")?;
        let tags = self.with(&req.input.bucket, |b| {
            Ok(b.objects.get(&*req.input.key).ok_or(Refused::NoSuchKey)?.carried.tags.clone())
        })?;
        let tag_set =
            tags.into_iter().map(|(key, value)| Tag { key: Some(key), value: Some(value) });
        ok(GetObjectTaggingOutput { tag_set: tag_set.collect(), version_id: None })
    }

    pub fn put_tags(&self, req: S3Request<PutObjectTaggingInput>) -> Reply<PutObjectTaggingOutput> {
        let input = req.input;
        let pair = |tag: Tag| (tag.key.unwrap_or_default(), tag.value.unwrap_or_default());
        let tags: Tags = input.tagging.tag_set.into_iter().map(pair).collect();
        self.check_tags(&tags)?;
        self.set_tags(&input.bucket, &input.key, tags)?;
        ok(PutObjectTaggingOutput::default())
    }

    pub fn delete_tags(
        &self,
        req: S3Request<DeleteObjectTaggingInput>,
    ) -> Reply<DeleteObjectTaggingOutput> {
        self.set_tags(&req.input.bucket, &req.input.key, Tags::new())?;
        ok(DeleteObjectTaggingOutput::default())
    }

    fn set_tags(&self, bucket: &str, key: &str, tags: Tags) -> S3Result<()> {
        self.with(bucket, |b| {
            b.objects.get_mut(key).ok_or(Refused::NoSuchKey)?.carried.tags = tags;
            Ok(())
        })
    }
}
