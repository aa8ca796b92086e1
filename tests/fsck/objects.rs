//! Plain objects whose bytes or metadata a store or somebody spoiled, and objects that no record knows.

use bytes::Bytes;
use s3vol::types::{Caller, Ino};

use crate::world::{World, assert_clean, left, named, noise};

const FILE: &str = "home/vol/dir/file";

/// One of every kind at rest, and nobody who uses it.
async fn at_rest() -> World {
    let mut world = World::new().await;
    world.every_kind().await;
    world.settle().await;
    world.close().await;
    world
}

/// What is found, left without agreement, and gone once what was agreed to is at rest.
async fn found_and_published_again(world: &mut World, expected: &[&str]) {
    assert_eq!(left(&world.check().await), expected);
    assert_eq!(left(&world.repair(false).await), expected);
    let report = world.repair(true).await;
    assert_eq!(report.exit_code(), 1, "{:#?}", report.findings);
    world.open().await;
    world.settle().await;
    world.close().await;
    assert_clean(&world.check().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_not_those_of_their_etag_are_found() {
    let world = at_rest().await;
    let whole = world.server.get(FILE).unwrap();
    world.server.spoil(FILE, |object| object.body = Bytes::from_static(b"Content of a file"));
    let report = world.check().await;
    assert_eq!(left(&report), ["object: /another name"]);
    let detail = &report.findings[0].detail;
    assert!(detail.contains(FILE) && detail.contains(&whole.etag), "{detail}");
    // Nothing here has other bytes: nothing is changed, and the file is not lost either.
    let report = world.repair(true).await;
    assert_eq!(report.exit_code(), 4);
    // Without reading it nobody can tell.
    let how = s3vol::worker::FsckHow { data: false, all: false, repair: None };
    assert_clean(&s3vol::worker::fsck(&world.at, how, &mut |_| {}).await.unwrap());

    // Shorter, at a place that nobody but a reader sees.
    world.server.spoil(FILE, |object| object.body = whole.body.clone());
    assert_clean(&world.check().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_are_believed_once_they_were_seen_to_fit() {
    let mut world = World::new().await;
    let large = noise(20 << 20);
    world.file(Ino::ROOT, "a", &large).await;
    world.settle().await;
    world.close().await;
    let spoil = |world: &World, key: &str| {
        world.server.spoil(key, |object| {
            let mut body = object.body.to_vec();
            body[17 << 20] ^= 4;
            object.body = body.into();
        });
    };
    assert!(world.server.get("home/vol/a").unwrap().etag.ends_with("-2"));
    spoil(&world, "home/vol/a");
    let report = world.check().await;
    assert_clean(&report);
    let [said] = &report.not_judged[..] else { panic!("{report:?}") };
    assert!(said.contains("the bytes of 1 objects"), "{said}");

    world.open().await;
    world.file(Ino::ROOT, "b", &large[1..]).await;
    world.settle().await;
    world.close().await;
    let report = world.check().await;
    assert_eq!(left(&report), ["object: /a"]);
    assert_eq!(report.not_judged, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_an_object_shows_is_compared() {
    let mut world = at_rest().await;
    let whole = world.server.get(FILE).unwrap();
    let coloured = &whole.metadata["xattr"];
    let other = coloured.replace("cmVk", "Ymx1ZQ%3D%3D");
    assert_ne!(other, *coloured);
    let spoiled = [
        ("mode", "33188"),
        ("uid", "12"),
        ("gid", "13"),
        ("mtime", "5"),
        ("theirs", "x"),
        ("s3volino", "4711"),
        ("xattr", other.as_str()),
    ];
    world.server.spoil(FILE, |object| {
        let pairs = spoiled.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        object.metadata.extend(pairs);
    });
    let report = world.check().await;
    let detail = &report.findings[0].detail;
    let all = "mode, uid, gid, mtime, inode, extended attributes, metadata";
    assert!(detail.contains(all), "{detail}");
    found_and_published_again(&mut world, &["attributes: home/vol/dir/file"]).await;
    let put = |name: &str| name == "s3volput";
    let now = world.server.get(FILE).unwrap();
    let kept = |object: &crate::support::s3server::Object| {
        let pairs = object.metadata.clone().into_iter();
        pairs.filter(|(name, _)| !put(name)).collect::<Vec<_>>()
    };
    assert_eq!(kept(&now), kept(&whole));

    world.server.spoil(FILE, |object| drop(object.metadata.remove("xattr")));
    world.server.spoil("home/vol/dir/null", |object| {
        object.metadata.insert("rdev".to_owned(), "9".to_owned());
    });
    let spoiled = ["attributes: home/vol/dir/file", "attributes: home/vol/dir/null"];
    found_and_published_again(&mut world, &spoiled).await;
    assert_eq!(kept(&world.server.get(FILE).unwrap()), kept(&whole));
    world.server.spoil("home/vol/dir/link", |object| object.body = Bytes::from_static(b"elif"));
    found_and_published_again(&mut world, &["object: home/vol/dir/link"]).await;
    assert_eq!(&*world.server.get("home/vol/dir/link").unwrap().body, b"file");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attributes_without_room_on_the_object_are_not_missed() {
    let mut world = World::new().await;
    let file = world.file(Ino::ROOT, "f", b"x").await;
    for (name, size) in [("user.small", 20), ("user.large", 3000)] {
        let (name, value) = (Bytes::from(name), Bytes::from(vec![b'v'; size]));
        let mode = s3vol::fs::XattrMode::Any;
        world.fs().setxattr(Caller::ROOT, file, name, value, mode).await.unwrap();
        world.settle().await;
        assert_clean(&world.check().await);
    }
    world.close().await;
    assert_clean(&world.check().await);
    let object = world.server.get("home/vol/f").unwrap();
    assert!(!object.metadata.contains_key("xattr"), "it shows all of them or none");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_of_ours_that_no_record_knows_are_listed_and_taken_over() {
    let mut world = at_rest().await;
    let old = world.server.get("home/vol/dir/deep/large").unwrap();
    world.open().await;
    let dir = world.lookup(Ino::ROOT, "dir").await.unwrap();
    let deep = world.lookup(dir, "deep").await.unwrap();
    world.fs().unlink(Caller::ROOT, deep, named("large")).await.unwrap();
    world.settle().await;
    world.close().await;
    let key = "home/vol/dir/deep/large";
    assert!(world.server.get(key).is_none());
    assert_clean(&world.check().await);

    // A copy of it elsewhere is somebody else's.
    world.server.restore("home/vol/copy", old.clone());
    let report = world.check().await;
    assert_clean(&report);
    assert_eq!(report.checked.unseen_objects, 1, "{report:?}");

    world.server.restore(key, old.clone());
    let report = world.check().await;
    assert_eq!(left(&report), [format!("object: {key}")]);
    let detail = &report.findings[0].detail;
    assert!(detail.contains(&old.metadata["s3volput"]), "{detail}");
    assert!(detail.contains("which is not there any more"), "{detail}");
    let report = world.repair(false).await;
    assert_eq!(report.exit_code(), 1, "{:#?}", report.findings);
    assert_clean(&world.check().await);
    world.open().await;
    let back = world.lookup(deep, "large").await.unwrap();
    assert_eq!(world.read(back).await, old.body);

    // Over a file that is not in the bucket yet: that one stands beside it.
    world.fs().unlink(Caller::ROOT, deep, named("large")).await.unwrap();
    world.settle().await;
    world.file(deep, "large", b"new").await;
    world.close().await;
    world.server.restore(key, old);
    assert_eq!(left(&world.check().await), [format!("object: {key}")]);
    assert_eq!(left(&world.repair(false).await), [format!("object: {key}")]);
    assert_eq!(world.repair(true).await.exit_code(), 1);
    assert_clean(&world.check().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_list_is_cut_for_a_person_and_whole_for_a_program() {
    let world = at_rest().await;
    let one = world.server.get(FILE).unwrap();
    for n in 0..1100 {
        let key = format!("home/vol/many-{n:04}");
        let mut object = one.clone();
        let mark = s3vol::settle::key_mark(&s3vol::types::ObjectKey::new(&*key));
        object.metadata.insert("s3volkey".to_owned(), mark);
        world.server.restore(&key, object);
    }
    let report = world.check().await;
    assert_eq!((report.findings.len(), report.left()), (1000, 1100));
    let how = s3vol::worker::FsckHow { data: false, all: true, repair: None };
    let report = s3vol::worker::fsck(&world.at, how, &mut |_| {}).await.unwrap();
    assert_eq!((report.findings.len(), report.left()), (1100, 1100));
    assert_eq!(report.exit_code(), 4);
}
