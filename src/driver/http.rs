//! The plugin socket: HTTP/1.1, `POST /VolumeDriver.X`, JSON of any Content-Type or none.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::{Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get as get_of, post};
use axum::{Extension, Json, Router};
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use tokio::net::UnixListener;

use super::Driver;
use super::answers::{
    CreateRequest, MountRequest, NameRequest, TakeOverRequest, UpgradeRequest, request, volume,
};
use super::caller::{Caller, Connection};
use super::jobs::{Answer, guarded};
use super::measure::{metrics, samples};
use crate::types::VolumeName;
use crate::worker::{EventPage, Since};

const CONTENT_TYPE: &str = "application/vnd.docker.plugins.v1.2+json";
/// No request of dockerd comes near.
const LONGEST_REQUEST: usize = 1 << 20;
/// After an accept that failed, usually for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the plugin socket until the process ends.
pub async fn serve(listener: UnixListener, driver: Arc<Driver>) {
    let router = router(Arc::clone(&driver));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::error!(%error, "the plugin socket accepts no connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let connected = match Connection::of(&stream) {
            Ok(connected) => connected,
            Err(error) => {
                tracing::error!(%error, "the plugin socket serves no connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let calls = TowerToHyperService::new(router.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(connected.caller());
            calls.call(request)
        });
        // A connection that is closed while dockerd writes to it makes dockerd repeat the request
        // with an empty body, so an idle one stays open: no timeouts.
        let mut http = hyper::server::conn::http1::Builder::new();
        http.keep_alive(true).header_read_timeout(None);
        let connection = http.serve_connection(TokioIo::new(stream), service);
        let rests = driver.rest.begun.clone();
        driver.rest.open.spawn(async move {
            let mut connection = std::pin::pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = rests.cancelled() => {
                    // What was asked is still answered.
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection of the plugin socket ended");
            }
        });
    }
}

fn router(driver: Arc<Driver>) -> Router {
    Router::new()
        .route("/Plugin.Activate", post(activate))
        .route("/VolumeDriver.Capabilities", post(capabilities))
        .route("/VolumeDriver.Create", post(create))
        .route("/VolumeDriver.Get", post(get))
        .route("/VolumeDriver.List", post(list))
        .route("/VolumeDriver.Path", post(path))
        .route("/VolumeDriver.Mount", post(mount))
        .route("/VolumeDriver.Unmount", post(unmount))
        .route("/VolumeDriver.Remove", post(remove))
        .route("/S3vol.Settle", post(settle))
        .route("/S3vol.TakeOver", post(take_over))
        .route("/S3vol.Set", post(set))
        .route("/S3vol.Credentials", post(credentials))
        .route("/S3vol.CheckCredentials", post(check_credentials))
        .route("/S3vol.Upgrade", post(upgrade))
        .route("/S3vol.Program", post(program))
        .route("/S3vol.Samples", get_of(samples))
        .route("/metrics", get_of(metrics))
        .route("/events", get_of(events))
        .fallback(unknown)
        .layer(DefaultBodyLimit::max(LONGEST_REQUEST))
        .with_state(driver)
}

// The body is read although it says nothing: a connection that is closed before the caller has written it
// all breaks the call.
async fn activate(_body: Bytes) -> Response {
    reply(Ok(json!({ "Implements": ["VolumeDriver"] })))
}

async fn capabilities(_body: Bytes) -> Response {
    reply(Ok(json!({ "Capabilities": { "Scope": "global" } })))
}

async fn list(State(driver): State<Arc<Driver>>) -> Response {
    reply(guarded(async move { driver.list() }).await)
}

async fn get(State(driver): State<Arc<Driver>>, body: Bytes) -> Response {
    reply(
        guarded(async move {
            let name = volume(request::<NameRequest>(&body)?.name)?;
            driver.get(&name).await
        })
        .await,
    )
}

async fn path(State(driver): State<Arc<Driver>>, body: Bytes) -> Response {
    reply(guarded(async move { driver.path(&volume(request::<NameRequest>(&body)?.name)?) }).await)
}

// The four below are not wrapped in a task here: the work has one of its own.

async fn create(
    State(driver): State<Arc<Driver>>,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Response {
    reply(match create_request(&body) {
        Ok((name, options)) => driver.create(name, options, caller).await,
        Err(error) => Err(error),
    })
}

async fn mount(
    State(driver): State<Arc<Driver>>,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Response {
    reply(match mount_request(&body) {
        Ok((name, id)) => driver.mount(name, id, caller).await,
        Err(error) => Err(error),
    })
}

async fn unmount(
    State(driver): State<Arc<Driver>>,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Response {
    reply(match mount_request(&body) {
        Ok((name, id)) => driver.unmount(name, id, caller).await,
        Err(error) => Err(error),
    })
}

async fn remove(
    State(driver): State<Arc<Driver>>,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Response {
    let asked = request::<NameRequest>(&body).and_then(|r| volume(r.name));
    reply(match asked {
        Ok(name) => driver.remove(name, caller).await,
        Err(error) => Err(error),
    })
}

// Those that follow are no calls of Docker's: `s3vol settle`, `s3vol takeover`, `s3vol set` and `s3vol upgrade` make them.

async fn settle(State(driver): State<Arc<Driver>>, body: Bytes) -> Response {
    let asked = request::<NameRequest>(&body).and_then(|r| volume(r.name));
    reply(guarded(async move { driver.settle(&asked?).await }).await)
}

async fn take_over(State(driver): State<Arc<Driver>>, body: Bytes) -> Response {
    let asked = request::<TakeOverRequest>(&body).and_then(|r| Ok((volume(r.name)?, r.epoch)));
    reply(
        guarded(async move {
            let (name, epoch) = asked?;
            driver.take_over(&name, epoch).await
        })
        .await,
    )
}

async fn set(State(driver): State<Arc<Driver>>, body: Bytes) -> Response {
    reply(
        guarded(async move {
            let (name, options) = create_request(&body)?;
            driver.set(&name, options).await
        })
        .await,
    )
}

async fn credentials(State(driver): State<Arc<Driver>>, _body: Bytes) -> Response {
    reply(guarded(async move { driver.credentials() }).await)
}

async fn check_credentials(State(driver): State<Arc<Driver>>, body: Bytes) -> Response {
    reply(guarded(async move { driver.check_credentials(&request(&body)?).await }).await)
}

async fn upgrade(State(driver): State<Arc<Driver>>, body: Bytes) -> Response {
    let asked = request::<UpgradeRequest>(&body);
    reply(guarded(async move { driver.upgrade(asked?.file).await }).await)
}

async fn program(State(driver): State<Arc<Driver>>, _body: Bytes) -> Response {
    reply(guarded(async move { driver.program().await }).await)
}

// And these are for whoever watches.

async fn events(State(driver): State<Arc<Driver>>, Query(since): Query<Since>) -> Json<EventPage> {
    Json(driver.events.wait(since).await)
}

async fn unknown() -> Response {
    let body = json!({ "Err": "there is no such call" });
    (StatusCode::NOT_FOUND, [(header::CONTENT_TYPE, CONTENT_TYPE)], body.to_string())
        .into_response()
}

fn create_request(body: &[u8]) -> Result<(VolumeName, BTreeMap<String, String>), String> {
    let asked = request::<CreateRequest>(body)?;
    Ok((volume(asked.name)?, asked.opts.unwrap_or_default()))
}

fn mount_request(body: &[u8]) -> Result<(VolumeName, String), String> {
    let asked = request::<MountRequest>(body)?;
    Ok((volume(asked.name)?, asked.id))
}

/// Podman looks at the status only, dockerd at both.
fn reply(answer: Answer) -> Response {
    let (status, body) = match answer {
        Ok(body) => (StatusCode::OK, body),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, json!({ "Err": error })),
    };
    (status, [(header::CONTENT_TYPE, CONTENT_TYPE)], body.to_string()).into_response()
}
