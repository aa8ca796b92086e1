//! Who has which volume mounted, as dockerd told.
//!
//! dockerd mounts one ID several times (`docker cp` on a running container) and unmounts it as often,
//! so IDs are counted, not gathered in a set. After a crash of dockerd no Unmount ever comes for the
//! old IDs; the counts are therefore bound to the mounts they speak of: to one boot, and to one
//! supervisor, with which all mounts end.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::catalog::write_durably;
use crate::types::VolumeName;

type Counts = BTreeMap<VolumeName, BTreeMap<String, u32>>;

#[derive(Debug, Serialize, Deserialize)]
struct File {
    format: u32,
    boot: String,
    supervisor: String,
    volumes: Counts,
}

#[derive(Debug, Default)]
struct Latest {
    mounts: u64,
    by_id: HashMap<(VolumeName, String), u64>,
}

/// The accounting could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("the accounting of mounts at {path}: {source}")]
pub struct AccountsError {
    path: String,
    #[source]
    source: std::io::Error,
}

/// Counts of mounts. Lock order: `saving`, `counts`, `latest`; the latter two are never held over an await.
#[derive(Debug)]
pub struct Accounts {
    path: PathBuf,
    boot: String,
    supervisor: String,
    counts: Mutex<Counts>,
    /// Of each ID that is counted, which of all mounts was its latest.
    latest: Mutex<Latest>,
    saving: tokio::sync::Mutex<()>,
}

/// What a release did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Released {
    /// No such mount is known.
    Unknown,
    /// Others remain.
    Others,
    /// It was the volume's last.
    Last,
}

impl Accounts {
    /// Reads the counts of this boot and supervisor. Also returns the volumes that an earlier
    /// supervisor of this boot had mounted: their local state may hold uncommitted changes.
    pub async fn load(
        state: &Path,
        boot: &str,
        supervisor: &str,
    ) -> Result<(Accounts, Vec<VolumeName>), AccountsError> {
        let path = state.join("mounts.json");
        let failed = |source| AccountsError { path: path.display().to_string(), source };
        let file = match tokio::fs::read(&path).await {
            Ok(bytes) => match serde_json::from_slice::<File>(&bytes) {
                Ok(file) => Some(file),
                Err(error) => {
                    tracing::error!(path = %path.display(), %error,
                        "the accounting of mounts is damaged; set aside, counts start at none");
                    let aside = path.with_extension("damaged");
                    tokio::fs::rename(&path, aside).await.map_err(failed)?;
                    None
                }
            },
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => return Err(failed(e)),
        };
        let (counts, left) = match file {
            Some(f) if f.boot == boot && f.supervisor == supervisor => (f.volumes, Vec::new()),
            Some(f) if f.boot == boot => (Counts::new(), f.volumes.into_keys().collect()),
            _ => (Counts::new(), Vec::new()),
        };
        let accounts = Accounts {
            path,
            boot: boot.to_owned(),
            supervisor: supervisor.to_owned(),
            counts: Mutex::new(counts),
            latest: Mutex::default(),
            saving: tokio::sync::Mutex::new(()),
        };
        Ok((accounts, left))
    }

    /// Mounts of the volume on this host.
    pub fn total(&self, name: &VolumeName) -> u32 {
        self.counts.lock().get(name).map_or(0, |ids| ids.values().sum())
    }

    /// Volumes with mounts.
    pub fn mounted(&self) -> Vec<VolumeName> {
        self.counts.lock().keys().cloned().collect()
    }

    /// Names the latest mount of an ID among all of this run; 0 when there is none.
    pub fn mounted_as(&self, name: &VolumeName, id: &str) -> u64 {
        let latest = self.latest.lock();
        latest.by_id.get(&(name.clone(), id.to_owned())).copied().unwrap_or(0)
    }

    fn take(&self, name: &VolumeName, id: &str) -> Released {
        let mut counts = self.counts.lock();
        let released = take(&mut counts, name, id);
        if !counts.get(name).is_some_and(|ids| ids.contains_key(id)) {
            self.latest.lock().by_id.remove(&(name.clone(), id.to_owned()));
        }
        released
    }

    /// Counts one mount. On an error nothing was counted.
    pub async fn add(&self, name: &VolumeName, id: &str) -> Result<(), AccountsError> {
        {
            let mut counts = self.counts.lock();
            *counts.entry(name.clone()).or_default().entry(id.to_owned()).or_insert(0) += 1;
        }
        {
            let mut latest = self.latest.lock();
            latest.mounts += 1;
            let this = latest.mounts;
            latest.by_id.insert((name.clone(), id.to_owned()), this);
        }
        if let Err(error) = self.save().await {
            self.take(name, id);
            return Err(error);
        }
        Ok(())
    }

    /// Takes one mount back. A full disk does not hold it: the count in memory is what matters
    /// until the driver ends.
    pub async fn release(&self, name: &VolumeName, id: &str) -> Released {
        let released = self.take(name, id);
        if released != Released::Unknown
            && let Err(error) = self.save().await
        {
            tracing::error!(volume = %name, %error, "an unmount could not be recorded");
        }
        released
    }

    /// Writes the counts of now; waiting callers may find their change already written by another.
    async fn save(&self) -> Result<(), AccountsError> {
        let _one_writer = self.saving.lock().await;
        let file = File {
            format: 1,
            boot: self.boot.clone(),
            supervisor: self.supervisor.clone(),
            volumes: self.counts.lock().clone(),
        };
        let path = self.path.clone();
        tokio::task::spawn_blocking(move || {
            let bytes = serde_json::to_vec(&file).map_err(std::io::Error::other)?;
            write_durably(&path, &bytes)
        })
        .await
        .unwrap_or_else(|e| Err(std::io::Error::other(e)))
        .map_err(|source| AccountsError { path: self.path.display().to_string(), source })
    }
}

fn take(counts: &mut Counts, name: &VolumeName, id: &str) -> Released {
    let Some(ids) = counts.get_mut(name) else { return Released::Unknown };
    let Some(count) = ids.get_mut(id) else { return Released::Unknown };
    *count -= 1;
    if *count == 0 {
        ids.remove(id);
    }
    if !ids.is_empty() {
        return Released::Others;
    }
    counts.remove(name);
    Released::Last
}
