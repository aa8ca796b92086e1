//! The VolumeDriver API that dockerd and Podman talk to, and the accounting of mounts.
//!
//! Owns the answers on the plugin socket, the count of mounts per (volume, ID) and the decision when
//! a worker is started, drained and ended. Processes and mounts themselves belong to the supervisor,
//! behind the [`Workers`] trait; definitions belong to the catalog.
//!
//! Invariants:
//! - Get, List, Path and Capabilities are answered from memory: dockerd sends them all the time, and
//!   takes an error of Get for "no such volume".
//! - Create, Mount, Unmount and Remove run detached from the connection; a repeated call joins the
//!   running one; each answers within 25 s, because dockerd may give up after 30 s.
//! - An Unmount releases its count when it arrives, whatever becomes of the rest.
//! - No lock is held while a worker is waited for, except the volume's own turn while its process is
//!   started or ended.
//!
//! What survives a crash: the accounting (`mounts.json`, valid for one supervisor of one boot) and
//! the catalog's mirror. Workers go on without a driver.

mod accounts;
mod answers;
mod by_hand;
mod caller;
mod channel;
mod control;
mod events;
mod http;
mod jobs;
mod lanes;
mod left;
mod lifecycle;
mod measure;
mod newer;
mod program;
mod rest;
mod see_off;
mod status;
mod unmount;
mod upgrade;
mod volumes;
mod watch;
mod workers;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::catalog::{Catalog, Purge};
use crate::types::VolumeName;

pub use accounts::{Accounts, AccountsError};
pub use channel::SupervisorChannel;
pub use control::{ControlClient, ControlError, Stays};
pub use http::serve;
pub use measure::serve_metrics;
pub use newer::{Found, Place, installed};
pub use workers::{RunningProgram, RunningWorker, Upgrading, WorkerExit, Workers, WorkersError};

use crate::worker::Events;
use events::{Followed, Telling};
use jobs::Jobs;
use lanes::Lanes;
use measure::Scrapes;
use rest::Rest;
use status::StatusCache;
use upgrade::Noted;

/// The longest that a call of dockerd may take: its client may give up after 30 s.
const BUDGET: Duration = Duration::from_secs(25);

/// Where the driver keeps things, and its times; the times differ only in tests.
#[derive(Debug, Clone)]
pub struct DriverSettings {
    /// Local state.
    pub state: PathBuf,
    /// A volume is seen at `<mounts>/<name>`.
    pub mounts: PathBuf,
    /// For one call of dockerd.
    pub budget: Duration,
    /// How long a drained worker waits for the next Mount. Copy-up and `docker cp` mount twice
    /// within a second.
    pub linger: Duration,
    /// How long a volume that came up too late for its Mount is kept for the next one.
    pub keep: Duration,
    /// How long a reply that nobody heard is held for a repeated call. dockerd repeats after 1, 2, 4
    /// and 8 s.
    pub unheard: Duration,
}

impl DriverSettings {
    /// The usual times.
    pub fn new(state: impl Into<PathBuf>, mounts: impl Into<PathBuf>) -> Self {
        DriverSettings {
            state: state.into(),
            mounts: mounts.into(),
            budget: BUDGET,
            linger: Duration::from_secs(30),
            keep: Duration::from_secs(120),
            unheard: Duration::from_secs(20),
        }
    }

    /// The folder of the volumes' local state under `state`.
    pub fn volumes(state: &std::path::Path) -> PathBuf {
        state.join("volumes")
    }

    /// The folder of the workers' control sockets under `state`.
    pub fn control_sockets(state: &std::path::Path) -> PathBuf {
        state.join("run")
    }
}

/// The driver of one plugin.
pub struct Driver {
    settings: DriverSettings,
    catalog: Arc<Catalog>,
    workers: Arc<dyn Workers>,
    purge: Arc<dyn Purge>,
    accounts: Accounts,
    lanes: Lanes,
    status: StatusCache,
    jobs: Jobs,
    scrapes: Scrapes,
    events: Events,
    followed: Followed,
    rest: Rest,
    place: Place,
    noted: parking_lot::Mutex<Noted>,
    /// Held by whoever changes what lies in the place of newer programs.
    placing: tokio::sync::Mutex<()>,
}

impl Driver {
    /// Loads the accounting, finds the workers that still run, and starts those that should. Waits
    /// for local things only; what needs the bucket goes on in the background.
    pub async fn start(
        settings: DriverSettings,
        catalog: Arc<Catalog>,
        workers: Arc<dyn Workers>,
        purge: Arc<dyn Purge>,
    ) -> anyhow::Result<Arc<Driver>> {
        let boot = crate::sys::boot_id()?;
        Self::start_in_boot(settings, catalog, workers, purge, &boot).await
    }

    /// As [`Driver::start`], with the boot's identity from outside.
    pub async fn start_in_boot(
        settings: DriverSettings,
        catalog: Arc<Catalog>,
        workers: Arc<dyn Workers>,
        purge: Arc<dyn Purge>,
        boot: &str,
    ) -> anyhow::Result<Arc<Driver>> {
        let (accounts, left) = Accounts::load(&settings.state, boot, &workers.instance()).await?;
        let events = Events::default();
        let purge = Arc::new(Telling { purge, events: events.clone() });
        let _begins_now = crate::worker::started();
        let place = Place::below(&settings.state);
        let driver = Arc::new(Driver {
            settings,
            catalog,
            workers,
            purge,
            accounts,
            lanes: Lanes::default(),
            status: StatusCache::default(),
            jobs: Jobs::default(),
            scrapes: Scrapes::default(),
            events,
            followed: Followed::default(),
            rest: Rest::default(),
            place,
            noted: parking_lot::Mutex::default(),
            placing: tokio::sync::Mutex::default(),
        });
        driver.restore(left).await;
        tokio::spawn(Arc::clone(&driver).watch_exits());
        tokio::spawn(Arc::clone(&driver).keep_status());
        let background = Arc::clone(&driver);
        tokio::spawn(async move {
            let keep = |name: &VolumeName| background.accounts.total(name) > 0;
            background.catalog.keep_fresh(&keep, background.purge.as_ref()).await;
        });
        Ok(driver)
    }
}
