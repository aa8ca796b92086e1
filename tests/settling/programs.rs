//! Settling while programs wait for the volume.

use std::sync::atomic::AtomicU64;

use super::*;

const FILES: usize = 100;

/// More than beside a program, and never so many beside one.
const MANY: u64 = 12;

/// Settles files, whose objects arrive once they may.
async fn held_back(world: &Settled) -> (CancellationToken, tokio::task::JoinHandle<()>) {
    for number in 0..FILES {
        world.file(&format!("f{number}"), "content").await;
    }
    world.server.fault(Rule::always(Some(Op::Put), "data/f", Action::Hold));
    let stop = CancellationToken::new();
    let running = tokio::spawn(Arc::clone(&world.settler).run(stop.clone()));
    (stop, running)
}

async fn come_to_rest(
    world: &Settled,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<()>,
) {
    world.server.clear_faults();
    world.server.release();
    until("all at rest", || world.settler.status().unsettled == 0).await;
    stop.cancel();
    running.await.unwrap();
    assert_eq!(world.requests(Op::Put), FILES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn few_objects_are_on_their_way_while_a_program_waits() {
    let world = Settled::new().await;
    let (stop, running) = held_back(&world).await;
    until("many objects on their way", || world.server.held() > MANY).await;
    come_to_rest(&world, stop, running).await;

    let world = Settled::new().await;
    let waiting = world.volume.programs.begin_waiting();
    let (stop, running) = held_back(&world).await;
    until("some objects on their way", || world.server.held() > 0).await;
    // What would be sent with them has had the time.
    let most = AtomicU64::new(0);
    let seen = async {
        loop {
            most.fetch_max(world.server.held(), Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let _ = tokio::time::timeout(Duration::from_millis(500), seen).await;
    let most = most.into_inner();
    assert!((1..=MANY).contains(&most), "{most} beside a program");
    drop(waiting);
    come_to_rest(&world, stop, running).await;
}

/// Who gives the volume up waits for all of it, and nobody else does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_that_is_given_up_settles_as_fast_as_ever() {
    let world = Settled::new().await;
    for number in 0..FILES {
        world.file(&format!("f{number}"), "content").await;
    }
    let _waiting = world.volume.programs.begin_waiting();
    world.server.fault(Rule::always(Some(Op::Put), "data/f", Action::Hold));
    let settler = Arc::clone(&world.settler);
    let settling = tokio::spawn(async move { settler.settle_all(Deadline::after(PATIENCE)).await });
    until("more than beside a program", || world.server.held() > MANY).await;
    world.server.clear_faults();
    world.server.release();
    assert_eq!(settling.await.unwrap().unwrap(), 0);
}
