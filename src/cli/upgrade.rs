//! `s3vol upgrade`: another version of the program under running containers, and how far it is.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::bail;
use serde::Deserialize;
use serde_json::json;

use super::args::UpgradeArgs;
use super::reach;
use crate::clock::Deadline;
use crate::driver::{ControlClient, ControlError, RunningProgram, Upgrading};

/// Copying, checking, and up to a minute for mounts that are under way.
const BEGIN: Duration = Duration::from_secs(120);
const ANSWER: Duration = Duration::from_secs(10);
/// Nothing announces the end to a caller whose plugin is replaced meanwhile.
const PACE: Duration = Duration::from_millis(200);
/// A plugin that does not answer for so long has ended. Its driver may need a minute to make place.
const GONE: Duration = Duration::from_secs(120);

/// Whoever waits for longer may as well look now and then. Each volume may need most of a minute.
const LONGEST: Duration = Duration::from_secs(30 * 60);

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Begun {
    from: String,
    to: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    program: RunningProgram,
}

/// Returns without an error only when the new program has taken over completely, and a restart leads to it.
pub fn upgrade(args: UpgradeArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(args))
}

async fn run(args: UpgradeArgs) -> anyhow::Result<()> {
    let plugin = reach::plugin_itself(args.socket.as_deref())?;
    let mut out = std::io::stdout();
    let Some(file) = args.from else {
        let program = look(&plugin).await?;
        return Ok(writeln!(out, "{}", told(&program))?);
    };
    let file = std::path::absolute(&file).unwrap_or(file);
    let begun = begin(&plugin, &file).await?;
    eprintln!("s3vol: version {} is to take the place of {}", begun.to, begun.from);
    let program = end(&plugin).await?;
    match program.upgrade.as_ref().map(|upgrade| (upgrade.stage.as_str(), &upgrade.why)) {
        Some(("done", None)) => Ok(writeln!(out, "{}", told(&program))?),
        Some(("done", Some(why))) => bail!(
            "version {} runs, but could not be noted, so a restart of the plugin uses the installed one: {why}; the \
             plugin tries again every few seconds (`s3vol upgrade --status`)",
            begun.to
        ),
        Some((_, why)) => bail!(
            "version {} did not take over, and {} goes on: {}",
            begun.to,
            program.version,
            why.as_deref().unwrap_or("the plugin's log says why")
        ),
        None => bail!("the plugin was restarted meanwhile; its log says why"),
    }
}

async fn begin(plugin: &ControlClient, file: &Path) -> anyhow::Result<Begun> {
    let asked = json!({ "File": file });
    match plugin.call("/S3vol.Upgrade", &asked, BEGIN).await {
        Err(ControlError::Refused { status: 404, .. }) => bail!(
            "the plugin that runs is of a version that cannot be upgraded under running containers; replace it as \
             docs/INSTALL.md says"
        ),
        answer => Ok(answer?),
    }
}

async fn look(plugin: &ControlClient) -> Result<RunningProgram, ControlError> {
    let answer: Answer = plugin.call("/S3vol.Program", &json!({}), ANSWER).await?;
    Ok(answer.program)
}

/// What runs when the upgrade is over. The driver that answers is replaced meanwhile.
async fn end(plugin: &ControlClient) -> anyhow::Result<RunningProgram> {
    let late = Deadline::after(LONGEST);
    let mut gone = Deadline::after(GONE);
    loop {
        match look(plugin).await {
            Ok(program) => {
                if program.upgrade.as_ref().is_none_or(Upgrading::is_over) {
                    return Ok(program);
                }
                gone = Deadline::after(GONE);
            }
            Err(error) if gone.passed() => return Err(error.into()),
            Err(_) => {}
        }
        if late.passed() {
            bail!(
                "the upgrade has not ended within {} min; it goes on (`s3vol upgrade --status`)",
                LONGEST.as_secs() / 60
            );
        }
        tokio::time::sleep(PACE).await;
    }
}

fn told(program: &RunningProgram) -> String {
    let mut text = format!("version {} runs", program.version);
    if let Some(upgrade) = &program.upgrade {
        let (from, to) = (&upgrade.from, &upgrade.to);
        let what = match upgrade.stage.as_str() {
            "done" => match &upgrade.why {
                None => "done".to_owned(),
                Some(why) => format!("done, but a restart uses the installed one: {why}"),
            },
            "failed" => format!("failed: {}", upgrade.why.as_deref().unwrap_or("its log says why")),
            stage => format!("under way ({stage})"),
        };
        text.push_str(&format!("; upgrade from {from} to {to}: {what}"));
    }
    text
}
