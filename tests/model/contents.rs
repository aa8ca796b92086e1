//! What files hold.

use bytes::Bytes;
use s3vol::fs::{Fallocate, FsError, SetAttr};

use crate::ops::{Op, bytes};
use crate::oracle::Id;
use crate::run::{LARGEST, NONE, Outcome, Run, agree, failed, same_bytes};

impl Run {
    pub async fn use_content(&mut self, op: &Op) -> Outcome {
        match *op {
            Op::Write { file, at, len, seed } => {
                if let Some((id, _)) = self.file(file) {
                    self.write(id, at, bytes(seed, len)).await?;
                }
            }
            Op::Append { file, len, seed } => {
                if let Some((id, _)) = self.file(file) {
                    let at = self.tree.node(id).data.len() as u32;
                    self.write(id, at, bytes(seed, len)).await?;
                }
            }
            Op::Truncate { file, size } => {
                if let Some((id, _)) = self.file(file) {
                    self.truncate(id, size).await?;
                }
            }
            Op::Punch { file, at, len } => {
                self.zero(file, at, len, Fallocate::PunchHole).await?;
            }
            Op::Zero { file, at, len, keep } => {
                self.zero(file, at, len, Fallocate::ZeroRange { keep_size: keep }).await?;
            }
            Op::Allocate { file, at, len, keep } => {
                self.zero(file, at, len, Fallocate::Allocate { keep_size: keep }).await?;
            }
            Op::Seek { file, at, hole } => {
                if let Some((id, _)) = self.file(file) {
                    self.seek(id, u64::from(at), hole).await?;
                }
            }
            Op::CopyRange { from, at, to, to_at, len } => {
                if let (Some((from, _)), Some((to, _))) = (self.file(from), self.file(to)) {
                    self.copy(from, at, to, to_at, len).await?;
                }
            }
            Op::Rewrite { file, len, seed } => {
                if let Some((id, _)) = self.file(file) {
                    self.rewrite(id, len, seed).await?;
                }
            }
            Op::Read { file, at, len } => {
                if let Some((id, ino)) = self.file(file) {
                    let read = self.fs().read(ino, NONE, u64::from(at), len).await;
                    let read = read.map_err(failed("read"))?;
                    let data = &self.tree.node(id).data;
                    let from = (at as usize).min(data.len());
                    let to = (at as usize + len as usize).min(data.len());
                    same_bytes(&read, &data[from..to])?;
                }
            }
            _ => unreachable!("not one of these: {op:?}"),
        }
        Ok(())
    }

    async fn write(&mut self, id: Id, at: u32, data: Vec<u8>) -> Outcome {
        let room = LARGEST.saturating_sub(at) as usize;
        let data = &data[..data.len().min(room)];
        let bytes = Bytes::copy_from_slice(data);
        let wrote = self.fs().write(self.ino(id), NONE, u64::from(at), bytes, false).await;
        wrote.map_err(failed("write"))?;
        self.put_bytes(id, at, data);
        Ok(())
    }

    fn put_bytes(&mut self, id: Id, at: u32, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        let node = self.tree.node_mut(id);
        let end = at as usize + data.len();
        if node.data.len() < end {
            node.data.resize(end, 0);
        }
        node.data[at as usize..end].copy_from_slice(data);
        self.changed(id);
    }

    async fn truncate(&mut self, id: Id, size: u32) -> Outcome {
        let change = SetAttr { size: Some(u64::from(size)), ..SetAttr::default() };
        let done = self.fs().setattr(self.who, self.ino(id), change).await;
        done.map_err(failed("truncate"))?;
        self.tree.node_mut(id).data.resize(size as usize, 0);
        self.changed(id);
        Ok(())
    }

    pub async fn rewrite(&mut self, id: Id, len: u32, seed: u8) -> Outcome {
        let ino = self.ino(id);
        let opened = self.fs().open(self.who, ino, libc::O_WRONLY | libc::O_TRUNC).await;
        let opened = opened.map_err(failed("open"))?;
        let root = self.who.uid == 0;
        let node = self.tree.node_mut(id);
        node.data.clear();
        if !root && node.perm & 0o010 != 0 {
            node.perm &= !0o6000;
        } else if !root {
            node.perm &= !0o4000;
        }
        self.changed(id);
        self.write(id, 0, bytes(seed, len)).await?;
        self.fs().release(ino, opened.fh).await.map_err(failed("release"))
    }

    async fn zero(&mut self, file: u8, at: u32, len: u32, mode: Fallocate) -> Outcome {
        let Some((id, ino)) = self.file(file) else { return Ok(()) };
        let expected = if len == 0 { Err(vec!["invalid"]) } else { Ok(()) };
        let done = self.fs().fallocate(ino, NONE, mode, u64::from(at), u64::from(len)).await;
        if agree(done, &expected)?.is_none() {
            return Ok(());
        }
        let data = &mut self.tree.node_mut(id).data;
        let end = at as usize + len as usize;
        if let Fallocate::Allocate { keep_size } = mode {
            if !keep_size && data.len() < end {
                data.resize(end, 0);
            }
            self.changed(id);
            return Ok(());
        }
        if mode == (Fallocate::ZeroRange { keep_size: false }) && data.len() < end {
            data.resize(end, 0);
        }
        let to = end.min(data.len());
        if (at as usize) < to {
            data[at as usize..to].fill(0);
        }
        self.changed(id);
        Ok(())
    }

    /// What is data and what a hole is the file system's to choose, but a hole reads as zeros.
    async fn seek(&self, id: Id, at: u64, hole: bool) -> Outcome {
        let data = &self.tree.node(id).data;
        let size = data.len() as u64;
        let found = self.fs().lseek(self.ino(id), NONE, at, hole).await;
        let zeros = |from: u64, to: u64| data[from as usize..to as usize].iter().all(|b| *b == 0);
        let right = match &found {
            Ok(found) if !(at..=size).contains(found) => false,
            Ok(found) if hole => at < size && (*found == size || zeros(*found, found + 1)),
            Ok(found) => *found < size && zeros(at, *found),
            Err(FsError::NoSeek) => at >= size || !hole && zeros(at, size),
            Err(_) => false,
        };
        if right { Ok(()) } else { Err(format!("found {found:?} of {size} bytes")) }
    }

    async fn copy(&mut self, from: Id, at: u32, to: Id, to_at: u32, len: u32) -> Outcome {
        let len = len.min(LARGEST.saturating_sub(to_at));
        // The kernel refuses to copy a range onto itself.
        if from == to && at.abs_diff(to_at) < len {
            return Ok(());
        }
        let data = &self.tree.node(from).data;
        let start = (at as usize).min(data.len());
        let piece = data[start..(at as usize + len as usize).clamp(start, data.len())].to_vec();
        let (from, into) = (self.ino(from), self.ino(to));
        let copied = self
            .fs()
            .copy_range(from, u64::from(at), into, NONE, u64::from(to_at), u64::from(len))
            .await
            .map_err(failed("copy_file_range"))?;
        if copied != piece.len() as u64 {
            return Err(format!("copied {copied} bytes, expected {}", piece.len()));
        }
        self.put_bytes(to, to_at, &piece);
        Ok(())
    }

    fn changed(&mut self, id: Id) {
        let node = self.tree.node_mut(id);
        node.mtime = None;
        node.theirs = None;
    }
}
