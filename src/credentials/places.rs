//! Where names are looked for on this host.
//!
//! First `credentials/NAME` in the plugin's folder of files, then variables `S3VOL_CREDENTIALS_<NAME>_<KEY>`, then a
//! profile of the AWS tools. The first that is there counts, also if it is wrong.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::keys::{Keys, Provider, VARIABLES};
use super::search::{Found, Search, name_of, wrong};
use super::source::{Source, State};
use crate::sys::hostname;
use crate::types::CredentialsName;

/// In a process of the plugin.
static WITHOUT_PROFILES: AtomicBool = AtomicBool::new(false);

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
    search: Search,
    sources: Mutex<HashMap<(CredentialsName, Provider), Weak<Source>>>,
    /// Of `AWS_PROFILE`.
    profile: Mutex<Weak<Source>>,
}

impl std::fmt::Debug for Places {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Places").field(&self.0.search.folder()).finish()
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
        let search = Search::of(env, !WITHOUT_PROFILES.load(Ordering::Relaxed));
        Places(Arc::new(Inner { search, sources: Mutex::default(), profile: Mutex::default() }))
    }

    /// The folder with one file a name.
    pub fn folder(&self) -> &Path {
        self.0.search.folder()
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
        let found = self.0.search.find(name).ok_or_else(|| self.0.search.missing(name))?;
        let source = Arc::new(Source::of(self.0.search.clone(), name, provider, found)?);
        sources.retain(|_, source| source.strong_count() > 0);
        sources.insert(key, Arc::downgrade(&source));
        Ok(source)
    }

    /// The profile that `AWS_PROFILE` names, where the environment has no keys itself, as for the AWS tools.
    ///
    /// # Errors
    /// A profile that is missing or wrong.
    pub fn profile_of_environment(&self) -> Option<Result<Arc<Source>, String>> {
        let env = self.0.search.env();
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
            let found = self.0.search.chosen_profile(&name).ok_or_else(|| {
                format!(
                    "AWS_PROFILE names the profile {name}, which the host {} has not in {}",
                    hostname(),
                    self.0.search.profile_places().join(" or ")
                )
            })?;
            let source = Source::of(self.0.search.clone(), &name, Provider::Aws, found)?;
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
        for entry in std::fs::read_dir(self.0.search.folder()).into_iter().flatten().flatten() {
            names.extend(entry.file_name().to_str().and_then(|n| CredentialsName::new(n).ok()));
        }
        let in_files: BTreeSet<String> = names.iter().map(CredentialsName::in_capitals).collect();
        for variable in self.0.search.env().keys() {
            let name = name_of(variable).filter(|name| !in_files.contains(*name));
            names.extend(name.and_then(|name| CredentialsName::new(&name.to_lowercase()).ok()));
        }
        let (profiles, _) = self.0.search.profiles();
        if let Ok(profiles) = &profiles
            && self.0.search.has_profiles()
        {
            names.extend(profiles.names().filter_map(|name| CredentialsName::new(name).ok()));
        }
        let listed = names.into_iter().filter_map(|name| {
            let found = self.0.search.find(&name)?;
            Some(listed(&name, found))
        });
        listed.collect()
    }

    /// What this host has under a name.
    ///
    /// # Errors
    /// Missing or wrong credentials: host, name, place, and what to do.
    pub fn look(&self, name: &CredentialsName) -> Result<Listed, String> {
        let found = self.0.search.find(name).ok_or_else(|| self.0.search.missing(name))?;
        let listed = listed(name, found);
        match &listed.problem {
            Some(problem) => Err(wrong(name, &listed.place, problem)),
            None => Ok(listed),
        }
    }
}

fn listed(name: &CredentialsName, found: Found) -> Listed {
    // Keys that are complete for a provider.
    let usable = |keys: &Keys| {
        if Provider::ALL.iter().any(|one| keys.check(*one).is_ok()) {
            return Ok(());
        }
        // Of the one that it is meant for.
        let is_meant = |one: &Provider| {
            VARIABLES.iter().any(|v| v.starts_with(one.prefix()) && keys.get(v).is_some())
        };
        match Provider::ALL.into_iter().find(is_meant) {
            Some(one) => keys.check(one),
            None => Err("it has no keys".to_owned()),
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

#[cfg(test)]
mod tests {
    use super::super::search::FILES;
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
