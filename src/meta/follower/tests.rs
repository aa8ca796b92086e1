use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use proptest::prelude::*;
use slatedb::object_store::memory::InMemory;

use super::*;
use crate::meta::engine::tests::{Happens, TestStore};
use crate::meta::{Batch, Engine, EngineConfig};
use crate::types::{Epoch, Lsn};

const PATH: &str = "v/meta/1";

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

async fn engine(store: &Arc<dyn ObjectStore>, expected: Option<u64>) -> Engine {
    let config = EngineConfig::new(Arc::clone(store), PATH, expected.map(Epoch));
    Engine::open(config).await.unwrap()
}

async fn all(view: &View, limit: usize) -> Vec<(Bytes, Bytes)> {
    let mut found: Vec<(Bytes, Bytes)> = Vec::new();
    let mut from = Bound::Unbounded;
    loop {
        let page = view.scan(from, Bound::Unbounded, limit).await.unwrap();
        let Some((last, _)) = page.last() else { return found };
        from = Bound::Excluded(last.to_vec());
        found.extend(page);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Put(u8, u16),
    Delete(u8),
    Flush,
    /// Everything goes into tables.
    Maintain,
    /// Another host.
    Takeover,
    Poll,
    Renew,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..40u8, any::<u16>()).prop_map(|(key, value)| Step::Put(key, value)),
        3 => (0..40u8).prop_map(Step::Delete),
        4 => Just(Step::Flush),
        1 => Just(Step::Maintain),
        1 => Just(Step::Takeover),
        4 => Just(Step::Poll),
        1 => Just(Step::Renew),
    ];
    prop::collection::vec(step, 1..60)
}

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

async fn same(view: &View, model: &Model) {
    for limit in [1000, 3] {
        let found = all(view, limit).await;
        let found: Model = found.into_iter().map(|(k, v)| (k.to_vec(), v.to_vec())).collect();
        assert_eq!(&found, model, "pages of {limit}");
    }
    for (key, value) in model {
        let found = view.get_raw(key).await.unwrap();
        assert_eq!(found.as_deref(), Some(value.as_slice()));
    }
}

/// A follower shows exactly what was durable when it looked, and an old view stays as it was.
async fn follow(steps: Vec<Step>) {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let mut writer = engine(&store, None).await;
    let mut lsn = 0;
    let (mut newest, mut durable) = (Model::new(), Model::new());
    let follower = Follower::open(Arc::clone(&store), PATH, None, soon()).await.unwrap().unwrap();
    let mut former = (follower.view(), Model::new());
    for step in steps {
        let mut batch = Batch::new();
        match step {
            Step::Put(key, value) => {
                // Every batch sets two keys, which no view may tear apart.
                for key in [vec![key], vec![key, 1]] {
                    batch.put(key.clone(), value.to_be_bytes());
                    newest.insert(key, value.to_be_bytes().to_vec());
                }
            }
            Step::Delete(key) => {
                batch.delete([key]);
                newest.remove([key].as_slice());
            }
            Step::Flush => {
                let _receipt = writer.flush(soon()).await.unwrap();
                durable = newest.clone();
            }
            Step::Maintain => {
                let _receipt = writer.flush(soon()).await.unwrap();
                durable = newest.clone();
                writer.maintain(true).await.unwrap();
            }
            Step::Takeover => {
                let epoch = writer.epoch().0;
                writer.abandon();
                newest = durable.clone();
                writer = engine(&store, Some(epoch)).await;
            }
            Step::Poll | Step::Renew => {
                let view = match step {
                    Step::Poll => follower.poll(soon()).await.unwrap(),
                    _ => follower.renew(soon()).await.unwrap(),
                };
                same(&view, &durable).await;
                same(&former.0, &former.1).await;
                former = (view, durable.clone());
            }
        }
        if !batch.is_empty() {
            lsn += 1;
            writer.write(Lsn(lsn), batch).await.unwrap();
        }
    }
    let late = Follower::open(Arc::clone(&store), PATH, None, soon()).await.unwrap().unwrap();
    same(&late.view(), &durable).await;
    same(&follower.poll(soon()).await.unwrap(), &durable).await;
    writer.abandon();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn a_view_is_what_was_durable(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(follow(steps));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_log_is_read_whole_and_goes_with_the_tables() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let writer = engine(&store, None).await;
    let follower = Follower::open(Arc::clone(&store), PATH, None, soon()).await.unwrap().unwrap();
    for lsn in 1..=70u64 {
        let mut batch = Batch::new();
        for n in 0..100u64 {
            batch.put([lsn.to_be_bytes(), n.to_be_bytes()].concat(), vec![7; 10]);
        }
        writer.write(Lsn(lsn), batch).await.unwrap();
        let _receipt = writer.flush(soon()).await.unwrap();
    }
    assert_eq!(all(&follower.poll(soon()).await.unwrap(), 999).await.len(), 7000);
    assert_eq!(follower.view().rows.len(), 7001);
    writer.maintain(true).await.unwrap();
    let renewed = follower.renew(soon()).await.unwrap();
    assert_eq!(all(&renewed, 999).await.len(), 7000);
    assert!(renewed.rows.len() < 10, "{}", renewed.rows.len());
    writer.abandon();
}

/// The writer's collector deletes what its newest state does not need, log and tables.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_writer_deletes_is_no_loss() {
    let aged = TestStore::new();
    let store = Arc::clone(&aged) as Arc<dyn ObjectStore>;
    let ahead = Arc::new(std::sync::atomic::AtomicI64::new(0));
    let mut config = EngineConfig::new(Arc::clone(&store), PATH, None);
    let (host, later) = (Arc::clone(&config.wall), Arc::clone(&ahead));
    config.wall = Arc::new(move || host() + later.load(Ordering::SeqCst));
    let writer = Engine::open(config).await.unwrap();
    let mut lsn = 0;
    let mut write = async |round: u64| {
        for n in 0..100u64 {
            lsn += 1;
            let mut batch = Batch::new();
            batch.put(n.to_be_bytes(), vec![round as u8; 8 << 10]);
            writer.write(Lsn(lsn), batch).await.unwrap();
        }
        let _receipt = writer.flush(soon()).await.unwrap();
    };
    write(1).await;
    writer.maintain(true).await.unwrap();
    let follower = Follower::open(Arc::clone(&store), PATH, None, soon()).await.unwrap().unwrap();
    let old = follower.view();
    // Two hours later, for the names of tables and for listings of the log.
    aged.aged_secs.store(2 * 3600, Ordering::SeqCst);
    for round in 2..8 {
        ahead.fetch_add(2 * 3600 * 1000, Ordering::SeqCst);
        write(round).await;
        writer.maintain(true).await.unwrap();
    }
    // None of its tables was read before they were deleted.
    assert!(old.get_raw(&50u64.to_be_bytes()).await.is_err(), "its tables are still there");
    // The log says nothing of all that: it was collected, too.
    let newest = follower.renew(soon()).await.unwrap();
    assert!(newest.number() > old.number());
    for n in 0..100u64 {
        let value = newest.get_raw(&n.to_be_bytes()).await.unwrap().unwrap();
        assert_eq!(value, vec![7; 8 << 10]);
    }
    write(9).await;
    let last = follower.poll(soon()).await.unwrap();
    assert_eq!(last.get_raw(&7u64.to_be_bytes()).await.unwrap().unwrap(), vec![9; 8 << 10]);
    writer.abandon();
}

/// The end of the log is where an object is missing, so none may go before followers have read it.
#[tokio::test(flavor = "multi_thread")]
async fn a_writer_whose_clock_is_ahead_leaves_followers_the_log() {
    const DAY: i64 = 86_400_000;
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let mut config = EngineConfig::new(Arc::clone(&store), PATH, None);
    let right = Arc::clone(&config.wall);
    config.wall = Arc::new(move || right() + DAY);
    let bucket = Arc::clone(&EngineConfig::new(Arc::clone(&store), PATH, None).wall);
    config.bucket_clock = Some(Arc::new(move || {
        let now = bucket();
        Box::pin(async move { Some(now) })
    }));
    let writer = Engine::open(config).await.unwrap();
    let follower = Follower::open(Arc::clone(&store), PATH, None, soon()).await.unwrap().unwrap();
    for lsn in 1..=20u64 {
        let mut batch = Batch::new();
        batch.put(b"k", lsn.to_be_bytes());
        writer.write(Lsn(lsn), batch).await.unwrap();
        let _receipt = writer.flush(soon()).await.unwrap();
        if lsn % 5 == 0 {
            writer.maintain(true).await.unwrap();
        }
    }
    let newest = follower.poll(soon()).await.unwrap();
    assert_eq!(newest.get_raw(b"k").await.unwrap().unwrap(), 20u64.to_be_bytes().as_slice());
    writer.abandon();
}

/// The same for whoever only begins to follow: a log that nobody flushed for long goes as soon as it is flushed.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_log_that_goes_while_a_follower_opens_is_not_its_end() {
    let store = TestStore::new();
    let shared: Arc<dyn ObjectStore> = Arc::clone(&store) as _;
    let writer = Arc::new(engine(&shared, None).await);
    for lsn in 1..=20u64 {
        let mut batch = Batch::new();
        batch.put(b"k", lsn.to_be_bytes());
        writer.write(Lsn(lsn), batch).await.unwrap();
        let _receipt = writer.flush(soon()).await.unwrap();
    }
    store.aged_secs.store(2 * 3600, Ordering::SeqCst);
    let collects = Arc::clone(&writer);
    let happens = async move {
        collects.maintain(true).await.unwrap();
    };
    *store.before_wal.lock() = Some(Happens(Box::pin(happens)));
    let follower = Follower::open(shared, PATH, None, soon()).await.unwrap().unwrap();
    assert!(store.before_wal.lock().is_none());
    let found = follower.view().get_raw(b"k").await.unwrap().unwrap();
    assert_eq!(found, 20u64.to_be_bytes().as_slice());
    writer.abandon();
}

#[tokio::test]
async fn what_nobody_wrote_cannot_be_followed() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    assert!(Follower::open(store, PATH, None, soon()).await.unwrap().is_none());
}
