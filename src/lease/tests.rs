use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use super::judge::judge_at;
use super::*;
use crate::clock::Deadline;
use crate::store::{
    Attributes, GetResult, ListPage, ListRequest, ObjectInfo, Part, Properties, PutOutcome,
    RequestCounts, Send, StoreBackend, StoreErrorKind, Tags, UploadId,
};
use crate::types::{KeyPrefix, ObjectKey, StoreTime, Version};

const T: Duration = Duration::from_secs(5);

/// A store in memory with a clock of its own.
#[derive(Debug, Default)]
struct FakeStore {
    objects: Mutex<BTreeMap<ObjectKey, (Bytes, StoreTime)>>,
    clock: AtomicI64,
    /// Answers carry no time of the last change.
    undated: AtomicBool,
    /// Writes get no answer.
    away: AtomicBool,
    /// When a write would still be applied.
    latest: Mutex<Vec<Option<StoreTime>>>,
}

impl FakeStore {
    fn pass(&self, time: Duration) {
        self.clock.fetch_add(time.as_millis() as i64, Ordering::SeqCst);
    }

    fn now(&self) -> StoreTime {
        StoreTime(self.clock.load(Ordering::SeqCst))
    }

    fn version(&self, body: &Bytes, modified: StoreTime) -> Version {
        Version {
            etag: format!("{:08x}", crc32c::crc32c(body)),
            size: body.len() as u64,
            modified: (!self.undated.load(Ordering::SeqCst)).then_some(modified),
            generation: None,
        }
    }

    fn write(&self, epoch: u64, record: &LeaseRecord) {
        let body = Bytes::from(serde_json::to_vec(record).unwrap());
        self.objects.lock().insert(record_key(&state(), Epoch(epoch)), (body, self.now()));
    }

    fn record(&self, epoch: u64) -> Option<LeaseRecord> {
        let objects = self.objects.lock();
        let (body, _) = objects.get(&record_key(&state(), Epoch(epoch)))?;
        Some(serde_json::from_slice(body).unwrap())
    }
}

fn unsupported() -> StoreError {
    StoreError::new(StoreErrorKind::Unsupported, "not in this test")
}

#[async_trait]
impl StoreBackend for FakeStore {
    async fn put(
        &self,
        key: &ObjectKey,
        body: Bytes,
        _: &Attributes,
        _: &Properties,
        send: Send,
    ) -> PutOutcome {
        self.latest.lock().push(send.not_after);
        if self.away.load(Ordering::SeqCst) {
            return PutOutcome::Ambiguous(StoreError::new(StoreErrorKind::Timeout, "away"));
        }
        let version = self.version(&body, self.now());
        self.objects.lock().insert(key.clone(), (body, self.now()));
        PutOutcome::Won(version)
    }

    async fn get(
        &self,
        key: &ObjectKey,
        _: Option<Range<u64>>,
        _: Option<&Version>,
        _: Duration,
    ) -> Result<GetResult, StoreError> {
        let found = self.objects.lock().get(key).cloned();
        let missing = || StoreError::new(StoreErrorKind::NotFound, "no such key");
        let (data, modified) = found.ok_or_else(missing)?;
        let version = self.version(&data, modified);
        let info = ObjectInfo {
            version,
            attributes: Attributes::new(),
            properties: Properties::default(),
            tag_count: None,
        };
        Ok(GetResult { info, data })
    }

    async fn head(&self, _: &ObjectKey, _: Duration) -> Result<Option<ObjectInfo>, StoreError> {
        Err(unsupported())
    }

    async fn get_tags(&self, _: &ObjectKey, _: Duration) -> Result<Option<Tags>, StoreError> {
        Err(unsupported())
    }

    async fn list(&self, request: ListRequest, _: Duration) -> Result<ListPage, StoreError> {
        let objects = self.objects.lock();
        let keys = objects.iter().filter(|(key, _)| key.as_str().starts_with(&request.prefix));
        let entries = keys.map(|(key, (body, modified))| crate::store::Entry {
            key: key.clone(),
            version: self.version(body, *modified),
        });
        Ok(ListPage { entries: entries.collect(), ..ListPage::default() })
    }

    async fn delete(&self, key: &ObjectKey, _: Send) -> PutOutcome {
        let removed = self.objects.lock().remove(key);
        let (body, modified) = removed.unwrap_or((Bytes::new(), StoreTime(0)));
        PutOutcome::Won(self.version(&body, modified))
    }

    async fn copy(
        &self,
        _: &ObjectKey,
        _: &Version,
        _: &ObjectKey,
        _: &Attributes,
        _: &Properties,
        _: Send,
    ) -> PutOutcome {
        PutOutcome::Ambiguous(unsupported())
    }

    async fn create_upload(
        &self,
        _: &ObjectKey,
        _: &Attributes,
        _: &Properties,
        _: Duration,
    ) -> Result<UploadId, StoreError> {
        Err(unsupported())
    }

    async fn upload_part(
        &self,
        _: &ObjectKey,
        _: &UploadId,
        _: Part,
        _: Bytes,
        _: Duration,
    ) -> Result<String, StoreError> {
        Err(unsupported())
    }

    async fn complete_upload(
        &self,
        _: &ObjectKey,
        _: &UploadId,
        _: &[String],
        _: u64,
        _: Send,
    ) -> PutOutcome {
        PutOutcome::Ambiguous(unsupported())
    }

    async fn abort_upload(
        &self,
        _: &ObjectKey,
        _: &UploadId,
        _: Duration,
    ) -> Result<(), StoreError> {
        Err(unsupported())
    }

    async fn now(&self, _: Duration) -> Result<StoreTime, StoreError> {
        Ok(FakeStore::now(self))
    }

    fn requests(&self) -> RequestCounts {
        RequestCounts::default()
    }

    fn endpoint(&self) -> &str {
        "https://store.example"
    }
}

fn state() -> KeyPrefix {
    KeyPrefix::new("team/.s3vol/v/0001")
}

fn record(state: LeaseState, renewals: u64) -> LeaseRecord {
    LeaseRecord {
        instance: uuid::Uuid::from_u128(1),
        host: "web-1".to_owned(),
        endpoint: "https://store.example".to_owned(),
        state,
        renewals,
        since: StoreTime(1_700_000_000_000),
        note: Some("12 MiB left to upload".to_owned()),
    }
}

async fn judged(
    store: &FakeStore,
    epoch: u64,
    seen: &mut Observation,
    at: u64,
) -> Result<Judgement, LeaseError> {
    judge_at(store, &state(), Epoch(epoch), seen, T, Duration::from_secs(at)).await
}

fn held(judgement: Judgement) -> Holder {
    match judgement {
        Judgement::Held(holder) => holder,
        Judgement::Free(why) => panic!("free: {why:?}"),
    }
}

#[tokio::test]
async fn released_yielding_and_never_held_are_free_at_once() {
    let store = FakeStore::default();
    let mut seen = Observation::default();
    let free = judged(&store, 0, &mut seen, 0).await.unwrap();
    assert_eq!(free, Judgement::Free(Free::NeverHeld));
    store.write(3, &record(LeaseState::Released, 1));
    let free = judged(&store, 3, &mut seen, 0).await.unwrap();
    assert_eq!(free, Judgement::Free(Free::Released));
    store.write(3, &record(LeaseState::Yielding, 2));
    let free = judged(&store, 3, &mut seen, 0).await.unwrap();
    assert_eq!(free, Judgement::Free(Free::Yielding));
}

#[tokio::test]
async fn a_record_expires_by_the_stores_clock_alone() {
    let store = FakeStore::default();
    store.write(3, &record(LeaseState::Held, 1));
    store.pass(Duration::from_secs(40));
    let holder = held(judged(&store, 3, &mut Observation::default(), 0).await.unwrap());
    assert_eq!(holder.remaining, Duration::from_secs(20));
    store.pass(Duration::from_secs(20));
    let free = judged(&store, 3, &mut Observation::default(), 0).await.unwrap();
    assert_eq!(free, Judgement::Free(Free::Expired));
}

#[tokio::test]
async fn without_dates_a_record_that_does_not_change_expires_by_our_own_clock() {
    let store = FakeStore::default();
    store.undated.store(true, Ordering::SeqCst);
    let mut seen = Observation::default();
    store.write(3, &record(LeaseState::Held, 1));
    held(judged(&store, 3, &mut seen, 1_000).await.unwrap());
    let holder = held(judged(&store, 3, &mut seen, 1_059).await.unwrap());
    assert_eq!(holder.remaining, Duration::from_secs(1));
    // A renewal begins the time anew.
    store.write(3, &record(LeaseState::Held, 2));
    held(judged(&store, 3, &mut seen, 1_060).await.unwrap());
    held(judged(&store, 3, &mut seen, 1_119).await.unwrap());
    let free = judged(&store, 3, &mut seen, 1_120).await.unwrap();
    assert_eq!(free, Judgement::Free(Free::Silent));
}

#[tokio::test]
async fn an_owner_without_a_record_gets_a_lease_of_our_time_to_write_one() {
    let store = FakeStore::default();
    let mut seen = Observation::default();
    let holder = held(judged(&store, 4, &mut seen, 10).await.unwrap());
    assert_eq!(holder.record, None);
    // A new owner begins anew.
    held(judged(&store, 5, &mut seen, 69).await.unwrap());
    held(judged(&store, 5, &mut seen, 128).await.unwrap());
    let free = judged(&store, 5, &mut seen, 129).await.unwrap();
    assert_eq!(free, Judgement::Free(Free::NoRecord));
}

#[tokio::test]
async fn a_broken_record_is_an_error_and_never_free() {
    let store = FakeStore::default();
    let key = record_key(&state(), Epoch(3));
    store.objects.lock().insert(key, (Bytes::from_static(b"{}"), StoreTime(0)));
    store.pass(Duration::from_secs(600));
    let error = judged(&store, 3, &mut Observation::default(), 0).await.unwrap_err();
    assert!(matches!(error, LeaseError::Unreadable { epoch: Epoch(3), .. }), "{error:?}");
}

#[tokio::test]
async fn the_refused_host_is_told_who_since_when_how_much_and_what_to_do() {
    let store = FakeStore::default();
    store.write(3, &record(LeaseState::Held, 1));
    let holder = held(judged(&store, 3, &mut Observation::default(), 0).await.unwrap());
    let text = holder.to_string();
    for part in ["web-1", "since 2023-11-14T22:13:20Z", "12 MiB left", "stop the containers"] {
        assert!(text.contains(part), "{part} is missing in: {text}");
    }
}

#[tokio::test]
async fn records_nobody_judges_any_more_are_forgotten() {
    let store = FakeStore::default();
    for epoch in [1, 2, 8, 9, 10] {
        store.write(epoch, &record(LeaseState::Released, 1));
    }
    let gone = forget_older(&store, &state(), Epoch(10), T).await.unwrap();
    assert_eq!(gone, 3);
    assert!(store.record(9).is_some() && store.record(10).is_some());
}

/// Answers as it is told.
#[derive(Default)]
struct Check {
    damaged: AtomicBool,
    unknown: AtomicBool,
}

#[async_trait]
impl FormatCheck for Check {
    async fn check(&self, _: Duration) -> Result<(), FormatTrouble> {
        if self.damaged.load(Ordering::SeqCst) {
            return Err(FormatTrouble::Damaged("format.json is missing".to_owned()));
        }
        match self.unknown.load(Ordering::SeqCst) {
            true => Err(FormatTrouble::Unknown(unsupported())),
            false => Ok(()),
        }
    }
}

struct Kept {
    store: Arc<FakeStore>,
    check: Arc<Check>,
    seconds: Arc<AtomicU64>,
    keeper: Keeper,
}

async fn keep(renew_every: Duration) -> Kept {
    let store = Arc::new(FakeStore::default());
    let check = Arc::new(Check::default());
    let seconds = Arc::new(AtomicU64::new(1_000));
    let clock = Arc::clone(&seconds);
    let mut config = KeeperConfig::new(
        Arc::clone(&store) as Arc<dyn StoreBackend>,
        state(),
        Epoch(7),
        "web-1",
        Arc::clone(&check) as Arc<dyn FormatCheck>,
    );
    config.boottime = Arc::new(move || Duration::from_secs(clock.load(Ordering::SeqCst)));
    config.renew_every = renew_every;
    let keeper = Keeper::start(config, Deadline::after(T)).await.unwrap();
    Kept { store, check, seconds, keeper }
}

async fn until(keeper: &Keeper, what: impl Fn(&LeaseStatus) -> bool) {
    let mut status = keeper.status();
    tokio::time::timeout(T, status.wait_for(what)).await.unwrap().unwrap();
}

#[tokio::test]
async fn authority_lasts_half_a_lease_after_the_last_confirmed_renewal() {
    let kept = keep(Duration::from_secs(600)).await;
    assert_eq!(kept.store.record(7).map(|r| (r.state, r.renewals)), Some((LeaseState::Held, 1)));
    assert_eq!(kept.keeper.authority().map(|a| a.epoch()), Some(Epoch(7)));
    kept.seconds.fetch_add(29, Ordering::SeqCst);
    assert_eq!(kept.keeper.authority().map(|a| a.left()), Some(Duration::from_secs(1)));
    kept.seconds.fetch_add(1, Ordering::SeqCst);
    assert!(kept.keeper.authority().is_none());
    kept.keeper.set_state(LeaseState::Held, None, Deadline::after(T)).await.unwrap();
    assert!(kept.keeper.authority().is_some());
    kept.keeper.stop().await;
}

#[tokio::test]
async fn renewals_go_on_and_stop_confirming_while_the_store_is_away_or_cannot_say() {
    let kept = keep(Duration::from_millis(10)).await;
    kept.seconds.store(2_000, Ordering::SeqCst);
    until(&kept.keeper, |s| s.confirmed == Some(Duration::from_secs(2_000))).await;
    assert!(kept.store.record(7).unwrap().renewals > 1);
    for trouble in [&kept.store.away, &kept.check.unknown] {
        trouble.store(true, Ordering::SeqCst);
        // What was under way has ended when one more attempt was made after it.
        tokio::time::sleep(Duration::from_millis(50)).await;
        kept.seconds.fetch_add(40, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(kept.keeper.authority().is_none());
        trouble.store(false, Ordering::SeqCst);
        let now = Duration::from_secs(kept.seconds.load(Ordering::SeqCst));
        until(&kept.keeper, |s| s.confirmed == Some(now)).await;
        assert!(kept.keeper.authority().is_some());
    }
    kept.keeper.stop().await;
}

#[tokio::test]
async fn a_damaged_volume_is_final() {
    let kept = keep(Duration::from_millis(10)).await;
    kept.check.damaged.store(true, Ordering::SeqCst);
    until(&kept.keeper, |s| s.damaged.is_some()).await;
    assert!(kept.keeper.authority().is_none());
    let refused = kept.keeper.set_state(LeaseState::Held, None, Deadline::after(T)).await;
    assert!(matches!(refused, Err(LeaseError::Damaged(_))), "{refused:?}");
    kept.keeper.stop().await;
}

#[tokio::test]
async fn states_and_epochs_are_written_before_the_call_returns() {
    let kept = keep(Duration::from_secs(600)).await;
    let note = Some("3 MiB left".to_owned());
    let deadline = Deadline::after(T);
    kept.keeper.set_state(LeaseState::Yielding, note.clone(), deadline).await.unwrap();
    assert_eq!(kept.store.record(7).map(|r| (r.state, r.note)), Some((LeaseState::Yielding, note)));
    assert!(kept.keeper.authority().is_some());
    kept.keeper.adopt(Epoch(9), deadline).await.unwrap();
    assert_eq!(kept.store.record(9).map(|r| r.state), Some(LeaseState::Yielding));
    assert_eq!(kept.keeper.authority().map(|a| a.epoch()), Some(Epoch(9)));
    let written = kept.store.record(9).map(|r| r.renewals);
    kept.keeper.follow(Epoch(9), deadline).await.unwrap();
    assert_eq!(kept.store.record(9).map(|r| r.renewals), written, "nothing is to be done");
    kept.keeper.follow(Epoch(10), deadline).await.unwrap();
    assert_eq!(kept.store.record(10).map(|r| r.state), Some(LeaseState::Yielding));
    kept.keeper.adopt(Epoch(9), deadline).await.unwrap();
    kept.store.away.store(true, Ordering::SeqCst);
    let short = Deadline::after(Duration::from_millis(50));
    let late = kept.keeper.set_state(LeaseState::Released, None, short).await;
    assert!(matches!(late, Err(LeaseError::Deadline)), "{late:?}");
    kept.store.away.store(false, Ordering::SeqCst);
    kept.keeper.set_state(LeaseState::Released, None, Deadline::after(T)).await.unwrap();
    assert_eq!(kept.store.record(9).map(|r| r.state), Some(LeaseState::Released));
    assert!(kept.keeper.authority().is_none());
    kept.keeper.stop().await;
}

#[tokio::test]
async fn a_write_that_is_late_does_not_arrive_after_the_next_one() {
    let kept = keep(Duration::from_secs(600)).await;
    kept.store.pass(Duration::from_secs(1000));
    kept.store.away.store(true, Ordering::SeqCst);
    let short = Deadline::after(Duration::from_millis(50));
    kept.keeper.set_state(LeaseState::Yielding, None, short).await.unwrap_err();
    kept.store.away.store(false, Ordering::SeqCst);
    kept.keeper.set_state(LeaseState::Held, None, Deadline::after(T)).await.unwrap();
    let (now, latest) = (kept.store.now(), kept.store.latest.lock().clone());
    assert!(latest.len() >= 3, "{latest:?}");
    // A request is given up after ten seconds.
    for at in &latest[1..] {
        assert!(at.is_some_and(|at| at > now && at.0 < now.0 + 10_000), "{latest:?} at {now:?}");
    }
    kept.keeper.stop().await;
}
