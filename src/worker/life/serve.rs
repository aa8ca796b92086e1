//! The life of an open volume: serving, draining, giving back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::commits::{Lane, commit_all};
use super::turn::Turn;
use super::{Mounted, Shared};
use crate::clock::Deadline;
use crate::config::{Tuned, VolumeOptions};
use crate::lease::LeaseState;
use crate::meta::{EngineError, EngineState};
use crate::worker::bill::{Bill, requests};
use crate::worker::format::export;
use crate::worker::local::{LAST_STEPS, clear_local};
use crate::worker::{
    DrainReply, Events, VolumeState, What, WorkerError, WorkerSpec, WorkerStatus, recovery,
};

/// An unmount has this long to bring everything into the bucket: Docker's callers give it 30 s.
pub(in crate::worker) const COMMIT_BUDGET: Duration = Duration::from_secs(22);
/// Of which settling gets at most this much: `docker stop` waits for it, and what is left is settled
/// while the worker lingers.
pub(in crate::worker) const SETTLE_BUDGET: Duration = Duration::from_secs(6);
/// Changing the lease's record.
const LEASE: Duration = Duration::from_secs(10);
/// Waiting for the round of settling that is under way.
pub(super) const ROUND: Duration = Duration::from_secs(5);
/// Uploading what was not synced when another host took over.
const SAVE: Duration = Duration::from_secs(60);
/// For whoever follows what happens, at the end of a volume that was lost.
const HEARD: Duration = Duration::from_millis(500);
/// Writing the export of a small volume: most of it is sending [`export::SMALL`].
const EXPORT: Duration = Duration::from_secs(10);
/// Closing the engine.
const CLOSE: Duration = Duration::from_secs(10);

impl Shared {
    pub fn new(spec: WorkerSpec, mounted: &Mounted) -> Arc<Self> {
        Shared::telling(spec, mounted, Events::default())
    }

    /// With somebody who may be told of what happens.
    pub fn telling(spec: WorkerSpec, mounted: &Mounted, events: Events) -> Arc<Self> {
        Arc::new(Shared {
            spec,
            volume: Arc::clone(&mounted.volume),
            settler: Arc::clone(&mounted.settler),
            keeper: Arc::clone(&mounted.keeper),
            state: watch::Sender::new(VolumeState::Active),
            failing: Mutex::default(),
            yielded: AtomicBool::new(false),
            turn: Turn::default(),
            events,
        })
    }

    /// Tells of something that happened to the volume.
    pub fn tell(&self, event: What, text: Option<String>) {
        self.events.tell(&self.spec.name, event, text);
    }

    /// Follows options that were changed while the volume is mounted.
    pub fn tune(&self, options: &VolumeOptions) {
        let (old, new) = (self.volume.tuned(), Tuned::of(options));
        if new == old {
            return;
        }
        tracing::info!(?new, "options changed");
        self.volume.tune(new);
        self.settler.retuned(old);
    }

    pub fn state(&self) -> VolumeState {
        *self.state.borrow()
    }

    /// Whether nothing that is written here comes into the bucket any more.
    pub fn gave_up(&self) -> bool {
        matches!(self.state(), VolumeState::Fenced | VolumeState::Damaged)
    }

    pub fn set_state(&self, next: VolumeState) {
        self.state.send_if_modified(|state| {
            // These are final.
            let stays = matches!(state, VolumeState::Fenced | VolumeState::Damaged);
            if stays || *state == next {
                return false;
            }
            tracing::info!(from = ?state, to = ?next, "the volume's state changed");
            *state = next;
            if let Some(event) = What::of(next) {
                let troubled = matches!(
                    next,
                    VolumeState::Degraded | VolumeState::Fenced | VolumeState::Damaged
                );
                self.tell(event, self.volume.last_error().filter(|_| troubled));
            }
            true
        });
    }

    /// Back from trouble, unless the volume is being given up.
    pub fn recovered_to(&self, next: VolumeState) {
        if matches!(self.state(), VolumeState::Degraded | VolumeState::Reopening) {
            self.set_state(next);
        }
    }

    /// Whether a lane's last commit failed.
    pub fn fails(&self, lane: Lane) -> bool {
        self.failing.lock().contains(&lane)
    }

    /// A lane's last result.
    pub fn commit_went(&self, lane: Lane, error: Option<&WorkerError>) {
        let all_well = {
            let mut failing = self.failing.lock();
            failing.retain(|other| *other != lane);
            if error.is_some() {
                failing.push(lane);
            }
            failing.is_empty()
        };
        match error {
            Some(error) => {
                self.volume.note_error(error);
                if self.state() == VolumeState::Active {
                    self.set_state(VolumeState::Degraded);
                }
            }
            None if all_well => self.recovered_to(VolumeState::Active),
            None => {}
        }
    }

    pub async fn status(&self) -> WorkerStatus {
        let settle = self.settler.status();
        let counters = self.volume.meta.superblock();
        let lease = self.keeper.status().borrow().clone();
        WorkerStatus {
            name: self.spec.name.clone(),
            id: self.spec.id,
            url: self.spec.options.url.clone(),
            state: self.state(),
            pid: std::process::id(),
            mountpoint: self.spec.mountpoint.clone(),
            epoch: Some(lease.epoch.0),
            holder: Some(crate::sys::hostname()),
            bytes: counters.bytes,
            files: counters.inodes.saturating_sub(1),
            uncommitted_bytes: self.volume.uncommitted_bytes(),
            unsettled_files: settle.unsettled,
            unsettleable: settle.unsettleable,
            conflicts: settle.conflicts,
            missing_rights: settle.missing_rights,
            deletions: settle.deletions.to_owned(),
            credentials: self.spec.credentials(),
            last_error: self.volume.last_error(),
            requests: self.volume.store.requests(),
        }
    }

    /// Commits everything, settles what fits, and lets others have the volume, unless somebody wants it after `asked`.
    pub async fn drain(&self, asked: u64) -> DrainReply {
        let bill = Bill::begin_with(requests(&self.volume));
        let reply = self.drained(asked).await;
        bill.log("unmount", requests(&self.volume));
        reply
    }

    async fn drained(&self, asked: u64) -> DrainReply {
        let draining = self.turn.drains(asked, || self.set_state(VolumeState::Draining));
        let deadline = Deadline::after(COMMIT_BUDGET);
        let committed = commit_all(&self.volume, COMMIT_BUDGET).await;
        if let Err(error) = committed {
            self.volume.note_error(&error);
            let _ = self.turn.drained(draining, false, || ());
            return DrainReply {
                committed: false,
                lost: *self.volume.meta.engine.state().borrow() == EngineState::Fenced,
                uncommitted_bytes: self.volume.uncommitted_bytes(),
                unsettled_files: self.settler.status().unsettled,
                error: Some(error.to_string()),
                damaged: self.state() == VolumeState::Damaged,
            };
        }
        let unsettled = match self.turn.is_unused(draining) {
            true => self.settle(Deadline::after(SETTLE_BUDGET.min(deadline.left()))).await,
            false => self.settler.status().unsettled,
        };
        // What settling found out must be durable too: an intent without its outcome would make the
        // next host wait for requests that cannot arrive any more.
        if self.volume.meta.undurable()
            && let Err(error) = self.volume.meta.flush(LEASE).await
        {
            self.volume.note_error(&error);
        }
        if let Some(yields) = self.turn.drained(draining, true, || self.yields()) {
            yields.await;
        }
        DrainReply { committed: true, unsettled_files: unsettled, ..DrainReply::default() }
    }

    /// Settles what can be settled now; returns how many are left. Names whose requests may still arrive wait,
    /// and nobody else waits for them.
    pub async fn settle(&self, deadline: Deadline) -> u64 {
        match self.settler.settle_now(deadline).await {
            Ok(left) => left,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "not everything settled");
                self.settler.status().unsettled
            }
        }
    }

    /// From now on anyone may have the volume: everything is in the bucket. Begins at once; false when the record
    /// could not be written yet.
    pub fn yields(&self) -> impl Future<Output = bool> {
        self.yielded.store(true, Ordering::SeqCst);
        let set = self.keeper.sets_state(LeaseState::Yielding, None, Deadline::after(LEASE));
        async {
            let result = set.await;
            if let Err(error) = &result {
                tracing::warn!(
                    error = error as &dyn std::error::Error,
                    "the lease could not be yielded; it runs out"
                );
            }
            result.is_ok()
        }
    }

    /// Back into use after a drain, as somebody wanted at `asked`; false when the volume is no longer ours, or the
    /// worker ends.
    pub async fn resume(&self, asked: u64) -> bool {
        let Some(resuming) = self.turn.resumes(asked) else { return false };
        let bill = Bill::begin_with(requests(&self.volume));
        let ours = self.take_back().await
            && resuming.done(|| {
                self.yielded.store(false, Ordering::SeqCst);
                self.set_state(VolumeState::Active);
            });
        if ours {
            bill.log("mount (resumed)", requests(&self.volume));
        }
        ours
    }

    async fn take_back(&self) -> bool {
        if !matches!(self.state(), VolumeState::Draining | VolumeState::Active) {
            return false;
        }
        // Whether another host took the yielding lease is decided by the engine, not by the record.
        // A look first: the usual case is no incident and needs no batch that the engine refuses.
        let engine = &self.volume.meta.engine;
        let ours = engine.check_epoch(Deadline::after(LEASE)).await.is_ok()
            && self.volume.meta.confirm_ownership(LEASE).await.is_ok();
        ours && self.set_lease(LeaseState::Held).await.is_ok()
    }

    /// Whether the volume was given back here and then taken by another host, and nothing of it is
    /// left to save. A program may have written through a descriptor of its own since the drain.
    pub async fn taken_after_yield(&self) -> bool {
        if !self.yielded.load(Ordering::SeqCst) {
            return false;
        }
        let checked = self.volume.meta.engine.check_epoch(Deadline::after(LEASE)).await;
        if !matches!(checked, Err(EngineError::Fenced { .. })) {
            return false;
        }
        if !self.volume.dirty_inodes().is_empty() || self.volume.meta.undurable() {
            self.set_state(VolumeState::Fenced);
            return false;
        }
        true
    }

    fn clear_local(&self) {
        let trash = &self.volume.trash;
        clear_local(&self.spec.state_dir, trash);
        trash.finish_within(LAST_STEPS);
    }

    /// The end of a volume that another host has taken after it was given back.
    pub fn leave(&self) {
        self.volume.meta.engine.abandon();
        self.set_state(VolumeState::Closed);
        self.clear_local();
    }

    /// The end of a volume that was lost to another host: what only this host has of it goes to the
    /// bucket, where people find it. It also stays here until the next mount.
    pub async fn save_lost(&self) {
        let volume = &self.volume;
        let save = recovery::save(&self.spec.state_dir, &volume.state_store, &volume.state);
        match tokio::time::timeout(SAVE, save).await {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(name))) => {
                let text = format!("in the bucket as {name}; see `s3vol recovered`");
                self.tell(What::Recovered, Some(text));
                self.events.heard(HEARD).await;
            }
            Ok(Err(error)) => tracing::error!(
                error = &error as &dyn std::error::Error,
                "what was not synced is kept here, and not uploaded yet"
            ),
            Err(_) => {
                tracing::error!("what was not synced is kept here: there was no time to upload it")
            }
        }
    }

    async fn set_lease(&self, state: LeaseState) -> Result<(), WorkerError> {
        Ok(self.keeper.set_state(state, None, Deadline::after(LEASE)).await?)
    }

    /// From now on content stays as it is. A program may go on writing through a descriptor of a
    /// detached mount: without this the end would never come, or what it was told to have written
    /// would be in a log that is deleted.
    pub fn end_content(&self) {
        self.volume.meta.journal.lock().refuse_content();
    }

    /// The end: commits within `commit`, settles within `settle`, closes the engine and releases the lease. The error
    /// says what is left; it then lies in the local log.
    pub async fn close(&self, commit: Duration, settle: Duration) -> Result<u64, WorkerError> {
        let closed = async {
            self.end_content();
            commit_all(&self.volume, commit).await?;
            let left = self.settle(Deadline::after(settle)).await;
            self.seal(commit, ROUND.min(settle)).await?;
            self.export().await;
            self.release().await?;
            Ok(left)
        }
        .await;
        if closed.is_err() {
            self.see_engine();
        }
        closed
    }

    /// At the end, when nobody watches the engine any more: whether another host has the volume.
    pub fn see_engine(&self) {
        if *self.volume.meta.engine.state().borrow() == EngineState::Fenced {
            self.set_state(VolumeState::Fenced);
        }
    }

    /// Commits within `commit`, the round of settling that is under way within `round`, and takes no more
    /// changes.
    pub async fn seal(&self, commit: Duration, round: Duration) -> Result<(), WorkerError> {
        self.end_content();
        self.settler.rest(Deadline::after(round)).await;
        commit_all(&self.volume, commit).await?;
        let sealed = tokio::time::timeout(CLOSE, self.volume.meta.seal()).await;
        if !sealed.unwrap_or(false) {
            let why = "changes were still on their way when the volume was to be closed";
            return Err(crate::data::DataError::Late(why.to_owned()).into());
        }
        Ok(())
    }

    /// Closes the engine and releases the lease of a volume that is sealed.
    pub async fn release(&self) -> Result<(), WorkerError> {
        let engine = &self.volume.meta.engine;
        engine.close(Deadline::after(CLOSE)).await?;
        // Nobody watches any more whether the engine claims one.
        self.keeper.follow(engine.epoch(), Deadline::after(LEASE)).await?;
        self.set_lease(LeaseState::Released).await?;
        self.set_state(VolumeState::Closed);
        self.clear_local();
        Ok(())
    }

    /// Leaves the records of a small volume in a format of our own, for a later version of this program.
    pub async fn export(&self) {
        let volume = &self.volume;
        if !export::is_small(&volume.meta) {
            return;
        }
        let store = volume.state_store.as_ref();
        let nobody = &mut |_| {};
        let write = export::write(&volume.meta.engine, store, &volume.state, export::SMALL, nobody);
        match tokio::time::timeout(EXPORT, write).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(
                error = &error as &dyn std::error::Error,
                "no export was written; only this version of the plugin can open the volume"
            ),
            Err(_) => tracing::warn!("there was no time to write an export"),
        }
    }
}
