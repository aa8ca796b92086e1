use http::HeaderMap;

use super::*;

fn answer(status: u16, body: &str) -> Answer {
    Answer {
        status: StatusCode::from_u16(status).unwrap(),
        headers: HeaderMap::new(),
        body: bytes::Bytes::copy_from_slice(body.as_bytes()),
    }
}

#[test]
fn lists_raw_keys() {
    let xml = r#"<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name>
<Prefix></Prefix><MaxKeys>5</MaxKeys><EncodingType>url</EncodingType>
<IsTruncated>true</IsTruncated><NextContinuationToken>t+%2F</NextContinuationToken>
<Contents><Key>a%2F%2Fb</Key><LastModified>2026-01-02T03:04:05.678Z</LastModified>
<ETag>&quot;d41d8&quot;</ETag><Size>0</Size><StorageClass>STANDARD</StorageClass></Contents>
<CommonPrefixes><Prefix>dir+1%2B%2F</Prefix></CommonPrefixes>
<Contents><Key>%01%C3%A9%26%3C</Key><Size>7</Size></Contents>
<Contents><Key>%FF</Key><Size>7</Size></Contents>
</ListBucketResult>"#;
    let page = list_page(xml.as_bytes()).unwrap();
    let keys: Vec<_> = page.entries.iter().map(|e| e.key.as_str()).collect();
    assert_eq!(keys, ["a//b", "\u{1}é&<"]);
    assert_eq!(page.entries[0].version.etag, "d41d8");
    assert_eq!(page.entries[0].version.modified.unwrap().0 % 1000, 678);
    assert_eq!(page.prefixes, ["dir 1+/"]);
    assert_eq!(page.next.as_deref(), Some("t+%2F"));
}

#[test]
fn keeps_keys_that_were_not_encoded() {
    let xml = "<ListBucketResult><Contents><Key>a+b%2F</Key></Contents></ListBucketResult>";
    let page = list_page(xml.as_bytes()).unwrap();
    assert_eq!(page.entries[0].key.as_str(), "a+b%2F");
    assert_eq!(page.next, None);
}

#[test]
fn refuses_broken_listings() {
    assert!(list_page(b"<ListBucketResult><Contents>").is_err());
    let endless = b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>";
    assert!(list_page(endless).unwrap_err().contains("more"));
}

#[test]
fn names_causes_and_cures() {
    use StoreErrorKind::*;
    let error = |code: &str, more: &str| {
        format!(
            "<?xml version=\"1.0\"?>\n<Error><Code>{code}</Code><Message>m</Message>{more}</Error>"
        )
    };
    for (status, body, kind, part) in [
        (404, error("NoSuchBucket", ""), NoBucket, "does not exist; create it"),
        (404, error("NoSuchKey", ""), NotFound, "does not exist"),
        (404, String::new(), NotFound, "does not exist"),
        (403, error("InvalidAccessKeyId", ""), Denied, "access key; check AWS_ACCESS_KEY_ID"),
        (
            403,
            error("InvalidAccessKeyId", "<AWSAccessKeyId>AKX</AWSAccessKeyId>"),
            Denied,
            "does not know the access key \"AKX\"",
        ),
        (403, error("SignatureDoesNotMatch", ""), Denied, "the secret does not fit"),
        (403, error("AccessDenied", ""), Denied, "rights"),
        (403, error("RequestTimeTooSkewed", ""), ClockSkew, "clock"),
        (403, "<Error><Message>Request has expired</Message></Error>".into(), Timeout, "expiry"),
        (
            400,
            error("AuthorizationHeaderMalformed", "<Region>eu-1</Region>"),
            Unsupported,
            "region=eu-1",
        ),
        (
            400,
            "<Error><Code>AuthorizationQueryParametersError</Code><Message>Error parsing the \
             X-Amz-Credential parameter; the region 'us-east-1' is wrong; expecting 'eu-2'\
             </Message></Error>"
                .into(),
            Unsupported,
            "region=eu-2",
        ),
        (301, error("PermanentRedirect", ""), Unsupported, "another region"),
        (409, error("ConditionalRequestConflict", ""), Unreachable, "wait"),
        (503, error("SlowDown", ""), Busy, "slow down"),
        (200, error("SlowDown", ""), Busy, "slow down"),
        (429, "too many".into(), Busy, "slow down"),
        (500, error("InternalError", ""), Unreachable, "wait"),
        (501, error("NotImplemented", ""), Unsupported, "cannot"),
        (412, error("PreconditionFailed", ""), Changed, "version"),
        (418, "teapot".into(), Unsupported, "refused"),
    ] {
        let e = refusal("GET of \"k\"", "http://h", "b", &answer(status, &body));
        assert_eq!(e.kind, kind, "{status} {body}: {}", e.message);
        assert!(e.message.contains(part), "{status} {body}: {}", e.message);
    }
}

#[test]
fn sees_errors_inside_a_success() {
    let head = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\n  ";
    assert!(hides_error(&answer(200, &format!("{head}<Error><Code>InternalError</Code></Error>"))));
    assert!(hides_error(&answer(200, "<Error/>")));
    assert!(!hides_error(&answer(200, &format!("{head}<CopyObjectResult/>"))));
    assert!(!hides_error(&answer(200, "")));
}
