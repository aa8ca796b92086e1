//! A volume that is only read, while another host may be writing it.
//!
//! It is the file system over what lies in the bucket: a view of the metadata that follows the writer,
//! and content read from extents and objects as the writer reads it. There is no lease, no local log, no
//! sequencer and no settling here, and so nothing that could write; any number of hosts may do this at
//! once. Every request is answered from one view, which is one durable state of the volume.
//!
//! What it has besides: a local cache, valid for one generation of a file's content, and the knowledge
//! of which generation the kernel's pages show. Nothing of it survives the process or has to.

mod cache;
mod content;
mod core;
mod names;
mod newest;
mod pages;
mod unknown;

pub use core::{FollowParts, ReadFs};
pub use pages::KernelPages;
