//! The settings of the plugin itself, from its environment.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::address::BucketUrl;
use super::errors::ConfigErrors;
use super::monitoring::{check_prices, parse_metrics};
use super::parse::{VolumeHome, apply, is_default, nearest};
use super::schema::{Draft, PLUGIN_SETTINGS, SETTINGS};
use super::values::{parse_bool, parse_duration};
use super::volume::VolumeOptions;

/// Below the propagated mount, which survives `docker plugin upgrade`; the root file system does
/// not.
const STATE: &str = "/s3vol/state";
const MOUNTS: &str = "/s3vol/vol";
const LOG: &str = "info";
/// Long enough to notice a mistaken `docker compose down -v`.
const GRACE: Duration = Duration::from_secs(24 * 3600);

/// Everything that the plugin is told by its environment, besides credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginConfig {
    pub home: VolumeHome,
    /// Local state of the plugin and of its volumes.
    pub state: PathBuf,
    /// A volume is seen at `<mounts>/<name>`.
    pub mounts: PathBuf,
    /// The filter of the log.
    pub log: String,
    /// Whether volumes of other hosts are found.
    pub capture: bool,
    /// Time between `docker volume rm` and the deletion.
    pub grace: Duration,
    /// Where metrics are served over TCP, if anywhere.
    pub metrics: Option<SocketAddr>,
    /// What volumes start from; `url` is empty.
    pub defaults: VolumeOptions,
}

impl PluginConfig {
    /// Reads the variables that start with `S3VOL_`; the rest of `env` is ignored. An empty value
    /// is the same as none, because Docker passes unset plugin variables so.
    pub fn parse(env: &BTreeMap<String, String>) -> Result<PluginConfig, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let get = |name: &str| env.get(name).map(|v| v.trim()).filter(|v| !v.is_empty());
        let path = |name: &str, default: &str, errors: &mut ConfigErrors| {
            let path = PathBuf::from(get(name).unwrap_or(default));
            if !path.is_absolute() {
                errors.push(name, format!("{} is not an absolute path", path.display()));
            }
            path
        };
        let state = path("S3VOL_STATE", STATE, &mut errors);
        let mounts = path("S3VOL_MOUNTS", MOUNTS, &mut errors);
        // Read where it is used (`credentials`).
        path("S3VOL_FILES", MOUNTS, &mut errors);
        let home = match get("S3VOL_URL") {
            Some(text) => BucketUrl::parse(text).map(|url| VolumeHome { url, embedded: false }),
            None => embedded_home(&state),
        };
        let capture = get("S3VOL_CAPTURE").map_or(Ok(true), parse_bool);
        let grace = get("S3VOL_GRACE").map_or(Ok(GRACE), parse_duration);

        let metrics = get("S3VOL_METRICS").map(parse_metrics).transpose();
        if let Some(problem) = get("S3VOL_PRICES").and_then(|text| check_prices(text).err()) {
            errors.push("S3VOL_PRICES", problem);
        }

        let mut given = BTreeMap::new();
        for (name, value) in env {
            let Some(rest) = name.strip_prefix("S3VOL_") else { continue };
            if value.trim().is_empty() || is_foreign(name) {
                continue;
            }
            if PLUGIN_SETTINGS.iter().any(|s| s.name == name) {
                continue;
            }
            let option = rest.to_ascii_lowercase();
            match SETTINGS.iter().find(|s| s.name == option) {
                Some(setting) if is_default(setting) => {
                    given.insert(option, value.clone());
                }
                Some(_) => errors.push(name, "is a setting of one volume; give it with -o"),
                None => errors.push(name, unknown(name)),
            }
        }
        let mut draft = Draft::new(VolumeOptions::default());
        let mut volume_errors = ConfigErrors::default();
        apply(&mut draft, &given, &mut volume_errors);
        for error in volume_errors.0 {
            errors.push(format!("S3VOL_{}", error.name.to_ascii_uppercase()), error.problem);
        }
        let mut defaults = draft.options;
        if let Some(state_url) = draft.state_url {
            defaults.state_url = state_url.to_string();
        }

        // Every problem is kept, so that all of them are told at once.
        let mut keep = |name: &str, problem: String| errors.push(name, problem);
        let home = home.map_err(|p| keep("S3VOL_URL", p)).ok();
        let capture = capture.map_err(|p| keep("S3VOL_CAPTURE", p)).ok();
        let grace = grace.map_err(|p| keep("S3VOL_GRACE", p)).ok();
        let metrics = metrics.map_err(|p| keep("S3VOL_METRICS", p)).ok();
        let log = get("S3VOL_LOG").unwrap_or(LOG).to_owned();
        match (home, capture, grace, metrics) {
            (Some(home), Some(capture), Some(grace), Some(metrics)) => errors.or(PluginConfig {
                home,
                state,
                mounts,
                log,
                capture,
                grace,
                metrics,
                defaults,
            }),
            _ => Err(errors),
        }
    }
}

fn embedded_home(state: &std::path::Path) -> Result<VolumeHome, String> {
    let url = BucketUrl::parse(&format!("file://{}/store", state.display()))?;
    Ok(VolumeHome { url, embedded: true })
}

/// Variables of our tests and of fault injection, which are not settings.
fn is_foreign(name: &str) -> bool {
    name.starts_with("S3VOL_FAULT") || name.starts_with("S3VOL_TEST") || is_of_credentials(name)
}

/// `S3VOL_CREDENTIALS_<NAME>_<KEY>`: keys under a name.
fn is_of_credentials(name: &str) -> bool {
    name.strip_prefix("S3VOL_CREDENTIALS_").is_some_and(|rest| {
        ["_AWS_", "_AZURE_", "_GOOGLE_"].iter().any(|provider| rest.contains(provider))
    })
}

fn unknown(name: &str) -> String {
    let volume: Vec<String> = SETTINGS
        .iter()
        .filter(|s| is_default(s))
        .map(|s| format!("S3VOL_{}", s.name.to_ascii_uppercase()))
        .collect();
    let names: Vec<&str> =
        PLUGIN_SETTINGS.iter().map(|s| s.name).chain(volume.iter().map(String::as_str)).collect();
    let hint = match nearest(name, names.iter().copied()) {
        Some(near) => format!("did you mean {near}? "),
        None => String::new(),
    };
    format!("no such setting; {hint}The settings are: {}", names.join(", "))
}
