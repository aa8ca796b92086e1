use super::*;
use crate::store::StaticKeys;
use crate::types::Secret;

fn store(endpoint: &str) -> S3Store {
    let location = Location::parse("s3://bucket/p").unwrap();
    let keys = StaticKeys { key: "AK".into(), secret: Secret::new("hush"), token: None };
    let settings = StoreSettings {
        endpoint: Some(endpoint.into()),
        region: Some("r1".into()),
        path_style: Some(true),
        keys: Some(keys),
        ..StoreSettings::default()
    };
    S3Store::open(&location, &settings, None).unwrap()
}

#[test]
fn keys_are_sent_raw() {
    let s = store("http://127.0.0.1:9");
    for (key, path) in [
        ("a", "/bucket/a"),
        ("dir/", "/bucket/dir/"),
        ("a//b", "/bucket/a//b"),
        ("/x", "/bucket//x"),
        ("a b+%2e?#", "/bucket/a%20b%2B%252e%3F%23"),
        ("\u{1}é", "/bucket/%01%C3%A9"),
        ("...", "/bucket/..."),
    ] {
        assert_eq!(s.object_url(key).unwrap().path(), path);
    }
}

#[test]
fn keys_that_name_something_else_are_refused() {
    let s = store("http://127.0.0.1:9");
    for key in ["", ".", "..", "a/../b", "a/./b", "a/.."] {
        assert_eq!(s.object_url(key).unwrap_err().kind, StoreErrorKind::Unsupported, "{key:?}");
    }
}

#[test]
fn signs_headers_and_expiry() {
    let s = store("http://127.0.0.1:9");
    let call = Call::new(Method::PUT, "k").header("x-amz-meta-b", "2").header("if-none-match", "*");
    let credential = AwsCredential { key_id: "AK".into(), secret_key: "hush".into(), token: None };
    let url = s.object_url("k").unwrap();
    let (url, headers) = s.sign(&call, url, Some(&credential), 1_700_000_000, 7).unwrap();
    let query: std::collections::HashMap<_, _> = url.query_pairs().into_owned().collect();
    assert_eq!(query["X-Amz-Expires"], "7");
    assert_eq!(query["X-Amz-Date"], "20231114T221320Z");
    assert_eq!(query["X-Amz-SignedHeaders"], "host;if-none-match;x-amz-meta-b");
    assert_eq!(headers.len(), 2);
    assert!(!url.as_str().contains("hush"));
}

#[test]
fn endpoints_are_checked() {
    for (endpoint, part) in [
        ("minio:9000", "\"minio\""),
        ("minio.example", "relative URL"),
        ("ftp://h", "\"ftp\""),
        ("http://u:hush@h", "credentials"),
        ("http://h/?x", "'?'"),
    ] {
        let e = parse_endpoint(endpoint).unwrap_err();
        assert!(e.message.contains(part), "{endpoint}: {}", e.message);
        assert!(!e.message.contains("hush"));
    }
}

#[tokio::test]
async fn unreachable_endpoints_are_told_apart() {
    use crate::types::KeyPrefix;
    // Bound and dropped: nothing listens there.
    let port = {
        let l = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        l.local_addr().unwrap().port()
    };
    let e = store(&format!("http://127.0.0.1:{port}"));
    let e = e.check_bucket(&KeyPrefix::new("")).await.unwrap_err();
    assert_eq!(e.kind, StoreErrorKind::Unreachable);
    assert!(e.message.contains("no connection"), "{}", e.message);

    let e = store("http://no-such-host.invalid");
    let e = e.check_bucket(&KeyPrefix::new("")).await.unwrap_err();
    assert_eq!(e.kind, StoreErrorKind::Unreachable);
    assert!(e.message.contains("cannot be resolved"), "{}", e.message);
}
