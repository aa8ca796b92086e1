//! The C library's heap: what a burst took goes back to the system.
//!
//! glibc gives each thread an arena of its own and returns little of it: a worker that had created a
//! million files kept 500 MB where 150 MB were in use.

/// Two arenas, and large pieces as mappings of their own. To be called before threads are started.
pub fn bound_heap() {
    #[cfg(target_env = "gnu")]
    for (what, value) in [
        (libc::M_ARENA_MAX, 2),
        (libc::M_MMAP_THRESHOLD, 256 << 10),
        (libc::M_TRIM_THRESHOLD, 4 << 20),
    ] {
        // SAFETY: changes numbers inside the allocator; any thread may call it.
        if unsafe { libc::mallopt(what, value) } == 0 {
            tracing::debug!(what, value, "the heap takes no such limit");
        }
    }
}

/// Gives back what is free. Takes some milliseconds.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: only the allocator's own free memory is touched; any thread may call it.
    unsafe {
        libc::malloc_trim(0);
    }
}
