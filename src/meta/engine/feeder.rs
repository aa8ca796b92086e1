//! Hands accepted batches to the handle, in groups.
//!
//! A write of the database costs changes of threads whatever it holds, so nobody who changes a name makes
//! one: batches of some milliseconds go together. A flush does not wait for that, it hands over by itself.

use std::sync::Arc;
use std::time::Duration;

use super::Inner;

/// For so long batches come together.
const LINGER: Duration = Duration::from_millis(10);

/// Ends with the engine.
pub(super) async fn run(inner: Arc<Inner>) {
    loop {
        tokio::select! {
            biased;
            _ = inner.stop.cancelled() => return,
            _ = inner.accepted.notified() => {}
        }
        tokio::time::sleep(LINGER).await;
        // The only errors are final, and callers learn of them from the state.
        let handed = tokio::select! {
            biased;
            _ = inner.stop.cancelled() => return,
            handed = inner.hand_over() => handed,
        };
        if handed.is_err() {
            return;
        }
    }
}
