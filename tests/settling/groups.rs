//! Objects of removed files that are deleted by few requests.

use super::support::s3server::Logged;
use super::*;

const FILES: usize = 500;

/// So many files at rest, of which no name is left.
async fn removed(server: TestS3, files: usize) -> Settled {
    let world = Settled::on(server).await;
    for number in 0..files {
        world.file(&format!("f{number:03}"), "content").await;
    }
    assert_eq!(world.settle().await, 0);
    assert_eq!(world.server.keys("data/f").len(), files);
    for number in 0..files {
        let name = named(&format!("f{number:03}"));
        world.fs.unlink(Caller::ROOT, Ino::ROOT, name).await.unwrap();
    }
    world.server.clear_log();
    world
}

/// A server that compares nothing before it deletes.
fn careless() -> TestS3 {
    let server = TestS3::start();
    for op in [Op::Delete, Op::DeleteMany] {
        server.fault(Rule::always(Some(op), "", Action::IgnoreConditions));
    }
    server
}

fn open_intents(world: &Settled) -> u64 {
    world.settler.status().open_intents
}

/// Settles until what was open is decided, and all is done.
async fn settled(world: &Settled) {
    let settled = || async { (world.settle().await == 0).then_some(()) };
    support::wait_for_async("the expiry of the requests", 2 * PATIENCE, settled).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_removed_files_take_a_handful_of_requests() {
    let world = removed(TestS3::start(), FILES).await;
    assert_eq!(world.settle().await, 0);
    assert_eq!(world.server.keys("data/f"), [""; 0]);
    let requests = [Op::Delete, Op::Head, Op::List].map(|op| world.requests(op));
    assert_eq!(requests, [0, 0, 0]);
    let groups = world.requests(Op::DeleteMany);
    assert!(groups <= 4, "{groups} requests");
    let log = world.server.log();
    let ours = |one: &&Logged| one.op == Op::DeleteMany && one.key.starts_with("data/");
    assert!(log.iter().filter(ours).all(|one| one.expires));
    assert!(world.settler.status().deletions.starts_with("in groups; the store compares"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_are_on_their_way_side_by_side() {
    let world = removed(TestS3::start(), FILES).await;
    world.server.fault(Rule::new(Op::DeleteMany, "data/", 2, Action::Hold));
    let settler = Arc::clone(&world.settler);
    let settling = tokio::spawn(async move { settler.settle_all(Deadline::after(PATIENCE)).await });
    until("both groups", || world.server.held() == 2).await;
    world.server.release();
    assert_eq!(settling.await.unwrap().unwrap(), 0);
    assert_eq!(world.server.keys("data/f"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nothing_is_compared_only_what_was_just_listed_goes_in_groups() {
    let world = removed(careless(), FILES).await;
    world.server.put_foreign("data/f007", "foreign", &[]);
    world.server.delete_foreign("data/f008");
    world.settle().await;
    assert_eq!(world.server.keys("data/f"), ["data/f007"]);
    assert_eq!(world.object("f007").as_deref(), Some("foreign"));
    assert!(world.requests(Op::DeleteMany) >= 1);
    // A loaded machine may take longer over some of them than a look lasts.
    let alone = world.requests(Op::Delete);
    assert!(alone < FILES / 4, "{alone} DELETE");
    assert!(world.settler.status().deletions.starts_with("in groups of what was just listed"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_only_single_deletions_compare_those_stay() {
    let server = TestS3::start();
    server.fault(Rule::always(Some(Op::DeleteMany), "", Action::IgnoreConditions));
    let world = removed(server, 50).await;
    world.server.put_foreign("data/f007", "foreign", &[]);
    world.settle().await;
    assert_eq!(world.server.keys("data/f"), ["data/f007"]);
    assert!(world.requests(Op::Delete) >= 50);
    assert_eq!(world.requests(Op::DeleteMany), 0);
    assert!(world.settler.status().deletions.starts_with("one by one; the store compares"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_put_there_stays_though_its_key_is_in_a_group() {
    let world = removed(TestS3::start(), 50).await;
    let _reconciler = world.reconciler();
    world.server.put_foreign("data/f007", "foreign", &[]);
    world.server.delete_foreign("data/f008");
    assert_eq!(world.settle().await, 0);
    assert_eq!(world.server.keys("data/f"), ["data/f007"]);
    assert_eq!(world.object("f007").as_deref(), Some("foreign"));
    assert_eq!(open_intents(&world), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_refused_keeps_no_other_of_its_group() {
    let world = removed(TestS3::start(), 50).await;
    world.server.fault(Rule::always(Some(Op::Delete), "data/f007", Action::Status(403)));
    assert_eq!(world.settle().await, 1);
    assert_eq!(world.server.keys("data/f"), ["data/f007"]);
    assert_eq!(open_intents(&world), 0);
    world.server.clear_faults();
    assert_eq!(world.settle().await, 0);
    assert_eq!(world.server.keys("data/f"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_takes_no_groups_any_more_gets_single_requests() {
    for status in [400, 403, 501] {
        let world = removed(TestS3::start(), 50).await;
        world.server.fault(Rule::always(Some(Op::DeleteMany), "", Action::Status(status)));
        let began = boottime();
        assert_eq!(world.settle().await, 0, "{status}");
        assert!(boottime() - began < NOT_AFTER / 2, "{:?}", boottime() - began);
        assert_eq!(world.server.keys("data/f"), [""; 0]);
        assert_eq!((world.requests(Op::Delete), world.requests(Op::DeleteMany)), (50, 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_without_an_answer_are_decided_when_their_group_has_expired() {
    let faults = [
        Action::ApplyThenDropReply,
        Action::ApplyThenProxy(403),
        Action::Status(503),
        Action::CutBody(1000),
        Action::ApplyPart(10),
        Action::NamePart(10),
    ];
    let worlds = faults.map(|fault| async move {
        let world = removed(TestS3::start(), 50).await;
        let _reconciler = world.reconciler();
        world.server.fault(Rule::new(Op::DeleteMany, "data/", 1, fault.clone()));
        world.settler.settle_now(Deadline::after(PATIENCE / 3)).await.unwrap();
        let named = match fault {
            Action::ApplyPart(named) | Action::NamePart(named) => named as u64,
            _ => 0,
        };
        assert_eq!(open_intents(&world), 50 - named, "{fault:?}");
        // Nothing is sent to them until then, also not for what somebody puts there.
        world.server.put_foreign("data/f049", "foreign", &[]);
        assert_eq!((world.requests(Op::Delete), world.requests(Op::DeleteMany)), (0, 1));
        settled(&world).await;
        assert_eq!(world.server.keys("data/f"), ["data/f049"], "{fault:?}");
        assert_eq!(world.object("f049").as_deref(), Some("foreign"), "{fault:?}");
    });
    futures::future::join_all(worlds).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_comes_late_takes_nothing_of_the_next_host() {
    let world = removed(TestS3::start(), 50).await;
    world.server.fault(Rule::new(Op::DeleteMany, "data/", 1, Action::Hold));
    let settling = tokio::spawn({
        let settler = Arc::clone(&world.settler);
        async move { settler.settle_now(Deadline::after(PATIENCE)).await.map(drop) }
    });
    until("the group", || world.server.held() == 1).await;
    settling.abort();
    let world = world.lose_host().await;
    assert_eq!(open_intents(&world), 50);
    // The same content has the same ETag, so that no condition keeps it from being deleted.
    world.file("f007", "content").await;
    world.settler.settle_now(Deadline::after(PATIENCE / 10)).await.unwrap();
    let puts = || world.server.log().into_iter().filter(|one| one.key == "data/f007");
    assert_eq!(puts().filter(|one| one.op == Op::Put).count(), 0, "its key is hot");
    world.server.set_clock_offset(100);
    settled(&world).await;
    world.server.release();
    until("the end of the group", || world.server.held() == 0).await;
    let late = |one: &Logged| one.op == Op::DeleteMany && one.key.starts_with("data/");
    let refused = || world.server.log().iter().any(|one| late(one) && one.status == 403);
    until("its refusal", refused).await;
    assert_eq!(world.server.keys("data/f"), ["data/f007"]);
    assert_eq!(world.object("f007").as_deref(), Some("content"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_no_list_of_keys_can_hold_are_deleted_all_the_same() {
    let world = Settled::new().await;
    let names =
        [" blank", "blank ", "tab\tin", "line\nin", "a&b", "<c>", "\"d\"", "é", "+%20", "]]>"];
    for name in names {
        world.file(name, "content").await;
    }
    assert_eq!(world.settle().await, 0);
    // What looks like one of them once blanks are taken away is somebody else's. Control characters are escaped in keys.
    world.server.put_foreign("data/blank", "foreign", &[]);
    for name in names {
        let name = named(name);
        world.fs.unlink(Caller::ROOT, Ino::ROOT, name).await.unwrap();
    }
    world.server.clear_log();
    assert_eq!(world.settle().await, 0);
    assert_eq!(world.server.keys("data/"), ["data/blank"]);
    assert_eq!((world.requests(Op::DeleteMany), world.requests(Op::Delete)), (1, 1));
}

/// Prints what the removal of 6,400 files in 40 directories costs until the last object is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn measure_a_removed_tree() {
    for (way, groups) in [("one by one", false), ("in groups", true)] {
        let server = TestS3::start();
        if !groups {
            server.fault(Rule::always(Some(Op::DeleteMany), "", Action::Status(501)));
        }
        let world = Settled::on(server).await;
        let (fs, root) = (&world.fs, Caller::ROOT);
        let name = |text: String| named(&text);
        for directory in 0..40 {
            let made = fs.mkdir(root, Ino::ROOT, name(format!("d{directory}")), 0o755).await;
            let directory = made.unwrap().ino;
            for file in 0..160 {
                let mode = libc::S_IFREG | 0o644;
                fs.mknod(root, directory, name(format!("f{file}")), mode, 0).await.unwrap();
            }
        }
        while world.settle().await > 0 {}
        let began = boottime();
        for directory in 0..40 {
            let found = fs.lookup(Ino::ROOT, name(format!("d{directory}"))).await.unwrap().ino;
            for file in 0..160 {
                fs.unlink(root, found, name(format!("f{file}"))).await.unwrap();
            }
            fs.rmdir(root, Ino::ROOT, name(format!("d{directory}"))).await.unwrap();
        }
        let removed = boottime() - began;
        world.server.clear_log();
        world.server.set_latency(Duration::from_millis(20));
        let began = boottime();
        while world.settle().await > 0 {}
        let took = boottime() - began;
        assert_eq!(world.server.keys("data/"), [""; 0]);
        let counts = [Op::DeleteMany, Op::Delete, Op::Head, Op::List].map(|op| world.requests(op));
        println!(
            "{way}: removed in {removed:?}, gone after {took:?}, {counts:?} DeleteObjects, DELETE, HEAD, LIST"
        );
    }
}
