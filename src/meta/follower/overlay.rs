//! Rows of the log that no table has yet, newest value a key.
//!
//! Views share them: a small layer is copied with every change, the large one below only when the
//! small one is poured into it.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use crate::meta::engine::rows_between;

/// The small layer is poured into the large one when it has more rows than this.
const SMALL: usize = 2048;

#[derive(Debug, Clone)]
pub(super) struct Row {
    pub seq: u64,
    /// `None`: the key was removed.
    pub value: Option<Bytes>,
}

type Layer = Arc<BTreeMap<Bytes, Row>>;

#[derive(Debug, Clone, Default)]
pub(super) struct Overlay {
    small: Layer,
    large: Layer,
}

impl Overlay {
    pub fn get(&self, key: &[u8]) -> Option<&Row> {
        self.small.get(key).or_else(|| self.large.get(key))
    }

    /// Rows come in the order of their numbers; those of one object of the log in that of their keys.
    pub fn put(&mut self, key: Bytes, row: Row) {
        if self.get(&key).is_some_and(|old| old.seq > row.seq) {
            return;
        }
        Arc::make_mut(&mut self.small).insert(key, row);
        if self.small.len() > SMALL {
            let small = std::mem::take(&mut self.small);
            let small = Arc::try_unwrap(small).unwrap_or_else(|shared| BTreeMap::clone(&shared));
            Arc::make_mut(&mut self.large).extend(small);
        }
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        let twice = self.small.keys().filter(|key| self.large.contains_key(*key)).count();
        self.small.len() + self.large.len() - twice
    }

    /// Forgets what is not newer than `seq`.
    pub fn drop_through(&mut self, seq: u64) {
        for layer in [&mut self.small, &mut self.large] {
            if layer.values().any(|row| row.seq <= seq) {
                Arc::make_mut(layer).retain(|_, row| row.seq > seq);
            }
        }
    }

    /// Adds to `out` what `page`, the tables' pairs of a range, says with these rows over it, in the
    /// order of the keys, until `out` has `limit` pairs.
    pub fn merge(
        &self,
        page: Vec<(Bytes, Bytes)>,
        (from, to): (&Bound<Vec<u8>>, &Bound<Vec<u8>>),
        limit: usize,
        out: &mut Vec<(Bytes, Bytes)>,
    ) {
        let mut small = rows_between(&self.small, from, to).peekable();
        let mut large = rows_between(&self.large, from, to).peekable();
        let mut page = page.into_iter().peekable();
        while out.len() < limit {
            let keys = [
                small.peek().map(|(key, _)| *key),
                large.peek().map(|(key, _)| *key),
                page.peek().map(|(key, _)| key),
            ];
            let Some(key) = keys.into_iter().flatten().min().cloned() else { return };
            let newest = small.next_if(|(k, _)| **k == key);
            let newer = large.next_if(|(k, _)| **k == key);
            let stored = page.next_if(|(k, _)| *k == key);
            let value = match newest.or(newer) {
                Some((_, row)) => row.value.clone(),
                None => stored.map(|(_, value)| value),
            };
            if let Some(value) = value
                && !super::is_hidden(&key)
            {
                out.push((key, value));
            }
        }
    }
}
