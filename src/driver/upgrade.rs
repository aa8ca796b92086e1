//! Another version of the program takes the place of the one that runs: what the driver does of it.
//!
//! It checks the program and puts a copy where only the plugin writes; the supervisor does the rest, which replaces this
//! driver, too. The driver that is there at the end notes what is to be used after a restart, now or when it starts.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::Driver;
use super::control::ControlClient;
use super::jobs::{Answer, IDLE};
use super::program::{self, ProgramError};
use super::workers::RunningProgram;
use crate::worker::{About, VolumeState};

/// For what a worker says of itself.
const ANSWER: Duration = Duration::from_secs(5);
/// A note that could not be written is tried again: the disk may have room then.
const AGAIN: Duration = Duration::from_secs(10);

const DONE: &str = "done";
/// The program of this process.
const OWN: &str = "/proc/self/exe";
/// An upgrade that is done as far as the supervisor knows, and of which nothing is noted yet: whoever waits for its end
/// waits on.
const NOTING: &str = "noting";

/// What program a restart uses: the last that was noted, or why it could not be.
pub(super) type Noted = Option<(PathBuf, Result<(), String>)>;

impl Driver {
    /// Answers when the upgrade has begun; [`Driver::program`] says how far it is.
    pub(super) async fn upgrade(self: Arc<Self>, file: PathBuf) -> Answer {
        let placing = Arc::clone(&self);
        let _placing = placing.placing.lock().await;
        let begun = self.workers.program().await.map_err(|e| e.to_string())?;
        if let Some(upgrade) = begun.upgrade.filter(|upgrade| !upgrade.is_over()) {
            return Err(format!(
                "an upgrade to version {} is under way; wait for its end (`s3vol upgrade --status`)",
                upgrade.to
            ));
        }
        match self.begin_upgrade(file).await {
            Ok(to) => Ok(json!({ "From": begun.version, "To": to, "Err": "" })),
            Err(refused) => {
                self.tidy().await;
                Err(refused)
            }
        }
    }

    /// Checks everything, and tells the supervisor to begin. Returns the version of the new program.
    async fn begin_upgrade(self: &Arc<Self>, file: PathBuf) -> Result<String, String> {
        let driver = Arc::clone(self);
        let checked = tokio::task::spawn_blocking(move || driver.check(file)).await;
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
    fn check(&self, file: PathBuf) -> Result<(PathBuf, About), ProgramError> {
        let mut program = program::open(&file, &self.settings.mounts)?;
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
        Ok((path, about))
    }

    /// What runs, and how far an upgrade is.
    pub(super) async fn program(self: Arc<Self>) -> Answer {
        let mut program = self.workers.program().await.map_err(|e| e.to_string())?;
        if let Some(upgrade) = program.upgrade.as_mut().filter(|upgrade| upgrade.stage == DONE) {
            // Not before a crash of the host leads to the same program.
            match &*self.noted.lock() {
                Some((file, Ok(()))) if *file == upgrade.file => {}
                Some((file, Err(why))) if *file == upgrade.file => upgrade.why = Some(why.clone()),
                _ => upgrade.stage = NOTING.to_owned(),
            }
        }
        Ok(json!({ "Program": program, "Err": "" }))
    }

    /// Notes what became of upgrades, for ever.
    pub(super) async fn watch_upgrades(self: Arc<Self>) {
        let mut upgrades = self.workers.upgrades();
        loop {
            let noted = match self.workers.program().await {
                Ok(program) => self.note(program).await,
                Err(_) => false,
            };
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

    /// Whether that is noted.
    async fn note(self: &Arc<Self>, program: RunningProgram) -> bool {
        let _placing = self.placing.lock().await;
        let driver = Arc::clone(self);
        let done = program.upgrade.as_ref().filter(|upgrade| upgrade.stage == DONE);
        let file = done.map(|upgrade| upgrade.file.clone());
        let noted = tokio::task::spawn_blocking(move || {
            driver.place.came_up(Path::new(OWN))?;
            match program.upgrade {
                Some(upgrade) if upgrade.stage == DONE => {
                    driver.place.keep(&upgrade.file, &upgrade.to, &program.over)
                }
                Some(upgrade) if !upgrade.is_over() => Ok(()),
                _ => driver.place.tidy(),
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

    async fn tidy(self: &Arc<Self>) {
        let driver = Arc::clone(self);
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || driver.place.tidy()).await {
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
