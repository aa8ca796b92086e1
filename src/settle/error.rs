//! Why a round of settling stopped.

use crate::data::DataError;
use crate::meta::MetaError;
use crate::store::StoreError;

/// Nothing is lost by any of these: the work stays in the queue.
#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("this host may not publish now: its lease was not confirmed in time")]
    NoAuthority,
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
