//! Two kinds of time that must not be mixed: file times, and the store's own clock.

use serde::{Deserialize, Serialize};

/// A file time: seconds since 1970 (negative before) and nanoseconds, from the host's wall clock.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Timestamp {
    pub secs: i64,
    pub nanos: u32,
}

impl Timestamp {
    /// Whether it is a time at all: the nanoseconds are less than a second.
    pub fn fits(&self) -> bool {
        self.nanos < 1_000_000_000
    }
}

impl From<std::time::SystemTime> for Timestamp {
    fn from(t: std::time::SystemTime) -> Self {
        match t.duration_since(std::time::UNIX_EPOCH) {
            Ok(d) => Timestamp { secs: d.as_secs() as i64, nanos: d.subsec_nanos() },
            Err(e) => {
                let d = e.duration();
                match d.subsec_nanos() {
                    0 => Timestamp { secs: -(d.as_secs() as i64), nanos: 0 },
                    n => Timestamp { secs: -(d.as_secs() as i64) - 1, nanos: 1_000_000_000 - n },
                }
            }
        }
    }
}

impl From<Timestamp> for std::time::SystemTime {
    fn from(t: Timestamp) -> Self {
        use std::time::{Duration, UNIX_EPOCH};
        if t.secs >= 0 {
            UNIX_EPOCH + Duration::new(t.secs as u64, t.nanos)
        } else {
            UNIX_EPOCH - Duration::new(t.secs.unsigned_abs(), 0) + Duration::new(0, t.nanos)
        }
    }
}

/// Milliseconds since 1970 by the *store's* clock (its `Date` and `Last-Modified`). Never compared
/// with a host's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StoreTime(pub i64);

impl StoreTime {
    /// This time plus `millis`.
    pub fn plus(self, millis: i64) -> Self {
        StoreTime(self.0 + millis)
    }
}
