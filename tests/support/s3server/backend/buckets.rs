//! Buckets.

#![allow(clippy::result_large_err)] // the errors are those of s3s

use std::time::SystemTime;

use s3s::dto::*;
use s3s::{S3Request, S3Response, s3_error};

use super::super::model::Bucket;
use super::Backend;
use super::wire::{Reply, ok, stamp};

impl Backend {
    pub fn make_bucket(&self, req: S3Request<CreateBucketInput>) -> Reply<CreateBucketOutput> {
        let name = req.input.bucket;
        let mut buckets = self.0.buckets.lock();
        if buckets.live.contains_key(&name) {
            return Err(s3_error!(BucketAlreadyOwnedByYou));
        }
        buckets.live.insert(name.clone(), Bucket::default());
        ok(CreateBucketOutput { location: Some(format!("/{name}")) })
    }

    pub fn remove_bucket(&self, req: S3Request<DeleteBucketInput>) -> Reply<DeleteBucketOutput> {
        let name = req.input.bucket;
        let mut buckets = self.0.buckets.lock();
        match buckets.live.get(&name) {
            None => return Err(s3_error!(NoSuchBucket)),
            Some(bucket) if !bucket.objects.is_empty() => return Err(s3_error!(BucketNotEmpty)),
            Some(_) => buckets.live.remove(&name),
        };
        Ok(S3Response::with_status(DeleteBucketOutput::default(), http::StatusCode::NO_CONTENT))
    }

    pub fn see_bucket(&self, req: S3Request<HeadBucketInput>) -> Reply<HeadBucketOutput> {
        self.with(&req.input.bucket, |_| Ok(()))?;
        ok(HeadBucketOutput { bucket_region: Some("us-east-1".into()), ..Default::default() })
    }

    pub fn buckets(&self, _req: S3Request<ListBucketsInput>) -> Reply<ListBucketsOutput> {
        let buckets = self.0.buckets.lock();
        let list = buckets
            .live
            .keys()
            .map(|name| s3s::dto::Bucket {
                name: Some(name.clone()),
                creation_date: stamp(SystemTime::UNIX_EPOCH),
                ..Default::default()
            })
            .collect();
        ok(ListBucketsOutput { buckets: Some(list), ..Default::default() })
    }

    pub fn location(
        &self,
        req: S3Request<GetBucketLocationInput>,
    ) -> Reply<GetBucketLocationOutput> {
        self.with(&req.input.bucket, |_| Ok(()))?;
        ok(GetBucketLocationOutput::default())
    }
}
