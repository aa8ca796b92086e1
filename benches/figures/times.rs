//! How long something took, once or many times.

use std::time::{Duration, Instant};

pub fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

pub fn sorted(times: impl IntoIterator<Item = Duration>) -> Vec<Duration> {
    let mut times: Vec<Duration> = times.into_iter().collect();
    times.sort_unstable();
    times
}

/// Of sorted times, in milliseconds.
pub fn at_percent(times: &[Duration], part: usize) -> f64 {
    let index = times.len().saturating_sub(1) * part / 100;
    times.get(index).map_or(0.0, |time| time.as_secs_f64() * 1e3)
}
