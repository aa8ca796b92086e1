//! Work that waits for the local disk, beside the threads that may not wait.

use crate::fault;

/// What `work` returns, done on a thread of its own; `None` if it panicked there.
pub async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    if fault::one_thread() {
        return Some(work());
    }
    tokio::task::spawn_blocking(work).await.ok()
}
