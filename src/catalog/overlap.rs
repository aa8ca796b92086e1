//! No volume inside another one: each would take what the other settles for changes from outside.

use std::sync::Arc;

use super::definition::{PrefixEntry, prefix_folder, prefix_key};
use super::objects::{self, REQUEST};
use super::{CatalogError, Site};
use crate::config::BucketUrl;
use crate::store::ListRequest;
use crate::types::ObjectKey;

/// Refuses `url` if an entry in `state` is of a volume around it or inside it. Entries of volumes that
/// were only forgotten count: their state is kept.
pub(super) async fn refuse_nested(
    state: &Arc<dyn Site>,
    url: &BucketUrl,
) -> Result<(), CatalogError> {
    let mut around = url.parent();
    while let Some(outer) = around {
        around = outer.parent();
        refuse_entry(state, &prefix_key(state.prefix(), &outer), url).await?;
    }
    let own = prefix_key(state.prefix(), url);
    let inside = ListRequest {
        prefix: prefix_folder(state.prefix(), url).as_str().to_owned(),
        delimiter: false,
        token: None,
        // Our own may be one of them.
        max_keys: 2,
    };
    for entry in state.store().list(inside, REQUEST).await?.entries {
        if entry.key != own {
            refuse_entry(state, &entry.key, url).await?;
        }
    }
    Ok(())
}

async fn refuse_entry(
    state: &Arc<dyn Site>,
    key: &ObjectKey,
    url: &BucketUrl,
) -> Result<(), CatalogError> {
    let found = objects::read::<PrefixEntry>(state.store(), key, REQUEST).await?;
    let Some((entry, _)) = found else { return Ok(()) };
    match BucketUrl::parse(&entry.url) {
        Ok(other) if !other.overlaps(url) => Ok(()),
        _ => Err(CatalogError::Refused(format!(
            "{url} overlaps with the volume at {}: one of two volumes would change the other's files; \
             use a prefix beside it",
            entry.url
        ))),
    }
}
