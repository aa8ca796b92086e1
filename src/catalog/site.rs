//! How the catalog reaches buckets.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;

use crate::config::{BucketUrl, VolumeOptions};
use crate::store::{
    Capabilities, Encryption, Knowledge, Known, ListPage, Location, Right, Store, StoreBackend,
    StoreError, StoreSettings,
};
use crate::types::{CredentialsName, KeyPrefix};

/// A place in a bucket: the store and the prefix there.
#[async_trait]
pub trait Site: std::fmt::Debug + Send + Sync + 'static {
    fn store(&self) -> &dyn StoreBackend;

    /// The prefix of the URL that was opened, as the store's keys have it.
    fn prefix(&self) -> &KeyPrefix;

    /// Whether the place can be used: bucket, credentials, clock, certificate, each with its own
    /// error, within 10 s. Returns the first two names there.
    async fn check(&self) -> Result<ListPage, StoreError>;

    /// What the store honours, tried verb by verb with objects below `scratch`. It is known from then on.
    async fn probe(&self, scratch: &KeyPrefix) -> Result<Capabilities, StoreError>;

    /// What the credentials may do there, tried with objects below `scratch`; only reading where it `reads`. Nothing is
    /// said of a place without accounts.
    async fn rights(
        &self,
        scratch: &KeyPrefix,
        reads: bool,
    ) -> Vec<(Right, Result<(), StoreError>)> {
        let _ = (scratch, reads);
        Vec::new()
    }

    /// What is known of the store.
    fn known(&self) -> &Knowledge;
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

/// The real stores. Keeps one handle a bucket, because a handle holds connections and the store's
/// clock.
#[derive(Debug, Default)]
pub struct Stores {
    handles: Mutex<HashMap<StoreKey, Store>>,
    known: Known,
}

/// Scheme and bucket, endpoint, region, path style, encryption, whether the requester pays, and whose keys: those of
/// one volume are never used for another that names others.
type StoreKey = (
    String,
    Option<String>,
    Option<String>,
    Option<bool>,
    Option<Encryption>,
    bool,
    Option<CredentialsName>,
);

/// More buckets than this are a sign of changing options, not of use.
const HANDLES: usize = 64;

impl Stores {
    /// With what this host knows of stores.
    pub fn knowing(known: Known) -> Self {
        Stores { known, ..Stores::default() }
    }
}

#[async_trait]
impl Opener for Stores {
    async fn open(
        &self,
        url: &BucketUrl,
        options: &VolumeOptions,
    ) -> Result<Arc<dyn Site>, StoreError> {
        let location = Location::parse(&url.to_string())?;
        let key = (
            format!("{}://{}", location.scheme.as_str(), location.bucket),
            options.endpoint.clone(),
            options.region.clone(),
            options.path_style,
            Encryption::of(options),
            options.requester_pays,
            options.credentials.clone(),
        );
        // Credentials that are gone or wrong by now are an error for whoever begins to use them.
        let good = |store: &&Store| store.credentials().is_none_or(|c| c.problem.is_none());
        if let Some(store) = self.handles.lock().get(&key).filter(good) {
            store.look_up();
            return Ok(Arc::new(Place { store: store.clone(), prefix: location.prefix }));
        }
        let settings = StoreSettings { known: self.known.clone(), ..StoreSettings::of(options) };
        let store = Store::open(&location, &settings)?;
        let mut handles = self.handles.lock();
        if handles.len() >= HANDLES {
            handles.clear();
        }
        handles.insert(key, store.clone());
        Ok(Arc::new(Place { store, prefix: location.prefix }))
    }
}

#[derive(Debug)]
struct Place {
    store: Store,
    prefix: KeyPrefix,
}

#[async_trait]
impl Site for Place {
    fn store(&self) -> &dyn StoreBackend {
        &*self.store
    }

    fn prefix(&self) -> &KeyPrefix {
        &self.prefix
    }

    async fn check(&self) -> Result<ListPage, StoreError> {
        self.store.check(&self.prefix).await
    }

    async fn probe(&self, scratch: &KeyPrefix) -> Result<Capabilities, StoreError> {
        self.store.probe(scratch).await
    }

    async fn rights(
        &self,
        scratch: &KeyPrefix,
        reads: bool,
    ) -> Vec<(Right, Result<(), StoreError>)> {
        self.store.rights(&self.prefix, scratch, reads).await
    }

    fn known(&self) -> &Knowledge {
        self.store.known()
    }
}
