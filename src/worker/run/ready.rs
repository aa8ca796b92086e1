//! A successor tells the supervisor that it serves: the next volume may follow, or nobody has to go back.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;

use crate::sys::{Inherited, inherited};

/// Set by the supervisor where descriptor 4 is the pipe for that.
pub const TELLS_ENV: &str = "S3VOL_TELLS";
/// What is written.
pub const READY: &[u8] = b"ready\n";

/// Tells it once.
#[derive(Debug, Default)]
pub(super) struct Ready(Option<OwnedFd>);

impl Ready {
    /// For the first thing that the process does: the number is given to something else later.
    pub fn of_process() -> Self {
        let told = std::env::var_os(TELLS_ENV).and_then(|_| {
            inherited(Inherited::Second)
                .inspect_err(
                    |error| tracing::warn!(%error, "nobody is told that the volume is served"),
                )
                .ok()
        });
        Ready(told)
    }

    pub fn tell(&mut self) {
        if let Some(pipe) = self.0.take()
            && let Err(error) = File::from(pipe).write_all(READY)
        {
            tracing::debug!(%error, "nobody hears that the volume is served");
        }
    }
}
