use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use futures::TryStreamExt;
use slatedb::object_store::ObjectStore;

use crate::clock::Deadline;
use crate::meta::engine::tests::TestStore;
use crate::meta::{Batch, Engine, EngineConfig};
use crate::types::{Epoch, Lsn};

const ROWS: u64 = 64;
const ROW: usize = 8 << 10;

/// A volume on a host whose clock is set.
struct Volume {
    store: Arc<TestStore>,
    ahead: Arc<AtomicI64>,
    engine: Engine,
    lsn: u64,
}

impl Volume {
    async fn new() -> Volume {
        let (store, ahead) = (TestStore::new(), Arc::new(AtomicI64::new(0)));
        let engine = Volume::open(&store, &ahead, None).await;
        Volume { store, ahead, engine, lsn: 0 }
    }

    async fn open(
        store: &Arc<TestStore>,
        ahead: &Arc<AtomicI64>,
        expected: Option<Epoch>,
    ) -> Engine {
        let mut config = EngineConfig::new(Arc::clone(store) as _, "v/meta/1", expected);
        let (right, by) = (Arc::clone(&config.wall), Arc::clone(ahead));
        config.wall = Arc::new(move || right() + by.load(Ordering::SeqCst));
        Engine::open(config).await.unwrap()
    }

    /// The worker dies, and another one goes on.
    async fn succeed(&mut self) {
        let epoch = self.engine.epoch();
        self.engine.abandon();
        self.engine = Volume::open(&self.store, &self.ahead, Some(epoch)).await;
    }

    fn pass(&self, minutes: i64) {
        self.ahead.fetch_add(minutes * 60_000, Ordering::SeqCst);
    }

    /// Every row is written anew, and made durable.
    async fn write(&mut self) {
        for row in 0..ROWS {
            self.lsn += 1;
            let mut batch = Batch::new();
            batch.put(format!("{row:06}"), [self.lsn as u8; ROW]);
            self.engine.write(Lsn(self.lsn), batch).await.unwrap();
        }
        let _receipt = self.engine.flush(Deadline::after(Duration::from_secs(20))).await.unwrap();
    }

    /// Bytes of what lies in a folder of the engine.
    async fn bytes(&self, folder: &str) -> u64 {
        let listed: Vec<_> = self.store.list(None).try_collect().await.unwrap();
        let inside = listed.iter().filter(|o| o.location.to_string().contains(folder));
        inside.map(|o| o.size).sum()
    }

    async fn whole(self) {
        let all = self.engine.scan(Bound::Unbounded, Bound::Unbounded, 1000).await.unwrap();
        assert_eq!(all.len() as u64, ROWS);
        self.engine.abandon();
    }
}

/// However long it is written: it has what was written in the last minutes, beside what it holds.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_written_for_hours_takes_what_the_last_minutes_wrote() {
    const ONCE: u64 = ROWS * ROW as u64;
    let mut volume = Volume::new().await;
    let mut most = (0, 0);
    for _ in 0..15 {
        volume.write().await;
        volume.engine.maintain(true).await.unwrap();
        volume.pass(4);
        most.0 = most.0.max(volume.bytes("/compacted/").await);
        most.1 = most.1.max(volume.bytes("/wal/").await);
    }
    // What it holds, what replaces it, and two rounds within the time, each with a table and a merge.
    assert!(most.0 <= 7 * ONCE, "tables: {} times what it holds", most.0 / ONCE);
    assert!(most.1 <= 3 * ONCE, "log: {} times what it holds", most.1 / ONCE);
    volume.whole().await;
}

/// What the last writes left is collected too, without a write that would make maintenance due.
#[tokio::test(flavor = "multi_thread")]
async fn garbage_of_a_volume_that_is_idle_now_goes_once_its_time_is_over() {
    let mut volume = Volume::new().await;
    for _ in 0..8 {
        volume.write().await;
        volume.engine.maintain(true).await.unwrap();
    }
    let left = volume.bytes("/compacted/").await + volume.bytes("/wal/").await;
    volume.pass(30);
    volume.engine.maintain(false).await.unwrap();
    let idle = volume.bytes("/compacted/").await + volume.bytes("/wal/").await;
    // What it holds, and the last of the log and of the tables that were merged, which the engine keeps.
    assert!(idle < left / 3, "{idle} bytes of {left}");
    volume.whole().await;
}

/// Nor does anybody have to live long enough for that: each looks soon after it began.
#[tokio::test(flavor = "multi_thread")]
async fn workers_that_die_within_minutes_collect_what_they_found() {
    let mut volume = Volume::new().await;
    for _ in 0..8 {
        volume.write().await;
        volume.engine.maintain(true).await.unwrap();
    }
    let left = volume.bytes("/compacted/").await + volume.bytes("/wal/").await;
    for _ in 0..6 {
        volume.pass(1);
        volume.succeed().await;
        volume.engine.maintain(false).await.unwrap();
    }
    let found = volume.bytes("/compacted/").await + volume.bytes("/wal/").await;
    assert!(found < left / 3, "{found} bytes of {left}");
    volume.whole().await;
}

/// A merge of everything for each table that comes would write all of it again and again.
#[tokio::test(flavor = "multi_thread")]
async fn tables_gather_before_they_are_merged() {
    let mut volume = Volume::new().await;
    let mut merged = 0;
    for round in 1..=8 {
        // Enough for maintenance to be due.
        for _ in 0..16 {
            volume.write().await;
        }
        let done = volume.engine.maintain(false).await.unwrap();
        assert!(done.ran, "round {round}");
        assert!(done.l0_after <= super::DUE_L0, "{done:?}");
        merged += usize::from(done.l0_after < done.l0_before);
    }
    assert!((1..=3).contains(&merged), "{merged} merges in eight rounds");
    volume.whole().await;
}
