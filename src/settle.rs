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

pub use attributes::{Shown, Xattr, carried, from_object, is_ours, is_put, key_mark, to_object};
pub use body::part_size;
pub use error::SettleError;
pub use hot::{NOT_AFTER, hot_time};
pub use learn::borne_by;
pub use links::Links;
pub use reconcile::{Changed, Changes, Reconciler, TakenIn, Tell, changes};
pub use settler::{Permit, SettleStatus, Settler, Unsettled};
pub use waiting::Waiting;
