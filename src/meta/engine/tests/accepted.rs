//! Batches that were accepted and that the handle may not have yet.

use super::*;

/// Accepts for as long as others read; every reader sees each batch whole, and never an older state after a newer
/// one.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_is_seen_at_once_whether_the_handle_has_it_or_not() {
    const ROWS: u64 = 20;
    let store = TestStore::new();
    let engine = Arc::new(open(&store).await);
    let row = |n: u64| format!("row {n:03}");
    let whole = || engine.scan(Bound::Unbounded, Bound::Unbounded, ROWS as usize + 10);
    let done = CancellationToken::new();
    let reader = tokio::spawn({
        let (engine, done) = (Arc::clone(&engine), done.clone());
        async move {
            let (mut last, mut scans) = (0, 0);
            while !done.is_cancelled() {
                let found = engine.scan(Bound::Unbounded, Bound::Unbounded, 100).await.unwrap();
                let mut values = found.iter().map(|(_, value)| value);
                let Some(first) = values.next() else { continue };
                assert!(values.all(|value| value == first), "a mix of two states");
                let number: u64 = std::str::from_utf8(first).unwrap().parse().unwrap();
                assert!(number >= last, "{number} after {last}");
                (last, scans) = (number, scans + 1);
            }
            scans
        }
    });
    for round in 1..=3000_u64 {
        let mut batch = Batch::new();
        for n in 0..ROWS {
            match (n + round).is_multiple_of(7) {
                true => batch.delete(row(n)),
                false => batch.put(row(n), round.to_string()),
            }
        }
        engine.accept(Lsn(round), Arc::new(batch)).unwrap();
        if round.is_multiple_of(100) {
            for n in 0..ROWS {
                let wanted = (!(n + round).is_multiple_of(7)).then(|| round.to_string());
                assert_eq!(get(&engine, &row(n)).await, wanted);
            }
            let some = engine.scan(Bound::Unbounded, Bound::Unbounded, 5).await.unwrap();
            assert!(some.len() == 5 && some.iter().all(|(_, v)| *v == round.to_string()));
        }
        if round.is_multiple_of(500) {
            let _receipt = engine.flush(soon()).await.unwrap();
            assert!(engine.inner.kept.lock().all_fed(), "a flush hands everything over");
            assert!(whole().await.unwrap().iter().all(|(_, v)| *v == round.to_string()));
        }
    }
    done.cancel();
    assert!(reader.await.unwrap() > 0);
    let _receipt = engine.flush(soon()).await.unwrap();
    let before = whole().await.unwrap();
    engine.close(soon()).await.unwrap();
    let next = open(&store).await;
    assert_eq!(next.applied().unwrap().lsn, Lsn(3000));
    assert_eq!(next.scan(Bound::Unbounded, Bound::Unbounded, 100).await.unwrap(), before);
    next.close(soon()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn accepting_waits_for_nothing_while_the_handle_is_replaced() {
    let store = TestStore::new();
    let engine = open(&store).await;
    engine.write(Lsn(1), put("a", "1")).await.unwrap();
    store.go_away(true);
    let early = engine.flush(Deadline::after(Duration::from_millis(200))).await;
    assert!(early.is_err(), "{early:?}");
    for n in 2..100 {
        engine.accept(Lsn(n), Arc::new(put("b", &n.to_string()))).unwrap();
        assert_eq!(get(&engine, "b").await, Some(n.to_string()));
    }
    store.go_away(false);
    let _receipt = engine.flush(soon()).await.unwrap();
    assert_eq!(engine.durable_lsn(), Lsn(99));
    assert!(engine.inner.kept.lock().all_fed());
    assert_eq!(get(&engine, "a").await.as_deref(), Some("1"));
    engine.close(soon()).await.unwrap();
    let next = open(&store).await;
    assert_eq!(get(&next, "b").await.as_deref(), Some("99"));
    next.close(soon()).await.unwrap();
}
