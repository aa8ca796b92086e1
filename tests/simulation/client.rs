//! A program that uses the volume: one operation after the other in a directory of its own.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use s3vol::fs::{Fallocate, FileHandle, Fs, FsError, RenameMode, SetAttr, SetTime, Show};
use s3vol::types::{Caller, FileKind, FileName, Ino, Timestamp};

use crate::model::{History, Id, Node, Promise, Rule, Seen, State, Survey};
use crate::random::Random;
use crate::requests::{Doing, Wire};
use crate::seam::{Machine, SECOND, Time};
use crate::sim::sim;
use crate::tell;

const CALLER: Caller = Caller { uid: 0, gid: 0, pid: 1, unique: 0, resent: false, umask: 0 };

/// What an operation that the local disk failed has left is looked at so often.
const LOOKS: u32 = 40;

/// What a client may do; chosen so that it succeeds.
#[derive(Debug, Clone)]
pub enum Op {
    Create { path: String },
    Write { path: String, at: u64, bytes: Bytes },
    Truncate { path: String, size: u64 },
    Punch { path: String, at: u64, len: u64 },
    Mkdir { path: String },
    Remove { path: String },
    Rename { from: String, to: String },
    Exchange { one: String, other: String },
    Link { from: String, to: String },
    Symlink { path: String, target: String },
    Chmod { path: String, perm: u32 },
    Chown { path: String, uid: u32 },
    Utimes { path: String, time: Timestamp },
    Sync { path: String },
    Read { path: String },
}

fn name_of(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn short(op: &Op) -> String {
    match op {
        Op::Write { path, at, bytes } => format!("write {path} {at}+{}", bytes.len()),
        other => format!("{other:?}"),
    }
}

/// Chooses an operation that the state allows.
pub fn choose(random: &Random, state: &State) -> Op {
    let of_kind = |kind: FileKind| -> Vec<String> {
        let named = state.names.iter().filter(|(_, id)| state.nodes[*id].kind == kind);
        named.map(|(name, _)| name.clone()).collect()
    };
    let (files, dirs) = (of_kind(FileKind::File), of_kind(FileKind::Dir));
    let free = || -> String {
        let mut places = dirs.clone();
        places.push(String::new());
        let place = random.of(&places).clone();
        let name = (*random.of(&["a", "b", "c", "d"])).to_owned();
        if place.is_empty() { name } else { format!("{place}/{name}") }
    };
    for _ in 0..20 {
        let path = free();
        let taken = state.names.contains_key(&path);
        let file = || (!files.is_empty()).then(|| random.of(&files).clone());
        let any = || {
            let all: Vec<&String> = state.names.keys().collect();
            (!all.is_empty()).then(|| (*random.of(&all)).clone())
        };
        let op = match random.below(100) {
            0..14 if !taken => Some(Op::Create { path }),
            14..40 if sim().large.get() > 0 && random.chance(300) => file().map(large(random)),
            14..40 => file().map(|path| {
                let at = match random.below(3) {
                    0 => 0,
                    _ => random.below(6000),
                };
                let len = match random.below(40) {
                    0 => random.between(140_000, 200_000),
                    1..6 => random.between(10_000, 40_000),
                    _ => random.between(1, 3000),
                };
                let mut bytes = vec![0; len as usize];
                random.fill(&mut bytes);
                Op::Write { path, at, bytes: bytes.into() }
            }),
            40..44 => file().map(|path| Op::Truncate { path, size: random.below(5000) }),
            44..46 => file().map(|path| Op::Punch {
                path,
                at: random.below(5000),
                len: random.between(1, 4000),
            }),
            46..51 if !taken && path.len() < 8 => Some(Op::Mkdir { path }),
            51..58 => {
                let gone = |path: &String| {
                    state.node(path).kind != FileKind::Dir || state.is_empty_dir(path)
                };
                any().filter(gone).map(|path| Op::Remove { path })
            }
            58..73 => any().and_then(|from| {
                let inside = path.starts_with(&format!("{from}/")) || path == from;
                let fits = !taken || {
                    let (old, new) = (state.node(&path), state.node(&from));
                    let same = state.names[&path] == state.names[&from];
                    !same
                        && (old.kind == FileKind::Dir) == (new.kind == FileKind::Dir)
                        && (old.kind != FileKind::Dir || state.is_empty_dir(&path))
                };
                let deep = path.len() + from.len() > 14;
                (!inside && fits && !deep).then(|| Op::Rename { from, to: path.clone() })
            }),
            73..75 => any().zip(any()).and_then(|(one, other)| {
                let nested =
                    one.starts_with(&format!("{other}/")) || other.starts_with(&format!("{one}/"));
                let same = state.names[&one] == state.names[&other];
                (!nested && !same).then(|| Op::Exchange { one, other })
            }),
            75..78 if !taken => file().map(|from| Op::Link { from, to: path }),
            78..80 if !taken => {
                Some(Op::Symlink { path, target: format!("to/{}", random.below(100)) })
            }
            80..83 => any()
                .filter(|path| state.node(path).kind != FileKind::Symlink)
                .map(|path| Op::Chmod { path, perm: *random.of(&[0o600, 0o644, 0o755, 0o700]) }),
            83..85 => any().map(|path| Op::Chown { path, uid: random.below(5) as u32 }),
            85..87 => file().map(|path| {
                let secs = 1_000_000_000 + random.below(1_000_000) as i64;
                Op::Utimes { path, time: Timestamp { secs, nanos: 0 } }
            }),
            87..94 => any().map(|path| Op::Sync { path }),
            94.. => file().map(|path| Op::Read { path }),
            _ => None,
        };
        if let Some(op) = op {
            return op;
        }
    }
    Op::Sync { path: String::new() }
}

/// A write that makes a file larger than what is published in one piece: most of it is a hole, or one pattern.
fn large(random: &Random) -> impl FnOnce(String) -> Op {
    const PIECE: u64 = 8 << 20;
    sim().large.set(sim().large.get() - 1);
    let end = PIECE + random.between(1, 1 << 20);
    let at = if random.chance(700) { end - random.between(1, 3000) } else { random.below(5000) };
    let mut pattern = vec![0; 4093];
    random.fill(&mut pattern);
    let mut bytes = pattern.repeat(((end - at) / 4093 + 1) as usize);
    bytes.truncate((end - at) as usize);
    move |path| Op::Write { path, at, bytes: bytes.into() }
}

/// The state that an operation leads to; `None` when it changes nothing.
pub fn effect(history: &mut History, op: &Op) -> Option<State> {
    let mut state = history.now().clone();
    let new = |kind, perm| Node {
        kind,
        perm,
        uid: 0,
        mtime: None,
        content: 0,
        floor: 0,
        target: Bytes::new(),
    };
    match op {
        Op::Create { path } | Op::Mkdir { path } => {
            let id = history.new_id();
            let node = match op {
                Op::Mkdir { .. } => new(FileKind::Dir, 0o755),
                _ => new(FileKind::File, 0o644),
            };
            state.names.insert(path.clone(), id);
            state.nodes.insert(id, node);
        }
        Op::Symlink { path, target } => {
            let id = history.new_id();
            state.names.insert(path.clone(), id);
            let target = Bytes::from(target.clone());
            state.nodes.insert(id, Node { target, ..new(FileKind::Symlink, 0o777) });
        }
        Op::Write { path, at, bytes } => {
            let id = state.names[path];
            let mut content = BytesMut::from(&history.content(id)[..]);
            let end = *at as usize + bytes.len();
            if content.len() < end {
                content.resize(end, 0);
            }
            content[*at as usize..end].copy_from_slice(bytes);
            history.rewrite(&mut state, id, content.freeze());
        }
        Op::Truncate { path, size } => {
            let id = state.names[path];
            let mut content = BytesMut::from(&history.content(id)[..]);
            content.resize(*size as usize, 0);
            history.rewrite(&mut state, id, content.freeze());
        }
        Op::Punch { path, at, len } => {
            let id = state.names[path];
            let mut content = BytesMut::from(&history.content(id)[..]);
            let size = content.len();
            content[(*at as usize).min(size)..((*at + *len) as usize).min(size)].fill(0);
            history.rewrite(&mut state, id, content.freeze());
        }
        Op::Remove { path } => state.remove(path),
        Op::Rename { from, to } => {
            let id = state.names[from];
            let over = state.names.contains_key(to);
            state.rename(from, to);
            if over && let Some(node) = state.nodes.get_mut(&id) {
                node.floor = node.content;
            }
        }
        Op::Exchange { one, other } => {
            let spare = "\u{0}".to_owned();
            let ids = [state.names[one], state.names[other]];
            state.rename(one, &spare);
            state.rename(other, one);
            state.rename(&spare, other);
            for id in ids {
                if let Some(node) = state.nodes.get_mut(&id) {
                    node.floor = node.content;
                }
            }
        }
        Op::Link { from, to } => {
            let id = state.names[from];
            state.names.insert(to.clone(), id);
        }
        Op::Chmod { path, perm } => {
            let id = state.names[path];
            state.nodes.get_mut(&id).expect("it is there").perm = *perm;
        }
        Op::Chown { path, uid } => {
            let id = state.names[path];
            state.nodes.get_mut(&id).expect("it is there").uid = *uid;
        }
        Op::Utimes { path, time } => {
            let id = state.names[path];
            state.nodes.get_mut(&id).expect("it is there").mtime = Some(*time);
        }
        Op::Sync { .. } | Op::Read { .. } => return None,
    }
    Some(state)
}

/// A client's hands.
pub struct Hands {
    pub fs: Arc<Fs>,
    /// Its directory's name.
    pub home: String,
}

impl Hands {
    async fn dir(&self, wire: &Wire, path: &str) -> Result<Ino, FsError> {
        let mut at = Ino::ROOT;
        let whole = format!("{}/{path}", self.home);
        for part in whole.split('/').filter(|part| !part.is_empty()) {
            at = wire.ask(async |_| Ok(self.fs.lookup(at, name(part)).await?.ino)).await?;
        }
        Ok(at)
    }

    async fn place(&self, wire: &Wire, path: &str) -> Result<(Ino, FileName), FsError> {
        let (dir, last) = name_of(path);
        Ok((self.dir(wire, dir).await?, name(last)))
    }

    async fn open(&self, wire: &Wire, ino: Ino) -> Result<FileHandle, FsError> {
        wire.ask(async |caller| Ok(self.fs.open(caller, ino, libc::O_RDWR).await?.fh)).await
    }

    /// No program hears what becomes of it.
    async fn release(&self, wire: &Wire, ino: Ino, fh: FileHandle) {
        let released = wire.ask(async |caller| self.fs.released(caller, ino, fh).await).await;
        if let Err(error) = released {
            tell!("a handle is closed: {error}");
        }
    }

    pub async fn carry_out(&self, wire: &Wire, op: &Op) -> Result<Option<Bytes>, FsError> {
        let fs = &self.fs;
        match op {
            Op::Create { path } => {
                let (dir, name) = self.place(wire, path).await?;
                let create = async |caller| {
                    let (attr, opened) =
                        fs.create(caller, dir, name.clone(), 0o644, libc::O_RDWR).await?;
                    Ok((attr.ino, opened.fh))
                };
                let (ino, fh) = wire.ask(create).await?;
                self.release(wire, ino, fh).await;
            }
            Op::Write { path, at, bytes } => {
                let ino = self.dir(wire, path).await?;
                let fh = self.open(wire, ino).await?;
                let write = async |_| fs.write(ino, fh, *at, bytes.clone(), false).await;
                let written = wire.ask(write).await;
                self.release(wire, ino, fh).await;
                written?;
            }
            Op::Truncate { path, size } => {
                let ino = self.dir(wire, path).await?;
                let change = SetAttr { size: Some(*size), ..SetAttr::default() };
                self.set(wire, ino, change).await?;
            }
            Op::Punch { path, at, len } => {
                let ino = self.dir(wire, path).await?;
                let fh = self.open(wire, ino).await?;
                let punch = async |_| fs.fallocate(ino, fh, Fallocate::PunchHole, *at, *len).await;
                let punched = wire.ask(punch).await;
                self.release(wire, ino, fh).await;
                punched?;
            }
            Op::Mkdir { path } => {
                let (dir, name) = self.place(wire, path).await?;
                let make =
                    async |caller| fs.mkdir(caller, dir, name.clone(), 0o755).await.map(drop);
                wire.ask(make).await?;
            }
            Op::Remove { path } => {
                let (dir, name) = self.place(wire, path).await?;
                let kind = async |_| Ok(fs.lookup(dir, name.clone()).await?.kind);
                let remove = match wire.ask(kind).await? {
                    FileKind::Dir => wire.ask(async |c| fs.rmdir(c, dir, name.clone()).await).await,
                    _ => wire.ask(async |c| fs.unlink(c, dir, name.clone()).await).await,
                };
                remove?;
            }
            Op::Rename { from, to } => {
                self.rename(wire, from, to, RenameMode::Replace).await?;
            }
            Op::Exchange { one, other } => {
                self.rename(wire, one, other, RenameMode::Exchange).await?;
            }
            Op::Link { from, to } => {
                let (ino, to) = (self.dir(wire, from).await?, self.place(wire, to).await?);
                let link = async |caller| fs.link(caller, ino, to.0, to.1.clone()).await.map(drop);
                wire.ask(link).await?;
            }
            Op::Symlink { path, target } => {
                let (dir, name) = self.place(wire, path).await?;
                let link = async |caller| {
                    let target = Bytes::from(target.clone());
                    fs.symlink(caller, dir, name.clone(), target).await.map(drop)
                };
                wire.ask(link).await?;
            }
            Op::Chmod { path, perm } => {
                let change = SetAttr { mode: Some(*perm), ..SetAttr::default() };
                let ino = self.dir(wire, path).await?;
                self.set(wire, ino, change).await?;
            }
            Op::Chown { path, uid } => {
                let change = SetAttr { uid: Some(*uid), ..SetAttr::default() };
                let ino = self.dir(wire, path).await?;
                self.set(wire, ino, change).await?;
            }
            Op::Utimes { path, time } => {
                let change = SetAttr { mtime: Some(SetTime::At(*time)), ..SetAttr::default() };
                let ino = self.dir(wire, path).await?;
                self.set(wire, ino, change).await?;
            }
            Op::Sync { path } => {
                let ino = self.dir(wire, path).await?;
                wire.ask(async |_| fs.fsync(ino, false).await.map(drop)).await?;
            }
            Op::Read { path } => {
                let ino = self.dir(wire, path).await?;
                return Ok(Some(self.whole(wire, ino).await?));
            }
        }
        Ok(None)
    }

    async fn set(&self, wire: &Wire, ino: Ino, change: SetAttr) -> Result<(), FsError> {
        let set = async |caller| self.fs.setattr(caller, ino, change).await.map(drop);
        wire.ask(set).await
    }

    async fn rename(
        &self,
        wire: &Wire,
        from: &str,
        to: &str,
        mode: RenameMode,
    ) -> Result<(), FsError> {
        let (from, to) = (self.place(wire, from).await?, self.place(wire, to).await?);
        let rename = async |caller| {
            self.fs.rename(caller, from.0, from.1.clone(), to.0, to.1.clone(), mode).await
        };
        wire.ask(rename).await
    }

    async fn whole(&self, wire: &Wire, ino: Ino) -> Result<Bytes, FsError> {
        let open = async |caller| Ok(self.fs.open(caller, ino, libc::O_RDONLY).await?.fh);
        let fh = wire.ask(open).await?;
        let mut all = BytesMut::new();
        let read = async {
            loop {
                let at = all.len() as u64;
                let piece = wire.ask(async |_| self.fs.read(ino, fh, at, 128 << 10).await).await?;
                if piece.is_empty() {
                    return Ok(());
                }
                all.extend_from_slice(&piece);
            }
        }
        .await;
        self.release(wire, ino, fh).await;
        read.map(|()| all.freeze())
    }

    /// Everything below the client's directory.
    pub async fn survey(&self) -> Result<Survey, FsError> {
        let mut seen = Survey::new();
        let mut dirs = vec![String::new()];
        while let Some(dir) = dirs.pop() {
            let ino = self.dir(&Wire::NONE, &dir).await?;
            let fh = self.fs.opendir(CALLER, ino).await?;
            let mut cookie = 0;
            loop {
                let page = self.fs.readdir(ino, fh, cookie, 7, Show::Attributes).await?;
                let Some(last) = page.last() else { break };
                cookie = last.cookie;
                for entry in page.into_iter().filter(|entry| !entry.is_dot()) {
                    let name = String::from_utf8_lossy(&entry.name).into_owned();
                    let path = if dir.is_empty() { name } else { format!("{dir}/{name}") };
                    let attr = self.fs.getattr(entry.ino).await?;
                    let bytes = match attr.kind {
                        FileKind::File => self.whole(&Wire::NONE, entry.ino).await?,
                        FileKind::Symlink => self.fs.readlink(entry.ino).await?,
                        _ => Bytes::new(),
                    };
                    if attr.kind == FileKind::File && bytes.len() as u64 != attr.size {
                        sim().fail(format!(
                            "{path} says {} bytes and has {}",
                            attr.size,
                            bytes.len()
                        ));
                    }
                    if attr.kind == FileKind::Dir {
                        dirs.push(path.clone());
                    }
                    let there = Seen::of(&attr, bytes);
                    seen.insert(path, there);
                }
            }
            self.fs.releasedir(CALLER, ino, fh).await?;
        }
        Ok(seen)
    }
}

fn name(text: &str) -> FileName {
    FileName::new(text).expect("a name")
}

/// A file whose fsync is promised something.
fn synced(state: &State, path: &str) -> Option<Id> {
    let id = *state.names.get(path)?;
    (state.nodes[&id].kind == FileKind::File).then_some(id)
}

/// What a program writes to beside a request.
enum Aim {
    /// This is published.
    At(String),
    /// A segment goes up, with the bytes of some files.
    Any,
}

fn target(random: &Random, state: &State, aim: Aim) -> Option<String> {
    let is_file = |id: &Id| state.nodes[id].kind == FileKind::File;
    let files: Vec<&String> =
        state.names.iter().filter(|(_, id)| is_file(id)).map(|(name, _)| name).collect();
    match aim {
        Aim::At(path) => files.contains(&&path).then_some(path),
        Aim::Any => (!files.is_empty()).then(|| (*random.of(&files)).clone()),
    }
}

/// Some change of a file's bytes.
fn change(random: &Random, path: String) -> Op {
    match random.below(5) {
        0 => Op::Truncate { path, size: random.below(5000) },
        1 => Op::Punch { path, at: random.below(5000), len: random.between(1, 4000) },
        _ => {
            let mut bytes = vec![0; random.between(1, 3000) as usize];
            random.fill(&mut bytes);
            Op::Write { path, at: random.below(4000), bytes: bytes.into() }
        }
    }
}

/// Waits for a while until something below `home` is published, or a segment goes up.
async fn published(home: &str) -> Option<Aim> {
    let bucket = &sim().bucket;
    let wait = async {
        loop {
            bucket.publishes.notified().await;
            let key = bucket.published.borrow().clone().unwrap_or_default();
            let Some(path) = key.strip_prefix(crate::host::PREFIX) else { return Some(Aim::Any) };
            if let Some(path) = path.strip_prefix(home).and_then(|path| path.strip_prefix('/')) {
                return Some(Aim::At(path.to_owned()));
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(6), wait).await.unwrap_or_default()
}

/// Works until so many operations are done.
pub async fn work(
    hands: Hands,
    wire: Wire,
    (line, client): (usize, usize),
    ops: u64,
    random: Random,
) {
    let mut aim = None;
    if !go_on(&hands, &wire, (line, client)).await {
        return;
    }
    for _ in 0..ops {
        let op = {
            let model = sim().model.borrow();
            let state = model[line].clients[client].now();
            match aim.take().and_then(|aim| target(&random, state, aim)) {
                Some(path) => change(&random, path),
                None => choose(&random, state),
            }
        };
        let promise = {
            let mut model = sim().model.borrow_mut();
            let promise = match &op {
                Op::Sync { path } => {
                    let file = synced(model[line].clients[client].now(), path);
                    Some(model[line].promise(client, file))
                }
                _ => None,
            };
            let history = &mut model[line].clients[client];
            if let Some(state) = effect(history, &op) {
                history.begin(state);
            }
            promise
        };
        wire.begin(Doing { op, promise, began: sim().now() });
        if !go_on(&hands, &wire, (line, client)).await {
            return;
        }
        if sim().aims.get() && random.chance(200) {
            aim = published(&hands.home).await;
            // Most of them while it is under way.
            tokio::time::sleep(Duration::from_micros(random.below(4000))).await;
            if sim().kills.get() && random.chance(350) {
                let machine: &'static Machine = sim().seam.running.get().expect("a process works");
                sim().at(random.below(3 * SECOND), move || {
                    tell!("its process is killed");
                    machine.die();
                    sim().seam.met.set(true);
                });
            }
            continue;
        }
        let pause = match random.below(20) {
            0..10 => continue,
            10..16 => Duration::from_millis(random.below(30)),
            16..19 => Duration::from_millis(random.below(8000)),
            _ => Duration::from_secs(random.below(90)),
        };
        tokio::time::sleep(pause).await;
    }
}

/// Carries out what is under way, if anything is; also what a dead worker did not answer. False when the client can
/// do no more here.
async fn go_on(hands: &Hands, wire: &Wire, (line, client): (usize, usize)) -> bool {
    if let Some(Doing { op, promise, began }) = wire.again() {
        tell!("{}: {}", hands.home, short(&op));
        let done = hands.carry_out(wire, &op).await;
        if sim().is_dead() {
            // Nobody hears the answer of a process that was killed.
            std::future::pending::<()>().await;
        }
        tell!(
            "{}: {}",
            hands.home,
            match &done {
                Ok(_) => "done".to_owned(),
                Err(error) => error.to_string(),
            }
        );
        let resent = wire.was_resent();
        wire.end();
        let lost = done.as_ref().is_err_and(is_of_a_lost_volume);
        answered(&hands.home, (line, client), &op, promise, (began, resent), done);
        if lost && sim().model.borrow()[line].clients[client].under_way {
            // It is in the log, and happens if the host that has the volume makes nothing durable.
            return false;
        }
    }
    let open = sim().model.borrow()[line].clients[client].under_way;
    !open || look_again(hands, (line, client)).await
}

fn is_of_a_lost_volume(error: &FsError) -> bool {
    error.to_string().contains("another host has taken over this volume")
}

/// The local disk has failed an operation: what became of it, the directory tells.
async fn look_again(hands: &Hands, program: (usize, usize)) -> bool {
    for _ in 0..LOOKS {
        let survey = hands.survey().await;
        if sim().is_dead() {
            std::future::pending::<()>().await;
        }
        if is_clear(hands, program, survey) {
            return true;
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    false
}

fn is_clear(
    hands: &Hands,
    (line, client): (usize, usize),
    survey: Result<Survey, FsError>,
) -> bool {
    let mut model = sim().model.borrow_mut();
    let replaced = model[line].found.is_some();
    let history = &mut model[line].clients[client];
    match survey {
        _ if replaced => {
            history.end(false);
            history.unsure = true;
        }
        Ok(survey) => match history.find(&survey, Rule::Whole) {
            Ok(found) => history.go_on(&found, Rule::Whole),
            Err(why) => sim().fail(format!("after an operation failed: {why}")),
        },
        Err(error) => {
            tell!("{} is looked at: {error}", hands.home);
            return false;
        }
    }
    true
}

/// Where two contents differ first.
fn difference(one: &[u8], other: &[u8]) -> String {
    let at = one.iter().zip(other).position(|(a, b)| a != b);
    let at = at.unwrap_or(one.len().min(other.len()));
    let there = |bytes: &[u8]| bytes[at..(at + 8).min(bytes.len())].to_vec();
    let (a, b) = (there(one), there(other));
    format!("{} bytes, and read {}; from {at} on {a:?} and {b:?}", one.len(), other.len())
}

/// What an answer means for what may be there from now on.
fn answered(
    home: &str,
    (line, client): (usize, usize),
    op: &Op,
    promise: Option<Promise>,
    (began, resent): (Time, bool),
    done: Result<Option<Bytes>, FsError>,
) {
    let mut model = sim().model.borrow_mut();
    let replaced = model[line].found.is_some();
    let history = &mut model[line].clients[client];
    let now = sim().now();
    let machine: &'static Machine = sim().seam.running.get().expect("a process works");
    // What the local disk fails may be there in part, and what was carried out by a dead worker is.
    let open = done.as_ref().is_err_and(|error| {
        is_of_a_lost_volume(error) || !replaced && (resent || machine.disk.troubled(began, now))
    });
    if history.under_way && !open {
        history.end(done.is_ok());
    }
    let was_unsure = history.unsure;
    history.unsure |= replaced && done.is_err();
    match (op, &done) {
        (Op::Read { path }, Ok(Some(bytes))) => {
            let id = history.now().names[path];
            let right = match history.unsure {
                true => history.may_be_read(bytes),
                false => history.content(id) == bytes,
            };
            if !right {
                let differ = difference(history.content(id), bytes);
                let whose = if replaced { ", on a host that lost the volume" } else { "" };
                sim().fail(format!("{home}/{path} is not what was written{whose}: {differ}"));
            }
        }
        (_, Err(FsError::NoSpace(why))) => {
            let narrow = machine.disk.was_narrow(now);
            if narrow.is_none_or(|at| at + SECOND < began) {
                sim()
                    .fail(format!("{home}: {}: no room on a disk that has some: {why}", short(op)));
            }
        }
        (_, Err(FsError::Io { .. })) => {}
        (_, Err(_)) if was_unsure => {}
        (_, Err(error)) => sim().fail(format!("{home}: {}: {error}", short(op))),
        _ => {}
    }
    if let (Some(promise), Ok(_)) = (&promise, &done)
        && let Err(why) = model[line].keep(promise)
    {
        sim().fail(why);
    }
}
