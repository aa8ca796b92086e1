//! What is handed to the engine as one unit.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The key that the engine keeps for itself: [`super::Applied`] of the last batch. Scans hide it.
pub const RESERVED_KEY: &[u8] = b"\0applied";

/// Puts and deletes that become durable together or not at all. A later change of the same key
/// wins. Keys are not empty and not [`RESERVED_KEY`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    changes: Vec<(Bytes, Option<Bytes>)>,
}

impl Batch {
    pub fn new() -> Self {
        Batch::default()
    }

    pub fn put(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.changes.push((key.into().into(), Some(value.into().into())));
    }

    pub fn delete(&mut self, key: impl Into<Vec<u8>>) {
        self.changes.push((key.into().into(), None));
    }

    /// Appends all of `other`, which then lies in the same unit.
    pub fn append(&mut self, mut other: Batch) {
        self.changes.append(&mut other.changes);
    }

    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// How many puts and deletes.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Bytes of all keys and values.
    pub fn len_bytes(&self) -> usize {
        self.changes.iter().map(|(k, v)| k.len() + v.as_ref().map_or(0, Bytes::len)).sum()
    }

    /// The changes in order; `None` deletes.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        self.changes().map(|(key, value)| (&key[..], value.as_deref()))
    }

    /// [`Batch::iter`], for those who keep keys and values.
    pub(in crate::meta) fn changes(&self) -> impl Iterator<Item = (&Bytes, &Option<Bytes>)> {
        self.changes.iter().map(|(key, value)| (key, value))
    }
}
