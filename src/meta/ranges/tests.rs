//! The map against a plain array.

use proptest::prelude::*;

use super::RangeMap;

proptest! {
    #[test]
    fn behaves_like_an_array(ops in prop::collection::vec((0u64..64, 0u64..64, prop::option::of(0u8..4)), 1..60)) {
        let mut map = RangeMap::default();
        let mut array = [None; 64];
        for (a, b, value) in ops {
            let range = a.min(b)..a.max(b);
            for slot in &mut array[range.start as usize..range.end as usize] {
                *slot = value;
            }
            match value {
                Some(v) => map.insert(range, v),
                None => map.remove(range),
            }
            let mut seen = [None; 64];
            for (range, value) in map.iter() {
                for i in range {
                    prop_assert!(seen[i as usize].is_none());
                    seen[i as usize] = Some(value);
                }
            }
            prop_assert_eq!(seen, array);
            let gaps: u64 = map.gaps(10..50).iter().map(|g| g.end - g.start).sum();
            prop_assert_eq!(gaps as usize, array[10..50].iter().filter(|s| s.is_none()).count());
            let over: u64 = map.overlapping(10..50).map(|(r, _)| r.end - r.start).sum();
            prop_assert_eq!(over as usize, array[10..50].iter().filter(|s| s.is_some()).count());
            let (mut cut, mut removed) = (map.clone(), map.clone());
            cut.truncate(a);
            removed.remove(a..u64::MAX);
            prop_assert_eq!(cut, removed);
        }
    }
}
