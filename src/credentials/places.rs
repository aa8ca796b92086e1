//! Where names are looked for on this host.
//!
//! First `credentials/NAME` in the plugin's folder of files, then variables `S3VOL_CREDENTIALS_<NAME>_<KEY>`, then a
//! profile of the AWS tools. The first that is there counts, also if it is wrong.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::keys::{Keys, Provider, VARIABLES};
use super::profile::{Kind, Profiles};
use super::{Source, State, file};
use crate::sys::hostname;
use crate::types::CredentialsName;

/// Names the folder of files; credentials lie in `credentials` below it.
const FILES: &str = "S3VOL_FILES";
const FOLDER: &str = "credentials";
const PREFIX: &str = "S3VOL_CREDENTIALS_";
/// Of the managed plugin, and the folder that only it has, or one that is like it.
const MANAGED: &str = "/s3vol/files";
const ITS_OWN: &str = "/s3vol";

/// In a process of the plugin.
static WITHOUT_PROFILES: AtomicBool = AtomicBool::new(false);

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

/// One name that this host has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    pub name: String,
    pub place: String,
    /// Which variables it has.
    pub variables: Vec<String>,
    pub problem: Option<String>,
}

/// Where one host looks. Clones share what is known.
#[derive(Clone)]
pub struct Places(Arc<Inner>);

struct Inner {
    folder: PathBuf,
    /// With keys in it.
    env: BTreeMap<String, String>,
    /// Whether a name may be that of a profile.
    has_profiles: bool,
    sources: Mutex<HashMap<(CredentialsName, Provider), Weak<Source>>>,
    /// Of `AWS_PROFILE`.
    profile: Mutex<Weak<Source>>,
}

impl std::fmt::Debug for Places {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Places").field(&self.0.folder).finish()
    }
}

impl Places {
    /// Of this process, by its environment.
    pub fn of_process() -> Places {
        static PLACES: OnceLock<Places> = OnceLock::new();
        let made = || {
            let env = std::env::vars_os()
                .filter_map(|(n, v)| Some((n.into_string().ok()?, v.into_string().ok()?)))
                .filter(|(_, value)| !value.trim().is_empty())
                .collect();
            Places::of(env)
        };
        PLACES.get_or_init(made).clone()
    }

    /// A plugin serves volumes that others define, and the profiles of a user are not meant for them. Before the first
    /// use.
    pub fn leave_profiles_out() {
        WITHOUT_PROFILES.store(true, Ordering::Relaxed);
    }

    /// By the environment `env`.
    pub fn of(env: BTreeMap<String, String>) -> Places {
        let folder = files(&env).join(FOLDER);
        let has_profiles = !WITHOUT_PROFILES.load(Ordering::Relaxed);
        Places(Arc::new(Inner {
            folder,
            env,
            has_profiles,
            sources: Mutex::default(),
            profile: Mutex::default(),
        }))
    }

    /// The folder with one file a name.
    pub fn folder(&self) -> &Path {
        &self.0.folder
    }

    /// The one source of a name for all clients of this process.
    ///
    /// # Errors
    /// Missing or wrong credentials: host, name, place, and what to do.
    pub fn source(
        &self,
        name: &CredentialsName,
        provider: Provider,
    ) -> Result<Arc<Source>, String> {
        let mut sources = self.0.sources.lock();
        let key = (name.clone(), provider);
        // What is gone or wrong by now is told to whoever begins to use it.
        let good = |source: &Arc<Source>| source.state().problem.is_none();
        if let Some(source) = sources.get(&key).and_then(Weak::upgrade).filter(good) {
            return Ok(source);
        }
        let found = self.find(name).ok_or_else(|| self.missing(name))?;
        let source = Arc::new(Source::of(self.clone(), name, provider, found)?);
        sources.retain(|_, source| source.strong_count() > 0);
        sources.insert(key, Arc::downgrade(&source));
        Ok(source)
    }

    /// The profile that `AWS_PROFILE` names, where the environment has no keys itself, as for the AWS tools.
    ///
    /// # Errors
    /// A profile that is missing or wrong.
    pub fn profile_of_environment(&self) -> Option<Result<Arc<Source>, String>> {
        let env = &self.0.env;
        let profile = env.get("AWS_PROFILE").filter(|_| !env.contains_key("AWS_ACCESS_KEY_ID"))?;
        // Nothing is signed.
        let skips = env.get("AWS_SKIP_SIGNATURE").map(|v| v.trim().to_ascii_lowercase());
        if skips.is_some_and(|skips| skips == "true" || skips == "1") {
            return None;
        }
        let open = |name: CredentialsName| {
            let mut opened = self.0.profile.lock();
            if let Some(source) = opened.upgrade().filter(|source| source.state().problem.is_none())
            {
                return Ok(source);
            }
            let found = self.chosen_profile(&name).ok_or_else(|| {
                let files: Vec<_> =
                    self.profile_files().iter().map(|(p, _)| p.display().to_string()).collect();
                format!(
                    "AWS_PROFILE names the profile {name}, which the host {} has not in {}",
                    hostname(),
                    files.join(" or ")
                )
            })?;
            let source = Source::of(self.clone(), &name, Provider::Aws, found)?;
            let source = Arc::new(source);
            *opened = Arc::downgrade(&source);
            Ok(source)
        };
        Some(CredentialsName::of_profile(profile.trim()).and_then(open))
    }

    /// How the credentials fare that clients of this process use under a name.
    pub fn state(&self, name: &CredentialsName) -> Option<State> {
        let sources = self.0.sources.lock();
        let mut named = sources.iter().filter(|((one, _), _)| one == name);
        named.find_map(|(_, source)| Some(source.upgrade()?.state()))
    }

    /// The names that this host has, with their places.
    pub fn list(&self) -> Vec<Listed> {
        let mut names = BTreeSet::new();
        for entry in std::fs::read_dir(&self.0.folder).into_iter().flatten().flatten() {
            names.extend(entry.file_name().to_str().and_then(|n| CredentialsName::new(n).ok()));
        }
        let in_files: BTreeSet<String> = names.iter().map(CredentialsName::in_capitals).collect();
        for variable in self.0.env.keys() {
            let name = name_of(variable).filter(|name| !in_files.contains(*name));
            names.extend(name.and_then(|name| CredentialsName::new(&name.to_lowercase()).ok()));
        }
        let (profiles, _) = self.profiles();
        if let Ok(profiles) = &profiles
            && self.0.has_profiles
        {
            names.extend(profiles.names().filter_map(|name| CredentialsName::new(name).ok()));
        }
        let listed = names.into_iter().filter_map(|name| {
            let found = self.find(&name)?;
            Some(listed(&name, found))
        });
        listed.collect()
    }

    /// What this host has under a name.
    ///
    /// # Errors
    /// Missing or wrong credentials: host, name, place, and what to do.
    pub fn look(&self, name: &CredentialsName) -> Result<Listed, String> {
        let found = self.find(name).ok_or_else(|| self.missing(name))?;
        let listed = listed(name, found);
        match &listed.problem {
            Some(problem) => Err(wrong(name, &listed.place, problem)),
            None => Ok(listed),
        }
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
            let is_ours = |rest: &str| {
                ["AWS_", "AZURE_", "GOOGLE_"].iter().any(|provider| rest.starts_with(provider))
            };
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
    fn profiles(&self) -> (Result<Profiles, String>, String) {
        let paths = self.profile_files();
        let place: Vec<_> = paths.iter().map(|(path, _)| path.display().to_string()).collect();
        let mut all = Profiles::default();
        for (path, kind) in &paths {
            match std::fs::symlink_metadata(path) {
                Err(e) if is_missing(&e) => continue,
                _ => {}
            }
            let read = file::read(path, false).and_then(|text| Profiles::read(&text, *kind));
            match read {
                Ok(profiles) => all = all.over(profiles),
                Err(problem) => {
                    return (Err(format!("{}: {problem}", path.display())), place.join(" and "));
                }
            }
        }
        (Ok(all), place.join(" and "))
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
        let profiles: Vec<_> = self
            .profile_files()
            .iter()
            .filter(|_| self.0.has_profiles)
            .map(|(path, _)| path.display().to_string())
            .collect();
        let profiles = match profiles.is_empty() {
            true => String::new(),
            false => format!(", nor a profile {name} in {}", profiles.join(" or ")),
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

fn listed(name: &CredentialsName, found: Found) -> Listed {
    // Keys that are complete for a provider.
    let usable = |keys: &Keys| {
        let providers = [Provider::Aws, Provider::Azure, Provider::Google];
        let tried: Vec<_> = providers.into_iter().map(|one| keys.check(one)).collect();
        match tried.iter().any(Result::is_ok) {
            true => Ok(()),
            // Of the one that it is meant for.
            false => tried
                .into_iter()
                .zip(["AWS_", "AZURE_", "GOOGLE_"])
                .find_map(|(one, prefix)| {
                    let meant =
                        VARIABLES.iter().any(|v| v.starts_with(prefix) && keys.get(v).is_some());
                    meant.then_some(one)
                })
                .unwrap_or_else(|| Err("it has no keys".to_owned())),
        }
    };
    let (variables, problem) = match found.keys {
        Ok(keys) => {
            let set = VARIABLES.iter().filter(|v| keys.get(v).is_some()).map(|v| (*v).to_owned());
            (set.collect(), usable(&keys).err())
        }
        Err(problem) => (Vec::new(), Some(problem)),
    };
    Listed { name: name.to_string(), place: found.place, variables, problem }
}

/// Of credentials that cannot be used.
pub(super) fn wrong(name: &CredentialsName, place: &str, problem: &str) -> String {
    format!("the credentials {name} of the host {} cannot be used: {place}: {problem}", hostname())
}

/// The name in a variable, as variables have it.
fn name_of(variable: &str) -> Option<&str> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> CredentialsName {
        CredentialsName::new(text).unwrap()
    }

    fn places(dir: &Path, more: &[(&str, &str)]) -> Places {
        let mut env = BTreeMap::from([(FILES.to_owned(), dir.display().to_string())]);
        env.extend(more.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())));
        Places::of(env)
    }

    fn put(path: &Path, text: &str) {
        use std::os::unix::fs::PermissionsExt;
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    const LINES: &str = "AWS_ACCESS_KEY_ID=FILE\nAWS_SECRET_ACCESS_KEY=s\n";

    #[test]
    fn the_first_place_counts_also_if_it_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().display().to_string();
        put(
            &dir.path().join(".aws/credentials"),
            "[team]\naws_access_key_id=P\naws_secret_access_key=p\n",
        );
        let env = [
            ("HOME", home.as_str()),
            ("S3VOL_CREDENTIALS_TEAM_AWS_ACCESS_KEY_ID", "ENV"),
            ("S3VOL_CREDENTIALS_TEAM_AWS_SECRET_ACCESS_KEY", "e"),
            ("AWS_ACCESS_KEY_ID", "OTHER"),
            ("AWS_SECRET_ACCESS_KEY", "o"),
        ];
        let key = |places: &Places, n: &str| {
            let source = places.source(&name(n), Provider::Aws)?;
            Ok::<_, String>(source.keys().1.get("AWS_ACCESS_KEY_ID").map(str::to_owned))
        };
        let found = places(dir.path(), &env[..1]);
        assert_eq!(key(&found, "team").unwrap().as_deref(), Some("P"));
        let found = places(dir.path(), &env);
        assert_eq!(key(&found, "team").unwrap().as_deref(), Some("ENV"));
        put(&dir.path().join("credentials/team"), LINES);
        let found = places(dir.path(), &env);
        assert_eq!(key(&found, "team").unwrap().as_deref(), Some("FILE"));
        put(&dir.path().join("credentials/team"), "AWS_ACCESS_KEY_ID=half\n");
        let found = places(dir.path(), &env);
        let error = key(&found, "team").unwrap_err();
        for said in [
            &*hostname(),
            "credentials team",
            "/credentials/team",
            "AWS_SECRET_ACCESS_KEY is missing",
        ] {
            assert!(error.contains(said), "{error}");
        }
        let missing = key(&found, "nobody").unwrap_err();
        for said in [
            &*hostname(),
            "nobody",
            "/credentials/nobody",
            "S3VOL_CREDENTIALS_NOBODY_",
            ".aws/credentials",
        ] {
            assert!(missing.contains(said), "{missing}");
        }
    }

    #[test]
    fn names_are_listed_with_places_and_without_values() {
        let dir = tempfile::tempdir().unwrap();
        put(&dir.path().join("credentials/team"), LINES);
        put(&dir.path().join("credentials/broken"), "x");
        put(&dir.path().join("credentials/.hidden"), "x");
        let env = [
            ("S3VOL_CREDENTIALS_OPS_AZURE_STORAGE_ACCOUNT_KEY", "hush"),
            ("S3VOL_CREDENTIALS_OPS_AZURE_STORAGE_ACCOUNT_NAME", "ops"),
        ];
        let listed = places(dir.path(), &env).list();
        let names: Vec<_> = listed.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["broken", "ops", "team"]);
        assert!(listed[0].problem.is_some() && listed[1].problem.is_none());
        assert_eq!(listed[2].variables, ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]);
        assert!(!format!("{listed:?}").contains("hush"));
    }
}
