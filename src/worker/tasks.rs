//! What runs beside the file system: the commit timer, settling, maintenance, the kernel's notices,
//! the watch over lease and engine.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::serve::Shared;
use super::{VolumeState, WorkerError, recovery};
use crate::clock::Deadline;
use crate::data::{DataError, Inode, SLACK, Volume};
use crate::fuse::Notifier;
use crate::meta::EngineState;
use crate::settle::{Changed, Changes};
use crate::types::Lsn;

/// Files committed in one batch.
const GROUP: usize = 256;
/// Data committed in one batch: half a segment. A larger file is alone.
const GROUP_BYTES: u64 = 8 << 20;
/// How long the timer's flush may take before it counts as trouble.
const FLUSH: Duration = Duration::from_secs(30);
/// How often compaction is considered. It does nothing on an idle volume.
const MAINTENANCE: Duration = Duration::from_secs(60);

/// Commits everything and makes it durable.
pub(super) async fn commit_all(volume: &Arc<Volume>, timeout: Duration) -> Result<(), WorkerError> {
    let deadline = Deadline::after(timeout);
    for group in groups(volume) {
        // In a task of its own, which goes on when the time is over: what was uploaded is used.
        let this = Arc::clone(volume);
        let commit = tokio::spawn(async move { this.commit(group).await });
        match tokio::time::timeout(deadline.left(), commit).await {
            Ok(Ok(result)) => result?,
            Ok(Err(panicked)) => {
                return Err(crate::data::DataError::Late(panicked.to_string()).into());
            }
            Err(_) => {
                let why = volume.last_error().unwrap_or_else(|| "the bucket is slow".into());
                return Err(crate::data::DataError::Late(why).into());
            }
        }
    }
    if volume.meta.undurable() {
        let _receipt = volume.meta.flush(deadline.left()).await?;
    }
    Ok(())
}

/// Starts the tasks; they end when `stop` is cancelled.
pub(super) fn start(
    shared: &Arc<Shared>,
    mut changes: Changes,
    notifier: Option<Notifier>,
    stop: &CancellationToken,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let (timer, token) = (Arc::clone(shared), stop.clone());
    tasks.spawn(async move {
        let period = timer.volume.options.commit.max(Duration::from_millis(10));
        loop {
            let mut urgent = false;
            tokio::select! {
                () = token.cancelled() => return,
                () = tokio::time::sleep(period) => {}
                () = timer.volume.commit_wanted.notified() => urgent = true,
            }
            let result = if urgent {
                commit_only(&timer.volume).await
            } else {
                commit_all(&timer.volume, FLUSH).await
            };
            timer.commit_went(result.as_ref().err());
            if let Err(error) = result {
                tracing::warn!(error = &error as &dyn std::error::Error, "a commit waits");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    });
    tasks.spawn(Arc::clone(&shared.settler).run(stop.clone()));
    let (engine, token) = (Arc::clone(shared), stop.clone());
    tasks.spawn(async move {
        let mut orphans_collected = false;
        let mut looked_at = Lsn::default();
        let pace = crate::fault::duration(crate::fault::MAINTENANCE, MAINTENANCE);
        loop {
            tokio::select! {
                () = token.cancelled() => return,
                () = tokio::time::sleep(pace) => {}
            }
            if !orphans_collected {
                match engine.volume.collect_orphan_segments().await {
                    Ok(deleted) => {
                        tracing::debug!(deleted, "orphan segments");
                        orphans_collected = true;
                    }
                    Err(error) => {
                        tracing::warn!(error = &error as &dyn std::error::Error, "orphan segments");
                    }
                }
            }
            // An idle volume is left alone.
            let durable = engine.volume.meta.engine.durable_lsn();
            if durable != looked_at {
                looked_at = durable;
                if let Err(error) = collect(&engine.volume).await {
                    tracing::warn!(error = &error as &dyn std::error::Error, "collecting garbage");
                }
            }
            match engine.volume.meta.engine.maintain(false).await {
                Ok(done) => tracing::debug!(?done, "maintenance"),
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "maintenance")
                }
            }
            crate::sys::trim_heap();
        }
    });
    let (saved, token) = (Arc::clone(shared), stop.clone());
    tasks.spawn(async move {
        loop {
            let (dir, volume) = (&saved.spec.state_dir, &saved.volume);
            let save = recovery::save_set_aside(dir, &volume.state_store, &volume.state);
            let result = tokio::select! {
                () = token.cancelled() => return,
                result = save => result,
            };
            let Err(error) = result else { return };
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "what was set aside is not uploaded yet"
            );
            tokio::select! {
                () = token.cancelled() => return,
                () = tokio::time::sleep(MAINTENANCE) => {}
            }
        }
    });
    let (watched, token) = (Arc::clone(shared), stop.clone());
    tasks.spawn(async move { watch(&watched, &token).await });
    let token = stop.clone();
    tasks.spawn(async move {
        loop {
            let change = tokio::select! {
                () = token.cancelled() => return,
                change = changes.recv() => change,
            };
            match (change, &notifier) {
                (Some(Changed::Entry { parent, name }), Some(n)) => n.entry(parent, name).await,
                (Some(Changed::Inode { ino }), Some(n)) => n.inode(ino, 0, 0).await,
                (Some(_), None) => {}
                (None, _) => return,
            }
        }
    });
    tasks
}

/// What nothing refers to any more. The settler collects as well, but only when files come to rest.
async fn collect(volume: &Volume) -> Result<(), DataError> {
    while volume.collect_dead().await? {}
    let repacked = volume.repack(SLACK).await?;
    if repacked.segments > 0 {
        tracing::info!(?repacked, "half-dead segments were written anew");
    }
    volume.collect_segments(FLUSH).await?;
    Ok(())
}

async fn commit_only(volume: &Volume) -> Result<(), WorkerError> {
    for group in groups(volume) {
        volume.commit(group).await?;
    }
    Ok(())
}

/// Dirty files in groups small enough that an fsync of one of them never waits long for the others.
fn groups(volume: &Volume) -> Vec<Vec<Arc<Inode>>> {
    let mut groups: Vec<Vec<Arc<Inode>>> = Vec::new();
    let mut filled = u64::MAX;
    for inode in volume.dirty_inodes() {
        let bytes = inode.live().pending.data_bytes();
        let full = groups.last().is_none_or(|group| group.len() >= GROUP);
        if full || filled.saturating_add(bytes) > GROUP_BYTES {
            groups.push(Vec::new());
            filled = 0;
        }
        filled += bytes;
        if let Some(group) = groups.last_mut() {
            group.push(inode);
        }
    }
    groups
}

async fn watch(shared: &Shared, stop: &CancellationToken) {
    let engine = &shared.volume.meta.engine;
    let mut state = engine.state();
    let mut epochs = engine.epoch_changes();
    let mut lease = shared.keeper.status();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = state.changed() => {
                if changed.is_err() {
                    return;
                }
                let now = *state.borrow_and_update();
                match now {
                    EngineState::Active => shared.recovered_to(VolumeState::Active),
                    EngineState::Reopening => shared.set_state(VolumeState::Reopening),
                    EngineState::Fenced => {
                        tracing::error!("another host took the volume over; nothing is acknowledged here any more");
                        shared.volume.note_error(&"another host took the volume over");
                        // Nothing written here from now on can ever be more than local.
                        shared.end_content();
                        shared.set_state(VolumeState::Fenced);
                    }
                    EngineState::Closed => {}
                }
            }
            changed = epochs.changed() => {
                if changed.is_err() {
                    return;
                }
                let epoch = *epochs.borrow_and_update();
                if let Err(error) = shared.keeper.adopt(epoch, Deadline::after(FLUSH)).await {
                    tracing::error!(error = &error as &dyn std::error::Error, "the lease does not follow the epoch");
                }
            }
            changed = lease.changed() => {
                if changed.is_err() {
                    return;
                }
                let damaged = lease.borrow_and_update().damaged.clone();
                if let Some(why) = damaged {
                    tracing::error!(%why, "the volume's state is damaged; nothing is acknowledged any more");
                    shared.volume.note_error(&why);
                    shared.volume.meta.refuse(&why);
                    shared.end_content();
                    shared.set_state(VolumeState::Damaged);
                }
            }
        }
    }
}
