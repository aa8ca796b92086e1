//! Why a round of settling stopped.

use crate::data::DataError;
use crate::meta::MetaError;
use crate::store::StoreError;

/// Nothing is lost by any of these: the work stays in the queue.
#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    #[error(transparent)]
    Data(#[from] DataError),
    /// Changes of a file could not be stored, which has to happen before it is read.
    #[error(transparent)]
    Commit(DataError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("this host may not publish now: its lease was not confirmed in time")]
    NoAuthority,
}

impl SettleError {
    /// Whether it says something about one file or key, so that others may fare better. Not so when the
    /// bucket does not answer, the engine or the log is in trouble, or this host may not publish.
    pub(super) fn is_of_one(&self) -> bool {
        match self {
            SettleError::NoAuthority => false,
            // What is refused is a segment, and those are all alike.
            SettleError::Commit(DataError::Store(_) | DataError::NoSpace) => false,
            SettleError::Store(error) => error.is_of_one(),
            SettleError::Data(error) | SettleError::Commit(error) => match error {
                DataError::Store(error) => error.is_of_one(),
                DataError::Meta(error) => matches!(error, MetaError::Record(_)),
                DataError::Disk { .. }
                | DataError::NoSpace
                | DataError::Gone(_)
                | DataError::Damaged(_)
                | DataError::BaseGone { .. }
                | DataError::TooBig(_)
                | DataError::Late(_) => true,
            },
        }
    }
}

impl From<MetaError> for SettleError {
    fn from(e: MetaError) -> Self {
        SettleError::Data(e.into())
    }
}

impl From<crate::meta::records::RecordError> for SettleError {
    fn from(e: crate::meta::records::RecordError) -> Self {
        SettleError::Data(e.into())
    }
}
