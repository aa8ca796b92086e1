//! One sequence: each step is done to the model and to the file system, and the answers are compared.

use std::collections::BTreeMap;
use std::time::Duration;

use s3vol::fs::{Attr, FileHandle, Fs, FsError};
use s3vol::types::{Caller, FileName, Ino};

use crate::ops::{Op, user};
use crate::oracle::{Entry, Id, Node, ROOT, Refused, Tree};
use crate::world::{World, kind};

/// No file grows past this, bytes.
pub const LARGEST: u32 = 600_000;
pub const NONE: FileHandle = FileHandle(0);

pub struct Run {
    pub world: World,
    pub tree: Tree,
    pub handles: Vec<(FileHandle, Id)>,
    pub dirs: Vec<(FileHandle, Id)>,
    /// Whoever does what comes next.
    pub who: Caller,
    /// What others removed, by its key.
    pub tombs: BTreeMap<String, Node>,
}

pub type Outcome = Result<(), String>;

pub fn file_name(name: &[u8]) -> FileName {
    FileName::new(name).expect("a name of the pool")
}

pub fn pick<T: Clone>(of: &[T], index: u8) -> Option<T> {
    of.get(usize::from(index) % of.len().max(1)).cloned()
}

/// Both succeeded, or the file system refused for a reason that the model has.
pub fn agree<T>(
    what: Result<T, FsError>,
    expected: &Result<(), Refused>,
) -> Result<Option<T>, String> {
    match (what, expected) {
        (Ok(value), Ok(())) => Ok(Some(value)),
        (Err(e), Err(reasons)) if reasons.contains(&kind(&e)) => Ok(None),
        (Ok(_), Err(reasons)) => Err(format!("succeeded, expected {reasons:?}")),
        (Err(e), expected) => Err(format!("{} ({e:?}), expected {expected:?}", kind(&e))),
    }
}

pub fn failed(what: &str) -> impl Fn(FsError) -> String + '_ {
    move |e| format!("{what}: {e:?}")
}

impl Run {
    pub async fn new(refresh: Duration) -> Run {
        let world = World::new(refresh).await;
        let tree = Tree::new(world.spec.options.dir_mode);
        let (handles, dirs) = (Vec::new(), Vec::new());
        Run { world, tree, handles, dirs, who: Caller::ROOT, tombs: BTreeMap::new() }
    }

    pub fn fs(&self) -> &Fs {
        self.world.fs()
    }

    pub fn dir(&self, index: u8) -> (Id, Ino) {
        let id = pick(&self.tree.dirs(), index).unwrap_or(ROOT);
        (id, self.ino(id))
    }

    pub fn ino(&self, id: Id) -> Ino {
        self.tree.node(id).ino.expect("looked up when it appeared")
    }

    pub fn entry(&self, index: u8) -> Option<Entry> {
        pick(&self.tree.entries(), index)
    }

    pub fn file(&self, index: u8) -> Option<(Id, Ino)> {
        pick(&self.tree.files(), index).map(|id| (id, self.ino(id)))
    }

    pub async fn step(&mut self, op: &Op) -> Outcome {
        match *op {
            Op::As { who, umask } => {
                let (uid, gid, _) = user(who);
                self.who = Caller { uid, gid, umask: u32::from(umask), ..Caller::ROOT };
            }
            Op::Open { file } => {
                if let Some((id, ino)) = self.file(file) {
                    let opened = Box::pin(self.fs().open(self.who, ino, libc::O_RDWR)).await;
                    self.handles.push((opened.map_err(failed("open"))?.fh, id));
                    self.tree.node_mut(id).opens += 1;
                }
            }
            Op::Close { handle } => {
                if !self.handles.is_empty() {
                    let at = usize::from(handle) % self.handles.len();
                    Box::pin(self.close(at)).await?;
                }
            }
            Op::Fsync { file } => {
                if let Some((_, ino)) = self.file(file) {
                    let _receipt =
                        Box::pin(self.fs().fsync(ino, false)).await.map_err(failed("fsync"))?;
                }
            }
            Op::OpenDir { dir } => {
                let (id, ino) = self.dir(dir);
                let fh = Box::pin(self.fs().opendir(Caller::ROOT, ino))
                    .await
                    .map_err(failed("opendir"))?;
                self.dirs.push((fh, id));
                self.tree.node_mut(id).opens += 1;
            }
            Op::CloseDir { handle } => {
                if !self.dirs.is_empty() {
                    let at = usize::from(handle) % self.dirs.len();
                    Box::pin(self.close_dir(at)).await?;
                }
            }
            Op::ReadDir { dir, page } => {
                let (id, ino) = self.dir(dir);
                Box::pin(self.list(id, ino, usize::from(page))).await?;
            }
            Op::Settle => {
                Box::pin(self.settle()).await?;
            }
            Op::Commit => Box::pin(self.world.commit()).await?,
            Op::Evict => {
                let evicted = self.world.mounted().volume.evict_all();
                evicted.map_err(|e| format!("evict: {e}"))?;
            }
            Op::Compare => {
                Box::pin(self.compare()).await?;
            }
            Op::Reopen { empty } => {
                let before = Box::pin(self.compare()).await?;
                Box::pin(self.close_everything()).await?;
                Box::pin(self.world.reopen(empty)).await?;
                Box::pin(self.reopened(before)).await?;
            }
            Op::Crash { empty } => {
                let before = Box::pin(self.compare()).await?;
                self.handles.clear();
                self.dirs.clear();
                self.tree.close_all();
                Box::pin(self.world.crash(empty)).await?;
                Box::pin(self.reopened(before)).await?;
            }
            Op::Create { .. }
            | Op::Mkdir { .. }
            | Op::Symlink { .. }
            | Op::Mknod { .. }
            | Op::Make { .. }
            | Op::CreateIn { .. }
            | Op::Rename { .. }
            | Op::RenameOnto { .. }
            | Op::Link { .. }
            | Op::Unlink { .. }
            | Op::Rmdir { .. } => Box::pin(self.change_names(op)).await?,
            Op::Write { .. }
            | Op::Append { .. }
            | Op::Truncate { .. }
            | Op::Punch { .. }
            | Op::Zero { .. }
            | Op::Allocate { .. }
            | Op::Seek { .. }
            | Op::CopyRange { .. }
            | Op::Rewrite { .. }
            | Op::Read { .. } => Box::pin(self.use_content(op)).await?,
            Op::Chmod { .. }
            | Op::Chown { .. }
            | Op::Utimens { .. }
            | Op::Touch { .. }
            | Op::SetXattr { .. }
            | Op::XattrHow { .. }
            | Op::RemoveXattr { .. } => Box::pin(self.change_attributes(op)).await?,
            Op::PutNew { .. }
            | Op::PutBelow { .. }
            | Op::PutReplaced { .. }
            | Op::DeleteObject { .. }
            | Op::BothChanged { .. }
            | Op::ChangedAndDeleted { .. } => Box::pin(self.outside(op)).await?,
        }
        Ok(())
    }

    async fn reopened(&mut self, before: BTreeMap<Vec<u8>, Attr>) -> Outcome {
        let after = self.compare().await.map_err(|e| format!("after it: {e}"))?;
        for (path, old) in before {
            let Some(new) = after.get(&path) else { continue };
            if (new.mtime, new.ino) != (old.mtime, old.ino) {
                let path = String::from_utf8_lossy(&path).into_owned();
                return Err(format!("{path} was {old:?}, is now {new:?}"));
            }
        }
        Ok(())
    }

    /// What holds at the end of every sequence.
    pub async fn finish(&mut self) -> Outcome {
        self.compare().await?;
        self.world.commit().await?;
        self.world.whole().await.map_err(|e| format!("in motion: {e}"))?;
        self.close_everything().await?;
        self.settle().await?;
        self.at_rest().await?;
        self.world.whole().await.map_err(|e| format!("at rest: {e}"))?;
        self.world.reopen(true).await?;
        self.compare().await.map_err(|e| format!("from the bucket: {e}"))?;
        self.settle().await?;
        self.at_rest().await.map_err(|e| format!("from the bucket: {e}"))
    }

    /// Settles; unless something is unlinked and open, everything can.
    pub async fn settle(&mut self) -> Outcome {
        let left = self.world.settle().await?;
        let orphans = self.handles.iter().any(|(_, id)| self.tree.node(*id).links == 0);
        if left > 0 && !orphans && self.stuck().is_empty() {
            let why = self.world.settle_report().await;
            return Err(format!("{left} do not settle: {why}"));
        }
        let keys = self.keys();
        for (id, node) in &mut self.tree.nodes {
            node.theirs.take_if(|key| keys.get(key) != Some(id));
        }
        Ok(())
    }

    async fn close(&mut self, at: usize) -> Outcome {
        let (fh, id) = self.handles.remove(at);
        let ino = self.ino(id);
        self.fs().release(ino, fh).await.map_err(failed("release"))?;
        self.tree.node_mut(id).opens -= 1;
        self.tree.drop_if_gone(id);
        Ok(())
    }

    async fn close_dir(&mut self, at: usize) -> Outcome {
        let (fh, id) = self.dirs.remove(at);
        self.fs().releasedir(Caller::ROOT, self.ino(id), fh).await.map_err(failed("releasedir"))?;
        self.tree.node_mut(id).opens -= 1;
        self.tree.drop_if_gone(id);
        Ok(())
    }

    async fn close_everything(&mut self) -> Outcome {
        while !self.handles.is_empty() {
            self.close(0).await?;
        }
        while !self.dirs.is_empty() {
            self.close_dir(0).await?;
        }
        Ok(())
    }
}

/// Says where two contents part.
pub fn same_bytes(found: &[u8], expected: &[u8]) -> Outcome {
    if found == expected {
        return Ok(());
    }
    let at = found.iter().zip(expected).position(|(a, b)| a != b);
    let at = at.unwrap_or(found.len().min(expected.len()));
    let around = |data: &[u8]| data[at..(at + 8).min(data.len())].to_vec();
    Err(format!(
        "content differs at {at}: {:?} of {} bytes, expected {:?} of {}",
        around(found),
        found.len(),
        around(expected),
        expected.len()
    ))
}
