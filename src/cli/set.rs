//! `s3vol set`: changes options of a volume of Docker's.

use std::io::Write;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use super::args::{SetArgs, options};
use super::reach;
use crate::config::Difference;

/// The plugin answers within the time that Docker gives it.
const ANSWER: Duration = Duration::from_secs(60);

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    changes: Vec<Difference>,
}

/// Says for each option that is different when it takes effect.
pub fn set(args: SetArgs) -> anyhow::Result<()> {
    let given = options(&args.options)?;
    let plugin = reach::plugin(args.socket.as_deref(), &args.volume)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let asked = json!({ "Name": args.volume, "Opts": given });
    let answer: Answer = runtime.block_on(plugin.call("/S3vol.Set", &asked, ANSWER))?;
    let mut out = std::io::stdout();
    if answer.changes.is_empty() {
        writeln!(out, "{} has these options already", args.volume)?;
    }
    for change in answer.changes {
        writeln!(out, "{}", change.change_text())?;
    }
    Ok(())
}
