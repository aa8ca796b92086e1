//! What runs beside the file system: commits, settling, collecting, maintenance, the kernel's notices, the watch
//! over lease and engine.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::collector::{FIRST_LOOK, MAINTENANCE};
use super::commits::{self, FLUSH};
use super::{Mounted, Shared, collector, probing};
use crate::clock::Deadline;
use crate::data::Volume;
use crate::fuse::Notifier;
use crate::meta::EngineState;
use crate::settle::{Changed, Changes, Settler};
use crate::worker::{VolumeState, What, recovery};

/// How often the cache looks whether others fill the local disk.
const DISK: Duration = Duration::from_secs(1);
/// How long the end waits for what the tasks have under way.
const ENDING: Duration = Duration::from_secs(4);

/// Starts the tasks; they end when `stop` is cancelled.
pub(in crate::worker) fn start(
    shared: &Arc<Shared>,
    mut changes: Changes,
    notifier: Option<Notifier>,
    stop: &CancellationToken,
) -> JoinSet<()> {
    let aside = recovery::set_aside_in(&shared.spec.state_dir).unwrap_or_default();
    if !aside.is_empty() {
        let folders: Vec<String> = aside.iter().map(|path| path.display().to_string()).collect();
        shared.tell(What::Recovered, Some(folders.join(", ")));
    }
    let mut tasks = JoinSet::new();
    let large = Arc::new(Notify::new());
    tasks.spawn(commits::on_time(Arc::clone(shared), Arc::clone(&large), stop.clone()));
    tasks.spawn(commits::beside(Arc::clone(shared), large, stop.clone()));
    tasks.spawn(Arc::clone(&shared.settler).run(stop.clone()));
    tasks.spawn(collector::run(Arc::clone(shared), stop.clone()));
    let (engine, token) = (Arc::clone(shared), stop.clone());
    tasks.spawn(async move {
        // What is cut off half-way leaves nothing worse than garbage.
        tokio::select! {
            () = token.cancelled() => {}
            () = maintain(&engine.volume) => {}
        }
    });
    let (probed, token) = (Arc::clone(shared), stop.clone());
    tasks.spawn(async move {
        tokio::select! {
            () = token.cancelled() => {}
            () = probing::again(&probed) => {}
        }
    });
    let (saved, token) = (Arc::clone(shared), stop.clone());
    tasks.spawn(async move {
        loop {
            let (dir, volume) = (&saved.spec.state_dir, &saved.volume);
            let (store, state) = (&volume.state_store, &volume.state);
            let save = recovery::save_set_aside(dir, store, state, &volume.trash);
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
    let (volume, token) = (Arc::clone(&shared.volume), stop.clone());
    tasks.spawn(async move {
        loop {
            tokio::select! {
                () = token.cancelled() => return,
                () = tokio::time::sleep(DISK) => volume.keep_within_the_disk(),
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

/// Waits for the tasks, which were told to stop; false when one of them does not come to its end in
/// time. A round of settling that is cut off would leave requests that nobody in this process
/// remembers: what is left goes on until the process ends.
pub(in crate::worker) async fn ended(tasks: &mut JoinSet<()>, settler: &Settler) -> bool {
    settler.cut_short(true);
    let all = async { while tasks.join_next().await.is_some() {} };
    let ended = tokio::time::timeout(ENDING, all).await.is_ok();
    settler.cut_short(false);
    if !ended {
        tracing::warn!(left = tasks.len(), "tasks of the volume are still waiting for the bucket");
    }
    ended
}

/// Keeps the engine's tables few, for ever.
async fn maintain(volume: &Volume) {
    let mut orphans_collected = false;
    let pace = crate::fault::duration(crate::fault::MAINTENANCE, MAINTENANCE);
    // What was left is seen to also where no worker lives as long as the usual pace.
    let mut next = pace.min(FIRST_LOOK);
    loop {
        tokio::time::sleep(next).await;
        let early = std::mem::replace(&mut next, pace) < pace;
        // Uploads of whoever was here before may still arrive.
        if !orphans_collected && !early {
            match volume.collect_orphan_segments().await {
                Ok(deleted) => {
                    tracing::debug!(deleted, "orphan segments");
                    orphans_collected = true;
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "orphan segments");
                }
            }
        }
        match volume.meta.engine.maintain(false).await {
            Ok(done) => tracing::debug!(?done, "maintenance"),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "maintenance")
            }
        }
        crate::sys::trim_heap();
    }
}

/// What goes on beside a tool that opens a volume without serving it; it ends when this is dropped.
#[must_use]
pub(in crate::worker) struct Watched(JoinSet<()>);

/// The watch over lease and engine.
pub(in crate::worker) fn watched(shared: &Arc<Shared>) -> Watched {
    let shared = Arc::clone(shared);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { watch(&shared, &CancellationToken::new()).await });
    Watched(tasks)
}

/// The same for a tool that looks at the bucket: no kernel is to be told what it finds there.
pub(in crate::worker) fn unattended(shared: &Arc<Shared>, mounted: &mut Mounted) -> Watched {
    let (_, nothing) = crate::settle::changes();
    let mut changes = std::mem::replace(&mut mounted.changes, nothing);
    let mut watched = watched(shared);
    watched.0.spawn(async move { while changes.recv().await.is_some() {} });
    watched
}

async fn watch(shared: &Shared, stop: &CancellationToken) {
    let engine = &shared.volume.meta.engine;
    let mut state = engine.state();
    let mut epochs = engine.epoch_changes();
    let mut lease = shared.keeper.status();
    // What happened while the volume was opened counts.
    state.mark_changed();
    epochs.mark_changed();
    lease.mark_changed();
    let mut conflicts = shared.settler.conflicts();
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
                if let Err(error) = shared.keeper.follow(epoch, Deadline::after(FLUSH)).await {
                    tracing::error!(error = &error as &dyn std::error::Error, "the lease does not follow the epoch");
                }
            }
            changed = conflicts.changed() => {
                if changed.is_err() {
                    return;
                }
                let count = *conflicts.borrow_and_update();
                let text = format!("{count} since it was mounted; the log names them");
                shared.tell(What::Conflict, Some(text));
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
