//! Lets the server's clock differ from the host's.
//!
//! `s3s` judges signatures by the host's clock. To the outside the server lives `offset` seconds
//! ahead of it, so each request that is signed correctly is signed again with its date moved back by
//! `offset`; `s3s` then judges age and expiry just as a server with that clock would. A request whose
//! signature is wrong is passed on as it is, and refused.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Uri};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use sha2::{Digest, Sha256};

use super::model::hex;
use super::state::{Keys, shift};

const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
const PATH: &AsciiSet = &UNRESERVED.remove(b'/');

/// The request as a client would have signed it `offset` seconds earlier.
pub fn translate(mut parts: Parts, offset: i64, keys: &Keys) -> Parts {
    if offset != 0 {
        let _ = by_query(&mut parts, offset, keys).or_else(|| by_header(&mut parts, offset, keys));
    }
    parts
}

/// What a signature covers besides the request's own method, path and headers.
struct Scope<'a> {
    date: &'a str,
    region: &'a str,
    secret: &'a str,
    signed_headers: &'a str,
    payload: &'a str,
}

fn by_query(parts: &mut Parts, offset: i64, keys: &Keys) -> Option<()> {
    let mut query = decode_query(parts.uri.query()?);
    let signature = query.remove("X-Amz-Signature")?;
    let date = query.get("X-Amz-Date")?.clone();
    let credential = query.get("X-Amz-Credential")?.clone();
    let signed_headers = query.get("X-Amz-SignedHeaders")?.clone();
    let (access_key, region) = credential_parts(&credential)?;
    let payload = match parts.headers.get("x-amz-content-sha256") {
        Some(value) => value.to_str().ok()?.to_owned(),
        None => "UNSIGNED-PAYLOAD".to_owned(),
    };
    let mut scope = Scope {
        date: &date,
        region: &region,
        secret: keys.get(&access_key)?,
        signed_headers: &signed_headers,
        payload: &payload,
    };
    if sign(parts, &query, &scope)? != signature {
        return None;
    }
    let moved = move_date(&date, offset)?;
    query.insert("X-Amz-Date".into(), moved.clone());
    query.insert("X-Amz-Credential".into(), credential_for(&access_key, &region, &moved));
    scope.date = &moved;
    let signature = sign(parts, &query, &scope)?;
    query.insert("X-Amz-Signature".into(), signature);
    let uri = format!("{}?{}", parts.uri.path(), encode_query(&query));
    parts.uri = uri.parse::<Uri>().ok()?;
    Some(())
}

fn by_header(parts: &mut Parts, offset: i64, keys: &Keys) -> Option<()> {
    let authorization = parts.headers.get("authorization")?.to_str().ok()?.to_owned();
    let field = |name: &str| {
        let (_, rest) = authorization.split_once(&format!("{name}="))?;
        Some(rest.split(',').next()?.trim().to_owned())
    };
    let (access_key, region) = credential_parts(&field("Credential")?)?;
    let signed_headers = field("SignedHeaders")?;
    let date = parts.headers.get("x-amz-date")?.to_str().ok()?.to_owned();
    let payload = parts.headers.get("x-amz-content-sha256")?.to_str().ok()?.to_owned();
    let query = decode_query(parts.uri.query().unwrap_or(""));
    let mut scope = Scope {
        date: &date,
        region: &region,
        secret: keys.get(&access_key)?,
        signed_headers: &signed_headers,
        payload: &payload,
    };
    if sign(parts, &query, &scope)? != field("Signature")? {
        return None;
    }
    let moved = move_date(&date, offset)?;
    parts.headers.insert("x-amz-date", HeaderValue::from_str(&moved).ok()?);
    scope.date = &moved;
    let signature = sign(parts, &query, &scope)?;
    let value = format!(
        "AWS4-HMAC-SHA256 Credential={}, SignedHeaders={signed_headers}, Signature={signature}",
        credential_for(&access_key, &region, &moved)
    );
    parts.headers.insert("authorization", HeaderValue::from_str(&value).ok()?);
    Some(())
}

/// Access key and region of `key/yyyymmdd/region/s3/aws4_request`.
fn credential_parts(credential: &str) -> Option<(String, String)> {
    let mut fields = credential.split('/');
    let access_key = fields.next()?.to_owned();
    Some((access_key, fields.nth(1)?.to_owned()))
}

fn credential_for(access_key: &str, region: &str, date: &str) -> String {
    format!("{access_key}/{}/{region}/s3/aws4_request", &date[..8])
}

fn decode_query(query: &str) -> BTreeMap<String, String> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decode = |s: &str| percent_decode_str(s).decode_utf8_lossy().into_owned();
            (decode(name), decode(value))
        })
        .collect()
}

fn encode_query(query: &BTreeMap<String, String>) -> String {
    let pairs: Vec<_> = query
        .iter()
        .map(|(name, value)| {
            let encode = |s| utf8_percent_encode(s, UNRESERVED);
            format!("{}={}", encode(name), encode(value))
        })
        .collect();
    pairs.join("&")
}

/// `yyyymmddThhmmssZ`, moved back by `offset` seconds.
fn move_date(date: &str, offset: i64) -> Option<String> {
    let time = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", date).ok()?;
    let secs = time.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second();
    let moved = shift(UNIX_EPOCH + Duration::from_secs(secs.try_into().ok()?), -offset);
    Some(jiff::Timestamp::try_from(moved).ok()?.strftime("%Y%m%dT%H%M%SZ").to_string())
}

fn sign(parts: &Parts, query: &BTreeMap<String, String>, scope: &Scope<'_>) -> Option<String> {
    let path = percent_decode_str(parts.uri.path()).decode_utf8().ok()?;
    let canonical = format!(
        "{}\n{}\n{}\n{}\n{}\n{}",
        parts.method,
        utf8_percent_encode(&path, PATH),
        encode_query(query),
        canonical_headers(&parts.headers, scope.signed_headers)?,
        scope.signed_headers,
        scope.payload
    );
    let day = scope.date.get(..8)?;
    let to_sign = format!(
        "AWS4-HMAC-SHA256\n{}\n{day}/{}/s3/aws4_request\n{}",
        scope.date,
        scope.region,
        hex(&Sha256::digest(canonical))
    );
    let mut key = format!("AWS4{}", scope.secret).into_bytes();
    for part in [day, scope.region, "s3", "aws4_request", &to_sign] {
        key = hmac(&key, part.as_bytes()).to_vec();
    }
    Some(hex(&key))
}

fn canonical_headers(headers: &HeaderMap, signed: &str) -> Option<String> {
    let mut lines = String::new();
    for name in signed.split(';') {
        let values: Option<Vec<&str>> =
            headers.get_all(name).iter().map(|value| value.to_str().ok()).collect();
        let values = values?.into_iter().map(str::trim).collect::<Vec<_>>().join(",");
        lines.push_str(&format!("{name}:{values}\n"));
    }
    Some(lines)
}

fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    const BLOCK: usize = 64;
    let mut block = [0u8; BLOCK];
    if key.len() > BLOCK {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let inner =
        Sha256::new().chain_update(block.map(|b| b ^ 0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(block.map(|b| b ^ 0x5c)).chain_update(inner).finalize().into()
}
