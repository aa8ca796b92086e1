//! `s3vol set`: changes options of a volume of Docker's.

use std::io::Write;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use super::args::{SetArgs, options};
use super::reach;
use crate::config::{Change, Difference};

/// The plugin answers within the time that Docker gives it.
const ANSWER: Duration = Duration::from_secs(60);

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    changes: Vec<Difference>,
    /// A process of this host writes the volume, and was told.
    told: bool,
}

/// Says for each option that is different when it takes effect.
pub fn set(args: SetArgs) -> anyhow::Result<()> {
    let given = options(&args.options)?;
    let plugin = reach::plugin_itself(args.socket.as_deref())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let asked = json!({ "Name": args.volume, "Opts": given });
    let answer: Answer = runtime.block_on(plugin.call("/S3vol.Set", &asked, ANSWER))?;
    let mut out = std::io::stdout();
    if answer.changes.is_empty() {
        writeln!(out, "{} has these options already", args.volume)?;
    }
    let at_once = answer.changes.iter().any(|change| change.change == Change::Now);
    for change in answer.changes {
        writeln!(out, "{}", change.change_text())?;
    }
    if at_once && !answer.told {
        writeln!(
            out,
            "no process of this host writes {}; one that has it mounted on another host follows at its next mount",
            args.volume
        )?;
    }
    Ok(())
}
