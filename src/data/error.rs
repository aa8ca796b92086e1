//! Why content could not be read, written or committed.

use crate::meta::{MetaError, records::RecordError};
use crate::store::{StoreError, StoreErrorKind};
use crate::types::Ino;

/// Variants by what the caller does: retry later (`Store`, `Meta`), report (`Damaged`, `BaseGone`), or
/// refuse (`NoSpace`, `Gone`, `Fenced`).
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error(transparent)]
    Meta(#[from] MetaError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the cache file of inode {ino} failed: {source}")]
    Disk {
        ino: Ino,
        #[source]
        source: std::io::Error,
    },
    #[error("no space left on the local disk that holds the cache; free space there")]
    NoSpace,
    #[error("the local disk takes no file as large as inode {0} would be")]
    TooBig(Ino),
    #[error("inode {0} does not exist")]
    Gone(Ino),
    #[error("damaged content: {0}")]
    Damaged(String),
    #[error("the object {key} below inode {ino} was changed or removed by somebody else")]
    BaseGone { ino: Ino, key: String },
    #[error("the store did not take the data in time: {0}")]
    Late(String),
}

impl From<RecordError> for DataError {
    fn from(e: RecordError) -> Self {
        DataError::Meta(e.into())
    }
}

impl From<crate::meta::LogError> for DataError {
    fn from(e: crate::meta::LogError) -> Self {
        DataError::Meta(e.into())
    }
}

impl From<crate::meta::EngineError> for DataError {
    fn from(e: crate::meta::EngineError) -> Self {
        DataError::Meta(e.into())
    }
}

impl DataError {
    /// Whether the local disk was full.
    pub fn is_full(&self) -> bool {
        use crate::meta::{LogError, MetaError};
        matches!(
            self,
            DataError::NoSpace | DataError::Meta(MetaError::Log(LogError::NoSpace { .. }))
        )
    }

    /// Whether other files may well be committed although this met one.
    pub fn is_of_one_file(&self) -> bool {
        match self {
            DataError::Disk { .. }
            | DataError::Damaged(_)
            | DataError::BaseGone { .. }
            | DataError::TooBig(_)
            | DataError::Gone(_) => true,
            DataError::Meta(error) => matches!(error, MetaError::Record(_)),
            DataError::Store(_) | DataError::NoSpace | DataError::Late(_) => false,
        }
    }

    /// Whether others may well be read although this met one: an object of it may be missing, too.
    pub(super) fn is_of_what_was_read(&self) -> bool {
        self.is_of_one_file()
            || matches!(self, DataError::Store(error) if error.kind == StoreErrorKind::NotFound)
    }

    /// A disk error, with a full disk told apart.
    pub fn disk(ino: Ino, source: std::io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::ENOSPC) | Some(libc::EDQUOT) => DataError::NoSpace,
            Some(libc::EFBIG) => DataError::TooBig(ino),
            _ => DataError::Disk { ino, source },
        }
    }
}
