//! Uploads in parts. Each lies in a folder of its own: what its object is to bear, and one file that becomes the
//! object, into which every part is written and synced at its place when it arrives. So a completion, which may take
//! no longer than any other change, moves no bytes, however large the object is.
//!
//! Parts are written under a shared lock on that file, and a completion takes it away under an exclusive one: a part
//! whose sender has given up waiting never gets into an object.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use nix::fcntl::{Flock, FlockArg};

use super::disk::{Disk, STEP, Stop, Temp};
use super::name::Place;
use super::record::About;
use crate::store::wire::Progress;
use crate::store::{Part, StoreError, StoreErrorKind, UploadId};

const ABOUT: &str = "attributes";
const CONTENT: &str = "content";

/// An upload that was begun.
pub(super) struct Uploading<'d> {
    disk: &'d Disk,
    id: &'d UploadId,
    place: Place,
    dir: PathBuf,
}

impl<'d> Uploading<'d> {
    pub(super) fn begin(disk: &Disk, key: &str, about: &About) -> Result<UploadId, StoreError> {
        let place = disk.place(key)?;
        // Makes the root and our folder in it.
        drop(disk.temp(&place)?);
        let id = uuid::Uuid::new_v4().simple().to_string();
        let dir = dir_of(&place, &id);
        let make = || -> io::Result<()> {
            fs::create_dir_all(&dir)?;
            fs::write(dir.join(ABOUT), serde_json::to_vec(about)?)?;
            drop(super::disk::create(&dir.join(CONTENT))?);
            Ok(())
        };
        make().map_err(|e| disk.error("begin an upload", e))?;
        Ok(UploadId(id))
    }

    /// The id is a file name here, so it must be one of ours.
    pub(super) fn of(disk: &'d Disk, key: &str, id: &'d UploadId) -> Result<Self, StoreError> {
        if uuid::Uuid::try_parse(&id.0).is_err() {
            return Err(unknown(id));
        }
        let place = disk.place(key)?;
        let dir = dir_of(&place, &id.0);
        Ok(Uploading { disk, id, place, dir })
    }

    /// Writes a part at its place and syncs it; returns its tag.
    pub(super) fn write(
        &self,
        part: Part,
        body: &[u8],
        progress: &Progress,
    ) -> Result<String, StoreError> {
        let write = || -> io::Result<()> {
            let file = self.lock(FlockArg::LockShared)?;
            let mut at = part.offset;
            for piece in body.chunks(STEP) {
                file.write_all_at(piece, at)?;
                file.sync_data()?;
                at += piece.len() as u64;
                progress.touch();
            }
            Ok(())
        };
        write().map_err(|e| self.disk.error("write a part", e))?;
        Ok(self.tag(part, body.len() as u64))
    }

    /// Ends the upload: what it is to bear, and its content, which is now a temporary file like any other.
    pub(super) fn take(self, parts: &[String], size: u64) -> Result<(About, Temp, Place), Stop> {
        let take = || -> io::Result<(About, Temp)> {
            let about = serde_json::from_slice(&fs::read(self.dir.join(ABOUT))?)?;
            let file = self.lock(FlockArg::LockExclusive)?;
            let there = file.metadata()?.len();
            if self.end_of(parts) != Some(size) || there < size {
                return Err(io::ErrorKind::InvalidData.into());
            }
            if there > size {
                file.set_len(size)?;
            }
            let path = self.place.own().join("tmp").join(&self.id.0);
            fs::rename(self.dir.join(CONTENT), &path)?;
            Ok((about, Temp { path, file: file.unlock().map_err(|(_, e)| e)? }))
        };
        let (about, temp) = take().map_err(|e| self.disk.error("complete an upload", e))?;
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            tracing::debug!(%error, "what is left of a complete upload stays for the sweep");
        }
        Ok((about, temp, self.place))
    }

    pub(super) fn abort(self) -> Result<(), StoreError> {
        match fs::remove_dir_all(&self.dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(self.disk.error("abort an upload", e))
            }
            _ => Ok(()),
        }
    }

    /// The content under a lock, unless a completion or an abort was faster.
    fn lock(&self, how: FlockArg) -> io::Result<Flock<File>> {
        let path = self.dir.join(CONTENT);
        let file = File::options().read(true).write(true).open(&path)?;
        let file = Flock::lock(file, how).map_err(|(_, e)| e)?;
        if inode(&fs::symlink_metadata(&path)?) != inode(&file.metadata()?) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(file)
    }

    /// Says which bytes of which upload were written.
    fn tag(&self, part: Part, len: u64) -> String {
        format!("{}-{}-{}-{len}", self.id.0, part.number, part.offset)
    }

    /// Where the parts end; `None` if they are not all parts of this upload, one after the other.
    fn end_of(&self, parts: &[String]) -> Option<u64> {
        (1..).zip(parts).try_fold(0, |offset: u64, (number, tag)| {
            let len = tag.rsplit('-').next()?.parse().ok()?;
            let expected = self.tag(Part { number, offset }, len);
            if *tag == expected { offset.checked_add(len) } else { None }
        })
    }
}

fn dir_of(place: &Place, id: &str) -> PathBuf {
    place.own().join("uploads").join(id)
}

fn inode(meta: &fs::Metadata) -> (u64, u64) {
    (meta.dev(), meta.ino())
}

fn unknown(id: &UploadId) -> StoreError {
    StoreError::new(StoreErrorKind::NotFound, format!("there is no upload {:?}", id.0))
}
