//! What a worker that makes place finds out for its successor while it still serves.
//!
//! A file in the volume's state folder, for the one opening that comes next. It saves that one rounds, and decides nothing:
//! which manifest is the newest is asked all the same, and the trial of the store counts for [`COUNTS`] after it was made,
//! as that of an opening that takes so long does.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Shared;
use super::trial::honoured;
use crate::clock::boottime;
use crate::meta::Newest;
use crate::store::Capabilities;
use crate::worker::WorkerError;
use crate::worker::format::Format;
use crate::worker::places::places;

const FILE: &str = "parting";
/// A worker ends within this time after it found that out, or is killed.
const COUNTS: Duration = Duration::from_secs(30);
/// What the engine knows takes no time, unless it is being opened again: the note is worth no wait.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::worker) struct Parting {
    /// When it was found out: the boot and its time.
    boot: String,
    at: Duration,
    /// The engine's folder, and what was newest in it.
    folder: String,
    newest: Newest,
    /// What the store was tried for, and still honours.
    tried: Option<Capabilities>,
}

impl Parting {
    /// Asks for what takes requests. Whoever serves goes on meanwhile.
    pub async fn prepare(shared: &Shared) -> Result<Self, WorkerError> {
        let spec = &shared.spec;
        let boot = boot()?;
        let at = boottime();
        let places = places(spec.id, &spec.options, &spec.known())?;
        let (known, _) = Format::of(&places, spec.id).open(&places).await?;
        let honoured = honoured(&places, &known).await;
        let newest = Newest::of(&shared.volume.meta.engine).await?;
        let folder = known.engine.folder;
        Ok(Parting {
            boot,
            at,
            folder,
            newest,
            tried: honoured.then_some(known.state_capabilities),
        })
    }

    /// For the successor. What came since it was prepared is in it.
    pub async fn leave(mut self, shared: &Shared) -> Result<(), WorkerError> {
        let newest = tokio::time::timeout(LOOK, Newest::of(&shared.volume.meta.engine)).await;
        self.newest = newest.map_err(|_| WorkerError::Stalled(LOOK))??;
        self.write(&shared.spec.state_dir)
    }

    fn write(&self, state_dir: &Path) -> Result<(), WorkerError> {
        let path = path(state_dir);
        let bytes = serde_json::to_vec(self).map_err(std::io::Error::other);
        let written = bytes.and_then(|bytes| std::fs::write(&path, bytes));
        written.map_err(WorkerError::local(format!("the note for a successor {}", path.display())))
    }

    /// What was left here just now, once.
    pub fn take(state_dir: &Path) -> Option<Self> {
        let path = path(state_dir);
        let bytes = std::fs::read(&path).ok()?;
        // One that stays counts for no longer.
        let _ = std::fs::remove_file(path);
        // On a full disk it may be cut short.
        let left: Parting = serde_json::from_slice(&bytes).ok()?;
        let counts = boot().is_ok_and(|boot| boot == left.boot)
            && boottime().checked_sub(left.at).is_some_and(|age| age <= COUNTS);
        counts.then_some(left)
    }

    /// What is likely to be the newest in `folder`.
    pub fn newest(&self, folder: &str) -> Option<Newest> {
        (self.folder == folder).then_some(self.newest)
    }

    /// Whether the store was tried for just that.
    pub fn tried(&self, honours: &Capabilities) -> bool {
        self.tried.as_ref() == Some(honours)
    }
}

fn boot() -> Result<String, WorkerError> {
    crate::sys::boot_id().map_err(WorkerError::local("the boot id".to_owned()))
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join(FILE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Verb;

    fn left(at: Duration) -> Parting {
        Parting {
            boot: boot().unwrap(),
            at,
            folder: "meta/a".to_owned(),
            newest: Newest { manifest: 7, log_after: 20 },
            tried: Some(Capabilities([Verb::PutIfMatch].into())),
        }
    }

    #[test]
    fn what_was_left_counts_once_and_only_for_a_while_and_for_this_boot() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Parting::take(dir.path()), None);
        let now = left(boottime());
        now.write(dir.path()).unwrap();
        assert_eq!(Parting::take(dir.path()), Some(now.clone()));
        assert_eq!(Parting::take(dir.path()), None, "once");
        let old = left(boottime().saturating_sub(COUNTS + Duration::from_secs(1)));
        let ahead = left(boottime() + COUNTS);
        let other = Parting { boot: "another".to_owned(), ..now };
        for void in [old, ahead, other] {
            void.write(dir.path()).unwrap();
            assert_eq!(Parting::take(dir.path()), None, "{void:?}");
        }
        std::fs::write(path(dir.path()), "cut").unwrap();
        assert_eq!(Parting::take(dir.path()), None);
    }

    #[test]
    fn it_tells_of_one_folder_and_of_just_what_was_tried() {
        let left = left(boottime());
        assert_eq!(left.newest("meta/a"), Some(Newest { manifest: 7, log_after: 20 }));
        assert_eq!(left.newest("meta/b"), None);
        assert!(left.tried(&Capabilities([Verb::PutIfMatch].into())));
        let more = Capabilities([Verb::PutIfMatch, Verb::CreateIfAbsent].into());
        assert!(!left.tried(&more) && !left.tried(&Capabilities::default()));
        assert!(!Parting { tried: None, ..left }.tried(&Capabilities::default()));
    }
}
