//! The store as the metadata engine sees it.

use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _, PutMode, PutOptions};
use s3vol::store::{EngineStore, Location, Store, StoreSettings};
use s3vol::types::KeyPrefix;

use super::store_of;
use super::support::s3server::{Action, Area, Op, Rule, TestS3};

const PREFIX: &str = "home/.s3vol/v/1/meta";

fn engine(store: &Store) -> EngineStore {
    store.engine(&KeyPrefix::new(PREFIX)).unwrap()
}

fn create() -> PutOptions {
    PutOptions { mode: PutMode::Create, ..PutOptions::default() }
}

async fn read(store: &Arc<dyn ObjectStore>, path: &Path) -> object_store::Result<Vec<u8>> {
    Ok(store.get(path).await?.bytes().await?.to_vec())
}

/// What the engine asks of any store.
async fn the_engines_verbs(store: &Store) {
    let engine = engine(store);
    let store = engine.as_dyn();
    let path = Path::from("manifest/00000000000000000001.manifest");
    store.put_opts(&path, "one".into(), create()).await.unwrap();
    let again = store.put_opts(&path, "two".into(), create()).await.unwrap_err();
    assert!(matches!(again, object_store::Error::AlreadyExists { .. }), "{again}");
    assert_eq!(read(store, &path).await.unwrap(), b"one");
    assert_eq!(store.get_range(&path, 1..3).await.unwrap(), "ne");
    assert_eq!(store.head(&path).await.unwrap().size, 3);
    let wal = Path::from("wal/00000000000000000001.sst");
    store.put(&wal, vec![7u8; 100_000].into()).await.unwrap();
    let listed: Vec<_> = store.list(None).try_collect().await.unwrap();
    let mut paths: Vec<_> = listed.into_iter().map(|meta| meta.location).collect();
    paths.sort_unstable();
    assert_eq!(paths, [path.clone(), wal.clone()], "only what lies below the engine's prefix");
    let below = store.list_with_offset(Some(&Path::from("wal")), &path);
    assert_eq!(below.try_collect::<Vec<_>>().await.unwrap().len(), 1);
    let missing = read(store, &Path::from("wal/2")).await.unwrap_err();
    assert!(matches!(missing, object_store::Error::NotFound { .. }), "{missing}");
    for path in [&path, &wal] {
        store.delete(path).await.unwrap();
    }
    assert!(store.list(None).try_collect::<Vec<_>>().await.unwrap().is_empty());
}

#[tokio::test]
async fn on_the_test_server() {
    let server = TestS3::start();
    server.put_foreign("home/.s3vol/v/1/format.json", "{}", &[]);
    the_engines_verbs(&store_of(&server)).await;
    assert_eq!(server.keys(""), ["home/.s3vol/v/1/format.json"]);
    // The store's clock is asked at the bucket itself.
    let log = server.log();
    let foreign: Vec<_> =
        log.iter().filter(|e| e.area == Area::Object && e.op != Op::Bucket).collect();
    assert!(foreign.is_empty(), "{foreign:?}");
}

#[tokio::test]
async fn on_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("file://{}/prefix", dir.path().display());
    let location = Location::parse(&url).unwrap();
    let store = Store::open(&location, &StoreSettings::default()).unwrap();
    the_engines_verbs(&store).await;
}

#[tokio::test]
async fn answers_that_would_kill_the_engine_are_tried_again() {
    let server = TestS3::start();
    let engine = engine(&store_of(&server));
    let store = engine.as_dyn();
    for (n, action) in
        [Action::Status(409), Action::Status(404), Action::Status(500), Action::Status(503)]
            .into_iter()
            .enumerate()
    {
        let path = Path::from(format!("wal/{n}"));
        server.clear_log();
        server.fault(Rule::new(Op::Put, "wal", 1, action.clone()));
        store.put_opts(&path, "x".into(), create()).await.unwrap_or_else(|e| {
            panic!("{action:?}: {e}");
        });
        assert_eq!(server.count(Op::Put), 2, "{action:?}");
        server.fault(Rule::new(Op::Get, "wal", 1, action.clone()));
        if action != Action::Status(409) {
            assert_eq!(read(store, &path).await.unwrap(), b"x", "{action:?}");
        }
        server.clear_faults();
    }
}

#[tokio::test]
async fn a_create_whose_reply_was_lost_is_never_taken_twice() {
    let server = TestS3::start();
    let engine = engine(&store_of(&server));
    let store = engine.as_dyn();
    for (n, action) in
        [Action::ApplyThenDropReply, Action::ApplyThenStatus(500), Action::ApplyThenStatus(409)]
            .into_iter()
            .enumerate()
    {
        let path = Path::from(format!("wal/{n}"));
        server.fault(Rule::new(Op::Put, "wal", 1, action.clone()));
        // Success, or an error upon which the engine finds its own id in what is there.
        if let Err(error) = store.put_opts(&path, "ours".into(), create()).await {
            let gone = matches!(error, object_store::Error::NotFound { .. });
            assert!(!gone, "{action:?}: {error}");
        }
        assert_eq!(read(store, &path).await.unwrap(), b"ours");
        let other = store.put_opts(&path, "other".into(), create()).await;
        assert!(other.is_err());
        assert_eq!(read(store, &path).await.unwrap(), b"ours");
    }
}

#[tokio::test]
async fn a_cut_body_is_never_taken_for_the_whole() {
    let server = TestS3::start();
    let engine = engine(&store_of(&server));
    let body: Vec<u8> = (0..200_000u32).map(|n| (n % 251) as u8).collect();
    server.put_foreign(&format!("{PREFIX}/wal/1"), body.clone(), &[]);
    server.fault(Rule::new(Op::Get, "wal", 1, Action::CutBody(50_000)));
    match read(engine.as_dyn(), &Path::from("wal/1")).await {
        Ok(got) => assert!(got == body, "{} bytes", got.len()),
        Err(error) => println!("refused, which is right too: {error}"),
    }
    assert!(read(engine.as_dyn(), &Path::from("wal/1")).await.unwrap() == body);
}

#[tokio::test]
async fn the_dead_send_nothing() {
    let server = TestS3::start();
    let (dead, alive) = (engine(&store_of(&server)), engine(&store_of(&server)));
    let path = Path::from("wal/1");
    dead.as_dyn().put(&path, "before".into()).await.unwrap();
    // One request is on its way when the process dies.
    let late = Action::DelayThenApply(Duration::from_millis(300));
    server.fault(Rule::new(Op::Put, "wal/2", 1, late));
    let flying = dead.clone();
    let flying =
        tokio::spawn(async move { flying.as_dyn().put(&Path::from("wal/2"), "sent".into()).await });
    super::support::wait_for_async("the request arrives", Duration::from_secs(5), async || {
        (server.faults_left() == 0).then_some(())
    })
    .await;
    dead.kill();
    server.clear_log();
    let silent =
        tokio::time::timeout(Duration::from_millis(500), dead.as_dyn().put(&path, "after".into()));
    assert!(silent.await.is_err(), "the dead get no answer");
    assert!(!flying.is_finished(), "nor for what was on its way");
    flying.abort();
    assert!(server.log().is_empty(), "{:?}", server.log());
    assert_eq!(read(alive.as_dyn(), &path).await.unwrap(), b"before");
    assert_eq!(read(alive.as_dyn(), &Path::from("wal/2")).await.unwrap(), b"sent");
}

#[tokio::test]
async fn the_engines_requests_are_counted_with_the_others() {
    let server = TestS3::start();
    let store = store_of(&server);
    let engine = engine(&store);
    let before = store.requests();
    engine.as_dyn().put(&Path::from("a"), "12345".into()).await.unwrap();
    engine.as_dyn().get(&Path::from("a")).await.unwrap().bytes().await.unwrap();
    let after = store.requests();
    assert_eq!((after.put - before.put, after.get - before.get), (1, 1));
    assert_eq!((after.bytes_up - before.bytes_up, after.bytes_down - before.bytes_down), (5, 5));
}

/// The engine itself, with everything that the plan can do to its requests.
#[tokio::test(flavor = "multi_thread")]
async fn slatedb_survives_faults() {
    let server = TestS3::start();
    let engine = engine(&store_of(&server));
    let open = async || slatedb::Db::builder("db", engine.clone().into_inner()).build().await;
    let db = open().await.unwrap();
    let mut n = 0u32;
    for action in [
        Action::Status(409),
        Action::Status(500),
        Action::Status(503),
        Action::Status(404),
        Action::DropBeforeApply,
        Action::ApplyThenDropReply,
        Action::ApplyThenStatus(500),
        Action::ApplyThenStatus(409),
    ] {
        server.fault(Rule::new(Op::Put, "/wal/", 1, action.clone()));
        n += 1;
        let key = format!("key {n}");
        db.put(key.as_bytes(), b"value").await.unwrap();
        match tokio::time::timeout(Duration::from_secs(30), db.flush()).await {
            Ok(Ok(())) => {}
            other => panic!("{action:?}: {other:?}"),
        }
        assert_eq!(server.faults_left(), 0, "{action:?}");
    }
    db.close().await.unwrap();
    let db = open().await.unwrap();
    for n in 1..=n {
        assert!(db.get(format!("key {n}").as_bytes()).await.unwrap().is_some(), "key {n}");
    }
    db.close().await.unwrap();
}
