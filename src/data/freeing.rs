//! Small steps for whoever gives the blocks of a file back.
//!
//! A file system takes as long for one call as there are pieces: on a disk that is told of all that becomes
//! free (`discard`) some milliseconds for each, so that a file of 160,000 pieces takes minutes. Whoever has
//! made such a call, or ends with the last descriptor of such a file, cannot be ended before.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use crate::clock::boottime;

const PAGE: u64 = 4096;
/// A longer piece counts as several, bytes.
const PIECE: u64 = 4 << 20;
/// Pieces of the first step, and of any.
const FIRST: u64 = 16;
const MOST: u64 = 4096;
/// A step that takes longer was too large, one that takes less may be larger.
const LONG: Duration = Duration::from_millis(40);
const SHORT: Duration = Duration::from_millis(10);

/// The parts of a range, from its end, each of as many pieces as go within a moment.
#[derive(Debug)]
pub(super) struct Freeing {
    left: Range<u64>,
    pieces: u64,
    bytes: u64,
}

impl Freeing {
    pub fn over(range: Range<u64>) -> Self {
        Freeing { left: range, pieces: FIRST, bytes: PIECE }
    }

    /// Frees the next part with `free`; false when nothing is left.
    pub fn go(
        &mut self,
        file: &File,
        free: impl FnOnce(Range<u64>) -> io::Result<()>,
    ) -> io::Result<bool> {
        if self.left.is_empty() {
            return Ok(false);
        }
        let part = self.next(file)?;
        self.left.end = part.start;
        let began = boottime();
        free(part)?;
        let took = boottime().saturating_sub(began);
        if took > LONG {
            self.pieces = (self.pieces / 2).max(1);
        } else if took < SHORT {
            self.pieces = (self.pieces * 2).min(MOST);
        }
        // What follows may be a hole of any size.
        self.bytes = self.bytes.saturating_mul(2);
        Ok(!self.left.is_empty())
    }

    /// From where on the range was freed.
    pub fn free_from(&self) -> u64 {
        self.left.end
    }

    fn next(&mut self, file: &File) -> io::Result<Range<u64>> {
        let Range { start, end } = self.left;
        loop {
            let from = (end.saturating_sub(self.bytes) / PAGE * PAGE).max(start);
            if self.bytes <= PAGE || pieces(file, from..end, self.pieces)? <= self.pieces {
                return Ok(from..end);
            }
            self.bytes = (self.bytes / 2).max(PAGE);
        }
    }
}

/// How many pieces a range has, as far as that is not more than `most`.
fn pieces(file: &File, range: Range<u64>, most: u64) -> io::Result<u64> {
    let mut found = 0;
    let mut at = range.start;
    while at < range.end && found <= most {
        let Some(piece) = data_after(file, at)? else { break };
        if piece.start >= range.end {
            break;
        }
        let end = piece.end.min(range.end).max(piece.start + 1);
        found += (end - piece.start).div_ceil(PIECE);
        at = end;
    }
    Ok(found)
}

/// The data that follows `at`. Where the file system does not tell, everything is data.
fn data_after(file: &File, at: u64) -> io::Result<Option<Range<u64>>> {
    let seek = |at: u64, what| lseek(file, at as i64, what);
    let start = match seek(at, Whence::SeekData) {
        Ok(start) => start as u64,
        Err(Errno::ENXIO) => return Ok(None),
        Err(Errno::EINVAL | Errno::EOPNOTSUPP) => return Ok(Some(at..u64::MAX)),
        Err(errno) => return Err(errno.into()),
    };
    match seek(start, Whence::SeekHole) {
        Ok(end) => Ok(Some(start..end as u64)),
        // It was cut meanwhile.
        Err(Errno::ENXIO) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    fn parts(file: &File, range: Range<u64>) -> Vec<Range<u64>> {
        let mut freeing = Freeing::over(range);
        let mut parts = Vec::new();
        let mut add = |part| {
            parts.push(part);
            Ok(())
        };
        while freeing.go(file, &mut add).unwrap() {}
        parts
    }

    #[test]
    fn the_parts_are_the_range_and_hold_few_pieces_each() {
        let file = tempfile::tempfile().unwrap();
        let blocks = 1000;
        (0..blocks).for_each(|i| file.write_all_at(&[1; 4096], i * 8192).unwrap());
        let range = 4096..blocks * 8192 - 5;
        let parts = parts(&file, range.clone());
        let mut end = range.end;
        for (number, part) in parts.iter().enumerate() {
            assert_eq!(part.end, end);
            end = part.start;
            let most = MOST.min(FIRST << number);
            assert!(pieces(&file, part.clone(), most).unwrap() <= most, "{number}: {part:?}");
        }
        assert_eq!(end, range.start);
        assert!(parts.len() > 3, "{}", parts.len());
    }

    #[test]
    fn a_hole_of_any_size_takes_few_steps() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"end", 1 << 42).unwrap();
        assert!(parts(&file, 0..(1 << 42) + 3).len() < 60);
        assert_eq!(parts(&file, 7..7), [0..0; 0]);
    }
}
