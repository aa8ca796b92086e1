//! Times in a few buckets, without a lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::Value;

/// Counts durations by the first bound that they do not exceed; the last bucket has no bound.
#[derive(Debug)]
pub struct Histogram {
    /// Ascending.
    bounds: &'static [Duration],
    counts: Box<[AtomicU64]>,
    nanos: AtomicU64,
}

impl Histogram {
    pub fn new(bounds: &'static [Duration]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram { bounds, counts, nanos: AtomicU64::new(0) }
    }

    pub fn observe(&self, took: Duration) {
        let at = self.bounds.iter().position(|bound| took <= *bound).unwrap_or(self.bounds.len());
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        // It wraps after five centuries of waiting.
        self.nanos.fetch_add(took.as_nanos() as u64, Ordering::Relaxed);
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// What was counted here and in `others`, which have the same bounds.
    pub fn value_with<'a>(&self, others: impl IntoIterator<Item = &'a Histogram>) -> Value {
        let load = |histogram: &Histogram| -> Vec<u64> {
            histogram.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect()
        };
        let mut counts = load(self);
        let mut nanos = self.nanos.load(Ordering::Relaxed);
        for other in others {
            counts.iter_mut().zip(load(other)).for_each(|(count, more)| *count += more);
            nanos = nanos.wrapping_add(other.nanos.load(Ordering::Relaxed));
        }
        let bounds = self.bounds.iter().map(Duration::as_secs_f64).collect();
        Value::Histogram { bounds, counts, sum: nanos as f64 / 1e9 }
    }

    pub fn value(&self) -> Value {
        self.value_with([])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_counts_up_to_its_bound() {
        static BOUNDS: [Duration; 2] = [Duration::from_millis(1), Duration::from_secs(1)];
        let (one, other) = (Histogram::new(&BOUNDS), Histogram::new(&BOUNDS));
        for micros in [1, 1_000, 1_001, 3_000_000] {
            one.observe(Duration::from_micros(micros));
        }
        other.observe(Duration::from_secs(2));
        assert_eq!((one.count(), other.count()), (4, 1));
        let both =
            Value::Histogram { bounds: vec![0.001, 1.0], counts: vec![2, 1, 2], sum: 5.002_002 };
        assert_eq!(one.value_with([&other]), both);
    }
}
