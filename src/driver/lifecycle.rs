//! Mount, and what goes on between it and Unmount ([`super::unmount`]) and after a restart.
//!
//! A volume's worker is *used* from the first Mount, *draining* from the last Unmount, and ended
//! when it has committed everything and nobody came back within the linger time. Every use voids
//! the plans made before it ([`Lane::next_turn`]).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::json;

use super::accounts::Released;
use super::caller::Caller;
use super::control::{ControlClient, ControlError, Stays};
use super::jobs::{Answer, Key};
use super::lanes::{Attached, Lane, Phase};
use super::left::who_sees;
use super::see_off::ended_for_good;
use super::{Driver, DriverSettings};
use crate::catalog::Definition;
use crate::clock::Deadline;
use crate::config::Tuned;
use crate::store::Known;
use crate::sys::{make_private, remove_if_there};
use crate::types::VolumeName;
use crate::worker::{WorkerSpec, has_unsynced};

/// For a worker's short answers.
const CONTROL: Duration = Duration::from_secs(5);
/// Between looks whether a process that was asked to leave a volume has gone.
const LEFT_PACE: Duration = Duration::from_millis(20);

/// A worker's answers: another host holds the volume; it is not served (yet).
const HELD: u16 = 423;
const NOT_SERVED: u16 = 409;
/// The volume was rebuilt: its place has another state.
const REBUILT: u16 = 410;

/// Why a volume is not served.
#[derive(Debug)]
pub(super) struct NotUp {
    pub text: String,
    /// Another host holds it; the worker of this turn waited for that in vain.
    pub held: Option<u64>,
    /// Its place leads to another state, and the worker is gone.
    pub rebuilt: bool,
}

impl From<String> for NotUp {
    fn from(text: String) -> Self {
        NotUp { text, held: None, rebuilt: false }
    }
}

impl Driver {
    /// Mount: detached, joined by a repetition, and taken back when nobody hears the answer.
    pub(super) async fn mount(
        self: &Arc<Self>,
        name: VolumeName,
        id: String,
        caller: Caller,
    ) -> Answer {
        let key: Key = ("Mount", format!("{name}\n{id}"));
        let unheard = {
            let (driver, key) = (Arc::clone(self), key.clone());
            let (name, id) = (name.clone(), id.clone());
            move |answer: Answer| {
                if answer.is_ok() {
                    driver.hold_unheard_mount(key, name, id);
                }
            }
        };
        let driver = Arc::clone(self);
        let work_key = key.clone();
        let work = async move { driver.do_mount(&work_key, name, id).await };
        self.jobs.run(key, caller, work, unheard).await
    }

    async fn do_mount(self: Arc<Self>, key: &Key, name: VolumeName, id: String) -> Answer {
        let deadline = Deadline::after(self.settings.budget);
        let volume = match self.catalog.lookup(&name).await {
            Ok(Some(volume)) => volume,
            Ok(None) => return Err(format!("there is no volume {name}")),
            Err(error) => return Err(error.to_string()),
        };
        // dockerd repeats a call whose answer it did not hear; that mount is counted already.
        if !self.jobs.take_unheard(key) {
            self.accounts.add(&name, &id).await.map_err(|e| e.to_string())?;
        }
        let mut up = self.bring_up(&volume, deadline).await;
        if up.as_ref().is_err_and(|error| error.rebuilt) {
            match self.catalog.follow(&volume).await {
                Ok(Some(volume)) => up = self.bring_up(&volume, deadline).await,
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(volume = %name, %error, "where it leads now is not known")
                }
            }
        }
        match up {
            Ok(()) => {
                tracing::info!(volume = %name, id, "mounted");
                Ok(json!({ "Mountpoint": self.mountpoint(&name), "Err": "" }))
            }
            Err(error) => {
                // dockerd sends no Unmount for a Mount that failed.
                let released = self.accounts.release(&name, &id).await;
                tracing::warn!(volume = %name, id, error = error.text, "not mounted");
                if let Some(turn) = error.held {
                    tokio::spawn(Arc::clone(&self).watch_held(volume, turn));
                } else if released == Released::Last {
                    tokio::spawn(async move { self.drain_if_served(&name).await });
                }
                Err(error.text)
            }
        }
    }

    /// Others used the volume, and left it to a mount that failed.
    async fn drain_if_served(self: &Arc<Self>, name: &VolumeName) {
        let worker = self.lanes.enter(name).await.worker.clone();
        if worker.is_some_and(|worker| worker.served.load(Ordering::SeqCst)) {
            self.begin_drain(name).await;
        }
    }

    /// A mount that dockerd does not know of would hold the volume for ever.
    fn hold_unheard_mount(self: Arc<Self>, key: Key, name: VolumeName, id: String) {
        self.jobs.was_unheard(key.clone(), self.settings.unheard);
        tokio::spawn(async move {
            tokio::time::sleep(self.settings.unheard).await;
            if self.jobs.expire_unheard(&key) {
                tracing::info!(volume = %name, id, "the answer to this mount never reached its caller; it is undone");
                if self.accounts.release(&name, &id).await == Released::Last {
                    self.begin_drain(&name).await;
                }
            }
        });
    }

    /// Ends the worker; a failure leaves it attached, for the next attempt.
    pub(super) async fn end(&self, name: &VolumeName, lane: &mut Lane) {
        if lane.worker.is_none() {
            return;
        }
        lane.next_turn();
        match self.workers.stop(name.as_str()).await {
            Ok(()) => {
                lane.worker = None;
                self.status.forget(name);
                tracing::info!(volume = %name, "volume released");
            }
            Err(error) => tracing::error!(volume = %name, %error, "the worker does not end"),
        }
    }

    /// Makes the volume served: attaches to its worker, wakes a draining one, or starts one, and
    /// waits until it is ready.
    pub(super) async fn bring_up(
        self: &Arc<Self>,
        volume: &Definition,
        deadline: Deadline,
    ) -> Result<(), NotUp> {
        let name = &volume.name;
        let entered = tokio::time::timeout(deadline.left(), self.lanes.enter(name)).await;
        let Ok(mut lane) = entered else {
            return Err(format!("volume {name} is still being unmounted; try again").into());
        };
        // Its options may have been changed since it was looked up.
        let newest = self.catalog.known(name).filter(|known| known.uuid == volume.uuid);
        let volume = newest.as_ref().unwrap_or(volume);
        if let Some(worker) = &mut lane.worker
            && Tuned::of(&worker.spec.options) != Tuned::of(&volume.options)
            && let Err(error) = self.tune(worker, &volume.options).await
        {
            tracing::warn!(volume = %name, error, "it goes on with the options that it had");
        }
        let draining = lane.worker.as_ref().filter(|w| w.phase == Phase::Draining).cloned();
        if let Some(worker) = draining {
            let client = ControlClient::new(&worker.spec.control_socket);
            // This is the next mount, at which the other options take effect.
            let resumed = match worker.spec.options == volume.options {
                true => client.resume(CONTROL.min(deadline.left())).await,
                false => Ok(false),
            };
            match resumed {
                Ok(true) => lane.worker = Some(Attached { phase: Phase::Used, ..worker }),
                gone_or_error => {
                    if let Err(error) = gone_or_error {
                        tracing::warn!(volume = %name, %error, "a draining worker is replaced");
                    }
                    self.workers
                        .stop(name.as_str())
                        .await
                        .map_err(|e| NotUp::from(e.to_string()))?;
                    lane.worker = None;
                }
            }
        }
        let (spec, served) = match &lane.worker {
            Some(worker) => (worker.spec.clone(), Arc::clone(&worker.served)),
            None => {
                let spec = self.spec(volume);
                make_way(&spec, deadline).await?;
                self.prepare(&spec).await.map_err(|e| NotUp::from(e.to_string()))?;
                self.workers
                    .start(spec.clone())
                    .await
                    .map_err(|e| NotUp::from(format!("volume {name}: {e}")))?;
                let worker = Attached::new(spec.clone());
                let served = Arc::clone(&worker.served);
                lane.worker = Some(worker);
                lane.left = None;
                (spec, served)
            }
        };
        let turn = lane.next_turn();
        drop(lane);

        self.follow_events(name, spec.control_socket.clone());
        let client = ControlClient::new(&spec.control_socket);
        let mut exits = self.workers.exits();
        let outcome = tokio::select! {
            biased;
            ready = client.ready(deadline) => ready,
            code = ended_for_good(&mut exits, name) => {
                return Err(format!(
                    "the worker of volume {name} ended with code {code} before the volume was open; \
                     the plugin's log says why"
                )
                .into());
            }
        };
        match outcome {
            Ok(()) => {
                served.store(true, Ordering::SeqCst);
                self.status.ask(name, &client).await;
                Ok(())
            }
            Err(ControlError::Timeout) => {
                // The worker goes on and keeps the volume for the next attempt.
                let why = self.why_not_ready(&client).await;
                tokio::spawn(Arc::clone(self).end_after(name.clone(), turn, self.settings.keep));
                Err(format!(
                    "volume {name} is not ready after {} s{why}; it goes on opening, try again",
                    self.settings.budget.as_secs()
                )
                .into())
            }
            Err(ControlError::Refused { status: HELD, text }) => Err(NotUp {
                text: format!(
                    "volume {name}: {text}; to have it now, whether that host lives or not: s3vol takeover {name}"
                ),
                held: Some(turn),
                rebuilt: false,
            }),
            Err(ControlError::Refused { status: REBUILT, text }) => {
                let mut lane = self.lanes.enter(name).await;
                if lane.turn == turn {
                    self.end(name, &mut lane).await;
                }
                Err(NotUp { text: format!("volume {name}: {text}"), held: None, rebuilt: true })
            }
            Err(error) => {
                // It could not be opened. Other mounts of it cannot exist, only waiting ones.
                tokio::spawn(Arc::clone(self).end_after(name.clone(), turn, Duration::ZERO));
                Err(format!("volume {name}: {error}").into())
            }
        }
    }

    /// What a worker that is not ready says about it, for the end of a sentence.
    async fn why_not_ready(&self, client: &ControlClient) -> String {
        match client.status(Duration::from_secs(1)).await {
            Ok(status) => match (status.last_error, status.holder) {
                (Some(error), _) => format!(" ({error})"),
                (None, Some(holder)) => format!(" (held by {holder})"),
                (None, None) => String::new(),
            },
            Err(_) => String::new(),
        }
    }

    /// What the worker of a volume is told.
    fn spec(&self, volume: &Definition) -> WorkerSpec {
        let state = &self.settings.state;
        let (name, readonly) = (volume.name.as_str().as_bytes(), volume.options.readonly);
        let local = WorkerSpec::local_name(volume.uuid, readonly, name);
        WorkerSpec {
            name: volume.name.as_str().to_owned(),
            id: volume.uuid,
            options: volume.options.clone(),
            state_dir: DriverSettings::volumes(state).join(&local),
            // Short: a socket's path has at most 107 bytes, a volume's name up to 128.
            control_socket: DriverSettings::control_sockets(state).join(format!("{local}.sock")),
            stores: Known::folder(state),
            mountpoint: self.mountpoint(&volume.name),
        }
    }

    async fn prepare(&self, spec: &WorkerSpec) -> std::io::Result<()> {
        let sockets = DriverSettings::control_sockets(&self.settings.state);
        let (folders, socket) = ([spec.state_dir.clone(), sockets], spec.control_socket.clone());
        tokio::task::spawn_blocking(move || {
            folders.iter().try_for_each(|folder| make_private(folder))?;
            // Left by a process that was killed.
            remove_if_there(&socket)
        })
        .await?
    }

    /// Ends the worker of an unused volume, with everything committed, before it is removed.
    pub(super) async fn retire(&self, name: &VolumeName, deadline: Deadline) -> Result<(), String> {
        let users = self.accounts.total(name);
        if users > 0 {
            return Err(format!(
                "volume {name} is in use by {users} mount(s) on this host; remove the containers \
                 first"
            ));
        }
        let mut lane = tokio::time::timeout(deadline.left(), self.lanes.enter(name))
            .await
            // The cause is the deadline, nothing else.
            .map_err(|_| format!("volume {name} is still being unmounted; try again"))?;
        // Whatever was planned for it (a watch over its lease) is off.
        lane.next_turn();
        let Some(worker) = &lane.worker else { return Ok(()) };
        let client = ControlClient::new(&worker.spec.control_socket);
        match client.drain(deadline.left() / 2).await {
            // It ends by itself, and what it could not bring into the bucket stays in its local folder.
            Ok(reply) if reply.lost || reply.damaged => {}
            Ok(reply) if !reply.committed => {
                return Err(format!(
                    "volume {name}: {} bytes are not in the bucket yet{}; try again when they are",
                    reply.uncommitted_bytes,
                    reply.because()
                ));
            }
            // What is not served yet has nothing to commit.
            Ok(_) | Err(ControlError::Refused { status: NOT_SERVED, .. }) => {}
            Err(error) => return Err(format!("volume {name}: {error}; try again")),
        }
        self.end(name, &mut lane).await;
        match &lane.worker {
            None => Ok(()),
            Some(_) => Err(format!("the worker of volume {name} does not end")),
        }
    }

    /// After a start: attaches to workers that run, starts those that should, and lets volumes that
    /// an earlier supervisor left mounted commit what their local state holds.
    pub(super) async fn restore(self: &Arc<Self>, left: Vec<VolumeName>) {
        let running = match self.workers.running().await {
            Ok(running) => running,
            Err(error) => {
                tracing::error!(%error, "the running workers are not known");
                Vec::new()
            }
        };
        for worker in running {
            let Ok(name) = VolumeName::new(worker.name) else { continue };
            let socket = worker.spec.control_socket.clone();
            let client = ControlClient::new(&socket);
            let mut lane = self.lanes.enter(&name).await;
            let attached = Attached::new(worker.spec);
            // By those whose counts were found again.
            attached.served.store(true, Ordering::SeqCst);
            lane.worker = Some(attached);
            lane.next_turn();
            drop(lane);
            self.follow_events(&name, socket);
            tracing::info!(volume = %name, pid = worker.pid, "worker found again");
            if self.accounts.total(&name) == 0 {
                self.begin_drain(&name).await;
            } else {
                let driver = Arc::clone(self);
                tokio::spawn(async move { driver.status.ask(&name, &client).await });
            }
        }
        for name in self.accounts.mounted() {
            tokio::spawn(Arc::clone(self).raise(name));
        }
        for name in left {
            let driver = Arc::clone(self);
            tokio::spawn(async move {
                tracing::info!(volume = %name, "left mounted by an earlier run; recovering it");
                // Beside that: looking at all processes of the host takes long.
                let (tells, left) = (Arc::clone(&driver), name.clone());
                tokio::spawn(async move { tells.tell_left(&left).await });
                Arc::clone(&driver).raise(name.clone()).await;
                driver.begin_drain(&name).await;
            });
        }
    }

    /// Says who has to start again: a mount of an earlier run has no server any more.
    async fn tell_left(&self, name: &VolumeName) {
        // What it was mounted from is needed to find it; without the catalog Docker still knows.
        let volume = self.catalog.lookup(name).await.ok().flatten();
        let see = match volume {
            Some(volume) => crate::sys::beside(move || who_sees(&volume.options.url)).await,
            None => None,
        };
        let see = see.filter(|see| !see.is_empty()).map_or_else(
            || {
                "nobody whom the plugin can see from where it runs; the command finds all"
                    .to_owned()
            },
            |see| see.join(", "),
        );
        tracing::warn!(
            volume = %name,
            seen_by = see,
            "the plugin ended while it was mounted; containers that used it get \"Transport endpoint is not connected\" \
             until they are started again: docker ps -q --filter volume={name} | xargs docker restart"
        );
    }

    /// Brings a volume up without anybody waiting for it.
    async fn raise(self: Arc<Self>, name: VolumeName) {
        let volume = match self.catalog.lookup(&name).await {
            Ok(Some(volume)) => volume,
            Ok(None) => return tracing::warn!(volume = %name, "no longer in the catalog"),
            Err(error) => return tracing::warn!(volume = %name, %error, "not brought up again"),
        };
        let deadline = Deadline::after(self.settings.budget);
        if let Err(error) = self.bring_up(&volume, deadline).await {
            tracing::warn!(volume = %name, error = error.text, "not brought up again yet");
        }
    }

    /// Notices workers that ended for good, and what they left in their local folders.
    pub(super) async fn watch_exits(self: Arc<Self>) {
        use tokio::sync::broadcast::error::RecvError;
        let mut exits = self.workers.exits();
        loop {
            let exit = match exits.recv().await {
                Ok(exit) => exit,
                Err(RecvError::Lagged(missed)) => {
                    tracing::warn!(missed, "exits of workers were missed");
                    continue;
                }
                Err(RecvError::Closed) => return,
            };
            let Ok(name) = VolumeName::new(&exit.name) else { continue };
            self.tell_exit(&exit);
            tracing::info!(volume = %name, code = exit.code, restarting = exit.restarting,
                "worker ended");
            if exit.restarting {
                continue;
            }
            let driver = Arc::clone(&self);
            // Not awaited here: the lane may be held by the one who is ending that worker.
            tokio::spawn(async move {
                let mut lane = driver.lanes.enter(&name).await;
                let runs = match driver.workers.running().await {
                    Ok(running) => running.iter().any(|w| w.name == name.as_str()),
                    Err(_) => false,
                };
                if runs {
                    return;
                }
                let Some(worker) = lane.worker.take() else { return };
                lane.next_turn();
                driver.status.forget(&name);
                let folder = worker.spec.state_dir;
                let left = folder.clone();
                let keeps = tokio::task::spawn_blocking(move || has_unsynced(&left)).await;
                // What cannot be read may be something.
                if !keeps.is_ok_and(|keeps| keeps.is_ok_and(|keeps| !keeps)) {
                    tracing::error!(volume = %name, kept = %folder.display(), "its worker has ended, and what is \
                        not in the bucket is kept on this host; the next mount here takes it up");
                    lane.left = Some(folder);
                }
            });
        }
    }
}

/// A mount by hand with the same state folder serves a volume at the same socket. One that is ending is asked to
/// go; one that is in use keeps the volume, and its socket: whoever wants to know of it has to find it.
async fn make_way(spec: &WorkerSpec, deadline: Deadline) -> Result<(), String> {
    let client = ControlClient::new(&spec.control_socket);
    let name = &spec.name;
    // It takes its socket away when it goes, and nothing announces that. Another mount by hand that waited too may
    // come first.
    let mut goes = false;
    loop {
        match client.vacate(CONTROL.min(deadline.left())).await {
            Ok(false) => return Ok(()),
            Ok(true) => goes = true,
            Err(Stays::Serves(status)) => {
                return Err(format!(
                    "volume {name} is already served by process {} at {}; unmount it there first",
                    status.pid,
                    status.mountpoint.display()
                ));
            }
            // It may just be closing its socket, or there is no time left to hear of it.
            Err(Stays::Silent(_)) if goes => {}
            Err(Stays::Silent(error)) => {
                return Err(format!("volume {name} is served by a process, and {error}"));
            }
        }
        if deadline.passed() {
            return Err(format!("volume {name} is still being left by a mount by hand; try again"));
        }
        tokio::time::sleep(LEFT_PACE).await;
    }
}
