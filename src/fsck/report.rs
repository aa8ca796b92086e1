//! What a check found.

use std::collections::BTreeMap;

use serde::Serialize;

use super::How;
use crate::meta::records::encode;
use crate::types::{ObjectKey, hex};

/// Findings of one kind that are kept with their words; of more only the number is, unless all are asked for.
const NAMED: u64 = 1000;

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The records as a whole.
    Engine,
    /// What leads to the volume: definition, by-prefix entry, `format.json`.
    Catalog,
    Lease,
    /// A record that cannot be read.
    Record,
    /// The volume's own counters.
    Counter,
    /// A name, or the way back from an inode to it.
    Name,
    LinkCount,
    /// An inode that no name leads to, or that is wrongly said to be one.
    Orphan,
    /// What a file is made of.
    Content,
    Extent,
    Segment,
    /// Objects of the state that nothing refers to.
    Garbage,
    /// A row of a queue that leads nowhere.
    Queue,
    /// What is recorded of a key of the bucket.
    Rest,
    /// An object is not what the records say.
    Object,
    /// The same of what its metadata shows.
    Attributes,
}

impl Kind {
    /// As reports name it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Engine => "engine",
            Kind::Catalog => "catalog",
            Kind::Lease => "lease",
            Kind::Record => "record",
            Kind::Counter => "counter",
            Kind::Name => "name",
            Kind::LinkCount => "link-count",
            Kind::Orphan => "orphan",
            Kind::Content => "content",
            Kind::Extent => "extent",
            Kind::Segment => "segment",
            Kind::Garbage => "garbage",
            Kind::Queue => "queue",
            Kind::Rest => "rest",
            Kind::Object => "object",
            Kind::Attributes => "attributes",
        }
    }
}

/// A row to write (`Some`) or to drop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub key: Vec<u8>,
    pub value: Option<Vec<u8>>,
}

impl Change {
    pub(super) fn put<T: Serialize>(key: Vec<u8>, record: &T) -> Self {
        Change { key, value: Some(encode(record)) }
    }

    pub(super) fn mark(key: Vec<u8>) -> Self {
        Change { key, value: Some(Vec::new()) }
    }

    pub(super) fn drop(key: Vec<u8>) -> Self {
        Change { key, value: None }
    }
}

/// What can be done about a finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mend {
    /// Nothing that a program should do; what a person can.
    No(&'static str),
    /// These rows; loses nothing.
    Rows(Vec<Change>),
    /// The same, and what that may lose.
    Ask(&'static str, Vec<Change>),
    /// An object of the state that nothing refers to is deleted.
    Delete(ObjectKey),
    /// The volume looks at the key, as it does by itself when the name is used; what that may lose.
    Look(ObjectKey, Option<&'static str>),
    /// The by-prefix entry is written again.
    Entry,
}

impl Mend {
    /// What has to be agreed to before it is done.
    pub fn question(&self) -> Option<&'static str> {
        match self {
            Mend::Ask(what, _) | Mend::Look(_, Some(what)) => Some(what),
            _ => None,
        }
    }

    fn text(&self) -> &'static str {
        match self {
            Mend::No(cure) => cure,
            Mend::Look(_, None) => "the next look at it takes it over",
            Mend::Ask(what, _) | Mend::Look(_, Some(what)) => what,
            Mend::Rows(_) | Mend::Delete(_) | Mend::Entry => {
                "`--repair` repairs it and loses nothing"
            }
        }
    }
}

/// Whether it still is as it was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Left,
    Mended,
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub kind: Kind,
    /// A path, a key, or a part of the state.
    pub what: String,
    pub detail: String,
    pub outcome: Outcome,
    #[serde(serialize_with = "cure")]
    pub mend: Mend,
}

fn cure<S: serde::Serializer>(mend: &Mend, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(mend.text())
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Finding { kind, what, detail, .. } = self;
        match self.outcome {
            Outcome::Mended => write!(f, "{}: {what}: {detail} (repaired)", kind.name()),
            Outcome::Left => write!(f, "{}: {what}: {detail} ({})", kind.name(), self.mend.text()),
        }
    }
}

/// How much was looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Checked {
    pub inodes: u64,
    pub names: u64,
    pub extents: u64,
    pub segments: u64,
    /// Objects that the records know, and those of others that they do not know yet.
    pub objects: u64,
    pub unseen_objects: u64,
    /// Bytes of content that were read.
    pub bytes_read: u64,
    /// What waits to be done, by queue.
    pub waiting: BTreeMap<&'static str, u64>,
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Somebody wrote the volume meanwhile.
    pub in_use: bool,
    pub not_judged: Vec<String>,
    pub checked: Checked,
    pub findings: Vec<Finding>,
    /// Findings, by kind; more than are named.
    pub counts: BTreeMap<Kind, u64>,
    /// How many of a kind are named.
    #[serde(skip)]
    named: u64,
}

impl Report {
    pub fn of(how: How) -> Self {
        Report {
            in_use: how.in_use,
            named: if how.all { u64::MAX } else { NAMED },
            not_judged: Vec::new(),
            checked: Checked::default(),
            findings: Vec::new(),
            counts: BTreeMap::new(),
        }
    }

    /// Adds a finding.
    pub fn found(
        &mut self,
        kind: Kind,
        what: impl Into<String>,
        detail: impl Into<String>,
        mend: Mend,
    ) {
        let count = self.counts.entry(kind).or_default();
        *count += 1;
        if *count <= self.named {
            let (what, detail) = (what.into(), detail.into());
            self.findings.push(Finding { kind, what, detail, outcome: Outcome::Left, mend });
        }
    }

    /// There are more of a kind, which are not named.
    pub(super) fn unnamed(&mut self, kind: Kind, more: u64) {
        if more > 0 {
            *self.counts.entry(kind).or_default() += more;
        }
    }

    /// Says what this check does not tell.
    pub fn cannot_judge(&mut self, what: impl Into<String>) {
        self.not_judged.push(what.into());
    }

    /// Whether nothing was found.
    pub fn is_clean(&self) -> bool {
        self.counts.is_empty()
    }

    /// How many findings are as they were.
    pub fn left(&self) -> u64 {
        let mended = self.findings.iter().filter(|f| f.outcome == Outcome::Mended).count() as u64;
        self.counts.values().sum::<u64>().saturating_sub(mended)
    }

    /// 0: clean, 1: mended, 4: something is left.
    pub fn exit_code(&self) -> u8 {
        match (self.is_clean(), self.left()) {
            (true, _) => 0,
            (false, 0) => 1,
            (false, _) => 4,
        }
    }

    pub(super) fn waits(&mut self, queue: &'static str) {
        *self.checked.waiting.entry(queue).or_default() += 1;
    }
}

/// At most 32 bytes of a key, for a person.
pub(super) fn short_hex(key: &[u8]) -> String {
    match key.get(..32) {
        Some(first) if key.len() > 32 => format!("{}...", hex(first)),
        _ => hex(key),
    }
}
