//! The bucket. The only module that imports `object_store`.
//!
//! One [`Store`] is one bucket through one endpoint. It has two faces: user objects under raw keys
//! ([`Store`]'s own methods, each request with a deadline, conditions and an expiry), and the
//! engine's own files ([`EngineStore`]). Nothing here survives a crash; nothing here retries a
//! request that changes an object with a reusable name.

mod api;
mod both;
mod cloud;
mod confined;
mod engine;
mod error;
mod file;
mod known;
mod listing;
mod location;
mod meter;
mod named;
mod probe;
mod properties;
mod refused;
mod renewed;
mod rights;
mod s3;
mod stand_in;
mod trial;
mod unique;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::credentials::{Source, State};
use crate::types::{KeyPrefix, ObjectKey};

pub use api::{
    Capabilities, Condition, Doomed, Entry, GetResult, Groups, ListPage, ListRequest, ObjectInfo,
    Part, PartSource, PutOutcome, RequestCounts, Send, StoreBackend, Take, UploadId, Verb,
};
pub use both::both;
pub use confined::{confined, is_file_key};
pub use engine::EngineStore;
pub use error::{StoreError, StoreErrorKind};
pub use known::{Finding, Knowledge, Known};
pub use listing::Listing;
pub use location::{Location, Scheme, StaticKeys, StoreSettings};
pub use probe::scratch_of;
pub use properties::{
    Attributes, Encryption, Header, METADATA_MAX, Properties, STANDARD, Tags, Unfit, is_archived,
};
pub use rights::Right;
pub use stand_in::StandIn;
pub use unique::{FEW, delete_unique};

use probe::find_groups;

/// What a provider does beyond the objects' verbs.
#[async_trait]
trait Backend: StoreBackend {
    fn engine(&self, prefix: &KeyPrefix) -> Result<EngineStore, StoreError>;

    /// See [`Store::check`].
    async fn check(&self, prefix: &KeyPrefix) -> Result<ListPage, StoreError>;

    /// Sends a DELETE that has expired already, and says whether it was refused for good. An error says that
    /// nobody can tell: no answer, or one that says nothing about the request.
    async fn expired_delete(&self, key: &ObjectKey, timeout: Duration) -> Result<bool, StoreError>;

    /// The same by a request that deletes several keys, where there is one.
    async fn expired_group(&self, key: &ObjectKey, timeout: Duration) -> Result<bool, StoreError> {
        self.expired_delete(key, timeout).await
    }
}

/// One bucket through one endpoint; clones share the connections, counts and clock, and what is known of
/// the bucket.
#[derive(Debug, Clone)]
pub struct Store {
    backend: Arc<dyn Backend>,
    known: Arc<Knowledge>,
    source: Option<Arc<Source>>,
}

impl Store {
    /// Makes the handle. Sends nothing.
    ///
    /// # Errors
    /// Settings that cannot work, with cause and cure.
    pub fn open(location: &Location, settings: &StoreSettings) -> Result<Store, StoreError> {
        let source = settings.source(location.scheme)?;
        let backend: Arc<dyn Backend> = match location.scheme {
            Scheme::S3 => Arc::new(s3::S3Store::open(location, settings, source.clone())?),
            Scheme::File => Arc::new(file::FileStore::open(location)?),
            Scheme::Azure | Scheme::Google => {
                Arc::new(cloud::CloudStore::open(location, settings, source.clone())?)
            }
        };
        let known = settings.known_of(location, backend.endpoint());
        Ok(Store { backend, known, source })
    }

    /// The objects' side, to be shared.
    pub fn backend(&self) -> Arc<dyn StoreBackend> {
        Arc::clone(&self.backend) as Arc<dyn StoreBackend>
    }

    /// The store of one prefix for the metadata engine, with its own kill switch.
    ///
    /// # Errors
    /// A `file://` directory that cannot be made; settings that cannot work.
    pub fn engine(&self, prefix: &KeyPrefix) -> Result<EngineStore, StoreError> {
        self.backend.engine(prefix)
    }

    /// Tells within ten seconds whether the bucket can be used: wrong key, missing bucket, another
    /// region, unreachable endpoint, unknown name, clock that is off, refused certificate, access
    /// denied. Sends one LIST, changes nothing. Returns the first two names below `prefix`.
    ///
    /// # Errors
    /// Each of these with cause and cure.
    pub async fn check(&self, prefix: &KeyPrefix) -> Result<ListPage, StoreError> {
        self.backend.check(prefix).await
    }

    /// Tries out what the store honours with own keys under `scratch`, which are removed again
    /// (after a crash some may be left). About 75 requests. What it finds is known from then on.
    ///
    /// # Errors
    /// When a plain write or read fails; a verb that is not honoured is no error.
    pub async fn probe(&self, scratch: &KeyPrefix) -> Result<Capabilities, StoreError> {
        let found = probe::probe(self.backend.as_ref(), &self.known, scratch).await?;
        self.known.found(&found.capabilities, found.in_doubt);
        Ok(found.capabilities)
    }

    /// What its credentials may do: listing `prefix`, and the rest with keys of its own below `scratch`, which are
    /// removed again. `reads`: nothing is written.
    pub async fn rights(
        &self,
        prefix: &KeyPrefix,
        scratch: &KeyPrefix,
        reads: bool,
    ) -> Vec<(Right, Result<(), StoreError>)> {
        rights::rights(self.backend.as_ref(), prefix, scratch, reads).await
    }

    /// Which credentials it uses, if they have a name, and how they fare.
    pub fn credentials(&self) -> Option<State> {
        self.source.as_ref().map(|source| source.state())
    }

    /// What was found out about it, by whomever.
    pub fn known(&self) -> &Arc<Knowledge> {
        &self.known
    }

    /// Learns what other processes of this host have found since it was opened.
    pub fn look_up(&self) {
        self.known.read_again();
    }
}

impl std::ops::Deref for Store {
    type Target = dyn StoreBackend;

    fn deref(&self) -> &Self::Target {
        self.backend.as_ref()
    }
}
