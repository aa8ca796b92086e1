//! Bodies that are in the bucket and not in the cache.

use super::*;

const FILES: usize = 40;

/// Files of which a byte was changed here, and of which nothing is cached.
async fn away(count: usize, len: usize) -> (Settled, Vec<Arc<Inode>>) {
    let world = Settled::new().await;
    let mut files = Vec::new();
    for number in 0..count {
        files.push(world.file(&format!("f{number:02}"), &"content".repeat(len / 7)).await);
    }
    assert_eq!(world.settle().await, 0);
    for file in &files {
        world.write(file, "C").await;
    }
    world.volume.evict_all().unwrap();
    (world, files)
}

fn settles(world: &Settled) -> tokio::task::JoinHandle<u64> {
    let settler = Arc::clone(&world.settler);
    tokio::spawn(async move { settler.settle_all(Deadline::after(PATIENCE)).await.unwrap() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_cached_is_fetched_side_by_side() {
    // Of larger ones fewer: readers want memory, too.
    for (count, len, together) in [(FILES, 7, 32), (12, 7 << 18, 4)] {
        let (world, _files) = away(count, len).await;
        world.server.fault(Rule::always(Some(Op::Get), "data/f", Action::Hold));
        let settling = settles(&world);
        until("the held GETs", || world.server.held() == together).await;
        world.server.clear_faults();
        world.server.release();
        assert_eq!(settling.await.unwrap(), 0);
        for number in 0..count {
            let object = world.object(&format!("f{number:02}")).unwrap();
            assert_eq!((object.len(), &object[..7]), (len, "Content"));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_changes_while_it_is_fetched_beside_others_is_published_as_it_is_then() {
    let (world, files) = away(FILES, 7).await;
    world.server.fault(Rule::always(Some(Op::Get), "data/f", Action::Hold));
    let settling = settles(&world);
    until("the held GETs", || world.server.held() > 8).await;
    for file in &files[..8] {
        world.write(file, "CON").await;
    }
    world.server.clear_faults();
    world.server.release();
    assert_eq!(settling.await.unwrap(), 0);
    for number in 0..FILES {
        let wanted = if number < 8 { "CONtent" } else { "Content" };
        assert_eq!(world.object(&format!("f{number:02}")).as_deref(), Some(wanted));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_host_left_is_fetched_side_by_side() {
    let world = Settled::new().await;
    for number in 0..FILES {
        // More than its record holds.
        world.file(&format!("f{number:02}"), &"content".repeat(30_000)).await;
    }
    let world = world.lose_host().await;
    let fetched = || {
        let log = world.server.log();
        log.iter().filter(|one| one.op == Op::Get && one.key.contains("/segments/")).count()
    };
    assert_eq!(fetched(), 0);
    world.server.fault(Rule::always(Some(Op::Get), "/segments/", Action::Hold));
    let settling = settles(&world);
    until("the held GETs", || world.server.held() == 32).await;
    world.server.clear_faults();
    world.server.release();
    assert_eq!(settling.await.unwrap(), 0);
    assert_eq!(world.object("f39"), Some("content".repeat(30_000)));
}
