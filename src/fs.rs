//! POSIX semantics: inodes, handles, namespace, content, attributes. Knows neither FUSE nor S3.
//!
//! Permission checks are the kernel's (`default_permissions`); what the kernel leaves to the file
//! system is done here: ownership of new inodes, set-id rules, times, link counts, orphans. Every
//! change is one batch through the sequencer. Locks are the kernel's own.

mod acl;
mod api;
mod attributes;
mod content;
mod core;
mod dirs;
mod error;
mod namespace;
mod quota;
mod rename;
mod xattrs;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::data::{Outside, Volume};
use quota::Quota;

pub use api::{
    Attr, DirEntry, Fallocate, FileHandle, Opened, RenameMode, SetAttr, SetTime, Show, StatFs,
    XattrMode, check_name,
};
pub use dirs::entries_after;
pub use error::FsError;
pub use xattrs::{listed as listed_xattrs, supported as supported_xattr};

/// One volume as a POSIX file system. Every operation is a future that is ready at its first poll
/// when it needs no request to the store; all of them may be polled from any thread, with any waker.
#[derive(Debug)]
pub struct Fs {
    volume: Arc<Volume>,
    outside: Arc<dyn Outside>,
    next_handle: AtomicU64,
    quota: Quota,
}
