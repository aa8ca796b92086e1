//! `s3vol plugin`: the first process of the plugin.

use super::args::PluginArgs;
use super::environment;
use crate::config::{ConfigErrors, PluginConfig};
use crate::metrics::Prices;
use crate::{supervisor, telemetry};

/// Checks the settings, so that a wrong one is said once and not by every child, and supervises
/// until SIGTERM.
pub fn supervise(args: PluginArgs) -> anyhow::Result<()> {
    let config = PluginConfig::parse(&environment())?;
    telemetry::init(&config.log).map_err(|problem| ConfigErrors::one("S3VOL_LOG", problem))?;
    if let Some(prices) = environment().remove("S3VOL_PRICES").filter(|p| !p.trim().is_empty()) {
        Prices::given(&prices)
            .map_err(|problem| ConfigErrors::one("S3VOL_PRICES", problem.to_string()))?;
    }
    supervisor::run(supervisor::Settings::new(args.socket, config.mounts))?;
    Ok(())
}
