//! The second lane: what the first one leaves, and whatever a writer without room asks for at once.
//!
//! Each large file goes up by itself, some at a time and the smallest first: one to which a program streams takes as
//! long as the uplink needs, and no other waits for it. What is small goes together.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Files, GROUP_BYTES, Lane, PAUSE, commit_groups, flush_for_now, is_busy, is_quick};
use crate::data::{DataError, Inode, Much, Volume};
use crate::types::Ino;
use crate::worker::WorkerError;
use crate::worker::life::Shared;

/// Large files that go up at a time. The last place is for a short one.
const AT_ONCE: usize = 4;
/// Less than this is short, bytes: about a step of a commit.
const SHORT: u64 = 64 << 20;
/// Segments of theirs under way at a time: each is in memory as a whole.
const SEGMENTS: usize = 6;
/// Writers ask with every write; each time all files are looked at.
const PACE: Duration = Duration::from_millis(100);

/// Returns when `stop` is cancelled. What is under way then goes on, and who commits at the end waits for it.
pub(in crate::worker) async fn beside(
    shared: Arc<Shared>,
    large: Arc<Notify>,
    stop: CancellationToken,
) {
    let volume = Arc::clone(&shared.volume);
    let mut lane = Beside::new(Arc::clone(&volume));
    let mut listens = Instant::now();
    loop {
        let wanted = async {
            tokio::time::sleep_until(listens).await;
            volume.commit_wanted.notified().await;
        };
        tokio::select! {
            () = stop.cancelled() => return,
            Some((what, result)) = lane.under_way.next() => {
                lane.ended(what, result.is_err());
                if let Err(error) = &result {
                    shared.commit_went(Lane::Large, Some(error));
                }
            }
            () = large.notified() => {
                lane.all_is_due();
                lane.begin_small(FlushToo::Yes);
            }
            // Only what is streamed goes up for that.
            () = volume.block_ended.notified() => {}
            () = wanted => {
                listens = Instant::now() + PACE;
                // A writer that asks again and again needs no flush each time: the timer's comes.
                lane.begin_small(FlushToo::No);
            }
        }
        lane.begin_large();
        if lane.has_recovered() {
            shared.commit_went(Lane::Large, None);
        }
    }
}

/// What goes up: a large file, or all that is small.
type What = Option<Ino>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FlushToo {
    Yes,
    No,
}

struct Beside {
    volume: Arc<Volume>,
    segments: Arc<Semaphore>,
    /// Tasks of their own, which outlive this.
    under_way: FuturesUnordered<BoxFuture<'static, (What, Result<(), WorkerError>)>>,
    /// Whether it is short.
    what: HashMap<What, bool>,
    /// Those of which all is to go up: the timer has come since they were begun with.
    due: HashSet<Ino>,
    /// Those whose last commit failed.
    failing: HashSet<What>,
    /// There were none when it was last asked.
    well: bool,
}

impl Beside {
    fn new(volume: Arc<Volume>) -> Self {
        Beside {
            volume,
            segments: Arc::new(Semaphore::new(SEGMENTS)),
            under_way: FuturesUnordered::new(),
            what: HashMap::new(),
            due: HashSet::new(),
            failing: HashSet::new(),
            well: true,
        }
    }

    /// Whether nothing fails any more, and something did.
    fn has_recovered(&mut self) -> bool {
        let well = self.failing.is_empty();
        !std::mem::replace(&mut self.well, well) && well
    }

    fn ended(&mut self, what: What, failed: bool) {
        self.what.remove(&what);
        self.well &= !failed;
        match failed {
            true => self.failing.insert(what),
            false => self.failing.remove(&what),
        };
    }

    /// What is large now, or under way, goes up whole, also if it is little when its turn comes.
    fn all_is_due(&mut self) {
        let dirty = self.volume.dirty_inodes();
        let due = dirty.iter().filter(|inode| {
            self.what.contains_key(&Some(inode.ino))
                || inode.live().pending.data_bytes() > GROUP_BYTES
        });
        self.due.extend(due.map(|inode| inode.ino));
    }

    fn begin_small(&mut self, too: FlushToo) {
        if self.what.contains_key(&None) {
            return;
        }
        let volume = Arc::clone(&self.volume);
        self.begin(None, true, async move {
            let small = volume.dirty_inodes().into_iter().filter(is_quick).collect();
            let committed = commit_groups(&volume, small, None, Files::Quick).await;
            let committed = committed.map(drop).map_err(WorkerError::from);
            match too {
                FlushToo::Yes => committed.and(flush_for_now(&volume).await),
                FlushToo::No => committed,
            }
        });
    }

    /// Begins with those for which there is a place.
    fn begin_large(&mut self) {
        let dirty = self.volume.dirty_inodes();
        let is_due = |inode: &Inode| self.due.contains(&inode.ino);
        let large = dirty.into_iter().filter(|inode| !is_quick(inode) || is_due(inode));
        let large: Vec<_> = large.collect();
        // Of one that is not large any more the rest came up otherwise, or it was removed.
        let still = |ino: Ino| large.iter().any(|inode| inode.ino == ino);
        self.failing.retain(|what| what.is_none_or(still));
        self.due.retain(|ino| still(*ino));
        let mut large: Vec<_> = large
            .into_iter()
            .filter(|inode| !is_busy(inode))
            .filter(|inode| self.due.contains(&inode.ino) || !self.volume.gathers(inode))
            .map(|inode| {
                let bytes = inode.live().pending.data_bytes();
                (bytes, inode)
            })
            .collect();
        large.sort_by_key(|(bytes, _)| *bytes);
        for (bytes, inode) in large {
            let short = bytes <= SHORT;
            if !self.has_place(short) {
                return;
            }
            if !self.what.contains_key(&Some(inode.ino)) {
                self.begin_with(inode, short);
            }
        }
    }

    fn has_place(&self, short: bool) -> bool {
        let files = self.what.iter().filter(|(what, _)| what.is_some());
        let (all, long) =
            files.fold((0, 0), |(all, long), (_, short)| (all + 1, long + usize::from(!short)));
        all < AT_ONCE && (short || long < AT_ONCE - 1)
    }

    fn begin_with(&mut self, inode: Arc<Inode>, short: bool) {
        let (volume, segments) = (Arc::clone(&self.volume), Arc::clone(&self.segments));
        let much = if self.due.remove(&inode.ino) { Much::All } else { Much::Blocks };
        self.begin(Some(inode.ino), short, async move {
            volume.commit_sharing(vec![inode], &segments, much).await?;
            flush_for_now(&volume).await
        });
    }

    fn begin(
        &mut self,
        what: What,
        short: bool,
        commit: impl Future<Output = Result<(), WorkerError>> + Send + 'static,
    ) {
        self.what.insert(what, short);
        let task = tokio::spawn(async move {
            let result = commit.await;
            if let Err(error) = &result {
                tracing::warn!(error = error as &dyn std::error::Error, "a commit waits");
                // The next attempt comes after this.
                tokio::time::sleep(PAUSE).await;
            }
            result
        });
        self.under_way.push(Box::pin(async move {
            let panicked =
                |error: tokio::task::JoinError| Err(DataError::Late(error.to_string()).into());
            (what, task.await.unwrap_or_else(panicked))
        }));
    }
}
