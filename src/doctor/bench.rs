//! How long something takes, measured some times.

use std::fmt;
use std::time::Duration;

/// Measured times.
#[derive(Debug, Default)]
pub(super) struct Times(Vec<Duration>);

impl Times {
    pub fn add(&mut self, took: Duration) {
        let at = self.0.partition_point(|before| *before <= took);
        self.0.insert(at, took);
    }

    /// Zero of none.
    pub fn median(&self) -> Duration {
        self.0.get(self.0.len() / 2).copied().unwrap_or_default()
    }

    fn longest(&self) -> Duration {
        self.0.last().copied().unwrap_or_default()
    }
}

/// `12.3 ms (the longest of 10: 40.1 ms)`
impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = |time: Duration| time.as_secs_f64() * 1000.0;
        let (median, longest) = (millis(self.median()), millis(self.longest()));
        write!(f, "{median:.1} ms (the longest of {}: {longest:.1} ms)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_and_the_longest_are_told() {
        let mut times = Times::default();
        assert_eq!(times.median(), Duration::ZERO);
        for millis in [9, 1, 5] {
            times.add(Duration::from_millis(millis));
        }
        assert_eq!(times.to_string(), "5.0 ms (the longest of 3: 9.0 ms)");
    }
}
