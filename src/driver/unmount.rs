//! Unmount: its count goes at once, and the last one waits until what was written is in the bucket.

use std::sync::Arc;

use serde_json::json;

use super::Driver;
use super::accounts::Released;
use super::caller::Caller;
use super::control::{ControlClient, ControlError};
use super::jobs::{Answer, Key};
use super::lanes::Phase;
use crate::clock::Deadline;
use crate::types::VolumeName;

impl Driver {
    /// Unmount: the count goes when the call arrives; the last one drains within the budget.
    pub(super) async fn unmount(
        self: &Arc<Self>,
        name: VolumeName,
        id: String,
        caller: Caller,
    ) -> Answer {
        // A Mount that was counted since makes it another call, and not a repetition.
        let mounted = self.accounts.mounted_as(&name, &id);
        let key: Key = ("Unmount", format!("{name}\n{id}\n{mounted}"));
        let unheard = {
            let (driver, key) = (Arc::clone(self), key.clone());
            move |_| driver.jobs.was_unheard(key, driver.settings.unheard)
        };
        let driver = Arc::clone(self);
        let work_key = key.clone();
        let work = async move {
            if driver.jobs.take_unheard(&work_key) {
                // The repetition of a call whose answer was lost: its count went then.
                return Ok(json!({ "Err": "" }));
            }
            driver.jobs.expire_unheard(&("Mount", format!("{name}\n{id}")));
            driver.do_unmount(name, id).await
        };
        self.jobs.run(key, caller, work, unheard).await
    }

    async fn do_unmount(self: &Arc<Self>, name: VolumeName, id: String) -> Answer {
        let deadline = Deadline::after(self.settings.budget);
        let released = self.accounts.release(&name, &id).await;
        tracing::info!(volume = %name, id, ?released, "unmount");
        let done = Ok(json!({ "Err": "" }));
        let draining = match released {
            Released::Others => return done,
            Released::Last => self.begin_drain(&name).await,
            // Its count went before: it waits for what is left of that.
            Released::Unknown => {
                if !self.lanes.has(&name) || self.accounts.total(&name) > 0 {
                    return done;
                }
                let found = tokio::time::timeout(deadline.left(), self.draining(&name)).await;
                // The cause is the deadline, nothing else.
                found.map_err(|_| format!("volume {name} is still being unmounted; try again"))?
            }
        };
        let Some((turn, client)) = draining else {
            return match self.lanes.enter(&name).await.left.take() {
                None => done,
                Some(kept) => Err(format!(
                    "volume {name}: its worker has ended, and what is not in the bucket is kept in {}; the next \
                     mount on this host takes it up",
                    kept.display()
                )),
            };
        };
        let drained = self.drain(&name, turn, &client, deadline).await;
        if self.accounts.total(&name) > 0 {
            // Mounted again meanwhile: what is not committed is the new mount's concern.
            return done;
        }
        match drained {
            Ok(reply) if reply.committed => done,
            Ok(reply) if reply.lost => Err(format!(
                "volume {name}: another host has taken it over; {} bytes that were not in the bucket then are \
                 kept on this host, and beside the volume when they are uploaded (`s3vol recovered list`)",
                reply.uncommitted_bytes
            )),
            Ok(reply) if reply.damaged => Err(format!(
                "volume {name}: {} bytes are not in the bucket and stay on this host{}; the next mount \
                 here takes them up, or `s3vol recovered` shows them",
                reply.uncommitted_bytes,
                reply.because()
            )),
            Ok(reply) => Err(format!(
                "volume {name}: {} bytes are not in the bucket yet{}; the volume goes on sending \
                 them and is released when that is done",
                reply.uncommitted_bytes,
                reply.because()
            )),
            Err(ControlError::Timeout) => Err(format!(
                "volume {name}: not everything is in the bucket after {} s; the volume goes on \
                 sending it and is released when that is done",
                self.settings.budget.as_secs()
            )),
            Err(error) => Err(format!("volume {name}: {error}")),
        }
    }

    /// Marks a volume without mounts as draining and lets a task of its own see it through. `None`
    /// when there is nothing to drain.
    pub(super) async fn begin_drain(
        self: &Arc<Self>,
        name: &VolumeName,
    ) -> Option<(u64, ControlClient)> {
        let mut lane = self.lanes.enter(name).await;
        if self.accounts.total(name) > 0 {
            return None;
        }
        let worker = lane.worker.as_mut()?;
        worker.phase = Phase::Draining;
        let client = ControlClient::new(&worker.spec.control_socket);
        let turn = lane.next_turn();
        drop(lane);
        let linger = self.settings.linger;
        tokio::spawn(Arc::clone(self).see_off(name.clone(), turn, client.clone(), linger));
        Some((turn, client))
    }

    /// A drain that was begun before.
    async fn draining(&self, name: &VolumeName) -> Option<(u64, ControlClient)> {
        let lane = self.lanes.enter(name).await;
        let worker = lane.worker.as_ref().filter(|worker| worker.phase == Phase::Draining)?;
        Some((lane.turn, ControlClient::new(&worker.spec.control_socket)))
    }
}
