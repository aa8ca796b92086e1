//! Random bytes from a seed, and bytes that are nearly right.

/// SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Less than `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    pub fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most + 1)).map(|_| self.next() as u8).collect()
    }

    /// A number that somebody may have forgotten.
    pub fn extreme(&mut self) -> u64 {
        let near = self.next() % 3;
        let edge = *self.pick(&[0, 1 << 31, 1 << 32, 1 << 62, 1 << 63, u64::MAX, 4096]);
        edge.wrapping_add(near).wrapping_sub(1)
    }

    /// `right` with a bit flipped, a byte set, cut, longer, doubled, or something else altogether.
    pub fn damaged(&mut self, right: &[u8]) -> Vec<u8> {
        let mut bytes = right.to_vec();
        let at = self.below(bytes.len().max(1));
        match self.below(7) {
            0 => return self.bytes(64),
            1 => bytes.truncate(at),
            2 => bytes.extend(self.bytes(16)),
            3 => bytes.extend_from_slice(right),
            4 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
            5 if !bytes.is_empty() => bytes[at] = *self.pick(&[0, 0x7f, 0x80, 0xff]),
            _ => bytes.splice(at.min(right.len())..at.min(right.len()), [0xff; 10]).for_each(drop),
        }
        bytes
    }
}
