//! Keys for some time: those of a role that is assumed, and those that a program prints.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http_body_util::BodyExt;
use object_store::aws::{AwsAuthorizer, AwsCredential};
use object_store::client::{HttpRequestBody, HttpService};
use object_store::{CredentialProvider, Result};
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::io::AsyncReadExt;

use super::StoreErrorKind;
use super::engine::Connector;
use super::refused::{CREDENTIALS_TIMEOUT, Failed, kind_of};
use crate::clock::{boottime, now};
use crate::credentials::is_visible;

/// Keys are renewed so long before they expire, or after half of their time.
const AHEAD: Duration = Duration::from_secs(5 * 60);
/// Those that cannot be renewed are tried again after this.
const AGAIN: Duration = Duration::from_secs(10);
/// Longer answers are none.
const ANSWER: usize = 64 << 10;

/// How keys are got.
pub(super) enum How {
    /// With keys of one's own.
    Role {
        own: Arc<dyn CredentialProvider<Credential = AwsCredential>>,
        role: String,
        session: String,
        external_id: Option<String>,
        endpoint: String,
        region: String,
        connector: Connector,
    },
    /// A program and its arguments, as the AWS tools call it.
    Process { command: String },
}

struct Held {
    keys: Arc<AwsCredential>,
    /// By boot time; `None`: they do not expire.
    renew: Option<Duration>,
    expires: Option<Duration>,
    /// That they cannot be renewed.
    is_told: bool,
}

/// The keys, until they are to be renewed.
pub(super) struct Renewed(Arc<Inner>);

struct Inner {
    how: How,
    held: Mutex<Option<Held>>,
    /// Held by the one who gets others.
    renewing: Arc<tokio::sync::Mutex<()>>,
}

impl std::fmt::Debug for Renewed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Renewed")
    }
}

impl Renewed {
    pub(super) fn by(how: How) -> Arc<dyn CredentialProvider<Credential = AwsCredential>> {
        let (held, renewing) = (Mutex::default(), Arc::default());
        Arc::new(Renewed(Arc::new(Inner { how, held, renewing })))
    }
}

fn is_past(at: Option<Duration>) -> bool {
    at.is_some_and(|at| boottime() >= at)
}

impl Inner {
    /// Keys that have not expired, and whether they are to be renewed.
    fn good(&self) -> Option<(Arc<AwsCredential>, bool)> {
        let held = self.held.lock();
        let held = held.as_ref().filter(|held| !is_past(held.expires))?;
        Some((Arc::clone(&held.keys), is_past(held.renew)))
    }

    async fn renew(&self) -> Result<Arc<AwsCredential>> {
        let got = match &self.how {
            How::Process { command } => process(command).await,
            role @ How::Role { .. } => assume(role).await,
        };
        let at = boottime();
        let mut held = self.held.lock();
        match got {
            Ok((keys, left)) => {
                let keys = Arc::new(keys);
                *held = Some(Held {
                    keys: Arc::clone(&keys),
                    renew: left.map(|left| at + left.saturating_sub(AHEAD).max(left / 2)),
                    expires: left.map(|left| at + left),
                    is_told: false,
                });
                Ok(keys)
            }
            Err(error) => {
                if let Some(held) = held.as_mut() {
                    held.renew = Some(at + AGAIN);
                    if !std::mem::replace(&mut held.is_told, true) {
                        tracing::warn!(%error, "keys cannot be renewed; those before are used until they expire");
                    }
                }
                Err(error)
            }
        }
    }
}

#[async_trait]
impl CredentialProvider for Renewed {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> Result<Arc<AwsCredential>> {
        let inner = &self.0;
        if let Some((keys, is_due)) = inner.good() {
            // Nobody waits for others while these are good.
            if is_due && let Ok(one) = Arc::clone(&inner.renewing).try_lock_owned() {
                let inner = Arc::clone(inner);
                tokio::spawn(async move {
                    // It has told an error, and these keys go on.
                    let _ = inner.renew().await;
                    drop(one);
                });
            }
            return Ok(keys);
        }
        // Whoever comes meanwhile waits for the same answer.
        let _one = inner.renewing.lock().await;
        match inner.good() {
            Some((keys, _)) => Ok(keys),
            None => inner.renew().await,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Printed {
    version: u32,
    access_key_id: String,
    secret_access_key: String,
    session_token: Option<String>,
    expiration: Option<String>,
}

/// What is left until a time in RFC 3339; `None`: it is none.
fn left(expiration: &str) -> Option<Duration> {
    let at: jiff::Timestamp = expiration.parse().ok()?;
    Some(Duration::from_secs(at.as_second().saturating_sub(now().secs).max(0).unsigned_abs()))
}

/// Keys that can be signed with.
fn fit(keys: AwsCredential, failed: impl FnOnce(String) -> Failed) -> Result<AwsCredential> {
    let token = keys.token.as_deref().unwrap_or_default();
    let is_plain = [keys.key_id.as_str(), &keys.secret_key, token].into_iter().all(is_visible);
    match is_plain {
        true => Ok(keys),
        false => Err(failed("its keys have characters that no key has".to_owned()).into()),
    }
}

type Got = (AwsCredential, Option<Duration>);

async fn process(command: &str) -> Result<Got> {
    let words = words(command);
    let (program, arguments) = words.split_first().map_or(("", &[][..]), |(p, a)| (p.as_str(), a));
    let failed_as = |kind, why: String| Failed {
        what: format!("the program for credentials {program:?}"),
        why,
        kind,
    };
    let failed = |why: String| failed_as(StoreErrorKind::Denied, why);
    let mut started = tokio::process::Command::new(program);
    started.args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    // What it prints is all that it has to do with us.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(crate::sys::is_secret_variable) {
            started.env_remove(name);
        }
    }
    started.stdout(Stdio::piped());
    let run = async {
        let mut child = started.spawn()?;
        let mut printed = Vec::new();
        if let Some(out) = child.stdout.take() {
            out.take(ANSWER as u64).read_to_end(&mut printed).await?;
        }
        Ok::<_, std::io::Error>((child.wait().await?, printed))
    };
    let (status, printed) = tokio::time::timeout(CREDENTIALS_TIMEOUT, run)
        .await
        .map_err(|_| {
            let why = format!("no answer within {} s", CREDENTIALS_TIMEOUT.as_secs());
            failed_as(StoreErrorKind::Timeout, why)
        })?
        .map_err(|e| failed(format!("it cannot be started ({e})")))?;
    if !status.success() {
        return Err(failed(format!("it ended with {status}")).into());
    }
    let printed: Printed = serde_json::from_slice(&printed)
        .ok()
        .filter(|printed: &Printed| printed.version == 1)
        .ok_or_else(|| failed("it did not print credentials of version 1 as JSON".to_owned()))?;
    let left = match &printed.expiration {
        Some(text) => {
            Some(left(text).ok_or_else(|| failed("its Expiration is no time".to_owned()))?)
        }
        None => None,
    };
    let keys = AwsCredential {
        key_id: printed.access_key_id,
        secret_key: printed.secret_access_key,
        token: printed.session_token,
    };
    Ok((fit(keys, failed)?, left))
}

/// As the AWS tools split a command: at spaces that stand in no quotes.
fn words(command: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for sign in command.chars() {
        match (quote, sign) {
            (None, '"' | '\'') => {
                quote = Some(sign);
                word.get_or_insert_default();
            }
            (Some(open), _) if sign == open => quote = None,
            (None, sign) if sign.is_whitespace() => words.extend(word.take()),
            (_, sign) => word.get_or_insert_default().push(sign),
        }
    }
    words.extend(word);
    words
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Assumed {
    assume_role_result: AssumedResult,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AssumedResult {
    credentials: AssumedKeys,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AssumedKeys {
    access_key_id: String,
    secret_access_key: String,
    session_token: String,
    expiration: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Refused {
    error: Refusal,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Refusal {
    code: String,
    #[serde(default)]
    message: String,
}

async fn assume(how: &How) -> Result<Got> {
    let How::Role { own, role, session, external_id, endpoint, region, connector } = how else {
        return Err(object_store::Error::NotImplemented {
            operation: "assume".to_owned(),
            implementer: "a program".to_owned(),
        });
    };
    let own = own.get_credential().await?;
    let failed_as = |kind, why: String| Failed {
        what: format!("the role {role} cannot be assumed at {endpoint}"),
        why,
        kind,
    };
    let failed = |why: String| failed_as(StoreErrorKind::Denied, why);
    let broken = |why: String| failed_as(StoreErrorKind::Unreachable, why);
    let mut url = url::Url::parse(&format!("{endpoint}/")).map_err(|e| failed(e.to_string()))?;
    url.query_pairs_mut()
        .append_pair("Action", "AssumeRole")
        .append_pair("Version", "2011-06-15")
        .append_pair("RoleArn", role)
        .append_pair("RoleSessionName", session);
    if let Some(id) = external_id {
        url.query_pairs_mut().append_pair("ExternalId", id);
    }
    let mut request = http::Request::new(HttpRequestBody::empty());
    *request.uri_mut() = url.as_str().parse().map_err(|_| failed("it is no URL".to_owned()))?;
    AwsAuthorizer::new(&own, "sts", region).try_authorize(&mut request, None)?;
    let answer =
        connector.call(request).await.map_err(|e| failed_as(kind_of(&e), e.to_string()))?;
    let status = answer.status();
    let body = http_body_util::Limited::new(answer.into_body(), ANSWER);
    let body = body.collect().await.map_err(|e| broken(e.to_string()))?.to_bytes();
    let text = String::from_utf8_lossy(&body);
    if !status.is_success() {
        let said = quick_xml::de::from_str::<Refused>(&text).map_or_else(
            |_| String::new(),
            |Refused { error }| format!(", {}: {}", error.code, crate::sys::shown(&error.message)),
        );
        let kind = match status.is_server_error() || status.as_u16() == 429 {
            true => StoreErrorKind::Unreachable,
            false => StoreErrorKind::Denied,
        };
        return Err(failed_as(kind, format!("HTTP {}{said}", status.as_u16())).into());
    }
    // An error would repeat what it read.
    let got = quick_xml::de::from_str::<Assumed>(&text)
        .map_err(|_| failed("the answer makes no sense".to_owned()))?
        .assume_role_result
        .credentials;
    let left = left(&got.expiration)
        .ok_or_else(|| failed("the answer has no time of expiry".to_owned()))?;
    let keys = AwsCredential {
        key_id: got.access_key_id,
        secret_key: got.secret_access_key,
        token: Some(got.session_token),
    };
    Ok((fit(keys, failed)?, Some(left)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_split_as_the_aws_tools_do() {
        assert_eq!(words(r#"/bin/a  "b c" 'd"' e"#), ["/bin/a", "b c", "d\"", "e"]);
        assert!(words("  ").is_empty());
    }

    #[tokio::test]
    async fn a_program_prints_keys_and_is_not_asked_again_before_their_end() {
        let dir = tempfile::tempdir().unwrap();
        let count = dir.path().join("count");
        let script = dir.path().join("keys.sh");
        let text = format!(
            "#!/bin/sh\necho x >> {}\necho '{{\"Version\":1,\"AccessKeyId\":\"AK\",\"SecretAccessKey\":\"SK\",\
             \"Expiration\":\"2999-01-01T00:00:00Z\"}}'\n",
            count.display()
        );
        std::fs::write(&script, text).unwrap();
        let renewed =
            Renewed::by(How::Process { command: format!("/bin/sh {}", script.display()) });
        for _ in 0..2 {
            assert_eq!(renewed.get_credential().await.unwrap().key_id, "AK");
        }
        assert_eq!(std::fs::read_to_string(&count).unwrap(), "x\n");
        let broken =
            Renewed::by(How::Process { command: "/bin/sh -c 'echo hush; exit 3'".to_owned() });
        let error = broken.get_credential().await.unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && !error.contains("hush"), "{error}");
    }
}
