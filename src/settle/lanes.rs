//! How many requests are on their way side by side: as many as the store takes. Each round tells whether the store asked
//! to slow down, and how long its requests took.

use std::time::Duration;

use parking_lot::Mutex;

/// At the beginning: with answers after 20 ms that is 1,600 requests a second, which every store takes.
const FIRST: usize = 32;
/// However busy the store is.
const LEAST: usize = 8;
/// Of one volume. More connections cost memory on both sides and hide hardly any more waiting.
const MOST: usize = 128;
/// At the beginning while programs wait for the volume, and at least, however much they wait.
const BESIDE: usize = 8;
const LEAST_BESIDE: usize = 4;
/// Wider by so many at a time.
const STEP: usize = 16;
/// A round of fewer rows than this says nothing about what more lanes would do.
const ROWS: usize = 2;
/// What fewer requests took is chance.
const SOME: usize = 16;
/// Of so many answers one that the store is busy is somebody else's trouble, and two are ours.
const BUSY_OF: usize = 50;
/// Where the store was busy nobody goes again before this: each refused request keeps its name for a minute or more.
const REMEMBERED: Duration = Duration::from_secs(10 * 60);

#[derive(Debug)]
pub(super) struct Lanes(Mutex<State>);

#[derive(Debug)]
struct State {
    width: usize,
    /// While programs wait.
    beside: usize,
    /// The shortest that the requests of a round took, at their median. Forgotten slowly, because a store may become
    /// slower for good.
    shortest: Option<Duration>,
    /// The same of rounds beside programs.
    shortest_beside: Option<Duration>,
    /// Until when, boot time, it is at most so wide.
    most: Option<(usize, Duration)>,
}

impl Default for Lanes {
    fn default() -> Self {
        Lanes(Mutex::new(State {
            width: FIRST,
            beside: BESIDE,
            shortest: None,
            shortest_beside: None,
            most: None,
        }))
    }
}

/// What became of the requests of one round.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// How long each took that was applied and small: others take their time for other reasons.
    pub took: Vec<Duration>,
    pub answered: usize,
    /// To how many of them the store answered that it is busy.
    pub busy: usize,
}

impl Lanes {
    /// How many requests may be on their way side by side; `beside` programs that wait.
    pub fn width(&self, beside: bool) -> usize {
        let state = self.0.lock();
        if beside { state.beside.min(state.width) } else { state.width }
    }

    /// `now`: boot time.
    pub fn learn(&self, mut answers: Answers, beside: bool, now: Duration) {
        let mut state = self.0.lock();
        let width = state.width;
        if answers.busy >= 2 && answers.busy * BUSY_OF >= answers.answered {
            tracing::info!(width, "the store asks to slow down: fewer requests side by side");
            let most = width.saturating_sub(STEP).max(LEAST);
            state.most = Some((most, now + REMEMBERED));
            state.width = (width / 2).max(LEAST);
            state.beside = (state.beside / 2).max(LEAST_BESIDE);
            return;
        }
        if answers.took.len() < SOME {
            return;
        }
        let middle = answers.took.len() / 2;
        let median = *answers.took.select_nth_unstable(middle).1;
        let State { shortest, shortest_beside, .. } = &mut *state;
        let known = if beside { shortest_beside } else { shortest };
        let shortest = match *known {
            None => median,
            Some(before) => median.min(before + before / 16),
        };
        *known = Some(shortest);
        if beside {
            // What queues up behind each other queues up before the requests of programs, too.
            if median > shortest * 6 / 5 {
                state.beside = (state.beside * 3 / 4).max(LEAST_BESIDE);
            } else if median <= shortest * 11 / 10 && answers.took.len() >= ROWS * state.beside {
                state.beside = (state.beside + state.beside / 4).min(width);
            }
            return;
        }
        // More lanes that only make everybody wait longer are none.
        if median > shortest * 3 && answers.took.len() >= width && width > FIRST {
            state.width = (width - width / 8).max(FIRST);
        } else if median <= shortest * 3 / 2 && answers.took.len() >= ROWS * width {
            state.most = state.most.filter(|(_, until)| *until > now);
            let most = state.most.map_or(MOST, |(most, _)| most);
            state.width = (width + STEP).min(most.max(width));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: Duration = Duration::from_secs(12 * 3600);

    fn round(lanes: &Lanes, millis: u64) -> usize {
        answered(lanes, 256, millis)
    }

    fn answered(lanes: &Lanes, many: usize, millis: u64) -> usize {
        let took = vec![Duration::from_millis(millis); many];
        lanes.learn(Answers { took, answered: many, busy: 0 }, false, NOON);
        lanes.width(false)
    }

    fn busy(lanes: &Lanes, busy: usize) -> usize {
        lanes.learn(Answers { took: vec![], answered: 256, busy }, false, NOON);
        lanes.width(false)
    }

    #[test]
    fn it_widens_while_answers_come_as_fast_as_before() {
        let lanes = Lanes::default();
        assert_eq!(round(&lanes, 20), 48);
        assert_eq!(round(&lanes, 22), 64);
        // Slower than it was, but not by so much that it helps to send less.
        assert_eq!(round(&lanes, 40), 64);
        for _ in 0..100 {
            round(&lanes, 20);
        }
        assert_eq!(lanes.width(false), MOST);
    }

    #[test]
    fn it_narrows_where_requests_queue_up_but_not_below_what_every_store_takes() {
        let lanes = Lanes::default();
        (0..10).for_each(|_| assert!(round(&lanes, 20) > FIRST));
        assert_eq!(answered(&lanes, 255, 100), 112);
        for _ in 0..20 {
            answered(&lanes, 255, 1000);
        }
        assert_eq!(lanes.width(false), FIRST);
    }

    #[test]
    fn where_the_store_was_busy_it_does_not_go_again_for_some_time() {
        let lanes = Lanes::default();
        (0..3).for_each(|_| assert!(round(&lanes, 20) > FIRST));
        assert_eq!((lanes.width(false), busy(&lanes, 6)), (80, 40));
        for _ in 0..100 {
            assert!(round(&lanes, 20) <= 64);
        }
        assert_eq!(lanes.width(false), 64);
        let took = vec![Duration::from_millis(20); 256];
        lanes.learn(Answers { took, answered: 256, busy: 0 }, false, NOON + REMEMBERED);
        assert_eq!(lanes.width(false), 80);
        (0..10).for_each(|_| assert!(busy(&lanes, 256) >= LEAST));
        assert_eq!(lanes.width(false), LEAST);
    }

    #[test]
    fn a_request_that_fails_now_and_then_changes_nothing() {
        let lanes = Lanes::default();
        (0..100).for_each(|_| assert_eq!(busy(&lanes, 1), FIRST));
        assert_eq!(busy(&lanes, 5), FIRST);
    }

    #[test]
    fn a_store_that_became_slower_for_good_is_taken_as_it_is() {
        let lanes = Lanes::default();
        round(&lanes, 10);
        for _ in 0..40 {
            round(&lanes, 40);
        }
        assert!(lanes.width(false) > FIRST, "{}", lanes.width(false));
    }

    #[test]
    fn beside_programs_there_are_few_as_long_as_requests_queue_up() {
        let lanes = Lanes::default();
        let beside = |millis| {
            let took = vec![Duration::from_millis(millis); 256];
            lanes.learn(Answers { took, answered: 256, busy: 0 }, true, NOON);
            lanes.width(true)
        };
        assert_eq!(lanes.width(true), BESIDE);
        assert_eq!((beside(20), beside(20)), (10, 12));
        // Neither slower nor as fast as it was.
        assert_eq!(beside(24), 12);
        assert_eq!(beside(30), 9);
        for _ in 0..10 {
            assert!(beside(1000) >= LEAST_BESIDE);
        }
        assert_eq!(lanes.width(true), LEAST_BESIDE);
        assert_eq!(
            lanes.width(false),
            FIRST,
            "what was learned beside programs counts there alone"
        );
        for _ in 0..100 {
            beside(20);
        }
        assert_eq!(lanes.width(true), FIRST);
    }

    #[test]
    fn few_requests_say_nothing() {
        let lanes = Lanes::default();
        for _ in 0..40 {
            round(&lanes, 40);
            assert_eq!(answered(&lanes, SOME - 1, 1), lanes.width(false));
        }
        assert_eq!(lanes.width(false), MOST);
        lanes.learn(Answers::default(), false, NOON);
        assert_eq!(lanes.width(false), MOST);
    }
}
