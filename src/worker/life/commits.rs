//! When what was written goes up: the timer, and whoever cannot wait for it.
//!
//! Two lanes, so that what one program streams never keeps what others wrote from becoming durable
//! after the `commit` interval. The first commits what is small and in nobody else's hands, and
//! flushes; it waits for no upload of much data. The second has the rest ([`beside`]). One file that
//! cannot be committed holds up no other.

mod beside;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

pub(super) use beside::beside;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Shared;
use crate::clock::Deadline;
use crate::data::{DataError, Inode, Volume};
use crate::meta::{EngineError, MetaError};
use crate::worker::WorkerError;

/// Files committed in one batch.
const GROUP: usize = 256;
/// Data committed in one batch: half a segment. A larger file is alone.
const GROUP_BYTES: u64 = 8 << 20;
/// How long the timer's flush may take before it counts as trouble.
pub(super) const FLUSH: Duration = Duration::from_secs(30);
/// What did get into batches has at least this long to become durable, whatever the commits took.
const LEAST_FLUSH: Duration = Duration::from_secs(3);
/// Less than this within that time is no progress, bytes.
const MOVED: u64 = 1 << 20;
/// The pause after trouble.
const PAUSE: Duration = Duration::from_secs(1);

/// Who commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::worker) enum Lane {
    Timer,
    Large,
}

/// Commits everything and makes it durable. The error is the first one; it kept nothing else back.
pub(in crate::worker) async fn commit_all(
    volume: &Arc<Volume>,
    timeout: Duration,
) -> Result<(), WorkerError> {
    let deadline = Deadline::after(timeout);
    let committed =
        match commit_groups(volume, volume.dirty_inodes(), Some(deadline), Files::All).await {
            Ok(Done::Yes) => Ok(()),
            Ok(Done::Late) => {
                let why = volume.last_error().unwrap_or_else(|| "the bucket is slow".into());
                Err(DataError::Late(why).into())
            }
            Err(error) => Err(error.into()),
        };
    let flushed = flush(volume, deadline.left().max(LEAST_FLUSH)).await;
    committed.and(flushed)
}

/// The first lane. Returns when `stop` is cancelled.
pub(super) async fn on_time(shared: Arc<Shared>, large: Arc<Notify>, stop: CancellationToken) {
    let volume = &shared.volume;
    let period = || volume.tuned().commit.max(Duration::from_millis(10));
    let mut next = Instant::now() + period();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = volume.retuned.notified() => {
                next = next.min(Instant::now() + period());
                continue;
            }
            () = tokio::time::sleep_until(next) => {}
        }
        let period = period();
        // From here on: what is written while the commits last has waited already.
        next = Instant::now() + period;
        let (quick, rest): (Vec<_>, Vec<_>) = volume.dirty_inodes().into_iter().partition(is_quick);
        let within = Deadline::after(period.clamp(PAUSE, FLUSH));
        let committed = commit_groups(volume, quick, Some(within), Files::Quick).await;
        // What is not through yet goes on by itself, and the other lane sees to it.
        // After a failure it is asked once more: others may have brought up what it could not.
        let late = matches!(committed, Ok(Done::Late));
        if late || !rest.is_empty() || shared.fails(Lane::Large) {
            large.notify_one();
        }
        let committed = committed.map(drop).map_err(WorkerError::from);
        went(&shared, Lane::Timer, committed.and(flush_for_now(volume).await), &stop).await;
    }
}

async fn went(
    shared: &Shared,
    lane: Lane,
    result: Result<(), WorkerError>,
    stop: &CancellationToken,
) {
    shared.commit_went(lane, result.as_ref().err());
    if let Err(error) = result {
        tracing::warn!(error = &error as &dyn std::error::Error, "a commit waits");
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

/// As [`flush`], where the next attempt comes soon: one that takes long because much goes up is no trouble.
async fn flush_for_now(volume: &Volume) -> Result<(), WorkerError> {
    let sent = || volume.state_store.requests().bytes_up;
    let before = sent();
    if !volume.meta.undurable() {
        return Ok(());
    }
    // No program waits for it.
    match volume.meta.flush_beside(FLUSH).await {
        Err(MetaError::Engine(EngineError::Deadline)) if sent() > before + MOVED => Ok(()),
        flushed => Ok(flushed.map(drop)?),
    }
}

async fn flush(volume: &Volume, timeout: Duration) -> Result<(), WorkerError> {
    if volume.meta.undurable() {
        let _receipt = volume.meta.flush(timeout).await?;
    }
    Ok(())
}

/// Little to commit, and nobody is at it.
fn is_quick(inode: &Arc<Inode>) -> bool {
    inode.live().pending.data_bytes() <= GROUP_BYTES && !is_busy(inode)
}

/// Whether a commit would have to wait for somebody.
fn is_busy(inode: &Inode) -> bool {
    inode.commit.try_lock().is_err()
}

/// Whether all groups were tried before the deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Done {
    Yes,
    Late,
}

/// What is committed of the files that became large, or somebody else's, while others were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Files {
    All,
    /// Nothing: that counts as late.
    Quick,
}

/// Commits all of these; the error is the first one, and met after all others were tried.
async fn commit_groups(
    volume: &Arc<Volume>,
    inodes: Vec<Arc<Inode>>,
    deadline: Option<Deadline>,
    files: Files,
) -> Result<Done, DataError> {
    let mut first = None;
    let mut done = Done::Yes;
    let mut waiting: VecDeque<_> = groups(inodes).into();
    while let Some(group) = waiting.pop_front() {
        // What was small may have become large since.
        let (group, others) = match &*group {
            [one] if files == Files::All || is_quick(one) => (group, Vec::new()),
            [_] => (Vec::new(), group),
            _ => still_together(group),
        };
        match files {
            Files::All => waiting.extend(others.into_iter().map(|inode| vec![inode])),
            Files::Quick if others.is_empty() => {}
            Files::Quick => done = Done::Late,
        }
        if group.is_empty() {
            continue;
        }
        // In a task of its own, which goes on when the time is over: what was uploaded is used.
        let this = Arc::clone(volume);
        let commit = tokio::spawn(async move { commit_each(&this, group).await });
        let joined = match deadline {
            None => commit.await,
            Some(deadline) => match tokio::time::timeout(deadline.left(), commit).await {
                Ok(joined) => joined,
                Err(_) => {
                    done = Done::Late;
                    break;
                }
            },
        };
        let result = joined.unwrap_or_else(|panicked| Err(DataError::Late(panicked.to_string())));
        if let Err(error) = result {
            first.get_or_insert(error);
        }
    }
    first.map_or(Ok(done), Err)
}

/// Those of a group that may still be committed together, and the others.
fn still_together(group: Vec<Arc<Inode>>) -> (Vec<Arc<Inode>>, Vec<Arc<Inode>>) {
    let mut filled: u64 = 0;
    group.into_iter().partition(|inode| {
        let bytes = filled.saturating_add(inode.live().pending.data_bytes());
        let fits = !is_busy(inode) && bytes <= GROUP_BYTES;
        if fits {
            filled = bytes;
        }
        fits
    })
}

/// Commits a group; without those of its files that are to blame when that fails.
async fn commit_each(volume: &Volume, group: Vec<Arc<Inode>>) -> Result<(), DataError> {
    let Err(error) = volume.commit(group.clone()).await else { return Ok(()) };
    if group.len() == 1 || !error.is_of_one_file() {
        return Err(error);
    }
    let mut first = None;
    for inode in group {
        match volume.commit(vec![inode]).await {
            Ok(()) => {}
            Err(error) if error.is_of_one_file() => {
                first.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    first.map_or(Ok(()), Err)
}

/// Files in groups small enough that an fsync of one of them never waits long for the others: those
/// with little to commit first, and at the end, each alone, those that somebody has under way.
fn groups(inodes: Vec<Arc<Inode>>) -> Vec<Vec<Arc<Inode>>> {
    let sized = |inode: Arc<Inode>| {
        let bytes = inode.live().pending.data_bytes();
        (is_busy(&inode), bytes, inode)
    };
    let mut sized: Vec<_> = inodes.into_iter().map(sized).collect();
    sized.sort_by_key(|(busy, bytes, _)| (*busy, *bytes));
    let mut groups: Vec<Vec<Arc<Inode>>> = Vec::new();
    let mut filled = u64::MAX;
    for (busy, bytes, inode) in sized {
        let full = busy || groups.last().is_none_or(|group| group.len() >= GROUP);
        if full || filled.saturating_add(bytes) > GROUP_BYTES {
            groups.push(Vec::new());
            filled = 0;
        }
        filled += bytes;
        if let Some(group) = groups.last_mut() {
            group.push(inode);
        }
    }
    groups
}
