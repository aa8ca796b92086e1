//! Metadata and properties as headers of requests and answers.

use std::collections::BTreeMap;

use http::HeaderMap;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::Call;
use crate::store::wire::{Answer, parse_http_date, unquote};
use crate::store::{
    Attributes, Encryption, Header, ObjectInfo, Properties, STANDARD, StoreError, StoreErrorKind,
    Tags,
};
use crate::types::Version;

const META: &str = "x-amz-meta-";
const CLASS: &str = "x-amz-storage-class";
const SSE: &str = "x-amz-server-side-encryption";
const SSE_KEY: &str = "x-amz-server-side-encryption-aws-kms-key-id";
pub(super) const TAGGING: &str = "x-amz-tagging";
/// What stays as it is in a query string, which is what `x-amz-tagging` holds.
const QUERY: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The headers of a PUT, a COPY or the beginning of an upload. Encryption that the object does not
/// have is the volume's.
pub(super) fn dressed<'a>(
    mut call: Call<'a>,
    attributes: &Attributes,
    properties: &Properties,
    encryption: Option<&Encryption>,
) -> Call<'a> {
    for (name, value) in attributes {
        call = call.header(&format!("{META}{name}"), value);
    }
    for (header, value) in &properties.headers {
        call = call.header(header.s3(), value);
    }
    if let Some(tags) = properties.tags.as_ref().filter(|tags| !tags.is_empty()) {
        call = call.header(TAGGING, query_of(tags));
    }
    if let Some(class) = properties.writable_class() {
        call = call.header(CLASS, class);
    }
    if let Some(acl) = &properties.acl {
        call = call.header("x-amz-acl", acl);
    }
    match properties.encryption.as_ref().or(encryption) {
        Some(encryption) => encrypted(call, encryption),
        None => call,
    }
}

fn encrypted<'a>(call: Call<'a>, encryption: &Encryption) -> Call<'a> {
    let call = call.header(SSE, &encryption.algorithm);
    match &encryption.key_id {
        Some(key) => call.header(SSE_KEY, key),
        None => call,
    }
}

fn query_of(tags: &Tags) -> String {
    let pair = |(name, value): (&String, &String)| {
        let encode = |text| utf8_percent_encode(text, &QUERY);
        format!("{}={}", encode(name), encode(value))
    };
    tags.iter().map(pair).collect::<Vec<_>>().join("&")
}

/// Foreign objects may carry metadata that is not ASCII; it must not make them unreadable.
pub(in crate::store) fn text_of(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

/// The user metadata of an answer, whose provider names it with `prefix`.
pub(in crate::store) fn metadata_of(answer: &Answer, prefix: &str) -> Attributes {
    let text = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        let name = name.as_str().strip_prefix(prefix)?;
        Some((name.to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
    };
    answer.headers.iter().filter_map(text).collect()
}

/// The headers that belong to the object, not to the answer, by what the provider calls them.
pub(in crate::store) fn headers_of(
    answer: &Answer,
    name: impl Fn(Header) -> Option<&'static str>,
) -> BTreeMap<Header, String> {
    let mut headers = BTreeMap::new();
    for header in Header::ALL {
        let Some(value) = name(header).and_then(|name| text_of(&answer.headers, name)) else {
            continue;
        };
        let value = match header {
            Header::ContentEncoding => without_chunks(&value),
            _ => value,
        };
        if !value.is_empty() {
            headers.insert(header, value);
        }
    }
    headers
}

/// `aws-chunked` tells how a body was sent, and some stores keep it all the same.
fn without_chunks(encoding: &str) -> String {
    let real = encoding.split(',').map(str::trim).filter(|one| *one != "aws-chunked");
    real.collect::<Vec<_>>().join(", ")
}

/// An object as the headers of HEAD and GET show it; `size` is known from elsewhere.
pub(in crate::store) fn info_of(answer: &Answer, size: u64) -> ObjectInfo {
    let algorithm = answer.header(SSE).filter(|algorithm| !algorithm.is_empty());
    let properties = Properties {
        headers: headers_of(answer, |header| Some(header.s3())),
        tags: None,
        class: Some(answer.header(CLASS).unwrap_or_else(|| STANDARD.to_owned())),
        encryption: algorithm
            .map(|algorithm| Encryption { algorithm, key_id: answer.header(SSE_KEY) }),
        acl: None,
    };
    ObjectInfo {
        version: version_of(answer, size),
        attributes: metadata_of(answer, META),
        properties,
        tag_count: answer.header("x-amz-tagging-count").and_then(|count| count.parse().ok()),
    }
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Tagging {
    tag_set: TagSet,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct TagSet {
    tag: Vec<Tag>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Tag {
    key: String,
    value: String,
}

/// Reads the answer of GetObjectTagging; Azure's has the same form.
pub(in crate::store) fn tags_of(answer: &Answer) -> Result<Tags, String> {
    let text = String::from_utf8_lossy(&answer.body);
    let text = text.trim_start_matches('\u{feff}');
    let tagging: Tagging = quick_xml::de::from_str(text).map_err(|e| e.to_string())?;
    Ok(tagging.tag_set.tag.into_iter().map(|tag| (tag.key, tag.value)).collect())
}

/// The same error, where only a right to tags may be missing.
pub(in crate::store) fn about_tags(error: StoreError, right: &str) -> StoreError {
    match error.kind {
        StoreErrorKind::Denied => StoreError {
            kind: StoreErrorKind::TagsDenied,
            message: format!("the right {right} is missing: {}", error.message),
            source: error.source,
        },
        _ => error,
    }
}

/// The version that an answer's headers tell; `size` is known from elsewhere.
pub(in crate::store) fn version_of(answer: &Answer, size: u64) -> Version {
    let etag = answer.header("etag").unwrap_or_default();
    Version {
        etag: unquote(&etag).to_owned(),
        size,
        modified: answer.header("last-modified").and_then(|t| parse_http_date(&t)),
        generation: answer
            .header("x-goog-generation")
            .or_else(|| answer.header("x-amz-version-id"))
            .filter(|id| !id.is_empty() && id != "null"),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::StatusCode;

    use super::*;

    fn answer(headers: &[(&'static str, &'static str)], body: &str) -> Answer {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (http::HeaderName::from_static(name), http::HeaderValue::from_bytes(value.as_bytes()))
        };
        Answer {
            status: StatusCode::OK,
            headers: headers.iter().map(pair).map(|(n, v)| (n, v.unwrap())).collect(),
            body: Bytes::from(body.to_owned()),
        }
    }

    #[test]
    fn an_answer_tells_what_the_object_carries() {
        let info = info_of(
            &answer(
                &[
                    ("content-type", "text/html"),
                    ("content-encoding", "aws-chunked"),
                    ("x-amz-website-redirect-location", "/other"),
                    ("x-amz-server-side-encryption", "aws:kms"),
                    ("x-amz-server-side-encryption-aws-kms-key-id", "arn:1"),
                    ("x-amz-meta-my-key", "gr\u{fc}n"),
                    ("x-amz-tagging-count", "2"),
                ],
                "",
            ),
            7,
        );
        let properties = &info.properties;
        let headers: Vec<_> = properties.headers.iter().map(|(h, v)| (*h, v.as_str())).collect();
        let expected =
            [(Header::ContentType, "text/html"), (Header::WebsiteRedirectLocation, "/other")];
        assert_eq!(headers, expected);
        assert_eq!(properties.class.as_deref(), Some(STANDARD));
        let encryption = Encryption { algorithm: "aws:kms".into(), key_id: Some("arn:1".into()) };
        assert_eq!(properties.encryption, Some(encryption));
        assert_eq!(info.attributes["my-key"], "gr\u{fc}n");
        assert_eq!((info.tag_count, &properties.tags), (Some(2), &None));
    }

    #[test]
    fn tags_are_read_and_written() {
        let body = "<?xml version=\"1.0\"?><Tagging><TagSet><Tag><Key>a b</Key><Value>1&amp;2</Value></Tag>\
                    <Tag><Key>empty</Key><Value></Value></Tag></TagSet></Tagging>";
        let tags = tags_of(&answer(&[], body)).unwrap();
        assert_eq!(query_of(&tags), "a%20b=1%262&empty=");
        let none = tags_of(&answer(&[], "<Tagging><TagSet/></Tagging>")).unwrap();
        assert_eq!(none, Tags::new());
        assert!(tags_of(&answer(&[], "no")).is_err());
    }

    #[test]
    fn requests_carry_everything_but_what_no_store_takes_back() {
        let properties = Properties {
            headers: BTreeMap::from([(Header::CacheControl, "no-cache".to_owned())]),
            tags: Some(Tags::from([("k".into(), "v".into())])),
            class: Some("GLACIER".into()),
            encryption: None,
            acl: Some("public-read".into()),
        };
        let volume = Encryption { algorithm: "AES256".into(), key_id: None };
        let attributes = Attributes::from([("my-key".to_owned(), "x".to_owned())]);
        let call = Call::new(http::Method::PUT, "k");
        let call = dressed(call, &attributes, &properties, Some(&volume));
        let sent: Vec<_> = call.headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let expected = [
            ("x-amz-meta-my-key", "x"),
            ("cache-control", "no-cache"),
            ("x-amz-tagging", "k=v"),
            ("x-amz-acl", "public-read"),
            ("x-amz-server-side-encryption", "AES256"),
        ];
        assert_eq!(sent, expected);
    }
}
