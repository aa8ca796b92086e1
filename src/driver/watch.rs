//! The watch over a volume whose Mount was refused because another host holds it.
//!
//! The Mount has its answer; whoever started it tries again. So that the next attempt finds the volume
//! ready, the holder's lease is looked at for a while. When it is free the volume is opened, given
//! free for anybody at once, and kept for the next Mount. Every use of the volume, and its removal,
//! ends the watch.

use std::sync::Arc;
use std::time::Duration;

use super::Driver;
use super::control::ControlClient;
use super::lanes::Phase;
use crate::catalog::Definition;
use crate::clock::Deadline;

/// Between two looks at the lease; in tests a part of the time that it is watched.
const PACE: Duration = Duration::from_secs(3);

impl Driver {
    /// `turn` is that of the worker that could not have the volume.
    pub(super) async fn watch_held(self: Arc<Self>, volume: Definition, turn: u64) {
        let name = volume.name.clone();
        let turn = {
            let mut lane = self.lanes.enter(&name).await;
            if lane.turn != turn || self.accounts.total(&name) > 0 {
                return;
            }
            self.end(&name, &mut lane).await;
            lane.next_turn()
        };
        let keep = self.settings.keep;
        let end = Deadline::after(keep);
        tracing::info!(volume = %name, ?keep, "watching the lease of the host that holds it");
        loop {
            tokio::time::sleep(PACE.min(keep / 10)).await;
            if end.passed() || !self.still(&volume, turn).await {
                return;
            }
            match self.purge.holder(&volume).await {
                Ok(None) => {}
                Ok(Some(_)) => continue,
                Err(error) => {
                    tracing::warn!(volume = %name, %error, "the lease cannot be read");
                    continue;
                }
            }
            if !self.still(&volume, turn).await {
                return;
            }
            match self.bring_up(&volume, Deadline::after(self.settings.budget)).await {
                Ok(()) => break,
                Err(error) => {
                    // Somebody was faster, or it cannot be opened: the next Mount says why.
                    tracing::info!(volume = %name, error = error.text, "not taken");
                    if let Some(turn) = error.held {
                        let mut lane = self.lanes.enter(&name).await;
                        if lane.turn == turn && self.accounts.total(&name) == 0 {
                            self.end(&name, &mut lane).await;
                        }
                    }
                    return;
                }
            }
        }
        let mut lane = self.lanes.enter(&name).await;
        if self.accounts.total(&name) > 0 {
            return;
        }
        let Some(worker) = lane.worker.as_mut() else { return };
        worker.phase = Phase::Draining;
        let client = ControlClient::new(&worker.spec.control_socket);
        let turn = lane.next_turn();
        drop(lane);
        tracing::info!(volume = %name, ?keep, "the volume is free and kept for the next mount");
        self.see_off(name, turn, client, keep).await;
    }

    /// Whether nobody used or removed the volume since.
    async fn still(&self, volume: &Definition, turn: u64) -> bool {
        let known = self.catalog.known(&volume.name);
        self.lanes.enter(&volume.name).await.turn == turn
            && known.is_some_and(|known| known.uuid == volume.uuid)
    }
}
