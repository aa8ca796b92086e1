//! What lies in the store whole is renamed, and gets other attributes, by copies on the server.

use bytes::Bytes;
use s3vol::fs::XattrMode;
use s3vol::types::ATTR_KEY;

use super::late::rename;
use super::*;

/// The requests since the log was cleared for objects that are no markers of directories.
pub fn sent(world: &Settled, op: Op) -> usize {
    let log = world.server.log();
    let of_files = |key: &str| key.starts_with("data/") && !key.ends_with('/');
    log.iter().filter(|one| one.op == op && of_files(&one.key)).count()
}

pub fn settles(world: &Settled) -> tokio::task::JoinHandle<u64> {
    let settler = Arc::clone(&world.settler);
    tokio::spawn(async move { settler.settle_all(Deadline::after(PATIENCE)).await.unwrap() })
}

/// A file at rest, and the tree as others changed it.
async fn renamed() -> (Settled, Arc<Reconciler>, Arc<Inode>) {
    let world = Settled::new().await;
    let reconciler = world.reconciler();
    let file = world.file("file", "content").await;
    assert_eq!(world.settle().await, 0);
    rename(&world, "file", "renamed").await;
    (world, reconciler, file)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_is_renamed_moves_without_a_byte_through_this_host() {
    const FILES: usize = 50;
    let world = Settled::new().await;
    let (fs, root) = (&world.fs, Caller::ROOT);
    let dir = fs.mkdir(root, Ino::ROOT, named("dir"), 0o755).await.unwrap().ino;
    for number in 0..FILES {
        let file = format!("f{number}");
        world.file(&file, &format!("content {number}")).await;
        let mode = RenameMode::Replace;
        fs.rename(root, Ino::ROOT, named(&file), dir, named(&file), mode).await.unwrap();
    }
    assert_eq!(world.settle().await, 0);
    // Of half of them nothing is cached.
    for number in 0..FILES / 2 {
        let ino = fs.lookup(dir, named(&format!("f{number}"))).await.unwrap().ino;
        world.volume.evict(&world.volume.inode(ino).await.unwrap()).unwrap();
    }
    rename(&world, "dir", "moved").await;
    world.server.clear_log();
    assert_eq!(world.settle().await, 0);
    for (op, count) in [(Op::Copy, FILES), (Op::Get, 0), (Op::Put, 0), (Op::Head, FILES)] {
        assert_eq!(sent(&world, op), count, "{op:?}");
    }
    assert_eq!(world.server.keys("data/dir/"), [""; 0]);
    for number in 0..FILES {
        let key = format!("data/moved/f{number}");
        let object = world.server.get(&key).unwrap();
        assert_eq!(&object.body[..], format!("content {number}").as_bytes());
        let marked = s3vol::settle::key_mark(&ObjectKey::new(key));
        assert_eq!(object.metadata[ATTR_KEY], marked, "it is known for ours where it lies now");
    }
    // Another host reads it, and takes nothing of it for somebody else's.
    let world = world.lose_host().await;
    assert_eq!(world.settle().await, 0);
    let dir = world.fs.lookup(Ino::ROOT, named("moved")).await.unwrap().ino;
    assert_eq!(names_in(&world, dir).await, FILES);
    let ino = world.fs.lookup(dir, named("f7")).await.unwrap().ino;
    let file = world.volume.inode(ino).await.unwrap();
    assert_eq!(&world.volume.read(&file, 0, 100).await.unwrap()[..], b"content 7");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_object_bears_goes_with_a_copy() {
    let world = Settled::new().await;
    world.server.put_foreign("data/file.txt", "content", &[("theirs", "kept")]);
    world.server.dress_foreign("data/file.txt", |carried| {
        carried.tags.insert("tag".to_owned(), "value".to_owned());
        carried.headers.insert("cache-control".to_owned(), "no-store".to_owned());
    });
    let reconciler = world.reconciler();
    reconciler.name(Ino::ROOT, &named("file.txt")).await.unwrap();
    let ours = world.file("ours.txt", "content").await;
    assert_eq!(world.settle().await, 0);
    let fs = Arc::clone(&world.fs);
    let theirs = fs.lookup(Ino::ROOT, named("file.txt")).await.unwrap().ino;
    reconciler.attributes(theirs).await.unwrap();
    world.server.clear_log();
    for ino in [theirs, ours.ino] {
        let mode = SetAttr { mode: Some(0o600), ..SetAttr::default() };
        fs.setattr(Caller::ROOT, ino, mode).await.unwrap();
        for (at, value) in [("user.s3.tag.more", "tagged"), ("user.note", "noted")] {
            let (at, value) = (Bytes::from(at), Bytes::from(value));
            fs.setxattr(Caller::ROOT, ino, at, value, XattrMode::Any).await.unwrap();
        }
    }
    assert_eq!(world.settle().await, 0);
    assert_eq!((sent(&world, Op::Copy), sent(&world, Op::Put), sent(&world, Op::Get)), (2, 0, 0));
    for (from, to) in [("file.txt", "file.css"), ("ours.txt", "ours.css")] {
        rename(&world, from, to).await;
    }
    assert_eq!(world.settle().await, 0);
    assert_eq!((sent(&world, Op::Copy), sent(&world, Op::Put), sent(&world, Op::Get)), (4, 0, 0));
    assert_eq!(world.server.keys("data/"), ["data/file.css", "data/ours.css"]);
    for (key, own) in [("data/file.css", false), ("data/ours.css", true)] {
        let object = world.server.get(key).unwrap();
        assert_eq!(&object.body[..], b"content");
        let mode = (libc::S_IFREG | 0o600).to_string();
        assert_eq!(object.metadata["mode"], mode);
        assert!(object.metadata.contains_key("xattr"));
        assert_eq!(object.carried.tags["more"], "tagged");
        assert_eq!(object.metadata.contains_key("theirs"), !own);
        assert_eq!(object.carried.tags.len(), if own { 1 } else { 2 });
        let header = |name: &str| object.carried.headers.get(name).map(String::as_str);
        assert_eq!(header("cache-control"), (!own).then_some("no-store"));
        if own {
            assert!(header("content-type").unwrap().starts_with("text/css"), "by its name");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_between_a_plan_and_its_announcement_stops_the_copy() {
    let world = Settled::new().await;
    let file = world.file("file", "content").await;
    let large = world.file("large", &"content".repeat(9 << 18)).await;
    assert_eq!(world.settle().await, 0);
    rename(&world, "file", "renamed").await;
    // It is planned after the other one.
    assert!(file.ino < large.ino);
    world.write(&large, "C").await;
    world.server.clear_log();
    world.server.fault(Rule::new(Op::CreateUpload, "data/large", 1, Action::Hold));
    let settling = settles(&world);
    until("the upload", || world.server.held() == 1).await;
    world.volume.write(&file, 0, b"C").await.unwrap();
    world.server.release();
    assert_eq!(settling.await.unwrap(), 0);
    assert_eq!(sent(&world, Op::Copy), 0);
    assert_eq!(world.object("renamed").as_deref(), Some("Content"));
    assert_eq!(world.object("file"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_while_a_copy_is_on_its_way_rests_after_it() {
    let (world, _reconciler, file) = renamed().await;
    world.server.fault(Rule::new(Op::Copy, "data/renamed", 1, Action::Hold));
    let settling = settles(&world);
    until("the copy", || world.server.held() == 1).await;
    world.write(&file, "C").await;
    world.volume.evict_all().unwrap();
    let read = || async { world.volume.read(&file, 0, 100).await.unwrap() };
    assert_eq!(&read().await[..], b"Content");
    world.server.release();
    assert_eq!(settling.await.unwrap(), 0);
    assert_eq!(world.object("renamed").as_deref(), Some("Content"));
    assert_eq!(&read().await[..], b"Content");
    assert_eq!(world.server.keys("data/"), ["data/renamed"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_put_over_the_object_to_copy_stays_and_is_not_copied() {
    for cached in [true, false] {
        for before in [true, false] {
            let (world, reconciler, file) = renamed().await;
            if !cached {
                world.volume.evict_all().unwrap();
            }
            if before {
                // The look sees it.
                world.server.put_foreign("data/file", "theirs", &[]);
            }
            world.server.fault(Rule::new(Op::Copy, "data/renamed", 1, Action::Hold));
            let settling = settles(&world);
            if !before {
                until("the copy", || world.server.held() == 1).await;
                world.server.put_foreign("data/file", "theirs", &[]);
                world.server.release();
            }
            let left = settling.await.unwrap();
            reconciler.name(Ino::ROOT, &named("file")).await.unwrap();
            let case = format!("cached {cached}, before the look {before}");
            assert_eq!(world.object("file").as_deref(), Some("theirs"), "{case}");
            if cached {
                // Ours was not lost: this host had it.
                assert_eq!((left, world.settle().await), (0, 0), "{case}");
                assert_eq!(world.object("renamed").as_deref(), Some("content"), "{case}");
                assert_eq!(&world.volume.read(&file, 0, 100).await.unwrap()[..], b"content");
            } else {
                assert!(left >= 1, "{case}");
                assert_eq!(world.object("renamed"), None, "{case}");
                assert_eq!(world.settler.status().unsettleable.len(), 1, "{case}");
            }
            assert_eq!(names_in(&world, Ino::ROOT).await, 2, "{case}");
            let theirs = world.fs.lookup(Ino::ROOT, named("file")).await.unwrap().ino;
            let theirs = world.volume.inode(theirs).await.unwrap();
            assert_eq!(&world.volume.read(&theirs, 0, 100).await.unwrap()[..], b"theirs");
        }
    }
}

/// Others put an object at the new name while the copy to it is on its way. Returns the key of what was kept aside.
pub async fn others_take_the_new_name(world: &Settled) -> String {
    world.server.fault(Rule::new(Op::Copy, "data/renamed", 1, Action::Hold));
    let settling = settles(world);
    until("the copy", || world.server.held() == 1).await;
    world.server.put_foreign("data/renamed", "theirs", &[]);
    world.server.release();
    settling.await.unwrap();
    assert_eq!(world.settle().await, 0);
    assert_eq!(world.object("renamed").as_deref(), Some("theirs"));
    let keys = world.server.keys("data/");
    keys.into_iter().find(|key| key.contains(".s3vol-conflict-")).expect("ours")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_put_at_the_new_name_keeps_it() {
    let (world, _reconciler, _file) = renamed().await;
    let aside = &others_take_the_new_name(&world).await;
    let keys = world.server.keys("data/");
    assert_eq!(keys.len(), 2, "{keys:?}");
    assert_eq!(&world.server.get(aside).unwrap().body[..], b"content");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_without_an_answer_is_found_by_its_put_id() {
    let (world, _reconciler, file) = renamed().await;
    world.server.fault(Rule::new(Op::Copy, "data/renamed", 1, Action::ApplyThenDropReply));
    // Before the request expires.
    world.settler.settle_now(Deadline::after(PATIENCE / 10)).await.unwrap();
    assert_eq!(world.settler.status().open_intents, 1);
    assert_eq!(&world.volume.read(&file, 0, 100).await.unwrap()[..], b"content");
    let settled = || async { (world.settle().await == 0).then_some(()) };
    support::wait_for_async("the expiry of the request", PATIENCE, settled).await;
    assert_eq!(sent(&world, Op::Copy), 1);
    assert_eq!(world.server.keys("data/"), ["data/renamed"]);
    assert_eq!(world.settler.status().conflicts, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_store_refuses_copies_files_are_sent_at_once() {
    const FILES: usize = 40;
    let world = Settled::new().await;
    for number in 0..FILES {
        world.file(&format!("f{number}"), "content").await;
    }
    assert_eq!(world.settle().await, 0);
    let move_all = async |from: &str, to: &str| {
        for number in 0..FILES {
            rename(&world, &format!("{from}{number}"), &format!("{to}{number}")).await;
        }
        world.server.clear_log();
        let began = boottime();
        assert_eq!(world.settle().await, 0);
        assert!(boottime() - began < NOT_AFTER / 2, "{:?}", boottime() - began);
        assert_eq!(sent(&world, Op::Put), FILES);
        sent(&world, Op::Copy)
    };
    world.server.fault(Rule::always(Some(Op::Copy), "data/", Action::Status(403)));
    assert_eq!(move_all("f", "between ").await, FILES);
    assert_eq!(move_all("between ", "moved ").await, 0, "it is known");
    assert_eq!(world.server.keys("data/moved ").len(), FILES);
    assert_eq!(world.server.keys("data/").len(), FILES);
    let status = world.settler.status();
    assert_eq!(status.unsettleable, [""; 0]);
    assert!(status.missing_rights[0].contains("instead of copied"), "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_conditions_of_copies_do_not_hold_files_are_sent() {
    let server = TestS3::start();
    server.fault(Rule::always(Some(Op::Copy), "", Action::IgnoreConditions));
    let world = Settled::on(server).await;
    let _file = world.file("file", "content").await;
    assert_eq!(world.settle().await, 0);
    rename(&world, "file", "renamed").await;
    world.server.clear_log();
    assert_eq!(world.settle().await, 0);
    assert_eq!((sent(&world, Op::Copy), sent(&world, Op::Put)), (0, 1));
    assert_eq!(world.object("renamed").as_deref(), Some("content"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_file_of_several_names_the_base_is_copied_and_the_others_are_sent() {
    let world = Settled::new().await;
    let file = world.file("one", "content").await;
    world.fs.link(Caller::ROOT, file.ino, Ino::ROOT, named("two")).await.unwrap();
    assert_eq!(world.settle().await, 0);
    world.server.clear_log();
    let mode = SetAttr { mode: Some(0o600), ..SetAttr::default() };
    world.fs.setattr(Caller::ROOT, file.ino, mode).await.unwrap();
    assert_eq!(world.settle().await, 0);
    assert_eq!((sent(&world, Op::Copy), sent(&world, Op::Put)), (1, 1));
    // The base loses its name, and the other one becomes it.
    world.fs.unlink(Caller::ROOT, Ino::ROOT, named("one")).await.unwrap();
    rename(&world, "two", "three").await;
    assert_eq!(world.settle().await, 0);
    assert_eq!(world.server.keys("data/"), ["data/three"]);
    let object = world.server.get("data/three").unwrap();
    assert_eq!(&object.body[..], b"content");
    assert_eq!(object.metadata["mode"], (libc::S_IFREG | 0o600).to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lies_in_an_archive_is_not_copied_and_turns_no_copies_off() {
    let world = Settled::new().await;
    let _archived = world.file("archived", "content").await;
    let _other = world.file("other", "content").await;
    assert_eq!(world.settle().await, 0);
    world.server.dress_foreign("data/archived", |carried| {
        carried.class = Some("GLACIER".to_owned());
    });
    rename(&world, "archived", "moved").await;
    rename(&world, "other", "renamed").await;
    world.server.clear_log();
    world.volume.evict_all().unwrap();
    assert!(world.settle().await >= 1);
    assert_eq!((sent(&world, Op::Copy), sent(&world, Op::Put)), (1, 0));
    assert_eq!(world.object("renamed").as_deref(), Some("content"));
    assert_eq!(world.settler.status().unsettleable.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_store_cannot_copy_is_sent_once_that_is_known() {
    let (world, _reconciler, _file) = renamed().await;
    world.server.clear_log();
    world.server.fault(Rule::always(Some(Op::Copy), "data/renamed", Action::Status(500)));
    world.settler.settle_now(Deadline::after(PATIENCE / 10)).await.unwrap();
    assert_eq!(world.settler.status().open_intents, 1);
    let settled = || async { (world.settle().await == 0).then_some(()) };
    support::wait_for_async("the expiry of the request", PATIENCE, settled).await;
    assert_eq!((sent(&world, Op::Copy), sent(&world, Op::Put)), (1, 1));
    assert_eq!(world.object("renamed").as_deref(), Some("content"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_at_which_nothing_may_be_put_turns_no_copies_off() {
    let world = Settled::new().await;
    for file in ["refused", "other"] {
        world.file(file, "content").await;
    }
    assert_eq!(world.settle().await, 0);
    for op in [Op::Copy, Op::Put] {
        world.server.fault(Rule::always(Some(op), "data/secret", Action::Status(403)));
    }
    rename(&world, "refused", "secret").await;
    assert!(world.settle().await >= 1);
    rename(&world, "other", "renamed").await;
    world.server.clear_log();
    assert!(world.settle().await >= 1);
    assert_eq!(world.object("renamed").as_deref(), Some("content"));
    let log = world.server.log();
    assert!(log.iter().any(|one| (one.op, one.key.as_str()) == (Op::Copy, "data/renamed")));
    assert_eq!(world.settler.status().missing_rights, [""; 0]);
    world.server.clear_faults();
    assert_eq!(world.settle().await, 0);
    assert_eq!(world.object("secret").as_deref(), Some("content"));
}
