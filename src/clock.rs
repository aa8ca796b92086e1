//! The only source of time for the rest of the crate, so that a simulation can replace it.

use std::time::{Duration, Instant, SystemTime};

use crate::types::Timestamp;

/// Wall-clock time for file times.
#[allow(clippy::disallowed_methods, reason = "this is the seam")]
pub fn now() -> Timestamp {
    let now: Timestamp = SystemTime::now().into();
    Timestamp { secs: now.secs.saturating_add(crate::fault::clock_ahead()), ..now }
}

/// Monotonic time that goes on during suspend (CLOCK_BOOTTIME), for leases and deadlines.
pub fn boottime() -> Duration {
    match nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME) {
        Ok(t) => Duration::new(t.tv_sec() as u64, t.tv_nsec() as u32),
        Err(_) => monotonic_since_start(),
    }
}

#[allow(clippy::disallowed_methods, reason = "this is the seam")]
fn monotonic_since_start() -> Duration {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

/// A point in time after which a caller no longer waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Duration);

impl Deadline {
    /// `after` from now, by the clock that goes on during suspend.
    pub fn after(after: Duration) -> Self {
        Deadline(boottime() + after)
    }

    /// What is left; zero when it has passed.
    pub fn left(self) -> Duration {
        self.0.saturating_sub(boottime())
    }

    pub fn passed(self) -> bool {
        self.left().is_zero()
    }
}
