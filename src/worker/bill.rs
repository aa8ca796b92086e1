//! What a step of a volume's life took, for the log: its time and its requests.

use std::time::Duration;

use crate::clock::boottime;
use crate::data::Volume;
use crate::store::RequestCounts;

/// Begun with the step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bill {
    begun: Duration,
    before: RequestCounts,
}

impl Bill {
    /// For a step that opens the stores itself.
    pub fn begin() -> Self {
        Self::begin_with(RequestCounts::default())
    }

    /// `before`: what was sent until now.
    pub fn begin_with(before: RequestCounts) -> Self {
        Bill { begun: boottime(), before }
    }

    /// Says it. `now`: what was sent by now. What goes on beside the step is counted with it.
    pub fn log(self, step: &str, now: RequestCounts) {
        let took = boottime().saturating_sub(self.begun).as_secs_f64();
        tracing::info!("{step} took {took:.2} s and {}", now.since(self.before));
    }
}

/// What was sent for an open volume.
pub(super) fn requests(volume: &Volume) -> RequestCounts {
    match volume.same_bucket {
        true => volume.store.requests(),
        false => volume.store.requests() + volume.state_store.requests(),
    }
}
