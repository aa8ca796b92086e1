//! One flush at a time, shared by everybody who waits.
//!
//! Each WAL flush of the engine freezes a buffer of its own, and their PUTs are serial: sixteen
//! fsyncs that each flush cost sixteen PUTs one after the other. So one task flushes, and all that
//! arrive meanwhile share the next round.
//!
//! A round covers every batch that was handed over before it began. Rounds that have begun finish
//! or the engine ends; a caller whose deadline passes leaves its round running.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::{Engine, EngineError, Inner, Slot, maintenance, within};
use crate::clock::Deadline;
use crate::fault::{Mutant, at, points};

/// How long a flush for which no program waits leaves the next round to one for which a program does: a program
/// that syncs again and again comes within this time of its last answer, and would wait for the other round first.
const MEET: Duration = Duration::from_millis(10);

/// Proof that everything handed to the engine before it was asked for is in the bucket. Only a
/// finished flush makes one; the reply to fsync needs it.
#[must_use]
#[derive(Debug)]
pub struct Receipt(());

/// The rounds of one engine.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    /// Rounds begun so far. A leaf lock.
    begun: Mutex<u64>,
    wanted: watch::Sender<u64>,
    finished: watch::Sender<u64>,
}

impl Rounds {
    /// Asks for a round that begins after this call; returns its number.
    fn ask(&self) -> u64 {
        let begun = self.begun.lock();
        self.want(*begun + 1)
    }

    /// The next round, whoever asks for it.
    fn next(&self) -> u64 {
        *self.begun.lock() + 1
    }

    fn want(&self, round: u64) -> u64 {
        self.wanted.send_if_modified(|wanted| {
            let newer = round > *wanted;
            *wanted = (*wanted).max(round);
            newer
        });
        round
    }

    fn begin(&self) -> u64 {
        let mut begun = self.begun.lock();
        *begun += 1;
        *begun
    }
}

impl Engine {
    /// Makes everything durable that was handed over before this call. All callers that arrive
    /// while a flush is in flight share the next one. When the deadline passes the flush goes on.
    pub async fn flush(&self, deadline: Deadline) -> Result<Receipt, EngineError> {
        within(deadline, self.inner.join_flush()).await?
    }

    /// The same for work beside programs: shares the round of a program that syncs soon, so that none waits for two.
    pub async fn flush_beside(&self, deadline: Deadline) -> Result<Receipt, EngineError> {
        within(deadline, self.inner.join_flush_beside()).await?
    }
}

impl Inner {
    /// Waits until everything handed over so far is durable.
    pub(super) async fn join_flush(&self) -> Result<Receipt, EngineError> {
        self.alive()?;
        if self.has_nothing_to_flush() {
            return Ok(Receipt(()));
        }
        self.ended(self.rounds.ask()).await?;
        Ok(Receipt(()))
    }

    async fn join_flush_beside(&self) -> Result<Receipt, EngineError> {
        self.alive()?;
        if self.has_nothing_to_flush() {
            return Ok(Receipt(()));
        }
        let next = self.rounds.next();
        // The next round begins when the one that is under way has ended, and no sooner.
        self.ended(next - 1).await?;
        let mut wanted = self.rounds.wanted.subscribe();
        let asked = wanted.wait_for(|wanted| *wanted >= next);
        // Whether one came or not, this round is wanted now.
        drop(tokio::time::timeout(MEET, asked).await);
        self.rounds.want(next);
        self.ended(next).await?;
        Ok(Receipt(()))
    }

    fn has_nothing_to_flush(&self) -> bool {
        self.kept.lock().is_empty() || Mutant::SyncWithoutFlush.lives()
    }

    /// Waits until a round has ended.
    async fn ended(&self, round: u64) -> Result<(), EngineError> {
        let mut finished = self.rounds.finished.subscribe();
        let mut slot = self.slot.subscribe();
        loop {
            if *finished.borrow_and_update() >= round {
                return Ok(());
            }
            slot.mark_unchanged();
            self.alive()?;
            let changed = tokio::select! {
                changed = finished.changed() => changed,
                changed = slot.changed() => changed,
            };
            changed.map_err(|_| EngineError::Closed)?;
        }
    }

    /// One round: what was handed over before is durable when it returns.
    async fn flush_round(&self) -> Result<(), EngineError> {
        loop {
            self.hand_over().await?;
            let (handle, upto) = {
                let _order = self.order.lock().await;
                let Slot::Open(handle) = self.slot.borrow().clone() else { continue };
                (handle, self.kept.lock().last_handed())
            };
            let Some(upto) = upto else { return Ok(()) };
            at(points::FLUSH_BEFORE);
            let flushed = handle.db.flush().await;
            at(points::FLUSH_AFTER);
            match flushed {
                Ok(()) => {
                    self.kept.lock().drop_durable(upto);
                    self.durable.send_replace(upto);
                    if handle.db.manifest().l0().len() >= maintenance::URGENT_L0 {
                        self.maintain_soon.notify_one();
                    }
                    return Ok(());
                }
                Err(error) => self.report_broken(&handle, &error),
            }
        }
    }
}

/// Flushes whenever somebody waits. Ends with the engine.
pub(super) async fn run(inner: Arc<Inner>) {
    let mut wanted = inner.rounds.wanted.subscribe();
    let mut finished = 0;
    loop {
        let asked = tokio::select! {
            _ = inner.stop.cancelled() => return,
            asked = wanted.wait_for(|wanted| *wanted > finished) => asked.map(|_| ()),
        };
        if asked.is_err() {
            return;
        }
        let round = inner.rounds.begin();
        let flushed = tokio::select! {
            _ = inner.stop.cancelled() => return,
            flushed = inner.flush_round() => flushed,
        };
        // The only errors are final, and waiters learn of them from the state.
        if flushed.is_err() {
            return;
        }
        finished = round;
        inner.rounds.finished.send_replace(round);
    }
}
