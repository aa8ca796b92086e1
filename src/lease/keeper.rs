//! Keeping our own lease.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::{AUTHORITY, LeaseError, LeaseRecord, LeaseState, RENEW_EVERY, record_key};
use crate::clock::{self, Deadline};
use crate::fault::{at, points};
use crate::store::{
    Attributes, Properties, PutOutcome, Send, StoreBackend, StoreError, StoreErrorKind,
};
use crate::types::{Epoch, KeyPrefix, StoreTime};

/// One request of a renewal.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A write that we gave up on must not arrive after the one that came next: it could say that a volume is free
/// which is in use. Less than the timeout, because stores count in whole seconds.
const EXPIRY: Duration = Duration::from_secs(9);

/// After a renewal that failed, the next one comes sooner.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Says whether the volume's state is still what this worker mounted (`format.json`).
#[async_trait]
pub trait FormatCheck: std::marker::Send + Sync + 'static {
    async fn check(&self, timeout: Duration) -> Result<(), FormatTrouble>;
}

/// What a check found.
#[derive(Debug)]
pub enum FormatTrouble {
    /// Missing or another volume's; the text says which. Final.
    Damaged(String),
    /// The store could not say.
    Unknown(StoreError),
}

/// How to keep a lease.
pub struct KeeperConfig {
    pub store: Arc<dyn StoreBackend>,
    /// Of the volume's state.
    pub state: KeyPrefix,
    /// Ours, just claimed.
    pub epoch: Epoch,
    pub instance: Uuid,
    pub host: String,
    /// Stands in the first record, and in those after it until a state is set.
    pub note: Option<String>,
    pub check: Arc<dyn FormatCheck>,
    /// CLOCK_BOOTTIME; replaced in tests.
    pub boottime: Arc<dyn Fn() -> Duration + std::marker::Send + Sync>,
    /// Replaced in tests.
    pub renew_every: Duration,
}

impl KeeperConfig {
    /// With a random instance and this host's clock.
    pub fn new(
        store: Arc<dyn StoreBackend>,
        state: KeyPrefix,
        epoch: Epoch,
        host: impl Into<String>,
        check: Arc<dyn FormatCheck>,
    ) -> Self {
        KeeperConfig {
            store,
            state,
            epoch,
            instance: Uuid::new_v4(),
            host: host.into(),
            note: None,
            check,
            boottime: Arc::new(clock::boottime),
            renew_every: crate::fault::duration(crate::fault::RENEW_EVERY, RENEW_EVERY),
        }
    }
}

impl fmt::Debug for KeeperConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeeperConfig")
            .field("state", &self.state)
            .field("epoch", &self.epoch)
            .field("instance", &self.instance)
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

/// The right to publish, for as long as [`Authority::left`]. Only a confirmed renewal makes one.
#[must_use]
#[derive(Debug, Clone, Copy)]
pub struct Authority {
    epoch: Epoch,
    left: Duration,
}

impl Authority {
    /// The epoch that publishes.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// How long it lasted when it was given.
    pub fn left(&self) -> Duration {
        self.left
    }
}

/// What the keeper knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseStatus {
    pub epoch: Epoch,
    pub state: LeaseState,
    /// When the last confirmed renewal was *sent*, by CLOCK_BOOTTIME.
    pub confirmed: Option<Duration>,
    /// How often it was confirmed again after nothing was for so long that another host may have come between.
    pub lapses: u64,
    /// The volume's state is not what was mounted: nothing may be acknowledged any more. Final.
    pub damaged: Option<String>,
}

/// Renews a lease until it is stopped or dropped (a crash: the lease then runs out).
pub struct Keeper {
    status: watch::Receiver<LeaseStatus>,
    commands: mpsc::Sender<Command>,
    boottime: Arc<dyn Fn() -> Duration + std::marker::Send + Sync>,
    task: JoinHandle<()>,
}

struct Command {
    change: Change,
    done: oneshot::Sender<()>,
}

enum Change {
    State(LeaseState, Option<String>),
    Epoch(Epoch),
}

impl Keeper {
    /// Writes the first record and checks the format, then renews in the background.
    pub async fn start(config: KeeperConfig, deadline: Deadline) -> Result<Keeper, LeaseError> {
        let since = config.store.now(deadline.left()).await.map_err(LeaseError::Store)?;
        let (send, status) = watch::channel(LeaseStatus {
            epoch: config.epoch,
            state: LeaseState::Held,
            confirmed: None,
            lapses: 0,
            damaged: None,
        });
        let boottime = Arc::clone(&config.boottime);
        let mut renewer = Renewer {
            note: config.note.clone(),
            config,
            since,
            renewals: 0,
            status: send,
            current: false,
        };
        tokio::time::timeout(deadline.left(), renewer.renew())
            .await
            .map_err(|_| LeaseError::Deadline)??;
        let (commands, receive) = mpsc::channel(8);
        let task = tokio::spawn(renewer.run(receive));
        Ok(Keeper { status, commands, boottime, task })
    }

    /// The right to publish; `None` when it cannot be proven, or the volume is released or damaged.
    pub fn authority(&self) -> Option<Authority> {
        let status = self.status.borrow();
        if status.damaged.is_some() || status.state == LeaseState::Released {
            return None;
        }
        let age = (self.boottime)().saturating_sub(status.confirmed?);
        let left = AUTHORITY.checked_sub(age).filter(|left| !left.is_zero())?;
        Some(Authority { epoch: status.epoch, left })
    }

    /// How often [`LeaseStatus::lapses`] says.
    pub fn lapses(&self) -> u64 {
        self.status.borrow().lapses
    }

    /// Follows the lease; `damaged` is the reason to fail every fsync from then on.
    pub fn status(&self) -> watch::Receiver<LeaseStatus> {
        self.status.clone()
    }

    /// Writes what this host intends and a note for people (`None`: no note). Returns when the
    /// store has it; when the deadline passes the keeper goes on trying.
    pub async fn set_state(
        &self,
        state: LeaseState,
        note: Option<String>,
        deadline: Deadline,
    ) -> Result<(), LeaseError> {
        self.command(Change::State(state, note), deadline).await
    }

    /// As [`Keeper::set_state`], and asked for when this returns: what is asked for later comes after it.
    pub fn sets_state(
        &self,
        state: LeaseState,
        note: Option<String>,
        deadline: Deadline,
    ) -> impl Future<Output = Result<(), LeaseError>> + use<> {
        let (done, wait) = oneshot::channel();
        let sent = self.commands.try_send(Command { change: Change::State(state, note), done });
        let asked = match sent {
            Ok(()) => Ok(self.status.clone()),
            // So many wait for the store already.
            Err(mpsc::error::TrySendError::Full(_)) => Err(LeaseError::Deadline),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(why_stopped(&self.status)),
        };
        async move {
            let status = asked?;
            let waited = tokio::time::timeout(deadline.left(), wait).await;
            waited.map_err(|_| LeaseError::Deadline)?.map_err(|_| why_stopped(&status))
        }
    }

    /// Keeps the lease under an epoch that the engine has adopted since.
    pub async fn adopt(&self, epoch: Epoch, deadline: Deadline) -> Result<(), LeaseError> {
        self.command(Change::Epoch(epoch), deadline).await
    }

    /// As [`Keeper::adopt`], if it is kept under another one.
    pub async fn follow(&self, epoch: Epoch, deadline: Deadline) -> Result<(), LeaseError> {
        if self.status.borrow().epoch == epoch {
            return Ok(());
        }
        self.adopt(epoch, deadline).await
    }

    /// Lets others have the volume, whose engine was closed in `epoch`. Each step may take so long.
    pub async fn release(
        &self,
        epoch: Epoch,
        note: Option<String>,
        each: Duration,
    ) -> Result<(), LeaseError> {
        self.follow(epoch, Deadline::after(each)).await?;
        self.set_state(LeaseState::Released, note, Deadline::after(each)).await
    }

    /// Ends renewing. The record stays as it was last written: set `Released` before.
    pub async fn stop(self) {
        let Keeper { commands, task, .. } = self;
        drop(commands);
        task.abort();
        if let Err(error) = task.await
            && !error.is_cancelled()
        {
            tracing::warn!(%error, "the lease's keeper did not end well");
        }
    }

    async fn command(&self, change: Change, deadline: Deadline) -> Result<(), LeaseError> {
        let (done, wait) = oneshot::channel();
        let command = async {
            let sent = self.commands.send(Command { change, done }).await;
            sent.map_err(|_| why_stopped(&self.status))?;
            wait.await.map_err(|_| why_stopped(&self.status))
        };
        tokio::time::timeout(deadline.left(), command).await.map_err(|_| LeaseError::Deadline)?
    }
}

fn why_stopped(status: &watch::Receiver<LeaseStatus>) -> LeaseError {
    match &status.borrow().damaged {
        Some(why) => LeaseError::Damaged(why.clone()),
        None => LeaseError::Stopped,
    }
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").field("status", &*self.status.borrow()).finish_non_exhaustive()
    }
}

/// Ends with the commands' sender.
struct Renewer {
    config: KeeperConfig,
    since: StoreTime,
    renewals: u64,
    note: Option<String>,
    status: watch::Sender<LeaseStatus>,
    /// Whether the record says what `status` and `note` say.
    current: bool,
}

impl Renewer {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut waiting: Vec<oneshot::Sender<()>> = Vec::new();
        let mut pause = self.config.renew_every;
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => {
                        self.apply(command.change);
                        waiting.push(command.done);
                    }
                    None => return,
                },
                _ = tokio::time::sleep(pause) => {}
            }
            // Whoever gave up waiting is not waited for.
            waiting.retain(|done| !done.is_closed());
            match self.renew().await {
                Ok(()) => pause = self.config.renew_every,
                Err(LeaseError::Damaged(why)) => {
                    tracing::error!(why, "the volume's state in the bucket is damaged");
                    return;
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "the lease was not renewed");
                    pause = RETRY_AFTER.min(self.config.renew_every);
                }
            }
            if self.current {
                for done in waiting.drain(..) {
                    // A caller whose deadline passed does not listen any more.
                    let _ = done.send(());
                }
            }
        }
    }

    fn apply(&mut self, change: Change) {
        self.current = false;
        match change {
            Change::State(state, note) => {
                self.note = note;
                self.status.send_modify(|status| status.state = state);
            }
            Change::Epoch(epoch) => self.status.send_modify(|status| {
                status.epoch = epoch;
                // Nothing is confirmed under the new one.
                status.confirmed = None;
            }),
        }
    }

    async fn renew(&mut self) -> Result<(), LeaseError> {
        // Before sending: the store's time of the record can only be later.
        let sent = (self.config.boottime)();
        let (epoch, state) = {
            let status = self.status.borrow();
            (status.epoch, status.state)
        };
        self.renewals += 1;
        let record = LeaseRecord {
            instance: self.config.instance,
            host: self.config.host.clone(),
            endpoint: self.config.store.endpoint().to_owned(),
            state,
            renewals: self.renewals,
            since: self.since,
            note: self.note.clone(),
        };
        let body = serde_json::to_vec(&record)
            .map_err(|source| LeaseError::Unreadable { epoch, source })?;
        let key = record_key(&self.config.state, epoch);
        let (none, plain) = (Attributes::new(), Properties::default());
        let now = self.config.store.now(REQUEST_TIMEOUT).await.map_err(LeaseError::Store)?;
        let not_after = Some(now.plus(EXPIRY.as_millis() as i64));
        let send = Send { not_after, ..Send::plain(REQUEST_TIMEOUT) };
        at(points::LEASE_BEFORE);
        let outcome = self.config.store.put(&key, Bytes::from(body), &none, &plain, send).await;
        at(points::LEASE_AFTER);
        match outcome {
            PutOutcome::Won(_) => {}
            PutOutcome::Failed(error) | PutOutcome::Ambiguous(error) => {
                return Err(LeaseError::Store(error));
            }
            PutOutcome::Lost => {
                return Err(LeaseError::Store(StoreError::new(
                    StoreErrorKind::Protocol,
                    "the store refused an unconditional write",
                )));
            }
        }
        self.current = true;
        match self.config.check.check(REQUEST_TIMEOUT).await {
            Ok(()) => {}
            Err(FormatTrouble::Unknown(error)) => return Err(LeaseError::Store(error)),
            Err(FormatTrouble::Damaged(why)) => {
                self.status.send_modify(|status| status.damaged = Some(why.clone()));
                return Err(LeaseError::Damaged(why));
            }
        }
        let first = self.renewals == 1;
        self.status.send_modify(|status| {
            let long = |before: Duration| sent.saturating_sub(before) > AUTHORITY;
            status.lapses += u64::from(!first && status.confirmed.is_none_or(long));
            status.confirmed = Some(sent);
        });
        Ok(())
    }
}
