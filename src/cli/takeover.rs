//! `s3vol takeover`: takes a volume from a host whose lease has not run out, for whoever cannot wait.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::json;

use super::args::{NamedArgs, TakeoverArgs, options};
use super::tool::{ask, state_of};
use super::{reach, settings};
use crate::catalog::Hold;
use crate::config::{PluginConfig, VolumeOptions};
use crate::driver::ControlClient;
use crate::store::Known;
use crate::types::{Epoch, VolumeId};
use crate::worker::{look_at_hold, take_over};

const ANSWER: Duration = Duration::from_secs(60);

/// Who asks the bucket.
enum Way {
    Plugin(Box<ControlClient>, String),
    Ourselves { id: VolumeId, options: Box<VolumeOptions>, known: Known },
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    hold: Option<Hold>,
}

/// Says what could be lost, asks, and does it. Returns without an error only when the volume is free.
pub fn takeover(args: TakeoverArgs) -> anyhow::Result<()> {
    crate::fault::named("takeover");
    let config = settings(args.named.state.clone())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let taken = runtime.block_on(run(&args, &config));
    // A name lookup that hangs must not hold the command.
    runtime.shutdown_timeout(Duration::from_secs(1));
    taken
}

async fn run(args: &TakeoverArgs, config: &PluginConfig) -> anyhow::Result<()> {
    let volume = &args.named.volume;
    let way = way(&args.named, config).await?;
    let mut out = std::io::stdout();
    let Some(hold) = way.look().await? else {
        writeln!(out, "{volume} is free; the next mount has it")?;
        return Ok(());
    };
    writeln!(out, "{hold}")?;
    if !args.yes && !agreed(volume)? {
        bail!("{volume} was not taken over");
    }
    way.take(hold.epoch).await?;
    writeln!(out, "{volume} was taken over and is free; the next mount has it")?;
    Ok(())
}

async fn way(args: &NamedArgs, config: &PluginConfig) -> anyhow::Result<Way> {
    let volume = &args.volume;
    let used = |pid: u32, at: &std::path::Path| {
        format!(
            "{volume} is used on this host, by process {pid} at {}; unmount it there",
            at.display()
        )
    };
    if !reach::is_url(volume) {
        let served = reach::serving(&config.state, |status| status.name == *volume).await?;
        if let Some((_, status)) = served {
            bail!(used(status.pid, &status.mountpoint));
        }
        let plugin = reach::plugin(args.socket.as_deref(), volume)?;
        return Ok(Way::Plugin(Box::new(plugin), volume.clone()));
    }
    let given = options(&args.options)?;
    let mut options = VolumeOptions::parse_for_url(volume, &given, &config.defaults)?;
    let served = reach::serving(&config.state, |status| status.url == options.url).await?;
    if let Some((_, status)) = served {
        bail!(used(status.pid, &status.mountpoint));
    }
    let known = Known::of_host(&config.state);
    let id = state_of(&mut options, volume, &known).await?;
    Ok(Way::Ourselves { id, options: Box::new(options), known })
}

impl Way {
    async fn look(&self) -> anyhow::Result<Option<Hold>> {
        match self {
            Way::Plugin(plugin, name) => {
                let asked = json!({ "Name": name });
                let answer: Answer = plugin.call("/S3vol.TakeOver", &asked, ANSWER).await?;
                Ok(answer.hold)
            }
            Way::Ourselves { id, options, known } => Ok(look_at_hold(*id, options, known).await?),
        }
    }

    async fn take(&self, epoch: u64) -> anyhow::Result<()> {
        match self {
            Way::Plugin(plugin, name) => {
                let asked = json!({ "Name": name, "Epoch": epoch });
                let _free: Answer = plugin.call("/S3vol.TakeOver", &asked, ANSWER).await?;
            }
            Way::Ourselves { id, options, known } => {
                take_over(*id, options, known, Epoch(epoch)).await?;
            }
        }
        Ok(())
    }
}

fn agreed(volume: &str) -> anyhow::Result<bool> {
    ask(&format!("Take {volume} over?")).context("asking")?.with_context(|| {
        format!("{volume} is held, and there is no terminal to ask on; --yes takes it over without asking")
    })
}
