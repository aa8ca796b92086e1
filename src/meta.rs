//! Metadata: the engine, the local log, the records, the sequencer. The only importer of `slatedb`.
//!
//! What survives: a batch that a flush covered survives the host; anything in the local log survives
//! the process, on the same boot of the same host.

mod floors;
mod follower;
mod journal;
pub mod keys;
mod kvcache;
mod lookup;
mod newborn;
mod pages;
mod pending;
mod ranges;
pub mod records;
mod sequencer;
mod uplink;

pub use follower::{Follower, View};
pub use journal::{Fold, Journal, Record};
pub use lookup::Lookup;
pub use pages::Pages;
pub use pending::{Change, Pending, Weight};
pub use ranges::RangeMap;
pub use sequencer::{Logged, Meta, MetaError, Txn};
mod engine;
mod hybrid_clock;
pub mod log;

pub use engine::{
    Applied, Batch, BucketClock, Costs, Engine, EngineConfig, EngineError, EngineHome, EngineState,
    EpochHook, Maintained, Mirror, Newest, Opening, RESERVED_KEY, Receipt,
};
pub use hybrid_clock::WallClock;
pub use log::{LocalLog, LogError};
