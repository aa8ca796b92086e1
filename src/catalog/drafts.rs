//! Creations of volumes that have not ended, noted on this host before anything of them is in the bucket.
//!
//! A process that dies between the first object and the definition would leave a state that nothing leads to, or a
//! place that is taken by nobody. By its note the next creation of the same place here goes on with that state. If
//! none comes, what there is of it goes when no request of that process can arrive any more; nothing does that
//! somebody has defined or used meanwhile.
//!
//! The notes of a host that is lost are lost with it: then one small object stays.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::definition::{
    Deleting, FORMAT, PrefixEntry, VolumeFormat, format_key, prefix_key, state_folder,
};
use super::file::write_durably;
use super::ground::Ground;
use super::lookup::Names;
use super::objects::{self, REQUEST, Replaced};
use super::{Catalog, CatalogError, Site};
use crate::clock::boottime;
use crate::config::VolumeOptions;
use crate::store::{Listing, PutOutcome, Send, StoreBackend};
use crate::sys::beside;
use crate::types::{ObjectKey, Version, VolumeId};

/// Stores that do not honour the expiry of requests are given a quarter of an hour elsewhere, too.
const AGE: Duration = Duration::from_secs(20 * 60);

/// A creation, as it lies on the local disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Note {
    format: u32,
    home: String,
    pub uuid: VolumeId,
    options: VolumeOptions,
}

impl Note {
    fn is_of(&self, home: &str, options: &VolumeOptions) -> bool {
        let place = |o: &VolumeOptions| (o.url.clone(), o.state_url.clone(), o.endpoint.clone());
        self.home == home && place(&self.options) == place(options)
    }
}

#[derive(Debug)]
struct Noted {
    note: Note,
    /// Since when nobody works on it, by the monotonic clock.
    idle: Option<Duration>,
}

/// The creations of one home that are noted on this host.
#[derive(Debug)]
pub(super) struct Drafts {
    folder: PathBuf,
    home: String,
    names: Names,
    notes: Mutex<BTreeMap<Uuid, Noted>>,
}

impl Drafts {
    /// Those that earlier processes left.
    pub fn load(state: &Path, home: &str, names: Names) -> Drafts {
        let folder = state.join("drafts");
        let mut notes = BTreeMap::new();
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let bytes = std::fs::read(entry.path()).unwrap_or_default();
            match serde_json::from_slice::<Note>(&bytes) {
                Ok(note) if note.home == home => {
                    notes.insert(note.uuid.0, Noted { note, idle: Some(boottime()) });
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(path = %entry.path().display(), %error, "no note"),
            }
        }
        Drafts { folder, home: home.to_owned(), names, notes: Mutex::new(notes) }
    }

    /// Notes a creation, or goes on with one of the same place that was cut short (`true`).
    pub async fn begin(&self, options: &VolumeOptions) -> Result<(VolumeId, bool), CatalogError> {
        let note = {
            let mut notes = self.notes.lock();
            let left = notes
                .values_mut()
                .find(|noted| noted.idle.is_some() && noted.note.is_of(&self.home, options));
            if let Some(noted) = left {
                noted.idle = None;
                return Ok((noted.note.uuid, true));
            }
            let note = Note {
                format: FORMAT,
                home: self.home.clone(),
                uuid: VolumeId::random(),
                options: options.clone(),
            };
            notes.insert(note.uuid.0, Noted { note: note.clone(), idle: None });
            note
        };
        let path = self.path(note.uuid);
        let at = path.clone();
        let written = beside(move || {
            let bytes = serde_json::to_vec_pretty(&note).map_err(std::io::Error::other)?;
            write_durably(&at, &bytes).map(|()| note.uuid)
        })
        .await
        .unwrap_or_else(|| Err(std::io::Error::other("it panicked")));
        written.map(|id| (id, false)).map_err(CatalogError::disk(&path))
    }

    /// It ended, and nothing is left to be done.
    pub async fn end(&self, id: VolumeId) {
        if self.notes.lock().remove(&id.0).is_none() {
            return;
        }
        let path = self.path(id);
        if let Some(Err(error)) = beside(move || std::fs::remove_file(path)).await {
            tracing::debug!(%id, %error, "the note of a creation stays");
        }
    }

    /// Takes away what was begun, unless somebody has named or used it since.
    pub async fn withdraw(&self, ground: &Ground, id: VolumeId) -> Result<(), CatalogError> {
        withdraw(ground, id, Some(&self.names)).await
    }

    /// It is left as it is.
    pub fn leave(&self, id: VolumeId) {
        if let Some(noted) = self.notes.lock().get_mut(&id.0) {
            noted.idle = Some(boottime());
        }
    }

    /// Those of which nothing can arrive any more. They have to be ended or left again.
    fn due(&self) -> Vec<Note> {
        let age = crate::fault::duration(crate::fault::DRAFT_AGE, AGE);
        let old = |idle: &Option<Duration>| {
            idle.is_some_and(|since| boottime().saturating_sub(since) >= age)
        };
        let mut notes = self.notes.lock();
        let due = notes.values_mut().filter(|noted| old(&noted.idle));
        due.map(|noted| {
            noted.idle = None;
            noted.note.clone()
        })
        .collect()
    }

    fn path(&self, id: VolumeId) -> PathBuf {
        self.folder.join(format!("{id}.json"))
    }
}

impl Catalog {
    /// Takes away what creations left that were cut short. Sends no request while there are none.
    pub(super) async fn clear_drafts(&self) -> Result<(), CatalogError> {
        let due = self.drafts.due();
        if due.is_empty() {
            return Ok(());
        }
        for note in due {
            let cleared = self.clear(&note).await;
            match cleared {
                Ok(()) => self.drafts.end(note.uuid).await,
                Err(error) => {
                    self.drafts.leave(note.uuid);
                    tracing::warn!(url = %note.options.url, error = &error as &dyn std::error::Error,
                        "what a creation left that was cut short is still there; it is tried again");
                }
            }
        }
        Ok(())
    }

    async fn clear(&self, note: &Note) -> Result<(), CatalogError> {
        let ground = Ground::open(self.opener.as_ref(), &note.options).await?;
        self.drafts.withdraw(&ground, note.uuid).await
    }
}

/// Takes a new state away again, and the entry that leads to it, unless somebody has named or used it since. Whoever
/// has no catalog knows no names.
pub(super) async fn withdraw(
    ground: &Ground,
    id: VolumeId,
    names: Option<&Names>,
) -> Result<(), CatalogError> {
    let (store, state) = (ground.state.store(), ground.state.prefix());
    let key = prefix_key(state, &ground.url);
    let entry = objects::read::<PrefixEntry>(store, &key, REQUEST).await?;
    if let Some((_, version)) = entry.filter(|(entry, _)| entry.uuid == id) {
        if !close(ground.state.as_ref(), id, names).await? {
            return Ok(());
        }
        if !objects::delete(store, &key, &version).await? {
            return Err(CatalogError::Unknown(key.to_string()));
        }
    } else if is_named(names, id).await? {
        return Ok(());
    }
    let (left, used) = contents(ground.state.as_ref(), id).await?;
    if used {
        return Ok(());
    }
    for key in left {
        match store.delete(&key, Send::plain(REQUEST)).await {
            PutOutcome::Won(_) | PutOutcome::Lost => {}
            PutOutcome::Failed(error) | PutOutcome::Ambiguous(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Says in `format.json` that nobody may mount this any more. False: somebody has named or used it.
///
/// Both are looked for once more after that. Whoever names a state that was found looks at `format.json` after that
/// (`Catalog::still_leads`), and so does whoever mounts it. So one of the two sees the other.
async fn close(
    state: &dyn Site,
    id: VolumeId,
    names: Option<&Names>,
) -> Result<bool, CatalogError> {
    let (store, key) = (state.store(), format_key(state.prefix(), id));
    if contents(state, id).await?.1 {
        return Ok(false);
    }
    let named = is_named(names, id).await?;
    let Some((was, version)) = objects::read::<VolumeFormat>(store, &key, REQUEST).await? else {
        return Ok(!named);
    };
    let open = VolumeFormat { deleting: None, ..was.clone() };
    let closed = VolumeFormat { deleting: Some(Deleting::State), ..was.clone() };
    if named {
        // It may have been closed by an attempt that was cut short.
        return match was == closed {
            true => reopen(store, &key, (&was, version), &open).await.map(|()| false),
            false => Ok(false),
        };
    }
    let Replaced::Yes(at) = objects::replace(store, &key, (&was, version), &closed).await? else {
        return Ok(false);
    };
    let wanted = is_wanted(state, id, names).await;
    if let Ok(false) = wanted {
        return Ok(true);
    }
    reopen(store, &key, (&closed, at), &open).await?;
    wanted.map(|_| false)
}

async fn reopen(
    store: &dyn StoreBackend,
    key: &ObjectKey,
    closed: (&VolumeFormat, Version),
    open: &VolumeFormat,
) -> Result<(), CatalogError> {
    match objects::replace(store, key, closed, open).await? {
        Replaced::Yes(_) => Ok(()),
        Replaced::No(_) => Err(CatalogError::Unknown(key.to_string())),
    }
}

/// Whether somebody has used or named it.
async fn is_wanted(
    state: &dyn Site,
    id: VolumeId,
    names: Option<&Names>,
) -> Result<bool, CatalogError> {
    Ok(contents(state, id).await?.1 || is_named(names, id).await?)
}

async fn is_named(names: Option<&Names>, id: VolumeId) -> Result<bool, CatalogError> {
    match names {
        Some(names) => names.lead_to(id).await,
        None => Ok(false),
    }
}

/// What lies in a state's folder, and whether anything of it is of a worker.
async fn contents(state: &dyn Site, id: VolumeId) -> Result<(Vec<ObjectKey>, bool), CatalogError> {
    let folder = state_folder(state.prefix(), id);
    let (format, probe) = (format_key(state.prefix(), id), folder.join("probe/"));
    let mut keys = Vec::new();
    let mut pages = Listing::of_keys(folder.as_str());
    while let Some(page) = pages.next(state.store(), REQUEST).await? {
        keys.extend(page.entries.into_iter().map(|entry| entry.key));
    }
    let ours = |key: &ObjectKey| *key == format || key.as_str().starts_with(probe.as_str());
    let used = !keys.iter().all(ours);
    Ok((keys, used))
}
