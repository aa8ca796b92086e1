//! The end of a driver that makes place for one of another version: nothing that was asked stays without an answer.
//!
//! The socket stays with the supervisor, and whoever calls meanwhile waits there.

use std::time::Duration;

use tokio::sync::watch;

use super::Driver;

/// What only watches (events, metrics) may be cut off.
const WATCHERS: Duration = Duration::from_secs(1);

/// Open connections, and whether they are to end.
#[derive(Debug)]
pub(super) struct Rest {
    open: watch::Sender<usize>,
    begun: watch::Sender<bool>,
}

impl Default for Rest {
    fn default() -> Self {
        Rest { open: watch::Sender::new(0), begun: watch::Sender::new(false) }
    }
}

/// A connection, as long as it is served.
#[derive(Debug)]
pub(super) struct Open(watch::Sender<usize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open = open.saturating_sub(1));
    }
}

/// Tells that connections are to end.
#[derive(Debug)]
pub(super) struct Begun(watch::Receiver<bool>);

impl Begun {
    pub async fn wait(&mut self) {
        if self.0.wait_for(|begun| *begun).await.is_err() {
            // Whoever could begin is gone.
            std::future::pending::<()>().await;
        }
    }
}

impl Rest {
    pub fn opened(&self) -> Open {
        self.open.send_modify(|open| *open += 1);
        Open(self.open.clone())
    }

    pub fn begun(&self) -> Begun {
        Begun(self.begun.subscribe())
    }
}

impl Driver {
    /// Returns when all calls of before are answered and their connections closed. Nobody may accept connections any
    /// more.
    pub async fn rest(&self) {
        self.jobs.idle().await;
        self.rest.begun.send_replace(true);
        let mut open = self.rest.open.subscribe();
        let closed = open.wait_for(|open| *open == 0);
        if tokio::time::timeout(WATCHERS, closed).await.is_err() {
            tracing::debug!("connections are cut off");
        }
    }
}
