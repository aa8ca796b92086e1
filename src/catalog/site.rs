//! How the catalog reaches buckets.

use std::sync::Arc;

use async_trait::async_trait;

use crate::config::{BucketUrl, VolumeOptions};
use crate::store::{Capabilities, StoreBackend, StoreError};
use crate::types::KeyPrefix;

/// A place in a bucket: the store and the prefix there.
#[async_trait]
pub trait Site: std::fmt::Debug + Send + Sync + 'static {
    fn store(&self) -> &dyn StoreBackend;

    /// The prefix of the URL that was opened, as the store's keys have it.
    fn prefix(&self) -> &KeyPrefix;

    /// Whether the place can be used: bucket, credentials, clock, certificate, each with its own
    /// error, within 10 s.
    async fn check(&self) -> Result<(), StoreError>;

    /// What the store honours, tried verb by verb with objects below `scratch`.
    async fn probe(&self, scratch: &KeyPrefix) -> Result<Capabilities, StoreError>;
}

/// Opens places; the options give endpoint, region and path style, the environment the
/// credentials.
#[async_trait]
pub trait Opener: std::fmt::Debug + Send + Sync + 'static {
    /// Sends no request to the bucket.
    async fn open(
        &self,
        url: &BucketUrl,
        options: &VolumeOptions,
    ) -> Result<Arc<dyn Site>, StoreError>;
}
