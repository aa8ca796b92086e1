//! Workers without file systems: control sockets with the answers that a test wants.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use axum::Router;
use axum::http::StatusCode;
use axum::routing::{get, post};
use parking_lot::Mutex;
use s3vol::config::VolumeOptions;
use s3vol::driver::{RunningWorker, WorkerExit, Workers, WorkersError};
use s3vol::store::RequestCounts;
use s3vol::types::VolumeId;
use s3vol::worker::{DrainReply, VolumeState, WorkerSpec, WorkerStatus};
use tokio::net::UnixListener;
use tokio::sync::{broadcast, watch};

/// What all fake workers do.
pub struct Behaviour {
    /// `None`: not ready yet; `Err`: cannot be opened.
    pub ready: watch::Sender<Option<Result<(), String>>>,
    /// What cannot be opened is held by another host.
    pub held: AtomicBool,
    /// Drains wait while this is false.
    pub committed: watch::Sender<bool>,
    /// A drained worker can no longer be resumed.
    pub gone: AtomicBool,
    pub drains: AtomicU64,
    pub resumes: AtomicU64,
}

struct Fake {
    spec: WorkerSpec,
    server: tokio::task::JoinHandle<()>,
}

pub struct FakeWorkers {
    pub behaviour: Arc<Behaviour>,
    pub log: Mutex<Vec<String>>,
    running: Mutex<BTreeMap<String, Fake>>,
    exits: broadcast::Sender<WorkerExit>,
    instance: String,
    /// Tells of every entry of the log.
    pub changed: watch::Sender<u64>,
}

impl FakeWorkers {
    pub fn new(instance: &str) -> Arc<Self> {
        Arc::new(FakeWorkers {
            behaviour: Arc::new(Behaviour {
                ready: watch::Sender::new(Some(Ok(()))),
                held: AtomicBool::new(false),
                committed: watch::Sender::new(true),
                gone: AtomicBool::new(false),
                drains: AtomicU64::new(0),
                resumes: AtomicU64::new(0),
            }),
            log: Mutex::default(),
            running: Mutex::default(),
            exits: broadcast::Sender::new(16),
            instance: instance.to_owned(),
            changed: watch::Sender::new(0),
        })
    }

    fn note(&self, what: String) {
        self.log.lock().push(what);
        self.changed.send_modify(|n| *n += 1);
    }

    pub fn log(&self) -> Vec<String> {
        self.log.lock().clone()
    }

    /// Waits until the log holds `entry`.
    pub async fn logged(&self, entry: &str) {
        let mut changed = self.changed.subscribe();
        let seen = changed.wait_for(|_| self.log.lock().iter().any(|e| e == entry));
        tokio::time::timeout(std::time::Duration::from_secs(10), seen)
            .await
            .unwrap_or_else(|_| panic!("never happened: {entry}; {:?}", self.log()))
            .unwrap();
    }

    /// A worker dies, and its successor answers at once.
    pub fn succeed(&self, name: &str) {
        assert!(self.running.lock().contains_key(name));
        drop(self.exits.send(WorkerExit {
            name: name.to_owned(),
            code: 1,
            restarting: true,
            planned: false,
        }));
    }

    /// Ends a worker as a crash would.
    pub fn crash(&self, name: &str) {
        self.running.lock().remove(name).unwrap().server.abort();
        drop(self.exits.send(WorkerExit {
            name: name.to_owned(),
            code: 1,
            restarting: false,
            planned: false,
        }));
    }
}

impl FakeWorkers {
    /// Ends them all, as the end of the supervisor does.
    pub async fn die(&self) {
        let running = std::mem::take(&mut *self.running.lock());
        for fake in running.into_values() {
            fake.server.abort();
            drop(fake.server.await);
        }
    }
}

#[async_trait]
impl Workers for FakeWorkers {
    async fn start(&self, spec: WorkerSpec) -> Result<(), WorkersError> {
        if self.running.lock().contains_key(&spec.name) {
            return Err(WorkersError::Refused(format!("{} runs already", spec.name)));
        }
        let listener = UnixListener::bind(&spec.control_socket).unwrap();
        let router = router(&spec, Arc::clone(&self.behaviour));
        let server = tokio::spawn(async move {
            axum::serve(listener, router).await.unwrap();
        });
        let name = spec.name.clone();
        self.running.lock().insert(name.clone(), Fake { spec, server });
        self.note(format!("start {name}"));
        Ok(())
    }

    async fn stop(&self, name: &str) -> Result<(), WorkersError> {
        if let Some(fake) = self.running.lock().remove(name) {
            fake.server.abort();
        }
        self.note(format!("stop {name}"));
        Ok(())
    }

    async fn tune(&self, name: &str, options: &VolumeOptions) -> Result<(), WorkersError> {
        if let Some(fake) = self.running.lock().get_mut(name) {
            fake.spec.options.tune(options);
        }
        self.note(format!("tune {name}"));
        Ok(())
    }

    async fn running(&self) -> Result<Vec<RunningWorker>, WorkersError> {
        let running = self.running.lock();
        Ok(running
            .values()
            .map(|fake| RunningWorker {
                name: fake.spec.name.clone(),
                pid: Some(1),
                mountpoint: PathBuf::from(&fake.spec.mountpoint),
                restarts: 0,
                spec: fake.spec.clone(),
            })
            .collect())
    }

    fn instance(&self) -> String {
        self.instance.clone()
    }

    fn exits(&self) -> broadcast::Receiver<WorkerExit> {
        self.exits.subscribe()
    }
}

fn router(spec: &WorkerSpec, behaviour: Arc<Behaviour>) -> Router {
    let status = WorkerStatus {
        name: spec.name.clone(),
        id: spec.id,
        url: spec.options.url.clone(),
        mountpoint: spec.mountpoint.clone(),
        ..status()
    };
    let (b1, b2, b3) = (Arc::clone(&behaviour), Arc::clone(&behaviour), behaviour);
    Router::new()
        .route("/status", get(move || async move { serde_json::to_string(&status).unwrap() }))
        .route(
            "/ready",
            get(move || async move {
                let mut ready = b1.ready.subscribe();
                let told = ready.wait_for(Option::is_some).await.unwrap().clone().unwrap();
                match told {
                    Ok(()) => (StatusCode::OK, String::new()),
                    Err(error) if b1.held.load(Ordering::SeqCst) => (StatusCode::LOCKED, error),
                    Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error),
                }
            }),
        )
        .route(
            "/drain",
            post(move || async move {
                b2.drains.fetch_add(1, Ordering::SeqCst);
                let mut committed = b2.committed.subscribe();
                committed.wait_for(|c| *c).await.unwrap();
                serde_json::to_string(&DrainReply { committed: true, ..DrainReply::default() })
                    .unwrap()
            }),
        )
        .route(
            "/resume",
            post(move || async move {
                b3.resumes.fetch_add(1, Ordering::SeqCst);
                if b3.gone.load(Ordering::SeqCst) { StatusCode::CONFLICT } else { StatusCode::OK }
            }),
        )
}

/// What a worker says of itself.
pub fn status() -> WorkerStatus {
    WorkerStatus {
        name: "a volume".to_owned(),
        id: VolumeId::random(),
        url: "s3://b/volume/".to_owned(),
        state: VolumeState::Active,
        pid: 1,
        mountpoint: PathBuf::new(),
        epoch: Some(3),
        holder: Some("here (1)".to_owned()),
        bytes: 77,
        files: 2,
        uncommitted_bytes: 5,
        unsettled_files: 1,
        unsettleable: Vec::new(),
        conflicts: 0,
        missing_rights: Vec::new(),
        deletions: String::new(),
        credentials: None,
        last_error: None,
        requests: RequestCounts::default(),
    }
}
