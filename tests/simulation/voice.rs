//! What is heard of a schedule while it runs. Whatever that is, a seed does the same.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::aside::aside;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Voice {
    Silent,
    /// It says on standard error what happens, and `RUST_LOG` chooses of what the code says.
    Aloud,
    /// It says all that there is to say, and nobody hears it.
    Unheard,
}

impl Voice {
    /// From now on this process says what it is to say. The log is made on a thread of its own: the keys of hash maps
    /// come from the first draw of the thread that makes one, and those of the thread that simulates are the seed's.
    pub fn begin(self) {
        let filter = match self {
            Voice::Silent => return,
            Voice::Aloud => std::env::var("RUST_LOG").ok(),
            Voice::Unheard => Some("trace".to_owned()),
        };
        if self == Voice::Unheard {
            let nowhere = File::options().write(true).open("/dev/null").expect("the device");
            // SAFETY: both are open; standard error leads elsewhere from then on.
            unsafe { libc::dup2(nowhere.as_raw_fd(), libc::STDERR_FILENO) };
        }
        let Some(filter) = filter else { return };
        let made = aside(8 << 20, move || {
            let log = tracing_subscriber::fmt().with_env_filter(filter).without_time();
            log.with_writer(|| Said).with_ansi(false).init();
        });
        made.expect("a log");
    }
}

/// Bytes that the code has said.
static SAID: AtomicU64 = AtomicU64::new(0);

pub fn said() -> u64 {
    SAID.load(Ordering::Relaxed)
}

struct Said;

impl Write for Said {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        SAID.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        io::stderr().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
