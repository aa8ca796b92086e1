//! The memory into which the kernel copies FUSE requests.
//!
//! A thread that is killed while the kernel copies a request into memory that is not in place yet gets none any
//! more. The kernel then answers EIO to the program, and no successor ever hears of the request. So the buffers
//! that `fuser` reads into are in place before they are used; it allocates them itself, as zeros.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;

/// What `fuser` 0.18 allocates for one of its loops, bytes.
pub const BUFFER: usize = (16 << 20) + 4096;
/// As much of it is ever used, bytes: the largest WRITE and what comes before its bytes.
const USED: usize = LARGEST + 4096;
/// The largest WRITE that is negotiated, bytes.
pub const LARGEST: usize = 1 << 20;
/// The smallest page that there is.
const PAGE: usize = 4096;

static IN_PLACE: AtomicU64 = AtomicU64::new(0);

/// The system's heap, with these buffers in place. For a program that serves.
#[derive(Debug)]
pub struct Heap;

// SAFETY: the system's allocator does all of it; what is added changes no byte.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        let memory = unsafe { System.alloc_zeroed(layout) };
        if layout.size() == BUFFER && !memory.is_null() && populate(memory.addr(), USED).is_ok() {
            IN_PLACE.fetch_add(1, Ordering::Relaxed);
        }
        memory
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { System.realloc(memory, layout, size) }
    }
}

/// How many buffers were put in place so far.
pub fn buffers_in_place() -> u64 {
    IN_PLACE.load(Ordering::Relaxed)
}

/// Has `len` bytes of memory from that address on in place, as writing to them would, without changing them.
fn populate(from: usize, len: usize) -> io::Result<()> {
    let start = from / PAGE * PAGE;
    let len = (from + len).next_multiple_of(PAGE) - start;
    let start = std::ptr::without_provenance_mut(start);
    // SAFETY: no byte and no mapping changes, whatever lies there; where nothing is mapped it is an error.
    let done = unsafe { libc::madvise(start, len, libc::MADV_POPULATE_WRITE) };
    Errno::result(done).map(|_| ()).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use nix::sys::resource::{UsageWho, getrusage};

    use super::*;

    #[test]
    fn the_buffer_of_a_loop_is_in_place_before_it_is_written() {
        let faults = || getrusage(UsageWho::RUSAGE_THREAD).unwrap().minor_page_faults();
        let mut buffer: Vec<u8> = vec![0; BUFFER];
        let before = faults();
        buffer[..USED].fill(1);
        assert!(faults() < before + 10, "it was not: {}", faults() - before);
        assert_eq!(buffer[USED], 0);
        populate(40, 1).unwrap_err();
    }
}
