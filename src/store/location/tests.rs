use super::*;

fn parts(url: &str) -> (Scheme, String, String) {
    let l = Location::parse(url).unwrap();
    (l.scheme, l.bucket, l.prefix.as_str().to_owned())
}

#[test]
fn reads_every_scheme() {
    assert_eq!(parts("s3://b"), (Scheme::S3, "b".into(), "".into()));
    assert_eq!(parts("s3://b/"), (Scheme::S3, "b".into(), "".into()));
    assert_eq!(parts("S3://b/team a/x/"), (Scheme::S3, "b".into(), "team a/x/".into()));
    assert_eq!(parts("az://c/p"), (Scheme::Azure, "c".into(), "p/".into()));
    assert_eq!(parts("gs://g.example/p/q"), (Scheme::Google, "g.example".into(), "p/q/".into()));
    assert_eq!(parts("file:///a/b/c"), (Scheme::File, "/a/b".into(), "c/".into()));
    assert_eq!(parts("file:///a/"), (Scheme::File, "/".into(), "a/".into()));
}

#[test]
fn shows_what_it_read() {
    for url in ["s3://b/p/", "file:///a/b/c/", "file:///a/", "gs://g/"] {
        assert_eq!(Location::parse(url).unwrap().to_string(), url);
    }
}

#[test]
fn refuses_with_cause_and_cure() {
    for (url, part) in [
        ("bucket/prefix", "no scheme"),
        ("ftp://b", "\"ftp\" is unknown"),
        ("s3://", "bucket is missing"),
        ("s3:///p", "bucket is missing"),
        ("s3://b/a//b", "empty, '.' or '..'"),
        ("s3://b/../c", "empty, '.' or '..'"),
        ("s3://b?x=1", "'?'"),
        ("s3://b\n/x", "control"),
        ("file://a/b", "three slashes"),
        ("file:///", "root"),
        ("file:///a/../b", "'..'"),
    ] {
        let e = Location::parse(url).unwrap_err();
        assert_eq!(e.kind, StoreErrorKind::Unsupported);
        assert!(e.message.contains(part), "{url}: {}", e.message);
        assert!(e.message.contains("s3://bucket/prefix"), "{url}: {}", e.message);
    }
}

#[test]
fn never_repeats_a_credential() {
    let e = Location::parse("s3://AKIA:hush@b/p").unwrap_err();
    assert!(!e.message.contains("hush"), "{}", e.message);
    let keys = StaticKeys { key: "k".into(), secret: Secret::new("hush"), token: None };
    let shown = format!("{:?}", StoreSettings { keys: Some(keys), ..Default::default() });
    assert!(!shown.contains("hush"), "{shown}");
}
