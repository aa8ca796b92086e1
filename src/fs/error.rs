//! Why a file system operation failed; the FUSE adapter turns each into one errno.

/// Variants are POSIX's reasons; `Io` keeps its cause.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    #[error("no such file or directory")]
    NotFound,
    #[error("file exists")]
    Exists,
    #[error("not a directory")]
    NotDir,
    #[error("is a directory")]
    IsDir,
    #[error("directory not empty")]
    NotEmpty,
    #[error("invalid argument: {0}")]
    Invalid(&'static str),
    #[error("name too long")]
    NameTooLong,
    #[error("permission denied")]
    AccessDenied,
    #[error("operation not permitted")]
    NotPermitted,
    #[error("read-only file system")]
    ReadOnly,
    #[error("no space left: {0}")]
    NoSpace(String),
    #[error("quota exceeded")]
    Quota,
    #[error("file too large")]
    FileTooBig,
    #[error("too many links")]
    TooManyLinks,
    #[error("no such attribute")]
    NoXattr,
    #[error("value does not fit")]
    Range,
    #[error("argument list too long")]
    TooBig,
    #[error("not supported")]
    Unsupported,
    #[error("bad file handle")]
    BadHandle,
    #[error("no data or hole at or after this offset")]
    NoSeek,
    #[error("stale file handle")]
    Stale,
    #[error("{context}")]
    Io {
        context: String,
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
}

impl FsError {
    /// An I/O error with its cause.
    pub fn io(
        context: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        FsError::Io { context: context.into(), source: Some(source.into()) }
    }
}

impl From<crate::meta::MetaError> for FsError {
    fn from(e: crate::meta::MetaError) -> Self {
        crate::data::DataError::from(e).into()
    }
}

impl From<crate::data::DataError> for FsError {
    fn from(e: crate::data::DataError) -> Self {
        use crate::data::DataError;
        match e {
            full if full.is_full() => FsError::NoSpace(full.to_string()),
            DataError::TooBig(_) => FsError::FileTooBig,
            DataError::Gone(_) => FsError::NotFound,
            DataError::Meta(_)
            | DataError::Store(_)
            | DataError::NoSpace
            | DataError::Disk { .. }
            | DataError::Damaged(_)
            | DataError::BaseGone { .. }
            | DataError::Late(_) => {
                FsError::Io { context: e.to_string(), source: Some(Box::new(e)) }
            }
        }
    }
}
