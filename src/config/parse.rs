//! From a map of texts to the options of one volume.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::address::{BucketUrl, Scheme};
use super::errors::ConfigErrors;
use super::object;
use super::schema::{self, Change, Draft, SETTINGS, Scope, normal};
use super::volume::VolumeOptions;
use crate::types::VolumeName;

/// Where volumes without a place of their own lie, and the catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeHome {
    pub url: BucketUrl,
    /// The home is the embedded default, which goes away with the plugin.
    pub embedded: bool,
}

impl VolumeOptions {
    /// The options of volume `name`: `given` over `defaults`, with URL and state resolved against
    /// `home`. Names are accepted with `_` and `-`. All errors are returned at once.
    pub fn parse(
        given: &BTreeMap<String, String>,
        defaults: &VolumeOptions,
        home: &VolumeHome,
        name: &VolumeName,
    ) -> Result<VolumeOptions, ConfigErrors> {
        let mut draft = Draft::new(defaults.clone());
        let mut errors = ConfigErrors::default();
        apply(&mut draft, given, &mut errors);
        let url = chosen_url(&draft, home, name, &mut errors)
            .unwrap_or_else(|| home.url.join(name.as_str()));
        finish(draft, url, home, defaults, errors)
    }

    /// The options of a volume mounted by its URL, without a home: `given` over `defaults`.
    pub fn parse_for_url(
        url: &str,
        given: &BTreeMap<String, String>,
        defaults: &VolumeOptions,
    ) -> Result<VolumeOptions, ConfigErrors> {
        let mut draft = Draft::new(defaults.clone());
        let mut errors = ConfigErrors::default();
        apply(&mut draft, given, &mut errors);
        if draft.url.is_some() || draft.bucket.is_some() || draft.prefix.is_some() {
            errors.push("url", "the place is given as the first argument, not as an option");
        }
        match BucketUrl::parse(url) {
            Ok(url) => {
                let home = VolumeHome { url: root_beside(&url), embedded: false };
                finish(draft, url, &home, defaults, errors)
            }
            Err(problem) => {
                errors.push("URL", problem);
                Err(errors)
            }
        }
    }

    /// These options of an existing volume with `given` on top, to see whether a repeated Create
    /// asks for something else. Places that are not given stay.
    pub fn amend(
        &self,
        given: &BTreeMap<String, String>,
        home: &VolumeHome,
        name: &VolumeName,
    ) -> Result<VolumeOptions, ConfigErrors> {
        let mut draft = Draft::new(self.clone());
        let mut errors = ConfigErrors::default();
        apply(&mut draft, given, &mut errors);
        if let Some(url) = chosen_url(&draft, home, name, &mut errors) {
            draft.options.url = url.to_string();
        }
        if let Some(state) = &draft.state_url {
            draft.options.state_url = state.to_string();
        }
        if let Ok(url) = BucketUrl::parse(&draft.options.url) {
            object::check(&mut draft.options, url.scheme, &mut errors);
        }
        errors.or(draft.options)
    }

    /// What differs between two sets of options.
    pub fn differences(&self, other: &VolumeOptions) -> Vec<Difference> {
        let as_map = |options: &VolumeOptions| match serde_json::to_value(options) {
            Ok(serde_json::Value::Object(mut map)) => {
                // The one that is left out where it is not set.
                map.entry("credentials").or_insert(serde_json::Value::Null);
                map
            }
            _ => serde_json::Map::new(),
        };
        let theirs = as_map(other);
        as_map(self)
            .into_iter()
            .filter(|(name, value)| theirs.get(name) != Some(value))
            .map(|(name, value)| {
                let shown = |v: Option<&serde_json::Value>| {
                    v.map_or_else(|| "nothing".to_owned(), |value| shown_value(&name, value))
                };
                let (ours, theirs) = (shown(Some(&value)), shown(theirs.get(&name)));
                let change = schema::find(&name).map_or(Change::Never, |setting| setting.change);
                Difference { name, ours, theirs, change }
            })
            .collect()
    }
}

/// An option that two sets of options have with different values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    pub name: String,
    /// As a person writes them.
    pub ours: String,
    pub theirs: String,
    pub change: Change,
}

impl Difference {
    /// For somebody who made theirs of ours.
    pub fn change_text(&self) -> String {
        let Difference { name, ours, theirs, change } = self;
        match change {
            Change::Now => format!("{name} is {theirs} now, and was {ours}"),
            Change::NextMount => {
                format!("{name} will be {theirs} when the volume is mounted next, and was {ours}")
            }
            Change::Never => format!("{name} stays {ours}"),
        }
    }
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} is {}, not {}", self.name, self.ours, self.theirs)
    }
}

/// Durations are stored as seconds and nanoseconds, modes and sizes as numbers; show them as a person writes them.
fn shown_value(name: &str, value: &serde_json::Value) -> String {
    if let (Some(secs), Some(nanos)) = (
        value.get("secs").and_then(serde_json::Value::as_u64),
        value.get("nanos").and_then(serde_json::Value::as_u64),
    ) {
        return shown_duration(std::time::Duration::new(secs, nanos as u32));
    }
    // A choice with a value of its own.
    if let Some((_, inner)) =
        value.as_object().filter(|map| map.len() == 1).and_then(|m| m.iter().next())
    {
        return shown_value(name, inner);
    }
    match (name, value.as_u64()) {
        ("file_mode" | "dir_mode", Some(mode)) => return format!("{mode:04o}"),
        ("size" | "cache_size", Some(size)) => return shown_size(size),
        _ => {}
    }
    match value {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Null => "not set".to_owned(),
        other => other.to_string(),
    }
}

/// In the largest unit that says it exactly.
fn shown_size(size: u64) -> String {
    for (shift, name) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if size > 0 && size.trailing_zeros() >= shift {
            return format!("{}{name}", size >> shift);
        }
    }
    size.to_string()
}

/// In the largest unit that says it exactly.
fn shown_duration(duration: std::time::Duration) -> String {
    let (millis, secs) = (duration.as_millis(), duration.as_secs());
    if millis % 1000 != 0 {
        return format!("{millis}ms");
    }
    for (unit, name) in [(86_400, "d"), (3600, "h"), (60, "m")] {
        if secs > 0 && secs % unit == 0 {
            return format!("{}{name}", secs / unit);
        }
    }
    format!("{secs}s")
}

/// Applies every known option; complains about the rest.
pub(super) fn apply(
    draft: &mut Draft,
    given: &BTreeMap<String, String>,
    errors: &mut ConfigErrors,
) {
    let mut seen = BTreeMap::<String, &str>::new();
    for (name, value) in given {
        if let Some(before) = seen.insert(normal(name), name) {
            errors.push(name, format!("given twice, also as {before}"));
            continue;
        }
        match schema::find(name) {
            Some(setting) => {
                if let Err(problem) = (setting.apply)(draft, value.trim()) {
                    errors.push(name, problem);
                }
            }
            None => errors.push(name, unknown(name)),
        }
    }
}

/// The place that the options name, if any.
fn chosen_url(
    draft: &Draft,
    home: &VolumeHome,
    name: &VolumeName,
    errors: &mut ConfigErrors,
) -> Option<BucketUrl> {
    if let Some(url) = &draft.url {
        if draft.bucket.is_some() || draft.prefix.is_some() {
            errors.push("url", "give either url, or bucket and prefix");
        }
        return Some(url.clone());
    }
    let base = match &draft.bucket {
        Some(bucket) => match BucketUrl::parse(&format!("s3://{bucket}/")) {
            Ok(url) if bucket.contains('/') => {
                errors.push("bucket", format!("{bucket:?} is not a bucket; use url={url}"));
                return None;
            }
            Ok(url) => url,
            Err(problem) => {
                errors.push("bucket", problem);
                return None;
            }
        },
        None => home.url.clone(),
    };
    match &draft.prefix {
        Some(_) if draft.bucket.is_none() && home.url.scheme == Scheme::File => {
            errors.push("prefix", "needs a bucket: give bucket too, or url instead of both");
            None
        }
        Some(prefix) => match base.at(prefix) {
            Ok(url) => Some(url),
            Err(problem) => {
                errors.push("prefix", problem);
                None
            }
        },
        None => draft.bucket.is_some().then(|| base.join(name.as_str())),
    }
}

/// Fills in URL and state, and checks that they do not lie in each other.
fn finish(
    draft: Draft,
    url: BucketUrl,
    home: &VolumeHome,
    defaults: &VolumeOptions,
    mut errors: ConfigErrors,
) -> Result<VolumeOptions, ConfigErrors> {
    let Draft { mut options, state_url, .. } = draft;
    let in_home = match url.scheme {
        Scheme::File => url.is_inside(&home.url),
        _ => url.same_bucket(&home.url) && options.endpoint == defaults.endpoint,
    };
    // Empty where nothing is set; a wrong one was refused when the environment was read.
    let default_state = BucketUrl::parse(&defaults.state_url).ok();
    let state = state_url
        .or(default_state)
        .unwrap_or_else(|| if in_home { home.url.clone() } else { root_beside(&url) });
    if state.join(".s3vol").is_inside(&url) {
        errors.push(
            "state_url",
            format!(
                "the state would lie at {state}.s3vol/, inside the volume {url}; give the volume a \
                 prefix of its own, or another state_url"
            ),
        );
    }
    object::check(&mut options, url.scheme, &mut errors);
    options.url = url.to_string();
    options.state_url = state.to_string();
    errors.or(options)
}

/// Where state lies by default for a volume outside the home: the bucket's root, and beside a
/// folder.
fn root_beside(url: &BucketUrl) -> BucketUrl {
    match url.scheme {
        Scheme::File => url.parent().unwrap_or_else(|| url.clone()),
        _ => BucketUrl { prefix: crate::types::KeyPrefix::new(""), ..url.clone() },
    }
}

/// What to say about an option that does not exist.
fn unknown(name: &str) -> String {
    let wanted = normal(name);
    if is_secret(&wanted) {
        return "credentials are never options, because options are stored and shown; give them in \
                the plugin's environment (docker plugin set s3vol AWS_ACCESS_KEY_ID=... \
                AWS_SECRET_ACCESS_KEY=...), use an instance role, or name credentials that each host has in a \
                file (credentials=NAME, docs/CREDENTIALS.md)"
            .to_owned();
    }
    if wanted == "takeover" || wanted == "take_over" || wanted == "settle_now" {
        let command = if wanted == "settle_now" { "settle" } else { "takeover" };
        return format!(
            "is a command and no option, because Docker hands options to a plugin only with a name that it does \
             not know yet: run `s3vol {command} NAME` with the program in the plugin's folder (docs/OPERATION.md)"
        );
    }
    if wanted == "grace" || wanted == "capture" || wanted == "log" || wanted == "state" {
        return format!(
            "is a setting of the plugin, not of a volume: set S3VOL_{} in its environment",
            wanted.to_ascii_uppercase()
        );
    }
    let names = SETTINGS.iter().map(|s| s.name);
    let all: Vec<&str> = names.clone().collect();
    let hint = match nearest(&wanted, names) {
        Some(near) => format!(", did you mean {near}?"),
        None => ".".to_owned(),
    };
    format!("no such option{hint} The options are: {}", all.join(", "))
}

fn is_secret(name: &str) -> bool {
    ["secret", "access_key", "password", "passwd", "token", "account_key", "credential", "sas"]
        .iter()
        .any(|word| name == *word || (word.len() > 4 && name.contains(word)))
        || name == "key"
}

/// The name that the fewest edits turn into `wanted`, if they are few enough to be a slip.
pub(super) fn nearest<'n>(wanted: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    names
        .map(|name| (edits(wanted, name), name))
        .min()
        .filter(|(distance, name)| *distance <= (name.len() / 2).max(2))
        .map(|(_, name)| name)
}

/// Levenshtein distance.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// Whether a setting may be given as a default in the plugin's environment.
pub(super) fn is_default(setting: &schema::Setting) -> bool {
    setting.scope == Scope::Default
}
