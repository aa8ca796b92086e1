//! rename(2) and renameat2(2).

use super::namespace::touch;
use super::{Fs, FsError, RenameMode};
use crate::data::DataError;
use crate::fault::Mutant;
use crate::meta::keys;
use crate::meta::records::{DirentRec, WorkRec};
use crate::types::{Caller, FileKind, FileName, Ino};

/// What both names lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ends {
    source: DirentRec,
    target: Option<DirentRec>,
}

/// A name and its directory.
type Place = (Ino, FileName);

impl Fs {
    /// Moves a name. A file that takes the place of another one is committed first, so that the batch
    /// with the new name can only become durable after its data.
    pub async fn rename(
        &self,
        caller: Caller,
        parent: Ino,
        name: FileName,
        new_parent: Ino,
        new_name: FileName,
        mode: RenameMode,
    ) -> Result<(), FsError> {
        if self.answered(&caller) {
            return Ok(());
        }
        let (from, to) = ((parent, name), (new_parent, new_name));
        loop {
            // In boxes: they are deep.
            let ends = Box::pin(self.prepare(&from, &to, mode)).await?;
            if Box::pin(self.rename_prepared(caller, &from, &to, mode, ends)).await? {
                return Ok(());
            }
            // Somebody else has moved one of them meanwhile.
        }
    }

    /// Does what has to be done to both inodes before a change of names.
    async fn prepare(&self, from: &Place, to: &Place, mode: RenameMode) -> Result<Ends, FsError> {
        for (dir, name) in [from, to] {
            self.directory(*dir).await?;
            self.outside.name(*dir, name).await?;
        }
        let meta = &self.volume.meta;
        let source = meta.get(&keys::dirent(from.0, &from.1)).await?.ok_or(FsError::NotFound)?;
        let target: Option<DirentRec> = meta.get(&keys::dirent(to.0, &to.1)).await?;
        let ends = Ends { source, target };
        for dirent in [Some(source), target].into_iter().flatten() {
            if dirent.kind == FileKind::Dir {
                self.outside.subtree(dirent.ino).await?;
            }
        }
        if target.is_some() && !Mutant::RenameWithoutData.lives() {
            let mut to_commit = Vec::new();
            for dirent in [Some(source), target.filter(|_| mode == RenameMode::Exchange)] {
                if let Some(dirent) = dirent
                    && dirent.kind == FileKind::File
                    && let Some(inode) = self.volume.inodes.get(dirent.ino)
                {
                    to_commit.push(inode);
                }
            }
            self.volume.commit(to_commit).await?;
        }
        Ok(ends)
    }

    /// False when the names lead elsewhere than to what was prepared.
    async fn rename_prepared(
        &self,
        caller: Caller,
        (parent, name): &Place,
        (new_parent, new_name): &Place,
        mode: RenameMode,
        prepared: Ends,
    ) -> Result<bool, FsError> {
        let (parent, new_parent) = (*parent, *new_parent);
        let mut tx = self.volume.begin().await?;
        let source = tx.dirent(parent, name).await?.ok_or(FsError::NotFound)?;
        let target = tx.dirent(new_parent, new_name).await?;
        if (Ends { source, target }) != prepared {
            return Ok(false);
        }
        if tx.inode(new_parent).await?.nlink == 0 {
            return Err(FsError::NotFound);
        }
        if source.kind == FileKind::Dir {
            self.not_inside(new_parent, source.ino).await?;
        }
        if mode == RenameMode::Exchange
            && let Some(target) = target
            && target.kind == FileKind::Dir
        {
            self.not_inside(parent, target.ino).await?;
        }
        let now = crate::clock::now();
        let source_dir = source.kind == FileKind::Dir;
        match (mode, target) {
            (RenameMode::NoReplace, Some(_)) => return Err(FsError::Exists),
            (RenameMode::Exchange, None) => return Err(FsError::NotFound),
            // Two names of one file: POSIX wants nothing to happen.
            (_, Some(target)) if target.ino == source.ino => return Ok(true),
            (RenameMode::Exchange, Some(target)) => {
                let target_dir = target.kind == FileKind::Dir;
                for (dir, at, was_dir) in
                    [(parent, name, source_dir), (new_parent, new_name, target_dir)]
                {
                    self.leave_key(&mut tx, dir, at, was_dir).await?;
                }
                tx.unlink(parent, name, source.ino);
                tx.unlink(new_parent, new_name, target.ino);
                tx.link(parent, name, target.ino, target.kind);
                tx.link(new_parent, new_name, source.ino, source.kind);
                if parent != new_parent && source_dir != target_dir {
                    let (up, down) =
                        if source_dir { (new_parent, parent) } else { (parent, new_parent) };
                    tx.edit(up, |dir| dir.nlink += 1).await?;
                    tx.edit(down, |dir| dir.nlink = dir.nlink.saturating_sub(1)).await?;
                }
                tx.edit(target.ino, move |rec| rec.ctime = now).await?;
                tx.needs_rest(target.ino, work_of(target.kind)).await?;
            }
            (_, target) => {
                if let Some(target) = target {
                    let target_dir = target.kind == FileKind::Dir;
                    match (source_dir, target_dir) {
                        (true, false) => return Err(FsError::NotDir),
                        (false, true) => return Err(FsError::IsDir),
                        (true, true) => self.must_be_empty(&tx, target.ino).await?,
                        (false, false) => {}
                    }
                    tx.unlink(new_parent, new_name, target.ino);
                    if target_dir {
                        self.leave_key(&mut tx, new_parent, new_name, true).await?;
                        self.drop_inode(&mut tx, target.ino, now).await?;
                        tx.edit(new_parent, |dir| dir.nlink = dir.nlink.saturating_sub(1)).await?;
                    } else {
                        self.leave_key(&mut tx, new_parent, new_name, false).await?;
                        self.drop_link(&mut tx, target.ino, now).await?;
                    }
                }
                self.leave_key(&mut tx, parent, name, source_dir).await?;
                tx.unlink(parent, name, source.ino);
                tx.link(new_parent, new_name, source.ino, source.kind);
                if source_dir && parent != new_parent {
                    tx.edit(parent, |dir| dir.nlink = dir.nlink.saturating_sub(1)).await?;
                    tx.edit(new_parent, |dir| dir.nlink += 1).await?;
                }
            }
        }
        tx.edit(source.ino, move |rec| rec.ctime = now).await?;
        tx.needs_rest(source.ino, work_of(source.kind)).await?;
        tx.edit(parent, move |dir| touch(dir, now)).await?;
        tx.edit(new_parent, move |dir| touch(dir, now)).await?;
        tx.commit(caller.unique).await?;
        Ok(true)
    }

    /// Refuses to move a directory below itself.
    async fn not_inside(&self, mut at: Ino, dir: Ino) -> Result<(), FsError> {
        for _ in 0..10_000 {
            if at == dir {
                return Err(FsError::Invalid("a directory cannot move below itself"));
            }
            if at == Ino::ROOT {
                return Ok(());
            }
            let found = self.volume.meta.scan(keys::of_inode(keys::PARENT, at), 1).await?;
            match found.first().and_then(|(key, _)| keys::parse_parent(key)) {
                Some((parent, _)) => at = parent,
                None => return Err(FsError::NotFound),
            }
        }
        Err(DataError::Damaged(format!("directory {dir} is its own ancestor")).into())
    }
}

fn work_of(kind: FileKind) -> WorkRec {
    if kind == FileKind::Dir { WorkRec::Subtree } else { WorkRec::Inode }
}
