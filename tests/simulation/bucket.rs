//! The bucket: one linearizable store of objects, and the network in front of it.
//!
//! What is asked of it arrives later, is applied when it arrives, whether or not the asker still lives, and is
//! answered later still; or something of that goes wrong ([`Fate`]).

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use md5::Digest;
use s3vol::store::{Attributes, Properties, Verb};
use s3vol::types::{StoreTime, Version};
use tokio::sync::{Notify, oneshot};

use crate::random::Random;
use crate::seam::{BEGAN, MICRO, MILLI, Machine, SECOND, Time};
use crate::sim::sim;

/// An object as it lies there.
#[derive(Debug, Clone)]
pub struct Object {
    pub body: Bytes,
    pub attributes: Attributes,
    pub properties: Properties,
    pub etag: String,
    /// Milliseconds since 1970 by the bucket's clock.
    pub modified: i64,
}

impl Object {
    pub fn version(&self) -> Version {
        Version {
            etag: self.etag.clone(),
            size: self.body.len() as u64,
            modified: Some(StoreTime(self.modified)),
            generation: None,
        }
    }
}

/// A multipart upload that was begun.
#[derive(Debug, Clone)]
pub struct Upload {
    pub key: String,
    pub attributes: Attributes,
    pub properties: Properties,
    pub parts: BTreeMap<u32, (String, Bytes)>,
}

/// How often something goes wrong, in a thousand requests.
#[derive(Debug, Clone, Default)]
pub struct Rates {
    /// Answered with a conflict, 500 or 503, without being applied.
    pub refused: u64,
    /// Never arrives.
    pub lost: u64,
    /// Applied, and never answered.
    pub unanswered: u64,
    /// Arrives when nobody waits any more.
    pub late: u64,
    /// Takes a hundred times as long as others.
    pub slow: u64,
    /// The body of an answer is cut off.
    pub cut: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Answered { arrives: Time, answered: Time },
    Refused { answered: Time, conflict: bool },
    Lost,
    Unanswered { arrives: Time },
    Late { arrives: Time },
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// 500, 503, a connection that was refused or cut.
    Unreachable,
    /// 409.
    Conflict,
    Timeout,
    /// Its signature had expired when it arrived.
    Expired,
    Denied,
}

/// What a request may do there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Reads,
    Writes,
}

type Aim = Box<dyn FnOnce()>;

pub struct Bucket {
    pub objects: RefCell<BTreeMap<String, Object>>,
    pub uploads: RefCell<BTreeMap<String, Upload>>,
    /// Uploads so far.
    pub begun: Cell<u64>,
    /// What it does not honour.
    pub overlooks: RefCell<BTreeSet<Verb>>,
    /// What somebody does when a request of this kind, to this key, is sent.
    aims: RefCell<BTreeMap<String, Aim>>,
    /// The last PUT of an object of the volume, or of a segment, that was sent.
    pub published: RefCell<Option<String>>,
    pub publishes: Notify,
    pub rates: RefCell<Rates>,
    /// The fastest answer.
    pub latency: Cell<Time>,
    /// Nobody reaches it.
    away: Cell<bool>,
    /// And that does not change any more.
    pub well: Cell<bool>,
    /// These hosts do not reach it.
    pub cut_off: RefCell<BTreeSet<usize>>,
    /// Credentials have expired.
    pub denied: Cell<bool>,
    /// How much the bucket's clock is ahead, milliseconds.
    pub ahead: Cell<i64>,
    pub requests: Cell<u64>,
    /// When something went wrong last.
    pub troubled: Cell<Time>,
    random: Random,
}

// SAFETY: all of a simulation lives on one thread; futures only want to be told that they might move.
unsafe impl Sync for Bucket {}

impl Bucket {
    pub fn new(seed: u64) -> Self {
        Bucket {
            objects: RefCell::default(),
            uploads: RefCell::default(),
            begun: Cell::default(),
            overlooks: RefCell::default(),
            aims: RefCell::default(),
            published: RefCell::default(),
            publishes: Notify::new(),
            rates: RefCell::default(),
            latency: Cell::new(MILLI),
            away: Cell::new(false),
            well: Cell::new(false),
            cut_off: RefCell::default(),
            denied: Cell::new(false),
            ahead: Cell::new(0),
            requests: Cell::new(0),
            troubled: Cell::new(0),
            random: Random::new(seed, 2),
        }
    }

    /// Milliseconds since 1970.
    pub fn clock(&self) -> i64 {
        BEGAN * 1000 + (sim().now() / MILLI) as i64 + self.ahead.get()
    }

    /// Credentials are no good any more, or again.
    pub fn denies(&self, denied: bool) {
        if !self.well.get() {
            crate::tell!("credentials {}", if denied { "have expired" } else { "are good again" });
            self.denied.set(denied);
        }
    }

    pub fn honours(&self, verb: Verb) -> bool {
        !self.overlooks.borrow().contains(&verb)
    }

    /// `aim` happens when `what` is sent to `key` the next time, before it arrives.
    pub fn aim(&self, what: &str, key: &str, aim: impl FnOnce() + 'static) {
        self.aims.borrow_mut().insert(format!("{what} {key}"), Box::new(aim));
    }

    /// Nothing goes wrong, and nothing is slow.
    pub fn is_well(&self) -> bool {
        let Rates { refused, lost, unanswered, late, slow, cut } = *self.rates.borrow();
        let rates = refused + lost + unanswered + late + slow + cut;
        rates == 0 && !self.away.get() && !self.denied.get() && self.cut_off.borrow().is_empty()
    }

    /// A request leaves.
    pub fn sent(&self, what: &str, key: &str) {
        let aim = self.aims.borrow_mut().remove(&format!("{what} {key}"));
        if let Some(aim) = aim {
            aim();
        }
        let ours = key.starts_with(crate::host::PREFIX) || key.contains("/segments/");
        if ours && matches!(what, "PUT" | "COMPLETE" | "PART" | "COPY PART") {
            *self.published.borrow_mut() = Some(key.to_owned());
            self.publishes.notify_waiters();
        }
    }

    /// Nobody reaches it any more, or again.
    pub fn goes_away(&self, away: bool) {
        if !self.well.get() {
            crate::tell!("the bucket is {}", if away { "away" } else { "back" });
            self.away.set(away);
        }
    }

    /// Everything goes well now.
    pub fn heal(&self) {
        *self.rates.borrow_mut() = Rates::default();
        self.away.set(false);
        self.cut_off.borrow_mut().clear();
        self.denied.set(false);
    }

    /// How many of the keys of a group it deletes before it answers, and when it goes on with the others, if at all.
    pub fn share(&self, keys: usize) -> (usize, Option<Time>) {
        let random = &self.random;
        let Rates { refused, lost, unanswered, late, .. } = *self.rates.borrow();
        if keys < 2 || !random.chance((refused + lost + unanswered + late) / 2) {
            return (keys, None);
        }
        self.troubled.set(sim().now());
        let later = random.chance(500).then(|| random.below(10 * SECOND));
        (random.below(keys as u64) as usize, later)
    }

    fn reachable(&self, host: usize) -> bool {
        !self.away.get() && !self.cut_off.borrow().contains(&host)
    }

    fn fate(&self) -> Fate {
        let random = &self.random;
        let rates = self.rates.borrow();
        let mut pace = self.latency.get();
        if random.chance(rates.slow) {
            pace *= 100;
        }
        let way = || pace / 2 + random.below(pace + 50 * MICRO);
        let mut luck = random.below(1000);
        let mut hits = |rate: u64| {
            let hit = luck < rate;
            luck = luck.saturating_sub(rate);
            hit
        };
        if hits(rates.refused) {
            return Fate::Refused { answered: way() + way(), conflict: random.chance(300) };
        }
        if hits(rates.lost) {
            return Fate::Lost;
        }
        if hits(rates.unanswered) {
            return Fate::Unanswered { arrives: way() };
        }
        if hits(rates.late) {
            return Fate::Late { arrives: random.between(10 * SECOND, 200 * SECOND) };
        }
        let arrives = way();
        Fate::Answered { arrives, answered: arrives + way() }
    }

    /// Puts an object there, at once.
    pub fn put(&self, key: &str, body: Bytes, attributes: Attributes, properties: Properties) {
        let etag = etag(&body);
        self.put_as(key, body, attributes, properties, etag);
    }

    /// Puts an object there that is told by this ETag.
    pub fn put_as(
        &self,
        key: &str,
        body: Bytes,
        attributes: Attributes,
        properties: Properties,
        etag: String,
    ) {
        let modified = self.clock();
        let object = Object { body, attributes, properties, etag, modified };
        self.objects.borrow_mut().insert(key.to_owned(), object);
    }
}

/// What bytes are told by.
pub fn etag(bytes: &[u8]) -> String {
    md5::Md5::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Asks the bucket from the process that runs now, and waits for the answer for `timeout` at most.
pub async fn ask<T: Send + 'static>(
    host: usize,
    access: Access,
    what: &'static str,
    key: &str,
    not_after: Option<StoreTime>,
    timeout: Duration,
    apply: impl FnOnce(&Bucket) -> T + Send + 'static,
) -> Result<T, Trouble> {
    let sim = sim();
    let machine: &'static Machine = sim.seam.running.get().expect("a process asks");
    if machine.dead.get() {
        std::future::pending::<()>().await;
    }
    let bucket = &sim.bucket;
    bucket.requests.set(bucket.requests.get() + 1);
    let fate = bucket.fate();
    if !matches!(fate, Fate::Answered { .. }) {
        bucket.troubled.set(sim.now());
    }
    bucket.sent(what, key);
    let (send, receive) = oneshot::channel::<Result<T, Trouble>>();
    let label = format!("{what} {key}");
    let arrive = move |answered: Option<Time>| {
        let bucket = &crate::sim::sim().bucket;
        if !bucket.reachable(host) {
            bucket.troubled.set(crate::sim::sim().now());
            return;
        }
        let expired =
            bucket.honours(Verb::Expiry) && not_after.is_some_and(|end| bucket.clock() > end.0);
        let result = if bucket.denied.get() {
            bucket.troubled.set(crate::sim::sim().now());
            Err(Trouble::Denied)
        } else if expired {
            Err(Trouble::Expired)
        } else {
            if access == Access::Writes {
                crate::tell!("arrives: {label} of host {host}");
            }
            Ok(apply(bucket))
        };
        let Some(answered) = answered else { return };
        crate::sim::sim().at(answered, move || {
            if crate::sim::sim().bucket.reachable(host) {
                let _ = send.send(result);
            }
        });
    };
    match fate {
        Fate::Answered { arrives, answered } => {
            sim.at(arrives, move || arrive(Some(answered - arrives)));
        }
        Fate::Unanswered { arrives } | Fate::Late { arrives } => {
            crate::tell!("{fate:?}: {what} {key} of host {host}");
            sim.at(arrives, move || arrive(None));
        }
        Fate::Refused { answered, conflict } => {
            crate::tell!("{fate:?}: {what} {key} of host {host}");
            let wait = Duration::from_nanos(answered).min(timeout);
            tokio::time::sleep(wait).await;
            let writes = access == Access::Writes;
            return Err(if conflict && writes { Trouble::Conflict } else { Trouble::Unreachable });
        }
        Fate::Lost => {
            crate::tell!("{fate:?}: {what} {key} of host {host}");
            if bucket.random.chance(500) {
                let soon = Duration::from_nanos(bucket.random.below(3 * SECOND));
                tokio::time::sleep(soon.min(timeout)).await;
                return Err(Trouble::Unreachable);
            }
            tokio::time::sleep(timeout).await;
            return Err(Trouble::Timeout);
        }
    }
    // Held, so that the answer is what is waited for, and not the end of its sender.
    let answer = async {
        match receive.await {
            Ok(answer) => answer,
            Err(_) => std::future::pending().await,
        }
    };
    let cut = bucket.random.chance(bucket.rates.borrow().cut);
    match tokio::time::timeout(timeout, answer).await {
        Ok(Ok(_)) if cut => Err(Trouble::Unreachable),
        Ok(answer) => answer,
        Err(_) => Err(Trouble::Timeout),
    }
}
