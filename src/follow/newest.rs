//! An answer from one view, and from a newer one when that one has passed away in the bucket.
//!
//! The writer deletes what its newest state does not need: tables, pieces of the log, segments, the
//! object under a file that was published again. Whoever meets such a hole with an older view looks
//! for the newest one. If there is none, once more is tried, and then it is an error.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::{Cause, ReadFs};
use crate::clock::Deadline;
use crate::data::DataError;
use crate::fs::FsError;
use crate::meta::records::RecordError;
use crate::meta::{EngineError, MetaError, View};
use crate::store::{StoreError, StoreErrorKind};

/// A writer that replaces a file faster than it can be read wins in the end.
const ATTEMPTS: usize = 20;
const LOOK: Duration = Duration::from_secs(20);

/// Why a view gave no answer.
#[derive(Debug)]
pub(super) enum Failed {
    /// This is the answer.
    Fs(FsError),
    /// Something that the view names is not there.
    Outdated(DataError),
}

impl From<FsError> for Failed {
    fn from(error: FsError) -> Self {
        Failed::Fs(error)
    }
}

impl From<DataError> for Failed {
    fn from(error: DataError) -> Self {
        let outdated = match &error {
            DataError::BaseGone { .. } | DataError::Late(_) => true,
            DataError::Store(error) => {
                matches!(error.kind, StoreErrorKind::NotFound | StoreErrorKind::Changed)
            }
            // SlateDB names no difference between a file that is gone and one that cannot be read.
            DataError::Meta(MetaError::Engine(error)) => !matches!(error, EngineError::Deadline),
            _ => false,
        };
        if outdated { Failed::Outdated(error) } else { Failed::Fs(error.into()) }
    }
}

impl From<MetaError> for Failed {
    fn from(error: MetaError) -> Self {
        DataError::from(error).into()
    }
}

impl From<RecordError> for Failed {
    fn from(error: RecordError) -> Self {
        DataError::from(error).into()
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        DataError::from(error).into()
    }
}

impl ReadFs {
    /// The answer of `ask` to `view`, or to a newer one.
    pub(super) async fn answer<T, F>(
        &self,
        mut view: Arc<View>,
        ask: impl Fn(Arc<View>) -> F,
    ) -> Result<T, FsError>
    where
        F: Future<Output = Result<T, Failed>>,
    {
        let mut again = 0;
        for _ in 0..ATTEMPTS {
            let error = match ask(Arc::clone(&view)).await {
                Ok(answer) => return Ok(answer),
                Err(Failed::Fs(error)) => return Err(error),
                Err(Failed::Outdated(error)) => error,
            };
            let newest = self.follower.renew(Deadline::after(LOOK)).await;
            self.learned(newest.as_ref().map(|_| ()).map_err(|e| e as Cause<'_>));
            let Ok(newest) = newest else { return Err(error.into()) };
            if newest.number() == view.number() {
                again += 1;
                if again > 1 {
                    return Err(error.into());
                }
            }
            tracing::debug!(%error, "asked again of the newest state");
            view = newest;
        }
        let why = "the file is replaced faster than it can be read here";
        Err(DataError::Late(why.to_owned()).into())
    }
}
