//! File content below FUSE: uncommitted changes, extents and base objects seen as one file.

#[path = "content/cut.rs"]
mod cut;
mod support;

use std::sync::Arc;
use std::time::Duration;

use s3vol::config::VolumeOptions;
use s3vol::data::{CacheFile, Inode, MOST_FETCHED, Repacked};
use s3vol::fs::Fs;
use s3vol::types::{Caller, Ino};
use support::s3server::{Action, Op, Rule, TestS3};
use support::volume::{create, crowd_out, volume, volume_with};
use support::world::World;
use support::{named, until, wait_for};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(30);

/// A new volume with one empty file.
struct OneFile {
    world: World,
    file: Arc<Inode>,
}

impl std::ops::Deref for OneFile {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

impl OneFile {
    async fn new() -> Self {
        let world = World::new().await;
        let file = world.create("file").await;
        OneFile { world, file }
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
    let world = OneFile::new().await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_whose_part_of_a_commit_is_done_waits_for_no_other() {
    let world = OneFile::new().await;
    let small = world.create("small").await;
    // So many that they go in steps; what is small goes with the first.
    for piece in 0..13_000 {
        world.write(piece * 200, &[7; 100]).await;
    }
    world.volume.write(&small, 0, b"small").await.unwrap();
    world.server.fault(Rule::always(Some(Op::Put), "/segments/", Action::Hold).after(1));
    let group = tokio::spawn({
        let (volume, both) = (Arc::clone(&world.volume), vec![world.file.clone(), small.clone()]);
        async move { volume.commit(both).await }
    });
    wait_for("the second step", PATIENCE, || (world.server.held() > 0).then_some(()));
    let again = async {
        world.volume.write(&small, 0, b"again").await.unwrap();
        world.volume.commit(vec![Arc::clone(&small)]).await.unwrap();
    };
    tokio::time::timeout(PATIENCE / 2, again).await.expect("nobody is at it any more");
    assert!(world.server.held() > 0 && !group.is_finished(), "the other one is still under way");
    world.server.clear_faults();
    world.server.release();
    group.await.unwrap().unwrap();
    assert!(world.file.live().pending.is_clean() && small.live().pending.is_clean());
    assert_eq!(&world.volume.read(&small, 0, 10).await.unwrap()[..], b"again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_hole_in_a_scattered_file_reads_few_rows_of_its_map() {
    const HOLES: u64 = 100;
    let world = OneFile::new().await;
    for piece in 0..6000 {
        world.write(piece * 200, &[7; 100]).await;
    }
    world.commit().await;
    for hole in 0..HOLES {
        let at = hole * 10_000;
        world.volume.zero(&world.file, at, at + 100, true).await.unwrap();
    }
    let costs = || world.volume.meta.engine.costs();
    let before = costs();
    world.commit().await;
    let rows = (costs() - before).rows;
    assert!(rows < HOLES * 100, "{rows} rows");
    assert_eq!(world.read(10_000, 300).await[..250], [&[0; 200][..], &[7; 50][..]].concat());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_that_was_stored_by_a_request_that_came_twice_is_not_sent_again() {
    let world = OneFile::new().await;
    let sent = || {
        let log = world.server.log();
        log.iter().filter(|e| e.op == Op::Put && e.key.contains("/segments/")).count()
    };
    world.server.fault(Rule::new(Op::Put, "/segments/", 1, Action::ApplyThenStatus(412)));
    world.write(0, &[7; 1 << 20]).await;
    world.commit().await;
    assert_eq!((sent(), world.segments()), (1, 1));
    // Where nothing is there it is tried again, as after any refusal.
    world.server.fault(Rule::new(Op::Put, "/segments/", 2, Action::Status(412)));
    world.write(0, &[8; 1 << 20]).await;
    world.commit().await;
    assert_eq!((sent(), world.segments()), (4, 2));
    world.volume.evict_all().unwrap();
    assert_eq!(world.read(0, 100).await, [8; 100]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_committed_hole_stays_one_when_an_older_fetch_ends() {
    let world = OneFile::new().await;
    world.write(0, &[7; 1 << 20]).await;
    world.commit().await;
    // Before the fetch begins, and while it is under way.
    for (round, zero_first) in [(0, true), (1, false)] {
        let hole = (round * 8) << 10..(round * 8 + 4) << 10;
        world.volume.evict_all().unwrap();
        if zero_first {
            world.volume.zero(&world.file, hole.start, hole.end, true).await.unwrap();
        }
        world.server.fault(Rule::new(Op::Get, "/segments/", 1, Action::Hold));
        let reading = tokio::spawn({
            let (volume, file) = (Arc::clone(&world.volume), Arc::clone(&world.file));
            async move { volume.read(&file, 512 << 10, 4096).await.unwrap() }
        });
        until("the fetch", || world.server.held() == 1).await;
        if !zero_first {
            world.volume.zero(&world.file, hole.start, hole.end, true).await.unwrap();
        }
        world.commit().await;
        world.server.release();
        assert!(reading.await.unwrap() == [7; 4096][..]);
        let found = world.read(hole.start, 4096).await;
        assert!(found == [0; 4096], "zeroed before the fetch: {zero_first}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fetch_that_ends_after_an_eviction_brings_nothing_old_back() {
    let world = OneFile::new().await;
    world.write(0, &[7; 1 << 20]).await;
    world.commit().await;
    for (round, write) in [(0, false), (1, true)] {
        world.volume.evict_all().unwrap();
        world.server.clear_log();
        world.server.fault(Rule::new(Op::Get, "/segments/", 1, Action::Hold));
        let reading = tokio::spawn({
            let (volume, file) = (Arc::clone(&world.volume), Arc::clone(&world.file));
            async move { volume.read(&file, 512 << 10, 4096).await.unwrap() }
        });
        until("the fetch", || world.server.held() == 1).await;
        if write {
            world.write(0, &[9; 4096]).await;
            world.commit().await;
        }
        world.volume.evict_all().unwrap();
        world.server.release();
        assert!(reading.await.unwrap() == [7; 4096][..]);
        let log = world.server.log();
        let fetches = log.iter().filter(|got| got.op == Op::Get && got.key.contains("/segments/"));
        // What others evict meanwhile makes nobody fetch twice.
        assert_eq!(fetches.count(), 1 + round);
        let found = world.read(0, 4096).await;
        assert!(found == [if write { 9 } else { 7 }; 4096], "written meanwhile: {write}");
    }
}

const MIB: usize = 1 << 20;
/// One byte a page, so that a page of another round or offset shows.
fn page(round: u8, index: usize) -> Vec<u8> {
    vec![round.wrapping_mul(31) ^ (index % 251) as u8; PAGE]
}

const PAGE: usize = 64 << 10;
const PAGES: usize = 64;
const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn segments_of_which_little_lives_are_written_anew_and_deleted() {
    let world = OneFile::new().await;
    let mut wanted = Vec::new();
    for index in 0..PAGES {
        world.write((index * PAGE) as u64, &page(0, index)).await;
        wanted.push(0);
    }
    world.commit().await;
    let volume = &world.volume;
    for round in 1..8 {
        // Fewer pages each time: every segment keeps an eighth of the file.
        for index in (0..PAGES).filter(|index| index % 8 >= usize::from(round)) {
            world.write((index * PAGE) as u64, &page(round, index)).await;
            wanted[index] = round;
        }
        world.commit().await;
    }
    volume.collect_segments(LONG).await.unwrap();
    let before = world.segments();
    assert_eq!(volume.repack(1 << 30).await.unwrap(), Repacked::default());
    volume.evict_all().unwrap();
    let done = volume.repack(0).await.unwrap();
    assert!(done.segments >= 6 && done.bytes > 0, "{done:?}");
    // Nothing is deleted before it is durable that nothing refers to it.
    assert!(world.segments() >= before);
    volume.collect_segments(LONG).await.unwrap();
    assert!(world.segments() < before - done.segments + 2, "{before}, {}", world.segments());
    assert_eq!(volume.repack(0).await.unwrap(), Repacked::default());
    volume.evict_all().unwrap();
    for (index, round) in wanted.into_iter().enumerate() {
        assert_eq!(world.read((index * PAGE) as u64, PAGE).await, page(round, index), "{index}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn segments_are_written_anew_beside_writers_and_truncations() {
    let world = OneFile::new().await;
    for index in 0..PAGES {
        world.write((index * PAGE) as u64, &page(0, index)).await;
    }
    world.commit().await;
    let stop = CancellationToken::new();
    let repacking = {
        let (volume, stop) = (Arc::clone(&world.volume), stop.clone());
        tokio::spawn(async move {
            let mut bytes = 0;
            while !stop.is_cancelled() {
                volume.evict_all().unwrap();
                bytes += volume.repack(0).await.unwrap().bytes;
                volume.collect_segments(LONG).await.unwrap();
            }
            bytes
        })
    };
    let mut wanted = vec![Some(0); PAGES];
    for round in 1..=40_u8 {
        for index in (0..PAGES).filter(|index| index % 8 >= usize::from(round % 8)) {
            world.write((index * PAGE) as u64, &page(round, index)).await;
            wanted[index] = Some(round);
        }
        if round % 16 == 15 {
            let kept = PAGES / 2 + usize::from(round) % 8;
            world.volume.set_size(&world.file, (kept * PAGE) as u64).await.unwrap();
            world.volume.set_size(&world.file, (PAGES * PAGE) as u64).await.unwrap();
            wanted[kept..].fill(None);
        }
        world.commit().await;
    }
    stop.cancel();
    assert!(repacking.await.unwrap() > 0);
    world.volume.evict_all().unwrap();
    for (index, round) in wanted.into_iter().enumerate() {
        let wanted = round.map_or(vec![0; PAGE], |round| page(round, index));
        assert!(world.read((index * PAGE) as u64, PAGE).await == wanted, "{index}");
    }
}

#[tokio::test]
async fn the_cache_has_room_again_when_its_files_left_the_memory() {
    let server = TestS3::start();
    let dir = tempfile::tempdir().unwrap();
    let options = VolumeOptions { cache_size: 8 << 20, ..VolumeOptions::default() };
    let volume = volume_with(&server, dir.path(), options).await;
    let mut files = Vec::new();
    for number in 0..14 {
        let file = create(&volume, &format!("f{number}")).await;
        volume.write(&file, 0, &vec![number; 1 << 20]).await.unwrap();
        volume.commit(vec![Arc::clone(&file)]).await.unwrap();
        files.push(file.ino);
    }
    // All of them were clean in the cache, and none is any more.
    let _crowd = crowd_out(&volume, dir.path());
    assert!(files.iter().all(|ino| volume.inodes.get(*ino).is_none()));
    let mut in_use = Vec::new();
    for ino in &files[..4] {
        in_use.push(volume.inode(*ino).await.unwrap());
    }
    for round in 0..2 {
        server.clear_log();
        for (number, file) in in_use.iter().enumerate() {
            let found = volume.read(file, 0, 1 << 20).await.unwrap();
            assert!(found == vec![number as u8; 1 << 20]);
        }
        let gets = server.log().iter().filter(|one| one.key.contains("/segments/")).count();
        assert_eq!(gets, if round == 0 { 4 } else { 0 }, "round {round}");
    }
}

#[tokio::test]
async fn a_closed_file_keeps_no_descriptor() {
    let world = OneFile::new().await;
    let open = || {
        let links = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        let files = links.filter_map(|link| std::fs::read_link(link.path()).ok());
        files.filter(|file| file.starts_with(world.dir.path().join("cache"))).count()
    };
    let fs = &world.fs;
    let handle = fs.open(Caller::ROOT, world.file.ino, libc::O_RDWR).await.unwrap().fh;
    world.write(0, &[7; 1 << 20]).await;
    assert_eq!(open(), 1);
    fs.release(world.file.ino, handle).await.unwrap();
    assert_eq!(open(), 0);
    world.commit().await;
    assert_eq!(open(), 0, "after a commit");
    world.volume.evict_all().unwrap();
    // As settling reads.
    assert_eq!(world.read(0, 1 << 20).await, [7; 1 << 20]);
    assert_eq!(open(), 0, "after a read");
    world.volume.set_size(&world.file, 1000).await.unwrap();
    world.volume.zero(&world.file, 0, 10, true).await.unwrap();
    assert_eq!(open(), 0, "after truncate(2)");
    world.write(5000, &[8; 8]).await;
    world.commit().await;
    world.volume.evict_all().unwrap();
    assert_eq!(open(), 0);
}

#[tokio::test]
async fn a_truncation_counts_also_when_the_cache_file_cannot_be_cut() {
    let world = OneFile::new().await;
    world.write(0, &[7; 8192]).await;
    world.commit().await;
    let cache = CacheFile::path_in(&world.dir.path().join("cache"), world.file.ino);
    std::fs::remove_file(&cache).unwrap();
    std::fs::create_dir(&cache).unwrap();
    world.volume.zero(&world.file, 0, 100, true).await.unwrap();
    world.volume.set_size(&world.file, 4096).await.unwrap();
    assert_eq!(world.volume.dirty_inodes().len(), 1, "nobody would commit it");
    std::fs::remove_dir(&cache).unwrap();
    world.commit().await;
    assert!(world.volume.dirty_inodes().is_empty());
    world.volume.evict_all().unwrap();
    let mut wanted = vec![7; 4096];
    wanted[..100].fill(0);
    assert!(world.read(0, 8192).await == wanted);
}

#[tokio::test]
async fn a_full_log_keeps_no_file_open() {
    let server = TestS3::start();
    let disk = FewInodes::new(800);
    let volume = volume(&server, disk.0.path()).await;
    let fs = Fs::new(Arc::clone(&volume), Arc::new(s3vol::data::NothingOutside));
    let file = create(&volume, "file").await;
    let handle = fs.open(Caller::ROOT, file.ino, libc::O_RDWR).await.unwrap().fh;
    fs.unlink(Caller::ROOT, Ino::ROOT, named("file")).await.unwrap();
    let other = create(&volume, "other").await;
    let filler = disk.0.path().join("filler");
    let mut file_of_all = std::fs::File::create(&filler).unwrap();
    let full = std::io::copy(&mut std::io::repeat(1), &mut file_of_all).unwrap_err();
    assert_eq!(full.raw_os_error(), Some(libc::ENOSPC));
    // The log has a reserve, for some ten thousand records.
    while fs.opendir(Caller::ROOT, Ino::ROOT).await.is_ok() {}
    assert!(fs.open(Caller::ROOT, other.ino, libc::O_RDONLY).await.is_err());
    assert!(!other.is_open());
    volume.take_settle_queue();
    fs.release(file.ino, handle).await.unwrap_err();
    assert!(!file.is_open());
    assert!(volume.take_settle_queue().contains(&Ino(0)), "it is to be tried again");
    drop(file_of_all);
    std::fs::remove_file(&filler).unwrap();
    assert_eq!(volume.remove_orphans().await.unwrap(), 1);
    assert!(file.live().removed);
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
        let name = named(&format!("f{number}"));
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

#[tokio::test]
async fn a_damaged_segment_is_never_served() {
    let world = OneFile::new().await;
    let wanted: Vec<u8> = (0..300_000_u32).map(|at| at as u8).collect();
    world.write(0, &wanted).await;
    world.commit().await;
    let key = world.server.keys("").into_iter().find(|key| key.contains("/segments/")).unwrap();
    let whole = world.server.get(&key).unwrap().body;
    let mut flipped = whole.to_vec();
    flipped[100] ^= 1;
    for damaged in [&flipped[..], &whole[..1000], b""] {
        world.volume.evict_all().unwrap();
        world.server.put_foreign(&key, damaged.to_vec(), &[]);
        let error = world.volume.read(&world.file, 0, 4096).await.unwrap_err();
        assert!(error.to_string().contains("segment"), "{error}");
    }
    world.server.put_foreign(&key, whole, &[]);
    assert!(world.read(0, 300_000).await == wanted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_up_is_committed_before_the_rest_is() {
    let world = OneFile::new().await;
    // Steps of a commit, by their ranges.
    const PIECES: u64 = 10_000;
    for piece in 0..PIECES {
        world.write(piece * 200, &[(piece as u8).wrapping_add(1); 100]).await;
    }
    let before = world.volume.dirty_bytes();
    world.server.fault(Rule::new(Op::Put, "/segments/", 1, Action::Hold).after(1));
    let commit = tokio::spawn({
        let (volume, file) = (Arc::clone(&world.volume), Arc::clone(&world.file));
        async move { volume.commit(vec![file]).await }
    });
    wait_for("the second step", Duration::from_secs(60), || {
        (world.server.held() == 1).then_some(())
    });
    let left = world.volume.dirty_bytes();
    assert!(0 < left && left < before, "{left} of {before}");
    assert!(world.segments() == 1);
    // Whoever takes the volume now finds the file as it was then.
    let _receipt = world.volume.meta.flush(Duration::from_secs(60)).await.unwrap();
    let committed = world.file.live().content.size;
    assert!(committed < PIECES * 200 - 100 && committed % 200 == 100, "{committed}");
    // A truncation in the middle of it holds for what is still to come.
    let cut = committed / 2 / 200 * 200 + 50;
    world.volume.set_size(&world.file, cut).await.unwrap();
    world.server.release();
    commit.await.unwrap().unwrap();
    assert_eq!(world.file.live().content.size, cut);
    world.commit().await;
    world.volume.evict_all().unwrap();
    let mut wanted = vec![0; cut as usize];
    for (at, byte) in wanted.iter_mut().enumerate() {
        if at % 200 < 100 {
            *byte = ((at / 200) as u8).wrapping_add(1);
        }
    }
    assert!(world.read(0, 4 << 20).await == wanted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cached_bytes_that_the_local_disk_does_not_give_back_come_from_the_bucket() {
    let world = OneFile::new().await;
    let body: Vec<u8> = (0..3 << 20).map(|at: u32| (at / 777) as u8).collect();
    world.write(0, &body).await;
    world.commit().await;
    let ino = world.file.ino.0;
    let cached = world.dir.path().join("cache").join(format!("{:02x}", ino & 0xff));
    let cached = cached.join(ino.to_string());
    // No file any more: it can be neither read nor written.
    std::fs::remove_file(&cached).unwrap();
    std::fs::create_dir(&cached).unwrap();
    assert!(world.read(0, 4 << 20).await == body);
    assert!(world.read(1 << 20, 4096).await == body[1 << 20..(1 << 20) + 4096]);
    // What is nowhere else is an error.
    assert!(world.volume.write(&world.file, 0, b"new").await.is_err());
    std::fs::remove_dir(&cached).unwrap();
    world.write(5, b"new").await;
    assert!(world.read(0, 4 << 20).await[5..8] == *b"new");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_only_grows_is_fetched_once() {
    let world = OneFile::new().await;
    world.write(0, &[7; 1 << 20]).await;
    world.commit().await;
    world.volume.evict_all().unwrap();
    world.server.clear_log();
    world.server.fault(Rule::new(Op::Get, "/segments/", 1, Action::Hold));
    let reading = tokio::spawn({
        let (volume, file) = (Arc::clone(&world.volume), Arc::clone(&world.file));
        async move { volume.read(&file, 0, 4096).await }
    });
    wait_for("the fetch", Duration::from_secs(60), || (world.server.held() == 1).then_some(()));
    for more in 1..100 {
        world.volume.set_size(&world.file, (1 << 20) + more * 1000).await.unwrap();
    }
    world.server.release();
    assert_eq!(reading.await.unwrap().unwrap()[..], [7; 4096]);
    let log = world.server.log();
    let gets = log.iter().filter(|entry| entry.op == Op::Get && entry.key.contains("/segments/"));
    assert_eq!(gets.count(), 1);
    assert_eq!(world.read((1 << 20) - 2, 4).await, [7, 7, 0, 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_all_readers_fetch_together_has_a_bound() {
    const READERS: usize = 64;
    let most = MOST_FETCHED / MIB as u64;
    assert!(most < READERS as u64);
    let world = OneFile::new().await;
    let volume = &world.volume;
    let mut files = Vec::new();
    for number in 0..READERS {
        let file = world.create(&format!("f{number}")).await;
        volume.write(&file, 0, &vec![number as u8; MIB]).await.unwrap();
        files.push(file);
    }
    volume.commit(files.clone()).await.unwrap();
    volume.evict_all().unwrap();
    // Each fetches a piece of a MiB.
    world.server.fault(Rule::new(Op::Get, "/segments/", READERS as u32, Action::Hold));
    let mut reads = tokio::task::JoinSet::new();
    for (number, file) in files.into_iter().enumerate() {
        let volume = Arc::clone(volume);
        reads.spawn(async move {
            let read = volume.read(&file, 5, 10).await.unwrap();
            assert_eq!(read[..], [number as u8; 10]);
        });
    }
    until("as many fetches as there may be", || world.server.held() == most).await;
    while !reads.is_empty() {
        // Time enough for one too many.
        let done = tokio::time::timeout(Duration::from_millis(100), reads.join_next()).await;
        assert!(world.server.held() <= most, "{}", world.server.held());
        match done {
            Ok(done) => done.expect("a read").unwrap(),
            Err(_) => world.server.release(),
        }
    }
}
