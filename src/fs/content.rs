//! Content: open, read, write, sizes, holes, sync.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::core::SYNC_TIMEOUT;
use super::namespace::NewInode;
use super::{Attr, Fallocate, FileHandle, Fs, FsError, Opened};
use crate::data::{Inode, Live, Patience};
use crate::meta::records::WorkRec;
use crate::meta::{Receipt, Record};
use crate::types::{Caller, FileKind, FileName, Ino};

/// The largest file, bytes: what an i64 offset can name.
const MAX_FILE: u64 = i64::MAX as u64;
/// relatime: an access time older than this is renewed even when nothing changed, seconds.
const ATIME_AGE: i64 = 24 * 60 * 60;
/// copy_file_range moves this much at a time, bytes.
const COPY: usize = 1 << 20;

impl Fs {
    /// `flags` are open(2)'s.
    pub async fn open(&self, caller: Caller, ino: Ino, flags: i32) -> Result<Opened, FsError> {
        let inode = self.inode(ino).await?;
        // What was truncated before may have been written to since.
        if flags & libc::O_TRUNC != 0 && !self.counted(&caller) {
            self.resize(&inode, 0).await?;
            self.drop_setid(caller, &inode).await?;
        }
        self.opened(&caller, &inode, flags).await
    }

    pub async fn create(
        &self,
        caller: Caller,
        parent: Ino,
        name: FileName,
        mode: u32,
        flags: i32,
    ) -> Result<(Attr, Opened), FsError> {
        let writer = writes(flags);
        let new = NewInode { writer, ..NewInode::new(FileKind::File, mode) };
        let made = !self.answered(&caller);
        let attr = self.make(caller, parent, name, new).await?;
        let inode = self.inode(attr.ino).await?;
        let opened = self.opened(&caller, &inode, flags).await;
        // From here on its handle counts, if it has one.
        if made && writer && inode.count_written() {
            self.volume.wants_settling([attr.ino]);
        }
        Ok((attr, opened?))
    }

    async fn opened(
        &self,
        caller: &Caller,
        inode: &Arc<Inode>,
        flags: i32,
    ) -> Result<Opened, FsError> {
        let writes = writes(flags);
        self.count_open(caller, inode).await?;
        let fh = self.new_handle();
        if writes {
            inode.writers.fetch_add(1, Ordering::SeqCst);
        }
        // The low bit tells release whether the handle could write; handles survive a restart of the
        // worker, so they cannot point into its memory.
        let fh = FileHandle(fh.0 << 1 | u64::from(writes));
        Ok(Opened { fh, keep_cache: true, direct_io: flags & libc::O_DIRECT != 0 })
    }

    pub async fn read(
        &self,
        ino: Ino,
        _fh: FileHandle,
        offset: u64,
        len: u32,
    ) -> Result<Bytes, FsError> {
        let inode = self.inode(ino).await?;
        let bytes = self.volume.read(&inode, offset, len as usize).await?;
        self.accessed(&inode);
        Ok(bytes)
    }

    /// relatime.
    fn accessed(&self, inode: &Arc<Inode>) {
        let now = crate::clock::now();
        let stale = {
            let mut live = inode.live();
            let attr = &mut live.attr;
            let stale = attr.atime <= attr.mtime
                || attr.atime <= attr.ctime
                || now.secs - attr.atime.secs > ATIME_AGE;
            if stale {
                attr.atime = now;
            }
            stale
        };
        if stale {
            self.volume.mark_attr_dirty(inode);
        }
    }

    /// `kill_priv`: clear setuid and setgid as POSIX asks of writes by non-root.
    pub async fn write(
        &self,
        ino: Ino,
        _fh: FileHandle,
        offset: u64,
        data: Bytes,
        kill_priv: bool,
    ) -> Result<u32, FsError> {
        let inode = self.inode(ino).await?;
        let end = offset.checked_add(data.len() as u64).filter(|end| *end <= MAX_FILE);
        let end = end.ok_or(FsError::FileTooBig)?;
        self.may_grow(&inode, end)?;
        self.volume.write(&inode, offset, &data).await?;
        if kill_priv {
            self.drop_setid(Caller { uid: u32::MAX, ..Caller::ROOT }, &inode).await?;
        }
        Ok(data.len() as u32)
    }

    async fn drop_setid(&self, caller: Caller, inode: &Arc<Inode>) -> Result<(), FsError> {
        let perm = inode.live().attr.perm;
        let setid = perm & 0o4000 != 0 || perm & 0o2010 == 0o2010;
        if caller.uid == 0 || !setid {
            return Ok(());
        }
        let mut tx = self.volume.begin().await?;
        tx.edit(inode.ino, |rec| {
            rec.perm &= !0o4000;
            if rec.perm & 0o010 != 0 {
                rec.perm &= !0o2000;
            }
            rec.attr_gen += 1;
        })
        .await?;
        if inode.live().attr.nlink > 0 {
            tx.needs_rest(inode.ino, WorkRec::Inode).await?;
        }
        tx.commit(0).await?;
        Ok(())
    }

    pub(super) async fn resize(&self, inode: &Arc<Inode>, size: u64) -> Result<(), FsError> {
        if size > MAX_FILE {
            return Err(FsError::FileTooBig);
        }
        self.may_grow(inode, size)?;
        self.volume.set_size(inode, size).await?;
        Ok(())
    }

    /// At the last close.
    pub async fn release(&self, ino: Ino, fh: FileHandle) -> Result<(), FsError> {
        self.released(Caller::ROOT, ino, fh).await
    }

    /// [`Fs::release`] as a request that the kernel may send again.
    pub async fn released(&self, caller: Caller, ino: Ino, fh: FileHandle) -> Result<(), FsError> {
        if self.answered(&caller) {
            return Ok(());
        }
        if fh.0 & 1 == 1
            && let Some(inode) = self.volume.inodes.get(ino)
            && inode.count_written()
        {
            // It was left alone as long as somebody could write.
            self.volume.wants_settling([ino]);
        }
        self.closed(caller, ino).await
    }

    pub(super) async fn closed(&self, caller: Caller, ino: Ino) -> Result<(), FsError> {
        let Some(inode) = self.volume.inodes.get(ino) else { return Ok(()) };
        let conn = self.volume.meta.connection();
        let record = Record::Released { conn, unique: caller.unique, ino };
        let noted = self.volume.meta.journal.lock().append(&record);
        // The handle is gone whether the log has room for that or not.
        let removed = match inode.count_closed() {
            true => self.unused(&inode).await,
            false => Ok(()),
        };
        noted.map_err(crate::data::DataError::from)?;
        removed
    }

    async fn unused(&self, inode: &Inode) -> Result<(), FsError> {
        inode.live().cache.close();
        if inode.live().attr.nlink > 0 {
            return Ok(());
        }
        let removed = self.remove_unused(inode.ino).await;
        if removed.is_err() {
            // Tried again when keys are tidied.
            self.volume.wants_tidying();
        }
        removed
    }

    /// Removes an inode without a name, unless it was opened again meanwhile, or removed by another
    /// last close.
    async fn remove_unused(&self, ino: Ino) -> Result<(), FsError> {
        let mut tx = self.volume.begin_owed().await?;
        let still_there = tx.kv.get_raw(&crate::meta::keys::orphan(ino)).await?.is_some();
        if still_there && tx.is_unused(ino).await? {
            tx.remove(ino).await?;
            tx.commit(0).await?;
        }
        Ok(())
    }

    /// Everything of this inode and every earlier change of names is in the bucket when this returns. It
    /// takes as long as the uplink needs; an error comes when nothing went up for a while.
    pub async fn fsync(&self, ino: Ino, _datasync: bool) -> Result<Receipt, FsError> {
        let volume = Arc::clone(&self.volume);
        let timeout = crate::fault::duration(crate::fault::SYNC_TIMEOUT, SYNC_TIMEOUT);
        // In a task of its own: when the time is over, what is under way still goes up.
        let mut sync = tokio::spawn(async move {
            if let Some(inode) = volume.inodes.get(ino) {
                volume.commit(vec![inode]).await?;
            }
            Ok::<_, FsError>(volume.meta.flush_patiently(timeout).await?)
        });
        let mut patience = Patience::new(&self.volume, timeout);
        loop {
            match tokio::time::timeout(patience.left(), &mut sync).await {
                Ok(Ok(synced)) => return synced,
                Ok(Err(panicked)) => return Err(FsError::io("fsync", panicked)),
                Err(late) if patience.is_over() => {
                    let why = self.volume.last_error().unwrap_or_else(|| "no answer".to_owned());
                    return Err(FsError::io(
                        format!("the bucket does not take the data: {why}"),
                        late,
                    ));
                }
                Err(_) => tracing::debug!(%ino, "an fsync goes on: its data is going up"),
            }
        }
    }

    pub async fn fallocate(
        &self,
        ino: Ino,
        _fh: FileHandle,
        mode: Fallocate,
        offset: u64,
        len: u64,
    ) -> Result<(), FsError> {
        if len == 0 {
            return Err(FsError::Invalid("length of 0"));
        }
        let end = offset.checked_add(len).filter(|end| *end <= MAX_FILE);
        let end = end.ok_or(FsError::FileTooBig)?;
        let inode = self.inode(ino).await?;
        match mode {
            Fallocate::Allocate { keep_size } => {
                self.may_reserve(&inode, end)?;
                let reserved = reserved(&inode.live(), offset, end);
                if !keep_size && end > inode.live().size {
                    self.resize(&inode, end).await?;
                    inode.live().attr.reserved = reserved;
                } else {
                    self.may_grow(&inode, end)?;
                    self.touch(&inode, Some(reserved)).await?;
                }
            }
            _ if keeps_size(mode) && offset >= inode.live().size => {
                self.touch(&inode, None).await?;
            }
            Fallocate::PunchHole => {
                self.volume.zero(&inode, offset, end, true).await?;
                let mut live = inode.live();
                let punched = end.min(live.size).saturating_sub(offset);
                live.attr.reserved = live.attr.reserved.saturating_sub(punched);
            }
            Fallocate::ZeroRange { keep_size } => {
                if !keep_size {
                    self.may_grow(&inode, end)?;
                }
                self.volume.zero(&inode, offset, end, keep_size).await?;
            }
        }
        Ok(())
    }

    /// What fallocate does to a file that it leaves as it is: as on ext4 its times move.
    async fn touch(&self, inode: &Arc<Inode>, reserved: Option<u64>) -> Result<(), FsError> {
        let now = crate::clock::now();
        let mut tx = self.volume.begin().await?;
        tx.edit(inode.ino, move |rec| {
            rec.mtime = now;
            rec.ctime = now;
            rec.attr_gen += 1;
            rec.reserved = reserved.unwrap_or(rec.reserved);
        })
        .await?;
        if inode.live().attr.nlink > 0 {
            tx.needs_rest(inode.ino, WorkRec::Inode).await?;
        }
        tx.commit(0).await?;
        Ok(())
    }

    /// SEEK_DATA (`hole` false) or SEEK_HOLE.
    pub async fn lseek(
        &self,
        ino: Ino,
        _fh: FileHandle,
        offset: u64,
        hole: bool,
    ) -> Result<u64, FsError> {
        let inode = self.inode(ino).await?;
        self.volume.seek(&inode, offset, hole).await?.ok_or(FsError::NoSeek)
    }

    pub async fn copy_range(
        &self,
        from: Ino,
        from_offset: u64,
        to: Ino,
        to_fh: FileHandle,
        to_offset: u64,
        len: u64,
    ) -> Result<u64, FsError> {
        let source = self.inode(from).await?;
        // As it is now: a copy behind the end of the same file makes that longer.
        let len = len.min(source.live().size.saturating_sub(from_offset));
        let mut done = 0;
        while done < len {
            let want = COPY.min((len - done) as usize);
            let bytes = self.volume.read(&source, from_offset + done, want).await?;
            if bytes.is_empty() {
                break;
            }
            let n = bytes.len() as u64;
            match self.write(to, to_fh, to_offset + done, bytes, false).await {
                Ok(_) => done += n,
                Err(_) if done > 0 => break,
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }
}

fn writes(flags: i32) -> bool {
    flags & libc::O_ACCMODE != libc::O_RDONLY
}

/// Bytes that a file takes when `offset..end` is reserved, too. Where its holes are is not looked up: what
/// is reserved inside of it twice may count once only, and what lies behind its end twice.
fn reserved(live: &Live, offset: u64, end: u64) -> u64 {
    let data = live.content.allocated().saturating_add(live.pending.data_bytes());
    let known = live.size.min(data).max(live.attr.reserved);
    let inside = end.min(live.size).saturating_sub(offset);
    let beyond = end.saturating_sub(offset.max(live.size));
    (known.max(inside) + beyond).min(known.max(live.size).max(end))
}

fn keeps_size(mode: Fallocate) -> bool {
    matches!(mode, Fallocate::PunchHole | Fallocate::ZeroRange { keep_size: true })
}
