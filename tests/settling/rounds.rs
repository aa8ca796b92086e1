//! What one round does while the requests of another are on their way.

use super::*;

/// A round takes so many files.
const ROUND: usize = 256;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_round_is_prepared_while_requests_of_one_are_on_their_way() {
    let world = World::new().await;
    for number in 0..ROUND {
        world.file(&format!("small {number:03}"), "content").await;
    }
    // Its part goes up before it is announced.
    let body = "0123456789abcdef".repeat(9 << 16);
    world.file("two parts", &body).await;
    world.server.fault(Rule::new(Op::Put, "data/small 000", 1, Action::Hold));
    let settling = tokio::spawn({
        let settler = Arc::clone(&world.settler);
        async move { settler.settle_all(Deadline::after(PATIENCE)).await }
    });
    until("the first round", || world.server.held() == 1).await;
    until("the part of the second", || world.requests(Op::UploadPart) == 1).await;
    // The rounds follow each other all the same.
    assert_eq!(world.requests(Op::CompleteUpload), 0);
    assert_eq!(world.server.held(), 1);
    world.server.release();
    assert_eq!(settling.await.unwrap().unwrap(), 0);
    assert!(world.object("two parts").as_deref() == Some(&body));
    assert_eq!(world.requests(Op::Put), ROUND);
    assert_eq!(world.server.keys("data/").len(), ROUND + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_prepared_beside_a_round_that_lost_its_lease_stays_and_rests_later() {
    let world = World::new().await;
    for number in 0..2 * ROUND {
        world.file(&format!("small {number:03}"), "content").await;
    }
    world.server.fault(Rule::new(Op::Put, "data/small 000", 1, Action::Hold));
    let settling = tokio::spawn({
        let settler = Arc::clone(&world.settler);
        async move { settler.settle_all(Deadline::after(PATIENCE)).await }
    });
    until("the first round", || world.server.held() == 1 && world.requests(Op::Put) == ROUND - 1)
        .await;
    world.lease.lapsed.store(true, Ordering::SeqCst);
    world.server.release();
    settling.await.unwrap().unwrap_err();
    let sent = world.requests(Op::Put);
    assert!(sent <= ROUND, "{sent} left");
    world.lease.lapsed.store(false, Ordering::SeqCst);
    assert_eq!(world.settle().await, 0);
    assert_eq!(world.server.keys("data/").len(), 2 * ROUND);
}
