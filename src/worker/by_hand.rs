//! A volume that nobody uses, opened by a command that does one thing to it and closes it: nothing is served.

use std::sync::Arc;
use std::time::Duration;

use super::format::export;
use super::life::{COMMIT_BUDGET, Shared, open_locked, tasks};
use super::run::runtime_of;
use super::{Progress, SettleReply, Successor, WorkerSpec, leave};

/// Opens a volume, does `work` and returns what that did. `work` gives the volume back in the end.
fn opened<T>(
    spec: &WorkerSpec,
    work: impl AsyncFnOnce(Arc<Shared>) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let (runtime, span) = runtime_of(spec)?;
    let _entered = span.enter();
    runtime.block_on(async {
        let lock = leave::lock(&spec.state_dir).await?;
        let mounted = open_locked(spec, Successor::No, &lock).await?;
        let shared = Shared::new(spec.clone(), &mounted);
        let _watched = tasks::watched(&shared);
        work(shared).await
    })
}

/// Opens a volume that nobody uses, writes its export whatever its size, and closes it. Returns how many
/// records it has. The volume is held meanwhile.
pub fn export_volume(
    spec: &WorkerSpec,
    mut progress: impl FnMut(Progress) + std::marker::Send,
) -> anyhow::Result<u64> {
    opened(spec, async |shared| {
        shared.seal(COMMIT_BUDGET, Duration::ZERO).await?;
        let volume = &shared.volume;
        let store = volume.state_store.as_ref();
        let engine = &volume.meta.engine;
        let written = export::write(engine, store, &volume.state, u64::MAX, &mut progress).await;
        shared.release().await?;
        Ok(written?.unwrap_or_default())
    })
}

/// Opens a volume that nobody uses and settles it, slice by slice with pauses as `pause` says, until that says
/// to end; then gives it back.
pub fn settle_volume(
    spec: &WorkerSpec,
    mut pause: impl FnMut(&SettleReply) -> Option<Duration>,
) -> anyhow::Result<SettleReply> {
    opened(spec, async |shared| {
        let reply = loop {
            let reply = shared.settle_slice().await;
            match pause(&reply) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => break reply,
            }
        };
        shared.close(COMMIT_BUDGET, Duration::ZERO).await?;
        Ok(reply)
    })
}
