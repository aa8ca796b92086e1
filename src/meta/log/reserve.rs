//! Room on the local disk that the log has before it needs it.
//!
//! On a full disk content has to reach the bucket before room returns, and it gets there through the log.
//! So blocks are allocated ahead of the log's end, from the start, and as many for the log that
//! replaces it: what is appended into them cannot meet a full disk.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::Media;
use crate::clock::boottime;

/// Ahead of the log, bytes: a part of the disk, within these.
const LEAST: u64 = 512 << 10;
const MOST: u64 = 8 << 20;
const PART: u64 = 32;
/// A log that is worth a rotation: a part of the disk, and at most so many bytes.
const LONG_PART: u64 = 24;
const LONG: u64 = 64 << 20;
/// A disk that was full is asked again after this long, unless somebody cannot go on without.
const PAUSE: Duration = Duration::from_millis(200);
/// The least that is asked for.
const LEAST_ASKED: u64 = 4096;

/// The blocks of one log.
#[derive(Debug)]
pub(super) struct Reserve {
    /// Bytes to have ahead.
    size: u64,
    /// Blocks are there up to this offset.
    upto: u64,
    /// Some file systems cannot allocate ahead; then there is none.
    supported: bool,
    /// When the disk was full last.
    full_at: Option<Duration>,
    long: u64,
}

impl Reserve {
    /// Allocates what the disk of `dir` gives ahead of a log that ends at `end`.
    pub fn ahead_of(end: u64, media: &mut dyn Media, dir: &Path) -> Self {
        let total = crate::sys::disk_space(dir).map_or(u64::MAX, |space| space.total);
        let size = (total / PART).clamp(LEAST, MOST);
        let long = (total / LONG_PART).clamp(size, LONG);
        let long = crate::fault::number(crate::fault::LONG_LOG, long);
        let mut reserve = Reserve { size, upto: end, supported: true, full_at: None, long };
        reserve.extend(media, end, size);
        reserve
    }

    pub fn long(&self) -> u64 {
        self.long
    }

    /// Whether there are blocks up to `end`; with `spare`, and half of the reserve beyond.
    pub fn ensure(&mut self, media: &mut dyn Media, end: u64, spare: bool) -> bool {
        let wanted = if spare { end.saturating_add(self.size / 2) } else { end };
        if !self.supported || self.upto >= end.saturating_add(self.size / 2) {
            return true;
        }
        let lately = self.full_at.is_some_and(|at| boottime().saturating_sub(at) < PAUSE);
        if !lately || self.upto < end {
            let more = end.saturating_add(self.size).saturating_sub(self.upto);
            self.extend(media, self.upto, more);
        }
        !self.supported || self.upto >= wanted
    }

    /// The file was cut off here, and the blocks behind it are gone.
    pub fn cut(&mut self, len: u64) {
        self.upto = len;
    }

    /// Allocates `more` bytes from `from` on, or as much of it as there is.
    fn extend(&mut self, media: &mut dyn Media, from: u64, more: u64) {
        let mut asked = more;
        while asked >= LEAST_ASKED {
            match media.allocate(from..from + asked) {
                Ok(()) => {
                    self.upto = from + asked;
                    self.full_at = (asked < more).then(boottime);
                    return;
                }
                Err(error) if is_full(&error) => asked /= 2,
                Err(error) => {
                    tracing::debug!(%error, "the local log allocates nothing ahead");
                    self.supported = false;
                    return;
                }
            }
        }
        self.full_at = Some(boottime());
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;

    const KIB: u64 = 1 << 10;

    /// A disk on which the log may have so many bytes.
    struct Disk(u64);

    impl Media for Disk {
        fn write_all_at(&mut self, _bytes: &[u8], _offset: u64) -> io::Result<()> {
            Ok(())
        }

        fn set_len(&mut self, _len: u64) -> io::Result<()> {
            Ok(())
        }

        fn allocate(&mut self, range: Range<u64>) -> io::Result<()> {
            match range.end <= self.0 {
                true => Ok(()),
                false => Err(io::ErrorKind::StorageFull.into()),
            }
        }
    }

    fn reserve(disk: &mut Disk, end: u64) -> Reserve {
        let mut reserve =
            Reserve { size: 64 * KIB, upto: end, supported: true, full_at: None, long: 64 * KIB };
        reserve.extend(disk, end, 64 * KIB);
        reserve
    }

    #[test]
    fn what_was_reserved_is_there_when_the_disk_is_full() {
        let mut disk = Disk(1 << 20);
        let mut reserve = reserve(&mut disk, 0);
        assert!(reserve.ensure(&mut disk, 200 * KIB, true), "an empty disk has room");
        disk.0 = reserve.upto;
        let kept = reserve.upto;
        assert!(kept >= 232 * KIB);
        // Half of it is for those who make room.
        assert!(!reserve.ensure(&mut disk, kept - 16 * KIB, true));
        assert!(reserve.ensure(&mut disk, kept, false));
        assert!(!reserve.ensure(&mut disk, kept + 1, false));
        disk.0 = 1 << 20;
        assert!(reserve.ensure(&mut disk, kept + 1, false), "room has returned");
    }

    #[test]
    fn a_disk_with_little_left_gives_that() {
        let mut disk = Disk(100 * KIB);
        let mut reserve = reserve(&mut disk, 80 * KIB);
        assert!((92 * KIB..=100 * KIB).contains(&reserve.upto), "{}", reserve.upto);
        assert!(reserve.ensure(&mut disk, 92 * KIB, false));
    }
}
