//! The end of a driver that makes place for one of another version: nothing that was asked stays without an answer.
//!
//! The socket stays with the supervisor, and whoever calls meanwhile waits there.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Driver;
use super::jobs::IDLE;

/// What only watches (events, metrics) may be cut off.
const WATCHERS: Duration = Duration::from_secs(1);

/// Open connections, and that they are to end.
#[derive(Debug, Default)]
pub(super) struct Rest {
    pub open: TaskTracker,
    pub begun: CancellationToken,
}

impl Driver {
    /// Returns when all calls of before are answered and their connections closed. Nobody may accept connections any
    /// more.
    pub async fn rest(&self) {
        // First, so that nobody asks for more on a connection that is open.
        self.rest.begun.cancel();
        if tokio::time::timeout(IDLE, self.jobs.idle()).await.is_err() {
            tracing::warn!(
                "calls that took too long are cut off; their callers have to repeat them"
            );
        }
        self.rest.open.close();
        if tokio::time::timeout(WATCHERS, self.rest.open.wait()).await.is_err() {
            tracing::debug!("connections are cut off");
        }
    }
}
