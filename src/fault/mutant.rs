//! Known faults that a test can put into the real code, to see whether a search for faults finds them.

use std::sync::atomic::{AtomicU8, Ordering};

/// One deliberate fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Mutant {
    /// A change is answered before it is in the local log, and never gets there.
    ReplyBeforeLog = 1,
    /// An fsync is answered when its batch is handed over, not when it is durable.
    SyncWithoutFlush,
    /// A rename over a name does not take the new file's data along.
    RenameWithoutData,
    /// The log's replay leaves out the first batch that is not durable.
    ReplayStartsLate,
}

static ACTIVE: AtomicU8 = AtomicU8::new(0);

impl Mutant {
    /// All of them.
    pub const ALL: &[Mutant] = &[
        Mutant::ReplyBeforeLog,
        Mutant::SyncWithoutFlush,
        Mutant::RenameWithoutData,
        Mutant::ReplayStartsLate,
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
