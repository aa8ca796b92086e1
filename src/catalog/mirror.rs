//! The local copy of the catalog: answers without the network, and across restarts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use sha2::Digest;

use super::CatalogError;
use super::definition::{Definition, FORMAT};
use super::file::write_durably;
use crate::fault::{at, points};
use crate::sys::beside;
use crate::types::{Version, VolumeName};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct MirrorEntry {
    pub definition: Definition,
    /// Of the object it was read from; unknown right after we wrote it.
    pub version: Option<Version>,
    /// Created through this host's Docker.
    pub declared: bool,
    /// This host asked to read it only, whatever the definition says.
    #[serde(default)]
    pub readonly: bool,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct MirrorFile {
    format: u32,
    home: String,
    volumes: BTreeMap<VolumeName, MirrorEntry>,
}

/// Lock order: `saving` before `volumes`; `volumes` is never held over an await.
#[derive(Debug)]
pub(super) struct Mirror {
    path: PathBuf,
    home: String,
    volumes: RwLock<BTreeMap<VolumeName, MirrorEntry>>,
    saving: tokio::sync::Mutex<()>,
}

impl Mirror {
    /// Reads the file of this home. A file that cannot be read is set aside, not deleted: the
    /// bucket has the truth.
    pub fn load(state: &Path, home: &str) -> Result<Mirror, CatalogError> {
        // One file a home, so that a changed S3VOL_URL can be changed back.
        let hash = format!("{:x}", sha2::Sha256::digest(home));
        let path = state.join(format!("catalog-{}.json", &hash[..12]));
        let volumes = match std::fs::read(&path) {
            Ok(bytes) => match serde_json::from_slice::<MirrorFile>(&bytes) {
                Ok(file) => file.volumes,
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "unreadable mirror set aside");
                    let aside = path.with_extension("damaged");
                    std::fs::rename(&path, &aside).map_err(CatalogError::disk(&aside))?;
                    BTreeMap::new()
                }
            },
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(e) => return Err(CatalogError::disk(&path)(e)),
        };
        Ok(Mirror {
            path,
            home: home.to_owned(),
            volumes: RwLock::new(volumes),
            saving: tokio::sync::Mutex::new(()),
        })
    }

    pub fn get(&self, name: &VolumeName) -> Option<MirrorEntry> {
        self.volumes.read().get(name).cloned()
    }

    pub fn all(&self) -> Vec<MirrorEntry> {
        self.volumes.read().values().cloned().collect()
    }

    /// Changes the copy and, if `change` says so, saves it before returning.
    pub async fn change(
        &self,
        change: impl FnOnce(&mut BTreeMap<VolumeName, MirrorEntry>) -> bool,
    ) -> Result<(), CatalogError> {
        let _one_writer = self.saving.lock().await;
        let file = {
            let mut volumes = self.volumes.write();
            if !change(&mut volumes) {
                return Ok(());
            }
            MirrorFile { format: FORMAT, home: self.home.clone(), volumes: volumes.clone() }
        };
        let path = self.path.clone();
        let saved = beside(move || {
            let bytes = serde_json::to_vec_pretty(&file).map_err(std::io::Error::other)?;
            at(points::MIRROR_BEFORE);
            write_durably(&path, &bytes)?;
            at(points::MIRROR_AFTER);
            Ok(())
        });
        saved
            .await
            .unwrap_or_else(|| Err(std::io::Error::other("it panicked")))
            .map_err(CatalogError::disk(&self.path))
    }

    /// Whether this host only reads a volume that others may write.
    pub async fn read_only(&self, name: &VolumeName, readonly: bool) -> Result<(), CatalogError> {
        self.change(|volumes| match volumes.get_mut(name) {
            Some(entry) if entry.readonly != readonly => {
                entry.readonly = readonly;
                true
            }
            _ => false,
        })
        .await
    }

    /// Takes in that a volume was removed here. Capture off: it is no longer one of ours.
    pub async fn forget(&self, removed: Definition, at: Version) -> Result<(), CatalogError> {
        self.change(|volumes| {
            let name = removed.name.clone();
            let readonly = volumes.get(&name).is_some_and(|entry| entry.readonly);
            let entry =
                MirrorEntry { definition: removed, version: Some(at), declared: false, readonly };
            volumes.insert(name, entry);
            true
        })
        .await
    }

    /// Takes in what the bucket says of one volume. `declare` marks it as created through this
    /// host; a mark is never taken back here.
    pub async fn learn(
        &self,
        definition: Definition,
        version: Option<Version>,
        declare: bool,
    ) -> Result<(), CatalogError> {
        self.change(|volumes| {
            let before = volumes.get(&definition.name);
            let declared = declare || before.is_some_and(|e| e.declared);
            let readonly = before.is_some_and(|e| e.readonly);
            let same = before.is_some_and(|e| e.definition == definition && e.declared == declared);
            let entry = MirrorEntry { definition, version, declared, readonly };
            volumes.insert(entry.definition.name.clone(), entry);
            !same
        })
        .await
    }
}
