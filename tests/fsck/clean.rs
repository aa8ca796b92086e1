//! A volume that is whole is silent, whatever it is doing.

use s3vol::types::Ino;

use crate::world::{World, assert_clean, noise};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_volume_is_silent_in_use_at_rest_and_in_motion() {
    let mut world = World::new().await;
    assert_clean(&world.check().await);
    let dir = world.every_kind().await;
    world.commit().await;
    let report = world.check().await;
    assert_clean(&report);
    assert!(report.in_use && !report.not_judged.is_empty(), "{report:?}");
    world.settle().await;
    let report = world.check().await;
    assert_clean(&report);
    assert_eq!(report.checked.unseen_objects, 0, "{report:?}");

    world.in_motion(dir).await;
    assert_clean(&world.check().await);
    world.close().await;
    let report = world.check().await;
    assert_clean(&report);
    assert!(!report.in_use && report.not_judged.is_empty(), "{report:?}");
    assert!(report.checked.waiting.contains_key("removed files that were open"), "{report:?}");
    assert!(report.checked.segments > 0 && report.checked.bytes_read > 3 << 20, "{report:?}");

    world.open().await;
    world.settle().await;
    assert_clean(&world.check().await);
    world.close().await;
    let report = world.check().await;
    assert_clean(&report);
    assert_eq!(report.checked.waiting.len(), 0, "{report:?}");
    assert!(report.checked.objects >= 10, "{report:?}");
}

/// On Azure and Google a directory's marker has another name, by which it is listed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_volume_is_silent_where_listings_have_another_order() {
    let mut world = World::new().await;
    world.every_kind().await;
    world.settle().await;
    let objects = world.check().await.checked.objects;
    world.server.list_in_disorder();
    let report = world.check().await;
    assert_clean(&report);
    assert_eq!((report.checked.objects, report.checked.unseen_objects), (objects, 0));
    world.close().await;
    let report = world.check().await;
    assert_clean(&report);
    assert_eq!((report.checked.objects, report.checked.unseen_objects), (objects, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_is_silent_while_it_is_written_and_settled() {
    let world = World::new().await;
    let dir = world.dir(Ino::ROOT, "d").await;
    let writes = async {
        for round in 0..12_u8 {
            let file = world.file(dir, &format!("f{round}"), &noise(150_000)).await;
            world.commit().await;
            world.settle().await;
            world.write(file, 7, b"again").await;
            if round % 3 == 0 {
                let name = crate::world::named(&format!("f{round}"));
                let root = s3vol::types::Caller::ROOT;
                world.fs().unlink(root, dir, name).await.unwrap();
            }
        }
    };
    let checks = async {
        for _ in 0..6 {
            assert_clean(&world.check().await);
        }
    };
    tokio::join!(writes, checks);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mending_a_whole_volume_changes_nothing_and_is_refused_while_it_is_in_use() {
    let mut world = World::new().await;
    world.every_kind().await;
    world.settle().await;
    let refused = {
        let mut agree = |_: &s3vol::fsck::Finding| true;
        let how = s3vol::worker::FsckHow { data: false, all: false, repair: Some(&mut agree) };
        // Another host.
        let at = s3vol::worker::VolumeAt { volumes: world.at.stores.join("x"), ..world.at.clone() };
        s3vol::worker::fsck(&at, how, &mut |_| {}).await.unwrap_err().to_string()
    };
    assert!(refused.contains("holds this volume"), "{refused}");
    world.close().await;
    let objects = world.server.objects("home/vol/");
    assert_clean(&world.repair(true).await);
    let after = world.server.objects("home/vol/");
    assert_eq!(
        objects.iter().map(|(key, o)| (key, &o.etag)).collect::<Vec<_>>(),
        after.iter().map(|(key, o)| (key, &o.etag)).collect::<Vec<_>>()
    );
    world.open().await;
    assert_clean(&world.check().await);
}
