//! What all parts of the server share: the buckets under their mutex, the log, the faults, the clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use super::fault::{Logged, Plan};
use super::model::Bucket;

/// Who may sign: access keys and their secrets.
pub type Keys = BTreeMap<String, String>;

/// The buckets, and those that were taken away for a while.
#[derive(Debug, Default)]
pub struct Buckets {
    pub live: BTreeMap<String, Bucket>,
    pub removed: BTreeMap<String, Bucket>,
}

#[derive(Debug)]
pub struct State {
    /// The one mutex under which every change is judged and made.
    pub buckets: Mutex<Buckets>,
    pub log: Mutex<Vec<Logged>>,
    pub plan: Mutex<Plan>,
    pub keys: Keys,
    /// Access keys that may not change anything.
    pub readers: Mutex<BTreeSet<String>>,
    /// Buckets that only these access keys may use.
    pub owners: Mutex<BTreeMap<String, BTreeSet<String>>>,
    /// Rights that no account has, as AWS names them.
    pub denied: Mutex<BTreeSet<String>>,
    /// Requests without `x-amz-request-payer` are refused.
    pub requester_pays: AtomicBool,
    /// A copy takes tags along for those who may not read them, too.
    pub copies_any_tags: AtomicBool,
    /// Microseconds that every request waits before it is handled.
    pub latency: AtomicU64,
    /// Seconds that the server's clock is ahead of the host's.
    pub clock_offset: AtomicI64,
    pub next_id: AtomicU64,
    /// How often the held requests were released.
    pub released: tokio::sync::watch::Sender<u64>,
    /// Requests that are held now.
    pub held: AtomicU64,
    /// It speaks as a Ceph gateway.
    pub gateway: AtomicBool,
    /// Pages of listings are not in the order of keys.
    pub disorder: AtomicBool,
    /// Creations (`If-None-Match: *`) under way by key, each with a mark that another one met it.
    pub creating: Mutex<BTreeMap<String, Vec<Arc<AtomicBool>>>>,
    /// Print each request to standard output.
    pub print: bool,
}

impl State {
    pub fn new(keys: Keys, print: bool) -> Self {
        State {
            buckets: Mutex::default(),
            log: Mutex::default(),
            plan: Mutex::default(),
            keys,
            readers: Mutex::default(),
            owners: Mutex::default(),
            denied: Mutex::default(),
            requester_pays: AtomicBool::new(false),
            copies_any_tags: AtomicBool::new(false),
            latency: AtomicU64::new(0),
            clock_offset: AtomicI64::new(0),
            next_id: AtomicU64::new(1),
            released: tokio::sync::watch::Sender::new(0),
            held: AtomicU64::new(0),
            gateway: AtomicBool::new(false),
            disorder: AtomicBool::new(false),
            creating: Mutex::default(),
            print,
        }
    }

    /// A creation begins; the mark says in the end whether another one ran beside it.
    pub fn begin_create(&self, key: &str) -> Arc<AtomicBool> {
        let mut creating = self.creating.lock();
        let others = creating.entry(key.to_owned()).or_default();
        let met = Arc::new(AtomicBool::new(!others.is_empty()));
        others.iter().for_each(|other| other.store(true, Ordering::Relaxed));
        others.push(Arc::clone(&met));
        met
    }

    pub fn end_create(&self, key: &str, met: &Arc<AtomicBool>) {
        let mut creating = self.creating.lock();
        if let Some(others) = creating.get_mut(key) {
            others.retain(|other| !Arc::ptr_eq(other, met));
            if others.is_empty() {
                creating.remove(key);
            }
        }
    }

    /// The server's clock.
    pub fn now(&self) -> SystemTime {
        shift(SystemTime::now(), self.clock_offset.load(Ordering::Relaxed))
    }

    /// The server's clock in whole seconds, as `Last-Modified` has it.
    pub fn now_secs(&self) -> SystemTime {
        let secs = self.now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        UNIX_EPOCH + Duration::from_secs(secs)
    }
}

/// `time` plus a signed number of seconds.
pub fn shift(time: SystemTime, secs: i64) -> SystemTime {
    let by = Duration::from_secs(secs.unsigned_abs());
    if secs >= 0 { time + by } else { time - by }
}
