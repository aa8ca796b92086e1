//! Outside changes: what other tools put, replace or delete appears in the tree when it is looked at.
//!
//! Invariants: what a listing says counts only for keys that no request of ours touched since the
//! listing was *sent*; a missing key is confirmed by HEAD before its inode goes; every change is
//! validated again under the sequencer, and waits while this host's lease is not confirmed. Knowledge of
//! directories is in memory only: after a mount it is made anew on first use. A directory is listed and applied
//! a page at a time, and what was not listed yet is looked for by its name; only the end of a listing tells what
//! is missing.

mod ahead;
mod apply;
mod away;
mod changes;
mod heads;
mod listing;
mod missing;
mod rows;
mod shown;
mod tombs;
mod whole;
mod wipe;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;

use super::{SettleError, Settler};
use crate::clock::boottime;
use crate::data::{DataError, Outside, Tx, Volume};
use crate::fault::Mutant;
use crate::types::{FileName, Ino, ObjectKey};
use away::Away;
use changes::Telling;
pub use changes::{Changed, Changes, Tell, changes};
use listing::Walk;
pub use whole::TakenIn;

/// When the bucket cannot be asked, what is known serves, and it is asked again after this.
const RETRY_PAUSE: Duration = Duration::from_secs(5);
/// Waiting for a listing or a HEAD on the path of a user's call.
const USE_TIMEOUT: Duration = Duration::from_secs(10);
/// And for all that one such call needs. What is left of a large directory comes with the next one.
const LOOK_TIMEOUT: Duration = Duration::from_secs(120);

/// What is known of one directory's keys.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    /// What is known serves until then.
    until: Duration,
    /// Requests that its listing took, or took so far.
    pages: u32,
    /// All its names were seen once.
    listed: bool,
}

/// Brings the bucket's view into the tree, on use.
#[derive(Debug)]
pub struct Reconciler {
    pub(super) volume: Arc<Volume>,
    pub(super) settler: Arc<Settler>,
    known: Mutex<HashMap<Ino, Known>>,
    /// Names looked at one by one in directories too large to list for a lookup.
    names: Mutex<HashMap<(Ino, FileName), Duration>>,
    /// Directories that a listing showed by the keys below them, and where.
    prefixes: Mutex<HashMap<Ino, ObjectKey>>,
    /// Held by whoever looks at the bucket, for a page or a name. In it are the listings under way: whoever
    /// needs one goes on with it, and whoever needs something else comes in between.
    one_at_a_time: tokio::sync::Mutex<HashMap<Ino, Walk>>,
    /// The lapses of the lease after which the volume was proven to be ours.
    proven: AtomicU64,
    tell: Tell,
    away: Away,
    ahead: ahead::Ahead,
    this: Weak<Reconciler>,
}

impl Reconciler {
    /// `tell` gets what the kernel has to forget.
    pub fn new(settler: Arc<Settler>, tell: Tell) -> Arc<Self> {
        let reconciler = Arc::new_cyclic(|this| Reconciler {
            volume: Arc::clone(&settler.volume),
            settler,
            known: Mutex::default(),
            names: Mutex::default(),
            prefixes: Mutex::default(),
            one_at_a_time: tokio::sync::Mutex::default(),
            proven: AtomicU64::new(0),
            tell,
            away: Away::default(),
            ahead: Default::default(),
            this: Weak::clone(this),
        });
        // The settler outlives nothing here: whoever holds the reconciler holds the settler.
        let _ = reconciler.settler.reconciler.set(Arc::downgrade(&reconciler));
        reconciler
    }

    /// What is known may not be so old any more: it is asked for again when it is used.
    pub fn doubts_all(&self) {
        self.known.lock().values_mut().for_each(|known| known.until = Duration::ZERO);
        self.names.lock().clear();
    }

    fn is_fresh(&self, dir: Ino) -> bool {
        self.known.lock().get(&dir).is_some_and(|known| boottime() < known.until)
    }

    /// Too large to be listed for one name, or not known not to be.
    fn large(&self, dir: Ino) -> bool {
        self.known.lock().get(&dir).is_some_and(|known| known.pages > 1 || !known.listed)
    }

    /// Whether all its names were seen once.
    fn listed(&self, dir: Ino) -> bool {
        self.known.lock().get(&dir).is_some_and(|known| known.listed)
    }

    /// Whether nothing of it was ever listed.
    fn unseen(&self, dir: Ino) -> bool {
        self.known.lock().get(&dir).is_none_or(|known| known.pages == 0)
    }

    fn learn(&self, dir: Ino, change: impl FnOnce(&mut Known)) {
        let mut known = self.known.lock();
        if known.len() > 50_000 {
            known.clear();
        }
        change(known.entry(dir).or_default());
    }

    /// All that a directory has was seen, as it was at `at`.
    fn learned(&self, dir: Ino, at: Duration, pages: u32) {
        // A listing of n requests is repeated at most every 2n seconds.
        let costs = Duration::from_secs(2) * pages.saturating_sub(1);
        let until = at + self.volume.tuned().refresh.max(costs);
        self.learn(dir, |known| *known = Known { until, pages, listed: true });
    }

    /// It has more than these pages.
    fn goes_on(&self, dir: Ino, pages: u32) {
        self.learn(dir, |known| known.pages = known.pages.max(pages + 1));
    }

    fn saw_prefix(&self, dir: Ino, key: ObjectKey) {
        let mut prefixes = self.prefixes.lock();
        if prefixes.len() > 50_000 {
            prefixes.clear();
        }
        prefixes.insert(dir, key);
    }

    fn note(&self, dir: Ino, error: &SettleError) {
        self.volume.note_error(error);
        tracing::warn!(%dir, error = error as &dyn std::error::Error, "the bucket could not be asked for all outside changes");
    }

    /// The bucket does not answer: serve what is known and ask again soon.
    fn put_off(&self, dir: Ino, error: &SettleError) {
        self.note(dir, error);
        let until = boottime() + self.volume.tuned().refresh.min(RETRY_PAUSE);
        self.learn(dir, |known| known.until = until);
    }

    /// Begins to take in what others did. A host that has lost the volume without knowing it would take what the
    /// next one publishes for that.
    async fn taking_in(&self) -> Result<Tx<'_>, SettleError> {
        self.prove_ownership().await?;
        let tx = self.volume.begin().await?;
        self.still_ours().map(|()| tx)
    }

    /// Ends what [`Self::taking_in`] began.
    async fn taken_in(&self, tx: Tx<'_>) -> Result<(), SettleError> {
        self.still_ours()?;
        Ok(tx.commit(0).await?)
    }

    /// After a lapse of the lease only the engine knows whether the volume still is ours. What was seen before
    /// this proof is nobody's who had it meanwhile.
    async fn prove_ownership(&self) -> Result<(), SettleError> {
        let lapses = self.settler.permit.lapses();
        if Mutant::TakenInWithoutLease.lives() {
            return Ok(());
        }
        if lapses != self.proven.load(Ordering::SeqCst) {
            match self.volume.meta.confirm_ownership(USE_TIMEOUT).await {
                Ok(_receipt) => self.proven.store(lapses, Ordering::SeqCst),
                Err(error) => {
                    tracing::debug!(%error, "outside changes wait for a proof that the volume is ours");
                    return Err(SettleError::NoAuthority);
                }
            }
        }
        Ok(())
    }

    fn still_ours(&self) -> Result<(), SettleError> {
        let permit = &self.settler.permit;
        let proven = permit.lapses() == self.proven.load(Ordering::SeqCst);
        match permit.may_publish() && proven || Mutant::TakenInWithoutLease.lives() {
            true => Ok(()),
            false => Err(SettleError::NoAuthority),
        }
    }

    /// The kernel will hear of these changes at the end of the caller's scope.
    pub(super) fn telling(&self, changes: Vec<Changed>) -> Telling<'_> {
        self.tell.at_end(changes)
    }

    /// A look at the bucket for a call that waits. It may be cut off anywhere: what it had handed over
    /// by then stays, and is told.
    async fn look(
        &self,
        dir: Ino,
        look: impl Future<Output = Result<(), SettleError>>,
    ) -> Result<(), DataError> {
        if self.bucket_is_away() {
            return Ok(());
        }
        let Ok(result) = tokio::time::timeout(LOOK_TIMEOUT, look).await else {
            let late = SettleError::Data(DataError::Late("the look took too long".into()));
            // What was seen of a large directory shows, and the next call goes on with it.
            match self.unseen(dir) {
                true => self.put_off(dir, &late),
                false => self.note(dir, &late),
            }
            return Ok(());
        };
        match result {
            Ok(()) => Ok(()),
            Err(
                error @ (SettleError::Store(_)
                | SettleError::NoAuthority
                | SettleError::Data(DataError::Late(_))),
            ) => {
                self.put_off(dir, &error);
                if let SettleError::Store(error) = &error {
                    self.no_answer(error);
                }
                Ok(())
            }
            Err(SettleError::Data(error) | SettleError::Commit(error)) => Err(error),
        }
    }

    /// Looks at one key and brings what is there into the tree.
    pub async fn recheck_key(&self, key: &ObjectKey) -> Result<(), SettleError> {
        let look = async {
            let _turn = self.one_at_a_time.lock().await;
            self.check_key(key).await
        };
        match tokio::time::timeout(LOOK_TIMEOUT, look).await {
            Ok(result) => result,
            Err(_) => Err(DataError::Late(format!("{key}: the look took too long")).into()),
        }
    }

    async fn refresh_directory(&self, dir: Ino) -> Result<(), DataError> {
        if self.is_fresh(dir) {
            return Ok(());
        }
        // One page a turn: a large directory holds up nobody else.
        let pages = async {
            loop {
                let mut walks = self.one_at_a_time.lock().await;
                // Those who waited for their turn need not wait for the bucket after that.
                let needless = self.is_fresh(dir) || self.bucket_is_away();
                if needless || self.list_on(dir, &mut walks).await? {
                    return Ok(());
                }
            }
        };
        self.look(dir, pages).await
    }
}

#[async_trait]
impl Outside for Reconciler {
    async fn directory(&self, dir: Ino) -> Result<(), DataError> {
        self.refresh_directory(dir).await?;
        Box::pin(self.walks(dir)).await;
        Ok(())
    }

    async fn name(&self, dir: Ino, name: &FileName) -> Result<(), DataError> {
        if self.is_fresh(dir) {
            return Ok(());
        }
        if !self.large(dir) && !self.unseen(dir) {
            return self.refresh_directory(dir).await;
        }
        let seen = self.names.lock().get(&(dir, name.clone())).copied();
        if seen.is_some_and(|at| boottime().saturating_sub(at) < self.volume.tuned().refresh) {
            return Ok(());
        }
        let look = async {
            let _turn = self.one_at_a_time.lock().await;
            if self.is_fresh(dir) || self.bucket_is_away() {
                return Ok(());
            }
            // The first look at a directory is one page; it may be all there is.
            if self.unseen(dir) {
                self.list_first_page(dir, name).await?;
            } else {
                self.check_name(dir, name).await?;
            }
            let mut names = self.names.lock();
            if names.len() > 50_000 {
                names.clear();
            }
            names.insert((dir, name.clone()), boottime());
            Ok(())
        };
        self.look(dir, look).await
    }

    async fn subtree(&self, dir: Ino) -> Result<(), DataError> {
        let mut stack = vec![dir];
        while let Some(dir) = stack.pop() {
            self.refresh_directory(dir).await?;
            stack.extend(self.child_dirs(dir).await?);
        }
        Ok(())
    }

    async fn attributes(&self, ino: Ino) -> Result<(), DataError> {
        self.read_attributes(ino).await
    }

    fn made(&self, dir: Ino) {
        self.learned(dir, boottime(), 1);
    }
}
