//! What hosts brought up that lost a volume: shown, and written into a local folder.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::manifest::{FORMAT, MANIFEST, Manifest, ManifestFile, bytes_in, covered};
use crate::config::VolumeOptions;
use crate::data::unescape_name;
use crate::store::{Known, Listing, StoreBackend, StoreErrorKind};
use crate::types::{KeyPrefix, VolumeId};
use crate::worker::WorkerError;
use crate::worker::places::places;

const REQUEST: Duration = Duration::from_secs(30);

/// One host's lost content.
#[derive(Debug, Clone)]
pub struct Recovered {
    pub name: String,
    pub manifest: Manifest,
}

/// One file of it, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownFile {
    pub path: String,
    pub size: u64,
    /// Bytes that are there; the rest of the file was not changed.
    pub recovered: u64,
    pub missing: u64,
}

impl Recovered {
    pub fn files(&self) -> Vec<ShownFile> {
        let shown = |file: &ManifestFile| ShownFile {
            path: file.path.clone(),
            size: file.size,
            recovered: covered(file),
            missing: bytes_in(&file.missing),
        };
        self.manifest.files.iter().map(shown).collect()
    }
}

/// What there is.
#[derive(Debug, Default)]
pub struct Listed {
    /// Everything that is complete, by name.
    pub found: Vec<Recovered>,
    /// Names of which the manifest cannot be read, each with why.
    pub unreadable: Vec<(String, WorkerError)>,
}

/// What became of the files that were to be written.
#[derive(Debug, Default)]
pub struct Restored {
    pub written: usize,
    /// Paths that could not be written, each with why. Nothing of them is left in the folder.
    pub failed: Vec<(String, WorkerError)>,
}

/// What was recovered of one volume.
#[derive(Debug)]
pub struct Shelf {
    store: Arc<dyn StoreBackend>,
    folder: KeyPrefix,
}

impl Shelf {
    /// Sends no request.
    pub fn of(id: VolumeId, options: &VolumeOptions, known: &Known) -> Result<Shelf, WorkerError> {
        let places = places(id, options, known)?;
        Ok(Shelf::at(places.state_store.backend(), places.state.join("recovered/")))
    }

    pub(super) fn at(store: Arc<dyn StoreBackend>, folder: KeyPrefix) -> Shelf {
        Shelf { store, folder }
    }

    /// All that there is.
    ///
    /// # Errors
    /// When the bucket does not answer.
    pub async fn list(&self) -> Result<Listed, WorkerError> {
        let mut listed = Listed::default();
        let mut pages = Listing::of_folder(self.folder.as_str());
        while let Some(page) = pages.next(&*self.store, REQUEST).await? {
            for folder in &page.prefixes {
                let name = folder.strip_prefix(self.folder.as_str()).unwrap_or(folder);
                let name = name.trim_end_matches('/');
                match self.find(name).await {
                    Ok(found) => listed.found.extend(found),
                    Err(why @ WorkerError::Damaged(_)) => {
                        listed.unreadable.push((name.to_owned(), why));
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(listed)
    }

    /// One by its name; `None` when there is none, or its upload is not complete.
    pub async fn find(&self, name: &str) -> Result<Option<Recovered>, WorkerError> {
        if name.is_empty() || name.contains('/') {
            return Ok(None);
        }
        let key = self.folder.key(&format!("{name}/{MANIFEST}"));
        let found = match self.store.get(&key, None, None, REQUEST).await {
            Ok(found) => found,
            Err(e) if e.kind == StoreErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let damaged = |why: String| WorkerError::Damaged(format!("{key} cannot be read: {why}"));
        let manifest: Manifest =
            serde_json::from_slice(&found.data).map_err(|e| damaged(e.to_string()))?;
        if manifest.format != FORMAT {
            return Err(damaged(format!("format {}, known is {FORMAT}", manifest.format)));
        }
        Ok(Some(Recovered { name: name.to_owned(), manifest }))
    }

    /// Writes the files into a folder that must not exist yet. What was not changed of a file is a
    /// hole there. A file that cannot be written keeps no other from it.
    ///
    /// # Errors
    /// When the folder cannot be made, or is there.
    pub async fn restore(&self, from: &Recovered, into: &Path) -> Result<Restored, WorkerError> {
        DirBuilder::new()
            .mode(0o700)
            .create(into)
            .map_err(WorkerError::local(into.display().to_string()))?;
        let mut restored = Restored::default();
        for file in &from.manifest.files {
            match self.restore_one(&from.name, file, into).await {
                Ok(()) => restored.written += 1,
                Err(why) => restored.failed.push((file.path.clone(), why)),
            }
        }
        Ok(restored)
    }

    async fn restore_one(
        &self,
        name: &str,
        file: &ManifestFile,
        into: &Path,
    ) -> Result<(), WorkerError> {
        let local = |path: &Path| WorkerError::local(path.display().to_string());
        let path = self.place(into, &file.path)?;
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(local(parent))?;
        }
        let target = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(local(&path))?;
        let filled = async {
            target.set_len(file.size).map_err(local(&path))?;
            self.fill(&target, &path, name, file).await?;
            target.sync_all().map_err(local(&path))
        };
        let filled = filled.await;
        if filled.is_err() {
            // A part of it would look like the whole.
            std::fs::remove_file(&path).map_err(local(&path))?;
        }
        filled
    }

    async fn fill(
        &self,
        target: &File,
        path: &Path,
        name: &str,
        file: &ManifestFile,
    ) -> Result<(), WorkerError> {
        for piece in &file.pieces {
            let key = self.folder.key(&format!("{name}/{}", piece.object));
            let range = piece.offset..piece.offset.saturating_add(piece.len);
            let found = self.store.get(&key, Some(range), None, REQUEST).await?;
            if found.data.len() as u64 != piece.len || crc32c::crc32c(&found.data) != piece.crc {
                return Err(WorkerError::Damaged(format!("{key}: not what was uploaded")));
            }
            target
                .write_all_at(&found.data, piece.start)
                .map_err(WorkerError::local(path.display().to_string()))?;
        }
        Ok(())
    }

    /// A path below `into`; nothing else whatever the manifest says.
    fn place(&self, into: &Path, path: &str) -> Result<PathBuf, WorkerError> {
        let mut at = into.to_owned();
        for part in path.split('/') {
            let name = unescape_name(part).ok_or_else(|| {
                WorkerError::Damaged(format!("{}: {path:?} is no path", self.folder))
            })?;
            at.push(std::ffi::OsStr::from_bytes(name.as_bytes()));
        }
        Ok(at)
    }
}
