//! What `s3vol verify` reads: the places of a volume, found as a mount finds them, and nothing more.

use super::format::{Format, unreadable};
use super::places::{Places as Found, places};
use super::{VolumeAt, WorkerError};
use crate::catalog::trace;
use crate::types::{KeyPrefix, VolumeId};
use crate::verify::{Places, Rows};

/// A volume as it can be verified.
#[derive(Debug)]
pub struct Verified {
    pub places: Places,
    /// Why only its plain objects count.
    pub plain: Option<String>,
}

/// Finds the volume and opens its records. `plain`: leaves these alone.
///
/// # Errors
/// When the bucket does not answer, or there are records that cannot be read.
pub async fn verify_places(at: &VolumeAt, plain: bool) -> Result<Verified, WorkerError> {
    let traced = trace(&at.opener(), &at.options).await?;
    let state = traced.state(&at.options);
    let mut options = at.options.clone();
    let id = state.as_ref().map_or(VolumeId(uuid::Uuid::nil()), |found| found.id);
    if let Some(found) = &state {
        options.state_url = found.state_url.clone();
    }
    let found = places(id, &options, &at.spec(id).known())?;
    if plain {
        return Ok(only_objects(&found, id, "as it was asked for"));
    }
    if state.is_none() {
        return Ok(only_objects(&found, id, "there is no state of a volume"));
    }
    with_records(&found, id).await
}

fn only_objects(found: &Found, id: VolumeId, why: &str) -> Verified {
    Verified { places: of(found, id), plain: Some(why.to_owned()) }
}

/// The volume with its records.
pub(super) async fn with_records(found: &Found, id: VolumeId) -> Result<Verified, WorkerError> {
    let Some((known, _)) = Format::of(found, id).read().await? else {
        return Ok(only_objects(found, id, "the volume's format.json is gone"));
    };
    if !known.engine.is_readable() {
        return Err(unreadable(&known.engine, "only that version can verify it"));
    }
    let store = found.state_store.engine(&found.state)?.into_inner();
    let rows = Rows::open(store, &known.engine.folder).await;
    let rows = rows.map_err(crate::verify::VerifyError::from)?;
    let places = Places { rows: Some(rows), ..of(found, id) };
    Ok(Verified { places, plain: None })
}

fn of(found: &Found, id: VolumeId) -> Places {
    let (prefix, state): (KeyPrefix, KeyPrefix) = (found.prefix.clone(), found.state.clone());
    Places {
        id,
        store: found.store.backend(),
        prefix,
        state_store: found.state_store.backend(),
        state,
        rows: None,
    }
}
