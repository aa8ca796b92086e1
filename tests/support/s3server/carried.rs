//! What an object carries besides its bytes and its user metadata, as headers say it.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName, HeaderValue};

/// Tags by name.
pub type Tags = BTreeMap<String, String>;

/// Headers that S3 keeps with an object.
const HEADERS: [&str; 7] = [
    "content-type",
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "expires",
    REDIRECT,
];
const REDIRECT: &str = "x-amz-website-redirect-location";
const CLASS: &str = "x-amz-storage-class";
const SSE: &str = "x-amz-server-side-encryption";
const SSE_KEY: &str = "x-amz-server-side-encryption-aws-kms-key-id";

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Carried {
    /// By their names on the wire.
    pub headers: BTreeMap<String, String>,
    pub tags: Tags,
    /// `None`: STANDARD.
    pub class: Option<String>,
    /// Algorithm and key.
    pub encryption: Option<(String, Option<String>)>,
    /// The canned one of the request.
    pub acl: Option<String>,
}

impl Carried {
    /// What a PUT or CreateMultipartUpload gives to its object.
    pub fn of(request: &HeaderMap) -> Carried {
        let get = |name: &str| {
            let value = request.get(name)?;
            Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        let pair = |name: &str| Some((name.to_owned(), get(name)?));
        Carried {
            headers: HEADERS.iter().filter_map(|name| pair(name)).collect(),
            tags: get("x-amz-tagging").map(|text| parse_tags(&text)).unwrap_or_default(),
            class: get(CLASS).filter(|class| class != "STANDARD"),
            encryption: get(SSE).map(|algorithm| (algorithm, get(SSE_KEY))),
            acl: get("x-amz-acl"),
        }
    }

    /// What a COPY gives: class, encryption and access list are the request's in any case.
    pub fn of_copy(request: &HeaderMap, source: &Carried) -> Carried {
        let replaces = |name: &str| request.get(name).is_some_and(|value| value == "REPLACE");
        let mut new = Carried::of(request);
        if !replaces("x-amz-metadata-directive") {
            let redirect = new.headers.remove(REDIRECT);
            new.headers = source.headers.clone();
            new.headers.remove(REDIRECT);
            new.headers.extend(redirect.map(|to| (REDIRECT.to_owned(), to)));
        }
        if !replaces("x-amz-tagging-directive") {
            new.tags = source.tags.clone();
        }
        new
    }

    /// What GET and HEAD answer, besides the number of tags.
    pub fn answer(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let mut put = |name: &str, value: &str| {
            let name = HeaderName::from_bytes(name.as_bytes());
            if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value.as_bytes())) {
                headers.insert(name, value);
            }
        };
        put("content-type", "binary/octet-stream");
        for (name, value) in &self.headers {
            put(name, value);
        }
        if let Some(class) = &self.class {
            put(CLASS, class);
        }
        if let Some((algorithm, key)) = &self.encryption {
            put(SSE, algorithm);
            if let Some(key) = key {
                put(SSE_KEY, key);
            }
        }
        headers
    }
}

fn parse_tags(query: &str) -> Tags {
    url::form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}
