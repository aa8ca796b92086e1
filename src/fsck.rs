//! Checking a volume: what its records say against each other and against what lies in the bucket.
//!
//! Reads one durable state of the records ([`View`]) and the objects beside it; changes nothing. What can be
//! mended is said with each finding, as rows to change, and whoever holds the volume may carry it out.
//!
//! Every table is walked in pages, in the order of its keys, beside the tables and listings that have the same
//! order: so the work grows with the volume and the memory does not. What is held at a time is one page of each
//! table, a window of segments ([`segments`]), the open requests, the keys of some directories, and the first
//! findings of each kind. A record that cannot be read is a finding like any other.
//!
//! While somebody else writes the volume its objects are ahead of the records that were read. Then whatever
//! seems wrong with an object is looked at again with newer records, and what cannot be judged is said.

mod content;
mod data;
mod etags;
mod inodes;
mod leases;
mod names;
mod objects;
mod queues;
mod report;
mod rows;
mod segments;
mod shown;
mod unknown;

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Deadline;
use crate::data::{DataError, PathMemo, dir_key};
use crate::lease::LeaseError;
use crate::meta::records::{DirentRec, InodeRec, Row, SuperRec, decode};
use crate::meta::{EngineError, Follower, Lookup, MetaError, View, keys};
use crate::store::{StoreBackend, StoreError};
use crate::types::{Base, Epoch, FileKind, FileName, Ino, KeyPrefix, VolumeId};

pub use report::{Change, Checked, Finding, Kind, Mend, Outcome, Report};

/// One request.
const REQUEST: Duration = Duration::from_secs(30);
/// A newer state of the records.
const NEWER: Duration = Duration::from_secs(60);
/// Requests under way at a time.
const PARALLEL: usize = 64;
/// Paths found before the keys of their directories are forgotten.
const REMEMBERED: usize = 20_000;
/// How often a check begins anew because its writer cleared away what it was reading.
const ATTEMPTS: u32 = 3;
/// Requests at a time for the pieces of one file.
const AT_ONCE: usize = 8;

/// The volume that is checked.
#[derive(Debug)]
pub struct Parts {
    pub id: VolumeId,
    pub store: Arc<dyn StoreBackend>,
    /// Of its objects' keys.
    pub prefix: KeyPrefix,
    pub state_store: Arc<dyn StoreBackend>,
    /// Of its state's keys.
    pub state: KeyPrefix,
    /// Both lie in the same bucket.
    pub one_bucket: bool,
    /// Of the engine's files, below the state.
    pub folder: String,
    /// The engine's writer epoch.
    pub epoch: Epoch,
}

impl Parts {
    /// Where what lies below a file is.
    fn store_of(&self, base: &Base) -> &Arc<dyn StoreBackend> {
        match base.parked {
            true => &self.state_store,
            false => &self.store,
        }
    }
}

/// How it is checked.
#[derive(Debug, Clone, Copy, Default)]
pub struct How {
    /// Reads all content, too.
    pub data: bool,
    /// Somebody writes it meanwhile.
    pub in_use: bool,
    /// Keeps every finding with its words, however many there are.
    pub all: bool,
}

/// Where a check is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub stage: &'static str,
    /// Records, objects or bytes so far.
    pub done: u64,
}

/// Told now and then where a check is.
pub type Watch<'w> = &'w mut (dyn FnMut(Progress) + Send);

/// Why a check did not come to its end. What is wrong with the volume is no error, but a finding.
#[derive(Debug, thiserror::Error)]
pub enum FsckError {
    #[error(transparent)]
    Meta(#[from] MetaError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Lease(#[from] LeaseError),
    #[error(transparent)]
    Data(#[from] DataError),
    /// Nothing is said about the volume.
    #[error(
        "the volume's records were replaced {ATTEMPTS} times while they were read; check it while \
         nothing uses it"
    )]
    Outdated,
}

impl From<EngineError> for FsckError {
    fn from(e: EngineError) -> Self {
        FsckError::Meta(e.into())
    }
}

impl FsckError {
    /// Whether the engine did not find or understand its own files, or the bucket did not answer: it does
    /// not tell these apart.
    fn is_of_the_engine(&self) -> bool {
        match self {
            FsckError::Meta(MetaError::Engine(error))
            | FsckError::Data(DataError::Meta(MetaError::Engine(error))) => {
                !matches!(error, EngineError::Deadline)
            }
            _ => false,
        }
    }
}

/// Checks the newest state that `follower` finds.
///
/// # Errors
/// When the bucket does not answer. A volume whose records cannot be read at all has one finding.
pub async fn check(
    follower: &Follower,
    parts: &Parts,
    how: How,
    watch: Watch<'_>,
) -> Result<Report, FsckError> {
    let mut attempt = 1;
    loop {
        let view = follower.renew(Deadline::after(NEWER)).await;
        let (read, mut check) = match view {
            Ok(view) => (view.manifest(), Check::new(follower, view, parts, how, &mut *watch)),
            Err(error) => return unreadable(error.into(), parts, how).await,
        };
        let done = check.run().await;
        let report = check.report;
        let error = match done {
            Ok(()) => return Ok(report),
            Err(error) => error,
        };
        if !error.is_of_the_engine() {
            return Err(error);
        }
        // A writer's collector knows nothing of us, and somebody may have begun to write meanwhile.
        let newest = match follower.renew(Deadline::after(NEWER)).await {
            Ok(view) => view.manifest(),
            Err(error) => return unreadable(error.into(), parts, how).await,
        };
        if newest == read && !(how.in_use && attempt < ATTEMPTS) {
            return unreadable(error, parts, how).await;
        }
        if attempt == ATTEMPTS {
            return Err(FsckError::Outdated);
        }
        attempt += 1;
    }
}

/// The report on a volume whose records cannot be read, if it is that. Nothing is judged by half of them:
/// what is missing would seem to be wrong elsewhere.
pub async fn unreadable(error: FsckError, parts: &Parts, how: How) -> Result<Report, FsckError> {
    if !error.is_of_the_engine() {
        return Err(error);
    }
    // A bucket that answers does not hold what the engine looked for.
    parts.state_store.head(&parts.state.key("format.json"), REQUEST).await?;
    let mut report = Report::of(how);
    report.found(
        Kind::Engine,
        "the records of the volume",
        format!("cannot be read: {}", causes(&error)),
        Mend::No("`s3vol rebuild` makes new ones from the objects"),
    );
    report.cannot_judge("everything else: the records cannot be read");
    Ok(report)
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

/// One check under way.
struct Check<'c> {
    follower: &'c Follower,
    view: Arc<View>,
    parts: &'c Parts,
    how: How,
    report: Report,
    /// The counters as the rows have them.
    tally: SuperRec,
    memo: PathMemo,
    remembered: usize,
    watch: Watch<'c>,
    stage: &'static str,
    done: u64,
}

impl<'c> Check<'c> {
    fn new(
        follower: &'c Follower,
        view: Arc<View>,
        parts: &'c Parts,
        how: How,
        watch: Watch<'c>,
    ) -> Self {
        Check {
            follower,
            view,
            parts,
            how,
            report: Report::of(how),
            tally: SuperRec::default(),
            memo: PathMemo::default(),
            remembered: 0,
            watch,
            stage: "",
            done: 0,
        }
    }

    async fn run(&mut self) -> Result<(), FsckError> {
        self.leases().await?;
        if !self.log_is_whole().await? {
            return Ok(());
        }
        let intents = self.queues().await?;
        self.inodes(&intents).await?;
        self.counters().await?;
        self.segments().await?;
        self.objects(&intents).await?;
        if self.how.data {
            self.data().await?;
        }
        Ok(())
    }

    fn begin(&mut self, stage: &'static str) {
        (self.stage, self.done) = (stage, 0);
        (self.watch)(Progress { stage, done: 0 });
    }

    fn went_on(&mut self, by: u64) {
        let before = self.done;
        self.done += by;
        if before / 1000 != self.done / 1000 {
            (self.watch)(Progress { stage: self.stage, done: self.done });
        }
    }

    /// The record at a key: `None` when there is none, `Some(None)` when it cannot be read.
    async fn get<T: Row>(&self, key: &[u8]) -> Result<Option<Option<T>>, FsckError> {
        let value = Lookup::get_raw(&*self.view, key).await?;
        Ok(value.map(|value| decode(&value).ok()))
    }

    /// The first rows of a range.
    async fn first(
        &self,
        range: keys::Range,
        most: usize,
    ) -> Result<Vec<(bytes::Bytes, bytes::Bytes)>, FsckError> {
        Ok(Lookup::scan(&*self.view, range, most).await?)
    }

    async fn has(&self, key: &[u8]) -> Result<bool, FsckError> {
        Ok(Lookup::get_raw(&*self.view, key).await?.is_some())
    }

    /// The newest state that can be had.
    async fn newest(&self) -> Result<Arc<View>, FsckError> {
        Ok(self.follower.poll(Deadline::after(NEWER)).await?)
    }

    async fn inode(&self, ino: Ino) -> Result<Option<InodeRec>, FsckError> {
        Ok(self.get(&keys::inode(ino)).await?.flatten())
    }

    async fn dirent(&self, dir: Ino, name: &FileName) -> Result<Option<DirentRec>, FsckError> {
        Ok(self.get(&keys::dirent(dir, name)).await?.flatten())
    }

    /// The key of a directory, or `None` when it hangs on nothing, itself included.
    async fn dir_key(&mut self, dir: Ino) -> Result<Option<String>, FsckError> {
        self.remembered += 1;
        if self.remembered > REMEMBERED {
            (self.memo, self.remembered) = (PathMemo::default(), 0);
        }
        match dir_key(&*self.view, &self.parts.prefix, dir, &mut self.memo).await {
            Ok(key) => Ok(key),
            Err(DataError::Damaged(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What to call an inode: one of its paths where it has one.
    async fn called(&mut self, ino: Ino) -> Result<String, FsckError> {
        if ino == Ino::ROOT {
            return Ok("/".to_owned());
        }
        let page = self.first(keys::of_inode(keys::PARENT, ino), 1).await?;
        match page.first().and_then(|(key, _)| keys::parse_parent(key)) {
            Some((parent, name)) => self.called_in(parent, &name).await,
            None => Ok(format!("inode {ino}")),
        }
    }

    async fn called_in(&mut self, dir: Ino, name: &FileName) -> Result<String, FsckError> {
        let prefix = self.parts.prefix.as_str().len();
        Ok(match self.dir_key(dir).await? {
            Some(key) => format!("/{}{name}", key.get(prefix..).unwrap_or_default()),
            None => format!("{name} in inode {dir}"),
        })
    }

    async fn counters(&mut self) -> Result<(), FsckError> {
        let counted = std::mem::take(&mut self.tally);
        let said = self.get::<SuperRec>(&keys::superblock()).await?;
        let right = SuperRec {
            next_ino: counted.next_ino.max(said.clone().flatten().map_or(0, |s| s.next_ino)),
            ..counted
        };
        let detail = match &said {
            None if right.inodes == 0 => return Ok(()),
            None => "are missing".to_owned(),
            Some(None) => "cannot be read".to_owned(),
            Some(Some(said)) if *said == right => return Ok(()),
            Some(Some(said)) => differences(said, &right),
        };
        let mend = Mend::Rows(vec![Change::put(keys::superblock(), &right)]);
        self.report.found(Kind::Counter, "the volume's counters", detail, mend);
        Ok(())
    }
}

fn differences(said: &SuperRec, right: &SuperRec) -> String {
    let pairs = [
        ("the next inode", said.next_ino, right.next_ino),
        ("bytes", said.bytes, right.bytes),
        ("inodes", said.inodes, right.inodes),
        ("extents", said.extents, right.extents),
        ("inodes to settle", said.work, right.work),
        ("keys to tidy", said.tidy, right.tidy),
    ];
    let wrong = pairs.iter().filter(|(_, said, right)| said != right);
    let texts: Vec<String> = wrong
        .map(|(what, said, right)| format!("{what}: {said} recorded, {right} counted"))
        .collect();
    texts.join("; ")
}

/// The record of an inode that lost it: what its object says is read again when it is asked for.
fn made_anew(kind: FileKind, nlink: u32, attr_gen: u64) -> InodeRec {
    let perm = if kind == FileKind::Dir { 0o755 } else { 0o644 };
    InodeRec { nlink, attr_gen, known: false, ..InodeRec::new(kind, perm, crate::clock::now()) }
}
