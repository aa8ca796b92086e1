//! From an engine that this program cannot read to its own, by way of an export.
//!
//! The two engines know nothing of each other's fences, so the change is made in four steps, and a host
//! with the old program that opens the volume meanwhile is noticed, or notices:
//!
//! 1. `format.json` gets `switching`, if it still is what was read (If-Match).
//! 2. The last epoch that has a lease record must still be the export's, and be released. An old
//!    program writes its record before it reads `format.json` back and before it serves: it is seen
//!    here, or sees `switching` and serves nothing.
//! 3. The export goes into a new folder with a name of its own.
//! 4. `format.json` names that folder, if nobody changed it. From here on nobody opens the old one. The
//!    first epoch of the new one is released: if not, the next mount waits as for a host that died.
//!
//! Any program may take `switching` away again before step 4, which ends the change. What a crash
//! leaves is a folder that the next change deletes.

use std::sync::Arc;
use std::time::Duration;

use super::{Format, export};
use crate::catalog::VolumeFormat;
use crate::clock::Deadline;
use crate::lease::{
    FormatCheck, FormatTrouble, Judgement, Keeper, KeeperConfig, LeaseState, Observation, judge,
    last_epoch,
};
use crate::meta::{Engine, EngineConfig, EngineHome};
use crate::store::Verb;
use crate::types::{Epoch, Version};
use crate::worker::WorkerError;
use crate::worker::places::Places;

const REQUEST: Duration = Duration::from_secs(10);
/// How often another host may be first at `format.json`.
const ATTEMPTS: u32 = 5;

/// `known` as this program can use it: with an engine that it reads, and nobody changing it.
/// `single_host`: the user promised that no other host uses the volume.
pub(in crate::worker) async fn to_ours(
    places: &Places,
    format: &Format,
    mut known: (VolumeFormat, Version),
    single_host: bool,
) -> Result<VolumeFormat, WorkerError> {
    for _ in 0..ATTEMPTS {
        let (now, version) = known;
        if now.engine.is_readable() {
            if now.switching.is_none() {
                return Ok(now);
            }
            tracing::info!("a change of the volume's engine is called off");
            let kept = VolumeFormat { switching: None, ..now };
            if format.replace(&kept, version).await? {
                return Ok(kept);
            }
        } else if !now.state_capabilities.has(Verb::PutIfMatch) && !single_host {
            let why = "its store does not honour If-Match, so that two versions could use it at once; \
                       stop every other host and mount it with -o single_host=true";
            return Err(unreadable(&now.engine, why));
        } else if let Some(changed) = change(places, format, now, version).await? {
            return Ok(changed);
        }
        known = format.open(places).await?;
    }
    Err(WorkerError::Held("other hosts keep changing the volume's engine; try again".to_owned()))
}

/// `None`: another host changed `format.json`.
async fn change(
    places: &Places,
    format: &Format,
    known: VolumeFormat,
    version: Version,
) -> Result<Option<VolumeFormat>, WorkerError> {
    let store = places.state_store.backend();
    let last = released(places, &known.engine).await?;
    let export = match last {
        None => None,
        Some(epoch) => match export::index(&*store, &places.state, epoch).await? {
            Some(export) => Some(export),
            None => return Err(unreadable(&known.engine, "its last use left no export")),
        },
    };
    let home = EngineHome::next(last.unwrap_or(Epoch(0)));
    let announced = VolumeFormat { switching: Some(home.clone()), ..known.clone() };
    if !format.replace(&announced, version).await? {
        return Ok(None);
    }
    let (now, version) = format.read_present().await?;
    if now != announced {
        return Ok(None);
    }
    // The announcement itself stays if something fails from here on: the next mount, of either version,
    // takes it away or goes on.
    if released(places, &known.engine).await? != last {
        return Err(WorkerError::Held("another host has just taken this volume; try again".into()));
    }
    let mut first = None;
    if let Some(export) = &export {
        tracing::info!(
            records = export.records,
            from = known.engine.folder,
            to = home.folder,
            "the volume's metadata goes to another engine"
        );
        let mut config = EngineConfig::new(
            places.state_store.engine(&places.state)?.into_inner(),
            home.folder.clone(),
            None,
        );
        config.after = home.after;
        config.if_match = known.state_capabilities.has(Verb::PutIfMatch);
        let engine = Engine::open(config).await?;
        export::read_into(&engine, &*store, &places.state, export).await?;
        let epoch = engine.epoch();
        engine.close(Deadline::after(REQUEST)).await?;
        first = Some(epoch);
    }
    let changed = VolumeFormat { engine: home, switching: None, ..known };
    if !format.replace(&changed, version).await? {
        return Ok(None);
    }
    if let Some(epoch) = first {
        release(places, epoch).await?;
    }
    forget_others(places, &changed.engine).await;
    Ok(Some(changed))
}

/// The volume's last epoch, which must be released; `None` when it never had one.
async fn released(places: &Places, engine: &EngineHome) -> Result<Option<Epoch>, WorkerError> {
    let store = places.state_store.backend();
    let Some(last) = last_epoch(&*store, &places.state, REQUEST).await? else { return Ok(None) };
    let mut observation = Observation::default();
    match judge(&*store, &places.state, last, &mut observation, REQUEST).await? {
        Judgement::Free(crate::lease::Free::Released) => Ok(Some(last)),
        Judgement::Free(_) => Err(unreadable(engine, "its last host did not unmount it")),
        Judgement::Held(holder) => Err(WorkerError::Held(holder.to_string())),
    }
}

/// Says that nobody holds `epoch`, so that the mount that follows does not wait for it.
async fn release(places: &Places, epoch: Epoch) -> Result<(), WorkerError> {
    let config = KeeperConfig::new(
        places.state_store.backend(),
        places.state.clone(),
        epoch,
        crate::sys::hostname(),
        Arc::new(Unchecked),
    );
    let keeper = Keeper::start(config, Deadline::after(REQUEST)).await?;
    keeper.set_state(LeaseState::Released, None, Deadline::after(REQUEST)).await?;
    keeper.stop().await;
    Ok(())
}

/// For who writes `format.json` himself.
pub(in crate::worker) struct Unchecked;

#[async_trait::async_trait]
impl FormatCheck for Unchecked {
    async fn check(&self, _timeout: Duration) -> Result<(), FormatTrouble> {
        Ok(())
    }
}

/// Deletes the folders of engines that `format.json` does not name any more.
async fn forget_others(places: &Places, engine: &EngineHome) {
    let kept = places.state.join(&format!("{}/", engine.folder));
    let all = places.state.join("meta/");
    let store = places.state_store.backend();
    let done = export::delete_below(&*store, &all, |key| kept.strip(key).is_none()).await;
    if let Err(error) = done {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "the files of the engine before stay in the bucket"
        );
    }
}

/// The engine cannot be read, and why there is no way around it.
pub(in crate::worker) fn unreadable(engine: &EngineHome, why: &str) -> WorkerError {
    WorkerError::OtherEngine {
        engine: engine.format.clone(),
        plugin: engine.plugin.clone(),
        why: why.to_owned(),
    }
}
