//! The real thing: a volume mounted in this process over the test server.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use s3vol::catalog::{Stores, incarnate};
use s3vol::clock::Deadline;
use s3vol::config::VolumeOptions;
use s3vol::fs::{Fs, FsError};
use s3vol::fsck::{Finding, Kind};
use s3vol::worker::{FsckHow, Mounted, VolumeAt, WorkerSpec, fsck};

use crate::support::opened::{self, credentials, opened, options};
use crate::support::s3server::TestS3;

const PATIENCE: Duration = Duration::from_secs(30);

pub fn server() -> &'static TestS3 {
    static SERVER: OnceLock<TestS3> = OnceLock::new();
    SERVER.get_or_init(|| {
        credentials();
        TestS3::start()
    })
}

pub struct World {
    pub spec: WorkerSpec,
    /// The keys of the files start with this.
    pub prefix: String,
    state: String,
    mounted: Option<Mounted>,
    local: tempfile::TempDir,
    incarnations: u32,
}

impl World {
    pub async fn new(refresh: Duration) -> World {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::SeqCst);
        let server = server();
        let local = tempfile::tempdir().unwrap();
        let (files, home) = (format!("files-{number}"), format!("home-{number}"));
        let mut options = VolumeOptions { refresh, ..options(server, &files, &home) };
        let found = incarnate(&Stores::default(), &options).await.unwrap();
        options.state_url = found.state_url;
        let mut world = World {
            prefix: format!("files-{number}/"),
            state: format!("home-{number}/.s3vol/v/{}/", found.id),
            spec: WorkerSpec {
                name: "model".into(),
                id: found.id,
                options,
                state_dir: PathBuf::new(),
                control_socket: PathBuf::new(),
                stores: local.path().join("stores"),
                mountpoint: PathBuf::new(),
            },
            mounted: None,
            local,
            incarnations: 0,
        };
        world.fresh_state_dir();
        world.open().await.unwrap();
        world
    }

    fn fresh_state_dir(&mut self) {
        self.incarnations += 1;
        self.spec.state_dir = self.local.path().join(self.incarnations.to_string());
    }

    async fn open(&mut self) -> Result<(), String> {
        self.mounted = Some(opened(&self.spec).await?);
        Ok(())
    }

    pub fn mounted(&self) -> &Mounted {
        self.mounted.as_ref().expect("mounted between the steps")
    }

    pub fn fs(&self) -> &Fs {
        &self.mounted().fs
    }

    pub async fn commit(&self) -> Result<(), String> {
        opened::commit(self.mounted()).await
    }

    /// Settles all that can; what is left is counted.
    pub async fn settle(&self) -> Result<u64, String> {
        let mounted = self.mounted();
        let volume = &mounted.volume;
        volume.commit(volume.dirty_inodes()).await.map_err(|e| format!("commit: {e}"))?;
        let mut left = 0;
        for _ in 0..4 {
            left = mounted
                .settler
                .settle_all(Deadline::after(PATIENCE))
                .await
                .map_err(|e| format!("settle: {e}"))?;
            if left == 0 {
                break;
            }
        }
        while volume.collect_dead().await.map_err(|e| format!("collect: {e}"))? {}
        volume.collect_segments(PATIENCE).await.map_err(|e| format!("collect: {e}"))?;
        Ok(left)
    }

    /// Whether the records say the same as each other and as the bucket, apart from what others did there.
    pub async fn whole(&self) -> Result<(), String> {
        let at = VolumeAt {
            options: self.spec.options.clone(),
            volumes: self.local.path().join("volumes"),
            stores: self.spec.stores.clone(),
        };
        let how = FsckHow { data: true, all: false, repair: None };
        let report = fsck(&at, how, &mut |_| {}).await.map_err(|e| format!("fsck: {e}"))?;
        let of_ours = |finding: &&Finding| finding.kind != Kind::Object;
        let found: Vec<String> =
            report.findings.iter().filter(of_ours).map(ToString::to_string).collect();
        if found.is_empty() { Ok(()) } else { Err(found.join("\n")) }
    }

    pub async fn settle_report(&self) -> String {
        use s3vol::meta::keys;
        let meta = &self.mounted().volume.meta;
        let work = meta.scan(keys::below(keys::WORK, &[]), 100).await.unwrap_or_default();
        let tidy = meta.scan(keys::below(keys::TIDY, &[]), 100).await.unwrap_or_default();
        format!(
            "work {:?}, tidy {:?}, {:?}",
            work.iter().filter_map(|(k, _)| keys::parse_ino(k)).collect::<Vec<_>>(),
            tidy.iter().filter_map(|(k, _)| keys::parse_object(k)).collect::<Vec<_>>(),
            self.mounted().settler.status()
        )
    }

    pub fn segments(&self) -> Vec<String> {
        server().keys(&format!("{}segments/", self.state))
    }

    /// Closes as an unmount does and opens again.
    pub async fn reopen(&mut self, empty: bool) -> Result<(), String> {
        opened::close(self.mounted.take().expect("mounted between the steps")).await?;
        if empty {
            self.fresh_state_dir();
        }
        self.open().await
    }

    /// The process dies; with `empty` the host dies, after everything was synced.
    pub async fn crash(&mut self, empty: bool) -> Result<(), String> {
        if empty {
            self.commit().await?;
        }
        self.give_up();
        if empty {
            self.expire_lease();
            self.fresh_state_dir();
        }
        self.open().await
    }

    pub fn give_up(&mut self) {
        if let Some(mounted) = self.mounted.take() {
            mounted.volume.meta.engine.abandon();
        }
    }

    /// As if the dead host's lease had run out.
    fn expire_lease(&self) {
        let server = server();
        for (key, object) in server.objects(&format!("{}lease/", self.state)) {
            let mut record: serde_json::Value = serde_json::from_slice(&object.body).unwrap();
            record["state"] = "released".into();
            server.put_foreign(&key, record.to_string(), &[]);
        }
    }
}

/// An error's name in the model.
pub fn kind(error: &FsError) -> &'static str {
    match error {
        FsError::NotFound => "not found",
        FsError::Exists => "exists",
        FsError::NotDir => "not a directory",
        FsError::IsDir => "is a directory",
        FsError::NotEmpty => "not empty",
        FsError::Invalid(_) => "invalid",
        FsError::NotPermitted => "not permitted",
        FsError::NoXattr => "no attribute",
        _ => "another error",
    }
}
