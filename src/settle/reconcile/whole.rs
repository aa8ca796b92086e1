//! Taking in a whole bucket at once, when nothing is known of it: every directory is listed, every object is asked
//! what it is.
//!
//! Whatever is found gets the next number, so a walk in the order of numbers comes to everything, and holds no more
//! than a page of it.

use std::ops::Bound;

use super::Reconciler;
use crate::meta::keys;
use crate::meta::records::{InodeRec, decode};
use crate::settle::SettleError;
use crate::types::{FileKind, Ino};

/// Inodes that are asked for together.
const PAGE: usize = 256;
/// Looks at objects that somebody replaces meanwhile.
const TRIES: u32 = 3;

/// What was found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TakenIn {
    pub files: u64,
    pub directories: u64,
    pub symlinks: u64,
    /// Fifos, sockets, devices.
    pub special: u64,
}

impl TakenIn {
    pub fn all(&self) -> u64 {
        self.files + self.directories + self.symlinks + self.special
    }
}

impl Reconciler {
    /// Brings everything below the volume's prefix into the tree, with what the objects say of themselves.
    /// `told` hears what was found so far.
    ///
    /// # Errors
    /// When the bucket does not answer, at whatever point: then the tree is not whole.
    pub async fn take_in(
        &self,
        mut told: impl FnMut(&TakenIn) + Send,
    ) -> Result<TakenIn, SettleError> {
        let meta = &self.volume.meta;
        let mut taken = TakenIn::default();
        let (mut from, to) = keys::below(keys::INODE, &[]);
        loop {
            let page = meta.scan((from, to.clone()), PAGE).await?;
            let Some((last, _)) = page.last() else { return Ok(taken) };
            from = Bound::Excluded(last.to_vec());
            let mut unknown = Vec::new();
            for (key, value) in &page {
                let Some(ino) = keys::parse_ino(key) else { continue };
                let rec: InodeRec = decode(value)?;
                if rec.kind == FileKind::Dir {
                    let _turn = self.one_at_a_time.lock().await;
                    self.list_whole(ino).await?;
                }
                unknown.push(ino);
            }
            self.ask(&unknown).await?;
            for ino in unknown {
                let rec: Option<InodeRec> = meta.get(&keys::inode(ino)).await?;
                match rec.map(|rec| rec.kind) {
                    Some(FileKind::File) => taken.files += 1,
                    Some(FileKind::Dir) => taken.directories += 1,
                    Some(FileKind::Symlink) => taken.symlinks += 1,
                    Some(_) => taken.special += 1,
                    None => {}
                }
            }
            told(&taken);
        }
    }

    /// Reads what the objects of these inodes say.
    async fn ask(&self, inodes: &[Ino]) -> Result<(), SettleError> {
        let mut unknown = Vec::new();
        for ino in inodes {
            let rec: Option<InodeRec> = self.volume.meta.get(&keys::inode(*ino)).await?;
            unknown.extend(rec.filter(|rec| !rec.known).map(|_| *ino));
        }
        for _ in 0..TRIES {
            let learned = self.settler.learn(unknown.iter().copied(), false).await?;
            if let Some((_, error)) = learned.failed.into_iter().next() {
                return Err(error.into());
            }
            if learned.replaced.is_empty() {
                return Ok(());
            }
            unknown = learned.replaced.keys().copied().collect();
            for key in learned.replaced.values() {
                let _turn = self.one_at_a_time.lock().await;
                self.check_key(key).await?;
            }
        }
        Ok(())
    }
}
