//! What is due becomes rounds: while the requests of one are on their way, the next is planned.

use std::collections::HashMap;
use std::time::Duration;

use super::copies::MOST_COPIED;
use super::item::Item;
use super::learn::Learned;
use super::plan::{Brought, Plan, UNDECIDED};
use super::{Manner, SettleError, Settler, TIDY, chunk_size};
use crate::clock::boottime;
use crate::data::{DataError, PathMemo};
use crate::types::Ino;

/// What is gathered to be published together.
#[derive(Default)]
struct Round {
    manner: Manner,
    /// The inodes for which it is.
    due: Vec<Ino>,
    items: Vec<Item>,
    /// Of bodies in memory, bytes.
    bytes: u64,
    /// By the store, bytes.
    copied: u64,
    /// Those that cannot be planned before something is fetched for them.
    to_look: Vec<Ino>,
    /// Those of which a request is on its way just now.
    in_flight: Vec<Ino>,
    memo: PathMemo,
    parents: HashMap<Ino, Option<Ino>>,
}

impl Round {
    /// Whether there is nothing to do for it.
    fn is_empty(&self) -> bool {
        self.items.is_empty() && !self.due.contains(&TIDY)
    }
}

impl Settler {
    /// Decides what is ripe, publishes what is due, tidies. Begins no round when `go_on` says no:
    /// nobody who ends the volume waits for a whole backlog.
    pub(super) async fn step_while(&self, go_on: impl Fn() -> bool) -> Result<(), SettleError> {
        let _one = self.one_round.lock().await;
        let go_on = || go_on() && !self.at_its_end.is_cancelled();
        if !go_on() {
            return Ok(());
        }
        self.take_queue();
        if !self.is_crowded() {
            self.take_backlog().await?;
        }
        self.sweep_kept().await;
        self.watch_churn().await?;
        self.decide_ripe().await?;
        let mut next = Round::default();
        loop {
            if !go_on() {
                self.put_back(next, Duration::ZERO).await;
                return Ok(());
            }
            // Before anything is taken out: what is late decides.
            let manner = self.manner();
            let mut due = self.schedule.due(boottime(), manner.keys);
            if due.is_empty() && next.is_empty() {
                if !self.hurried() || !self.take_backlog().await? {
                    return Ok(());
                }
                due = self.schedule.due(boottime(), manner.keys);
            }
            next = self.rounds(next, due, manner, &go_on).await?;
        }
    }

    /// Publishes one round, tidies if that is due with it, and returns the next, which is planned meanwhile.
    async fn rounds(
        &self,
        round: Round,
        due: Vec<Ino>,
        manner: Manner,
        go_on: &impl Fn() -> bool,
    ) -> Result<Round, SettleError> {
        let Round { due: sent_for, items, manner: sent_in, .. } = round;
        let mut next = Round { due, manner, ..Round::default() };
        let flight = match self.launch(items, sent_in).await {
            Ok(flight) => flight,
            Err(error) => {
                self.later(sent_for);
                self.later(next.due);
                return Err(error);
            }
        };
        let flies = flight.is_some();
        let fly = async {
            match flight {
                Some(flight) => Box::pin(self.fly(flight)).await,
                None => Ok(()),
            }
        };
        let (flown, planned) = tokio::join!(fly, Box::pin(self.plan_due(&mut next, go_on)));
        let mut result = flown;
        // Keys to tidy wait for what is published before them: the object that is needed no more is often the source.
        if result.is_ok() && sent_for.contains(&TIDY) && !self.at_its_end.is_cancelled() {
            result = Box::pin(self.tidied()).await;
        }
        if result.is_err() {
            self.later(sent_for);
        }
        let mut result = result.and(planned);
        if result.is_ok() {
            result = Box::pin(self.look_and_plan(&mut next, go_on)).await;
        }
        // What was on its way is there now, or open.
        let again = boottime() + if flies { Duration::ZERO } else { UNDECIDED };
        std::mem::take(&mut next.in_flight)
            .into_iter()
            .for_each(|ino| self.schedule.by(ino, again));
        match result {
            Ok(()) => Ok(next),
            Err(error) => {
                self.put_back(next, self.pause()).await;
                Err(error)
            }
        }
    }

    async fn tidied(&self) -> Result<(), SettleError> {
        self.tidy_round().await?;
        self.sweep_tombs().await
    }

    /// How long what failed waits.
    fn pause(&self) -> Duration {
        self.volume.tuned().settle_after.max(Duration::from_secs(1))
    }

    fn later(&self, inodes: Vec<Ino>) {
        let later = boottime() + self.pause();
        inodes.into_iter().for_each(|ino| self.schedule.by(ino, later));
    }

    /// A round that is not published now.
    async fn put_back(&self, round: Round, pause: Duration) {
        let at = boottime() + pause;
        self.give_up(round.items).await;
        round.due.into_iter().for_each(|ino| self.schedule.by(ino, at));
    }

    /// Plans of what is due everything that needs nothing from the bucket. Nobody who ends the volume waits for that.
    async fn plan_due(
        &self,
        round: &mut Round,
        go_on: &impl Fn() -> bool,
    ) -> Result<(), SettleError> {
        let due: Vec<Ino> = round.due.iter().copied().filter(|ino| *ino != TIDY).collect();
        let (mut copied, mut began) = (0, boottime());
        for (number, ino) in due.into_iter().enumerate() {
            if number % chunk_size() == 0 {
                self.leaves_room(boottime() - began).await;
                began = boottime();
            }
            if !go_on() {
                self.schedule.by(ino, boottime());
                continue;
            }
            // Requests on their way are in the same task.
            tokio::task::yield_now().await;
            let Plan::Look = self.plan_one(ino, None, round).await? else { continue };
            if copied > MOST_COPIED {
                // A look at what this round does not copy any more would be one for nothing.
                self.schedule.by(ino, boottime());
                continue;
            }
            let inode = self.volume.inodes.get(ino);
            copied += inode.and_then(|inode| self.copied_bytes(&inode)).unwrap_or(0);
            round.to_look.push(ino);
        }
        Ok(())
    }

    /// Plans the others. Nothing is on its way then, so that what was seen is published at once.
    async fn look_and_plan(
        &self,
        round: &mut Round,
        go_on: &impl Fn() -> bool,
    ) -> Result<(), SettleError> {
        let to_look = std::mem::take(&mut round.to_look);
        if to_look.is_empty() {
            return Ok(());
        }
        if !go_on() {
            let now = boottime();
            to_look.into_iter().for_each(|ino| self.schedule.by(ino, now));
            return Ok(());
        }
        // Directories may have moved since.
        (round.memo, round.parents) = Default::default();
        // All at once: each is a request, and so is each body.
        let mut learned: Learned = Box::pin(self.learn(to_look.iter().copied(), true)).await?;
        let seen = to_look.iter().copied().filter(|ino| !learned.failed.contains_key(ino));
        let room = self.reach.bytes().saturating_sub(round.bytes);
        let mut bodies = Box::pin(self.bodies(seen, &learned.seen, room)).await?;
        for ino in to_look {
            match learned.failed.remove(&ino).map(SettleError::from) {
                Some(error) if error.is_of_one() => {
                    let Plan::Later(wait) = self.cannot_settle(ino, &error) else { continue };
                    self.schedule.by(ino, boottime() + wait);
                }
                Some(error) => return Err(error),
                None => {
                    let seen = learned.seen.contains(&ino);
                    let lost = learned.gone.contains(&ino) || learned.replaced.contains_key(&ino);
                    let brought = Brought { seen, lost, body: bodies.remove(&ino) };
                    self.plan_one(ino, Some(&brought), round).await?;
                }
            }
        }
        Ok(())
    }

    /// Adds what one inode needs to the round, unless that is full. Returns what is to be done besides.
    async fn plan_one(
        &self,
        ino: Ino,
        brought: Option<&Brought>,
        round: &mut Round,
    ) -> Result<Plan, SettleError> {
        let full = round.bytes > self.reach.bytes() || round.copied > MOST_COPIED;
        if full || round.items.len() >= round.manner.keys {
            self.schedule.by(ino, boottime());
            return Ok(Plan::Later(Duration::ZERO));
        }
        let plan = match self.look_at(ino, brought, round).await {
            // One file that cannot be read must not keep all others from resting.
            Err(error) if error.is_of_one() => self.cannot_settle(ino, &error),
            other => other?,
        };
        match plan {
            Plan::Later(wait) => self.schedule.by(ino, boottime() + wait),
            Plan::InFlight => round.in_flight.push(ino),
            Plan::Publish(planned) => {
                round.bytes += planned.iter().map(Item::bytes_held).sum::<u64>();
                round.copied += planned.iter().map(Item::bytes_copied).sum::<u64>();
                round.items.extend(planned);
                return Ok(Plan::Done);
            }
            Plan::Done | Plan::Gone | Plan::Look => {}
        }
        Ok(plan)
    }

    /// What one inode needs now; what needs nothing more is taken off the queue.
    async fn look_at(
        &self,
        ino: Ino,
        brought: Option<&Brought>,
        round: &mut Round,
    ) -> Result<Plan, SettleError> {
        let Round { memo, parents, .. } = round;
        if let Some(wait) = self.churn_wait(ino, parents).await? {
            return Ok(Plan::Later(wait));
        }
        let plan = match self.plan(ino, memo, brought).await {
            // Removed meanwhile.
            Err(SettleError::Data(DataError::Gone(gone))) if gone == ino => Plan::Gone,
            other => other?,
        };
        if matches!(plan, Plan::Done) {
            self.work_done(ino).await?;
        }
        if matches!(plan, Plan::Done | Plan::Gone) {
            self.unsettleable.lock().remove(ino);
        }
        Ok(plan)
    }
}
