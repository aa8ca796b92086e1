//! Azure Blob Storage and Google Cloud Storage.
//!
//! `object_store` signs URLs and lists; the requests are our own, so that every verb carries its
//! condition and its expiry. Versions are unique for each write here (Azure's ETag, Google's
//! generation). `object_store`'s paths cannot hold every key: odd segments are escaped as
//! `%s3vol-x.` with `%XX`, and the marker `dir/` is the object `dir/.s3vol-dir`. Foreign objects
//! whose names are no such path (`a//b`) make a listing fail.

mod google;
mod name;
mod objects;
mod properties;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use object_store::CredentialProvider;
use object_store::azure::{
    AzureAuthorizer, AzureConfigKey, AzureCredential, MicrosoftAzureBuilder,
};
use object_store::client::HttpRequestBody;
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::list::PaginatedListStore;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::signer::{SignedUrlOptions, Signer};
use object_store::{ObjectStore, RetryConfig};
use url::Url;

use super::engine::{Connector, EngineStore, Gate};
use super::meter::{about, host_time};
use super::named::Named;
use super::refused::{self, CREDENTIALS_TIMEOUT};
use super::s3::xml::{may_go_again, refuses_the_late};
use super::s3::{READ_ATTEMPTS, jittered, parse_endpoint};
use super::wire::{Answer, Progress, Wire, authority};
use super::{
    ListPage, ListRequest, Location, Scheme, StoreBackend, StoreError, StoreErrorKind,
    StoreSettings,
};
use crate::clock::boottime;
use crate::credentials::Source;
use crate::types::{KeyPrefix, ObjectKey, StoreTime};

const PLAIN_EXPIRY_MS: i64 = 15 * 60 * 1000;
const CHECK_TIME: Duration = Duration::from_secs(9);
const BUCKET_PROOF: Duration = Duration::from_secs(10);
/// Azure accepts signatures up to 15 minutes off; all of them carry this host's time.
const MAX_SKEW_MS: i64 = 14 * 60 * 1000;

/// The two providers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    Azure,
    Google,
}

/// The account of the keys; what the environment says of the endpoint is that of its own account.
fn of_named_account(
    builder: MicrosoftAzureBuilder,
    source: &Source,
    settings: &StoreSettings,
) -> MicrosoftAzureBuilder {
    let (_, keys) = source.keys();
    let account = keys.get("AZURE_STORAGE_ACCOUNT_NAME").unwrap_or_default().to_owned();
    let own = builder.get_config_value(&AzureConfigKey::AccountName);
    // Settings of the environment that would go round the name.
    let builder =
        builder.with_account(&account).with_skip_signature(false).with_use_emulator(false);
    match own == Some(account.clone()) || settings.endpoint.is_some() {
        true => builder,
        false => builder.with_endpoint(format!("https://{account}.blob.core.windows.net")),
    }
}

#[derive(Clone)]
enum Builder {
    Azure(Box<MicrosoftAzureBuilder>),
    Google(Box<GoogleCloudStorageBuilder>),
}

trait Listing: PaginatedListStore + std::fmt::Debug {}
impl<T: PaginatedListStore + std::fmt::Debug> Listing for T {}

type AzureCredentialProvider = Arc<dyn CredentialProvider<Credential = AzureCredential>>;

/// What signs a header on Azure.
struct Account {
    name: String,
    credentials: AzureCredentialProvider,
}

/// One container or bucket.
pub(super) struct CloudStore {
    dialect: Dialect,
    wire: Wire,
    builder: Builder,
    signer: Arc<dyn Signer>,
    listing: Arc<dyn Listing>,
    /// For requests that carry the account's authorization in a header.
    account: Option<Account>,
    /// Of credentials that have a name.
    source: Option<Arc<Source>>,
    bucket: String,
    endpoint: String,
    /// When (boot time, ms) an answer last proved that the bucket exists.
    proven: AtomicU64,
}

impl std::fmt::Debug for CloudStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CloudStore").field("bucket", &self.bucket).finish_non_exhaustive()
    }
}

/// One request before it is signed.
#[derive(Debug, Default)]
struct Call {
    method: Method,
    key: String,
    query: Vec<(String, String)>,
    headers: Vec<(String, String)>,
    body: Bytes,
    not_after: Option<StoreTime>,
}

impl Call {
    fn new(method: Method, key: &ObjectKey) -> Self {
        Call { method, key: key.as_str().to_owned(), ..Call::default() }
    }

    fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    fn query(mut self, name: &str, value: impl Into<String>) -> Self {
        self.query.push((name.to_owned(), value.into()));
        self
    }

    /// Azure: whether it needs the right to tags.
    fn is_about_tags(&self) -> bool {
        self.headers.iter().any(|(name, _)| name == properties::TAGS)
            || self.query.iter().any(|(name, value)| name == "comp" && value == "tags")
    }
}

impl CloudStore {
    /// `source`: where the keys are, if they have a name.
    pub(super) fn open(
        location: &Location,
        settings: &StoreSettings,
        source: Option<Arc<Source>>,
    ) -> Result<Self, StoreError> {
        let wrong = |e: object_store::Error| StoreError {
            kind: StoreErrorKind::Denied,
            message: format!(
                "the settings for {}:// are not usable: {e}; check the {} environment variables",
                location.scheme.as_str(),
                if location.scheme == Scheme::Azure { "AZURE_STORAGE_" } else { "GOOGLE_" },
            ),
            source: Some(Box::new(e)),
        };
        let retry = RetryConfig {
            max_retries: 1,
            retry_timeout: CREDENTIALS_TIMEOUT,
            ..Default::default()
        };
        if location.scheme == Scheme::Azure {
            let mut builder =
                MicrosoftAzureBuilder::from_env().with_container_name(&location.bucket);
            if let Some(endpoint) = &settings.endpoint {
                builder = builder.with_endpoint(endpoint.clone());
            }
            if let Some(source) = &source {
                builder = of_named_account(builder, source, settings);
            }
            let account = builder.get_config_value(&AzureConfigKey::AccountName);
            let endpoint = match builder.get_config_value(&AzureConfigKey::Endpoint) {
                Some(endpoint) => parse_endpoint(&endpoint)?,
                None => parse_endpoint(&format!(
                    "https://{}.blob.core.windows.net",
                    account.as_deref().unwrap_or("account")
                ))?,
            };
            builder = builder.with_allow_http(true);
            let wire = Wire::new(authority(&endpoint).unwrap_or_default())?;
            if let Some(source) = &source {
                builder = builder.with_credentials(Arc::new(Named::azure(source, &wire)));
            }
            let client = |connector| {
                let builder = builder.clone().with_retry(retry.clone());
                builder.with_http_connector(connector).build().map_err(wrong)
            };
            let signer = Arc::new(client(Connector::for_credentials(&wire))?);
            let listing = Arc::new(client(Connector::for_listing(&wire))?);
            let account =
                account.map(|name| Account { name, credentials: Arc::clone(signer.credentials()) });
            let builder = Builder::Azure(Box::new(builder));
            let mut store =
                Self::new(Dialect::Azure, wire, builder, signer, listing, location, &endpoint);
            store.account = account;
            store.source = source;
            return Ok(store);
        }
        let mut builder = GoogleCloudStorageBuilder::from_env();
        if source.is_some() {
            // Its account and what else would go round the name stay out.
            let base = builder.get_config_value(&GoogleConfigKey::BaseUrl);
            builder = GoogleCloudStorageBuilder::new();
            if let Some(base) = base {
                builder = builder.with_base_url(&base);
            }
        }
        let mut builder = builder.with_bucket_name(&location.bucket);
        if let Some(endpoint) = &settings.endpoint {
            builder = builder.with_base_url(endpoint);
        }
        let endpoint = match builder.get_config_value(&GoogleConfigKey::BaseUrl) {
            Some(endpoint) => parse_endpoint(&endpoint)?,
            None => parse_endpoint("https://storage.googleapis.com")?,
        };
        let wire = Wire::new(authority(&endpoint).unwrap_or_default())?;
        if let Some(source) = &source {
            builder = builder
                .with_credentials(Arc::new(Named::google(source, &wire)))
                .with_signing_credentials(Arc::new(Named::google_signing(source, &wire)));
        }
        let client = |connector| {
            let builder = builder.clone().with_retry(retry.clone());
            builder.with_http_connector(connector).build().map_err(wrong)
        };
        let signer = Arc::new(client(Connector::for_credentials(&wire))?);
        let listing = Arc::new(client(Connector::for_listing(&wire))?);
        let builder = Builder::Google(Box::new(builder));
        let store = Self::new(Dialect::Google, wire, builder, signer, listing, location, &endpoint);
        Ok(CloudStore { source, ..store })
    }

    fn new(
        dialect: Dialect,
        wire: Wire,
        builder: Builder,
        signer: Arc<dyn Signer>,
        listing: Arc<dyn Listing>,
        location: &Location,
        endpoint: &Url,
    ) -> Self {
        CloudStore {
            dialect,
            wire,
            builder,
            signer,
            listing,
            account: None,
            source: None,
            bucket: location.bucket.clone(),
            endpoint: endpoint.as_str().trim_end_matches('/').to_owned(),
            proven: AtomicU64::new(0),
        }
    }

    /// Makes the URL. Its expiry is absolute but given relative to this host's clock.
    async fn sign(&self, call: &Call, expires_ms: i64) -> Result<(Url, HeaderMap), StoreError> {
        let wrong = |what: String| {
            StoreError::new(StoreErrorKind::Unsupported, format!("{}: {what}", self.doing(call)))
        };
        let path = name::path_of(self.dialect, &call.key).map_err(|e| wrong(e.to_string()))?;
        let expires = Duration::from_secs(expires_ms.max(1000).div_euclid(1000).unsigned_abs());
        let mut headers = HeaderMap::new();
        for (name, value) in &call.headers {
            let name = HeaderName::from_bytes(name.as_bytes())
                .map_err(|e| wrong(format!("the attribute name {name:?} is not possible: {e}")))?;
            let value = HeaderValue::from_str(value)
                .map_err(|e| wrong(format!("the value of {name} is not possible: {e}")))?;
            headers.insert(name, value);
        }
        let signing = async {
            match self.dialect {
                // A SAS does not cover the query or the headers.
                Dialect::Azure => {
                    // Reading the head is reading, which only GET is signed for.
                    let method = match call.method {
                        Method::HEAD => Method::GET,
                        _ => call.method.clone(),
                    };
                    let mut url = self.signer.signed_url(method, &path, expires).await?;
                    if !call.query.is_empty() {
                        url.query_pairs_mut().extend_pairs(&call.query);
                    }
                    Ok(url)
                }
                Dialect::Google => {
                    let mut options = SignedUrlOptions::new().with_query(call.query.clone());
                    options.signed_headers = headers
                        .iter()
                        .filter(|(name, _)| name.as_str().starts_with("x-goog-"))
                        .map(|(name, value)| (name.clone(), value.clone()))
                        .collect();
                    let method = call.method.clone();
                    self.signer.signed_url_opts(method, &path, expires, &options).await
                }
            }
        };
        let signed: object_store::Result<Url> =
            match tokio::time::timeout(CREDENTIALS_TIMEOUT, signing).await {
                Ok(signed) => signed,
                Err(_) => return Err(self.no_credentials(None)),
            };
        let url = signed.map_err(|e| self.no_credentials(Some(e)))?;
        match &self.account {
            Some(account) if url.path().contains('%') || call.is_about_tags() => {
                self.authorize(account, call, url, headers).await
            }
            _ => Ok((url, headers)),
        }
    }

    /// `object_store` 0.14 signs the encoded path of a SAS where Azure wants the decoded one, so
    /// names that need encoding carry a signed header instead. Azure refuses it only after 15
    /// minutes; what protects these names against late requests is the condition, whose tokens
    /// are unique here.
    async fn authorize(
        &self,
        account: &Account,
        call: &Call,
        mut url: Url,
        headers: HeaderMap,
    ) -> Result<(Url, HeaderMap), StoreError> {
        url.set_query(None);
        if !call.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&call.query);
        }
        let credential =
            account.credentials.get_credential().await.map_err(|e| self.no_credentials(Some(e)))?;
        let mut request = http::Request::new(HttpRequestBody::empty());
        *request.method_mut() = call.method.clone();
        *request.uri_mut() = url.as_str().parse().map_err(|e| StoreError {
            kind: StoreErrorKind::Unsupported,
            message: format!("{}: no URL can hold this name", self.doing(call)),
            source: Some(Box::<http::uri::InvalidUri>::new(e)),
        })?;
        *request.headers_mut() = headers;
        if !call.body.is_empty() {
            request.headers_mut().insert(http::header::CONTENT_LENGTH, call.body.len().into());
        }
        AzureAuthorizer::new(&credential, &account.name)
            .try_authorize(&mut request)
            .map_err(|e| self.no_credentials(Some(e)))?;
        // A SAS of the user's own was added to the query.
        let (parts, _) = request.into_parts();
        let url = Url::parse(&parts.uri.to_string()).unwrap_or(url);
        Ok((url, parts.headers))
    }

    fn no_credentials(&self, source: Option<object_store::Error>) -> StoreError {
        let cure = match self.dialect {
            Dialect::Azure => {
                "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or give this \
                 machine an identity that may create user delegation keys"
            }
            Dialect::Google => {
                "set GOOGLE_SERVICE_ACCOUNT or GOOGLE_APPLICATION_CREDENTIALS to the file of a \
                 service account, or give this machine one that may sign"
            }
        };
        let (kind, message) = match &self.source {
            Some(named) => refused::no_keys(named, &self.bucket, source.as_ref()),
            None => (
                StoreErrorKind::Denied,
                format!("no credentials to sign requests for {:?}: {cure}", self.bucket),
            ),
        };
        StoreError { kind, message, source: source.map(|e| Box::new(e) as _) }
    }

    /// Signs and sends one request, and once more where the store itself refused it for keys that are others by now: then
    /// it was not applied, whatever it is. Each attempt ends at the request's own time. The answer may be a refusal.
    async fn send(&self, call: &Call, progress: &Progress) -> Result<Answer, StoreError> {
        let before = self.source.as_ref().map(|source| source.keys().0);
        let answer = self.send_once(call, self.expires_ms(call)?, progress).await?;
        let again = may_go_again(&call.method, &answer);
        let others = |before: u64| self.source.as_ref().is_some_and(|s| s.has_others(before));
        match before.filter(|before| again && others(*before)) {
            Some(_) => self.send_once(call, self.expires_ms(call)?, progress).await,
            None => Ok(answer),
        }
    }

    /// What is left of the time of a request.
    fn expires_ms(&self, call: &Call) -> Result<i64, StoreError> {
        let Some(not_after) = call.not_after else { return Ok(PLAIN_EXPIRY_MS) };
        match not_after.0 - host_time().0 {
            // Rounded up to whole seconds, which is what signatures have.
            left if left > 0 => Ok(left + 999),
            _ => Err(StoreError::new(
                StoreErrorKind::Timeout,
                format!("{}: the request expired before it was sent", self.doing(call)),
            )),
        }
    }

    async fn send_once(
        &self,
        call: &Call,
        expires_ms: i64,
        progress: &Progress,
    ) -> Result<Answer, StoreError> {
        let (url, headers) = self.sign(call, expires_ms).await?;
        let answer = self
            .wire
            .send(call.method.clone(), url, headers, call.body.clone(), progress)
            .await
            .map_err(|fault| fault.into_error(&self.doing(call), &self.endpoint))?;
        if answer.status.is_success() {
            self.prove();
        }
        Ok(answer)
    }

    fn prove(&self) {
        self.proven.store(boottime().as_millis() as u64, Ordering::Relaxed);
    }

    fn bucket_is_proven(&self) -> bool {
        let at = Duration::from_millis(self.proven.load(Ordering::Relaxed));
        !at.is_zero() && boottime().saturating_sub(at) < BUCKET_PROOF
    }

    /// Sends a read again while that can help.
    async fn read<T>(
        &self,
        call: &Call,
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
                    tokio::time::sleep(jittered(pause)).await;
                    self.wire.meter().requests().retried();
                    attempt += 1;
                    pause = (pause * 3).min(Duration::from_secs(2));
                }
                other => return other,
            }
        }
    }

    fn doing(&self, call: &Call) -> String {
        format!("{} of {:?} in bucket {:?}", call.method, call.key, self.bucket)
    }

    /// An error of a listing, which `object_store` made.
    fn list_error(&self, prefix: &str, e: object_store::Error) -> StoreError {
        let mut text = e.to_string();
        let mut source = std::error::Error::source(&e);
        while let Some(inner) = source {
            text = format!("{text}: {inner}");
            source = inner.source();
        }
        if refused::is_without_keys(&e) {
            return self.no_credentials(Some(e));
        }
        let has = |words: &[&str]| words.iter().any(|w| text.contains(w));
        let (kind, why) = if has(&["NoSuchBucket", "ContainerNotFound"]) {
            (StoreErrorKind::NoBucket, "the bucket does not exist; create it or correct the URL")
        } else if has(&[
            "AuthenticationFailed",
            "AuthorizationFailure",
            "AccessDenied",
            // Not the digits alone: the text holds the URL and how long it took.
            "status code: 403",
            "status code: 401",
        ]) {
            (StoreErrorKind::Denied, "access denied; check the account, its key, and its rights")
        } else if has(&["dns error", "failed to lookup"]) {
            (StoreErrorKind::Unreachable, "the endpoint's host name cannot be resolved")
        } else if has(&["certificate", "corrupt message", "handshake"]) {
            (StoreErrorKind::Tls, "the TLS connection was refused")
        } else if has(&["Encountered object with invalid path", "failed to parse path"]) {
            (StoreErrorKind::Unsupported, "an object's name cannot be handled here; rename it")
        } else {
            (StoreErrorKind::Unreachable, "the store did not answer properly")
        };
        let error = StoreError {
            kind,
            message: format!("LIST of {prefix:?} in {:?} at {}: {why}", self.bucket, self.endpoint),
            source: Some(Box::new(e)),
        };
        refused::blamed(error, self.source.as_deref())
    }
}

#[async_trait]
impl super::Backend for CloudStore {
    fn engine(&self, prefix: &KeyPrefix) -> Result<EngineStore, StoreError> {
        let gate = Gate::new();
        let connector = Connector::for_engine(&self.wire, &gate).signed_by(self.source.as_ref());
        let built: object_store::Result<Arc<dyn ObjectStore>> = match &self.builder {
            Builder::Azure(builder) => {
                let store = builder.as_ref().clone().with_http_connector(connector).build();
                store.map(|s| Arc::new(PrefixStore::new(s, prefix.as_str())) as _)
            }
            Builder::Google(builder) => {
                let store = builder.as_ref().clone().with_http_connector(connector).build();
                store.map(|s| Arc::new(PrefixStore::new(s, prefix.as_str())) as _)
            }
        };
        let store = built.map_err(|e| StoreError {
            kind: StoreErrorKind::Unsupported,
            message: format!("the engine's store cannot be made: {e}"),
            source: Some(Box::new(e)),
        })?;
        Ok(EngineStore::new(store, gate, None))
    }

    async fn check(&self, prefix: &KeyPrefix) -> Result<ListPage, StoreError> {
        let request = ListRequest {
            prefix: prefix.as_str().to_owned(),
            delimiter: true,
            token: None,
            max_keys: 2,
        };
        let listed = self.list(request, CHECK_TIME).await;
        if let Some(store) = self.wire.clock().now() {
            let ahead = host_time().0 - store.0;
            if ahead.abs() > MAX_SKEW_MS {
                return Err(StoreError {
                    kind: StoreErrorKind::ClockSkew,
                    message: format!(
                        "this host's clock and the one of {} differ by {}; set this \
                         host's clock (for example with NTP) and try again",
                        self.endpoint,
                        about(ahead)
                    ),
                    source: listed.err().map(|e| Box::new(e) as _),
                });
            }
        }
        listed
    }

    async fn expired_delete(&self, key: &ObjectKey, timeout: Duration) -> Result<bool, StoreError> {
        // Neither provider signs for the past, so this one runs out before it is sent.
        let call = Call::new(Method::DELETE, key);
        let progress = Progress::new(timeout);
        let (url, headers) = self.sign(&call, 1000).await?;
        tokio::time::sleep(Duration::from_millis(2500)).await;
        let answer = self
            .wire
            .send(call.method.clone(), url, headers, Bytes::new(), &progress)
            .await
            .map_err(|fault| fault.into_error("sending an expired request", &self.endpoint))?;
        refuses_the_late(&answer, || self.refusal(&call, &answer))
    }
}

/// Paths of `object_store` for keys.
type PathResult = Result<Path, object_store::path::Error>;
