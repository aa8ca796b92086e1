//! How one request runs.
//!
//! Its future is polled once on the FUSE thread: what needs no request to the store is answered right
//! there, without a task or a change of threads. What has to wait goes on as a task. A future that
//! panics answers EIO, because dropping a reply sends that.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::task::{Context, Poll, Waker};

use fuser::{Errno, INodeNo, Request};
use tokio::runtime::Handle;
use tracing::Instrument;

use super::Adapter;
use crate::fs::FsError;
use crate::fuse::errno::errno;

/// What a log line says about a request.
#[derive(Debug, Clone, Copy)]
pub(in crate::fuse) struct Op {
    pub(in crate::fuse) name: &'static str,
    pub(in crate::fuse) ino: u64,
    pub(in crate::fuse) unique: u64,
}

impl Op {
    pub(in crate::fuse) fn new(name: &'static str, req: &Request, ino: INodeNo) -> Self {
        Op { name, ino: ino.0, unique: req.unique().0 }
    }

    /// The errno for `error`. An I/O error is logged here, once, with its causes: the program that
    /// gets EIO cannot see them.
    pub(in crate::fuse) fn errno(self, error: &FsError) -> Errno {
        if let FsError::Io { .. } = error {
            tracing::warn!(
                op = self.name,
                ino = self.ino,
                unique = self.unique,
                error = %Chain(error),
                "a request failed"
            );
        }
        errno(error)
    }
}

impl Adapter {
    /// Runs `call` and gives its result to `answer`, which must reply.
    pub(super) fn run<T, C, A>(&self, op: Op, call: C, answer: A)
    where
        T: Send + 'static,
        C: Future<Output = Result<T, FsError>> + Send + 'static,
        A: FnOnce(Result<T, Errno>) + Send + 'static,
    {
        run(&self.runtime, op, call, answer);
    }

    /// Runs a future that replies itself.
    pub(super) fn drive(&self, op: Op, request: impl Future<Output = ()> + Send + 'static) {
        drive(&self.runtime, op, request);
    }
}

/// Runs `call` and gives its result to `answer`, which must reply.
pub(in crate::fuse) fn run<T, C, A>(runtime: &Handle, op: Op, call: C, answer: A)
where
    T: Send + 'static,
    C: Future<Output = Result<T, FsError>> + Send + 'static,
    A: FnOnce(Result<T, Errno>) + Send + 'static,
{
    drive(runtime, op, async move { answer(call.await.map_err(|error| op.errno(&error))) });
}

/// Polls `request` once here, and leaves the rest to `runtime`.
pub(in crate::fuse) fn drive(
    runtime: &Handle,
    op: Op,
    request: impl Future<Output = ()> + Send + 'static,
) {
    let span = tracing::debug_span!("fuse", op = op.name, ino = op.ino, unique = op.unique);
    let mut request = Box::pin(request.instrument(span));
    let _runtime = runtime.enter();
    let polled = std::panic::catch_unwind(AssertUnwindSafe(|| {
        // A wake-up that comes before the task exists is not lost: a task is polled when it
        // starts, and that poll registers the task's own waker.
        request.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    }));
    match polled {
        Ok(Poll::Ready(())) => {}
        Ok(Poll::Pending) => drop(runtime.spawn(request)),
        Err(_) => {
            tracing::error!(op = op.name, ino = op.ino, unique = op.unique, "a request panicked")
        }
    }
}

/// An error and all its causes on one line.
struct Chain<'e>(&'e (dyn std::error::Error + 'static));

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
