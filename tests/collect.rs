//! Collecting what nothing refers to any more: how much of the engine's work it takes, by count, and what
//! a stop half-way leaves.

mod support;

use std::sync::Arc;
use std::time::Duration;

use s3vol::clock::Deadline;
use s3vol::config::VolumeOptions;
use s3vol::data::{DataError, Inode};
use s3vol::fs::RenameMode;
use s3vol::meta::{Costs, keys};
use s3vol::types::{Caller, Ino};
use support::s3server::{Action, Object, Op, Rule};
use support::volume::{read_all, settler};
use support::world::World;
use support::{named, until};

const LONG: Duration = Duration::from_secs(60);
const BLOCK: u64 = 512;
/// Blocks of the small and the large file: what depends on the shape differs by a factor of four.
const SMALL: u64 = 3_000;
const LARGE: u64 = 12_000;

impl World {
    /// Another process takes over what this one made durable, and nothing else.
    async fn crash(self) -> Self {
        let World { server, volume, .. } = self;
        volume.meta.engine.abandon();
        World::on(server, VolumeOptions::default()).await
    }

    /// A committed file of so many blocks, with a hole between any two.
    async fn scattered(&self, name: &str, blocks: u64) -> Arc<Inode> {
        let file = self.create(name).await;
        self.scatter(&file, blocks).await;
        file
    }

    async fn scatter(&self, file: &Arc<Inode>, blocks: u64) {
        for block in 0..blocks {
            let data = [block as u8; BLOCK as usize];
            self.volume.write(file, block * 2 * BLOCK, &data).await.unwrap();
        }
        self.volume.commit(vec![Arc::clone(file)]).await.unwrap();
    }

    async fn unlink(&self, name: &str) {
        self.fs.unlink(Caller::ROOT, Ino::ROOT, named(name)).await.unwrap();
    }

    async fn cost_of(&self, work: impl Future<Output = ()>) -> Costs {
        let before = self.volume.meta.engine.costs();
        work.await;
        self.volume.meta.engine.costs() - before
    }

    /// A read of the first bytes whose request is held in the store until [`TestS3::release`].
    async fn held_read(
        &self,
        file: &Arc<Inode>,
        len: usize,
    ) -> tokio::task::JoinHandle<Result<bytes::Bytes, DataError>> {
        self.server.fault(Rule::new(Op::Get, "/segments/", 1, Action::Hold));
        let (volume, file) = (Arc::clone(&self.volume), Arc::clone(file));
        let reading = tokio::spawn(async move { volume.read(&file, 0, len).await });
        until("the fetch", || self.server.held() == 1).await;
        reading
    }

    async fn collect(&self) {
        while self.volume.collect_dead().await.unwrap() {}
    }

    /// GETs while `work` was done.
    async fn fetched(&self, work: impl Future<Output = ()>) -> usize {
        self.volume.evict_all().unwrap();
        self.server.clear_log();
        work.await;
        self.server.log().iter().filter(|request| request.op == Op::Get).count()
    }

    async fn read_all(&self, file: &Arc<Inode>) -> Vec<u8> {
        read_all(&self.volume, file).await
    }
}

/// What the file of [`World::scattered`] holds.
fn blocks(count: u64) -> Vec<u8> {
    let mut all = Vec::new();
    for block in 0..count {
        all.extend_from_slice(&[block as u8; BLOCK as usize]);
        all.extend_from_slice(&[0; BLOCK as usize]);
    }
    all.truncate((count * 2 * BLOCK - BLOCK) as usize);
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn taking_content_away_costs_the_same_whatever_its_shape() {
    const MOST: u64 = 40;
    let world = World::new().await;
    let mut removed = Vec::new();
    let mut truncated = Vec::new();
    let mut replaced = Vec::new();
    for blocks in [1, SMALL, LARGE] {
        world.scattered("gone", blocks).await;
        removed.push(world.cost_of(world.unlink("gone")).await.total());

        let file = world.scattered("cut", blocks).await;
        let cut = async {
            world.volume.set_size(&file, 0).await.unwrap();
            world.volume.commit(vec![Arc::clone(&file)]).await.unwrap();
        };
        truncated.push(world.cost_of(cut).await.total());
        drop(file);
        world.unlink("cut").await;

        world.scattered("over", blocks).await;
        world.create("new").await;
        let rename = async {
            let (fs, mode) = (&world.fs, RenameMode::Replace);
            let root = Ino::ROOT;
            fs.rename(Caller::ROOT, root, named("new"), root, named("over"), mode).await.unwrap();
        };
        replaced.push(world.cost_of(rename).await.total());
        world.unlink("over").await;
    }
    for costs in [removed, truncated, replaced] {
        assert!(costs.iter().all(|cost| *cost <= MOST), "{costs:?}");
        // A lookup that a cache answers or not is no shape.
        assert!(costs[2] <= costs[1] + 3 && costs[1] <= costs[0] + 3, "{costs:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_and_a_hole_over_many_rows_go_in_small_batches() {
    let world = World::new().await;
    let (volume, engine) = (&world.volume, &world.volume.meta.engine);
    let (cut, punched) =
        (world.scattered("cut", LARGE).await, world.scattered("hole", LARGE).await);
    let most = engine.costs().batch;
    assert!(most < LARGE / 2, "{most} keys in one batch");
    engine.watch_tombstones();
    let cost = world.cost_of(async {
        volume.set_size(&cut, 3 * BLOCK).await.unwrap();
        volume.commit(vec![Arc::clone(&cut)]).await.unwrap();
    });
    let cost = cost.await;
    assert!(cost.total() <= 6 * LARGE, "{cost:?}");
    assert_eq!((cost.batch, volume.meta.superblock().extents), (most, LARGE + 2));
    let end = LARGE * 2 * BLOCK - BLOCK;
    let cost = world.cost_of(async {
        volume.zero(&punched, 1, end - 1, true).await.unwrap();
        volume.commit(vec![Arc::clone(&punched)]).await.unwrap();
    });
    let cost = cost.await;
    assert!(cost.total() <= 6 * LARGE, "{cost:?}");
    // Both ends of the file, and the hole between.
    assert_eq!((cost.batch, volume.meta.superblock().extents), (most, 3 + 2));
    assert_eq!(volume.meta.superblock().bytes, 3 * BLOCK + end);
    volume.evict_all().unwrap();
    assert!(world.read_all(&cut).await == blocks(LARGE)[..3 * BLOCK as usize]);
    let mut wanted = vec![0; end as usize];
    wanted[end as usize - 1] = (LARGE - 1) as u8;
    assert!(world.read_all(&punched).await == wanted);
    drop((cut, punched));
    world.unlink("cut").await;
    world.unlink("hole").await;
    world.collect().await;
    while world.volume.collect_segments(LONG).await.unwrap() > 0 {}
    assert_eq!((world.segments(), volume.meta.superblock().extents), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn collecting_is_linear_and_goes_over_nothing_twice() {
    let world = World::new().await;
    world.volume.meta.engine.watch_tombstones();
    for blocks in [SMALL, LARGE] {
        world.scattered("gone", blocks).await;
        world.unlink("gone").await;
        let cost = world.cost_of(world.collect()).await;
        // A row that is found and one that is deleted, and a little for each page.
        assert_eq!(cost.rows / blocks, 1, "{cost:?}");
        assert!(cost.total() <= blocks * 2 + blocks / 10 + 100, "{cost:?} for {blocks}");
        assert!(cost.tombstones <= 20, "{cost:?} for {blocks}");
        // Nothing is left to look through.
        let cost = world.cost_of(world.collect()).await;
        assert!(cost.total() <= 2, "{cost:?}");
        assert_eq!(world.volume.meta.superblock().extents, 0);
    }
    while world.volume.collect_segments(LONG).await.unwrap() > 0 {}
    assert_eq!(world.segments(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_collector_goes_on_where_it_was() {
    let mut world = World::new().await;
    let kept = world.scattered("kept", SMALL).await.ino;
    // Both are of one commit, so that they share segments.
    let shared = [world.create("shared").await, world.create("gone").await];
    for file in &shared {
        for block in 0..SMALL {
            let data = [block as u8; BLOCK as usize];
            world.volume.write(file, block * 2 * BLOCK, &data).await.unwrap();
        }
    }
    world.volume.commit(shared.to_vec()).await.unwrap();
    let shared = shared[0].ino;
    world.unlink("gone").await;
    let mut rows = SMALL;
    // Stopped after each page, with what it did durable, and once with it not durable.
    while world.volume.collect_dead().await.unwrap() {
        let left = world.volume.meta.superblock().extents;
        assert!(left < 2 * SMALL + rows, "{left}");
        rows = left - 2 * SMALL;
        let _receipt = world.volume.meta.flush(LONG).await.unwrap();
        world = world.crash().await;
        assert_eq!(world.volume.meta.superblock().extents, left);
        let cost = world.cost_of(async {
            let page = world.volume.meta.queue(keys::DEAD, 10).await.unwrap();
            assert_eq!(page.len(), 1);
        });
        assert!(cost.await.total() <= 3);
        if rows < SMALL / 2 {
            assert!(rows == 0 || world.volume.collect_dead().await.is_ok());
            world = world.crash().await;
            assert_eq!(world.volume.meta.superblock().extents, left, "what was not durable");
        }
    }
    assert_eq!(world.volume.meta.superblock().extents, 2 * SMALL);
    while world.volume.collect_segments(LONG).await.unwrap() > 0 {}
    for ino in [kept, shared] {
        let file = world.volume.inode(ino).await.unwrap();
        assert!(world.read_all(&file).await == blocks(SMALL), "{ino}");
    }
    world.unlink("kept").await;
    world.unlink("shared").await;
    world.collect().await;
    while world.volume.collect_segments(LONG).await.unwrap() > 0 {}
    assert_eq!(world.segments(), 0, "each row was counted off its segment once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ending_a_volume_does_nothing_about_its_garbage() {
    let world = World::new().await;
    let volume = &world.volume;
    let settler = settler(volume).await;
    world.scattered("gone", LARGE).await;
    world.unlink("gone").await;
    let cost = world.cost_of(async {
        assert_eq!(settler.settle_all(Deadline::after(LONG)).await.unwrap(), 0);
        volume.meta.engine.close(Deadline::after(LONG)).await.unwrap();
    });
    let cost = cost.await;
    assert!(cost.total() <= 60, "{cost:?}");
    assert_eq!(volume.meta.superblock().extents, LARGE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_removals_cost_the_same_each() {
    let world = World::new().await;
    world.volume.meta.engine.watch_tombstones();
    let mut each = Vec::new();
    for count in [300, 1200] {
        let mut files = Vec::new();
        for number in 0..count {
            let file = world.create(&format!("file-{number}")).await;
            world.volume.write(&file, 0, b"content").await.unwrap();
            files.push(file);
        }
        world.volume.commit(std::mem::take(&mut files)).await.unwrap();
        let cost = world.cost_of(async {
            for number in 0..count {
                world.unlink(&format!("file-{number}")).await;
            }
            world.collect().await;
        });
        let cost = cost.await;
        assert!(cost.total() <= count * 50, "{cost:?} for {count}");
        assert!(cost.tombstones <= count * 4, "{cost:?} for {count}");
        each.push(cost.total() / count);
        assert_eq!(world.volume.meta.superblock().extents, 0);
    }
    assert!(each[1] <= each[0] + 2, "{each:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_a_scattered_file_takes_few_requests_and_rows() {
    let world = World::new().await;
    let scattered = world.scattered("scattered", LARGE).await;
    let plain = world.create("plain").await;
    let bytes = vec![7; (LARGE * BLOCK) as usize];
    world.volume.write(&plain, 0, &bytes).await.unwrap();
    world.volume.commit(vec![Arc::clone(&plain)]).await.unwrap();
    let mut found = Vec::new();
    let requests = world.fetched(async { found = world.read_all(&plain).await }).await;
    assert!(found == bytes);
    let cost = world.volume.meta.engine.costs();
    let more = world.fetched(async { found = world.read_all(&scattered).await }).await;
    let cost = world.volume.meta.engine.costs() - cost;
    assert!(found == blocks(LARGE));
    assert!(more <= 2 * requests + 2, "{more} requests, {requests} of a plain file");
    assert!(cost.rows <= LARGE * 3 / 2 && cost.scans <= LARGE / 50, "{cost:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishing_a_scattered_file_fetches_nothing_that_was_just_written() {
    let world = World::new().await;
    let volume = &world.volume;
    let settler = settler(volume).await;
    let mut costs = Vec::new();
    for count in [SMALL, LARGE] {
        world.scattered("holes", count).await;
        world.server.clear_log();
        let cost = world.cost_of(async {
            assert_eq!(settler.settle_all(Deadline::after(LONG)).await.unwrap(), 0);
        });
        let cost = cost.await;
        let log = world.server.log();
        let is_content = |key: &str| key.contains("/segments/");
        let gets = log.iter().filter(|request| request.op == Op::Get);
        let fetched: Vec<_> = gets.filter(|request| is_content(&request.key)).collect();
        assert!(fetched.is_empty(), "{fetched:?}");
        assert!(world.server.get("data/holes").unwrap().body == blocks(count));
        // Its map is looked through twice: for its holes, and for the checksums of its bytes.
        assert!(cost.rows <= count * 5 / 2 + 100, "{cost:?} for {count}");
        costs.push(cost);
        world.unlink("holes").await;
        world.collect().await;
    }
    assert!(costs[1].scans <= costs[0].scans * 4 + 20, "{costs:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_a_published_file_that_is_overwritten_here_and_there_takes_few_requests() {
    let world = World::new().await;
    let volume = &world.volume;
    let settler = settler(volume).await;
    let file = world.create("woven").await;
    let mut wanted = vec![7; (LARGE * 2 * BLOCK) as usize];
    volume.write(&file, 0, &wanted).await.unwrap();
    assert_eq!(settler.settle_all(Deadline::after(LONG)).await.unwrap(), 0);
    let mut found = Vec::new();
    let requests = world.fetched(async { found = world.read_all(&file).await }).await;
    assert!(found == wanted);
    world.scatter(&file, LARGE).await;
    for (block, old) in wanted.chunks_mut(2 * BLOCK as usize).enumerate() {
        old[..BLOCK as usize].fill(block as u8);
    }
    let more = world.fetched(async { found = world.read_all(&file).await }).await;
    assert!(found == wanted);
    assert!(more <= 3 * requests + 2, "{more} requests, {requests} of a plain file");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn walking_from_hole_to_hole_is_linear() {
    let world = World::new().await;
    let file = world.scattered("holes", SMALL).await;
    let cost = world.cost_of(async {
        let mut at = 0;
        for block in 0..SMALL - 1 {
            let hole = world.volume.seek(&file, at, true).await.unwrap();
            assert_eq!(hole, Some((2 * block + 1) * BLOCK));
            at = world.volume.seek(&file, hole.unwrap(), false).await.unwrap().unwrap();
            assert_eq!(at, (2 * block + 2) * BLOCK);
        }
    });
    // A look goes over what lies within the next 64 KiB, whatever follows.
    let cost = cost.await;
    let in_reach = (64 << 10) / (2 * BLOCK) + 100;
    assert!(cost.rows <= 2 * SMALL * in_reach, "{cost:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_many_commits_is_put_in_order() {
    const STRIPES: u64 = 40;
    let world = World::new().await;
    let file = world.create("rewritten").await;
    let size = STRIPES * 100 * 4096;
    // Neighbours are of different commits, and so of different segments.
    for stripe in 0..STRIPES {
        for row in 0..100 {
            let at = (row * STRIPES + stripe) * 4096;
            world.volume.write(&file, at, &[stripe as u8 + 1; 4096]).await.unwrap();
        }
        world.volume.commit(vec![Arc::clone(&file)]).await.unwrap();
    }
    let wanted: Vec<u8> = (0..size).map(|at| (at / 4096 % STRIPES) as u8 + 1).collect();
    let mut found = Vec::new();
    let before = world.fetched(async { found = world.read_all(&file).await }).await;
    assert!(found == wanted);
    let stored = world.volume.repack_scattered().await.unwrap();
    assert_eq!(stored, size);
    let after = world.fetched(async { found = world.read_all(&file).await }).await;
    assert!(found == wanted);
    assert!(after * 10 < before, "{before} requests before, {after} after");
    assert_eq!(world.volume.repack_scattered().await.unwrap(), 0, "it is in order now");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_what_is_stored_again_and_collected_meanwhile_goes_on() {
    let world = World::new().await;
    let file = world.scattered("again", SMALL).await;
    world.volume.evict_all().unwrap();
    let reading = world.held_read(&file, 128 << 10).await;
    // The same bytes go to other segments, and nothing is left in those that the fetch wants.
    world.scatter(&file, SMALL).await;
    world.collect().await;
    assert!(world.volume.collect_segments(LONG).await.unwrap() > 0);
    world.volume.evict_all().unwrap();
    world.server.release();
    let found = reading.await.unwrap().unwrap();
    assert!(found == blocks(SMALL)[..128 << 10]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_fails_leaves_no_segments() {
    let world = World::new().await;
    let file = world.create("large").await;
    for number in 0..20 {
        world.volume.write(&file, number << 20, &vec![number as u8 + 1; 1 << 20]).await.unwrap();
    }
    // It is dropped with one of its two segments stored and the other one on its way.
    world.server.fault(Rule::new(Op::Put, "/segments/", 1, Action::Hold).after(1));
    let commit = tokio::spawn({
        let (volume, file) = (Arc::clone(&world.volume), Arc::clone(&file));
        async move { volume.commit(vec![file]).await }
    });
    until("half of the commit", || world.server.held() == 1 && world.segments() == 1).await;
    commit.abort();
    assert!(commit.await.unwrap_err().is_cancelled());
    world.server.release();
    until("what arrives late", || world.segments() == 2).await;
    assert_eq!(world.volume.collect_segments(LONG).await.unwrap(), 2);
    assert_eq!((world.segments(), world.volume.collect_segments(LONG).await.unwrap()), (0, 0));
    // What is there now is named.
    world.volume.commit(vec![Arc::clone(&file)]).await.unwrap();
    assert_eq!((world.segments(), world.volume.collect_segments(LONG).await.unwrap()), (2, 0));
    world.volume.evict_all().unwrap();
    let found = world.read_all(&file).await;
    assert!(found.len() == 20 << 20 && found[19 << 20] == 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_cannot_be_read_keeps_no_other_from_being_stored_again() {
    const STRIPES: u64 = 30;
    const ROWS: u64 = 1200;
    let world = World::new().await;
    let files = [world.create("lost").await, world.create("a").await, world.create("b").await];
    for (number, file) in files.iter().enumerate() {
        for stripe in 0..STRIPES {
            for at in (stripe..ROWS).step_by(STRIPES as usize) {
                world.volume.write(file, at * 4096, &[stripe as u8 + 1; 4096]).await.unwrap();
            }
            world.volume.commit(vec![Arc::clone(file)]).await.unwrap();
        }
        if number == 0 {
            for key in world.server.keys("").iter().filter(|key| key.contains("/segments/")) {
                assert!(world.server.delete_foreign(key));
            }
        }
    }
    world.volume.evict_all().unwrap();
    assert_eq!(world.volume.repack_scattered().await.unwrap(), 2 * ROWS * 4096);
    // Nothing else is wanted again.
    assert_eq!(world.volume.repack_scattered().await.unwrap(), 0);
    world.volume.evict_all().unwrap();
    for file in &files[1..] {
        assert_eq!(world.read_all(file).await.len() as u64, ROWS * 4096);
    }
    assert!(world.volume.read(&files[0], 0, 1).await.is_err());
    // When most of all segments is dead, the same holds for those that a pass over all finds.
    for file in &files {
        for at in (0..ROWS).filter(|at| at % 3 > 0) {
            world.volume.zero(file, at * 4096, (at + 1) * 4096, true).await.unwrap();
        }
        world.volume.commit(vec![Arc::clone(file)]).await.unwrap();
    }
    world.volume.evict_all().unwrap();
    let repacked = world.volume.repack(0).await.unwrap();
    assert!(repacked.bytes >= 2 * ROWS / 3 * 4096, "{repacked:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_what_is_removed_meanwhile_ends_at_once() {
    let world = World::new().await;
    let file = world.scattered("gone", SMALL).await;
    world.volume.evict_all().unwrap();
    world.server.clear_log();
    // As settling reads it.
    let reading = world.held_read(&file, 1 << 20).await;
    world.unlink("gone").await;
    world.server.release();
    let error = reading.await.unwrap().unwrap_err();
    assert!(matches!(error, DataError::Gone(_)), "{error}");
    let gets = world.server.log().iter().filter(|request| request.op == Op::Get).count();
    assert!(gets <= 2, "{gets} requests");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn segments_of_a_commit_that_lasts_for_hours_are_no_orphans() {
    let world = World::new().await;
    let file = world.create("slow").await;
    let body: Vec<u8> = (0..20 << 20).map(|at: u32| (at / 4096) as u8).collect();
    for (number, chunk) in body.chunks(1 << 20).enumerate() {
        world.volume.write(&file, (number as u64) << 20, chunk).await.unwrap();
    }
    // One of the two segments is there, and the other one takes its time.
    world.server.fault(Rule::new(Op::Put, "/segments/", 1, Action::Hold).after(1));
    let commit = tokio::spawn({
        let (volume, file) = (Arc::clone(&world.volume), Arc::clone(&file));
        async move { volume.commit(vec![file]).await }
    });
    until("half of the commit", || world.server.held() == 1 && world.segments() == 1).await;
    let stored = world.server.keys("").into_iter().find(|key| key.contains("/segments/")).unwrap();
    let long_ago = |object: &mut Object| object.modified -= Duration::from_secs(2 * 3600);
    world.server.spoil(&stored, long_ago);
    assert_eq!(world.volume.collect_orphan_segments().await.unwrap(), 0);
    world.server.release();
    commit.await.unwrap().unwrap();
    // Those of a commit that is over are known by their records.
    world.server.spoil(&stored, long_ago);
    assert_eq!(world.volume.collect_orphan_segments().await.unwrap(), 0);
    world.volume.evict_all().unwrap();
    assert!(world.read_all(&file).await == body);
    // What nobody uploads is one.
    let orphan = stored.replace(&stored[stored.len() - 8..], "01234567");
    world.server.put_foreign(&orphan, "left", &[]);
    assert_eq!(world.volume.collect_orphan_segments().await.unwrap(), 0, "too young");
    world.server.spoil(&orphan, long_ago);
    assert_eq!(world.volume.collect_orphan_segments().await.unwrap(), 1);
}
