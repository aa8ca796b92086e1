//! Plain objects whose bytes or metadata a store or somebody spoiled, and objects that no record knows.

use bytes::Bytes;
use s3vol::types::{Caller, Ino};

use crate::support::s3server::{Action, Object, Op, Rule};
use crate::world::{World, assert_clean, left, named, noise};

const FILE: &str = "home/vol/dir/file";
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// Waits until a request is held.
async fn held(world: &World, what: &str) {
    let held = || async { (world.server.held() == 1).then_some(()) };
    crate::support::wait_for_async(what, PATIENCE, held).await;
}

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
    let kept = |object: &Object| {
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
async fn what_an_object_was_given_to_bear_is_compared() {
    let mut world = World::new().await;
    let file = world.file(Ino::ROOT, "f", b"x").await;
    let given = [
        ("user.s3.storage-class", "STANDARD_IA"),
        ("user.s3.encryption", "AES256"),
        ("user.s3.tag.team", "red"),
        ("user.s3.cache-control", "no-store"),
    ];
    for (name, value) in given {
        let mode = s3vol::fs::XattrMode::Any;
        world.fs().setxattr(Caller::ROOT, file, name.into(), value.into(), mode).await.unwrap();
    }
    world.settle().await;
    world.close().await;
    assert_clean(&world.check().await);
    let key = "home/vol/f";
    let whole = world.server.get(key).unwrap();
    assert_eq!(whole.carried.tags["team"], "red");
    // What others add is theirs.
    let tag = |object: &mut Object, name: &str, value: &str| {
        object.carried.tags.insert(name.to_owned(), value.to_owned())
    };
    world.server.spoil(key, |object| drop(tag(object, "cost", "7")));
    assert_clean(&world.check().await);
    world.server.spoil(key, |object| {
        tag(object, "team", "blue");
        (object.carried.class, object.carried.encryption) = (None, None);
    });
    let report = world.check().await;
    assert_eq!(left(&report), ["attributes: home/vol/f"]);
    let detail = &report.findings[0].detail;
    assert!(detail.contains("storage class, encryption, tags"), "{detail}");
    // Tags are read with the data only.
    let how = s3vol::worker::FsckHow { data: false, all: false, repair: None };
    world.server.clear_log();
    let report = s3vol::worker::fsck(&world.at, how, &mut |_| {}).await.unwrap();
    assert!(!report.findings[0].detail.contains("tags"), "{:?}", report.findings);
    let tagging = Op::Tagging;
    assert!(world.server.log().iter().all(|one| one.op != tagging));
    world.server.deny("s3:GetObjectTagging");
    let report = world.check().await;
    assert!(!report.findings[0].detail.contains("tags"), "{:?}", report.findings);
    assert!(report.not_judged.iter().any(|what| what.contains("tags")), "{:?}", report.not_judged);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_adopted_object_said_is_compared() {
    let mut world = World::new().await;
    let key = "home/vol/theirs";
    let said = [("mode", "33188"), ("uid", "7"), ("gid", "8"), ("mtime", "1000"), ("note", "n")];
    world.server.put_foreign(key, "theirs", &said);
    world.server.put_foreign("home/vol/plain", "plain", &[]);
    for name in ["theirs", "plain"] {
        let ino = world.lookup(Ino::ROOT, name).await.unwrap();
        world.fs().getattr(ino).await.unwrap();
    }
    world.settle().await;
    world.close().await;
    assert_clean(&world.check().await);
    world.server.spoil(key, |object| {
        for (name, value) in [("mode", "33152"), ("uid", "9"), ("mtime", "1001")] {
            object.metadata.insert(name.to_owned(), value.to_owned());
        }
        object.metadata.remove("note");
    });
    let report = world.check().await;
    assert_eq!(left(&report), ["attributes: home/vol/theirs"]);
    let detail = &report.findings[0].detail;
    assert!(detail.contains("another mode, uid, mtime, metadata than"), "{detail}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_get_that_shows_another_object_than_a_head_is_found() {
    let mut world = World::new().await;
    world.file(Ino::ROOT, "f", b"content").await;
    world.settle().await;
    world.close().await;
    let key = "home/vol/f";
    let etag = world.server.get(key).unwrap().etag;
    world.server.fault(Rule::new(Op::Get, key, 1, Action::Hold));
    // The first one is asked for before anything is read.
    world.server.fault(Rule::new(Op::Head, key, 1, Action::Hold).after(1));
    let meanwhile = async {
        held(&world, "the GET").await;
        world.server.spoil(key, |object| object.etag = "0".repeat(32));
        world.server.release();
        let refused = || async {
            let log = world.server.log();
            log.iter().any(|one| (one.op, one.status) == (Op::Get, 412)).then_some(())
        };
        crate::support::wait_for_async("the GET's answer", PATIENCE, refused).await;
        held(&world, "the HEAD").await;
        world.server.spoil(key, |object| object.etag = etag.clone());
        world.server.release();
    };
    let (report, ()) = tokio::join!(world.check(), meanwhile);
    assert_eq!(left(&report), ["object: /f"]);
    let detail = &report.findings[0].detail;
    assert!(detail.contains("a GET shows another object than a HEAD"), "{detail}");
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
