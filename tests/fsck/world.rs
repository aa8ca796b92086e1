//! A volume that is opened in this process, damaged from outside, and looked at by the tools.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use s3vol::catalog::{Stores, incarnate};
use s3vol::clock::Deadline;
use s3vol::config::VolumeOptions;
use s3vol::data::Inode;
use s3vol::fs::{Fs, RenameMode, XattrMode};
use s3vol::fsck::{Finding, Outcome, Report};
use s3vol::meta::records::Row;
use s3vol::meta::records::{ContentRec, DirentRec, decode, encode};
use s3vol::meta::{Batch, Engine, EngineConfig, keys};
use s3vol::store::{Location, Store, StoreSettings};
use s3vol::types::{Caller, Epoch, Ino, Lsn, VolumeId};
use s3vol::worker::{FsckHow, Mounted, VolumeAt, WorkerSpec, fsck};
use serde::Serialize;

pub use crate::support::named;
use crate::support::opened::{self, credentials, opened, options};
use crate::support::s3server::TestS3;
use crate::support::volume::read_all;

const PATIENCE: Duration = Duration::from_secs(30);
const FOLDER: &str = "meta/slatedb-0.18";

pub struct World {
    pub server: TestS3,
    pub at: VolumeAt,
    pub id: VolumeId,
    /// Below the bucket.
    pub state: String,
    mounted: Option<Mounted>,
    _local: tempfile::TempDir,
}

impl World {
    /// An empty volume, mounted.
    pub async fn new() -> World {
        let server = TestS3::start();
        credentials();
        let refresh = Duration::from_secs(3600);
        let options = VolumeOptions { refresh, ..options(&server, "home/vol/", "home/") };
        let found = incarnate(&Stores::default(), &options).await.unwrap();
        let local = tempfile::tempdir().unwrap();
        let mut world = World {
            state: format!("home/.s3vol/v/{}/", found.id),
            id: found.id,
            at: VolumeAt {
                options,
                volumes: local.path().join("volumes"),
                stores: local.path().join("stores"),
            },
            server,
            mounted: None,
            _local: local,
        };
        world.open().await;
        world
    }

    pub fn spec(&self) -> WorkerSpec {
        WorkerSpec {
            name: "test".into(),
            id: self.id,
            options: self.at.options.clone(),
            state_dir: self.at.volumes.join(self.id.to_string()),
            control_socket: PathBuf::new(),
            stores: self.at.stores.clone(),
            mountpoint: PathBuf::new(),
        }
    }

    pub async fn open(&mut self) {
        self.mounted = Some(opened(&self.spec()).await.unwrap());
    }

    pub fn mounted(&self) -> &Mounted {
        self.mounted.as_ref().expect("it is mounted")
    }

    pub fn fs(&self) -> &Fs {
        &self.mounted().fs
    }

    pub async fn commit(&self) {
        opened::commit(self.mounted()).await.unwrap();
    }

    pub async fn settle(&self) {
        self.commit().await;
        let mounted = self.mounted();
        let left = mounted.settler.settle_all(Deadline::after(PATIENCE)).await.unwrap();
        assert_eq!(left, 0, "{:?}", mounted.settler.status());
        while mounted.volume.collect_dead().await.unwrap() {}
        mounted.volume.collect_segments(PATIENCE).await.unwrap();
        self.commit().await;
    }

    /// As an unmount that has no time to settle.
    pub async fn close(&mut self) {
        opened::close(self.mounted.take().expect("it is mounted")).await.unwrap();
        std::fs::remove_dir_all(self.spec().state_dir).unwrap();
    }

    // --- Files ---

    /// The process dies, and its lease runs out; what it keeps locally stays.
    pub async fn crash(&mut self) {
        let mounted = self.mounted.take().expect("it is mounted");
        opened::release(&mounted).await.unwrap();
    }

    pub async fn dir(&self, parent: Ino, name: &str) -> Ino {
        self.fs().mkdir(Caller::ROOT, parent, named(name), 0o750).await.unwrap().ino
    }

    pub async fn file(&self, parent: Ino, name: &str, content: &[u8]) -> Ino {
        let mode = libc::S_IFREG | 0o640;
        let made = self.fs().mknod(Caller::ROOT, parent, named(name), mode, 0).await.unwrap();
        self.write(made.ino, 0, content).await;
        made.ino
    }

    pub async fn inode(&self, ino: Ino) -> Arc<Inode> {
        self.mounted().volume.inode(ino).await.unwrap()
    }

    pub async fn write(&self, ino: Ino, offset: u64, content: &[u8]) {
        if !content.is_empty() {
            let inode = self.inode(ino).await;
            self.mounted().volume.write(&inode, offset, content).await.unwrap();
        }
    }

    pub async fn read(&self, ino: Ino) -> Vec<u8> {
        read_all(&self.mounted().volume, &self.inode(ino).await).await
    }

    pub async fn lookup(&self, parent: Ino, name: &str) -> Option<Ino> {
        self.fs().lookup(parent, named(name)).await.ok().map(|attr| attr.ino)
    }

    /// One of every kind: at rest, with names below names, links, marks and attributes.
    pub async fn every_kind(&self) -> Ino {
        // In a box, as other long ways here: a test has 2 MiB of stack.
        Box::pin(self.make_every_kind()).await
    }

    async fn make_every_kind(&self) -> Ino {
        let fs = self.fs();
        let dir = self.dir(Ino::ROOT, "dir").await;
        self.dir(dir, "empty").await;
        let deep = self.dir(dir, "deep").await;
        let file = self.file(dir, "file", b"content of a file").await;
        self.file(deep, "large", &noise(3 << 20)).await;
        self.file(deep, "nothing", b"").await;
        self.file(deep, "odd\u{1}name", b"odd").await;
        fs.link(Caller::ROOT, file, Ino::ROOT, named("another name")).await.unwrap();
        fs.symlink(Caller::ROOT, dir, named("link"), Bytes::from_static(b"file")).await.unwrap();
        for (name, kind) in [("fifo", libc::S_IFIFO), ("null", libc::S_IFCHR)] {
            fs.mknod(Caller::ROOT, dir, named(name), kind | 0o600, 0x103).await.unwrap();
        }
        let (name, value) = (Bytes::from_static(b"user.colour"), Bytes::from_static(b"red"));
        fs.setxattr(Caller::ROOT, file, name, value, XattrMode::Any).await.unwrap();
        let holes = self.file(deep, "holes", b"first").await;
        self.write(holes, 200 << 10, b"last").await;
        dir
    }

    /// On top of [`World::every_kind`] at rest: changes of all kinds that are only in the bucket's records.
    pub async fn in_motion(&self, dir: Ino) {
        Box::pin(self.make_in_motion(dir)).await;
    }

    async fn make_in_motion(&self, dir: Ino) {
        let fs = self.fs();
        let deep = self.lookup(dir, "deep").await.unwrap();
        let large = self.lookup(deep, "large").await.unwrap();
        self.write(large, 100_000, &noise(1 << 20)).await;
        self.write(large, 5, b"inline").await;
        self.commit().await;
        self.write(large, 200_000, &noise(300_000)).await;
        self.file(deep, "new", &noise(500_000)).await;
        self.commit().await;
        let gone = self.file(deep, "gone", &noise(400_000)).await;
        self.commit().await;
        fs.unlink(Caller::ROOT, deep, named("gone")).await.unwrap();
        let opened = self.file(deep, "open and unlinked", &noise(150_000)).await;
        fs.open(Caller::ROOT, opened, libc::O_RDWR).await.unwrap();
        fs.unlink(Caller::ROOT, deep, named("open and unlinked")).await.unwrap();
        let _ = gone;
        fs.rename(
            Caller::ROOT,
            Ino::ROOT,
            named("dir"),
            Ino::ROOT,
            named("moved"),
            RenameMode::Replace,
        )
        .await
        .unwrap();
        fs.unlink(Caller::ROOT, Ino::ROOT, named("another name")).await.unwrap();
        let holes = self.inode(self.lookup(deep, "holes").await.unwrap()).await;
        self.mounted().volume.set_size(&holes, 3000).await.unwrap();
        self.commit().await;
    }

    // --- The tools ---

    pub async fn check(&self) -> Report {
        let how = FsckHow { data: true, all: false, repair: None };
        Box::pin(fsck(&self.at, how, &mut |_| {})).await.unwrap()
    }

    /// Mends; says yes to everything, or to nothing that may lose something.
    pub async fn repair(&self, yes: bool) -> Report {
        let mut agree = |_: &Finding| yes;
        let how = FsckHow { data: true, all: false, repair: Some(&mut agree) };
        Box::pin(fsck(&self.at, how, &mut |_| {})).await.unwrap()
    }

    // --- The records, by hand ---

    async fn engine(&self) -> Engine {
        let location = Location::parse(&self.at.options.state_url).unwrap();
        let store = Store::open(&location, &StoreSettings::of(&self.at.options)).unwrap();
        let state = s3vol::types::KeyPrefix::new(&self.state);
        let objects = store.engine(&state).unwrap().into_inner();
        let found = Engine::writer_epoch(&objects, FOLDER, Epoch(0)).await.unwrap();
        Engine::open(EngineConfig::new(objects, FOLDER, found)).await.unwrap()
    }

    /// Changes rows of a volume that nobody has, as nobody should.
    pub async fn edit(&self, change: impl AsyncFnOnce(&Engine, &mut Batch)) {
        let engine = self.engine().await;
        let mut batch = Batch::new();
        change(&engine, &mut batch).await;
        let lsn = engine.applied().map_or(Lsn(1), |applied| Lsn(applied.lsn.0 + 1));
        engine.write(lsn, batch).await.unwrap();
        let epoch = engine.epoch();
        engine.close(Deadline::after(PATIENCE)).await.unwrap();
        let released = serde_json::json!({
            "instance": uuid::Uuid::new_v4(),
            "host": "by hand",
            "endpoint": self.server.endpoint(),
            "state": "released",
            "renewals": 1,
            "since": 0,
        });
        let key = format!("{}lease/{:020}", self.state, epoch.0);
        self.server.put_foreign(&key, released.to_string(), &[]);
    }

    /// Changes one record.
    pub async fn change<T: Serialize + Row>(&self, key: Vec<u8>, change: impl FnOnce(&mut T)) {
        self.edit(async |engine, batch| {
            let value = engine.get(&key).await.unwrap().expect("it is there");
            let mut record: T = decode(&value).unwrap();
            change(&mut record);
            batch.put(key, encode(&record));
        })
        .await;
    }

    /// Cuts a record to its first byte.
    pub async fn cut(&self, key: Vec<u8>) {
        self.edit(async |engine, batch| {
            assert!(engine.get(&key).await.unwrap().is_some_and(|value| value.len() > 1));
            batch.put(key, vec![0xff]);
        })
        .await;
    }

    pub async fn drop_row(&self, key: Vec<u8>) {
        self.edit(async |engine, batch| {
            assert!(engine.get(&key).await.unwrap().is_some());
            batch.delete(key);
        })
        .await;
    }

    /// The inode that a path leads to, by the records.
    pub async fn ino(&self, path: &str) -> Ino {
        let mut found = Ino::ROOT;
        self.edit(async |engine, batch| {
            for name in path.split('/') {
                let row = engine.get(&keys::dirent(found, &named(name))).await.unwrap();
                let dirent: DirentRec = decode(&row.expect("the name")).unwrap();
                found = dirent.ino;
            }
            // Something has to be written.
            batch.delete(vec![0xfe]);
        })
        .await;
        found
    }

    pub async fn content(&self, ino: Ino) -> ContentRec {
        let mut found = None;
        self.edit(async |engine, batch| {
            found = engine.get(&keys::content(ino)).await.unwrap();
            batch.delete(vec![0xfe]);
        })
        .await;
        decode(&found.expect("a file")).unwrap()
    }

    pub fn segments(&self) -> Vec<String> {
        self.server.keys(&format!("{}segments/", self.state))
    }
}

/// Bytes that no compression or chance makes equal.
pub fn noise(len: usize) -> Vec<u8> {
    crate::support::noise(0x9e37_79b9_7f4a_7c15 ^ len as u64, len)
}

/// What is left, as `kind: what`.
pub fn left(report: &Report) -> Vec<String> {
    let of = report.findings.iter().filter(|finding| finding.outcome == Outcome::Left);
    let mut left: Vec<String> =
        of.map(|finding| format!("{}: {}", finding.kind.name(), finding.what)).collect();
    left.sort();
    left
}

/// Nothing was found, or what was.
#[track_caller]
pub fn assert_clean(report: &Report) {
    let found: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
    assert!(report.is_clean(), "{found:#?}");
    assert_eq!(report.exit_code(), 0);
}
