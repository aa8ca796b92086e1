//! What a volume may hold, by what was done and what was answered.
//!
//! Each client works in a directory of its own, one operation after the other, so that its operations have an order.
//! A [`History`] holds the state after each of them. What a mount finds must be one of those states:
//!
//! * after a process was killed, the last one, or the one that the operation under way leads to;
//! * after its host was lost, one that is not older than the last fsync that was answered, of anybody. The
//!   bytes of a file may be older than its name, but not older than its own last fsync, and not older than a
//!   rename that put it in another one's place.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use s3vol::fs::Attr;
use s3vol::types::{FileKind, Timestamp};

pub type Id = u64;

/// A file, a directory, a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub kind: FileKind,
    pub perm: u32,
    pub uid: u32,
    /// Set by hand, and nothing was written since.
    pub mtime: Option<Timestamp>,
    /// Which of the file's contents.
    pub content: usize,
    /// The oldest content that this state allows.
    pub floor: usize,
    pub target: Bytes,
}

/// Names below a client's directory, and what they lead to.
#[derive(Debug, Clone, Default)]
pub struct State {
    pub names: BTreeMap<String, Id>,
    pub nodes: BTreeMap<Id, Node>,
}

impl State {
    pub fn node(&self, path: &str) -> &Node {
        &self.nodes[&self.names[path]]
    }

    pub fn links(&self, id: Id) -> usize {
        self.names.values().filter(|other| **other == id).count()
    }

    pub fn is_empty_dir(&self, path: &str) -> bool {
        let below = format!("{path}/");
        !self.names.keys().any(|name| name.starts_with(&below))
    }

    /// Whether nothing but the bytes of files may have changed since `then`: no fsync of another file or directory
    /// promises those.
    fn only_writes(&self, then: &State) -> bool {
        let same = |(id, node): (&Id, &Node)| {
            then.nodes.get(id).is_some_and(|before| {
                let (content, mtime) = (before.content, before.mtime);
                let written = Node { content, mtime, ..node.clone() };
                written == *before && (node.mtime.is_none() || node.mtime == mtime)
            })
        };
        self.names == then.names
            && self.nodes.len() == then.nodes.len()
            && self.nodes.iter().all(same)
    }

    /// Takes a name away, and what nothing leads to any more.
    pub fn remove(&mut self, path: &str) {
        if let Some(id) = self.names.remove(path)
            && self.links(id) == 0
        {
            self.nodes.remove(&id);
        }
    }

    /// Moves a name with all below it.
    pub fn rename(&mut self, from: &str, to: &str) {
        if self.names.get(from) == self.names.get(to) {
            return;
        }
        self.remove(to);
        let below = format!("{from}/");
        let moved: Vec<String> = self
            .names
            .keys()
            .filter(|name| *name == from || name.starts_with(&below))
            .cloned()
            .collect();
        for name in moved {
            if let Some(id) = self.names.remove(&name) {
                self.names.insert(format!("{to}{}", &name[from.len()..]), id);
            }
        }
    }
}

/// One name as a mount shows it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub ino: u64,
    pub kind: FileKind,
    pub perm: u32,
    pub uid: u32,
    pub mtime: Timestamp,
    pub links: u32,
    /// Of a file; of a link its target.
    pub bytes: Bytes,
}

impl Seen {
    pub fn of(attr: &Attr, bytes: Bytes) -> Self {
        let Attr { ino, kind, perm, uid, mtime, nlink, .. } = *attr;
        Seen { ino: ino.0, kind, perm, uid, mtime, links: nlink, bytes }
    }
}

pub type Survey = BTreeMap<String, Seen>;

/// What a client did since a state that was seen.
#[derive(Debug, Clone, Default)]
pub struct History {
    pub states: Vec<State>,
    /// All contents that a file ever had.
    pub contents: BTreeMap<Id, Vec<Bytes>>,
    /// The last state is that of an operation that is not answered yet.
    pub under_way: bool,
    /// The oldest state that may be left.
    pub durable: usize,
    /// The oldest contents.
    pub floors: BTreeMap<Id, usize>,
    /// Another host has the volume, and an operation failed that may have happened here all the same.
    pub unsure: bool,
    next: Id,
}

/// Which states a mount may find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Nothing that was answered is lost.
    Whole,
    /// What was not synced may be.
    Synced,
    /// Likewise, and the end of a local log is lost: of what it takes for uncommitted, the cache has what came later.
    Mixed,
}

/// What a mount found of a history.
#[derive(Debug, Clone)]
pub struct Found {
    pub state: usize,
    pub contents: BTreeMap<Id, usize>,
    /// Where the write under way is there in part.
    torn: BTreeMap<Id, Bytes>,
}

impl History {
    pub fn new() -> Self {
        History { states: vec![State::default()], ..History::default() }
    }

    pub fn now(&self) -> &State {
        self.states.last().expect("there is always one")
    }

    /// The last state that was answered.
    pub fn answered(&self) -> usize {
        self.states.len() - 1 - usize::from(self.under_way)
    }

    pub fn content(&self, id: Id) -> &Bytes {
        &self.contents[&id][self.now().nodes[&id].content]
    }

    pub fn new_id(&mut self) -> Id {
        self.next += 1;
        self.contents.insert(self.next, vec![Bytes::new()]);
        self.next
    }

    /// An operation begins that leads to `state`.
    pub fn begin(&mut self, state: State) {
        assert!(!self.under_way, "one after the other");
        self.states.push(state);
        self.under_way = true;
    }

    /// It was answered: it happened, or nothing did.
    pub fn end(&mut self, happened: bool) {
        self.under_way = false;
        if !happened {
            self.states.pop();
        }
    }

    /// The file gets another content, in a state that is about to begin.
    pub fn rewrite(&mut self, state: &mut State, id: Id, bytes: Bytes) {
        let all = self.contents.entry(id).or_default();
        all.push(bytes);
        let node = state.nodes.get_mut(&id).expect("a file");
        node.content = all.len() - 1;
        node.mtime = None;
    }

    /// Finds what a mount shows among the states that `rule` allows.
    pub fn find(&self, seen: &Survey, rule: Rule) -> Result<Found, String> {
        let first = match rule {
            Rule::Whole => self.answered(),
            Rule::Synced | Rule::Mixed => self.durable,
        };
        let mut why = Vec::new();
        for state in (first..self.states.len()).rev() {
            match self.is(state, seen, rule) {
                Ok(found) => return Ok(found),
                Err(not) => why.push(format!("not state {state}: {not}")),
            }
        }
        why.truncate(4);
        let names: Vec<_> = seen.keys().collect();
        Err(format!(
            "none of the states {first}..{} is there ({rule:?}); names {names:?}; {}",
            self.states.len(),
            why.join("; ")
        ))
    }

    /// The oldest state from `first` on that this may be, whatever was not synced; for who is no mount.
    pub fn oldest(&self, seen: &Survey, first: usize) -> Result<usize, String> {
        let mut why = format!("there is no state {first}");
        for state in first..self.states.len() {
            match self.is(state, seen, Rule::Synced) {
                Ok(_) => return Ok(state),
                Err(not) => why = format!("not state {state} of {first}..: {not}"),
            }
        }
        Err(why)
    }

    fn is(&self, number: usize, seen: &Survey, rule: Rule) -> Result<Found, String> {
        let state = &self.states[number];
        if let Some(name) = state.names.keys().find(|name| !seen.contains_key(*name)) {
            return Err(format!("{name} is missing"));
        }
        if let Some(name) = seen.keys().find(|name| !state.names.contains_key(*name)) {
            return Err(format!("{name} should not be there"));
        }
        let mut found = Found { state: number, contents: BTreeMap::new(), torn: BTreeMap::new() };
        let mut inos: BTreeMap<Id, u64> = BTreeMap::new();
        for (name, id) in &state.names {
            let (node, there) = (&state.nodes[id], &seen[name]);
            let shows = (there.kind, there.perm, there.uid);
            if shows != (node.kind, node.perm, node.uid) {
                return Err(format!("{name} is {shows:?} and not {node:?}"));
            }
            if *inos.entry(*id).or_insert(there.ino) != there.ino {
                return Err(format!("{name} is not what its other names lead to"));
            }
            match node.kind {
                FileKind::Dir => continue,
                FileKind::Symlink if there.bytes != node.target => {
                    return Err(format!("{name} leads to {:?}", there.bytes));
                }
                _ => {}
            }
            if there.links as usize != state.links(*id) {
                return Err(format!("{name} has {} links", there.links));
            }
            if node.kind == FileKind::File {
                self.content_is(number, *id, name, there, rule, &mut found)?;
            }
            let set = node.mtime.filter(|_| rule == Rule::Whole);
            if set.is_some_and(|set| set != there.mtime) {
                return Err(format!("{name} has the time {:?} and not {set:?}", there.mtime));
            }
        }
        let distinct: BTreeSet<_> = inos.values().collect();
        if distinct.len() != inos.len() {
            return Err("two files share an inode".to_owned());
        }
        Ok(found)
    }

    fn content_is(
        &self,
        number: usize,
        id: Id,
        name: &str,
        there: &Seen,
        rule: Rule,
        found: &mut Found,
    ) -> Result<(), String> {
        let node = &self.states[number].nodes[&id];
        let all = &self.contents[&id];
        let floor = self.floors.get(&id).copied().unwrap_or(0).max(node.floor);
        let oldest = if rule == Rule::Whole { node.content } else { floor.min(node.content) };
        for version in (oldest..=node.content).rev() {
            if all[version] == there.bytes {
                found.contents.insert(id, version);
                return Ok(());
            }
        }
        if rule == Rule::Mixed && is_mixed(&all[oldest..], &there.bytes) {
            found.contents.insert(id, oldest);
            found.torn.insert(id, there.bytes.clone());
            return Ok(());
        }
        let last = self.under_way && number + 1 == self.states.len();
        if last && node.content > oldest.saturating_sub(1) && node.content > 0 {
            let from = (oldest.min(node.content - 1)..node.content).rev();
            if let Some(version) = from
                .into_iter()
                .find(|version| is_between(&all[*version], &all[node.content], &there.bytes))
            {
                found.contents.insert(id, version);
                found.torn.insert(id, there.bytes.clone());
                return Ok(());
            }
        }
        let was = all.iter().position(|bytes| *bytes == there.bytes);
        Err(format!(
            "{name} has the content {was:?} ({} bytes) and not {oldest}..={} ({} bytes)",
            there.bytes.len(),
            node.content,
            all[node.content].len()
        ))
    }

    /// Whether a program may read these bytes of a file on a host whose last operations failed, because another one
    /// has the volume: each of them was written at its place to some file of the client, or is of a hole.
    pub fn may_be_read(&self, bytes: &[u8]) -> bool {
        let all: Vec<&Bytes> = self.contents.values().flatten().collect();
        bytes
            .iter()
            .enumerate()
            .all(|(at, byte)| *byte == 0 || all.iter().any(|content| content.get(at) == Some(byte)))
    }

    /// Goes on from what was found. `durable`: in the bucket, and not only in what was left of a host's log.
    pub fn go_on(&mut self, found: &Found, rule: Rule, durable: bool) {
        let mut state = self.states[found.state].clone();
        for (id, bytes) in &found.torn {
            let all = self.contents.entry(*id).or_default();
            all.push(bytes.clone());
            if let Some(node) = state.nodes.get_mut(id) {
                node.content = all.len() - 1;
            }
        }
        self.under_way = false;
        match rule {
            Rule::Whole => {
                self.states.truncate(found.state);
                self.states.push(state);
            }
            Rule::Synced | Rule::Mixed => {
                for (id, version) in &found.contents {
                    if let Some(node) = state.nodes.get_mut(id)
                        && !found.torn.contains_key(id)
                    {
                        node.content = *version;
                    }
                }
                for node in state.nodes.values_mut() {
                    node.mtime = None;
                }
                if !durable {
                    self.states.truncate(found.state);
                    self.states.push(state);
                    return;
                }
                for node in state.nodes.values_mut() {
                    node.floor = node.content;
                }
                self.states = vec![state];
                self.durable = 0;
                self.floors.clear();
            }
        }
    }
}

/// Whether `bytes` is `old` with any part of what makes it `new`.
fn is_between(old: &[u8], new: &[u8], bytes: &[u8]) -> bool {
    let (least, most) = (old.len().min(new.len()), old.len().max(new.len()));
    (least..=most).contains(&bytes.len())
        && bytes.iter().enumerate().all(|(at, byte)| {
            old.get(at) == Some(byte) || new.get(at) == Some(byte) || *byte == 0 && at >= least
        })
}

/// Whether each byte was at its place in one of these contents, or is of a hole.
fn is_mixed(all: &[Bytes], bytes: &[u8]) -> bool {
    let lens = || all.iter().map(Bytes::len);
    let (least, most) = (lens().min().unwrap_or(0), lens().max().unwrap_or(0));
    let fits = |at, byte: &u8| *byte == 0 || all.iter().any(|one| one.get(at) == Some(byte));
    (least..=most).contains(&bytes.len())
        && bytes.iter().enumerate().all(|(at, byte)| fits(at, byte))
}

/// The histories of all clients of a volume that one host after the other goes on with.
#[derive(Debug, Clone, Default)]
pub struct Line {
    pub clients: Vec<History>,
    /// What the host after it found: from then on nothing more of it can become durable.
    pub found: Option<Vec<Found>>,
    /// Something of it was surely durable: no older log goes on.
    pub synced: bool,
    /// What was durable of each client when it began.
    pub born: Vec<usize>,
}

/// What an fsync promises when it is answered.
#[derive(Debug, Clone)]
pub struct Promise {
    /// The state of each client when it began.
    pub states: Vec<usize>,
    /// Client, file and its content.
    pub content: Option<(usize, Id, usize)>,
}

impl Line {
    pub fn new(clients: usize) -> Self {
        Line { clients: vec![History::new(); clients], ..Line::default() }
    }

    /// An fsync begins.
    pub fn promise(&self, client: usize, file: Option<Id>) -> Promise {
        let states = self.clients.iter().map(History::answered).collect();
        let content = file.map(|id| {
            let history = &self.clients[client];
            (client, id, history.states[history.answered()].nodes[&id].content)
        });
        Promise { states, content }
    }

    /// An fsync was answered.
    pub fn keep(&mut self, promise: &Promise) -> Result<(), String> {
        self.synced = true;
        if let Some(found) = &self.found {
            // Another host has the volume: what it found must have been all of that.
            for (client, (found, state)) in found.iter().zip(&promise.states).enumerate() {
                let states = &self.clients[client].states;
                if found.state < *state && !states[*state].only_writes(&states[found.state]) {
                    return Err(format!(
                        "an fsync was answered for state {state} of client {client}, and the next host found only {}",
                        found.state
                    ));
                }
            }
            if let Some((client, id, content)) = promise.content
                && found[client].contents.get(&id).is_some_and(|found| *found < content)
            {
                return Err("an fsync was answered whose bytes the next host did not find".into());
            }
            return Ok(());
        }
        for (history, state) in self.clients.iter_mut().zip(&promise.states) {
            history.durable = history.durable.max(*state);
        }
        if let Some((client, id, content)) = promise.content {
            let floor = self.clients[client].floors.entry(id).or_default();
            *floor = (*floor).max(content);
        }
        Ok(())
    }

    /// Everything was brought into the bucket.
    pub fn keep_all(&mut self) {
        self.synced = true;
        for history in &mut self.clients {
            history.durable = history.answered();
            let now = history.states[history.durable].nodes.clone();
            for (id, node) in now {
                history.floors.insert(id, node.content);
            }
        }
    }
}
