//! Metadata and properties in each provider's headers.
//!
//! Azure and Google know neither a website redirect nor `Expires`, Google no tags. Google answers with
//! a `Cache-Control` of its own where the object has none.

use super::{Call, Dialect};
use crate::store::s3::properties::{headers_of, metadata_of, version_of};
use crate::store::wire::Answer;
use crate::store::{Attributes, Header, ObjectInfo, Properties, StoreError, StoreErrorKind, Tags};

/// Azure's header for tags. `object_store`'s signed URLs do not give the right to tags, so such requests
/// are signed in a header.
pub(super) const TAGS: &str = "x-ms-tags";
/// What Google says of objects that are not public and say nothing themselves.
const GOOGLE_UNCACHED: &str = "private, max-age=0";

impl Dialect {
    fn meta(self) -> &'static str {
        match self {
            Dialect::Azure => "x-ms-meta-",
            Dialect::Google => "x-goog-meta-",
        }
    }

    /// The header of a request that sets this one.
    fn sets(self, header: Header) -> Option<&'static str> {
        match (self, header) {
            (_, Header::Expires | Header::WebsiteRedirectLocation) => None,
            (Dialect::Google, header) => Some(header.name()),
            (Dialect::Azure, Header::ContentType) => Some("x-ms-blob-content-type"),
            (Dialect::Azure, Header::CacheControl) => Some("x-ms-blob-cache-control"),
            (Dialect::Azure, Header::ContentDisposition) => Some("x-ms-blob-content-disposition"),
            (Dialect::Azure, Header::ContentEncoding) => Some("x-ms-blob-content-encoding"),
            (Dialect::Azure, Header::ContentLanguage) => Some("x-ms-blob-content-language"),
        }
    }

    fn class(self) -> &'static str {
        match self {
            Dialect::Azure => "x-ms-access-tier",
            Dialect::Google => "x-goog-storage-class",
        }
    }
}

/// The headers of a PUT or the beginning of an upload. A copy on Azure takes the content's headers
/// from its source.
pub(super) fn dressed(
    dialect: Dialect,
    mut call: Call,
    attributes: &Attributes,
    properties: &Properties,
    copies: bool,
) -> Result<Call, StoreError> {
    for (name, value) in attributes {
        if dialect == Dialect::Azure && !is_azure_name(name) {
            return Err(StoreError::new(
                StoreErrorKind::Unsupported,
                format!(
                    "the metadata name {name:?} is not possible on Azure, which takes letters, \
                     digits and '_' and no digit at the start; rename or remove it"
                ),
            ));
        }
        call = call.header(&format!("{}{name}", dialect.meta()), value);
    }
    for (header, value) in &properties.headers {
        match dialect.sets(*header) {
            Some(name) if dialect == Dialect::Google || !copies => call = call.header(name, value),
            _ => {}
        }
    }
    let class = match dialect {
        // Without it an object would get the bucket's usual class, which may be another.
        Dialect::Google => properties.class.as_deref(),
        Dialect::Azure => properties.writable_class(),
    };
    if let Some(class) = class {
        call = call.header(dialect.class(), class);
    }
    if let Some(tags) = properties.tags.as_ref().filter(|tags| !tags.is_empty())
        && dialect == Dialect::Azure
    {
        call = call.header(TAGS, query_of(tags));
    }
    Ok(call)
}

fn is_azure_name(name: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    name.bytes().all(word) && !name.starts_with(|c: char| c.is_ascii_digit()) && !name.is_empty()
}

fn query_of(tags: &Tags) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(tags).finish().replace('+', "%20")
}

/// An object as the headers of HEAD and GET show it; `size` is known from elsewhere.
pub(super) fn info_of(dialect: Dialect, answer: &Answer, size: u64) -> ObjectInfo {
    let mut headers = headers_of(answer, |header| dialect.sets(header).map(|_| header.name()));
    if dialect == Dialect::Google {
        headers.retain(|header, value| {
            *header != Header::CacheControl || value.as_str() != GOOGLE_UNCACHED
        });
        // `Content-Encoding` of the answer is that of the way it came.
        let stored = answer.header("x-goog-stored-content-encoding");
        match stored.as_deref() {
            Some("identity") => drop(headers.remove(&Header::ContentEncoding)),
            Some(stored) => drop(headers.insert(Header::ContentEncoding, stored.to_owned())),
            None => {}
        }
    }
    let tag_count = match dialect {
        Dialect::Azure => answer.header("x-ms-tag-count").and_then(|count| count.parse().ok()),
        Dialect::Google => Some(0),
    };
    // A tier that was never set is the account's, and may change with it.
    let inferred = answer.header("x-ms-access-tier-inferred").is_some_and(|text| text == "true");
    ObjectInfo {
        version: version_of(answer, size),
        attributes: metadata_of(answer, dialect.meta()),
        properties: Properties {
            headers,
            class: answer.header(dialect.class()).filter(|_| !inferred),
            ..Properties::default()
        },
        tag_count,
    }
}

/// What a request that reads content says, so that compressed objects come as they are stored.
pub(super) fn as_stored(call: Call) -> Call {
    call.header("accept-encoding", "gzip")
}
