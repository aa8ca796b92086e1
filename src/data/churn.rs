//! Names that come and go, counted by directory: settling leaves trees alone in which much happens.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::types::Ino;

/// Directories counted on their own; what happens in more counts for the root.
const DIRECTORIES: usize = 20_000;

/// Changes of names since the last [`Churn::take`].
#[derive(Debug, Default)]
pub struct Churn(Mutex<HashMap<Ino, u32>>);

impl Churn {
    /// A name came or went in each of these directories.
    pub(super) fn note(&self, directories: &[Ino]) {
        let mut counts = self.0.lock();
        for dir in directories {
            let full = counts.len() >= DIRECTORIES && !counts.contains_key(dir);
            let count = counts.entry(if full { Ino::ROOT } else { *dir }).or_default();
            *count = count.saturating_add(1);
        }
    }

    pub fn total(&self) -> u64 {
        self.0.lock().values().map(|count| u64::from(*count)).sum()
    }

    pub fn take(&self) -> HashMap<Ino, u32> {
        std::mem::take(&mut *self.0.lock())
    }
}
