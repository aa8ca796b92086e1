//! How a process runs a volume: as the supervisor starts it, by hand in the foreground, and where it is only read.
//!
//! What all of them have in common lies here; the control socket is in [`control`], and what it tells in numbers in
//! [`measure`].

mod control;
pub(super) mod followed;
mod following;
mod foreground;
mod measure;
mod mount;
mod ready;
mod supervised;

use std::time::Duration;

use super::{Successor, WorkerError, WorkerSpec};

pub use foreground::{serve_detached, serve_foreground};
pub use measure::of_process;
pub use ready::{READY, TELLS_ENV};
pub(super) use supervised::end;
pub use supervised::serve_supervised;

/// The volume could not be opened: starting again will not help by itself.
pub const EXIT_NOT_OPENED: u8 = 75;
/// A successor could not open the volume yet. What uses its mount waits for the next one.
const EXIT_NOT_YET: u8 = 76;
/// How long a drained volume stays ready for the next mount of this host.
const LINGER: Duration = Duration::from_secs(30);
/// FUSE loops: one can answer hits while another copies.
const LOOPS: usize = 2;
/// After a failure the control socket stays this long, so that the reason is read.
const LAST_WORDS: Duration = Duration::from_secs(2);

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(runtime_builder().build()?)
}

/// For a process of one volume: whatever any thread of the runtime logs is about that one. The caller's
/// own thread enters the span.
pub(super) fn runtime_of(
    spec: &WorkerSpec,
) -> anyhow::Result<(tokio::runtime::Runtime, tracing::Span)> {
    crate::sys::bound_heap();
    crate::fault::named(&spec.name);
    let span = tracing::info_span!("volume", name = %spec.name);
    let mut builder = runtime_builder();
    let inherited = span.clone();
    builder.on_thread_start(move || std::mem::forget(inherited.clone().entered()));
    Ok((builder.build()?, span))
}

fn runtime_builder() -> tokio::runtime::Builder {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all();
    builder
}

/// With what a process ends that could not open its volume. The mount of a successor is in use.
fn exit_code(error: &WorkerError, successor: Successor) -> u8 {
    match successor {
        Successor::Yes if error.may_pass() => EXIT_NOT_YET,
        Successor::Yes | Successor::No => EXIT_NOT_OPENED,
    }
}
