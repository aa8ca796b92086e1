//! A stub of the part of Google Cloud Storage's XML API that the project uses, in memory.
//!
//! Written from Google's documentation, because no emulator speaks this API. Generations are
//! judged and changed under one mutex. Signatures are not verified, but what a signed URL must
//! hold is: its expiry, who signed it, and that every `x-goog-` header was signed. As with Google,
//! finishing a multipart upload overlooks conditions.

#![allow(clippy::result_large_err)] // an error here is the whole answer to a request

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::runtime::Runtime;

use super::s3server::{Listing, MIN_PART, etag_of, list};

pub const EMAIL: &str = "tests@s3vol.iam.gserviceaccount.com";
pub const BUCKET: &str = "test-bucket";
const META: &str = "x-goog-meta-";
/// What is kept with an object and answered with it.
const KEPT: [&str; 6] = [
    "content-type",
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "x-goog-storage-class",
];

type Reply = Response<Full<Bytes>>;
/// No headers of the stub's own.
const NONE: &[(&str, &str)] = &[];

#[derive(Debug, Clone)]
struct Object {
    body: Bytes,
    etag: String,
    generation: u64,
    modified: Timestamp,
    about: About,
}

#[derive(Debug, Clone, Default)]
struct About {
    metadata: BTreeMap<String, String>,
    /// The headers of [`KEPT`], by name.
    kept: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Upload {
    key: String,
    about: About,
    parts: BTreeMap<u32, Bytes>,
}

#[derive(Debug, Default)]
struct Bucket {
    objects: BTreeMap<String, Object>,
    uploads: BTreeMap<String, Upload>,
    generations: u64,
    /// Requests that carried a signed URL, and those with a token.
    signed: u64,
    bearing: u64,
}

/// A running stub; dropping it closes the port and forgets everything.
#[derive(Debug)]
pub struct TestGcs {
    bucket: Arc<Mutex<Bucket>>,
    address: SocketAddr,
    runtime: Option<Runtime>,
}

impl TestGcs {
    /// One on a free loopback port, with one empty bucket.
    pub fn start() -> Self {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("test-gcs")
            .enable_all()
            .build()
            .unwrap();
        let bucket = Arc::<Mutex<Bucket>>::default();
        let shared = Arc::clone(&bucket);
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                tokio::spawn(connection(stream, Arc::clone(&shared)));
            }
        });
        TestGcs { bucket, address, runtime: Some(runtime) }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The names of all objects, as the store has them.
    pub fn names(&self) -> Vec<String> {
        self.bucket.lock().objects.keys().cloned().collect()
    }

    /// Writes an object as another program would.
    pub fn put_foreign(&self, name: &str, body: &'static str) {
        self.bucket.lock().write(name, Bytes::from_static(body.as_bytes()), None, About::default());
    }

    pub fn uploads(&self) -> usize {
        self.bucket.lock().uploads.len()
    }

    /// Requests with a signed URL, and with a bearer token.
    pub fn requests(&self) -> (u64, u64) {
        let bucket = self.bucket.lock();
        (bucket.signed, bucket.bearing)
    }
}

impl Drop for TestGcs {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Not a blocking shutdown: the handle may be dropped inside another runtime.
            runtime.shutdown_background();
        }
    }
}

async fn connection(stream: tokio::net::TcpStream, bucket: Arc<Mutex<Bucket>>) {
    let handler = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let bucket = Arc::clone(&bucket);
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.map(|b| b.to_bytes());
            Ok::<_, Infallible>(match body {
                Ok(body) => Ask::of(parts, body).answer(&mut bucket.lock()),
                Err(_) => refusal(400, "IncompleteBody"),
            })
        }
    });
    // Errors are the client's doing.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), handler)
        .await;
}

fn refusal(status: u16, code: &str) -> Reply {
    let xml = format!(
        "<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>The stub says \
         so.</Message></Error>"
    );
    reply(status, &[("content-type", "application/xml; charset=UTF-8")], xml)
}

fn reply<N: AsRef<str>, V: AsRef<str>>(
    status: u16,
    headers: &[(N, V)],
    body: impl Into<Bytes>,
) -> Reply {
    let mut reply = Response::new(Full::new(body.into()));
    *reply.status_mut() = StatusCode::from_u16(status).unwrap();
    for (name, value) in headers {
        let name = http::HeaderName::from_bytes(name.as_ref().as_bytes()).unwrap();
        reply.headers_mut().insert(name, value.as_ref().parse().unwrap());
    }
    reply
}

/// One request.
struct Ask {
    method: Method,
    bucket: String,
    key: String,
    query: BTreeMap<String, String>,
    headers: HeaderMap,
    body: Bytes,
}

impl Ask {
    fn of(parts: Parts, body: Bytes) -> Self {
        let path = parts.uri.path().trim_start_matches('/');
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        let plain = |text| percent_encoding::percent_decode_str(text).decode_utf8_lossy();
        let query = url::form_urlencoded::parse(parts.uri.query().unwrap_or("").as_bytes());
        Ask {
            bucket: plain(bucket).into_owned(),
            key: plain(key).into_owned(),
            query: query.into_owned().collect(),
            method: parts.method,
            headers: parts.headers,
            body,
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    fn param(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str)
    }

    /// Who asks, and whether in time.
    fn admit(&self, bucket: &mut Bucket) -> Result<(), Reply> {
        if let Some(authorization) = self.header("authorization") {
            let token = authorization.strip_prefix("Bearer ").unwrap_or_default();
            bucket.bearing += 1;
            return match token.split('.').count() {
                3 => Ok(()),
                _ => Err(refusal(401, "AuthenticationRequired")),
            };
        }
        bucket.signed += 1;
        let param = |name| self.param(name).ok_or_else(|| refusal(403, "AccessDenied"));
        let (credential, signature) = (param("X-Goog-Credential")?, param("X-Goog-Signature")?);
        if !credential.starts_with(&format!("{EMAIL}/")) || signature.len() != 512 {
            return Err(refusal(403, "SignatureDoesNotMatch"));
        }
        let date = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", param("X-Goog-Date")?)
            .and_then(|date| date.to_zoned(jiff::tz::TimeZone::UTC))
            .map_err(|_| refusal(400, "InvalidQueryParameterValue"))?;
        let seconds: i64 = param("X-Goog-Expires")?
            .parse()
            .ok()
            .filter(|s| (1..=604_800).contains(s))
            .ok_or_else(|| refusal(400, "InvalidQueryParameterValue"))?;
        let signed: Vec<&str> = param("X-Goog-SignedHeaders")?.split(';').collect();
        if self
            .headers
            .keys()
            .any(|h| h.as_str().starts_with("x-goog-") && !signed.contains(&h.as_str()))
            || signed.iter().any(|name| !self.headers.contains_key(*name))
        {
            return Err(refusal(400, "MalformedSecurityHeader"));
        }
        if Timestamp::now().as_second() > date.timestamp().as_second() + seconds {
            return Err(refusal(400, "ExpiredToken"));
        }
        Ok(())
    }

    fn answer(self, bucket: &mut Bucket) -> Reply {
        let mut reply = match self.admit(bucket).and_then(|()| self.act(bucket)) {
            Ok(reply) | Err(reply) => reply,
        };
        if self.method == Method::HEAD {
            *reply.body_mut() = Full::default();
        }
        reply
    }

    fn act(&self, bucket: &mut Bucket) -> Result<Reply, Reply> {
        if self.bucket != BUCKET {
            return Err(refusal(404, "NoSuchBucket"));
        }
        let upload = self.param("uploadId");
        match (&self.method, self.key.as_str()) {
            (&Method::GET, "") => Ok(self.list(bucket)),
            (_, "") => Err(refusal(405, "MethodNotAllowed")),
            (&Method::GET | &Method::HEAD, key) => self.read(bucket.objects.get(key)),
            (&Method::DELETE, _) if upload.is_some() => {
                self.upload(bucket)?;
                bucket.uploads.remove(upload.unwrap_or_default());
                Ok(reply(204, NONE, ""))
            }
            (&Method::DELETE, key) => {
                let object = bucket.objects.get(key).ok_or_else(|| refusal(404, "NoSuchKey"))?;
                self.judge("x-goog-if-generation-match", Some(object))?;
                bucket.objects.remove(key);
                Ok(reply(204, NONE, ""))
            }
            (&Method::PUT, _) if upload.is_some() => {
                let number = self.param("partNumber").and_then(|n| n.parse().ok());
                let number = number.ok_or_else(|| refusal(400, "InvalidArgument"))?;
                let body = self.body.clone();
                let etag = format!("\"{}\"", etag_of(&body));
                self.upload(bucket)?.parts.insert(number, body);
                Ok(reply(200, &[("etag", etag)], ""))
            }
            (&Method::PUT, key) if self.header("x-goog-copy-source").is_some() => {
                self.copy(bucket, key)
            }
            (&Method::PUT, key) => {
                self.judge("x-goog-if-generation-match", bucket.objects.get(key))?;
                let object = bucket.write(key, self.body.clone(), None, self.about());
                Ok(reply(200, &object.headers(), ""))
            }
            (&Method::POST, key) if self.param("uploads").is_some() => {
                let id = uuid::Uuid::new_v4().simple().to_string();
                let xml = format!(
                    "<InitiateMultipartUploadResult><UploadId>{id}</UploadId>\
                     </InitiateMultipartUploadResult>"
                );
                let (key, parts) = (key.to_owned(), BTreeMap::new());
                bucket.uploads.insert(id, Upload { key, about: self.about(), parts });
                Ok(reply(200, NONE, xml))
            }
            (&Method::POST, key) if upload.is_some() => self.complete(bucket, key),
            _ => Err(refusal(405, "MethodNotAllowed")),
        }
    }

    fn judge(&self, name: &str, current: Option<&Object>) -> Result<(), Reply> {
        let Some(wanted) = self.header(name) else { return Ok(()) };
        let wanted: u64 = wanted.parse().map_err(|_| refusal(400, "InvalidArgument"))?;
        match current.map_or(0, |object| object.generation) == wanted {
            true => Ok(()),
            false => Err(refusal(412, "PreconditionFailed")),
        }
    }

    fn about(&self) -> About {
        let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into();
        About {
            metadata: self
                .headers
                .iter()
                .filter_map(|(name, value)| {
                    Some((name.as_str().strip_prefix(META)?.to_owned(), text(value)))
                })
                .collect(),
            kept: KEPT
                .iter()
                .filter_map(|name| Some(((*name).to_owned(), text(self.headers.get(*name)?))))
                .collect(),
        }
    }

    fn read(&self, object: Option<&Object>) -> Result<Reply, Reply> {
        let object = object.ok_or_else(|| refusal(404, "NoSuchKey"))?;
        self.judge("x-goog-if-generation-match", Some(object))?;
        if self.header("if-match").is_some_and(|e| e != format!("\"{}\"", object.etag)) {
            return Err(refusal(412, "PreconditionFailed"));
        }
        let size = object.body.len();
        let range = self.header("range").and_then(|r| r.strip_prefix("bytes=")?.split_once('-'));
        let Some((first, last)) = range else {
            let mut answer = reply(200, &object.headers(), object.body.clone());
            answer.headers_mut().insert("content-length", size.into());
            return Ok(answer);
        };
        let first: usize = first.parse().map_err(|_| refusal(400, "InvalidArgument"))?;
        let last = last.parse().unwrap_or(usize::MAX).min(size.saturating_sub(1));
        if first >= size {
            return Err(refusal(416, "InvalidRange"));
        }
        let mut answer = reply(206, &object.headers(), object.body.slice(first..=last));
        let range = format!("bytes {first}-{last}/{size}");
        answer.headers_mut().insert("content-range", range.parse().unwrap());
        Ok(answer)
    }

    fn copy(&self, bucket: &mut Bucket, key: &str) -> Result<Reply, Reply> {
        let source = self.header("x-goog-copy-source").unwrap_or_default();
        let source = percent_encoding::percent_decode_str(source).decode_utf8_lossy();
        let name = source.trim_start_matches('/').strip_prefix(&format!("{BUCKET}/"));
        let source = name.and_then(|name| bucket.objects.get(name)).cloned();
        let source = source.ok_or_else(|| refusal(404, "NoSuchKey"))?;
        self.judge("x-goog-copy-source-if-generation-match", Some(&source))?;
        self.judge("x-goog-if-generation-match", bucket.objects.get(key))?;
        let about = match self.header("x-goog-metadata-directive") {
            Some("REPLACE") => self.about(),
            _ => source.about,
        };
        let object = bucket.write(key, source.body, Some(source.etag), about);
        let xml = format!(
            "<CopyObjectResult><LastModified>{}</LastModified><ETag>\"{}\"</ETag>\
             </CopyObjectResult>",
            object.modified, object.etag
        );
        Ok(reply(200, &[("x-goog-generation", object.generation.to_string())], xml))
    }

    fn upload<'b>(&self, bucket: &'b mut Bucket) -> Result<&'b mut Upload, Reply> {
        let id = self.param("uploadId").unwrap_or_default();
        let upload = bucket.uploads.get_mut(id).filter(|u| u.key == self.key);
        upload.ok_or_else(|| refusal(404, "NoSuchUpload"))
    }

    fn complete(&self, bucket: &mut Bucket, key: &str) -> Result<Reply, Reply> {
        let upload = self.upload(bucket)?;
        let text = String::from_utf8_lossy(&self.body).into_owned();
        let inner = |part: &str, name: &str| {
            let (_, rest) = part.split_once(&format!("<{name}>"))?;
            Some(rest.split_once(&format!("</{name}>"))?.0.trim_matches('"').to_owned())
        };
        let mut body = Vec::new();
        let asked: Vec<&str> = text.split("<Part>").skip(1).collect();
        for (i, part) in asked.iter().enumerate() {
            let number: Option<u32> = inner(part, "PartNumber").and_then(|n| n.parse().ok());
            let sent = number.and_then(|n| upload.parts.get(&n));
            let sent = sent.filter(|sent| inner(part, "ETag") == Some(etag_of(sent)));
            let sent = sent.ok_or_else(|| refusal(400, "InvalidPart"))?;
            if i + 1 < asked.len() && sent.len() < MIN_PART {
                return Err(refusal(400, "EntityTooSmall"));
            }
            body.extend_from_slice(sent);
        }
        let about = upload.about.clone();
        bucket.uploads.remove(self.param("uploadId").unwrap_or_default());
        let etag = format!("-{}", uuid::Uuid::new_v4().simple());
        let object = bucket.write(key, body.into(), Some(etag), about);
        let xml = format!(
            "<CompleteMultipartUploadResult><Bucket>{BUCKET}</Bucket><ETag>\"{}\"</ETag>\
             </CompleteMultipartUploadResult>",
            object.etag
        );
        Ok(reply(200, &[("x-goog-generation", object.generation.to_string())], xml))
    }

    fn list(&self, bucket: &Bucket) -> Reply {
        let after = self.param("continuation-token").map(|token| {
            percent_encoding::percent_decode_str(token).decode_utf8_lossy().into_owned()
        });
        let page = list(
            &bucket.objects,
            &Listing {
                prefix: self.param("prefix").unwrap_or_default(),
                delimiter: self.param("delimiter"),
                after_is_position: after.is_some(),
                after: after.as_deref().or_else(|| self.param("start-after")),
                max: self.param("max-keys").and_then(|n| n.parse().ok()).unwrap_or(1000),
            },
        );
        let escape = |text: &String| quick_xml::escape::escape(text.as_str()).into_owned();
        let mut xml = "<?xml version='1.0' encoding='UTF-8'?>\
                       <ListBucketResult xmlns='http://doc.s3.amazonaws.com/2006-03-01'>"
            .to_owned();
        for key in &page.keys {
            let object = &bucket.objects[key];
            let _ = write!(
                xml,
                "<Contents><Key>{}</Key><Generation>{}</Generation>\
                 <MetaGeneration>1</MetaGeneration><LastModified>{:.3}</LastModified>\
                 <ETag>\"{}\"</ETag><Size>{}</Size></Contents>",
                escape(key),
                object.generation,
                object.modified,
                object.etag,
                object.body.len()
            );
        }
        for prefix in &page.prefixes {
            let _ =
                write!(xml, "<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>", escape(prefix));
        }
        if let Some(next) = &page.next {
            let token =
                percent_encoding::utf8_percent_encode(next, percent_encoding::NON_ALPHANUMERIC);
            let _ = write!(xml, "<NextContinuationToken>{token}</NextContinuationToken>");
        }
        let _ =
            write!(xml, "<IsTruncated>{}</IsTruncated></ListBucketResult>", page.next.is_some());
        reply(200, &[("content-type", "application/xml; charset=UTF-8")], xml)
    }
}

impl Object {
    fn headers(&self) -> Vec<(String, String)> {
        let modified = self.modified.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let mut headers = vec![
            ("etag".to_owned(), format!("\"{}\"", self.etag)),
            ("x-goog-generation".to_owned(), self.generation.to_string()),
            ("x-goog-metageneration".to_owned(), "1".to_owned()),
            ("last-modified".to_owned(), modified),
        ];
        headers.extend(self.about.metadata.iter().map(|(n, v)| (format!("{META}{n}"), v.clone())));
        // As Google answers for what is not public.
        for (name, own) in [
            ("cache-control", "private, max-age=0"),
            ("expires", "Thu, 01 Jan 1970 00:00:00 GMT"),
            ("x-goog-storage-class", "STANDARD"),
            ("x-goog-stored-content-encoding", "identity"),
        ] {
            if !self.about.kept.contains_key(name) {
                headers.push((name.to_owned(), own.to_owned()));
            }
        }
        headers.extend(self.about.kept.clone());
        if let Some(stored) = self.about.kept.get("content-encoding") {
            headers.retain(|(name, _)| name != "x-goog-stored-content-encoding");
            headers.push(("x-goog-stored-content-encoding".to_owned(), stored.clone()));
        }
        headers
    }
}

impl Bucket {
    fn write(&mut self, key: &str, body: Bytes, etag: Option<String>, about: About) -> Object {
        let modified = Timestamp::now();
        self.generations = (self.generations + 1).max(modified.as_microsecond().unsigned_abs());
        let object = Object {
            etag: etag.unwrap_or_else(|| etag_of(&body)),
            body,
            generation: self.generations,
            modified,
            about,
        };
        self.objects.insert(key.to_owned(), object.clone());
        object
    }
}
