//! Objects of removed files, at a store that cannot compare before it deletes, and deletes key by key.

use super::*;

const FILES: usize = 200;

fn simple() -> TestS3 {
    let server = TestS3::start();
    server.fault(Rule::always(Some(Op::Delete), "", Action::IgnoreConditions));
    server.fault(Rule::always(Some(Op::DeleteMany), "", Action::Status(501)));
    server
}

async fn many() -> Settled {
    let world = Settled::on(simple()).await;
    for number in 0..FILES {
        world.file(&format!("f{number:03}"), "content").await;
    }
    world.settle().await;
    assert_eq!(world.server.keys("data/f").len(), FILES);
    world
}

async fn remove(world: &Settled, number: usize) {
    let name = named(&format!("f{number:03}"));
    world.fs.unlink(Caller::ROOT, Ino::ROOT, name).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_many_keys_hold_is_seen_by_one_listing() {
    let world = many().await;
    for number in 0..FILES {
        remove(&world, number).await;
    }
    world.server.clear_log();
    world.settle().await;
    assert_eq!(world.server.keys("data/f"), [""; 0]);
    assert_eq!(world.requests(Op::Delete), FILES);
    // A loaded machine may take longer over them than a look lasts.
    let heads = world.requests(Op::Head);
    assert!(heads < FILES / 4, "{heads} HEAD");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_put_there_stays_though_many_keys_are_seen_at_once() {
    let world = many().await;
    for number in 0..FILES {
        remove(&world, number).await;
    }
    world.server.put_foreign("data/f007", "foreign", &[]);
    world.server.delete_foreign("data/f008");
    world.settle().await;
    assert_eq!(world.server.keys("data/f"), ["data/f007"]);
    assert_eq!(world.object("f007").as_deref(), Some("foreign"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nothing_can_be_listed_keys_are_looked_at_one_by_one() {
    let world = many().await;
    for number in 0..FILES {
        remove(&world, number).await;
    }
    world.server.fault(Rule::always(Some(Op::List), "", Action::Status(403)));
    world.server.put_foreign("data/f007", "foreign", &[]);
    world.settle().await;
    assert_eq!(world.server.keys("data/f"), ["data/f007"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn directories_with_many_keys_to_delete_are_listed_side_by_side() {
    const DIRECTORIES: usize = 10;
    let world = Settled::on(simple()).await;
    let (fs, root) = (&world.fs, Caller::ROOT);
    let name = |text: String| named(&text);
    let files: Vec<String> = (0..20).map(|number| format!("f{number}")).collect();
    let mut directories = Vec::new();
    for number in 0..DIRECTORIES {
        let made = fs.mkdir(root, Ino::ROOT, name(format!("d{number}")), 0o755).await.unwrap();
        for file in &files {
            let mode = libc::S_IFREG | 0o644;
            fs.mknod(root, made.ino, name(file.clone()), mode, 0).await.unwrap();
        }
        directories.push(made.ino);
    }
    assert_eq!(world.settle().await, 0);
    for directory in directories {
        for file in &files {
            fs.unlink(root, directory, name(file.clone())).await.unwrap();
        }
    }
    world.server.fault(Rule::always(Some(Op::List), "data/d", Action::Hold));
    let settling = tokio::spawn({
        let settler = Arc::clone(&world.settler);
        async move { settler.settle_all(Deadline::after(PATIENCE)).await.unwrap() }
    });
    until("the listings", || world.server.held() == 8).await;
    world.server.clear_faults();
    world.server.release();
    assert_eq!(settling.await.unwrap(), 0);
    let left = world.server.keys("data/d");
    assert_eq!(left.iter().filter(|key| key.contains("/f")).count(), 0, "{left:?}");
}
