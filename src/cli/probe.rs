//! `s3vol probe`: whether a bucket can be used, and what it honours.

use std::io::Write;

use anyhow::bail;

use super::args::{ProbeArgs, options};
use super::settings;
use crate::catalog::{Opener, Stores, record};
use crate::config::{BucketUrl, ConfigErrors, Scheme, VolumeOptions};
use crate::doctor::VERBS;
use crate::store::Known;
use crate::types::VolumeId;

/// Checks the bucket and tries each verb with objects of its own, which are removed again.
pub fn probe(args: ProbeArgs) -> anyhow::Result<()> {
    let config = settings(None)?;
    let given = options(&args.options)?;
    let url = BucketUrl::parse(&args.url).map_err(|p| ConfigErrors::one("URL", p))?;
    let folder = std::path::Path::new("/").join(url.prefix.as_str());
    if url.scheme == Scheme::File && !folder.is_dir() {
        bail!("{} is not a folder; create it first", folder.display());
    }
    // Any prefix will do to read the store's options; the probe itself takes the URL as it is.
    let below = url.join("probe").to_string();
    let volume = VolumeOptions::parse_for_url(&below, &given, &config.defaults)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let capabilities = runtime.block_on(async {
        let stores = Stores::knowing(Known::of_host(&config.state));
        let site = stores.open(&url, &volume).await?;
        site.check().await?;
        let scratch = site.prefix().join(&format!(".s3vol/probe/{}/", VolumeId::random()));
        let found = site.probe(&scratch).await?;
        if let (Ok(state), Some(finding)) =
            (BucketUrl::parse(&volume.state_url), site.known().current())
        {
            record(site.as_ref(), stores.open(&state, &volume).await?.as_ref(), &finding).await;
        }
        anyhow::Ok(found)
    })?;
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    let mut out = std::io::stdout().lock();
    writeln!(out, "{url} can be used.")?;
    for (verb, name, cost) in VERBS {
        match capabilities.has(*verb) {
            true => writeln!(out, "  yes  {name}")?,
            false => writeln!(out, "  no   {name:<22} ({cost})")?,
        }
    }
    Ok(())
}
