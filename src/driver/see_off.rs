//! The end of a volume's use on this host: its worker is drained, lingers for the next mount, and ends.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::Driver;
use super::control::{ControlClient, ControlError};
use super::workers::WorkerExit;
use crate::clock::Deadline;
use crate::types::VolumeName;
use crate::worker::{Asked, DrainReply};

/// One attempt to drain when nobody waits for it any more.
const DRAIN: Duration = Duration::from_secs(600);
/// Between failed attempts to drain.
const DRAIN_PAUSE: Duration = Duration::from_secs(5);

impl Driver {
    /// Drains in this turn. A worker that dies over it is succeeded, and its successor asked.
    pub(super) async fn drain(
        &self,
        name: &VolumeName,
        turn: u64,
        client: &ControlClient,
        deadline: Deadline,
    ) -> Result<DrainReply, ControlError> {
        let mut exits = self.workers.exits();
        loop {
            let died = match client.drain_as(Asked { at: turn }, deadline.left()).await {
                Err(died @ ControlError::Unreachable { .. }) => died,
                answered => return answered,
            };
            tokio::select! {
                biased;
                ready = client.ready(deadline) => ready?,
                _ = ended_for_good(&mut exits, name) => return Err(died),
            }
            if self.lanes.enter(name).await.turn != turn {
                return Err(died);
            }
        }
    }

    /// Drains until everything is committed, lingers, and ends the worker. One that dies while it lingers has a
    /// successor, which holds the volume for itself: that is drained, too, because nobody here needs it.
    pub(super) async fn see_off(
        self: Arc<Self>,
        name: VolumeName,
        turn: u64,
        client: ControlClient,
        linger: Duration,
    ) {
        let mut exits = self.workers.exits();
        let mut until = None;
        while self.drain_out(&name, turn, &client).await {
            self.status.ask(&name, &client).await;
            let until = *until.get_or_insert_with(|| Deadline::after(linger));
            let succeeded = tokio::time::timeout(until.left(), succeeded(&mut exits, &name));
            if succeeded.await.is_err() {
                return self.end_after(name, turn, Duration::ZERO).await;
            }
            if self.lanes.enter(&name).await.turn != turn {
                return;
            }
        }
    }

    /// Drains until everything is committed; false when the volume is used again, or its worker is gone.
    async fn drain_out(&self, name: &VolumeName, turn: u64, client: &ControlClient) -> bool {
        loop {
            match self.drain(name, turn, client, Deadline::after(DRAIN)).await {
                Ok(reply) if reply.committed => return true,
                Ok(reply) => tracing::warn!(volume = %name, bytes = reply.uncommitted_bytes,
                    error = reply.error, "not drained yet"),
                Err(error) => tracing::warn!(volume = %name, %error, "not drained yet"),
            }
            tokio::time::sleep(DRAIN_PAUSE).await;
            let lane = self.lanes.enter(name).await;
            if lane.turn != turn || lane.worker.is_none() {
                return false;
            }
        }
    }

    /// Ends the worker after `pause` unless the volume is used again before.
    pub(super) async fn end_after(self: Arc<Self>, name: VolumeName, turn: u64, pause: Duration) {
        tokio::time::sleep(pause).await;
        let mut lane = self.lanes.enter(&name).await;
        if lane.turn == turn && self.accounts.total(&name) == 0 {
            self.end(&name, &mut lane).await;
        }
    }
}

/// The code of the worker's exit, when no successor comes.
pub(super) async fn ended_for_good(exits: &mut Receiver<WorkerExit>, name: &VolumeName) -> i32 {
    loop {
        match exits.recv().await {
            Ok(exit) if exit.name == name.as_str() && !exit.restarting => return exit.code,
            Ok(_) => {}
            // Missed or closed: the readiness call finds out.
            Err(_) => std::future::pending::<()>().await,
        }
    }
}

/// Returns when the worker has died and a successor goes on.
async fn succeeded(exits: &mut Receiver<WorkerExit>, name: &VolumeName) {
    loop {
        match exits.recv().await {
            Ok(exit) if exit.name == name.as_str() && exit.restarting => return,
            Ok(_) => {}
            // One more drain does no harm.
            Err(RecvError::Lagged(_)) => return,
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}
