//! The life of an open volume, whoever runs it: opened, served, drained, given back.
//!
//! [`open`] makes a [`Mounted`] of it and [`Shared`] is what everybody has of it from then on. [`tasks`] run beside the
//! file system: commits, settling, the collector, the watch over engine and lease. [`serve`] drains, resumes and
//! closes it, and [`give_back`] does so for a mount made by hand, whatever the bucket does meanwhile.

mod claim;
mod collector;
pub(super) mod commits;
mod give_back;
mod open;
mod parting;
mod probing;
mod serve;
mod settle_now;
pub(super) mod tasks;
mod trial;
mod turn;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::{Events, VolumeState, WorkerSpec};
use crate::data::Volume;
use crate::fs::Fs;
use crate::lease::Keeper;
use crate::meta::log::StateDirLock;
use crate::settle::{Changes, Reconciler, Settler};
use commits::Lane;

pub(super) use claim::Claiming;
pub(super) use commits::commit_all;
pub use give_back::Left;
pub(super) use give_back::{Waited, commit_while_it_moves, give_back};
pub use open::open;
pub(super) use open::{open_in, open_locked};
pub(super) use parting::Parting;
pub(super) use serve::{COMMIT_BUDGET, SETTLE_BUDGET};
pub(super) use turn::Turn;

/// What the control socket, the tasks and the FUSE side share.
#[derive(Debug)]
pub(super) struct Shared {
    pub spec: WorkerSpec,
    pub volume: Arc<Volume>,
    pub settler: Arc<Settler>,
    pub keeper: Arc<Keeper>,
    state: watch::Sender<VolumeState>,
    /// The lanes whose last commit failed.
    failing: Mutex<Vec<Lane>>,
    /// Everything is in the bucket and nobody uses the volume here: anyone may take it over.
    yielded: AtomicBool,
    pub turn: Turn,
    pub events: Events,
}

/// Whether the FUSE connection of a worker that died is taken over, with its open files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Successor {
    Yes,
    No,
}

/// An open volume, ready to be served.
#[derive(Debug)]
pub struct Mounted {
    pub volume: Arc<Volume>,
    pub settler: Arc<Settler>,
    pub keeper: Arc<Keeper>,
    pub fs: Arc<Fs>,
    /// What `fs` looks at the bucket with.
    pub reconciler: Arc<Reconciler>,
    pub changes: Changes,
    /// Where the caller does not keep it.
    _lock: Option<StateDirLock>,
}
