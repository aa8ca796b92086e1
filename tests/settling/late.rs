//! Requests and batches that take very long, or that the store goes on with when nobody waits for them any more.

use super::*;

pub async fn rename(world: &Settled, from: &str, to: &str) {
    let (from, to, root, fs) = (named(from), named(to), Ino::ROOT, &world.fs);
    fs.rename(Caller::ROOT, root, from, root, to, RenameMode::Replace).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publish_whose_announcement_is_long_on_its_way_gets_through() {
    const TAKES: i64 = 25;
    assert!(Duration::from_secs(TAKES as u64) > NOT_AFTER);
    let world = Settled::new().await;
    let _file = world.file("file", "content").await;
    // Each flush takes so long by the clock of the store.
    world.server.fault(Rule::always(Some(Op::Put), "/wal/", Action::Hold));
    let flushes = || {
        let log = world.server.log();
        log.iter().filter(|one| one.key.contains("/wal/") && one.status == 200).count()
    };
    let slow = async {
        for flush in 1.. {
            until("a flush", || world.server.held() > 0).await;
            let before = flushes();
            world.server.set_clock_offset(flush * TAKES);
            world.server.release();
            until("its end", || flushes() > before).await;
        }
    };
    let settled = async {
        while world.object("file").is_none() {
            world.settler.settle_now(Deadline::after(PATIENCE / 10)).await.unwrap();
        }
    };
    tokio::select! {
        () = settled => {}
        () = slow => unreachable!(),
        () = tokio::time::sleep(PATIENCE) => panic!("nothing was published"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_the_store_makes_late_comes_over_nothing_newer() {
    // What has tags that nobody here may read keeps them.
    for tags_are_readable in [true, false] {
        copied_late(tags_are_readable).await;
    }
}

async fn copied_late(tags_are_readable: bool) {
    let world = Settled::new().await;
    world.server.put_foreign("data/file", "old", &[]);
    world.server.dress_foreign("data/file", |carried| {
        carried.tags.insert("tag".to_owned(), "value".to_owned());
    });
    if !tags_are_readable {
        world.server.copy_any_tags();
        world.server.deny("s3:GetObjectTagging");
    }
    let reconciler = world.reconciler();
    reconciler.name(Ino::ROOT, &named("file")).await.unwrap();
    rename(&world, "file", "renamed").await;
    world.server.fault(Rule::new(Op::Copy, "data/renamed", 1, Action::Hold));
    let settling = tokio::spawn({
        let settler = Arc::clone(&world.settler);
        async move { settler.settle_now(Deadline::after(PATIENCE)).await.map(drop) }
    });
    until("the copy", || world.server.held() == 1).await;
    settling.abort();
    // The host is lost, and the next one waits until the request has expired.
    world.server.set_clock_offset(100);
    let world = world.lose_host().await;
    let ino = world.fs.lookup(Ino::ROOT, named("renamed")).await.unwrap().ino;
    let file = world.volume.inode(ino).await.unwrap();
    world.write(&file, "new").await;
    // What it copies stays there.
    world.server.fault(Rule::always(Some(Op::Delete), "data/file", Action::Status(403)));
    world.settle().await;
    assert_eq!(world.object("renamed").as_deref(), Some("new"));
    assert_eq!(world.object("file").as_deref(), Some("old"));
    // It was let in before it expired.
    world.server.set_clock_offset(0);
    world.server.release();
    let refused = || {
        let log = world.server.log();
        log.iter()
            .any(|one| (one.op, one.key.as_str(), one.status) == (Op::Copy, "data/renamed", 412))
    };
    until("the end of the copy", refused).await;
    assert_eq!(world.object("renamed").as_deref(), Some("new"));
    assert_eq!(names_in(&world, Ino::ROOT).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_parked_through_this_host_has_another_name_than_the_copy_that_may_still_come() {
    let world = Settled::new().await;
    for file in ["one", "two"] {
        world.file(file, file).await;
    }
    assert_eq!(world.settle().await, 0);
    for (from, to) in [("one", "three"), ("two", "one"), ("three", "two")] {
        rename(&world, from, to).await;
    }
    world.server.fault(Rule::new(Op::Copy, "/segments/", 1, Action::ApplyThenStatus(503)));
    assert_eq!(world.settle().await, 0);
    assert_eq!(world.server.faults_left(), 0, "one was to be parked");
    let asked = |op: Op| -> Vec<String> {
        let log = world.server.log();
        let asked = log.into_iter().filter(|one| one.op == op && one.key.contains("/segments/"));
        asked.map(|one| one.key).collect()
    };
    let (copied, put) = (asked(Op::Copy), asked(Op::Put));
    assert!(!put.is_empty() && put.iter().all(|key| !copied.contains(key)), "{copied:?} {put:?}");
    for (object, content) in [("one", "two"), ("two", "one")] {
        assert_eq!(world.object(object).as_deref(), Some(content));
    }
}
