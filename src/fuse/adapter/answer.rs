//! Results become replies: one function for each form of reply.

use bytes::Bytes;
use fuser::{
    Errno, FileHandle, FopenFlags, Generation, ReplyAttr, ReplyCreate, ReplyData, ReplyEmpty,
    ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr,
};

use super::convert::file_attr;
use crate::fs::{Attr, Opened, StatFs};
use crate::meta::Receipt;

/// Inode numbers are never used again, so that one generation is enough.
pub(super) const GENERATION: Generation = Generation(0);

/// The unit of `statfs`.
const BLOCK: u64 = 4096;

pub(in crate::fuse) fn empty(reply: ReplyEmpty) -> impl FnOnce(Result<(), Errno>) + Send {
    move |result| match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

/// The reply to fsync: saying yes takes the receipt of a finished flush.
pub(in crate::fuse) fn synced(reply: ReplyEmpty) -> impl FnOnce(Result<Receipt, Errno>) + Send {
    move |result| match result {
        Ok(Receipt { .. }) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

pub(in crate::fuse) fn entry(reply: ReplyEntry) -> impl FnOnce(Result<Attr, Errno>) + Send {
    move |result| match result {
        Ok(attr) => reply.entry(&attr.ttl, &file_attr(&attr), GENERATION),
        Err(errno) => reply.error(errno),
    }
}

pub(in crate::fuse) fn attr(reply: ReplyAttr) -> impl FnOnce(Result<Attr, Errno>) + Send {
    move |result| match result {
        Ok(attr) => reply.attr(&attr.ttl, &file_attr(&attr)),
        Err(errno) => reply.error(errno),
    }
}

pub(in crate::fuse) fn opened(reply: ReplyOpen) -> impl FnOnce(Result<Opened, Errno>) + Send {
    move |result| match result {
        Ok(opened) => reply.opened(FileHandle(opened.fh.0), open_flags(&opened)),
        Err(errno) => reply.error(errno),
    }
}

pub(in crate::fuse) fn opened_dir(
    reply: ReplyOpen,
) -> impl FnOnce(Result<crate::fs::FileHandle, Errno>) + Send {
    move |result| match result {
        Ok(fh) => reply.opened(FileHandle(fh.0), FopenFlags::empty()),
        Err(errno) => reply.error(errno),
    }
}

pub(in crate::fuse) fn created(
    reply: ReplyCreate,
) -> impl FnOnce(Result<(Attr, Opened), Errno>) + Send {
    move |result| match result {
        Ok((attr, opened)) => reply.created(
            &attr.ttl,
            &file_attr(&attr),
            GENERATION,
            FileHandle(opened.fh.0),
            open_flags(&opened),
        ),
        Err(errno) => reply.error(errno),
    }
}

fn open_flags(opened: &Opened) -> FopenFlags {
    let mut flags = FopenFlags::empty();
    flags.set(FopenFlags::FOPEN_KEEP_CACHE, opened.keep_cache);
    flags.set(FopenFlags::FOPEN_DIRECT_IO, opened.direct_io);
    flags
}

/// At most `limit` bytes: the kernel refuses a reply that is longer than what it asked for.
pub(in crate::fuse) fn data(
    reply: ReplyData,
    limit: usize,
) -> impl FnOnce(Result<Bytes, Errno>) + Send {
    move |result| match result {
        Ok(data) => reply.data(&data[..data.len().min(limit)]),
        Err(errno) => reply.error(errno),
    }
}

pub(in crate::fuse) fn written(reply: ReplyWrite) -> impl FnOnce(Result<u32, Errno>) + Send {
    move |result| match result {
        Ok(count) => reply.written(count),
        Err(errno) => reply.error(errno),
    }
}

pub(in crate::fuse) fn copied(reply: ReplyWrite) -> impl FnOnce(Result<u64, Errno>) + Send {
    move |result| match result {
        // At most what `convert::copy_length` allowed, which fits.
        Ok(count) => reply.written(u32::try_from(count).unwrap_or(u32::MAX)),
        Err(errno) => reply.error(errno),
    }
}

pub(in crate::fuse) fn sought(reply: ReplyLseek) -> impl FnOnce(Result<u64, Errno>) + Send {
    // The protocol's offsets are signed; an offset that does not fit has this one errno.
    move |result| match result.and_then(|at| i64::try_from(at).map_err(|_| Errno::EOVERFLOW)) {
        Ok(offset) => reply.offset(offset),
        Err(errno) => reply.error(errno),
    }
}

pub(in crate::fuse) fn statfs(reply: ReplyStatfs) -> impl FnOnce(Result<StatFs, Errno>) + Send {
    move |result| match result {
        Ok(s) => reply.statfs(
            s.total / BLOCK,
            s.free / BLOCK,
            s.free / BLOCK,
            s.files,
            s.files_free,
            BLOCK as u32,
            255,
            BLOCK as u32,
        ),
        Err(errno) => reply.error(errno),
    }
}

/// A caller with room for 0 bytes asks for the length; one with too little gets ERANGE.
pub(in crate::fuse) fn xattr(
    reply: ReplyXattr,
    room: u32,
) -> impl FnOnce(Result<Bytes, Errno>) + Send {
    move |result| match result {
        Ok(value) if room == 0 => match u32::try_from(value.len()) {
            Ok(len) => reply.size(len),
            Err(_) => reply.error(Errno::E2BIG),
        },
        Ok(value) if value.len() > room as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(errno) => reply.error(errno),
    }
}
