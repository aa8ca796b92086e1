//! Rows that were accepted and that the handle does not have yet.
//!
//! Nobody waits for the handle: the local log has what is here, and the handle gets it in groups. Until then
//! these rows lie over what the handle answers.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::{Batch, rows_between};
use crate::types::Lsn;

/// The newest change of a key; `None` deletes.
type Change = (Lsn, Option<Bytes>);

/// Rows of a range, in order.
pub(super) type Rows = Vec<(Bytes, Option<Bytes>)>;

#[derive(Debug, Default)]
pub(super) struct Ahead {
    rows: BTreeMap<Bytes, Change>,
}

impl Ahead {
    /// Takes a batch; each is newer than the one before.
    pub fn put(&mut self, lsn: Lsn, batch: &Batch) {
        for (key, value) in batch.changes() {
            self.rows.insert(key.clone(), (lsn, value.clone()));
        }
    }

    /// The handle has this batch; newer changes of its keys stay.
    pub fn drop_batch(&mut self, lsn: Lsn, batch: &Batch) {
        for (key, _) in batch.changes() {
            if self.rows.get(key).is_some_and(|(newest, _)| *newest <= lsn) {
                self.rows.remove(key);
            }
        }
    }

    pub fn get(&self, key: &[u8]) -> Option<&Option<Bytes>> {
        self.rows.get(key).map(|(_, value)| value)
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Whether there is anything in a range.
    pub fn touches(&self, from: &Bound<Vec<u8>>, to: &Bound<Vec<u8>>) -> bool {
        rows_between(&self.rows, from, to).next().is_some()
    }

    /// The rows of a range, as many as a page of `limit` pairs can show.
    pub fn range(&self, from: &Bound<Vec<u8>>, to: &Bound<Vec<u8>>, limit: usize) -> Rows {
        let mut rows = Rows::new();
        let mut live = 0;
        for (key, (_, value)) in rows_between(&self.rows, from, to) {
            if live == limit {
                break;
            }
            live += usize::from(value.is_some());
            rows.push((key.clone(), value.clone()));
        }
        rows
    }
}

/// The first `limit` pairs of `stored` with `rows` over it. `stored` has at least `limit + rows.len()` pairs,
/// or all there are.
pub(super) fn merged(stored: Vec<(Bytes, Bytes)>, rows: Rows, limit: usize) -> Vec<(Bytes, Bytes)> {
    let mut out = Vec::with_capacity(limit.min(stored.len() + rows.len()));
    let mut stored = stored.into_iter().peekable();
    let mut rows = rows.into_iter().peekable();
    while out.len() < limit {
        let newer = match (stored.peek(), rows.peek()) {
            (Some((old, _)), Some((new, _))) => new <= old,
            (Some(_), None) => false,
            (None, Some(_)) => true,
            (None, None) => break,
        };
        if !newer {
            out.extend(stored.next());
            continue;
        }
        if let Some((key, value)) = rows.next() {
            stored.next_if(|(old, _)| *old == key);
            out.extend(value.map(|value| (key, value)));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::is_empty_range;
    use super::*;
    use proptest::prelude::*;

    fn batch(changes: &[(u8, Option<u8>)]) -> Batch {
        let mut batch = Batch::new();
        for (key, value) in changes {
            match value {
                Some(value) => batch.put([*key], [*value]),
                None => batch.delete([*key]),
            }
        }
        batch
    }

    fn pairs(map: &BTreeMap<u8, u8>) -> Vec<(Bytes, Bytes)> {
        map.iter().map(|(k, v)| (vec![*k].into(), vec![*v].into())).collect()
    }

    fn changes() -> impl Strategy<Value = Vec<(u8, Option<u8>)>> {
        proptest::collection::vec((0_u8..12, proptest::option::of(any::<u8>())), 0..6)
    }

    proptest! {
        /// Whatever part of the batches the handle has, both together show all of them.
        #[test]
        fn rows_over_what_is_stored_show_every_batch(
            batches in proptest::collection::vec(changes(), 0..8),
            handed in 0_usize..8,
            (from, to) in (0_u8..12, 0_u8..13),
            limit in 0_usize..6,
        ) {
            let batches: Vec<Batch> = batches.iter().map(|changes| batch(changes)).collect();
            let (mut all, mut stored) = (BTreeMap::new(), BTreeMap::new());
            let mut ahead = Ahead::default();
            for (number, batch) in batches.iter().enumerate() {
                ahead.put(Lsn(number as u64 + 1), batch);
                for (key, value) in batch.iter() {
                    for map in [Some(&mut all), (number < handed).then_some(&mut stored)] {
                        let Some(map) = map else { continue };
                        match value {
                            Some(value) => map.insert(key[0], value[0]),
                            None => map.remove(&key[0]),
                        };
                    }
                }
            }
            for (number, batch) in batches.iter().enumerate().take(handed) {
                ahead.drop_batch(Lsn(number as u64 + 1), batch);
            }
            prop_assert!(handed < batches.len() || ahead.is_empty());
            for key in 0..12_u8 {
                let shown = match ahead.get(&[key]) {
                    Some(value) => value.as_ref().map(|v| v[0]),
                    None => stored.get(&key).copied(),
                };
                prop_assert_eq!(shown, all.get(&key).copied());
            }
            let (from, to) = (Bound::Included(vec![from]), Bound::Excluded(vec![to]));
            let inside = |(key, _): &(Bytes, Bytes)| {
                !is_empty_range(&from, &to) && (from.clone(), to.clone()).contains_key(key)
            };
            let rows = ahead.range(&from, &to, limit);
            let page = pairs(&stored).into_iter().filter(inside).take(limit + rows.len()).collect();
            let wanted: Vec<_> = pairs(&all).into_iter().filter(inside).take(limit).collect();
            prop_assert_eq!(merged(page, rows, limit), wanted);
        }
    }

    trait ContainsKey {
        fn contains_key(&self, key: &[u8]) -> bool;
    }

    impl ContainsKey for (Bound<Vec<u8>>, Bound<Vec<u8>>) {
        fn contains_key(&self, key: &[u8]) -> bool {
            std::ops::RangeBounds::<Vec<u8>>::contains(self, &key.to_vec())
        }
    }
}
