//! Another version of the program takes the place of the one that runs: what the driver does of it.
//!
//! It checks the program and puts a copy where only the plugin writes; the supervisor does the rest, which replaces this
//! driver, too. The driver that is there at the end notes what is to be used after a restart, now or when it starts.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::Driver;
use super::control::ControlClient;
use super::jobs::{Answer, IDLE};
use super::newer::OWN;
use super::program::{self, ProgramError};
use super::workers::RunningProgram;
use crate::worker::{About, VolumeState};

/// For what a worker says of itself.
const ANSWER: Duration = Duration::from_secs(5);
/// For opening a program's file.
const OPENS: Duration = Duration::from_secs(10);
/// A note that could not be written is tried again: the disk may have room then.
const AGAIN: Duration = Duration::from_secs(10);

/// An upgrade that is done as far as the supervisor knows, and of which nothing is noted yet: whoever waits for its end
/// waits on.
const NOTING: &str = "noting";

/// What program a restart uses: the last that was noted, or why it could not be.
pub(super) type Noted = Option<(PathBuf, Result<(), String>)>;

impl Driver {
    /// Answers when the upgrade has begun; [`Driver::program`] says how far it is.
    pub(super) async fn upgrade(self: Arc<Self>, file: PathBuf) -> Answer {
        let program = self.opened(&file).await?;
        let placing = Arc::clone(&self);
        let _placing = placing.placing.lock().await;
        let begun = self.workers.program().await.map_err(|e| e.to_string())?;
        if let Some(upgrade) = begun.upgrade.as_ref().filter(|upgrade| !upgrade.is_over()) {
            return Err(format!(
                "an upgrade to version {} is under way; wait for its end (`s3vol upgrade --status`)",
                upgrade.to
            ));
        }
        // The one before is noted first: what runs has to be the program of a restart if this one fails.
        let (from, over) = (begun.version.clone(), begun.over.clone());
        if !self.is_noted(&begun) && !self.note_placing(begun).await {
            return Err(
                "the last upgrade is not noted yet, so a restart would use another program than the one that runs; \
                 `s3vol upgrade --status` says why"
                    .to_owned(),
            );
        }
        match self.begin_upgrade(program, file, over).await {
            Ok(to) => Ok(json!({ "From": from, "To": to, "Err": "" })),
            Err(refused) => {
                self.tidy().await;
                Err(refused)
            }
        }
    }

    /// Opens the program, which may lie where nothing answers. Not on a thread that anybody waits for.
    async fn opened(&self, file: &Path) -> Result<File, String> {
        let (tell, told) = tokio::sync::oneshot::channel();
        let (path, mounts) = (file.to_owned(), self.settings.mounts.clone());
        let opens = std::thread::Builder::new().name("program".to_owned()).spawn(move || {
            // Nobody may wait for it any more.
            let _ = tell.send(program::open(&path, &mounts));
        });
        opens.map_err(|error| ProgramError::unreadable(file, error).to_string())?;
        match tokio::time::timeout(OPENS, told).await {
            Ok(Ok(opened)) => opened.map_err(|e| e.to_string()),
            Ok(Err(_)) | Err(_) => {
                let late = std::io::Error::other(format!(
                    "its file system does not answer within {} s",
                    OPENS.as_secs()
                ));
                Err(ProgramError::unreadable(file, late).to_string())
            }
        }
    }

    /// Checks everything, and tells the supervisor to begin. Returns the version of the new program.
    async fn begin_upgrade(
        self: &Arc<Self>,
        program: File,
        file: PathBuf,
        over: String,
    ) -> Result<String, String> {
        let driver = Arc::clone(self);
        let checked = tokio::task::spawn_blocking(move || driver.check(program, file, &over)).await;
        let checked = checked.map_err(|e| e.to_string())?;
        let (path, about) = checked.map_err(|e| e.to_string())?;
        self.all_in_order().await?;
        // Whoever mounts just now would have to ask again.
        if tokio::time::timeout(IDLE, self.jobs.idle()).await.is_err() {
            return Err(format!(
                "mounts or unmounts were under way for {} s, one after the other; try again when there are fewer",
                IDLE.as_secs()
            ));
        }
        // That may have taken a while, and what was mounted meanwhile was not looked at.
        self.all_in_order().await?;
        self.workers.upgrade(&path, &about.version).await.map_err(|e| e.to_string())?;
        Ok(about.version)
    }

    /// A process that serves goes on while its bucket is away; one that is to open the volume waits for it.
    async fn all_in_order(&self) -> Result<(), String> {
        let running = self.workers.running().await.map_err(|e| e.to_string())?;
        let looks = running.into_iter().map(|worker| async move {
            let client = ControlClient::new(&worker.spec.control_socket);
            (worker.name, client.status(ANSWER).await)
        });
        for (name, status) in futures::future::join_all(looks).await {
            let status = status.map_err(|error| format!("volume {name}: {error}"))?;
            in_order(&name, status.state, status.last_error.as_deref())?;
        }
        Ok(())
    }

    /// Checks the program, and what its copy says of itself.
    fn check(
        &self,
        mut program: File,
        file: PathBuf,
        over: &str,
    ) -> Result<(PathBuf, About), ProgramError> {
        let failed = |source| ProgramError::Place { place: self.place.path().to_owned(), source };
        let path = self.place.receive(&mut program).map_err(failed)?;
        let about = program::ask(&path, &file)?;
        let this = About::this_program();
        let lacks = about.lacks(&this);
        if !lacks.is_empty() {
            return Err(ProgramError::Lacks { version: about.version, lacks });
        }
        let leaves = this.lacks_after(&about);
        if !leaves.is_empty() {
            return Err(ProgramError::NoWayBack { version: about.version, leaves });
        }
        if let Some(installed) = self.place.about_installed(over, &this).map_err(failed)? {
            let leaves = installed.lacks_after(&about);
            if !leaves.is_empty() {
                let (version, installed) = (about.version, installed.version);
                return Err(ProgramError::NoRestart { version, installed, leaves });
            }
        }
        Ok((path, about))
    }

    /// What runs, and how far an upgrade is.
    pub(super) async fn program(self: Arc<Self>) -> Answer {
        let mut program = self.workers.program().await.map_err(|e| e.to_string())?;
        if let Some(upgrade) = program.upgrade.as_mut().filter(|upgrade| upgrade.is_done()) {
            // Not before a crash of the host leads to the same program.
            match &*self.noted.lock() {
                Some((file, Ok(()))) if *file == upgrade.file => {}
                Some((file, Err(why))) if *file == upgrade.file => upgrade.why = Some(why.clone()),
                _ => upgrade.stage = NOTING.to_owned(),
            }
        }
        Ok(json!({ "Program": program, "Err": "" }))
    }

    /// From when the driver serves: notes that this program has come up, and what became of upgrades.
    pub fn watch(self: &Arc<Self>) {
        tokio::spawn(Arc::clone(self).watch_upgrades());
    }

    /// Notes what became of upgrades, for ever.
    async fn watch_upgrades(self: Arc<Self>) {
        let mut upgrades = self.workers.upgrades();
        loop {
            let noted = self.note().await;
            let again = async {
                match noted {
                    true => std::future::pending().await,
                    false => tokio::time::sleep(AGAIN).await,
                }
            };
            tokio::select! {
                changed = upgrades.changed() => if changed.is_err() { return },
                () = again => {}
            }
        }
    }

    /// Whether it is noted what became of the last upgrade.
    async fn note(self: &Arc<Self>) -> bool {
        let _placing = self.placing.lock().await;
        // Not what was true before somebody else had the place.
        match self.workers.program().await {
            Ok(program) => self.note_placing(program).await,
            Err(_) => false,
        }
    }

    /// Whether what `program` says of an upgrade needs no note, or has one.
    fn is_noted(&self, program: &RunningProgram) -> bool {
        let done = program.upgrade.as_ref().filter(|upgrade| upgrade.is_done());
        done.is_none_or(
            |upgrade| matches!(&*self.noted.lock(), Some((file, Ok(()))) if *file == upgrade.file),
        )
    }

    /// The same for whoever has the place.
    async fn note_placing(self: &Arc<Self>, program: RunningProgram) -> bool {
        let driver = Arc::clone(self);
        let done = program.upgrade.as_ref().filter(|upgrade| upgrade.is_done());
        let file = done.map(|upgrade| upgrade.file.clone());
        let noted = tokio::task::spawn_blocking(move || {
            driver.place.came_up(Path::new(OWN))?;
            match program.upgrade {
                Some(upgrade) if upgrade.is_done() => {
                    driver.place.keep(&upgrade.file, &upgrade.to, &program.over)
                }
                Some(upgrade) if !upgrade.is_over() => Ok(()),
                _ => driver.place.tidy(&[]),
            }
        });
        let noted = noted.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        if let Err(error) = &noted {
            tracing::error!(%error, "what program is used after a restart could not be noted");
        }
        let well = noted.is_ok();
        if let Some(file) = file {
            *self.noted.lock() = Some((file, noted.map_err(|error| error.to_string())));
        }
        well
    }

    /// After an upgrade that did not begin. Leaves all where nobody says what is in use.
    async fn tidy(self: &Arc<Self>) {
        let Ok(program) = self.workers.program().await else { return };
        let driver = Arc::clone(self);
        let tidied = tokio::task::spawn_blocking(move || {
            let used = program.upgrade.filter(|upgrade| !upgrade.is_over() || upgrade.is_done());
            let used: Vec<&Path> = used.iter().map(|upgrade| upgrade.file.as_path()).collect();
            driver.place.tidy(&used)
        });
        if let Ok(Err(error)) = tidied.await {
            tracing::warn!(%error, "a program that is not used is left");
        }
    }
}

fn in_order(name: &str, state: VolumeState, error: Option<&str>) -> Result<(), String> {
    match state {
        VolumeState::Degraded | VolumeState::Reopening | VolumeState::Opening => Err(format!(
            "volume {name} does not reach its bucket now{}; upgrade when it does, so that nobody has to wait",
            error.map(|error| format!(" ({error})")).unwrap_or_default()
        )),
        // What is lost, or ends, has nothing to lose.
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_without_its_bucket_keeps_the_process_that_serves_it() {
        in_order("v", VolumeState::Active, Some("of yesterday")).unwrap();
        in_order("v", VolumeState::Fenced, None).unwrap();
        let refused = in_order("v", VolumeState::Degraded, Some("no connection")).unwrap_err();
        assert!(refused.contains("volume v does not reach its bucket now (no connection)"));
        assert!(refused.contains("upgrade when it does"), "{refused}");
        in_order("v", VolumeState::Opening, None).unwrap_err();
    }
}
