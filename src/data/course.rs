//! How a file is read: as one or more sequential streams, or at random.
//!
//! The window ahead of a stream is at most twice what it has read, so that a reader that stops wastes little; it grows
//! while the reader waits, as long as that makes it faster. Random reads wait for each piece, until that has cost
//! about as much as fetching the file.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

/// The first window ahead of a stream, bytes.
pub const FIRST: u64 = 512 << 10;
/// The largest, bytes.
const MOST: u64 = 128 << 20;
/// A window up to this grows even if that makes its reader no faster, bytes.
const USUAL: u64 = 16 << 20;
/// Reads this close are one stream: the kernel sends several at once, in any order, bytes.
pub const SLACK: u64 = 2 << 20;
/// A run is a stream once it has read this much, bytes.
const IN_ORDER: u64 = 256 << 10;
/// Readers of one file that are told apart.
pub const RUNS: usize = 4;
/// Fetching this much is worth one wait, bytes.
const WORTH: u64 = 32 << 20;
/// Fewer waits say nothing.
const FEW: f64 = 8.0;
/// Waits this long ago count half.
const HALF: Duration = Duration::from_secs(10);
/// How often the waits before a whole-file fetch double at most.
const MOST_DOUBLED: u32 = 8;
/// A larger window has to be this much faster.
const BETTER: f64 = 1.1;
/// The largest small file, bytes.
pub const SMALL: u64 = 256 << 10;
/// A random read, and the largest window of read-ahead, bytes.
const RANDOM_WINDOW: u64 = 64 << 10;
const LARGEST_WINDOW: u64 = 16 << 20;

/// One reader's run through the file.
#[derive(Debug, Clone, Copy, Default)]
struct Run {
    start: u64,
    end: u64,
    read: u64,
    /// The window ahead of it.
    reach: u64,
    used: u64,
    /// When the window was judged last: what had been read, the time, and the rate before it.
    judged: u64,
    at: Duration,
    rate: f64,
}

impl Run {
    fn takes(&self, range: &Range<u64>) -> bool {
        self.read > 0 && range.start <= self.end + SLACK && range.start + SLACK >= self.end
    }

    fn in_order(&self) -> bool {
        // A run at the start of the file is in order until proven otherwise.
        let begun = self.start == 0 && self.read > 0 && self.end <= SLACK;
        (begun || self.read >= IN_ORDER) && self.read * 2 >= self.end - self.start
    }

    /// How much may be prefetched for what was read.
    fn worth(&self, careful: bool) -> u64 {
        if careful { self.read } else { self.read * 2 }
    }
}

/// The runs through one file.
#[derive(Debug, Default)]
pub struct Course {
    runs: [Run; RUNS],
    reads: u64,
    /// Random reads that waited, old ones counted less, and when that was counted.
    waits: f64,
    at: Duration,
    /// Attempts to fetch the whole file: each doubles the waits that the next one takes.
    wholes: u32,
}

impl Course {
    /// Notes a read. Returns the number of the run that it belongs to.
    pub fn read(&mut self, range: &Range<u64>, now: Duration) -> usize {
        self.reads += 1;
        let used = self.reads;
        if let Some(at) = self.runs.iter().position(|run| run.takes(range)) {
            let run = &mut self.runs[at];
            run.used = used;
            run.read += range.end.saturating_sub(run.end.max(range.start));
            run.end = run.end.max(range.end);
            return at;
        }
        let oldest = (0..RUNS).min_by_key(|at| self.runs[*at].used).unwrap_or(0);
        let read = range.end - range.start;
        let start = range.start;
        self.runs[oldest] = Run { start, end: range.end, read, used, at: now, ..Run::default() };
        oldest
    }

    /// Whether a read here is part of a stream.
    pub fn in_order(&self, at: u64) -> bool {
        self.runs.iter().any(|run| run.in_order() && run.takes(&(at..at)))
    }

    /// The streams: the number of the run, and where it is.
    pub fn readers(&self) -> impl Iterator<Item = (usize, u64)> {
        let runs = self.runs.iter().enumerate().filter(|(_, run)| run.in_order());
        runs.map(|(number, run)| (number, run.end))
    }

    /// The stream that comes here next: the number of its run, and where it is.
    pub fn comes_to(&self, at: u64) -> Option<(usize, u64)> {
        let before = |run: &Run| run.in_order() && run.end <= at.saturating_add(SLACK);
        let runs = self.runs.iter().enumerate().filter(|(_, run)| before(run));
        runs.max_by_key(|(_, run)| run.end).map(|(number, run)| (number, run.end))
    }

    /// What to prefetch for this reader; `None` if it is no stream. `most` is what there is room for; `careful`:
    /// wasted bytes cost money.
    pub fn ahead(&self, run: usize, most: u64, careful: bool) -> Option<Range<u64>> {
        let run = &self.runs[run];
        // A reader that never waits, but has read a lot, will go on: fewer requests do for it.
        let usual = FIRST.min(run.worth(careful)).max(USUAL.min(run.read / 2));
        run.in_order().then(|| run.end..run.end + run.reach.max(usual.min(most)))
    }

    /// The reader of this run has to wait. `most` and `careful` are as above.
    pub fn waits(&mut self, run: usize, now: Duration, most: u64, careful: bool) {
        let run = &mut self.runs[run];
        if !run.in_order() {
            self.waits = self.waits_at(now) + 1.0;
            self.at = now;
            return;
        }
        let read = run.read - run.judged;
        if read < run.reach {
            return;
        }
        let rate = read as f64 / now.saturating_sub(run.at).as_secs_f64().max(1e-6);
        if run.reach <= USUAL || rate > run.rate * BETTER {
            let worth = run.worth(careful);
            run.reach = (run.reach * 2).clamp(FIRST, MOST).min(worth).min(most).max(run.reach);
        }
        (run.judged, run.at, run.rate) = (run.read, now, rate);
    }

    fn waits_at(&self, now: Duration) -> f64 {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        self.waits * 0.5_f64.powf(passed / HALF.as_secs_f64())
    }

    /// Whether a file of this size should be fetched whole: enough random reads waited.
    pub fn wants_all(&self, size: u64, now: Duration) -> bool {
        let waits = self.waits_at(now) * 0.5_f64.powf(f64::from(self.wholes));
        waits >= FEW && size as f64 <= waits * WORTH as f64
    }

    /// A whole-file fetch begins, or had no room or time. The next takes twice as many waits.
    pub fn tried_all(&mut self) {
        self.waits = 0.0;
        self.wholes = (self.wholes + 1).min(MOST_DOUBLED);
    }
}

/// How a file is read, and what to prefetch of it.
#[derive(Debug, Default)]
pub struct Ahead {
    pub(super) course: Course,
    /// What is still to be started: ahead of each run, and of the whole file.
    pub(super) goals: [Range<u64>; RUNS + 1],
    /// The size of a part of each, bytes.
    pub(super) parts: [u64; RUNS + 1],
    /// Boot time of the last read.
    pub(super) read_at: Duration,
    pub(super) running: bool,
    /// Prefetch pauses until then (boot time), and for how long.
    pub(super) paused_until: Duration,
    pub(super) pause: Duration,
    /// Notified when there is more to start.
    pub(super) more: Arc<Notify>,
}

impl Ahead {
    pub(super) fn course(&self) -> &Course {
        &self.course
    }
}

/// How the base of one inode is being read.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReadAhead {
    /// Where the last fetch ended: the next sequential miss starts there.
    next: u64,
    window: u64,
}

impl ReadAhead {
    /// Whether the last reads were sequential.
    pub(super) fn is_stream(&self) -> bool {
        self.window > RANDOM_WINDOW
    }

    /// `most` keeps a small cache from being filled by one reader.
    pub fn window(&mut self, range: &Range<u64>, end_of_file: u64, most: u64) -> Range<u64> {
        let len = range.end - range.start;
        // The kernel reads ahead with several requests at once: one that lies in the window that is being
        // fetched is part of the same stream, and must not reset it.
        if range.start < self.next && range.start + self.window >= self.next {
            return range.start..range.end;
        }
        self.window = if range.start == self.next {
            (self.window * 2).clamp(FIRST, LARGEST_WINDOW)
        } else {
            RANDOM_WINDOW
        };
        self.window = self.window.min(most);
        let end = (range.start + self.window.max(len)).min(end_of_file).max(range.end);
        self.next = end;
        range.start..end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_grows_its_window_also_when_its_requests_overlap() {
        let mut ahead = ReadAhead::default();
        let end = 256 << 20;
        assert_eq!(ahead.window(&(0..131_072), end, LARGEST_WINDOW), 0..FIRST);
        // Sent by the kernel before the first answer.
        assert_eq!(ahead.window(&(131_072..262_144), end, LARGEST_WINDOW), 131_072..262_144);
        let next = ahead.window(&(FIRST..FIRST + 4096), end, LARGEST_WINDOW);
        assert_eq!(next, FIRST..3 * FIRST);
    }

    #[test]
    fn a_random_read_fetches_little() {
        let mut ahead = ReadAhead::default();
        ahead.window(&(0..4096), 1 << 30, LARGEST_WINDOW);
        let there = 100 << 20;
        let range = ahead.window(&(there..there + 4096), 1 << 30, LARGEST_WINDOW);
        assert_eq!(range, there..there + RANDOM_WINDOW);
    }

    const MS: Duration = Duration::from_millis(1);

    /// Reads in order in pieces of 128 KiB, with a wait wherever nothing was prefetched; `rate` gives bytes per
    /// millisecond by how much is in flight. Returns the last window, and the most that was fetched per byte read.
    fn stream(total: u64, rate: impl Fn(u64) -> u64) -> (u64, f64) {
        let (mut course, mut now, mut there) = (Course::default(), MS, 0);
        let mut wasted: f64 = 0.0;
        for at in (0..total).step_by(128 << 10) {
            let range = at..at + (128 << 10);
            let run = course.read(&range, now);
            if there < range.end {
                course.waits(run, now, u64::MAX, false);
                let reach = course.ahead(run, u64::MAX, false).map_or(0, |ahead| ahead.end - at);
                now += Duration::from_micros(reach * 1000 / rate(reach));
                there = at + reach;
                wasted = wasted.max(there as f64 / range.end as f64);
            }
        }
        (course.runs[0].reach, wasted)
    }

    #[test]
    fn what_is_fetched_ahead_grows_while_that_makes_the_reader_faster() {
        // 20 ms per round trip, unlimited bandwidth.
        let (reach, wasted) = stream(1 << 30, |reach| reach / 20);
        assert_eq!(reach, MOST);
        assert!(wasted <= 5.1, "{wasted}");
        // A link of 50 MB/s: more than 1 MB in flight gains nothing.
        let (reach, _) = stream(256 << 20, |reach| (reach / 20).min(50 << 10));
        assert_eq!(reach, 2 * USUAL);
    }

    #[test]
    fn reads_that_overtake_each_other_are_in_order() {
        let mut course = Course::default();
        for pair in 0..100_u64 {
            for piece in [pair * 2 + 1, pair * 2] {
                let at = piece << 17;
                assert_eq!(course.read(&(at..at + (1 << 17)), MS), 0, "{piece}");
            }
        }
        assert_eq!(course.ahead(0, MOST, false).map(|ahead| ahead.start), Some(200 << 17));
    }

    #[test]
    fn two_readers_of_one_file_are_both_in_order() {
        let mut course = Course::default();
        for piece in 0..8_u64 {
            for start in [0, 1 << 30] {
                let at = start + (piece << 17);
                let run = course.read(&(at..at + (1 << 17)), MS);
                assert_eq!(run, usize::from(start > 0));
            }
        }
        assert!((0..2).all(|run| course.ahead(run, MOST, false).is_some()));
        // Each comes to what lies ahead of it.
        assert_eq!(course.comes_to(8 << 20), Some((0, 1 << 20)));
        assert_eq!(course.comes_to((1 << 30) + (8 << 20)), Some((1, (1 << 30) + (1 << 20))));
    }

    #[test]
    fn a_file_is_fetched_whole_when_waiting_for_its_pieces_costs_as_much() {
        let reads = |size: u64, pause: Duration| {
            let (mut course, mut now) = (Course::default(), MS);
            (1..2000_u64).find(|piece| {
                let at = (piece * 7919 % 4096) * (size / 4096);
                let run = course.read(&(at..at + 4096), now);
                course.waits(run, now, u64::MAX, false);
                now += pause;
                course.wants_all(size, now)
            })
        };
        let few = reads(1 << 30, 20 * MS).unwrap();
        assert!((32..40).contains(&few), "{few}");
        assert_eq!(reads(1 << 40, 20 * MS), None, "sparse reads of a huge file");
        assert_eq!(reads(1 << 30, 60_000 * MS), None, "one a minute");
        let mut course = Course::default();
        let run = course.read(&(1 << 20..(1 << 20) + 4096), MS);
        course.waits(run, MS, u64::MAX, false);
        assert!(!course.wants_all(1 << 20, MS), "one read says nothing");
    }

    #[test]
    fn a_file_that_was_fetched_whole_and_is_gone_again_needs_twice_as_many_waits() {
        let mut course = Course::default();
        let mut read = 0_u64;
        for round in 0..4 {
            let before = read;
            while !course.wants_all(1 << 20, MS) {
                read += 1;
                let at = (read * 7919 % 4096) << 24;
                let run = course.read(&(at..at + 4096), MS);
                course.waits(run, MS, u64::MAX, false);
            }
            assert_eq!(read - before, 8 << round);
            course.tried_all();
        }
    }

    #[test]
    fn where_it_costs_money_no_more_is_fetched_ahead_than_was_read() {
        for careful in [true, false] {
            let mut course = Course::default();
            for at in (0..64 << 20).step_by(64 << 10) {
                let run = course.read(&(at..at + (64 << 10)), MS);
                course.waits(run, MS, u64::MAX, careful);
                let ahead = course.ahead(run, u64::MAX, careful).unwrap();
                let most = if careful { ahead.start } else { 2 * ahead.start };
                assert!(ahead.end - ahead.start <= most, "{careful}: {ahead:?}");
            }
        }
    }
}
