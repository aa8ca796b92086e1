//! The engine's clock.
//!
//! The engine demands ticks that never go back, from all writers of a database together: a clock
//! behind the last writer's stalls the first write and then kills the handle. Hosts' clocks do
//! differ, and are set back. So the engine never sees the wall clock itself, but
//! `max(wall, floor + a sixteenth of the time since the floor was set, own last)`. The floor is what the
//! bucket shows of earlier ticks, plus ten seconds. It passes, so that names made from it (ULIDs) go on growing
//! while a host is behind; and slowly, so that the wall catches up: each opening adds up to ten seconds to the
//! lead, and the collector, which goes by the wall, keeps garbage for so much longer. Where workers die every
//! minute the wall has to catch up within that.
//!
//! File times never come from here. Nothing here survives a crash: the last tick travels in
//! `applied` and in the manifest.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use slatedb_common::clock::{SystemClock, SystemClockTicker};

use crate::clock;

/// Milliseconds since 1970 by the host's wall clock; replaced in tests.
pub type WallClock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// Distance kept from the latest tick that another writer may have used without our seeing it: what the engine
/// stamps a batch with is taken a moment after the tick that the batch bears.
const MARGIN_MS: i64 = 10_000;

/// Ahead of the wall it passes by one part in so many.
const SLOWED: i64 = 16;

/// See the module.
pub(super) struct HybridClock {
    wall: WallClock,
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy)]
struct State {
    /// A tick, and the monotonic time at which it was current.
    anchor: Option<(i64, Duration)>,
    last: i64,
}

impl HybridClock {
    pub(super) fn new(wall: WallClock) -> Self {
        HybridClock { wall, state: Mutex::new(State { anchor: None, last: i64::MIN }) }
    }

    /// The wall clock of this host.
    pub(super) fn host_wall() -> WallClock {
        Arc::new(|| {
            let t = clock::now();
            t.secs.saturating_mul(1000).saturating_add(i64::from(t.nanos / 1_000_000))
        })
    }

    /// The wall clock below.
    pub(super) fn wall(&self) -> WallClock {
        Arc::clone(&self.wall)
    }

    /// From now on every tick lies at least [`MARGIN_MS`] after `tick`, which some writer has used.
    pub(super) fn stay_after(&self, tick: i64) {
        let floor = tick.saturating_add(MARGIN_MS);
        if floor > self.tick() {
            let mut state = self.state.lock();
            state.anchor = Some((floor, clock::boottime()));
            state.last = state.last.max(floor);
        }
    }

    /// The current tick in milliseconds since 1970.
    pub(super) fn tick(&self) -> i64 {
        let wall = (self.wall)();
        let mut state = self.state.lock();
        let anchored = state.anchor.map_or(i64::MIN, |(tick, at)| {
            let passed = clock::boottime().saturating_sub(at).as_millis();
            tick.saturating_add(i64::try_from(passed).unwrap_or(i64::MAX) / SLOWED)
        });
        // Equal ticks are allowed by the engine; adding one a call would run ahead of time under
        // load and drag every later host along.
        state.last = state.last.max(anchored).max(wall);
        state.last
    }
}

impl fmt::Debug for HybridClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HybridClock").field("state", &*self.state.lock()).finish_non_exhaustive()
    }
}

impl SystemClock for HybridClock {
    fn now(&self) -> DateTime<Utc> {
        let tick = self.tick();
        let since = Duration::from_millis(tick.unsigned_abs());
        match tick >= 0 {
            true => (SystemTime::UNIX_EPOCH + since).into(),
            false => (SystemTime::UNIX_EPOCH - since).into(),
        }
    }

    fn sleep<'a>(&'a self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(tokio::time::sleep(duration))
    }

    fn ticker<'a>(&'a self, duration: Duration) -> SystemClockTicker<'a> {
        SystemClockTicker::new(self, duration)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;

    fn settable(start: i64) -> (Arc<AtomicI64>, HybridClock) {
        let wall = Arc::new(AtomicI64::new(start));
        let read = Arc::clone(&wall);
        (wall, HybridClock::new(Arc::new(move || read.load(Ordering::SeqCst))))
    }

    #[test]
    fn follows_the_wall_and_never_goes_back() {
        let (wall, clock) = settable(1_000_000);
        assert_eq!(clock.tick(), 1_000_000);
        wall.store(2_000_000, Ordering::SeqCst);
        assert_eq!(clock.tick(), 2_000_000);
        wall.store(500_000, Ordering::SeqCst);
        assert_eq!(clock.tick(), 2_000_000);
    }

    #[test]
    fn a_floor_ahead_of_the_wall_passes_slowly_until_the_wall_is_there() {
        let (wall, clock) = settable(1_000_000);
        let before = clock::boottime();
        clock.stay_after(9_000_000);
        let first = clock.tick();
        assert!(first >= 9_000_000 + MARGIN_MS, "{first}");
        std::thread::sleep(Duration::from_millis(SLOWED as u64 * 3));
        let passed = clock.tick() - first;
        let real = clock::boottime().saturating_sub(before).as_millis() as i64;
        assert!((2..=real / SLOWED + 1).contains(&passed), "{passed} ms in {real}");
        let now = SystemClock::now(&clock).timestamp_millis();
        assert!(now >= first);
        wall.store(10_000_000, Ordering::SeqCst);
        assert_eq!(clock.tick(), 10_000_000);
    }

    /// Each opens the database where the one before died, and none is ahead for long.
    #[test]
    fn workers_that_die_every_minute_do_not_run_ahead() {
        let (mut wall, mut last) = (1_000_000, 1_000_000);
        for _ in 0..100 {
            let (now, clock) = settable(wall);
            clock.stay_after(last);
            assert!(clock.tick() <= wall + MARGIN_MS, "{} ms ahead", clock.tick() - wall);
            wall += 60_000;
            now.store(wall, Ordering::SeqCst);
            last = clock.tick();
        }
    }

    #[test]
    fn a_floor_behind_changes_nothing() {
        let (_wall, clock) = settable(1_000_000);
        clock.stay_after(i64::MIN);
        clock.stay_after(5);
        assert_eq!(clock.tick(), 1_000_000);
    }
}
