//! A state that is lost, and a new one from the objects.

use bytes::Bytes;
use s3vol::catalog::{Stores, find_state};
use s3vol::fs::RenameMode;
use s3vol::meta::keys;
use s3vol::types::{Caller, FileKind, Ino};
use s3vol::worker::{Rebuilt, Successor, open, plan_rebuild};

use tokio::sync::Notify;

use crate::support::s3server::{Action, Op, Rule};
use crate::world::{World, assert_clean, named, noise};

async fn rebuild(world: &mut World) -> Rebuilt {
    let plan = plan_rebuild(&world.at).await.unwrap();
    let rebuilt = plan.run(&mut |_, _| {}).await.unwrap();
    world.id = rebuilt.id;
    world.state = format!("home/.s3vol/v/{}/", rebuilt.id);
    rebuilt
}

/// All of [`World::every_kind`], as it was at rest.
async fn is_all_there(world: &World) {
    let fs = world.fs();
    let dir = world.lookup(Ino::ROOT, "dir").await.unwrap();
    let deep = world.lookup(dir, "deep").await.unwrap();
    assert!(world.lookup(dir, "empty").await.is_some());
    let file = world.lookup(dir, "file").await.unwrap();
    assert_eq!(world.read(file).await, b"content of a file");
    assert_eq!(world.read(world.lookup(deep, "large").await.unwrap()).await, noise(3 << 20));
    assert_eq!(world.read(world.lookup(deep, "odd\u{1}name").await.unwrap()).await, b"odd");
    let attr = fs.getattr(file).await.unwrap();
    assert_eq!((attr.perm & 0o7777, attr.nlink), (0o640, 2));
    assert_eq!(world.lookup(Ino::ROOT, "another name").await, Some(file), "a hard link");
    let xattr = fs.getxattr(file, Bytes::from_static(b"user.colour")).await.unwrap();
    assert_eq!(&xattr[..], b"red");
    let link = world.lookup(dir, "link").await.unwrap();
    assert_eq!(&fs.readlink(link).await.unwrap()[..], b"file");
    for (name, kind, rdev) in [("fifo", FileKind::Fifo, 0), ("null", FileKind::CharDevice, 0x103)] {
        let attr = fs.getattr(world.lookup(dir, name).await.unwrap()).await.unwrap();
        assert_eq!((attr.kind, attr.rdev, attr.perm & 0o7777), (kind, rdev, 0o600), "{name}");
    }
    let attr = fs.getattr(dir).await.unwrap();
    assert_eq!((attr.perm & 0o7777, attr.nlink), (0o750, 4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_comes_back_from_its_objects() {
    let mut world = World::new().await;
    world.every_kind().await;
    world.settle().await;
    let dir = world.lookup(Ino::ROOT, "dir").await.unwrap();
    let file = world.lookup(dir, "file").await.unwrap();
    let before = world.fs().getattr(file).await.unwrap();
    world.close().await;
    let objects = world.server.objects("home/vol/");
    for key in world.server.keys("home/.s3vol/") {
        assert!(world.server.delete_foreign(&key));
    }
    let rebuilt = rebuild(&mut world).await;
    assert_eq!((rebuilt.links.joined, rebuilt.links.silent), (1, 0), "{rebuilt:?}");
    assert_eq!(rebuilt.lost, [""; 0]);
    assert_clean(&world.check().await);
    world.open().await;
    is_all_there(&world).await;
    let dir = world.lookup(Ino::ROOT, "dir").await.unwrap();
    let file = world.lookup(dir, "file").await.unwrap();
    assert_eq!(world.fs().getattr(file).await.unwrap().mtime, before.mtime);
    let after = world.server.objects("home/vol/");
    assert!(objects.iter().map(|(k, o)| (k, &o.etag)).eq(after.iter().map(|(k, o)| (k, &o.etag))));

    // It is a volume like any other.
    world.write(file, 0, b"CON").await;
    world.settle().await;
    for name in ["home/vol/dir/file", "home/vol/another name"] {
        assert_eq!(&world.server.get(name).unwrap().body[..], b"CONtent of a file");
    }
    assert_clean(&world.check().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_old_state_is_kept_and_nobody_mounts_it() {
    let mut world = World::new().await;
    world.every_kind().await;
    world.settle().await;
    let refused = plan_rebuild(&world.at).await.unwrap_err().to_string();
    assert!(refused.contains("holds this volume"), "{refused}");
    let dir = world.lookup(Ino::ROOT, "dir").await.unwrap();
    let deep = world.lookup(dir, "deep").await.unwrap();
    let large = world.lookup(deep, "large").await.unwrap();
    world.write(large, 0, b"changed").await;
    world.file(deep, "new", b"nowhere else").await;
    world
        .fs()
        .rename(Caller::ROOT, dir, named("link"), dir, named("renamed"), RenameMode::Replace)
        .await
        .unwrap();
    world.close().await;
    let old = world.spec();
    let kept = world.server.keys(&world.state);
    let (state, id) = (world.state.clone(), world.id);

    let plan = plan_rebuild(&world.at).await.unwrap();
    assert!(plan.plan().contains("It can be read"), "{}", plan.plan());
    let rebuilt = rebuild(&mut world).await;
    let mut lost = rebuilt.lost.clone();
    lost.sort();
    let lost: Vec<&str> = lost.iter().map(|lost| lost.split(": ").next().unwrap()).collect();
    assert_eq!(lost, ["/dir/deep/large", "/dir/deep/new", "/dir/renamed"], "{rebuilt:?}");
    assert!(rebuilt.told && rebuilt.kept.is_some_and(|kept| kept.contains(&id.to_string())));
    for key in kept {
        assert!(world.server.get(&key).is_some(), "{key} of {state}");
    }
    let refused = open(&old, Successor::No).await.unwrap_err().to_string();
    assert!(refused.contains("was rebuilt"), "{refused}");
    let found = find_state(&Stores::default(), &world.at.options).await.unwrap().unwrap();
    assert_eq!(found.id, rebuilt.id);
    assert!(found.adopted, "nobody can tell whose the objects were");
    assert_clean(&world.check().await);
    world.open().await;
    is_all_there(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_cannot_be_read_is_replaced_and_one_that_was_cut_short_is_not() {
    let mut world = World::new().await;
    world.every_kind().await;
    world.settle().await;
    world.close().await;
    let format = format!("{}format.json", world.state);
    world.server.put_foreign(&format, "{", &[]);
    // One that is cut short changes nothing.
    let entry = world.server.objects("home/.s3vol/by-prefix/");
    let (plan, begun) = (plan_rebuild(&world.at).await.unwrap(), Notify::new());
    let mut told = |_: &str, _| begun.notify_one();
    tokio::select! {
        done = plan.run(&mut told) => panic!("it was faster: {done:?}"),
        () = begun.notified() => {}
    }
    let now = world.server.objects("home/.s3vol/by-prefix/");
    assert!(entry.iter().map(|(k, o)| (k, &o.body)).eq(now.iter().map(|(k, o)| (k, &o.body))));
    let rebuilt = rebuild(&mut world).await;
    assert!(!rebuilt.told);
    // The next one took away what the first one had begun.
    let mut formats = world.server.keys("home/.s3vol/v/");
    formats.retain(|key| key.ends_with("/format.json"));
    formats.sort();
    let mut expected = [format.clone(), format!("{}format.json", world.state)];
    expected.sort();
    assert_eq!(formats, expected);
    let mut folders = std::fs::read_dir(&world.at.volumes).unwrap().flatten();
    assert!(folders.all(|folder| !folder.path().join("rebuilding").exists()));
    assert_eq!(&world.server.get(&format).unwrap().body[..], b"{");
    assert_clean(&world.check().await);
    world.open().await;
    is_all_there(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_that_another_host_took_meanwhile_is_not_replaced() {
    let mut world = World::new().await;
    world.every_kind().await;
    world.settle().await;
    world.close().await;
    let format = world.server.get(&format!("{}format.json", world.state)).unwrap().body;
    let entry = world.server.objects("home/.s3vol/by-prefix/");
    let plan = plan_rebuild(&world.at).await.unwrap();
    let mut taken = false;
    let mut told = |_: &str, _| {
        if !std::mem::replace(&mut taken, true) {
            let claim = world.edit(async |_, batch| batch.put(keys::owner(), vec![7]));
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(claim));
        }
    };
    let refused = plan.run(&mut told).await.unwrap_err().to_string();
    assert!(taken, "{refused}");
    let now = world.server.get(&format!("{}format.json", world.state)).unwrap().body;
    assert_eq!(now, format);
    let after = world.server.objects("home/.s3vol/by-prefix/");
    assert!(entry.iter().map(|(k, o)| (k, &o.body)).eq(after.iter().map(|(k, o)| (k, &o.body))));
    let states = world.server.keys("home/.s3vol/v/");
    assert!(states.iter().all(|key| key.starts_with(&world.state)), "{states:?}");
    world.open().await;
    is_all_there(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_mount_had_answered_is_not_left_behind() {
    let mut world = World::new().await;
    world.every_kind().await;
    world.settle().await;
    world.file(Ino::ROOT, "answered", b"only in the log of this host").await;
    world.crash().await;
    let refused = plan_rebuild(&world.at).await.unwrap_err().to_string();
    assert!(refused.contains("not in the bucket"), "{refused}");
    assert!(refused.contains(&world.spec().state_dir.display().to_string()), "{refused}");
    // As it says.
    world.open().await;
    world.commit().await;
    world.crash().await;
    let plan = plan_rebuild(&world.at).await.unwrap();
    // Nor what came between the question and the answer.
    world.open().await;
    let file = world.lookup(Ino::ROOT, "answered").await.unwrap();
    world.write(file, 0, b"ONLY").await;
    world.crash().await;
    let refused = plan.run(&mut |_, _| {}).await.unwrap_err().to_string();
    assert!(refused.contains("not in the bucket"), "{refused}");
    world.open().await;
    assert_eq!(world.read(file).await, b"ONLY in the log of this host");
    world.settle().await;
    world.close().await;
    let rebuilt = rebuild(&mut world).await;
    assert_eq!(rebuilt.lost, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_set_aside_here_is_not_left_behind() {
    let mut world = World::new().await;
    world.every_kind().await;
    world.settle().await;
    world.file(Ino::ROOT, "answered", b"only in the log of this host").await;
    world.crash().await;
    let state_dir = world.spec().state_dir;
    let aside = state_dir.join("recovery-0");
    std::fs::create_dir(&aside).unwrap();
    for part in ["log", "cache"] {
        std::fs::rename(state_dir.join(part), aside.join(part)).unwrap();
    }
    let refused = plan_rebuild(&world.at).await.unwrap_err().to_string();
    assert!(refused.contains("not in the bucket"), "{refused}");
    std::fs::write(aside.join("log/uploaded"), "name").unwrap();
    rebuild(&mut world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_closed_the_old_state_and_led_nowhere_is_finished_by_the_next() {
    let mut world = World::new().await;
    world.every_kind().await;
    world.settle().await;
    world.file(Ino::ROOT, "new", b"nowhere else").await;
    world.close().await;
    let plan = plan_rebuild(&world.at).await.unwrap();
    world.server.fault(Rule::always(Some(Op::Put), "by-prefix", Action::Status(403)));
    let error = plan.run(&mut |_, _| {}).await.unwrap_err().to_string();
    assert!(error.contains("once more"), "{error}");
    world.server.clear_faults();
    let refused = open(&world.spec(), Successor::No).await.unwrap_err().to_string();
    assert!(refused.contains("was rebuilt"), "{refused}");
    let states = world.server.keys("home/.s3vol/v/");

    let plan = plan_rebuild(&world.at).await.unwrap();
    assert!(plan.plan().contains("nothing leads there yet"), "{}", plan.plan());
    let rebuilt = rebuild(&mut world).await;
    assert!(rebuilt.before && error.contains(&rebuilt.id.to_string()), "{error}: {rebuilt:?}");
    assert_eq!(rebuilt.lost.len(), 1, "{rebuilt:?}");
    assert_eq!(world.server.keys("home/.s3vol/v/"), states);
    assert_clean(&world.check().await);
    world.open().await;
    is_all_there(&world).await;
}
