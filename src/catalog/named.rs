//! Definitions as they lie in the bucket, each under the name that it bears.

use std::collections::BTreeMap;
use std::time::Duration;

use super::definition::{Definition, definition_key, volumes};
use super::{CatalogError, Site, objects};
use crate::store::Listing;
use crate::types::{Version, VolumeName};

/// The definition of `name` and its version, `None` when there is none.
pub(super) async fn read(
    home: &dyn Site,
    name: &VolumeName,
    timeout: Duration,
) -> Result<Option<(Definition, Version)>, CatalogError> {
    let key = definition_key(home.prefix(), name);
    match objects::read::<Definition>(home.store(), &key, timeout).await? {
        // A copy of another volume's must not lead that one elsewhere.
        Some((found, _)) if found.name != *name => {
            Err(CatalogError::Misnamed { key: key.to_string(), name: found.name })
        }
        found => Ok(found),
    }
}

/// The names that have a definition in `home`, and their versions.
pub(super) async fn list(
    home: &dyn Site,
    timeout: Duration,
) -> Result<BTreeMap<VolumeName, Version>, CatalogError> {
    let folder = volumes(home.prefix());
    let mut listed = BTreeMap::new();
    let mut pages = Listing::of_folder(folder.as_str());
    while let Some(page) = pages.next(home.store(), timeout).await? {
        for entry in page.entries {
            let name = folder.strip(&entry.key).and_then(|f| f.strip_suffix(".json"));
            match name.map(VolumeName::new) {
                Some(Ok(name)) => {
                    listed.insert(name, entry.version);
                }
                _ => tracing::debug!(key = %entry.key, "not a definition"),
            }
        }
    }
    Ok(listed)
}
