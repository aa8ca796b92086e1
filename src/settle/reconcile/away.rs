//! A bucket that does not answer. What is known serves, and nobody who looks something up waits for the bucket
//! again until it has answered a request that nobody waits for: each look would wait as long as the one before, one
//! after the other, and for every component of every path.

use std::sync::Weak;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::AbortHandle;

use super::{RETRY_PAUSE, Reconciler, USE_TIMEOUT};
use crate::store::{ListRequest, StoreError, StoreErrorKind};

/// Between two questions to it at the very least.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);

/// Whether the bucket is away, and the task that asks it.
#[derive(Debug, Default)]
pub(super) struct Away {
    is_away: AtomicBool,
    asking: Mutex<Option<AbortHandle>>,
}

impl Drop for Away {
    fn drop(&mut self) {
        if let Some(asking) = self.asking.get_mut().take() {
            asking.abort();
        }
    }
}

impl Reconciler {
    pub(super) fn bucket_is_away(&self) -> bool {
        self.away.is_away.load(Ordering::SeqCst)
    }

    /// A look had no answer. When it was only that one, the bucket says so at once.
    pub(super) fn no_answer(&self, error: &StoreError) {
        if !error.is_transient() || self.away.is_away.swap(true, Ordering::SeqCst) {
            return;
        }
        let asking = tokio::spawn(ask_until_it_answers(Weak::clone(&self.this)));
        *self.away.asking.lock() = Some(asking.abort_handle());
    }

    /// What is told of an object that cannot be looked at now.
    pub(super) fn told_away(&self) -> StoreError {
        StoreError::new(StoreErrorKind::Unreachable, "the bucket does not answer for now")
    }

    /// Whether it answers, in whatever words.
    async fn answers(&self) -> bool {
        let any = ListRequest {
            prefix: self.volume.prefix.as_str().to_owned(),
            delimiter: false,
            token: None,
            max_keys: 1,
        };
        let answer = self.volume.store.list(any, USE_TIMEOUT).await;
        !answer.is_err_and(|error| error.is_transient())
    }
}

async fn ask_until_it_answers(reconciler: Weak<Reconciler>) {
    let mut pause = Duration::ZERO;
    while let Some(this) = reconciler.upgrade() {
        if this.answers().await {
            this.away.is_away.store(false, Ordering::SeqCst);
            return;
        }
        let refresh = this.volume.tuned().refresh;
        let shortest = refresh.clamp(SHORTEST_PAUSE, RETRY_PAUSE);
        pause = (pause * 2).clamp(shortest, refresh.max(RETRY_PAUSE));
        drop(this);
        tokio::time::sleep(pause).await;
    }
}
