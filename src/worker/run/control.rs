//! The worker's control socket.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use tokio::net::UnixListener;
use tokio::sync::{Notify, watch};

use super::followed::Followed;
use crate::config::VolumeOptions;
use crate::metrics::Group;
use crate::worker::about::{SPOKEN_HEADER, WORKER_PROTOCOL};
use crate::worker::events::{EventPage, Events, Since};
use crate::worker::leave::Ending;
use crate::worker::life::Shared;
use crate::worker::{
    Asked, DrainReply, SettleReply, VolumeState, WorkerError, WorkerSpec, WorkerStatus,
};

/// How far the worker has come, for whoever asks.
#[derive(Debug, Clone)]
pub(super) enum Stage {
    Opening,
    Serving(Served),
    Failed(String),
    /// Another host has the volume; the text names it.
    Held(String),
    /// Its place has another state by now.
    Rebuilt(String),
}

/// What is served.
#[derive(Debug, Clone)]
pub(super) enum Served {
    Writing(Arc<Shared>),
    Following(Arc<Followed>),
}

impl Served {
    async fn status(&self) -> WorkerStatus {
        match self {
            Served::Writing(shared) => shared.status().await,
            Served::Following(followed) => followed.status().await,
        }
    }

    async fn drain(&self, asked: u64) -> DrainReply {
        match self {
            Served::Writing(shared) => shared.drain(asked).await,
            Served::Following(followed) => followed.drain(asked),
        }
    }

    /// Why it is of no use to anybody any more, and what to do.
    fn gave_up(&self) -> Option<String> {
        let Served::Writing(shared) = self else { return None };
        let why = match shared.state() {
            VolumeState::Fenced => "another host has taken the volume".to_owned(),
            VolumeState::Damaged => shared.volume.last_error().unwrap_or_else(|| {
                "the volume's state in the bucket is missing or damaged".to_owned()
            }),
            _ => return None,
        };
        Some(format!(
            "{why}; stop the containers of this host that use the volume, then it can be mounted again"
        ))
    }

    /// `None` where there is never anything to settle.
    async fn settle(&self) -> Option<SettleReply> {
        match self {
            Served::Writing(shared) => Some(shared.settle_slice().await),
            Served::Following(_) => None,
        }
    }

    /// Takes over what takes effect at once. Of that there is nothing for who only reads.
    fn tune(&self, options: &VolumeOptions) {
        match self {
            Served::Writing(shared) => shared.tune(options),
            Served::Following(_) => {}
        }
    }

    /// Whether it can be used again.
    async fn resume(&self, asked: u64) -> bool {
        match self {
            Served::Writing(shared) => shared.resume(asked).await,
            Served::Following(followed) => followed.resume(asked),
        }
    }
}

/// What the socket's handlers need.
#[derive(Debug, Clone)]
pub(super) struct Control {
    pub spec: Arc<WorkerSpec>,
    pub stage: watch::Receiver<Stage>,
    pub exit: Arc<Notify>,
    pub ending: Ending,
    pub events: Events,
}

/// What whoever runs a worker hears by its socket, and tells by it.
pub(super) struct Heard {
    pub stage: watch::Sender<Stage>,
    pub exit: Arc<Notify>,
    pub ending: Ending,
    pub events: Events,
}

/// Listens at the volume's socket, as one that opens it, and serves in the background until the process ends. The caller
/// has the lock of the volume's state folder: what lies there is of a process that has ended.
pub(super) fn listen(spec: &WorkerSpec) -> Result<Heard, WorkerError> {
    let (stage, stage_seen) = watch::channel(Stage::Opening);
    let (exit, ending, events) = (Arc::default(), Ending::default(), Events::default());
    let heard = Heard { stage, exit, ending, events };
    let control = Control {
        spec: Arc::new(spec.clone()),
        stage: stage_seen,
        exit: Arc::clone(&heard.exit),
        ending: heard.ending.clone(),
        events: heard.events.clone(),
    };
    listen_at(&spec.control_socket, control)?;
    Ok(heard)
}

fn listen_at(path: &Path, control: Control) -> Result<(), WorkerError> {
    let what = || format!("the control socket {}", path.display());
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(WorkerError::local(what()))?;
    }
    crate::sys::remove_if_there(path).map_err(WorkerError::local(what()))?;
    let _begins_now = crate::worker::about::started();
    let listener = UnixListener::bind(path).map_err(WorkerError::local(what()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .map_err(WorkerError::local(what()))?;
    let router = Router::new()
        .route("/status", get(status))
        .route("/ready", get(ready))
        .route("/drain", post(drain))
        .route("/resume", post(resume))
        .route("/exit", post(exit))
        .route("/leave", post(leave))
        .route("/settle", post(settle))
        .route("/tune", post(tune))
        .route("/metrics", get(metrics))
        .route("/samples", get(samples))
        .route("/events", get(events))
        .layer(axum::middleware::from_fn(spoken))
        .with_state(control);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the control socket ended");
        }
    });
    Ok(())
}

impl Control {
    /// As long as nothing is served.
    pub(super) fn state_unserved(&self) -> VolumeState {
        match &*self.stage.borrow() {
            Stage::Failed(_) | Stage::Held(_) | Stage::Rebuilt(_) => VolumeState::Failed,
            Stage::Opening | Stage::Serving(_) => VolumeState::Opening,
        }
    }

    pub(super) fn serving(&self) -> Option<Served> {
        match &*self.stage.borrow() {
            Stage::Serving(served) => Some(served.clone()),
            Stage::Opening | Stage::Failed(_) | Stage::Held(_) | Stage::Rebuilt(_) => None,
        }
    }
}

/// Says what this worker speaks, and refuses whoever speaks nothing of it.
async fn spoken(request: Request, next: Next) -> Response {
    let theirs = request.headers().get(SPOKEN_HEADER).map(|value| value.to_str().unwrap_or(""));
    let mut answer = match WORKER_PROTOCOL.agree_with_text("the plugin", theirs) {
        Ok(_) => next.run(request).await,
        Err(refused) => (StatusCode::UPGRADE_REQUIRED, refused).into_response(),
    };
    if let Ok(ours) = WORKER_PROTOCOL.to_string().parse() {
        answer.headers_mut().insert(SPOKEN_HEADER, ours);
    }
    answer
}

async fn status(State(control): State<Control>) -> Json<WorkerStatus> {
    if let Some(served) = control.serving() {
        return Json(served.status().await);
    }
    let failed = match &*control.stage.borrow() {
        Stage::Failed(text) | Stage::Held(text) | Stage::Rebuilt(text) => Some(text.clone()),
        Stage::Opening | Stage::Serving(_) => None,
    };
    Json(WorkerStatus {
        name: control.spec.name.clone(),
        id: control.spec.id,
        url: control.spec.options.url.clone(),
        state: control.state_unserved(),
        pid: std::process::id(),
        mountpoint: control.spec.mountpoint.clone(),
        epoch: None,
        holder: None,
        bytes: 0,
        files: 0,
        uncommitted_bytes: 0,
        unsettled_files: 0,
        unsettleable: Vec::new(),
        conflicts: 0,
        missing_rights: Vec::new(),
        deletions: String::new(),
        credentials: control.spec.credentials(),
        last_error: failed,
        requests: Default::default(),
    })
}

async fn ready(State(mut control): State<Control>) -> Response {
    loop {
        match &*control.stage.borrow_and_update() {
            Stage::Serving(served) => {
                return match served.gave_up() {
                    None => StatusCode::OK.into_response(),
                    Some(why) => (StatusCode::INTERNAL_SERVER_ERROR, why).into_response(),
                };
            }
            Stage::Failed(text) => {
                return (StatusCode::INTERNAL_SERVER_ERROR, text.clone()).into_response();
            }
            Stage::Held(text) => return (StatusCode::LOCKED, text.clone()).into_response(),
            Stage::Rebuilt(text) => return (StatusCode::GONE, text.clone()).into_response(),
            Stage::Opening => {}
        }
        if control.stage.changed().await.is_err() {
            return (StatusCode::INTERNAL_SERVER_ERROR, "the worker ends").into_response();
        }
    }
}

async fn drain(State(control): State<Control>, asked: Bytes) -> Response {
    let Some(served) = control.serving() else { return not_serving() };
    let asked = Asked::read(&asked);
    // Detached, so that a caller that gives up does not stop a commit half-way.
    match tokio::spawn(async move { served.drain(asked).await }).await {
        Ok(reply) => Json(reply).into_response(),
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()).into_response(),
    }
}

async fn resume(State(control): State<Control>, asked: Bytes) -> Response {
    let Some(served) = control.serving() else { return not_serving() };
    if served.resume(Asked::read(&asked)).await {
        StatusCode::OK.into_response()
    } else {
        control.exit.notify_one();
        (StatusCode::CONFLICT, "the volume is not held here any more").into_response()
    }
}

async fn exit(State(control): State<Control>) -> Response {
    control.exit.notify_one();
    StatusCode::OK.into_response()
}

async fn settle(State(control): State<Control>) -> Response {
    let Some(served) = control.serving() else { return not_serving() };
    // Detached, as a drain is.
    match tokio::spawn(async move { served.settle().await }).await {
        Ok(Some(reply)) => Json(reply).into_response(),
        Ok(None) => {
            (StatusCode::CONFLICT, "the volume is only read here; the host that writes it settles")
                .into_response()
        }
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()).into_response(),
    }
}

async fn tune(State(control): State<Control>, options: Bytes) -> Response {
    let Some(served) = control.serving() else { return not_serving() };
    match serde_json::from_slice(&options) {
        Ok(options) => {
            served.tune(&options);
            StatusCode::OK.into_response()
        }
        Err(error) => (StatusCode::BAD_REQUEST, format!("the options: {error}")).into_response(),
    }
}

async fn metrics(State(control): State<Control>) -> Response {
    let text = control.text().await;
    ([(header::CONTENT_TYPE, crate::metrics::CONTENT_TYPE)], text).into_response()
}

async fn samples(State(control): State<Control>) -> Json<Group> {
    Json(control.group().await)
}

async fn events(State(control): State<Control>, Query(since): Query<Since>) -> Json<EventPage> {
    Json(control.events.wait(since).await)
}

async fn leave(State(control): State<Control>) -> Response {
    let known = control.ending.is_asked();
    if control.ending.ask().await {
        // Whoever waits asks again and again.
        if !known {
            tracing::info!("another process of this host waits for the volume");
        }
        return StatusCode::OK.into_response();
    }
    (StatusCode::CONFLICT, "the volume is in use here").into_response()
}

fn not_serving() -> Response {
    (StatusCode::CONFLICT, "the volume is not served yet").into_response()
}
