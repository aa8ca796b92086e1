//! How much can be sent before it expires. A body that is on its way when its request must be over by all means is
//! cut off, so what a slow uplink does not take in time is sent in smaller rounds, and what alone is too large for
//! that goes up in parts before it is announced.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::ROUND_BYTES;

/// What was announced together is sent within this, as far as can be foreseen.
const AIM: Duration = Duration::from_secs(8);
/// However slow it is, bytes.
const LEAST: u64 = 64 << 10;

/// An announcement that is durable sooner than this leaves its requests enough of their time.
const SOON: Duration = Duration::from_secs(5);
/// However long one took, the next is given no more than this.
const LONGEST_LEAD: Duration = Duration::from_secs(600);

#[derive(Debug)]
pub(super) struct Reach {
    /// Bytes that are announced together.
    bytes: AtomicU64,
    /// For how long an announcement may be on its way, milliseconds.
    lead: AtomicU64,
}

impl Default for Reach {
    fn default() -> Self {
        Reach { bytes: AtomicU64::new(ROUND_BYTES), lead: AtomicU64::new(0) }
    }
}

impl Reach {
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// How much later than usual requests may expire that are announced now.
    pub fn lead(&self) -> Duration {
        Duration::from_millis(self.lead.load(Ordering::Relaxed))
    }

    /// An announcement was durable, or given up, after this time.
    pub fn learn_lead(&self, took: Duration) {
        let next = if took < SOON { self.lead() / 2 } else { took * 2 };
        self.lead.store(next.min(LONGEST_LEAD).as_millis() as u64, Ordering::Relaxed);
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
        self.bytes.store(next.clamp(LEAST, ROUND_BYTES), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_announced_may_take_twice_as_long_as_it_took() {
        let secs = Duration::from_secs;
        let reach = Reach::default();
        reach.learn_lead(secs(1));
        assert_eq!(reach.lead(), Duration::ZERO);
        reach.learn_lead(secs(30));
        assert_eq!(reach.lead(), secs(60));
        reach.learn_lead(secs(4));
        assert_eq!(reach.lead(), secs(30));
        reach.learn_lead(secs(3600));
        assert_eq!(reach.lead(), LONGEST_LEAD);
    }

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
