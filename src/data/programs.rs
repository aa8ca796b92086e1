//! Whether programs wait for a volume now. What goes on beside them leaves them the processors and the link then.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::clock::boottime;

/// One who waited a moment ago waits again soon: a program that syncs or reads again and again.
const LATELY: Duration = Duration::from_millis(200);

/// Requests of programs that could not be answered at once.
#[derive(Debug, Default)]
pub struct Programs {
    waiting: AtomicUsize,
    /// When the last of them was answered, boot time in milliseconds; 0 is never.
    answered: AtomicU64,
}

/// One of them, until it is answered.
#[derive(Debug)]
pub struct Waiting(Arc<Programs>);

impl Programs {
    pub fn begin_waiting(self: &Arc<Self>) -> Waiting {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(Arc::clone(self))
    }

    /// How many wait now.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Whether one waits, or did a moment ago.
    pub fn wait(&self) -> bool {
        let lately = || {
            let answered = Duration::from_millis(self.answered.load(Ordering::Relaxed));
            !answered.is_zero() && boottime().saturating_sub(answered) < LATELY
        };
        self.waiting() > 0 || lately()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let now = boottime().as_millis() as u64;
        self.0.answered.store(now, Ordering::Relaxed);
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_waits_until_a_moment_after_its_last_request() {
        let programs = Arc::new(Programs::default());
        assert!(!programs.wait());
        let (one, other) = (programs.begin_waiting(), programs.begin_waiting());
        drop(one);
        assert!(programs.wait());
        drop(other);
        assert!(programs.wait());
        assert_eq!(programs.waiting(), 0);
        let before = boottime().saturating_sub(LATELY).as_millis() as u64;
        programs.answered.store(before.max(1), Ordering::Relaxed);
        assert!(!programs.wait());
    }
}
