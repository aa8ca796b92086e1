//! Objects that the store puts together from what lies in the bucket already.

use bytes::Bytes;
use s3vol::data::Much;
use s3vol::meta::records::RestRec;

use super::copies::settles;
use super::*;

const MIB: usize = 1 << 20;
/// Of a part of an object, and of a segment.
const BLOCK: usize = 16 * MIB;

/// No two blocks of it are the same.
fn bytes(from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(|at| (at / 4099 % 251) as u8 ^ (at / BLOCK) as u8).collect()
}

fn sent(world: &Settled) -> u64 {
    world.server.log().iter().map(|one| one.bytes_in).sum()
}

/// Of objects and segments.
fn fetched(world: &Settled) -> u64 {
    let log = world.server.log();
    let of_content = |key: &str| key.starts_with("data/") || key.contains("/segments/");
    let got = log.iter().filter(|one| one.op == Op::Get && of_content(&one.key));
    got.map(|one| one.bytes_out).sum()
}

/// Writes as programs do, and has it in the bucket.
async fn store(world: &Settled, file: &Arc<Inode>, from: usize, bytes: &[u8]) {
    for (number, piece) in bytes.chunks(128 << 10).enumerate() {
        let at = from + number * (128 << 10);
        world.volume.write(file, at as u64, piece).await.unwrap();
    }
    sync(world, file).await;
}

async fn sync(world: &Settled, file: &Arc<Inode>) {
    world.volume.commit(vec![Arc::clone(file)]).await.unwrap();
    let _receipt = world.volume.meta.flush(PATIENCE).await.unwrap();
}

/// Hashing so much takes its time on a busy machine.
async fn rest(world: &Settled) {
    let deadline = Deadline::after(10 * PATIENCE);
    assert_eq!(world.settler.settle_all(deadline).await.unwrap(), 0);
}

fn body(world: &Settled, name: &str) -> Bytes {
    world.server.get(&format!("data/{name}")).unwrap().body
}

/// The ETag of what was sent in parts of a block.
fn etag_of_parts(bytes: &[u8]) -> String {
    use md5::{Digest, Md5};
    let digests: Vec<u8> = bytes.chunks(BLOCK).flat_map(Md5::digest).collect();
    let digest = Md5::digest(&digests);
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{hex}-{}", bytes.len().div_ceil(BLOCK))
}

/// A file of so many bytes, in the bucket and not at rest.
async fn stored(world: &Settled, len: usize) -> (Arc<Inode>, Vec<u8>) {
    let file = world.file("large", "").await;
    let content = bytes(0, len);
    store(world, &file, 0, &content).await;
    (file, content)
}

fn segments(world: &Settled) -> Vec<String> {
    let keys = world.server.keys(".s3vol/");
    keys.into_iter().filter(|key| key.contains("/segments/")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_file_is_sent_once() {
    let world = Settled::new().await;
    world.server.clear_log();
    let (file, content) = stored(&world, 64 * MIB).await;
    rest(&world).await;
    let sent = sent(&world);
    assert!(sent as f64 <= 1.08 * content.len() as f64, "{sent} bytes");
    let requests = (world.requests(Op::UploadPartCopy), world.requests(Op::UploadPart));
    assert_eq!((requests, fetched(&world)), ((4, 0), 0));
    assert!(body(&world, "large") == content);
    let object = world.server.get("data/large").unwrap();
    assert_eq!(object.etag, etag_of_parts(&content));
    let rest: Option<RestRec> =
        world.volume.meta.get(&keys::rest(&ObjectKey::new("data/large"))).await.unwrap();
    let version = rest.unwrap().version;
    assert_eq!((version.etag, version.size), (object.etag, content.len() as u64));
    let ino = file.ino;
    let world = world.lose_host().await;
    let file = world.volume.inode(ino).await.unwrap();
    assert!(world.volume.read(&file, 0, content.len()).await.unwrap() == content);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_begins_in_the_middle_of_a_part_is_stored_in_whole_ones_from_the_next_on() {
    // Of the first of four parts some lies in another segment.
    for (before, copied, again) in [(5 * MIB + 5, 3, 1), (3 * MIB + 5, 3, 1)] {
        let world = Settled::new().await;
        let (file, mut content) = stored(&world, before).await;
        world.server.clear_log();
        let more = bytes(content.len(), 48 * MIB);
        store(&world, &file, content.len(), &more).await;
        content.extend(more);
        rest(&world).await;
        assert!(body(&world, "large") == content);
        let sent = (world.requests(Op::UploadPartCopy), world.requests(Op::UploadPart));
        assert_eq!(sent, (copied, again));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_appended_is_all_that_is_sent() {
    let world = Settled::new().await;
    let (file, mut content) = stored(&world, 32 * MIB).await;
    rest(&world).await;
    world.volume.evict_all().unwrap();
    for round in 0..2 {
        world.server.clear_log();
        let more = bytes(content.len(), MIB);
        store(&world, &file, content.len(), &more).await;
        content.extend(more);
        rest(&world).await;
        assert!(body(&world, "large") == content);
        let sent = sent(&world);
        assert!(sent < 5 * MIB as u64, "{sent} bytes");
        // The first range of an object is compared with its bytes.
        let fetched = fetched(&world);
        assert!(fetched <= if round == 0 { BLOCK + MIB } else { 2 * MIB } as u64, "{fetched}");
        assert_eq!(world.server.get("data/large").unwrap().etag, etag_of_parts(&content));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_parts_are_not_copied_they_are_sent() {
    let server = TestS3::start();
    server.fault(Rule::always(Some(Op::UploadPartCopy), "", Action::IgnoreConditions));
    let world = Settled::on(server).await;
    world.server.clear_log();
    let (_, content) = stored(&world, 40 * MIB).await;
    rest(&world).await;
    assert_eq!((world.requests(Op::UploadPartCopy), world.requests(Op::UploadPart)), (0, 3));
    assert!(body(&world, "large") == content);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_checksums_are_not_compared_the_tags_of_segments_are() {
    for action in [Action::IgnoreChecksum, Action::SayChecksum] {
        let server = TestS3::start();
        server.fault(Rule::always(Some(Op::Put), "", action.clone()));
        let world = Settled::on(server).await;
        let (_, content) = stored(&world, 40 * MIB).await;
        rest(&world).await;
        let parts = (world.requests(Op::UploadPartCopy), world.requests(Op::UploadPart));
        assert_eq!(parts, (3, 0), "{action:?}");
        assert!(body(&world, "large") == content);
    }
}

/// The store is another one than it was when it was probed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_of_which_the_store_says_nothing_is_not_copied() {
    let world = Settled::new().await;
    world.server.fault(Rule::always(Some(Op::Put), "/segments/", Action::IgnoreChecksum));
    let (_, content) = stored(&world, 40 * MIB).await;
    rest(&world).await;
    assert_eq!((world.requests(Op::UploadPartCopy), world.requests(Op::UploadPart)), (0, 3));
    assert!(body(&world, "large") == content);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_store_does_not_copy_right_is_sent() {
    for action in [
        Action::Status(403),
        Action::Status(501),
        Action::Status(503),
        Action::HiddenError,
        Action::CopyOtherBytes,
        Action::DropBeforeApply,
        Action::ApplyThenProxy(200),
    ] {
        let world = Settled::new().await;
        let (_, content) = stored(&world, 40 * MIB).await;
        world.server.fault(Rule::always(Some(Op::UploadPartCopy), "data/", action.clone()));
        rest(&world).await;
        assert_eq!(world.requests(Op::UploadPart), 3, "{action:?}");
        assert!(body(&world, "large") == content, "{action:?}");
        assert_eq!(world.server.get("data/large").unwrap().etag, etag_of_parts(&content));
        // No other file is tried with it.
        world.server.clear_log();
        let other = world.file("other", "").await;
        store(&world, &other, 0, &content).await;
        rest(&world).await;
        assert_eq!((world.requests(Op::UploadPartCopy), world.requests(Op::UploadPart)), (0, 3));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_that_is_copied_wrong_is_sent() {
    let world = Settled::new().await;
    let (file, mut content) = stored(&world, 48 * MIB).await;
    rest(&world).await;
    world.server.fault(Rule::always(Some(Op::UploadPartCopy), "data/", Action::CopyOtherBytes));
    let more = bytes(content.len(), MIB);
    store(&world, &file, content.len(), &more).await;
    content.extend(more);
    rest(&world).await;
    assert!(body(&world, "large") == content);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_whose_answer_is_lost_is_copied_again() {
    let world = Settled::new().await;
    let (_, content) = stored(&world, 40 * MIB).await;
    let lost = Rule::new(Op::UploadPartCopy, "data/", 1, Action::ApplyThenDropReply);
    world.server.fault(lost);
    rest(&world).await;
    assert_eq!((world.requests(Op::UploadPartCopy), world.requests(Op::UploadPart)), (4, 0));
    assert!(body(&world, "large") == content);
    assert_eq!(world.server.uploads(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_that_is_gone_or_another_is_not_copied() {
    for gone in [true, false] {
        let world = Settled::new().await;
        let (_, content) = stored(&world, 40 * MIB).await;
        for key in segments(&world) {
            match gone {
                true => assert!(world.server.delete_foreign(&key)),
                false => world.server.put_foreign(&key, vec![7; BLOCK], &[]),
            }
        }
        // Its bytes are still in the cache.
        rest(&world).await;
        assert_eq!(world.requests(Op::UploadPart), 3);
        assert!(body(&world, "large") == content);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_put_over_an_object_that_grows_stays() {
    let world = Settled::new().await;
    let _reconciler = world.reconciler();
    let (file, mut content) = stored(&world, 32 * MIB).await;
    rest(&world).await;
    let more = bytes(content.len(), MIB);
    store(&world, &file, content.len(), &more).await;
    content.extend(more);
    world.server.fault(Rule::new(Op::UploadPartCopy, "data/large", 1, Action::Hold));
    let settling = settles(&world);
    until("the copy", || world.server.held() == 1).await;
    world.server.put_foreign("data/large", "theirs", &[]);
    world.server.release();
    settling.await.unwrap();
    rest(&world).await;
    assert_eq!(&body(&world, "large")[..], b"theirs");
    // Ours stands beside it, of bytes that only the cache has by now.
    let keys = world.server.keys("data/");
    let beside = keys.iter().find(|key| *key != "data/large").expect("ours");
    assert!(world.server.get(beside).unwrap().body == content, "{keys:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_while_parts_are_copied_is_not_lost() {
    let world = Settled::new().await;
    let (file, mut content) = stored(&world, 40 * MIB).await;
    world.server.fault(Rule::new(Op::UploadPartCopy, "data/large", 1, Action::Hold));
    let settling = settles(&world);
    until("the copy", || world.server.held() == 1).await;
    let new = [1, 2, 3];
    content[20 * MIB..20 * MIB + 3].copy_from_slice(&new);
    store(&world, &file, 20 * MIB, &new).await;
    world.server.release();
    settling.await.unwrap();
    rest(&world).await;
    assert!(body(&world, "large") == content);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_host_ends_what_one_that_died_began() {
    let world = Settled::new().await;
    let (_, content) = stored(&world, 40 * MIB).await;
    world.server.fault(Rule::new(Op::UploadPartCopy, "data/large", 1, Action::Hold));
    let settler = Arc::clone(&world.settler);
    let dies = tokio::spawn(async move { settler.settle_all(Deadline::after(PATIENCE)).await });
    until("the copy", || world.server.held() == 1).await;
    dies.abort();
    let world = world.lose_host().await;
    rest(&world).await;
    assert!(body(&world, "large") == content);
    // It comes late, to an upload that nobody completes.
    world.server.release();
    until("the late copy", || world.server.held() == 0).await;
    assert!(body(&world, "large") == content);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_streamed_is_sent_once_as_soon_as_blocks_end_with_what_is_written() {
    streamed(MIB, 3).await;
    // In such pieces no block ends with one: they wait for the timer, or until they are many.
    streamed(100_001, 0).await;
}

/// A file that is written in such pieces, of which at least so many commits go up before its end.
async fn streamed(piece: usize, at_least: usize) {
    let world = Settled::new().await;
    let file = world.file("large", "").await;
    let content = bytes(0, 70 * MIB);
    let segments = tokio::sync::Semaphore::new(4);
    world.server.clear_log();
    let (mut early, mut at) = (0, 0);
    for piece in content.chunks(piece) {
        world.volume.write(&file, at, piece).await.unwrap();
        at += piece.len() as u64;
        let dirty = file.live().pending.data_bytes();
        if dirty > (BLOCK + MIB / 2) as u64 && dirty < 60 << 20 && !world.volume.gathers(&file) {
            let stream = vec![Arc::clone(&file)];
            world.volume.commit_sharing(stream, &segments, Much::Blocks).await.unwrap();
            assert!(file.live().pending.data_bytes() < 2 * MIB as u64, "it ended with a block");
            early += 1;
        }
    }
    assert!(early >= at_least && (early == 0) == (at_least == 0), "{early}");
    sync(&world, &file).await;
    rest(&world).await;
    assert!(body(&world, "large") == content);
    assert_eq!((world.requests(Op::UploadPartCopy), world.requests(Op::UploadPart)), (5, 0));
    let sent = sent(&world);
    assert!(sent as f64 <= 1.08 * content.len() as f64, "{sent} bytes");
    let ino = file.ino;
    let world = world.lose_host().await;
    let file = world.volume.inode(ino).await.unwrap();
    assert!(world.volume.read(&file, 0, content.len()).await.unwrap() == content);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_host_left_of_a_stream_is_what_was_committed() {
    let world = Settled::new().await;
    let file = world.file("large", "").await;
    let content = bytes(0, 20 * MIB);
    for (number, piece) in content.chunks(MIB).enumerate() {
        world.volume.write(&file, (number * MIB) as u64, piece).await.unwrap();
    }
    let segments = tokio::sync::Semaphore::new(4);
    let stream = vec![Arc::clone(&file)];
    world.volume.commit_sharing(stream, &segments, Much::Blocks).await.unwrap();
    assert_eq!(file.live().pending.data_bytes(), 4 * MIB as u64);
    assert!(world.volume.gathers(&file), "the rest waits for its time");
    assert!(world.volume.read(&file, 0, content.len()).await.unwrap() == content);
    let ino = file.ino;
    let world = world.lose_host().await;
    let file = world.volume.inode(ino).await.unwrap();
    assert_eq!(file.live().size, BLOCK as u64);
    assert!(world.volume.read(&file, 0, content.len()).await.unwrap() == content[..BLOCK]);
}

/// The figures of docs/PERFORMANCE.md: a file that is written from front to back, and synced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures, and takes a minute"]
async fn figures_of_a_large_file() {
    const LEN: usize = 64 * MIB;
    for composes in [false, true] {
        let server = TestS3::start();
        if !composes {
            server.fault(Rule::always(Some(Op::UploadPartCopy), "", Action::Status(501)));
        }
        let world = Settled::on(server).await;
        world.server.set_latency(Duration::from_millis(20));
        world.server.clear_log();
        let began = boottime();
        let (file, _) = stored(&world, LEN).await;
        let synced = boottime() - began;
        let steps = ["written", "with 1 MiB more"];
        for (step, more) in steps.into_iter().zip([0, MIB]) {
            let began = boottime();
            if more > 0 {
                world.server.clear_log();
                store(&world, &file, LEN, &bytes(LEN, more)).await;
            }
            rest(&world).await;
            let (rest, sent) = (boottime() - began, sent(&world));
            let counts = world.server.counts();
            println!(
                "composes: {composes}, {step}: synced {synced:?}, rest {rest:?}, {sent} bytes, {counts:?}"
            );
        }
    }
}
