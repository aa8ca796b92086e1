//! Catalog errors; their texts are shown to the user as they are.

use std::path::Path;

use crate::config::ConfigErrors;
use crate::store::StoreError;
use crate::types::{NameError, VolumeName};

/// Why the catalog refused or could not do something.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Options(#[from] ConfigErrors),
    /// Refused by a rule; the text says which, and the cure.
    #[error("{0}")]
    Refused(String),
    /// The bucket did not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A record cannot be read.
    #[error("{key} in the bucket is damaged or of a newer version: {source}")]
    Damaged {
        key: String,
        #[source]
        source: serde_json::Error,
    },
    /// A definition lies under another volume's name.
    #[error(
        "{key} in the bucket is the definition of volume {name}; remove that object, or put the right one there"
    )]
    Misnamed { key: String, name: VolumeName },
    /// The bucket may or may not have done it; trying again is safe.
    #[error("the bucket did not say whether {0} was written; try again")]
    Unknown(String),
    /// The volume's own records could not be read or changed.
    #[error(transparent)]
    Volume(Box<dyn std::error::Error + Send + Sync>),
    #[error("{path}: {source}")]
    Disk {
        path: String,
        #[source]
        source: std::io::Error,
    },
}

impl CatalogError {
    /// Whether it says something of one record only, and not of the bucket.
    pub(super) fn is_of_one(&self) -> bool {
        match self {
            CatalogError::Damaged { .. } | CatalogError::Misnamed { .. } => true,
            CatalogError::Store(error) => error.is_of_one(),
            _ => false,
        }
    }

    /// For `map_err`: an error of the local disk at `path`.
    pub(super) fn disk(path: &Path) -> impl FnOnce(std::io::Error) -> CatalogError {
        let path = path.display().to_string();
        move |source| CatalogError::Disk { path, source }
    }
}
