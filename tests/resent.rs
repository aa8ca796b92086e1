//! Requests that the kernel sends again after a worker's death: handles are counted once each.

mod support;

use s3vol::data::DataError;
use s3vol::fs::{FileHandle, FsError};
use s3vol::types::{Caller, FileName, Ino};
use support::named;
use support::world::World;

/// A request as it comes for the first time.
fn request(unique: u64) -> Caller {
    Caller { unique, ..Caller::ROOT }
}

/// The same request again.
fn again(unique: u64) -> Caller {
    Caller { resent: true, ..request(unique) }
}

fn name() -> FileName {
    named("name")
}

/// Requests are remembered of the connection that the volume was put together with.
async fn connected() -> World {
    let world = World::new().await;
    let connected = s3vol::meta::Record::Connected { conn: world.volume.meta.connection() };
    world.volume.meta.journal.lock().append(&connected).unwrap();
    world
}

impl World {
    async fn file(&self, caller: Caller) -> Ino {
        let mode = libc::S_IFREG | 0o644;
        self.fs.mknod(caller, Ino::ROOT, name(), mode, 0).await.unwrap().ino
    }

    async fn open(&self, caller: Caller, ino: Ino, flags: i32) -> FileHandle {
        self.fs.open(caller, ino, flags).await.unwrap().fh
    }

    async fn create_by(&self, caller: Caller) -> (Ino, FileHandle) {
        let made = self.fs.create(caller, Ino::ROOT, name(), 0o644, libc::O_RDWR).await;
        let (attr, opened) = made.unwrap();
        (attr.ino, opened.fh)
    }

    async fn unlink(&self) {
        self.fs.unlink(Caller::ROOT, Ino::ROOT, name()).await.unwrap();
    }

    async fn is_there(&self, ino: Ino) -> bool {
        match self.volume.inode(ino).await {
            Ok(_) => true,
            Err(DataError::Gone(_)) => false,
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn an_open_file_is_counted_once_and_goes_with_its_only_close() {
    let world = connected().await;
    let ino = world.file(Caller::ROOT).await;
    world.open(request(8), ino, libc::O_RDWR).await;
    let fh = world.open(again(8), ino, libc::O_RDWR).await;
    world.unlink().await;
    assert!(world.is_there(ino).await, "it is open");
    world.fs.released(request(10), ino, fh).await.unwrap();
    assert!(!world.is_there(ino).await, "it is closed and has no name");
}

#[tokio::test]
async fn an_open_that_was_not_carried_out_counts_when_it_comes_again() {
    let world = connected().await;
    let ino = world.file(Caller::ROOT).await;
    let first = world.open(request(8), ino, libc::O_RDWR).await;
    let second = world.open(again(10), ino, libc::O_RDWR).await;
    world.unlink().await;
    world.fs.released(request(12), ino, first).await.unwrap();
    world.fs.released(again(12), ino, first).await.unwrap();
    assert!(world.is_there(ino).await, "it is open once more");
    world.fs.released(request(14), ino, second).await.unwrap();
    assert!(!world.is_there(ino).await);
}

#[tokio::test]
async fn an_open_truncates_once() {
    let world = connected().await;
    let ino = world.file(Caller::ROOT).await;
    let flags = libc::O_RDWR | libc::O_TRUNC;
    let fh = world.open(request(8), ino, flags).await;
    world.fs.write(ino, fh, 0, b"written since"[..].into(), false).await.unwrap();
    let fh = world.open(again(8), ino, flags).await;
    assert_eq!(world.fs.read(ino, fh, 0, 100).await.unwrap(), b"written since"[..]);
}

#[tokio::test]
async fn a_created_file_is_counted_once_wherever_the_worker_died() {
    // After the count.
    let world = connected().await;
    let (ino, _) = world.create_by(request(8)).await;
    let (same, fh) = world.create_by(again(8)).await;
    assert_eq!(ino, same);
    world.unlink().await;
    assert!(world.is_there(ino).await);
    world.fs.released(request(10), ino, fh).await.unwrap();
    assert!(!world.is_there(ino).await);
    // Between the name and the count.
    let ino = world.file(request(12)).await;
    let (same, fh) = world.create_by(again(12)).await;
    assert_eq!(ino, same);
    world.unlink().await;
    assert!(world.is_there(ino).await);
    world.fs.released(request(14), ino, fh).await.unwrap();
    assert!(!world.is_there(ino).await);
}

#[tokio::test]
async fn an_open_directory_is_counted_once_and_closed_once() {
    let world = connected().await;
    let ino = world.fs.mkdir(Caller::ROOT, Ino::ROOT, name(), 0o755).await.unwrap().ino;
    let first = world.fs.opendir(request(8), ino).await.unwrap();
    let second = world.fs.opendir(request(10), ino).await.unwrap();
    let second_again = world.fs.opendir(again(10), ino).await.unwrap();
    assert_ne!(second, second_again);
    world.fs.rmdir(Caller::ROOT, Ino::ROOT, name()).await.unwrap();
    world.fs.releasedir(request(12), ino, first).await.unwrap();
    world.fs.releasedir(again(12), ino, first).await.unwrap();
    assert!(world.is_there(ino).await, "it is open once more");
    world.fs.releasedir(request(14), ino, second_again).await.unwrap();
    assert!(!world.is_there(ino).await);
    let stale = world.fs.opendir(request(16), ino).await;
    assert!(matches!(stale, Err(FsError::Stale)), "{stale:?}");
}
