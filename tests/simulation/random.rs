//! Randomness from a seed: SplitMix64, which is small, and good enough to choose by.

use std::cell::Cell;

/// A stream of numbers.
#[derive(Debug)]
pub struct Random(Cell<u64>);

// SAFETY: all of a simulation lives on one thread; futures only want to be told that they might move.
unsafe impl Sync for Random {}

impl Random {
    /// Streams of different `purpose` tell nothing about each other.
    pub fn new(seed: u64, purpose: u64) -> Self {
        let stream = Random(Cell::new(seed ^ purpose.wrapping_mul(0xd6e8_feb8_6659_fd93)));
        stream.next();
        stream
    }

    pub fn next(&self) -> u64 {
        let state = self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.set(state);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Less than `end`, which is not 0.
    pub fn below(&self, end: u64) -> u64 {
        self.next() % end
    }

    /// From `from` on, less than `end`.
    pub fn between(&self, from: u64, end: u64) -> u64 {
        from + self.below(end - from)
    }

    /// True in `permille` of a thousand cases.
    pub fn chance(&self, permille: u64) -> bool {
        self.below(1000) < permille
    }

    pub fn of<'a, T>(&self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len() as u64) as usize]
    }

    pub fn fill(&self, bytes: &mut [u8]) {
        for piece in bytes.chunks_mut(8) {
            piece.copy_from_slice(&self.next().to_le_bytes()[..piece.len()]);
        }
    }
}
