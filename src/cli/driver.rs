//! `s3vol driver`: the process that answers dockerd, started by the supervisor.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use super::environment;
use crate::catalog::{Catalog, Purge, Stores};
use crate::config::{ConfigErrors, PluginConfig};
use crate::data::Trash;
use crate::driver::{Driver, DriverSettings, SupervisorChannel, Workers, serve, serve_metrics};
use crate::store::Known;
use crate::sys::{self, Inherited};
use crate::telemetry;

/// How often the trash is looked at.
const TRASH: Duration = Duration::from_secs(60);

/// Serves the inherited plugin socket until SIGTERM or until the supervisor is gone. `purge`
/// deletes removed volumes; it is made with the folder of this host's volumes and with what the host
/// knows of stores.
pub fn drive(purge: impl FnOnce(PathBuf, Known) -> Arc<dyn Purge>) -> anyhow::Result<()> {
    let listener =
        UnixListener::from(sys::inherited(Inherited::First).context("the plugin socket")?);
    let channel =
        UnixStream::from(sys::inherited(Inherited::Second).context("the supervisor's channel")?);
    crate::fault::named("driver");
    if crate::fault::noted("driver").is_some() {
        anyhow::bail!("a test has it fail");
    }
    let config = PluginConfig::parse(&environment())?;
    telemetry::init(&config.log).map_err(|problem| ConfigErrors::one("S3VOL_LOG", problem))?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::UnixListener::from_std(listener)?;
        // From here on: a driver that is replaced at once still answers what it has taken on.
        let mut replaced =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::user_defined1())?;
        let channel = Arc::new(SupervisorChannel::new(channel)?);
        channel.hello().await?;
        let workers: Arc<dyn Workers> = Arc::<SupervisorChannel>::clone(&channel);
        let known = Known::of_host(&config.state);
        let opener = Arc::new(Stores::knowing(known.clone()));
        let catalog = Arc::new(Catalog::open(&config, opener, sys::hostname()).await?);
        let volumes = DriverSettings::volumes(&config.state);
        tokio::spawn(empty_trash(Trash::within(&volumes)));
        let settings = DriverSettings::new(&config.state, &config.mounts);
        let purge = purge(volumes, known);
        let driver = Driver::start(settings, catalog, workers, purge).await?;
        tracing::info!(home = %config.home.url, state = %config.state.display(), "driver serves");
        if let Some(address) = config.metrics {
            tokio::spawn(serve_metrics(address, Arc::clone(&driver)));
        }
        let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        channel.serves().await?;
        // Only one that serves has come up.
        driver.watch();
        tokio::select! {
            () = serve(listener, Arc::clone(&driver)) => {}
            () = channel.closed() => tracing::warn!("the supervisor is gone"),
            _ = term.recv() => tracing::info!("driver ends"),
            // Nobody accepts connections any more: they wait for the next driver.
            _ = replaced.recv() => {
                tracing::info!("the driver ends, to be replaced by another version of the program");
                tokio::select! {
                    () = driver.rest() => {}
                    _ = term.recv() => {}
                }
            }
        }
        anyhow::Ok(())
    })?;
    // Calls in progress are repeated by dockerd; nothing they need is held only here.
    runtime.shutdown_timeout(Duration::from_secs(2));
    Ok(())
}

/// What workers leave at their end, for ever.
async fn empty_trash(trash: Trash) {
    loop {
        trash.start();
        tokio::time::sleep(TRASH).await;
    }
}
