//! POSIX semantics: inodes, handles, namespace, content, attributes. Knows neither FUSE nor S3.

mod api;
mod core;
mod error;

pub use api::{
    Attr, DirEntry, Fallocate, FileHandle, Opened, RenameMode, SetAttr, SetTime, StatFs, XattrMode,
    check_name,
};
pub use core::Fs;
pub use error::FsError;
