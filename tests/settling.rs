//! Settling over a volume without a worker: rounds whose requests are held or refused.

#[path = "settling/beside.rs"]
mod beside;
#[path = "settling/bodies.rs"]
mod bodies;
#[path = "settling/composed.rs"]
mod composed;
#[path = "settling/copies.rs"]
mod copies;
#[path = "settling/groups.rs"]
mod groups;
#[path = "settling/large.rs"]
mod large;
#[path = "settling/late.rs"]
mod late;
#[path = "settling/outside.rs"]
mod outside;
#[path = "settling/programs.rs"]
mod programs;
#[path = "settling/removed.rs"]
mod removed;
#[path = "settling/rounds.rs"]
mod rounds;
mod support;
#[path = "settling/unread.rs"]
mod unread;
#[path = "settling/writers.rs"]
mod writers;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use s3vol::clock::{Deadline, boottime};
use s3vol::config::VolumeOptions;
use s3vol::data::{CacheFile, Inode, Outside};
use s3vol::fs::{FileHandle, RenameMode, SetAttr};
use s3vol::meta::keys;
use s3vol::meta::records::{ContentRec, DirentRec, InodeRec};
use s3vol::settle::{Changed, NOT_AFTER, Reconciler, SettleError, changes};
use s3vol::types::{Caller, Ino, ObjectKey};
use support::s3server::{Action, Op, Rule, TestS3};
use support::volume::crowd_out;
use support::world::{Settled, World};
use support::{named, until};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(30);

/// Requests are late for no longer than until their expiry.
fn no_margin() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    // SAFETY: every test comes here before it does anything else, and waits for the first to be done.
    ONCE.call_once(|| unsafe {
        std::env::set_var(s3vol::fault::HOT_MARGIN, "0");
        std::env::set_var(s3vol::fault::GROUP_LASTS, "0");
    });
}

impl Settled {
    async fn new() -> Self {
        Settled::on(TestS3::start()).await
    }

    async fn on(server: TestS3) -> Self {
        Settled::refreshed(server, VolumeOptions::default().refresh).await
    }

    async fn refreshed(server: TestS3, refresh: Duration) -> Self {
        no_margin();
        let settle_after = Duration::ZERO;
        let options = VolumeOptions { settle_after, refresh, ..VolumeOptions::default() };
        Settled::over(World::on(server, options).await).await
    }

    /// Another host goes on with what this one made durable.
    async fn lose_host(self) -> Self {
        let _receipt = self.volume.meta.flush(PATIENCE).await.unwrap();
        self.volume.meta.engine.abandon();
        Settled::on(self.world.server).await
    }

    /// A new committed file.
    async fn file(&self, name: &str, content: &str) -> Arc<Inode> {
        let file = self.create(name).await;
        self.write(&file, content).await;
        file
    }

    async fn write(&self, file: &Arc<Inode>, content: &str) {
        self.volume.write(file, 0, content.as_bytes()).await.unwrap();
        self.volume.commit(vec![Arc::clone(file)]).await.unwrap();
    }

    async fn settle(&self) -> u64 {
        self.settler.settle_all(Deadline::after(PATIENCE)).await.unwrap()
    }

    /// How many there were for objects of the volume.
    fn requests(&self, op: Op) -> usize {
        let log = self.server.log();
        log.iter().filter(|one| one.op == op && one.key.starts_with("data/")).count()
    }

    fn object(&self, name: &str) -> Option<String> {
        let object = self.server.get(&format!("data/{name}"))?;
        Some(String::from_utf8(object.body.to_vec()).unwrap())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_loaded_while_its_publish_is_recorded_shows_the_new_base() {
    let world = Settled::new().await;
    let volume = &world.volume;
    let first = world.file("first", "content").await;
    let _second = world.file("second", "content").await;
    // The round cannot be recorded before the second object's PUT ends.
    world.server.fault(Rule::new(Op::Put, "data/second", 1, Action::Hold));
    let settling = tokio::spawn({
        let settler = Arc::clone(&world.settler);
        async move { settler.settle_all(Deadline::after(PATIENCE)).await.unwrap() }
    });
    until("the held PUT", || world.server.held() == 1).await;
    until("the first PUT", || world.object("first").is_some()).await;
    // The table and this test have it, no round.
    until("the first PUT's end", || Arc::strong_count(&first) == 2).await;
    let ino = first.ino;
    drop(first);
    let _crowd = crowd_out(volume, world.dir.path());
    assert!(volume.inodes.get(ino).is_none());
    // As `Volume::inode` does, with the round's end between its reads and its insertion.
    let ticket = volume.inodes.ticket();
    let attr: InodeRec = volume.meta.get(&keys::inode(ino)).await.unwrap().unwrap();
    let content: ContentRec = volume.meta.get(&keys::content(ino)).await.unwrap().unwrap();
    assert!(content.base.is_none() && content.publishing.is_some());
    world.server.release();
    assert_eq!(settling.await.unwrap(), 0);
    let cache = CacheFile::new(&world.dir.path().join("cache"), ino, Arc::default());
    if let Some(loaded) = volume.inodes.insert(ticket, Inode::new(ino, attr, content, cache)) {
        assert!(loaded.live().content.base.is_some(), "{:?}", loaded.live().content);
    }
    let file = volume.inode(ino).await.unwrap();
    volume.collect_dead().await.unwrap();
    assert_eq!(&volume.read(&file, 0, 100).await.unwrap()[..], b"content");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_unreadable_object_keeps_no_other_file_from_resting() {
    let world = Settled::new().await;
    let archived = world.file("archived", "archived").await;
    assert_eq!(world.settle().await, 0);
    // Its other bytes would have to be read for the next publish.
    world.write(&archived, "A").await;
    world.volume.evict_all().unwrap();
    world.server.fault(Rule::always(Some(Op::Get), "data/archived", Action::Status(403)));
    let _other = world.file("other", "content").await;
    assert!(world.settle().await >= 1);
    assert_eq!(world.object("other").as_deref(), Some("content"));
    assert_eq!(world.object("archived").as_deref(), Some("archived"));
    let status = world.settler.status();
    assert_eq!(status.unsettleable.len(), 1, "{status:?}");
    world.server.clear_faults();
    assert_eq!(world.settle().await, 0);
    assert_eq!(world.object("archived").as_deref(), Some("Archived"));
    assert!(world.settler.status().unsettleable.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_undecidable_request_keeps_no_other_file_from_resting() {
    let world = Settled::new().await;
    let _stuck = world.file("stuck", "content").await;
    world.server.fault(Rule::new(Op::Put, "data/stuck", 1, Action::DropBeforeApply));
    // Before the request expires.
    let settle = world.settler.settle_all(Deadline::after(PATIENCE / 10));
    assert!(settle.await.unwrap() >= 1);
    world.server.fault(Rule::always(Some(Op::Head), "data/stuck", Action::Status(403)));
    let asked = || world.server.log().iter().any(|one| one.op == Op::Head && one.status == 403);
    let asked = || async {
        world.settle().await;
        asked().then_some(())
    };
    support::wait_for_async("the expiry of the request", PATIENCE, asked).await;
    let _other = world.file("other", "content").await;
    // An unmount with much time does not spend it on what was tried.
    let settle = world.settler.settle_all(Deadline::after(20 * PATIENCE));
    assert!(tokio::time::timeout(PATIENCE, settle).await.expect("an end").unwrap() >= 1);
    assert_eq!(world.object("other").as_deref(), Some("content"));
    assert_eq!(world.settler.status().open_intents, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_file_in_motion_was_renamed_over_goes_though_its_directory_moves_on() {
    let world = Settled::new().await;
    let fs = Arc::clone(&world.fs);
    let root = Ino::ROOT;
    let rename = async |from, old, to, new| {
        fs.rename(Caller::ROOT, from, named(old), to, named(new), RenameMode::Replace)
            .await
            .unwrap();
    };
    let dir = fs.mkdir(Caller::ROOT, root, named("dir"), 0o755).await.unwrap().ino;
    let _under = world.file("under", "under").await;
    rename(root, "under", dir, "file").await;
    let over = world.file("over", "over").await;
    assert_eq!(world.settle().await, 0);
    assert_eq!(world.object("dir/file").as_deref(), Some("under"));
    // It cannot be published for now: its bytes cannot be read.
    world.write(&over, "O").await;
    world.volume.evict_all().unwrap();
    world.server.fault(Rule::always(Some(Op::Get), "data/over", Action::Status(403)));
    rename(root, "over", dir, "file").await;
    assert!(world.settle().await >= 1);
    rename(root, "dir", root, "moved").await;
    world.server.clear_faults();
    assert_eq!(world.settle().await, 0);
    assert_eq!(world.object("moved/file").as_deref(), Some("Over"));
    assert_eq!(world.object("dir/file"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_store_refuses_is_in_nobodys_way_and_comes_again() {
    let world = Settled::new().await;
    let kept = world.file("kept", "content").await;
    assert_eq!(world.settle().await, 0);
    let refused = world.file("refused", "content").await;
    world.server.fault(Rule::always(Some(Op::Put), "data/refused", Action::Status(403)));
    world.server.fault(Rule::always(Some(Op::Delete), "data/kept", Action::Status(403)));
    let fs = Arc::clone(&world.fs);
    fs.unlink(Caller::ROOT, Ino::ROOT, named("kept")).await.unwrap();
    drop(kept);
    let _other = world.file("other", "content").await;
    // Nothing waits for requests that may still arrive, because there are none.
    let began = boottime();
    assert_eq!(world.settle().await, 2);
    assert!(boottime() - began < NOT_AFTER / 2, "{:?}", boottime() - began);
    assert_eq!(world.object("other").as_deref(), Some("content"));
    let status = world.settler.status();
    assert_eq!((status.open_intents, status.unsettleable.len()), (0, 1), "{status:?}");
    let refusals = || {
        world
            .server
            .log()
            .iter()
            .filter(|one| one.status == 403 && one.key.starts_with("data/"))
            .count()
    };
    assert!(refusals() <= 4, "{}", refusals());
    // It is left alone for a while, however often it changes, unless the volume is given up.
    let before = refusals();
    world.write(&refused, "changed").await;
    let stop = CancellationToken::new();
    let running = tokio::spawn(Arc::clone(&world.settler).run(stop.clone()));
    let _third = world.file("third", "content").await;
    until("another file", || world.object("third").is_some()).await;
    stop.cancel();
    running.await.unwrap();
    assert_eq!(refusals(), before);
    world.server.clear_faults();
    let began = boottime();
    assert_eq!(world.settle().await, 0);
    assert!(boottime() - began < NOT_AFTER / 2, "{:?}", boottime() - began);
    assert_eq!(world.object("refused").as_deref(), Some("changed"));
    assert_eq!(world.object("kept"), None);
    assert!(world.settler.status().unsettleable.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_proxy_refuses_may_have_been_applied() {
    let world = Settled::new().await;
    let file = world.file("file", "content").await;
    world.server.fault(Rule::new(Op::Put, "data/file", 1, Action::ApplyThenProxy(403)));
    // Before the request expires, and the store itself would refuse every other one.
    world.settler.settle_now(Deadline::after(PATIENCE / 10)).await.unwrap();
    world.server.fault(Rule::always(Some(Op::Put), "data/file", Action::Status(403)));
    world.write(&file, "changed").await;
    assert!(world.settler.settle_now(Deadline::after(PATIENCE / 10)).await.unwrap() >= 1);
    let puts = || {
        let log = world.server.log();
        log.iter().filter(|one| one.op == Op::Put && one.key == "data/file").count()
    };
    assert_eq!((puts(), world.settler.status().open_intents), (1, 1));
    world.server.clear_faults();
    // Once it can no longer arrive its object is found to be ours.
    let settled = || async { (world.settle().await == 0).then_some(()) };
    support::wait_for_async("the expiry of the request", PATIENCE, settled).await;
    assert_eq!((puts(), world.object("file").as_deref()), (2, Some("changed")));
    assert_eq!(world.settler.status().conflicts, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publish_that_ends_after_its_file_was_emptied_is_no_more_under_way() {
    let world = Settled::new().await;
    let file = world.file("file", "content").await;
    assert_eq!(world.settle().await, 0);
    world.write(&file, "changed").await;
    world.server.fault(Rule::new(Op::Put, "data/file", 1, Action::Hold));
    let settling = tokio::spawn({
        let settler = Arc::clone(&world.settler);
        async move { settler.settle_all(Deadline::after(PATIENCE)).await.unwrap() }
    });
    until("the held PUT", || world.server.held() == 1).await;
    world.volume.set_size(&file, 0).await.unwrap();
    world.write(&file, "new").await;
    // It is the last publish of this process.
    let rest = world.settler.rest(Deadline::after(PATIENCE));
    let released = async { world.server.release() };
    tokio::join!(rest, released);
    settling.await.unwrap();
    assert_eq!(world.object("file").as_deref(), Some("changed"));
    assert_eq!(world.settler.status().open_intents, 0);
    let content: ContentRec =
        world.volume.meta.get(&keys::content(file.ino)).await.unwrap().unwrap();
    assert_eq!((content.publishing, &content), (None, &file.live().content));
    let world = world.lose_host().await;
    assert_eq!(world.settle().await, 0);
    assert_eq!(world.object("file").as_deref(), Some("new"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_needs_the_right_to_read_tags_costs_no_wait() {
    let world = Settled::new().await;
    let file = world.file("file", "content").await;
    assert_eq!(world.settle().await, 0);
    // As AWS does: who may not read tags may not copy them either.
    world.server.deny("s3:GetObjectTagging");
    let fs = Arc::clone(&world.fs);
    let [from, to] = ["file", "renamed"].map(named);
    let mode = RenameMode::Replace;
    fs.rename(Caller::ROOT, Ino::ROOT, from, Ino::ROOT, to, mode).await.unwrap();
    drop(file);
    let began = boottime();
    assert_eq!(world.settle().await, 0);
    assert!(boottime() - began < NOT_AFTER / 2, "{:?}", boottime() - began);
    assert_eq!(world.object("renamed").as_deref(), Some("content"));
}

async fn names_in(world: &Settled, dir: Ino) -> usize {
    world.volume.meta.scan(keys::dirents_after(dir, 0), 100_000).await.unwrap().len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publish_that_something_in_between_sent_twice_is_no_change_of_somebody_else() {
    let world = Settled::new().await;
    let _reconciler = world.reconciler();
    let file = world.file("file", "first").await;
    // The first request is applied, and the store refuses the second, whose answer is all that comes back.
    world.server.fault(Rule::new(Op::Put, "data/file", 2, Action::ApplyThenStatus(412)));
    for content in ["first", "second"] {
        world.write(&file, content).await;
        assert_eq!(world.settle().await, 0);
        assert_eq!(world.object("file").as_deref(), Some(content));
        assert_eq!(names_in(&world, Ino::ROOT).await, 1, "nothing is in conflict");
    }
    assert_eq!(world.server.faults_left(), 0);
    // Somebody else's object is still told from ours.
    world.write(&file, "third").await;
    world.server.put_foreign("data/file", "theirs", &[]);
    assert_eq!(world.settle().await, 0);
    assert_eq!(world.object("file").as_deref(), Some("theirs"));
    assert_eq!(names_in(&world, Ino::ROOT).await, 2, "ours stands beside");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_publish_whose_key_cannot_be_looked_at_is_decided_later() {
    let world = Settled::new().await;
    let _reconciler = world.reconciler();
    world.file("file", "content").await;
    world.server.fault(Rule::new(Op::Put, "data/file", 1, Action::ApplyThenStatus(412)));
    world.server.fault(Rule::new(Op::Head, "data/file", 1, Action::Status(403)));
    world.settler.settle_all(Deadline::after(Duration::from_millis(500))).await.unwrap();
    assert_eq!(world.server.faults_left(), 0);
    assert_eq!(names_in(&world, Ino::ROOT).await, 1);
    let open = world.volume.meta.scan(keys::below(keys::INTENT, &[]), 10).await.unwrap();
    assert_eq!(open.len(), 1, "its outcome is open");
}

/// Mode and time of modification, as the volume has them and as an object tells them.
fn told(attr: &InodeRec) -> (String, String) {
    let (secs, nanos) = (attr.mtime.secs, attr.mtime.nanos);
    let time = if nanos == 0 { secs.to_string() } else { format!("{secs}.{nanos:09}") };
    ((attr.kind.mode_bits() | attr.perm).to_string(), time)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_show_the_attributes_that_outlived_the_bytes_of_a_lost_host() {
    let ways = ["linked", "unlinked", "moved", "set-id", "set-id-late", "read"];
    let world = Settled::new().await;
    let root = Caller::ROOT;
    let fs = Arc::clone(&world.fs);
    let written = async |ino, bytes: &'static [u8]| {
        fs.write(ino, FileHandle(0), 0, bytes.into(), true).await.map(drop).unwrap();
    };
    for way in ways {
        let file = world.file(way, "content").await;
        if way.starts_with("set-id") {
            let mode = SetAttr { mode: Some(0o4755), ..SetAttr::default() };
            fs.setattr(root, file.ino, mode).await.unwrap();
        }
        if way == "unlinked" {
            let second = named("unlinked-too");
            fs.link(root, file.ino, Ino::ROOT, second).await.unwrap();
        }
    }
    assert_eq!(world.settle().await, 0);
    for way in ways {
        let name = || named(way);
        let ino = fs.lookup(Ino::ROOT, name()).await.unwrap().ino;
        let file = world.volume.inode(ino).await.unwrap();
        match way {
            "read" => {
                // A commit of nothing but the time of access is on its way when somebody writes.
                fs.read(ino, FileHandle(0), 0, 10).await.unwrap();
                let held = world.volume.begin().await.unwrap();
                let committing = tokio::spawn({
                    let (volume, file) = (Arc::clone(&world.volume), Arc::clone(&file));
                    async move { volume.commit(vec![file]).await }
                });
                until("the snapshot", || !file.live().attr_dirty).await;
                world.volume.write(&file, 0, b"lost").await.unwrap();
                drop(held);
                committing.await.unwrap().unwrap();
            }
            "set-id" => written(ino, b"lost").await,
            // The bytes are committed and published before the bits go.
            "set-id-late" => written(ino, b"").await,
            _ => world.volume.write(&file, 0, b"lost").await.unwrap(),
        }
        let next = named(&format!("{way}-too"));
        match way {
            "unlinked" => fs.unlink(root, Ino::ROOT, next).await.unwrap(),
            "linked" => drop(fs.link(root, ino, Ino::ROOT, next).await.unwrap()),
            "moved" => {
                let mode = RenameMode::Replace;
                fs.rename(root, Ino::ROOT, name(), Ino::ROOT, next, mode).await.unwrap();
            }
            _ => {}
        }
    }
    let world = world.lose_host().await;
    assert_eq!(world.settle().await, 0);
    let objects = world.server.objects("data/");
    assert_eq!(objects.len(), ways.len() + 1);
    let mut wrong = Vec::new();
    for (key, object) in objects {
        let name = named(key.strip_prefix("data/").unwrap());
        let ino = world.fs.lookup(Ino::ROOT, name).await.unwrap().ino;
        let file = world.volume.inode(ino).await.unwrap();
        let tells = |name: &str| object.metadata[name].clone();
        let (tells, wanted) = ((tells("mode"), tells("mtime")), told(&file.live().attr));
        if tells != wanted {
            wrong.push(format!("{key}: {tells:?}, wanted {wanted:?}"));
        }
        assert_eq!(&object.body[..], b"content", "{key}");
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A round that has announced something and cannot make that durable, when the volume is given up.
async fn ends_announced(remove: bool) {
    let world = Settled::new().await;
    world.file("gone", "object").await;
    assert_eq!(world.settle().await, 0);
    if remove {
        let name = named("gone");
        world.fs.unlink(Caller::ROOT, Ino::ROOT, name).await.unwrap();
    } else {
        world.file("file", "content").await;
    }
    let _receipt = world.volume.meta.flush(PATIENCE).await.unwrap();
    world.server.fault(Rule::always(Some(Op::Put), "/wal/", Action::Hold));
    let settling = tokio::spawn({
        let settler = Arc::clone(&world.settler);
        async move { settler.settle_all(Deadline::after(PATIENCE)).await }
    });
    until("the announcement", || world.settler.status().open_intents == 1).await;
    let began = boottime();
    world.settler.rest(Deadline::after(PATIENCE)).await;
    assert!(boottime() - began < PATIENCE / 3);
    assert_eq!(world.settler.status().open_intents, 0);
    settling.await.unwrap().unwrap();
    world.server.clear_faults();
    world.server.release();
    let world = world.lose_host().await;
    assert_eq!(world.settler.status().open_intents, 0);
    assert_eq!(world.settler.settle_now(Deadline::after(PATIENCE)).await.unwrap(), 0);
    assert_eq!(world.object("file").is_some(), !remove);
    assert_eq!(world.object("gone").is_none(), remove);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publish_that_was_announced_and_not_sent_before_the_end_waits_for_nothing() {
    ends_announced(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_that_was_announced_and_not_sent_before_the_end_waits_for_nothing() {
    ends_announced(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_round_that_ends_too_early_only_what_is_on_its_way_stays_open() {
    // As many are sent at a time.
    const SENT: u64 = 32;
    let world = Settled::new().await;
    for number in 0..40 {
        world.file(&format!("f{number}"), "content").await;
    }
    world.server.fault(Rule::always(Some(Op::Put), "data/f", Action::Hold).after(5));
    let settling = tokio::spawn({
        let settler = Arc::clone(&world.settler);
        async move { settler.settle_all(Deadline::after(PATIENCE)).await }
    });
    until("the held PUTs", || world.server.held() == SENT).await;
    world.settler.rest(Deadline::after(Duration::from_millis(100))).await;
    assert_eq!(world.settler.status().open_intents, SENT);
    settling.await.unwrap().unwrap();
    world.server.clear_faults();
    let world = world.lose_host().await;
    assert_eq!(world.settler.status().open_intents, SENT);
    let left = world.settler.settle_now(Deadline::after(PATIENCE)).await.unwrap();
    assert_eq!(left, SENT, "what was applied and what was not sent is at rest");
    assert_eq!(world.server.keys("data/f").len() as u64, 40 - SENT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_local_disk_changes_of_committed_bytes_is_in_no_object() {
    let world = Settled::new().await;
    // In the record itself, and in a segment.
    for (name, len) in [("small", 1000), ("large", 3 << 20)] {
        let content = "0123456789".repeat(len / 10);
        let file = world.file(name, &content).await;
        let cached = CacheFile::path_in(&world.dir.path().join("cache"), file.ino);
        let cached = std::fs::File::options().write(true).open(cached).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&cached, b"rot", len as u64 / 2).unwrap();
        assert_eq!(world.settle().await, 0);
        assert!(world.object(name).as_deref() == Some(&content), "{name}");
    }
}
