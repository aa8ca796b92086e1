//! The options `size` and `inodes`: growth past them is refused before anything is acknowledged, and
//! what is there can still be read and removed.

mod support;

use bytes::Bytes;
use s3vol::config::VolumeOptions;
use s3vol::fs::{Fallocate, FileHandle, FsError, SetAttr, StatFs};
use s3vol::types::{Caller, Ino};
use support::named;
use support::world::World;

const LIMIT: u64 = 1 << 20;
const HALF: usize = 1 << 19;

async fn limited(size: Option<u64>, inodes: Option<u64>) -> World {
    World::with(VolumeOptions { size, inodes, ..VolumeOptions::default() }).await
}

impl World {
    async fn make(&self, name: &str) -> Result<Ino, FsError> {
        let mode = libc::S_IFREG | 0o644;
        Ok(self.fs.mknod(Caller::ROOT, Ino::ROOT, named(name), mode, 0).await?.ino)
    }

    async fn write(&self, ino: Ino, at: usize, len: usize) -> Result<u32, FsError> {
        self.fs.write(ino, FileHandle(1), at as u64, Bytes::from(vec![1; len]), false).await
    }

    async fn resize(&self, ino: Ino, size: u64) -> Result<(), FsError> {
        let change = SetAttr { size: Some(size), ..SetAttr::default() };
        self.fs.setattr(Caller::ROOT, ino, change).await.map(drop)
    }

    async fn allocate(&self, ino: Ino, end: u64, keep_size: bool) -> Result<(), FsError> {
        self.fs.fallocate(ino, FileHandle(1), Fallocate::Allocate { keep_size }, 0, end).await
    }

    async fn commit(&self) {
        let volume = self.fs.volume();
        volume.commit(volume.dirty_inodes()).await.unwrap();
    }

    async fn df(&self) -> StatFs {
        self.fs.statfs().await.unwrap()
    }
}

fn is_full<T: std::fmt::Debug>(result: Result<T, FsError>) -> bool {
    matches!(&result, Err(FsError::NoSpace(why)) if why.contains("limited"))
}

#[tokio::test]
async fn a_full_volume_refuses_growth_of_every_kind() {
    let world = limited(Some(LIMIT), None).await;
    let (a, b) = (world.make("a").await.unwrap(), world.make("b").await.unwrap());
    world.write(a, 0, HALF).await.unwrap();
    world.write(b, 0, HALF).await.unwrap();
    for committed in [false, true] {
        if committed {
            world.commit().await;
        }
        assert_eq!((world.df().await.total, world.df().await.free), (LIMIT, 0));
        assert!(is_full(world.write(a, HALF, 1).await));
        assert!(is_full(world.write(b, HALF - 1, 2).await));
        assert!(is_full(world.resize(a, LIMIT).await));
        assert!(is_full(world.allocate(a, LIMIT, false).await));
        assert!(is_full(world.allocate(a, LIMIT, true).await));
        // Nothing of what was refused is there.
        let size = world.fs.getattr(a).await.unwrap().size;
        assert_eq!(size, HALF as u64);
        // What is there can be changed, and an empty file made.
        world.write(a, 100, 1000).await.unwrap();
        assert_eq!(world.fs.read(a, FileHandle(0), 100, 10).await.unwrap(), vec![1u8; 10]);
    }
    world.make("empty").await.unwrap();
}

#[tokio::test]
async fn what_is_removed_or_cut_can_be_used_again() {
    let world = limited(Some(LIMIT), None).await;
    let (a, b) = (world.make("a").await.unwrap(), world.make("b").await.unwrap());
    for round in 0..3 {
        world.write(a, 0, HALF).await.unwrap();
        world.write(b, 0, HALF).await.unwrap();
        assert!(is_full(world.write(a, HALF, 1).await));
        if round == 1 {
            world.commit().await;
        }
        world.resize(a, 0).await.unwrap();
        world.commit().await;
        assert_eq!(world.df().await.free, HALF as u64);
    }
    world.fs.unlink(Caller::ROOT, Ino::ROOT, named("b")).await.unwrap();
    world.fs.forget(b, u64::MAX);
    world.write(a, 0, LIMIT as usize).await.unwrap();
    assert!(is_full(world.write(a, LIMIT as usize, 1).await));
}

#[tokio::test]
async fn small_writes_of_many_files_meet_the_limit_exactly() {
    let world = limited(Some(LIMIT), None).await;
    let mut full = 0;
    for i in 0..300 {
        let ino = world.make(&i.to_string()).await.unwrap();
        match world.write(ino, 0, 4096).await {
            Ok(_) => assert_eq!(full, 0),
            refused => {
                assert!(is_full(refused));
                full += 1;
            }
        }
    }
    assert_eq!((full, world.df().await.free), (300 - 256, 0));
}

#[tokio::test]
async fn inodes_are_limited_and_come_back() {
    // The root is one.
    let world = limited(None, Some(4)).await;
    for name in ["a", "b", "c"] {
        world.make(name).await.unwrap();
    }
    assert_eq!((world.df().await.files, world.df().await.files_free), (4, 0));
    assert!(is_full(world.make("d").await));
    let dir = named("dir");
    assert!(is_full(world.fs.mkdir(Caller::ROOT, Ino::ROOT, dir, 0o755).await));
    let (link, target) = (named("l"), b"a".as_slice());
    assert!(is_full(world.fs.symlink(Caller::ROOT, Ino::ROOT, link, target.into()).await));
    world.fs.unlink(Caller::ROOT, Ino::ROOT, named("a")).await.unwrap();
    world.make("d").await.unwrap();
}
