//! Creations and deletions of volumes that have not ended, noted on this host before anything of them is in the bucket.
//!
//! A process that dies between the first object and the definition would leave a state that nothing leads to, or a
//! place that is taken by nobody. What there is of it goes when no request of that process can arrive any more; nothing
//! does that somebody has defined or used meanwhile.
//!
//! The next creation of the same place here goes on with a state of which only the note knows. Once the place may lead to
//! it others may have found it, used it, and deleted it: from then on it goes on only where the place still leads there,
//! as it would on any host. So no identity is used again after its volume is gone.
//!
//! A deletion of a removed volume is noted as well. Two hosts that delete one volume do not hinder each other, and what
//! the slower one had written, or had under way when it died, goes in the same way.
//!
//! The notes of a host that is lost are lost with it: then what it had just written stays.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::definition::{
    Definition, Deleting, FORMAT, PrefixEntry, VolumeFormat, format_key, prefix_key, state_folder,
};
use super::file::write_durably;
use super::ground::Ground;
use super::lookup::Names;
use super::objects::{self, REQUEST, Replaced};
use super::{Catalog, CatalogError, Site};
use crate::clock::boottime;
use crate::config::{BucketUrl, VolumeOptions};
use crate::store::{
    Attributes, Listing, Properties, PutOutcome, Send, StoreBackend, StoreErrorKind, scratch_of,
};
use crate::sys::beside;
use crate::types::{ObjectKey, Version, VolumeId};

/// Stores that do not honour the expiry of requests are given a quarter of an hour elsewhere, too.
const AGE: Duration = Duration::from_secs(20 * 60);

/// How far it has come. Each is on the disk before anything of it is in the bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Phase {
    /// Nobody else can know of it.
    Begun,
    /// Its place may lead to it.
    #[default]
    Claimed,
    /// It is being taken away; a request for that may arrive late.
    Leaving,
    /// It was a volume, which is being deleted.
    Purging,
}

/// A creation or a deletion, as it lies on the local disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Note {
    format: u32,
    home: String,
    pub uuid: VolumeId,
    options: VolumeOptions,
    #[serde(default)]
    phase: Phase,
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
    /// Requests of an attempt that was cut short may still arrive.
    late: bool,
}

/// The creations and deletions of one home that are noted on this host.
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
                    notes.insert(note.uuid.0, Noted { note, idle: Some(boottime()), late: true });
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(path = %entry.path().display(), %error, "no note"),
            }
        }
        Drafts { folder, home: home.to_owned(), names, notes: Mutex::new(notes) }
    }

    /// Notes a creation, or goes on with one of the same place that was cut short and that nobody else can know of
    /// (`true`).
    pub async fn begin(&self, options: &VolumeOptions) -> Result<(VolumeId, bool), CatalogError> {
        let note = {
            let mut notes = self.notes.lock();
            let left = notes.values_mut().find(|noted| {
                let begun = noted.idle.is_some() && noted.note.phase == Phase::Begun;
                begun && noted.note.is_of(&self.home, options)
            });
            if let Some(noted) = left {
                (noted.idle, noted.late) = (None, true);
                return Ok((noted.note.uuid, true));
            }
            let note = self.note(VolumeId::random(), options, Phase::Begun);
            notes.insert(note.uuid.0, Noted { note: note.clone(), idle: None, late: false });
            note
        };
        let id = note.uuid;
        self.write(note).await.map(|()| (id, false))
    }

    /// All that were begun at the same place.
    pub fn of(&self, options: &VolumeOptions) -> Vec<VolumeId> {
        let notes = self.notes.lock();
        let here = notes.values().filter(|noted| noted.note.is_of(&self.home, options));
        here.map(|noted| noted.note.uuid).collect()
    }

    /// Before its place may lead to it.
    pub async fn claims(&self, id: VolumeId) -> Result<(), CatalogError> {
        self.comes_to(id, Phase::Claimed).await
    }

    /// Before anything of it is taken away.
    pub async fn leaves(&self, id: VolumeId) -> Result<(), CatalogError> {
        self.comes_to(id, Phase::Leaving).await
    }

    async fn comes_to(&self, id: VolumeId, phase: Phase) -> Result<(), CatalogError> {
        let note = self.notes.lock().get(&id.0).map(|noted| noted.note.clone());
        let Some(note) = note.filter(|note| note.phase != phase) else { return Ok(()) };
        self.write(Note { phase, ..note }).await?;
        if let Some(noted) = self.notes.lock().get_mut(&id.0) {
            noted.note.phase = phase;
        }
        Ok(())
    }

    /// Goes on with a creation whose state the place leads to, if one is noted that nobody works on. It has to be ended
    /// or left.
    pub fn resume(&self, id: VolumeId) -> bool {
        let mut notes = self.notes.lock();
        let left = notes
            .get_mut(&id.0)
            .filter(|noted| noted.idle.is_some() && noted.note.phase == Phase::Claimed);
        left.map(|noted| (noted.idle, noted.late) = (None, true)).is_some()
    }

    /// Notes that this host is about to delete a removed volume. It has to be left after that.
    pub async fn purges(&self, volume: &Definition) -> Result<(), CatalogError> {
        if let Some(noted) = self.notes.lock().get_mut(&volume.uuid.0)
            && noted.note.phase == Phase::Purging
        {
            noted.idle = None;
            return Ok(());
        }
        let note = self.note(volume.uuid, &volume.options, Phase::Purging);
        self.write(note.clone()).await?;
        self.notes.lock().insert(note.uuid.0, Noted { note, idle: None, late: true });
        Ok(())
    }

    fn note(&self, uuid: VolumeId, options: &VolumeOptions, phase: Phase) -> Note {
        Note { format: FORMAT, home: self.home.clone(), uuid, options: options.clone(), phase }
    }

    async fn write(&self, note: Note) -> Result<(), CatalogError> {
        let path = self.path(note.uuid);
        let at = path.clone();
        let written = beside(move || {
            let bytes = serde_json::to_vec_pretty(&note).map_err(std::io::Error::other)?;
            write_durably(&at, &bytes)
        })
        .await
        .unwrap_or_else(|| Err(std::io::Error::other("it panicked")));
        written.map_err(CatalogError::disk(&path))
    }

    /// It ended, and nothing is left to be done but what may arrive late.
    pub async fn end(&self, id: VolumeId) {
        let late = self.notes.lock().get(&id.0).is_some_and(|noted| noted.late);
        match late {
            true => self.leave(id),
            false => self.forget(id).await,
        }
    }

    async fn forget(&self, id: VolumeId) {
        if self.notes.lock().remove(&id.0).is_none() {
            return;
        }
        let path = self.path(id);
        if let Some(Err(error)) = beside(move || std::fs::remove_file(path)).await {
            tracing::debug!(%id, %error, "a note stays");
        }
    }

    /// Takes away what was begun, unless somebody has named or used it since.
    pub async fn withdraw(&self, ground: &Ground, id: VolumeId) -> Result<(), CatalogError> {
        withdraw(ground, id, Some(self)).await
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
            match self.clear(&note).await {
                // All of it went with its bucket.
                Err(CatalogError::Store(error)) if error.kind == StoreErrorKind::NoBucket => {
                    self.drafts.forget(note.uuid).await;
                }
                Ok(()) => self.drafts.forget(note.uuid).await,
                Err(error) => {
                    self.drafts.leave(note.uuid);
                    tracing::warn!(url = %note.options.url, error = &error as &dyn std::error::Error,
                        "what was left by a creation or a deletion is still there; it is tried again");
                }
            }
        }
        Ok(())
    }

    async fn clear(&self, note: &Note) -> Result<(), CatalogError> {
        let ground = Ground::open(self.opener.as_ref(), &note.options).await?;
        match note.phase {
            Phase::Purging => clear_purged(&ground, note.uuid, &self.drafts.names).await,
            _ => {
                self.drafts.withdraw(&ground, note.uuid).await?;
                self.named_beside(note.uuid, &ground).await
            }
        }
    }
}

impl Catalog {
    /// A creation that was cut short when its volume had a name may not have seen its neighbours. As long as it lies in or
    /// around another one, its note stays, and no creation here confirms it.
    async fn named_beside(&self, id: VolumeId, ground: &Ground) -> Result<(), CatalogError> {
        if !self.drafts.names.lead_to(id, ground).await? {
            return Ok(());
        }
        self.refresh(&|_| true).await?;
        let named = self.mirror.all().into_iter().find(|entry| entry.definition.uuid == id);
        match named.filter(|entry| entry.definition.removing.is_none()) {
            Some(entry) => self.stands_beside(&entry.definition).await,
            None => Ok(()),
        }
    }
}

/// Takes a new state away again, and the entry that leads to it, unless somebody has named or used it since. Whoever
/// has no catalog knows no names.
pub(super) async fn withdraw(
    ground: &Ground,
    id: VolumeId,
    drafts: Option<&Drafts>,
) -> Result<(), CatalogError> {
    let names = drafts.map(|drafts| &drafts.names);
    let (store, state) = (ground.state.store(), ground.state.prefix());
    let key = prefix_key(state, &ground.url);
    let entry = objects::read::<PrefixEntry>(store, &key, REQUEST).await?;
    if let Some((_, version)) = entry.filter(|(entry, _)| entry.uuid == id) {
        if !close(ground, id, names).await? {
            return Ok(());
        }
        // Who opened it again could lose the entry to a request that is late.
        if let Some(drafts) = drafts {
            drafts.leaves(id).await?;
        }
        if !objects::delete(ground.state.as_ref(), &key, &version).await? {
            return Err(CatalogError::Unknown(key.to_string()));
        }
    } else if is_named(names, id, ground).await? {
        return Ok(());
    }
    let (left, used) = contents(ground.state.as_ref(), id).await?;
    if used {
        return Ok(());
    }
    if let Some(drafts) = drafts {
        drafts.leaves(id).await?;
    }
    delete_all(store, left).await
}

/// Takes away what is left in the state of a volume that was deleted: another deletion of the same volume wrote it
/// before it saw that. What a name or a place leads to is not looked at: that deletion has not ended.
async fn clear_purged(ground: &Ground, id: VolumeId, names: &Names) -> Result<(), CatalogError> {
    if ground.entry().await?.is_some_and(|entry| entry.uuid == id)
        || names.lead_to(id, ground).await?
    {
        return Ok(());
    }
    let (store, state) = (ground.state.store(), ground.state.prefix());
    let key = format_key(state, id);
    match objects::read::<VolumeFormat>(store, &key, REQUEST).await? {
        // It was rebuilt, or nobody knows why it is there.
        Some((format, _)) if format.deleting.is_none() || format.replaced_by.is_some() => Ok(()),
        _ => delete_all(store, contents(ground.state.as_ref(), id).await?.0).await,
    }
}

async fn delete_all(store: &dyn StoreBackend, keys: Vec<ObjectKey>) -> Result<(), CatalogError> {
    for key in keys {
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
async fn close(ground: &Ground, id: VolumeId, names: Option<&Names>) -> Result<bool, CatalogError> {
    let state = ground.state.as_ref();
    let (store, key) = (state.store(), format_key(state.prefix(), id));
    let used = contents(state, id).await?.1 || is_named(names, id, ground).await?;
    let Some((was, version)) = objects::read::<VolumeFormat>(store, &key, REQUEST).await? else {
        return Ok(!used);
    };
    if was.deleting.is_some() && !was.withdrawn {
        // It became a volume, which somebody deletes.
        return Ok(false);
    }
    let open = VolumeFormat { deleting: None, withdrawn: false, ..was.clone() };
    if used {
        // It may have been closed by an attempt that was cut short.
        return match was == open {
            true => Ok(false),
            false => reopen(store, &key, (&was, version), &open).await.map(|()| false),
        };
    }
    let closed = VolumeFormat { deleting: Some(Deleting::State), withdrawn: true, ..was.clone() };
    let Replaced::Yes(at) = objects::replace(store, &key, (&was, version), &closed).await? else {
        return Ok(false);
    };
    let wanted = is_wanted(ground, id, names).await;
    if let Ok(false) = wanted {
        return Ok(true);
    }
    reopen(store, &key, (&closed, at), &open).await?;
    wanted.map(|_| false)
}

/// Opens the state of a creation that goes on, if it was about to be taken away.
pub(super) async fn open_again(ground: &Ground, id: VolumeId) -> Result<(), CatalogError> {
    let (store, key) = (ground.state.store(), format_key(ground.state.prefix(), id));
    match objects::read::<VolumeFormat>(store, &key, REQUEST).await? {
        Some((was, version)) if was.withdrawn => {
            let open = VolumeFormat { deleting: None, withdrawn: false, ..was.clone() };
            reopen(store, &key, (&was, version), &open).await
        }
        _ => Ok(()),
    }
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
    ground: &Ground,
    id: VolumeId,
    names: Option<&Names>,
) -> Result<bool, CatalogError> {
    Ok(contents(ground.state.as_ref(), id).await?.1 || is_named(names, id, ground).await?)
}

async fn is_named(
    names: Option<&Names>,
    id: VolumeId,
    ground: &Ground,
) -> Result<bool, CatalogError> {
    match names {
        Some(names) => names.lead_to(id, ground).await,
        None => Ok(false),
    }
}

/// Says in the state that a catalog of another home is about to lead there, whose names are not looked at. It goes with
/// the state.
pub(super) async fn mark_named(
    ground: &Ground,
    id: VolumeId,
    home: &BucketUrl,
) -> Result<(), CatalogError> {
    let key = state_folder(ground.state.prefix(), id).key("named");
    let body = Bytes::from(home.to_string());
    let (none, plain) = (Attributes::new(), Properties::default());
    match ground.state.store().put(&key, body, &none, &plain, Send::plain(REQUEST)).await {
        PutOutcome::Won(_) | PutOutcome::Lost => Ok(()),
        PutOutcome::Failed(error) | PutOutcome::Ambiguous(error) => Err(error.into()),
    }
}

/// What lies in a state's folder, and whether anything of it is of a worker, or of another home.
async fn contents(state: &dyn Site, id: VolumeId) -> Result<(Vec<ObjectKey>, bool), CatalogError> {
    let folder = state_folder(state.prefix(), id);
    let (format, probe) = (format_key(state.prefix(), id), scratch_of(&folder));
    let mut keys = Vec::new();
    let mut pages = Listing::of_keys(folder.as_str());
    while let Some(page) = pages.next(state.store(), REQUEST).await? {
        keys.extend(page.entries.into_iter().map(|entry| entry.key));
    }
    let ours = |key: &ObjectKey| *key == format || key.as_str().starts_with(probe.as_str());
    let used = !keys.iter().all(ours);
    Ok((keys, used))
}
