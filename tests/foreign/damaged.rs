//! Volumes whose state somebody edited who may write to the bucket. Such a volume may lose what it holds; the
//! process that serves it goes on, and touches nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use s3vol::clock::Deadline;
use s3vol::config::VolumeOptions;
use s3vol::data::{NothingOutside, Volume};
use s3vol::fs::{Fallocate, FileHandle, Fs, RenameMode, SetAttr, Show, XattrMode};
use s3vol::meta::records::{
    ContentRec, DeadRec, DirentRec, ExtentRec, InodeRec, IntentRec, RestRec, Row, SegmentRec,
    SuperRec, TombRec, WorkRec, decode, encode,
};
use s3vol::meta::{Logged, Pages, keys};
use s3vol::settle::Settler;
use s3vol::types::{Caller, FileName, Ino};
use serde::Serialize;
use serde_json::Value;

use crate::random::Random;
use crate::support::named;
use crate::support::s3server::TestS3;
use crate::support::volume::{Always, try_volume};

const LONG: Duration = Duration::from_secs(20);
const ROOT: Ino = Ino::ROOT;
/// Of the segments of one volume: neighbours are read with one request, and blocks have an index.
const LARGE: usize = 300 << 10;

pub type Pair = (Vec<u8>, Vec<u8>);

/// Panics of any thread of this program, but for those of threads of `state`, which are counted there.
static PANICS: AtomicUsize = AtomicUsize::new(0);

pub fn count_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let thread = std::thread::current();
            match thread.name().is_some_and(|name| name.starts_with("state")) {
                true => crate::state::PANICS.fetch_add(1, Ordering::SeqCst),
                false => PANICS.fetch_add(1, Ordering::SeqCst),
            };
            usual(info);
        }));
        // SAFETY: every test comes here before it does anything else, and waits for the first to be done.
        unsafe { std::env::set_var(s3vol::fault::HOT_MARGIN, "0") };
    });
}

type Opened = (Arc<Volume>, Fs, Arc<Settler>);

async fn opened(server: &TestS3, dir: &std::path::Path) -> Option<Opened> {
    std::fs::create_dir(dir).unwrap();
    let options = VolumeOptions { settle_after: Duration::ZERO, ..VolumeOptions::default() };
    let volume = try_volume(server, dir, options).await.ok()?;
    let fs = Fs::new(Arc::clone(&volume), Arc::new(NothingOutside));
    let settler = Settler::open(Arc::clone(&volume), Arc::new(Always), "test".into()).await;
    Some((volume, fs, settler.ok()?))
}

/// One of everything: at rest and in motion, inline and in segments, linked, renamed, removed while open.
async fn everything(volume: &Arc<Volume>, fs: &Fs, settler: &Arc<Settler>) {
    let caller = Caller::ROOT;
    let file = async |parent, name: &str, content: &[u8]| {
        let made = fs.mknod(caller, parent, named(name), libc::S_IFREG | 0o644, 0).await.unwrap();
        let inode = volume.inode(made.ino).await.unwrap();
        volume.write(&inode, 0, content).await.unwrap();
        volume.commit(vec![Arc::clone(&inode)]).await.unwrap();
        inode
    };
    let dir = fs.mkdir(caller, ROOT, named("dir"), 0o755).await.unwrap().ino;
    let rests = file(ROOT, "rests", b"at rest").await;
    let moved = file(dir, "moved", b"moves on").await;
    fs.link(caller, rests.ino, dir, named("link")).await.unwrap();
    fs.symlink(caller, ROOT, named("symlink"), Bytes::from_static(b"dir/link")).await.unwrap();
    fs.mknod(caller, ROOT, named("fifo"), libc::S_IFIFO | 0o644, 0).await.unwrap();
    let value = Bytes::from_static(b"value");
    let name = Bytes::from_static(b"user.name");
    fs.setxattr(caller, moved.ino, name, value, XattrMode::Any).await.unwrap();
    assert_eq!(settler.settle_all(Deadline::after(LONG)).await.unwrap(), 0);
    volume.write(&rests, 3, b"in motion").await.unwrap();
    volume.commit(vec![rests]).await.unwrap();
    let mode = RenameMode::Replace;
    fs.rename(caller, dir, named("moved"), ROOT, named("renamed"), mode).await.unwrap();
    let large = file(ROOT, "large", &vec![7; LARGE]).await;
    for hole in 0..4 {
        volume.write(&large, hole * 70_000, b"another piece").await.unwrap();
        volume.commit(vec![Arc::clone(&large)]).await.unwrap();
    }
    file(ROOT, "gone", &vec![8; LARGE]).await;
    fs.unlink(caller, ROOT, named("gone")).await.unwrap();
    let open = fs.create(caller, ROOT, named("open"), 0o600, libc::O_RDWR).await.unwrap();
    fs.write(open.0.ino, open.1.fh, 0, Bytes::from_static(b"open"), false).await.unwrap();
    fs.unlink(caller, ROOT, named("open")).await.unwrap();
    drop(volume.meta.flush(LONG).await.unwrap());
}

async fn rows(volume: &Volume) -> Vec<Pair> {
    let mut all = Vec::new();
    for prefix in keys::SUPER..=keys::TOMB {
        let mut pages = Pages::new(keys::below(prefix, &[]), 1000);
        while let Some(page) = pages.next(&volume.meta.engine).await.unwrap() {
            all.extend(page.into_iter().map(|(key, value)| (key.to_vec(), value.to_vec())));
        }
    }
    all
}

/// One of the record's numbers or texts is another one; `None` when it has none, or JSON cannot show it.
fn edited<T: Serialize + Row>(random: &mut Random, value: &[u8]) -> Option<Vec<u8>> {
    let mut json = serde_json::to_value(decode::<T>(value).ok()?).ok()?;
    let leaves = leaves(&mut json);
    if leaves.is_empty() {
        return None;
    }
    let at = random.below(leaves.len());
    let leaf = leaves.into_iter().nth(at)?;
    *leaf = match leaf {
        Value::Number(_) if random.below(8) == 0 => (i64::MIN).into(),
        Value::Number(_) => random.extreme().into(),
        Value::String(_) => {
            let texts =
                ["", "/", "..", "../../etc/passwd", ".s3vol/volumes/x", "data/dir/", "a\0b"];
            (*random.pick(&texts)).into()
        }
        Value::Bool(is) => (!*is).into(),
        _ => Value::Null,
    };
    Some(encode(&serde_json::from_value::<T>(json).ok()?))
}

pub fn leaves(json: &mut Value) -> Vec<&mut Value> {
    match json {
        Value::Array(items) => items.iter_mut().flat_map(leaves).collect(),
        Value::Object(fields) => fields.values_mut().flat_map(leaves).collect(),
        leaf => vec![leaf],
    }
}

fn edited_row(random: &mut Random, (key, value): &Pair) -> Option<Vec<u8>> {
    match *key.first()? {
        keys::SUPER => edited::<SuperRec>(random, value),
        keys::INODE => edited::<InodeRec>(random, value),
        keys::CONTENT => edited::<ContentRec>(random, value),
        keys::DIRENT => edited::<DirentRec>(random, value),
        keys::EXTENT => edited::<ExtentRec>(random, value),
        keys::REST => edited::<RestRec>(random, value),
        keys::WORK => edited::<WorkRec>(random, value),
        keys::INTENT => edited::<IntentRec>(random, value),
        keys::DEAD => edited::<DeadRec>(random, value),
        keys::SEGMENT => edited::<SegmentRec>(random, value),
        keys::TOMB => edited::<TombRec>(random, value),
        _ => None,
    }
}

/// What becomes of a row: `None` as a value removes it.
pub fn damage(random: &mut Random, rows: &[Pair]) -> (Vec<u8>, Option<Vec<u8>>) {
    // Each table as often as any other, however many rows it has.
    let tables: std::collections::BTreeSet<u8> = rows.iter().map(|(key, _)| key[0]).collect();
    let table = *random.pick(&tables.into_iter().collect::<Vec<_>>());
    let of_table: Vec<&Pair> = rows.iter().filter(|(key, _)| key[0] == table).collect();
    let row = *random.pick(&of_table);
    let (key, value) = row.clone();
    match random.below(8) {
        0 if table != keys::SUPER => (key, None),
        1 if table != keys::SUPER => (key, Some(random.damaged(&value))),
        2 => {
            let mut key = key;
            let at = random.below(key.len());
            let at = at.max(1).min(key.len() - 1);
            key[at] ^= 1 << random.below(8);
            (key, Some(value))
        }
        3 if table != keys::SUPER => (key, Some(random.pick(&of_table).1.clone())),
        4 => ([&key[..], &random.bytes(9)].concat(), Some(value)),
        _ => match edited_row(random, row) {
            Some(value) => (key, Some(value)),
            None => (key, Some(value)),
        },
    }
}

/// Asks for everything that a program can ask for. Errors are fine.
async fn exercise(volume: &Arc<Volume>, fs: &Fs, settler: &Arc<Settler>) {
    let caller = Caller::ROOT;
    let none = FileHandle(1);
    let mut dirs = vec![ROOT];
    let mut seen = std::collections::BTreeSet::new();
    let mut names = Vec::new();
    while let Some(dir) = dirs.pop() {
        if !seen.insert(dir) {
            continue;
        }
        for entry in fs.readdir(dir, none, 0, 100, Show::Attributes).await.unwrap_or_default() {
            let Ok(name) = FileName::new(entry.name.as_slice()) else { continue };
            if !entry.is_dot() {
                dirs.push(entry.ino);
                names.push((dir, name));
            }
        }
    }
    for known in ["rests", "renamed", "large", "symlink", "fifo", "dir"] {
        names.push((ROOT, named(known)));
    }
    for (dir, name) in &names {
        let Ok(attr) = fs.lookup(*dir, name.clone()).await else { continue };
        let ino = attr.ino;
        drop(fs.getattr(ino).await);
        drop(fs.readlink(ino).await);
        drop(fs.listxattr(ino).await);
        drop(fs.getxattr(ino, Bytes::from_static(b"user.name")).await);
        for offset in [0, 69_999, attr.size.saturating_sub(10), 1 << 40, i64::MAX as u64 - 4096] {
            drop(fs.read(ino, none, offset, 4096).await);
            drop(fs.lseek(ino, none, offset, true).await);
            drop(fs.lseek(ino, none, offset, false).await);
        }
        drop(fs.read(ino, none, 0, 1 << 20).await);
        drop(fs.write(ino, none, 5, Bytes::from_static(b"more"), true).await);
        drop(fs.fallocate(ino, none, Fallocate::PunchHole, 2, 100).await);
        drop(fs.fsync(ino, false).await);
        let shorter =
            SetAttr { size: Some(attr.size / 2), mode: Some(0o600), ..SetAttr::default() };
        drop(fs.setattr(caller, ino, shorter).await);
        drop(fs.copy_range(ino, 0, ino, none, 1 << 20, 10).await);
    }
    drop(fs.statfs().await);
    drop(settler.settle_all(Deadline::after(Duration::from_millis(300))).await);
    for (dir, name) in &names {
        let to = named("to");
        drop(fs.rename(caller, *dir, name.clone(), ROOT, to, RenameMode::Replace).await);
        drop(fs.unlink(caller, *dir, name.clone()).await);
        drop(fs.rmdir(caller, *dir, name.clone()).await);
    }
    drop(fs.mkdir(caller, ROOT, named("new"), 0o755).await);
    for _ in 0..20 {
        if !matches!(volume.collect_dead().await, Ok(true)) {
            break;
        }
    }
    drop(volume.collect_segments(LONG).await);
    drop(volume.meta.flush(LONG).await);
    drop(settler.settle_all(Deadline::after(Duration::from_millis(300))).await);
}

/// One volume, some of its rows damaged, then used.
async fn story(seed: u64) {
    let mut random = Random(seed);
    let server = Arc::new(TestS3::start());
    server.put_foreign("elsewhere/object", "somebody else's", &[]);
    let dir = tempfile::tempdir().unwrap();
    let first = opened(&server, &dir.path().join("first")).await;
    let (volume, fs, settler) = first.expect("a whole volume");
    everything(&volume, &fs, &settler).await;
    let rows = rows(&volume).await;
    let mut txn = volume.meta.begin().await.unwrap();
    let mut edits = Vec::new();
    for _ in 0..1 + random.below(3) {
        let (key, value) = damage(&mut random, &rows);
        edits.push((key.clone(), value.clone()));
        match value {
            Some(value) => txn.put_raw(key, value),
            None => txn.delete(key),
        }
    }
    txn.commit(Logged::Op { unique: 0 }, || {}).await.unwrap();
    drop(volume.meta.flush(LONG).await.unwrap());
    volume.meta.engine.abandon();
    drop((volume, fs, settler));
    let before = PANICS.load(Ordering::SeqCst);
    let work = tokio::spawn({
        let (server, dir) = (Arc::clone(&server), dir.path().join("second"));
        async move {
            // Some damage keeps a volume from being opened at all.
            let Some((volume, fs, settler)) = opened(&server, &dir).await else { return };
            exercise(&volume, &fs, &settler).await;
            volume.meta.engine.abandon();
        }
    });
    let ended = tokio::time::timeout(3 * LONG, work).await;
    let say = format!("seed {seed}: {edits:02x?}");
    ended.unwrap_or_else(|_| panic!("hangs, {say}")).unwrap_or_else(|e| panic!("{e}, {say}"));
    assert_eq!(PANICS.load(Ordering::SeqCst), before, "a panic, {say}");
    let kept = server.get("elsewhere/object").map(|object| object.body);
    assert_eq!(kept.as_deref(), Some(&b"somebody else's"[..]), "{say}");
}

fn run(seeds: std::ops::Range<u64>) {
    count_panics();
    let all = seeds.end - seeds.start;
    let failed: Vec<u64> = seeds
        .filter(|seed| {
            let mut runtime = tokio::runtime::Builder::new_multi_thread();
            let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
            let story = std::panic::AssertUnwindSafe(|| runtime.block_on(story(*seed)));
            let failed = std::panic::catch_unwind(story).is_err();
            // What hangs is not waited for.
            runtime.shutdown_background();
            failed
        })
        .collect();
    assert!(failed.is_empty(), "{} of {all} failed: {failed:?}", failed.len());
}

#[test]
fn a_volume_whose_records_somebody_edited_harms_only_itself() {
    run(0..40);
}

/// `S3VOL_TEST_SEED=N` runs that one.
#[test]
#[ignore = "soak: thousands of edits"]
fn soak_edited_records() {
    let one = std::env::var("S3VOL_TEST_SEED").ok().map(|text| text.parse().expect("a number"));
    run(one.map_or(40..2_000, |seed: u64| seed..seed + 1));
}
