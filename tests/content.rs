//! File content below FUSE: uncommitted changes, extents and base objects seen as one file.

mod support;

use std::sync::Arc;

use s3vol::data::{Inode, Volume};
use s3vol::fs::Fs;
use s3vol::types::{Caller, FileName, Ino};
use support::s3server::TestS3;
use support::volume::volume;

/// A new volume with one empty file.
struct World {
    _server: TestS3,
    _dir: tempfile::TempDir,
    volume: Arc<Volume>,
    file: Arc<Inode>,
}

impl World {
    async fn new() -> Self {
        let server = TestS3::start();
        let dir = tempfile::tempdir().unwrap();
        let volume = volume(&server, dir.path()).await;
        let fs = Fs::new(Arc::clone(&volume), Arc::new(s3vol::data::NothingOutside));
        let name = FileName::new("file").unwrap();
        let made = fs.mknod(Caller::ROOT, Ino::ROOT, name, libc::S_IFREG | 0o644, 0).await;
        let file = volume.inode(made.unwrap().ino).await.unwrap();
        World { _server: server, _dir: dir, volume, file }
    }

    async fn write(&self, offset: u64, data: &[u8]) {
        self.volume.write(&self.file, offset, data).await.unwrap();
    }

    async fn commit(&self) {
        self.volume.commit(vec![Arc::clone(&self.file)]).await.unwrap();
    }

    async fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        self.volume.read(&self.file, offset, len).await.unwrap().to_vec()
    }
}

#[tokio::test]
async fn an_uncommitted_truncation_hides_what_an_extent_holds_beyond_it() {
    let world = World::new().await;
    world.write(0, &[7; 32 << 10]).await;
    world.commit().await;
    world.volume.evict_all().unwrap();
    world.volume.set_size(&world.file, 5000).await.unwrap();
    world.write(60_000, b"end").await;
    // Fetches the extent of the first 16 KiB, of which 5,000 bytes still show.
    assert_eq!(world.read(0, 100).await, [7; 100]);
    let mut wanted = vec![7; 5000];
    wanted.resize(60_000, 0);
    wanted.extend_from_slice(b"end");
    assert_eq!(world.read(0, 1 << 20).await, wanted);
    world.commit().await;
    assert_eq!(world.read(0, 1 << 20).await, wanted);
    world.volume.evict_all().unwrap();
    assert_eq!(world.read(0, 1 << 20).await, wanted);
}

/// A file system of its own with few inodes; gone when dropped.
struct FewInodes(tempfile::TempDir);

impl FewInodes {
    fn new(inodes: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size=64m,nr_inodes={inodes}");
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("none"), dir.path(), Some("tmpfs"), flags, Some(&*options)).unwrap();
        FewInodes(dir)
    }
}

impl Drop for FewInodes {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_small_files_than_the_local_disk_has_inodes() {
    const FILES: usize = 1500;
    let server = TestS3::start();
    let disk = FewInodes::new(800);
    let volume = volume(&server, disk.0.path()).await;
    let fs = Fs::new(Arc::clone(&volume), Arc::new(s3vol::data::NothingOutside));
    let committing = tokio::spawn({
        let volume = Arc::clone(&volume);
        async move {
            loop {
                volume.commit_wanted.notified().await;
                volume.commit(volume.dirty_inodes()).await.unwrap();
            }
        }
    });
    let mut made = Vec::new();
    for number in 0..FILES {
        let name = FileName::new(format!("f{number}")).unwrap();
        let attr = fs.mknod(Caller::ROOT, Ino::ROOT, name, libc::S_IFREG | 0o644, 0).await.unwrap();
        let inode = volume.inode(attr.ino).await.unwrap();
        let text = format!("content {number}");
        volume.write(&inode, 0, text.as_bytes()).await.unwrap_or_else(|e| panic!("{number}: {e}"));
        made.push((attr.ino, text));
    }
    volume.commit(volume.dirty_inodes()).await.unwrap();
    for (ino, text) in &made {
        let inode = volume.inode(*ino).await.unwrap();
        let found = volume.read(&inode, 0, 100).await.unwrap_or_else(|e| panic!("{ino}: {e}"));
        assert_eq!(&found[..], text.as_bytes());
    }
    let space = s3vol::sys::disk_space(disk.0.path()).unwrap();
    assert!(space.inodes_available > 0);
    committing.abort();
}
