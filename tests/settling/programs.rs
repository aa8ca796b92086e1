//! Settling while programs wait for the volume.

use std::time::SystemTime;

use super::*;

const FILES: usize = 100;

/// How many objects were on their way side by side at most, while all of them settled.
async fn settled_side_by_side(world: &Settled) -> usize {
    for number in 0..FILES {
        world.file(&format!("f{number}"), "content").await;
    }
    world.server.set_latency(Duration::from_millis(50));
    world.server.clear_log();
    let stop = CancellationToken::new();
    let running = tokio::spawn(Arc::clone(&world.settler).run(stop.clone()));
    until("all at rest", || world.settler.status().unsettled == 0).await;
    stop.cancel();
    running.await.unwrap();
    let log = world.server.log();
    let objects = log.iter().filter(|one| one.op == Op::Put && one.key.starts_with("data/f"));
    let times: Vec<(SystemTime, SystemTime)> =
        objects.map(|one| (one.time, one.time + one.took)).collect();
    assert_eq!(times.len(), FILES);
    let during = |at| times.iter().filter(|(from, to)| *from <= at && at < *to).count();
    times.iter().map(|(from, _)| during(*from)).max().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn few_objects_are_on_their_way_while_a_program_waits() {
    let world = Settled::new().await;
    let alone = settled_side_by_side(&world).await;
    let world = Settled::new().await;
    let waiting = world.volume.programs.begin_waiting();
    let beside = settled_side_by_side(&world).await;
    drop(waiting);
    assert!(beside <= 12 && alone > 2 * beside, "{beside} beside a program, {alone} alone");
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
    until("more than beside a program", || world.server.held() > 12).await;
    world.server.clear_faults();
    world.server.release();
    assert_eq!(settling.await.unwrap().unwrap(), 0);
}
