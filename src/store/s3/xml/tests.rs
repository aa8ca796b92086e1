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

/// An answer about these keys; the odd ones are refused.
fn about(keys: &[String]) -> String {
    let mut text = String::from("<?xml version=\"1.0\"?>\n<DeleteResult xmlns=\"http://s3/\">\n");
    for (place, key) in keys.iter().enumerate() {
        let key = quick_xml::escape::escape(key.as_str());
        text.push_str(&match place % 2 {
            0 => format!("<Deleted><Key>{key}</Key><VersionId>null</VersionId></Deleted>\n"),
            _ => format!("<Error><Message>no</Message><Key>{key}</Key><Code>Busy</Code></Error>"),
        });
    }
    text + "</DeleteResult>"
}

#[test]
fn an_answer_about_a_group_tells_of_each_key_that_it_names() {
    let keys: Vec<String> =
        (0..1000).map(|number| format!("{number} <&>\"' é{}", "x".repeat(900))).collect();
    let said = group_answer(about(&keys).as_bytes()).unwrap();
    assert_eq!(said.len(), keys.len());
    assert_eq!(said[&keys[2]], Said::Deleted);
    let Said::Refused(error) = &said[&keys[3]] else { panic!("it is refused") };
    assert_eq!((error.code.as_str(), error.message.as_str()), ("Busy", "no"));
    assert_eq!(group_answer(b"<DeleteResult/>").unwrap().len(), 0);
    assert_eq!(group_answer(b"<html><body>no</body></html>").unwrap().len(), 0);
    let long = vec![b' '; GROUP_ANSWER_MAX + 1];
    for wrong in
        [&b""[..], b"<DeleteResult>", b"\xff", b"<DeleteResult><Deleted><Key>k</Key>", &long]
    {
        assert!(group_answer(wrong).is_err(), "{} bytes", wrong.len());
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(200))]

    /// Whatever becomes of an answer on its way: a key is said to be deleted only if it was, or if its name is
    /// written there by chance.
    #[test]
    fn an_answer_about_a_group_that_is_cut_or_flipped_makes_nothing_up(
        keys in proptest::collection::btree_set("[a-z<&é ]{1,8}[a-z]", 1..20),
        cut in 0.0..1.0f64,
        (at, bit) in (0.0..1.0f64, 0..8u8),
    ) {
        let keys: Vec<String> = keys.into_iter().map(|key| format!("k{key}")).collect();
        let whole = about(&keys).into_bytes();
        let length = (whole.len() as f64 * cut) as usize;
        // Of what is not closed nothing is believed.
        proptest::prop_assert!(group_answer(&whole[..length]).is_err());
        let mut flipped = whole.clone();
        let at = (whole.len() as f64 * at) as usize;
        flipped[at] ^= 1 << bit;
        let right = group_answer(&whole).unwrap();
        if let Ok(said) = group_answer(&flipped) {
            // One bit changes one element, which has one key.
            let wrong = said.iter().filter(|(key, one)| right.get(*key) != Some(*one));
            proptest::prop_assert!(wrong.count() <= 1);
        }
    }
}
