//! A volume without a mount, without a process of its own and without a control socket, for a simulation of
//! whole hosts: what `supervised` does, one call a step.
//!
//! Dropped without [`Bare::close`], together with the runtime that it was opened on, it is what a process that
//! was killed leaves.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::leave::Ending;
use super::life::{Shared, commits, open_in, tasks};
use super::places::{Places, places_in};
use super::run::{end, followed};
use super::{
    Asked, DrainReply, Mounted, Successor, Verified, VolumeState, WorkerError, WorkerSpec, fsck,
    leave, verify,
};
use crate::catalog::Opener;
use crate::data::Volume;
use crate::follow::ReadFs;
use crate::fs::Fs;
use crate::fsck::Report;
use crate::meta::log::StateDirLock;
use crate::settle::Settler;
use crate::store::Store;

/// What `s3vol fsck --data` finds in a volume over `store`, to which `opener` leads.
///
/// # Errors
/// As for [`super::fsck`].
pub async fn bare_fsck(
    spec: &WorkerSpec,
    store: &Store,
    opener: &dyn Opener,
) -> Result<Report, WorkerError> {
    fsck::look_in(spec, opener, places(spec, store)?).await
}

/// What `s3vol verify` reads of a volume over `store`.
///
/// # Errors
/// As for [`super::verify_places`].
pub async fn bare_verify(spec: &WorkerSpec, store: &Store) -> Result<Verified, WorkerError> {
    verify::with_records(&places(spec, store)?, spec.id).await
}

fn places(spec: &WorkerSpec, store: &Store) -> Result<Places, WorkerError> {
    places_in(spec.id, &spec.options, store)
}

/// An open volume that nobody is served.
#[derive(Debug)]
pub struct Bare {
    shared: Arc<Shared>,
    fs: Arc<Fs>,
    running: tokio::sync::Mutex<JoinSet<()>>,
    stop: CancellationToken,
    _lock: StateDirLock,
}

impl Bare {
    /// Opens the volume over `store`, which has its objects and its state, and starts what runs beside it.
    ///
    /// # Errors
    /// As for a mount.
    pub async fn open(
        spec: &WorkerSpec,
        store: &Store,
        successor: Successor,
    ) -> Result<Bare, WorkerError> {
        let lock = leave::lock(&spec.state_dir).await?;
        let mounted = open_in(spec, successor, places(spec, store)?).await?;
        let shared = Shared::new(spec.clone(), &mounted);
        let Mounted { fs, changes, .. } = mounted;
        let stop = CancellationToken::new();
        let running = tasks::start(&shared, changes, None, &stop);
        let running = tokio::sync::Mutex::new(running);
        Ok(Bare { shared, fs, running, stop, _lock: lock })
    }

    pub fn fs(&self) -> &Arc<Fs> {
        &self.fs
    }

    pub fn volume(&self) -> &Arc<Volume> {
        &self.shared.volume
    }

    pub fn settler(&self) -> &Arc<Settler> {
        &self.shared.settler
    }

    pub fn state(&self) -> VolumeState {
        self.shared.state()
    }

    /// Whether anybody may have the volume, because it was drained here.
    pub fn is_yielded(&self) -> bool {
        self.shared.state() == VolumeState::Draining
    }

    /// Commits everything, as the `commit` interval does.
    ///
    /// # Errors
    /// The first one; it kept nothing else back.
    pub async fn commit(&self, within: Duration) -> Result<(), WorkerError> {
        commits::commit_all(&self.shared.volume, within).await
    }

    /// Docker's Unmount: commits, settles what fits, lets anybody have the volume.
    pub async fn drain(&self) -> DrainReply {
        self.shared.drain(Asked::now().at).await
    }

    /// Docker's Mount of a volume that was drained here; false when it is no longer ours.
    pub async fn resume(&self) -> bool {
        self.shared.resume(Asked::now().at).await
    }

    /// The end of the worker. Returns how many files are not at rest.
    ///
    /// # Errors
    /// Not everything is in the bucket; what is not lies in the local log, or, if another host has the volume
    /// ([`VolumeState::Fenced`]), is kept aside.
    pub async fn close(&self) -> Result<u64, WorkerError> {
        let mut running = self.running.lock().await;
        end(&self.shared, &mut running, &self.stop, &Ending::default()).await
    }
}

/// A volume that is followed, and nobody is served.
#[derive(Debug)]
pub struct BareFollower {
    followed: Arc<followed::Followed>,
    following: JoinHandle<()>,
    lock: StateDirLock,
}

impl BareFollower {
    /// Opens the newest state of the volume over `store`, and follows its writer.
    ///
    /// # Errors
    /// As for a mount.
    pub async fn open(spec: &WorkerSpec, store: &Store) -> Result<BareFollower, WorkerError> {
        let lock = leave::lock(&spec.state_dir).await?;
        let places = places(spec, store)?;
        let followed = followed::open_in(spec, Successor::No, places).await?;
        let fs = Arc::clone(followed.fs());
        let following = tokio::spawn(fs.run(CancellationToken::new()));
        Ok(BareFollower { followed, following, lock })
    }

    pub fn fs(&self) -> &Arc<ReadFs> {
        self.followed.fs()
    }

    /// The end of the worker.
    pub fn close(&self) {
        self.following.abort();
        self.followed.clear_local(&self.lock);
    }
}
