//! A map from byte ranges to small values.

use std::collections::BTreeMap;
use std::ops::Range;

/// Freeing more ranges than this takes long enough to be done beside.
const MANY: usize = 4096;

/// Non-overlapping half-open ranges, each with a value. Neighbours with the same value are joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeMap<V> {
    /// start → (end, value)
    map: BTreeMap<u64, (u64, V)>,
}

impl<V> Default for RangeMap<V> {
    fn default() -> Self {
        RangeMap { map: BTreeMap::new() }
    }
}

impl<V: Copy + PartialEq + Send + 'static> RangeMap<V> {
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Bytes covered.
    pub fn total(&self) -> u64 {
        self.map.iter().map(|(start, (end, _))| end - start).sum()
    }

    /// Bytes of `range` that are covered.
    pub fn covered(&self, range: Range<u64>) -> u64 {
        self.overlapping(range).map(|(cut, _)| cut.end - cut.start).sum()
    }

    /// Where the last range ends; 0 when there is none.
    pub fn end(&self) -> u64 {
        self.map.last_key_value().map_or(0, |(_, (end, _))| *end)
    }

    /// Number of ranges.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Takes `range` out, splitting what reaches over its edges.
    pub fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let first = self
            .map
            .range(..range.start)
            .next_back()
            .filter(|(_, (end, _))| *end > range.start)
            .map_or(range.start, |(start, _)| *start);
        let hit: Vec<u64> = self.map.range(first..range.end).map(|(start, _)| *start).collect();
        for start in hit {
            let Some((end, value)) = self.map.remove(&start) else { continue };
            if start < range.start {
                self.map.insert(start, (range.start, value));
            }
            if end > range.end {
                self.map.insert(range.end, (end, value));
            }
        }
    }

    /// Takes everything from `start` on out.
    pub fn truncate(&mut self, start: u64) {
        let over =
            self.map.range(..start).next_back().map(|(first, (end, value))| (*first, *end, *value));
        RangeMap { map: self.map.split_off(&start) }.forget();
        if let Some((first, end, value)) = over
            && end > start
        {
            self.map.insert(first, (start, value));
        }
    }

    /// Frees a map beside whoever does not need it any more: with a million ranges he would wait for that.
    pub fn forget(self) {
        if self.map.len() > MANY
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn_blocking(move || drop(self));
        }
    }

    /// Sets `range` to `value`, whatever was there.
    pub fn insert(&mut self, range: Range<u64>, value: V) {
        if range.is_empty() {
            return;
        }
        self.remove(range.clone());
        let (mut start, mut end) = (range.start, range.end);
        if let Some((&before, &(before_end, v))) = self.map.range(..start).next_back()
            && before_end == start
            && v == value
        {
            start = before;
        }
        if let Some(&(after_end, v)) = self.map.get(&end)
            && v == value
        {
            self.map.remove(&end);
            end = after_end;
        }
        self.map.insert(start, (end, value));
    }

    /// The ranges that touch `range`, cut to it.
    pub fn overlapping(&self, range: Range<u64>) -> impl Iterator<Item = (Range<u64>, V)> + '_ {
        let first = self
            .map
            .range(..=range.start)
            .next_back()
            .filter(|(_, (end, _))| *end > range.start)
            .map_or(range.start, |(start, _)| *start);
        let (from, to) = (range.start, range.end);
        self.map.range(first..to.max(first)).filter_map(move |(&start, &(end, value))| {
            let cut = start.max(from)..end.min(to);
            (!cut.is_empty()).then_some((cut, value))
        })
    }

    /// All ranges in order.
    pub fn iter(&self) -> impl Iterator<Item = (Range<u64>, V)> + '_ {
        self.map.iter().map(|(&start, &(end, value))| (start..end, value))
    }

    /// The parts of `range` that nothing covers.
    pub fn gaps(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut gaps = Vec::new();
        let mut at = range.start;
        for (covered, _) in self.overlapping(range.clone()) {
            if covered.start > at {
                gaps.push(at..covered.start);
            }
            at = covered.end;
        }
        if at < range.end {
            gaps.push(at..range.end);
        }
        gaps
    }

    /// Keeps the ranges whose value passes.
    pub fn retain(&mut self, mut keep: impl FnMut(V) -> bool) {
        self.map.retain(|_, (_, value)| keep(*value));
    }

    pub fn clear(&mut self) {
        self.map.clear();
    }
}

#[cfg(test)]
mod tests;
