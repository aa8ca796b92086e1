//! One process for one mounted volume.

mod protocol;

pub use protocol::{DrainReply, VolumeState, WorkerSpec, WorkerStatus};
