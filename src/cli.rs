//! The command line: what was asked, and the commands that only ask.
//!
//! Owns the arguments and the texts for people. Serving is done by the modules below; `main` puts
//! both together. Wrong usage exits with 64, like every wrong setting. Nothing here survives a
//! crash.

mod about;
mod args;
mod credentials;
mod doctor;
mod driver;
mod enter;
mod events;
mod export;
mod fsck;
mod manual;
mod mount;
mod plugin;
mod probe;
mod reach;
mod rebuild;
mod recovered;
mod set;
mod settle;
mod status;
mod takeover;
mod tool;
mod upgrade;
mod verify;
mod warm;
mod watch;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::config::{ConfigErrors, PluginConfig};

pub use about::about;
pub use args::{
    Command, CredentialsCommand, DoctorArgs, EventsArgs, FsckArgs, MountArgs, NamedArgs,
    PluginArgs, ProbeArgs, RebuildArgs, RecoveredCommand, RecoveredVolume, SetArgs, SettleArgs,
    StatusArgs, TakeoverArgs, UpgradeArgs, VerifyArgs, VolumeArgs, WarmArgs, parse,
};
pub use credentials::credentials;
pub use doctor::doctor;
pub use driver::drive;
pub use events::events;
pub use export::export;
pub use fsck::fsck;
pub use manual::{completions, man};
pub use mount::{PreparedMount, prepare_mount};
pub use plugin::supervise;
pub use probe::probe;
pub use rebuild::rebuild;
pub use recovered::recovered;
pub use set::set;
pub use settle::settle;
pub use status::status;
pub use takeover::takeover;
pub use upgrade::upgrade;
pub use verify::verify;
pub use warm::warm;

/// The exit code of a tool that judges and could not.
pub const EXIT_NOT_JUDGED: u8 = 8;

/// Why a command failed, with the exit code that it deserves.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    let usage = error.downcast_ref::<ConfigErrors>().is_some()
        || matches!(
            error.downcast_ref::<crate::catalog::CatalogError>(),
            Some(crate::catalog::CatalogError::Options(_))
        );
    if usage { crate::config::EXIT_USAGE } else { 1 }
}

/// Starts the log of a process that serves, filtered by `S3VOL_LOG`.
pub fn start_log() -> anyhow::Result<()> {
    let filter = environment().remove("S3VOL_LOG").filter(|f| !f.trim().is_empty());
    let filter = filter.unwrap_or_else(|| "info".to_owned());
    crate::telemetry::init(&filter)
        .map_err(|problem| ConfigErrors::one("S3VOL_LOG", problem).into())
}

/// The settings in this process's environment.
fn environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// The plugin's settings from the environment, for a command run by hand: its state lies where this
/// user may write.
fn settings(state: Option<PathBuf>) -> Result<PluginConfig, ConfigErrors> {
    let mut env = environment();
    let absolute = state.map(|s| std::path::absolute(&s).unwrap_or(s)).or_else(|| {
        let given = env.get("S3VOL_STATE").is_some_and(|s| !s.trim().is_empty());
        (!given).then(|| default_state(&env))
    });
    if let Some(state) = absolute {
        env.insert("S3VOL_STATE".to_owned(), state.display().to_string());
    }
    PluginConfig::parse(&env)
}

fn default_state(env: &BTreeMap<String, String>) -> PathBuf {
    let set = |name: &str| env.get(name).filter(|v| v.starts_with('/')).map(PathBuf::from);
    if nix::unistd::geteuid().is_root() {
        return PathBuf::from("/var/lib/s3vol");
    }
    set("XDG_STATE_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".local/state")))
        .unwrap_or_else(|| PathBuf::from("/var/tmp"))
        .join("s3vol")
}
