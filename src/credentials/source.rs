//! The keys of one name as they are now.
//!
//! The place is looked at (one `stat`) at most twice a second, and when a request is refused. A file that is
//! written in place is believed a second after its last change, or at once when the store refuses the keys before it;
//! one that was put in place by a rename at once. What cannot be read, or is gone, changes nothing while a volume is
//! mounted: the last good keys go on for as long as the store takes them, and the problem is said.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::keys::{Keys, Provider};
use super::search::{Found, Kept, Search, Stamp, stamp, wrong};
use crate::clock::boottime;
use crate::sys::hostname;
use crate::types::CredentialsName;

/// Nobody takes longer between two pieces of a file of some lines.
const WRITTEN: Duration = Duration::from_secs(1);

/// Between two looks at a place that nobody has refused.
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);
/// Keys that lead to others lead to new ones at most so often, whatever is refused.
const BETWEEN_REFUSALS: Duration = Duration::from_secs(10);

/// What is known of credentials, for status and messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub name: String,
    pub place: String,
    /// How often other keys were taken since the start.
    pub changes: u64,
    /// Why what lies in the place now is not used.
    pub problem: Option<String>,
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.name, self.place)?;
        match self.changes {
            0 => {}
            1 => f.write_str(", changed once")?,
            times => write!(f, ", changed {times} times")?,
        }
        match &self.problem {
            Some(problem) => write!(f, "; those from before are used: {problem}"),
            None => Ok(()),
        }
    }
}

/// One name on this host.
pub struct Source {
    search: Search,
    name: CredentialsName,
    provider: Provider,
    now: Mutex<Now>,
}

struct Now {
    kept: Kept,
    place: String,
    keys: Arc<Keys>,
    changes: u64,
    /// Goes up with `changes`, and when the same keys are to be led to others.
    generation: u64,
    /// When the store last refused those that these lead to.
    refused: Option<Duration>,
    /// When the place was last looked at, by boot time.
    looked: Option<Duration>,
    /// Of what `keys` and `problem` say, and of the files that the keys name.
    stamps: Vec<Stamp>,
    /// What the place had when it was last seen to be another, and since when.
    seen: Option<(Vec<Stamp>, Duration)>,
    problem: Option<String>,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Source {
    /// Of what was `found` under a name.
    pub(super) fn of(
        search: Search,
        name: &CredentialsName,
        provider: Provider,
        found: Found,
    ) -> Result<Source, String> {
        let Found { kept, place, stamps, keys } = found;
        let keys = Self::judged(keys, provider).map_err(|problem| wrong(name, &place, &problem))?;
        let now = Now {
            kept,
            place,
            stamps: stamps.into_iter().chain(stamps_of_files(&keys)).collect(),
            keys: Arc::new(keys),
            changes: 0,
            generation: 0,
            refused: None,
            looked: Some(boottime()),
            seen: None,
            problem: None,
        };
        let (name, now) = (name.clone(), Mutex::new(now));
        Ok(Source { search, name, provider, now })
    }

    fn judged(keys: Result<Keys, String>, provider: Provider) -> Result<Keys, String> {
        keys.and_then(|keys| keys.check(provider).map(|()| keys))
    }

    pub fn name(&self) -> &CredentialsName {
        &self.name
    }

    /// The keys, and which they are of all that there were.
    pub fn keys(&self) -> (u64, Arc<Keys>) {
        let mut now = self.now.lock();
        if now.looked.is_none_or(|at| boottime().saturating_sub(at) >= BETWEEN_LOOKS) {
            self.look(&mut now, false);
        }
        (now.generation, Arc::clone(&now.keys))
    }

    /// The store refused a request that was signed with the keys of `generation`: whether there are others by now.
    pub fn has_others(&self, generation: u64) -> bool {
        let mut now = self.now.lock();
        self.look(&mut now, true);
        let lately = |at: Duration| boottime().saturating_sub(at) < BETWEEN_REFUSALS;
        if now.generation == generation
            && now.keys.lead_to_others()
            && !now.refused.is_some_and(lately)
        {
            now.refused = Some(boottime());
            now.generation += 1;
        }
        now.generation != generation
    }

    /// No client can be made of the keys of `generation`; it goes on with those from before.
    pub fn cannot_be_used(&self, generation: u64, problem: &str) {
        let mut now = self.now.lock();
        if now.generation == generation {
            self.fails(&mut now, problem.to_owned());
        }
    }

    pub fn state(&self) -> State {
        let mut now = self.now.lock();
        self.look(&mut now, false);
        State {
            name: self.name.to_string(),
            place: now.place.clone(),
            changes: now.changes,
            problem: now.problem.clone(),
        }
    }

    /// For the end of a message about a request that was refused.
    pub fn blame(&self) -> String {
        let State { name, place, problem, .. } = self.state();
        let host = hostname();
        match problem {
            None => format!("the credentials {name} of the host {host} are in {place}"),
            Some(problem) => format!(
                "the credentials {name} of the host {host} are those that were in {place} before: {problem}"
            ),
        }
    }

    /// Takes over what lies in the place. `at_once`: there is no use in waiting for the end of a change.
    fn look(&self, now: &mut Now, at_once: bool) {
        now.looked = Some(boottime());
        // A file goes before them, also one that was not there.
        let is_overtaken = matches!(now.kept, Kept::Environment | Kept::Profile)
            && std::fs::symlink_metadata(self.search.file(&self.name)).is_ok();
        if is_overtaken && let Some(found) = self.search.in_file(&self.name) {
            (now.kept, now.place) = (found.kept, found.place.clone());
            // Whatever else is there is not looked at any more.
            now.stamps = Vec::new();
            return self.take(now, Vec::new(), Some(found));
        }
        let mut stamps = self.search.stamps(&self.name, now.kept);
        let own = stamps.len();
        stamps.extend(stamps_of_files(&now.keys));
        if stamps == now.stamps {
            now.seen = None;
            return;
        }
        if !at_once && self.is_being_written(now, &stamps) {
            return;
        }
        // Its stamps are from before the content was read.
        let found = match now.kept {
            Kept::File => self.search.in_file(&self.name),
            Kept::Environment => self.search.in_environment(&self.name),
            Kept::Profile => self.search.in_profile(&self.name),
            Kept::Chosen => self.search.chosen_profile(&self.name),
        };
        stamps.truncate(own);
        self.take(now, stamps, found);
    }

    /// `stamps`: where nothing was found.
    fn take(&self, now: &mut Now, stamps: Vec<Stamp>, found: Option<Found>) {
        now.seen = None;
        let mut stamps = found.as_ref().map_or(stamps, |found| found.stamps.clone());
        let keys = match found {
            Some(Found { keys, .. }) => Self::judged(keys, self.provider),
            None => Err("it is gone; put it back".to_owned()),
        };
        let keys = keys.and_then(|keys| match keys.place() == now.keys.place() {
            true => Ok(keys),
            false => Err("its account or region has changed, which takes effect at the next mount"
                .to_owned()),
        });
        let own = stamps.len();
        stamps.extend(stamps_of_files(keys.as_ref().unwrap_or(&now.keys)));
        let has_other_files = stamps.get(own..) != now.stamps.get(own..);
        now.stamps = stamps;
        match keys {
            Ok(keys) => {
                let (name, place) = (&self.name, &now.place);
                if let Some(before) = now.problem.take() {
                    tracing::info!(%name, %place, before, "the credentials can be read again");
                }
                if keys != *now.keys || has_other_files {
                    tracing::info!(%name, %place, "the credentials have changed, and are used from now on");
                    now.keys = Arc::new(keys);
                    now.changes += 1;
                    now.generation += 1;
                }
            }
            Err(problem) => self.fails(now, problem),
        }
    }

    fn fails(&self, now: &mut Now, problem: String) {
        if now.problem.as_ref() != Some(&problem) {
            tracing::error!(name = %self.name, place = %now.place, problem,
                "the credentials cannot be read; those from before are used as long as the store takes them");
        }
        now.problem = Some(problem);
    }

    fn is_being_written(&self, now: &mut Now, stamps: &[Stamp]) -> bool {
        let inode = |stamp: &Stamp| stamp.map(|(device, inode, ..)| (device, inode));
        let is_same_file = |(a, b): (&Stamp, &Stamp)| a.is_some() && inode(a) == inode(b);
        if !stamps.iter().zip(&now.stamps).filter(|(a, b)| a != b).all(is_same_file) {
            return false;
        }
        let modified = stamps.iter().flatten().map(|stamp| stamp.3).max().unwrap_or(0);
        let age = i128::from(crate::clock::now().secs) * 1_000_000_000 - modified;
        // By this second's beginning.
        if age >= WRITTEN.as_nanos() as i128 {
            return false;
        }
        match &now.seen {
            Some((seen, since)) if seen == stamps => boottime().saturating_sub(*since) < WRITTEN,
            _ => {
                now.seen = Some((stamps.to_vec(), boottime()));
                true
            }
        }
    }
}

fn stamps_of_files(keys: &Keys) -> impl Iterator<Item = Stamp> {
    keys.files().map(stamp)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::super::Places;
    use super::*;

    fn put(path: &Path, id: &str) {
        std::fs::write(path, format!("AWS_ACCESS_KEY_ID={id}\nAWS_SECRET_ACCESS_KEY=s\n")).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn id(source: &Source) -> String {
        // As after some time.
        source.now.lock().looked = None;
        source.keys().1.get("AWS_ACCESS_KEY_ID").unwrap().to_owned()
    }

    /// A folder with the credentials `team`, and their source.
    fn world() -> (tempfile::TempDir, std::path::PathBuf, Arc<Source>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credentials/team");
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        put(&path, "ONE");
        let env = BTreeMap::from([("S3VOL_FILES".to_owned(), dir.path().display().to_string())]);
        let name = CredentialsName::new("team").unwrap();
        let source = Places::of(env).source(&name, Provider::Aws).unwrap();
        (dir, path, source)
    }

    #[test]
    fn a_file_that_was_replaced_counts_at_once() {
        let (dir, path, source) = world();
        let other = dir.path().join("new");
        put(&other, "TWO");
        std::fs::rename(&other, &path).unwrap();
        assert_eq!((id(&source), source.state().changes), ("TWO".to_owned(), 1));
    }

    #[test]
    fn a_file_that_is_being_written_counts_when_it_rests_or_the_store_refuses() {
        let (_dir, path, source) = world();
        put(&path, "TWO!");
        assert_eq!(id(&source), "ONE");
        assert!(source.has_others(0));
        assert_eq!(id(&source), "TWO!");
        put(&path, "THREE");
        let old = std::fs::File::options().write(true).open(&path).unwrap();
        old.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(1_000_000)).unwrap();
        assert_eq!(id(&source), "THREE");
    }

    #[test]
    fn a_file_that_comes_later_goes_before_the_environment() {
        let dir = tempfile::tempdir().unwrap();
        let env = [
            ("S3VOL_FILES", dir.path().to_str().unwrap()),
            ("S3VOL_CREDENTIALS_TEAM_AWS_ACCESS_KEY_ID", "ENV"),
            ("S3VOL_CREDENTIALS_TEAM_AWS_SECRET_ACCESS_KEY", "e"),
        ];
        let places = Places::of(env.map(|(n, v)| (n.to_owned(), v.to_owned())).into());
        let source = places.source(&CredentialsName::new("team").unwrap(), Provider::Aws).unwrap();
        assert_eq!(id(&source), "ENV");
        std::fs::create_dir(dir.path().join("credentials")).unwrap();
        put(&dir.path().join("credentials/team"), "FILE");
        assert_eq!(id(&source), "FILE");
        assert!(source.state().place.ends_with("/credentials/team"));
        assert_eq!(id(&source), "FILE");
    }

    #[test]
    fn what_is_no_file_or_another_account_is_a_problem() {
        let (_dir, path, source) = world();
        std::fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(!source.has_others(0));
        assert!(source.state().problem.unwrap().contains("no file"));
        std::fs::remove_file(&path).unwrap();
        put(&path, "TWO\nAWS_REGION=eu-west-1");
        assert!(!source.has_others(0));
        assert!(source.state().problem.unwrap().contains("takes effect at the next mount"));
        std::fs::remove_file(&path).unwrap();
        put(&path, "T\u{fc}");
        assert!(!source.has_others(0));
        let problem = source.state().problem.unwrap();
        assert!(
            problem.contains("AWS_ACCESS_KEY_ID has a character") && !problem.contains("T\u{fc}")
        );
    }

    #[test]
    fn keys_that_lead_to_others_are_asked_again_after_a_refusal_but_not_each_time() {
        let (dir, path, _) = world();
        let new = dir.path().join("new");
        put(&new, "ONE\nAWS_ROLE_ARN=role");
        std::fs::rename(&new, &path).unwrap();
        let env = BTreeMap::from([("S3VOL_FILES".to_owned(), dir.path().display().to_string())]);
        let name = CredentialsName::new("team").unwrap();
        let source = Places::of(env).source(&name, Provider::Aws).unwrap();
        assert!(source.has_others(0));
        assert!(!source.has_others(1));
        assert_eq!((source.keys().0, source.state().changes), (1, 0));
    }

    #[test]
    fn what_cannot_be_read_changes_nothing_and_is_said() {
        let (_dir, path, source) = world();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(id(&source), "ONE");
        assert!(source.state().problem.unwrap().contains("it is gone"));
        assert!(!source.has_others(0) && source.blame().contains("it is gone"));
        std::fs::write(&path, "AWS_ACCESS_KEY_ID=half").unwrap();
        assert_eq!(id(&source), "ONE");
        assert!(source.state().problem.is_some());
        std::fs::remove_file(&path).unwrap();
        assert_eq!(id(&source), "ONE");
        put(&path, "ONE");
        assert!(!source.has_others(0));
        assert_eq!(source.state().problem, None);
    }
}
