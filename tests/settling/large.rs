//! Bodies that go up in parts, and requests that are cut off.

use super::*;

/// A body that goes up in parts, of which each but the last has 16 MiB.
fn mib(count: usize) -> String {
    "0123456789abcdef".repeat(count << 16)
}

/// Where the store copies no parts.
async fn sends_parts() -> Settled {
    let server = TestS3::start();
    server.fault(Rule::always(Some(Op::UploadPartCopy), "", Action::Status(501)));
    let world = Settled::on(server).await;
    world.server.clear_faults();
    world
}

/// Settles, and has the lease lapse while the first part of this object goes up.
async fn lapse_over(world: &Settled, key: &str) {
    world.server.fault(Rule::new(Op::UploadPart, key, 1, Action::Hold));
    let settling = tokio::spawn({
        let settler = Arc::clone(&world.settler);
        async move { settler.settle_all(Deadline::after(PATIENCE)).await }
    });
    until("the part", || world.server.held() == 1).await;
    world.lease.lapsed.store(true, Ordering::SeqCst);
    world.server.release();
    settling.await.unwrap().unwrap_err();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_up_is_not_sent_again_because_the_lease_lapsed_for_a_moment() {
    let world = sends_parts().await;
    let body = mib(9);
    world.file("large", &body).await;
    lapse_over(&world, "data/large").await;
    assert_eq!(world.object("large"), None);
    world.lease.lapsed.store(false, Ordering::SeqCst);
    assert_eq!(world.settle().await, 0);
    assert!(world.object("large").as_deref() == Some(&body));
    assert_eq!(world.requests(Op::UploadPart), 1);
    assert_eq!(world.server.uploads(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_kept_of_an_upload_goes_when_its_file_changes_and_when_the_volume_is_left() {
    let world = sends_parts().await;
    let files = [world.file("changed", &mib(9)).await, world.file("left", &mib(9)).await];
    lapse_over(&world, "data/left").await;
    assert_eq!(world.server.uploads().len(), 2);
    world.write(&files[0], "another beginning").await;
    world.settler.settle_now(Deadline::after(PATIENCE)).await.unwrap_err();
    // It was sent once more, as it is now.
    assert_eq!(world.server.uploads().len(), 2);
    assert_eq!(world.requests(Op::UploadPart), 3);
    world.settler.rest(Deadline::after(PATIENCE)).await;
    assert_eq!(world.server.uploads(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_break_of_some_seconds_does_not_throw_away_what_is_up() {
    let world = sends_parts().await;
    let body = mib(9);
    world.file("large", &body).await;
    world.server.fault(Rule::new(Op::UploadPart, "data/large", 5, Action::Status(503)));
    assert_eq!(world.settle().await, 0);
    assert!(world.object("large").as_deref() == Some(&body));
    assert_eq!(world.server.faults_left(), 0);
    assert_eq!(world.requests(Op::CreateUpload), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_rest_while_a_large_file_goes_up() {
    for (world, op) in
        [(sends_parts().await, Op::UploadPart), (Settled::new().await, Op::UploadPartCopy)]
    {
        others_rest_while(world, op).await;
    }
}

async fn others_rest_while(world: Settled, part: Op) {
    let body = mib(65);
    world.file("large", &body).await;
    world.server.fault(Rule::always(Some(part), "data/large", Action::Hold));
    let stop = CancellationToken::new();
    let running = tokio::spawn(Arc::clone(&world.settler).run(stop.clone()));
    until("the parts", || world.server.held() > 0).await;
    world.file("small", "content").await;
    until("the small one", || world.object("small").is_some()).await;
    // Whoever wants all of it at rest waits for both.
    let mut settling = std::pin::pin!(world.settler.settle_all(Deadline::after(PATIENCE)));
    assert!(futures::poll!(&mut settling).is_pending());
    world.server.clear_faults();
    world.server.release();
    assert_eq!(settling.await.unwrap(), 0);
    assert!(world.object("large").as_deref() == Some(&body));
    assert_eq!(world.requests(Op::CreateUpload), 1);
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_file_that_is_on_its_way_is_dropped_when_the_volume_is_left() {
    let world = sends_parts().await;
    world.file("large", &mib(65)).await;
    world.server.fault(Rule::always(Some(Op::UploadPart), "data/large", Action::Hold));
    let stop = CancellationToken::new();
    let running = tokio::spawn(Arc::clone(&world.settler).run(stop.clone()));
    until("the parts", || world.server.held() > 0).await;
    stop.cancel();
    running.await.unwrap();
    let mut resting = std::pin::pin!(world.settler.rest(Deadline::after(PATIENCE)));
    assert!(futures::poll!(&mut resting).is_pending());
    world.server.clear_faults();
    world.server.release();
    resting.await;
    assert_eq!(world.server.uploads(), []);
    assert_eq!(world.object("large"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_on_its_way_is_cut_off_when_the_lease_lapses() {
    let world = Settled::new().await;
    world.file("file", "content").await;
    world.server.fault(Rule::new(Op::Put, "data/file", 1, Action::Hold));
    let settling = tokio::spawn({
        let settler = Arc::clone(&world.settler);
        async move { settler.settle_now(Deadline::after(PATIENCE)).await }
    });
    until("the request", || world.server.held() == 1).await;
    let began = boottime();
    world.lease.lapsed.store(true, Ordering::SeqCst);
    assert_eq!(settling.await.unwrap().unwrap(), 1);
    assert!(boottime() - began < Duration::from_secs(8), "{:?}", boottime() - began);
    assert_eq!(world.settler.status().open_intents, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parking_that_fails_leaves_no_parts() {
    let world = sends_parts().await;
    let root = Ino::ROOT;
    let [big, old] = ["big", "old"].map(named);
    let before = mib(17);
    world.file("big", &before).await;
    assert_eq!(world.settle().await, 0);
    world.fs.rename(Caller::ROOT, root, big, root, old, RenameMode::Replace).await.unwrap();
    world.file("big", "after").await;
    world.server.fault(Rule::always(Some(Op::Copy), "", Action::Status(403)));
    world.server.fault(Rule::always(Some(Op::UploadPart), "/segments/", Action::Status(403)));
    world.settle().await;
    let parts = || {
        let log = world.server.log();
        log.iter().filter(|one| one.op == Op::UploadPart && one.key.contains("/segments/")).count()
    };
    assert!(parts() > 0, "it was to be parked");
    assert_eq!(world.server.uploads(), []);
    world.server.clear_faults();
    assert_eq!(world.settle().await, 0);
    assert_eq!(world.object("big").as_deref(), Some("after"));
    assert!(world.object("old").as_deref() == Some(&before));
}
