//! Seams through which tests of the whole program shorten its patience, and break it ([`Mutant`]). A release
//! build ignores them.

mod mutant;

use std::time::Duration;

pub use mutant::Mutant;

/// How long an fsync waits, milliseconds.
pub const SYNC_TIMEOUT: &str = "S3VOL_TEST_SYNC_TIMEOUT_MS";
/// How long after its expiry a request may still arrive, milliseconds.
pub const HOT_MARGIN: &str = "S3VOL_TEST_HOT_MARGIN_MS";
/// How often the lease is renewed, milliseconds.
pub const RENEW_EVERY: &str = "S3VOL_TEST_RENEW_MS";
/// How often maintenance of the engine is considered, milliseconds.
pub const MAINTENANCE: &str = "S3VOL_TEST_MAINTENANCE_MS";
/// How old unreferenced files of the engine must be to be deleted, milliseconds.
pub const GARBAGE_AGE: &str = "S3VOL_TEST_GARBAGE_AGE_MS";
/// Stands for the kernel's boot id.
pub const BOOT_ID: &str = "S3VOL_TEST_BOOT_ID";

/// The engine keeps no local copies of its files, when this is set: its cache works on threads of its own,
/// which a simulation has no place for.
pub const NO_MIRROR: &str = "S3VOL_TEST_NO_MIRROR";

/// The process aborts after a request is in the local log and before anything else happens, when
/// this file exists; it is removed first.
pub const DIE_LOGGED: &str = "S3VOL_TEST_DIE_LOGGED";

/// The process aborts after it has claimed an epoch and before anything else says so, likewise.
pub const DIE_CLAIMED: &str = "S3VOL_TEST_DIE_CLAIMED";

/// Ends the process as a crash would, if a test asked for it here.
pub fn die_if_asked(name: &str) {
    if let Some(file) = text(name)
        && std::fs::remove_file(file).is_ok()
    {
        std::process::abort();
    }
}

/// What a test asks for instead of `default`.
pub fn duration(name: &str, default: Duration) -> Duration {
    text(name).and_then(|ms| ms.parse().ok()).map_or(default, Duration::from_millis)
}

/// A test's value of a seam.
pub fn text(name: &str) -> Option<String> {
    if cfg!(debug_assertions) { std::env::var(name).ok() } else { None }
}
