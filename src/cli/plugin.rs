//! `s3vol plugin`: the first process of the plugin.

use std::process::ExitCode;

use super::args::PluginArgs;
use super::environment;
use crate::config::{ConfigErrors, PluginConfig};
use crate::driver::{Found, Place, installed};
use crate::metrics::Prices;
use crate::supervisor::{self, Settings};
use crate::{sys, telemetry};

/// Checks the settings, so that a wrong one is said once and not by every child, and supervises
/// until SIGTERM. Goes on where another program left off, if it is told to.
pub fn supervise(args: PluginArgs) -> anyhow::Result<ExitCode> {
    let config = match configure() {
        Ok(config) => config,
        Err(error) => {
            if let (Some(state), false) = (args.go_on, args.trial) {
                let settings = settings(&args, "/s3vol/vol".into());
                // Whoever was there before has the same settings, and could read them.
                return Err(supervisor::step_back(&settings, state, &format!("{error:#}")).into());
            }
            return Err(error);
        }
    };
    let settings = settings(&args, config.mounts.clone());
    match (args.go_on, args.trial) {
        (Some(state), true) => {
            supervisor::try_to_go_on(&settings, state)?;
            return Ok(ExitCode::from(supervisor::TRIAL_PASSED));
        }
        (Some(state), false) => supervisor::go_on(settings, state)?,
        (None, _) => {
            if args.over.is_none() {
                use_newer(&config, &settings)?;
            }
            supervisor::run(settings)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn configure() -> anyhow::Result<PluginConfig> {
    let config = PluginConfig::parse(&environment())?;
    telemetry::init(&config.log).map_err(|problem| ConfigErrors::one("S3VOL_LOG", problem))?;
    if let Some(prices) = environment().remove("S3VOL_PRICES").filter(|p| !p.trim().is_empty()) {
        Prices::given(&prices)
            .map_err(|problem| ConfigErrors::one("S3VOL_PRICES", problem.to_string()))?;
    }
    Ok(config)
}

fn settings(args: &PluginArgs, mounts: std::path::PathBuf) -> Settings {
    let mut settings = Settings::new(&args.socket, mounts);
    settings.over = args.over.clone().unwrap_or_else(|| installed().unwrap_or_default());
    settings
}

/// Becomes the newer program that has taken the place of this one, if there is one that can be used.
fn use_newer(config: &PluginConfig, settings: &Settings) -> anyhow::Result<()> {
    // Only the one process that will serve may use up a try or drop a note, and only if it can.
    supervisor::can_listen(settings)?;
    match Place::below(&config.state).look(&settings.over) {
        Found::Nothing => {}
        Found::Ignored(why) => tracing::warn!(
            why,
            "the newer program below {} is not used; `s3vol upgrade` puts it in place again",
            config.state.display()
        ),
        Found::Newer { program, version } => {
            tracing::info!(version, "a newer program was put in place; it goes on");
            let args = settings.starting();
            let error = sys::become_program(&program, &args, &[]);
            tracing::error!(%error, "the newer program cannot be started; this one goes on");
        }
    }
    Ok(())
}
