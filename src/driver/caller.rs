//! Whether somebody still waits for an answer.
//!
//! The HTTP server learns that a caller has hung up when it next reads from the connection, which on a
//! busy machine may be after the answer was made. The socket itself knows at once.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};

use nix::poll::{PollFd, PollFlags, PollTimeout};

/// A connection that is being served. Dropping it ends it for every [`Caller`].
#[derive(Debug)]
pub(super) struct Connection(Arc<OwnedFd>);

impl Connection {
    pub fn of(socket: &impl AsFd) -> io::Result<Self> {
        Ok(Connection(Arc::new(socket.as_fd().try_clone_to_owned()?)))
    }

    pub fn caller(&self) -> Caller {
        Caller(Arc::downgrade(&self.0))
    }
}

/// The other end of a connection. Keeps nothing open.
#[derive(Debug, Clone)]
pub(super) struct Caller(Weak<OwnedFd>);

impl Caller {
    /// Whether an answer would still reach it.
    pub fn listens(&self) -> bool {
        let Some(socket) = self.0.upgrade() else { return false };
        // POLLHUP is told without being asked for.
        let mut fds = [PollFd::new(socket.as_fd(), PollFlags::empty())];
        match nix::poll::poll(&mut fds, PollTimeout::ZERO) {
            Ok(_) => !fds[0].revents().is_some_and(|seen| seen.contains(PollFlags::POLLHUP)),
            Err(error) => {
                tracing::debug!(%error, "a connection of the plugin socket cannot be looked at");
                true
            }
        }
    }
}
