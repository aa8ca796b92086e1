//! A bucket, a local folder, and a volume in both without a worker; each test has its own.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use s3vol::config::VolumeOptions;
use s3vol::data::{Inode, NothingOutside, Volume};
use s3vol::fs::Fs;
use s3vol::settle::{Permit, Reconciler, Settler, changes};

use super::s3server::TestS3;
use super::volume::{create, volume_with};

/// Suites add what only they do to it.
pub struct World {
    pub server: TestS3,
    /// Shows the volume as nobody else changes it.
    pub fs: Arc<Fs>,
    pub volume: Arc<Volume>,
    pub dir: tempfile::TempDir,
}

impl World {
    /// An empty volume.
    pub async fn new() -> World {
        World::with(VolumeOptions::default()).await
    }

    pub async fn with(options: VolumeOptions) -> World {
        World::on(TestS3::start(), options).await
    }

    /// New, or taken from whoever had it, with nothing but what is in the bucket.
    pub async fn on(server: TestS3, options: VolumeOptions) -> World {
        let dir = tempfile::tempdir().unwrap();
        let volume = volume_with(&server, dir.path(), options).await;
        let fs = Arc::new(Fs::new(Arc::clone(&volume), Arc::new(NothingOutside)));
        World { server, fs, volume, dir }
    }

    /// A new empty file.
    pub async fn create(&self, name: &str) -> Arc<Inode> {
        create(&self.volume, name).await
    }

    /// Objects that hold packed extents.
    pub fn segments(&self) -> usize {
        self.server.keys("").iter().filter(|key| key.contains("/segments/")).count()
    }
}

/// A world and what settles its volume.
pub struct Settled {
    pub world: World,
    pub settler: Arc<Settler>,
    pub lease: Arc<Lease>,
}

impl Settled {
    pub async fn over(world: World) -> Settled {
        // Where it is missing, nothing that is gone is believed to be.
        world.server.put_foreign(world.volume.state.key("format.json").as_str(), "{}", &[]);
        let lease = Arc::new(Lease::default());
        let permit = Arc::clone(&lease) as Arc<dyn Permit>;
        let settler = Settler::open(Arc::clone(&world.volume), permit, "test".into());
        Settled { settler: settler.await.unwrap(), world, lease }
    }

    /// Sees what others change; it has looked at nothing yet, as after a mount.
    pub fn reconciler(&self) -> Arc<Reconciler> {
        Reconciler::new(Arc::clone(&self.settler), changes().0)
    }
}

impl Deref for Settled {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

/// A lease that lapses when the test says so.
#[derive(Debug, Default)]
pub struct Lease {
    pub lapsed: AtomicBool,
}

impl Permit for Lease {
    fn may_publish(&self) -> bool {
        !self.lapsed.load(Ordering::SeqCst)
    }
}
