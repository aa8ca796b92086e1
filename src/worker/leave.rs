//! Making room: a process that ends leaves its volume to the next mount of it on this host.
//!
//! Whoever mounts asks through the control socket (`POST /leave`). A process that serves refuses. One whose
//! mount is gone stops what can be done as well by the next one: settling, the export, waiting. What it has
//! committed is in the bucket, its open requests are announced there, and the rest is in the local log,
//! which the next one replays. The lock on the state folder says that it has gone: it is held until the
//! process has ended.

use std::path::Path;
use std::time::Duration;

use tokio::sync::watch;

use super::WorkerError;
use crate::clock::Deadline;
use crate::meta::LogError;
use crate::meta::log::StateDirLock;
use crate::sys::make_private;

/// An unmount or a signal that came before the question may be noticed after it.
const NOTICE: Duration = Duration::from_millis(500);
/// How long the lock of a process that ends, or was killed, is waited for.
const LOCK: Duration = Duration::from_secs(10);
const PACE: Duration = Duration::from_millis(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serving,
    /// Nobody uses the volume here.
    Ending,
    /// And a signal says once more that it is to end.
    Hurried,
    /// And the next mount waits for it.
    Asked,
}

/// Whether this process ends, and whether it is waited for. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Ending(watch::Sender<Phase>);

impl Default for Ending {
    fn default() -> Self {
        Ending(watch::Sender::new(Phase::Serving))
    }
}

impl Ending {
    /// From now on the process goes when it is asked to.
    pub fn begin(&self) {
        self.0.send_if_modified(|phase| {
            let begins = *phase == Phase::Serving;
            if begins {
                *phase = Phase::Ending;
            }
            begins
        });
    }

    /// The volume is in use again.
    pub fn call_off(&self) {
        self.0.send_replace(Phase::Serving);
    }

    /// Somebody wants the volume: whether this process goes.
    pub async fn ask(&self) -> bool {
        let mut phase = self.0.subscribe();
        let ends = phase.wait_for(|phase| *phase != Phase::Serving);
        if !matches!(tokio::time::timeout(NOTICE, ends).await, Ok(Ok(_))) {
            return false;
        }
        self.0.send_if_modified(|phase| {
            let ends = *phase != Phase::Serving;
            if ends {
                *phase = Phase::Asked;
            }
            ends
        });
        self.is_asked()
    }

    /// Somebody waits for the end of this process.
    pub fn hurry(&self) {
        self.0.send_if_modified(|phase| {
            let first = *phase == Phase::Ending;
            if first {
                *phase = Phase::Hurried;
            }
            first
        });
    }

    /// Whether the next mount waits.
    pub fn is_asked(&self) -> bool {
        *self.0.borrow() == Phase::Asked
    }

    pub fn is_hurried(&self) -> bool {
        matches!(*self.0.borrow(), Phase::Hurried | Phase::Asked)
    }

    /// Returns when somebody waits: what can be left to the next mount is left then.
    pub async fn hurried(&self) {
        let mut phase = self.0.subscribe();
        let waited = |phase: &Phase| matches!(phase, Phase::Hurried | Phase::Asked);
        if phase.wait_for(waited).await.is_err() {
            // Not while `self` lives.
            std::future::pending::<()>().await;
        }
    }
}

/// Makes the state folder and takes its lock. One that is ending gets the time for it.
pub(super) async fn lock(state_dir: &Path) -> Result<StateDirLock, WorkerError> {
    let end = Deadline::after(LOCK);
    loop {
        make_private(state_dir)
            .map_err(WorkerError::local(format!("the state folder {}", state_dir.display())))?;
        match StateDirLock::acquire(state_dir) {
            // The kernel tells nobody of it, and a task that waited for it could not be called off.
            Err(LogError::InUse { .. }) if !end.passed() => tokio::time::sleep(PACE).await,
            done => return Ok(done?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_goes_only_when_it_ends() {
        let ending = Ending::default();
        assert!(!ending.ask().await, "it serves");
        assert!(!ending.is_asked());
        ending.begin();
        assert!(ending.ask().await);
        assert!(ending.ask().await, "and another one");
        ending.hurried().await;
        ending.call_off();
        assert!(!ending.ask().await, "it serves again");
    }

    #[tokio::test]
    async fn an_end_that_is_noticed_a_little_later_counts() {
        let ending = Ending::default();
        let asks = {
            let ending = ending.clone();
            tokio::spawn(async move { ending.ask().await })
        };
        tokio::task::yield_now().await;
        ending.begin();
        assert!(asks.await.unwrap());
    }

    #[tokio::test]
    async fn the_lock_of_a_process_that_is_ending_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path()).await.unwrap();
        let waits = {
            let dir = dir.path().to_owned();
            tokio::spawn(async move { lock(&dir).await.map(drop) })
        };
        tokio::task::yield_now().await;
        assert!(!waits.is_finished());
        // As a follower that leaves nothing behind.
        held.remove(dir.path());
        drop(held);
        waits.await.unwrap().unwrap();
    }
}
