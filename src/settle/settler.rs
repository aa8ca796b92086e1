//! The task that settles one volume.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio_util::sync::CancellationToken;

use super::beside::Beside;
use super::churn::Churning;
use super::compose::Composing;
use super::copies::Copies;
use super::hot::{Hot, time_left};
use super::kept::Kept;
use super::lanes::Lanes;
use super::plan::Plan;
use super::reach::Reach;
use super::round::SEND_TIMEOUT;
use super::schedule::Schedule;
use super::tags::TagSight;
use super::{KEYS_OF_A_LANE, LONGEST_PAUSE, Manner, SettleError, Settler, TIDY, round_size};
use crate::clock::{Deadline, boottime};
use crate::config::{SettleMode, Tuned};
use crate::data::{PathMemo, Volume};
use crate::fault::Mutant;
use crate::meta::records::{ContentRec, IntentRec, WorkRec, decode};
use crate::meta::{MetaError, Pages, keys};
use crate::types::{FileKind, Ino};

/// Says whether this host may publish now: its lease was confirmed recently enough.
pub trait Permit: std::fmt::Debug + Send + Sync + 'static {
    fn may_publish(&self) -> bool;

    /// Counts the times in between when it could not: after each of them another host may have had the volume.
    fn lapses(&self) -> u64 {
        0
    }
}

/// Rows of the queue that are read at a time, and how many inodes are scheduled before no more are.
const BACKLOG: usize = 4000;
const SCHEDULED: usize = 20_000;

/// How often a volume that is given up tries again what was interrupted.
const RETRIES: u32 = 3;

/// Between two pages of the queue: others want the engine, too.
const BETWEEN_PAGES: Duration = Duration::from_millis(5);
/// What changed is looked at this long after the first of it, or sooner where it settles sooner.
const GATHER: Duration = Duration::from_millis(50);
/// Files whose sizes are added up for the last words of a mount.
const MOST_SIZED: usize = 1000;
/// How long a round that has no more time gets to record what it knows.
const RECORD: Duration = Duration::from_millis(500);
/// Programs that wait all the time do not keep what they write from resting: what is due for so long goes as fast as
/// it can.
const LATE: Duration = Duration::from_secs(60);
/// A wait for the engine is no work.
const LONGEST_REST: Duration = Duration::from_millis(20);
/// How long the status waits for the engine.
const STATUS: Duration = Duration::from_millis(300);

/// What becomes of names whose last request may still arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Late {
    Awaited,
    /// They stay as they are.
    Left,
}

/// What is committed and not at rest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unsettled {
    /// Files and directories, and names whose objects are to be deleted.
    pub files: u64,
    /// What the files hold; `None` when they were too many to look at.
    pub bytes: Option<u64>,
}

/// Numbers for the status.
#[derive(Debug, Clone, Default)]
pub struct SettleStatus {
    pub unsettled: u64,
    pub open_intents: u64,
    pub unsettleable: Vec<String>,
    pub conflicts: u64,
    /// Rights without which something is left out.
    pub missing_rights: Vec<String>,
    /// How objects whose names are gone are deleted in this bucket.
    pub deletions: &'static str,
}

impl Settler {
    /// Loads the open intents and the queue of work.
    pub async fn open(
        volume: Arc<Volume>,
        permit: Arc<dyn Permit>,
        host: String,
    ) -> Result<Arc<Self>, SettleError> {
        // Files that never settle stay queued; what else waits among them settles when it is used.
        let queue = Pages::new(volume.meta.queued(keys::WORK), BACKLOG);
        let backlog = (volume.options.settle != SettleMode::Never).then_some(queue);
        let settler = Arc::new_cyclic(|this| Settler {
            volume,
            permit,
            hot: Hot::default(),
            schedule: Schedule::default(),
            backlog: AsyncMutex::new(backlog),
            pace: Mutex::default(),
            churning: Churning::default(),
            unsettleable: Mutex::default(),
            conflicts: watch::Sender::new(0),
            seen_waiting: AsyncMutex::default(),
            tags: TagSight::default(),
            copies: Copies::default(),
            composing: Composing::default(),
            kept: Kept::default(),
            beside: Beside::default(),
            this: Weak::clone(this),
            reach: Reach::default(),
            lanes: Lanes::default(),
            tombs_swept: Mutex::new(None),
            hurried: AtomicBool::new(false),
            interrupted: AtomicBool::new(false),
            one_round: AsyncMutex::new(()),
            at_its_end: CancellationToken::new(),
            out_of_time: CancellationToken::new(),
            sends_nothing: AtomicBool::new(false),
            host,
            reconciler: std::sync::OnceLock::new(),
        });
        settler.load_intents().await?;
        settler.schedule.by(TIDY, boottime() + settler.volume.tuned().settle_after);
        Ok(settler)
    }

    /// Schedules some more of the work that an earlier run left. False when that was all: a mount does
    /// not wait for it, however much there is.
    pub(super) async fn take_backlog(&self) -> Result<bool, SettleError> {
        let mut backlog = self.backlog.lock().await;
        let Some(pages) = backlog.as_mut() else { return Ok(false) };
        let engine = &self.volume.meta.engine;
        let Some(page) = pages.next(engine).await.map_err(MetaError::from)? else {
            *backlog = None;
            return Ok(false);
        };
        let wait = if self.hurried() { Duration::ZERO } else { self.volume.tuned().settle_after };
        let at = boottime() + wait;
        for ino in page.iter().filter_map(|(key, _)| keys::parse_ino(key)) {
            self.schedule.by(ino, at);
        }
        Ok(true)
    }

    async fn load_intents(&self) -> Result<(), SettleError> {
        let found = self.volume.meta.scan(keys::below(keys::INTENT, &[]), 1 << 20).await?;
        if found.is_empty() || Mutant::OpenIntentsForgotten.lives() {
            return Ok(());
        }
        let loaded = boottime();
        let now = match self.volume.store.now(SEND_TIMEOUT).await {
            Ok(now) => Some(now),
            Err(error) => {
                tracing::warn!(%error, "the store does not give its time; requests of an earlier run get their whole waiting time");
                None
            }
        };
        for (key, value) in found {
            let intent: IntentRec = decode(&value)?;
            let Some(put_id) = keys::parse_id(&key).map(crate::types::PutId) else { continue };
            let left = now.map_or(self.hot_time(), |now| {
                time_left(&self.volume.capabilities, intent.not_after, now)
            });
            self.hot.ambiguous(&intent.key, intent.ino, put_id, loaded + left);
        }
        tracing::info!(intents = self.hot.len(), "requests of an earlier run have no outcome yet");
        Ok(())
    }

    /// Runs until cancelled. A failed round waits and is tried again.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut pause = Duration::from_millis(200);
        loop {
            let next = match self.step_while(|| !stop.is_cancelled()).await {
                Ok(()) => {
                    pause = Duration::from_millis(200);
                    self.next_wake().await
                }
                Err(error) => {
                    self.volume.note_error(&error);
                    tracing::warn!(error = &error as &dyn std::error::Error, "settling waits");
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    Some(pause)
                }
            };
            let sleep = async {
                match next {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.volume.settle_wanted.notified() => self.gather(&stop).await,
                () = sleep => {}
            }
            if stop.is_cancelled() {
                return;
            }
        }
    }

    /// Lets more come before it is looked at: each change wants it, and a look for each would cost more than the change.
    async fn gather(&self, stop: &CancellationToken) {
        let more = tokio::time::sleep(self.volume.tuned().settle_after.min(GATHER));
        tokio::select! {
            () = stop.cancelled() => {}
            () = more => {}
        }
    }

    /// Whether enough is scheduled for now. What has to wait for longer does not count: it may be very much.
    pub(super) fn is_crowded(&self) -> bool {
        let soon = boottime() + self.volume.tuned().settle_after;
        self.schedule.has_until(soon, SCHEDULED)
    }

    async fn next_wake(&self) -> Option<Duration> {
        if !self.is_crowded() && self.backlog.lock().await.is_some() {
            return Some(BETWEEN_PAGES);
        }
        let now = boottime();
        let next = [self.schedule.next(), self.hot.ripe(now).1].into_iter().flatten().min()?;
        Some(next.saturating_sub(now).max(Duration::from_millis(5)))
    }

    /// Settles what can be settled until `deadline`, and waits for requests that may still arrive where names
    /// wait for them; returns how many inodes are left, roughly when the engine does not say.
    pub async fn settle_all(self: &Arc<Self>, deadline: Deadline) -> Result<u64, SettleError> {
        self.settle_hurried(deadline, Late::Awaited).await
    }

    /// As [`settle_all`](Self::settle_all), but leaves those names to the next owner.
    pub async fn settle_now(self: &Arc<Self>, deadline: Deadline) -> Result<u64, SettleError> {
        self.settle_hurried(deadline, Late::Left).await
    }

    /// Whether requests are open that may still arrive, and can be decided later.
    pub fn has_late(&self) -> bool {
        self.hot.ripens(boottime()).is_some()
    }

    /// The volume's options changed; what waits by the old ones waits no longer than by the new ones.
    pub fn retuned(&self, old: Tuned) {
        let new = self.volume.tuned();
        if new.settle_after < old.settle_after {
            self.schedule.all_by(boottime() + new.settle_after);
            self.volume.settle_wanted.notify_one();
        }
        let reconciler = self.reconciler.get().and_then(std::sync::Weak::upgrade);
        if let Some(reconciler) = reconciler.filter(|_| new.refresh < old.refresh) {
            reconciler.doubts_all();
        }
    }

    async fn settle_hurried(
        self: &Arc<Self>,
        deadline: Deadline,
        late: Late,
    ) -> Result<u64, SettleError> {
        self.hurried.store(true, Ordering::SeqCst);
        // A round that is under way is in a task of its own, and goes on.
        let limit = deadline.left() + STATUS;
        let result = tokio::time::timeout(limit, self.settle_until(deadline, late)).await;
        self.hurried.store(false, Ordering::SeqCst);
        result.unwrap_or_else(|_| Ok(self.unsettled()))
    }

    /// Whether the round that is under way is to end with the requests that it has sent so far.
    pub fn cut_short(&self, cut: bool) {
        self.sends_nothing.store(cut, Ordering::SeqCst);
    }

    pub(super) fn may_send(&self) -> bool {
        !self.is_held_back() && self.permit.may_publish()
    }

    /// Whether nothing more is sent, whatever this host may do.
    pub(super) fn is_held_back(&self) -> bool {
        self.sends_nothing.load(Ordering::SeqCst) || self.at_its_end.is_cancelled()
    }

    /// No round begins any more. One that is under way sends nothing more, and gets until the deadline for
    /// the answers to what it has sent; then it is recorded which requests are open, and that no other is.
    pub async fn rest(&self, deadline: Deadline) {
        self.at_its_end.cancel();
        if tokio::time::timeout(deadline.left(), self.one_round.lock()).await.is_err() {
            self.out_of_time.cancel();
            // Whatever is not recorded by then waits for the next owner, as after a crash.
            drop(tokio::time::timeout(RECORD, self.one_round.lock()).await);
        }
        self.beside_ends(deadline).await;
        self.drop_kept(deadline).await;
    }

    async fn settle_until(
        self: &Arc<Self>,
        deadline: Deadline,
        late: Late,
    ) -> Result<u64, SettleError> {
        let mut retries = RETRIES;
        loop {
            self.take_queue();
            let before = self.unsettled();
            self.schedule.all_by(boottime());
            // In a task of its own: a round that was cut off between announcing and resolving would
            // leave requests that nobody in this process remembers.
            let this = Arc::clone(self);
            let in_time = move || !deadline.passed();
            let step = tokio::spawn(async move { this.step_while(in_time).await });
            match tokio::time::timeout(deadline.left(), step).await {
                Ok(Ok(result)) => result?,
                Ok(Err(panicked)) => {
                    tracing::error!(%panicked, "settling panicked");
                    return Ok(self.unsettled());
                }
                Err(_) => return Ok(self.unsettled()),
            }
            let now = self.unsettled();
            let again = self.interrupted.swap(false, Ordering::SeqCst) && retries > 0;
            retries -= u32::from(again);
            let stuck = now == before
                && !self.take_queue()
                && !again
                && !self.beside_ends(deadline).await
                && !self.ripens(deadline, late).await;
            if now == 0 || stuck || deadline.passed() || self.at_its_end.is_cancelled() {
                return Ok(now);
            }
        }
    }

    /// Waits until an open request can be decided; `false`, at once, when none can before `deadline`:
    /// then waiting longer would not help.
    async fn ripens(&self, deadline: Deadline, late: Late) -> bool {
        let now = boottime();
        if !self.hot.ripe(now).0.is_empty() {
            return true;
        }
        if late == Late::Left {
            return false;
        }
        let Some(wait) =
            self.hot.ripens(now).map(|at| at - now).filter(|wait| *wait < deadline.left())
        else {
            return false;
        };
        tracing::info!(?wait, "waiting for requests that may still arrive");
        tokio::select! {
            () = tokio::time::sleep(wait) => true,
            () = self.at_its_end.cancelled() => false,
        }
    }

    /// Inodes with work, and keys to tidy.
    fn unsettled(&self) -> u64 {
        let counters = self.volume.meta.superblock();
        counters.work + counters.tidy
    }

    /// What is not at rest, with its size.
    pub async fn left(&self) -> Result<Unsettled, SettleError> {
        let files = self.unsettled();
        let work = self.volume.meta.scan(keys::below(keys::WORK, &[]), MOST_SIZED + 1).await?;
        if work.len() > MOST_SIZED {
            return Ok(Unsettled { files, bytes: None });
        }
        let mut bytes = 0;
        for ino in work.iter().filter_map(|(key, _)| keys::parse_ino(key)) {
            let content = self.volume.meta.get_raw(&keys::content(ino)).await?;
            bytes += match content {
                Some(content) => decode::<ContentRec>(&content)?.size,
                None => 0,
            };
        }
        Ok(Unsettled { files, bytes: Some(bytes) })
    }

    /// Follows how many files were kept twice, because they were changed here and in the bucket.
    pub fn conflicts(&self) -> watch::Receiver<u64> {
        self.conflicts.subscribe()
    }

    pub fn status(&self) -> SettleStatus {
        let missing = [self.tags.missing_right(), self.copies.missing_right()];
        SettleStatus {
            unsettled: self.unsettled(),
            open_intents: self.hot.len() as u64,
            unsettleable: self.unsettleable.lock().some(3),
            conflicts: *self.conflicts.borrow(),
            missing_rights: missing.into_iter().flatten().collect(),
            deletions: self.deletions(),
        }
    }

    /// Whether what is done now is in somebody's way.
    pub(super) fn programs_wait(&self) -> bool {
        let late = || self.schedule.next().is_some_and(|at| boottime().saturating_sub(at) > LATE);
        !self.hurried() && self.volume.programs.wait() && !late()
    }

    /// How a round is settled that begins now.
    pub(super) fn manner(&self) -> Manner {
        let beside = self.programs_wait();
        let most = if beside { self.lanes.width(true) * KEYS_OF_A_LANE } else { usize::MAX };
        Manner { beside, keys: round_size().min(most) }
    }

    /// Rests as long as it worked while programs wait: they have one of two moments for themselves.
    pub(super) async fn leaves_room(&self, worked: Duration) {
        if self.programs_wait() {
            tokio::select! {
                () = tokio::time::sleep(worked.min(LONGEST_REST)) => {}
                () = self.at_its_end.cancelled() => {}
            }
        }
    }

    pub(super) fn hurried(&self) -> bool {
        self.hurried.load(Ordering::SeqCst)
    }

    /// Schedules what changed; whether anything did.
    pub(super) fn take_queue(&self) -> bool {
        let soon = boottime() + self.volume.tuned().settle_after;
        let queue = self.volume.take_settle_queue();
        let any = !queue.is_empty();
        let never = self.volume.options.settle == SettleMode::Never;
        for ino in queue {
            let file = || {
                let inode = self.volume.inodes.get(ino);
                inode.is_some_and(|inode| inode.live().attr.kind == FileKind::File)
            };
            if !(never && file()) {
                self.schedule.by(ino, soon);
            }
        }
        any
    }

    pub(super) fn cannot_settle(&self, ino: Ino, error: &SettleError) -> Plan {
        self.volume.note_error(error);
        if self.unsettleable.lock().insert(ino, &error.to_string()) {
            tracing::error!(%ino, error = error as &dyn std::error::Error, "a file cannot settle");
        }
        Plan::Later(LONGEST_PAUSE)
    }

    /// Takes an inode off the queue if it really needs nothing, judged under the sequencer.
    pub(super) async fn work_done(&self, ino: Ino) -> Result<(), SettleError> {
        let mut txn = self.volume.meta.begin().await?;
        let Some(_) = txn.get::<WorkRec>(&keys::work(ino)).await? else { return Ok(()) };
        let mut memo = PathMemo::default();
        if !self.at_rest(&txn, ino, &mut memo).await? {
            drop(txn);
            self.schedule.by(ino, boottime() + Duration::from_millis(100));
            return Ok(());
        }
        txn.delete(keys::work(ino));
        self.tidy_strays(&mut txn, ino, &mut memo).await?;
        self.schedule.by(TIDY, boottime());
        txn.commit(crate::meta::Logged::Op { unique: 0 }, || {}).await?;
        Ok(())
    }

    /// How long a request may still arrive after its own expiry: clocks at the store's front ends and
    /// a body under way. Where a store ignores expiry, only time helps.
    pub(super) fn hot_time(&self) -> Duration {
        super::hot::hot_time(&self.volume.capabilities)
    }
}
