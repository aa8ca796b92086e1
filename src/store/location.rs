//! Where a volume lies, as the user writes it: `s3://bucket/prefix` and its siblings.

use std::sync::Arc;

use super::{Encryption, Knowledge, Known, StoreError, StoreErrorKind};
use crate::config::VolumeOptions;
use crate::credentials::{Places, Provider, Source};
use crate::types::{CredentialsName, KeyPrefix, Secret};

/// The kinds of store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    S3,
    Azure,
    Google,
    File,
}

impl Scheme {
    /// As it stands before `://`.
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::S3 => "s3",
            Scheme::Azure => "az",
            Scheme::Google => "gs",
            Scheme::File => "file",
        }
    }
}

/// A parsed store URL.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Location {
    pub scheme: Scheme,
    /// The bucket, the container, or for `file://` the absolute directory that holds the last
    /// segment of the path.
    pub bucket: String,
    pub prefix: KeyPrefix,
}

impl Location {
    /// Reads a store URL. `file:///a/b/c` is the bucket `/a/b` with the prefix `c/`, so that a
    /// volume's state and objects stay below the directory that the user named.
    ///
    /// # Errors
    /// `Unsupported`, naming the cause and what to write instead.
    pub fn parse(url: &str) -> Result<Location, StoreError> {
        let wrong = |why: &str| {
            Err(StoreError::new(
                StoreErrorKind::Unsupported,
                format!(
                    "the store URL {:?} is not usable: {why}; write s3://bucket/prefix, \
                     az://container/prefix, gs://bucket/prefix or file:///directory",
                    hide_userinfo(url)
                ),
            ))
        };
        let Some((scheme, rest)) = url.split_once("://") else {
            return wrong("it has no scheme");
        };
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "s3" | "s3a" => Scheme::S3,
            "az" | "azure" => Scheme::Azure,
            "gs" => Scheme::Google,
            "file" => Scheme::File,
            other => return wrong(&format!("the scheme {other:?} is unknown")),
        };
        if rest.bytes().any(|b| b < 0x20 || b == 0x7f) {
            return wrong("it holds a control character");
        }
        if scheme == Scheme::File {
            return match file_location(rest) {
                Ok(location) => Ok(location),
                Err(why) => wrong(why),
            };
        }
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return wrong("the bucket is missing");
        }
        if bucket.contains('@') {
            return wrong(
                "credentials do not belong in a URL, which is stored and shown; use the \
                 environment variables of the provider",
            );
        }
        if rest.contains(['?', '#']) {
            return wrong("'?' and '#' are not allowed; settings such as the region are options");
        }
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
        if !bucket.bytes().all(allowed) {
            return wrong("a bucket's name has only letters, digits, '-', '.' and '_'");
        }
        if bucket.len() > 255 || bucket == "." || bucket == ".." {
            return wrong("the bucket's name is not possible");
        }
        match checked_prefix(prefix) {
            Ok(prefix) => Ok(Location { scheme, bucket: bucket.to_owned(), prefix }),
            Err(why) => wrong(why),
        }
    }
}

impl Location {
    /// Scheme and bucket, without the prefix.
    pub(super) fn store(&self) -> String {
        format!("{}://{}", self.scheme.as_str(), self.bucket)
    }
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let slash = if self.bucket.ends_with('/') { "" } else { "/" };
        write!(f, "{}://{}{slash}{}", self.scheme.as_str(), self.bucket, self.prefix)
    }
}

fn checked_prefix(prefix: &str) -> Result<KeyPrefix, &'static str> {
    let body = prefix.strip_suffix('/').unwrap_or(prefix);
    if body.is_empty() {
        return Ok(KeyPrefix::new(""));
    }
    if body.split('/').any(|s| s.is_empty() || s == "." || s == "..") {
        return Err("the prefix has an empty, '.' or '..' segment");
    }
    if body.len() > 512 {
        return Err("the prefix is longer than 512 bytes and leaves no room for file names");
    }
    Ok(KeyPrefix::new(body))
}

fn file_location(rest: &str) -> Result<Location, &'static str> {
    if !rest.starts_with('/') {
        return Err("file:// needs an absolute directory, with three slashes");
    }
    let path = rest.trim_matches('/');
    if path.is_empty() {
        return Err("the file system's root cannot be a store");
    }
    if path.split('/').any(|s| s.is_empty() || s == "." || s == "..") {
        return Err("the directory has an empty, '.' or '..' segment");
    }
    let (bucket, prefix) = match path.rsplit_once('/') {
        Some((parent, last)) => (format!("/{parent}"), last),
        None => ("/".to_owned(), path),
    };
    Ok(Location { scheme: Scheme::File, bucket, prefix: KeyPrefix::new(prefix) })
}

/// Drops `user:password@`, so that an error never repeats it.
fn hide_userinfo(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    match host.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://***@{host}{path}"),
        None => url.to_owned(),
    }
}

/// Keys given by hand, instead of those of the environment.
#[derive(Clone)]
pub struct StaticKeys {
    pub key: String,
    pub secret: Secret,
    pub token: Option<Secret>,
}

/// How a store is reached. Everything has a default that fits the provider.
#[derive(Clone, Default)]
pub struct StoreSettings {
    /// `http://` or `https://`; else the provider's, or what `AWS_ENDPOINT_URL_S3`,
    /// `AWS_ENDPOINT_URL` and their Azure and Google siblings say.
    pub endpoint: Option<String>,
    /// Else `AWS_REGION`, `AWS_DEFAULT_REGION`, `us-east-1`.
    pub region: Option<String>,
    /// `None`: path style for a custom endpoint, else virtual-hosted.
    pub path_style: Option<bool>,
    /// S3 keys; else the environment, web identity, the container's or the machine's role.
    pub keys: Option<StaticKeys>,
    /// The only credentials to use.
    pub credentials: Option<CredentialsName>,
    /// Where they are looked for; `None`: where this process looks.
    pub places: Option<Places>,
    /// S3: for objects that have none of their own, the engine's included.
    pub encryption: Option<Encryption>,
    /// S3: whoever asks pays, not the owner of the bucket.
    pub requester_pays: bool,
    /// What this host knows of stores; by default nothing.
    pub known: Known,
}

impl StoreSettings {
    /// What a volume's options say; without named credentials it is those of the environment that count.
    pub fn of(options: &VolumeOptions) -> StoreSettings {
        StoreSettings {
            endpoint: options.endpoint.clone(),
            region: options.region.clone(),
            path_style: options.path_style,
            keys: None,
            credentials: options.credentials.clone(),
            places: None,
            encryption: Encryption::of(options),
            requester_pays: options.requester_pays,
            known: Known::default(),
        }
    }

    /// Where the keys come from, if it is not the environment.
    pub(super) fn source(&self, scheme: Scheme) -> Result<Option<Arc<Source>>, StoreError> {
        let provider = match scheme {
            Scheme::S3 => Provider::Aws,
            Scheme::Azure => Provider::Azure,
            Scheme::Google => Provider::Google,
            Scheme::File => return Ok(None),
        };
        let places = self.places.clone().unwrap_or_else(Places::of_process);
        let found = match (&self.credentials, &self.keys) {
            (Some(name), _) => places.source(name, provider).map(Some),
            (None, None) if scheme == Scheme::S3 => places.profile_of_environment().transpose(),
            _ => return Ok(None),
        };
        found.map_err(|message| StoreError::new(StoreErrorKind::Denied, message))
    }

    /// What this host knows of a store. What keys may not do looks like something that the store does not do, so those
    /// that have a name have their own.
    pub(super) fn known_of(&self, location: &Location, endpoint: &str) -> Arc<Knowledge> {
        let store = location.store();
        match &self.credentials {
            None => self.known.of(&store, endpoint),
            Some(name) => self.known.of(&format!("{store} (credentials {name})"), endpoint),
        }
    }
}

impl std::fmt::Debug for StoreSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreSettings")
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("path_style", &self.path_style)
            .field("keys", &self.keys.as_ref().map(|k| &k.key))
            .field("credentials", &self.credentials)
            .field("encryption", &self.encryption)
            .field("requester_pays", &self.requester_pays)
            .finish()
    }
}

#[cfg(test)]
mod tests;
