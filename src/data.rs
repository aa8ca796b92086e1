//! File content, and the state of a mounted volume that everything above shares.
//!
//! Owns: live inodes, cache files, uncommitted changes, commits into extents and segments, the read
//! path, eviction. Content is, from the top: uncommitted changes (cache file), committed extents, the
//! base object, zeros. Uncommitted changes survive the process (local log and cache file); committed
//! ones survive the host once flushed. Clean cached bytes survive nothing.

mod ahead;
mod borne;
mod cache_file;
mod churn;
mod commit;
mod course;
mod dir_keys;
mod disk_ahead;
mod error;
mod evict;
mod extents;
mod fetching;
mod freeing;
mod garbage;
mod inode;
mod neighbours;
mod outside;
mod paths;
mod patience;
mod pieces;
mod programs;
mod read;
mod repack;
mod room;
mod rot;
mod scatter;
mod seek;
mod series;
mod standing;
mod trash;
mod tx;
mod uploads;
mod volume;
mod ways;
mod whole;
mod write;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::{Mutex as AsyncMutex, Notify};

use crate::config::{Tuned, VolumeOptions};
use crate::meta::Meta;
use crate::metrics::Meters;
use crate::store::{Capabilities, StoreBackend};
use crate::types::{Ino, KeyPrefix, VolumeId};
use dir_keys::DirKeys;
use neighbours::Neighbours;
use series::Series;
use whole::Stored;

pub use borne::{BORNE, Borne, Slot, guessed, is_attribute, is_encoded};
pub use cache_file::CacheFile;
pub use churn::Churn;
pub use commit::{Much, SEGMENT};
pub use course::ReadAhead;
pub use error::DataError;
pub use extents::{SegmentDelta, live_extents};
pub use fetching::{Fetching, MOST as MOST_FETCHED, Share};
pub use garbage::{give_up_map, give_up_older};
pub use inode::{ChangeGuard, Inode, InodeTable, Live};
pub use outside::{NothingOutside, Outside};
pub use paths::{MAX_KEY, PathMemo, beside, dir_key, escape_name, own_name, unescape_name};
pub use patience::Patience;
pub use pieces::{
    Fetch, GET_TIMEOUT, PARALLEL, Source, cut_up, fetches, hull, pieces, read_inline, read_run,
    zeros,
};
pub use programs::{Programs, Waiting};
pub use repack::{Repacked, SLACK};
pub use room::{Room, Taken};
pub use seek::seek;
pub use standing::{Question, Shown, Since, Standing};
pub use trash::Trash;
pub use tx::Tx;
pub use uploads::{Upload, Uploads};
pub use volume::{Recovered, VolumeParts};
pub use whole::{Whole, is_md5};

/// An inode with uncommitted changes.
#[derive(Debug)]
struct Dirty {
    pub inode: Arc<Inode>,
    /// Boot time; nothing of it that is not committed is older.
    pub since: Duration,
}

/// A mounted volume: its metadata, its inodes, its stores. Shared by `fs` and `settle`.
#[derive(Debug)]
pub struct Volume {
    pub id: VolumeId,
    pub name: String,
    pub meta: Meta,
    pub store: Arc<dyn StoreBackend>,
    pub prefix: KeyPrefix,
    pub state_store: Arc<dyn StoreBackend>,
    pub state: KeyPrefix,
    pub same_bucket: bool,
    /// As it was opened; [`Volume::tuned`] has what may change.
    pub options: VolumeOptions,
    tuned: RwLock<Tuned>,
    /// The options changed, for the timer of commits.
    pub retuned: Notify,
    pub capabilities: Capabilities,
    pub inodes: InodeTable,
    /// What is counted of this volume.
    pub meters: Arc<Meters>,
    cache_dir: PathBuf,
    pub trash: Trash,
    /// Inodes with uncommitted changes, pinned.
    dirty: Mutex<HashMap<Ino, Dirty>>,
    /// Bytes of uncommitted data, roughly (a range rewritten before its commit counts once), and
    /// in how many ranges they are.
    dirty_bytes: AtomicU64,
    dirty_ranges: AtomicU64,
    /// The cache's share of the local disk.
    room: Room,
    /// What may be downloaded at a time.
    pub fetching: Fetching,
    /// Whether programs wait.
    pub programs: Arc<Programs>,
    /// Held by whoever looks for victims. Taken before inodes' states.
    evicting: Mutex<()>,
    /// Somebody waits for dirty data to shrink, or there is much of it.
    pub commit_wanted: Notify,
    /// A program that writes from front to back has ended a block.
    pub block_ended: Notify,
    /// A commit was handed over.
    pub committed: Notify,
    /// Inodes that changed since settling last looked, and its bell.
    settle_queue: Mutex<HashSet<Ino>>,
    pub settle_wanted: Notify,
    /// Changes of names, for settling.
    pub churn: Churn,
    dir_keys: DirKeys,
    /// Files with many rows that were committed since they were last looked at.
    scattered: Mutex<HashSet<Ino>>,
    /// Held by whoever drops dead rows.
    collecting: AsyncMutex<()>,
    /// Segments that no record names yet.
    uploads: Uploads,
    stored: Stored,
    last_error: Mutex<Option<String>>,
    /// How small files are read.
    neighbours: Neighbours,
    series: Series,
    /// For what goes on beside whoever began it.
    this: Weak<Volume>,
}
