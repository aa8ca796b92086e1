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

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::config::VolumeOptions;
use crate::data::Fetching;
use crate::meta::Follower;
use crate::metrics::Meters;
use crate::store::StoreBackend;
use crate::types::{KeyPrefix, VolumeId};
use cache::Cache;
use pages::Pages;
use unknown::Unknown;

pub use core::FollowParts;
pub use pages::KernelPages;

/// One volume as a POSIX file system that cannot be changed.
#[derive(Debug)]
pub struct ReadFs {
    id: VolumeId,
    follower: Follower,
    store: Arc<dyn StoreBackend>,
    prefix: KeyPrefix,
    state_store: Arc<dyn StoreBackend>,
    state: KeyPrefix,
    options: VolumeOptions,
    cache: Cache,
    fetching: Fetching,
    /// What is counted of this volume.
    pub meters: Arc<Meters>,
    pages: Pages,
    unknown: Unknown,
    next_handle: AtomicU64,
    /// Boot time of the last request, of the last look, and of the end of the last attempt at one, milliseconds.
    used: AtomicU64,
    looked: AtomicU64,
    tried: AtomicU64,
    /// The state that the kernel's pages were brought to.
    seen: AtomicU64,
    news: Notify,
    trouble: Mutex<Option<String>>,
}

/// Why a look failed.
type Cause<'e> = &'e (dyn std::error::Error + 'static);
