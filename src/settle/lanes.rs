//! How many requests are on their way side by side: as many as the store takes. Each round tells whether the store asked
//! to slow down, and how long its requests took.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// At the beginning: with answers after 20 ms that is 1,600 requests a second, which every store takes.
const FIRST: usize = 32;
const LEAST: usize = 8;
/// Of one volume. More connections cost memory on both sides and hide hardly any more waiting.
const MOST: usize = 128;
/// Wider by so many at a time.
const STEP: usize = 16;
/// A round of fewer rows than this says nothing about what more lanes would do.
const ROWS: usize = 2;

#[derive(Debug)]
pub(super) struct Lanes {
    width: AtomicUsize,
    /// The shortest that the requests of a round took, at their median, microseconds. Forgotten slowly, because a
    /// store may become slower for good.
    shortest: AtomicU64,
}

impl Default for Lanes {
    fn default() -> Self {
        Lanes { width: AtomicUsize::new(FIRST), shortest: AtomicU64::new(0) }
    }
}

/// What became of the requests of one round.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// How long each took that was answered.
    pub took: Vec<Duration>,
    /// Whether the store asked to slow down.
    pub busy: bool,
}

impl Lanes {
    /// How many requests may be on their way side by side.
    pub fn width(&self) -> usize {
        self.width.load(Ordering::Relaxed)
    }

    pub fn learn(&self, mut answers: Answers) {
        let width = self.width();
        let set = |width: usize| self.width.store(width.clamp(LEAST, MOST), Ordering::Relaxed);
        if answers.busy {
            tracing::info!(
                from = width,
                "the store asks to slow down: fewer requests side by side"
            );
            set(width / 2);
            return;
        }
        if answers.took.is_empty() {
            return;
        }
        let middle = answers.took.len() / 2;
        let (_, median, _) = answers.took.select_nth_unstable(middle);
        let median = u64::try_from(median.as_micros()).unwrap_or(u64::MAX).max(1);
        let before = match self.shortest.load(Ordering::Relaxed) {
            0 => median,
            shortest => shortest,
        };
        let shortest = median.min(before + before.div_ceil(16));
        self.shortest.store(shortest, Ordering::Relaxed);
        if answers.took.len() < ROWS * width {
            return;
        }
        // More lanes that only make everybody wait longer are none.
        if median <= shortest.saturating_mul(3) / 2 {
            set(width + STEP);
        } else if median > shortest.saturating_mul(3) {
            set(width - width / 8);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(lanes: &Lanes, millis: u64) -> usize {
        let took = vec![Duration::from_millis(millis); 256];
        lanes.learn(Answers { took, busy: false });
        lanes.width()
    }

    #[test]
    fn it_widens_while_answers_come_as_fast_as_before() {
        let lanes = Lanes::default();
        assert_eq!(round(&lanes, 20), 48);
        assert_eq!(round(&lanes, 22), 64);
        // Slower than it was, but not by so much that it helps to send less.
        assert_eq!(round(&lanes, 40), 64);
        assert_eq!(round(&lanes, 20), 80);
        (0..100).for_each(|_| drop(round(&lanes, 20)));
        assert_eq!(lanes.width(), MOST);
    }

    #[test]
    fn it_narrows_where_requests_queue_up_and_halves_when_the_store_says_so() {
        let lanes = Lanes::default();
        round(&lanes, 20);
        assert_eq!(round(&lanes, 100), 42);
        let busy = || lanes.learn(Answers { took: vec![], busy: true });
        busy();
        assert_eq!(lanes.width(), 21);
        (0..10).for_each(|_| busy());
        assert_eq!(lanes.width(), LEAST);
        assert_eq!(round(&lanes, 20), LEAST + STEP);
    }

    #[test]
    fn a_store_that_became_slower_for_good_is_taken_as_it_is() {
        let lanes = Lanes::default();
        round(&lanes, 10);
        for _ in 0..40 {
            round(&lanes, 40);
        }
        assert!(lanes.width() > FIRST, "{}", lanes.width());
    }

    #[test]
    fn few_requests_say_nothing() {
        let lanes = Lanes::default();
        lanes.learn(Answers { took: vec![Duration::from_millis(1); 20], busy: false });
        assert_eq!(lanes.width(), FIRST);
        lanes.learn(Answers::default());
        assert_eq!(lanes.width(), FIRST);
    }
}
