//! From a place to the one state it has: found, or made.

use std::sync::Arc;

use super::definition::{FORMAT, PrefixEntry, VolumeFormat, format_key, prefix_key, state_folder};
use super::objects::{self, REQUEST};
use super::overlap::refuse_nested;
use super::{CatalogError, Opener, Site};
use crate::config::{BucketUrl, ConfigErrors, VolumeOptions};
use crate::meta::EngineHome;
use crate::store::{Condition, ListRequest, Verb};
use crate::types::VolumeId;

/// The state that belongs to a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incarnation {
    pub id: VolumeId,
    pub state_url: String,
    /// Objects were there before the volume was.
    pub adopted: bool,
}

/// Finds the state of `options.url`, or makes it (never for a volume that is only read): checks the bucket, probes it, and writes
/// `format.json` and the by-prefix entry. Refuses a store that would lose data. Errors come within
/// about 10 s a bucket.
pub async fn incarnate(
    opener: &dyn Opener,
    options: &VolumeOptions,
) -> Result<Incarnation, CatalogError> {
    let url = parsed("url", &options.url)?;
    let state_url = parsed("state_url", &options.state_url)?;
    let volume = opener.open(&url, options).await?;
    volume.check().await?;
    let state = opener.open(&state_url, options).await?;
    if !state_url.same_bucket(&url) {
        state.check().await?;
    }
    if let Some(found) = find(opener, options, &url, &state_url, &state).await? {
        return Ok(found);
    }
    if options.readonly {
        return Err(CatalogError::Refused(format!(
            "there is no volume at {url} yet that could be followed: mount it once without readonly, \
             on any host, with credentials that may write"
        )));
    }
    refuse_foreign_state(volume.as_ref(), &url).await?;
    for (place, site) in places(opener, options, &url, &state_url, &state).await? {
        match refuse_nested(&site, &url).await {
            // A folder above a file:// volume need not be a store of ours at all.
            Err(CatalogError::Store(_)) if place != state_url && is_local(&place) => {}
            judged => judged?,
        }
    }
    let adopted = !is_empty(volume.as_ref(), "").await?;
    let id = VolumeId::random();
    let entry = PrefixEntry {
        format: FORMAT,
        url: url.to_string(),
        uuid: id,
        state_url: state_url.to_string(),
        adopted,
    };
    write_format(volume.as_ref(), state.as_ref(), &url, &state_url, id, options.single_host)
        .await?;
    let key = prefix_key(state.prefix(), &url);
    if objects::write(state.store(), &key, &entry, Condition::Absent).await? {
        // Once more: whoever made one around or inside meanwhile sees ours, or is seen.
        if let Err(error) = refuse_nested(&state, &url).await {
            drop(state.store().delete(&key, plain()).await);
            drop(state.store().delete(&format_key(state.prefix(), id), plain()).await);
            return Err(error);
        }
        tracing::info!(%url, %id, adopted, "new volume state");
        return Ok(Incarnation { id, state_url: entry.state_url, adopted });
    }
    // Somebody else was first: theirs counts, ours was never used.
    drop(state.store().delete(&format_key(state.prefix(), id), plain()).await);
    match find(opener, options, &url, &state_url, &state).await? {
        Some(found) => Ok(found),
        None => Err(CatalogError::Unknown(key.to_string())),
    }
}

/// Finds the state of `options.url`; makes nothing.
pub async fn find_state(
    opener: &dyn Opener,
    options: &VolumeOptions,
) -> Result<Option<Incarnation>, CatalogError> {
    let url = parsed("url", &options.url)?;
    let state_url = parsed("state_url", &options.state_url)?;
    let state = opener.open(&state_url, options).await?;
    find(opener, options, &url, &state_url, &state).await
}

/// Looks for the by-prefix entry of `url` where it is written now and where a host with another
/// home would have written it: beside any folder above it.
async fn find(
    opener: &dyn Opener,
    options: &VolumeOptions,
    url: &BucketUrl,
    state_url: &BucketUrl,
    state: &Arc<dyn Site>,
) -> Result<Option<Incarnation>, CatalogError> {
    let places = places(opener, options, url, state_url, state).await?;
    for (place, site) in places {
        let key = prefix_key(site.prefix(), url);
        let read = objects::read::<PrefixEntry>(site.store(), &key, REQUEST).await;
        let entry = match read {
            Ok(Some((entry, _))) if entry.url == url.to_string() => entry,
            Ok(Some((entry, _))) => {
                return Err(CatalogError::Refused(format!(
                    "{url} and {} cannot be told apart by their hashes; use another prefix",
                    entry.url
                )));
            }
            Ok(None) => continue,
            // A folder above a file:// volume need not be a store of ours at all.
            Err(CatalogError::Store(_)) if place != *state_url && is_local(&place) => continue,
            Err(error) => return Err(error),
        };
        let held_at = parsed("state_url", &entry.state_url)?;
        let site = opener.open(&held_at, options).await?;
        check_endpoint(opener, options, url, site.as_ref(), entry.uuid).await?;
        return Ok(Some(Incarnation {
            id: entry.uuid,
            state_url: entry.state_url,
            adopted: entry.adopted,
        }));
    }
    Ok(None)
}

/// Where the by-prefix entry of `url` may be: where it is written now, and where a host with another home
/// would have written it.
async fn places(
    opener: &dyn Opener,
    options: &VolumeOptions,
    url: &BucketUrl,
    state_url: &BucketUrl,
    state: &Arc<dyn Site>,
) -> Result<Vec<(BucketUrl, Arc<dyn Site>)>, CatalogError> {
    let mut places = vec![(state_url.clone(), Arc::clone(state))];
    let mut above = url.parent();
    while let Some(place) = above {
        above = place.parent();
        // The root of the file system is not a store.
        let is_disk_root =
            place.scheme == crate::config::Scheme::File && place.prefix.as_str().is_empty();
        if place != *state_url && !is_disk_root {
            let site = opener.open(&place, options).await?;
            places.push((place, site));
        }
    }
    Ok(places)
}

fn is_local(place: &BucketUrl) -> bool {
    place.scheme == crate::config::Scheme::File
}

/// Two endpoints may be two sites that replicate to each other, where each proves every condition
/// alone; so one volume is used through one endpoint.
async fn check_endpoint(
    opener: &dyn Opener,
    options: &VolumeOptions,
    url: &BucketUrl,
    state: &dyn Site,
    id: VolumeId,
) -> Result<(), CatalogError> {
    let key = format_key(state.prefix(), id);
    let Some((format, _)) = objects::read::<VolumeFormat>(state.store(), &key, REQUEST).await?
    else {
        // The worker judges damage, with the means to repair it.
        return Ok(());
    };
    let volume = opener.open(url, options).await?;
    let ours = volume.store().endpoint();
    if format.endpoint == ours {
        return Ok(());
    }
    Err(CatalogError::Refused(format!(
        "the volume at {url} is used through the endpoint {}, not {ours}; two endpoints may be two \
         copies of the bucket, so give endpoint={}",
        format.endpoint, format.endpoint
    )))
}

async fn write_format(
    volume: &dyn Site,
    state: &dyn Site,
    url: &BucketUrl,
    state_url: &BucketUrl,
    id: VolumeId,
    single_host: bool,
) -> Result<(), CatalogError> {
    let scratch = state_folder(state.prefix(), id).join("probe/");
    let state_capabilities = state.probe(&scratch).await?;
    let capabilities = if state_url.same_bucket(url) {
        state_capabilities.clone()
    } else {
        volume.probe(&volume.prefix().join(".s3vol-probe/")).await?
    };
    if !state_capabilities.has(Verb::CreateIfAbsent) && !single_host {
        return Err(CatalogError::Refused(format!(
            "the store of {state_url} does not honour create-if-absent (If-None-Match: * on PUT), so \
             two hosts could write one volume at once and lose data; use another store, or promise \
             with -o single_host=true that only this host ever mounts the volume"
        )));
    }
    let record = VolumeFormat {
        format: FORMAT,
        uuid: id,
        endpoint: volume.store().endpoint().to_owned(),
        capabilities,
        state_capabilities,
        engine: EngineHome::first(),
        switching: None,
        deleting: None,
    };
    let key = format_key(state.prefix(), id);
    match objects::write(state.store(), &key, &record, Condition::Absent).await? {
        true => Ok(()),
        false => Err(CatalogError::Unknown(key.to_string())),
    }
}

/// A volume around the state of others would show and settle it as files.
async fn refuse_foreign_state(volume: &dyn Site, url: &BucketUrl) -> Result<(), CatalogError> {
    if is_empty(volume, ".s3vol/").await? {
        return Ok(());
    }
    Err(CatalogError::Refused(format!(
        "{url}.s3vol/ holds the state of volumes, so a volume at {url} would lie around them; use a \
         prefix beside them"
    )))
}

async fn is_empty(site: &dyn Site, below: &str) -> Result<bool, CatalogError> {
    let request = ListRequest {
        prefix: format!("{}{below}", site.prefix()),
        delimiter: false,
        token: None,
        max_keys: 1,
    };
    Ok(site.store().list(request, REQUEST).await?.entries.is_empty())
}

fn plain() -> crate::store::Send {
    crate::store::Send::plain(REQUEST)
}

fn parsed(name: &str, text: &str) -> Result<BucketUrl, CatalogError> {
    BucketUrl::parse(text).map_err(|problem| ConfigErrors::one(name, problem).into())
}
