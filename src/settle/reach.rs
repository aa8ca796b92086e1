//! How much can be sent before it expires. A body that is on its way when its request must be over by all means is
//! cut off, so what a slow uplink does not take in time is sent in smaller rounds, and what alone is too large for
//! that goes up in parts before it is announced.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::settler::ROUND_BYTES;

/// What was announced together is sent within this, as far as can be foreseen.
const AIM: Duration = Duration::from_secs(8);
/// However slow it is, bytes.
const LEAST: u64 = 64 << 10;

/// Bytes that are announced together.
#[derive(Debug)]
pub(super) struct Reach(AtomicU64);

impl Default for Reach {
    fn default() -> Self {
        Reach(AtomicU64::new(ROUND_BYTES))
    }
}

impl Reach {
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// `sent` bytes arrived within `took`; `cut`: others did not.
    pub fn learn(&self, sent: u64, took: Duration, cut: bool) {
        let now = self.bytes();
        let in_aim = (sent as f64 * AIM.as_secs_f64() / took.as_secs_f64().max(0.001)) as u64;
        let next = if cut {
            in_aim.clamp(now / 16, now / 2)
        } else if took > AIM && sent >= now / 4 {
            // Of less it may be a single request that took so long.
            in_aim.min(now)
        } else if took < AIM / 2 && sent >= now / 2 {
            now * 2
        } else {
            now
        };
        self.0.store(next.clamp(LEAST, ROUND_BYTES), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_as_large_as_the_uplink_takes_in_time() {
        let secs = Duration::from_secs;
        let reach = Reach::default();
        reach.learn(ROUND_BYTES, secs(1), false);
        assert_eq!(reach.bytes(), ROUND_BYTES);
        // Four megabits a second.
        reach.learn(20 << 20, secs(40), true);
        assert_eq!(reach.bytes(), 4 << 20);
        reach.learn(4 << 20, secs(8), false);
        assert_eq!(reach.bytes(), 4 << 20);
        reach.learn(4 << 20, secs(16), false);
        assert_eq!(reach.bytes(), 2 << 20);
        // Little says nothing.
        reach.learn(1 << 10, secs(1), false);
        assert_eq!(reach.bytes(), 2 << 20);
        reach.learn(1 << 10, secs(30), false);
        assert_eq!(reach.bytes(), 2 << 20);
        for _ in 0..3 {
            reach.learn(0, secs(50), true);
        }
        assert_eq!(reach.bytes(), LEAST);
        for _ in 0..20 {
            reach.learn(reach.bytes(), secs(1), false);
        }
        assert_eq!(reach.bytes(), ROUND_BYTES);
    }
}
