//! Each kind of damage is found as what it is, and mended, or left with exit code 4.

use s3vol::fsck::Report;
use s3vol::meta::keys;
use s3vol::meta::records::{
    ContentRec, DirentRec, InodeRec, Place, RestRec, SegmentRec, SuperRec, encode,
};
use s3vol::types::{Base, FileKind, Ino, ObjectKey};

use crate::world::{World, assert_clean, left, named, noise};

/// A volume with one of every kind at rest, a file in motion, and nobody who uses it.
async fn unmounted() -> World {
    let mut world = World::new().await;
    world.every_kind().await;
    world.settle().await;
    world.file(Ino::ROOT, "moving", &noise(600_000)).await;
    world.close().await;
    world
}

/// Exactly this is found, and mending it without a question leaves nothing.
async fn found_and_mended(world: &World, expected: &[&str]) -> Report {
    assert_eq!(left(&world.check().await), expected);
    let report = world.repair(false).await;
    assert_eq!(left(&report), [""; 0], "{:#?}", report.findings);
    assert_eq!(report.exit_code(), 1);
    assert_clean(&world.check().await);
    report
}

/// Exactly this is found; without agreement it is left, with it it is mended.
async fn found_and_asked(world: &World, expected: &[&str]) -> Report {
    assert_eq!(left(&world.check().await), expected);
    let report = world.repair(false).await;
    assert_eq!(left(&report), expected);
    assert_eq!(report.exit_code(), 4);
    let report = world.repair(true).await;
    assert_eq!(left(&report), [""; 0], "{:#?}", report.findings);
    assert_eq!(report.exit_code(), 1);
    assert_clean(&world.check().await);
    report
}

/// Exactly this is found, and stays.
async fn found_and_left(world: &World, expected: &[&str]) {
    assert_eq!(left(&world.check().await), expected);
    let report = world.repair(true).await;
    assert_eq!(left(&report), expected, "{:#?}", report.findings);
    assert_eq!(report.exit_code(), 4);
}

const FILE: &str = "home/vol/dir/file";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_by_others_are_found_and_taken_over() {
    let mut world = unmounted().await;
    let large = "home/vol/dir/deep/large";
    world.server.put_foreign(large, "of somebody else", &[]);
    found_and_mended(&world, &["object: home/vol/dir/deep/large"]).await;
    world.open().await;
    let dir = world.lookup(Ino::ROOT, "dir").await.unwrap();
    let deep = world.lookup(dir, "deep").await.unwrap();
    let ino = world.lookup(deep, "large").await.unwrap();
    assert_eq!(world.read(ino).await, b"of somebody else");
    world.close().await;

    assert!(world.server.delete_foreign(large));
    found_and_asked(&world, &["object: home/vol/dir/deep/large"]).await;
    world.open().await;
    assert_eq!(world.lookup(deep, "large").await, None);
    world.close().await;

    // The same bytes, in an object that is none of ours.
    let nothing = world.server.get("home/vol/dir/deep/odd\u{1}name");
    assert!(nothing.is_none(), "such names are escaped");
    let object = world.server.get(FILE).unwrap();
    world
        .change(keys::rest(&ObjectKey::new(FILE)), |rest: &mut RestRec| {
            rest.version.modified = None;
        })
        .await;
    world.server.put_foreign(FILE, object.body, &[]);
    found_and_mended(&world, &["object: home/vol/dir/file"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn segments_are_compared_with_what_refers_to_them() {
    let world = unmounted().await;
    let [key] = world.segments().try_into().expect("one segment");
    let whole = world.server.get(&key).unwrap().body;
    let id = u128::from_str_radix(key.rsplit('/').next().unwrap(), 16).unwrap();

    let mut flipped = whole.to_vec();
    flipped[300_000] ^= 1;
    world.server.put_foreign(&key, flipped, &[]);
    found_and_left(&world, &["segment: /moving"]).await;
    world.server.put_foreign(&key, whole.slice(..whole.len() - 1), &[]);
    let report = world.check().await;
    assert!(left(&report).contains(&"segment: /moving".to_owned()), "{report:?}");
    assert!(world.server.delete_foreign(&key));
    found_and_left(&world, &["segment: /moving"]).await;
    world.server.put_foreign(&key, whole, &[]);
    assert_clean(&world.check().await);

    let what = format!("segment: segment {id:032x}");
    world.change(keys::segment(id), |segment: &mut SegmentRec| segment.live -= 9).await;
    found_and_mended(&world, &[&what]).await;
    world.drop_row(keys::segment(id)).await;
    found_and_mended(&world, &[&what]).await;
    world.edit(async |_, batch| batch.put(keys::garbage(id), Vec::new())).await;
    found_and_mended(&world, &[&what]).await;

    // What a commit left that never came to its end goes when it is old.
    let other = format!("{}segments/{:032x}", world.state, 7);
    world.server.put_foreign(&other, "nobody's", &[]);
    assert_clean(&world.check().await);
    world.server.set_clock_offset(-2 * 3600);
    world.server.put_foreign(&other, "nobody's", &[]);
    world.server.set_clock_offset(0);
    let report =
        found_and_mended(&world, &["garbage: segment 00000000000000000000000000000007"]).await;
    assert!(!world.segments().contains(&other), "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_old_log_goes_on_after_something_was_deleted() {
    let mut world = unmounted().await;
    world.open().await;
    let dir = world.lookup(Ino::ROOT, "dir").await.unwrap();
    let file = world.lookup(dir, "file").await.unwrap();
    let before = world.read(file).await;
    world.write(file, 0, b"not synced").await;
    world.crash().await;

    // Its log might be the only thing that names this segment.
    let other = format!("{}segments/{:032x}", world.state, 7);
    world.server.set_clock_offset(-2 * 3600);
    world.server.put_foreign(&other, "nobody's", &[]);
    world.server.set_clock_offset(0);
    let crashed = world.at.volumes.clone();
    world.at.volumes = crashed.with_file_name("another-host");
    assert_eq!(world.repair(false).await.exit_code(), 1);
    assert!(!world.segments().contains(&other));

    world.at.volumes = crashed;
    world.open().await;
    assert_eq!(world.read(file).await, before);
    assert!(world.spec().state_dir.join("recovery-0").exists(), "what was not synced is set aside");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_and_links_say_the_same() {
    let mut world = unmounted().await;
    let file = world.ino("dir/file").await;
    let dir = world.ino("dir").await;
    world.change(keys::inode(file), |inode: &mut InodeRec| inode.nlink = 7).await;
    found_and_mended(&world, &["link-count: /another name"]).await;
    world.change(keys::inode(dir), |inode: &mut InodeRec| inode.nlink = 0).await;
    found_and_mended(&world, &["link-count: /dir"]).await;

    world.drop_row(keys::dirent(dir, &named("file"))).await;
    found_and_mended(&world, &["name: /dir/file"]).await;
    world.drop_row(keys::parent(file, dir, &named("file"))).await;
    let found = world.check().await;
    let expected = ["link-count: /another name", "name: /dir/file"];
    assert_eq!(left(&found)[..2], expected, "{found:?}");
    assert_eq!(world.repair(false).await.exit_code(), 1);
    assert_clean(&world.check().await);

    world
        .change(keys::dirent(dir, &named("file")), |dirent: &mut DirentRec| {
            dirent.kind = FileKind::Fifo;
        })
        .await;
    found_and_mended(&world, &["name: /dir/file"]).await;
    let nowhere = DirentRec { ino: Ino(9999), kind: FileKind::File };
    let row = keys::dirent(dir, &named("nowhere"));
    world.edit(async |_, batch| batch.put(row, encode(&nowhere))).await;
    found_and_asked(&world, &["name: /dir/nowhere"]).await;

    // A name in the wrong place is found by nobody.
    let mut row = keys::dirent(dir, &named("file"));
    row[12] ^= 1;
    let right = DirentRec { ino: file, kind: FileKind::File };
    world
        .edit(async |_, batch| {
            batch.delete(keys::dirent(dir, &named("file")));
            batch.put(row, encode(&right));
        })
        .await;
    let report = world.repair(false).await;
    assert_eq!(report.exit_code(), 1, "{:#?}", report.findings);
    assert_clean(&world.check().await);

    // An inode that lost its only name is given one.
    let moving = world.ino("moving").await;
    world
        .edit(async |_, batch| {
            batch.delete(keys::dirent(Ino::ROOT, &named("moving")));
            batch.delete(keys::parent(moving, Ino::ROOT, &named("moving")));
        })
        .await;
    found_and_mended(&world, &[&format!("orphan: inode {moving}")]).await;
    // And one that has a name is not removed.
    world.edit(async |_, batch| batch.put(keys::orphan(file), Vec::new())).await;
    found_and_mended(&world, &["orphan: /another name"]).await;
    world.open().await;
    let back = world.lookup(Ino::ROOT, &format!("lost+found-{moving}")).await.unwrap();
    assert_eq!(world.read(back).await, noise(600_000));
    let dir = world.lookup(Ino::ROOT, "dir").await.unwrap();
    assert_eq!(world.lookup(dir, "file").await, Some(file));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_cannot_be_read_are_findings() {
    let mut world = unmounted().await;
    let file = world.ino("dir/file").await;
    let dir = world.ino("dir").await;
    let moving = world.ino("moving").await;

    world.cut(keys::superblock()).await;
    found_and_mended(&world, &["counter: the volume's counters"]).await;
    world.change(keys::superblock(), |counters: &mut SuperRec| counters.bytes += 5).await;
    found_and_mended(&world, &["counter: the volume's counters"]).await;
    world.cut(keys::dirent(dir, &named("file"))).await;
    found_and_mended(&world, &["record: /dir/file"]).await;
    world.cut(keys::rest(&ObjectKey::new(FILE))).await;
    found_and_mended(&world, &["record: home/vol/dir/file"]).await;
    world.cut(keys::inode(file)).await;
    found_and_asked(&world, &["record: /another name"]).await;
    world.cut(keys::inode(dir)).await;
    found_and_asked(&world, &["record: /dir"]).await;
    world.cut(keys::content(file)).await;
    let found = left(&world.check().await);
    assert_eq!(found, ["content: /another name", "counter: the volume's counters"]);
    assert_eq!(world.repair(true).await.exit_code(), 1);
    assert_clean(&world.check().await);

    for key in
        [vec![keys::WORK, 1], vec![keys::INODE], vec![keys::DIRENT, 0, 0], vec![keys::TIDY, 0xff]]
    {
        world.edit(async |_, batch| batch.put(key, vec![0xff; 3])).await;
    }
    let found = left(&world.check().await);
    assert!(found.iter().filter(|what| what.starts_with("record: ")).count() == 4, "{found:?}");
    let report = world.repair(true).await;
    assert_eq!(report.exit_code(), 1, "{:#?}", report.findings);

    world.open().await;
    let dir = world.lookup(Ino::ROOT, "dir").await.unwrap();
    let ino = world.lookup(dir, "file").await.unwrap();
    assert_eq!(world.read(ino).await, b"content of a file");
    let attr = world.fs().getattr(ino).await.unwrap();
    assert_eq!(attr.perm & 0o777, 0o640, "its object says so");
    assert_eq!(world.read(moving).await, noise(600_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_is_made_of_what_it_says() {
    let world = unmounted().await;
    let moving = world.ino("moving").await;
    let file = world.ino("dir/file").await;
    world.change(keys::content(moving), |content: &mut ContentRec| content.pieces += 1).await;
    found_and_mended(&world, &["content: /moving"]).await;
    let base: Base = world.content(file).await.base.unwrap();
    world.drop_row(keys::rest(&base.key)).await;
    let report = world.repair(false).await;
    assert_eq!(report.exit_code(), 1, "{:#?}", report.findings);
    assert_clean(&world.check().await);

    let content = world.content(moving).await;
    let first = {
        let mut first = None;
        world
            .edit(async |engine, batch| {
                let (from, to) = keys::extents_after(moving, content.map, 0);
                first = engine.scan(from, to, 1).await.unwrap().pop();
                batch.delete(vec![0xfe]);
            })
            .await;
        first.expect("an extent")
    };
    world
        .change(first.0.to_vec(), |extent: &mut s3vol::meta::records::ExtentRec| {
            if let Place::Segment { crc_len, .. } = &mut extent.place {
                *crc_len = 1;
            }
        })
        .await;
    found_and_left(&world, &["extent: /moving"]).await;
    world.edit(async |_, batch| batch.put(first.0.to_vec(), first.1.to_vec())).await;
    assert_clean(&world.check().await);
    world.cut(first.0.to_vec()).await;
    let report = world.check().await;
    assert!(left(&report).contains(&"record: /moving".to_owned()), "{report:?}");
    assert_eq!(world.repair(true).await.exit_code(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_show_what_the_files_are() {
    let mut world = unmounted().await;
    let file = world.ino("dir/file").await;
    world.change(keys::inode(file), |inode: &mut InodeRec| inode.uid = 77).await;
    let both = ["attributes: home/vol/another name", "attributes: home/vol/dir/file"];
    assert_eq!(left(&world.check().await), both);
    assert_eq!(world.repair(false).await.exit_code(), 4);
    assert_eq!(world.repair(true).await.exit_code(), 1);
    world.open().await;
    world.settle().await;
    world.close().await;
    assert_clean(&world.check().await);
    assert_eq!(world.server.get(FILE).unwrap().metadata["uid"], "77");

    let row = keys::rests(file, &ObjectKey::new(FILE));
    world.drop_row(row).await;
    found_and_mended(&world, &["rest: home/vol/dir/file"]).await;
    let dir = world.ino("dir").await;
    let row = keys::rests(dir, &ObjectKey::new("home/vol/never"));
    world.edit(async |_, batch| batch.put(row, Vec::new())).await;
    found_and_mended(&world, &["rest: home/vol/never"]).await;
    let row = keys::work(Ino(4711));
    world
        .edit(async |_, batch| batch.put(row, encode(&s3vol::meta::records::WorkRec::Inode)))
        .await;
    let report = world.repair(false).await;
    assert_eq!(report.exit_code(), 1, "{:#?}", report.findings);
    assert_clean(&world.check().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_leads_to_a_volume_is_found_by_its_objects() {
    let mut world = unmounted().await;
    let entries = world.server.keys("home/.s3vol/by-prefix/");
    let [entry] = &entries[..] else { panic!("{entries:?}") };
    let before = world.server.get(entry).unwrap().body;
    assert!(world.server.delete_foreign(entry));
    let what = format!("catalog: the by-prefix entry of {}", world.at.options.url);
    found_and_mended(&world, &[&what]).await;
    let same = |body: &[u8]| {
        let mut entry: serde_json::Value = serde_json::from_slice(body).unwrap();
        // Nobody can tell any more; so nothing of others is deleted.
        entry["adopted"] = true.into();
        entry
    };
    assert_eq!(same(&world.server.get(entry).unwrap().body), same(&before));
    world.server.put_foreign(entry, "{", &[]);
    found_and_mended(&world, &[&what]).await;

    let lease = world.server.keys(&format!("{}lease/", world.state)).pop().unwrap();
    let body = world.server.get(&lease).unwrap().body;
    world.server.put_foreign(&lease, "{", &[]);
    let report = world.check().await;
    assert_eq!(left(&report), [format!("lease: {lease}")]);
    world.server.put_foreign(&lease, body, &[]);
    world.open().await;
    world.close().await;

    let format = format!("{}format.json", world.state);
    let body = world.server.get(&format).unwrap().body;
    assert!(world.server.delete_foreign(&format));
    let report = world.check().await;
    assert_eq!(left(&report), ["catalog: format.json"]);
    assert_eq!(report.exit_code(), 4);
    world.server.put_foreign(&format, body, &[]);
    assert_clean(&world.check().await);

    let engine = format!("{}meta/slatedb-0.18/", world.state);
    let what = format!("engine: {engine}wal/");
    let objects = world.server.objects(&format!("{engine}wal/"));
    assert!(objects.len() > 2, "{objects:?}");
    for (key, object) in &objects {
        // Each of them alone: the first, one in the middle, the last.
        assert!(world.server.delete_foreign(key));
        let report = world.check().await;
        assert_eq!(left(&report), std::slice::from_ref(&what), "{key}");
        assert_eq!(left(&world.repair(true).await), std::slice::from_ref(&what), "{key}");
        world.server.put_foreign(key, object.body.clone(), &[]);
    }
    assert_clean(&world.check().await);
    let manifests = world.server.objects(&format!("{engine}manifest/"));
    for (key, _) in &manifests {
        assert!(world.server.delete_foreign(key));
    }
    let report = world.check().await;
    assert_eq!(left(&report), ["engine: the records of the volume"]);
    for (key, object) in &manifests {
        world.server.put_foreign(key, object.body[..object.body.len() / 2].to_vec(), &[]);
    }
    let report = world.check().await;
    assert_eq!(left(&report), ["engine: the records of the volume"]);
}

/// Damages random rows in random ways: whatever that is, it is found or harmless, and mending it comes to an end.
async fn random_damage(rounds: u64, seed: u64) {
    let mut world = World::new().await;
    let dir = world.every_kind().await;
    world.settle().await;
    world.in_motion(dir).await;
    world.close().await;
    let mut random = seed;
    let mut next = |below: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) as usize % below.max(1)
    };
    for round in 0..rounds {
        let (row, way, at) = (next(1 << 20), next(4), next(1 << 20));
        world
            .edit(async |engine, batch| {
                let all = (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded);
                let rows = engine.scan(all.0, all.1, 10_000).await.unwrap();
                let (key, value) = &rows[row % rows.len()];
                let (mut key, mut value) = (key.to_vec(), value.to_vec());
                match way {
                    0 => batch.delete(key),
                    1 => {
                        value.truncate(at % value.len().max(1));
                        batch.put(key, value);
                    }
                    2 if !value.is_empty() => {
                        let at = at % value.len();
                        value[at] ^= 1 << (row % 8);
                        batch.put(key, value);
                    }
                    _ => {
                        let at = 1 + at % (key.len() - 1).max(1);
                        if let Some(byte) = key.get_mut(at) {
                            *byte ^= 1 << (row % 8);
                        }
                        batch.put(key, value);
                    }
                }
            })
            .await;
        let report = world.check().await;
        let mended = world.repair(true).await;
        // What is left stays as it is: nothing is mended anew each time.
        let again = world.repair(true).await;
        assert_eq!(left(&again), left(&mended), "seed {seed}, round {round}: {report:#?}");
        let ended = again.is_clean() || again.exit_code() == 4;
        assert!(ended, "seed {seed}, round {round}: {report:#?}\n{again:#?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_of_any_kind_is_survived() {
    random_damage(6, 11).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes"]
async fn soak_damage_of_any_kind_is_survived() {
    for seed in 0..20 {
        random_damage(20, seed).await;
    }
}
