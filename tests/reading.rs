//! Reading from the bucket: how much is requested, and how much of it in parallel.

mod support;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use s3vol::clock::Deadline;
use s3vol::config::VolumeOptions;
use s3vol::data::{Outside, Volume};
use s3vol::fs::{Fs, Show};
use s3vol::settle::{Reconciler, Settler, changes};
use s3vol::types::{Caller, FileKind, Ino, ObjectKey};
use support::s3server::{Action, Logged, Op, Rule, rounds};
use support::volume::settler;
use support::world::{Settled, World};
use support::{named, until, wait_for, wait_for_async};

const PATIENCE: Duration = Duration::from_secs(60);
const MIB: usize = 1 << 20;
/// What the kernel asks for at a time.
const READ: usize = 128 << 10;

fn reconciler_of(settler: &Arc<Settler>) -> Arc<Reconciler> {
    Reconciler::new(Arc::clone(settler), changes().0)
}

/// One that has looked at nothing yet, as after a mount.
async fn fs_over(volume: &Arc<Volume>) -> Fs {
    Fs::new(Arc::clone(volume), reconciler_of(&settler(volume).await))
}

impl Settled {
    /// A volume over what is in the bucket, which its file system shows.
    async fn new() -> Self {
        Settled::with(VolumeOptions::default()).await
    }

    async fn with(options: VolumeOptions) -> Self {
        let mut settled = Settled::over(World::with(options).await).await;
        settled.world.fs = Arc::new(Fs::new(Arc::clone(&settled.volume), settled.reconciler()));
        settled
    }

    /// A file with this content that another tool put there, opened.
    async fn file(&self, content: &[u8]) -> File<'_> {
        self.server.put_foreign("data/file", content.to_vec(), &[]);
        let file = self.open(Ino::ROOT, "file").await;
        self.server.set_latency(Duration::from_millis(20));
        self.server.clear_log();
        file
    }

    async fn open(&self, dir: Ino, name: &str) -> File<'_> {
        let attr = self.fs.lookup(dir, named(name)).await.unwrap();
        let opened = self.fs.open(Caller::ROOT, attr.ino, libc::O_RDONLY).await.unwrap();
        File { world: self, ino: attr.ino, fh: opened.fh }
    }

    fn asked(&self, op: Op, prefix: &str) -> Vec<Logged> {
        let log = self.server.log();
        log.into_iter().filter(|one| one.op == op && one.key.starts_with(prefix)).collect()
    }

    fn gets(&self) -> Vec<Logged> {
        self.asked(Op::Get, "data/")
    }
}

struct File<'w> {
    world: &'w Settled,
    ino: Ino,
    fh: s3vol::fs::FileHandle,
}

impl File<'_> {
    async fn read(&self, at: usize, len: usize) -> Vec<u8> {
        self.try_read(at, len).await.unwrap()
    }

    async fn try_read(&self, at: usize, len: usize) -> Result<Vec<u8>, s3vol::fs::FsError> {
        let fs = &self.world.fs;
        fs.read(self.ino, self.fh, at as u64, len as u32).await.map(|bytes| bytes.to_vec())
    }

    async fn read_all(&self) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let piece = self.read(all.len(), READ).await;
            if piece.is_empty() {
                return all;
            }
            all.extend_from_slice(&piece);
        }
    }

    async fn close(self) {
        self.world.fs.release(self.ino, self.fh).await.unwrap();
    }
}

fn fetched(gets: &[Logged]) -> usize {
    gets.iter().map(|get| get.bytes_out as usize).sum()
}

/// The most of these requests that were in flight at a time.
fn side_by_side(requests: &[Logged]) -> usize {
    let mut edges: Vec<(SystemTime, i32)> = Vec::new();
    for request in requests {
        edges.push((request.time, 1));
        edges.push((request.time + request.took, -1));
    }
    edges.sort();
    let mut now = 0;
    let most = edges.into_iter().map(|(_, step)| {
        now += step;
        now
    });
    most.max().unwrap_or(0) as usize
}

/// Bytes of which no two pieces are the same.
fn content(len: usize, seed: u64) -> Vec<u8> {
    support::noise(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, len)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sequential_read_has_several_ranges_in_flight() {
    let world = Settled::new().await;
    let bytes = content(64 * MIB, 1);
    let file = world.file(&bytes).await;
    assert!(file.read_all().await == bytes);
    let gets = world.gets();
    assert!(fetched(&gets) <= bytes.len() + MIB, "{}", fetched(&gets));
    assert!(gets.len() <= 50, "{} GET", gets.len());
    assert!(side_by_side(&gets) >= 4, "{}", side_by_side(&gets));
    // Once more, from the cache.
    world.server.clear_log();
    assert!(file.read_all().await == bytes);
    assert!(world.gets().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stops_early_fetches_little() {
    for (read, most) in [(4096, MIB), (MIB, 4 * MIB), (4 * MIB, 16 * MIB)] {
        let world = Settled::new().await;
        let file = world.file(&content(64 * MIB, 2)).await;
        for at in (0..read).step_by(READ) {
            file.read(at, READ.min(read)).await;
        }
        file.close().await;
        let gets = world.gets();
        assert!(fetched(&gets) <= most, "{read}: {}", fetched(&gets));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_reads_of_a_large_file_fetch_little_also_with_requester_pays() {
    let options = VolumeOptions { requester_pays: true, ..VolumeOptions::default() };
    for options in [options, VolumeOptions::default()] {
        let world = Settled::with(options).await;
        let bytes = content(64 * MIB, 3);
        let file = world.file(&bytes).await;
        for at in [40 * MIB, 5 * MIB, 21 * MIB] {
            assert!(file.read(at, 4096).await == bytes[at..at + 4096]);
        }
        file.close().await;
        assert!(fetched(&world.gets()) <= 3 * (64 << 10), "{}", fetched(&world.gets()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_random_reads_fetch_the_file_once() {
    let world = Settled::new().await;
    let bytes = content(32 * MIB, 4);
    let file = world.file(&bytes).await;
    for n in 0..1000 {
        let at = (n * 7919 % 8192) * 4096;
        assert!(file.read(at, 4096).await == bytes[at..at + 4096], "{n}");
    }
    let gets = world.gets();
    assert!(fetched(&gets) <= bytes.len() * 11 / 10, "{}", fetched(&gets));
    assert!(gets.len() <= 60, "{} GET", gets.len());
    file.close().await;
    // With `requester_pays` the rest of the file is not fetched.
    let options = VolumeOptions { requester_pays: true, ..VolumeOptions::default() };
    let world = Settled::with(options).await;
    let file = world.file(&bytes).await;
    for n in 0..60 {
        let at = (n * 7919 % 8192) * 4096;
        assert!(file.read(at, 4096).await == bytes[at..at + 4096], "{n}");
    }
    assert!(fetched(&world.gets()) <= 60 * (64 << 10), "{}", fetched(&world.gets()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_replaced_during_prefetch_is_never_mixed() {
    let options = VolumeOptions { refresh: Duration::ZERO, ..VolumeOptions::default() };
    let world = Settled::with(options).await;
    let (old, new) = (content(32 * MIB, 5), content(32 * MIB, 6));
    let file = world.file(&old).await;
    world.server.fault(Rule::always(Some(Op::Get), "data/file", Action::Hold).after(6));
    let mut at = 0;
    while world.server.held() == 0 {
        let read = tokio::time::timeout(Duration::from_secs(1), file.read(at, READ)).await;
        let Ok(piece) = read else { continue };
        assert!(piece == old[at..at + READ]);
        at += READ;
        assert!(at < old.len() / 2, "nothing is prefetched");
    }
    world.server.put_foreign("data/file", new.clone(), &[]);
    world.server.clear_faults();
    world.server.release();
    // Until the next look at the object a read gets the old content, if it is cached, or an error.
    for at in (0..old.len()).step_by(MIB) {
        if let Ok(piece) = file.try_read(at, READ).await {
            assert!(piece == old[at..at + READ], "{at}");
        }
    }
    let now = || async {
        let name = named("file");
        world.fs.lookup(Ino::ROOT, name).await.unwrap();
        let piece = file.try_read(0, READ).await.ok()?;
        (piece == new[..READ]).then_some(())
    };
    wait_for_async("the new content", PATIENCE, now).await;
    assert!(file.read_all().await == new);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_sees_no_errors_of_prefetch() {
    let world = Settled::new().await;
    let bytes = content(32 * MIB, 7);
    let file = world.file(&bytes).await;
    // The first bytes are cached; then each request fails once, whether a reader's or prefetch.
    file.read(0, READ).await;
    for skip in 0..12 {
        let once = Rule::new(Op::Get, "data/file", 1, Action::Status(503));
        world.server.fault(once.after(skip * 2));
        let cut = Rule::new(Op::Get, "data/file", 1, Action::CutBody(300_000));
        world.server.fault(cut.after(skip * 2));
    }
    assert!(file.read_all().await == bytes);
    // Permanent errors do not matter as long as no reader wants the bytes.
    let world = Settled::new().await;
    let file = world.file(&bytes).await;
    file.read(0, READ).await;
    world.server.fault(Rule::always(Some(Op::Get), "data/file", Action::Status(403)).after(2));
    for at in (READ..512 << 10).step_by(READ) {
        assert!(file.read(at, READ).await == bytes[at..at + READ]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_goes_on_when_prefetch_hangs() {
    let world = Settled::new().await;
    let bytes = content(8 * MIB, 8);
    let file = world.file(&bytes).await;
    file.read(0, READ).await;
    // All up to there came with the first request: the next one is a prefetch.
    world.server.fault(Rule::new(Op::Get, "data/file", 1, Action::Hold));
    for at in (READ..512 << 10).step_by(READ) {
        file.read(at, READ).await;
    }
    wait_for("prefetch", PATIENCE, || (world.server.held() > 0).then_some(()));
    let whole = tokio::time::timeout(PATIENCE, file.read_all()).await;
    assert!(whole.expect("the reader fetches it itself") == bytes);
    world.server.release();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_larger_than_the_cache_is_fetched_about_once_per_sequential_read() {
    let options = VolumeOptions { cache_size: 16 << 20, ..VolumeOptions::default() };
    let world = Settled::with(options).await;
    let bytes = content(64 * MIB, 9);
    let file = world.file(&bytes).await;
    assert!(file.read_all().await == bytes);
    let gets = world.gets();
    assert!(fetched(&gets) <= bytes.len() * 5 / 4, "{}", fetched(&gets));
    // Once more: what was prefetched is not evicted first, though the cache has only other parts of the file.
    world.server.clear_log();
    assert!(file.read_all().await == bytes);
    let again = world.gets();
    assert!(fetched(&again) <= bytes.len() * 5 / 4, "{}", fetched(&again));
    assert!(again.len() <= gets.len() * 5 / 4, "{} and {} GET", gets.len(), again.len());
    // And for random reads it is not fetched whole.
    world.server.clear_log();
    for n in 0..50 {
        let at = (n * 7919 % 16384) * 4096;
        assert!(file.read(at, 4096).await == bytes[at..at + 4096], "{n}");
    }
    assert!(fetched(&world.gets()) <= 50 * (64 << 10), "{}", fetched(&world.gets()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_do_not_fit_together_are_not_fetched_whole_in_turns() {
    let options = VolumeOptions { cache_size: 64 << 20, ..VolumeOptions::default() };
    let world = Settled::with(options).await;
    let names = ["one", "two", "three"];
    let bytes = content(24 * MIB, 11);
    for name in names {
        world.server.put_foreign(&format!("data/{name}"), bytes.clone(), &[]);
    }
    let mut files = Vec::new();
    for name in names {
        files.push(world.open(Ino::ROOT, name).await);
    }
    world.server.set_latency(Duration::from_millis(5));
    world.server.clear_log();
    for n in 1..300 {
        let at = (n * 7919 % 6144) * 4096;
        for file in &files {
            assert!(file.read(at, 4096).await == bytes[at..at + 4096], "{n}");
        }
    }
    let gets = world.gets();
    assert!(fetched(&gets) <= names.len() * bytes.len(), "{}", fetched(&gets));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prefetch_of_a_base_keeps_what_was_written_over_it() {
    let options = VolumeOptions { settle_after: Duration::ZERO, ..VolumeOptions::default() };
    let world = Settled::with(options).await;
    // A large one, and small ones that are read one after another.
    let mut names = vec!["file".to_owned()];
    names.extend((0..10).map(|n| format!("dir/{n}")));
    let mut wanted = Vec::new();
    for (n, name) in names.iter().enumerate() {
        let len = if n == 0 { 8 * MIB } else { 200 << 10 };
        wanted.push(content(len, 200 + n as u64));
        world.server.put_foreign(&format!("data/{name}"), wanted[n].clone(), &[]);
    }
    let dir = world.fs.lookup(Ino::ROOT, named("dir")).await.unwrap().ino;
    let parent = |n: usize| if n == 0 { Ino::ROOT } else { dir };
    let last = |n: usize| names[n].trim_start_matches("dir/");
    for (n, wanted) in wanted.iter_mut().enumerate() {
        let name = named(last(n));
        let ino = world.fs.lookup(parent(n), name).await.unwrap().ino;
        let file = world.volume.inode(ino).await.unwrap();
        let new = content(4096, 300 + n as u64);
        for at in (64 << 10..wanted.len()).step_by(256 << 10) {
            let hole = at + (32 << 10)..at + (40 << 10);
            world.volume.write(&file, at as u64, &new).await.unwrap();
            let (start, end) = (hole.start as u64, hole.end as u64);
            world.volume.zero(&file, start, end, true).await.unwrap();
            wanted[at..at + 4096].copy_from_slice(&new);
            wanted[hole].fill(0);
        }
        world.volume.commit(vec![file]).await.unwrap();
    }
    world.volume.evict_all().unwrap();
    world.server.set_latency(Duration::from_millis(20));
    world.server.clear_log();
    for n in 0..names.len() {
        let file = world.open(parent(n), last(n)).await;
        assert!(file.read_all().await == wanted[n], "{}", names[n]);
        assert!(file.read_all().await == wanted[n], "{}, again", names[n]);
        file.close().await;
        if n == 3 {
            let came = || world.asked(Op::Get, "data/dir/").len();
            wait_for("prefetched files", PATIENCE, || (came() > 5).then_some(()));
        }
    }
    assert!(world.asked(Op::Get, "data/file").len() > 1, "more than the reader's own");
    let deadline = Deadline::after(PATIENCE);
    assert_eq!(world.settler.settle_all(deadline).await.unwrap(), 0);
    for (name, wanted) in names.iter().zip(&wanted) {
        let object = world.server.get(&format!("data/{name}")).unwrap();
        assert!(object.body[..] == wanted[..], "{name} in the bucket");
    }
}

/// Cache files that this process has open.
fn descriptors(world: &Settled) -> usize {
    let cache = world.dir.path().join("cache");
    let open = std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|fd| fd.ok());
    let paths = open.filter_map(|fd| std::fs::read_link(fd.path()).ok());
    paths.filter(|path| path.starts_with(&cache)).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_closed_during_prefetch_keeps_no_descriptor() {
    let world = Settled::new().await;
    let file = world.file(&content(32 * MIB, 12)).await;
    file.read(0, READ).await;
    world.server.fault(Rule::always(Some(Op::Get), "data/file", Action::Hold));
    // All this came with the first request.
    for at in (READ..512 << 10).step_by(READ) {
        file.read(at, READ).await;
    }
    wait_for("prefetch", PATIENCE, || (world.server.held() > 0).then_some(()));
    let inode = world.volume.inode(file.ino).await.unwrap();
    assert_eq!(descriptors(&world), 1);
    file.close().await;
    world.volume.commit(world.volume.dirty_inodes()).await.unwrap();
    world.server.clear_faults();
    world.server.release();
    // Only the table and this test have it, and nothing in flight.
    until("the end of what was in flight", || Arc::strong_count(&inode) == 2).await;
    assert_eq!(descriptors(&world), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prefetch_does_not_keep_a_volume_alive() {
    let world = Settled::new().await;
    let file = world.file(&content(32 * MIB, 10)).await;
    file.read(0, READ).await;
    world.server.fault(Rule::always(Some(Op::Get), "data/file", Action::Hold).after(1));
    for at in (READ..MIB).step_by(READ) {
        let _ = tokio::time::timeout(Duration::from_millis(200), file.read(at, READ)).await;
    }
    wait_for("prefetch", PATIENCE, || (world.server.held() > 0).then_some(()));
    file.close().await;
    let Settled { world, settler, .. } = world;
    let World { server, volume, fs, dir: _dir } = world;
    let before = server.count(Op::Get);
    let kept = Arc::downgrade(&volume);
    drop((fs, settler, volume));
    server.clear_faults();
    server.release();
    until("the end of what was in flight", || kept.upgrade().is_none()).await;
    assert_eq!(server.count(Op::Get), before, "no new request is sent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_files_read_one_after_another_are_prefetched_in_parallel() {
    let world = Settled::new().await;
    let bytes = |n: usize| content(4096, 100 + n as u64);
    for n in 0..300 {
        world.server.put_foreign(&format!("data/dir/{n:04}"), bytes(n), &[]);
    }
    let dir = world.fs.lookup(Ino::ROOT, named("dir")).await.unwrap().ino;
    let first = world.open(dir, "0000").await;
    first.close().await;
    world.server.set_latency(Duration::from_millis(20));
    world.server.clear_log();
    for n in 0..300 {
        let file = world.open(dir, &format!("{n:04}")).await;
        if n == 200 {
            // It may have been prefetched, so a read sees it as it was or as it is now.
            world.server.put_foreign("data/dir/0250", content(4096, 7), &[]);
        }
        let read = file.try_read(0, READ).await;
        match read {
            Ok(read) => assert!(read == bytes(n) || n == 250 && read == content(4096, 7), "{n}"),
            Err(error) => assert!(n == 250, "{n}: {error}"),
        }
        file.close().await;
    }
    let gets = world.asked(Op::Get, "data/dir/");
    assert!((299..=306).contains(&gets.len()), "{} GET", gets.len());
    assert!(side_by_side(&gets) >= 8, "{}", side_by_side(&gets));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tree_that_is_read_file_by_file_is_prefetched_across_directories() {
    const DIRS: usize = 60;
    const FILES: usize = 10;
    let world = Settled::new().await;
    // Two levels, as archives have them, and a directory without files between them.
    let path = |dir: usize| format!("tree/p{}/m{dir:02}", dir / 5);
    let bytes = |dir: usize, n: usize| content(4096, (dir * FILES + n) as u64);
    for dir in 0..DIRS {
        for n in 0..FILES {
            world.server.put_foreign(&format!("data/{}/{n}", path(dir)), bytes(dir, n), &[]);
        }
    }
    let mut order: Vec<usize> = (0..DIRS).collect();
    order.sort_by_key(|dir| path(*dir));
    let mut dirs = Vec::new();
    for dir in &order {
        let mut at = Ino::ROOT;
        for name in path(*dir).split('/') {
            at = world.fs.lookup(at, named(name)).await.unwrap().ino;
        }
        dirs.push(at);
        // What it holds is known.
        assert_eq!(walk(&world.fs, at).await, FILES);
    }
    world.server.set_latency(Duration::from_millis(20));
    world.server.clear_log();
    for (at, dir) in dirs.iter().zip(&order) {
        for n in 0..FILES {
            let file = world.open(*at, &n.to_string()).await;
            assert_eq!(file.read_all().await, bytes(*dir, n));
            file.close().await;
        }
    }
    let gets = world.asked(Op::Get, "data/tree/");
    assert_eq!(gets.len(), DIRS * FILES, "each once");
    let rounds = rounds(&gets).len();
    // Without it each directory takes three.
    assert!(rounds <= DIRS, "{rounds} rounds");
}

/// Opens every directory, as `ls -R` does. Returns how many files there are.
async fn walk(fs: &Fs, top: Ino) -> usize {
    let (mut left, mut files) = (vec![top], 0);
    while let Some(dir) = left.pop() {
        let fh = fs.opendir(Caller::ROOT, dir).await.unwrap();
        let entries = fs.readdir(dir, fh, 0, 1000, Show::Attributes).await.unwrap();
        for entry in entries.iter().filter(|entry| !entry.is_dot()) {
            match entry.kind {
                FileKind::Dir => left.push(entry.ino),
                _ => files += 1,
            }
        }
        fs.releasedir(Caller::ROOT, dir, fh).await.unwrap();
    }
    files
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_walk_lists_its_directories_in_parallel() {
    let world = Settled::new().await;
    for (one, two) in (0..8).flat_map(|one| (0..8).map(move |two| (one, two))) {
        for file in 0..3 {
            world.server.put_foreign(&format!("data/tree/{one}/{two}/{file}"), "content", &[]);
        }
    }
    let tree = world.fs.lookup(Ino::ROOT, named("tree")).await.unwrap().ino;
    assert_eq!(walk(&world.fs, tree).await, 8 * 8 * 3);
    let fs = fs_over(&world.volume).await;
    world.server.set_latency(Duration::from_millis(20));
    world.server.clear_log();
    assert_eq!(walk(&fs, tree).await, 8 * 8 * 3);
    let lists = world.asked(Op::List, "data/tree/");
    assert!((72..=75).contains(&lists.len()), "{} LIST", lists.len());
    assert!(side_by_side(&lists) >= 8, "{}", side_by_side(&lists));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opening_a_directory_and_one_below_it_lists_few_others() {
    let world = Settled::new().await;
    for one in 0..100 {
        world.server.put_foreign(&format!("data/tree/{one:02}/file"), "content", &[]);
    }
    let tree = world.fs.lookup(Ino::ROOT, named("tree")).await.unwrap().ino;
    world.fs.opendir(Caller::ROOT, tree).await.unwrap();
    let one = world.fs.lookup(tree, named("42")).await.unwrap().ino;
    world.server.clear_log();
    world.fs.opendir(Caller::ROOT, one).await.unwrap();
    let lists = || world.asked(Op::List, "data/tree/").len();
    wait_for("the siblings", PATIENCE, || (lists() >= 8).then_some(()));
    assert!(lists() <= 12, "{}", lists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_was_listed_ahead_brings_back_nothing_stale() {
    let world = Settled::new().await;
    for (dir, file) in (0..10).flat_map(|dir| ["kept", "new", "gone"].map(|file| (dir, file))) {
        world.server.put_foreign(&format!("data/tree/{dir}/{file}"), "old", &[]);
    }
    let tree = world.fs.lookup(Ino::ROOT, named("tree")).await.unwrap().ino;
    assert_eq!(walk(&world.fs, tree).await, 10 * 3);
    let reconciler = reconciler_of(&settler(&world.volume).await);
    let fs = Fs::new(Arc::clone(&world.volume), Arc::clone(&reconciler) as Arc<dyn Outside>);
    let below = async |dir: u32| fs.lookup(tree, named(&dir.to_string())).await.unwrap().ino;
    fs.opendir(Caller::ROOT, tree).await.unwrap();
    world.server.clear_log();
    // One of these is requested, and the answer is held.
    world.server.fault(Rule::new(Op::List, "data/tree/6/", 1, Action::Hold));
    fs.opendir(Caller::ROOT, below(0).await).await.unwrap();
    let came = || world.asked(Op::List, "data/tree/5/").len() == 1 && world.server.held() == 1;
    wait_for("the pages", PATIENCE, || came().then_some(()));
    for dir in [5, 6] {
        let key = |file: &str| format!("data/tree/{dir}/{file}");
        world.server.put_foreign(&key("new"), "newer", &[]);
        world.server.delete_foreign(&key("gone"));
        for file in ["new", "gone"] {
            reconciler.recheck_key(&ObjectKey::new(key(file))).await.unwrap();
        }
    }
    world.server.release();
    for dir in [5, 6] {
        let dir = below(dir).await;
        fs.opendir(Caller::ROOT, dir).await.unwrap();
        assert_eq!(fs.lookup(dir, named("new")).await.unwrap().size, 5);
        assert!(fs.lookup(dir, named("gone")).await.is_err());
        assert_eq!(fs.lookup(dir, named("kept")).await.unwrap().size, 3);
    }
    let lists = || world.asked(Op::List, "data/tree/6/").into_iter();
    let whole = || lists().filter(|list| list.key == "data/tree/6/").count();
    wait_for("another listing than the held one", PATIENCE, || (whole() == 2).then_some(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_requester_pays_requests_are_sent_one_by_one() {
    let options = VolumeOptions { requester_pays: true, ..VolumeOptions::default() };
    let world = Settled::with(options).await;
    for (dir, file) in (0..8).flat_map(|dir| (0..8).map(move |file| (dir, file))) {
        world.server.put_foreign(&format!("data/tree/{dir}/{file}"), content(4096, 13), &[]);
    }
    let tree = world.fs.lookup(Ino::ROOT, named("tree")).await.unwrap().ino;
    assert_eq!(walk(&world.fs, tree).await, 8 * 8);
    let fs = fs_over(&world.volume).await;
    world.server.set_latency(Duration::from_millis(20));
    world.server.clear_log();
    assert_eq!(walk(&fs, tree).await, 8 * 8);
    let lists = world.asked(Op::List, "data/tree/");
    assert_eq!((lists.len(), side_by_side(&lists)), (9, 1));
    let dir = fs.lookup(tree, named("3")).await.unwrap().ino;
    for file in 0..8 {
        let file = world.open(dir, &file.to_string()).await;
        assert!(file.read(0, READ).await == content(4096, 13));
        file.close().await;
    }
    let gets = world.asked(Op::Get, "data/tree/");
    assert_eq!((gets.len(), side_by_side(&gets)), (8, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_with_many_extents_over_it_is_read_with_few_requests() {
    let world = Settled::new().await;
    let mut wanted = content(16 * MIB, 500);
    world.server.put_foreign("data/file", wanted.clone(), &[]);
    let ino = world.fs.lookup(Ino::ROOT, named("file")).await.unwrap().ino;
    let file = world.volume.inode(ino).await.unwrap();
    let new = content(4096, 501);
    for at in (60 << 10..wanted.len()).step_by(64 << 10) {
        world.volume.write(&file, at as u64, &new).await.unwrap();
        wanted[at..at + 4096].copy_from_slice(&new);
    }
    world.volume.commit(vec![file]).await.unwrap();
    world.volume.evict_all().unwrap();
    world.server.set_latency(Duration::from_millis(20));
    world.server.clear_log();
    let file = world.open(Ino::ROOT, "file").await;
    assert!(file.read_all().await == wanted);
    let gets = world.asked(Op::Get, "");
    // One for each extent would be 512. How many there are depends on when the reader takes a range for stalled.
    assert!(gets.len() <= 96, "{} requests", gets.len());
    assert!(fetched(&gets) <= 18 * MIB, "{} bytes", fetched(&gets));
    file.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prefetched_small_files_are_not_evicted_first_when_the_cache_is_full() {
    let options = VolumeOptions { cache_size: 16 << 20, ..VolumeOptions::default() };
    let world = Settled::with(options).await;
    let names: Vec<String> = (0..200).map(|n| format!("{n:03}")).collect();
    for name in &names {
        world.server.put_foreign(&format!("data/dir/{name}"), content(200 << 10, 7), &[]);
    }
    let dir = world.fs.lookup(Ino::ROOT, named("dir")).await.unwrap().ino;
    world.server.set_latency(Duration::from_millis(5));
    world.server.clear_log();
    world.open(dir, "000").await.close().await;
    for name in &names {
        let file = world.open(dir, name).await;
        assert_eq!(file.read_all().await.len(), 200 << 10);
        file.close().await;
    }
    let gets = world.gets();
    assert!(fetched(&gets) <= 210 * (200 << 10), "{} requests", gets.len());
}
