//! What a file's content is made of, and who asks for it.

use serde::{Deserialize, Serialize};

use super::{ObjectKey, StoreTime};

/// Metadata of the objects that we publish: the volume's id, the put-id, and a hash of the key. Only
/// letters: Azure allows no `-` in names, and common proxies drop names with `_`.
pub const ATTR_VOLUME: &str = "s3volid";
pub const ATTR_PUT: &str = "s3volput";
pub const ATTR_KEY: &str = "s3volkey";
/// The number of the file that an object is of, so that the copies under its names are known as one.
pub const ATTR_INODE: &str = "s3volino";
/// The content type that we gave an object by ourselves, or [`NO_TYPE`]. As long as the object has that
/// one, nobody has said anything else.
pub const ATTR_TYPE: &str = "s3voltype";
pub const NO_TYPE: &str = "none";

/// The kind of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FileKind {
    File,
    Dir,
    Symlink,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
}

impl FileKind {
    /// The S_IFMT bits of `st_mode`.
    pub fn mode_bits(self) -> u32 {
        match self {
            FileKind::File => libc::S_IFREG,
            FileKind::Dir => libc::S_IFDIR,
            FileKind::Symlink => libc::S_IFLNK,
            FileKind::Fifo => libc::S_IFIFO,
            FileKind::Socket => libc::S_IFSOCK,
            FileKind::CharDevice => libc::S_IFCHR,
            FileKind::BlockDevice => libc::S_IFBLK,
        }
    }

    /// The kind that `st_mode` names; `None` when its S_IFMT bits are absent or unknown.
    pub fn from_mode(mode: u32) -> Option<Self> {
        Some(match mode & libc::S_IFMT {
            libc::S_IFREG => FileKind::File,
            libc::S_IFDIR => FileKind::Dir,
            libc::S_IFLNK => FileKind::Symlink,
            libc::S_IFIFO => FileKind::Fifo,
            libc::S_IFSOCK => FileKind::Socket,
            libc::S_IFCHR => FileKind::CharDevice,
            libc::S_IFBLK => FileKind::BlockDevice,
            _ => return None,
        })
    }
}

/// 128 random bits that name one publish; recorded in the intent and in the object's metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PutId(pub u128);

impl PutId {
    /// A fresh random identity.
    pub fn random() -> Self {
        PutId(uuid::Uuid::new_v4().as_u128())
    }

    /// Reads what `Display` wrote.
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok().map(PutId)).flatten()
    }
}

impl std::fmt::Display for PutId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// What the store said about one state of one object. An ETag alone is a hint on S3 (it hashes the
/// content), so "unchanged" means that everything known on both sides is equal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// As the store sent it, quotes removed.
    pub etag: String,
    /// Bytes.
    pub size: u64,
    /// Learned from the first LIST or HEAD after a publish; unknown right after a PUT.
    pub modified: Option<StoreTime>,
    /// Google's generation or a bucket's version id, where there is one.
    pub generation: Option<String>,
}

impl Version {
    /// Whether both have the same content; headers, tags and times may differ.
    pub fn same_bytes(&self, other: &Version) -> bool {
        self.etag == other.etag && self.size == other.size
    }

    /// Whether both describe the same state of the object, as far as both know.
    pub fn same(&self, other: &Version) -> bool {
        self.etag == other.etag
            && self.size == other.size
            && match (self.modified, other.modified) {
                // S3 lists with milliseconds and heads with seconds.
                (Some(a), Some(b)) => a.0 / 1000 == b.0 / 1000,
                _ => true,
            }
            && match (&self.generation, &other.generation) {
                (Some(a), Some(b)) => a == b,
                _ => true,
            }
    }
}

/// The object below a file's extents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    pub key: ObjectKey,
    /// Whether the key lies in the state's bucket (a parked copy) instead of the volume's.
    pub parked: bool,
    pub version: Version,
    /// Ours if we published it; `None` for somebody else's object.
    pub put_id: Option<PutId>,
}

/// Who asks: the credentials that FUSE passes with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
    pub pid: u32,
    /// FUSE's unique of the request without the RESEND bit; 0 when not from FUSE.
    pub unique: u64,
    /// The kernel sent this request before, to a worker that died: it may have been carried out.
    pub resent: bool,
    /// The process's file mode creation mask, for requests that make inodes.
    pub umask: u32,
}

impl Caller {
    /// The worker itself.
    pub const ROOT: Caller = Caller { uid: 0, gid: 0, pid: 0, unique: 0, resent: false, umask: 0 };
}
