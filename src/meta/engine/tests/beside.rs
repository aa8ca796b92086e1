//! Flushes for which no program waits.

use super::*;

/// Each sync would otherwise find a round under way that began a moment before it.
#[tokio::test(flavor = "multi_thread")]
async fn a_flush_beside_programs_shares_their_rounds() {
    const SYNCS: u64 = 30;
    let store = TestStore::new();
    let engine = Arc::new(open(&store).await);
    store.latency_ms.store(20, Ordering::SeqCst);
    let number = Arc::new(tokio::sync::Mutex::new(0));
    let write = async |engine: &Engine| {
        let mut number = number.lock().await;
        *number += 1;
        engine.write(Lsn(*number), put(&format!("k{number}"), "v")).await.unwrap();
        Lsn(*number)
    };
    let before = store.wal_puts.load(Ordering::SeqCst);
    let synced = AtomicBool::new(false);
    let programs = async {
        for _ in 0..SYNCS {
            write(&engine).await;
            let _receipt = engine.flush(soon()).await.unwrap();
        }
        synced.store(true, Ordering::SeqCst);
    };
    let beside = async {
        let mut flushes = 0;
        while !synced.load(Ordering::SeqCst) {
            let lsn = write(&engine).await;
            let _receipt = engine.flush_beside(soon()).await.unwrap();
            assert!(engine.durable_lsn() >= lsn, "a receipt for what is not durable");
            flushes += 1;
        }
        flushes
    };
    let ((), flushes) = futures::join!(programs, beside);
    let puts = store.wal_puts.load(Ordering::SeqCst) - before;
    assert!(flushes >= SYNCS / 3, "only {flushes} flushes beside {SYNCS} syncs");
    assert!(puts < SYNCS + flushes / 2, "{puts} PUTs for {SYNCS} syncs and {flushes} beside them");
    engine.close(soon()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_beside_nobody_begins_by_itself() {
    let store = TestStore::new();
    let engine = open(&store).await;
    for number in 1..=3 {
        engine.write(Lsn(number), put("a", "1")).await.unwrap();
        let _receipt = engine.flush_beside(soon()).await.unwrap();
        assert_eq!(engine.durable_lsn(), Lsn(number));
    }
    let requests = store.requests.load(Ordering::SeqCst);
    let _receipt = engine.flush_beside(soon()).await.unwrap();
    assert_eq!(store.requests.load(Ordering::SeqCst), requests, "nothing is new");
    engine.close(soon()).await.unwrap();
}
