//! Seams through which tests of the whole program shorten its patience, break it ([`Mutant`]), and end it at a
//! place of their choice ([`at`], [`points`]). A release build ignores them.

mod mutant;

pub mod points;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

pub use mutant::Mutant;

/// How long an fsync waits, milliseconds.
pub const SYNC_TIMEOUT: &str = "S3VOL_TEST_SYNC_TIMEOUT_MS";
/// How long after its expiry a request may still arrive, milliseconds.
pub const HOT_MARGIN: &str = "S3VOL_TEST_HOT_MARGIN_MS";
/// How much longer a group of deletions may be under way in the store, milliseconds.
pub const GROUP_LASTS: &str = "S3VOL_TEST_GROUP_LASTS_MS";
/// How often the lease is renewed, milliseconds.
pub const RENEW_EVERY: &str = "S3VOL_TEST_RENEW_MS";
/// How often maintenance of the engine is considered, milliseconds.
pub const MAINTENANCE: &str = "S3VOL_TEST_MAINTENANCE_MS";
/// How old unreferenced files of the engine must be to be deleted, milliseconds.
pub const GARBAGE_AGE: &str = "S3VOL_TEST_GARBAGE_AGE_MS";
/// Bodies beyond so many bytes are uploaded in parts of so many bytes.
pub const PART: &str = "S3VOL_TEST_PART";
/// A commit of more than so many bytes goes in steps of so many.
pub const STEP: &str = "S3VOL_TEST_STEP";
/// How many keys settling announces together.
pub const ROUND: &str = "S3VOL_TEST_ROUND";
/// How many keys settling announces, or resolves, in one batch.
pub const CHUNK: &str = "S3VOL_TEST_CHUNK";
/// Beyond how many bytes the local log is rewritten.
pub const LONG_LOG: &str = "S3VOL_TEST_LONG_LOG";
/// How long the rest of a creation that was cut short is left, milliseconds.
pub const DRAFT_AGE: &str = "S3VOL_TEST_DRAFT_AGE_MS";
/// The least time between two looks at the catalog, milliseconds.
pub const LISTED: &str = "S3VOL_TEST_LISTED_MS";
/// Stands for the kernel's boot id.
pub const BOOT_ID: &str = "S3VOL_TEST_BOOT_ID";

/// A file with the seconds by which this host's wall clock is ahead of the machine's; it may change at any time.
pub const CLOCK: &str = "S3VOL_TEST_CLOCK";

/// When this is set, nothing works on threads of its own, which a simulation has no place for: the engine keeps no
/// local copies of its files, what is removed stays in the trash, and what waits for the disk is waited for.
pub const ONE_THREAD: &str = "S3VOL_TEST_ONE_THREAD";

/// See [`ONE_THREAD`].
pub fn one_thread() -> bool {
    cfg!(debug_assertions) && std::env::var_os(ONE_THREAD).is_some()
}

/// The process aborts after a request is in the local log and before anything else happens, when
/// this file exists; it is removed first.
pub const DIE_LOGGED: &str = "S3VOL_TEST_DIE_LOGGED";

/// The process aborts after it has claimed an epoch and before anything else says so, likewise.
pub const DIE_CLAIMED: &str = "S3VOL_TEST_DIE_CLAIMED";

/// How long a newer program has to come up, milliseconds.
pub const UP: &str = "S3VOL_TEST_UP_MS";

/// How long a newer program has to go on well before the one before it is let go, milliseconds.
pub const PROVES: &str = "S3VOL_TEST_PROVES_MS";

/// A successor says that it cannot open its volume, once, when this file exists; it is removed first.
pub const REFUSE: &str = "S3VOL_TEST_REFUSE";

/// What begins the last line of a program's file that a test made of another: words `NAME=VALUE` follow.
pub const NOTE: &str = "\nS3VOL-TEST-NOTE ";

/// What the note in this program's own file says of `name`: a test so makes programs of other versions, and some that
/// fail.
pub fn noted(name: &str) -> Option<&'static str> {
    static LINE: OnceLock<String> = OnceLock::new();
    if !cfg!(debug_assertions) {
        return None;
    }
    let words = LINE.get_or_init(|| own_note().unwrap_or_default()).split_whitespace();
    words.filter_map(|word| word.split_once('=')).find(|(key, _)| *key == name).map(|(_, v)| v)
}

/// Does nothing any more, as a test wants it.
pub fn hang() -> ! {
    loop {
        std::thread::park();
    }
}

fn own_note() -> Option<String> {
    use std::os::unix::fs::FileExt;
    const LONGEST: u64 = 256;
    let file = std::fs::File::open("/proc/self/exe").ok()?;
    let from = file.metadata().ok()?.len().saturating_sub(LONGEST);
    let mut end = vec![0; LONGEST as usize];
    let read = file.read_at(&mut end, from).ok()?;
    let text = String::from_utf8_lossy(&end[..read]).into_owned();
    text.rsplit_once(NOTE).map(|(_, words)| words.to_owned())
}

/// Ends the process as a crash would, if a test asked for it here.
pub fn die_if_asked(name: &str) {
    if asked_once(name) {
        std::process::abort();
    }
}

/// Whether a test asked for that once, by a file.
pub fn asked_once(name: &str) -> bool {
    text(name).is_some_and(|file| std::fs::remove_file(file).is_ok())
}

/// What a test asks for instead of `default`.
pub fn duration(name: &str, default: Duration) -> Duration {
    text(name).and_then(|ms| ms.parse().ok()).map_or(default, Duration::from_millis)
}

/// What a test asks for instead of `default`.
pub fn number(name: &str, default: u64) -> u64 {
    text(name).and_then(|number| number.parse().ok()).unwrap_or(default)
}

/// A test's value of a seam.
pub fn text(name: &str) -> Option<String> {
    if cfg!(debug_assertions) { std::env::var(name).ok() } else { None }
}

/// By how many seconds a test has this host's wall clock ahead of the machine's.
pub fn clock_ahead() -> i64 {
    static FILE: OnceLock<Option<String>> = OnceLock::new();
    let file = FILE.get_or_init(|| text(CLOCK)).as_ref();
    let seconds = file.and_then(|file| std::fs::read_to_string(file).ok());
    seconds.and_then(|seconds| seconds.trim().parse().ok()).unwrap_or(0)
}

/// The folder of orders to die; see [`at`].
pub const POINTS: &str = "S3VOL_TEST_POINTS";

/// What this process is called in orders.
static NAME: OnceLock<String> = OnceLock::new();

/// The [`Mutant`] that a process is to have: its number.
pub const MUTANT: &str = "S3VOL_TEST_MUTANT";

/// Names this process: a worker as its volume. Only the first call counts.
pub fn named(name: &str) {
    if cfg!(debug_assertions) {
        let _ = NAME.set(name.to_owned());
        let wanted = number(MUTANT, 0);
        if let Some(mutant) = Mutant::ALL.iter().find(|mutant| **mutant as u64 == wanted) {
            mutant.release();
        }
    }
}

/// Dies here, as by SIGKILL, if a test ordered it: by a file `NAME.POINT` in the folder [`POINTS`], which is
/// removed before. It may hold `skip=N`, to pass N times, and numbers of processes that die before this one. A
/// second order beside it, `NAME.POINT.again`, is for the successor.
#[inline(always)]
pub fn at(point: &'static str) {
    if cfg!(debug_assertions) {
        if let Some(watch) = WATCH.get() {
            watch(point);
        }
        obey(point);
    }
}

/// What a test in this process wants to know of [`at`].
static WATCH: OnceLock<fn(&'static str)> = OnceLock::new();

/// From now on `watch` is called wherever a point is passed. Only the first call counts.
pub fn watch(watch: fn(&'static str)) {
    let _ = WATCH.set(watch);
}

fn obey(point: &str) {
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| text(POINTS).map(PathBuf::from));
    let (Some(folder), Some(name)) = (folder, NAME.get()) else { return };
    for again in ["", ".again"] {
        let order = folder.join(format!("{name}.{point}{again}"));
        let Ok(text) = std::fs::read_to_string(&order) else { continue };
        if passes(&order, &text) {
            return;
        }
        // Of several threads one takes it.
        if std::fs::remove_file(&order).is_ok() {
            die(text.split_whitespace().filter_map(|word| word.parse().ok()));
        }
        return;
    }
}

/// Whether it is not yet this time.
fn passes(order: &Path, text: &str) -> bool {
    let skip = text.split_whitespace().find_map(|word| word.strip_prefix("skip="));
    match skip.and_then(|times| times.parse::<u32>().ok()) {
        None | Some(0) => false,
        Some(times) => {
            let less = text.replace(&format!("skip={times}"), &format!("skip={}", times - 1));
            std::fs::write(order, less).is_ok()
        }
    }
}

fn die(before: impl Iterator<Item = i32>) -> ! {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    for pid in before.map(Pid::from_raw) {
        // It may have ended.
        let _ = kill(pid, Signal::SIGKILL);
    }
    let _ = kill(Pid::this(), Signal::SIGKILL);
    std::process::abort()
}
