//! The steps of the model: what hosts, the engine, the network, the store and other people do.

use std::sync::atomic::{AtomicU32, Ordering};

use stateright::{Model, Property};

use crate::state::{
    Base, Content, Extent, FOREIGN, HEAT, Host, Index, Inode, Intent, Object, Op, Request, State,
    Wrong, intact, read,
};

/// A rule of the protocol that is left out, to see that the checker notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// Extents go when the publish is announced, not when it is resolved.
    ReleaseAtAnnouncement,
    /// A new owner does not care about intents of earlier epochs.
    NoHotKeys,
    /// The request leaves before its intent is durable.
    SendBeforeDurable,
    /// An object is taken for ours when its ETag is the expected one.
    TrustEtag,
    /// The resolution drops every extent of the inode.
    DropNewerExtents,
    /// A key counts as cold at `not_after`, without a margin.
    NoMargin,
    /// A resolution moves the base of its inode wherever it lies by now.
    MoveAnyBase,
    /// A resolution lifts the base limit of a later truncation.
    LiftAnyCut,
    /// A COPY counts as applied by its put-id alone, whatever bytes it took.
    CopyUnchecked,
    /// A key is replaced or removed although another live inode has its base there.
    IgnoreOtherBase,
    /// A segment is deleted when its removal is handed over, not when it is durable.
    SegmentsEarly,
    /// The engine accepts batches of an old epoch.
    NoFence,
    /// The claim does not name the epoch that was judged free.
    BlindClaim,
    /// The claim makes an epoch of its own count: the judged one plus one.
    OwnCounter,
}

/// How large the model is, and what the store can do.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    pub conditions: bool,
    pub expiry: bool,
    pub keys: u8,
    pub inodes: u8,
    pub writes: u8,
    pub puts: u8,
    pub renames: u8,
    pub takeovers: u8,
    pub pending: u8,
    pub namespace: bool,
    pub foreign: bool,
    /// Judging a lease and claiming the epoch are two steps.
    pub claims: bool,
    pub mutant: Option<Mutant>,
}

/// What must happen somewhere in a run; it costs no states to note it here.
#[derive(Debug, Default)]
pub struct Seen {
    pub resolved: AtomicU32,
    pub takeover_with_intent: AtomicU32,
    pub late_arrival: AtomicU32,
    pub decided_by_head: AtomicU32,
    pub refused: AtomicU32,
    pub copied: AtomicU32,
    pub deleted: AtomicU32,
    pub parked: AtomicU32,
    pub stranded: AtomicU32,
    pub conflict: AtomicU32,
    pub fenced: AtomicU32,
    pub claim_lost: AtomicU32,
}

#[derive(Debug)]
pub struct Publish {
    pub config: Config,
    pub seen: Seen,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Write { host: usize, inode: u8, block: usize },
    Truncate { host: usize, inode: u8 },
    Create { host: usize, name: u8 },
    Unlink { host: usize, name: u8 },
    Rename { host: usize, from: u8 },
    AnnouncePut { host: usize, name: u8 },
    AnnounceCopy { host: usize, name: u8 },
    AnnounceDelete { host: usize, key: u8 },
    Park { host: usize, inode: u8 },
    Flush { host: usize },
    Arrive { put: u8, answered: bool },
    Resolve { host: usize, put: u8 },
    Reconcile { host: usize, key: u8 },
    Crash { host: usize },
    LeaseExpires,
    Judge { host: usize },
    Claim { host: usize },
    Tick,
    Foreign { key: u8, content: Content },
}

fn bit(number: u8) -> u8 {
    1 << number
}

fn note(counter: &AtomicU32) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Publish {
    pub fn new(config: Config) -> Self {
        Self { config, seen: Seen::default() }
    }

    fn mutant(&self, mutant: Mutant) -> bool {
        self.config.mutant == Some(mutant)
    }

    /// Whether requests for this key may still be on their way, as this host knows.
    fn hot(&self, host: &Host, key: u8) -> bool {
        host.view
            .open_on(key)
            .any(|i| !self.mutant(Mutant::NoHotKeys) || Some(i.epoch) == host.epoch)
    }

    fn needed_by_another(&self, index: &Index, key: u8, except: Option<u8>) -> bool {
        !self.mutant(Mutant::IgnoreOtherBase) && index.base_of_another(key, except)
    }

    /// A host acts on the volume while no other one has claimed it. One that was fenced and does
    /// not know it can only hand over batches that never become durable: its requests are under
    /// way already, and its next flush ends it.
    fn acts(&self, state: &State, host: &Host) -> bool {
        match host.epoch {
            Some(epoch) => {
                epoch == state.epoch
                    || self.mutant(Mutant::NoFence)
                    || self.mutant(Mutant::SegmentsEarly)
            }
            None => false,
        }
    }

    /// Room for one more batch that is not durable yet.
    fn room(&self, host: &Host) -> bool {
        host.pending < self.config.pending
    }

    fn announce(&self, state: &mut State, at: usize, mut intent: Intent) {
        intent.put = state.puts;
        state.puts += 1;
        let host = &mut state.hosts[at];
        intent.epoch = host.epoch.unwrap_or_default();
        host.pending += 1;
        host.view.intents.push(intent);
        if self.mutant(Mutant::ReleaseAtAnnouncement) && intent.op != Op::Delete {
            self.release(&mut host.view.inodes[intent.inode as usize], intent.generation);
        }
        if self.mutant(Mutant::SendBeforeDurable) {
            state.requests.push(Request { intent });
        }
    }

    /// Drops what the published object holds and gives back the values of the dropped extents.
    fn release(&self, inode: &mut Inode, generation: u8) -> u8 {
        let mut dropped = 0;
        for extent in &mut inode.extents {
            if let Some(old) = *extent
                && (old.generation <= generation || self.mutant(Mutant::DropNewerExtents))
            {
                dropped |= bit(old.value);
                *extent = None;
            }
        }
        if inode.cut.is_some_and(|cut| cut <= generation || self.mutant(Mutant::LiftAnyCut)) {
            inode.cut = None;
        }
        dropped
    }

    /// What the host finds out about an intent, if it may ask yet.
    fn verdict(&self, state: &State, host: &Host, intent: &Intent) -> Option<bool> {
        if host.refused & bit(intent.put) != 0 {
            return Some(false);
        }
        let lies = state.store[intent.key as usize];
        // The answer to a COPY names the ETag it made, as a HEAD would.
        let right_bytes = |object: Object| match intent.op {
            Op::Copy { etag, .. } => object.content == etag || self.mutant(Mutant::CopyUnchecked),
            Op::Put(_) | Op::Delete => true,
        };
        if host.applied & bit(intent.put) != 0 {
            return Some(lies.is_none_or(|o| o.put != intent.put || right_bytes(o)));
        }
        let cold_at = if self.mutant(Mutant::NoMargin) { 1 } else { 0 };
        if intent.heat > cold_at {
            return None;
        }
        Some(match intent.op {
            Op::Delete => lies.is_none(),
            Op::Put(content) | Op::Copy { etag: content, .. } => lies.is_some_and(|object| {
                if self.mutant(Mutant::TrustEtag) {
                    object.content == content
                } else {
                    object.put == intent.put && right_bytes(object)
                }
            }),
        })
    }

    /// One request reaches the store. Gives back whether the store did it.
    fn serve(&self, state: &mut State, intent: &Intent) -> bool {
        let at = intent.key as usize;
        let lies = state.store[at];
        if self.config.conditions && lies.map(|object| object.content) != intent.expected {
            return false;
        }
        let after = match intent.op {
            Op::Put(content) => Some(Object { content, put: intent.put }),
            Op::Delete => None,
            Op::Copy { from, etag } => match state.store[from as usize] {
                Some(source) if !self.config.conditions || source.content == etag => {
                    Some(Object { content: source.content, put: intent.put })
                }
                Some(_) | None => return false,
            },
        };
        if let Some(Object { put: FOREIGN, content }) = lies
            && Some(content) != intent.expected
        {
            state.wrong.trampled = true;
        }
        state.store[at] = after;
        true
    }

    fn resolve(&self, state: &mut State, at: usize, put: u8) -> Option<()> {
        let intent = *state.hosts[at].view.intent(put)?;
        let applied = self.verdict(state, &state.hosts[at], &intent)?;
        let answered = (state.hosts[at].applied | state.hosts[at].refused) & bit(put) != 0;
        if !answered {
            note(&self.seen.decided_by_head);
        }
        let view = &mut state.hosts[at].view;
        view.intents.retain(|open| open.put != put);
        if applied {
            let lies = state.store[intent.key as usize];
            if !answered
                && intent.op != Op::Delete
                && lies.is_some_and(|object| object.put != intent.put)
            {
                state.wrong.adopted = true;
            }
            view.rest[intent.key as usize] = match intent.op {
                Op::Put(content) | Op::Copy { etag: content, .. } => Some(Object { content, put }),
                Op::Delete => None,
            };
            if intent.op != Op::Delete {
                self.settle(state, at, &intent);
            }
        } else if let Op::Copy { .. } = intent.op
            && let Some(object) = state.store[intent.key as usize]
            && object.put == put
        {
            // The COPY took other bytes than it should: what it made is ours, and garbage.
            state.hosts[at].view.rest[intent.key as usize] = Some(object);
        }
        let host = &mut state.hosts[at];
        host.applied &= !bit(put);
        host.refused &= !bit(put);
        host.pending += 1;
        Some(())
    }

    /// The published object becomes the base of its inode, unless the base went elsewhere since.
    fn settle(&self, state: &mut State, at: usize, intent: &Intent) {
        let view = &mut state.hosts[at].view;
        let alone = view.open_on(intent.key).next().is_none();
        let inode = &mut view.inodes[intent.inode as usize];
        if !inode.live {
            return;
        }
        if inode.base != intent.over && !self.mutant(Mutant::MoveAnyBase) {
            note(&self.seen.stranded);
            return;
        }
        inode.base = Base::At { key: intent.key, put: intent.put };
        if alone {
            let dropped = self.release(inode, intent.generation);
            if self.mutant(Mutant::SegmentsEarly) {
                state.segments_gone |= dropped;
            }
        }
        note(if intent.op == Op::Delete { &self.seen.deleted } else { &self.seen.resolved });
    }

    /// Everything handed over becomes durable and its requests leave; or the host learns that it
    /// was fenced.
    fn flush(&self, state: &mut State, at: usize) {
        let current = state.hosts[at].epoch == Some(state.epoch);
        if !current && !self.mutant(Mutant::NoFence) {
            note(&self.seen.fenced);
            state.hosts[at] = Host::default();
            return;
        }
        state.wrong.fenced_ack |= !current;
        let host = &mut state.hosts[at];
        host.pending = 0;
        for intent in &host.view.intents {
            let fresh = Some(intent.epoch) == host.epoch
                && state.durable.intent(intent.put).is_none()
                && intent.heat > 0;
            if fresh && !self.mutant(Mutant::SendBeforeDurable) {
                state.requests.push(Request { intent: *intent });
            }
        }
        state.durable = host.view.clone();
    }

    fn claim(&self, state: &mut State, at: usize, judged: u8) {
        state.hosts[at].judged = None;
        let blind = self.mutant(Mutant::BlindClaim) || self.mutant(Mutant::OwnCounter);
        if judged != state.epoch {
            if !blind {
                note(&self.seen.claim_lost);
                return;
            }
            state.wrong.robbed |= state.lease_held;
        }
        if state.durable.intents.iter().any(|intent| intent.epoch == state.epoch) {
            note(&self.seen.takeover_with_intent);
        }
        state.epoch = if self.mutant(Mutant::OwnCounter) { judged + 1 } else { state.epoch + 1 };
        state.lease_held = true;
        // What a fenced host still believes decides nothing, so it is forgotten here, unless the
        // mutant lets it act on.
        if !self.mutant(Mutant::NoFence) && !self.mutant(Mutant::SegmentsEarly) {
            for host in &mut state.hosts {
                host.view = Index::default();
                host.pending = 0;
                host.applied = 0;
                host.refused = 0;
            }
        }
        state.hosts[at] =
            Host { epoch: Some(state.epoch), view: state.durable.clone(), ..Host::default() };
    }

    fn host_actions(&self, state: &State, at: usize, actions: &mut Vec<Action>) {
        let config = &self.config;
        let host = &state.hosts[at];
        let Some(epoch) = host.epoch else { return };
        if host.pending > 0 || epoch != state.epoch {
            actions.push(Action::Flush { host: at });
        }
        if !self.acts(state, host) {
            return;
        }
        actions.push(Action::Crash { host: at });
        for intent in &host.view.intents {
            if self.room(host) && self.verdict(state, host, intent).is_some() {
                actions.push(Action::Resolve { host: at, put: intent.put });
            }
        }
        if !self.room(host) || epoch != state.epoch && !self.mutant(Mutant::NoFence) {
            return;
        }
        for inode in 0..config.inodes {
            if state.writes <= config.writes && host.view.inodes[inode as usize].live {
                actions.push(Action::Write { host: at, inode, block: 0 });
                actions.push(Action::Write { host: at, inode, block: 1 });
                actions.push(Action::Truncate { host: at, inode });
            }
        }
        for name in 0..config.keys {
            if config.namespace {
                match host.view.names[name as usize] {
                    Some(_) => actions.push(Action::Unlink { host: at, name }),
                    None if state.inodes < config.inodes && !host.view.theirs[name as usize] => {
                        actions.push(Action::Create { host: at, name })
                    }
                    None => {}
                }
                if state.renames < config.renames && host.view.names[name as usize].is_some() {
                    actions.push(Action::Rename { host: at, from: name });
                }
            }
            if state.puts <= config.puts {
                self.publish_actions(state, at, name, actions);
            }
            if config.foreign && !self.hot(host, name) {
                actions.push(Action::Reconcile { host: at, key: name });
            }
        }
        for inode in 0..config.inodes {
            actions.push(Action::Park { host: at, inode });
        }
    }

    /// What may be announced for this key, whose name is the same number.
    fn publish_actions(&self, state: &State, at: usize, name: u8, actions: &mut Vec<Action>) {
        let host = &state.hosts[at];
        let view = &host.view;
        if self.hot(host, name) || view.theirs[name as usize] {
            return;
        }
        let Some(ino) = view.names[name as usize] else {
            if view.rest[name as usize].is_some() && !self.needed_by_another(view, name, None) {
                actions.push(Action::AnnounceDelete { host: at, key: name });
            }
            return;
        };
        if self.needed_by_another(view, name, Some(ino)) {
            return;
        }
        let inode = &view.inodes[ino as usize];
        let dirty = inode.extents.iter().any(Option::is_some) || inode.cut.is_some();
        match inode.base {
            Base::At { key, .. } if !dirty && key == name => {}
            Base::At { key, .. } if !dirty => {
                if !self.hot(host, key) {
                    actions.push(Action::AnnounceCopy { host: at, name });
                }
            }
            _ => actions.push(Action::AnnouncePut { host: at, name }),
        }
    }

    fn host_step(&self, state: &mut State, action: Action) -> Option<()> {
        match action {
            Action::Write { host, inode, block } => {
                let value = state.writes;
                state.writes += 1;
                let host = &mut state.hosts[host];
                let inode = &mut host.view.inodes[inode as usize];
                inode.generation += 1;
                inode.truth[block] = value;
                inode.extents[block] = Some(Extent { value, generation: inode.generation });
                host.pending += 1;
            }
            Action::Truncate { host, inode } => {
                // To one block and back to two: the second one reads as zeros.
                state.writes += 1;
                let host = &mut state.hosts[host];
                let inode = &mut host.view.inodes[inode as usize];
                inode.generation += 1;
                inode.truth[1] = 0;
                inode.extents[1] = None;
                inode.cut = Some(inode.generation);
                host.pending += 1;
            }
            Action::Create { host, name } => {
                let ino = state.inodes;
                state.inodes += 1;
                let host = &mut state.hosts[host];
                host.view.names[name as usize] = Some(ino);
                host.view.inodes[ino as usize] = Inode { live: true, ..Inode::default() };
                host.pending += 1;
            }
            Action::Unlink { host, name } => {
                let host = &mut state.hosts[host];
                host.view.unlink(name);
                host.pending += 1;
            }
            Action::Rename { host, from } => {
                state.renames += 1;
                let host = &mut state.hosts[host];
                let ino = host.view.names[from as usize].take();
                host.view.unlink(1 - from);
                host.view.names[1 - from as usize] = ino;
                host.pending += 1;
            }
            Action::AnnouncePut { host, name } => {
                let view = &state.hosts[host].view;
                let ino = view.names[name as usize]?;
                let inode = view.inodes[ino as usize];
                // The guard of the generation: the body is exactly what a reader sees now.
                let body = [read(state, view, &inode, 0)?, read(state, view, &inode, 1)?];
                let intent = self.intent(view, name, Op::Put(body), ino);
                self.announce(state, host, intent);
            }
            Action::AnnounceCopy { host, name } => {
                let view = &state.hosts[host].view;
                let ino = view.names[name as usize]?;
                let Base::At { key: from, .. } = view.inodes[ino as usize].base else {
                    return None;
                };
                let etag = view.rest[from as usize]?.content;
                let intent = self.intent(view, name, Op::Copy { from, etag }, ino);
                self.announce(state, host, intent);
            }
            Action::AnnounceDelete { host, key } => {
                let intent = self.intent(&state.hosts[host].view, key, Op::Delete, 0);
                self.announce(state, host, intent);
            }
            Action::Park { host, inode } => {
                let view = &mut state.hosts[host].view;
                let Base::At { key, put } = view.inodes[inode as usize].base else { return None };
                let object = state.store[key as usize]?;
                let wanted = view.names[key as usize].is_some_and(|named| named != inode);
                if !wanted || object.put != put || view.open_on(key).next().is_some() {
                    return None;
                }
                view.inodes[inode as usize].base = Base::Parked(object.content);
                state.hosts[host].pending += 1;
                note(&self.seen.parked);
            }
            Action::Flush { host } => self.flush(state, host),
            Action::Resolve { host, put } => self.resolve(state, host, put)?,
            Action::Reconcile { host, key } => self.reconcile(state, host, key)?,
            Action::Crash { host } => {
                state.hosts[host] = Host::default();
            }
            _ => return None,
        }
        Some(())
    }

    fn intent(&self, view: &Index, key: u8, op: Op, inode: u8) -> Intent {
        Intent {
            put: 0,
            epoch: 0,
            key,
            op,
            inode,
            generation: view.inodes[inode as usize].generation,
            over: view.inodes[inode as usize].base,
            expected: view.rest[key as usize].map(|object| object.content),
            heat: HEAT,
        }
    }

    /// A HEAD of a cold key: an object that is not the recorded one is somebody's change. It keeps
    /// the name, and our file goes on under a conflict name, outside of the model.
    fn reconcile(&self, state: &mut State, at: usize, key: u8) -> Option<()> {
        let lies = state.store[key as usize]?;
        let host = &mut state.hosts[at];
        let known = host.view.rest[key as usize].is_some_and(|o| o.put == lies.put);
        if known || host.view.theirs[key as usize] {
            return None;
        }
        host.view.theirs[key as usize] = true;
        host.view.rest[key as usize] = None;
        host.view.unlink(key);
        host.pending += 1;
        note(&self.seen.conflict);
        Some(())
    }

    fn world_step(&self, state: &mut State, action: Action) -> Option<()> {
        match action {
            Action::Arrive { put, answered } => {
                let at = state.requests.iter().position(|r| r.intent.put == put)?;
                let intent = state.requests.remove(at).intent;
                state.wrong.unannounced |= state.durable.intent(put).is_none();
                let done = self.serve(state, &intent);
                if intent.epoch < state.epoch && done {
                    note(&self.seen.late_arrival);
                }
                if done {
                    match intent.op {
                        Op::Copy { .. } => note(&self.seen.copied),
                        Op::Delete => note(&self.seen.deleted),
                        Op::Put(_) => {}
                    }
                } else {
                    note(&self.seen.refused);
                }
                let sender = state.hosts.iter_mut().find(|h| h.epoch == Some(intent.epoch));
                match sender {
                    Some(host) if answered && intent.epoch == state.epoch => {
                        let answers = if done { &mut host.applied } else { &mut host.refused };
                        *answers |= bit(put);
                    }
                    _ if answered => return None,
                    _ => {}
                }
            }
            Action::LeaseExpires => state.lease_held = false,
            Action::Judge { host } => state.hosts[host].judged = Some(state.epoch),
            Action::Claim { host } => {
                let judged = match state.hosts[host].judged {
                    Some(judged) => judged,
                    None if !self.config.claims => state.epoch,
                    None => return None,
                };
                self.claim(state, host, judged);
            }
            Action::Tick => {
                state.durable.tick();
                state.hosts.iter_mut().for_each(|host| host.view.tick());
                for request in &mut state.requests {
                    request.intent.heat = request.intent.heat.saturating_sub(1);
                }
                if self.config.expiry {
                    state.requests.retain(|request| request.intent.heat > 0);
                }
            }
            Action::Foreign { key, content } => {
                state.store[key as usize] = Some(Object { content, put: FOREIGN });
                state.touched[key as usize] = true;
            }
            _ => return None,
        }
        Some(())
    }
}

impl Model for Publish {
    type State = State;
    type Action = Action;

    /// One settled file, empty as so many are: every empty object has the same ETag.
    fn init_states(&self) -> Vec<State> {
        let object = Object { content: [0, 0], put: 0 };
        let mut index = Index::default();
        index.names[0] = Some(0);
        index.rest[0] = Some(object);
        index.inodes[0] =
            Inode { live: true, base: Base::At { key: 0, put: 0 }, ..Inode::default() };
        let owner = Host { epoch: Some(0), view: index.clone(), ..Host::default() };
        let hosts = if self.config.claims { 3 } else { 2 };
        vec![State {
            store: [Some(object), None],
            touched: [false; 2],
            durable: index,
            epoch: 0,
            lease_held: true,
            segments_gone: 0,
            hosts: std::iter::once(owner)
                .chain(std::iter::repeat_n(Host::default(), hosts - 1))
                .collect(),
            requests: Vec::new(),
            writes: 1,
            puts: 1,
            inodes: 1,
            renames: 0,
            wrong: Wrong::default(),
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for at in 0..state.hosts.len() {
            self.host_actions(state, at, actions);
            let host = &state.hosts[at];
            let idle = host.epoch != Some(state.epoch);
            if state.epoch < self.config.takeovers && idle {
                match host.judged {
                    None if self.config.claims && state.lease_held => {}
                    None if self.config.claims => actions.push(Action::Judge { host: at }),
                    _ => actions.push(Action::Claim { host: at }),
                }
            }
        }
        for request in &state.requests {
            actions.push(Action::Arrive { put: request.intent.put, answered: true });
            actions.push(Action::Arrive { put: request.intent.put, answered: false });
        }
        if self.config.claims && state.lease_held {
            actions.push(Action::LeaseExpires);
        }
        if state.durable.intents.iter().any(|intent| intent.heat > 0) {
            actions.push(Action::Tick);
        }
        if self.config.foreign && !state.touched.contains(&true) {
            for key in 0..self.config.keys {
                actions.push(Action::Foreign { key, content: [0, 0] });
                actions.push(Action::Foreign { key, content: [7, 7] });
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        let done = match action {
            Action::Arrive { .. }
            | Action::LeaseExpires
            | Action::Judge { .. }
            | Action::Claim { .. }
            | Action::Tick
            | Action::Foreign { .. } => self.world_step(&mut state, action),
            _ => self.host_step(&mut state, action),
        };
        done?;
        // The order of requests and of open intents means nothing.
        state.requests.sort_unstable_by_key(|request| request.intent.put);
        state.durable.intents.sort_unstable_by_key(|intent| intent.put);
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always("no durable byte is lost", |_, state: &State| {
                intact(state, &state.durable)
            }),
            Property::always("the owner reads what it wrote", |_, state: &State| {
                state
                    .hosts
                    .iter()
                    .filter(|host| host.epoch == Some(state.epoch))
                    .all(|host| intact(state, &host.view))
            }),
            Property::always(
                "a cold key holds what the index says",
                |model: &Self, state: &State| {
                    (0..model.config.keys).all(|key| {
                        state.durable.open_on(key).next().is_some()
                            || state.touched[key as usize]
                            || state.durable.rest[key as usize] == state.store[key as usize]
                    })
                },
            ),
            Property::always("every request was announced", |_, state: &State| {
                !state.wrong.unannounced
            }),
            Property::always("a fenced host gets no fsync acknowledged", |_, state: &State| {
                !state.wrong.fenced_ack
            }),
            Property::always("nothing is adopted without our put-id", |_, state: &State| {
                !state.wrong.adopted
            }),
            Property::always("an epoch has one owner", |_, state: &State| {
                state.hosts.iter().filter(|host| host.epoch == Some(state.epoch)).count() <= 1
            }),
            Property::always("only a holder judged free is fenced", |_, state: &State| {
                !state.wrong.robbed
            }),
        ];
        if self.config.conditions {
            properties.push(Property::always(
                "a condition protects other people's bytes",
                |_, state: &State| !state.wrong.trampled,
            ));
        }
        properties
    }
}
