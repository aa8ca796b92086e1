//! Ranges of files that lie in one piece in one object: a store that can copies them from there, and nothing of them
//! comes here.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;

use parking_lot::Mutex;

use super::pieces::{Source, pieces};
use super::{DataError, Inode, Volume};
use crate::meta::records::{ContentRec, Place};
use crate::types::{ObjectKey, Version};

/// Segments smaller than this are not remembered, bytes: a request sends as much as it copies.
const SMALL: u64 = 1 << 20;
/// Segments that are remembered: 256 GiB of large ones, and some MiB of memory.
const MOST: usize = 16 << 10;

/// Where a range of a file lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whole {
    pub key: ObjectKey,
    /// What this process has stored there, or what the file's record says.
    pub version: Version,
    /// In that object.
    pub range: Range<u64>,
}

impl Whole {
    /// Whether it is all of the object.
    pub fn is_all(&self) -> bool {
        self.range == (0..self.version.size)
    }
}

/// The segments that this process stored, and what the store said that they are. Nobody writes to such a name again, so
/// what bears this ETag has the bytes that were sent. Those of before are not known: whoever wants their bytes fetches
/// and compares them.
#[derive(Debug, Default)]
pub(super) struct Stored(Mutex<Segments>);

#[derive(Debug, Default)]
struct Segments {
    versions: HashMap<u128, Version>,
    /// The oldest first.
    order: VecDeque<u128>,
}

impl Stored {
    /// An attempt to store `id` was answered with `version`.
    pub fn add(&self, id: u128, version: &Version) {
        if version.etag.is_empty() || version.size < crate::fault::number(crate::fault::PART, SMALL)
        {
            return;
        }
        let mut segments = self.0.lock();
        if segments.order.len() >= MOST
            && let Some(oldest) = segments.order.pop_front()
        {
            segments.versions.remove(&oldest);
        }
        if segments.versions.insert(id, version.clone()).is_none() {
            segments.order.push_back(id);
        }
    }

    fn get(&self, id: u128) -> Option<Version> {
        self.0.lock().versions.get(&id).cloned()
    }
}

/// In which object the pieces lie, as far as all of them lie there one after another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Segment { id: u128, offset: u64 },
    Base { offset: u64 },
}

impl At {
    /// Whether `here` lies so many bytes after this.
    fn goes_on(self, gone: u64, here: At) -> bool {
        match (self, here) {
            (At::Segment { id, offset }, At::Segment { id: other, offset: now }) => {
                id == other && offset + gone == now
            }
            (At::Base { .. }, At::Base { .. }) => true,
            _ => false,
        }
    }
}

/// Where the byte at `at` lies, of a piece that begins at `start`.
fn place(source: &Source, at: u64, start: u64) -> Option<At> {
    match source {
        Source::Extent(extent) => match extent.place {
            Place::Segment { id, offset, .. } => {
                Some(At::Segment { id, offset: offset + (at - start) })
            }
            Place::Inline(_) | Place::Zero => None,
        },
        Source::Base => Some(At::Base { offset: at }),
        Source::Zero => None,
    }
}

impl Volume {
    /// Where all of `range` of a file lies in one piece: in a segment that this process stored, or in the object below
    /// the file. `None`: in several, or nowhere that is known.
    pub async fn lies_whole(
        &self,
        inode: &Inode,
        content: &ContentRec,
        range: Range<u64>,
    ) -> Result<Option<Whole>, DataError> {
        let Some(last) = range.end.checked_sub(1).filter(|last| *last > range.start) else {
            return Ok(None);
        };
        let (mut first, mut at) = (None, range.start);
        // Its ends tell of most files in many pieces that they are, without a look at all of their map.
        for look in [range.start..range.start + 1, last..range.end, range.clone()] {
            at = look.start;
            for (span, source) in pieces(&self.meta, inode.ino, content, look.clone()).await? {
                let Some(here) = place(&source, at, span.start) else { return Ok(None) };
                if !first.get_or_insert(here).goes_on(at - range.start, here) {
                    return Ok(None);
                }
                at = span.end.min(look.end);
            }
        }
        let len = range.end - range.start;
        let (key, version, start) = match first.filter(|_| at == range.end) {
            Some(At::Segment { id, offset }) => match self.stored.get(id) {
                Some(version) => (self.segment_key(id), version, offset),
                None => return Ok(None),
            },
            Some(At::Base { offset }) => match &content.base {
                Some(base) => (base.key.clone(), base.version.clone(), offset),
                None => return Ok(None),
            },
            None => return Ok(None),
        };
        let whole = Whole { key, version, range: start..start + len };
        let fits = whole.range.end <= whole.version.size && !whole.version.etag.is_empty();
        Ok(fits.then_some(whole))
    }
}

/// Whether an ETag looks like the MD5 of an object's bytes.
pub fn is_md5(etag: &str) -> bool {
    etag.len() == 32 && etag.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_etag_that_is_no_md5_proves_nothing() {
        let md5 = "d41d8cd98f00b204e9800998ecf8427e";
        assert!(is_md5(md5));
        for other in ["", &md5[1..], &md5.to_uppercase(), &format!("{md5}-1"), "0x8DC0"] {
            assert!(!is_md5(other), "{other}");
        }
    }

    #[test]
    fn the_last_large_segments_are_remembered() {
        let stored = Stored::default();
        let version = |etag: &str, size| Version {
            etag: etag.to_owned(),
            size,
            modified: None,
            generation: None,
        };
        stored.add(1, &version("small", SMALL - 1));
        stored.add(2, &version("", SMALL));
        assert_eq!((stored.get(1), stored.get(2)), (None, None));
        for id in 0..=MOST as u128 {
            stored.add(id, &version("etag", SMALL));
        }
        assert_eq!((stored.get(0), stored.get(1)), (None, Some(version("etag", SMALL))));
        assert_eq!(stored.get(MOST as u128), Some(version("etag", SMALL)));
    }
}
