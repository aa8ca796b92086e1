//! What the tools for bad days share: where a volume is, questions, progress.

use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::args::options;
use super::settings;
use crate::config::VolumeOptions;
use crate::store::Known;
use crate::worker::VolumeAt;

/// A line of progress is written so often at most.
const PACE: Duration = Duration::from_millis(200);

/// The volume at `url`, with the settings of this user.
pub(super) fn volume_at(
    state: Option<PathBuf>,
    texts: &[String],
    url: &str,
) -> anyhow::Result<VolumeAt> {
    let config = settings(state)?;
    let given = options(texts)?;
    let options = VolumeOptions::parse_for_url(url, &given, &config.defaults)?;
    Ok(VolumeAt {
        options,
        volumes: config.state.join("volumes"),
        stores: Known::folder(&config.state),
    })
}

/// Runs a tool to its end. A name lookup that hangs must not hold the command.
pub(super) fn run<T>(work: impl Future<Output = T>) -> anyhow::Result<T> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let done = runtime.block_on(work);
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(done)
}

/// A line that is written over again and again, where a person looks.
pub(super) struct Line {
    shows: bool,
    written: Option<Instant>,
    width: usize,
}

impl Line {
    pub fn new() -> Self {
        Line { shows: std::io::stderr().is_terminal(), written: None, width: 0 }
    }

    pub fn show(&mut self, text: &str) {
        let early = self.written.is_some_and(|at| at.elapsed() < PACE);
        if !self.shows || early {
            return;
        }
        self.written = Some(Instant::now());
        eprint!("\r{text:<width$}", width = self.width);
        self.width = text.chars().count();
    }

    /// What comes next has a line of its own.
    pub fn clear(&mut self) {
        if self.shows && self.width > 0 {
            eprint!("\r{:width$}\r", "", width = self.width);
            self.width = 0;
        }
    }
}

/// Asks a person; nobody says no.
pub(super) fn agrees(question: &str) -> bool {
    if !std::io::stdin().is_terminal() {
        return false;
    }
    eprint!("{question} [y/N] ");
    drop(std::io::stderr().flush());
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}
