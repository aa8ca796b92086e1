//! An opening remembers what it read, and an old view only loses.

use super::*;

const FOLDER: &str = "v/meta/1";

fn opening(store: &Arc<TestStore>) -> Opening {
    let home = EngineHome { folder: FOLDER.to_owned(), ..EngineHome::first() };
    Opening::new(Arc::clone(store) as Arc<dyn ObjectStore>, &home)
}

async fn claim(opening: &Opening, expected: Option<Epoch>) -> Result<Engine, EngineError> {
    Engine::open(EngineConfig::new(opening.store(), FOLDER, expected)).await
}

/// Writes and flushes so often, each an object of the log.
async fn log(engine: &Engine, lsns: std::ops::RangeInclusive<u64>) {
    for lsn in lsns {
        engine.write(Lsn(lsn), put(&format!("row {lsn}"), &lsn.to_string())).await.unwrap();
        let _receipt = engine.flush(soon()).await.unwrap();
    }
}

async fn has(engine: &Engine, lsns: std::ops::RangeInclusive<u64>) {
    for lsn in lsns {
        assert_eq!(get(engine, &format!("row {lsn}")).await, Some(lsn.to_string()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_once_is_not_asked_for_again() {
    let store = TestStore::new();
    let first = open(&store).await;
    log(&first, 1..=3).await;
    first.abandon();
    let opening = opening(&store);
    let asked = store.requests.load(Ordering::SeqCst);
    opening.look(None).await;
    for _ in 0..3 {
        let found = Engine::writer_epoch(&opening.store(), FOLDER, Epoch(0)).await.unwrap();
        assert_eq!(found, Some(Epoch(1)));
    }
    // The manifests and the boundary, and the manifest.
    assert_eq!(store.requests.load(Ordering::SeqCst) - asked, 3);
    let engine = claim(&opening, Some(Epoch(1))).await.unwrap();
    opening.done();
    has(&engine, 1..=3).await;
    engine.close(soon()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_listed_once_and_each_object_of_it_asked_for_once() {
    let store = TestStore::new();
    let first = open(&store).await;
    log(&first, 1..=21).await;
    first.abandon();
    let asked = store.requests.load(Ordering::SeqCst);
    let opening = opening(&store);
    opening.look(None).await;
    let found = opening.writer_epoch(true).await.unwrap();
    assert_eq!(found, Some(Epoch(1)));
    let engine = claim(&opening, found).await.unwrap();
    opening.done();
    has(&engine, 1..=21).await;
    // Manifests, boundary, manifest; the log and what is in it, the two empty objects of claims not; claim and boundary, fence,
    // no newer manifest, boundary; the flusher asks twice beside.
    let asked = store.requests.load(Ordering::SeqCst) - asked;
    assert!(asked <= 3 + 1 + 21 + 5 + 2, "{asked} requests");
    engine.close(soon()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_last_writer_left_word_of_is_asked_for_at_once_and_another_one_is_found_all_the_same()
 {
    let store = TestStore::new();
    let first = open(&store).await;
    log(&first, 1..=3).await;
    let newest = Newest::of(&first).await.unwrap();
    first.abandon();
    let asked = store.requests.load(Ordering::SeqCst);
    let opening = opening(&store);
    opening.look(Some(newest)).await;
    // Manifests, boundary and manifest, the log and what is in it.
    let asked_ahead = 3 + 1 + 3;
    let so_many = async || {
        while store.requests.load(Ordering::SeqCst) - asked < asked_ahead {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), so_many()).await.unwrap();
    let found = opening.writer_epoch(false).await.unwrap();
    assert_eq!(found, Some(Epoch(1)));
    // The look would be three more; what is left of the first engine asks twice beside.
    let asked = store.requests.load(Ordering::SeqCst) - asked;
    assert!(asked <= asked_ahead + 2, "{asked} requests");
    let engine = claim(&opening, found).await.unwrap();
    opening.done();
    has(&engine, 1..=3).await;
    engine.maintain(true).await.unwrap();
    let wrong = newest;
    let newest = Newest::of(&engine).await.unwrap();
    assert!(newest.manifest > wrong.manifest && newest.log_after > wrong.log_after, "{newest:?}");
    log(&engine, 4..=5).await;
    engine.abandon();
    let opening = self::opening(&store);
    opening.look(Some(wrong)).await;
    let found = opening.writer_epoch(true).await.unwrap();
    assert_eq!(found, Some(Epoch(2)));
    let engine = claim(&opening, found).await.unwrap();
    opening.done();
    has(&engine, 1..=5).await;
    engine.close(soon()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_is_told_when_it_counts_and_not_when_it_is_lost() {
    let store = TestStore::new();
    let first = open(&store).await;
    log(&first, 1..=3).await;
    let lost = opening(&store);
    let found = lost.writer_epoch(true).await.unwrap();
    let won = opening(&store);
    assert_eq!(won.writer_epoch(true).await.unwrap(), found);
    let (told, engine) = tokio::join!(won.claimed(), async {
        let engine = claim(&won, found).await.unwrap();
        won.done();
        engine
    });
    assert!(told && won.claimed().await);
    assert_eq!(engine.epoch(), Epoch(found.unwrap().0 + 1));
    let (told, error) = tokio::join!(lost.claimed(), async {
        let error = claim(&lost, found).await.unwrap_err();
        lost.done();
        error
    });
    assert!(!told && matches!(error, EngineError::Fenced { .. }), "{error:?}");
    // A new database is made by a manifest of its own: which one is the claim is not known.
    let store = TestStore::new();
    let new = opening(&store);
    assert_eq!(new.writer_epoch(true).await.unwrap(), None);
    let (told, made) = tokio::join!(new.claimed(), async {
        let made = claim(&new, None).await.unwrap();
        new.done();
        made
    });
    assert!(!told);
    made.close(soon()).await.unwrap();
    engine.close(soon()).await.unwrap();
    first.abandon();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_by_an_old_view_loses() {
    let store = TestStore::new();
    let first = open(&store).await;
    log(&first, 1..=3).await;
    let opening = opening(&store);
    let found = opening.writer_epoch(true).await.unwrap();
    let other = open(&store).await;
    log(&other, 4..=5).await;
    let error = claim(&opening, found).await.unwrap_err();
    assert!(matches!(error, EngineError::Fenced { ours: Epoch(1), found: Epoch(2) }), "{error:?}");
    log(&other, 6..=7).await;
    has(&other, 1..=7).await;
    other.close(soon()).await.unwrap();
    first.abandon();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_somebody_made_meanwhile_is_not_claimed() {
    let store = TestStore::new();
    let opening = opening(&store);
    assert_eq!(opening.writer_epoch(true).await.unwrap(), None);
    let other = open(&store).await;
    log(&other, 1..=2).await;
    let error = claim(&opening, None).await.unwrap_err();
    assert!(!matches!(error, EngineError::Damaged(_)), "{error:?}");
    log(&other, 3..=4).await;
    has(&other, 1..=4).await;
    other.close(soon()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_last_owner_wrote_after_the_log_was_listed_is_read() {
    let store = TestStore::new();
    let last = open(&store).await;
    log(&last, 1..=5).await;
    let opening = opening(&store);
    let found = opening.writer_epoch(true).await.unwrap();
    // It lives: the fence meets what it wrote since, at one number after the other.
    log(&last, 6..=9).await;
    let engine = claim(&opening, found).await.unwrap();
    assert_eq!(engine.epoch(), Epoch(2));
    assert_eq!(engine.applied().map(|applied| applied.lsn), Some(Lsn(9)));
    has(&engine, 1..=9).await;
    last.write(Lsn(10), put("row 10", "late")).await.ok();
    assert!(matches!(last.flush(soon()).await.unwrap_err(), EngineError::Fenced { .. }));
    opening.done();
    log(&engine, 10..=11).await;
    engine.close(soon()).await.unwrap();
    let next = open(&store).await;
    has(&next, 1..=11).await;
    next.close(soon()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_forgotten_is_asked_for_anew() {
    let store = TestStore::new();
    let first = open(&store).await;
    log(&first, 1..=2).await;
    let opening = opening(&store);
    assert_eq!(opening.writer_epoch(true).await.unwrap(), Some(Epoch(1)));
    let second = open(&store).await;
    log(&second, 3..=4).await;
    assert_eq!(opening.writer_epoch(true).await.unwrap(), Some(Epoch(1)), "as it was");
    opening.forget();
    assert_eq!(opening.writer_epoch(true).await.unwrap(), Some(Epoch(2)));
    let third = open(&store).await;
    // One who asks again and again is not answered by what was for ever.
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(opening.writer_epoch(true).await.unwrap());
    }
    assert_eq!(seen.last(), Some(&Some(Epoch(3))), "{seen:?}");
    third.close(soon()).await.unwrap();
    first.abandon();
    second.abandon();
}

/// The owner writes and flushes while another one opens the database, as after a lease that ran out. Not without end: its
/// fence has to catch up.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_at_any_moment_of_an_opening_is_there() {
    for round in 0..40 {
        let store = TestStore::new();
        let last = Arc::new(open(&store).await);
        let before = 1 + round % 10;
        log(&last, 1..=before).await;
        store.latency_ms.store(1 + round % 3, Ordering::SeqCst);
        let opening = opening(&store);
        let writer = tokio::spawn({
            let last = Arc::clone(&last);
            async move {
                for lsn in before + 1..=before + round % 13 {
                    let batch = put(&format!("row {lsn}"), &lsn.to_string());
                    let written = last.write(Lsn(lsn), batch).await;
                    if written.is_err() || last.flush(soon()).await.is_err() {
                        return lsn - 1;
                    }
                }
                before + round % 13
            }
        });
        opening.look(None).await;
        let found = opening.writer_epoch(true).await.unwrap();
        let engine = claim(&opening, found).await.unwrap();
        opening.done();
        let acknowledged = writer.await.unwrap();
        let applied = engine.applied().unwrap().lsn;
        assert!(applied >= Lsn(acknowledged), "{applied:?} after {acknowledged}");
        has(&engine, 1..=applied.0).await;
        engine.abandon();
        last.abandon();
    }
}
