//! What programs do in the very moment in which something of others is taken in.

use s3vol::data::DataError;
use s3vol::types::Base;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_beside_somebody_elses_object_lies_over_all_of_that() {
    for (theirs, expected) in
        [("theirs, which is longer than ours", "OURirs, which is longer than ours"), ("th", "OUR")]
    {
        let world = Settled::new().await;
        let volume = &world.volume;
        let file = world.file("file", "our content").await;
        let key = ObjectKey::new("data/file");
        assert_eq!(world.settle().await, 0);
        // It is found unchanged, and written before that is handed over.
        let mut tx = volume.begin().await.unwrap();
        let content: ContentRec = tx.kv.get(&keys::content(file.ino)).await.unwrap().unwrap();
        world.server.put_foreign(key.as_str(), theirs, &[]);
        let version = volume.store.head(&key, PATIENCE).await.unwrap().unwrap().version;
        volume.write(&file, 0, b"OUR").await.unwrap();
        let mut commit = Box::pin(volume.commit(vec![Arc::clone(&file)]));
        assert!(futures::poll!(&mut commit).is_pending());
        let generation = content.generation + 1;
        let next = ContentRec {
            size: version.size,
            base_limit: version.size,
            base: Some(Base { key, parked: false, version, put_id: None }),
            generation,
            drop_gen: generation,
            ..content
        };
        tx.replace_content(file.ino, next).await.unwrap();
        tx.commit(0).await.unwrap();
        commit.await.unwrap();
        let shown = volume.read(&file, 0, 100).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&shown), expected);
        let content: Option<ContentRec> = volume.meta.get(&keys::content(file.ino)).await.unwrap();
        assert_eq!(content.unwrap().size, expected.len() as u64);
        volume.evict_all().unwrap();
        let shown = volume.read(&file, 0, 100).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&shown), expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_truncation_by_path_is_not_answered_and_lost_with_a_file_that_goes() {
    let world = Settled::new().await;
    let volume = &world.volume;
    for goes in [true, false] {
        let name = if goes { "goes" } else { "stays" };
        let file = world.file(name, "content").await;
        let mut tx = volume.begin().await.unwrap();
        assert!(tx.is_unused(file.ino).await.unwrap());
        let mut cut = Box::pin(volume.set_size(&file, 3));
        assert!(futures::poll!(&mut cut).is_pending(), "it waits for the end of the removal");
        if goes {
            tx.unlink(Ino::ROOT, &named(name), file.ino);
            tx.remove(file.ino).await.unwrap();
            tx.commit(0).await.unwrap();
            assert!(matches!(cut.await, Err(DataError::Gone(_))));
        } else {
            drop(tx);
            cut.await.unwrap();
            assert_eq!(&volume.read(&file, 0, 100).await.unwrap()[..], b"con");
            assert!(!file.is_open(), "it counts for the while only");
        }
    }
}
