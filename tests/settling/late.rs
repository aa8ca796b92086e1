//! Requests and batches that take very long, or that the store goes on with when nobody waits for them any more.

use super::*;

fn name(text: &str) -> FileName {
    FileName::new(text).unwrap()
}

async fn rename(world: &World, from: &str, to: &str) {
    let (from, to, root, fs) = (name(from), name(to), Ino::ROOT, world.fs());
    fs.rename(Caller::ROOT, root, from, root, to, RenameMode::Replace).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publish_whose_announcement_is_long_on_its_way_gets_through() {
    const TAKES: i64 = 25;
    assert!(Duration::from_secs(TAKES as u64) > NOT_AFTER);
    let world = World::new().await;
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
async fn what_is_parked_through_this_host_has_another_name_than_the_copy_that_may_still_come() {
    let world = World::new().await;
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
