//! Bringing lost content into the bucket.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

use super::lost::{Lost, LostFile, Source};
use super::manifest::{FORMAT, MANIFEST, Manifest, ManifestFile, ManifestPiece, covered};
use super::{
    ON_DISK, Shelf, UPLOADED, UPLOADING, WHOLE, is_of_this_boot, is_up, known_paths, to_disk,
};
use crate::data::{CacheFile, Trash};
use crate::fault::{at, points};
use crate::meta::records::Place;
use crate::meta::{LocalLog, Record};
use crate::store::{
    Attributes, Properties, PutOutcome, Send, StoreBackend, StoreError, StoreErrorKind,
};
use crate::sys::beside;
use crate::types::{Ino, KeyPrefix, ObjectKey};
use crate::worker::WorkerError;

const REQUEST: Duration = Duration::from_secs(30);
/// Content of many files shares objects of about this size, bytes.
const PACK: usize = 16 << 20;
/// Read at a time, bytes.
const PIECE: u64 = 4 << 20;

/// Uploads what a folder with `log/` and `cache/` holds and no bucket has. Returns the name under which
/// it is found; `None` when there is nothing (left) to do. Needs no lease: nobody else has the name, which is
/// written down before it is used, and under which the next attempt goes on.
pub(in crate::worker) async fn save(
    folder: &Path,
    store: &Arc<dyn StoreBackend>,
    state: &KeyPrefix,
) -> Result<Option<String>, WorkerError> {
    if folder.join(UPLOADED).exists() {
        return Ok(None);
    }
    let records = LocalLog::<Record>::read(&folder.join("log"))?;
    let lost = Lost::of(&records);
    if lost.files.is_empty() {
        return Ok(None);
    }
    let local = || WorkerError::local(folder.display().to_string());
    if !folder.join(ON_DISK).exists() && !is_of_this_boot(folder).map_err(local())? {
        tracing::error!(kept = %folder.display(),
            "what was not synced was not on the disk yet when the host was restarted: it is kept, and not uploaded, because the disk may hold any part of it");
        return Ok(None);
    }
    let format = state.key("format.json");
    if store.head(&format, REQUEST).await?.is_none() {
        let why =
            format!("{format} is missing: what was not synced is kept in {}", folder.display());
        return Err(WorkerError::Damaged(why));
    }
    let mut paths = lost.paths(None).await;
    paths.extend(known_paths(folder));
    let host = crate::sys::hostname();
    let time = jiff::Timestamp::from_second(crate::clock::now().secs).unwrap_or_default();
    let begun = begun(folder);
    if let Some(name) = &begun {
        let shelf = Shelf::at(Arc::clone(store), state.join("recovered/"));
        match shelf.find(name).await {
            Ok(Some(there)) => return done(folder, name, &there.manifest).map(Some),
            Ok(None) | Err(WorkerError::Damaged(_)) => {}
            Err(error) => return Err(error),
        }
    }
    let again = begun.is_some();
    let name = begun.unwrap_or_else(|| {
        let random = Uuid::new_v4().as_fields().0;
        let name = format!("{}-{}-{random:08x}", plain(&host), time.strftime("%Y%m%dT%H%M%SZ"));
        // On a full disk the next attempt has another name, and what this one leaves stays.
        if let Err(error) = std::fs::write(folder.join(UPLOADING), &name) {
            tracing::warn!(%error, "the name of an upload is not written down");
        }
        name
    });
    let mut sender = Sender {
        store,
        state,
        cache: folder.join("cache"),
        folder: state.join(&format!("recovered/{name}/")),
        again,
        pack: Vec::new(),
        packs: Vec::new(),
    };
    let mut manifest = Manifest { format: FORMAT, host, at: time.to_string(), files: Vec::new() };
    let mut taken = BTreeSet::new();
    for (ino, file) in &lost.files {
        let mut path = paths.get(ino).cloned().unwrap_or_else(|| format!("inode-{ino}"));
        if !taken.insert(path.clone()) {
            path.push_str(&format!(".inode-{ino}"));
        }
        manifest.files.push(sender.file(*ino, path, file).await?);
    }
    sender.flush().await?;
    for piece in manifest.files.iter_mut().flat_map(|file| &mut file.pieces) {
        piece.object.clone_from(&sender.packs[piece.pack]);
    }
    let body = serde_json::to_vec_pretty(&manifest)
        .map_err(|e| WorkerError::Damaged(format!("{MANIFEST} cannot be written: {e}")))?;
    sender.put(MANIFEST, body.into()).await?;
    done(folder, &name, &manifest).map(Some)
}

/// The name of an upload of this folder that did not come to its end, as far as is known.
fn begun(folder: &Path) -> Option<String> {
    let name = std::fs::read_to_string(folder.join(UPLOADING)).ok()?;
    // A full disk or a power cut may have left anything of it.
    let whole = name.rsplit_once('-').is_some_and(|(_, random)| random.len() == 8);
    (whole && plain(&name) == name).then_some(name)
}

/// Writes down that a folder is in the bucket.
fn done(folder: &Path, name: &str, manifest: &Manifest) -> Result<String, WorkerError> {
    let whole = manifest.files.iter().all(|file| file.missing.is_empty());
    let marker = folder.join(UPLOADED);
    at(points::RECOVERED_NOTE_BEFORE);
    std::fs::write(&marker, format!("{name}\n{}\n", if whole { WHOLE } else { "" }))
        .map_err(WorkerError::local(marker.display().to_string()))?;
    at(points::RECOVERED_NOTE_AFTER);
    let bytes: u64 = manifest.files.iter().map(covered).sum();
    tracing::warn!(
        name,
        files = manifest.files.len(),
        bytes,
        "content that was never synced here is in the bucket now; see `s3vol recovered`"
    );
    Ok(name.to_owned())
}

/// [`save`] for every folder that was set aside in a state folder. What is in the bucket then goes here.
pub(in crate::worker) async fn save_set_aside(
    state_dir: &Path,
    store: &Arc<dyn StoreBackend>,
    state: &KeyPrefix,
    trash: &Trash,
) -> Result<(), WorkerError> {
    let what = || format!("the state folder {}", state_dir.display());
    let mut first = Ok(());
    for entry in std::fs::read_dir(state_dir).map_err(WorkerError::local(what()))? {
        let entry = entry.map_err(WorkerError::local(what()))?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with("recovery-")) {
            let saved = save_one(state_dir, &entry.path(), store, state, trash).await;
            // One that cannot be saved keeps no other from it.
            first = first.and(saved);
        }
    }
    first
}

async fn save_one(
    state_dir: &Path,
    folder: &Path,
    store: &Arc<dyn StoreBackend>,
    state: &KeyPrefix,
    trash: &Trash,
) -> Result<(), WorkerError> {
    let (dir, aside) = (state_dir.to_owned(), folder.to_owned());
    let synced = beside(move || to_disk(&dir, &aside)).await;
    if let Err(error) = synced.unwrap_or_else(|| Err(io::Error::other("it panicked"))) {
        tracing::warn!(folder = %folder.display(), %error, "what was set aside may not be on the disk");
    }
    save(folder, store, state).await?;
    if is_up(folder) {
        trash.take(folder).map_err(WorkerError::local(folder.display().to_string()))?;
    }
    Ok(())
}

/// A host's name as a part of a key.
fn plain(host: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '.' { c } else { '_' };
    host.chars().take(64).map(plain).collect()
}

struct Sender<'a> {
    store: &'a Arc<dyn StoreBackend>,
    state: &'a KeyPrefix,
    cache: std::path::PathBuf,
    folder: KeyPrefix,
    /// An attempt before this one may have got some of it there.
    again: bool,
    pack: Vec<u8>,
    /// The objects of the packs before this one.
    packs: Vec<String>,
}

impl Sender<'_> {
    async fn file(
        &mut self,
        ino: Ino,
        path: String,
        file: &LostFile,
    ) -> Result<ManifestFile, WorkerError> {
        let mut shown = ManifestFile { path, size: file.size, ..ManifestFile::default() };
        let cache = match File::open(CacheFile::path_in(&self.cache, ino)) {
            Ok(cache) => Some(cache),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            // This passes.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
                return Err(WorkerError::local(format!("a cache file of inode {ino}"))(e));
            }
            Err(error) => {
                tracing::error!(%ino, %error, "a cache file cannot be read");
                None
            }
        };
        for (range, source) in file.ranges.iter() {
            let source = &file.sources[source];
            if let Source::Zero = source {
                shown.zeros.push(range);
                continue;
            }
            let mut start = range.start;
            while start < range.end {
                let part = start..range.end.min(start + PIECE);
                start = part.end;
                match self.bytes(cache.as_ref(), part.clone(), source).await? {
                    Some(bytes) => {
                        if self.pack.len() + bytes.len() > PACK {
                            self.flush().await?;
                        }
                        shown.pieces.push(ManifestPiece {
                            start: part.start,
                            len: part.end - part.start,
                            object: String::new(),
                            pack: self.packs.len(),
                            offset: self.pack.len() as u64,
                            crc: crc32c::crc32c(&bytes),
                        });
                        self.pack.extend_from_slice(&bytes);
                    }
                    None => {
                        tracing::error!(path = shown.path, ?part, "unsynced bytes are lost");
                        shown.missing.push(part);
                    }
                }
            }
        }
        Ok(shown)
    }

    async fn bytes(
        &self,
        cache: Option<&File>,
        part: Range<u64>,
        source: &Source,
    ) -> Result<Option<Bytes>, WorkerError> {
        let len = (part.end - part.start) as usize;
        match source {
            Source::Zero => Ok(Some(vec![0; len].into())),
            Source::Cache => Ok(cache.and_then(|cache| read(cache, part.start, len))),
            Source::Extent { start, place: Place::Inline(bytes) } => {
                let from = (part.start - start) as usize;
                Ok(bytes.get(from..from + len).map(Bytes::copy_from_slice))
            }
            Source::Extent {
                start,
                place: Place::Segment { id, offset, crc, crc_offset, crc_len },
            } => {
                let into = offset - crc_offset;
                let slice = |whole: Bytes| {
                    let from = (into + part.start - start) as usize;
                    let fits = crc32c::crc32c(&whole) == *crc && whole.len() >= from + len;
                    fits.then(|| whole.slice(from..from + len))
                };
                let cached = cache
                    .zip(start.checked_sub(into))
                    .and_then(|(cache, at)| read(cache, at, *crc_len as usize))
                    .and_then(slice);
                if cached.is_some() {
                    return Ok(cached);
                }
                let key = self.state.key(&format!("segments/{id:032x}"));
                let range = *crc_offset..crc_offset + u64::from(*crc_len);
                match self.store.get(&key, Some(range), None, REQUEST).await {
                    Ok(found) => Ok(slice(found.data)),
                    // The new owner collects what no record of his names.
                    Err(e) if e.kind == StoreErrorKind::NotFound => Ok(None),
                    Err(e) => Err(e.into()),
                }
            }
            Source::Extent { place: Place::Zero, .. } => Ok(Some(vec![0; len].into())),
        }
    }

    async fn flush(&mut self) -> Result<(), WorkerError> {
        if self.pack.is_empty() {
            return Ok(());
        }
        let body = Bytes::from(std::mem::take(&mut self.pack));
        let name = object_name(self.packs.len(), &body);
        if !self.again || !self.is_there(&name, body.len() as u64).await? {
            self.put(&name, body).await?;
        }
        self.packs.push(name);
        Ok(())
    }

    /// Whether an attempt before this one came so far.
    async fn is_there(&self, name: &str, size: u64) -> Result<bool, WorkerError> {
        let found = self.store.head(&self.folder.key(name), REQUEST).await?;
        Ok(found.is_some_and(|info| info.version.size == size))
    }

    async fn put(&self, name: &str, body: Bytes) -> Result<(), WorkerError> {
        let key: ObjectKey = self.folder.key(name);
        let (none, plain) = (Attributes::new(), Properties::default());
        at(points::RECOVERED_PUT_BEFORE);
        let outcome = self.store.put(&key, body, &none, &plain, Send::plain(REQUEST)).await;
        at(points::RECOVERED_PUT_AFTER);
        match outcome {
            PutOutcome::Won(_) => Ok(()),
            PutOutcome::Failed(error) | PutOutcome::Ambiguous(error) => Err(error.into()),
            PutOutcome::Lost => Err(StoreError::new(
                StoreErrorKind::Protocol,
                "the store refused an unconditional request for a fresh name",
            )
            .into()),
        }
    }
}

/// With the checksum, so that a name is never used for other bytes, whatever an earlier attempt sent.
fn object_name(number: usize, body: &[u8]) -> String {
    format!("data-{number:06}-{:08x}", crc32c::crc32c(body))
}

/// Exactly `len` bytes, if the file has them.
fn read(file: &File, at: u64, len: usize) -> Option<Bytes> {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, at).ok()?;
    Some(bytes.into())
}
