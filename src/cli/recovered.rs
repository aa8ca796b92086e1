//! `s3vol recovered`: content that a host had not synced when another one took its volume over.

use std::io::Write;

use anyhow::bail;

use super::args::{RecoveredCommand, RecoveredVolume, options};
use super::settings;
use crate::catalog::{Stores, find_state};
use crate::config::VolumeOptions;
use crate::store::Known;
use crate::worker::{Recovered, Shelf};

/// Reads the bucket only; the volume may be in use anywhere.
pub fn recovered(command: RecoveredCommand) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(run(command));
    // A name lookup that hangs must not hold the command.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    done
}

async fn run(command: RecoveredCommand) -> anyhow::Result<()> {
    let mut text = String::new();
    let mut failed = Vec::new();
    match command {
        RecoveredCommand::List(volume) => {
            let all = shelf(&volume).await?.list().await?;
            if all.found.is_empty() && all.unreadable.is_empty() {
                text.push_str("nothing had to be recovered\n");
            }
            failed = all.unreadable;
            for found in all.found {
                let files = found.files();
                let bytes = files.iter().map(|file| file.recovered).fold(0, u64::saturating_add);
                let (name, at) = (&found.name, &found.manifest.at);
                text.push_str(&format!("{name}  {at}  {} files, {bytes} bytes\n", files.len()));
            }
        }
        RecoveredCommand::Show { volume, name } => {
            let found = find(&shelf(&volume).await?, &name).await?;
            for file in found.files() {
                let what = match (file.recovered == file.size, file.missing) {
                    (true, _) => "whole".to_owned(),
                    (false, 0) => format!("{} bytes changed, the rest is a hole", file.recovered),
                    (false, lost) => format!("{} bytes changed, {lost} lost", file.recovered),
                };
                text.push_str(&format!("{:>12}  {}  ({what})\n", file.size, file.path));
            }
        }
        RecoveredCommand::Restore { volume, name, into } => {
            let shelf = shelf(&volume).await?;
            let found = find(&shelf, &name).await?;
            let restored = shelf.restore(&found, &into).await?;
            text.push_str(&format!("{} files are in {}\n", restored.written, into.display()));
            failed = restored.failed;
        }
    }
    std::io::stdout().lock().write_all(text.as_bytes())?;
    let why: Vec<String> = failed.iter().map(|(what, why)| format!("{what}: {why}")).collect();
    if !why.is_empty() {
        bail!("not all of it could be read:\n{}", why.join("\n"));
    }
    Ok(())
}

async fn shelf(args: &RecoveredVolume) -> anyhow::Result<Shelf> {
    let config = settings(None)?;
    let given = options(&args.options)?;
    let mut volume = VolumeOptions::parse_for_url(&args.url, &given, &config.defaults)?;
    let known = Known::of_host(&config.state);
    let Some(found) = find_state(&Stores::knowing(known.clone()), &volume).await? else {
        bail!("no volume was ever mounted from {}", args.url);
    };
    volume.state_url = found.state_url;
    Ok(Shelf::of(found.id, &volume, &known)?)
}

async fn find(shelf: &Shelf, name: &str) -> anyhow::Result<Recovered> {
    match shelf.find(name).await? {
        Some(found) => Ok(found),
        None => bail!(
            "nothing was recovered under the name {name}; `s3vol recovered list` has the names"
        ),
    }
}
