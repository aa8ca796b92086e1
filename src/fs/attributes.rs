//! stat, chmod, chown, utimes, truncate, readlink.

use bytes::Bytes;

use super::{Attr, Fs, FsError, SetAttr, SetTime};
use crate::types::{Caller, FileKind, Ino};

impl Fs {
    pub async fn getattr(&self, ino: Ino) -> Result<Attr, FsError> {
        let inode = self.known(ino).await?;
        Ok(self.attr_of(&inode))
    }

    /// Changes attributes; the size first, as truncate(2) is one call of its own.
    pub async fn setattr(
        &self,
        caller: Caller,
        ino: Ino,
        change: SetAttr,
    ) -> Result<Attr, FsError> {
        let inode = self.known(ino).await?;
        if let Some(size) = change.size {
            match inode.live().attr.kind {
                FileKind::File => {}
                FileKind::Dir => return Err(FsError::IsDir),
                _ => return Err(FsError::Invalid("only files have a size")),
            }
            self.resize(&inode, size).await?;
        }
        let SetAttr { mode, uid, gid, atime, mtime, size: _, fh: _ } = change;
        let nothing =
            mode.is_none() && uid.is_none() && gid.is_none() && atime.is_none() && mtime.is_none();
        if nothing && change.size.is_some() {
            return Ok(self.attr_of(&inode));
        }
        // What is left is chown(2) of neither owner: as on ext4, that alone moves the time of change.
        let now = crate::clock::now();
        let at = move |time: SetTime| match time {
            SetTime::Now => now,
            SetTime::At(t) => t,
        };
        let owner_group = gid.unwrap_or(inode.live().attr.gid);
        let perm = mode.map(|mode| {
            let perm = mode & 0o7777;
            // POSIX chmod: a caller outside the file's group cannot set its set-group-ID bit.
            let foreign = caller.uid != 0 && !in_group(&caller, owner_group);
            let directory = inode.live().attr.kind == FileKind::Dir;
            if foreign && !directory { perm & !0o2000 } else { perm }
        });
        let mut tx = self.volume.begin().await?;
        if let Some(perm) = perm {
            self.chmod_acl(&mut tx, ino, perm).await?;
        }
        tx.edit(ino, move |rec| {
            if let Some(perm) = perm {
                rec.perm = perm;
            }
            rec.uid = uid.unwrap_or(rec.uid);
            rec.gid = gid.unwrap_or(rec.gid);
            if let Some(time) = atime {
                rec.atime = at(time);
            }
            if let Some(time) = mtime {
                rec.mtime = at(time);
            }
            rec.ctime = now;
            rec.attr_gen += u64::from(!nothing);
        })
        .await?;
        if inode.live().attr.nlink > 0 && !nothing {
            tx.needs_rest(ino, crate::meta::records::WorkRec::Inode).await?;
        }
        tx.commit(caller.unique).await?;
        Ok(self.attr_of(&inode))
    }

    pub async fn readlink(&self, ino: Ino) -> Result<Bytes, FsError> {
        let inode = self.inode(ino).await?;
        let live = inode.live();
        live.attr.target.clone().ok_or(FsError::Invalid("not a symbolic link"))
    }
}

/// Whether the caller has this group: its own, or a supplementary one as the kernel shows it. A
/// caller that has already ended has only its own.
pub(super) fn in_group(caller: &Caller, gid: u32) -> bool {
    caller.gid == gid
        || std::fs::read_to_string(format!("/proc/{}/status", caller.pid)).is_ok_and(|status| {
            status
                .lines()
                .find_map(|line| line.strip_prefix("Groups:"))
                .is_some_and(|groups| groups.split_ascii_whitespace().any(|g| g.parse() == Ok(gid)))
        })
}
