//! A claim of the engine's epoch, written down before it is made.
//!
//! An epoch that this host claimed is known by its place in the local log, and gets there only when it is
//! clear which log goes on. A process that is killed in between leaves an epoch that nobody seems to have:
//! without a lease record a challenger waits a whole lease for a sign of life. This note says that it may have
//! been us. It proves nothing, because another host can have claimed the same number, so it only shortens
//! that wait; whether the local log goes on is judged by what the bucket holds.

use std::path::{Path, PathBuf};

use crate::types::Epoch;

const FILE: &str = "claiming";
/// One opening may claim some epochs in a row.
const IN_A_ROW: u64 = 8;

/// The epoch from which a claim goes out, if one was under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Claiming(Option<Epoch>);

impl From<Epoch> for Claiming {
    fn from(after: Epoch) -> Self {
        Claiming(Some(after))
    }
}

impl Claiming {
    /// As an earlier process left it. What cannot be read says nothing.
    pub fn of(state_dir: &Path) -> Self {
        let text = std::fs::read_to_string(path(state_dir)).unwrap_or_default();
        Claiming(text.trim().parse().ok().map(Epoch))
    }

    pub fn may_have_made(self, epoch: Epoch) -> bool {
        self.0.is_some_and(|after| epoch > after && epoch.0 - after.0 <= IN_A_ROW)
    }

    /// Survives the end of this process, as the log does. On a full disk it is left out: without it the next
    /// opening only waits longer.
    pub fn note(self, state_dir: &Path) {
        let Some(after) = self.0 else { return };
        if let Err(error) = std::fs::write(path(state_dir), after.0.to_string()) {
            tracing::debug!(%error, "the claim of an epoch is not noted");
        }
    }

    /// The epoch is in the log, or it is another host's.
    pub fn done(state_dir: &Path) {
        // One that stays names an epoch that the log knows.
        let _ = std::fs::remove_file(path(state_dir));
    }
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join(FILE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_that_was_cut_short_may_have_made_the_next_epochs_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!Claiming::of(dir.path()).may_have_made(Epoch(1)));
        Claiming::from(Epoch(6)).note(dir.path());
        let left = Claiming::of(dir.path());
        assert!(!left.may_have_made(Epoch(6)));
        assert!(left.may_have_made(Epoch(7)));
        assert!(!left.may_have_made(Epoch(600)));
        Claiming::done(dir.path());
        assert!(!Claiming::of(dir.path()).may_have_made(Epoch(7)));
    }
}
