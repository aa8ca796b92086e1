//! What one place has under a name: a file, the environment, or a profile of the AWS tools.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::file;
use super::keys::{Keys, Provider, VARIABLES};
use super::profile::{Kind, Profiles};
use crate::sys::hostname;
use crate::types::CredentialsName;

/// Names the folder of files; credentials lie in `credentials` below it.
pub(super) const FILES: &str = "S3VOL_FILES";
const FOLDER: &str = "credentials";
const PREFIX: &str = "S3VOL_CREDENTIALS_";
/// Of the managed plugin, and the folder that only it has, or one that is like it.
const MANAGED: &str = "/s3vol/files";
const ITS_OWN: &str = "/s3vol";

/// Which of the places has a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    File,
    Environment,
    Profile,
    /// The profile that `AWS_PROFILE` names: nothing goes before it.
    Chosen,
}

/// What was found under a name.
pub(super) struct Found {
    pub kept: Kept,
    /// For messages.
    pub place: String,
    /// From before it was read.
    pub stamps: Vec<Stamp>,
    /// What is wrong, without the place.
    pub keys: Result<Keys, String>,
}

/// What tells one content of a file from another: device, inode, size, and when it and what is said of it changed.
pub(super) type Stamp = Option<(u64, u64, u64, i128, i128)>;

/// Looks in each of the places.
#[derive(Clone)]
pub(super) struct Search(Arc<Inner>);

struct Inner {
    folder: PathBuf,
    /// With keys in it.
    env: BTreeMap<String, String>,
    /// Whether a name may be that of a profile.
    has_profiles: bool,
}

impl Search {
    pub(super) fn of(env: BTreeMap<String, String>, has_profiles: bool) -> Search {
        let folder = files(&env).join(FOLDER);
        Search(Arc::new(Inner { folder, env, has_profiles }))
    }

    pub(super) fn folder(&self) -> &Path {
        &self.0.folder
    }

    pub(super) fn env(&self) -> &BTreeMap<String, String> {
        &self.0.env
    }

    pub(super) fn has_profiles(&self) -> bool {
        self.0.has_profiles
    }

    /// What this host has under a name, if anything.
    pub(super) fn find(&self, name: &CredentialsName) -> Option<Found> {
        self.in_file(name).or_else(|| self.in_environment(name)).or_else(|| self.in_profile(name))
    }

    pub(super) fn file(&self, name: &CredentialsName) -> PathBuf {
        self.0.folder.join(name.as_str())
    }

    pub(super) fn in_file(&self, name: &CredentialsName) -> Option<Found> {
        let path = self.file(name);
        match std::fs::symlink_metadata(&path) {
            Err(e) if is_missing(&e) => return None,
            _ => {}
        }
        let stamps = self.stamps(name, Kept::File);
        let keys = file::read(&path, true).and_then(|text| file::parse(&text, name));
        Some(Found { kept: Kept::File, place: path.display().to_string(), stamps, keys })
    }

    pub(super) fn in_environment(&self, name: &CredentialsName) -> Option<Found> {
        let prefix = format!("{PREFIX}{}_", name.in_capitals());
        let mut keys = Keys::default();
        for variable in VARIABLES {
            if let Some(value) = self.0.env.get(&format!("{prefix}{variable}")) {
                keys.set(variable, value.trim());
            }
        }
        let place = format!("the environment ({prefix}...)");
        let (kept, stamps) = (Kept::Environment, Vec::new());
        // Of another name that begins alike.
        let is_slip = |variable: &&String| {
            let is_ours =
                |rest: &str| Provider::ALL.iter().any(|one| rest.starts_with(one.prefix()));
            variable.strip_prefix(&prefix).is_some_and(is_ours) && name_of(variable).is_none()
        };
        if let Some(slip) = self.0.env.keys().find(is_slip) {
            let keys = Err(format!("{slip} is not known here"));
            return Some(Found { kept, place, stamps, keys });
        }
        (!keys.is_empty()).then_some(Found { kept, place, stamps, keys: Ok(keys) })
    }

    /// The profile that the environment names; its region goes before the profile's, as for the AWS tools.
    pub(super) fn chosen_profile(&self, name: &CredentialsName) -> Option<Found> {
        let mut found = self.profile(name)?;
        found.kept = Kept::Chosen;
        let region =
            ["AWS_REGION", "AWS_DEFAULT_REGION"].into_iter().find_map(|v| self.0.env.get(v));
        if let (Ok(keys), Some(region)) = (&mut found.keys, region) {
            keys.set("AWS_REGION", region.trim());
        }
        Some(found)
    }

    pub(super) fn in_profile(&self, name: &CredentialsName) -> Option<Found> {
        self.0.has_profiles.then(|| self.profile(name))?
    }

    fn profile(&self, name: &CredentialsName) -> Option<Found> {
        let stamps = self.stamps(name, Kept::Profile);
        let (profiles, place) = self.profiles();
        let keys = match profiles {
            Ok(profiles) if profiles.has(name.as_str()) => profiles.keys(name.as_str()),
            Ok(_) => return None,
            Err(problem) => Err(problem),
        };
        let place = format!("the profile {name} in {place}");
        Some(Found { kept: Kept::Profile, place, stamps, keys })
    }

    /// The profiles of the AWS tools, and where they were looked for.
    pub(super) fn profiles(&self) -> (Result<Profiles, String>, String) {
        let place = self.profile_places().join(" and ");
        let mut all = Profiles::default();
        for (path, kind) in &self.profile_files() {
            match std::fs::symlink_metadata(path) {
                Err(e) if is_missing(&e) => continue,
                _ => {}
            }
            let read = file::read(path, false).and_then(|text| Profiles::read(&text, *kind));
            match read {
                Ok(profiles) => all = all.over(profiles),
                Err(problem) => return (Err(format!("{}: {problem}", path.display())), place),
            }
        }
        (Ok(all), place)
    }

    /// The same for messages.
    pub(super) fn profile_places(&self) -> Vec<String> {
        self.profile_files().iter().map(|(path, _)| path.display().to_string()).collect()
    }

    /// Those of credentials first, whose keys count.
    fn profile_files(&self) -> Vec<(PathBuf, Kind)> {
        let env = |name: &str| self.0.env.get(name).map(|v| v.trim()).filter(|v| !v.is_empty());
        let at = |variable: &str, name: &str| {
            let home = || Some(Path::new(env("HOME")?).join(".aws").join(name));
            env(variable).map(PathBuf::from).or_else(home).filter(|path| path.is_absolute())
        };
        let files = [
            (at("AWS_SHARED_CREDENTIALS_FILE", "credentials"), Kind::Credentials),
            (at("AWS_CONFIG_FILE", "config"), Kind::Config),
        ];
        files.into_iter().filter_map(|(path, kind)| Some((path?, kind))).collect()
    }

    /// What changes when the place of a name does.
    pub(super) fn stamps(&self, name: &CredentialsName, kept: Kept) -> Vec<Stamp> {
        match kept {
            Kept::File => vec![stamp(&self.file(name))],
            Kept::Environment => Vec::new(),
            Kept::Profile | Kept::Chosen => {
                self.profile_files().iter().map(|(path, _)| stamp(path)).collect()
            }
        }
    }

    pub(super) fn missing(&self, name: &CredentialsName) -> String {
        let profiles = self.profile_places();
        let profiles = match self.0.has_profiles && !profiles.is_empty() {
            true => format!(", nor a profile {name} in {}", profiles.join(" or ")),
            false => String::new(),
        };
        format!(
            "the host {} has no credentials {name}: there is no file {}, no variable {PREFIX}{}_...{profiles}; put \
             the keys into that file (docs/CREDENTIALS.md). Others are never used instead",
            hostname(),
            self.file(name).display(),
            name.in_capitals(),
        )
    }
}

/// Of credentials that cannot be used.
pub(super) fn wrong(name: &CredentialsName, place: &str, problem: &str) -> String {
    format!("the credentials {name} of the host {} cannot be used: {place}: {problem}", hostname())
}

/// The name in a variable, as variables have it.
pub(super) fn name_of(variable: &str) -> Option<&str> {
    let rest = variable.strip_prefix(PREFIX)?;
    let known = |key: &&&str| rest.len() > key.len() + 1 && rest.ends_with(&format!("_{key}"));
    let key = VARIABLES.iter().filter(known).max_by_key(|key| key.len())?;
    Some(&rest[..rest.len() - key.len() - 1])
}

/// The folder of the plugin's files.
fn files(env: &BTreeMap<String, String>) -> PathBuf {
    let path = |name: &str| env.get(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let own = || path("XDG_CONFIG_HOME").or_else(|| path("HOME").map(|home| home.join(".config")));
    if let Some(given) = path(FILES) {
        return given;
    }
    if Path::new(ITS_OWN).is_dir() {
        return PathBuf::from(MANAGED);
    }
    match own() {
        Some(own) if !nix::unistd::geteuid().is_root() => own.join("s3vol"),
        _ => PathBuf::from("/etc/s3vol"),
    }
}

fn is_missing(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
}

pub(super) fn stamp(path: &Path) -> Stamp {
    let about = std::fs::metadata(path).ok()?;
    let at = |secs: i64, nanos: i64| i128::from(secs) * 1_000_000_000 + i128::from(nanos);
    let modified = at(about.mtime(), about.mtime_nsec());
    Some((about.dev(), about.ino(), about.len(), modified, at(about.ctime(), about.ctime_nsec())))
}
