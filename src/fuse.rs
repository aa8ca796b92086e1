//! FUSE: carries the kernel's requests to [`crate::fs::Fs`], or to [`crate::follow::ReadFs`] for a
//! volume that is only read, and its answers back. The only importer of `fuser`, and nothing of
//! `fuser` shows in its interface.
//!
//! It owns the connection to the kernel: the handshake and its hand-over to a later worker
//! ([`serve`], [`HandoffFiles`]) and the notifications to the kernel ([`Notifier`]). mount(2) itself
//! is in [`crate::sys`], because the mount belongs to a process that knows nothing of FUSE's
//! protocol. It decides nothing about files: a request is translated, one future of `Fs` runs, its
//! result is translated back.
//!
//! What survives a crash of the worker: the mount, for as long as somebody else holds the FUSE
//! descriptor, and the requests that were not answered, which the kernel sends again.

mod adapter;
mod errno;
mod error;
mod following;
mod handoff;
mod negotiate;
mod notify;
mod session;
#[cfg(test)]
mod tests;

pub use error::FuseError;
pub use handoff::HandoffFiles;
pub use notify::Notifier;
pub use session::{Serving, serve, serve_following};
