//! `s3vol events`: follows what happens to the volumes of this host.

use std::collections::HashSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::args::EventsArgs;
use super::{reach, settings};
use crate::driver::{ControlClient, ControlError, DriverSettings};
use crate::worker::{Events, Since, VolumeEvent, What};

/// Longer than anybody is let wait.
const ANSWER: Duration = Duration::from_secs(30);
/// How often new processes are looked for, and one that does not answer is asked again.
const PACE: Duration = Duration::from_millis(200);

/// Prints events as they come, until Ctrl-C, SIGTERM or the end of whoever reads.
pub fn events(args: EventsArgs) -> anyhow::Result<()> {
    let plugin = match args.state {
        None => reach::plugin_if_any(args.socket.as_deref())?,
        Some(_) => None,
    };
    let folder = DriverSettings::control_sockets(&settings(args.state.clone())?.state);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let (tell, mut told) = mpsc::channel(64);
        let begins = if args.past { Since::start() } else { Since::default() };
        let following = match plugin {
            Some(client) => tokio::spawn(follow_plugin(client, begins, tell)),
            None => tokio::spawn(follow_folder(folder, begins, tell)),
        };
        loop {
            let event = tokio::select! {
                event = told.recv() => event,
                _ = interrupt.recv() => return Ok(()),
                _ = terminate.recv() => return Ok(()),
            };
            let Some(event) = event else { return following.await? };
            match print(&event, args.json) {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                done => done?,
            }
        }
    })
}

fn print(event: &VolumeEvent, json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, event).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        let text = event.text.as_deref().map(crate::sys::shown);
        let text = text.map(|text| format!("  {text}")).unwrap_or_default();
        let (volume, what) = (crate::sys::shown(&event.volume), event.event.name());
        writeln!(out, "{} {what:<10} {volume}{text}", event.at)?;
    }
    out.flush()
}

type Tell = mpsc::Sender<VolumeEvent>;

/// A plugin that is restarted is waited for; one that was never reached is an error.
async fn follow_plugin(client: ControlClient, mut since: Since, tell: Tell) -> anyhow::Result<()> {
    let mut reached = false;
    loop {
        match client.events(&since, ANSWER).await {
            Ok(page) => {
                reached = true;
                since = Since::page(&page);
                for event in page.events {
                    if tell.send(event).await.is_err() {
                        return Ok(());
                    }
                }
            }
            Err(error @ ControlError::Refused { .. }) => return Err(error.into()),
            Err(error) if !reached => return Err(error.into()),
            Err(_) => tokio::time::sleep(PACE).await,
        }
    }
}

/// The processes of a state folder, also those that come later.
async fn follow_folder(folder: PathBuf, begins: Since, tell: Tell) -> anyhow::Result<()> {
    let mut followed: HashSet<PathBuf> = HashSet::new();
    let (gone, mut ended) = mpsc::channel(64);
    let mut since = begins;
    loop {
        while let Ok(socket) = ended.try_recv() {
            followed.remove(&socket);
        }
        for socket in super::reach::sockets(&folder)? {
            if followed.contains(&socket) || !lives(&socket) {
                continue;
            }
            followed.insert(socket.clone());
            let (since, tell, gone) = (since.clone(), tell.clone(), gone.clone());
            tokio::spawn(async move {
                follow_process(&socket, since, &tell).await;
                drop(gone.send(socket).await);
            });
        }
        // All that a process tells which is started from now on is news.
        since = Since::start();
        tokio::select! {
            () = tokio::time::sleep(PACE) => {}
            () = tell.closed() => return Ok(()),
        }
    }
}

/// Whether a process listens there.
fn lives(socket: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(socket).is_ok()
}

/// Until the process ends. Whether it ended in order is told from its last words, or from what it left.
async fn follow_process(socket: &Path, mut since: Since, tell: &Tell) {
    let client = ControlClient::new(socket);
    let mut ended = false;
    let mut name = client.status(ANSWER).await.map(|status| status.name).unwrap_or_default();
    loop {
        let page = match client.events(&since, ANSWER).await {
            Ok(page) => page,
            Err(ControlError::Unreachable { .. }) => break,
            // An older program tells nothing of what happens, but lives.
            Err(ControlError::Refused { .. }) => {
                while lives(socket) {
                    tokio::time::sleep(ANSWER).await;
                }
                return;
            }
            Err(_) => {
                tokio::time::sleep(ANSWER).await;
                continue;
            }
        };
        since = Since::page(&page);
        for event in page.events {
            ended |= event.event == What::Unmounted;
            name.clone_from(&event.volume);
            if tell.send(event).await.is_err() {
                return;
            }
        }
    }
    if ended {
        return;
    }
    let own = Events::default();
    let what = if socket.exists() { What::Died } else { What::Unmounted };
    own.tell(&name, what, None);
    for event in own.wait(Since::start()).await.events {
        drop(tell.send(event).await);
    }
}
