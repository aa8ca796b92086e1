//! Volume definitions in the bucket and their local mirror.
//!
//! Owns the keys `<home>/.s3vol/volumes/<name>.json` (one definition a volume, created with
//! put-if-absent), `<state>/.s3vol/stores/<hash>.json` (what a probe found of a store), `<state>/.s3vol/by-prefix/<hashes>/volume.json` (from a volume's URL to its uuid, so that
//! one prefix never gets two states) and the first write of `<state>/.s3vol/v/<uuid>/format.json`.
//!
//! Invariants:
//! - The definition is written last; a name is taken at that instant and not before.
//! - `format.json` is written before the by-prefix entry that leads to it, so an entry whose
//!   `format.json` is missing means damage, never "a new volume".
//! - A uuid is never used for a second incarnation: what others may have found is not begun again (`drafts`). A
//!   forgotten volume keeps its by-prefix entry, so that creating it again finds its state.
//!
//! What survives a crash: everything in the bucket, and the mirror file (written beside, synced,
//! renamed). A Create that was cut short is completed or repeated by the next one, or undone (`drafts`).

mod change;
mod create;
mod definition;
mod drafts;
mod error;
mod file;
mod ground;
mod hold;
mod incarnation;
mod lookup;
mod mirror;
mod named;
mod objects;
mod overlap;
mod remove;
mod rights;
mod site;
mod stores;
mod trace;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::config::{PluginConfig, VolumeHome, VolumeOptions};
use crate::types::VolumeName;

pub use definition::{Definition, Deleting, Incarnation, PrefixEntry, Removing, VolumeFormat};
pub use error::CatalogError;
pub use file::write_durably;
pub use hold::Hold;
pub use incarnation::{find_state, incarnate, new_state};
pub use lookup::{Keep, defined_in};
pub use remove::{Purge, Purged, RetainAll};
pub use rights::{Asked, Checked, Verdict, check_credentials};
pub use site::{Opener, Site, Stores};
pub use stores::record;
pub use trace::{Trace, lead_to, trace};

use drafts::Drafts;
use lookup::{Breaker, Names};
use mirror::Mirror;

/// The catalog of one home, shared by all hosts that use it.
#[derive(Debug)]
pub struct Catalog {
    opener: Arc<dyn Opener>,
    home: VolumeHome,
    defaults: VolumeOptions,
    capture: bool,
    grace: Duration,
    host: String,
    mirror: Arc<Mirror>,
    drafts: Arc<Drafts>,
    breaker: Breaker,
    /// Somebody asked since the last refresh; an idle daemon costs no requests.
    asked: AtomicBool,
    /// Somebody wanted to see all volumes, and will look again.
    listed: tokio::sync::Notify,
}

impl Catalog {
    /// Opens the mirror under `state`; sends no request. `host` names this machine in records.
    pub async fn open(
        config: &PluginConfig,
        opener: Arc<dyn Opener>,
        host: String,
    ) -> Result<Catalog, CatalogError> {
        if config.home.embedded {
            let store = Path::new("/").join(config.home.url.prefix.as_str());
            tokio::fs::create_dir_all(&store).await.map_err(CatalogError::disk(&store))?;
        }
        let home = config.home.url.to_string();
        let mirror = Arc::new(Mirror::load(&config.state, &home)?);
        let names = Names {
            opener: Arc::clone(&opener),
            home: config.home.url.clone(),
            defaults: config.defaults.clone(),
            mirror: Arc::clone(&mirror),
        };
        Ok(Catalog {
            opener,
            home: config.home.clone(),
            defaults: config.defaults.clone(),
            capture: config.capture,
            grace: config.grace,
            host,
            mirror,
            drafts: Arc::new(Drafts::load(&config.state, &home, names)),
            breaker: Breaker::default(),
            asked: AtomicBool::new(true),
            listed: tokio::sync::Notify::new(),
        })
    }

    /// The home, before a record there is changed: with what is known of its store.
    async fn home_to_change(&self) -> Result<Arc<dyn Site>, CatalogError> {
        let home = self.opener.open(&self.home.url, &self.defaults).await?;
        stores::look_up(home.as_ref(), home.as_ref()).await;
        Ok(home)
    }

    /// Whether the home is the embedded store, which `docker plugin rm` deletes.
    pub fn is_embedded(&self) -> bool {
        self.home.embedded
    }

    /// The definition of a known volume, from memory. Volumes being removed are not shown.
    pub fn known(&self, name: &VolumeName) -> Option<Definition> {
        self.asked.store(true, Ordering::Relaxed);
        self.mirror.get(name).filter(|e| self.shown(e)).map(|e| self.as_used_here(e))
    }

    /// All known volumes, from memory. Brings the next refresh forward, so that who lists again a
    /// moment later sees what other hosts did.
    pub fn all(&self) -> Vec<Definition> {
        self.asked.store(true, Ordering::Relaxed);
        self.listed.notify_one();
        let entries = self.mirror.all();
        entries.into_iter().filter(|e| self.shown(e)).map(|e| self.as_used_here(e)).collect()
    }

    /// A volume that others write may be one that this host only reads.
    fn as_used_here(&self, entry: mirror::MirrorEntry) -> Definition {
        let mut definition = entry.definition;
        definition.options.readonly |= entry.readonly || self.defaults.readonly;
        definition
    }

    /// Whether this host only reads a volume that others write.
    fn only_reads(&self, name: &VolumeName) -> bool {
        self.defaults.readonly || self.mirror.get(name).is_some_and(|entry| entry.readonly)
    }

    fn shown(&self, entry: &mirror::MirrorEntry) -> bool {
        entry.definition.removing.is_none() && (self.capture || entry.declared)
    }

    /// The options that `given` would make for `name`, over the plugin's defaults.
    fn parse(
        &self,
        given: &BTreeMap<String, String>,
        name: &VolumeName,
    ) -> Result<VolumeOptions, CatalogError> {
        Ok(VolumeOptions::parse(given, &self.defaults, &self.home, name)?)
    }
}
