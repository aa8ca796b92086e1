//! One flush at a time, shared by everybody who waits.
//!
//! Each WAL flush of the engine freezes a buffer of its own, and their PUTs are serial: sixteen
//! fsyncs that each flush cost sixteen PUTs one after the other. So one task flushes, and all that
//! arrive meanwhile share the next round.
//!
//! A round covers every batch that was handed over before it began. Rounds that have begun finish
//! or the engine ends; a caller whose deadline passes leaves its round running.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::{EngineError, Inner, Slot, maintenance};
use crate::fault::{Mutant, at, points};

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
        let round = *begun + 1;
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

impl Inner {
    /// Waits until everything handed over so far is durable.
    pub(super) async fn join_flush(&self) -> Result<Receipt, EngineError> {
        self.alive()?;
        if self.kept.lock().is_empty() || Mutant::SyncWithoutFlush.lives() {
            return Ok(Receipt(()));
        }
        let mut finished = self.rounds.finished.subscribe();
        let mut slot = self.slot.subscribe();
        let round = self.rounds.ask();
        loop {
            if *finished.borrow_and_update() >= round {
                return Ok(Receipt(()));
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
