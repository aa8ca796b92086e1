//! What the engine's values hold, encoded with postcard (see `docs/FORMAT.md`).

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::types::{Base, FileKind, Ino, ObjectKey, PutId, StoreTime, Timestamp, Version};

/// Counters of the volume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuperRec {
    /// The next inode number to give.
    pub next_ino: u64,
    /// Sum of committed file sizes, bytes.
    pub bytes: u64,
    /// Inodes, the root included.
    pub inodes: u64,
    /// Rows of extents, the dead ones included that the collector has not dropped yet.
    pub extents: u64,
    /// Rows of the two queues of settling: inodes with work, and keys to tidy.
    pub work: u64,
    pub tidy: u64,
}

/// Attributes of an inode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InodeRec {
    pub kind: FileKind,
    /// 0o7777 at most.
    pub perm: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    pub rdev: u32,
    pub atime: Timestamp,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
    pub btime: Timestamp,
    /// Grows with every change that an object's metadata shows.
    pub attr_gen: u64,
    /// The value of `attr_gen` that came with the last change made here of what its object bears
    /// (`user.s3.…`); 0: none since that was read.
    pub borne_gen: u64,
    /// Whether the object's own attributes were read (false: adopted from a listing).
    pub known: bool,
    /// Bytes that fallocate has reserved, for `st_blocks` alone: what is written into them takes no more.
    pub reserved: u64,
    /// A symlink's target.
    pub target: Option<Bytes>,
}

impl InodeRec {
    /// Of root, made at `time`, with no name more than it has when it is made.
    pub fn new(kind: FileKind, perm: u32, time: Timestamp) -> Self {
        InodeRec {
            kind,
            perm,
            uid: 0,
            gid: 0,
            nlink: if kind == FileKind::Dir { 2 } else { 1 },
            rdev: 0,
            atime: time,
            mtime: time,
            ctime: time,
            btime: time,
            attr_gen: 1,
            borne_gen: 0,
            known: true,
            reserved: 0,
            target: None,
        }
    }
}

/// Where a file's committed content lies: extents newer than `drop_gen` over the base over zeros.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ContentRec {
    /// Bytes.
    pub size: u64,
    pub base: Option<Base>,
    /// The base shows only below this offset.
    pub base_limit: u64,
    /// Grows with every commit.
    pub generation: u64,
    /// Extents of this generation or an older one are dead.
    pub drop_gen: u64,
    /// A publish under way: its generation, and how much of it still is this file's content.
    pub publishing: Option<Publishing>,
    /// Bytes that extents hold, for `st_blocks`. Extents that a publish made dead may be counted until
    /// the next publish; never too few.
    pub data: u64,
    /// The map that its extents are rows of. Counts up; no number is used again.
    pub map: u64,
    /// Rows of this map.
    pub pieces: u64,
}

/// What a publish under way will leave of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publishing {
    pub put_id: PutId,
    pub generation: u64,
    /// The smallest size that the file had since.
    pub limit: u64,
}

impl ContentRec {
    /// Bytes that are not holes, as far as they can be told without looking: never too few.
    pub fn allocated(&self) -> u64 {
        let base = self.base.as_ref().map_or(0, |base| base.version.size.min(self.base_limit));
        base.saturating_add(self.data)
    }

    /// Whether the base alone is the content.
    pub fn at_rest(&self) -> bool {
        self.drop_gen >= self.generation
            && match &self.base {
                Some(base) => base.version.size == self.size && self.base_limit >= self.size,
                None => false,
            }
    }
}

/// One name in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirentRec {
    pub ino: Ino,
    pub kind: FileKind,
}

/// A committed piece of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtentRec {
    pub start: u64,
    pub generation: u64,
    pub place: Place,
}

/// Where an extent's bytes are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// In the record itself.
    Inline(Bytes),
    /// In a segment object. `crc` covers `crc_len` bytes from `crc_offset`, the piece as it was
    /// uploaded; a trimmed extent shows a part of it.
    Segment { id: u128, offset: u64, crc: u32, crc_offset: u64, crc_len: u32 },
    /// A hole over older content.
    Zero,
}

/// What lies at a key, as far as we know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestRec {
    pub ino: Ino,
    /// `None` for an object that somebody else put.
    pub put_id: Option<PutId>,
    pub version: Version,
    /// What of the inode it shows.
    pub generation: u64,
    pub attr_gen: u64,
}

/// Why an inode is in the work queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkRec {
    /// Its content, attributes or names changed.
    Inode,
    /// A directory was renamed: everything below it moves at rest.
    Subtree,
}

/// A request announced before it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntentRec {
    pub key: ObjectKey,
    pub op: IntentOp,
    pub ino: Ino,
    pub generation: u64,
    pub attr_gen: u64,
    /// What was at the key; `None` is nothing.
    pub expected: Option<Version>,
    pub not_after: StoreTime,
    pub upload: Option<crate::store::UploadId>,
    /// Whether the object becomes the base of its inode, and which base it then replaces. An outcome
    /// that finds another base only records what lies at the key: keys are ordered, inodes are not.
    pub moves_base: bool,
    pub replaces: Option<Base>,
}

/// What an intent does to its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum IntentOp {
    /// PUT, Complete or COPY: afterwards the object bears the put-id.
    Put,
    Delete,
}

/// Accounting of one segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentRec {
    pub total: u64,
    pub live: u64,
}

/// Rows that nothing shows any more, and how far the collector is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadRec {
    /// Extents of this generation or an older one are dead.
    pub through: u64,
    /// The last part of the key of the last row that was looked at; empty before the first.
    pub after: Bytes,
}

impl DeadRec {
    /// All rows.
    pub fn whole() -> Self {
        DeadRec { through: u64::MAX, after: Bytes::new() }
    }
}

/// What an inode was that somebody else removed, for the case that its key returns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TombRec {
    /// When it went.
    pub at: Timestamp,
    pub perm: u32,
    pub uid: u32,
    pub gid: u32,
    pub btime: Timestamp,
    pub xattrs: Vec<(Bytes, Bytes)>,
}

/// The longest file and the largest counter, so that no sum of two overflows. A file's size is an `off_t`.
const MOST: u64 = i64::MAX as u64;

/// A record that the engine holds. What lies in the bucket may have been edited by whoever can write there, so no
/// number of it is believed before [`Row::fits`] has looked at it.
pub trait Row: DeserializeOwned {
    /// Whether all numbers are ones that s3vol can have written.
    fn fits(&self) -> bool {
        true
    }
}

impl Row for DirentRec {
    fn fits(&self) -> bool {
        self.ino.0 <= MOST
    }
}

impl Row for WorkRec {}
impl Row for Ino {}
impl Row for DeadRec {}

impl Row for SuperRec {
    fn fits(&self) -> bool {
        let SuperRec { next_ino, bytes, inodes, extents, work, tidy } = *self;
        [next_ino, bytes, inodes, extents, work, tidy].iter().all(|number| *number <= MOST)
    }
}

impl Row for InodeRec {
    fn fits(&self) -> bool {
        let times = [self.atime, self.mtime, self.ctime, self.btime];
        self.perm <= 0o7777
            && self.nlink <= i32::MAX as u32
            && times.iter().all(Timestamp::fits)
            && [self.attr_gen, self.borne_gen, self.reserved].iter().all(|number| *number <= MOST)
    }
}

impl Row for ContentRec {
    fn fits(&self) -> bool {
        let base = self.base.as_ref().map_or(0, |base| base.version.size);
        let publishing = self.publishing.map_or([0, 0], |p| [p.generation, p.limit.min(MOST)]);
        [self.size, self.generation, self.drop_gen, self.data, self.map, self.pieces, base]
            .iter()
            .chain(&publishing)
            .all(|number| *number <= MOST)
    }
}

impl Row for ExtentRec {
    fn fits(&self) -> bool {
        self.start <= MOST
            && self.generation <= MOST
            && match self.place {
                Place::Inline(_) | Place::Zero => true,
                Place::Segment { offset, crc_offset, crc_len, .. } => {
                    crc_offset <= MOST
                        && (crc_offset..=crc_offset + u64::from(crc_len)).contains(&offset)
                }
            }
    }
}

impl Row for RestRec {
    fn fits(&self) -> bool {
        [self.ino.0, self.version.size, self.generation, self.attr_gen]
            .iter()
            .all(|number| *number <= MOST)
    }
}

impl Row for IntentRec {
    fn fits(&self) -> bool {
        let expected = self.expected.as_ref().map_or(0, |version| version.size);
        let replaces = self.replaces.as_ref().map_or(0, |base| base.version.size);
        [self.ino.0, expected, replaces, self.generation, self.attr_gen]
            .iter()
            .all(|number| *number <= MOST)
            && (i64::MIN / 2..=i64::MAX / 2).contains(&self.not_after.0)
    }
}

impl Row for SegmentRec {
    fn fits(&self) -> bool {
        self.total <= MOST && self.live <= MOST
    }
}

impl Row for TombRec {
    fn fits(&self) -> bool {
        self.perm <= 0o7777 && self.at.fits() && self.btime.fits()
    }
}

/// A record that cannot be read: damage, or a newer version's format.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("a {what} record cannot be read: {source}")]
    Unreadable { what: &'static str, source: postcard::Error },
    #[error("a {what} record holds a number that s3vol does not write")]
    OutOfRange { what: &'static str },
}

/// Writes a record.
pub fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    postcard::to_stdvec(record).expect("invariant: our records always serialize")
}

/// Reads a record.
pub fn decode<T: Row>(bytes: &[u8]) -> Result<T, RecordError> {
    let what = std::any::type_name::<T>();
    let record: T =
        postcard::from_bytes(bytes).map_err(|source| RecordError::Unreadable { what, source })?;
    if record.fits() { Ok(record) } else { Err(RecordError::OutOfRange { what }) }
}
