//! Metadata: the engine, the local log, the records. The only importer of `slatedb`.

mod engine;
mod flusher;
mod hybrid_clock;
pub mod log;
mod maintenance;

pub use engine::{
    Applied, Batch, Engine, EngineConfig, EngineError, EngineState, EpochHook, RESERVED_KEY,
};
pub use flusher::Receipt;
pub use hybrid_clock::WallClock;
pub use maintenance::Maintained;
