//! Judging somebody else's lease.

use std::fmt;
use std::time::Duration;

use super::{LEASE, LeaseError, LeaseRecord, LeaseState, record_key};
use crate::clock;
use crate::fault::Mutant;
use crate::store::{StoreBackend, StoreErrorKind};
use crate::types::{Epoch, KeyPrefix, StoreTime};

/// Whether an epoch may be claimed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    Free(Free),
    Held(Holder),
}

/// Why it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Free {
    /// Nobody ever wrote.
    NeverHeld,
    Released,
    Yielding,
    /// Last written a lease ago by the store's own clock.
    Expired,
    /// Did not change for a lease while this host watched.
    Silent,
    /// The owner of the epoch wrote no record for a lease while this host watched.
    NoRecord,
}

/// Who keeps us from it. Its text is the answer to the refused host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub epoch: Epoch,
    /// `None` if the owner of the epoch has not said who it is (yet).
    pub record: Option<LeaseRecord>,
    /// If it shows no sign of life, the volume is free after this.
    pub remaining: Duration,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.remaining.as_secs() + 1;
        let Some(record) = &self.record else {
            return write!(
                f,
                "another host has just taken this volume and not yet said who it is; try again \
                 shortly (without a sign of it the volume is free in {seconds} s)"
            );
        };
        write!(f, "host {} holds this volume", record.host)?;
        if let Ok(since) = jiff::Timestamp::from_millisecond(record.since.0) {
            write!(f, " since {since:.0}")?;
        }
        if let Some(note) = &record.note {
            write!(f, " ({note})")?;
        }
        write!(
            f,
            "; stop the containers that use it there, or, if that host is gone, try again in \
             {seconds} s, when it is taken over by itself (`s3vol takeover` does that now)"
        )
    }
}

/// What one challenger has seen of a volume's lease so far. Keep it between judgements.
#[derive(Debug, Default)]
pub struct Observation {
    seen: Option<(Seen, Duration)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    epoch: Epoch,
    sign_of_life: Option<(uuid::Uuid, u64)>,
}

impl Observation {
    /// How long this has been all there is to see, by this host's monotonic time.
    fn unchanged_for(&mut self, seen: Seen, now: Duration) -> Duration {
        match &self.seen {
            Some((before, at)) if *before == seen => now.saturating_sub(*at),
            _ => {
                self.seen = Some((seen, now));
                Duration::ZERO
            }
        }
    }
}

/// Judges the owner of `epoch`, the writer epoch that the bucket shows. Call it again with the same
/// `observation` until it is free or the caller's patience ends.
pub async fn judge(
    store: &dyn StoreBackend,
    state: &KeyPrefix,
    epoch: Epoch,
    observation: &mut Observation,
    timeout: Duration,
) -> Result<Judgement, LeaseError> {
    let asked = clock::boottime();
    judge_at(store, state, epoch, observation, timeout, asked).await
}

/// `asked` is the monotonic time before the store is asked.
pub(super) async fn judge_at(
    store: &dyn StoreBackend,
    state: &KeyPrefix,
    epoch: Epoch,
    observation: &mut Observation,
    timeout: Duration,
    asked: Duration,
) -> Result<Judgement, LeaseError> {
    if epoch == Epoch(0) {
        return Ok(Judgement::Free(Free::NeverHeld));
    }
    let found = match store.get(&record_key(state, epoch), None, None, timeout).await {
        Ok(found) => found,
        Err(error) if error.kind == StoreErrorKind::NotFound => {
            let silent = observation.unchanged_for(Seen { epoch, sign_of_life: None }, asked);
            return Ok(match LEASE.checked_sub(silent).filter(|left| !left.is_zero()) {
                None => Judgement::Free(Free::NoRecord),
                Some(remaining) => Judgement::Held(Holder { epoch, record: None, remaining }),
            });
        }
        Err(error) => return Err(LeaseError::Store(error)),
    };
    let mut record: LeaseRecord = serde_json::from_slice(&found.data)
        .map_err(|source| LeaseError::Unreadable { epoch, source })?;
    // Messages show it, and terminals obey what is not text.
    record.host = crate::sys::shown(&record.host);
    match record.state {
        LeaseState::Released => return Ok(Judgement::Free(Free::Released)),
        LeaseState::Yielding => return Ok(Judgement::Free(Free::Yielding)),
        LeaseState::Held => {}
    }
    let sign_of_life = Some((record.instance, record.renewals));
    let silent = observation.unchanged_for(Seen { epoch, sign_of_life }, asked);
    let mut remaining = LEASE.saturating_sub(silent);
    if remaining.is_zero() {
        return Ok(Judgement::Free(Free::Silent));
    }
    if let Some(modified) = found.info.version.modified {
        // The Date of the answer just read.
        let now = match Mutant::LeaseByWallClock.lives() {
            true => StoreTime(clock::now().secs * 1000),
            false => store.now(timeout).await.map_err(LeaseError::Store)?,
        };
        remaining = remaining.min(LEASE.saturating_sub(age(modified, now)));
        if remaining.is_zero() {
            return Ok(Judgement::Free(Free::Expired));
        }
    }
    Ok(Judgement::Held(Holder { epoch, record: Some(record), remaining }))
}

fn age(modified: StoreTime, now: StoreTime) -> Duration {
    Duration::from_millis(u64::try_from(now.0.saturating_sub(modified.0)).unwrap_or(0))
}
