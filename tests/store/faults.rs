//! What becomes of requests when the network or the store fails.

use std::time::{Duration, Instant};

use bytes::Bytes;
use s3vol::store::{
    Attributes, Condition, ListRequest, Properties, PutOutcome, Send, Store, StoreErrorKind,
    UploadId,
};
use s3vol::types::{ObjectKey, Version};

use super::suite::{FIRST, ambiguous, unapplied, won};
use super::support::s3server::{Action, Op, Rule, TestS3};
use super::support::wait_for;
use super::{TIMEOUT, store_of};

/// The changing verbs, each on an object `k` and an upload of their own.
const CHANGES: [Op; 4] = [Op::Put, Op::Delete, Op::Copy, Op::CompleteUpload];

fn key(name: &str) -> ObjectKey {
    ObjectKey::new(name)
}

async fn write(store: &Store, name: &str, body: &'static str) -> Version {
    let send = Send::plain(TIMEOUT);
    won(store.put(&key(name), body.into(), &Attributes::new(), &Properties::default(), send).await)
}

async fn change(
    store: &Store,
    op: Op,
    source: &Version,
    upload: &(UploadId, String),
    send: Send,
) -> PutOutcome {
    let none = Attributes::new();
    let k = key("k");
    match op {
        Op::Put => store.put(&k, "changed".into(), &none, &Properties::default(), send).await,
        Op::Delete => store.delete(&k, send).await,
        Op::Copy => {
            store.copy(&key("source"), source, &k, &none, &Properties::default(), send).await
        }
        Op::CompleteUpload => {
            let parts = [upload.1.clone()];
            store.complete_upload(&k, &upload.0, &parts, 8, send).await
        }
        other => unreachable!("{other:?} changes nothing"),
    }
}

async fn upload(store: &Store) -> (UploadId, String) {
    let k = key("k");
    let id =
        store.create_upload(&k, &Attributes::new(), &Properties::default(), TIMEOUT).await.unwrap();
    let body = Bytes::from_static(b"uploaded");
    let tag = store.upload_part(&k, &id, FIRST, body, TIMEOUT).await.unwrap();
    (id, tag)
}

#[tokio::test]
async fn a_change_without_a_clear_answer_is_ambiguous_and_sent_once() {
    use StoreErrorKind::{ClockSkew, Denied, Unsupported};
    let server = TestS3::start();
    let store = store_of(&server);
    for (action, kind, applied) in [
        // What the store itself refuses is clear.
        (Action::Status(400), None, false),
        (Action::Status(501), Some(Unsupported), false),
        (Action::ApplyThenProxy(403), Some(Denied), true),
        (Action::ApplyThenProxy(501), None, true),
        (Action::Status(409), None, false),
        (Action::Status(500), Some(StoreErrorKind::Unreachable), false),
        (Action::Status(503), Some(StoreErrorKind::Busy), false),
        (Action::Status(429), Some(StoreErrorKind::Busy), false),
        (Action::Status(403), Some(Denied), false),
        (Action::Status(404), Some(StoreErrorKind::NoBucket), false),
        (Action::ClockSkewError, Some(ClockSkew), false),
        (Action::DropBeforeApply, Some(StoreErrorKind::Unreachable), false),
        (Action::ApplyThenDropReply, Some(StoreErrorKind::Unreachable), true),
        (Action::ApplyThenStatus(500), Some(StoreErrorKind::Unreachable), true),
        (Action::ApplyThenStatus(409), None, true),
        (Action::DelayThenApply(Duration::from_secs(2)), Some(StoreErrorKind::Timeout), true),
    ] {
        for op in CHANGES {
            for conditional in [false, true] {
                let at = format!("{op:?} {action:?} conditional {conditional}");
                let source = write(&store, "source", "content").await;
                let current = write(&store, "k", "before").await;
                let upload = upload(&store).await;
                let condition = match conditional {
                    true => Condition::Is(current),
                    false => Condition::None,
                };
                server.clear_log();
                server.fault(Rule::new(op, "k", 1, action.clone()));
                let timeout = Duration::from_millis(500);
                let send = Send { condition, not_after: None, timeout };
                let outcome = change(&store, op, &source, &upload, send).await;
                let clear =
                    matches!(action, Action::Status(400 | 403 | 501) | Action::ClockSkewError);
                assert_eq!(matches!(outcome, PutOutcome::Failed(_)), clear, "{at}: {outcome:?}");
                let error = unapplied(outcome);
                if let Some(kind) = kind {
                    assert_eq!(error.kind, kind, "{at}: {error}");
                }
                assert_eq!(server.faults_left(), 0, "{at}");
                let log = wait_for("the request ends", Duration::from_secs(10), || {
                    let log = server.log();
                    log.iter().all(|e| e.took > Duration::ZERO).then_some(log)
                });
                let changes = log.iter().filter(|e| e.op == op).count();
                assert_eq!(changes, 1, "{at}: a change is never retried: {log:?}");
                let body = server.get("k").map(|o| o.body);
                assert_eq!(body.as_deref() != Some(b"before"), applied, "{at}: {body:?}");
            }
        }
    }
}

#[tokio::test]
async fn reads_are_tried_again() {
    let server = TestS3::start();
    let store = store_of(&server);
    let version = write(&store, "k", "0123456789").await;
    let list = || ListRequest { prefix: "k".into(), delimiter: false, token: None, max_keys: 10 };
    for action in [
        Action::Status(500),
        Action::Status(503),
        Action::DropBeforeApply,
        Action::ApplyThenDropReply,
        Action::CutBody(4),
    ] {
        for op in [Op::Get, Op::Head, Op::List] {
            if op == Op::Head && action == Action::CutBody(4) {
                continue;
            }
            server.clear_log();
            server.fault(Rule::new(op, "k", 2, action.clone()));
            match op {
                Op::Get => {
                    let got = store.get(&key("k"), Some(2..8), Some(&version), TIMEOUT).await;
                    assert_eq!(got.unwrap().data, "234567", "{action:?}");
                }
                Op::Head => assert!(store.head(&key("k"), TIMEOUT).await.unwrap().is_some()),
                _ => assert_eq!(store.list(list(), TIMEOUT).await.unwrap().entries.len(), 1),
            }
            assert_eq!(server.count(op), 3, "{op:?} {action:?}");
        }
    }
}

#[tokio::test]
async fn reads_end_in_time_and_hopeless_ones_at_once() {
    let server = TestS3::start();
    let store = store_of(&server);
    write(&store, "k", "x").await;
    server.fault(Rule::always(Some(Op::Get), "k", Action::Status(503)));
    let began = Instant::now();
    let limit = Duration::from_secs(2);
    let error = store.get(&key("k"), None, None, limit).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert!(began.elapsed() < 2 * limit, "{:?}", began.elapsed());
    server.clear_faults();

    server.fault(Rule::always(Some(Op::Get), "k", Action::Latency(Duration::from_secs(5))));
    let began = Instant::now();
    let limit = Duration::from_millis(400);
    let error = store.get(&key("k"), None, None, limit).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Timeout, "{error}");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    server.clear_faults();

    server.clear_log();
    server.fault(Rule::always(Some(Op::Get), "k", Action::Status(403)));
    let error = store.get(&key("k"), None, None, TIMEOUT).await.unwrap_err();
    assert_eq!((error.kind, server.count(Op::Get)), (StoreErrorKind::Denied, 1), "{error}");
}

#[tokio::test]
async fn a_request_that_arrives_after_its_expiry_changes_nothing() {
    let server = TestS3::start();
    let store = store_of(&server);
    for op in CHANGES {
        for (life, applied) in [(1_000, false), (30_000, true)] {
            let source = write(&store, "source", "content").await;
            write(&store, "k", "before").await;
            let upload = upload(&store).await;
            let now = store.now(TIMEOUT).await.unwrap();
            let late = Action::DelayThenApply(Duration::from_millis(3_500));
            server.clear_log();
            server.fault(Rule::new(op, "k", 1, late));
            let send =
                Send { not_after: Some(now.plus(life)), ..Send::plain(Duration::from_millis(300)) };
            ambiguous(change(&store, op, &source, &upload, send).await);
            let status = wait_for("the late request", Duration::from_secs(10), || {
                server.log().iter().find(|e| e.op == op && e.status != 0).map(|e| e.status)
            });
            assert_eq!(status < 300, applied, "{op:?}: {status}");
            let body = server.get("k").map(|o| o.body);
            assert_eq!(body.as_deref() != Some(b"before"), applied, "{op:?}: {body:?}");
        }
    }
}

#[tokio::test]
async fn a_missing_bucket_is_not_a_missing_key() {
    let server = TestS3::start();
    let store = store_of(&server);
    server.remove_bucket();
    let none = Attributes::new();
    let list = ListRequest { prefix: String::new(), delimiter: true, token: None, max_keys: 1 };
    let kinds = [
        store.get(&key("k"), None, None, TIMEOUT).await.unwrap_err().kind,
        store.head(&key("k"), TIMEOUT).await.unwrap_err().kind,
        store.list(list, TIMEOUT).await.unwrap_err().kind,
        store
            .create_upload(&key("k"), &none, &Properties::default(), TIMEOUT)
            .await
            .unwrap_err()
            .kind,
        ambiguous(
            store
                .put(&key("k"), "x".into(), &none, &Properties::default(), Send::plain(TIMEOUT))
                .await,
        )
        .kind,
        ambiguous(store.delete(&key("k"), Send::plain(TIMEOUT)).await).kind,
    ];
    assert_eq!(kinds, [StoreErrorKind::NoBucket; 6]);
}

#[tokio::test]
async fn the_store_follows_the_servers_clock() {
    for offset in [3600, -3600] {
        let server = TestS3::start();
        server.set_clock_offset(offset);
        let store = store_of(&server);
        write(&store, "k", "x").await;
        let now = store.now(TIMEOUT).await.unwrap().0;
        let ahead = now - jiff::Timestamp::now().as_millisecond();
        assert!((ahead - offset * 1000).abs() < 3_000, "{ahead}");
        // The server's clock is set right while the store is in use.
        server.set_clock_offset(0);
        let send = || Send::plain(TIMEOUT);
        let _ = store
            .put(&key("k"), "y".into(), &Attributes::new(), &Properties::default(), send())
            .await;
        let _ = won(store
            .put(&key("k"), "z".into(), &Attributes::new(), &Properties::default(), send())
            .await);
    }
}

#[tokio::test]
async fn a_read_does_not_wait_for_the_servers_clock() {
    const DAY: i64 = 86_400;
    for offset in [0, DAY, -DAY] {
        let server = TestS3::start();
        server.put_foreign("k", "body", &[]);
        server.set_clock_offset(offset);
        let list =
            || ListRequest { prefix: String::new(), delimiter: true, token: None, max_keys: 1 };
        // A host whose clock is off is told so by a refusal, and believes the server from then on.
        let refused = usize::from(offset != 0);
        let asked = || {
            let log = server.log();
            assert!(log.iter().all(|entry| entry.op != Op::Bucket), "{log:?}");
            let told: Vec<_> = log.iter().take(refused).map(|entry| entry.status).collect();
            assert_eq!(told, vec![403; refused]);
            assert_eq!(log.len(), 2 + refused, "{log:?}");
            server.clear_log();
        };
        let store = store_of(&server);
        assert_eq!(store.get(&key("k"), None, None, TIMEOUT).await.unwrap().data, "body");
        assert!(store.head(&key("k"), TIMEOUT).await.unwrap().is_some());
        asked();
        let store = store_of(&server);
        assert!(store.head(&key("k"), TIMEOUT).await.unwrap().is_some());
        assert_eq!(store.list(list(), TIMEOUT).await.unwrap().entries.len(), 1);
        asked();
        // What changes something is never sent by a clock that may be wrong.
        let store = store_of(&server);
        write(&store, "k", "x").await;
        let ops: Vec<_> = server.log().iter().map(|entry| (entry.op, entry.key.clone())).collect();
        assert_eq!(ops, [(Op::Bucket, String::new()), (Op::Put, "k".to_owned())]);
    }
}

#[tokio::test]
async fn a_refusal_that_is_not_about_the_time_is_told_at_once() {
    let server = TestS3::start();
    server.put_foreign("k", "body", &[]);
    server.fault(Rule::new(Op::Get, "k", 1, Action::Status(403)));
    let store = store_of(&server);
    let error = store.get(&key("k"), None, None, TIMEOUT).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Denied, "{error}");
    assert_eq!(server.log().len(), 1);
}

#[tokio::test]
async fn an_outage_ends_with_the_outage() {
    let server = TestS3::start();
    let store = store_of(&server);
    write(&store, "k", "x").await;
    server.stop();
    let began = Instant::now();
    let send = Send::plain(Duration::from_secs(2));
    let error = unapplied(
        store.put(&key("k"), "y".into(), &Attributes::new(), &Properties::default(), send).await,
    );
    assert_eq!(error.kind, StoreErrorKind::Unreachable, "{error}");
    let limit = Duration::from_secs(2);
    assert!(store.get(&key("k"), None, None, limit).await.unwrap_err().is_transient());
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    server.restart();
    assert_eq!(store.get(&key("k"), None, None, TIMEOUT).await.unwrap().data, "x");
    write(&store, "k", "y").await;
}
