//! A store that a simulation supplies instead of a provider's.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use object_store::ObjectStore;

use super::engine::Gate;
use super::{
    Backend, EngineStore, Known, ListPage, ListRequest, Location, Store, StoreBackend, StoreError,
};
use crate::types::{KeyPrefix, ObjectKey};

/// As long as a provider's check may take.
const CHECK: Duration = Duration::from_secs(10);

/// The objects' side of a simulated bucket, and the engine's.
#[async_trait]
pub trait StandIn: StoreBackend {
    /// The bucket as the metadata engine sees it: keys below `prefix`, with retries of its own.
    fn objects(&self, prefix: &KeyPrefix) -> Arc<dyn ObjectStore>;

    /// Sends a DELETE that has expired already, and says whether it was refused because of it.
    async fn expired(&self, key: &ObjectKey, timeout: Duration) -> Result<bool, StoreError>;
}

impl Store {
    /// A store over `bucket`, of which this host knows what `known` says.
    pub fn stand_in<T: StandIn>(bucket: Arc<T>, location: &Location, known: &Known) -> Store {
        let known = known.of(&location.store(), bucket.endpoint());
        Store { backend: bucket, known, source: None }
    }
}

#[async_trait]
impl<T: StandIn> Backend for T {
    fn engine(&self, prefix: &KeyPrefix) -> Result<EngineStore, StoreError> {
        Ok(EngineStore::new(self.objects(prefix), Gate::new(), None))
    }

    async fn check(&self, prefix: &KeyPrefix) -> Result<ListPage, StoreError> {
        let prefix = prefix.as_str().to_owned();
        let first = ListRequest { prefix, delimiter: true, token: None, max_keys: 2 };
        self.list(first, CHECK).await
    }

    async fn expired_delete(&self, key: &ObjectKey, timeout: Duration) -> Result<bool, StoreError> {
        self.expired(key, timeout).await
    }
}
