//! Rest: publishing changed files as plain objects, and bringing outside changes into the tree.
//!
//! The protocol and the reason of each of its rules are in `docs/PROTOCOL.md`; its model is
//! `tests/publish_model.rs`. In short: every request that creates, replaces or removes an object with a
//! reusable name is announced in a durable intent, sent once with a condition and an expiry, and
//! resolved in a later batch; what the object replaces is dropped only in that batch. A key whose
//! request has no known outcome is hot and left alone until the request can no longer arrive.
//!
//! Uses `meta`, `data`, `store` and `lease`; never `fs`. Nothing here survives a crash but what lies
//! in the engine: the queues of work and the open intents.

mod attributes;
mod beside;
mod bodies;
mod body;
mod churn;
mod compose;
mod conflict;
mod copies;
mod dress;
mod error;
mod gather;
mod groups;
mod hot;
mod item;
mod kept;
mod lanes;
mod learn;
mod links;
mod outcome;
mod pace;
mod park;
mod parts;
mod plan;
mod reach;
mod reasons;
mod reconcile;
mod round;
mod schedule;
mod seen;
mod settler;
mod tags;
mod tidy;
mod waiting;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio_util::sync::CancellationToken;

use crate::data::Volume;
use crate::meta::Pages;
use crate::types::Ino;
use beside::Beside;
use churn::Churning;
use compose::Composing;
use copies::Copies;
use hot::Hot;
use kept::Kept;
use lanes::Lanes;
use pace::Paces;
use reach::Reach;
use reasons::Reasons;
use schedule::Schedule;
use tags::TagSight;
use waiting::Seen;

pub use attributes::{Shown, Xattr, carried, from_object, is_ours, is_put, key_mark, to_object};
pub use body::part_size;
pub use error::SettleError;
pub use hot::{NOT_AFTER, hot_time};
pub use learn::borne_by;
pub use links::Links;
pub use reconcile::{Changed, Changes, Reconciler, TakenIn, Tell, changes};
pub use settler::{Permit, SettleStatus, Unsettled};
pub use waiting::Waiting;

/// Bodies held in memory by one round, bytes. There may be two, one on its way and one that is planned.
const ROUND_BYTES: u64 = 16 << 20;
/// Stands for "keys to tidy" in the schedule.
const TIDY: Ino = Ino(0);
/// How long a round's flush may take before the round is given up (its work stays queued).
const FLUSH_TIMEOUT: Duration = Duration::from_secs(30);
/// The pause after a failed round grows to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Settles one volume. Everything it must remember lies in the engine.
#[derive(Debug)]
pub struct Settler {
    volume: Arc<Volume>,
    permit: Arc<dyn Permit>,
    hot: Hot,
    schedule: Schedule,
    /// The queue as it was when the volume was opened, as far as it is not scheduled yet.
    backlog: AsyncMutex<Option<Pages>>,
    pace: Mutex<Paces>,
    churning: Churning,
    unsettleable: Mutex<Reasons>,
    conflicts: watch::Sender<u64>,
    seen_waiting: AsyncMutex<Seen>,
    tags: TagSight,
    copies: Copies,
    composing: Composing,
    kept: Kept,
    beside: Beside,
    this: Weak<Settler>,
    reach: Reach,
    lanes: Lanes,
    /// When expired tombs were looked for, boot time.
    tombs_swept: Mutex<Option<Duration>>,
    /// Everything that can is to settle now.
    hurried: AtomicBool,
    /// Something came in between of a publish: the same again may do.
    interrupted: AtomicBool,
    /// Rounds follow each other: what one announced it also resolves.
    one_round: AsyncMutex<()>,
    /// No round begins any more, and nothing more is sent.
    at_its_end: CancellationToken,
    /// What has no answer by now stays open.
    out_of_time: CancellationToken,
    /// What is announced and not sent yet is not sent.
    sends_nothing: AtomicBool,
    host: String,
    reconciler: std::sync::OnceLock<std::sync::Weak<Reconciler>>,
}

/// While programs wait a round has so many keys for each of its few lanes: they have to leave before they expire.
const KEYS_OF_A_LANE: usize = 8;

/// How a round is settled, from its plans to its answers.
#[derive(Debug, Clone, Copy, Default)]
struct Manner {
    /// With few requests at a time, beside programs that wait.
    beside: bool,
    /// How many it has at most.
    keys: usize,
}

/// Keys of one round: what is announced by one flush.
fn round_size() -> usize {
    crate::fault::number(crate::fault::ROUND, 256) as usize
}
/// Keys announced, or resolved, in one batch. Changes of names wait as long as a batch is put together.
fn chunk_size() -> usize {
    crate::fault::number(crate::fault::CHUNK, 8).max(1) as usize
}
