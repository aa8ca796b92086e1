//! A host that follows the volume read-only, beside whoever writes it.
//!
//! What it shows is a state that the writers had: one that is not older than what was durable when it was asked, less
//! the time for which a look counts, nor than what it showed before.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use s3vol::catalog::Incarnation;
use s3vol::config::VolumeOptions;
use s3vol::follow::ReadFs;
use s3vol::fs::{FsError, Show};
use s3vol::store::Store;
use s3vol::types::{Caller, FileKind, FileName, Ino};
use s3vol::worker::{BareFollower, WorkerError};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::host::{self, Host};
use crate::model::{Id, Seen, Survey};
use crate::port::Port;
use crate::random::Random;
use crate::schedule::{Kind, Plan, home};
use crate::seam::{SECOND, Time};
use crate::sim::{Process, sim};
use crate::tell;

/// For so long the last look counts, and a little more.
const FRESH: Duration = Duration::from_millis(3200);
/// After trouble it takes as long until nothing of it is left.
const CALM: Time = 60 * SECOND;
/// The state changes between two requests, but not so often in a row.
const ATTEMPTS: usize = 8;
/// Followers' hosts have numbers of their own.
const FIRST: usize = 100;

/// A follower that works in the background.
pub struct Follower {
    ends: Arc<Notify>,
    task: JoinHandle<Result<(), String>>,
}

impl Follower {
    pub fn start(dir: &Path, volume: Incarnation, plan: Plan, random: Random) -> Follower {
        let ends = Arc::new(Notify::new());
        let hosts = (FIRST..FIRST + 2).map(|number| Host::new(dir, number)).collect();
        let follows = Follows { hosts, volume, plan, random, seen: None };
        let task = tokio::spawn(follows.until(Arc::clone(&ends)));
        Follower { ends, task }
    }

    /// It shows the last state, and ends.
    pub async fn end(self) -> Result<(), String> {
        self.ends.notify_one();
        self.task.await.map_err(|_| "the follower panicked".to_owned())?
    }
}

/// States of each client's history in one line.
#[derive(Debug, Clone)]
struct Place {
    line: usize,
    states: Vec<usize>,
}

/// What was durable at a time.
struct Durable {
    place: Place,
    floors: Vec<BTreeMap<Id, usize>>,
}

impl Durable {
    fn now() -> Durable {
        let model = sim().model.borrow();
        let line = model.len() - 1;
        let clients = &model[line].clients;
        Durable {
            place: Place { line, states: clients.iter().map(|h| h.durable).collect() },
            floors: clients.iter().map(|history| history.floors.clone()).collect(),
        }
    }
}

struct Follows {
    hosts: Vec<Host>,
    volume: Incarnation,
    plan: Plan,
    random: Random,
    /// The oldest state that the last survey may have been.
    seen: Option<Place>,
}

type Opened = (Arc<Process>, Arc<BareFollower>);

impl Follows {
    async fn until(mut self, ends: Arc<Notify>) -> Result<(), String> {
        let mut number = 0;
        loop {
            let end = pause(&ends, self.random.below(60 * SECOND)).await;
            if !sim().shown.get() {
                match end {
                    true => return Ok(()),
                    false => continue,
                }
            }
            let Some((process, follower)) = self.open(number).await? else {
                if end {
                    // The last state is still to be shown.
                    ends.notify_one();
                }
                continue;
            };
            let ended = end || self.serve(&process, &follower, &ends).await?;
            if ended {
                return self.last(&process, &follower).await;
            }
            match self.random.chance(500) && self.plan.has(Kind::Kill) {
                true => sim().kill(&process),
                false => {
                    let closes = Arc::clone(&follower);
                    process.run(async move { closes.close() }).await;
                    sim().kill(&process);
                }
            }
            if self.plan.has(Kind::Move) && self.random.chance(300) {
                number = 1 - number;
            }
        }
    }

    async fn open(&mut self, number: usize) -> Result<Option<Opened>, String> {
        let host = &mut self.hosts[number];
        let process = host.process();
        if self.plan.has(Kind::Kill) && self.random.chance(100) {
            process.machine.dies_at.set(Some(self.random.below(20)));
        }
        let options = VolumeOptions { readonly: true, ..host::options() };
        let spec = host::spec(host, &self.volume, options);
        let (number, known) = (host.number, host.known());
        let calm = Calm::begins();
        let opened = process.run(async move {
            let store = Store::stand_in(Port::new(number), &host::location(), &known);
            BareFollower::open(&spec, &store).await.map(Arc::new)
        });
        let opened = opened.await;
        process.machine.dies_at.set(None);
        match opened {
            None => Ok(None),
            Some(Ok(follower)) => {
                tell!("{} follows", process.name);
                Ok(Some((process, follower)))
            }
            Some(Err(error)) => {
                tell!("{} does not follow: {error}", process.name);
                sim().kill(&process);
                match calm.lasts() && !matches!(error, WorkerError::NeverWritten(_)) {
                    true => Err(format!("a healthy volume cannot be followed: {error}")),
                    false => Ok(None),
                }
            }
        }
    }

    /// Asks now and then. True when it is to end.
    async fn serve(
        &mut self,
        process: &Arc<Process>,
        follower: &Arc<BareFollower>,
        ends: &Notify,
    ) -> Result<bool, String> {
        for _ in 0..self.random.between(1, 12) {
            let idle = match self.random.below(10) {
                0..4 => self.random.below(5 * SECOND),
                4..8 => self.random.below(150 * SECOND),
                8 => self.random.below(1200 * SECOND),
                _ => self.random.below(3 * 3600 * SECOND),
            };
            if pause(ends, idle).await {
                return Ok(true);
            }
            if self.random.chance(50) {
                sim().pause(process, self.random.between(SECOND, 1000 * SECOND));
            }
            if !self.look(process, follower).await? {
                return Ok(false);
            }
        }
        Ok(false)
    }

    /// All that was ever answered shows, since everything was brought into the bucket.
    async fn last(
        mut self,
        process: &Arc<Process>,
        follower: &Arc<BareFollower>,
    ) -> Result<(), String> {
        tokio::time::sleep(Duration::from_secs(60)).await;
        match self.look(process, follower).await? {
            true if follower.fs().trouble().is_none() => Ok(()),
            true => Err("a healthy volume cannot be followed".to_owned()),
            false => Err("the last follower died".to_owned()),
        }
    }

    /// Compares what it shows with what may be there. False: it died.
    async fn look(
        &mut self,
        process: &Arc<Process>,
        follower: &Arc<BareFollower>,
    ) -> Result<bool, String> {
        for _ in 0..ATTEMPTS {
            let durable = Durable::now();
            tokio::time::sleep(FRESH).await;
            let calm = Calm::begins();
            let (fs, clients) = (Arc::clone(follower.fs()), self.plan.clients);
            let surveyed = process.run(async move {
                let before = fs.state_number();
                let mut surveys = Vec::new();
                for client in 0..clients {
                    match survey(&fs, &home(client)).await {
                        Ok(survey) => surveys.push(survey),
                        Err(error) => return (Err(error), fs.state_number() == before),
                    }
                }
                (Ok(surveys), fs.state_number() == before && fs.trouble().is_none())
            });
            match surveyed.await {
                None => return Ok(false),
                Some((Ok(surveys), true)) => {
                    self.judge(&durable, &surveys)?;
                    return Ok(true);
                }
                Some((Ok(_), false)) => {}
                Some((Err(error), same)) => {
                    tell!("following: {error}");
                    // Between two states a name may have gone.
                    let moved = matches!(error, FsError::NotFound | FsError::Stale);
                    if calm.lasts() && (same || !moved) {
                        return Err(format!("a healthy volume that is followed: {error}"));
                    }
                }
            }
        }
        Ok(true)
    }

    fn judge(&mut self, durable: &Durable, surveys: &[Survey]) -> Result<(), String> {
        let model = sim().model.borrow();
        let mut why = Vec::new();
        for line in (durable.place.line..model.len()).rev() {
            let seen = self.seen.as_ref().filter(|seen| seen.line == line);
            let mut states = Vec::new();
            for (client, survey) in surveys.iter().enumerate() {
                let mut history = model[line].clients[client].clone();
                if let Some(found) = &model[line].found {
                    // What came after that never gets into the bucket.
                    let there = found[client].state + 1;
                    history.under_way &= there >= history.states.len();
                    history.states.truncate(there);
                }
                let mut first = match line == durable.place.line {
                    true => durable.place.states[client],
                    false => model[line].born.get(client).copied().unwrap_or(0),
                };
                history.floors = match line == durable.place.line {
                    true => durable.floors[client].clone(),
                    false => BTreeMap::new(),
                };
                first = first.max(seen.map_or(0, |seen| seen.states[client]));
                match history.oldest(survey, first) {
                    Ok(state) => states.push(state),
                    Err(not) => {
                        why.push(format!("line {line}, client {client}: {not}"));
                        break;
                    }
                }
            }
            if states.len() == surveys.len() {
                self.seen = Some(Place { line, states });
                return Ok(());
            }
        }
        why.truncate(4);
        let from = &durable.place;
        Err(format!("a follower shows none of the states from {from:?} on: {}", why.join("; ")))
    }
}

/// Sleeps; true when it is to end.
async fn pause(ends: &Notify, length: Time) -> bool {
    tokio::time::timeout(Duration::from_nanos(length), ends.notified()).await.is_ok()
}

/// Whether anything goes wrong meanwhile.
struct Calm {
    well: bool,
    since: Time,
}

impl Calm {
    fn begins() -> Calm {
        Calm { well: sim().bucket.is_well(), since: sim().now() }
    }

    fn lasts(&self) -> bool {
        let troubled = sim().bucket.troubled.get();
        let before = troubled == 0 || troubled + CALM < self.since;
        self.well && before && sim().bucket.is_well()
    }
}

/// A follower loses the bucket, is not asked for an hour, has it back, and is asked then.
pub async fn left_alone(dir: PathBuf) -> Result<(), String> {
    let (mut writer, mut reader) = (Host::new(&dir, 0), Host::new(&dir, FIRST));
    let process = writer.process();
    let made = host::make(&writer, &process, host::options()).await;
    let volume = made.ok_or("the volume was not made")??;
    let opened = host::mount(&writer, &process, &volume, host::options()).await;
    let bare = opened.ok_or("it died")?.map_err(|error| error.to_string())?;
    let write = |name: &'static str| {
        let fs = Arc::clone(bare.fs());
        let written = process.run(async move {
            let name = FileName::new(name).expect("a name");
            let made = fs.create(Caller::ROOT, Ino::ROOT, name, 0o644, libc::O_RDWR).await?;
            let _receipt = fs.fsync(made.0.ino, false).await?;
            fs.release(made.0.ino, made.1.fh).await
        });
        async move { written.await.ok_or("it died")?.map_err(|error| error.to_string()) }
    };
    write("before").await?;
    let follows = reader.process();
    let options = VolumeOptions { readonly: true, ..host::options() };
    let (spec, known) = (host::spec(&reader, &volume, options), reader.known());
    let opened = follows.run(async move {
        let store = Store::stand_in(Port::new(FIRST), &host::location(), &known);
        BareFollower::open(&spec, &store).await.map(Arc::new)
    });
    let follower = opened.await.ok_or("it died")?.map_err(|error| error.to_string())?;
    let shows = |name: &'static str| {
        let fs = Arc::clone(follower.fs());
        let name = FileName::new(name).expect("a name");
        let found = follows.run(async move { fs.lookup(Ino::ROOT, name).await.map(drop) });
        async move { found.await.ok_or("it died")?.map_err(|e| format!("it is not shown: {e}")) }
    };
    shows("before").await?;
    sim().bucket.cut_off.borrow_mut().insert(FIRST);
    tokio::time::sleep(Duration::from_secs(10)).await;
    // What is known serves.
    shows("before").await?;
    if follower.fs().trouble().is_none() {
        return Err("it does not miss the bucket".to_owned());
    }
    tokio::time::sleep(Duration::from_secs(3600)).await;
    sim().bucket.cut_off.borrow_mut().clear();
    write("meanwhile").await?;
    shows("meanwhile").await
}

/// Everything below a directory.
async fn survey(fs: &ReadFs, home: &str) -> Result<Survey, FsError> {
    let name = |text: &str| FileName::new(text).expect("a name");
    let top = fs.lookup(Ino::ROOT, name(home)).await?.ino;
    let mut seen = Survey::new();
    let mut dirs = vec![(PathBuf::new(), top)];
    while let Some((dir, ino)) = dirs.pop() {
        fs.opendir(ino).await?;
        let mut cookie = 0;
        loop {
            let page = fs.readdir(ino, cookie, 7, Show::Attributes).await?;
            let Some(last) = page.last() else { break };
            cookie = last.cookie;
            for entry in page.into_iter().filter(|entry| !entry.is_dot()) {
                let path = dir.join(String::from_utf8_lossy(&entry.name).as_ref());
                let attr = fs.getattr(entry.ino).await?;
                let bytes = match attr.kind {
                    FileKind::File => whole(fs, entry.ino).await?,
                    FileKind::Symlink => fs.readlink(entry.ino).await?,
                    _ => Bytes::new(),
                };
                if attr.kind == FileKind::Dir {
                    dirs.push((path.clone(), entry.ino));
                }
                let there = Seen::of(&attr, bytes);
                seen.insert(path.to_string_lossy().into_owned(), there);
            }
        }
    }
    Ok(seen)
}

async fn whole(fs: &ReadFs, ino: Ino) -> Result<Bytes, FsError> {
    fs.open_file(ino, libc::O_RDONLY).await?;
    let mut all = BytesMut::new();
    let read = async {
        loop {
            let piece = fs.read(ino, all.len() as u64, 128 << 10).await?;
            if piece.is_empty() {
                return Ok(());
            }
            all.extend_from_slice(&piece);
        }
    }
    .await;
    fs.release(ino);
    read.map(|()| all.freeze())
}
