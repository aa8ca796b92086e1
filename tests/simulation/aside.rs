//! Threads of a process that was forked off.
//!
//! A thread of the standard library takes a lock of the library when it starts. Another thread of the tests may have had it at
//! the moment of the fork; then nobody in the new process ever gives it back.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

struct Work<F, T> {
    work: Option<F>,
    done: Option<Result<T, Box<dyn Any + Send>>>,
}

extern "C" fn start<F: FnOnce() -> T, T>(work: *mut libc::c_void) -> *mut libc::c_void {
    // SAFETY: `aside` waits for the end of this thread, and does not touch it before.
    let it = unsafe { &mut *work.cast::<Work<F, T>>() };
    it.done = it.work.take().map(|work| catch_unwind(AssertUnwindSafe(work)));
    std::ptr::null_mut()
}

/// Does the work on a thread of its own with so many bytes of stack, and waits for it. `Err`: it panicked.
pub fn aside<T: Send, F: FnOnce() -> T + Send>(
    stack: usize,
    work: F,
) -> Result<T, Box<dyn Any + Send>> {
    let mut it = Work { work: Some(work), done: None };
    // SAFETY: the attributes and the number are written before they are used, and what the thread gets outlives it.
    unsafe {
        let mut attributes = std::mem::zeroed();
        assert_eq!(libc::pthread_attr_init(&mut attributes), 0);
        assert_eq!(libc::pthread_attr_setstacksize(&mut attributes, stack), 0);
        let mut thread = std::mem::zeroed();
        let given = (&raw mut it).cast();
        assert_eq!(libc::pthread_create(&mut thread, &attributes, start::<F, T>, given), 0);
        assert_eq!(libc::pthread_join(thread, std::ptr::null_mut()), 0);
        libc::pthread_attr_destroy(&mut attributes);
    }
    it.done.expect("a thread that has ended")
}
