//! How one request runs.
//!
//! Its future is polled once on the FUSE thread: what needs no request to the store is answered right
//! there, without a task or a change of threads. What has to wait goes on as a task. A future that
//! panics answers EIO. One that this process does not bring to its end is not answered at all: the kernel asks a
//! successor again, or ends the request with the mount.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use fuser::{Errno, INodeNo, Request};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tracing::Instrument;

use super::calls::Call;
use crate::clock::boottime;
use crate::data::{Programs, Waiting};
use crate::fs::FsError;
use crate::fuse::errno::errno;
use crate::metrics::Meters;

/// Lines about failed requests in one second; a program may try again for ever.
const LINES: u32 = 20;
const SECOND: Duration = Duration::from_secs(1);

/// What the log and the counters say about a request.
#[derive(Debug, Clone, Copy)]
pub(in crate::fuse) struct Op {
    pub(in crate::fuse) call: Call,
    pub(in crate::fuse) ino: u64,
    pub(in crate::fuse) unique: u64,
    /// Boot time.
    pub(in crate::fuse) begun: Duration,
}

impl Op {
    pub(in crate::fuse) fn new(call: Call, req: &Request, ino: INodeNo) -> Self {
        Op { call, ino: ino.0, unique: req.unique().0, begun: boottime() }
    }

    /// The errno for `error`. An I/O error is logged here, once, with its causes: the program that
    /// gets EIO cannot see them.
    pub(in crate::fuse) fn errno(self, error: &FsError, meters: &Meters) -> Errno {
        if let FsError::Io { .. } = error {
            meters.operations.failed(self.call.operation);
            if let Some(left_out) = SAID.lock().says(boottime()) {
                tracing::warn!(
                    op = self.call.name,
                    ino = self.ino,
                    unique = self.unique,
                    error = %Chain(error),
                    left_out,
                    "a request failed"
                );
            }
        }
        errno(error)
    }
}

/// Runs requests, and counts them.
#[derive(Debug)]
pub(in crate::fuse) struct Runner {
    runtime: Handle,
    meters: Arc<Meters>,
    programs: Arc<Programs>,
}

impl Runner {
    pub(in crate::fuse) fn new(
        runtime: Handle,
        meters: Arc<Meters>,
        programs: Arc<Programs>,
    ) -> Self {
        Runner { runtime, meters, programs }
    }

    pub(in crate::fuse) fn meters(&self) -> Arc<Meters> {
        Arc::clone(&self.meters)
    }

    /// Runs `call` and gives its result to `answer`, which must reply.
    pub(in crate::fuse) fn run<T, C, A>(&self, op: Op, call: C, answer: A)
    where
        T: Send + 'static,
        C: Future<Output = Result<T, FsError>> + Send + 'static,
        A: FnOnce(Result<T, Errno>) + Send + 'static,
    {
        let meters = self.meters();
        self.drive(op, async move {
            answer(call.await.map_err(|error| op.errno(&error, &meters)));
        });
    }

    /// Runs a future that replies itself: polls it once here, and leaves the rest to the runtime.
    pub(in crate::fuse) fn drive(
        &self,
        op: Op,
        request: impl Future<Output = ()> + Send + 'static,
    ) {
        let span =
            tracing::debug_span!("fuse", op = op.call.name, ino = op.ino, unique = op.unique);
        let request = Some(Box::pin(request.instrument(span)));
        let mut request = Unanswered { op, meters: self.meters(), request, waiting: None };
        let _runtime = self.runtime.enter();
        // A wake-up that comes before the task exists is not lost: a task is polled when it
        // starts, and that poll registers the task's own waker.
        if Pin::new(&mut request).poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            request.waiting = Some(self.programs.begin_waiting());
            drop(self.runtime.spawn(request));
        }
    }
}

/// A request until it is answered.
struct Unanswered<F> {
    op: Op,
    meters: Arc<Meters>,
    request: Option<Pin<Box<F>>>,
    waiting: Option<Waiting>,
}

impl<F: Future<Output = ()>> Future for Unanswered<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Some(request) = &mut self.request else { return Poll::Ready(()) };
        let polled = std::panic::catch_unwind(AssertUnwindSafe(|| request.as_mut().poll(context)));
        match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(())) => {}
            Err(_) => {
                let Op { call: Call { name, .. }, ino, unique, .. } = self.op;
                tracing::error!(op = name, ino, unique, "a request panicked");
            }
        }
        // A reply that is dropped in it sends EIO.
        self.request = None;
        self.waiting = None;
        let took = boottime().saturating_sub(self.op.begun);
        self.meters.operations.answered(self.op.call.operation, took);
        Poll::Ready(())
    }
}

impl<F> Drop for Unanswered<F> {
    fn drop(&mut self) {
        if let Some(request) = self.request.take() {
            let Op { call: Call { name, .. }, ino, unique, .. } = self.op;
            tracing::debug!(op = name, ino, unique, "a request is left to the next worker");
            std::mem::forget(request);
        }
    }
}

static SAID: Mutex<Said> = Mutex::new(Said { since: Duration::ZERO, lines: 0, left_out: 0 });

/// What was said of failed requests in this second.
#[derive(Debug, Default)]
pub(in crate::fuse) struct Said {
    since: Duration,
    lines: u32,
    left_out: u64,
}

impl Said {
    /// Whether one more is said; with how many were not since the last one.
    pub(in crate::fuse) fn says(&mut self, now: Duration) -> Option<u64> {
        if now.saturating_sub(self.since) >= SECOND {
            (self.since, self.lines) = (now, 0);
        }
        if self.lines == LINES {
            self.left_out += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.left_out))
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
