//! The XML that S3 answers with.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;

use http::{Method, StatusCode};
use percent_encoding::percent_decode_str;
use serde::Deserialize;

use super::is_transient;
use crate::store::refused::is_about_keys;
use crate::store::wire::{Answer, parse_iso_date, unquote};
use crate::store::{Entry, ListPage, StoreError, StoreErrorKind};
use crate::types::{ObjectKey, Version};

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(in crate::store) struct ErrorBody {
    pub code: String,
    pub message: String,
    pub region: String,
    #[serde(rename = "AWSAccessKeyId")]
    pub access_key: String,
}

impl ErrorBody {
    /// What an answer says; empty where it says nothing.
    pub(in crate::store) fn of(answer: &Answer) -> ErrorBody {
        let text = String::from_utf8_lossy(&answer.body);
        let mut body: ErrorBody = quick_xml::de::from_str(&text).unwrap_or_default();
        if body.code.is_empty() {
            // Azure also says it where an answer has no body.
            body.code = answer.header("x-ms-error-code").unwrap_or_default();
        }
        body
    }
}

/// Of these nobody says that the request was not applied, whatever their status. Those about the parts of an
/// upload are also the answer to a request that comes a second time, whoever sent it again.
const VAGUE: [&str; 9] = [
    "RequestTimeout",
    "InternalError",
    "SlowDown",
    "ServiceUnavailable",
    "OperationAborted",
    "NoSuchUpload",
    "InvalidPart",
    "InvalidPartOrder",
    "InvalidBlockList",
];

/// Whether the store itself says that it did not do what was asked. What a proxy answers, or a filter that
/// replaces answers, says nothing about a request that it may have passed on.
pub(in crate::store) fn is_rejection(answer: &Answer) -> bool {
    let refused = matches!(answer.status.as_u16(), 400 | 401 | 403 | 405 | 411 | 413 | 501);
    let code = ErrorBody::of(answer).code;
    refused && !code.is_empty() && !VAGUE.contains(&code.as_str())
}

/// Whether a refusal may be due to the keys, and the request can be sent again with others: a read at any time, a change
/// that the store itself refused, because then it was not applied, whatever it is.
pub(in crate::store) fn may_go_again(method: &Method, answer: &Answer) -> bool {
    let only_reads = matches!(*method, Method::GET | Method::HEAD);
    is_about_keys(answer.status) && (only_reads || is_rejection(answer))
}

/// Whether a request that was sent after its expiry was refused by the store because of it. Only a refusal of the
/// signature says so: a store that is busy, moved or broken may take the next one, and so may one behind a filter.
pub(in crate::store) fn refuses_the_late(
    answer: &Answer,
    error: impl FnOnce() -> StoreError,
) -> Result<bool, StoreError> {
    match answer.status {
        // S3 and Azure say 403, Google 400, gateways 401.
        status if is_about_keys(status) && is_rejection(answer) => Ok(true),
        status if status.is_success() => Ok(false),
        _ => Err(error()),
    }
}

/// Whether a 200 hides an error, as answers of COPY and Complete may.
pub(in crate::store) fn hides_error(answer: &Answer) -> bool {
    let text = String::from_utf8_lossy(&answer.body);
    let text = text.trim_start();
    let root = match text.strip_prefix("<?xml") {
        Some(rest) => rest.split_once("?>").map_or("", |(_, rest)| rest).trim_start(),
        None => text,
    };
    root.starts_with("<Error")
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(in crate::store) struct Written {
    #[serde(rename = "ETag")]
    pub etag: String,
    pub last_modified: String,
    pub upload_id: String,
}

impl Written {
    pub(in crate::store) fn of(answer: &Answer) -> Written {
        quick_xml::de::from_str(&String::from_utf8_lossy(&answer.body)).unwrap_or_default()
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listing {
    #[serde(default)]
    contents: Vec<Content>,
    #[serde(default)]
    common_prefixes: Vec<CommonPrefix>,
    #[serde(default)]
    is_truncated: bool,
    next_continuation_token: Option<String>,
    encoding_type: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Content {
    key: String,
    #[serde(default)]
    last_modified: String,
    #[serde(rename = "ETag", default)]
    etag: String,
    #[serde(default)]
    size: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CommonPrefix {
    prefix: String,
}

/// Reads a page of ListObjectsV2. Keys that are not UTF-8 cannot be named by callers and are left
/// out with a warning.
pub(in crate::store) fn list_page(body: &[u8]) -> Result<ListPage, String> {
    let text = std::str::from_utf8(body).map_err(|e| format!("the listing is not UTF-8: {e}"))?;
    let listing: Listing =
        quick_xml::de::from_str(text).map_err(|e| format!("the listing is no valid XML: {e}"))?;
    let encoded = listing.encoding_type.as_deref() == Some("url");
    let mut page = ListPage::default();
    for content in listing.contents {
        let Some(key) = decode(&content.key, encoded) else { continue };
        page.entries.push(Entry {
            key: ObjectKey::new(key),
            version: Version {
                etag: unquote(&content.etag).to_owned(),
                size: content.size,
                modified: parse_iso_date(&content.last_modified),
                generation: None,
            },
        });
    }
    for common in listing.common_prefixes {
        page.prefixes.extend(decode(&common.prefix, encoded));
    }
    if listing.is_truncated {
        let token = listing.next_continuation_token.filter(|t| !t.is_empty());
        page.next = Some(token.ok_or("the listing says that there is more, but not how to go on")?);
    }
    Ok(page)
}

/// The longest answer about a group of keys that is looked at: 1,000 of them, with an error each, take less.
const GROUP_ANSWER_MAX: usize = 8 << 20;

/// What a store says of one key of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    Deleted,
    Refused(ErrorBody),
    /// Both, or two different errors.
    Nonsense,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct GroupAnswer {
    deleted: Vec<Named>,
    error: Vec<Named>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Named {
    key: String,
    code: String,
    message: String,
}

/// Reads the answer to DeleteObjects: what it says of each key that it names.
pub(super) fn group_answer(body: &[u8]) -> Result<HashMap<String, Said>, String> {
    if body.len() > GROUP_ANSWER_MAX {
        return Err(format!("the answer has {} bytes", body.len()));
    }
    let text = std::str::from_utf8(body).map_err(|e| format!("the answer is not UTF-8: {e}"))?;
    let answer: GroupAnswer =
        quick_xml::de::from_str(text).map_err(|e| format!("the answer is no valid XML: {e}"))?;
    let deleted = answer.deleted.into_iter().map(|one| (one.key, Said::Deleted));
    let refused = answer.error.into_iter().map(|one| {
        let Named { key, code, message } = one;
        (key, Said::Refused(ErrorBody { code, message, ..ErrorBody::default() }))
    });
    let mut said = HashMap::new();
    for (key, one) in deleted.chain(refused) {
        match said.entry(key) {
            Place::Vacant(free) => drop(free.insert(one)),
            Place::Occupied(mut other) if *other.get() != one => drop(other.insert(Said::Nonsense)),
            Place::Occupied(_) => {}
        }
    }
    Ok(said)
}

/// `encoding-type=url` is the encoding of forms: a blank may be `+`, a plus is `%2B`.
fn decode(text: &str, encoded: bool) -> Option<String> {
    if !encoded {
        return Some(text.to_owned());
    }
    match percent_decode_str(&text.replace('+', " ")).decode_utf8() {
        Ok(key) => Some(key.into_owned()),
        Err(_) => {
            tracing::warn!(key = text, "an object's key is not UTF-8; it is not shown");
            None
        }
    }
}

/// The region in `the region 'us-east-1' is wrong; expecting 'eu-1'`, which some servers say in the
/// message alone.
fn expected_region(message: &str) -> Option<String> {
    let (_, rest) = message.split_once("expecting '")?;
    let (region, _) = rest.split_once('\'')?;
    let named = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    (!region.is_empty() && region.len() < 64 && region.bytes().all(named))
        .then(|| region.to_owned())
}

/// The error that a refusing answer means, with its cure.
pub(in crate::store) fn refusal(
    doing: &str,
    endpoint: &str,
    bucket: &str,
    answer: &Answer,
) -> StoreError {
    let mut body = ErrorBody::of(answer);
    if body.region.is_empty() {
        let told = answer.header("x-amz-bucket-region");
        body.region = told.or_else(|| expected_region(&body.message)).unwrap_or_default();
    }
    refused((doing, endpoint), bucket, answer.status, &body)
}

/// The same of an answer's parts.
pub(super) fn refused(
    (doing, endpoint): (&str, &str),
    bucket: &str,
    status: StatusCode,
    body: &ErrorBody,
) -> StoreError {
    let region = &body.region;
    let code = body.code.as_str();
    let expired = body.message.to_ascii_lowercase().contains("expired");
    let (kind, why) = match (status, code) {
        (_, "NoSuchBucket" | "ContainerNotFound") => (
            StoreErrorKind::NoBucket,
            format!("the bucket {bucket:?} does not exist; create it or correct the URL"),
        ),
        (_, "RequestTimeTooSkewed") => (
            StoreErrorKind::ClockSkew,
            "this host's clock and the store's differ too much; set this host's clock (NTP)"
                .to_owned(),
        ),
        (
            _,
            "PermanentRedirect"
            | "TemporaryRedirect"
            | "AuthorizationHeaderMalformed"
            | "AuthorizationQueryParametersError"
            | "IllegalLocationConstraintException",
        )
        | (StatusCode::MOVED_PERMANENTLY | StatusCode::TEMPORARY_REDIRECT, _)
            if !region.is_empty() || status.is_redirection() =>
        {
            let why = match region.as_str() {
                "" => format!(
                    "the bucket {bucket:?} lies in another region; set the region option (or \
                     AWS_REGION) and the endpoint to where it lies"
                ),
                region => format!(
                    "the bucket {bucket:?} lies in the region {region:?}, not in the one that was \
                     asked; set region={region}"
                ),
            };
            (StoreErrorKind::Unsupported, why)
        }
        (_, "InvalidAccessKeyId") => (
            StoreErrorKind::Denied,
            format!(
                "the store does not know the access key{}; check AWS_ACCESS_KEY_ID, and that it \
                 belongs to this endpoint",
                match body.access_key.as_str() {
                    "" => String::new(),
                    key => format!(" {key:?}"),
                }
            ),
        ),
        (_, "SignatureDoesNotMatch") => (
            StoreErrorKind::Denied,
            "the secret does not fit the access key; check AWS_SECRET_ACCESS_KEY".to_owned(),
        ),
        (_, "AuthenticationFailed" | "NoAuthenticationInformation") => (
            StoreErrorKind::Denied,
            "the account's key or token was refused; check AZURE_STORAGE_ACCOUNT_NAME and \
             AZURE_STORAGE_ACCOUNT_KEY, and this host's clock"
                .to_owned(),
        ),
        (_, "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired") => (
            StoreErrorKind::Denied,
            "the session token is expired or wrong; renew it (AWS_SESSION_TOKEN)".to_owned(),
        ),
        (StatusCode::FORBIDDEN, _) if expired => (
            StoreErrorKind::Timeout,
            "the request arrived after its expiry and was refused".to_owned(),
        ),
        (_, "AccessControlListNotSupported") => (
            StoreErrorKind::Unsupported,
            format!(
                "the bucket {bucket:?} takes no access lists (its owner has them switched off); \
                 make the volume without acl, or change the bucket's object ownership"
            ),
        ),
        (_, "InvalidStorageClass") => (
            StoreErrorKind::Unsupported,
            "the store does not have this storage class; set storage_class to one that it has"
                .to_owned(),
        ),
        (_, code) if code.starts_with("KMS.") => (
            StoreErrorKind::Denied,
            "the key service refuses the key; check sse_kms_key_id, and that the access key has \
             the rights kms:GenerateDataKey and kms:Decrypt for it"
                .to_owned(),
        ),
        (_, "InvalidObjectState" | "BlobArchived") => (
            StoreErrorKind::Unsupported,
            "the object lies in an archive and cannot be read; restore it first (on AWS: aws s3api \
             restore-object), or copy it to another storage class"
                .to_owned(),
        ),
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => (
            StoreErrorKind::Denied,
            format!(
                "access denied; the key needs the rights to list, read, write and delete in the \
                 bucket {bucket:?}"
            ),
        ),
        (StatusCode::NOT_FOUND, _) => (StoreErrorKind::NotFound, "it does not exist".to_owned()),
        (StatusCode::PRECONDITION_FAILED, _) => {
            (StoreErrorKind::Changed, "it is no longer the expected version".to_owned())
        }
        (StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE, _) | (_, "SlowDown") => (
            StoreErrorKind::Busy,
            "the store is busy and asks to slow down; it can help to wait".to_owned(),
        ),
        (status, _) if is_transient(status) => (
            StoreErrorKind::Unreachable,
            "the store is busy or broken at the moment; it can help to wait".to_owned(),
        ),
        (StatusCode::NOT_IMPLEMENTED, _) => {
            (StoreErrorKind::Unsupported, "the store cannot do this".to_owned())
        }
        (status, _) if status.is_success() => {
            (StoreErrorKind::Unreachable, "the store answered with an error".to_owned())
        }
        _ => (StoreErrorKind::Unsupported, "the store refused the request".to_owned()),
    };
    let said: String = body.message.chars().filter(|c| !c.is_control()).take(200).collect();
    let code = if code.is_empty() { String::new() } else { format!(" {code}") };
    let said = if said.is_empty() { said } else { format!(": {said}") };
    StoreError::new(
        kind,
        format!("{doing} at {endpoint}: {why} (HTTP {}{code}{said})", status.as_u16()),
    )
}

#[cfg(test)]
mod tests;
