//! File content below FUSE: uncommitted changes, extents and base objects seen as one file.

mod support;

use std::sync::Arc;

use s3vol::config::VolumeOptions;
use s3vol::data::{Inode, Recovered, Volume, VolumeParts};
use s3vol::fs::Fs;
use s3vol::meta::log::Header;
use s3vol::meta::{Engine, EngineConfig, Fold, Journal, LocalLog, Meta};
use s3vol::store::{Location, StaticKeys, Store, StoreSettings};
use s3vol::types::{Caller, FileName, Ino, KeyPrefix, Secret, VolumeId};
use support::s3server::TestS3;

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
        let location = Location::parse(&format!("s3://{}/data", server.bucket())).unwrap();
        let settings = StoreSettings {
            endpoint: Some(server.endpoint()),
            region: Some(server.region().to_owned()),
            path_style: Some(true),
            keys: Some(StaticKeys {
                key: server.access_key().to_owned(),
                secret: Secret::new(server.secret_key()),
                token: None,
            }),
        };
        let store = Store::open(&location, &settings).unwrap();
        let capabilities = store.probe(&KeyPrefix::new("scratch")).await.unwrap();
        store.remember(&capabilities);
        let state = KeyPrefix::new(".s3vol/v/test");
        let engine_store = store.engine(&state).unwrap().into_inner();
        let engine = Engine::open(EngineConfig::new(engine_store, "meta", None)).await.unwrap();
        let id = VolumeId::random();
        let log = LocalLog::open(dir.path(), Header::here(id).unwrap()).unwrap().log;
        let journal = Journal::new(log, Fold::default());
        let meta = Meta::new(engine, journal, Volume::first_superblock(), 1);
        let parts = VolumeParts {
            id,
            name: "test".to_owned(),
            meta,
            store: store.backend(),
            prefix: location.prefix,
            state_store: store.backend(),
            state,
            same_bucket: true,
            options: VolumeOptions::default(),
            capabilities,
            cache_dir: dir.path().join("cache"),
        };
        let volume = Volume::open(parts, Recovered::default()).await.unwrap();
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
