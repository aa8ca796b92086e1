//! HTTP to one endpoint: deadlines that count from the last progress, request counts, the `Date` of
//! every answer. Knows no provider and retries nothing.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode};
use hyper::body::{Body, Frame, SizeHint};

use super::meter::{Kind, Meter, StoreClock};
use super::{PutOutcome, StoreError, StoreErrorKind};
use crate::clock::boottime;
use crate::metrics::Outcome;
use crate::types::StoreTime;

/// Longest time to connect: unreachable endpoints must be told within ten seconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Idle connections are dropped before the usual servers and balancers (60 s) drop them, since a
/// request on a connection that dies is an ambiguous one.
const POOL_IDLE: Duration = Duration::from_secs(20);
/// Bodies go out in pieces of this size, so that progress shows.
const PIECE: usize = 64 << 10;
/// The longest answer that is read at once. Nothing of ours comes near it: the longest read is 16 MiB, the longest
/// object that is read whole is one of the engine's log, 40 MiB. What somebody else put there may be of any size.
pub(super) const ANSWER_MAX: u64 = 128 << 20;

/// One HTTP client and what it learned.
#[derive(Debug, Clone)]
pub(super) struct Wire(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    client: reqwest::Client,
    /// `host[:port]` of the store's requests; others (credential services) are not counted.
    authority: String,
    meter: Meter,
    clock: StoreClock,
}

/// An answer with its whole body.
#[derive(Debug)]
pub(super) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// A header as text; bytes that are not UTF-8 are replaced.
    pub(super) fn header(&self, name: &str) -> Option<String> {
        self.headers.get(name).map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned())
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FaultKind {
    /// The name has no address.
    Name,
    /// No connection; the request was not sent.
    Connect,
    Tls,
    /// No progress for the caller's time.
    Timeout,
    /// The connection broke; the request may have been applied.
    Cut,
    /// The answer is longer than [`ANSWER_MAX`].
    TooLong,
}

/// A request without an answer. Holds no URL, because URLs hold signatures.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(super) struct Fault {
    pub kind: FaultKind,
    /// Whether there was a connection that may have taken it.
    sent: bool,
    text: String,
}

impl Fault {
    pub(super) fn timeout(after: Duration) -> Self {
        let text = format!("no progress for {:.1} s", after.as_secs_f64());
        Fault { kind: FaultKind::Timeout, sent: true, text }
    }

    fn too_long() -> Self {
        let text = format!("more than {} MiB at once", ANSWER_MAX >> 20);
        Fault { kind: FaultKind::TooLong, sent: true, text }
    }

    fn of(error: reqwest::Error) -> Self {
        let error = error.without_url();
        let (text, why) = explained(&error);
        let kind = match why {
            Why::Name => FaultKind::Name,
            Why::Tls => FaultKind::Tls,
            _ if error.is_connect() => FaultKind::Connect,
            _ if error.is_timeout() => FaultKind::Timeout,
            Why::Other => FaultKind::Cut,
        };
        Fault { kind, sent: !error.is_connect(), text }
    }

    /// Whether there was a connection that may have taken the request.
    pub(super) fn may_have_arrived(&self) -> bool {
        self.sent
    }

    /// The error for the caller: `doing` what, at which `endpoint`.
    pub(super) fn into_error(self, doing: &str, endpoint: &str) -> StoreError {
        let (kind, why) = match self.kind {
            FaultKind::Name => (
                StoreErrorKind::Unreachable,
                "its host name cannot be resolved; check the endpoint option for a typing error, and the DNS settings of this host",
            ),
            FaultKind::Connect => (
                StoreErrorKind::Unreachable,
                "no connection; check the endpoint's address and port, that the server runs, and firewalls",
            ),
            FaultKind::Tls => (
                StoreErrorKind::Tls,
                "the TLS connection was refused; if the certificate is your own authority's, build the plugin with its file in S3VOL_CA_BUNDLE, or without Docker name the file in AWS_CA_BUNDLE or SSL_CERT_FILE; write http:// if the server speaks no TLS",
            ),
            FaultKind::Timeout => (
                StoreErrorKind::Timeout,
                "it did not answer in time; check the network and the server's load",
            ),
            FaultKind::Cut => {
                (StoreErrorKind::Unreachable, "the connection broke before the answer was complete")
            }
            FaultKind::TooLong => (
                StoreErrorKind::Protocol,
                "the answer is longer than anything that s3vol writes; look at the object, somebody else may have put it there",
            ),
        };
        StoreError {
            kind,
            message: format!("{doing} at {endpoint}: {why} ({})", self.text),
            source: Some(Box::new(self)),
        }
    }
}

/// What an error of the HTTP library is about, as far as its kind does not say.
#[derive(Debug, PartialEq, Eq)]
enum Why {
    Name,
    Tls,
    Other,
}

/// The whole text of an error with its causes, and what it is about.
fn explained(error: &(dyn std::error::Error + 'static)) -> (String, Why) {
    let mut text = error.to_string();
    let is_end = |error: &(dyn std::error::Error + 'static)| {
        let disk = error.downcast_ref::<std::io::Error>();
        disk.is_some_and(|error| error.kind() == std::io::ErrorKind::UnexpectedEof)
    };
    // A connection that ended is no refusal, although rustls says of it that TLS was not closed.
    let mut ended = is_end(error);
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        ended |= is_end(inner);
        source = inner.source();
    }
    let lower = text.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|w| lower.contains(w));
    let why = if has(&["dns error", "failed to lookup address", "name resolution"]) {
        Why::Name
    } else if !ended
        && has(&["certificate", "handshake", "corrupt message", "tls", "unknownissuer"])
    {
        Why::Tls
    } else {
        Why::Other
    };
    (text, why)
}

/// What became of a changing request without an answer.
pub(super) fn unanswered(error: StoreError) -> PutOutcome {
    let fault = error.source.as_ref().and_then(|source| source.downcast_ref::<Fault>());
    // What fails before there is anything to send is no fault of the wire.
    match fault.is_some_and(|fault| fault.sent) {
        true => PutOutcome::Ambiguous(error),
        false => PutOutcome::Failed(error),
    }
}

/// When the last byte moved, and for how long none may.
#[derive(Debug, Clone)]
pub(super) struct Progress {
    last_ms: Arc<AtomicU64>,
    timeout: Duration,
}

impl Progress {
    pub(super) fn new(timeout: Duration) -> Self {
        let progress = Progress { last_ms: Arc::default(), timeout };
        progress.touch();
        progress
    }

    /// Something moved.
    pub(super) fn touch(&self) {
        self.last_ms.store(boottime().as_millis() as u64, Ordering::Relaxed);
    }

    /// What is left before the caller gives up.
    pub(super) fn left(&self) -> Duration {
        let last = Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
        (last + self.timeout).saturating_sub(boottime())
    }

    /// Runs `future` until it ends or nothing moves any more.
    pub(super) async fn watch<T>(&self, future: impl Future<Output = T>) -> Result<T, Fault> {
        tokio::pin!(future);
        loop {
            let left = self.left();
            match tokio::time::timeout(left, &mut future).await {
                Ok(value) => return Ok(value),
                Err(_) if self.left().is_zero() => return Err(Fault::timeout(self.timeout)),
                Err(_) => {}
            }
        }
    }
}

/// A request body that reports each piece that the connection took.
struct Pieces {
    left: VecDeque<Bytes>,
    bytes: u64,
    progress: Progress,
    wire: Wire,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.left.pop_front();
        if let Some(piece) = &piece {
            self.bytes -= piece.len() as u64;
            self.progress.touch();
            self.wire.0.meter.sent(piece.len());
        }
        Poll::Ready(piece.map(|p| Ok(Frame::data(p))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes)
    }
}

impl Wire {
    /// A client for one endpoint. The trusted roots are the system's (or `SSL_CERT_FILE`'s) and,
    /// when set, those of `AWS_CA_BUNDLE`.
    pub(super) fn new(authority: String) -> Result<Self, StoreError> {
        let builder = || {
            reqwest::Client::builder()
                .user_agent(concat!("s3vol/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(CONNECT_TIMEOUT)
                .pool_idle_timeout(POOL_IDLE)
                .http1_only()
                // A redirect of a signed request cannot succeed, and its target says what is wrong.
                .redirect(reqwest::redirect::Policy::none())
        };
        let roots = extra_roots();
        let client = builder().tls_certs_merge(roots.clone()).build().or_else(|error| {
            // A root file system without certificates; plain http must still work.
            tracing::warn!(%error, "the system's TLS roots cannot be read; only AWS_CA_BUNDLE counts");
            builder().tls_certs_only(roots).build()
        });
        let client = client.map_err(|e| StoreError {
            kind: StoreErrorKind::Tls,
            message: format!(
                "the HTTP client cannot start: {e}; check AWS_CA_BUNDLE and SSL_CERT_FILE"
            ),
            source: Some(Box::new(e)),
        })?;
        Ok(Wire(Arc::new(Inner {
            client,
            authority,
            meter: Meter::default(),
            clock: StoreClock::default(),
        })))
    }

    pub(super) fn meter(&self) -> &Meter {
        &self.0.meter
    }

    pub(super) fn clock(&self) -> &StoreClock {
        &self.0.clock
    }

    /// Whether a request to this URL is one to the store itself.
    fn is_store(&self, url: &url::Url) -> bool {
        authority(url).as_deref() == Some(self.0.authority.as_str())
    }

    /// Sends one request and returns when its answer's head is there.
    pub(super) async fn start(
        &self,
        method: Method,
        url: url::Url,
        mut headers: HeaderMap,
        body: Vec<Bytes>,
        progress: &Progress,
    ) -> Result<reqwest::Response, Fault> {
        let kind = self.is_store(&url).then(|| kind_of(&method, &url, &headers));
        if let Some(kind) = kind {
            self.0.meter.request(kind);
        }
        let bytes: u64 = body.iter().map(|b| b.len() as u64).sum();
        if bytes > 0 || method == Method::PUT || method == Method::POST {
            headers.insert(http::header::CONTENT_LENGTH, bytes.into());
        }
        let mut left = VecDeque::new();
        for mut chunk in body {
            while chunk.len() > PIECE {
                left.push_back(chunk.split_to(PIECE));
            }
            if !chunk.is_empty() {
                left.push_back(chunk);
            }
        }
        let mut request = reqwest::Request::new(method, url);
        *request.headers_mut() = headers;
        if bytes > 0 {
            let progress = progress.clone();
            let pieces = Pieces { left, bytes, progress, wire: self.clone() };
            *request.body_mut() = Some(reqwest::Body::wrap(pieces));
        }
        let timed = kind.map(|kind| Timed { wire: self, kind, begun: boottime(), outcome: None });
        let response = progress.watch(self.0.client.execute(request)).await?.map_err(Fault::of)?;
        progress.touch();
        if let Some(mut timed) = timed {
            timed.outcome = Some(Outcome::of_status(response.status().as_u16()));
            if let Some(date) = date_of(response.headers()) {
                self.0.clock.observe(date);
            }
        }
        Ok(response)
    }

    /// The next piece of an answer's body.
    pub(super) async fn next(
        &self,
        response: &mut reqwest::Response,
        progress: &Progress,
    ) -> Result<Option<Bytes>, Fault> {
        let piece = progress.watch(response.chunk()).await?.map_err(Fault::of)?;
        progress.touch();
        if let Some(piece) = &piece {
            self.0.meter.received(piece.len());
        }
        Ok(piece)
    }

    /// Sends one request and reads its whole answer.
    pub(super) async fn send(
        &self,
        method: Method,
        url: url::Url,
        headers: HeaderMap,
        body: Bytes,
        progress: &Progress,
    ) -> Result<Answer, Fault> {
        let method_sends_body = method != Method::HEAD;
        let mut response = self.start(method, url, headers, vec![body], progress).await?;
        // The answer to a HEAD tells the length of what is not sent.
        let announced = response.content_length().filter(|_| method_sends_body);
        if announced.is_some_and(|length| length > ANSWER_MAX) {
            return Err(Fault::too_long());
        }
        let mut body = BytesMut::new();
        let mut only = None;
        let mut read = 0;
        while let Some(piece) = self.next(&mut response, progress).await? {
            read += piece.len() as u64;
            if read > ANSWER_MAX {
                return Err(Fault::too_long());
            }
            if body.is_empty() && only.is_none() {
                only = Some(piece);
            } else {
                if let Some(first) = only.take() {
                    body.reserve(response.content_length().unwrap_or(0).min(64 << 20) as usize);
                    body.extend_from_slice(&first);
                }
                body.extend_from_slice(&piece);
            }
        }
        Ok(Answer {
            status: response.status(),
            headers: std::mem::take(response.headers_mut()),
            body: only.unwrap_or_else(|| body.freeze()),
        })
    }
}

/// A request to the store under way; counted at its end, also where its caller does not wait for that.
struct Timed<'w> {
    wire: &'w Wire,
    kind: Kind,
    begun: Duration,
    /// `None`: there is no answer.
    outcome: Option<Outcome>,
}

impl Drop for Timed<'_> {
    fn drop(&mut self) {
        let took = boottime().saturating_sub(self.begun);
        let outcome = self.outcome.unwrap_or(Outcome::Unanswered);
        self.wire.0.meter.requests().ended(self.kind, outcome, took);
    }
}

/// `host[:port]`, the port only when it is not the scheme's.
pub(super) fn authority(url: &url::Url) -> Option<String> {
    let host = url.host_str()?;
    Some(url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
}

/// The certificates that `AWS_CA_BUNDLE` names, if any.
fn extra_roots() -> Vec<reqwest::Certificate> {
    let Some(path) = std::env::var_os("AWS_CA_BUNDLE").filter(|p| !p.is_empty()) else {
        return Vec::new();
    };
    let warn = |error: &dyn std::fmt::Display| {
        tracing::warn!(path = %path.display(), %error, "AWS_CA_BUNDLE cannot be used");
    };
    match std::fs::read(&path) {
        Ok(bundle) => reqwest::Certificate::from_pem_bundle(&bundle).unwrap_or_else(|error| {
            warn(&error);
            Vec::new()
        }),
        Err(error) => {
            warn(&error);
            Vec::new()
        }
    }
}

fn date_of(headers: &HeaderMap) -> Option<StoreTime> {
    parse_http_date(headers.get(http::header::DATE)?.to_str().ok()?)
}

/// Reads an HTTP date (`Sun, 06 Nov 1994 08:49:37 GMT`).
pub(super) fn parse_http_date(text: &str) -> Option<StoreTime> {
    let zoned = jiff::fmt::rfc2822::parse(text).ok()?;
    Some(StoreTime(zoned.timestamp().as_millisecond()))
}

/// Reads a time in XML (`2009-10-12T17:50:30.000Z`).
pub(super) fn parse_iso_date(text: &str) -> Option<StoreTime> {
    text.parse::<jiff::Timestamp>().ok().map(|t| StoreTime(t.as_millisecond()))
}

fn kind_of(method: &Method, url: &url::Url, headers: &HeaderMap) -> Kind {
    let has = |name: &str| url.query_pairs().any(|(n, _)| n == name);
    let lists = || has("list-type") || url.query_pairs().any(|(n, v)| n == "comp" && v == "list");
    match *method {
        Method::GET if lists() => Kind::List,
        Method::GET => Kind::Get,
        Method::HEAD => Kind::Head,
        Method::DELETE if has("uploadId") => Kind::Multipart,
        Method::DELETE => Kind::Delete,
        Method::POST if has("delete") => Kind::Delete,
        Method::POST => Kind::Multipart,
        _ if has("partNumber") || has("comp") => Kind::Multipart,
        _ if ["x-amz-copy-source", "x-ms-copy-source", "x-goog-copy-source"]
            .iter()
            .any(|h| headers.contains_key(*h)) =>
        {
            Kind::Copy
        }
        _ => Kind::Put,
    }
}

/// An ETag without its quotes.
pub(in crate::store) fn unquote(etag: &str) -> &str {
    let etag = etag.strip_prefix("W/").unwrap_or(etag);
    etag.strip_prefix('"').and_then(|e| e.strip_suffix('"')).unwrap_or(etag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_dates() {
        let t = Some(StoreTime(784_111_777_000));
        assert_eq!(parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT"), t);
        assert_eq!(parse_iso_date("1994-11-06T08:49:37.000Z"), t);
        assert_eq!(parse_http_date("yesterday"), None);
    }

    #[test]
    fn tells_kinds_apart() {
        let kind = |method: Method, query: &str, copies: bool| {
            let url = url::Url::parse(&format!("http://h/b/k?{query}")).unwrap();
            let mut headers = HeaderMap::new();
            if copies {
                headers.insert("x-amz-copy-source", "/b/k".parse().unwrap());
            }
            kind_of(&method, &url, &headers)
        };
        assert_eq!(kind(Method::GET, "list-type=2", false), Kind::List);
        assert_eq!(kind(Method::GET, "X-Amz-Date=1", false), Kind::Get);
        assert_eq!(kind(Method::PUT, "", false), Kind::Put);
        assert_eq!(kind(Method::PUT, "", true), Kind::Copy);
        assert_eq!(kind(Method::PUT, "partNumber=1&uploadId=u", false), Kind::Multipart);
        assert_eq!(kind(Method::POST, "uploads=", false), Kind::Multipart);
        assert_eq!(kind(Method::POST, "delete=", false), Kind::Delete);
    }

    #[test]
    fn a_connection_that_ends_is_no_refusal() {
        use std::io::{Error, ErrorKind};

        #[derive(Debug, thiserror::Error)]
        #[error("error sending request")]
        struct Outer(#[source] Error);
        let why = |kind, text: &str| explained(&Outer(Error::new(kind, text.to_owned())));
        let text = "peer closed connection without sending TLS close_notify";
        let (said, ended) = why(ErrorKind::UnexpectedEof, text);
        assert_eq!((said, ended), (format!("error sending request: {text}"), Why::Other));
        assert_eq!(why(ErrorKind::UnexpectedEof, "tls handshake eof").1, Why::Other);
        assert_eq!(
            why(ErrorKind::InvalidData, "invalid peer certificate: UnknownIssuer").1,
            Why::Tls
        );
        assert_eq!(why(ErrorKind::Other, "failed to lookup address information").1, Why::Name);
    }
}
