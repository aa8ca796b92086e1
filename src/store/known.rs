//! What was found out about stores, for every client of them on this host from its first request on.
//!
//! Owns `<state folder>/stores/<hash>.json`: one [`Finding`] for each bucket through each endpoint. Every
//! process reads it when it makes a client, and writes what it finds; the last one counts. A copy of a
//! probe's finding lies in the bucket, beside the volumes' state, for other hosts (`catalog::stores`).
//! Nothing here has to survive: a file that is lost or unreadable costs a probe.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::Digest;

use super::{Capabilities, Groups, Verb};
use crate::clock::boottime;
use crate::types::hex;

/// A finding is believed for a week, in seconds: servers are upgraded, buckets get other rules.
const BELIEVED: i64 = 7 * 24 * 3600;
/// A finding of a probe that the store did not answer clearly is believed for an hour.
const BELIEVED_IN_DOUBT: i64 = 3600;
/// A group of deletions that was refused, or a trial of them that failed, counts for so long.
const DOUBTED: Duration = Duration::from_secs(600);
/// Below the state folder.
const FOLDER: &str = "stores";
/// To be raised when the probe asks for more, and [`STILL_RIGHT`] with it when it judges otherwise: what an older one than
/// that found is not believed.
pub(super) const VERSION: u32 = 4;
/// Of an older probe that judged as this one does, and did not ask for all of it, what it found is right: what is
/// not in it is not used before the next probe.
const STILL_RIGHT: u32 = 3;

/// What one probe found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The version of the probe: another one asks for more, or judges otherwise.
    pub probe: u32,
    /// Scheme and bucket.
    pub store: String,
    pub endpoint: String,
    /// Seconds since 1970 by the clock of the host that probed; no clock is off by a part of a week
    /// that matters.
    pub found_at: i64,
    /// A verb is missing only because the store was not well when it was tried.
    #[serde(default)]
    pub in_doubt: bool,
    pub capabilities: Capabilities,
}

impl Finding {
    /// Whether it is to be believed without another probe.
    pub fn is_current(&self) -> bool {
        let believed = if self.in_doubt { BELIEVED_IN_DOUBT } else { BELIEVED };
        (STILL_RIGHT..=VERSION).contains(&self.probe) && (now() - self.found_at).abs() < believed
    }
}

/// What this host knows, of all stores. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Known(Arc<Stores>);

#[derive(Debug, Default)]
struct Stores {
    /// `None`: kept by this process alone.
    folder: Option<PathBuf>,
    stores: Mutex<HashMap<String, Arc<Knowledge>>>,
}

impl Known {
    /// Kept in `folder`, which is made when there is something to keep.
    pub fn in_folder(folder: impl Into<PathBuf>) -> Self {
        Known(Arc::new(Stores { folder: Some(folder.into()), stores: Mutex::default() }))
    }

    /// Kept in the state folder `state`.
    pub fn of_host(state: &Path) -> Self {
        Self::in_folder(Self::folder(state))
    }

    /// Where a host with the state folder `state` keeps it.
    pub fn folder(state: &Path) -> PathBuf {
        state.join(FOLDER)
    }

    /// What is known of one store (`scheme://bucket`) through one endpoint.
    pub fn of(&self, store: &str, endpoint: &str) -> Arc<Knowledge> {
        let name = name(store, endpoint);
        let mut stores = self.0.stores.lock();
        let knowledge = stores.entry(name.clone()).or_insert_with(|| {
            Arc::new(Knowledge {
                path: self.0.folder.as_ref().map(|folder| folder.join(format!("{name}.json"))),
                name,
                store: store.to_owned(),
                endpoint: endpoint.to_owned(),
                finding: Mutex::default(),
                tried: Mutex::default(),
                bare: AtomicBool::new(false),
                trying: AtomicBool::new(false),
            })
        });
        knowledge.read_again();
        Arc::clone(knowledge)
    }
}

/// What is known of one store.
#[derive(Debug)]
pub struct Knowledge {
    name: String,
    store: String,
    endpoint: String,
    path: Option<PathBuf>,
    finding: Mutex<Option<Finding>>,
    /// What this process saw of groups of deletions, and until when (boot time) that counts.
    tried: Mutex<Option<(Groups, Duration)>>,
    /// `If-Match` goes without quotes here. Known apart from the finding, because an old one is still
    /// the best guess, and because a client may find out by itself.
    bare: AtomicBool,
    /// A probe tries spellings now, and wants to see each of them fail.
    trying: AtomicBool,
}

/// While it lives, spellings are tried, and requests that are refused are not sent in another one.
#[derive(Debug)]
pub(super) struct Trying<'k>(&'k Knowledge);

impl Trying<'_> {
    pub(super) fn spelling(&self, bare: bool) {
        self.0.bare.store(bare, Ordering::Relaxed);
    }
}

impl Drop for Trying<'_> {
    fn drop(&mut self) {
        self.0.trying.store(false, Ordering::Relaxed);
    }
}

impl Knowledge {
    /// Names the record of this store among others.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The last probe's finding, if it is to be believed.
    pub fn current(&self) -> Option<Finding> {
        self.finding.lock().clone().filter(Finding::is_current)
    }

    /// Whether nothing was ever heard of this store.
    pub fn is_empty(&self) -> bool {
        self.finding.lock().is_none()
    }

    /// A probe was made just now.
    pub fn found(&self, capabilities: &Capabilities, in_doubt: bool) -> Finding {
        let finding = Finding {
            probe: VERSION,
            store: self.store.clone(),
            endpoint: self.endpoint.clone(),
            found_at: now(),
            in_doubt,
            capabilities: capabilities.clone(),
        };
        *self.tried.lock() = None;
        // What is in doubt says nothing against what is sure.
        if !in_doubt || self.current().is_none_or(|ours| ours.in_doubt) {
            self.keep(Some(finding.clone()));
        }
        finding
    }

    /// Takes over what another host found, unless this one knows it better.
    pub fn heard(&self, finding: &Finding) {
        if finding.in_doubt && self.current().is_some_and(|ours| !ours.in_doubt) {
            return;
        }
        let ours = self.finding.lock().as_ref().map(|ours| ours.found_at);
        let about_this = finding.store == self.store && finding.endpoint == self.endpoint;
        if about_this && ours.is_none_or(|ours| ours < finding.found_at) {
            self.keep(Some(finding.clone()));
        }
    }

    /// What a volume's record says, which may be old: only a guess, where nothing else is known.
    pub fn guess(&self, capabilities: &Capabilities) {
        if self.is_empty() {
            let found = Finding {
                probe: VERSION,
                store: self.store.clone(),
                endpoint: self.endpoint.clone(),
                found_at: 0,
                in_doubt: false,
                capabilities: capabilities.clone(),
            };
            self.keep(Some(found));
        }
    }

    /// A request showed that the finding is wrong: the next one who needs it probes again.
    pub fn contradicted(&self) {
        *self.tried.lock() = None;
        if let Some(finding) = self.current() {
            tracing::warn!(
                store = self.store,
                endpoint = self.endpoint,
                "the store does not do what a probe found; it will be probed again"
            );
            self.keep(Some(Finding { found_at: 0, ..finding }));
        }
    }

    /// What the store does with groups of deletions, if that is known.
    pub(super) fn groups(&self) -> Option<Groups> {
        let tried = self.tried.lock().filter(|(_, until)| boottime() < *until);
        let found = || self.current().map(|found| Groups::of(&found.capabilities));
        tried.map(|(groups, _)| groups).or_else(found)
    }

    /// A trial showed this.
    pub(super) fn tried_groups(&self, groups: Groups) {
        let until = boottime() + Duration::from_secs(BELIEVED.unsigned_abs());
        *self.tried.lock() = Some((groups, until));
    }

    /// None are sent for a while: one was refused, or nobody can tell.
    pub(super) fn no_groups(&self) {
        *self.tried.lock() = Some((Groups::No, boottime() + DOUBTED));
    }

    /// Whether conditions name ETags without quotes.
    pub(super) fn is_bare(&self) -> bool {
        self.bare.load(Ordering::Relaxed)
    }

    /// Whether a refused condition is to be sent in the other spelling.
    pub(super) fn mends(&self) -> bool {
        !self.trying.load(Ordering::Relaxed)
    }

    /// For the probe, which then says what it found.
    pub(super) fn trying(&self) -> Trying<'_> {
        self.trying.store(true, Ordering::Relaxed);
        Trying(self)
    }

    /// A request showed how conditions have to be written.
    pub(super) fn spelled(&self, bare: bool) {
        tracing::warn!(
            store = self.store,
            endpoint = self.endpoint,
            quotes = !bare,
            "conditions on ETags are written otherwise from now on"
        );
        let finding = self.finding.lock().clone().map(|mut finding| {
            match bare {
                true => finding.capabilities.0.insert(Verb::UnquotedEtag),
                false => finding.capabilities.0.remove(&Verb::UnquotedEtag),
            };
            finding
        });
        match finding {
            Some(finding) => self.keep(Some(finding)),
            None => {
                let spelling = bare.then_some(Verb::UnquotedEtag);
                self.guess(&Capabilities(spelling.into_iter().collect()));
            }
        }
    }

    /// Reads what other processes of this host have found since.
    pub(super) fn read_again(&self) {
        let Some(path) = &self.path else { return };
        let found = match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice::<Finding>(&bytes).map_err(std::io::Error::from),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return,
            Err(e) => Err(e),
        };
        match found {
            Ok(finding) if finding.store == self.store && finding.endpoint == self.endpoint => {
                self.set(Some(finding));
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(path = %path.display(), %error, "an unreadable finding"),
        }
    }

    fn set(&self, finding: Option<Finding>) {
        let bare = finding.as_ref().is_some_and(|f| f.capabilities.has(Verb::UnquotedEtag));
        if self.mends() {
            self.bare.store(bare, Ordering::Relaxed);
        }
        *self.finding.lock() = finding;
    }

    fn keep(&self, finding: Option<Finding>) {
        let (Some(path), Some(found)) = (&self.path, &finding) else { return self.set(finding) };
        if let Err(error) = write(path, found) {
            tracing::warn!(path = %path.display(), %error,
                "what was found out about a store is known to this process only");
        }
        self.set(finding);
    }
}

/// The name of a store's record.
fn name(store: &str, endpoint: &str) -> String {
    let hash = sha2::Sha256::digest(format!("{store}\n{endpoint}"));
    hex(&hash[..12])
}

/// Whole or as before, whoever else writes it at the same time.
fn write(path: &Path, finding: &Finding) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or_else(|| Path::new("/"));
    std::fs::create_dir_all(folder)?;
    let beside = path.with_extension(uuid::Uuid::new_v4().simple().to_string());
    let written = std::fs::File::create(&beside)
        .and_then(|mut file| {
            file.write_all(&serde_json::to_vec_pretty(finding)?)?;
            file.sync_all()
        })
        .and_then(|()| std::fs::rename(&beside, path));
    if written.is_err() {
        // The first error is the one that matters.
        drop(std::fs::remove_file(&beside));
    }
    written
}

fn now() -> i64 {
    crate::clock::now().secs
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORE: (&str, &str) = ("s3://b", "http://h:1");

    fn caps(verbs: &[Verb]) -> Capabilities {
        Capabilities(verbs.iter().copied().collect())
    }

    fn of(known: &Known) -> Arc<Knowledge> {
        known.of(STORE.0, STORE.1)
    }

    #[test]
    fn what_one_process_found_another_one_knows() {
        let dir = tempfile::tempdir().unwrap();
        let open = || of(&Known::of_host(dir.path()));
        let (here, there) = (open(), open());
        assert!(here.is_empty() && here.current().is_none() && !here.is_bare());
        let found = here.found(&caps(&[Verb::PutIfMatch, Verb::UnquotedEtag]), false);
        there.read_again();
        for knows in [&here, &there, &open()] {
            assert_eq!(knows.current().as_ref(), Some(&found));
            assert!(knows.is_bare());
        }
        let other = Known::of_host(dir.path()).of(STORE.0, "http://h:2");
        assert!(other.is_empty(), "another endpoint is another store");
        std::fs::write(dir.path().join("stores").join(format!("{}.json", here.name())), "{")
            .unwrap();
        assert!(open().is_empty());
        there.read_again();
        assert_eq!(there.current(), Some(found), "what is known already is not forgotten");
    }

    #[test]
    fn verbs_of_later_versions_are_skipped_and_records_for_all_name_none_of_them() {
        let text = r#"["put_if_match","fly","delete_many"]"#;
        let found: Capabilities = serde_json::from_str(text).unwrap();
        assert_eq!(found, caps(&[Verb::PutIfMatch, Verb::DeleteMany]));
        assert_eq!(found.everywhere(), caps(&[Verb::PutIfMatch]));
        assert!(serde_json::from_str::<Capabilities>(r#"[1]"#).is_err());
        let both = caps(&[Verb::DeleteMany, Verb::DeleteManyConditional]);
        let written = serde_json::to_string(&both).unwrap();
        assert_eq!(written, r#"["delete_many","delete_many_conditional"]"#);
        assert_eq!(Groups::of(&both), Groups::Conditional);
    }

    #[test]
    fn a_refused_group_counts_for_a_while_and_a_probe_for_longer() {
        let known = of(&Known::default());
        assert_eq!(known.groups(), None);
        known.tried_groups(Groups::Plain);
        assert_eq!(known.groups(), Some(Groups::Plain));
        known.no_groups();
        assert_eq!(known.groups(), Some(Groups::No));
        known.found(&caps(&[Verb::DeleteMany, Verb::DeleteManyConditional]), false);
        assert_eq!(known.groups(), Some(Groups::Conditional));
        known.no_groups();
        assert_eq!(known.groups(), Some(Groups::No));
        known.found(&caps(&[]), false);
        assert_eq!(known.groups(), Some(Groups::No));
    }

    #[test]
    fn an_old_finding_is_a_guess() {
        let known = of(&Known::default());
        known.guess(&caps(&[Verb::UnquotedEtag]));
        assert!(known.is_bare() && known.current().is_none());
        let mut found = known.found(&caps(&[Verb::PutIfMatch]), false);
        known.guess(&caps(&[Verb::UnquotedEtag]));
        assert_eq!(known.current(), Some(found.clone()), "a guess replaces nothing");
        found.found_at -= BELIEVED;
        assert!(!found.is_current());
        known.heard(&found);
        assert!(known.current().is_some(), "nor does what is older");
        found.found_at += 2 * BELIEVED - 60;
        known.heard(&found);
        assert_eq!(known.current(), Some(found.clone()));
        found.probe += 1;
        assert!(!found.is_current(), "another probe judges otherwise");
        found.probe = STILL_RIGHT;
        assert!(found.is_current(), "an older one that judged the same");
        found.probe -= 1;
        assert!(!found.is_current());
        let mut found = known.found(&caps(&[]), true);
        assert!(found.is_current());
        found.found_at -= BELIEVED_IN_DOUBT;
        assert!(!found.is_current(), "a store that was not well is asked again before long");
    }

    #[test]
    fn what_a_request_showed_counts_and_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let open = || of(&Known::of_host(dir.path()));
        let known = open();
        known.spelled(true);
        assert!(open().is_bare(), "also where nothing was known");
        known.found(&caps(&[Verb::PutIfMatch]), false);
        known.spelled(true);
        assert!(open().is_bare() && open().current().unwrap().capabilities.has(Verb::PutIfMatch));
        known.spelled(false);
        assert!(!open().is_bare());
        known.contradicted();
        assert!(open().current().is_none() && !open().is_empty());
    }
}
