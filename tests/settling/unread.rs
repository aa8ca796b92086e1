//! Copies of objects whose tags nobody here can read, and of many bytes at a time.

use bytes::Bytes;

use super::copies::{others_take_the_new_name, sent, settles};
use super::late::rename;
use super::*;

/// Others put these objects with a tag, they are known here, and nobody here reads tags.
async fn tagged(files: &[String], body: &Bytes) -> (Settled, Arc<Reconciler>) {
    let world = Settled::new().await;
    let reconciler = world.reconciler();
    world.server.deny("s3:GetObjectTagging");
    for file in files {
        put_tagged(&world, file, body);
    }
    for file in files {
        reconciler.name(Ino::ROOT, &named(file)).await.unwrap();
    }
    (world, reconciler)
}

fn put_tagged(world: &Settled, file: &str, body: &Bytes) {
    let key = format!("data/{file}");
    world.server.put_foreign(&key, body.clone(), &[]);
    world.server.dress_foreign(&key, |carried| {
        carried.tags.insert("tag".to_owned(), "value".to_owned());
    });
}

async fn inode(world: &Settled, file: &str) -> Arc<Inode> {
    let ino = world.fs.lookup(Ino::ROOT, named(file)).await.unwrap().ino;
    world.volume.inode(ino).await.unwrap()
}

fn numbered(stem: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{stem}{number}")).collect()
}

fn has_tag(world: &Settled, file: &str) -> bool {
    world.server.get(&format!("data/{file}")).unwrap().carried.tags.contains_key("tag")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_gone_or_replaced_is_sent_from_here_without_its_tags() {
    for gone in [true, false] {
        for before in [true, false] {
            let case = format!("gone {gone}, before the look {before}");
            let files = ["first".to_owned(), "file".to_owned()];
            let (world, _reconciler) = tagged(&files, &Bytes::from("content")).await;
            world.server.copy_any_tags();
            // From here on it is known that nobody reads them.
            rename(&world, "first", "copied").await;
            assert_eq!(world.settle().await, 0, "{case}");
            assert!(has_tag(&world, "copied"), "{case}");
            let file = inode(&world, "file").await;
            assert_eq!(&world.volume.read(&file, 0, 100).await.unwrap()[..], b"content");
            rename(&world, "file", "renamed").await;
            let away = || match gone {
                true => assert!(world.server.delete_foreign("data/file")),
                false => world.server.put_foreign("data/file", "theirs", &[]),
            };
            world.server.clear_log();
            if before {
                away();
            }
            world.server.fault(Rule::new(Op::Copy, "data/renamed", 1, Action::Hold));
            let settling = settles(&world);
            if !before {
                until("the copy", || world.server.held() == 1).await;
                away();
                world.server.release();
            }
            assert_eq!(settling.await.unwrap(), 0, "{case}");
            assert_eq!(world.object("renamed").as_deref(), Some("content"), "{case}");
            assert_eq!(sent(&world, Op::Copy), usize::from(!before), "{case}");
            let theirs = (!gone).then_some("theirs");
            assert_eq!(world.object("file").as_deref(), theirs, "{case}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_put_at_the_new_name_costs_nothing_its_tags() {
    let (world, _reconciler) = tagged(&numbered("file", 1), &Bytes::from("content")).await;
    world.server.copy_any_tags();
    rename(&world, "file0", "renamed").await;
    let aside = others_take_the_new_name(&world).await;
    let keys = world.server.keys("data/");
    assert!(has_tag(&world, aside.strip_prefix("data/").unwrap()), "{keys:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_store_refuses_to_copy_is_fetched_side_by_side_and_sent() {
    const FILES: usize = 6;
    let (world, _reconciler) = tagged(&numbered("file", FILES), &Bytes::from("content")).await;
    let move_all = async |from: &str, to: &str| {
        for (from, to) in numbered(from, FILES).iter().zip(numbered(to, FILES)) {
            rename(&world, from, &to).await;
        }
        world.volume.evict_all().unwrap();
        world.server.clear_log();
        world.server.fault(Rule::always(Some(Op::Get), "data/", Action::Hold));
        let settling = settles(&world);
        until("the held GETs", || world.server.held() == FILES as u64).await;
        world.server.clear_faults();
        world.server.release();
        assert_eq!(settling.await.unwrap(), 0);
        assert_eq!((sent(&world, Op::Get), sent(&world, Op::Put)), (FILES, FILES));
        sent(&world, Op::Copy)
    };
    assert_eq!(move_all("file", "between").await, FILES);
    assert_eq!(move_all("between", "moved").await, 0, "it is known");
    // What others take along says nothing about these, nor the other way round.
    let file = inode(&world, "moved0").await;
    let (at, value) = (Bytes::from("user.s3.tag.ours"), Bytes::from("known"));
    let fs = Arc::clone(&world.fs);
    fs.setxattr(Caller::ROOT, file.ino, at, value, s3vol::fs::XattrMode::Any).await.unwrap();
    world.server.clear_log();
    assert_eq!(world.settle().await, 0);
    assert_eq!(sent(&world, Op::Copy), 1);
    assert_eq!(world.server.get("data/moved0").unwrap().carried.tags["ours"], "known");
    rename(&world, "moved1", "again").await;
    world.server.clear_log();
    assert_eq!(world.settle().await, 0);
    assert_eq!((sent(&world, Op::Copy), sent(&world, Op::Put)), (0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_round_does_not_copy_any_more_is_not_looked_at() {
    const FILES: usize = 8;
    // More than 256 MiB only with the fifth.
    const TOGETHER: usize = 5;
    let (world, _reconciler) =
        tagged(&numbered("file", FILES), &Bytes::from(vec![0; 60 << 20])).await;
    world.server.allow_all();
    for (from, to) in numbered("file", FILES).iter().zip(numbered("moved", FILES)) {
        rename(&world, from, &to).await;
    }
    world.server.clear_log();
    world.server.fault(Rule::always(Some(Op::Copy), "data/", Action::Hold));
    let settling = settles(&world);
    until("the copies", || world.server.held() == TOGETHER as u64).await;
    assert_eq!(sent(&world, Op::Head), TOGETHER);
    world.server.clear_faults();
    world.server.release();
    assert_eq!(settling.await.unwrap(), 0);
    assert_eq!((sent(&world, Op::Copy), sent(&world, Op::Get)), (FILES, 0));
    assert_eq!(sent(&world, Op::Head), FILES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_file_of_many_names_a_round_copies_no_more_than_of_others() {
    const NAMES: usize = 8;
    const TOGETHER: usize = 5;
    let (world, _reconciler) = tagged(&numbered("file", 1), &Bytes::from(vec![0; 60 << 20])).await;
    world.server.copy_any_tags();
    let file = inode(&world, "file0").await;
    for link in numbered("link", NAMES) {
        world.fs.link(Caller::ROOT, file.ino, Ino::ROOT, named(&link)).await.unwrap();
    }
    world.server.clear_log();
    world.server.fault(Rule::always(Some(Op::Copy), "data/", Action::Hold));
    let settling = settles(&world);
    until("the copies", || world.server.held() == TOGETHER as u64).await;
    assert_eq!(sent(&world, Op::Copy), TOGETHER);
    world.server.clear_faults();
    world.server.release();
    assert_eq!(settling.await.unwrap(), 0);
    assert!(numbered("link", NAMES).iter().all(|link| has_tag(&world, link)));
    assert_eq!(sent(&world, Op::Get), 0);
}
