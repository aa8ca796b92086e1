//! Looking at what others did: large directories, and a bucket that does not answer.

use super::*;

/// The volume of a bucket with a directory of this many files, and that directory.
async fn large(files: usize) -> (Settled, Arc<Reconciler>, Ino) {
    large_in(Settled::new().await, files).await
}

async fn large_in(world: Settled, files: usize) -> (Settled, Arc<Reconciler>, Ino) {
    for number in 0..files {
        world.server.put_foreign(&format!("data/large/{number:05}"), "", &[]);
    }
    world.server.put_foreign("data/other", "", &[]);
    let reconciler = world.reconciler();
    reconciler.name(Ino::ROOT, &named("large")).await.unwrap();
    let name = keys::dirent(Ino::ROOT, &named("large"));
    let dirent: DirentRec = world.volume.meta.get(&name).await.unwrap().unwrap();
    (world, reconciler, dirent.ino)
}

/// Listings of a directory, and of what lies below its names.
fn lists_below(world: &Settled, prefix: &str) -> usize {
    let log = world.server.log();
    log.iter().filter(|one| one.op == Op::List && one.key.starts_with(prefix)).count()
}

/// What the tree has under a name.
async fn there(world: &Settled, dir: Ino, name: &str) -> Option<Ino> {
    let name = named(name);
    let dirent: Option<DirentRec> = world.volume.meta.get(&keys::dirent(dir, &name)).await.unwrap();
    dirent.map(|dirent| dirent.ino)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listing_that_is_cut_off_shows_what_it_saw_and_goes_on_there() {
    let (world, reconciler, dir) = large(2500).await;
    let pages = "data/large/";
    world
        .server
        .fault(Rule { skip: 2, ..Rule::always(Some(Op::List), pages, Action::Status(503)) });
    reconciler.directory(dir).await.unwrap();
    // The last one may be a directory, which the next page would say.
    assert_eq!(names_in(&world, dir).await, 1999);
    world.server.clear_faults();
    // The bucket is asked again some seconds later. For a name of the rest no listing is made.
    let lists = lists_below(&world, pages);
    let name = named("02400");
    let shown = || async {
        reconciler.name(dir, &name).await.unwrap();
        world.volume.meta.get::<DirentRec>(&keys::dirent(dir, &name)).await.unwrap()
    };
    support::wait_for_async("the name", PATIENCE, shown).await;
    assert_eq!(lists_below(&world, pages) - lists, 1, "whether it is a directory");
    world.server.delete_foreign("data/large/02450");
    let all = || async {
        reconciler.directory(dir).await.unwrap();
        (names_in(&world, dir).await == 2499).then_some(())
    };
    let lists = lists_below(&world, pages);
    support::wait_for_async("the rest", PATIENCE, all).await;
    assert_eq!(lists_below(&world, pages) - lists, 1, "only what was missing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn very_many_objects_that_somebody_removed_go_a_portion_at_a_time() {
    const PORTION: usize = 256;
    let world = Settled::refreshed(TestS3::start(), Duration::ZERO).await;
    // So many are only believed to be gone where the volume's state can be read.
    let (world, reconciler, dir) = large_in(world, 1500).await;
    reconciler.directory(dir).await.unwrap();
    assert_eq!(names_in(&world, dir).await, 1500);
    for number in 0..700 {
        world.server.delete_foreign(&format!("data/large/{number:05}"));
    }
    // Each of them is asked about, and then the bucket does not answer for a while.
    let away = Rule::always(Some(Op::Head), "data/large/", Action::Status(503));
    world.server.fault(away.after(PORTION as u32 + 100));
    let some_went = || async {
        reconciler.directory(dir).await.unwrap();
        Some(names_in(&world, dir).await).filter(|left| *left < 1500)
    };
    let left = support::wait_for_async("the first ones", 4 * PATIENCE, some_went).await;
    assert_eq!(left, 1500 - PORTION);
    world.server.clear_faults();
    let pages = || {
        let log = world.server.log();
        log.iter().filter(|one| one.op == Op::List && one.key == "data/large/").count()
    };
    let listed = pages();
    let all_went = || async {
        reconciler.directory(dir).await.unwrap();
        (names_in(&world, dir).await == 800).then_some(())
    };
    support::wait_for_async("the rest", 4 * PATIENCE, all_went).await;
    assert_eq!(pages(), listed, "it is not listed anew");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_swallows_requests_is_waited_for_once_and_not_for_every_name() {
    let world = Settled::refreshed(TestS3::start(), Duration::ZERO).await;
    world.server.put_foreign("data/a/b/c/file", "theirs", &[]);
    let reconciler = world.reconciler();
    let mut path = vec![(Ino::ROOT, "a")];
    for name in ["b", "c", "file"] {
        let (dir, above) = path[path.len() - 1];
        reconciler.name(dir, &named(above)).await.unwrap();
        path.push((there(&world, dir, above).await.unwrap(), name));
    }
    world.server.fault(Rule::always(None, "data/", Action::Hold));
    let began = boottime();
    for _ in 0..3 {
        for (dir, name) in &path {
            reconciler.name(*dir, &named(name)).await.unwrap();
        }
    }
    assert!(boottime() - began < Duration::from_secs(15), "{:?}", boottime() - began);
    world.server.clear_faults();
    world.server.release();
    world.server.put_foreign("data/a/new", "theirs", &[]);
    let dir = path[1].0;
    let shown = || async {
        reconciler.name(dir, &named("new")).await.unwrap();
        there(&world, dir, "new").await
    };
    support::wait_for_async("what others did meanwhile", PATIENCE, shown).await;
}

#[tokio::test]
async fn whoever_looks_elsewhere_comes_between_the_pages_of_a_large_listing() {
    let (world, reconciler, dir) = large(2500).await;
    let before = world.server.log().len();
    world.server.fault(Rule::new(Op::List, "data/large/", 1, Action::Hold));
    let listing = tokio::spawn({
        let reconciler = Arc::clone(&reconciler);
        async move { reconciler.directory(dir).await.unwrap() }
    });
    until("the first page", || world.server.held() == 1).await;
    let key = ObjectKey::new("data/other");
    let mut other = std::pin::pin!(reconciler.recheck_key(&key));
    assert!(futures::poll!(&mut other).is_pending());
    world.server.release();
    other.await.unwrap();
    listing.await.unwrap();
    assert_eq!(names_in(&world, dir).await, 2500);
    let log = world.server.log();
    let asked = log[before..].iter().map(|request| (request.op, request.key.as_str()));
    let asked: Vec<_> = asked.collect();
    let other = asked.iter().position(|one| *one == (Op::Head, "data/other")).expect("the look");
    let last = asked.iter().rposition(|one| *one == (Op::List, "data/large/")).expect("a page");
    assert!(other < last, "it waited for the whole listing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lookup_that_finds_many_outside_changes_waits_for_no_notice() {
    const MANY: usize = 2000;
    let world = Settled::new().await;
    let (tell, mut changes) = changes();
    let reconciler = Reconciler::new(Arc::clone(&world.settler), tell);
    for number in 0..MANY {
        world.server.put_foreign(&format!("data/f{number:04}"), "theirs", &[]);
    }
    // The kernel takes no notice of a directory while a request about it has no answer.
    let look = reconciler.directory(Ino::ROOT);
    tokio::time::timeout(PATIENCE, look).await.expect("an answer").unwrap();
    for number in 0..MANY {
        let name = named(&format!("f{number:04}"));
        let told = tokio::time::timeout(PATIENCE, changes.recv()).await.expect("a notice");
        assert_eq!(told, Some(Changed::Entry { parent: Ino::ROOT, name }));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tree_as_deep_as_keys_allow_goes_when_others_remove_it() {
    const LEVELS: usize = 500;
    let world = Settled::refreshed(TestS3::start(), Duration::ZERO).await;
    let key = format!("data/{}file", "d/".repeat(LEVELS));
    world.server.put_foreign(&key, "content", &[]);
    world.server.put_foreign("data/other", "", &[]);
    let reconciler = world.reconciler();
    let (mut dir, name) = (Ino::ROOT, named("d"));
    for _ in 0..LEVELS {
        reconciler.name(dir, &name).await.unwrap();
        dir = there(&world, dir, "d").await.expect("a level");
    }
    reconciler.directory(dir).await.unwrap();
    assert!(there(&world, dir, "file").await.is_some());
    assert!(world.server.delete_foreign(&key));
    let requests = world.server.log().len();
    let gone = || async {
        reconciler.directory(Ino::ROOT).await.unwrap();
        there(&world, Ino::ROOT, "d").await.is_none().then_some(())
    };
    support::wait_for_async("the end of the tree", PATIENCE, gone).await;
    assert!(world.volume.meta.get::<InodeRec>(&keys::inode(dir)).await.unwrap().is_none());
    assert!(there(&world, Ino::ROOT, "other").await.is_some());
    // Not one for each level.
    let asked = world.server.log().len() - requests;
    assert!(asked < LEVELS / 2, "{asked} requests");
}
