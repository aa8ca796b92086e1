//! What a state of the model is made of: the store, the engine's durable index, the hosts, the
//! requests on their way.
//!
//! Files have two blocks. A block holds the number of the write that filled it, 0 when never
//! written, so lost bytes always show. An ETag is the content itself: equal bytes, equal ETag.

/// Two blocks of a file.
pub type Content = [u8; 2];

/// The put-id of every object that somebody else wrote.
pub const FOREIGN: u8 = u8::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Object {
    pub content: Content,
    pub put: u8,
}

/// Where the bytes lie that no extent covers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Base {
    #[default]
    Zeros,
    At {
        key: u8,
        put: u8,
    },
    /// A copy under a name that nobody ever uses again, so it cannot change.
    Parked(Content),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Extent {
    pub value: u8,
    pub generation: u8,
}

/// An inode's content record and its extents. An inode without a name is `Inode::default()`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Inode {
    pub live: bool,
    pub generation: u8,
    pub base: Base,
    pub extents: [Option<Extent>; 2],
    /// The base limit: the generation of a truncation that hides the base's second block.
    pub cut: Option<u8>,
    /// What the file must read as. No rule of the protocol looks at it.
    pub truth: Content,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    Put(Content),
    /// `source` is what the index knows of the object to copy.
    Copy {
        from: u8,
        source: Object,
    },
    Delete,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Intent {
    pub put: u8,
    pub epoch: u8,
    pub key: u8,
    pub op: Op,
    pub inode: u8,
    pub generation: u8,
    /// The inode's base when the intent was announced: the resolution moves only this one.
    pub over: Base,
    /// What the condition asks for: this object, or none at all.
    pub expected: Option<Object>,
    /// Ticks until the key is cold.
    pub heat: u8,
}

/// The namespace as the engine holds it. Names and keys correspond one to one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Index {
    pub names: [Option<u8>; 2],
    pub inodes: [Inode; 2],
    /// What lies at each key as far as the index knows.
    pub rest: [Option<Object>; 2],
    /// Keys whose object belongs to somebody else.
    pub theirs: [bool; 2],
    pub intents: Vec<Intent>,
}

impl Index {
    pub fn open_on(&self, key: u8) -> impl Iterator<Item = &Intent> {
        self.intents.iter().filter(move |intent| intent.key == key)
    }

    pub fn intent(&self, put: u8) -> Option<&Intent> {
        self.intents.iter().find(|intent| intent.put == put)
    }

    /// Whether a live inode other than `except` needs the object at this key.
    pub fn base_of_another(&self, key: u8, except: Option<u8>) -> bool {
        self.inodes.iter().enumerate().any(|(ino, inode)| {
            inode.live
                && Some(ino as u8) != except
                && matches!(inode.base, Base::At { key: at, .. } if at == key)
        })
    }

    /// Takes the name away; nobody else holds the inode, so it goes too.
    pub fn unlink(&mut self, name: u8) {
        if let Some(ino) = self.names[name as usize].take() {
            self.inodes[ino as usize] = Inode::default();
        }
    }

    pub fn tick(&mut self) {
        for intent in &mut self.intents {
            intent.heat = intent.heat.saturating_sub(1);
        }
    }
}

/// A process that believes it owns the volume, or does not run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Host {
    /// The epoch it claimed.
    pub epoch: Option<u8>,
    /// The epoch it judged free and is about to claim the successor of.
    pub judged: Option<u8>,
    /// Everything it handed to the engine, durable or not.
    pub view: Index,
    /// Batches handed over and not yet durable.
    pub pending: u8,
    /// Definite answers it got, as bits by put-id.
    pub applied: u8,
    pub refused: u8,
    /// What a LIST showed at key 0.
    pub listed: Option<Option<Object>>,
    /// A publish of ours was open or resolved at that key since the LIST was sent.
    pub spoiled: bool,
}

/// A request on its way. It exists from the instant its intent is durable: one that its host has
/// not sent yet behaves as one that the network holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    pub intent: Intent,
}

/// Set by a step that must never happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Wrong {
    pub unannounced: bool,
    pub fenced_ack: bool,
    pub robbed: bool,
    pub adopted: bool,
    pub trampled: bool,
    pub misjudged: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub store: [Option<Object>; 2],
    /// Keys that somebody else has written to.
    pub touched: [bool; 2],
    pub durable: Index,
    pub epoch: u8,
    pub lease_held: bool,
    /// Segments that were deleted, as bits by write.
    pub segments_gone: u8,
    pub hosts: Vec<Host>,
    pub requests: Vec<Request>,
    /// Budgets, which also number writes and put-ids.
    pub writes: u8,
    pub puts: u8,
    pub inodes: u8,
    pub renames: u8,
    pub wrong: Wrong,
}

/// What a reader gets for one block: the value, or nothing because the object under the base is
/// not one that the index allows.
pub fn read(state: &State, index: &Index, inode: &Inode, block: usize) -> Option<u8> {
    if let Some(extent) = inode.extents[block] {
        return (state.segments_gone & (1 << extent.value) == 0).then_some(extent.value);
    }
    if block == 1 && inode.cut.is_some() {
        return Some(0);
    }
    match inode.base {
        Base::Zeros => Some(0),
        Base::Parked(content) => Some(content[block]),
        Base::At { key, put } => {
            let object = state.store[key as usize]?;
            let ours = object.put == put
                || index.open_on(key).any(|i| i.put == object.put && i.over == inode.base);
            ours.then_some(object.content[block])
        }
    }
}

/// Every live file reads as it must, except where somebody else replaced its base.
pub fn intact(state: &State, index: &Index) -> bool {
    index.inodes.iter().filter(|inode| inode.live).all(|inode| {
        (0..2).all(|block| match read(state, index, inode, block) {
            Some(value) => value == inode.truth[block],
            None => match inode.base {
                Base::At { key, .. } => {
                    inode.extents[block].is_none() && state.touched[key as usize]
                }
                _ => false,
            },
        })
    })
}
