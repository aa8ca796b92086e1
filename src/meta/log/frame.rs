//! Frames: `len u32, lsn u64, kind u8, crc32c(payload) u32, crc32c(all before) u32, payload`,
//! little-endian.
//!
//! The head has a checksum of its own so that a torn tail (the length is right, bytes are missing)
//! and damage (anything else) can be told apart.

use std::io::{self, Read};

use super::LogError;
use crate::fault::Mutant;
use crate::types::Lsn;

const HEAD: usize = 4 + 8 + 1 + 4 + 4;

/// A record is at most a batch; larger data lies in segments.
pub(super) const MAX_PAYLOAD: usize = 256 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Header,
    Record,
    Epoch,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Kind::Header => 0,
            Kind::Record => 1,
            Kind::Epoch => 2,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        [Kind::Header, Kind::Record, Kind::Epoch].into_iter().find(|kind| kind.code() == code)
    }
}

#[derive(Debug)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    pub(super) lsn: Lsn,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    pub(super) fn len_on_disk(&self) -> u64 {
        (HEAD + self.payload.len()) as u64
    }
}

/// What lies at the reader's position.
#[derive(Debug)]
pub(super) enum Next {
    Frame(Frame),
    /// The file ends here.
    End,
    /// The file ends inside this frame: its writer died.
    Torn,
    /// This is no frame that was ever written.
    Damaged,
}

/// Appends a frame to `out`.
pub(super) fn write(
    out: &mut Vec<u8>,
    kind: Kind,
    lsn: Lsn,
    payload: &[u8],
) -> Result<(), LogError> {
    let start = out.len();
    let len = u32::try_from(payload.len()).map_err(|_| LogError::Record(None))?;
    if payload.len() > MAX_PAYLOAD {
        return Err(LogError::Record(None));
    }
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&lsn.0.to_le_bytes());
    out.push(kind.code());
    out.extend_from_slice(&crc32c::crc32c(payload).to_le_bytes());
    let head_crc = crc32c::crc32c(&out[start..]);
    out.extend_from_slice(&head_crc.to_le_bytes());
    out.extend_from_slice(payload);
    Ok(())
}

/// Reads the next frame.
pub(super) fn read(from: &mut impl Read) -> io::Result<Next> {
    let mut head = [0; HEAD];
    match fill(from, &mut head)? {
        0 => return Ok(Next::End),
        HEAD => {}
        _ => return Ok(Next::Torn),
    }
    let (covered, head_crc) = head.split_at(HEAD - 4);
    if crc32c::crc32c(covered).to_le_bytes() != head_crc {
        return Ok(Next::Damaged);
    }
    let len = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
    let lsn = covered[4..12].iter().rev().fold(0u64, |n, byte| n << 8 | u64::from(*byte));
    let Some(kind) = Kind::from_code(head[12]).filter(|_| len <= MAX_PAYLOAD) else {
        return Ok(Next::Damaged);
    };
    let mut payload = vec![0; len];
    let torn = fill(from, &mut payload)? < len;
    if torn && Mutant::TornTailReplayed.lives() {
        return Ok(Next::Frame(Frame { kind, lsn: Lsn(lsn), payload }));
    }
    if torn {
        return Ok(Next::Torn);
    }
    if crc32c::crc32c(&payload).to_le_bytes() != covered[13..17] {
        return Ok(Next::Damaged);
    }
    Ok(Next::Frame(Frame { kind, lsn: Lsn(lsn), payload }))
}

/// Reads until `buffer` is full or the file ends.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
