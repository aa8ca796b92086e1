//! Another version of the program takes the place of the one that runs: what the driver does of it.
//!
//! It checks the program and puts a copy where only the plugin writes; the supervisor does the rest, which replaces this
//! driver, too. The driver that is there at the end notes what is to be used after a restart, now or when it starts.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::Driver;
use super::control::ControlClient;
use super::jobs::Answer;
use super::program::{self, ProgramError};
use super::workers::RunningProgram;
use crate::worker::{About, VolumeState};

/// For what a worker says of itself.
const ANSWER: Duration = Duration::from_secs(5);

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
        self.jobs.idle().await;
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
        match about.lacks(&About::this_program()) {
            lacks if lacks.is_empty() => Ok((path, about)),
            lacks => Err(ProgramError::Lacks { version: about.version, lacks }),
        }
    }

    /// What runs, and how far an upgrade is.
    pub(super) async fn program(self: Arc<Self>) -> Answer {
        let program = self.workers.program().await.map_err(|e| e.to_string())?;
        Ok(json!({ "Program": program, "Err": "" }))
    }

    /// Notes what became of upgrades, for ever.
    pub(super) async fn watch_upgrades(self: Arc<Self>) {
        let mut upgrades = self.workers.upgrades();
        loop {
            if let Ok(program) = self.workers.program().await {
                self.note(program).await;
            }
            if upgrades.changed().await.is_err() {
                return;
            }
        }
    }

    async fn note(self: &Arc<Self>, program: RunningProgram) {
        let _placing = self.placing.lock().await;
        let driver = Arc::clone(self);
        let noted = tokio::task::spawn_blocking(move || {
            driver.place.came_up()?;
            match program.upgrade {
                Some(upgrade) if upgrade.stage == "done" => {
                    driver.place.keep(&upgrade.file, &upgrade.to, &program.over)
                }
                Some(upgrade) if !upgrade.is_over() => Ok(()),
                _ => driver.place.tidy(),
            }
        });
        if let Ok(Err(error)) = noted.await {
            tracing::error!(%error, "what program is used after a restart could not be noted");
        }
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
