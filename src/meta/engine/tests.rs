use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use async_trait::async_trait;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use slatedb::object_store::memory::InMemory;
use slatedb::object_store::{
    self, CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, path::Path,
};

use super::*;

mod accepted;
mod beside;
mod opening;

/// A store in memory that can be slow, away, or answer that nothing is there.
#[derive(Debug, Default)]
pub(in crate::meta) struct TestStore {
    inner: InMemory,
    puts: AtomicU64,
    requests: AtomicU64,
    wal_puts: AtomicU64,
    /// Of the files that hold what lookups look for.
    table_reads: AtomicU64,
    latency_ms: AtomicU64,
    /// Everything fails with 404.
    missing: AtomicBool,
    /// The next manifest is written, but its writer gets an error.
    lose_next_manifest_answer: AtomicBool,
    /// Listed objects look this much older than they are.
    pub(in crate::meta) aged_secs: AtomicU64,
    /// The next WAL object is refused with 404.
    fail_next_wal: AtomicBool,
    /// What happens before the next WAL object is read.
    pub(in crate::meta) before_wal: Mutex<Option<Happens>>,
}

pub(in crate::meta) struct Happens(pub BoxFuture<'static, ()>);

impl fmt::Debug for Happens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("something")
    }
}

impl TestStore {
    pub(in crate::meta) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// From now on everything fails with 404, or nothing does.
    pub(in crate::meta) fn go_away(&self, missing: bool) {
        self.missing.store(missing, Ordering::SeqCst);
    }

    async fn request(&self, path: &Path) -> object_store::Result<()> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let latency = self.latency_ms.load(Ordering::SeqCst);
        if latency > 0 {
            tokio::time::sleep(Duration::from_millis(latency)).await;
        }
        match self.missing.load(Ordering::SeqCst) {
            true => Err(not_found(path)),
            false => Ok(()),
        }
    }
}

fn not_found(path: &Path) -> object_store::Error {
    object_store::Error::NotFound { path: path.to_string(), source: "no such bucket".into() }
}

impl fmt::Display for TestStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("test store")
    }
}

#[async_trait]
impl ObjectStore for TestStore {
    async fn put_opts(
        &self,
        path: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> object_store::Result<PutResult> {
        self.request(path).await?;
        self.puts.fetch_add(1, Ordering::SeqCst);
        let name = path.to_string();
        if name.contains("/wal/") {
            self.wal_puts.fetch_add(1, Ordering::SeqCst);
            if self.fail_next_wal.swap(false, Ordering::SeqCst) {
                return Err(not_found(path));
            }
        }
        let result = self.inner.put_opts(path, payload, opts).await;
        if name.ends_with(".manifest")
            && self.lose_next_manifest_answer.swap(false, Ordering::SeqCst)
        {
            return Err(not_found(path));
        }
        result
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        opts: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.request(path).await?;
        self.inner.put_multipart_opts(path, opts).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.request(path).await?;
        if path.to_string().contains("/compacted/") {
            self.table_reads.fetch_add(1, Ordering::SeqCst);
        }
        if path.to_string().contains("/wal/") {
            let happens = self.before_wal.lock().take();
            if let Some(Happens(happens)) = happens {
                happens.await;
            }
        }
        self.inner.get_opts(path, options).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        match self.missing.load(Ordering::SeqCst) {
            true => futures::stream::empty().boxed(),
            false => {
                let older = Duration::from_secs(self.aged_secs.load(Ordering::SeqCst));
                let listed = self.inner.list(prefix).map(move |meta| {
                    meta.map(|m| ObjectMeta { last_modified: m.last_modified - older, ..m })
                });
                listed.boxed()
            }
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.request(&Path::default()).await?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(
        &self,
        from: &Path,
        to: &Path,
        options: CopyOptions,
    ) -> object_store::Result<()> {
        self.request(from).await?;
        self.inner.copy_opts(from, to, options).await
    }
}

fn config(store: &Arc<TestStore>, expected: Option<Epoch>) -> EngineConfig {
    EngineConfig::new(Arc::clone(store) as Arc<dyn ObjectStore>, "v/meta/1", expected)
}

async fn epoch_in(store: &Arc<TestStore>) -> Option<Epoch> {
    let store = Arc::clone(store) as Arc<dyn ObjectStore>;
    Engine::writer_epoch(&store, "v/meta/1", Epoch(0)).await.unwrap()
}

/// Opens as the next owner.
pub(in crate::meta) async fn open(store: &Arc<TestStore>) -> Engine {
    Engine::open(config(store, epoch_in(store).await)).await.unwrap()
}

fn put(key: &str, value: &str) -> Batch {
    let mut batch = Batch::new();
    batch.put(key, value);
    batch
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

async fn get(engine: &Engine, key: &str) -> Option<String> {
    let value = engine.get(key.as_bytes()).await.unwrap();
    value.map(|v| String::from_utf8(v.to_vec()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_flushed_is_found_by_the_next_owner_and_the_rest_is_not() {
    let store = TestStore::new();
    assert_eq!(epoch_in(&store).await, None);
    let engine = open(&store).await;
    assert_eq!((engine.epoch(), engine.applied()), (Epoch(1), None));
    engine.write(Lsn(1), put("a", "1")).await.unwrap();
    engine.write(Lsn(2), put("b", "2")).await.unwrap();
    let _receipt = engine.flush(soon()).await.unwrap();
    assert_eq!(engine.durable_lsn(), Lsn(2));
    engine.write(Lsn(3), put("c", "3")).await.unwrap();
    assert_eq!(get(&engine, "c").await.as_deref(), Some("3"));
    engine.abandon();

    let next = open(&store).await;
    assert_eq!(next.epoch(), Epoch(2));
    let applied = next.applied().unwrap();
    assert_eq!((applied.epoch, applied.lsn), (Epoch(1), Lsn(2)));
    assert_eq!(get(&next, "b").await.as_deref(), Some("2"));
    assert_eq!(get(&next, "c").await, None);
    next.close(soon()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn scans_are_ascending_bounded_and_hide_the_engines_own_key() {
    let store = TestStore::new();
    let engine = open(&store).await;
    for (n, key) in ["d", "a", "c", "b"].into_iter().enumerate() {
        engine.write(Lsn(n as u64 + 1), put(key, key)).await.unwrap();
    }
    let keys = |pairs: Vec<(Bytes, Bytes)>| -> Vec<String> {
        pairs.into_iter().map(|(k, _)| String::from_utf8(k.to_vec()).unwrap()).collect()
    };
    let all = engine.scan(Bound::Unbounded, Bound::Unbounded, 10).await.unwrap();
    assert_eq!(keys(all), ["a", "b", "c", "d"]);
    let from = Bound::Excluded(b"a".to_vec());
    let some = engine.scan(from, Bound::Unbounded, 2).await.unwrap();
    assert_eq!(keys(some), ["b", "c"]);
    let (from, to) = (Bound::Included(b"c".to_vec()), Bound::Excluded(b"c".to_vec()));
    assert!(engine.scan(from, to, 2).await.unwrap().is_empty());
    let mut batch = Batch::new();
    batch.put(RESERVED_KEY, "x");
    assert!(matches!(engine.write(Lsn(9), batch).await, Err(EngineError::BadKey)));
    let late = engine.write(Lsn(4), put("a", "x")).await;
    assert!(matches!(late, Err(EngineError::OutOfOrder { .. })));
    engine.close(soon()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_challenger_wins_and_the_old_owner_is_fenced_for_good() {
    let store = TestStore::new();
    let old = open(&store).await;
    old.write(Lsn(1), put("a", "1")).await.unwrap();
    let _receipt = old.flush(soon()).await.unwrap();
    let seen = epoch_in(&store).await;
    let challengers =
        futures::future::join_all((0..4).map(|_| Engine::open(config(&store, seen)))).await;
    let mut winners: Vec<Engine> = Vec::new();
    for challenger in challengers {
        match challenger {
            Ok(engine) => winners.push(engine),
            Err(error) => assert!(matches!(error, EngineError::Fenced { .. }), "{error:?}"),
        }
    }
    assert_eq!(winners.len(), 1);
    let winner = winners.pop().unwrap();

    // It may learn of it already here; at the flush at the latest.
    if let Err(error) = old.write(Lsn(2), put("a", "old")).await {
        assert!(matches!(error, EngineError::Fenced { .. }), "{error:?}");
    }
    let error = old.flush(soon()).await.unwrap_err();
    assert!(matches!(error, EngineError::Fenced { ours: Epoch(1), found: Epoch(2) }), "{error:?}");
    assert_eq!(*old.state().borrow(), EngineState::Fenced);
    assert!(old.get(b"a").await.unwrap_err().is_final());
    assert!(old.write(Lsn(3), put("a", "x")).await.unwrap_err().is_final());

    winner.write(Lsn(1), put("b", "2")).await.unwrap();
    let _receipt = winner.flush(soon()).await.unwrap();
    assert_eq!(get(&winner, "a").await.as_deref(), Some("1"));
    winner.close(soon()).await.unwrap();
    assert!(old.close(soon()).await.unwrap_err().is_final());
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_fsyncs_share_the_next_flush() {
    let store = TestStore::new();
    let engine = Arc::new(open(&store).await);
    store.latency_ms.store(50, Ordering::SeqCst);
    let before = store.wal_puts.load(Ordering::SeqCst);
    let mut waiting = Vec::new();
    for n in 1..=16 {
        engine.write(Lsn(n), put(&format!("k{n}"), "v")).await.unwrap();
        let engine = Arc::clone(&engine);
        waiting.push(tokio::spawn(async move { engine.flush(soon()).await }));
    }
    for flush in waiting {
        let _receipt = flush.await.unwrap().unwrap();
    }
    assert_eq!(engine.durable_lsn(), Lsn(16));
    let puts = store.wal_puts.load(Ordering::SeqCst) - before;
    assert!((1..=3).contains(&puts), "{puts} PUTs for 16 fsyncs");
    engine.close(soon()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_needs_no_request_when_nothing_is_new_and_idling_makes_none() {
    let store = TestStore::new();
    let engine = open(&store).await;
    engine.write(Lsn(1), put("a", "1")).await.unwrap();
    let _receipt = engine.flush(soon()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let before = store.requests.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let _receipt = engine.flush(soon()).await.unwrap();
    assert_eq!(store.requests.load(Ordering::SeqCst), before);
    engine.close(soon()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_leaves_the_flush_running() {
    let store = TestStore::new();
    let engine = open(&store).await;
    engine.write(Lsn(1), put("a", "1")).await.unwrap();
    store.latency_ms.store(400, Ordering::SeqCst);
    let early = engine.flush(Deadline::after(Duration::from_millis(20))).await;
    assert!(matches!(early, Err(EngineError::Deadline)), "{early:?}");
    let mut durable = engine.durable_changes();
    let waited = tokio::time::timeout(Duration::from_secs(5), durable.wait_for(|l| *l == Lsn(1)));
    waited.await.unwrap().unwrap();
    store.latency_ms.store(0, Ordering::SeqCst);
    engine.close(soon()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handle_that_dies_of_one_404_is_replaced_and_nothing_is_lost() {
    let store = TestStore::new();
    let mut config = config(&store, None);
    let logged = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&logged);
    config.on_epoch = Some(Arc::new(move |epoch| {
        log.lock().push(epoch);
        Ok(())
    }));
    let engine = Engine::open(config).await.unwrap();
    engine.write(Lsn(1), put("a", "1")).await.unwrap();
    let _receipt = engine.flush(soon()).await.unwrap();
    engine.write(Lsn(2), put("a", "2")).await.unwrap();
    engine.write(Lsn(3), put("b", "3")).await.unwrap();
    store.fail_next_wal.store(true, Ordering::SeqCst);
    let _receipt = engine.flush(soon()).await.unwrap();
    assert_eq!(engine.durable_lsn(), Lsn(3));
    assert_eq!(get(&engine, "a").await.as_deref(), Some("2"));
    assert_eq!(*engine.state().borrow(), EngineState::Active);
    assert!(engine.epoch() > Epoch(1), "the handle was not replaced");
    assert_eq!(logged.lock().last(), Some(&engine.epoch()));
    assert_eq!(epoch_in(&store).await, Some(engine.epoch()));
    engine.abandon();

    let next = open(&store).await;
    assert_eq!(next.applied().map(|a| a.lsn), Some(Lsn(3)));
    assert_eq!(get(&next, "b").await.as_deref(), Some("3"));
    next.close(soon()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_wait_while_the_bucket_is_gone_and_go_on_when_it_is_back() {
    let store = TestStore::new();
    let engine = Arc::new(open(&store).await);
    engine.write(Lsn(1), put("a", "1")).await.unwrap();
    store.missing.store(true, Ordering::SeqCst);
    let early = engine.flush(Deadline::after(Duration::from_millis(300))).await;
    assert!(matches!(early, Err(EngineError::Deadline)), "{early:?}");
    assert_eq!(*engine.state().borrow(), EngineState::Reopening);
    let writer = Arc::clone(&engine);
    let write = tokio::spawn(async move { writer.write(Lsn(2), put("b", "2")).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!write.is_finished());
    store.missing.store(false, Ordering::SeqCst);
    write.await.unwrap().unwrap();
    let _receipt = engine.flush(soon()).await.unwrap();
    assert_eq!(get(&engine, "a").await.as_deref(), Some("1"));
    assert_eq!(engine.durable_lsn(), Lsn(2));
    engine.close(soon()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_claim_is_recognised_when_its_answer_was_lost() {
    let store = TestStore::new();
    let engine = open(&store).await;
    engine.write(Lsn(1), put("a", "1")).await.unwrap();
    engine.close(soon()).await.unwrap();
    store.lose_next_manifest_answer.store(true, Ordering::SeqCst);
    let engine = open(&store).await;
    // The lost claim was the second epoch; finding it ours, the third was claimed over it.
    assert_eq!(engine.epoch(), Epoch(3));
    assert_eq!(epoch_in(&store).await, Some(Epoch(3)));
    assert_eq!(get(&engine, "a").await.as_deref(), Some("1"));
    engine.close(soon()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_write_is_still_handed_over_in_order() {
    let store = TestStore::new();
    let engine = open(&store).await;
    for n in 1..=20u64 {
        let write = engine.write(Lsn(n), put("k", &n.to_string()));
        // Polled once, then dropped wherever it is.
        let _ = tokio::time::timeout(Duration::ZERO, write).await;
    }
    let _receipt = engine.flush(soon()).await.unwrap();
    assert_eq!(engine.durable_lsn(), Lsn(20));
    assert_eq!(get(&engine, "k").await.as_deref(), Some("20"));
    engine.close(soon()).await.unwrap();
}

/// A clock behind the last writer's stalls and then kills a plain handle.
#[tokio::test(flavor = "multi_thread")]
async fn hosts_a_day_apart_and_a_clock_set_back_do_not_disturb_each_other() {
    const DAY: i64 = 86_400_000;
    let store = TestStore::new();
    let host_now = (HybridClock::host_wall())();
    let at = |wall: &Arc<AtomicI64>, expected| {
        let wall = Arc::clone(wall);
        let mut config = config(&store, expected);
        config.wall = Arc::new(move || wall.load(Ordering::SeqCst));
        config
    };
    let ahead = Arc::new(AtomicI64::new(host_now + DAY));
    let behind = Arc::new(AtomicI64::new(host_now));
    let mut lsn = 0;
    let started = std::time::Instant::now();
    for wall in [&behind, &ahead, &behind, &ahead, &behind] {
        let engine = Engine::open(at(wall, epoch_in(&store).await)).await.unwrap();
        for back in [0, 3_600_000] {
            wall.fetch_sub(back, Ordering::SeqCst);
            lsn += 1;
            engine.write(Lsn(lsn), put("k", &lsn.to_string())).await.unwrap();
            let _receipt = engine.flush(soon()).await.unwrap();
        }
        let epoch = engine.epoch();
        engine.maintain(true).await.unwrap();
        assert_eq!(engine.epoch(), epoch, "the handle died of its clock");
        engine.close(soon()).await.unwrap();
    }
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    let last = open(&store).await;
    assert_eq!(get(&last, "k").await, Some(lsn.to_string()));
    last.close(soon()).await.unwrap();
}

/// With the engine's own way of closing the ninth of these hangs for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_dozen_mounts_without_maintenance_leave_nothing_in_l0() {
    let store = TestStore::new();
    for cycle in 1..=12u64 {
        let engine = open(&store).await;
        engine.write(Lsn(cycle), put(&format!("k{cycle}"), "v")).await.unwrap();
        let started = std::time::Instant::now();
        engine.close(soon()).await.unwrap();
        assert!(started.elapsed() < CLOSE_LIMIT, "cycle {cycle} was cut off");
    }
    let engine = open(&store).await;
    assert_eq!(engine.inner.handle().await.unwrap().db.manifest().l0().len(), 0);
    for cycle in 1..=12u64 {
        assert!(get(&engine, &format!("k{cycle}")).await.is_some(), "k{cycle}");
    }
    engine.close(soon()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn forty_mounts_stay_bounded_and_never_hang() {
    let store = TestStore::new();
    let mut most_l0 = 0;
    for cycle in 1..=40u64 {
        let engine = tokio::time::timeout(Duration::from_secs(10), open(&store)).await.unwrap();
        engine.write(Lsn(cycle), put(&format!("k{cycle}"), "v")).await.unwrap();
        // What a busy mount does by itself, so that files gather in L0.
        let force = cycle % 2 == 0;
        let done = tokio::time::timeout(Duration::from_secs(20), engine.maintain(force)).await;
        most_l0 = most_l0.max(done.unwrap().unwrap().l0_after);
        let closed = engine.close(Deadline::after(Duration::from_secs(5))).await;
        closed.unwrap_or_else(|error| panic!("cycle {cycle}: {error}"));
    }
    assert!(most_l0 <= 4, "{most_l0} files in L0");
    let engine = open(&store).await;
    for cycle in 1..=40u64 {
        assert!(get(&engine, &format!("k{cycle}")).await.is_some(), "k{cycle}");
    }
    let manifest = engine.inner.handle().await.unwrap().db.manifest();
    assert!(manifest.l0().len() + manifest.compacted().len() <= 12, "{manifest:?}");
    engine.close(soon()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn maintenance_runs_when_due_beside_writers_and_keeps_everything() {
    let store = TestStore::new();
    let engine = Arc::new(open(&store).await);
    assert!(!engine.maintain(false).await.unwrap().ran);
    let mut lsn = 0;
    for round in 0..5 {
        for n in 0..40 {
            lsn += 1;
            let batch = put(&format!("k{n}"), &"x".repeat(16 << 10));
            engine.write(Lsn(lsn), batch).await.unwrap();
        }
        let _receipt = engine.flush(soon()).await.unwrap();
        let busy = Arc::clone(&engine);
        let maintaining = tokio::spawn(async move { busy.maintain(true).await });
        for n in 0..20 {
            lsn += 1;
            engine.write(Lsn(lsn), put(&format!("r{round}-{n}"), "v")).await.unwrap();
        }
        let _receipt = engine.flush(soon()).await.unwrap();
        let done = maintaining.await.unwrap().unwrap();
        assert!(done.ran && done.l0_after <= 1, "{done:?}");
    }
    assert_eq!(engine.epoch(), Epoch(1));
    engine.abandon();
    let next = open(&store).await;
    assert_eq!(next.applied().map(|a| a.lsn), Some(Lsn(lsn)));
    let all = next.scan(Bound::Unbounded, Bound::Unbounded, 1000).await.unwrap();
    assert_eq!(all.len(), 40 + 100);
    next.close(soon()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_scan_asks_the_store_for_nothing() {
    let store = TestStore::new();
    let engine = open(&store).await;
    for n in 1..=100 {
        engine.write(Lsn(n), put(&format!("k{n:03}"), &"x".repeat(1000))).await.unwrap();
    }
    engine.maintain(true).await.unwrap();
    let mut requests = Vec::new();
    for _ in 0..3 {
        let all = engine.scan(Bound::Unbounded, Bound::Unbounded, 1000).await.unwrap();
        assert_eq!(all.len(), 100);
        requests.push(store.requests.load(Ordering::SeqCst));
    }
    assert_eq!(requests[1], requests[0]);
    assert_eq!(requests[2], requests[0]);
    engine.close(soon()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_wait_instead_of_filling_memory() {
    let store = TestStore::new();
    let engine = open(&store).await;
    for n in 1..=40 {
        engine.write(Lsn(n), put(&format!("k{n}"), &"x".repeat(2 << 20))).await.unwrap();
        let bytes = engine.inner.kept.lock().bytes();
        assert!(bytes <= MAX_KEPT_BYTES + (2 << 20), "{bytes}");
    }
    engine.close(soon()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_unreferenced_for_its_time_is_collected_and_nothing_else() {
    let store = TestStore::new();
    let engine = open(&store).await;
    let mut lsn = 0;
    for _ in 0..10 {
        lsn += 1;
        engine.write(Lsn(lsn), put(&format!("k{lsn}"), "v")).await.unwrap();
        let _receipt = engine.flush(soon()).await.unwrap();
    }
    engine.maintain(true).await.unwrap();
    let young = objects(&store, "/wal/").await;
    assert!(young >= 10, "{young} WAL objects after a collection within their time");
    store.aged_secs.store(2 * 3600, Ordering::SeqCst);
    lsn += 1;
    engine.write(Lsn(lsn), put(&format!("k{lsn}"), "v")).await.unwrap();
    engine.maintain(true).await.unwrap();
    let old = objects(&store, "/wal/").await;
    assert!(old <= 4, "{old} WAL objects are left of {young}");
    assert!(objects(&store, "/manifest/").await <= 6);
    engine.abandon();
    let next = open(&store).await;
    let all = next.scan(Bound::Unbounded, Bound::Unbounded, 100).await.unwrap();
    assert_eq!(all.len() as u64, lsn);
    next.close(soon()).await.unwrap();
}

async fn objects(store: &TestStore, folder: &str) -> usize {
    let listed = store.inner.list(None).filter(|meta| {
        let inside = meta.as_ref().is_ok_and(|m| m.location.to_string().contains(folder));
        futures::future::ready(inside)
    });
    listed.count().await
}

/// More than the engine keeps in memory, made durable, flushed to its first level and compacted.
async fn filled(engine: &Engine, rows: u64) {
    for row in 0..rows {
        let mut batch = Batch::new();
        batch.put(format!("{row:06}"), [row as u8; 4096]);
        engine.write(Lsn(row + 1), batch).await.unwrap();
    }
    let _receipt = engine.flush(soon()).await.unwrap();
    engine.maintain(true).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_mirror_lookups_need_no_bucket_and_a_damaged_copy_is_fetched_again() {
    const ROWS: u64 = 8_000;
    let store = TestStore::new();
    let dir = tempfile::tempdir().unwrap();
    let mirrored = |expected| {
        let mirror = Mirror { dir: dir.path().to_owned(), max_bytes: 1 << 30 };
        EngineConfig { mirror: Some(mirror), ..config(&store, expected) }
    };
    let look_up = async |engine: &Engine| {
        for row in (0..ROWS).step_by(61) {
            let found = engine.get(format!("{row:06}").as_bytes()).await.unwrap().unwrap();
            assert_eq!(found, vec![row as u8; 4096]);
        }
    };
    let engine = Engine::open(mirrored(None)).await.unwrap();
    filled(&engine, ROWS).await;
    let before = store.requests.load(Ordering::SeqCst);
    look_up(&engine).await;
    // Also right after a worker's restart, whose memory is empty.
    engine.abandon();
    let engine = Engine::open(mirrored(Some(Epoch(1)))).await.unwrap();
    let opened = store.requests.load(Ordering::SeqCst);
    let reads = store.table_reads.load(Ordering::SeqCst);
    store.missing.store(true, Ordering::SeqCst);
    look_up(&engine).await;
    // The engine itself may look after its manifest meanwhile.
    assert_eq!(store.table_reads.load(Ordering::SeqCst), reads);
    assert!(opened - before < 40, "{} requests to open", opened - before);
    store.missing.store(false, Ordering::SeqCst);
    engine.abandon();

    let mut damaged = 0;
    let mut folders = vec![dir.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if std::fs::metadata(&path).unwrap().len() == (1 << 20) {
                std::fs::write(&path, vec![0; 1 << 20]).unwrap();
                damaged += 1;
            }
        }
    }
    assert!(damaged > 0);
    let engine = Engine::open(mirrored(Some(Epoch(2)))).await.unwrap();
    look_up(&engine).await;
    engine.close(soon()).await.unwrap();
}

/// The collector goes by the times in the names of tables.
#[tokio::test(flavor = "multi_thread")]
async fn tables_of_a_slow_clock_are_named_after_those_that_are_there() {
    const AHEAD: i64 = 600_000;
    let store = TestStore::new();
    let mut config = config(&store, None);
    let (right, by) = (Arc::clone(&config.wall), Arc::new(AtomicI64::new(0)));
    let ahead = Arc::clone(&by);
    config.wall = Arc::new(move || right() + ahead.load(Ordering::SeqCst));
    let engine = Engine::open(config).await.unwrap();
    engine.write(Lsn(1), put("a", "1")).await.unwrap();
    let _receipt = engine.flush(soon()).await.unwrap();
    by.store(AHEAD, Ordering::SeqCst);
    engine.maintain(true).await.unwrap();
    engine.abandon();
    let next = open(&store).await;
    let now = HybridClock::host_wall()();
    assert!(next.inner.backend.clock.tick() > now + AHEAD / 2);
    next.close(soon()).await.unwrap();
}
