//! The model's size, its mutants, its properties, and the steps of the world: the network, the
//! store, the clock, other people, and who owns the volume. What a host does is in `host`.

use std::sync::atomic::{AtomicU32, Ordering};

use stateright::{Model, Property};

use crate::state::{
    Base, Content, FOREIGN, Host, Index, Inode, Intent, Object, Op, State, Wrong, intact,
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
    /// A LIST is believed although we published since it was sent.
    StaleList,
    /// The engine accepts batches of an old epoch.
    NoFence,
    /// The claim does not name the epoch that was judged free.
    BlindClaim,
    /// The claim makes an epoch of its own count: the judged one plus one.
    OwnCounter,
    /// A refusal counts as the store's, although something in between said it.
    TrustProxy,
    /// A key that the answer to a group of deletions does not name counts as deleted.
    TrustSilence,
}

/// How a store takes the condition of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conditions {
    /// Without a word.
    Ignored,
    /// By ETag, a hash of the content: an equal object that was written later fits too.
    Etag,
    /// By a version that no two writes share.
    Version,
}

/// How large the model is, and what the store can do.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    pub conditions: Conditions,
    /// Whether the store refuses a request after `not_after`.
    pub expiry: bool,
    /// Ticks of the store's clock from the announcement until the key is cold. With two the first
    /// is `not_after` and the second the margin in which a request that was let in still lands.
    pub heat: u8,
    pub keys: u8,
    pub inodes: u8,
    pub writes: u8,
    pub puts: u8,
    pub renames: u8,
    pub takeovers: u8,
    pub pending: u8,
    pub namespace: bool,
    pub foreign: bool,
    /// Outside changes are found by LIST, whose answer may be old, instead of by HEAD.
    pub list: bool,
    pub truncate: bool,
    /// Attributes change at rest, too: the object is copied onto itself.
    pub attributes: bool,
    /// A crash, and a host that was fenced and does not know it, are states of their own. Without
    /// it a takeover stands for both: neither can do anything that others see.
    pub stale: bool,
    /// The store refuses requests for other reasons than their conditions.
    pub rejects: bool,
    /// Deletions are parts of groups, whose answers need not name them.
    pub groups: bool,
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
    pub rejected: AtomicU32,
    pub unnamed: AtomicU32,
    pub copied: AtomicU32,
    pub deleted: AtomicU32,
    pub parked: AtomicU32,
    pub stranded: AtomicU32,
    pub conflict: AtomicU32,
    pub trampled: AtomicU32,
    pub spoiled: AtomicU32,
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
    Write {
        host: usize,
        inode: u8,
        block: usize,
    },
    Truncate {
        host: usize,
        inode: u8,
    },
    Create {
        host: usize,
        name: u8,
    },
    Unlink {
        host: usize,
        name: u8,
    },
    Rename {
        host: usize,
        from: u8,
    },
    AnnouncePut {
        host: usize,
        name: u8,
    },
    AnnounceCopy {
        host: usize,
        name: u8,
    },
    AnnounceDelete {
        host: usize,
        key: u8,
    },
    Park {
        host: usize,
        inode: u8,
    },
    Flush {
        host: usize,
    },
    Arrive {
        put: u8,
        answered: bool,
    },
    Reject {
        put: u8,
    },
    /// The answer to its group does not name it, whether the store is still at it or not.
    Unnamed {
        put: u8,
    },
    Resolve {
        host: usize,
        put: u8,
    },
    List {
        host: usize,
    },
    Reconcile {
        host: usize,
        key: u8,
    },
    Crash {
        host: usize,
    },
    LeaseExpires,
    Judge {
        host: usize,
    },
    Claim {
        host: usize,
    },
    Tick,
    Foreign {
        key: u8,
        content: Content,
    },
}

pub fn bit(number: u8) -> u8 {
    1 << number
}

pub fn note(counter: &AtomicU32) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Publish {
    pub fn new(config: Config) -> Self {
        Self { config, seen: Seen::default() }
    }

    pub fn mutant(&self, mutant: Mutant) -> bool {
        self.config.mutant == Some(mutant)
    }

    /// Whether the object that lies there meets a condition for another one.
    fn fits(&self, lies: Option<Object>, expected: Option<Object>) -> bool {
        match self.config.conditions {
            Conditions::Ignored => true,
            Conditions::Etag => lies.map(|o| o.content) == expected.map(|o| o.content),
            Conditions::Version => lies == expected,
        }
    }

    /// One request reaches the store. Gives back whether the store did it.
    fn serve(&self, state: &mut State, intent: &Intent) -> bool {
        let lies = state.store[intent.key as usize];
        if !self.fits(lies, intent.expected) {
            return false;
        }
        let after = match intent.op {
            Op::Put(content) => Some(Object { content, put: intent.put }),
            Op::Delete => None,
            Op::Copy { from, source } => match state.store[from as usize] {
                Some(found) if self.fits(Some(found), Some(source)) => {
                    Some(Object { content: found.content, put: intent.put })
                }
                Some(_) | None => return false,
            },
        };
        let known = intent.expected.map(|object| object.content);
        if lies.is_some_and(|o| o.put == FOREIGN && Some(o.content) != known) {
            note(&self.seen.trampled);
            // Nothing can keep a store without conditions from it.
            state.wrong.trampled |= self.config.conditions != Conditions::Ignored;
        }
        state.store[intent.key as usize] = after;
        true
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
                host.listed = None;
                host.spoiled = false;
            }
        }
        state.hosts[at] =
            Host { epoch: Some(state.epoch), view: state.durable.clone(), ..Host::default() };
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
            Action::Reject { put } => {
                let at = state.requests.iter().position(|r| r.intent.put == put)?;
                let intent = match self.mutant(Mutant::TrustProxy) {
                    true => state.requests[at].intent,
                    false => state.requests.remove(at).intent,
                };
                if intent.epoch != state.epoch {
                    return None;
                }
                note(&self.seen.rejected);
                let sender = state.hosts.iter_mut().find(|h| h.epoch == Some(intent.epoch))?;
                sender.refused |= bit(put);
            }
            Action::Unnamed { put } => {
                let epoch = state.requests.iter().find(|r| r.intent.put == put)?.intent.epoch;
                note(&self.seen.unnamed);
                if self.mutant(Mutant::TrustSilence) {
                    let sender = state.hosts.iter_mut().find(|h| h.epoch == Some(epoch))?;
                    sender.applied |= bit(put);
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
            if self.config.rejects {
                actions.push(Action::Reject { put: request.intent.put });
            }
            if self.config.groups && request.intent.op == Op::Delete {
                actions.push(Action::Unnamed { put: request.intent.put });
            }
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
            | Action::Reject { .. }
            | Action::Unnamed { .. }
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
        vec![
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
            Property::always("a condition protects other people's bytes", |_, state: &State| {
                !state.wrong.trampled
            }),
            Property::always("our own publish is no outside change", |_, state: &State| {
                !state.wrong.misjudged
            }),
        ]
    }
}
