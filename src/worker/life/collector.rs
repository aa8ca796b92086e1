//! What nothing refers to any more, collected while others work.
//!
//! Nobody ever waits for this. It works in small batches and rests three times as long as each took, so
//! that it has a quarter of the time at most, and less when others hold it up. It stops wherever it is
//! when the volume ends: what it had done lies in the engine, and the next mount goes on there.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Shared;
use super::commits::FLUSH;
use crate::clock::boottime;
use crate::data::{DataError, SLACK, Volume};
use crate::types::Lsn;

/// Removals come in swarms: the first one waits so long for the others.
const GATHER: Duration = Duration::from_millis(300);
/// How much longer it rests than it worked, and the limits of one rest.
const REST: u32 = 3;
const LEAST_REST: Duration = Duration::from_millis(1);
const LONGEST_REST: Duration = Duration::from_secs(1);
/// How often compaction is considered. It does nothing on an idle volume.
pub(super) const MAINTENANCE: Duration = Duration::from_secs(60);
/// After a mount garbage is looked for, and compaction considered, for the first time.
pub(super) const FIRST_LOOK: Duration = Duration::from_secs(5);

/// Returns when `stop` is cancelled.
pub(super) async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    // Every step may be dropped at any await: rows go with the record of how far it is.
    tokio::select! {
        () = stop.cancelled() => {}
        () = collect_for_ever(&shared.volume) => {}
    }
}

async fn collect_for_ever(volume: &Volume) {
    let pace = crate::fault::duration(crate::fault::MAINTENANCE, MAINTENANCE);
    let mut looked_at = Lsn::default();
    let mut left_behind = true;
    // What an earlier mount left, also where none lasts as long as the usual pace.
    let mut next = pace.min(FIRST_LOOK);
    loop {
        let asked = tokio::select! {
            () = volume.meta.garbage.notified() => true,
            () = tokio::time::sleep(next) => false,
        };
        next = pace;
        // An idle volume is left alone.
        let durable = volume.meta.engine.durable_lsn();
        if !asked && !left_behind && durable == looked_at {
            continue;
        }
        tokio::time::sleep(GATHER).await;
        let result = match asked {
            true => collect(volume).await,
            false => collect_all(volume).await,
        };
        if !asked {
            looked_at = durable;
        }
        left_behind = result.is_err();
        if let Err(error) = result {
            tracing::warn!(error = &error as &dyn std::error::Error, "collecting garbage");
        }
    }
}

/// Orphans, dead rows, and the segments that they leave.
async fn collect(volume: &Volume) -> Result<(), DataError> {
    volume.remove_orphans().await?;
    loop {
        let began = boottime();
        let more = volume.collect_dead().await?;
        rest_after(boottime().saturating_sub(began)).await;
        if !more {
            break;
        }
    }
    while volume.collect_segments(FLUSH).await? > 0 {}
    Ok(())
}

async fn collect_all(volume: &Volume) -> Result<(), DataError> {
    collect(volume).await?;
    let repacked = volume.repack(SLACK).await?;
    if repacked.segments > 0 {
        tracing::info!(?repacked, "segments that were mostly unused were rewritten");
    }
    let ordered = volume.repack_scattered().await?;
    if ordered > 0 {
        tracing::info!(bytes = ordered, "scattered files were rewritten");
    }
    Ok(())
}

async fn rest_after(worked: Duration) {
    tokio::time::sleep((worked * REST).clamp(LEAST_REST, LONGEST_REST)).await;
}
