//! S3 and everything that speaks it.
//!
//! Every request for a user object is our own: signed in its query, so that the server refuses it
//! after its expiry however late it arrives, and with the raw key. `object_store` gives the
//! credentials and serves the engine. Signatures carry the *store's* time, so a host whose clock is
//! off can still work here.

mod check;
mod dialect;
mod groups;
pub(super) mod objects;
pub(super) mod properties;
mod stream;
pub(super) mod xml;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use object_store::RetryConfig;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredential, AwsCredentialProvider};
use rusty_s3::{Bucket, UrlStyle};
use url::Url;

use super::engine::{Connector, EngineStore, Gate};
use super::meter::host_time;
use super::named::Named;
use super::refused::{self, CREDENTIALS_TIMEOUT};
use super::wire::{Answer, Progress, Wire, authority};
use super::{
    Condition, Doomed, Encryption, Groups, Knowledge, ListPage, Location, StoreError,
    StoreErrorKind, StoreSettings,
};
use crate::clock::boottime;
use crate::credentials::{Source, is_visible};
use crate::types::{KeyPrefix, StoreTime};
use xml::{may_go_again, refuses_the_late};

/// How long a signature without an expiry of its own is valid: longer than any clock jitter, short
/// enough that a request in a log is soon worthless.
const PLAIN_EXPIRY: i64 = 15 * 60;
/// A read that was signed by a clock so near to the store's is not refused because of its time.
const MOST_APART_MS: i64 = 60 * 1000;
/// For this long after an answer that proved the bucket, "no such key" needs no second look.
const BUCKET_PROOF: Duration = Duration::from_secs(10);
/// Reads are tried this often before the caller hears of it.
pub(super) const READ_ATTEMPTS: u32 = 5;

/// One bucket.
pub(super) struct S3Store {
    wire: Wire,
    bucket: Bucket,
    /// `None`: anonymous.
    credentials: Option<AwsCredentialProvider>,
    /// Of those that have a name.
    source: Option<Arc<Source>>,
    builder: AmazonS3Builder,
    endpoint: String,
    /// For objects that have none of their own.
    encryption: Option<Encryption>,
    requester_pays: bool,
    /// Says how ETags are written in conditions: Ceph RGW 16 wants them without quotes.
    known: Arc<Knowledge>,
    /// When (boot time, ms) an answer last proved that the bucket exists.
    proven: AtomicU64,
}

impl std::fmt::Debug for S3Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3Store").field("bucket", &self.bucket.base_url().as_str()).finish()
    }
}

/// One request before it is signed.
#[derive(Debug, Clone, Default)]
struct Call<'a> {
    method: Method,
    /// `None`: the bucket itself.
    key: Option<&'a str>,
    query: Vec<(&'a str, String)>,
    headers: Vec<(String, String)>,
    body: Bytes,
    not_after: Option<StoreTime>,
}

impl<'a> Call<'a> {
    fn new(method: Method, key: &'a str) -> Self {
        Call { method, key: Some(key), ..Call::default() }
    }

    fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    fn query(mut self, name: &'a str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }
}

impl S3Store {
    /// `source`: where the keys are, if they have a name.
    pub(super) fn open(
        location: &Location,
        settings: &StoreSettings,
        source: Option<Arc<Source>>,
    ) -> Result<Self, StoreError> {
        let env = AmazonS3Builder::from_env();
        let value = |key| env.get_config_value(&key).filter(|v: &String| !v.trim().is_empty());
        let custom = settings
            .endpoint
            .clone()
            .or_else(|| value(AmazonS3ConfigKey::S3Endpoint))
            .or_else(|| value(AmazonS3ConfigKey::Endpoint));
        let region = settings
            .region
            .clone()
            .or_else(|| Some(source.as_ref()?.keys().1.region()?.to_owned()))
            .or_else(|| value(AmazonS3ConfigKey::Region))
            .or_else(|| value(AmazonS3ConfigKey::DefaultRegion))
            .unwrap_or_else(|| "us-east-1".to_owned());
        let endpoint = match &custom {
            Some(text) => parse_endpoint(text)?,
            None => parse_endpoint(&format!("https://s3.{region}.amazonaws.com"))?,
        };
        let virtual_hosted = value(AmazonS3ConfigKey::VirtualHostedStyleRequest);
        let path_style = settings
            .path_style
            .or_else(|| virtual_hosted.map(|v| !v.eq_ignore_ascii_case("true") && v != "1"))
            // A dot or a capital in the name fits neither certificates nor host names.
            .unwrap_or_else(|| {
                custom.is_some()
                    || location.bucket.contains(['.', '_'])
                    || location.bucket.bytes().any(|b| b.is_ascii_uppercase())
            });
        let style = if path_style { UrlStyle::Path } else { UrlStyle::VirtualHost };
        let bucket = Bucket::new(endpoint.clone(), style, location.bucket.clone(), region.clone())
            .map_err(|e| {
                StoreError::new(
                    StoreErrorKind::Unsupported,
                    format!(
                        "the bucket {:?} cannot be part of the host name of {endpoint} ({e:?}); \
                             set path_style=true",
                        location.bucket
                    ),
                )
            })?;
        let no_host = || {
            StoreError::new(
                StoreErrorKind::Unsupported,
                format!("the endpoint {endpoint} has no host"),
            )
        };
        let unusable = |e: object_store::Error| StoreError {
            kind: StoreErrorKind::Denied,
            message: format!(
                "the S3 settings are not usable: {e}; check the AWS_ environment variables"
            ),
            source: Some(Box::new(e)),
        };
        let wire = Wire::new(authority(bucket.base_url()).ok_or_else(no_host)?)?;

        let base = bucket.base_url().as_str().trim_end_matches('/').to_owned();
        let endpoint_text = endpoint.as_str().trim_end_matches('/').to_owned();
        let mut builder = env
            .with_bucket_name(&location.bucket)
            .with_region(&region)
            .with_allow_http(true)
            .with_virtual_hosted_style_request(!path_style)
            .with_config(
                AmazonS3ConfigKey::S3Endpoint,
                // With virtual hosting `object_store` wants the bucket in the endpoint.
                if path_style { endpoint_text.clone() } else { base },
            );
        // The name that the AWS tools use; `object_store` knows only AWS_METADATA_ENDPOINT.
        if builder.get_config_value(&AmazonS3ConfigKey::MetadataEndpoint).is_none()
            && let Ok(metadata) = std::env::var("AWS_EC2_METADATA_SERVICE_ENDPOINT")
            && !metadata.trim().is_empty()
        {
            builder = builder.with_metadata_endpoint(metadata.trim().trim_end_matches('/'));
        }
        if let Some(keys) = &settings.keys {
            builder =
                builder.with_access_key_id(&keys.key).with_secret_access_key(keys.secret.expose());
            if let Some(token) = &keys.token {
                builder = builder.with_token(token.expose());
            }
        }
        if let Some(source) = &source {
            // Before everything that the environment says.
            let named = Named::aws(source, &wire, &region);
            builder = builder.with_credentials(Arc::new(named)).with_skip_signature(false);
        }
        if settings.requester_pays {
            builder = builder.with_request_payer(true);
        }
        if let Some(encryption) = &settings.encryption {
            builder = engine_encryption(builder, encryption).map_err(unusable)?;
        }
        for key in
            [AmazonS3ConfigKey::AccessKeyId, AmazonS3ConfigKey::Token, AmazonS3ConfigKey::Region]
        {
            let value = builder.get_config_value(&key).unwrap_or_default();
            if !is_visible(&value) {
                return Err(StoreError::new(
                    StoreErrorKind::Denied,
                    format!(
                        "the setting {} has a character that is not visible ASCII; correct it",
                        key.as_ref()
                    ),
                ));
            }
        }
        let anonymous = source.is_none()
            && builder
                .get_config_value(&AmazonS3ConfigKey::SkipSignature)
                .is_some_and(|v| v.eq_ignore_ascii_case("true") || v == "1");
        let retry = RetryConfig {
            max_retries: 1,
            retry_timeout: CREDENTIALS_TIMEOUT,
            ..Default::default()
        };
        let client = builder
            .clone()
            .with_retry(retry)
            .with_http_connector(Connector::for_credentials(&wire))
            .build()
            .map_err(unusable)?;
        let credentials = (!anonymous).then(|| Arc::clone(client.credentials()));
        if let Some(credentials) = &credentials {
            builder = builder.with_credentials(Arc::clone(credentials));
        }
        let known = settings.known_of(location, &endpoint_text);
        Ok(S3Store {
            wire,
            bucket,
            credentials,
            source,
            builder,
            endpoint: endpoint_text,
            encryption: settings.encryption.clone(),
            requester_pays: settings.requester_pays,
            known,
            proven: AtomicU64::new(0),
        })
    }

    async fn credential(&self) -> Result<Option<Arc<AwsCredential>>, StoreError> {
        let Some(provider) = &self.credentials else { return Ok(None) };
        let none = |source: Option<object_store::Error>| {
            let (kind, message) = match &self.source {
                Some(named) => refused::no_keys(named, self.bucket.name(), source.as_ref()),
                None => (
                    StoreErrorKind::Denied,
                    format!(
                        "no credentials for the bucket {:?}: set AWS_ACCESS_KEY_ID and \
                         AWS_SECRET_ACCESS_KEY (for the managed plugin: docker plugin set), or give \
                         this machine or container a role",
                        self.bucket.name()
                    ),
                ),
            };
            StoreError { kind, message, source: source.map(|e| Box::new(e) as _) }
        };
        match tokio::time::timeout(CREDENTIALS_TIMEOUT, provider.get_credential()).await {
            Ok(Ok(credential)) => Ok(Some(credential)),
            Ok(Err(e)) => Err(none(Some(e))),
            Err(_) => Err(none(None)),
        }
    }

    /// The store's clock; asks once with an unsigned request when it is unknown.
    async fn store_time(&self, progress: &Progress) -> Result<StoreTime, StoreError> {
        if let Some(now) = self.wire.clock().now() {
            return Ok(now);
        }
        let url = self.bucket.base_url().clone();
        self.wire
            .send(Method::HEAD, url, HeaderMap::new(), Bytes::new(), progress)
            .await
            .map_err(|fault| fault.into_error("asking for the time", &self.endpoint))?;
        // Servers without a Date get this host's clock: better than asking each time.
        Ok(self.wire.clock().now().unwrap_or_else(|| {
            let now = host_time();
            self.wire.clock().observe(now);
            now
        }))
    }

    /// Whether the store refuses that request with a signature that has expired.
    async fn refuses_expired(
        &self,
        call: &Call<'_>,
        timeout: Duration,
    ) -> Result<bool, StoreError> {
        let progress = Progress::new(timeout);
        let credential = self.credential().await?;
        let signed_at = self.store_time(&progress).await?.0.div_euclid(1000) - 120;
        let signed = self.sign(call, self.url(call)?, credential.as_deref(), signed_at, 60)?;
        let answer = self.send_signed(call, signed, &progress).await?;
        refuses_the_late(&answer, || self.refusal(call, &answer))
    }

    /// Of the object, or of the bucket.
    fn url(&self, call: &Call<'_>) -> Result<Url, StoreError> {
        match call.key {
            Some(key) => self.object_url(key),
            None => Ok(self.bucket.base_url().clone()),
        }
    }

    /// The URL of one request with its signature, and the headers that it covers.
    async fn signed(
        &self,
        call: &Call<'_>,
        progress: &Progress,
    ) -> Result<(Url, HeaderMap), StoreError> {
        let credential = self.credential().await?;
        let now = self.store_time(progress).await?;
        self.signed_at(call, credential.as_deref(), now)
    }

    /// The same as of `now`.
    fn signed_at(
        &self,
        call: &Call<'_>,
        credential: Option<&AwsCredential>,
        now: StoreTime,
    ) -> Result<(Url, HeaderMap), StoreError> {
        let url = self.url(call)?;
        let secs = now.0.div_euclid(1000);
        let expires = match call.not_after {
            Some(not_after) if not_after <= now => {
                return Err(StoreError::new(
                    StoreErrorKind::Timeout,
                    format!("{}: the request expired before it was sent", self.doing(call)),
                ));
            }
            Some(not_after) => ((not_after.0 + 999).div_euclid(1000) - secs).max(1),
            None => PLAIN_EXPIRY,
        };
        self.sign(call, url, credential, secs, expires)
    }

    /// Signs and sends one request, once. The answer may be a refusal.
    async fn send(&self, call: &Call<'_>, progress: &Progress) -> Result<Answer, StoreError> {
        if let Some(answer) = self.read_before_the_time(call, progress).await? {
            return Ok(answer);
        }
        let before = self.source.as_ref().map(|source| source.keys().0);
        let signed = self.signed(call, progress).await?;
        let answer = self.send_signed(call, signed, progress).await?;
        let again = may_go_again(&call.method, &answer);
        match before.filter(|before| again && self.has_other_keys(*before)) {
            Some(_) => {
                let signed = self.signed(call, progress).await?;
                self.send_signed(call, signed, progress).await
            }
            None => Ok(answer),
        }
    }

    fn has_other_keys(&self, before: u64) -> bool {
        self.source.as_ref().is_some_and(|source| source.has_others(before))
    }

    /// The first answer tells the store's time, and a read need not wait for it: it is signed by this host's
    /// clock. `None`: that may be why it was refused, or it changes something and has to wait.
    async fn read_before_the_time(
        &self,
        call: &Call<'_>,
        progress: &Progress,
    ) -> Result<Option<Answer>, StoreError> {
        let only_reads = matches!(call.method, Method::GET | Method::HEAD);
        if !only_reads || call.not_after.is_some() || self.wire.clock().now().is_some() {
            return Ok(None);
        }
        let before = self.source.as_ref().map_or(0, |source| source.keys().0);
        let credential = self.credential().await?;
        let ours = host_time();
        let signed = self.signed_at(call, credential.as_deref(), ours)?;
        let answer = self.send_signed(call, signed, progress).await?;
        let refused = refused::is_about_keys(answer.status);
        let is_off = |now: StoreTime| (now.0 - ours.0).abs() > MOST_APART_MS;
        // Sent again, it has the keys that lie there by now.
        let by_its_keys = refused && self.has_other_keys(before);
        let by_its_time = refused && self.wire.clock().now().is_some_and(is_off);
        Ok((!by_its_time && !by_its_keys).then_some(answer))
    }

    /// Sends a signed request, once.
    async fn send_signed(
        &self,
        call: &Call<'_>,
        (url, headers): (Url, HeaderMap),
        progress: &Progress,
    ) -> Result<Answer, StoreError> {
        let doing = self.doing(call);
        let answer = self
            .wire
            .send(call.method.clone(), url, headers, call.body.clone(), progress)
            .await
            .map_err(|fault| fault.into_error(&doing, &self.endpoint))?;
        if answer.status.is_success() {
            self.proven.store(boottime().as_millis() as u64, Ordering::Relaxed);
        }
        Ok(answer)
    }

    /// Makes the URL with its signature, and the headers that it covers.
    fn sign(
        &self,
        call: &Call<'_>,
        url: Url,
        credential: Option<&AwsCredential>,
        now_secs: i64,
        expires: i64,
    ) -> Result<(Url, HeaderMap), StoreError> {
        let wrong = |what: String| {
            StoreError::new(StoreErrorKind::Unsupported, format!("{}: {what}", self.doing(call)))
        };
        let mut query: Vec<(&str, &str)> =
            call.query.iter().map(|(n, v)| (*n, v.as_str())).collect();
        query.sort_unstable();
        let mut sorted: Vec<(&str, &str)> =
            call.headers.iter().map(|(n, v)| (n.as_str(), v.trim())).collect();
        if self.requester_pays {
            sorted.push(("x-amz-request-payer", "requester"));
        }
        sorted.sort_unstable();
        let mut headers = HeaderMap::new();
        for (name, value) in &sorted {
            let name = HeaderName::from_bytes(name.as_bytes())
                .map_err(|e| wrong(format!("the attribute name {name:?} is not possible: {e}")))?;
            let value = HeaderValue::from_bytes(value.as_bytes())
                .map_err(|e| wrong(format!("the value of {name} is not possible: {e}")))?;
            headers.insert(name, value);
        }
        let url = match credential {
            Some(credential) => {
                let date = jiff::Timestamp::from_second(now_secs)
                    .map_err(|e| wrong(format!("the store's clock makes no sense: {e}")))?;
                rusty_s3::signing::sign(
                    &date,
                    method_of(&call.method),
                    url,
                    &credential.key_id,
                    &credential.secret_key,
                    credential.token.as_deref(),
                    self.bucket.region(),
                    expires.unsigned_abs(),
                    query.iter().copied(),
                    sorted.iter().copied(),
                )
            }
            None => {
                let mut url = url;
                if !query.is_empty() {
                    url.query_pairs_mut().extend_pairs(query);
                }
                url
            }
        };
        Ok((url, headers))
    }

    /// Keys that a URL cannot hold are refused here: a URL with a `..` segment names another
    /// object, and one without a key names the bucket.
    fn object_url(&self, key: &str) -> Result<Url, StoreError> {
        if key.is_empty() || key.split('/').any(|s| s == "." || s == "..") {
            return Err(StoreError::new(
                StoreErrorKind::Unsupported,
                format!(
                    "the key {key:?} is empty or has a '.' or '..' segment, which no HTTP client \
                     can address; rename the object with a tool of the store itself"
                ),
            ));
        }
        Ok(self.bucket.object_url(key))
    }

    /// Sends a read again while that can help. `done` judges an answer.
    async fn read<T>(
        &self,
        call: &Call<'_>,
        timeout: Duration,
        mut done: impl FnMut(Answer) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let progress = Progress::new(timeout);
        let mut pause = Duration::from_millis(50);
        let mut attempt = 1;
        loop {
            let result = match self.send(call, &progress).await {
                Ok(answer) => done(answer),
                Err(e) => Err(e),
            };
            match result {
                Err(e)
                    if e.is_transient()
                        && attempt < READ_ATTEMPTS
                        && progress.left() > pause * 2 =>
                {
                    tracing::debug!(attempt, error = %e, "read is tried again");
                    tokio::time::sleep(jittered(pause)).await;
                    self.wire.meter().requests().retried();
                    attempt += 1;
                    pause = (pause * 3).min(Duration::from_secs(2));
                }
                other => return other,
            }
        }
    }

    /// Whether the bucket was seen so lately that a missing key is no missing bucket.
    fn bucket_is_proven(&self) -> bool {
        let at = Duration::from_millis(self.proven.load(Ordering::Relaxed));
        !at.is_zero() && boottime().saturating_sub(at) < BUCKET_PROOF
    }

    fn doing(&self, call: &Call<'_>) -> String {
        match call.key {
            Some(key) => format!("{} of {:?} in bucket {:?}", call.method, key, self.bucket.name()),
            None => format!("{} of bucket {:?}", call.method, self.bucket.name()),
        }
    }

    /// The error that a refusing answer means.
    fn refusal(&self, call: &Call<'_>, answer: &Answer) -> StoreError {
        let error = xml::refusal(&self.doing(call), &self.endpoint, self.bucket.name(), answer);
        refused::blamed(error, self.source.as_deref())
    }
}

#[async_trait]
impl super::Backend for S3Store {
    fn engine(&self, prefix: &KeyPrefix) -> Result<EngineStore, StoreError> {
        let gate = Gate::new();
        let store = self
            .builder
            .clone()
            .with_http_connector(
                Connector::for_engine(&self.wire, &gate)
                    .spelling(&self.known)
                    .signed_by(self.source.as_ref()),
            )
            .with_disable_bulk_delete(self.known.groups() == Some(Groups::No))
            .build()
            .map_err(|e| StoreError {
                kind: StoreErrorKind::Unsupported,
                message: format!("the engine's store cannot be made: {e}"),
                source: Some(Box::new(e)),
            })?;
        let store: Arc<dyn object_store::ObjectStore> = match prefix.as_str() {
            "" => Arc::new(store),
            prefix => Arc::new(object_store::prefix::PrefixStore::new(store, prefix)),
        };
        Ok(EngineStore::new(store, gate, None))
    }

    async fn check(&self, prefix: &KeyPrefix) -> Result<ListPage, StoreError> {
        self.check_bucket(prefix).await
    }

    async fn expired_delete(
        &self,
        key: &crate::types::ObjectKey,
        timeout: Duration,
    ) -> Result<bool, StoreError> {
        let call = Call::new(Method::DELETE, key.as_str());
        self.refuses_expired(&call, timeout).await
    }

    async fn expired_group(
        &self,
        key: &crate::types::ObjectKey,
        timeout: Duration,
    ) -> Result<bool, StoreError> {
        let one = Doomed { key: key.clone(), condition: Condition::None };
        self.refuses_expired(&groups::group_call(&[&one]), timeout).await
    }
}

/// The engine's objects are encrypted like the others. (The type of these settings is private there.)
fn engine_encryption(
    builder: AmazonS3Builder,
    encryption: &Encryption,
) -> object_store::Result<AmazonS3Builder> {
    let builder = builder.with_config("aws_server_side_encryption".parse()?, &encryption.algorithm);
    match &encryption.key_id {
        Some(key) => Ok(builder.with_config("aws_sse_kms_key_id".parse()?, key)),
        None => Ok(builder),
    }
}

fn quoted(etag: &str) -> String {
    format!("\"{etag}\"")
}

fn method_of(method: &Method) -> rusty_s3::Method {
    match *method {
        Method::HEAD => rusty_s3::Method::Head,
        Method::PUT => rusty_s3::Method::Put,
        Method::POST => rusty_s3::Method::Post,
        Method::DELETE => rusty_s3::Method::Delete,
        _ => rusty_s3::Method::Get,
    }
}

/// Spreads retries of several readers over half the pause.
pub(super) fn jittered(pause: Duration) -> Duration {
    let random = uuid::Uuid::new_v4().as_u128() as u32;
    pause / 2 + pause.mul_f64(f64::from(random) / f64::from(u32::MAX) / 2.0)
}

pub(super) fn parse_endpoint(text: &str) -> Result<Url, StoreError> {
    let wrong = |why: String| {
        StoreError::new(
            StoreErrorKind::Unsupported,
            format!(
                "the endpoint is not usable: {why}; write for example https://minio.example:9000"
            ),
        )
    };
    let url = Url::parse(text.trim()).map_err(|e| wrong(format!("{e}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong(format!("it starts with {:?}, not http:// or https://", url.scheme())));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(wrong("it has no host".to_owned()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("it holds credentials; use the AWS_ environment variables".to_owned()));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("it has a '?' or '#'".to_owned()));
    }
    Ok(url)
}

/// Whether a status says that this request was certainly not applied for good.
pub(super) fn is_transient(status: StatusCode) -> bool {
    status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
        || matches!(
            status,
            StatusCode::CONFLICT | StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
        )
}

#[cfg(test)]
mod tests;
