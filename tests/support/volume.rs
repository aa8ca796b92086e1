//! A volume put together without a worker: no lease, no settling, nobody outside.

use std::path::Path;
use std::sync::Arc;

use s3vol::config::VolumeOptions;
use s3vol::data::{
    CacheFile, DataError, Inode, NothingOutside, Recovered, Trash, Volume, VolumeParts,
};
use s3vol::fs::Fs;
use s3vol::meta::log::Header;
use s3vol::meta::records::{ContentRec, InodeRec, decode};
use s3vol::meta::{Engine, EngineConfig, Fold, Journal, LocalLog, Meta, keys};
use s3vol::settle::Settler;
use s3vol::store::{Location, StaticKeys, Store, StoreSettings};
use s3vol::types::{Caller, Epoch, FileKind, Ino, KeyPrefix, Secret, VolumeId};

use super::named;
use super::s3server::TestS3;

/// The volume in the bucket of `server`, new or taken from whoever had it, with its local files in `dir`.
pub async fn volume(server: &TestS3, dir: &Path) -> Arc<Volume> {
    volume_with(server, dir, VolumeOptions::default()).await
}

/// The same with options.
pub async fn volume_with(server: &TestS3, dir: &Path, options: VolumeOptions) -> Arc<Volume> {
    try_volume(server, dir, options).await.unwrap()
}

/// The same; an error when its records do not let it be opened.
pub async fn try_volume(
    server: &TestS3,
    dir: &Path,
    options: VolumeOptions,
) -> Result<Arc<Volume>, DataError> {
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
        ..StoreSettings::of(&options)
    };
    let store = Store::open(&location, &settings).unwrap();
    let capabilities = store.probe(&KeyPrefix::new("scratch")).await.unwrap();
    let state = KeyPrefix::new(".s3vol/v/test");
    let engine_store = store.engine(&state).unwrap().into_inner();
    let found = Engine::writer_epoch(&engine_store, "meta", Epoch(0)).await.unwrap();
    let engine = Engine::open(EngineConfig::new(engine_store, "meta", found)).await.unwrap();
    let superblock = match engine.get(&keys::superblock()).await.unwrap() {
        Some(bytes) => decode(&bytes)?,
        None => Volume::first_superblock(),
    };
    let id = VolumeId::random();
    let log = LocalLog::open(dir, Header::here(id).unwrap()).unwrap().log;
    let journal = Journal::new(log, Fold::default());
    let meta = Meta::new(engine, journal, superblock, 1);
    let parts = VolumeParts {
        id,
        name: "test".to_owned(),
        meta,
        store: store.backend(),
        prefix: location.prefix,
        state_store: store.backend(),
        state,
        same_bucket: true,
        options,
        capabilities,
        cache_dir: dir.join("cache"),
        trash: Trash::within(dir),
    };
    Volume::open(parts, Recovered::default()).await
}

/// A new empty file in its root.
pub async fn create(volume: &Arc<Volume>, name: &str) -> Arc<Inode> {
    let fs = Fs::new(Arc::clone(volume), Arc::new(NothingOutside));
    let made = fs.mknod(Caller::ROOT, Ino::ROOT, named(name), libc::S_IFREG | 0o644, 0).await;
    volume.inode(made.unwrap().ino).await.unwrap()
}

/// All of a file, as the kernel reads it.
pub async fn read_all(volume: &Volume, file: &Arc<Inode>) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let found = volume.read(file, all.len() as u64, 128 << 10).await.unwrap();
        if found.is_empty() {
            return all;
        }
        all.extend_from_slice(&found);
    }
}

/// Settles it whenever it is asked to.
pub async fn settler(volume: &Arc<Volume>) -> Arc<Settler> {
    Settler::open(Arc::clone(volume), Arc::new(Always), "test".into()).await.unwrap()
}

/// Fills the table of inodes with ones that are in use: every other one leaves the memory.
pub fn crowd_out(volume: &Volume, dir: &Path) -> Vec<Arc<Inode>> {
    let crowd = 17_000;
    (0..crowd)
        .map(|number| {
            let ino = Ino(1 << 40 | number);
            let cache = CacheFile::new(&dir.join("crowd"), ino, Arc::default());
            let inode = Arc::new(Inode::new(ino, anybody(), ContentRec::default(), cache));
            volume.inodes.created(Arc::clone(&inode));
            inode
        })
        .collect()
}

fn anybody() -> InodeRec {
    InodeRec::new(FileKind::File, 0o644, s3vol::clock::now())
}

/// Publishes at any time, as nobody does who may lose a lease.
#[derive(Debug)]
pub struct Always;

impl s3vol::settle::Permit for Always {
    fn may_publish(&self) -> bool {
        true
    }
}
