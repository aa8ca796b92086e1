//! No volume inside another one: each would take what the other settles for changes from outside.

use super::definition::{ENTRY, PrefixEntry, prefix_folder, prefix_key, prefix_root};
use super::objects::{self, REQUEST};
use super::{CatalogError, Site};
use crate::config::BucketUrl;
use crate::store::ListRequest;
use crate::types::ObjectKey;

/// As many entries of a bucket are looked at all together, by their keys; of more, those are asked for
/// that could be in the way.
const FEW: u32 = 100;

/// Refuses `url` if an entry in `state` is of a volume around it or inside it. Entries of volumes that
/// were only forgotten count: their state is kept. Returns whether there is one of `url` itself.
pub(super) async fn refuse_nested(state: &dyn Site, url: &BucketUrl) -> Result<bool, CatalogError> {
    let of_bucket = ListRequest {
        prefix: prefix_root(state.prefix(), url).as_str().to_owned(),
        delimiter: false,
        token: None,
        max_keys: FEW,
    };
    let page = state.store().list(of_bucket, REQUEST).await?;
    if page.next.is_some() {
        return refuse_among_many(state, url).await;
    }
    let own = prefix_folder(state.prefix(), url);
    let mut taken = false;
    for entry in page.entries {
        let Some(folder) = entry.key.as_str().strip_suffix(ENTRY) else { continue };
        if folder == own.as_str() {
            taken = true;
        } else if folder.starts_with(own.as_str()) || own.as_str().starts_with(folder) {
            refuse_entry(state, &entry.key, url).await?;
        }
    }
    Ok(taken)
}

async fn refuse_among_many(state: &dyn Site, url: &BucketUrl) -> Result<bool, CatalogError> {
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
    let mut taken = false;
    for entry in state.store().list(inside, REQUEST).await?.entries {
        match entry.key == own {
            true => taken = true,
            false => refuse_entry(state, &entry.key, url).await?,
        }
    }
    Ok(taken)
}

async fn refuse_entry(
    state: &dyn Site,
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
