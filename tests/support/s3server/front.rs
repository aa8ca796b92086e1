//! The HTTP side: takes connections, meets each request with the fault plan, logs it, and hands it
//! to `s3s`.
//!
//! A request is read to its end before anything happens to it, and is then handled by a task of its
//! own: a client that went away does not stop it.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt as _;
use http::request::Parts;
use http::{HeaderValue, Method, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use s3s::dto::{Timestamp, TimestampFormat};
use s3s::service::S3Service;
use s3s::{S3Error, s3_error};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::backend::{
    Checksums, CopyOtherBytes, IgnoreConditions, KeyFaults, LiteralEtags, made_up,
};
use super::clock;
use super::fault::{Action, Area, Logged, Op};
use super::state::State;

type Reply = Response<UnsyncBoxBody<Bytes, io::Error>>;

/// Serves until `stop`, then closes every connection and says so by `stopped`.
pub async fn serve(
    listener: TcpListener,
    state: Arc<State>,
    service: S3Service,
    stop: CancellationToken,
    stopped: std::sync::mpsc::SyncSender<()>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, Arc::clone(&state), service.clone()));
                }
                // Out of descriptors: give the connections that are open a moment to end.
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }
    drop(listener);
    connections.shutdown().await;
    let _ = stopped.try_send(());
}

async fn connection(stream: TcpStream, state: Arc<State>, service: S3Service) {
    let _ = stream.set_nodelay(true);
    let handler = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let (state, service) = (Arc::clone(&state), service.clone());
        async move {
            let (parts, body) = request.into_parts();
            let body = BodyExt::collect(body).await.map_err(io::Error::other)?.to_bytes();
            let task = tokio::spawn(answer(state, service, parts, body));
            // `None` closes the connection without a reply.
            task.await.map_err(io::Error::other)?.ok_or_else(|| io::Error::other("dropped"))
        }
    });
    // Errors are the client's doing or the fault plan's; both are in the log already.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), handler)
        .await;
}

/// Handles one request and logs it, on arrival and again with its outcome.
async fn answer(state: Arc<State>, service: S3Service, parts: Parts, body: Bytes) -> Option<Reply> {
    let began = Instant::now();
    let mut entry = describe(&state, &parts, &body);
    entry.fault = state.plan.lock().take(entry.op, &entry.key);
    let reader = entry.access_key.as_ref().is_some_and(|key| state.readers.lock().contains(key));
    if reader && !entry.only_reads() {
        entry.fault = Some(Action::Status(403));
    }
    let foreign = entry.access_key.as_ref().is_some_and(|key| {
        state.owners.lock().get(&entry.bucket).is_some_and(|owners| !owners.contains(key))
    });
    if foreign {
        entry.fault = Some(Action::Status(403));
    }
    let refused = match entry.op {
        Op::DeleteMany => state.plan.lock().take_keys(keys_of(&body)),
        _ => Default::default(),
    };
    state.log.lock().push(entry.clone());

    let latency = state.latency.load(Ordering::Relaxed);
    let gateway = state.gateway.load(Ordering::Relaxed);
    let mut parts = parts;
    let mut creation = None;
    match entry.op {
        Op::Put if gateway => {
            parts.extensions.insert(LiteralEtags);
            parts.extensions.insert(Checksums::Unknown);
            if parts.headers.contains_key(http::header::IF_NONE_MATCH) {
                creation = Some(state.begin_create(&entry.key));
            }
        }
        Op::Delete | Op::DeleteMany | Op::Copy | Op::UploadPartCopy | Op::CompleteUpload
            if gateway =>
        {
            parts.extensions.insert(IgnoreConditions);
        }
        _ => {}
    }
    let part = match entry.fault {
        Some(Action::ApplyPart(most)) => (Some(most), Some(most)),
        Some(Action::NamePart(most)) => (None, Some(most)),
        Some(Action::OnlySaySo) => (Some(0), None),
        _ => (None, None),
    };
    parts.extensions.insert(KeyFaults { refused, applied: part.0, named: part.1 });
    if latency > 0 {
        tokio::time::sleep(Duration::from_micros(latency)).await;
    }
    let mut reply = act(&state, service, parts, body, entry.fault.clone()).await;
    if let Some(met) = creation {
        state.end_create(&entry.key, &met);
        let lost = reply.as_ref().is_some_and(|(reply, _)| reply.status() == 412);
        if lost && met.load(Ordering::Relaxed) {
            reply = Some(refuse(&state, made_up(500)).await);
        }
    }

    entry.took = began.elapsed();
    if let Some((reply, size)) = &reply {
        entry.status = reply.status().as_u16();
        entry.bytes_out = *size as u64;
    }
    if state.print {
        println!(
            "{} {:?} {} {} {} B in {} B out {:?}{}",
            entry.method,
            entry.op,
            entry.key,
            entry.status,
            entry.bytes_in,
            entry.bytes_out,
            entry.took,
            entry.fault.as_ref().map(|f| format!(" {f:?}")).unwrap_or_default()
        );
    }
    if let Some(logged) = state.log.lock().iter_mut().rev().find(|e| e.id == entry.id) {
        *logged = entry;
    }
    reply.map(|(reply, _)| reply)
}

async fn act(
    state: &Arc<State>,
    service: S3Service,
    mut parts: Parts,
    body: Bytes,
    fault: Option<Action>,
) -> Option<(Reply, usize)> {
    match &fault {
        Some(Action::Latency(time) | Action::DelayThenApply(time)) => {
            tokio::time::sleep(*time).await;
        }
        Some(Action::Hold) => {
            let mut released = state.released.subscribe();
            state.held.fetch_add(1, Ordering::SeqCst);
            // An error means that the server ends.
            let _ = released.changed().await;
            state.held.fetch_sub(1, Ordering::SeqCst);
        }
        Some(Action::Status(status)) => return Some(refuse(state, made_up(*status)).await),
        Some(Action::HiddenError) => {
            let error = "<Error><Code>InternalError</Code><Message>made up</Message></Error>";
            let response = http::Response::new(s3s::Body::from(Bytes::from(error)));
            return Some(finish(state, response, None).await);
        }
        Some(Action::ClockSkewError) => {
            let error = s3_error!(
                RequestTimeTooSkewed,
                "The difference between the request time and the server's time is too large."
            );
            return Some(refuse(state, error).await);
        }
        Some(Action::DropBeforeApply) => return None,
        Some(Action::IgnoreConditions) => {
            parts.extensions.insert(IgnoreConditions);
        }
        Some(Action::IgnoreChecksum) => {
            parts.extensions.insert(Checksums::Unknown);
        }
        Some(Action::SayChecksum) => {
            parts.extensions.insert(Checksums::Believed);
        }
        Some(Action::CopyOtherBytes) => {
            parts.extensions.insert(CopyOtherBytes);
        }
        Some(
            Action::ApplyThenStatus(_)
            | Action::ApplyThenProxy(_)
            | Action::ApplyThenDropReply
            | Action::ApplyPart(_)
            | Action::NamePart(_)
            | Action::OnlySaySo
            | Action::IgnoreExpiry
            | Action::CutBody(_),
        )
        | None => {}
    }
    let pays = parts.headers.get("x-amz-request-payer").is_some_and(|who| who == "requester");
    if state.requester_pays.load(Ordering::Relaxed) && !pays {
        return Some(refuse(state, s3_error!(AccessDenied, "the requester must pay")).await);
    }
    let mut offset = state.clock_offset.load(Ordering::Relaxed);
    if fault == Some(Action::IgnoreExpiry) {
        offset -= 100;
    }
    let parts = clock::translate(parts, offset, &state.keys);
    let request = http::Request::from_parts(parts, s3s::Body::from(body));
    let response = service.call(request).await;
    match fault {
        Some(Action::ApplyThenStatus(status)) => Some(refuse(state, made_up(status)).await),
        Some(Action::ApplyThenProxy(status)) => {
            let mut response =
                http::Response::new(s3s::Body::from(Bytes::from("<html>no way</html>")));
            *response.status_mut() = http::StatusCode::from_u16(status).ok()?;
            Some(finish(state, response, None).await)
        }
        Some(Action::ApplyThenDropReply) => None,
        Some(Action::CutBody(at)) => Some(finish(state, response.ok()?, Some(at)).await),
        _ => Some(finish(state, response.ok()?, None).await),
    }
}

async fn refuse(state: &State, error: S3Error) -> (Reply, usize) {
    match error.to_http_response() {
        Ok(response) => finish(state, response, None).await,
        Err(_) => {
            let mut response = http::Response::new(s3s::Body::empty());
            *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
            finish(state, response, None).await
        }
    }
}

/// Adds the server's date and, where asked, cuts the body. Also returns the body's size.
async fn finish(
    state: &State,
    response: Response<s3s::Body>,
    cut: Option<usize>,
) -> (Reply, usize) {
    let (mut parts, body) = response.into_parts();
    let body = BodyExt::collect(body).await.map(|b| b.to_bytes()).unwrap_or_default();
    let mut date = Vec::new();
    if Timestamp::from(state.now()).format(TimestampFormat::HttpDate, &mut date).is_ok()
        && let Ok(date) = HeaderValue::from_bytes(&date)
    {
        parts.headers.insert(http::header::DATE, date);
    }
    let size = body.len();
    let body = match cut {
        Some(at) if at < size => {
            parts.headers.insert(http::header::CONTENT_LENGTH, HeaderValue::from(size as u64));
            let part = body.slice(..at);
            // Between the two the connection is flushed, so that the client does see the part.
            let head = futures::stream::iter([Ok(Frame::data(part))]);
            let tail = futures::stream::once(async {
                tokio::task::yield_now().await;
                Err(io::Error::other("cut by the fault plan"))
            });
            BodyExt::boxed_unsync(StreamBody::new(Box::pin(head.chain(tail))))
        }
        _ => BodyExt::boxed_unsync(Full::new(body).map_err(|never: Infallible| match never {})),
    };
    (Response::from_parts(parts, body), size)
}

fn describe(state: &State, parts: &Parts, body: &Bytes) -> Logged {
    let query: Vec<(String, String)> =
        url::form_urlencoded::parse(parts.uri.query().unwrap_or("").as_bytes())
            .into_owned()
            .collect();
    let param = |name: &str| query.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    let path = percent_encoding::percent_decode_str(parts.uri.path()).decode_utf8_lossy();
    let key = path.trim_start_matches('/').split_once('/').map(|(_, key)| key.to_owned());
    let key = key.filter(|key| !key.is_empty());
    let has = |name: &str| param(name).is_some();
    let header = |name: &str| parts.headers.contains_key(name);
    let object = key.is_some();
    let op = match (&parts.method, object) {
        (_, true) if has("tagging") => Op::Tagging,
        (&Method::PUT, true) if has("uploadId") && header("x-amz-copy-source") => {
            Op::UploadPartCopy
        }
        (&Method::PUT, true) if has("uploadId") => Op::UploadPart,
        (&Method::PUT, true) if header("x-amz-copy-source") => Op::Copy,
        (&Method::PUT, true) => Op::Put,
        (&Method::GET, true) if has("uploadId") => Op::ListParts,
        (&Method::GET, true) => Op::Get,
        (&Method::HEAD, true) => Op::Head,
        (&Method::DELETE, true) if has("uploadId") => Op::AbortUpload,
        (&Method::DELETE, true) => Op::Delete,
        (&Method::POST, true) if has("uploads") => Op::CreateUpload,
        (&Method::POST, true) if has("uploadId") => Op::CompleteUpload,
        (&Method::POST, false) if has("delete") => Op::DeleteMany,
        (&Method::GET, false) if has("uploads") => Op::ListUploads,
        (&Method::GET, false) if path.len() > 1 && !has("location") => Op::List,
        _ => Op::Bucket,
    };
    let key = key
        .or_else(|| param("prefix"))
        .or_else(|| (op == Op::DeleteMany).then(|| keys_of(body).into_iter().next()).flatten())
        .unwrap_or_default();
    let credential = param("X-Amz-Credential").or_else(|| {
        let value = parts.headers.get(http::header::AUTHORIZATION)?.to_str().ok()?;
        Some(value.split_once("Credential=")?.1.to_owned())
    });
    Logged {
        id: state.next_id.fetch_add(1, Ordering::Relaxed),
        time: state.now(),
        method: parts.method.to_string(),
        op,
        area: Area::of(&key),
        key,
        status: 0,
        bytes_in: body.len() as u64,
        bytes_out: 0,
        bucket: bucket_of(parts),
        access_key: credential.and_then(|c| Some(c.split_once('/')?.0.to_owned())),
        expires: has("X-Amz-Expires"),
        conditional: header("if-match") || header("if-none-match"),
        fault: None,
        took: Duration::ZERO,
    }
}

fn bucket_of(parts: &Parts) -> String {
    parts.uri.path().trim_start_matches('/').split('/').next().unwrap_or_default().to_owned()
}

/// The keys of a DeleteObjects request, as far as the log and the fault plan need them.
fn keys_of(body: &Bytes) -> Vec<String> {
    let text = std::str::from_utf8(body).unwrap_or_default();
    let keys = text.split("<Key>").skip(1).filter_map(|rest| {
        let (key, _) = rest.split_once("</Key>")?;
        Some(quick_xml::escape::unescape(key).ok()?.into_owned())
    });
    keys.collect()
}
