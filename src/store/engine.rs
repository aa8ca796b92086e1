//! The store under the metadata engine: `object_store`'s own clients over our [`Wire`].
//!
//! Their retries stay, because engine files have unique names or are created once and resolved by
//! the put-id that the engine writes. What the wire changes on the way is named in [`calm`].

use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use http_body_util::BodyExt;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
    HttpResponseBody, HttpService,
};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart,
};
use tokio_util::sync::CancellationToken;

use super::meter::{Judged, Kind, Meter};
use super::wire::{Fault, FaultKind, Progress, Wire, unquote};
use super::{Knowledge, refused};
use crate::credentials::Source;
use crate::metrics::Outcome;

/// Longest time without a byte moving; a slow link that moves is not cut.
const ENGINE_IDLE: Duration = Duration::from_secs(30);
/// Credential services are near and small; they must not use up the ten seconds that a user waits
/// for `docker volume create`.
const CREDENTIALS_IDLE: Duration = Duration::from_secs(3);

/// The store of one prefix for the metadata engine. Cloning shares it and its kill switch.
#[derive(Debug, Clone)]
pub struct EngineStore {
    store: Arc<dyn ObjectStore>,
    gate: Gate,
}

impl EngineStore {
    pub(super) fn new(store: Arc<dyn ObjectStore>, gate: Gate, meter: Option<Arc<Meter>>) -> Self {
        let store = Arc::new(Gated { store, gate: gate.clone(), meter });
        EngineStore { store, gate }
    }

    /// For the engine's builder.
    pub fn into_inner(self) -> Arc<dyn ObjectStore> {
        self.store
    }

    pub fn as_dyn(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// Plays the death of this process for tests: nothing is sent after this, and calls wait for
    /// ever. What was sent before may still be applied.
    pub fn kill(&self) {
        self.gate.0.cancel();
    }
}

/// Closed by [`EngineStore::kill`], never opened again.
#[derive(Debug, Clone)]
pub(super) struct Gate(CancellationToken);

impl Gate {
    pub(super) fn new() -> Self {
        Gate(CancellationToken::new())
    }

    /// Runs `future`; once the gate is closed it is dropped and this never returns.
    async fn pass<T>(&self, future: impl Future<Output = T>) -> T {
        tokio::select! {
            biased;
            () = self.0.cancelled() => std::future::pending().await,
            value = future => value,
        }
    }
}

/// Makes `object_store`'s clients send through a [`Wire`].
#[derive(Debug, Clone)]
pub(super) struct Connector {
    wire: Wire,
    /// `None` for clients that serve no engine.
    gate: Option<Gate>,
    idle: Duration,
    /// How the store wants ETags in conditions, if it has a choice.
    known: Option<Arc<Knowledge>>,
    /// Where the keys are, if they have a name.
    source: Option<Arc<Source>>,
}

impl Connector {
    fn new(wire: &Wire, gate: Option<&Gate>, idle: Duration) -> Self {
        Connector { wire: wire.clone(), gate: gate.cloned(), idle, known: None, source: None }
    }

    pub(super) fn for_engine(wire: &Wire, gate: &Gate) -> Self {
        Self::new(wire, Some(gate), ENGINE_IDLE)
    }

    /// Conditions are written as is known of the store.
    pub(super) fn spelling(self, known: &Arc<Knowledge>) -> Self {
        Connector { known: Some(Arc::clone(known)), ..self }
    }

    /// After a refusal the keys are looked at again; the engine signs another attempt anew.
    pub(super) fn signed_by(self, source: Option<&Arc<Source>>) -> Self {
        Connector { source: source.cloned(), ..self }
    }

    /// For listings, whose caller has a deadline of its own.
    pub(super) fn for_listing(wire: &Wire) -> Self {
        Self::new(wire, None, ENGINE_IDLE)
    }

    pub(super) fn for_credentials(wire: &Wire) -> Self {
        Self::new(wire, None, CREDENTIALS_IDLE)
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _: &object_store::ClientOptions) -> Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Connector {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        match &self.gate {
            Some(gate) => gate.pass(self.run(request)).await,
            None => self.run(request).await,
        }
    }
}

impl Connector {
    async fn run(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, mut body) = request.into_parts();
        let mut chunks = Vec::new();
        // The body is in memory, so its frames are always ready.
        while let Some(Some(frame)) = body.frame().now_or_never() {
            if let Ok(data) = frame?.into_data() {
                chunks.push(data);
            }
        }
        let url = url::Url::parse(&parts.uri.to_string())
            .map_err(|e| HttpError::new(HttpErrorKind::Unknown, e))?;
        let creates = parts.headers.contains_key(http::header::IF_NONE_MATCH);
        let progress = Progress::new(self.idle);
        let started = self.wire.start(parts.method, url, parts.headers, chunks, &progress).await;
        if self.gate.is_some() && is_sent_again(&started) {
            self.wire.meter().requests().retried();
        }
        let mut response = started.map_err(http_error)?;
        let mut head = http::Response::new(());
        *head.status_mut() = response.status();
        *head.headers_mut() = std::mem::take(response.headers_mut());
        let (mut head, ()) = head.into_parts();
        if self.known.as_ref().is_some_and(|known| known.is_bare()) {
            bare_etag(&mut head.headers);
        }
        if let Some(source) = self.source.as_ref().filter(|_| refused::is_about_keys(head.status)) {
            source.has_others(source.keys().0);
        }
        if head.status.is_client_error() && self.gate.is_some() {
            let mut text = Vec::new();
            while let Some(piece) =
                self.wire.next(&mut response, &progress).await.map_err(http_error)?
            {
                text.extend_from_slice(&piece);
            }
            head.status = calm(head.status, &text, creates);
            return Ok(http::Response::from_parts(head, HttpResponseBody::from(text)));
        }
        let state = (response, progress, self.wire.clone(), self.gate.clone());
        let frames = futures::stream::unfold(Some(state), |state| async move {
            let (mut response, progress, wire, gate) = state?;
            let next = wire.next(&mut response, &progress);
            let next = match &gate {
                Some(gate) => gate.pass(next).await,
                None => next.await,
            };
            match next {
                Ok(Some(piece)) => Some((Ok(piece), Some((response, progress, wire, gate)))),
                Ok(None) => None,
                Err(fault) => Some((Err(http_error(fault)), None)),
            }
        });
        // Readers of an empty body ask again after its end, where an unfold panics.
        let frames = frames.fuse().boxed();
        let body = HttpResponseBody::new(StreamedBody(parking_lot::Mutex::new(frames)));
        Ok(http::Response::from_parts(head, body))
    }
}

/// What `object_store` answers with another attempt, as long as it has one.
fn is_sent_again(started: &std::result::Result<reqwest::Response, Fault>) -> bool {
    let again = |status: u16| matches!(status, 408 | 429 | 500..);
    started.as_ref().map_or(true, |response| again(response.status().as_u16()))
}

/// A body made of a stream. `HttpResponseBody` wants `Sync`, which streams are not; the mutex is
/// never locked, because a body is polled through `&mut`.
struct StreamedBody(parking_lot::Mutex<BoxStream<'static, Result<Bytes, HttpError>>>);

impl hyper::body::Body for StreamedBody {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, HttpError>>> {
        let next = self.get_mut().0.get_mut().poll_next_unpin(cx);
        next.map(|piece| piece.map(|piece| piece.map(hyper::body::Frame::data)))
    }
}

/// `object_store` names an ETag in a condition as it was answered, and signs that, so it is the answer
/// that gets the spelling that the store wants to see.
fn bare_etag(headers: &mut http::HeaderMap) {
    let etag = headers.get(http::header::ETAG).and_then(|etag| etag.to_str().ok());
    if let Some(bare) = etag.and_then(|etag| unquote(etag).parse().ok()) {
        headers.insert(http::header::ETAG, bare);
    }
}

/// Answers that must not kill the engine, although they are no 5xx: it would take a conflict for
/// somebody else's file, and a bucket that is gone for a moment for damage. As 503 both are tried
/// again; a create that did win is then found by its put-id.
fn calm(status: http::StatusCode, body: &[u8], creates: bool) -> http::StatusCode {
    let has = |code: &[u8]| body.windows(code.len()).any(|w| w == code);
    let conflict = status == http::StatusCode::CONFLICT
        && creates
        && !has(b"BlobAlreadyExists")
        && !has(b"ContainerAlreadyExists");
    let no_bucket = status == http::StatusCode::NOT_FOUND
        && (has(b"NoSuchBucket") || has(b"ContainerNotFound"));
    if conflict || no_bucket { http::StatusCode::SERVICE_UNAVAILABLE } else { status }
}

fn http_error(fault: Fault) -> HttpError {
    let kind = match fault.kind {
        // What was not sent is tried again, whatever it is.
        FaultKind::Tls if fault.may_have_arrived() => HttpErrorKind::Interrupted,
        FaultKind::Name | FaultKind::Connect | FaultKind::Tls => HttpErrorKind::Connect,
        FaultKind::Timeout => HttpErrorKind::Timeout,
        FaultKind::Cut => HttpErrorKind::Interrupted,
        FaultKind::TooLong => HttpErrorKind::Unknown,
    };
    HttpError::new(kind, fault)
}

/// The kill switch and, where no wire counts, the request counts around any store.
#[derive(Debug)]
struct Gated {
    store: Arc<dyn ObjectStore>,
    gate: Gate,
    meter: Option<Arc<Meter>>,
}

impl Gated {
    /// Passes a request through the gate, and counts it.
    async fn counted<T>(
        &self,
        kind: Kind,
        up: usize,
        request: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let passed = self.gate.pass(request);
        match &self.meter {
            Some(meter) => {
                meter.sent(up);
                meter.local(kind, passed).await
            }
            None => passed.await,
        }
    }

    /// Counts a request that answers piece by piece: that it was sent.
    fn begun(&self, kind: Kind) {
        if let Some(meter) = &self.meter {
            meter.request(kind);
            meter.requests().ended(kind, Outcome::Done, Duration::ZERO);
        }
    }

    fn gated<T: Send + 'static>(&self, stream: BoxStream<'static, T>) -> BoxStream<'static, T> {
        let gate = self.gate.clone();
        futures::stream::unfold((stream, gate), |(mut stream, gate)| async move {
            let item = gate.pass(stream.next()).await?;
            Some((item, (stream, gate)))
        })
        .fuse()
        .boxed()
    }
}

impl std::fmt::Display for Gated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.store)
    }
}

#[async_trait]
impl ObjectStore for Gated {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        let up = payload.content_length();
        self.counted(Kind::Put, up, self.store.put_opts(location, payload, opts)).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let begins = self.store.put_multipart_opts(location, opts);
        let upload = self.counted(Kind::Multipart, 0, begins).await?;
        Ok(Box::new(GatedUpload { upload, gate: self.gate.clone(), meter: self.meter.clone() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let kind = if options.head { Kind::Head } else { Kind::Get };
        let result = self.counted(kind, 0, self.store.get_opts(location, options)).await?;
        if let Some(meter) = &self.meter {
            meter.received((result.range.end - result.range.start) as usize);
        }
        Ok(result)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.counted(Kind::Get, 0, self.store.get_ranges(location, ranges)).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.begun(Kind::Delete);
        self.gated(self.store.delete_stream(locations))
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.begun(Kind::List);
        self.gated(self.store.list(prefix))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.begun(Kind::List);
        self.gated(self.store.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.counted(Kind::List, 0, self.store.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.counted(Kind::Copy, 0, self.store.copy_opts(from, to, options)).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.counted(Kind::Copy, 0, self.store.rename_opts(from, to, options)).await
    }
}

impl<T> Judged for Result<T> {
    fn judged(&self) -> Outcome {
        match self {
            Ok(_) => Outcome::Done,
            Err(object_store::Error::NotFound { .. }) => Outcome::Missing,
            Err(
                object_store::Error::AlreadyExists { .. }
                | object_store::Error::Precondition { .. }
                | object_store::Error::NotModified { .. },
            ) => Outcome::Condition,
            Err(_) => Outcome::Failed,
        }
    }
}

#[derive(Debug)]
struct GatedUpload {
    upload: Box<dyn MultipartUpload>,
    gate: Gate,
    meter: Option<Arc<Meter>>,
}

#[async_trait]
impl MultipartUpload for GatedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (gate, meter) = (self.gate.clone(), self.meter.clone());
        let up = data.content_length();
        let part = self.upload.put_part(data);
        Box::pin(async move {
            let passed = gate.pass(part);
            match meter {
                Some(meter) => {
                    meter.sent(up);
                    meter.local(Kind::Multipart, passed).await
                }
                None => passed.await,
            }
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.gate.pass(self.upload.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.gate.pass(self.upload.abort()).await
    }
}
