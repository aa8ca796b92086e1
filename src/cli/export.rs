//! `s3vol export`: a volume's metadata in a format that other versions can read.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use anyhow::bail;

use super::args::{PlaceArgs, options};
use super::mount::local_spec;
use super::settings;
use super::tool::state_of;
use crate::config::VolumeOptions;
use crate::store::Known;
use crate::worker::{Progress, export_volume};

/// Holds the volume while it works, as a mount would.
pub fn export(args: PlaceArgs) -> anyhow::Result<()> {
    let config = settings(args.state)?;
    let given = options(&args.options)?;
    let mut volume = VolumeOptions::parse_for_url(&args.url, &given, &config.defaults)?;
    if volume.readonly {
        bail!("an export is written to the bucket; leave readonly out");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let spec = runtime.block_on(async {
        let known = Known::of_host(&config.state);
        let id = state_of(&mut volume, &args.url, &known).await?;
        local_spec(&config, &args.url, id, volume, PathBuf::new()).await
    })?;
    // A name lookup that hangs must not hold the command.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    let shows = std::io::stderr().is_terminal();
    let records = export_volume(&spec, |Progress { records, bytes }| {
        if shows {
            eprint!("\r{records} records, {} MiB", bytes >> 20);
        }
    });
    if shows {
        eprintln!();
    }
    writeln!(std::io::stdout(), "exported {} records", records?)?;
    Ok(())
}
