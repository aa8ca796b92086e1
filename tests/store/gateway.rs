//! A Ceph gateway: conditions in its own spelling, or overlooked.

use object_store::path::Path;
use object_store::{ObjectStoreExt as _, PutMode, PutOptions, UpdateVersion};
use s3vol::store::{
    Attributes, Capabilities, Condition, Known, Location, Properties, PutOutcome, Send, Store,
    StoreSettings, Verb,
};
use s3vol::types::{KeyPrefix, ObjectKey, Version};

use super::suite::{self, Traits, lost, won};
use super::support::s3server::{Action, Op, Rule, TestS3};
use super::{TIMEOUT, settings, store_of};

/// A client of a host that keeps what it knows in `known`.
fn store_knowing(server: &TestS3, known: &Known) -> Store {
    let location = Location::parse(&format!("s3://{}", server.bucket())).unwrap();
    let settings = settings(&server.endpoint(), server.access_key(), server.secret_key());
    let settings = StoreSettings { known: known.clone(), ..settings };
    Store::open(&location, &settings).unwrap()
}

async fn put(store: &Store, body: &'static str, condition: Condition) -> PutOutcome {
    let send = Send { condition, ..Send::plain(TIMEOUT) };
    store
        .put(&ObjectKey::new("k"), body.into(), &Attributes::new(), &Properties::default(), send)
        .await
}

async fn write(store: &Store, body: &'static str) -> Version {
    won(put(store, body, Condition::None).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn it_keeps_the_contract_of_a_store() {
    let server = TestS3::gateway();
    suite::run(&store_of(&server), Traits::GATEWAY).await;
    assert_eq!(server.keys(""), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_probe_finds_what_it_overlooks_and_how_it_spells() {
    let server = TestS3::gateway();
    // So that the racing creations meet.
    server.set_latency(std::time::Duration::from_millis(5));
    let found = store_of(&server).probe(&KeyPrefix::new("probe")).await.unwrap();
    let verbs = [
        Verb::CreateIfAbsent,
        Verb::PutIfMatch,
        Verb::Expiry,
        Verb::ReadAfterWrite,
        Verb::UnquotedEtag,
        Verb::DeleteMany,
    ];
    assert_eq!(found, Capabilities(verbs.into_iter().collect()));
    assert!(server.log().iter().any(|entry| entry.status == 500), "no race was lost");
}

#[tokio::test]
async fn a_client_that_knows_nothing_finds_out_and_every_later_one_knows() {
    let (server, dir) = (TestS3::gateway(), tempfile::tempdir().unwrap());
    let open = || store_knowing(&server, &Known::of_host(dir.path()));
    let (first, beside) = (open(), open());
    let one = write(&first, "one").await;
    let two = won(put(&first, "two", Condition::Is(one.clone())).await);
    lost(put(&first, "three", Condition::Is(one)).await);
    for later in [open(), beside] {
        later.look_up();
        server.clear_log();
        // The same bytes have the same version.
        let _ = won(put(&later, "two", Condition::Is(two.clone())).await);
        assert_eq!((server.count(Op::Put), server.count(Op::Head)), (1, 0));
    }
}

#[tokio::test]
async fn a_spelling_that_a_store_overlooks_is_not_learned() {
    let server = TestS3::start();
    let store = store_of(&server);
    let version = write(&store, "one").await;
    // The condition holds and is refused; the other spelling is not looked at.
    server.fault(Rule::new(Op::Put, "k", 1, Action::Status(412)));
    server.fault(Rule::new(Op::Put, "k", 2, Action::IgnoreConditions));
    let version = won(put(&store, "two", Condition::Is(version)).await);
    assert_eq!(server.faults_left(), 0);
    // Still with quotes, which is judged.
    server.clear_log();
    lost(put(&store, "three", Condition::Is(Version { etag: "0".repeat(32), ..version })).await);
    assert!(!store.known().current().is_some_and(|f| f.capabilities.has(Verb::UnquotedEtag)));
    assert_eq!(server.get("k").unwrap().body, "two");
}

#[tokio::test]
async fn the_engine_replaces_its_files_there() {
    let server = TestS3::gateway();
    let store = store_of(&server);
    store.probe(&KeyPrefix::new("probe")).await.unwrap();
    let engine = store.engine(&KeyPrefix::new("meta")).unwrap().into_inner();
    let path = Path::from("boundary");
    engine.put(&path, "one".into()).await.unwrap();
    let replace = async |version: &UpdateVersion, body: &'static str| {
        let mode = PutMode::Update(version.clone());
        engine.put_opts(&path, body.into(), PutOptions { mode, ..PutOptions::default() }).await
    };
    let read = engine.get(&path).await.unwrap();
    let seen = UpdateVersion { e_tag: read.meta.e_tag, version: read.meta.version };
    replace(&seen, "two").await.unwrap();
    let stale = replace(&seen, "three").await.unwrap_err();
    assert!(matches!(stale, object_store::Error::Precondition { .. }), "{stale}");
    assert_eq!(server.get("meta/boundary").unwrap().body, "two");
}

/// What a mount asks again.
#[tokio::test]
async fn two_requests_tell_whether_the_conditions_still_hold() {
    for server in [TestS3::start(), TestS3::gateway()] {
        let store = store_of(&server);
        let known = store.probe(&KeyPrefix::new("probe")).await.unwrap();
        let key = ObjectKey::new("trial");
        assert_eq!(store.overlooks(&key, &known).await, None);
        server.clear_log();
        assert_eq!(store.overlooks(&key, &known).await, None);
        assert_eq!(server.log().len(), 2);
        server.fault(Rule::always(Some(Op::Put), "trial", Action::IgnoreConditions));
        assert_eq!(store.overlooks(&key, &known).await, Some(Verb::CreateIfAbsent));
        server.clear_faults();
        server.fault(Rule::always(Some(Op::Put), "trial", Action::Status(503)));
        assert_eq!(store.overlooks(&key, &known).await, None, "no answer is no judgement");
    }
}
