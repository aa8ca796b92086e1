//! Hosts: their disks, and the workers that run on them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use s3vol::catalog::{Incarnation, Opener, Site, incarnate};
use s3vol::config::{BucketUrl, VolumeOptions};
use s3vol::store::{
    Capabilities, Knowledge, Known, ListPage, Location, Store, StoreBackend, StoreError,
};
use s3vol::types::KeyPrefix;
use s3vol::worker::{Bare, Successor, WorkerError, WorkerSpec};

use crate::port::{BUCKET, Port};
use crate::random::Random;
use crate::sim::{Process, sim};

/// The volume's prefix.
pub const PREFIX: &str = "vol/";

/// A machine with a disk.
#[derive(Debug)]
pub struct Host {
    pub number: usize,
    root: PathBuf,
    boots: u32,
    workers: u32,
    /// How much its clock is ahead, nanoseconds.
    pub ahead: i64,
}

impl Host {
    /// A host without any state, below `dir`.
    pub fn new(dir: &Path, number: usize) -> Host {
        let root = dir.join(format!("host{number}"));
        let mut host = Host { number, root, boots: 0, workers: 0, ahead: 0 };
        fs::create_dir_all(&host.root).expect("a folder");
        fs::write(host.root.join("hostname"), format!("host{number}\n")).expect("a name");
        host.boot();
        host
    }

    fn boot(&mut self) {
        self.boots += 1;
        let id = format!("00000000-0000-4000-8000-{:06}{:06}\n", self.number, self.boots);
        fs::write(self.root.join("boot_id"), id).expect("a boot");
    }

    /// Its disk.
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    /// The power goes: whatever was not synced, which is everything here, may be there, or in part, or not.
    pub fn lose_power(&mut self, random: &Random) {
        let mut files = Vec::new();
        let mut folders = vec![self.state()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                    _ => files.push(entry.path()),
                }
            }
        }
        files.sort();
        for path in files {
            let len = fs::metadata(&path).map_or(0, |found| found.len());
            let done = match random.below(4) {
                0 => fs::remove_file(&path),
                1 => fs::File::options()
                    .write(true)
                    .open(&path)
                    .and_then(|file| file.set_len(random.below(len + 1))),
                _ => Ok(()),
            };
            done.expect("a disk");
        }
        self.boot();
    }

    /// Its local state is gone.
    pub fn wipe(&mut self) {
        if self.state().exists() {
            fs::remove_dir_all(self.state()).expect("a disk");
        }
        self.boot();
    }

    /// A process that has not begun to do anything yet.
    pub fn process(&mut self) -> Arc<Process> {
        self.workers += 1;
        let name = format!("host{} worker {}", self.number, self.workers);
        let process = sim().process(self.number, self.root.clone(), name);
        process.machine.ahead.set(self.ahead);
        process
    }

    pub fn known(&self) -> Known {
        Known::in_folder(self.root.join("stores"))
    }
}

/// The options of the volume.
pub fn options() -> VolumeOptions {
    VolumeOptions {
        url: format!("s3://{BUCKET}/{}", PREFIX.trim_end_matches('/')),
        state_url: format!("s3://{BUCKET}"),
        ..VolumeOptions::default()
    }
}

pub fn location() -> Location {
    Location::parse(&options().url).expect("a URL")
}

/// Makes the volume.
pub async fn make(
    host: &Host,
    process: &Process,
    options: VolumeOptions,
) -> Option<Result<Incarnation, String>> {
    let opener = PortOpener { host: host.number, known: host.known() };
    let made = async move { incarnate(&opener, &options).await.map_err(|error| error.to_string()) };
    process.run(made).await
}

/// How a host opens the volume.
pub fn spec(host: &Host, volume: &Incarnation, options: VolumeOptions) -> WorkerSpec {
    WorkerSpec {
        name: "volume".to_owned(),
        id: volume.id,
        options,
        state_dir: host.state(),
        control_socket: host.root.join("control"),
        stores: host.root.join("stores"),
        mountpoint: PathBuf::from("/volume"),
    }
}

/// Opens the volume in a process; `None` when that is killed meanwhile.
pub async fn mount(
    host: &Host,
    process: &Process,
    volume: &Incarnation,
    options: VolumeOptions,
) -> Option<Result<Arc<Bare>, WorkerError>> {
    mount_as(host, process, volume, options, Successor::No).await
}

/// As [`mount`], perhaps as the successor of a worker that died.
pub async fn mount_as(
    host: &Host,
    process: &Process,
    volume: &Incarnation,
    options: VolumeOptions,
    successor: Successor,
) -> Option<Result<Arc<Bare>, WorkerError>> {
    let spec = spec(host, volume, options);
    let (number, known) = (host.number, host.known());
    let opened = async move {
        let store = Store::stand_in(Port::new(number), &location(), &known);
        Bare::open(&spec, &store, successor).await.map(Arc::new)
    };
    process.run(opened).await
}

/// How long an end may take.
pub const END: Duration = Duration::from_secs(300);

/// Leads a process of a host to the bucket.
#[derive(Debug)]
pub struct PortOpener {
    pub host: usize,
    pub known: Known,
}

#[async_trait]
impl Opener for PortOpener {
    async fn open(&self, url: &BucketUrl, _: &VolumeOptions) -> Result<Arc<dyn Site>, StoreError> {
        let location = Location::parse(&url.to_string())?;
        let store = Store::stand_in(Port::new(self.host), &location, &self.known);
        Ok(Arc::new(PortSite { store, prefix: location.prefix }))
    }
}

#[derive(Debug)]
struct PortSite {
    store: Store,
    prefix: KeyPrefix,
}

#[async_trait]
impl Site for PortSite {
    fn store(&self) -> &dyn StoreBackend {
        &*self.store
    }

    fn prefix(&self) -> &KeyPrefix {
        &self.prefix
    }

    async fn check(&self) -> Result<ListPage, StoreError> {
        self.store.check(&self.prefix).await
    }

    async fn probe(&self, scratch: &KeyPrefix) -> Result<Capabilities, StoreError> {
        self.store.probe(scratch).await
    }

    fn known(&self) -> &Knowledge {
        self.store.known()
    }
}
