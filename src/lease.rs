//! Who may write a volume, as far as hosts can see it of each other.
//!
//! The fence is the engine's epoch; the lease only says whether its owner still lives, so that
//! nobody fences a host that does. `lease/<epoch>` is written by the owner of that epoch alone, by
//! plain overwrite: nothing about it can be contended, and an owner that wakes up late writes a
//! record that nobody reads any more.
//!
//! * A challenger reads the epoch E from the bucket, then judges `lease/<E>` ([`judge`]): free at
//!   once when released or yielding; else free when it was last written a lease ago by the store's
//!   own clock, or did not change for a lease of the challenger's own monotonic time. No two hosts'
//!   clocks are ever compared. Then it claims the epoch expecting E, which one challenger wins.
//! * The owner renews it ([`Keeper`]) and may publish only with an [`Authority`], which it has
//!   while its last confirmed renewal is younger than half a lease by a clock that goes on during
//!   suspend. Commits need none: the fence guards them.
//!
//! Losing this process loses nothing but time: others wait for the lease to run out.

mod judge;
mod keeper;
mod record;

#[cfg(test)]
mod tests;

use std::time::Duration;

pub use judge::{Free, Holder, Judgement, Observation, judge};
pub use keeper::{Authority, FormatCheck, FormatTrouble, Keeper, KeeperConfig, LeaseStatus};
pub use record::{LeaseRecord, LeaseState, epochs_above, forget_older, last_epoch, record_key};

use crate::store::StoreError;
use crate::types::Epoch;

/// How long a record is good for.
pub const LEASE: Duration = Duration::from_secs(60);

/// How often it is renewed.
pub const RENEW_EVERY: Duration = Duration::from_secs(20);

/// How old the last confirmed renewal may be for publishing.
pub const AUTHORITY: Duration = Duration::from_secs(30);

/// An error of the lease.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// The store did not do its part; trying later can help.
    #[error("the volume's lease cannot be read or written")]
    Store(#[source] StoreError),
    /// A record that makes no sense.
    #[error("the lease record of epoch {epoch} cannot be read")]
    Unreadable { epoch: Epoch, source: serde_json::Error },
    /// The volume's state in the bucket is gone or another volume's.
    #[error("the volume's state in the bucket is damaged: {0}")]
    Damaged(String),
    /// The deadline passed; the keeper goes on trying.
    #[error("the lease could not be written in time")]
    Deadline,
    /// The keeper was stopped.
    #[error("the lease is no longer kept")]
    Stopped,
}
