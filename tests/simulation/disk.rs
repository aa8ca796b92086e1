//! The local disk of a host: what its files take of it, how much others leave, and calls that fail.
//!
//! Files are real ones on a file system without an end. What they take is counted here, in pages, because a full
//! disk still takes what was allocated before.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;

use crate::seam::Time;

pub const PAGE: u64 = 4096;
/// Of the whole disk.
pub const PAGES: u64 = (64 << 30) / PAGE;

/// A file, by its numbers.
type File = (u64, u64);

/// See the module.
#[derive(Debug, Default)]
pub struct Disk {
    files: RefCell<BTreeMap<File, Pages>>,
    /// Pages that others leave; as many as anybody wants if nothing is said.
    left: Cell<Option<u64>>,
    /// How many of a thousand calls fail.
    broken: Cell<u64>,
    /// When there was little room last, and when a call failed.
    narrow: Cell<Option<Time>>,
    failed: Cell<Option<Time>>,
}

/// Which pages of a file are there.
#[derive(Debug, Default)]
struct Pages(Vec<bool>);

impl Pages {
    fn missing(&self, range: Range<u64>) -> u64 {
        range.filter(|page| self.0.get(*page as usize) != Some(&true)).count() as u64
    }

    fn set(&mut self, range: Range<u64>, there: bool) -> u64 {
        if there && self.0.len() < range.end as usize {
            self.0.resize(range.end as usize, false);
        }
        let end = range.end.min(self.0.len() as u64);
        let pages = range.start.min(end) as usize..end as usize;
        let changed = self.0[pages].iter_mut().filter(|page| **page != there);
        changed.map(|page| *page = there).count() as u64
    }
}

/// The pages that a range of bytes touches.
fn touched(at: u64, len: u64) -> Range<u64> {
    at / PAGE..(at + len).div_ceil(PAGE)
}

impl Disk {
    /// Others leave so many pages from now on.
    pub fn fills(&self, left: Option<u64>, now: Time) {
        if self.left.replace(left).is_some() || left.is_some() {
            self.narrow.set(Some(now));
        }
    }

    /// So many of a thousand calls fail from now on.
    pub fn breaks(&self, permille: u64) {
        self.broken.set(permille);
    }

    /// Pages that can be had.
    pub fn available(&self) -> u64 {
        self.left.get().unwrap_or(PAGES / 2)
    }

    pub fn broken(&self) -> u64 {
        self.broken.get()
    }

    pub fn fails(&self, now: Time) {
        self.failed.set(Some(now));
    }

    /// When it was last short of room; now, if it is.
    pub fn was_narrow(&self, now: Time) -> Option<Time> {
        if self.left.get().is_some() { Some(now) } else { self.narrow.get() }
    }

    /// Whether it refused or failed anything since.
    pub fn troubled(&self, since: Time, now: Time) -> bool {
        self.was_narrow(now).max(self.failed.get()).is_some_and(|at| at >= since)
    }

    /// Of a write of `len` bytes, so many find room.
    pub fn takes(&self, file: File, at: u64, len: u64) -> u64 {
        let mut files = self.files.borrow_mut();
        let pages = files.entry(file).or_default();
        let mut left = self.left.get();
        let mut fits = 0;
        for page in touched(at, len) {
            if pages.missing(page..page + 1) > 0 {
                match &mut left {
                    Some(0) => break,
                    Some(left) => *left -= 1,
                    None => {}
                }
                pages.set(page..page + 1, true);
            }
            fits = ((page + 1) * PAGE).min(at + len) - at;
        }
        self.left.set(left);
        fits
    }

    /// Whether a range can be allocated; then it is.
    pub fn allocates(&self, file: File, at: u64, len: u64) -> bool {
        let missing = {
            let mut files = self.files.borrow_mut();
            files.entry(file).or_default().missing(touched(at, len))
        };
        let room = self.left.get().is_none_or(|left| left >= missing);
        if room {
            self.takes(file, at, len);
        }
        room
    }

    /// The whole pages of a range are given back.
    pub fn frees(&self, file: File, at: u64, end: u64) {
        let mut files = self.files.borrow_mut();
        let Some(pages) = files.get_mut(&file) else { return };
        let freed = pages.set(at.div_ceil(PAGE)..end / PAGE, false);
        self.gets(freed);
    }

    /// A file is gone.
    pub fn forgets(&self, file: File) {
        if let Some(mut pages) = self.files.borrow_mut().remove(&file) {
            let end = pages.0.len() as u64;
            self.gets(pages.set(0..end, false));
        }
    }

    fn gets(&self, pages: u64) {
        self.left.set(self.left.get().map(|left| left + pages));
    }
}
