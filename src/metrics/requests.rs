//! Requests to a store: their kinds, what came of them, how long that took.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{Histogram, Sample, names};

/// The kinds that are counted apart, as stores charge for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    Get,
    Head,
    Put,
    List,
    Delete,
    Copy,
    Multipart,
}

impl RequestKind {
    pub const ALL: [RequestKind; 7] = [
        RequestKind::Get,
        RequestKind::Head,
        RequestKind::Put,
        RequestKind::List,
        RequestKind::Delete,
        RequestKind::Copy,
        RequestKind::Multipart,
    ];

    /// The value of its label, and its name in a table of prices.
    pub fn name(self) -> &'static str {
        match self {
            RequestKind::Get => "get",
            RequestKind::Head => "head",
            RequestKind::Put => "put",
            RequestKind::List => "list",
            RequestKind::Delete => "delete",
            RequestKind::Copy => "copy",
            RequestKind::Multipart => "multipart",
        }
    }
}

/// What came of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// Its condition did not hold: usual where somebody else changes the bucket, too.
    Condition,
    /// There is no such object.
    Missing,
    /// Refused for another reason, rights above all.
    Refused,
    /// Too many at a time.
    Throttled,
    /// The store failed.
    Failed,
    /// No answer, or not all of it.
    Unanswered,
}

impl Outcome {
    pub const ALL: [Outcome; 7] = [
        Outcome::Done,
        Outcome::Condition,
        Outcome::Missing,
        Outcome::Refused,
        Outcome::Throttled,
        Outcome::Failed,
        Outcome::Unanswered,
    ];

    /// The value of its label.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Done => "done",
            Outcome::Condition => "condition",
            Outcome::Missing => "missing",
            Outcome::Refused => "refused",
            Outcome::Throttled => "throttled",
            Outcome::Failed => "failed",
            Outcome::Unanswered => "unanswered",
        }
    }

    /// By the status of an HTTP answer.
    pub fn of_status(status: u16) -> Self {
        match status {
            0..400 => Outcome::Done,
            404 => Outcome::Missing,
            409 | 412 => Outcome::Condition,
            429 | 503 => Outcome::Throttled,
            500.. => Outcome::Failed,
            400..500 => Outcome::Refused,
        }
    }
}

/// From a store beside the host to one that is overloaded, or a long body.
static TIMES: [Duration; 9] = [
    Duration::from_millis(5),
    Duration::from_millis(20),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(20),
];

const KINDS: usize = RequestKind::ALL.len();
const OUTCOMES: usize = Outcome::ALL.len();

/// Requests since a store was opened.
#[derive(Debug)]
pub struct Requests {
    outcomes: [[AtomicU64; OUTCOMES]; KINDS],
    times: [Histogram; KINDS],
    retries: AtomicU64,
}

impl Default for Requests {
    fn default() -> Self {
        Requests {
            outcomes: Default::default(),
            times: std::array::from_fn(|_| Histogram::new(&TIMES)),
            retries: AtomicU64::new(0),
        }
    }
}

impl Requests {
    /// A request came to its end, or its answer began, after `took`.
    pub fn ended(&self, kind: RequestKind, outcome: Outcome, took: Duration) {
        self.outcomes[kind as usize][outcome as usize].fetch_add(1, Ordering::Relaxed);
        self.times[kind as usize].observe(took);
    }

    /// A request is sent once more.
    pub fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    /// What was sent to this store and to `others` of the same volume.
    pub fn samples(&self, others: &[&Requests], all: &mut Vec<Sample>) {
        let each = || others.iter().copied();
        for kind in RequestKind::ALL {
            let (verb, k) = (kind.name(), kind as usize);
            for outcome in Outcome::ALL {
                let of = |requests: &Requests| {
                    requests.outcomes[k][outcome as usize].load(Ordering::Relaxed)
                };
                let sent = of(self) + each().map(of).sum::<u64>();
                let sample = Sample::count(&names::STORE_REQUESTS, sent);
                all.push(sample.with("verb", verb).with("outcome", outcome.name()));
            }
            let times = self.times[k].value_with(each().map(|requests| &requests.times[k]));
            all.push(Sample::new(&names::STORE_SECONDS, times).with("verb", verb));
        }
        let of = |requests: &Requests| requests.retries.load(Ordering::Relaxed);
        let retries = of(self) + each().map(of).sum::<u64>();
        all.push(Sample::count(&names::STORE_RETRIES, retries));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_status_is_somebodys() {
        let expected = [
            (200, Outcome::Done),
            (304, Outcome::Done),
            (404, Outcome::Missing),
            (412, Outcome::Condition),
            (403, Outcome::Refused),
            (416, Outcome::Refused),
            (429, Outcome::Throttled),
            (503, Outcome::Throttled),
            (500, Outcome::Failed),
        ];
        for (status, outcome) in expected {
            assert_eq!(Outcome::of_status(status), outcome, "{status}");
        }
        for (at, kind) in RequestKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, at);
        }
        for (at, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, at);
        }
    }

    #[test]
    fn two_stores_of_a_volume_are_told_as_one() {
        let (one, other) = (Requests::default(), Requests::default());
        one.ended(RequestKind::Put, Outcome::Done, Duration::from_millis(3));
        other.ended(RequestKind::Put, Outcome::Done, Duration::from_millis(3));
        other.retried();
        let mut all = Vec::new();
        one.samples(&[&other], &mut all);
        let counted: Vec<_> = all.iter().filter(|sample| sample.total() > 0.0).collect();
        let said: Vec<_> = counted.iter().map(|s| (&*s.name, s.total())).collect();
        let expected = [
            (names::STORE_REQUESTS.name, 2.0),
            (names::STORE_SECONDS.name, 2.0),
            (names::STORE_RETRIES.name, 1.0),
        ];
        assert_eq!(said, expected);
        assert_eq!(counted[0].label("outcome"), Some("done"));
    }
}
