use tempfile::TempDir;

use super::super::engine::tests::{TestStore, open};
use super::super::log::Header;
use super::super::{Fold, LocalLog};
use super::*;
use crate::types::VolumeId;

/// Far more than anything takes that does not wait.
const SOON: Duration = Duration::from_secs(20);

struct World {
    store: Arc<TestStore>,
    meta: Meta,
    _dir: TempDir,
}

impl World {
    async fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let store = TestStore::new();
        let engine = open(&store).await;
        let log =
            LocalLog::open(dir.path(), Header::here(VolumeId::random()).unwrap()).unwrap().log;
        let superblock = SuperRec { next_ino: 2, ..SuperRec::default() };
        let mut meta = Meta::new(engine, Journal::new(log, Fold::default()), superblock, 0);
        meta.patience = Duration::from_millis(300);
        World { store, meta, _dir: dir }
    }

    async fn put(&self, key: &str, value: Vec<u8>) -> Result<(), MetaError> {
        let change = async {
            let mut txn = self.meta.begin().await?;
            txn.put_raw(key.as_bytes().to_vec(), value);
            txn.commit(Logged::Op { unique: 0 }, || {}).await
        };
        tokio::time::timeout(SOON, change).await.expect("an end")
    }

    async fn has(&self, key: &str) -> bool {
        let get = self.meta.get_raw(key.as_bytes());
        tokio::time::timeout(SOON, get).await.expect("an end").unwrap().is_some()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_without_a_bucket_are_taken_while_there_is_room_and_then_refused_whole() {
    let world = World::new().await;
    world.store.go_away(true);
    let mut taken = Vec::new();
    let late = loop {
        let key = format!("key {}", taken.len());
        match world.put(&key, vec![7; 200 << 10]).await {
            Ok(()) => taken.push(key),
            Err(error) => break (key, error),
        }
        assert!(taken.len() < 1000, "there is a limit");
    };
    assert!(matches!(late.1, MetaError::Late(_)), "{:?}", late.1);
    assert!(taken.len() > 150, "{}", taken.len());
    let again = world.put(&late.0, Vec::new()).await;
    assert!(matches!(again, Err(MetaError::Late(_))), "{again:?}");
    world.store.go_away(false);
    let _receipt = world.meta.flush(SOON).await.unwrap();
    for key in &taken {
        assert!(world.has(key).await, "{key}");
    }
    assert!(!world.has(&late.0).await, "a refused change leaves nothing");
    world.put(&late.0, b"now".to_vec()).await.unwrap();
    assert!(world.has(&late.0).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_and_flushes_wait_longer_as_long_as_something_goes_up() {
    let mut world = World::new().await;
    let sent: Arc<AtomicU64> = Arc::default();
    let counted = Arc::clone(&sent);
    world.meta.watch_uplink(move || counted.load(Ordering::SeqCst));
    world.store.go_away(true);
    let late = loop {
        if let Err(error) = world.put("key", vec![7; 2 << 20]).await {
            break error;
        }
    };
    assert!(matches!(late, MetaError::Late(_)), "nothing goes up: {late:?}");
    let patience = Duration::from_secs(1);
    world.meta.patience = patience;
    // As if all of it were slow.
    let goes_up = async {
        for step in 0.. {
            sent.fetch_add(2 << 20, Ordering::SeqCst);
            tokio::time::sleep(patience / 4).await;
            world.store.go_away(step < 6);
        }
    };
    let change =
        async { tokio::join!(world.put("now", vec![1]), world.meta.flush_patiently(patience)) };
    let (put, flushed) = tokio::select! {
        done = change => done,
        () = goes_up => unreachable!("it has no end"),
    };
    put.unwrap();
    let _receipt = flushed.unwrap();
    assert!(world.has("now").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_does_not_wait_for_a_handle_that_is_being_replaced() {
    let world = World::new().await;
    world.put("a", b"1".to_vec()).await.unwrap();
    world.store.go_away(true);
    // The flush meets the broken handle.
    assert!(world.meta.flush(Duration::from_millis(300)).await.is_err());
    let mut state = world.meta.engine.state();
    let reopening = state.wait_for(|state| *state == crate::meta::EngineState::Reopening);
    tokio::time::timeout(SOON, reopening).await.expect("a broken handle").unwrap();
    world.put("b", b"2".to_vec()).await.unwrap();
    let unknown = world.meta.get_raw(b"c").await;
    assert!(matches!(unknown, Err(MetaError::Late(_))), "{unknown:?}");
    world.store.go_away(false);
    let _receipt = world.meta.flush(SOON).await.unwrap();
    let read = |key: &'static [u8]| world.meta.engine.get(key);
    assert_eq!(read(b"a").await.unwrap().as_deref(), Some(&b"1"[..]));
    assert_eq!(read(b"b").await.unwrap().as_deref(), Some(&b"2"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_fails_because_another_host_has_the_volume_is_not_in_the_log() {
    let world = World::new().await;
    world.put("before", b"1".to_vec()).await.unwrap();
    let other = open(&world.store).await;
    let flushed = world.meta.flush(SOON).await;
    assert!(matches!(flushed, Err(MetaError::Engine(EngineError::Fenced { .. }))), "{flushed:?}");
    let logged = world.meta.journal.lock().next_lsn();
    let refused = world.put("after", b"2".to_vec()).await;
    assert!(matches!(refused, Err(MetaError::Engine(EngineError::Fenced { .. }))), "{refused:?}");
    let journal = world.meta.journal.lock();
    assert_eq!(journal.next_lsn(), logged, "whoever goes on with this log would find it there");
    assert_eq!(journal.undurable().len(), 1);
    drop(other);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_in_memory_once_and_only_until_it_is_durable() {
    let world = World::new().await;
    world.put("a", vec![1; 1000]).await.unwrap();
    let kept = world.meta.journal.lock().undurable();
    assert_eq!(kept.len(), 1);
    // The fold's, the engine's and this one.
    assert_eq!(Arc::strong_count(&kept[0]), 3);
    drop(kept);
    // Nobody calls the sequencer's flush: the engine's own has to do.
    for number in 0..40 {
        world.put(&format!("key {number}"), vec![7; 2 << 20]).await.unwrap();
        let held: usize =
            world.meta.journal.lock().undurable().iter().map(|batch| batch.len_bytes()).sum();
        assert!(held < 40 << 20, "{held} bytes after {number} batches");
    }
}

fn name_of(ino: u64, name: &str) -> Vec<u8> {
    keys::parent(Ino(ino), Ino::ROOT, &crate::types::FileName::new(name).unwrap())
}

/// A row of an inode made since the volume was opened takes the place of another one while they are read.
#[tokio::test(flavor = "multi_thread")]
async fn an_inode_that_is_renamed_has_a_name_at_every_moment() {
    let world = Arc::new(World::new().await);
    for ino in 100..400 {
        let names = keys::of_inode(keys::PARENT, Ino(ino));
        assert!(world.meta.scan(names.clone(), 9).await.unwrap().is_empty());
        let mut txn = world.meta.begin().await.unwrap();
        txn.put_raw(name_of(ino, "a"), Vec::new());
        txn.commit(Logged::Op { unique: 0 }, || {}).await.unwrap();
        let renames = Arc::clone(&world);
        let renamed = tokio::spawn(async move {
            let mut txn = renames.meta.begin().await.unwrap();
            txn.delete(name_of(ino, "a"));
            txn.put_raw(name_of(ino, "b"), Vec::new());
            txn.commit(Logged::Op { unique: 0 }, || {}).await.unwrap();
        });
        loop {
            let found = world.meta.scan(names.clone(), 9).await.unwrap();
            let found: Vec<&[u8]> = found.iter().map(|(key, _)| &key[..]).collect();
            assert_eq!(found.len(), 1, "{ino}: {found:?}");
            if found[0] == name_of(ino, "b") {
                break;
            }
        }
        renamed.await.unwrap();
    }
}
