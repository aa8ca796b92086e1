//! The names that a listing showed, in eight bytes each: a directory may have very many.
//!
//! Two names that share a hash are taken for one, so that one of them may seem to be there although it is gone. The
//! next listing of the directory has other hashes.

use std::hash::{BuildHasher, RandomState};

use crate::types::{FileName, Version};

const OBJECT: u64 = 1;
const BELOW: u64 = 2;

/// What was shown under one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shown(u64);

/// What the bucket shows under one name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Seen {
    pub object: Option<Version>,
    /// Keys lie below it.
    pub below: bool,
}

impl Shown {
    pub fn object(self) -> bool {
        self.0 & OBJECT != 0
    }

    /// Keys lie below it.
    pub fn below(self) -> bool {
        self.0 & BELOW != 0
    }
}

#[derive(Debug, Default)]
pub(super) struct Names {
    hashes: RandomState,
    /// A hash with what was shown in its lowest bits; in order when `sealed`.
    words: Vec<u64>,
    sealed: bool,
}

impl Names {
    fn hash(&self, name: &FileName) -> u64 {
        self.hashes.hash_one(name) & !(OBJECT | BELOW)
    }

    pub fn add(&mut self, name: &FileName, seen: &Seen) {
        let object = if seen.object.is_some() { OBJECT } else { 0 };
        let below = if seen.below { BELOW } else { 0 };
        self.words.push(self.hash(name) | object | below);
        self.sealed = false;
    }

    /// All were added.
    pub fn seal(&mut self) {
        self.words.sort_unstable();
        self.words.shrink_to_fit();
        self.sealed = true;
    }

    /// `None`: the name was not shown.
    pub fn get(&self, name: &FileName) -> Option<Shown> {
        debug_assert!(self.sealed);
        let hash = self.hash(name);
        let first = self.words.partition_point(|word| *word < hash);
        let same = self.words[first..].iter().take_while(|word| **word & !(OBJECT | BELOW) == hash);
        same.copied().reduce(|one, other| one | other).map(Shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Version;

    #[test]
    fn what_was_shown_is_found_and_nothing_else() {
        let version = Version { etag: String::new(), size: 0, modified: None, generation: None };
        let object = Seen { object: Some(version), below: false };
        let below = Seen { object: None, below: true };
        let name = |number: u32| FileName::new(format!("name {number}")).unwrap();
        let mut names = Names::default();
        for number in 0..10_000 {
            names.add(&name(number), if number % 2 == 0 { &object } else { &below });
        }
        // Its object stood at the end of one page, what lies below it on the next one.
        names.add(&name(4), &below);
        names.seal();
        for number in 0..10_000 {
            let shown = names.get(&name(number)).unwrap();
            assert_eq!(shown.object(), number % 2 == 0, "{number}");
            assert_eq!(shown.below(), number % 2 == 1 || number == 4, "{number}");
        }
        assert_eq!((10_000..20_000).filter(|n| names.get(&name(*n)).is_some()).count(), 0);
        assert_eq!(names.words.capacity(), names.words.len());
    }
}
