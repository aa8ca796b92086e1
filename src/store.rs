//! The bucket. The only module that imports `object_store`.
//!
//! One [`Store`] is one bucket through one endpoint. It has two faces: user objects under raw keys
//! ([`Store`]'s own methods, each request with a deadline, conditions and an expiry), and the
//! engine's own files ([`EngineStore`]). Nothing here survives a crash; nothing here retries a
//! request that changes an object with a reusable name.

mod api;
mod error;

pub use api::{
    Attributes, Capabilities, Condition, Entry, GetResult, ListPage, ListRequest, ObjectInfo,
    PutOutcome, RequestCounts, Send, StoreBackend, UploadId, Verb,
};
pub use error::{StoreError, StoreErrorKind};
