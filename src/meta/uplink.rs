//! Waiting for the bucket as long as it takes something: a slow uplink ends nothing.

use std::fmt;
use std::pin::pin;
use std::sync::OnceLock;
use std::time::Duration;

/// Less than this is no sign that anything goes up (lease renewals, requests that are tried again), bytes.
const SIGN: u64 = 1 << 20;
/// So many times the patience is the end: what a bucket takes only to refuse it looks as if it went up, too.
pub(super) const ROUNDS: u32 = 10;

type Sent = Box<dyn Fn() -> u64 + Send + Sync>;

/// How many bytes went out so far. Nothing ever does before [`Uplink::watch`].
#[derive(Default)]
pub(super) struct Uplink(OnceLock<Sent>);

impl fmt::Debug for Uplink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Uplink").field(&self.sent()).finish()
    }
}

impl Uplink {
    /// Only the first call counts.
    pub fn watch(&self, sent: Sent) {
        let _ = self.0.set(sent);
    }

    fn sent(&self) -> u64 {
        self.0.get().map_or(0, |sent| sent())
    }

    /// Waits for `work`, and for longer than `patience` only if something went out meanwhile; `None` when the time is
    /// over.
    pub async fn wait<T>(&self, patience: Duration, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        for _ in 0..ROUNDS {
            let before = self.sent();
            if let Ok(done) = tokio::time::timeout(patience, &mut work).await {
                return Some(done);
            }
            if self.sent() <= before + SIGN {
                return None;
            }
        }
        None
    }
}
