//! The end of a mount made by hand: what is brought into the bucket and to rest, and what is left.
//!
//! Each step has its own limit, and all of them end soon when the next mount on this host asks for the volume
//! ([`Ending`]): what is committed waits in the bucket then, and the rest in the local log.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::commits::commit_all;
use super::serve::{COMMIT_BUDGET, ROUND};
use super::{Shared, tasks};
use crate::clock::Deadline;
use crate::config::SettleMode;
use crate::data::Volume;
use crate::meta::{EngineError, keys};
use crate::settle::Unsettled;
use crate::types::Ino;
use crate::worker::leave::Ending;
use crate::worker::{VolumeState, WorkerError};

/// How long bringing everything into the bucket may take after the end was asked for. Nobody waits
/// with a limit of his own here, and what does not fit waits for the next mount on this host.
const COMMIT: Duration = Duration::from_secs(600);
/// Less than this within one attempt is no progress (lease renewals and refused requests), bytes.
const PROGRESS: u64 = 1 << 20;
/// When the bucket did not take anything, this is for what it takes after all.
const LAST_TRY: Duration = Duration::from_secs(3);
/// How long settling may take after the end was asked for. Requests of an earlier process, which was
/// killed, may arrive for 80 s.
const SETTLE: Duration = Duration::from_secs(90);
/// Within this time after it was asked for the volume, the process has gone, whatever it has under way: the
/// next mount of this host takes over what a crash would leave.
const MAKE_ROOM: Duration = Duration::from_millis(1500);
/// Of which a round of settling gets this much for the requests that it has sent.
const ROUND_WHEN_HURRIED: Duration = Duration::from_millis(300);
/// Looking at what is left, or whether another host has the volume; and how often.
const LOOK: Duration = Duration::from_secs(2);

/// What a mount leaves behind at its end. Its text is the last line of `s3vol mount`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Left {
    /// Nothing was changed here.
    ReadOnly,
    /// Everything is a plain object.
    AtRest { files: u64, bytes: u64 },
    /// Everything is in the bucket.
    Unsettled(Unsettled, Why),
    /// Everything is in the bucket, and another host has it.
    TakenOver,
    /// Only this host has it, and brings it up with the next mount.
    Uncommitted { files: u64, bytes: u64, kept: PathBuf, why: String },
    /// Another host took the volume before everything was in the bucket.
    Lost { kept: PathBuf, why: String },
}

/// Why what is left is not at rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The next mount waits for the volume.
    Asked,
    /// `settle=never`.
    Never,
    /// It could not come to rest, or not in time.
    NotYet,
}

impl Left {
    /// The exit code: 0 where nothing is left to do or somebody does it, 3 where something is committed
    /// only, 4 where something is not even that, 5 where another host has the volume.
    pub fn code(&self) -> u8 {
        match self {
            Left::ReadOnly | Left::AtRest { .. } | Left::TakenOver => 0,
            Left::Unsettled(_, Why::Asked | Why::Never) => 0,
            Left::Unsettled(_, Why::NotYet) => 3,
            Left::Uncommitted { .. } => 4,
            Left::Lost { .. } => 5,
        }
    }
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Left::ReadOnly => write!(f, "unmounted; nothing was written here"),
            Left::AtRest { files, bytes } => {
                write!(f, "everything is at rest: {files} files with {bytes} bytes")
            }
            Left::Unsettled(Unsettled { files, bytes }, why) => {
                write!(f, "everything is in the bucket, ")?;
                let size = bytes.map(|bytes| format!(" with {bytes} bytes")).unwrap_or_default();
                match why {
                    Why::Asked => write!(
                        f,
                        "and the next mount, which asked for the volume, settles the rest: {files} \
                         files{size} are not plain objects yet"
                    ),
                    Why::Never => write!(
                        f,
                        "and {files} files{size} are not plain objects, as settle=never wants it"
                    ),
                    Why::NotYet => write!(
                        f,
                        "but {files} files{size} are not plain objects yet; the next mount goes on \
                         settling"
                    ),
                }
            }
            Left::TakenOver => write!(
                f,
                "everything is in the bucket, and another host has taken the volume and settles the rest"
            ),
            Left::Uncommitted { files, bytes, kept, why } => write!(
                f,
                "{bytes} bytes are not in the bucket, of {files} files; they are kept in {} and go up \
                 with the next mount on this host: {why}",
                kept.display()
            ),
            Left::Lost { kept, why } => write!(
                f,
                "another host has the volume now; what did not reach the bucket before is kept in {}: \
                 {why}",
                kept.display()
            ),
        }
    }
}

/// Who waits for the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::worker) enum Waited {
    /// It was asked for by a signal: somebody does.
    For,
    /// By an unmount, which has returned: nobody does.
    Not,
}

/// Gives the volume back; its mount is gone, and its tasks were told to end.
pub(in crate::worker) async fn give_back(
    shared: &Arc<Shared>,
    mut running: JoinSet<()>,
    ending: &Ending,
    waited: Waited,
) -> Left {
    shared.end_content();
    let closed = tokio::select! {
        closed = close(shared, &mut running, ending, waited) => closed,
        () = too_long(ending) => {
            // As a crash would leave it, for the next mount of this host.
            shared.volume.meta.engine.abandon();
            Err(WorkerError::Left)
        }
    };
    if closed.is_err() {
        shared.see_engine();
        if shared.state() == VolumeState::Fenced && !ending.is_hurried() {
            shared.save_lost().await;
        }
    }
    let volume = &shared.volume;
    let kept = shared.spec.state_dir.clone();
    match closed {
        Ok(Closed::TakenOver) => Left::TakenOver,
        Ok(Closed::Here(Unsettled { files: 0, .. })) => {
            let counters = volume.meta.superblock();
            Left::AtRest { files: counters.inodes.saturating_sub(1), bytes: counters.bytes }
        }
        Ok(Closed::Here(left)) => Left::Unsettled(left, why(shared, ending)),
        Err(error) => {
            let why = crate::worker::error::chain(&error);
            if shared.state() == VolumeState::Fenced {
                return Left::Lost { kept, why };
            }
            let (files, bytes) = (uncommitted_files(volume), volume.uncommitted_bytes());
            if volume.dirty_inodes().is_empty() && !volume.meta.undurable() {
                // Only the closing failed: the bucket has everything, and the log is in nobody's way.
                tracing::warn!(why, "the volume was not closed in order");
                let files = shared.settler.status().unsettled;
                return Left::Unsettled(
                    Unsettled { files, bytes: None },
                    self::why(shared, ending),
                );
            }
            Left::Uncommitted { files, bytes, kept, why }
        }
    }
}

/// Files with content that no batch has, and those that batches are about which are not in the bucket.
fn uncommitted_files(volume: &Volume) -> u64 {
    let handed = volume.meta.engine.undurable_keys();
    let handed = handed.iter().filter(|key| key.first() == Some(&keys::INODE));
    let mut files: BTreeSet<Ino> = handed.filter_map(|key| keys::parse_ino(key)).collect();
    files.extend(volume.dirty_inodes().iter().map(|inode| inode.ino));
    files.len() as u64
}

fn why(shared: &Shared, ending: &Ending) -> Why {
    if ending.is_asked() {
        Why::Asked
    } else if shared.spec.options.settle == SettleMode::Never {
        Why::Never
    } else {
        Why::NotYet
    }
}

async fn too_long(ending: &Ending) {
    ending.hurried().await;
    tokio::time::sleep(MAKE_ROOM).await;
}

enum Closed {
    /// With this much left.
    Here(Unsettled),
    TakenOver,
}

async fn close(
    shared: &Arc<Shared>,
    running: &mut JoinSet<()>,
    ending: &Ending,
    waited: Waited,
) -> Result<Closed, WorkerError> {
    let committed = tokio::select! {
        done = commit_while_it_moves(shared) => done,
        // The last commit below is for all.
        () = ending.hurried() => Ok(()),
    };
    let budget = match &committed {
        Ok(()) => COMMIT_BUDGET,
        Err(error) => {
            let error = error as &dyn std::error::Error;
            tracing::warn!(error, "not everything is committed yet");
            LAST_TRY
        }
    };
    tokio::select! {
        // What does not end goes on beside; it has no longer than settling has.
        _ = tasks::ended(running, &shared.settler) => {}
        () = ending.hurried() => {}
    }
    if committed.is_ok() {
        tokio::select! {
            () = settle(shared, waited) => {}
            () = ending.hurried() => {}
        }
        if shared.taken_after_yield().await {
            shared.leave();
            return Ok(Closed::TakenOver);
        }
    }
    let round = if ending.is_hurried() { ROUND_WHEN_HURRIED } else { ROUND };
    shared.seal(budget, round).await?;
    let left = tokio::time::timeout(LOOK, shared.settler.left()).await;
    let left = match left {
        Ok(Ok(left)) => left,
        Ok(Err(_)) | Err(_) => Unsettled { files: shared.settler.status().unsettled, bytes: None },
    };
    tokio::select! {
        () = shared.export() => {}
        () = ending.hurried() => {}
    }
    shared.release().await?;
    Ok(Closed::Here(left))
}

/// Settles what can be settled now. What has to wait for requests of an earlier process, which may still
/// arrive, is waited for only if nobody waits for us, and anybody may have the volume meanwhile.
async fn settle(shared: &Arc<Shared>, waited: Waited) {
    let deadline = Deadline::after(SETTLE);
    let left = shared.settle(deadline).await;
    if left == 0 || waited == Waited::For || !shared.settler.has_late() {
        return;
    }
    if commit_all(&shared.volume, COMMIT_BUDGET).await.is_err() || !shared.yields().await {
        return;
    }
    tracing::info!(
        left,
        "everything is in the bucket; some names wait for requests that may still arrive, and anybody \
         may mount the volume meanwhile"
    );
    tokio::select! {
        result = shared.settler.settle_all(deadline) => {
            if let Err(error) = result {
                tracing::warn!(error = &error as &dyn std::error::Error, "not everything settled");
            }
        }
        () = taken(shared) => {}
    }
}

/// Returns when another host has taken the volume.
async fn taken(shared: &Shared) {
    loop {
        tokio::time::sleep(LOOK).await;
        let looked = shared.volume.meta.engine.check_epoch(Deadline::after(LOOK)).await;
        if matches!(looked, Err(EngineError::Fenced { .. })) {
            return;
        }
    }
}

/// Goes on as long as data goes up or less is left than before: a slow bucket gets its time, one that is
/// gone must not keep a command or a shutdown of the machine waiting.
pub(in crate::worker) async fn commit_while_it_moves(shared: &Shared) -> Result<(), WorkerError> {
    let end = Deadline::after(COMMIT);
    let volume = &shared.volume;
    loop {
        let (left, sent) = (volume.uncommitted_bytes(), volume.state_store.requests().bytes_up);
        let result = commit_all(volume, COMMIT_BUDGET).await;
        let moved = volume.uncommitted_bytes() < left
            || volume.state_store.requests().bytes_up > sent + PROGRESS;
        match result {
            Err(_) if moved && !end.passed() => {}
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_says_what_is_at_rest_committed_only_or_not_even_that() {
        let some = Unsettled { files: 3, bytes: Some(120) };
        let kept = PathBuf::from("/s");
        let uncommitted =
            Left::Uncommitted { files: 1, bytes: 8, kept: kept.clone(), why: "away".into() };
        let cases = [
            (Left::ReadOnly, 0, "nothing was written"),
            (Left::AtRest { files: 2, bytes: 9 }, 0, "at rest: 2 files with 9 bytes"),
            (Left::Unsettled(some, Why::Asked), 0, "the next mount, which asked"),
            (Left::Unsettled(some, Why::Never), 0, "settle=never"),
            (Left::Unsettled(some, Why::NotYet), 3, "but 3 files with 120 bytes are not plain"),
            (Left::TakenOver, 0, "another host has taken"),
            (uncommitted, 4, "8 bytes are not in the bucket, of 1 files; they are kept in /s"),
            (Left::Lost { kept, why: "fenced".into() }, 5, "another host has the volume now"),
        ];
        for (left, code, text) in cases {
            assert_eq!(left.code(), code, "{left}");
            assert!(left.to_string().contains(text), "{left}");
        }
    }
}
