//! Whether a volume is in use on this host, between what gives it back and what takes it into use again.
//!
//! Drains and mounts overlap: a drain takes as long as the uplink needs, its request may even come after that of the mount
//! which made it void, and who asked may have gone. So what a drain does to a volume that nobody uses is one step here
//! with the question whether that is so, and a worker that ends is never said to be in use.

use tokio::sync::watch;

/// How things stand.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::worker) struct Now {
    /// The worker ends.
    closing: bool,
    /// How many just take the volume back into use.
    resuming: u32,
    /// How often that was begun.
    uses: u64,
    /// When the last of them was asked for.
    wanted: u64,
    drained: Option<bool>,
}

impl Now {
    /// A drain came to its end and nobody has used the volume since: whether everything is in the bucket.
    pub fn drained(&self) -> Option<bool> {
        self.drained
    }
}

#[derive(Debug)]
pub(in crate::worker) struct Turn(watch::Sender<Now>);

impl Default for Turn {
    fn default() -> Self {
        Turn(watch::Sender::new(Now::default()))
    }
}

/// A drain that is under way: the use that it ends, if it ends one.
#[derive(Debug, Clone, Copy)]
pub(in crate::worker) struct Draining(Option<u64>);

impl Turn {
    /// Follows [`Now::drained`].
    pub fn seen(&self) -> watch::Receiver<Now> {
        self.0.subscribe()
    }

    /// A drain begins that was asked for then; with `and`, unless it is void already.
    pub fn drains(&self, asked: u64, and: impl FnOnce()) -> Draining {
        let mut draining = Draining(None);
        self.0.send_if_modified(|now| {
            if asked >= now.wanted && now.resuming == 0 {
                draining = Draining(Some(now.uses));
                and();
            }
            false
        });
        draining
    }

    /// Whether nobody took the volume back into use since the drain began.
    pub fn is_unused(&self, draining: Draining) -> bool {
        draining.0 == Some(self.0.borrow().uses)
    }

    /// The end of a drain; with `and`, if it is [unused](Self::is_unused). What that begins comes before anything that
    /// taking the volume back begins.
    pub fn drained<T>(
        &self,
        draining: Draining,
        committed: bool,
        and: impl FnOnce() -> T,
    ) -> Option<T> {
        let mut done = None;
        self.0.send_if_modified(|now| {
            let unused = draining.0 == Some(now.uses);
            if unused {
                done = Some(and());
                now.drained = Some(committed);
            }
            unused
        });
        done
    }

    /// Somebody takes the volume back into use, and asked for it then. `None` when the worker ends.
    pub fn resumes(&self, asked: u64) -> Option<Resuming<'_>> {
        let mut begins = false;
        self.0.send_if_modified(|now| {
            begins = !now.closing;
            if !begins {
                return false;
            }
            now.resuming += 1;
            now.uses += 1;
            now.wanted = now.wanted.max(asked);
            now.drained.take().is_some()
        });
        // Made only then: its end counts down.
        begins.then(|| Resuming(self))
    }

    /// The worker ends because nobody came back; false when somebody did, or just does.
    pub fn closes_unused(&self) -> bool {
        let mut closes = false;
        self.0.send_if_modified(|now| {
            now.closing |= now.resuming == 0 && now.drained.is_some();
            closes = now.closing;
            false
        });
        closes
    }

    /// The worker ends.
    pub fn closes(&self) {
        self.0.send_if_modified(|now| {
            now.closing = true;
            false
        });
    }
}

/// Somebody takes the volume back into use.
pub(in crate::worker) struct Resuming<'t>(&'t Turn);

impl Resuming<'_> {
    /// It is in use; with `and`, unless the worker was told to end meanwhile.
    pub fn done(self, and: impl FnOnce()) -> bool {
        let mut done = false;
        self.0.0.send_if_modified(|now| {
            done = !now.closing;
            if done {
                and();
            }
            false
        });
        done
    }
}

impl Drop for Resuming<'_> {
    fn drop(&mut self) {
        self.0.0.send_if_modified(|now| {
            now.resuming -= 1;
            false
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drained(turn: &Turn, draining: Draining) -> bool {
        turn.drained(draining, true, || ()).is_some()
    }

    #[test]
    fn a_drain_gives_back_what_nobody_used_since_and_nothing_else() {
        let turn = Turn::default();
        let (first, second) = (turn.drains(1, || ()), turn.drains(1, || ()));
        assert!(drained(&turn, second));
        assert_eq!(turn.seen().borrow().drained(), Some(true));
        let resuming = turn.resumes(2).unwrap();
        assert!(!turn.closes_unused(), "somebody just comes back");
        assert!(resuming.done(|| ()));
        assert!(!turn.is_unused(first) && !drained(&turn, first), "of before");
        assert_eq!(turn.seen().borrow().drained(), None);
        assert!(!turn.closes_unused(), "it is in use");
        // Asked for before it was taken back, and only here now.
        let late = turn.drains(1, || panic!("it is void"));
        assert!(!drained(&turn, late));
        assert!(drained(&turn, turn.drains(3, || ())));
        assert!(turn.closes_unused());
        assert!(turn.resumes(4).is_none(), "it ends");
    }

    #[test]
    fn a_worker_that_was_told_to_end_is_not_in_use_again() {
        let turn = Turn::default();
        assert!(drained(&turn, turn.drains(1, || ())));
        let resuming = turn.resumes(2).unwrap();
        let during = turn.drains(3, || panic!("somebody just comes back"));
        turn.closes();
        assert!(!resuming.done(|| panic!("it ends")));
        assert!(!drained(&turn, during));
    }
}
