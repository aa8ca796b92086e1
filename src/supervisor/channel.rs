//! The supervisor's end of its socket pair with the driver: lines in, lines out, never blocking.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use nix::poll::PollFlags;
use serde::Serialize;

use super::handed::HandedChannel;
use super::protocol::MAX_LINE;
use crate::sys::{self, HandedKind};

/// Replies and events that the driver has not read; a driver this far behind is hung.
const MAX_UNSENT: usize = 4 << 20;
/// One turn of the loop reads no more, so that signals get their turn.
const MAX_READ: usize = 4 << 20;

/// Why a channel is of no use any more.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChannelError {
    #[error("closed by the driver")]
    Closed,
    #[error("a line longer than {MAX_LINE} bytes")]
    LineTooLong,
    #[error("the driver does not read")]
    NotRead,
    #[error(transparent)]
    Io(#[from] io::Error),
}

pub(super) struct Channel {
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    overflow: bool,
}

impl Channel {
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Channel { stream, input: Vec::new(), output: Vec::new(), overflow: false })
    }

    /// For the program that this process becomes.
    pub(super) fn hand(&self) -> HandedChannel {
        let (input, output) = (self.input.clone(), self.output.clone());
        HandedChannel { stream: self.stream.as_raw_fd(), input, output }
    }

    /// Goes on with what the program before handed over.
    pub(super) fn take(channel: HandedChannel) -> io::Result<Self> {
        let HandedChannel { stream, input, output } = channel;
        let stream = UnixStream::from(sys::handed(stream, HandedKind::Socket)?);
        Ok(Channel { input, output, ..Channel::new(stream)? })
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// What to poll for.
    pub(super) fn interest(&self) -> PollFlags {
        if self.output.is_empty() {
            PollFlags::POLLIN
        } else {
            PollFlags::POLLIN | PollFlags::POLLOUT
        }
    }

    /// Queues one message; it is sent as far as the driver reads.
    pub(super) fn send(&mut self, message: &impl Serialize) {
        match serde_json::to_vec(message) {
            Ok(line) if self.output.len() + line.len() < MAX_UNSENT => {
                self.output.extend_from_slice(&line);
                self.output.push(b'\n');
            }
            Ok(_) => self.overflow = true,
            Err(error) => tracing::error!(%error, "a message could not be written as JSON"),
        }
        // An error shows again at the next pump.
        let _ = self.flush();
    }

    /// Moves bytes in both directions until one of them would block.
    pub(super) fn pump(&mut self) -> Result<(), ChannelError> {
        let mut chunk = [0; 16 << 10];
        let mut total = 0;
        while total < MAX_READ {
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(ChannelError::Closed),
                Ok(n) => {
                    total += n;
                    self.input.extend_from_slice(&chunk[..n]);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        self.flush()?;
        let unfinished = self.input.iter().rev().take_while(|&&b| b != b'\n').count();
        match (self.overflow, unfinished > MAX_LINE) {
            (true, _) => Err(ChannelError::NotRead),
            (_, true) => Err(ChannelError::LineTooLong),
            _ => Ok(()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(n) => drop(self.output.drain(..n)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// The complete lines that have arrived, without empty ones.
    pub(super) fn take_lines(&mut self) -> Vec<Vec<u8>> {
        let Some(end) = self.input.iter().rposition(|&b| b == b'\n') else { return Vec::new() };
        let rest = self.input.split_off(end + 1);
        let complete = std::mem::replace(&mut self.input, rest);
        let lines = complete.split(|&b| b == b'\n');
        lines.filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect()
    }
}

/// The `id` of a line that is otherwise no request, so that its sender learns of it.
pub(super) fn id_of(line: &[u8]) -> u64 {
    #[derive(serde::Deserialize)]
    struct OnlyId {
        id: u64,
    }
    serde_json::from_slice::<OnlyId>(line).map_or(0, |only| only.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_and_the_end_is_noticed() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut channel = Channel::new(near).unwrap();
        far.write_all(b"one\n\ntw").unwrap();
        channel.pump().unwrap();
        assert_eq!(channel.take_lines(), vec![b"one".to_vec()]);
        far.write_all(b"o\n").unwrap();
        channel.pump().unwrap();
        assert_eq!(channel.take_lines(), vec![b"two".to_vec()]);
        drop(far);
        assert!(matches!(channel.pump(), Err(ChannelError::Closed)));
    }

    #[test]
    fn an_endless_line_and_a_deaf_driver_are_errors() {
        let (near, far) = UnixStream::pair().unwrap();
        let mut channel = Channel::new(near).unwrap();
        let writer = std::thread::spawn(move || {
            let _ = (&far).write_all(&vec![b'x'; MAX_LINE + 2]);
            far
        });
        let error = loop {
            match channel.pump() {
                Ok(()) => std::thread::yield_now(),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, ChannelError::LineTooLong), "{error}");
        let _far = writer.join().unwrap();
        for _ in 0..6 {
            channel.send(&"y".repeat(1 << 20));
        }
        assert!(matches!(channel.pump(), Err(ChannelError::NotRead)));
    }
}
