//! Value objects shared by every module: distinct types for things that must not be swapped.
//!
//! Nothing here does I/O.

mod content;
mod credentials;
mod key;
mod name;
mod secret;
mod time;

pub use content::{
    ATTR_INODE, ATTR_KEY, ATTR_PUT, ATTR_TYPE, ATTR_VOLUME, Base, Caller, FileKind, NO_TYPE, PutId,
    Version,
};
pub use credentials::CredentialsName;
pub use key::{KeyPrefix, ObjectKey};
pub use name::{FileName, NameError, VolumeName};
pub use secret::Secret;
pub use time::{StoreTime, Timestamp};

use serde::{Deserialize, Serialize};

/// Bytes in hexadecimal, as hashes are written.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An inode number of a volume. Stable for the life of the inode, on every host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ino(pub u64);

impl Ino {
    /// The root directory. FUSE wants 1.
    pub const ROOT: Ino = Ino(1);
}

impl std::fmt::Display for Ino {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The engine's writer epoch: the one number that says whose turn it is to write a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl std::fmt::Display for Epoch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Position of a record in the local log; grows by one a record, never reused within an epoch.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Lsn(pub u64);

/// Identity of one incarnation of a volume. Made at creation, never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VolumeId(pub uuid::Uuid);

impl VolumeId {
    /// A fresh random identity.
    pub fn random() -> Self {
        VolumeId(uuid::Uuid::new_v4())
    }
}

impl std::fmt::Display for VolumeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0.simple())
    }
}
