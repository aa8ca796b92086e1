//! Taking a volume from a host whose lease has not run out.
//!
//! The claim of the next epoch ends the holder's: none of its batches becomes durable any more. Nothing is
//! written with the new epoch, so where nobody mounted the volume in between the old host's log still goes on.
//! A crash between the claim and the released lease leaves an epoch of which nobody says whose it is: others
//! wait a lease for that, as after any claim that was cut short.

use std::sync::Arc;
use std::time::Duration;

use super::WorkerError;
use super::format::{Format, Unchecked};
use super::places::{Places, places};
use crate::catalog::{Hold, VolumeFormat};
use crate::clock::Deadline;
use crate::config::VolumeOptions;
use crate::fault::{at, points};
use crate::lease::{
    Holder, Judgement, Keeper, KeeperConfig, LEASE, LeaseState, Observation, judge,
};
use crate::meta::{Engine, EngineConfig};
use crate::store::{Known, Verb};
use crate::types::{Epoch, VolumeId};

const REQUEST: Duration = Duration::from_secs(10);

/// Who holds the volume, and what would be at risk; `None` when nobody does.
pub async fn look_at_hold(
    id: VolumeId,
    options: &VolumeOptions,
    known: &Known,
) -> Result<Option<Hold>, WorkerError> {
    let (places, format) = opened(id, options, known).await?;
    let Some(epoch) = writer_epoch(&places, &format).await? else { return Ok(None) };
    let store = places.state_store.backend();
    let mut seen = Observation::default();
    match judge(&*store, &places.state, epoch, &mut seen, REQUEST).await? {
        Judgement::Free(_) => Ok(None),
        Judgement::Held(holder) => {
            let log = format!("{}/wal/", format.engine.folder);
            let written = places.last_written(&log, REQUEST).await?;
            Ok(Some(hold(holder, written.map(|ago| ago.as_secs()), options)))
        }
    }
}

/// Ends `epoch`, and leaves the volume free for the next mount on any host. Refused when another epoch has
/// begun since: its holder is not the one that was asked about.
pub async fn take_over(
    id: VolumeId,
    options: &VolumeOptions,
    known: &Known,
    epoch: Epoch,
) -> Result<(), WorkerError> {
    let (places, format) = opened(id, options, known).await?;
    if writer_epoch(&places, &format).await? != Some(epoch) {
        return Err(WorkerError::Held(format!(
            "epoch {epoch} has ended meanwhile; look again who holds the volume now"
        )));
    }
    let home = format.engine.clone();
    let object_store = places.state_store.engine(&places.state)?.into_inner();
    let mut config = EngineConfig::new(object_store, home.folder, Some(epoch));
    config.after = home.after;
    config.if_match = format.state_capabilities.has(Verb::PutIfMatch);
    // Whoever claims it before us wins, and this fails.
    at(points::TAKEOVER_BEFORE);
    let engine = Engine::open(config).await?;
    at(points::TAKEOVER_AFTER);
    tracing::warn!(%epoch, new = %engine.epoch(), "the volume was taken over by hand");
    let closed = engine.close(Deadline::after(REQUEST)).await;
    // The last one: the engine may have claimed another.
    let config = KeeperConfig::new(
        places.state_store.backend(),
        places.state.clone(),
        engine.epoch(),
        crate::sys::hostname(),
        Arc::new(Unchecked),
    );
    let keeper = Keeper::start(config, Deadline::after(REQUEST)).await?;
    let note = Some("taken over by hand".to_owned());
    let released = keeper.set_state(LeaseState::Released, note, Deadline::after(REQUEST)).await;
    keeper.stop().await;
    closed?;
    Ok(released?)
}

async fn opened(
    id: VolumeId,
    options: &VolumeOptions,
    known: &Known,
) -> Result<(Places, VolumeFormat), WorkerError> {
    let places = places(id, options, known)?;
    let (format, _) = Format::of(&places, id).open(&places).await?;
    if !format.engine.is_readable() {
        return Err(WorkerError::OtherEngine {
            engine: format.engine.format,
            plugin: format.engine.plugin,
            why: "only that version can take it over".to_owned(),
        });
    }
    Ok((places, format))
}

async fn writer_epoch(
    places: &Places,
    format: &VolumeFormat,
) -> Result<Option<Epoch>, WorkerError> {
    let object_store = places.state_store.engine(&places.state)?.into_inner();
    let home = &format.engine;
    Ok(Engine::writer_epoch(&object_store, &home.folder, home.after).await?)
}

fn hold(holder: Holder, written_s: Option<u64>, options: &VolumeOptions) -> Hold {
    let record = holder.record.as_ref();
    let since = record.and_then(|r| jiff::Timestamp::from_millisecond(r.since.0).ok());
    Hold {
        epoch: holder.epoch.0,
        host: record.map(|record| record.host.clone()),
        since: since.map(|since| format!("{since:.0}")),
        note: record.and_then(|record| record.note.clone()),
        renewed_s: LEASE.saturating_sub(holder.remaining).as_secs(),
        free_in_s: holder.remaining.as_secs() + 1,
        written_s,
        commit_ms: u64::try_from(options.commit.as_millis()).unwrap_or(u64::MAX),
    }
}
