//! A list of hashes against a bucket, by the second reader.

use s3vol::fs::RenameMode;
use s3vol::meta::keys;
use s3vol::types::{Caller, Ino};
use s3vol::verify::{Expected, Verdict, expected, verify};
use s3vol::worker::{Verified, verify_places};
use sha2::{Digest, Sha256};

use crate::world::{World, named, noise};

fn hashed(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What the list says of a path with these bytes.
async fn judged(world: &World, path: &str, bytes: &[u8]) -> Verdict {
    let line = format!("{}  {path}", hashed(bytes));
    let one: Expected = expected(line.as_bytes()).unwrap().unwrap();
    let Verified { places, plain } = verify_places(&world.at, false).await.unwrap();
    assert_eq!(plain, None);
    verify(&places, &one).await.unwrap()
}

const OK: Verdict = Verdict::Ok(None);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_is_proven_at_rest_and_in_motion() {
    let mut world = World::new().await;
    let dir = world.every_kind().await;
    let mut large = noise(3 << 20);
    let mut holes = [b"first".to_vec(), vec![0; (200 << 10) - 5], b"last".to_vec()].concat();
    for settled in [false, true] {
        match settled {
            false => world.commit().await,
            true => world.settle().await,
        }
        assert_eq!(judged(&world, "dir/file", b"content of a file").await, OK);
        assert_eq!(judged(&world, "./another name", b"content of a file").await, OK);
        assert_eq!(judged(&world, "/dir/deep/large", &large).await, OK);
        assert_eq!(judged(&world, "dir/deep/nothing", b"").await, OK);
        assert_eq!(judged(&world, "dir/deep/odd\u{1}name", b"odd").await, OK);
        assert_eq!(judged(&world, "dir/deep/holes", &holes).await, OK);
        assert_eq!(judged(&world, "dir/link", b"content of a file").await, OK);
        let differs = judged(&world, "dir/file", b"other").await;
        let found = hashed(b"content of a file");
        assert_eq!(differs, Verdict::Differs { found, note: None });
        assert_eq!(judged(&world, "dir/no", b"").await, Verdict::Missing);
        assert_eq!(judged(&world, "dir/file/no", b"").await, Verdict::Missing);
        for none in ["dir", "dir/fifo", "../x", "."] {
            let verdict = judged(&world, none, b"").await;
            assert!(matches!(verdict, Verdict::Unreadable(_)), "{none}: {verdict}");
        }
    }
    world.in_motion(dir).await;
    large[100_000..100_000 + (1 << 20)].copy_from_slice(&noise(1 << 20));
    large[5..11].copy_from_slice(b"inline");
    large[200_000..500_000].copy_from_slice(&noise(300_000));
    holes.truncate(3000);
    for mounted in [true, false] {
        if !mounted {
            world.close().await;
        }
        assert_eq!(judged(&world, "moved/deep/large", &large).await, OK);
        assert_eq!(judged(&world, "moved/deep/new", &noise(500_000)).await, OK);
        assert_eq!(judged(&world, "moved/deep/holes", &holes).await, OK);
        assert_eq!(judged(&world, "moved/file", b"content of a file").await, OK);
        // Their objects are there until they are tidied.
        for gone in ["another name", "moved/deep/gone", "dir/file"] {
            assert_eq!(
                judged(&world, gone, b"content of a file").await,
                Verdict::Missing,
                "{gone}"
            );
        }
    }
    for key in world.segments() {
        let mut flipped = world.server.get(&key).unwrap().body.to_vec();
        flipped[10] ^= 1;
        world.server.put_foreign(&key, flipped, &[]);
    }
    let files = [("moved/deep/large", large), ("moved/deep/new", noise(500_000))];
    let mut broken = 0;
    for (path, bytes) in &files {
        match judged(&world, path, bytes).await {
            Verdict::Unreadable(why) => {
                assert!(why.contains("checksum"), "{why}");
                broken += 1;
            }
            verdict => assert_eq!(verdict, OK),
        }
    }
    assert!(broken > 0, "some of them begin a segment");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_did_is_said() {
    let mut world = World::new().await;
    let file = world.file(Ino::ROOT, "theirs", b"ours").await;
    world.file(Ino::ROOT, "gone", b"gone").await;
    world.file(Ino::ROOT, "cut", b"cut").await;
    let one = world.file(Ino::ROOT, "one", b"two names").await;
    world.fs().link(Caller::ROOT, one, Ino::ROOT, named("two")).await.unwrap();
    world.settle().await;
    world.server.put_foreign("home/vol/theirs", "theirs", &[]);
    world.server.put_foreign("home/vol/new", "new", &[]);
    assert!(world.server.delete_foreign("home/vol/gone"));
    let note = |verdict: Verdict| match verdict {
        Verdict::Ok(Some(note)) => note,
        other => panic!("{other}"),
    };
    assert!(note(judged(&world, "theirs", b"theirs").await).contains("somebody else"));
    assert!(note(judged(&world, "new", b"new").await).contains("not seen"));
    assert_eq!(judged(&world, "gone", b"gone").await, Verdict::Missing);
    // Of two names one is another file's now.
    assert_eq!(judged(&world, "one", b"two names").await, OK);
    for name in ["one", "two"] {
        let key = format!("home/vol/{name}");
        let before = world.server.get(&key).unwrap().body;
        world.server.put_foreign(&key, "other", &[]);
        assert!(note(judged(&world, name, b"other").await).contains("somebody else"));
        assert!(world.server.delete_foreign(&key));
        assert_eq!(judged(&world, name, b"two names").await, Verdict::Missing);
        world.server.put_foreign(&key, before, &[]);
        assert_eq!(judged(&world, name, b"two names").await, OK);
    }
    world.write(file, 0, b"O").await;
    world.commit().await;
    let replaced = judged(&world, "theirs", b"Ours").await;
    assert!(
        matches!(&replaced, Verdict::Unreadable(why) if why.contains("replaced")),
        "{replaced}"
    );

    world
        .fs()
        .rename(
            Caller::ROOT,
            Ino::ROOT,
            named("cut"),
            Ino::ROOT,
            named("kept"),
            RenameMode::Replace,
        )
        .await
        .unwrap();
    world.close().await;
    let kept = world.ino("kept").await;
    world.cut(keys::content(kept)).await;
    let cut = judged(&world, "kept", b"cut").await;
    assert!(matches!(&cut, Verdict::Unreadable(why) if why.contains("record")), "{cut}");
    world.cut(keys::dirent(Ino::ROOT, &named("kept"))).await;
    let cut = judged(&world, "kept", b"cut").await;
    assert!(matches!(&cut, Verdict::Unreadable(_)), "{cut}");

    // Without a state the objects are all there is.
    for key in world.server.keys("home/.s3vol/") {
        world.server.delete_foreign(&key);
    }
    let Verified { places, plain } = verify_places(&world.at, false).await.unwrap();
    assert!(plain.is_some());
    let line = format!("{}  theirs", hashed(b"theirs"));
    let one = expected(line.as_bytes()).unwrap().unwrap();
    assert_eq!(verify(&places, &one).await.unwrap(), OK);
}
