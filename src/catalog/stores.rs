//! `<state>/.s3vol/stores/<hash>.json`: what a probe found of a store, for hosts that never probed it.
//!
//! A host has its own copy of what it found or read (`store::Known`). Nothing depends on these records
//! but the number of requests: one that is missing, unreadable or cannot be written costs a probe, and
//! a wrong one is corrected by the first request that contradicts it.

use bytes::Bytes;

use super::objects::{self, REQUEST};
use super::{CatalogError, Site};
use crate::store::{Attributes, Capabilities, Finding, Properties, PutOutcome, Send};
use crate::types::{KeyPrefix, ObjectKey};

fn record_key(base: &KeyPrefix, name: &str) -> ObjectKey {
    base.join(".s3vol/stores/").key(&format!("{name}.json"))
}

/// What the store of `site` honours: known here, or recorded below `base`, else found out with keys below
/// `scratch`. The second value is what is to be recorded once something is made there. Somebody may have
/// mended a store that had not `enough`.
pub(super) async fn capabilities(
    site: &dyn Site,
    base: &dyn Site,
    scratch: &KeyPrefix,
    enough: impl Fn(&Capabilities) -> bool,
) -> Result<(Capabilities, Option<Finding>), CatalogError> {
    let known = || site.known().current().map(|f| f.capabilities).filter(&enough);
    if let Some(known) = known() {
        return Ok((known, None));
    }
    read(site, base).await;
    if let Some(known) = known() {
        return Ok((known, None));
    }
    let found = site.probe(scratch).await?;
    tracing::info!(store = site.store().endpoint(), ?found, "the store was probed");
    Ok((found, site.known().current()))
}

/// Learns what is recorded of `site`'s store below `base`, where nothing is known here.
pub(super) async fn look_up(site: &dyn Site, base: &dyn Site) {
    if site.known().is_empty() {
        read(site, base).await;
    }
}

async fn read(site: &dyn Site, base: &dyn Site) {
    let key = record_key(base.prefix(), site.known().name());
    match objects::read::<Finding>(base.store(), &key, REQUEST).await {
        Ok(Some((finding, _))) => site.known().heard(&finding),
        Ok(None) => {}
        Err(error) => tracing::debug!(%key, %error, "what is known of the store cannot be read"),
    }
}

/// Records what a probe of `site`'s store found, for other hosts.
pub async fn record(site: &dyn Site, base: &dyn Site, finding: &Finding) {
    let key = record_key(base.prefix(), site.known().name());
    let outcome = match serde_json::to_vec_pretty(finding) {
        // Whatever is there is older, or as good.
        Ok(body) => {
            let send = Send::plain(REQUEST);
            base.store()
                .put(&key, Bytes::from(body), &Attributes::new(), &Properties::default(), send)
                .await
        }
        Err(error) => return tracing::warn!(%key, %error, "a finding cannot be written"),
    };
    if let PutOutcome::Failed(error) | PutOutcome::Ambiguous(error) = outcome {
        tracing::warn!(%key, %error, "other hosts do not learn what was found out about the store");
    }
}
