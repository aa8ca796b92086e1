//! What lies beside a volume's records: the catalog, `format.json`, leases, exports, the engine's files, and what was
//! recovered. Somebody edits them who may write to the bucket; then everything is asked that a host can ask.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use s3vol::catalog::{Catalog, Stores, find_state, incarnate, trace};
use s3vol::clock::Deadline;
use s3vol::config::{PluginConfig, VolumeOptions};
use s3vol::data::Trash;
use s3vol::follow::{FollowParts, ReadFs};
use s3vol::fs::{FileHandle, Show};
use s3vol::meta::Follower;
use s3vol::store::{Known, Location, Store, StoreSettings};
use s3vol::types::{Caller, Epoch, Ino, KeyPrefix, VolumeId, VolumeName};
use s3vol::worker::{
    EnginePurge, FsckHow, Mounted, Recovered, Shelf, VolumeAt, WorkerSpec, export_volume, fsck,
    look_at_hold, take_over,
};
use serde_json::{Value, json};

use crate::damaged::{count_panics, damage, leaves};
use crate::random::Random;
use crate::support::named;
use crate::support::opened::{close, commit, credentials, opened, release};
use crate::support::s3server::{Object, TestS3};

const LONG: Duration = Duration::from_secs(20);
const FOLDER: &str = "meta/slatedb-0.18";
/// Nothing that s3vol reads at a time is longer, bytes.
const LARGEST: usize = 100 << 20;

/// Panics of the threads of these tests, one of which runs at a time.
pub static PANICS: AtomicUsize = AtomicUsize::new(0);

/// A bucket with two volumes, one of which is edited.
struct Bucket {
    server: TestS3,
    id: VolumeId,
    options: VolumeOptions,
    objects: Vec<(String, Object)>,
    /// The same as another version would have left it: its records are in the export alone.
    exported: Vec<(String, Object)>,
}

fn volume_name(name: &str) -> VolumeName {
    VolumeName::new(name).unwrap()
}

async fn catalog(server: &TestS3, dir: &Path) -> Catalog {
    let set = [
        ("S3VOL_URL", format!("s3://{}/team", server.bucket())),
        ("S3VOL_STATE", dir.display().to_string()),
        ("S3VOL_ENDPOINT", server.endpoint()),
        ("S3VOL_GRACE", "0s".to_owned()),
    ];
    let set: BTreeMap<String, String> = set.map(|(name, value)| (name.to_owned(), value)).into();
    let config = PluginConfig::parse(&set).unwrap();
    let opener = Arc::new(Stores::knowing(Known::of_host(dir)));
    Catalog::open(&config, opener, "test".to_owned()).await.unwrap()
}

fn spec(id: VolumeId, options: &VolumeOptions, dir: &Path) -> WorkerSpec {
    WorkerSpec {
        name: "vol".into(),
        id,
        options: options.clone(),
        state_dir: dir.join("volumes").join(id.to_string()),
        control_socket: dir.join("socket"),
        stores: dir.join("stores"),
        mountpoint: dir.join("mnt"),
    }
}

async fn write(mounted: &Mounted, parent: Ino, name: &str, content: &[u8]) {
    let mode = libc::S_IFREG | 0o644;
    let made = mounted.fs.mknod(Caller::ROOT, parent, named(name), mode, 0).await.unwrap();
    let inode = mounted.volume.inode(made.ino).await.unwrap();
    mounted.volume.write(&inode, 0, content).await.unwrap();
}

/// A volume with something at rest and something in motion, unmounted.
async fn filled(catalog: &Catalog, name: &str, dir: &Path) -> (VolumeId, VolumeOptions) {
    let options = [("settle_after".to_owned(), "0s".to_owned())].into();
    let made = catalog.create(&volume_name(name), &options).await.unwrap();
    let mounted = opened(&spec(made.uuid, &made.options, dir)).await.unwrap();
    let sub = mounted.fs.mkdir(Caller::ROOT, Ino::ROOT, named("dir"), 0o755).await.unwrap().ino;
    write(&mounted, sub, "file", b"at rest").await;
    commit(&mounted).await.unwrap();
    assert_eq!(mounted.settler.settle_all(Deadline::after(LONG)).await.unwrap(), 0);
    write(&mounted, sub, "large", &vec![7; 300 << 10]).await;
    write(&mounted, Ino::ROOT, "inline", b"in motion").await;
    close(mounted).await.unwrap();
    (made.uuid, made.options)
}

fn bucket() -> &'static Bucket {
    static BUCKET: OnceLock<Bucket> = OnceLock::new();
    BUCKET.get_or_init(|| {
        let server = TestS3::start();
        let dir = tempfile::tempdir().unwrap();
        server.put_foreign("elsewhere/object", "somebody else's", &[]);
        let runtime = runtime();
        let (id, options) = runtime.block_on(async {
            let catalog = catalog(&server, dir.path()).await;
            filled(&catalog, "other", dir.path()).await;
            filled(&catalog, "vol", dir.path()).await
        });
        // Makes a runtime of its own.
        export_volume(&spec(id, &options, dir.path()), |_| {}).unwrap();
        let state = format!("team/.s3vol/v/{id}/");
        let manifest = json!({
            "format": 1, "host": "h", "at": "2026-11-29T00:00:00Z",
            "files": [{
                "path": "dir/lost", "size": 10, "zeros": [{ "start": 7, "end": 9 }],
                "missing": [{ "start": 9, "end": 10 }],
                "pieces": [{
                    "start": 0, "len": 5, "object": "0", "offset": 0, "crc": crc32c::crc32c(b"bytes"),
                }],
            }],
        });
        server.put_foreign(&format!("{state}recovered/one/0"), "bytes", &[]);
        let key = format!("{state}recovered/one/recovered.json");
        server.put_foreign(&key, manifest.to_string(), &[]);
        let objects = server.objects("");
        // As another version would have left it.
        let mut format: Value = json_at(&objects, &format!("{state}format.json"));
        format["engine"] = json!({
            "format": "other-9", "folder": "meta/other-9", "after": 0, "plugin": "9.9.9",
        });
        server.put_foreign(&format!("{state}format.json"), format.to_string(), &[]);
        for (key, _) in server.objects(&format!("{state}meta/")) {
            assert!(server.delete_foreign(&key));
        }
        let exported = server.objects("");
        Bucket { server, id, options, objects, exported }
    })
}

/// One test at a time has the bucket.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn json_at(objects: &[(String, Object)], key: &str) -> Value {
    let (_, object) = objects.iter().find(|(at, _)| at == key).expect("it is there");
    serde_json::from_slice(&object.body).unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(2).thread_name("state").enable_all().build().unwrap()
}

/// One of the numbers or texts is another one, is missing, or is something large.
fn edited_json(random: &mut Random, body: &[u8]) -> Vec<u8> {
    let Ok(mut json) = serde_json::from_slice::<Value>(body) else { return random.damaged(body) };
    let texts = [
        "",
        "/",
        "..",
        "../../etc/passwd",
        "a/../../b",
        "s3://bucket/elsewhere/",
        "file:///",
        "file:///etc/",
        "s3://",
        "meta/..",
        "meta/slatedb-0.18/../../x",
        "\u{0}",
        "0",
        "-1",
        "9999999999999999999999999h",
        "other-9",
        "slatedb-0.18",
        "held",
        "released",
    ];
    let mut leaves = leaves(&mut json);
    if leaves.is_empty() {
        return random.damaged(body);
    }
    let at = random.below(leaves.len());
    *leaves.swap_remove(at) = match random.below(6) {
        0 => random.extreme().into(),
        1 => i64::MIN.into(),
        2 => Value::Null,
        3 => vec![Value::from(1); 5_000].into(),
        4 => "x".repeat(100_000).into(),
        _ => (*random.pick(&texts)).into(),
    };
    let mut text = json.to_string().into_bytes();
    if random.below(12) == 0 {
        text = [vec![b'['; 100_000], text].concat();
    }
    text
}

/// Pages with other pairs in them, whose checksums are right.
fn edited_export(random: &mut Random, objects: &mut [(String, Object)], index: &str) {
    let (_, found) = objects.iter().find(|(key, _)| key == index).expect("an index");
    let Ok(mut json) = serde_json::from_slice::<Value>(&found.body) else { return };
    let page = format!("{}000000", index.trim_end_matches("index.json"));
    let page = objects.iter_mut().find(|(key, _)| *key == page).expect("a page");
    // It may have been damaged just now.
    let pairs: Vec<(Bytes, Bytes)> = postcard::from_bytes(&page.1.body).unwrap_or_default();
    if pairs.is_empty() {
        return;
    }
    let mut rows: Vec<_> =
        pairs.iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect();
    for _ in 0..1 + random.below(3) {
        let (key, value) = damage(random, &rows);
        rows.retain(|(at, _)| *at != key);
        rows.extend(value.map(|value| (key, value)));
    }
    let body = match random.below(4) {
        0 => random.damaged(&page.1.body),
        // Says that it has more pairs than there are bytes in the world.
        1 => [vec![0xff; 9], vec![1], page.1.body.to_vec()].concat(),
        _ => postcard::to_stdvec(&rows).unwrap(),
    };
    if !json.is_object() {
        return;
    }
    json["records"] = rows.len().into();
    json["pages"] = json!([{ "bytes": body.len(), "crc32c": crc32c::crc32c(&body) }]);
    page.1.body = body.into();
    put(objects, index, json.to_string().into_bytes());
}

fn put(objects: &mut [(String, Object)], key: &str, body: Vec<u8>) {
    let (_, object) = objects.iter_mut().find(|(at, _)| at == key).expect("it is there");
    object.etag = crate::support::s3server::etag_of(&body);
    object.body = body.into();
}

/// The bucket with something edited, and what that was.
fn edited(random: &mut Random, bucket: &Bucket) -> (Vec<(String, Object)>, String) {
    let mut objects = match random.below(2) {
        0 => bucket.objects.clone(),
        _ => bucket.exported.clone(),
    };
    let state = format!("team/.s3vol/v/{}/", bucket.id);
    let below = |part: &str| {
        let keys = objects.iter().map(|(key, _)| key.clone());
        keys.filter(|key| key.starts_with(&format!("{state}{part}"))).collect::<Vec<_>>()
    };
    let entry = objects.iter().map(|(key, _)| key.clone()).find(|key| {
        key.starts_with("team/.s3vol/by-prefix/")
            && json_at(&objects, key)["url"].as_str().is_some_and(|url| url.contains("/vol"))
    });
    let stores = objects.iter().map(|(key, _)| key.clone());
    let stores: Vec<String> = stores.filter(|key| key.starts_with("team/.s3vol/stores/")).collect();
    // Each as often as any other.
    let places = [
        vec!["team/.s3vol/volumes/vol.json".to_owned()],
        vec![entry.expect("an entry")],
        vec![format!("{state}format.json")],
        below("lease/"),
        below("export/"),
        below("meta/"),
        below("recovered/"),
        stores,
    ];
    let mut said = String::new();
    for _ in 0..1 + random.below(2) {
        let keys = random.pick(&places);
        if keys.is_empty() {
            continue;
        }
        let key = random.pick(keys).clone();
        said.push_str(&format!("{key} "));
        let index = keys.iter().find(|key| key.ends_with("index.json"));
        if let Some(index) = index.filter(|_| random.below(2) == 0) {
            edited_export(random, &mut objects, &index.clone());
            continue;
        }
        let right = objects.iter().find(|(at, _)| *at == key).expect("it").1.body.clone();
        let body = match random.below(3) {
            0 => random.damaged(&right),
            _ => edited_json(random, &right),
        };
        put(&mut objects, &key, body);
    }
    (objects, said)
}

async fn all_of(mounted: &Mounted) {
    let mut dirs = vec![Ino::ROOT];
    while let Some(dir) = dirs.pop() {
        let listed = mounted.fs.readdir(dir, FileHandle(1), 0, 100, Show::Attributes).await;
        for entry in listed.unwrap_or_default().iter().filter(|entry| !entry.is_dot()) {
            drop(mounted.fs.read(entry.ino, FileHandle(1), 0, 1 << 20).await);
            if dirs.len() < 20 {
                dirs.push(entry.ino);
            }
        }
        if dirs.len() >= 20 {
            return;
        }
    }
}

async fn followed(bucket: &Bucket, dir: &Path) {
    let location = Location::parse(&bucket.options.url).unwrap();
    let store = Store::open(&location, &StoreSettings::of(&bucket.options)).unwrap();
    let state = KeyPrefix::new(&format!("team/.s3vol/v/{}/", bucket.id));
    let objects = store.engine(&state).unwrap().into_inner();
    let Ok(Some(follower)) = Follower::open(objects, FOLDER, None, Deadline::after(LONG)).await
    else {
        return;
    };
    let parts = FollowParts {
        id: bucket.id,
        follower,
        store: store.backend(),
        prefix: location.prefix,
        state_store: store.backend(),
        state,
        options: bucket.options.clone(),
        cache_dir: dir.join("follower"),
        trash: Trash::within(dir),
        inherited: false,
    };
    let Ok(fs) = ReadFs::open(parts).await else { return };
    let mut dirs = vec![Ino::ROOT];
    while let Some(dir) = dirs.pop().filter(|_| dirs.len() < 20) {
        if fs.opendir(dir).await.is_err() {
            continue;
        }
        let listed = fs.readdir(dir, 0, 100, Show::Attributes).await;
        for entry in listed.unwrap_or_default().iter().filter(|entry| !entry.is_dot()) {
            drop(fs.getattr(entry.ino).await);
            drop(fs.open_file(entry.ino, libc::O_RDONLY).await);
            for offset in [0, 299 << 10, i64::MAX as u64 - 4096] {
                drop(fs.read(entry.ino, offset, 4096).await);
            }
            drop(fs.listxattr(entry.ino).await);
            dirs.push(entry.ino);
        }
    }
    drop(fs.statfs().await);
}

/// Everything that a host asks of a volume. Errors are fine.
async fn asked(bucket: &Bucket, dir: &Path) {
    let (id, options) = (bucket.id, &bucket.options);
    let known = Known::in_folder(dir.join("stores"));
    let opener = Stores::knowing(known.clone());
    let catalog = catalog(&bucket.server, dir).await;
    drop(catalog.refresh(&|_| false).await);
    for name in ["vol", "other", "none"] {
        drop(catalog.lookup(&volume_name(name)).await);
    }
    drop(catalog.all());
    drop(catalog.create(&volume_name("vol"), &BTreeMap::new()).await);
    drop(find_state(&opener, options).await);
    drop(trace(&opener, options).await);
    drop(incarnate(&opener, options).await);
    if let Ok(shelf) = Shelf::of(id, options, &known) {
        for found in shelf.list().await.map(|listed| listed.found).unwrap_or_default() {
            drop(found.files());
            drop(shelf.restore(&found, &dir.join("restored")).await);
        }
    }
    drop(look_at_hold(id, options, &known).await);
    followed(bucket, dir).await;
    if let Ok(mounted) = opened(&spec(id, options, dir)).await {
        all_of(&mounted).await;
        drop(mounted.settler.settle_all(Deadline::after(Duration::from_secs(1))).await);
        drop(mounted.volume.meta.flush(LONG).await);
        drop(mounted.volume.meta.engine.close(Deadline::after(LONG)).await);
        drop(release(&mounted).await);
    }
    let hold = look_at_hold(id, options, &known).await;
    let epoch = hold.ok().flatten().map_or(Epoch(2), |hold| Epoch(hold.epoch));
    drop(take_over(id, options, &known, epoch).await);
    let at = VolumeAt {
        options: options.clone(),
        volumes: dir.join("checked"),
        stores: dir.join("stores"),
    };
    let mut agree = |_: &s3vol::fsck::Finding| true;
    let how = FsckHow { data: true, all: false, repair: Some(&mut agree) };
    drop(fsck(&at, how, &mut |_| {}).await);
    drop(catalog.remove(&volume_name("vol"), &EnginePurge::new()).await);
    drop(catalog.sweep(&EnginePurge::new()).await);
}

/// What nobody but its owner may change: an object of others, and all of the other volume.
fn theirs(objects: &[(String, Object)], bucket: &Bucket) -> Vec<(String, Bytes)> {
    let own = format!("team/.s3vol/v/{}/", bucket.id);
    let is_theirs = |key: &str| {
        key.starts_with("elsewhere/")
            || key.starts_with("team/other/")
            || (key.starts_with("team/.s3vol/v/") && !key.starts_with(&own))
            || key == "team/.s3vol/volumes/other.json"
    };
    let theirs = objects.iter().filter(|(key, _)| is_theirs(key));
    theirs.map(|(key, object)| (key.clone(), object.body.clone())).collect()
}

fn local(dir: &Path) -> Vec<String> {
    let listed = std::fs::read_dir(dir).unwrap();
    listed.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn story(seed: u64) {
    let _alone = alone();
    let bucket = bucket();
    let mut random = Random(seed);
    let (objects, what) = edited(&mut random, bucket);
    let before = theirs(&objects, bucket);
    bucket.server.replace_all(objects);
    let around = tempfile::tempdir().unwrap();
    let dir = around.path().join("host");
    std::fs::create_dir(&dir).unwrap();
    let panics = PANICS.load(Ordering::SeqCst);
    crate::allocated::forget();
    let say = format!("seed {seed}: {what}");
    let runtime = runtime();
    let ended =
        runtime.block_on(async { tokio::time::timeout(6 * LONG, asked(bucket, &dir)).await });
    // What hangs is not waited for.
    runtime.shutdown_timeout(Duration::from_secs(5));
    assert!(ended.is_ok(), "hangs, {say}");
    // The engine panics at its own files; where that is caught nothing ends.
    let is_of_the_engine = what.contains("/meta/");
    assert!(is_of_the_engine || PANICS.load(Ordering::SeqCst) == panics, "a panic, {say}");
    let largest = crate::allocated::largest();
    assert!(largest < LARGEST, "{largest} bytes at once, {say}");
    let mut after = theirs(&bucket.server.objects(""), bucket);
    // A place whose entry was edited may be given a new state; what was there stays.
    after.retain(|(key, _)| before.iter().any(|(kept, _)| kept == key));
    assert_eq!(after, before, "{say}");
    assert_eq!(local(around.path()), ["host"], "{say}");
}

fn prepare() {
    count_panics();
    credentials();
}

fn run(seeds: std::ops::Range<u64>) {
    prepare();
    let all = seeds.end - seeds.start;
    let failed: Vec<u64> =
        seeds.filter(|seed| std::panic::catch_unwind(|| story(*seed)).is_err()).collect();
    assert!(failed.is_empty(), "{} of {all} failed: {failed:?}", failed.len());
}

/// The engine believes the offsets in its files, and panics at some of them.
#[test]
fn a_log_of_the_engine_with_other_offsets_is_damaged() {
    prepare();
    let _alone = alone();
    let bucket = bucket();
    let dir = tempfile::tempdir().unwrap();
    let log = format!("team/.s3vol/v/{}/{FOLDER}/wal/", bucket.id);
    let (key, whole) =
        bucket.objects.iter().rfind(|(key, _)| key.starts_with(&log)).expect("a log");
    for back in 8..24 {
        let mut body = whole.body.to_vec();
        let at = body.len() - back;
        body[at..at + 8].fill(0xff);
        let mut objects = bucket.objects.clone();
        put(&mut objects, key, body);
        bucket.server.replace_all(objects);
        // Whatever it is, it comes back.
        runtime().block_on(async { followed(bucket, dir.path()).await });
    }
}

#[test]
fn numbers_of_what_was_recovered_are_only_shown() {
    let range = |start: u64, end: u64| json!({ "start": start, "end": end });
    let piece = |len: u64| json!({ "start": 0, "len": len, "object": "0", "offset": 0, "crc": 0 });
    let of = |missing: Value, zeros: Value, lengths: [u64; 2]| {
        let pieces = lengths.map(piece);
        json!({ "path": "f", "size": u64::MAX, "pieces": pieces, "zeros": [zeros], "missing": [missing] })
    };
    let files = json!([
        of(range(9, 0), range(u64::MAX, 0), [u64::MAX, 1]),
        of(range(0, u64::MAX), range(0, u64::MAX), [1, 2]),
    ]);
    let found = Recovered {
        name: "one".into(),
        manifest: serde_json::from_value(
            json!({ "format": 1, "host": "h", "at": "now", "files": files }),
        )
        .unwrap(),
    };
    let shown: Vec<(u64, u64)> =
        found.files().iter().map(|file| (file.recovered, file.missing)).collect();
    assert_eq!(shown, [(u64::MAX, 0), (u64::MAX, u64::MAX)]);
}

#[test]
fn what_lies_beside_the_records_harms_only_its_volume() {
    run(0..20);
}

/// `S3VOL_TEST_SEED=N` runs that one.
#[test]
#[ignore = "soak: hundreds of edits"]
fn soak_edited_state() {
    let one = std::env::var("S3VOL_TEST_SEED").ok().map(|text| text.parse().expect("a number"));
    run(one.map_or(20..800, |seed: u64| seed..seed + 1));
}
