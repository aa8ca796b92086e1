//! Credentials that have a name, as `object_store` wants them: asked before each request, made anew when the place of
//! the name has others.
//!
//! `object_store` itself knows fixed keys, web identity, and the logins of Azure and Google; it gets exactly what the
//! name has, and never looks elsewhere. A role that is assumed with keys and keys that a program prints are ours.

use std::sync::Arc;

use async_trait::async_trait;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredential};
use object_store::azure::{AzureCredential, MicrosoftAzureBuilder};
use object_store::gcp::{GcpCredential, GcpSigningCredential, GoogleCloudStorageBuilder};
use object_store::{CredentialProvider, Result, RetryConfig, StaticCredentialProvider};
use parking_lot::Mutex;

use super::engine::Connector;
use super::refused::CREDENTIALS_TIMEOUT;
use super::renewed::{How, Renewed};
use super::wire::Wire;
use crate::credentials::{Keys, Source};

type Provider<C> = Arc<dyn CredentialProvider<Credential = C>>;
type Make<C> = Box<dyn Fn(&Keys) -> Result<Provider<C>> + Send + Sync>;

/// A provider for the keys of one generation.
struct Made<C> {
    generation: u64,
    keys: Arc<Keys>,
    provider: Provider<C>,
    /// The one before for the same keys, until this one has led to some.
    before: Option<Provider<C>>,
}

/// What a name has now, as one kind of credential.
pub(super) struct Named<C> {
    source: Arc<Source>,
    make: Make<C>,
    made: Mutex<Option<Made<C>>>,
}

impl<C> std::fmt::Debug for Named<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Named").field(self.source.name()).finish()
    }
}

impl<C> Named<C> {
    fn new(
        source: &Arc<Source>,
        make: impl Fn(&Keys) -> Result<Provider<C>> + Send + Sync + 'static,
    ) -> Self {
        Named { source: Arc::clone(source), make: Box::new(make), made: Mutex::default() }
    }

    /// The provider, and the one before where it is not proven yet.
    fn current(&self) -> Result<(u64, Provider<C>, Option<Provider<C>>)> {
        let (generation, keys) = self.source.keys();
        let mut made = self.made.lock();
        if let Some(made) = &*made
            && made.generation == generation
        {
            return Ok((generation, Arc::clone(&made.provider), made.before.clone()));
        }
        let last = made.take();
        let (provider, before) = match ((self.make)(&keys), last) {
            (Ok(provider), last) => {
                let same = last.filter(|last| Arc::ptr_eq(&last.keys, &keys));
                (provider, same.map(|last| last.before.unwrap_or(last.provider)))
            }
            // Its error may repeat what it read.
            (Err(_), Some(last)) => {
                self.source.cannot_be_used(generation, "the provider's keys have another form");
                (last.provider, last.before)
            }
            (Err(error), None) => return Err(error),
        };
        let result = (generation, Arc::clone(&provider), before.clone());
        *made = Some(Made { generation, keys, provider, before });
        Ok(result)
    }

    fn proven(&self, generation: u64) {
        if let Some(made) = &mut *self.made.lock()
            && made.generation == generation
        {
            made.before = None;
        }
    }
}

#[async_trait]
impl<C: std::fmt::Debug + Send + Sync + 'static> CredentialProvider for Named<C> {
    type Credential = C;

    async fn get_credential(&self) -> Result<Arc<C>> {
        let (generation, provider, before) = self.current()?;
        match (provider.get_credential().await, before) {
            (Ok(credential), _) => {
                self.proven(generation);
                Ok(credential)
            }
            // A refusal may have had another reason than these keys, and they may be good for long.
            (Err(error), Some(before)) => before.get_credential().await.map_err(|_| error),
            (Err(error), None) => Err(error),
        }
    }
}

fn retry() -> RetryConfig {
    RetryConfig { max_retries: 1, retry_timeout: CREDENTIALS_TIMEOUT, ..Default::default() }
}

/// Any will do: no request is sent to it.
const NO_BUCKET: &str = "credentials";

impl Named<AwsCredential> {
    /// `region`: of the bucket, for a role where the credentials say none.
    pub(super) fn aws(source: &Arc<Source>, wire: &Wire, region: &str) -> Self {
        let (connector, region) = (Connector::for_credentials(wire), region.to_owned());
        Named::new(source, move |keys| aws(keys, &connector, &region))
    }
}

fn aws(keys: &Keys, connector: &Connector, region: &str) -> Result<Provider<AwsCredential>> {
    if keys.get("AWS_WEB_IDENTITY_TOKEN_FILE").is_some() {
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(NO_BUCKET)
            .with_region(keys.region().unwrap_or(region))
            .with_allow_http(true)
            .with_retry(retry())
            .with_http_connector(connector.clone());
        for (key, variable) in [
            (AmazonS3ConfigKey::WebIdentityTokenFile, "AWS_WEB_IDENTITY_TOKEN_FILE"),
            (AmazonS3ConfigKey::RoleArn, "AWS_ROLE_ARN"),
            (AmazonS3ConfigKey::RoleSessionName, "AWS_ROLE_SESSION_NAME"),
            (AmazonS3ConfigKey::StsEndpoint, "AWS_ENDPOINT_URL_STS"),
        ] {
            if let Some(value) = keys.get(variable) {
                builder = builder.with_config(key, value);
            }
        }
        return Ok(Arc::clone(builder.build()?.credentials()));
    }
    let own = match keys.base() {
        base if !std::ptr::eq(base, keys) => aws(base, connector, region)?,
        _ => match keys.get("AWS_CREDENTIAL_PROCESS") {
            Some(command) => Renewed::by(How::Process { command: command.to_owned() }),
            None => fixed(keys),
        },
    };
    let Some(role) = keys.get("AWS_ROLE_ARN") else { return Ok(own) };
    let region = keys.region().unwrap_or(region).to_owned();
    let endpoint = match keys.get("AWS_ENDPOINT_URL_STS") {
        Some(endpoint) => endpoint.trim_end_matches('/').to_owned(),
        None if region.starts_with("cn-") => format!("https://sts.{region}.amazonaws.com.cn"),
        None => format!("https://sts.{region}.amazonaws.com"),
    };
    Ok(Renewed::by(How::Role {
        own,
        role: role.to_owned(),
        session: keys.get("AWS_ROLE_SESSION_NAME").unwrap_or("s3vol").to_owned(),
        external_id: keys.get("AWS_EXTERNAL_ID").map(str::to_owned),
        endpoint,
        region,
        connector: connector.clone(),
    }))
}

fn fixed(keys: &Keys) -> Provider<AwsCredential> {
    let text = |variable: &str| keys.get(variable).unwrap_or_default().to_owned();
    Arc::new(StaticCredentialProvider::new(AwsCredential {
        key_id: text("AWS_ACCESS_KEY_ID"),
        secret_key: text("AWS_SECRET_ACCESS_KEY"),
        token: keys.get("AWS_SESSION_TOKEN").map(str::to_owned),
    }))
}

impl Named<AzureCredential> {
    pub(super) fn azure(source: &Arc<Source>, wire: &Wire) -> Self {
        let connector = Connector::for_credentials(wire);
        Named::new(source, move |keys| {
            let mut builder = MicrosoftAzureBuilder::new()
                .with_container_name(NO_BUCKET)
                .with_allow_http(true)
                .with_retry(retry())
                .with_http_connector(connector.clone());
            for variable in crate::credentials::VARIABLES {
                if let Some(value) = keys.get(variable).filter(|_| variable.starts_with("AZURE_"))
                    && let Ok(key) = variable.to_ascii_lowercase().parse()
                {
                    builder = builder.with_config(key, value);
                }
            }
            Ok(Arc::clone(builder.build()?.credentials()))
        })
    }
}

fn google(keys: &Keys, connector: &Connector) -> Result<object_store::gcp::GoogleCloudStorage> {
    let mut builder = GoogleCloudStorageBuilder::new()
        .with_bucket_name(NO_BUCKET)
        .with_retry(retry())
        .with_http_connector(connector.clone());
    // One of them: the first counts.
    if let Some(key) = keys.get("GOOGLE_SERVICE_ACCOUNT_KEY") {
        builder = builder.with_service_account_key(key);
    } else if let Some(path) = keys.get("GOOGLE_SERVICE_ACCOUNT") {
        builder = builder.with_service_account_path(path);
    } else if let Some(path) = keys.get("GOOGLE_APPLICATION_CREDENTIALS") {
        builder = builder.with_application_credentials(path);
    }
    builder.build()
}

impl Named<GcpCredential> {
    pub(super) fn google(source: &Arc<Source>, wire: &Wire) -> Self {
        let connector = Connector::for_credentials(wire);
        Named::new(source, move |keys| Ok(Arc::clone(google(keys, &connector)?.credentials())))
    }
}

impl Named<GcpSigningCredential> {
    pub(super) fn google_signing(source: &Arc<Source>, wire: &Wire) -> Self {
        let connector = Connector::for_credentials(wire);
        Named::new(source, move |keys| {
            Ok(Arc::clone(google(keys, &connector)?.signing_credentials()))
        })
    }
}
