//! A claim of the engine's epoch, written down before it is made.
//!
//! An epoch that this host claimed is known by its place in the local log, and gets there only when it is
//! clear which log goes on. A process that is killed in between leaves an epoch that nobody seems to have:
//! without a lease record a challenger waits a whole lease for a sign of life. This note says that it may have
//! been us. It proves nothing as long as no record has its instance, because another host can have claimed the
//! same number, so it only shortens that wait; whether the local log goes on is judged by what the bucket holds.

use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::lease::Holder;
use crate::types::Epoch;

const FILE: &str = "claiming";
/// One opening may claim some epochs in a row.
const IN_A_ROW: u64 = 8;
/// After this long without a record, seconds, an epoch that was claimed here is free for anybody, and one that is not
/// is another host's.
const COUNTS: u64 = 180;

/// A claim that was under way, and who would say that it is his.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::worker) struct Claiming(Option<Claim>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Claim {
    /// The epoch from which it goes out.
    after: Epoch,
    instance: Uuid,
    /// When, by this host's clock, seconds.
    at: i64,
}

impl Claiming {
    pub fn begin(after: Epoch, instance: Uuid) -> Self {
        Claiming(Some(Claim { after, instance, at: crate::clock::now().secs }))
    }

    /// As an earlier process left it. What cannot be read says nothing.
    pub fn of(state_dir: &Path) -> Self {
        Claiming::read(&path(state_dir))
    }

    pub fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let mut words = text.split_whitespace();
        let mut read = || {
            let after = Epoch(words.next()?.parse().ok()?);
            let (instance, at) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            Some(Claim { after, instance, at })
        };
        Claiming(read())
    }

    /// Whether it may have made an epoch of which nobody says whose it is.
    pub fn may_have_made(self, epoch: Epoch) -> bool {
        let now = crate::clock::now().secs;
        self.reaches(epoch) && self.0.is_some_and(|claim| now.abs_diff(claim.at) <= COUNTS)
    }

    /// Whether it may have got as far as this epoch, whenever that was.
    pub fn reaches(self, epoch: Epoch) -> bool {
        self.0.is_some_and(|Claim { after, .. }| epoch > after && epoch.0 - after.0 <= IN_A_ROW)
    }

    /// Whether it was the process of this claim that says so.
    pub fn made(self, holder: &Holder) -> bool {
        let says = holder.record.as_ref().map(|record| record.instance);
        self.0.is_some_and(|claim| says == Some(claim.instance))
    }

    /// Survives the end of this process, as the log does. On a full disk it is left out: without it the next
    /// opening only waits longer.
    pub fn note(self, state_dir: &Path) {
        self.write(&path(state_dir));
    }

    pub fn write(self, path: &Path) {
        let Some(Claim { after, instance, at }) = self.0 else { return };
        let text = format!("{} {instance} {at}", after.0);
        if let Err(error) = std::fs::write(path, text) {
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
    use std::time::Duration;

    use super::*;
    use crate::lease::{LeaseRecord, LeaseState};
    use crate::types::StoreTime;

    #[test]
    fn a_claim_that_was_cut_short_may_have_made_the_next_epochs_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!Claiming::of(dir.path()).may_have_made(Epoch(1)));
        let claim = Claiming::begin(Epoch(6), Uuid::from_u128(1));
        claim.note(dir.path());
        let left = Claiming::of(dir.path());
        assert_eq!(left, claim);
        assert!(!left.may_have_made(Epoch(6)));
        assert!(left.may_have_made(Epoch(7)));
        assert!(!left.may_have_made(Epoch(600)));
        // By now it would be free without that.
        let long_ago = claim.0.map(|claim| Claim { at: claim.at - 600, ..claim });
        assert!(!Claiming(long_ago).may_have_made(Epoch(7)));
        Claiming::done(dir.path());
        assert!(!Claiming::of(dir.path()).may_have_made(Epoch(7)));
    }

    #[test]
    fn a_record_tells_whether_its_process_made_the_claim() {
        let claim = Claiming::begin(Epoch(6), Uuid::from_u128(1));
        let says = |instance| Holder {
            epoch: Epoch(7),
            record: Some(LeaseRecord {
                instance: Uuid::from_u128(instance),
                host: "here".to_owned(),
                endpoint: String::new(),
                state: LeaseState::Held,
                renewals: 1,
                since: StoreTime(0),
                note: None,
            }),
            remaining: Duration::ZERO,
        };
        assert!(claim.made(&says(1)) && !claim.made(&says(2)));
        assert!(!claim.made(&Holder { record: None, ..says(1) }));
    }
}
