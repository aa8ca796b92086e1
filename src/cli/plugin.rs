//! `s3vol plugin`: the first process of the plugin.

use super::args::PluginArgs;
use super::environment;
use crate::config::PluginConfig;
use crate::{supervisor, telemetry};

/// Checks the settings, so that a wrong one is said once and not by every child, and supervises
/// until SIGTERM.
pub fn supervise(args: PluginArgs) -> anyhow::Result<()> {
    let config = PluginConfig::parse(&environment())?;
    telemetry::init(&config.log)
        .map_err(|problem| crate::config::ConfigErrors::one("S3VOL_LOG", problem))?;
    supervisor::run(supervisor::Settings::new(args.socket, config.mounts))?;
    Ok(())
}
