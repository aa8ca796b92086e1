//! Between HTTP and the types of `s3s`: headers, bodies, errors, encodings.

use std::collections::BTreeMap;
use std::time::SystemTime;

use base64::Engine as _;
use bytes::Bytes;
use futures::TryStreamExt as _;
use http::HeaderMap;
use s3s::dto::*;
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};

use super::super::model::{self, Conditions, Refused};

/// Marks a request whose conditions shall be ignored (an extension of the request).
#[derive(Debug, Clone, Copy)]
pub struct IgnoreConditions;

/// Marks a copy of a part that gets another first byte (an extension of the request).
#[derive(Debug, Clone, Copy)]
pub struct CopyOtherBytes;

/// What is done with the checksum of a PUT (an extension of the request).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksums {
    Compared,
    /// And said again.
    Believed,
    Unknown,
}

/// Marks a request whose ETags in conditions count with their quotes (an extension of the request).
#[derive(Debug, Clone, Copy)]
pub struct LiteralEtags;

/// What goes wrong with the keys of a DeleteObjects (an extension of the request).
#[derive(Debug, Clone, Default)]
pub struct KeyFaults {
    /// These are refused, with this status.
    pub refused: BTreeMap<String, u16>,
    /// Of the others only so many are deleted.
    pub applied: Option<usize>,
    /// And only so many are named.
    pub named: Option<usize>,
}

pub type Reply<T> = S3Result<S3Response<T>>;

pub fn ok<T>(output: T) -> Reply<T> {
    Ok(S3Response::new(output))
}

impl From<Refused> for S3Error {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::NoSuchKey => {
                s3_error!(NoSuchKey, "The specified key does not exist.")
            }
            Refused::Precondition => s3_error!(
                PreconditionFailed,
                "At least one of the pre-conditions you specified did not hold"
            ),
            Refused::NoSuchUpload => s3_error!(NoSuchUpload),
            Refused::InvalidPart => s3_error!(InvalidPart),
            Refused::InvalidPartOrder => s3_error!(InvalidPartOrder),
            Refused::TooSmall => s3_error!(EntityTooSmall),
        }
    }
}

pub fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

pub fn unquote(etag: &str) -> String {
    etag.trim().trim_matches('"').to_owned()
}

/// The conditions of a change, from the raw headers: `s3s` does not know all of them on every verb.
pub fn conditions<T>(req: &S3Request<T>) -> Conditions {
    if req.extensions.get::<IgnoreConditions>().is_some() {
        return Conditions::default();
    }
    let literal = req.extensions.get::<LiteralEtags>().is_some();
    let etag = |text: &str| if literal { text.trim().to_owned() } else { unquote(text) };
    Conditions {
        matches: header(&req.headers, "if-match").map(etag),
        none_match: header(&req.headers, "if-none-match").map(unquote),
    }
}

pub fn strong(etag: &str) -> Option<ETag> {
    Some(ETag::Strong(etag.to_owned()))
}

pub async fn read_body(
    body: Option<StreamingBlob>,
    length: Option<i64>,
    md5: Option<&str>,
) -> S3Result<Bytes> {
    let mut bytes = Vec::new();
    if let Some(mut body) = body {
        while let Some(chunk) = body.try_next().await.map_err(|_| s3_error!(IncompleteBody))? {
            bytes.extend_from_slice(&chunk);
        }
    }
    if length.is_some_and(|length| length != bytes.len() as i64) {
        return Err(s3_error!(IncompleteBody));
    }
    if let Some(md5) = md5 {
        let sent = base64::engine::general_purpose::STANDARD
            .decode(md5)
            .map_err(|_| s3_error!(InvalidDigest))?;
        if model::hex(&sent) != model::etag_of(&bytes) {
            return Err(s3_error!(BadDigest));
        }
    }
    Ok(bytes.into())
}

/// Compares a body with its CRC32C, and returns what the answer says of that.
pub fn summed<T>(req: &S3Request<T>, sum: Option<String>, body: &[u8]) -> S3Result<Option<String>> {
    let done = req.extensions.get().copied().unwrap_or(Checksums::Compared);
    let Some(sum) = sum.filter(|_| done != Checksums::Unknown) else { return Ok(None) };
    let right =
        base64::engine::general_purpose::STANDARD.encode(crc32c::crc32c(body).to_be_bytes());
    if done == Checksums::Compared && right != sum {
        return Err(s3_error!(
            BadDigest,
            "The CRC32C you specified did not match the calculated checksum."
        ));
    }
    Ok(Some(sum))
}

/// Keys and prefixes as `encoding-type=url` sends them: S3 leaves `/` and writes a space as `+`.
pub fn encode(name: &str, url: bool) -> String {
    if !url {
        return name.to_owned();
    }
    url::form_urlencoded::byte_serialize(name.as_bytes()).collect::<String>().replace("%2F", "/")
}

pub fn wants_url(encoding: &Option<EncodingType>) -> bool {
    encoding.as_ref().is_some_and(|e| e.as_str() == EncodingType::URL)
}

pub fn metadata(map: Option<Metadata>) -> BTreeMap<String, String> {
    map.unwrap_or_default().into_iter().map(|(k, v)| (k.to_lowercase(), v)).collect()
}

pub fn limit(max: Option<i32>) -> S3Result<usize> {
    let max = max.unwrap_or(1000);
    usize::try_from(max).map(|m| m.min(1000)).map_err(|_| s3_error!(InvalidArgument))
}

pub fn stamp(time: SystemTime) -> Option<Timestamp> {
    Some(Timestamp::from(time))
}

/// The status and XML code of an error that the fault plan makes up.
pub fn made_up(status: u16) -> S3Error {
    let code = match status {
        400 => S3ErrorCode::InvalidRequest,
        403 => S3ErrorCode::AccessDenied,
        404 => S3ErrorCode::NoSuchBucket,
        409 => S3ErrorCode::ConditionalRequestConflict,
        412 => S3ErrorCode::PreconditionFailed,
        501 => S3ErrorCode::NotImplemented,
        503 => S3ErrorCode::SlowDown,
        _ => S3ErrorCode::InternalError,
    };
    let mut error = S3Error::with_message(code, "made up by the fault plan");
    if let Ok(status) = http::StatusCode::from_u16(status) {
        error.set_status_code(status);
    }
    error
}
