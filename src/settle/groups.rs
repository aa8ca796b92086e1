//! Deletions that leave together: up to 256 keys by one request, where the store has such requests.
//!
//! Each key keeps its own intent, announced before, and gets its own outcome: one that the answer does not name is open
//! like one whose answer is lost. Where the store compares versions within a group, that is as sure as a condition on
//! each DELETE. Where it cannot compare at all, only those keys go along that a listing of just now shows as ours, as
//! before a single DELETE. Where it compares in single requests alone, those stay.

use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, StreamExt};

use super::outcome::{Outcome, absent};
use super::round::{Leaving, PARALLEL, SEND_TIMEOUT};
use super::seen::Seen;
use super::{LONGEST_PAUSE, Settler};
use crate::clock::boottime;
use crate::fault::{Mutant, at, points};
use crate::meta::records::IntentRec;
use crate::store::{Condition, Doomed, FEW, Groups, PutOutcome, StoreError, Verb, scratch_of};
use crate::types::{PutId, StoreTime};

/// Keys of one request: what the store has begun is done long before it can no longer arrive.
const GROUP: usize = 256;
/// The same where the store is to be done with it soon: others may replace meanwhile what nothing compares, and where
/// requests do not expire, a lost answer is waited for a long time.
const SHORT_GROUP: usize = 64;
/// A key that must wait is looked at again after this.
pub(super) const PAUSE: Duration = Duration::from_secs(2);

/// How deletions leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// One by one; the store compares.
    Alone,
    /// One by one, each looked at before.
    AloneSeen,
    /// In groups in which the store compares.
    Groups,
    /// In groups of what was seen to be ours just now.
    GroupsSeen,
}

impl Way {
    /// Whether it is this host that has to look what lies there.
    pub fn looks(self) -> bool {
        matches!(self, Way::AloneSeen | Way::GroupsSeen)
    }

    pub fn is_grouped(self) -> bool {
        matches!(self, Way::Groups | Way::GroupsSeen)
    }

    fn text(self) -> &'static str {
        match self {
            Way::Alone => "one by one; the store compares versions",
            Way::AloneSeen => "one by one, each looked at before; the store compares no versions",
            Way::Groups => "in groups; the store compares versions",
            Way::GroupsSeen => "in groups of what was just listed; the store compares no versions",
        }
    }
}

/// An announced deletion.
pub(super) type Deletion = (PutId, IntentRec);

impl Settler {
    /// Finds out what the store does with groups, if that is not known and so many keys may go.
    pub(super) async fn learn_groups(&self, keys: u64) {
        // In a bucket of objects alone nothing but files may be written.
        let may = self.volume.same_bucket;
        if keys >= FEW as u64 && may && self.volume.store.known_groups().is_none() {
            let scratch = scratch_of(&self.volume.state);
            tokio::select! {
                _ = self.volume.store.groups(&scratch) => {}
                () = self.at_its_end.cancelled() => {}
            }
        }
    }

    pub(super) fn way(&self, many: bool) -> Way {
        let volume = &self.volume;
        let careless = Mutant::DeleteUnconditional.lives();
        let compares = volume.capabilities.has(Verb::DeleteConditional) || careless;
        let groups = volume.store.known_groups().filter(|_| many).unwrap_or(Groups::No);
        match (groups, compares) {
            (Groups::Conditional, _) => Way::Groups,
            (Groups::Plain, false) => Way::GroupsSeen,
            (Groups::Plain | Groups::No, true) => Way::Alone,
            (Groups::No, false) => Way::AloneSeen,
        }
    }

    /// How so many deletions leave.
    pub(super) fn way_of(&self, keys: usize) -> Way {
        self.way(keys >= FEW)
    }

    /// Whether keys leave in groups, and none of them has to be looked at before.
    pub(super) fn deletes_in_groups(&self) -> bool {
        self.way(true) == Way::Groups
    }

    /// For the status.
    pub(super) fn deletions(&self) -> &'static str {
        self.way(true).text()
    }

    /// What leaves by one request each.
    pub(super) fn batches(&self, deletes: Vec<Deletion>, way: Way) -> Vec<Vec<Deletion>> {
        let size = match way {
            Way::Alone | Way::AloneSeen => 1,
            Way::Groups if self.volume.capabilities.has(Verb::Expiry) => GROUP,
            Way::Groups | Way::GroupsSeen => SHORT_GROUP,
        };
        deletes.chunks(size).map(<[Deletion]>::to_vec).collect()
    }

    pub(super) fn send_batch<'s>(
        &'s self,
        batch: Vec<Deletion>,
        announced: StoreTime,
        leaving: &'s Leaving,
        (way, seen): (Way, &'s Seen),
    ) -> BoxFuture<'s, Vec<(PutId, Outcome, Duration)>> {
        let alone = batch.len() == 1 || !way.is_grouped();
        Box::pin(async move {
            match alone {
                true => self.send_alone(&batch, announced, leaving, seen).await,
                false => self.send_group(&batch, announced, leaving, (way, seen)).await,
            }
        })
    }

    async fn send_alone(
        &self,
        batch: &[Deletion],
        announced: StoreTime,
        leaving: &Leaving,
        seen: &Seen,
    ) -> Vec<(PutId, Outcome, Duration)> {
        let mut sends = Vec::with_capacity(batch.len());
        for (put_id, intent) in batch {
            sends.push(async move {
                let outcome = self.send_delete((*put_id, intent), announced, leaving, seen).await;
                (*put_id, outcome, Duration::ZERO)
            });
        }
        stream::iter(sends).buffer_unordered(PARALLEL).collect().await
    }

    async fn send_group(
        &self,
        batch: &[Deletion],
        announced: StoreTime,
        leaving: &Leaving,
        (way, seen): (Way, &Seen),
    ) -> Vec<(PutId, Outcome, Duration)> {
        let time = self.in_time(announced).await.filter(|_| self.may_send());
        let Some((not_after, until)) = time else {
            return batch.iter().map(|(id, _)| (*id, Outcome::Not, Duration::ZERO)).collect();
        };
        let mut outcomes = Vec::with_capacity(batch.len());
        let (mut group, mut sent, mut unseen) = (Vec::new(), Vec::new(), Vec::new());
        for one in batch {
            let (put_id, intent) = one;
            let condition = match (&intent.expected, way, seen.fresh(&intent.key)) {
                (None, ..) => {
                    outcomes.push((*put_id, Outcome::Not, Duration::ZERO));
                    continue;
                }
                // An empty one may count as none, and what the group had no clear answer for goes by itself.
                (Some(expected), ..)
                    if expected.etag.is_empty() || self.hot.goes_alone(&intent.key) =>
                {
                    unseen.push(one.clone());
                    continue;
                }
                (Some(_), Way::Groups, _) if Mutant::DeleteUnconditional.lives() => Condition::None,
                (Some(expected), Way::Groups, _) => Condition::Is(expected.clone()),
                (Some(expected), _, Some(there)) if there.same(expected) => Condition::None,
                (Some(_), _, Some(_)) => {
                    outcomes.push((*put_id, Outcome::Refused, Duration::ZERO));
                    continue;
                }
                (Some(_), _, None) => {
                    unseen.push(one.clone());
                    continue;
                }
            };
            group.push(Doomed { key: intent.key.clone(), condition });
            sent.push(one);
        }
        let together = async {
            if group.is_empty() {
                return Vec::new();
            }
            sent.iter().for_each(|(put_id, _)| leaving.add(*put_id));
            let request = self.volume.store.delete_many(&group, Some(not_after), SEND_TIMEOUT);
            let answer = deleting(self.on_its_way(until, leaving, request)).await;
            match answer {
                None => sent.iter().map(|(id, _)| (*id, Outcome::Open, Duration::ZERO)).collect(),
                Some(Err(error)) => self.group_refused(&sent, &error),
                Some(Ok(answers)) => {
                    let mut judged = Vec::with_capacity(sent.len());
                    for ((put_id, intent), answer) in sent.iter().copied().zip(answers) {
                        judged.push(async move {
                            (*put_id, self.deleted(intent, answer).await, Duration::ZERO)
                        });
                    }
                    stream::iter(judged).buffer_unordered(PARALLEL).collect::<Vec<_>>().await
                }
            }
        };
        let alone = self.send_alone(&unseen, announced, leaving, seen);
        let (together, alone) = futures::join!(together, alone);
        outcomes.extend(together);
        outcomes.extend(alone);
        outcomes
    }

    /// Nothing of a group was done.
    fn group_refused(
        &self,
        sent: &[&Deletion],
        error: &StoreError,
    ) -> Vec<(PutId, Outcome, Duration)> {
        let goes_on = self.volume.store.known_groups() != Some(Groups::No);
        let outcome = if error.is_transient() || goes_on {
            self.volume.note_error(error);
            tracing::warn!(keys = sent.len(), %error, "objects are not deleted for now");
            let until = boottime() + if error.is_transient() { PAUSE } else { LONGEST_PAUSE };
            sent.iter().for_each(|(_, intent)| self.hot.spare(&intent.key, until));
            Outcome::Failed
        } else {
            // Whether it is the group that the store does not want, or a key, single requests show.
            sent.iter().for_each(|(_, intent)| {
                self.note_interruption(intent.ino, "the store deletes no groups");
            });
            Outcome::Not
        };
        sent.iter().map(|(put_id, _)| (*put_id, outcome.clone(), Duration::ZERO)).collect()
    }

    /// What an answer about a key means.
    pub(super) async fn deleted(&self, intent: &IntentRec, answer: PutOutcome) -> Outcome {
        let volume = &self.volume;
        match answer {
            PutOutcome::Won(_) => Outcome::Applied(absent()),
            PutOutcome::Lost => match volume.store.head(&intent.key, SEND_TIMEOUT).await {
                Ok(None) => Outcome::Applied(absent()),
                Ok(Some(_)) => Outcome::Refused,
                Err(_) => Outcome::Open,
            },
            PutOutcome::Failed(error) => {
                volume.note_error(&error);
                tracing::warn!(key = %intent.key, %error, "an object is not deleted for now");
                let pause = if error.is_transient() { PAUSE } else { LONGEST_PAUSE };
                self.hot.spare(&intent.key, boottime() + pause);
                Outcome::Failed
            }
            PutOutcome::Ambiguous(error) => {
                tracing::warn!(key = %intent.key, %error, "a deletion has no known outcome yet");
                self.hot.alone(&intent.key);
                Outcome::Open
            }
        }
    }
}

/// The step of a deletion, of one key or of several.
pub(super) async fn deleting<T>(request: impl Future<Output = T>) -> T {
    at(points::DELETE_BEFORE);
    let answer = request.await;
    at(points::DELETE_AFTER);
    answer
}
