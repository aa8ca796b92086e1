//! Local state that belongs to another past: never replayed, and never deleted before what only it
//! holds is in the bucket.
//!
//! A host that lost a volume may have content that never got there. It is read from the local log and
//! the cache files ([`lost`]), put below `recovered/` in the volume's state under a name of its own,
//! which needs no lease ([`upload`]), and brought back by whoever has access to the bucket
//! ([`restore`]). Changes of names alone are not recovered.

mod lost;
mod manifest;
mod restore;
mod upload;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

pub use restore::{Listed, Recovered, Restored, Shelf};
pub(super) use upload::{save, save_set_aside};

use super::WorkerError;
use crate::data::Trash;
use crate::fault::{at, points};
use crate::meta::log::{Header, StateDirLock};
use crate::meta::{Engine, LocalLog, Record};
use crate::types::{Epoch, Ino, Lsn, VolumeId};
use lost::Lost;

/// Beside the log, once what it alone held is in the bucket; holds the name there, and [`WHOLE`].
const UPLOADED: &str = "log/uploaded";
/// Likewise, from before anything of it is sent; holds the name.
const UPLOADING: &str = "log/uploading";
/// In [`UPLOADED`] when no byte was missing: nothing here is needed any more.
const WHOLE: &str = "whole";
/// In a folder that was set aside, once all of it is on the disk: it then says the same after a power cut.
const ON_DISK: &str = "on-disk";
/// The paths of the files, found when the folder was set aside.
const NAMES: &str = "names.json";

/// Moves the local log and the cache files that it speaks of to `recovery-<n>/` in the state folder, if
/// they hold content that is nowhere else; otherwise drops them. `engine` knows the names.
pub(super) async fn set_aside(
    state_dir: &Path,
    records: &[(Lsn, Record)],
    engine: &Engine,
    trash: &Trash,
) -> Result<(), WorkerError> {
    let lost = Lost::of(records);
    if lost.files.is_empty() {
        match lost.batches {
            0 => tracing::info!(
                "another host wrote this volume since; the local log has nothing that is not in the bucket"
            ),
            batches => tracing::warn!(
                batches,
                "another host wrote this volume since this one crashed: changes of names and attributes that were not synced are gone"
            ),
        }
        super::local::clear_local(state_dir, trash);
        return Ok(());
    }
    if is_up(state_dir) {
        tracing::warn!(
            files = lost.files.len(),
            "another host wrote this volume since; what was not synced here is in the bucket, see `s3vol recovered`"
        );
        super::local::clear_local(state_dir, trash);
        return Ok(());
    }
    let paths = lost.paths(Some(engine)).await;
    let aside = aside_folder(state_dir)?;
    move_aside(state_dir, &aside, &paths, trash)
        .map_err(WorkerError::local(aside.display().to_string()))?;
    tracing::error!(files = lost.files.len(), bytes = lost.bytes(), kept = %aside.display(),
        "another host wrote this volume since this one crashed: changes that were not synced are kept aside, not replayed; `s3vol recovered` shows them once they are uploaded");
    Ok(())
}

/// A new folder, or one that a process made which did not get to move the log there: unless it has the cache of an
/// earlier log, whose inodes have the same numbers.
fn aside_folder(state_dir: &Path) -> Result<PathBuf, WorkerError> {
    let mut number = 0;
    loop {
        let folder = state_dir.join(format!("recovery-{number}"));
        match std::fs::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(WorkerError::local(folder.display().to_string())(e)),
        }
        let other = folder.join("cache").exists() && state_dir.join("cache").exists();
        if !folder.join("log").exists() && !other {
            return Ok(folder);
        }
        number += 1;
    }
}

/// Moves the log last: as long as it is where it was, whoever opens the volume next does this again, and
/// no cache file is taken for one that nobody needs. `paths`: the files that the log speaks of.
fn move_aside(
    state_dir: &Path,
    aside: &Path,
    paths: &BTreeMap<Ino, String>,
    trash: &Trash,
) -> io::Result<()> {
    let cache = aside.join("cache");
    at(points::ASIDE_BEFORE);
    // As a whole, which takes no room on a full disk.
    if !cache.exists() {
        unless_missing(std::fs::rename(state_dir.join("cache"), &cache))?;
    }
    at(points::ASIDE_CACHE);
    drop_others(&cache, paths, trash)?;
    let names: BTreeMap<u64, &String> = paths.iter().map(|(ino, path)| (ino.0, path)).collect();
    let text = serde_json::to_vec(&names).map_err(io::Error::other)?;
    std::fs::write(aside.join(NAMES), text)?;
    std::fs::rename(state_dir.join("log"), aside.join("log"))?;
    at(points::ASIDE_AFTER);
    Ok(())
}

/// Drops the cache files of all but some inodes: the bucket has what they hold.
fn drop_others(cache: &Path, keep: &BTreeMap<Ino, String>, trash: &Trash) -> io::Result<()> {
    let shards = match std::fs::read_dir(cache) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        shards => shards?,
    };
    for shard in shards {
        let shard = shard?;
        if !shard.file_type()?.is_dir() {
            continue;
        }
        for file in std::fs::read_dir(shard.path())? {
            let file = file?;
            let number = file.file_name().to_str().and_then(|name| name.parse().ok());
            if !number.is_some_and(|ino| keep.contains_key(&Ino(ino))) {
                trash.take(&file.path())?;
            }
        }
    }
    Ok(())
}

fn unless_missing(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Brings a folder that was set aside to the disk. One of an earlier boot that was not is not believed:
/// content has no checksums here.
fn to_disk(state_dir: &Path, folder: &Path) -> io::Result<()> {
    let marker = folder.join(ON_DISK);
    if marker.exists() || !is_of_this_boot(folder)? {
        return Ok(());
    }
    sync_below(folder)?;
    std::fs::write(&marker, "")?;
    for path in [&marker, folder, state_dir] {
        File::open(path)?.sync_all()?;
    }
    Ok(())
}

fn sync_below(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => sync_below(&entry.path())?,
            false => File::open(entry.path())?.sync_all()?,
        }
    }
    File::open(folder)?.sync_all()
}

/// Whether the log in a folder was written since the host was started; so is none.
fn is_of_this_boot(folder: &Path) -> io::Result<bool> {
    let (header, _) = LocalLog::<Record>::found(&folder.join("log")).map_err(io::Error::other)?;
    let Some(header) = header else { return Ok(true) };
    Ok(header == Header::here(header.volume).map_err(io::Error::other)?)
}

/// Whether all that a folder alone held is in the bucket.
fn is_up(folder: &Path) -> bool {
    let marker = std::fs::read_to_string(folder.join(UPLOADED)).unwrap_or_default();
    marker.lines().nth(1) == Some(WHOLE)
}

/// The log goes on, or a new one begins: what was uploaded of it is not all that it will hold, and a folder to which
/// none was moved is of one that there is no more.
pub(super) fn goes_on(state_dir: &Path, trash: &Trash) -> Result<(), WorkerError> {
    let local = || WorkerError::local(state_dir.display().to_string());
    for folder in set_aside_in(state_dir).map_err(local())? {
        if !folder.join("log").exists() {
            trash.take(&folder).map_err(local())?;
        }
    }
    for marker in [UPLOADED, UPLOADING].map(|marker| state_dir.join(marker)) {
        unless_missing(std::fs::remove_file(&marker))
            .map_err(WorkerError::local(marker.display().to_string()))?;
    }
    Ok(())
}

/// The folders of what was set aside.
pub(super) fn set_aside_in(state_dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(state_dir)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with("recovery-")) {
            folders.push(entry.path());
        }
    }
    Ok(folders)
}

/// Removes the local folder of a volume that is deleted, unless something in it is in no bucket.
/// Says whether it is gone.
pub(super) fn remove_folder(state_dir: &Path) -> io::Result<bool> {
    if !state_dir.exists() {
        return Ok(true);
    }
    let Ok(_lock) = StateDirLock::acquire(state_dir) else { return Ok(false) };
    if has_content(state_dir)? {
        return Ok(false);
    }
    Trash::beside(state_dir).take(state_dir)?;
    Ok(true)
}

/// Whether a state folder has content that is in no bucket, in its log or set aside.
pub(super) fn has_content(state_dir: &Path) -> io::Result<bool> {
    for entry in std::fs::read_dir(state_dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let folder = match name.to_str() {
            Some("log") => state_dir.to_owned(),
            Some(name) if name.starts_with("recovery-") => entry.path(),
            _ => continue,
        };
        if holds_anything(&folder)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether an epoch was claimed with this state folder, in this boot, by a worker that runs no more.
pub(super) fn was_ours(state_dir: &Path, id: VolumeId, epoch: Epoch) -> bool {
    let dir = state_dir.join("log");
    if !dir.exists() {
        return false;
    }
    // A running worker has the lock. It is let go at once: one may be about to start.
    match StateDirLock::acquire(state_dir) {
        Ok(lock) => drop(lock),
        Err(_) => return false,
    }
    let Ok(header) = Header::here(id) else { return false };
    LocalLog::<Record>::epochs(&dir, &header).is_ok_and(|epochs| epochs.contains(&epoch))
}

/// Whether the log in a folder has content that was neither synced nor uploaded.
fn holds_anything(folder: &Path) -> io::Result<bool> {
    if folder.join(UPLOADED).exists() {
        return Ok(false);
    }
    let dir = folder.join("log");
    if !dir.exists() {
        return Ok(false);
    }
    // A log that could not be read was moved to a folder beside it.
    for entry in std::fs::read_dir(&dir)? {
        if entry?.file_type()?.is_dir() {
            return Ok(true);
        }
    }
    let records = LocalLog::<Record>::read(&dir).map_err(io::Error::other)?;
    Ok(!Lost::of(&records).files.is_empty())
}

/// Whether the local log of a volume has changes that were not synced, names included.
pub fn has_unsynced(state_dir: &Path) -> io::Result<bool> {
    let dir = state_dir.join("log");
    if state_dir.join(UPLOADED).exists() || !dir.exists() {
        return Ok(false);
    }
    let records = LocalLog::<Record>::read(&dir).map_err(io::Error::other)?;
    let lost = Lost::of(&records);
    Ok(lost.batches > 0 || !lost.files.is_empty())
}

/// The names that were found when a folder was set aside.
fn known_paths(folder: &Path) -> BTreeMap<Ino, String> {
    let names: BTreeMap<u64, String> = match std::fs::read(folder.join(NAMES)) {
        Ok(text) => serde_json::from_slice(&text).unwrap_or_default(),
        Err(_) => BTreeMap::new(),
    };
    names.into_iter().map(|(ino, path)| (Ino(ino), path)).collect()
}

#[cfg(test)]
mod tests;
