//! Counts of requests, and the store's own clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::{PutOutcome, RequestCounts, StoreError, StoreErrorKind};
use crate::clock::{boottime, now};
use crate::metrics::{Outcome, Requests};
use crate::types::StoreTime;

pub(super) use crate::metrics::RequestKind as Kind;

/// Requests since the store was opened.
#[derive(Debug, Default)]
pub(super) struct Meter {
    kinds: [AtomicU64; 7],
    up: AtomicU64,
    down: AtomicU64,
    requests: Arc<Requests>,
}

impl Meter {
    /// What came of the requests.
    pub(super) fn requests(&self) -> &Arc<Requests> {
        &self.requests
    }

    /// Counts a request that is answered by this host, and what comes of it.
    pub(super) async fn local<T: Judged>(&self, kind: Kind, work: impl Future<Output = T>) -> T {
        self.request(kind);
        let begun = boottime();
        let done = work.await;
        self.requests.ended(kind, done.judged(), boottime().saturating_sub(begun));
        done
    }

    pub(super) fn request(&self, kind: Kind) {
        self.kinds[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn sent(&self, bytes: usize) {
        self.up.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn received(&self, bytes: usize) {
        self.down.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn counts(&self) -> RequestCounts {
        let of = |kind: Kind| self.kinds[kind as usize].load(Ordering::Relaxed);
        RequestCounts {
            get: of(Kind::Get),
            head: of(Kind::Head),
            put: of(Kind::Put),
            list: of(Kind::List),
            delete: of(Kind::Delete),
            copy: of(Kind::Copy),
            multipart: of(Kind::Multipart),
            bytes_up: self.up.load(Ordering::Relaxed),
            bytes_down: self.down.load(Ordering::Relaxed),
        }
    }
}

/// Whether a request was carried out, from what its caller gets.
pub(super) trait Judged {
    fn judged(&self) -> Outcome;
}

impl Judged for PutOutcome {
    fn judged(&self) -> Outcome {
        match self {
            PutOutcome::Won(_) => Outcome::Done,
            PutOutcome::Lost => Outcome::Condition,
            PutOutcome::Failed(error) | PutOutcome::Ambiguous(error) => judged(error),
        }
    }
}

impl<T> Judged for Result<T, StoreError> {
    fn judged(&self) -> Outcome {
        match self {
            Ok(_) => Outcome::Done,
            Err(error) => judged(error),
        }
    }
}

fn judged(error: &StoreError) -> Outcome {
    use StoreErrorKind::*;
    match error.kind {
        NotFound | NoBucket => Outcome::Missing,
        Changed => Outcome::Condition,
        Denied | TagsDenied | ClockSkew | Unsupported => Outcome::Refused,
        Busy => Outcome::Throttled,
        Tls | Unreachable | Timeout => Outcome::Unanswered,
        Protocol | NoSpace => Outcome::Failed,
    }
}

/// The store's clock as its answers show it: the last `Date` plus the monotonic time since.
#[derive(Debug, Default)]
pub(super) struct StoreClock(Mutex<Option<(StoreTime, Duration)>>);

/// `Date` has whole seconds and answers take time to arrive, so a later answer may seem to be
/// slightly in the past; only a larger step means that the store's clock was set.
const JITTER_MS: i64 = 5_000;

impl StoreClock {
    /// Takes an answer's `Date`.
    pub(super) fn observe(&self, date: StoreTime) {
        let at = boottime();
        let mut known = self.0.lock();
        *known = Some(match *known {
            Some((time, since)) => {
                let projected = project(time, since, at);
                let step = date.0 - projected.0;
                let time = if (-JITTER_MS..0).contains(&step) { projected } else { date };
                (time, at)
            }
            None => (date, at),
        });
    }

    /// `None` before the first answer.
    pub(super) fn now(&self) -> Option<StoreTime> {
        self.0.lock().map(|(time, since)| project(time, since, boottime()))
    }
}

fn project(time: StoreTime, since: Duration, at: Duration) -> StoreTime {
    time.plus(at.saturating_sub(since).as_millis() as i64)
}

/// This host's wall clock in the store's unit, for stores that are this host, and to tell a clock
/// that is off.
pub(super) fn host_time() -> StoreTime {
    let t = now();
    StoreTime(t.secs * 1000 + i64::from(t.nanos) / 1_000_000)
}

/// How far apart two clocks are, in words: `15 minutes`, `1 hour`, `3 days`.
pub(super) fn about(ms: i64) -> String {
    let minutes = (ms.unsigned_abs() + 30_000) / 60_000;
    let (count, unit) = match minutes {
        0..60 | 61..120 => (minutes, "minute"),
        60 | 120..2880 => ((minutes + 30) / 60, "hour"),
        _ => ((minutes + 720) / 1440, "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_spans_as_people_do() {
        for (seconds, text) in [
            (899, "15 minutes"),
            (-3_599, "1 hour"),
            (3_600, "1 hour"),
            (5_400, "90 minutes"),
            (7_190, "2 hours"),
            (86_400, "24 hours"),
            (259_300, "3 days"),
        ] {
            assert_eq!(about(seconds * 1000), text);
        }
    }

    #[test]
    fn clock_follows_date_without_jitter() {
        let clock = StoreClock::default();
        assert_eq!(clock.now(), None);
        clock.observe(StoreTime(1_000_000));
        clock.observe(StoreTime(999_000));
        assert!(clock.now().unwrap() >= StoreTime(1_000_000), "jitter does not turn it back");
        clock.observe(StoreTime(2_000_000));
        let now = clock.now().unwrap();
        assert!((2_000_000..2_001_000).contains(&now.0));
        clock.observe(StoreTime(1_000_000));
        let now = clock.now().unwrap();
        assert!((1_000_000..1_001_000).contains(&now.0), "a clock that was set is believed");
    }
}
