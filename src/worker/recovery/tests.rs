use std::os::unix::fs::DirEntryExt;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::data::CacheFile;
use crate::meta::records::{ContentRec, ExtentRec, Place, encode};
use crate::meta::{Batch, keys};
use crate::store::{
    Attributes, Known, Location, Properties, PutOutcome, Send, Store, StoreBackend, StoreSettings,
};
use crate::types::{KeyPrefix, Timestamp};

const SOON: Duration = Duration::from_secs(10);
const LOST: [Ino; 2] = [Ino(5), Ino(6)];
const CLEAN: Ino = Ino(7);

/// A host that crashed with changes of two files, whose names it does not know any more, and a bucket.
struct World {
    dir: tempfile::TempDir,
    store: Arc<dyn StoreBackend>,
    state: KeyPrefix,
}

fn text(ino: Ino) -> Vec<u8> {
    format!("only here: {ino}").into_bytes()
}

impl World {
    async fn new() -> World {
        World::of_boot(None).await
    }

    /// Where the log is of an earlier boot.
    async fn of_boot(boot: Option<String>) -> World {
        let dir = tempfile::tempdir().unwrap();
        let id = VolumeId(uuid::Uuid::from_u128(7));
        std::fs::create_dir_all(dir.path().join("volumes/v/log")).unwrap();
        std::fs::create_dir(dir.path().join("bucket")).unwrap();
        let url = format!("file://{}", dir.path().join("bucket").display());
        let settings =
            StoreSettings { known: Known::of_host(dir.path()), ..StoreSettings::default() };
        let store = Store::open(&Location::parse(&url).unwrap(), &settings).unwrap().backend();
        let state = KeyPrefix::new("state/");
        let world = World { dir, store, state };
        world.put("format.json", "{}").await;
        let header = Header { boot: boot.unwrap_or(Header::here(id).unwrap().boot), volume: id };
        let mut log = LocalLog::open(&world.local().join("log"), header).unwrap().log;
        for ino in LOST {
            let end = text(ino).len() as u64;
            let time = Timestamp::default();
            log.append(&Record::Wrote { ino, start: 0, end, size: end, time }).unwrap();
        }
        for ino in LOST.into_iter().chain([CLEAN]) {
            let file = CacheFile::path_in(&world.local().join("cache"), ino);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text(ino)).unwrap();
        }
        world
    }

    fn local(&self) -> PathBuf {
        self.dir.path().join("volumes/v")
    }

    fn trash(&self) -> Trash {
        Trash::beside(&self.local())
    }

    async fn put(&self, name: &str, body: &'static str) {
        let (key, send) = (self.state.key(name), Send::plain(SOON));
        let none = (Attributes::new(), Properties::default());
        let done = self.store.put(&key, body.into(), &none.0, &none.1, send).await;
        assert!(matches!(done, PutOutcome::Won(_)), "{done:?}");
    }

    fn set_aside(&self) -> PathBuf {
        let aside = aside_folder(&self.local()).unwrap();
        let paths = LOST.iter().map(|ino| (*ino, format!("file {ino}"))).collect();
        move_aside(&self.local(), &aside, &paths, &self.trash()).unwrap();
        aside
    }

    async fn save(&self) -> Result<(), WorkerError> {
        save_set_aside(&self.local(), &self.store, &self.state, &self.trash()).await
    }

    /// Everything that is complete in the bucket.
    async fn found(&self) -> Vec<Recovered> {
        let folder = self.state.join("recovered/");
        Shelf::at(Arc::clone(&self.store), folder).list().await.unwrap().found
    }

    /// Whether the content of a folder of files is what only this host had.
    async fn is_restored(&self, from: &Recovered) -> bool {
        let into = self.dir.path().join("restored");
        let folder = self.state.join("recovered/");
        let shelf = Shelf::at(Arc::clone(&self.store), folder);
        let restored = shelf.restore(from, &into).await.unwrap();
        assert!(restored.failed.is_empty(), "{restored:?}");
        LOST.iter()
            .all(|ino| std::fs::read(into.join(format!("file {ino}"))).unwrap() == text(*ino))
    }
}

#[tokio::test]
async fn a_folder_that_was_set_aside_holds_what_was_lost_and_goes_once_it_is_in_the_bucket() {
    let world = World::new().await;
    let aside = world.set_aside();
    assert!(!CacheFile::path_in(&aside.join("cache"), CLEAN).exists());
    assert!(!world.local().join("log").exists() && !world.local().join("cache").exists());
    world.save().await.unwrap();
    assert!(!aside.exists(), "it is in the bucket");
    let found = world.found().await;
    assert_eq!(found.len(), 1);
    assert!(world.is_restored(&found[0]).await);
}

#[tokio::test]
async fn a_folder_with_bytes_that_could_not_be_read_stays() {
    let world = World::new().await;
    let aside = world.set_aside();
    std::fs::remove_file(CacheFile::path_in(&aside.join("cache"), LOST[0])).unwrap();
    for _ in 0..2 {
        world.save().await.unwrap();
        assert!(aside.exists());
    }
    assert_eq!(world.found().await.len(), 1, "once is enough");
}

#[tokio::test]
async fn setting_aside_goes_on_where_a_killed_process_was() {
    let world = World::new().await;
    // It got to move the cache, and a part of that.
    let aside = aside_folder(&world.local()).unwrap();
    std::fs::rename(world.local().join("cache"), aside.join("cache")).unwrap();
    assert_eq!(world.set_aside(), aside);
    world.save().await.unwrap();
    assert!(world.is_restored(&world.found().await[0]).await);
    // One with a log is somebody else's.
    std::fs::create_dir_all(world.local().join("recovery-0/log")).unwrap();
    assert_eq!(aside_folder(&world.local()).unwrap(), world.local().join("recovery-1"));
}

#[tokio::test]
async fn what_was_left_of_an_earlier_loss_is_not_taken_for_what_was_lost_now() {
    let world = World::new().await;
    // The power went before the log was moved, and that meant nothing any more.
    let stale = CacheFile::path_in(&world.local().join("recovery-0/cache"), LOST[0]);
    std::fs::create_dir_all(stale.parent().unwrap()).unwrap();
    std::fs::write(stale, "of another time").unwrap();
    assert_eq!(world.set_aside(), world.local().join("recovery-1"));
    goes_on(&world.local(), &world.trash()).unwrap();
    assert!(!world.local().join("recovery-0").exists(), "it has no log");
    world.save().await.unwrap();
    let found = world.found().await;
    assert_eq!(found.len(), 1);
    assert!(world.is_restored(&found[0]).await);
}

#[tokio::test]
async fn an_upload_that_was_cut_short_goes_on_under_its_name() {
    let world = World::new().await;
    let aside = world.set_aside();
    let name = save(&aside, &world.store, &world.state).await.unwrap().unwrap();
    // As if it had been cut off before its last request.
    let recovered = world.dir.path().join("state/recovered");
    std::fs::remove_file(aside.join(UPLOADED)).unwrap();
    let key = world.state.key(&format!("recovered/{name}/{}", manifest::MANIFEST));
    let gone = world.store.delete(&key, Send::plain(SOON)).await;
    assert!(matches!(gone, PutOutcome::Won(_)), "{gone:?}");
    assert!(world.found().await.is_empty());
    let packs = || -> Vec<(String, u64)> {
        let files = std::fs::read_dir(recovered.join(&name)).unwrap().map(Result::unwrap);
        let pack = |file: std::fs::DirEntry| {
            let name = file.file_name().into_string().unwrap();
            name.starts_with("data-").then(|| (name, file.ino()))
        };
        files.filter_map(pack).collect()
    };
    let before = packs();
    assert_eq!(before.len(), 1, "{before:?}");
    world.save().await.unwrap();
    let found = world.found().await;
    assert_eq!(found.iter().map(|found| &found.name).collect::<Vec<_>>(), [&name]);
    assert_eq!(packs(), before, "what was there is not sent again");
    assert!(world.is_restored(&found[0]).await);
}

#[tokio::test]
async fn an_upload_that_was_only_not_noted_is_not_sent_again() {
    let world = World::new().await;
    let aside = world.set_aside();
    let copy = |from: &Path, to: &Path| {
        let done = std::process::Command::new("cp").arg("-a").args([from, to]).status();
        assert!(done.unwrap().success());
    };
    copy(&aside, &world.dir.path().join("copy"));
    let name = save(&aside, &world.store, &world.state).await.unwrap().unwrap();
    std::fs::write(world.dir.path().join("copy").join(UPLOADING), &name).unwrap();
    std::fs::rename(&aside, world.dir.path().join("gone")).unwrap();
    copy(&world.dir.path().join("copy"), &aside);
    world.save().await.unwrap();
    assert!(!aside.exists());
    assert_eq!(world.found().await.len(), 1);
}

#[tokio::test]
async fn what_was_set_aside_before_a_restart_is_uploaded_if_it_was_on_the_disk() {
    let world = World::new().await;
    let aside = world.set_aside();
    to_disk(&world.local(), &aside).unwrap();
    // As if the log were of another boot.
    let log = aside.join("log/log");
    let other = World::of_boot(Some("before".into())).await;
    std::fs::copy(other.local().join("log/log"), &log).unwrap();
    world.save().await.unwrap();
    assert!(world.is_restored(&world.found().await[0]).await);

    let aside = other.set_aside();
    for _ in 0..2 {
        other.save().await.unwrap();
        assert!(aside.exists(), "the disk may hold any part of it");
        assert!(other.found().await.is_empty());
    }
}

#[tokio::test]
async fn a_folder_or_a_file_that_fails_keeps_no_other_from_the_bucket() {
    let world = World::new().await;
    world.set_aside();
    // Logs that cannot be read, before and after the good one in any order.
    for number in 1..8 {
        let log = world.local().join(format!("recovery-{number}/log/log"));
        std::fs::create_dir_all(log).unwrap();
    }
    // A cache file that cannot be read, either.
    let bad = CacheFile::path_in(&world.local().join("recovery-0/cache"), LOST[0]);
    std::fs::remove_file(&bad).unwrap();
    std::os::unix::fs::symlink(&bad, &bad).unwrap();
    world.save().await.unwrap_err();
    let found = world.found().await;
    let files = found[0].files();
    assert_eq!((files[0].missing, files[1].missing), (text(LOST[0]).len() as u64, 0));
}

#[tokio::test]
async fn a_file_that_cannot_be_restored_keeps_no_other_from_it() {
    let world = World::new().await;
    world.set_aside();
    world.save().await.unwrap();
    // An object of another host that is damaged, and a file whose bytes are not what was uploaded.
    world.put("recovered/another/recovered.json", "no manifest").await;
    let shelf = Shelf::at(Arc::clone(&world.store), world.state.join("recovered/"));
    let mut listed = shelf.list().await.unwrap();
    assert_eq!((listed.found.len(), listed.unreadable.len()), (1, 1));
    listed.found[0].manifest.files[0].pieces[0].crc ^= 1;
    let into = world.dir.path().join("restored");
    let restored = shelf.restore(&listed.found[0], &into).await.unwrap();
    assert_eq!((restored.written, restored.failed.len()), (1, 1));
    assert_eq!(std::fs::read(into.join(format!("file {}", LOST[1]))).unwrap(), text(LOST[1]));
    assert!(!into.join(format!("file {}", LOST[0])).exists());
}

/// A commit of a file of 1,000 bytes that lays rows, from, to, generation, and takes others away, by their ends.
fn commit(map: u64, generation: u64, lays: &[(u64, u64, u64)], takes: &[u64]) -> Record {
    let mut batch = Batch::new();
    let content = ContentRec { size: 1000, map, generation, ..ContentRec::default() };
    batch.put(keys::content(LOST[0]), encode(&content));
    for end in takes {
        batch.delete(keys::extent(LOST[0], map, *end));
    }
    for (start, end, generation) in lays.iter().copied() {
        let place = Place::Inline(vec![1; (end - start) as usize].into());
        let row = ExtentRec { start, generation, place };
        batch.put(keys::extent(LOST[0], map, end), encode(&row));
    }
    Record::Commit { inodes: Vec::new(), batch: Arc::new(batch) }
}

#[test]
fn what_a_later_commit_cut_off_was_not_lost() {
    let written = commit(0, 1, &[(0, 1000, 1)], &[]);
    // Cut to nothing; cut to 300; written over in the middle. In all of them it is as long again after that.
    let later: [(Record, &[(u64, u64)]); 3] = [
        (commit(1, 2, &[(0, 10, 2)], &[]), &[(0, 10)]),
        (commit(0, 2, &[(0, 300, 1), (900, 1000, 2)], &[1000]), &[(0, 300), (900, 1000)]),
        (commit(0, 2, &[(0, 300, 1), (300, 400, 2), (400, 1000, 1)], &[]), &[(0, 1000)]),
    ];
    for (later, wanted) in later {
        let lost = Lost::of(&[(Lsn(1), written.clone()), (Lsn(2), later)]);
        let ranges = &lost.files[&LOST[0]].ranges;
        let covered: Vec<_> = wanted.iter().map(|(from, to)| ranges.covered(*from..*to)).collect();
        let lens: Vec<_> = wanted.iter().map(|(from, to)| to - from).collect();
        assert_eq!((covered, ranges.total()), (lens.clone(), lens.iter().sum()), "{wanted:?}");
    }
}
