//! `s3vol status`: asks every control socket in the state folder.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;

use super::args::StatusArgs;
use super::reach::sockets;
use super::settings;
use crate::driver::{ControlClient, ControlError, DriverSettings};
use crate::worker::WorkerStatus;

const TIMEOUT: Duration = Duration::from_secs(3);

/// Prints what the workers say of themselves. A worker that does not answer is an error after the
/// others were shown; a socket without a process is skipped.
pub fn status(args: StatusArgs) -> anyhow::Result<()> {
    if args.watch {
        return super::watch::watch(&args);
    }
    let state = settings(args.state)?.state;
    let (shown, silent) = served(&state)?;
    let mut out = std::io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &shown)?;
        writeln!(out)?;
    } else if shown.is_empty() && silent.is_empty() {
        writeln!(out, "no volume is served with the state folder {}", state.display())?;
    } else {
        for status in &shown {
            write!(out, "{}", paragraph(status))?;
        }
    }
    if silent.is_empty() { Ok(()) } else { Err(anyhow::anyhow!(silent.join("\n"))) }
}

/// What each worker with this state folder says, by name, and which do not answer.
pub(super) fn served(state: &Path) -> anyhow::Result<(Vec<WorkerStatus>, Vec<String>)> {
    let folder = DriverSettings::control_sockets(state);
    let sockets = sockets(&folder).with_context(|| folder.display().to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answers = runtime.block_on(async {
        let ask = sockets
            .iter()
            .map(|socket| async move { ControlClient::new(socket).status(TIMEOUT).await });
        futures::future::join_all(ask).await
    });
    let mut shown = Vec::new();
    let mut silent = Vec::new();
    for (socket, answer) in sockets.iter().zip(answers) {
        match answer {
            Ok(status) => shown.push(status),
            // Left by a process that was killed.
            Err(ControlError::Unreachable { .. }) => {}
            Err(error) => silent.push(format!("{}: {error}", socket.display())),
        }
    }
    shown.sort_by(|a, b| a.name.cmp(&b.name));
    Ok((shown, silent))
}

pub(super) fn paragraph(status: &WorkerStatus) -> String {
    let mut text = format!("{} at {}\n", status.name, status.mountpoint.display());
    let mut line = |name: &str, value: String| text.push_str(&format!("  {name:<12}{value}\n"));
    line("url", status.url.clone());
    line("state", format!("{:?}", status.state).to_lowercase());
    if let Some(holder) = &status.holder {
        line("holder", holder.clone());
    }
    line("content", format!("{} bytes in {} files", status.bytes, status.files));
    line(
        "to do",
        format!(
            "{} bytes to commit, {} files to settle",
            status.uncommitted_bytes, status.unsettled_files
        ),
    );
    if status.conflicts > 0 {
        line("conflicts", status.conflicts.to_string());
    }
    if let Some(credentials) = &status.credentials {
        line("credentials", credentials.to_string());
    }
    if !status.deletions.is_empty() {
        line("deletes", status.deletions.clone());
    }
    for right in &status.missing_rights {
        line("no right", right.clone());
    }
    for reason in &status.unsettleable {
        line("in motion", reason.clone());
    }
    if let Some(error) = &status.last_error {
        line("last error", error.clone());
    }
    text
}
