//! The worker as the supervisor starts it: FUSE descriptor 3, the spec on standard input.

use std::io::BufRead;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::control::{Heard, Served, Stage, listen};
use super::ready::Ready;
use super::{EXIT_NOT_OPENED, LAST_WORDS, LINGER, LOOPS, exit_code, runtime_of};
use crate::fuse::{HandoffFiles, Serving, serve};
use crate::meta::log::StateDirLock;
use crate::worker::about::{SPOKEN_ENV, WORKER_PROTOCOL};
use crate::worker::bill::{Bill, requests};
use crate::worker::error::chain;
use crate::worker::leave::{self, Ending};
use crate::worker::life::{
    COMMIT_BUDGET, Parting, SETTLE_BUDGET, Shared, commit_all, open_locked, tasks,
};
use crate::worker::{Mounted, Successor, VolumeState, What, WorkerError, WorkerSpec};

/// Set by the supervisor for a worker that takes over a dead one's FUSE connection.
const SUCCESSOR: &str = "S3VOL_SUCCESSOR";
/// How long each of the two commits, and the engine's tidying between them, may take when another program is to go on.
const PLACE_COMMIT: Duration = Duration::from_secs(4);

/// Runs until the volume is given back. Returns the process's exit code.
pub fn serve_supervised() -> anyhow::Result<u8> {
    let ready = Ready::of_process();
    let spoken = std::env::var(SPOKEN_ENV).ok();
    if let Err(refused) = WORKER_PROTOCOL.agree_with_text("the supervisor", spoken.as_deref()) {
        tracing::error!(error = refused, "the volume cannot be opened");
        return Ok(EXIT_NOT_OPENED);
    }
    match crate::fault::noted("worker") {
        Some("ends") => return Ok(EXIT_NOT_OPENED),
        Some("leaves") => return Ok(0),
        Some(_) => crate::fault::hang(),
        None => {}
    }
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).context("the volume's description")?;
    let spec: WorkerSpec = serde_json::from_str(&line).context("the volume's description")?;
    let device = crate::sys::inherited(crate::sys::Inherited::First)
        .context("the FUSE descriptor of the supervisor")?;
    let successor = match std::env::var_os(SUCCESSOR) {
        Some(_) => Successor::Yes,
        None => Successor::No,
    };
    if successor == Successor::Yes && crate::fault::asked_once(crate::fault::REFUSE) {
        return Ok(EXIT_NOT_OPENED);
    }
    let (runtime, span) = runtime_of(&spec)?;
    let _entered = span.enter();
    // Before the socket, so that no two processes ever have that. A worker that this one succeeds is gone.
    let lock = match runtime.block_on(leave::lock(&spec.state_dir)) {
        Ok(lock) => lock,
        Err(error) => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "the volume cannot be opened"
            );
            return Ok(exit_code(&error, successor));
        }
    };
    let socket = spec.control_socket.clone();
    let code = match spec.options.readonly {
        true => runtime
            .block_on(super::following::run_supervised(spec, device, successor, ready, &lock)),
        false => runtime.block_on(run(spec, device, successor, ready, &lock)),
    };
    // Before the lock goes: whoever has that next makes a socket of its own. One that stays is removed then.
    let _ = std::fs::remove_file(socket);
    // Tasks may so be cut off anywhere: the kernel gives the lock away with the last of them.
    runtime.shutdown_background();
    std::mem::forget(lock);
    code
}

async fn run(
    spec: WorkerSpec,
    device: OwnedFd,
    successor: Successor,
    mut ready: Ready,
    lock: &StateDirLock,
) -> anyhow::Result<u8> {
    let bill = Bill::begin();
    let Heard { stage, exit, ending, events } = listen(&spec)?;
    let handoff = HandoffFiles::new(&spec.state_dir);
    if successor == Successor::No {
        handoff.clear()?;
    }
    let mut terminate = signal(SignalKind::terminate())?;
    // One that comes while the volume is opened is remembered.
    let mut replaced = signal(SignalKind::user_defined1())?;
    let mounted = match open_locked(&spec, successor, lock).await {
        Ok(mounted) => mounted,
        Err(error) => {
            let text = chain(&error);
            let code = exit_code(&error, successor);
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "the volume cannot be opened"
            );
            events.tell(&spec.name, What::Failed, Some(text.clone()));
            let _ = stage.send(match error {
                WorkerError::Held(_) => Stage::Held(text),
                WorkerError::Rebuilt(_) => Stage::Rebuilt(text),
                _ => Stage::Failed(text),
            });
            tokio::time::sleep(LAST_WORDS).await;
            return Ok(code);
        }
    };
    let shared = Shared::telling(spec.clone(), &mounted, events);
    let mut drain_seen = shared.turn.seen();
    let Mounted { fs, changes, .. } = mounted;
    let handle = tokio::runtime::Handle::current();
    let serving: Result<Serving, _> =
        tokio::task::spawn_blocking(move || serve(device, fs, handle, &handoff, LOOPS)).await?;
    let mut serving = match serving {
        Ok(serving) => serving,
        Err(error) => {
            let error = WorkerError::from(error);
            let _ = stage.send(Stage::Failed(chain(&error)));
            if let Err(error) = shared.close(COMMIT_BUDGET, Duration::ZERO).await {
                tracing::warn!(error = &error as &dyn std::error::Error, "not given back in order");
            }
            tokio::time::sleep(LAST_WORDS).await;
            return Ok(EXIT_NOT_OPENED);
        }
    };
    let stop = CancellationToken::new();
    let mut running = tasks::start(&shared, changes, Some(serving.notifier()), &stop);
    let _ = stage.send(Stage::Serving(Served::Writing(Arc::clone(&shared))));
    ready.tell();
    shared.tell(What::Mounted, None);
    tracing::info!(id = %spec.id, "the volume is served");
    bill.log("mount", requests(&shared.volume));

    let mut linger: Option<tokio::time::Instant> = None;
    let mut broke = None;
    loop {
        let lingering = async {
            match linger {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = terminate.recv() => break,
            () = exit.notified() => break,
            // A volume that is lost is given up as at any other end: a successor could not open it.
            _ = replaced.recv() => match shared.gave_up() {
                true => break,
                false => tokio::select! {
                    biased;
                    _ = terminate.recv() => break,
                    () = exit.notified() => break,
                    // The mount ended: nobody is to succeed.
                    ended = serving.wait() => {
                        broke = ended.err();
                        break;
                    }
                    () = make_place(&shared, &mut running, &stop) => {}
                },
            },
            ended = serving.wait() => {
                broke = ended.err();
                break;
            }
            () = lingering => {
                // Not looked at while the commit waits: whoever resumes writes it.
                let committed = drain_seen.borrow().drained();
                match committed {
                    // The commit did not fit its budget: it goes on here.
                    Some(false) => {
                        linger = Some(tokio::time::Instant::now() + Duration::from_secs(1));
                        let done = commit_all(&shared.volume, LINGER).await.is_ok();
                        if done && shared.turn.closes_unused() {
                            break;
                        }
                    }
                    Some(true) if shared.turn.closes_unused() => break,
                    Some(true) | None => linger = None,
                }
            }
            // Only a volume that nobody uses is left, and only if nobody just takes it back.
            () = ending.hurried() => match shared.turn.closes_unused() {
                true => break,
                false => ending.call_off(),
            },
            changed = drain_seen.changed() => {
                changed?;
                let drained = drain_seen.borrow_and_update().drained();
                linger = drained.map(|committed| {
                    let wait = if committed { LINGER } else { Duration::ZERO };
                    tokio::time::Instant::now() + wait
                });
                match drained {
                    Some(true) => ending.begin(),
                    Some(false) | None => ending.call_off(),
                }
            }
        }
        if shared.gave_up() && linger.is_some() {
            // Whoever drains it is told why.
            tokio::select! {
                _ = terminate.recv() => {}
                () = tokio::time::sleep(LAST_WORDS) => {}
            }
            break;
        }
    }
    if let Some(error) = broke {
        // Whoever serves the mount next has it from the bucket.
        tracing::error!(error = &error as &dyn std::error::Error, "the FUSE connection broke");
    }
    match end(&shared, &mut running, &stop, &ending).await {
        Ok(left) => {
            tracing::info!(unsettled = left, "the volume is given back");
            Ok(0)
        }
        Err(error) if shared.gave_up() => {
            let error = &error as &dyn std::error::Error;
            match shared.state() {
                VolumeState::Fenced => {
                    tracing::error!(error, "the volume was lost to another host")
                }
                _ => tracing::error!(error, "what is not in the bucket stays on this host"),
            }
            Ok(0)
        }
        Err(error) => Err(error.into()),
    }
}

/// A newer program is to serve the volume: brings into the bucket what is not there, so that its successor has little
/// to replay, waits for the requests of settling that are under way, and ends as by a crash. The mount stays, what the
/// kernel has asked and got no answer for it asks again, and what was done without an answer is in the local log.
///
/// Requests are answered until the last moment. The supervisor kills a process that takes too long here.
async fn make_place(shared: &Arc<Shared>, running: &mut JoinSet<()>, stop: &CancellationToken) {
    tracing::info!("the worker ends, to be replaced by another version of the program");
    let commit = || async {
        if let Err(error) = commit_all(&shared.volume, PLACE_COMMIT).await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "not everything is committed; the successor goes on with it");
        }
    };
    // Beside it what the successor would have to ask for.
    let prepared = async {
        let prepared = tokio::time::timeout(PLACE_COMMIT, Parting::prepare(shared)).await;
        prepared.unwrap_or(Err(WorkerError::Stalled(PLACE_COMMIT)))
    };
    let ((), prepared) = tokio::join!(commit(), prepared);
    // A successor reads what the engine's log has beyond its tables, object by object.
    let tidied = shared.volume.meta.engine.maintain(true);
    if let Ok(Err(error)) = tokio::time::timeout(PLACE_COMMIT, tidied).await {
        let error = &error as &dyn std::error::Error;
        tracing::debug!(error, "the engine's log stays as long as it is");
    }
    stop.cancel();
    tasks::ended(running, &shared.settler).await;
    // What came meanwhile.
    commit().await;
    let left = match prepared {
        Ok(parting) => parting.leave(shared).await,
        Err(error) => Err(error),
    };
    if let Err(error) = left {
        let error = &error as &dyn std::error::Error;
        tracing::debug!(error, "the successor asks for everything itself");
    }
    // As nothing else, so that no second way to end has to be as safe.
    let own = std::process::id();
    if let Err(error) = crate::sys::send_signal(own, nix::sys::signal::Signal::SIGKILL) {
        tracing::error!(%error, "this process cannot end itself");
    }
    std::future::pending().await
}

/// The end of a worker: brings into the bucket what is not there, and gives the volume back. Returns how many files
/// are not at rest.
pub(in crate::worker) async fn end(
    shared: &Arc<Shared>,
    running: &mut JoinSet<()>,
    stop: &CancellationToken,
    ending: &Ending,
) -> Result<u64, WorkerError> {
    shared.turn.closes();
    ending.begin();
    let bill = Bill::begin_with(requests(&shared.volume));
    stop.cancel();
    shared.end_content();
    // Before waiting for the round of settling that is under way: whoever asked may not wait for us.
    if let Err(error) = commit_all(&shared.volume, COMMIT_BUDGET).await {
        tracing::warn!(error = &error as &dyn std::error::Error, "not everything is committed yet");
    }
    let settle = match tasks::ended(running, &shared.settler).await {
        _ if ending.is_hurried() => Duration::ZERO,
        true => SETTLE_BUDGET.min(Duration::from_secs(5)),
        // It would wait for the round that is under way.
        false => Duration::ZERO,
    };
    let result = if shared.taken_after_yield().await {
        tracing::info!("another host uses the volume now");
        shared.leave();
        Ok(0)
    } else {
        shared.close(COMMIT_BUDGET, settle).await
    };
    if result.is_err() && shared.state() == VolumeState::Fenced {
        shared.save_lost().await;
    }
    bill.log("giving the volume back", requests(&shared.volume));
    result
}
