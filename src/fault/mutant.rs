//! Known faults that a test can put into the real code, to see whether a search for faults finds them.

use std::sync::atomic::{AtomicU8, Ordering};

/// One deliberate fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Mutant {
    /// A write is answered before it is in the local log, and never gets there.
    ReplyBeforeLog = 1,
    /// An fsync is answered when its batch is handed over, not when it is durable.
    SyncWithoutFlush,
    /// A rename over a name does not take the new file's data along.
    RenameWithoutData,
    /// The log's replay leaves out the first record that is not durable.
    ReplayStartsLate,
    /// A key whose last request may still arrive is taken for any other.
    HotKeyIgnored,
    /// A mount does not look for requests that an earlier one has announced.
    OpenIntentsForgotten,
    /// Segments are deleted before the batch that gave them up is durable.
    ReleasedBeforeDurable,
    /// Old segments are garbage, whoever refers to them.
    GarbageByAge,
    /// A lease is judged by the clock of the challenger's host.
    LeaseByWallClock,
    /// A writer that another one has followed goes on.
    NoFence,
    /// The end of the log is not checked for being whole.
    TornTailReplayed,
    /// A hole that was punched is not replayed.
    HoleForgotten,
    /// A truncation is not replayed.
    CutForgotten,
    /// A commit also ends what was written while it was under way.
    CommitForgetsLater,
    /// The log forgets batches that are handed over, not those that are durable.
    LogTrimmedEarly,
    /// A local log is replayed, whoever wrote the volume since.
    AnyLogGoesOn,
    /// A body is published as what its file is when that is announced, whatever was written since it was read.
    BodyUnchecked,
    /// A publish replaces whatever lies at its key.
    PutUnconditional,
    /// A deletion takes whatever lies at its key.
    DeleteUnconditional,
    /// Requests are sent before their announcement is durable.
    UnannouncedSend,
    /// A host that may have lost the volume takes what the next one publishes for outside changes.
    TakenInWithoutLease,
    /// A request that a dead worker has carried out is carried out again.
    ResentAnew,
    /// A follower that nobody asked for a while answers from what it knew then.
    FollowerOldView,
    /// The catalog replaces a record whatever it is by now.
    CatalogUnconditional,
}

static ACTIVE: AtomicU8 = AtomicU8::new(0);

impl Mutant {
    /// All of them.
    pub const ALL: &[Mutant] = &[
        Mutant::ReplyBeforeLog,
        Mutant::SyncWithoutFlush,
        Mutant::RenameWithoutData,
        Mutant::ReplayStartsLate,
        Mutant::HotKeyIgnored,
        Mutant::OpenIntentsForgotten,
        Mutant::ReleasedBeforeDurable,
        Mutant::GarbageByAge,
        Mutant::LeaseByWallClock,
        Mutant::NoFence,
        Mutant::TornTailReplayed,
        Mutant::HoleForgotten,
        Mutant::CutForgotten,
        Mutant::CommitForgetsLater,
        Mutant::LogTrimmedEarly,
        Mutant::AnyLogGoesOn,
        Mutant::BodyUnchecked,
        Mutant::PutUnconditional,
        Mutant::DeleteUnconditional,
        Mutant::UnannouncedSend,
        Mutant::TakenInWithoutLease,
        Mutant::ResentAnew,
        Mutant::FollowerOldView,
        Mutant::CatalogUnconditional,
    ];

    /// Whether the code is to have this fault. Never in a release build.
    #[inline]
    pub fn lives(self) -> bool {
        cfg!(debug_assertions) && ACTIVE.load(Ordering::Relaxed) == self as u8
    }

    /// From now on this process has the fault, and no other one.
    pub fn release(self) {
        ACTIVE.store(self as u8, Ordering::Relaxed);
    }
}
