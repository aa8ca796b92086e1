//! What one round does while the requests of another are on their way.

use super::*;

/// A round takes so many files.
const ROUND: usize = 256;

/// A round of small files, and one that is committed only when it is planned.
async fn two_rounds(world: &Settled) -> Arc<Inode> {
    for number in 0..ROUND {
        world.file(&format!("small {number:03}"), "content").await;
    }
    let later = world.file("later", "").await;
    world.volume.write(&later, 0, b"written later").await.unwrap();
    later
}

fn settling(world: &Settled) -> tokio::task::JoinHandle<Result<u64, SettleError>> {
    let settler = Arc::clone(&world.settler);
    tokio::spawn(async move { settler.settle_all(Deadline::after(PATIENCE)).await })
}

fn is_planned(inode: &Inode) -> bool {
    inode.live().pending.is_clean()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_round_is_planned_while_requests_of_one_are_on_their_way() {
    let world = Settled::new().await;
    let later = two_rounds(&world).await;
    assert!(!is_planned(&later));
    world.server.fault(Rule::new(Op::Put, "data/small 000", 1, Action::Hold));
    let settling = settling(&world);
    until("the first round", || world.server.held() == 1).await;
    until("the plans of the second", || is_planned(&later)).await;
    assert_eq!(world.server.held(), 1);
    // But its requests follow.
    let _receipt = world.volume.meta.flush(PATIENCE).await.unwrap();
    assert_eq!(world.object("later"), None);
    world.server.release();
    assert_eq!(settling.await.unwrap().unwrap(), 0);
    assert_eq!(world.object("later").as_deref(), Some("written later"));
    assert_eq!(world.requests(Op::Put), ROUND + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_planned_beside_a_round_that_lost_its_lease_rests_later() {
    let world = Settled::new().await;
    let later = two_rounds(&world).await;
    world.server.fault(Rule::new(Op::Put, "data/small 000", 1, Action::Hold));
    let settling = settling(&world);
    until("the plans of the second", || world.server.held() == 1 && is_planned(&later)).await;
    world.lease.lapsed.store(true, Ordering::SeqCst);
    world.server.release();
    settling.await.unwrap().unwrap_err();
    assert_eq!(world.object("later"), None);
    world.lease.lapsed.store(false, Ordering::SeqCst);
    // A request that was cut off may still arrive for 20 s.
    assert_eq!(world.settler.settle_all(Deadline::after(PATIENCE * 3)).await.unwrap(), 0);
    assert_eq!(world.object("later").as_deref(), Some("written later"));
    assert_eq!(world.server.keys("data/").len(), ROUND + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_who_leaves_waits_for_the_plans_of_another_round() {
    let world = Settled::new().await;
    let later = two_rounds(&world).await;
    world.server.fault(Rule::new(Op::Put, "data/small 000", 1, Action::Hold));
    let settling = settling(&world);
    until("the plans of the second", || world.server.held() == 1 && is_planned(&later)).await;
    let mut resting = std::pin::pin!(world.settler.rest(Deadline::after(PATIENCE)));
    assert!(futures::poll!(&mut resting).is_pending());
    world.server.release();
    resting.await;
    settling.await.unwrap().unwrap();
    // What was on its way is at rest, and what was planned is not sent any more.
    assert_eq!(world.object("small 000").as_deref(), Some("content"));
    assert_eq!(world.object("later"), None);
}
