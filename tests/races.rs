//! Two operations at once, step by step: what one of them has looked at is another by the time it acts.

mod support;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use parking_lot::Mutex;
use s3vol::data::{DataError, Inode, Outside};
use s3vol::fs::{FileHandle, Fs, FsError, RenameMode};
use s3vol::meta::keys;
use s3vol::meta::records::{ContentRec, DirentRec};
use s3vol::types::{Caller, FileName, Ino};
use support::named;
use support::s3server::{Action, Op, Rule};
use support::world::World;

const PATIENCE: Duration = Duration::from_secs(30);

impl World {
    async fn mkdir(&self, text: &str) -> Ino {
        self.fs.mkdir(Caller::ROOT, Ino::ROOT, named(text), 0o755).await.unwrap().ino
    }

    async fn write(&self, file: &Arc<Inode>, content: &[u8]) {
        self.volume.write(file, 0, content).await.unwrap();
    }

    async fn commit(&self, file: &Arc<Inode>) {
        self.volume.commit(vec![Arc::clone(file)]).await.unwrap();
    }

    async fn found(&self, dir: Ino, text: &str) -> Option<DirentRec> {
        self.volume.meta.get(&keys::dirent(dir, &named(text))).await.unwrap()
    }

    /// A file system in which `meanwhile` happens as soon as somebody looks for a name.
    fn when_looked(&self, meanwhile: impl Future<Output = ()> + Send + 'static) -> Fs {
        let once = Once(Mutex::new(Some(Box::pin(meanwhile))));
        Fs::new(Arc::clone(&self.volume), Arc::new(once))
    }
}

/// Somebody else acts once a directory of that name is looked into.
struct Once(Mutex<Option<std::pin::Pin<Box<dyn Future<Output = ()> + Send>>>>);

impl std::fmt::Debug for Once {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Once")
    }
}

impl Once {
    async fn act(&self) -> Result<(), DataError> {
        let meanwhile = self.0.lock().take();
        if let Some(meanwhile) = meanwhile {
            meanwhile.await;
        }
        Ok(())
    }
}

#[async_trait]
impl Outside for Once {
    async fn directory(&self, _dir: Ino) -> Result<(), DataError> {
        self.act().await
    }
    async fn name(&self, _dir: Ino, _name: &FileName) -> Result<(), DataError> {
        Ok(())
    }
    async fn subtree(&self, _dir: Ino) -> Result<(), DataError> {
        self.act().await
    }
    async fn attributes(&self, _ino: Ino) -> Result<(), DataError> {
        Ok(())
    }
    fn made(&self, _dir: Ino) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_opens_a_file_that_is_being_removed_has_it_or_is_told_so() {
    let world = World::new().await;
    let fs = Arc::clone(&world.fs);
    for goes in [true, false] {
        let file = world.create("file").await;
        let mut tx = world.volume.begin().await.unwrap();
        assert!(tx.is_unused(file.ino).await.unwrap());
        tx.unlink(Ino::ROOT, &named("file"), file.ino);
        tx.remove(file.ino).await.unwrap();
        let mut open = Box::pin(fs.open(Caller::ROOT, file.ino, libc::O_RDONLY));
        assert!(open.as_mut().now_or_never().is_none(), "it has to wait for what becomes of it");
        match goes {
            true => tx.commit(0).await.unwrap(),
            false => drop(tx),
        }
        match open.await {
            Ok(_) if !goes => assert!(file.is_open()),
            Err(FsError::Stale) if goes => assert!(!file.is_open()),
            other => panic!("{goes}: {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_that_was_answered_keeps_the_file() {
    let world = World::new().await;
    let fs = Arc::clone(&world.fs);
    let mut kept = 0;
    for round in 0..300 {
        let file = world.create("file").await;
        world.write(&file, b"content").await;
        let ino = file.ino;
        drop(file);
        let opening = tokio::spawn({
            let fs = Arc::clone(&fs);
            async move {
                for _ in 0..round % 7 {
                    tokio::task::yield_now().await;
                }
                fs.open(Caller::ROOT, ino, libc::O_RDWR).await
            }
        });
        fs.unlink(Caller::ROOT, Ino::ROOT, named("file")).await.unwrap();
        let opened = match opening.await.unwrap() {
            Ok(opened) => opened,
            Err(FsError::Stale) => continue,
            Err(error) => panic!("{error}"),
        };
        kept += 1;
        let read = fs.read(ino, opened.fh, 0, 100).await;
        assert_eq!(&read.unwrap()[..], b"content", "round {round}");
        fs.release(ino, opened.fh).await.unwrap();
    }
    assert!(kept > 0, "none was opened in time");
}

#[tokio::test]
async fn a_file_that_is_closed_while_it_loses_its_name_goes() {
    let world = World::new().await;
    let fs = Arc::clone(&world.fs);
    let file = world.create("file").await;
    let handle = fs.open(Caller::ROOT, file.ino, libc::O_RDONLY).await.unwrap().fh;
    // What was to be collected before.
    let _ = world.volume.meta.garbage.notified().now_or_never();
    let mut tx = world.volume.begin().await.unwrap();
    assert!(!tx.is_unused(file.ino).await.unwrap());
    tx.unlink(Ino::ROOT, &named("file"), file.ino);
    tx.edit(file.ino, |rec| rec.nlink = 0).await.unwrap();
    tx.orphan(file.ino);
    fs.release(file.ino, handle).await.unwrap();
    tx.commit(0).await.unwrap();
    assert!(world.volume.meta.garbage.notified().now_or_never().is_some(), "nobody looks for it");
    assert_eq!(world.volume.remove_orphans().await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_fails_during_a_commit_is_not_taken_for_what_was_committed() {
    let world = World::new().await;
    let file = world.create("file").await;
    // More than travels inside of a batch.
    let wrote = vec![1; 1 << 20];
    world.write(&file, &wrote).await;
    world.server.fault(Rule::new(Op::Put, "/segments/", 1, Action::Hold));
    let commit = tokio::spawn({
        let (volume, file) = (Arc::clone(&world.volume), Arc::clone(&file));
        async move { volume.commit(vec![file]).await }
    });
    let held = || async { (world.server.held() == 1).then_some(()) };
    support::wait_for_async("the segment", PATIENCE, held).await;
    // Its bytes are in the cache when the log refuses it.
    world.volume.meta.journal.lock().refuse_content();
    world.volume.write(&file, 4096, &[2; 4096]).await.unwrap_err();
    world.server.release();
    commit.await.unwrap().unwrap();
    assert!(world.volume.dirty_inodes().is_empty());
    let here = world.volume.read(&file, 0, 2 << 20).await.unwrap();
    assert!(here == wrote, "this host shows what is in no bucket: {:?}", &here[4096..4100]);
}

#[tokio::test]
async fn content_that_is_replaced_beside_a_write_brings_no_old_size_back() {
    let world = World::new().await;
    let fs = Arc::clone(&world.fs);
    // What is written after the change has looked, what others make of the file, and its size then.
    for (cut, write, theirs, size) in [
        (Some(5), None, 50, 5),
        (Some(5), Some(20), 50, 20),
        (None, Some(20), 50, 50),
        (None, Some(20), 10, 20),
    ] {
        let file = world.create("file").await;
        world.write(&file, &[1; 100]).await;
        world.commit(&file).await;
        let content: ContentRec =
            world.volume.meta.get(&keys::content(file.ino)).await.unwrap().unwrap();
        let generation = content.generation + 1;
        let next = ContentRec { size: theirs, generation, drop_gen: generation, ..content };
        let mut tx = world.volume.begin().await.unwrap();
        tx.replace_content(file.ino, next).await.unwrap();
        if let Some(size) = cut {
            world.volume.set_size(&file, size).await.unwrap();
        }
        if let Some(len) = write {
            world.write(&file, &vec![2; len]).await;
        }
        tx.commit(0).await.unwrap();
        let seen = fs.getattr(file.ino).await.unwrap().size;
        assert_eq!(seen, size, "cut to {cut:?}, written {write:?}, theirs {theirs}");
        world.commit(&file).await;
        assert_eq!(fs.getattr(file.ino).await.unwrap().size, size);
        fs.unlink(Caller::ROOT, Ino::ROOT, named("file")).await.unwrap();
    }
}

#[tokio::test]
async fn a_rename_over_a_name_commits_the_file_that_really_moves() {
    let world = World::new().await;
    let (source, other) = (world.create("source").await, world.create("other").await);
    world.mkdir("target").await;
    world.write(&source, b"source").await;
    world.write(&other, b"other").await;
    let fs = Arc::clone(&world.fs);
    let racing = world.when_looked(async move {
        let over = (named("other"), named("source"));
        let done =
            fs.rename(Caller::ROOT, Ino::ROOT, over.0, Ino::ROOT, over.1, RenameMode::Replace);
        done.await.unwrap();
        // A file, as the source is.
        fs.rmdir(Caller::ROOT, Ino::ROOT, named("target")).await.unwrap();
        let made = fs.mknod(Caller::ROOT, Ino::ROOT, named("target"), libc::S_IFREG | 0o644, 0);
        made.await.unwrap();
        // It is `other` by now, and has bytes that no commit holds.
        let at = FileHandle(0);
        fs.write(other.ino, at, 0, b"newer".as_slice().into(), false).await.unwrap();
    });
    let (from, to) = (named("source"), named("target"));
    racing.rename(Caller::ROOT, Ino::ROOT, from, Ino::ROOT, to, RenameMode::Replace).await.unwrap();
    let moved = world.found(Ino::ROOT, "target").await.unwrap();
    let moved = world.volume.inode(moved.ino).await.unwrap();
    assert!(moved.live().pending.is_clean(), "the name may become durable before the data");
    assert_eq!(&world.volume.read(&moved, 0, 100).await.unwrap()[..], b"newer");
}

#[tokio::test]
async fn no_name_is_moved_into_a_directory_that_was_removed() {
    let world = World::new().await;
    world.mkdir("source").await;
    let into = world.mkdir("into").await;
    let fs = Arc::clone(&world.fs);
    // A program is in it.
    let _open: FileHandle = fs.opendir(Caller::ROOT, into).await.unwrap();
    let racing = world.when_looked(async move {
        fs.rmdir(Caller::ROOT, Ino::ROOT, named("into")).await.unwrap();
    });
    let (from, to) = (named("source"), named("target"));
    let moved = racing.rename(Caller::ROOT, Ino::ROOT, from, into, to, RenameMode::Replace).await;
    assert!(matches!(moved, Err(FsError::NotFound)), "{moved:?}");
    assert!(world.found(Ino::ROOT, "source").await.is_some());
    assert_eq!(world.found(into, "target").await, None);
}

#[tokio::test]
async fn only_a_directory_whose_names_are_known_is_removed() {
    let world = World::new().await;
    world.mkdir("first").await;
    let second = world.mkdir("second").await;
    let fs = Arc::clone(&world.fs);
    let looked = Arc::new(Mutex::new(Vec::new()));
    #[derive(Debug)]
    struct Looked(Arc<Mutex<Vec<Ino>>>, Once);
    #[async_trait]
    impl Outside for Looked {
        async fn directory(&self, dir: Ino) -> Result<(), DataError> {
            self.0.lock().push(dir);
            self.1.act().await
        }
        async fn name(&self, _dir: Ino, _name: &FileName) -> Result<(), DataError> {
            Ok(())
        }
        async fn subtree(&self, _dir: Ino) -> Result<(), DataError> {
            Ok(())
        }
        async fn attributes(&self, _ino: Ino) -> Result<(), DataError> {
            Ok(())
        }
        fn made(&self, _dir: Ino) {}
    }
    let meanwhile = async move {
        let over = (named("second"), named("first"));
        let done =
            fs.rename(Caller::ROOT, Ino::ROOT, over.0, Ino::ROOT, over.1, RenameMode::Replace);
        done.await.unwrap();
    };
    let outside = Looked(Arc::clone(&looked), Once(Mutex::new(Some(Box::pin(meanwhile)))));
    let racing = Fs::new(Arc::clone(&world.volume), Arc::new(outside));
    racing.rmdir(Caller::ROOT, Ino::ROOT, named("first")).await.unwrap();
    assert_eq!(looked.lock().last(), Some(&second), "what others put into it would be lost");
    assert_eq!(world.found(Ino::ROOT, "first").await, None);
}
