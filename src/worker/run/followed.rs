//! A volume that is only read, open: beside whoever writes it, and without a trace.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Deadline;
use crate::data::Trash;
use crate::follow::{FollowParts, ReadFs};
use crate::fs::FsError;
use crate::fuse::HandoffFiles;
use crate::meta::Follower;
use crate::meta::log::StateDirLock;
use crate::worker::format::{Format, unreadable};
use crate::worker::life::Turn;
use crate::worker::local::{LAST_STEPS, clear_local, mirror};
use crate::worker::places::{Places, places};
use crate::worker::{DrainReply, Successor, VolumeState, WorkerError, WorkerSpec, WorkerStatus};

/// Reading the newest state: a long log takes some hundred requests.
const OPEN: Duration = Duration::from_secs(60);

/// A followed volume as the control socket sees it.
#[derive(Debug)]
pub(in crate::worker) struct Followed {
    pub(super) spec: WorkerSpec,
    pub(super) fs: Arc<ReadFs>,
    trash: Trash,
    pub(super) turn: Turn,
}

impl Followed {
    pub fn fs(&self) -> &Arc<ReadFs> {
        &self.fs
    }

    pub fn state(&self) -> VolumeState {
        match self.fs.trouble() {
            None => VolumeState::Active,
            Some(_) => VolumeState::Degraded,
        }
    }

    pub async fn status(&self) -> WorkerStatus {
        let counters = self.fs.counters().await;
        let trouble = self.fs.trouble();
        WorkerStatus {
            name: self.spec.name.clone(),
            id: self.spec.id,
            url: self.spec.options.url.clone(),
            state: self.state(),
            pid: std::process::id(),
            mountpoint: self.spec.mountpoint.clone(),
            epoch: None,
            holder: None,
            bytes: counters.as_ref().map_or(0, |c| c.bytes),
            files: counters.as_ref().map_or(0, |c| c.inodes.saturating_sub(1)),
            uncommitted_bytes: 0,
            unsettled_files: 0,
            unsettleable: Vec::new(),
            conflicts: 0,
            missing_rights: Vec::new(),
            deletions: String::new(),
            credentials: self.spec.credentials(),
            last_error: trouble,
            requests: self.fs.requests(),
        }
    }

    /// There is never anything to bring into the bucket.
    pub fn drain(&self, asked: u64) -> DrainReply {
        let _ = self.turn.drained(self.turn.drains(asked, || ()), true, || ());
        DrainReply { committed: true, ..DrainReply::default() }
    }

    /// Back into use; false when the process ends.
    pub fn resume(&self, asked: u64) -> bool {
        self.turn.resumes(asked).is_some_and(|resuming| resuming.done(|| ()))
    }

    /// What was cached means nothing to the next process. The folder stays if somebody's log is in it.
    pub fn clear_local(&self, lock: &StateDirLock) {
        let dir = &self.spec.state_dir;
        clear_local(dir, &self.trash);
        if let Err(error) = HandoffFiles::new(dir).clear() {
            tracing::warn!(path = %dir.display(), %error, "local state could not be removed");
        }
        // Before the lock: whoever has that next makes a socket of its own. One that stays is removed then.
        let _ = std::fs::remove_file(&self.spec.control_socket);
        lock.remove(dir);
        let _ = std::fs::remove_dir(dir);
        self.trash.finish_within(LAST_STEPS);
    }
}

/// Opens the newest state of the volume. Writes nothing to the bucket.
pub(super) async fn open(
    spec: &WorkerSpec,
    successor: Successor,
) -> Result<Arc<Followed>, WorkerError> {
    open_in(spec, successor, places(spec.id, &spec.options, &spec.known())?).await
}

/// The same in `places`.
pub(in crate::worker) async fn open_in(
    spec: &WorkerSpec,
    successor: Successor,
    places: Places,
) -> Result<Arc<Followed>, WorkerError> {
    let dir = &spec.state_dir;
    let trash = Trash::beside(dir);
    trash.start();
    let (known, _) = Format::of(&places, spec.id).open(&places).await?;
    if !known.engine.is_readable() {
        return Err(unreadable(&known.engine, "a read-only mount changes nothing"));
    }
    let store = places.state_store.engine(&places.state)?.into_inner();
    let mirror = (!crate::fault::one_thread()).then(|| mirror(spec));
    let follower =
        Follower::open(store, &known.engine.folder, mirror, Deadline::after(OPEN)).await?;
    let unwritten = || WorkerError::NeverWritten(spec.options.url.clone());
    let parts = FollowParts {
        id: spec.id,
        follower: follower.ok_or_else(unwritten)?,
        store: places.store.backend(),
        prefix: places.prefix,
        state_store: places.state_store.backend(),
        state: places.state,
        options: spec.options.clone(),
        cache_dir: dir.join("cache"),
        trash: trash.clone(),
        inherited: successor == Successor::Yes,
    };
    let fs = ReadFs::open(parts).await.map_err(|e| match e {
        FsError::NotFound => unwritten(),
        other => other.into(),
    })?;
    Ok(Arc::new(Followed { spec: spec.clone(), fs, trash, turn: Turn::default() }))
}
