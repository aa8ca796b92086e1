//! The metrics of all volumes: gathered from their processes, served as one text.
//!
//! Every process is asked at the same time and given [`ANSWER`], so one that hangs or is dead costs a scrape no more
//! than that, and shows as `s3vol_up` 0. The supervisor's list tells whom to ask; the lanes are left alone, because
//! they are held while a worker is started or ended.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::Mutex as Turn;

use super::control::ControlClient;
use super::workers::RunningWorker;
use super::{Driver, Workers};
use crate::clock::boottime;
use crate::metrics::{CONTENT_TYPE, Group, Sample, names, text};
use crate::types::VolumeName;
use crate::worker::of_process;

/// A worker's time for its answer.
const ANSWER: Duration = Duration::from_secs(2);
/// The supervisor's; it answers at once.
const LIST: Duration = Duration::from_secs(1);
/// After an address that cannot be listened at, or an accept that failed.
const PAUSE: Duration = Duration::from_secs(10);

/// What was gathered last.
#[derive(Default)]
pub(super) struct Scrapes {
    /// With the boot time when that began.
    last: Turn<Option<(Duration, Arc<str>)>>,
    /// For when the supervisor does not answer.
    workers: Mutex<Vec<RunningWorker>>,
}

impl Scrapes {
    async fn workers(&self, workers: &dyn Workers) -> Vec<RunningWorker> {
        match tokio::time::timeout(LIST, workers.running()).await {
            Ok(Ok(running)) => {
                self.workers.lock().clone_from(&running);
                running
            }
            failed => {
                tracing::debug!(
                    ?failed,
                    "the supervisor does not name the workers; the last known are asked"
                );
                self.workers.lock().clone()
            }
        }
    }
}

impl Driver {
    /// All metrics as text, gathered after this was called. Several who wait for that get one answer.
    pub(super) async fn metrics(&self) -> Arc<str> {
        let asked = boottime();
        let mut last = self.scrapes.last.lock().await;
        if let Some((begun, text)) = &*last
            && *begun >= asked
        {
            return Arc::clone(text);
        }
        let begun = boottime();
        let text: Arc<str> = text(self.groups().await).into();
        *last = Some((begun, Arc::clone(&text)));
        text
    }

    /// The plugin's own samples, and those of each of its volumes.
    async fn groups(&self) -> Vec<Group> {
        let running = self.scrapes.workers(&*self.workers).await;
        let mut groups = vec![Group { volume: None, samples: of_process() }];
        let asked = running.iter().map(|worker| self.of_worker(worker));
        groups.extend(futures::future::join_all(asked).await);
        // A volume that containers use and that no process serves would show nothing at all.
        for name in self.accounts.mounted() {
            if groups.iter().all(|group| group.volume.as_deref() != Some(name.as_str())) {
                let mounts = self.accounts.total(&name);
                let samples = vec![
                    Sample::count(&names::UP, 0),
                    Sample::count(&names::MOUNTS, u64::from(mounts)),
                ];
                groups.push(Group { volume: Some(name.to_string()), samples });
            }
        }
        groups
    }

    async fn of_worker(&self, worker: &RunningWorker) -> Group {
        let client = ControlClient::new(&worker.spec.control_socket);
        let answer = client.group(ANSWER).await;
        if let Err(error) = &answer {
            tracing::debug!(volume = worker.name, %error, "no samples");
        }
        let mounts = VolumeName::new(&worker.name).map_or(0, |name| self.accounts.total(&name));
        let mut samples = vec![
            Sample::count(&names::UP, u64::from(answer.is_ok())),
            Sample::count(&names::RESTARTS, u64::from(worker.restarts)),
            Sample::count(&names::MOUNTS, u64::from(mounts)),
        ];
        samples.extend(answer.map(|group| group.samples).unwrap_or_default());
        Group { volume: Some(worker.name.clone()), samples }
    }
}

pub(super) async fn metrics(State(driver): State<Arc<Driver>>) -> Response {
    let text = driver.metrics().await;
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], text.to_string()).into_response()
}

pub(super) async fn samples(State(driver): State<Arc<Driver>>) -> Json<Vec<Group>> {
    Json(driver.groups().await)
}

/// Serves the metrics over TCP until the process ends. An address that is not this host's (yet), or taken, stops
/// nothing else: volumes come first.
pub async fn serve_metrics(address: SocketAddr, driver: Arc<Driver>) {
    let router = Router::new().route("/metrics", get(metrics)).with_state(driver);
    let mut said = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                tracing::info!(%address, "metrics are served");
                said = false;
                if let Err(error) = axum::serve(listener, router.clone()).await {
                    tracing::error!(%address, %error, "metrics are not served any more");
                }
            }
            Err(error) if !said => {
                said = true;
                tracing::error!(
                    %address, %error,
                    "metrics cannot be served there; it is tried again; see S3VOL_METRICS"
                );
            }
            Err(_) => {}
        }
        tokio::time::sleep(PAUSE).await;
    }
}
