//! What programs ask of a mounted volume.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{Histogram, Sample, names};

/// The kinds of requests that are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Lookup,
    Getattr,
    Setattr,
    /// A part of a listing, and opening and closing a directory.
    Readdir,
    Open,
    /// A file, a directory, a link.
    Create,
    /// Of a name.
    Remove,
    Rename,
    Read,
    Write,
    /// close(2), and the end of the last descriptor.
    Close,
    Fsync,
    Xattr,
    Other,
}

impl Operation {
    pub const ALL: [Operation; 14] = [
        Operation::Lookup,
        Operation::Getattr,
        Operation::Setattr,
        Operation::Readdir,
        Operation::Open,
        Operation::Create,
        Operation::Remove,
        Operation::Rename,
        Operation::Read,
        Operation::Write,
        Operation::Close,
        Operation::Fsync,
        Operation::Xattr,
        Operation::Other,
    ];

    /// The value of its label.
    pub fn name(self) -> &'static str {
        match self {
            Operation::Lookup => "lookup",
            Operation::Getattr => "getattr",
            Operation::Setattr => "setattr",
            Operation::Readdir => "readdir",
            Operation::Open => "open",
            Operation::Create => "create",
            Operation::Remove => "remove",
            Operation::Rename => "rename",
            Operation::Read => "read",
            Operation::Write => "write",
            Operation::Close => "close",
            Operation::Fsync => "fsync",
            Operation::Xattr => "xattr",
            Operation::Other => "other",
        }
    }
}

/// From what memory answers to what waits for a store that does not.
static TIMES: [Duration; 8] = [
    Duration::from_micros(100),
    Duration::from_micros(500),
    Duration::from_micros(2_500),
    Duration::from_millis(10),
    Duration::from_millis(50),
    Duration::from_millis(250),
    Duration::from_secs(1),
    Duration::from_secs(5),
];

/// An fsync takes one request to the store at least.
static SYNC_TIMES: [Duration; 10] = [
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(15),
];

/// Requests of the kernel, counted where they are answered.
#[derive(Debug)]
pub struct Operations {
    times: [Histogram; Operation::ALL.len()],
    syncs: Histogram,
    failed: [AtomicU64; Operation::ALL.len()],
    read: AtomicU64,
    written: AtomicU64,
}

impl Default for Operations {
    fn default() -> Self {
        Operations {
            times: std::array::from_fn(|_| Histogram::new(&TIMES)),
            syncs: Histogram::new(&SYNC_TIMES),
            failed: Default::default(),
            read: AtomicU64::new(0),
            written: AtomicU64::new(0),
        }
    }
}

impl Operations {
    pub fn answered(&self, operation: Operation, took: Duration) {
        self.times[operation as usize].observe(took);
        if operation == Operation::Fsync {
            self.syncs.observe(took);
        }
    }

    /// Answered with an I/O error.
    pub fn failed(&self, operation: Operation) {
        self.failed[operation as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn read(&self, bytes: usize) {
        self.read.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub fn written(&self, bytes: usize) {
        self.written.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn samples(&self, all: &mut Vec<Sample>) {
        for operation in Operation::ALL {
            let (name, at) = (operation.name(), operation as usize);
            let times = Sample::new(&names::OPERATION_SECONDS, self.times[at].value());
            all.push(times.with("operation", name));
            let failed = self.failed[at].load(Ordering::Relaxed);
            all.push(Sample::count(&names::OPERATION_ERRORS, failed).with("operation", name));
        }
        all.push(Sample::new(&names::FSYNC_SECONDS, self.syncs.value()));
        all.push(Sample::count(&names::READ_BYTES, self.read.load(Ordering::Relaxed)));
        all.push(Sample::count(&names::WRITTEN_BYTES, self.written.load(Ordering::Relaxed)));
    }
}

/// Reads that the local cache answered, and those that had to ask the bucket.
#[derive(Debug, Default)]
pub struct CacheReads {
    hits: AtomicU64,
    misses: AtomicU64,
}

impl CacheReads {
    pub fn hit(&self) {
        self.hits.fetch_add(1, Ordering::Relaxed);
    }

    pub fn missed(&self) {
        self.misses.fetch_add(1, Ordering::Relaxed);
    }
}

/// The counters of one served volume.
#[derive(Debug, Default)]
pub struct Meters {
    pub operations: Operations,
    pub cache: CacheReads,
}

impl Meters {
    pub fn samples(&self, all: &mut Vec<Sample>) {
        self.operations.samples(all);
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        all.push(Sample::count(&names::CACHE_HITS, of(&self.cache.hits)));
        all.push(Sample::count(&names::CACHE_MISSES, of(&self.cache.misses)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_own_place() {
        for (at, operation) in Operation::ALL.into_iter().enumerate() {
            assert_eq!(operation as usize, at, "{operation:?}");
        }
        let meters = Meters::default();
        meters.operations.answered(Operation::Fsync, Duration::from_millis(7));
        meters.operations.failed(Operation::Read);
        let mut all = Vec::new();
        meters.samples(&mut all);
        let counted: Vec<_> = all.iter().filter(|sample| sample.total() > 0.0).collect();
        let said: Vec<_> = counted.iter().map(|s| (&*s.name, s.label("operation"))).collect();
        assert_eq!(
            said,
            [
                (names::OPERATION_ERRORS.name, Some("read")),
                (names::OPERATION_SECONDS.name, Some("fsync")),
                (names::FSYNC_SECONDS.name, None),
            ]
        );
    }
}
