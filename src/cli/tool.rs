//! What the tools for bad days share: where a volume is, questions, progress.

use std::io::{self, BufRead, IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::bail;

use super::args::{VolumeArgs, options};
use super::{reach, settings};
use crate::catalog::{Stores, defined_in, find_state};
use crate::config::{PluginConfig, VolumeOptions};
use crate::store::Known;
use crate::types::{VolumeId, VolumeName};
use crate::worker::VolumeAt;

/// A line of progress is written so often at most.
const PACE: Duration = Duration::from_millis(200);

/// The volume that was named, with the settings of this user.
pub(super) fn volume_at(args: &VolumeArgs) -> anyhow::Result<VolumeAt> {
    let config = settings(args.state.clone())?;
    let given = options(&args.options)?;
    let options = match reach::is_url(&args.volume) {
        true => VolumeOptions::parse_for_url(&args.volume, &given, &config.defaults)?,
        false if !given.is_empty() => {
            bail!("{} is a name, and its volume has its own options; leave them out", args.volume)
        }
        false => run(options_of(&args.volume, &config))??,
    };
    Ok(VolumeAt {
        options,
        volumes: config.state.join("volumes"),
        stores: Known::folder(&config.state),
    })
}

/// Of a volume of Docker's, by its name in the home of the plugin.
async fn options_of(name: &str, config: &PluginConfig) -> anyhow::Result<VolumeOptions> {
    let home = &config.home.url;
    if config.home.embedded {
        bail!(
            "{name} is a name, and S3VOL_URL does not say where its volume is defined; give the volume's URL, or run \
             this in the plugin (docs/OPERATION.md)"
        );
    }
    let opener = Stores::knowing(Known::of_host(&config.state));
    let name = VolumeName::new(name)?;
    match defined_in(&opener, home, &config.defaults, &name).await? {
        Some(found) => Ok(found.options),
        None => bail!("no volume {name} is defined in {home}"),
    }
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

/// Bytes as people read them: `0 B`, `1.5 MiB`.
pub(super) fn size(bytes: f64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024.0 {
        return format!("{bytes:.0} B");
    }
    let (mut value, mut unit) = (bytes, "B");
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    format!("{value:.1} {unit}")
}

/// Asks a person; nobody says no.
pub(super) fn agrees(question: &str) -> bool {
    matches!(ask(question), Ok(Some(true)))
}

/// Asks a person; `None` when there is nobody to be asked.
pub(super) fn ask(question: &str) -> io::Result<Option<bool>> {
    if !io::stdin().is_terminal() {
        return Ok(None);
    }
    write!(io::stderr(), "{question} [y/N] ")?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(Some(matches!(answer.trim(), "y" | "Y" | "yes")))
}

/// The state of the volume at `url`, which `volume` then leads to.
pub(super) async fn state_of(
    volume: &mut VolumeOptions,
    url: &str,
    known: &Known,
) -> anyhow::Result<VolumeId> {
    let Some(found) = find_state(&Stores::knowing(known.clone()), volume).await? else {
        bail!("there is no volume at {url}");
    };
    volume.state_url = found.state_url;
    Ok(found.id)
}
