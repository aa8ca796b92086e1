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

pub use borne::{BORNE, Borne, Slot, guessed, is_attribute, is_encoded};
pub use cache_file::CacheFile;
pub use churn::Churn;
pub use commit::{Much, SEGMENT};
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
pub use read::ReadAhead;
pub use repack::{Repacked, SLACK};
pub use room::{Room, Taken};
pub use seek::seek;
pub use standing::{Question, Shown, Since, Standing};
pub use trash::Trash;
pub use tx::Tx;
pub use uploads::{Upload, Uploads};
pub use volume::{Recovered, Volume, VolumeParts};
pub use whole::Whole;
