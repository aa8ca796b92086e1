//! The request log, and the plan of what shall go wrong.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

/// The operations that the log and the fault plan tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Op {
    Put,
    Get,
    Head,
    Delete,
    DeleteMany,
    Copy,
    List,
    CreateUpload,
    UploadPart,
    UploadPartCopy,
    CompleteUpload,
    AbortUpload,
    ListParts,
    ListUploads,
    /// Reading, setting and removing tags.
    Tagging,
    /// Anything about a bucket as a whole, and whatever is not listed here.
    Bucket,
}

/// Whether a request was about the state of a volume or about an object that users see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Area {
    /// The key (or listed prefix) has a component `.s3vol`.
    State,
    Object,
}

impl Area {
    pub fn of(key: &str) -> Self {
        if key.split('/').any(|part| part == ".s3vol") { Area::State } else { Area::Object }
    }
}

/// One request, as it ended.
#[derive(Debug, Clone)]
pub struct Logged {
    /// Distinct for every request.
    pub id: u64,
    /// The server's clock on arrival.
    pub time: SystemTime,
    pub method: String,
    pub op: Op,
    /// The key, the prefix of a listing, or the first key of a DeleteObjects.
    pub key: String,
    pub area: Area,
    /// 0 when no reply was sent.
    pub status: u16,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// The first part of the path.
    pub bucket: String,
    /// The access key that the request claims.
    pub access_key: Option<String>,
    /// Whether it carried an expiry (a query signature).
    pub expires: bool,
    /// Whether it carried `If-Match` or `If-None-Match`.
    pub conditional: bool,
    /// The fault that met it.
    pub fault: Option<Action>,
    pub took: Duration,
}

impl Logged {
    /// Whether it could change nothing, whatever became of it.
    pub fn only_reads(&self) -> bool {
        self.method == "GET" || self.method == "HEAD"
    }
}

/// What happens to a request that a rule matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Handled after this time.
    Latency(Duration),
    /// Refused with this status (400, 403, 404 `NoSuchBucket`, 409, 429, 500, 501, 503); not applied. A rule for
    /// [`Op::Delete`] also meets a key of a DeleteObjects, whose answer then names it with the error.
    Status(u16),
    /// Answered with 200 and an error in its body, as long copies may be; not applied.
    HiddenError,
    /// Applied, then answered with this status.
    ApplyThenStatus(u16),
    /// Applied, then answered with this status by something in between that knows nothing of S3.
    ApplyThenProxy(u16),
    /// Applied, then the connection is closed without a reply.
    ApplyThenDropReply,
    /// The connection is closed without a reply; not applied.
    DropBeforeApply,
    /// The reply's body ends after this many bytes and the connection is closed.
    CutBody(usize),
    /// Applied as if it carried no condition.
    IgnoreConditions,
    /// Applied although its signature has expired, up to 100 seconds before.
    IgnoreExpiry,
    /// Of a DeleteObjects only the first so many keys are deleted, and named in the answer.
    ApplyPart(usize),
    /// A DeleteObjects is applied, and its answer names only the first so many keys.
    NamePart(usize),
    /// A DeleteObjects is answered as if it had been applied.
    OnlySaySo,
    /// The checksum of a PUT is neither compared nor said again, as by a store that does not know it.
    IgnoreChecksum,
    /// The checksum of a PUT is said again, and was not compared.
    SayChecksum,
    /// A part is copied with another first byte than the source has.
    CopyOtherBytes,
    /// Applied after this time, also when the client is gone by then: a request that arrives late.
    /// Its signature is judged when it arrives.
    DelayThenApply(Duration),
    /// Waits for [`super::TestS3::release`], then is applied, also when the client is gone by then:
    /// a late arrival whose moment the test chooses.
    Hold,
    /// `RequestTimeTooSkewed`; not applied.
    ClockSkewError,
}

/// Which requests meet a fault, and how often.
#[derive(Debug, Clone)]
pub struct Rule {
    /// `None` matches every operation.
    pub op: Option<Op>,
    /// A part of the key (or of the listed prefix); empty matches all.
    pub key: String,
    /// Matching requests that pass before it begins.
    pub skip: u32,
    /// How many requests it meets; `None` is every one.
    pub times: Option<u32>,
    pub action: Action,
}

impl Rule {
    pub fn new(op: Op, key: &str, times: u32, action: Action) -> Self {
        Rule { op: Some(op), key: key.to_owned(), skip: 0, times: Some(times), action }
    }

    /// Meets every matching request until [`Plan::clear`].
    pub fn always(op: Option<Op>, key: &str, action: Action) -> Self {
        Rule { op, key: key.to_owned(), skip: 0, times: None, action }
    }
}

impl Rule {
    /// Lets this many matching requests pass first.
    pub fn after(self, skip: u32) -> Self {
        Rule { skip, ..self }
    }
}

/// The rules in order; the first that matches a request is used.
#[derive(Debug, Default)]
pub struct Plan {
    rules: Vec<Rule>,
}

impl Plan {
    pub fn add(&mut self, rule: Rule) {
        self.rules.push(rule);
    }

    pub fn clear(&mut self) {
        self.rules.clear();
    }

    /// Rules that can still meet a request.
    pub fn left(&self) -> usize {
        self.rules.len()
    }

    /// The keys of a group whose own deletion would be refused, and with what.
    pub fn take_keys(&mut self, keys: Vec<String>) -> BTreeMap<String, u16> {
        let refused = |rule: &Rule, key: &String| {
            rule.op == Some(Op::Delete)
                && matches!(rule.action, Action::Status(_))
                && key.contains(&rule.key)
        };
        let mut met = BTreeMap::new();
        for key in keys {
            if self.rules.iter().any(|rule| refused(rule, &key))
                && let Some(Action::Status(status)) = self.take(Op::Delete, &key)
            {
                met.insert(key, status);
            }
        }
        met
    }

    /// The fault for this request, counted down.
    pub fn take(&mut self, op: Op, key: &str) -> Option<Action> {
        let i = self.rules.iter_mut().position(|rule| {
            let fits = rule.op.is_none_or(|want| want == op) && key.contains(&rule.key);
            if fits && rule.skip > 0 {
                rule.skip -= 1;
                return false;
            }
            fits
        })?;
        let action = self.rules[i].action.clone();
        if let Some(times) = &mut self.rules[i].times {
            *times = times.saturating_sub(1);
            if *times == 0 {
                self.rules.remove(i);
            }
        }
        Some(action)
    }
}

/// Requests by operation.
pub type Counts = BTreeMap<Op, u64>;

/// Counts a log.
pub fn count(log: &[Logged]) -> Counts {
    let mut counts = Counts::new();
    for entry in log {
        *counts.entry(entry.op).or_default() += 1;
    }
    counts
}
