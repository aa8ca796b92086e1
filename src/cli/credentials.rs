//! `s3vol credentials`: which names this host has, and what their keys may do.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::bail;
use serde_json::json;

use super::args::{CredentialsCommand, options};
use super::tool::run;
use super::{reach, settings};
use crate::catalog::{Asked, Checked, Stores, check_credentials};
use crate::credentials::{Listed, Places};
use crate::driver::ControlClient;
use crate::store::Known;

/// Something that a volume needs is not allowed.
const EXIT_BAD: u8 = 4;
/// The plugin answers within the time that Docker gives it.
const ANSWER: Duration = Duration::from_secs(100);

/// Returns the exit code.
pub fn credentials(command: CredentialsCommand) -> anyhow::Result<u8> {
    match command {
        CredentialsCommand::List { socket, here } => {
            let listed = match plugin(socket.as_deref(), here)? {
                Some(plugin) => run(plugin.call("/S3vol.Credentials", &json!({}), ANSWER))??,
                None => Places::of_process().list(),
            };
            list(&listed)
        }
        CredentialsCommand::Check { socket, here, options: given, name, url } => {
            let asked = Asked { name, url, opts: options(&given)? };
            let checked: Checked = match plugin(socket.as_deref(), here)? {
                Some(plugin) => run(plugin.call("/S3vol.CheckCredentials", &asked, ANSWER))??,
                None => {
                    let config = settings(None)?;
                    let stores = Stores::knowing(Known::of_host(&config.state));
                    run(check_credentials(&stores, &asked, &config.defaults, None))??
                }
            };
            show(&checked)
        }
    }
}

/// The plugin resolves names by its own folder and environment.
fn plugin(socket: Option<&Path>, here: bool) -> anyhow::Result<Option<ControlClient>> {
    match (here, socket) {
        (true, Some(_)) => bail!("--here and --socket exclude each other"),
        (true, None) => Ok(None),
        (false, socket) => reach::plugin_if_any(socket),
    }
}

fn list(listed: &[Listed]) -> anyhow::Result<u8> {
    let mut out = std::io::stdout().lock();
    if listed.is_empty() {
        writeln!(
            out,
            "there are no credentials with a name in {}",
            Places::of_process().folder().display()
        )?;
    }
    let width = listed.iter().map(|one| one.name.len()).max().unwrap_or(0);
    for Listed { name, place, variables, problem } in listed {
        match problem {
            None => writeln!(out, "{name:<width$}  {place}: {}", variables.join(", "))?,
            Some(problem) => writeln!(out, "{name:<width$}  {place}: BAD, {problem}")?,
        }
    }
    Ok(0)
}

fn show(checked: &Checked) -> anyhow::Result<u8> {
    let Listed { name, place, variables, .. } = &checked.listed;
    let mut out = std::io::stdout().lock();
    writeln!(out, "good  found      {name}: {place} ({})", variables.join(", "))?;
    for verdict in &checked.verdicts {
        writeln!(out, "{verdict}")?;
    }
    let bad = checked.verdicts.iter().any(|one| one.needed && one.problem.is_some());
    Ok(if bad { EXIT_BAD } else { 0 })
}
