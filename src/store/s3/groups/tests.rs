use super::*;
use crate::store::{Location, StaticKeys, StoreSettings};
use crate::types::{ObjectKey, Secret, Version};

fn doomed(key: &str, etag: Option<&str>) -> Doomed {
    let version = |etag: &str| {
        let etag = etag.to_owned();
        Condition::Is(Version { etag, size: 1, modified: None, generation: None })
    };
    Doomed { key: ObjectKey::new(key), condition: etag.map_or(Condition::None, version) }
}

fn store() -> S3Store {
    let location = Location::parse("s3://bucket/p").unwrap();
    let keys = StaticKeys { key: "AK".into(), secret: Secret::new("hush"), token: None };
    let settings = StoreSettings {
        endpoint: Some("http://127.0.0.1:9".into()),
        path_style: Some(true),
        keys: Some(keys),
        ..StoreSettings::default()
    };
    S3Store::open(&location, &settings, None).unwrap()
}

#[test]
fn keys_that_xml_or_urls_change_are_not_named() {
    for key in ["a", "a b", "dir/", "a//b", "é", "<&>\"'", "%20+", "...", "a\u{a0}b"] {
        assert!(can_be_named(key), "{key:?}");
    }
    for key in
        ["", " a", "a ", "a\u{a0}", "a\nb", "a\rb", "\u{1}", "\u{85}a", "a/../b", ".", "\u{ffff}"]
    {
        assert!(!can_be_named(key), "{key:?}");
    }
}

#[test]
fn the_request_names_keys_and_versions() {
    let (one, two) = (doomed("a<b>&c", None), doomed("d", Some("e\"tag")));
    let call = group_call(&[&one, &two]);
    let body = std::str::from_utf8(&call.body).unwrap();
    assert_eq!(
        body,
        "<Delete xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
         <Object><Key>a&lt;b&gt;&amp;c</Key></Object>\
         <Object><Key>d</Key><ETag>e&quot;tag</ETag></Object></Delete>"
    );
    assert_eq!(call.headers.len(), 1);
    assert_eq!((call.headers[0].0.as_str(), call.headers[0].1.len()), ("content-md5", 24));
}

#[test]
fn only_what_an_answer_says_clearly_is_decided() {
    let answer = "<DeleteResult>\
        <Deleted><Key>deleted</Key></Deleted>\
        <Error><Key>changed</Key><Code>PreconditionFailed</Code></Error>\
        <Deleted><Key>both</Key></Deleted>\
        <Error><Key>both</Key><Code>AccessDenied</Code></Error>\
        <Error><Key>gone</Key><Code>NoSuchKey</Code></Error>\
        <Error><Key>denied</Key><Code>AccessDenied</Code><Message>no</Message></Error>\
        <Error><Key>busy</Key><Code>SlowDown</Code></Error>\
        <Error><Key>conflict</Key><Code>ConditionalRequestConflict</Code></Error>\
        <Error><Key>unknown</Key><Code>Whatever</Code></Error>\
        <Error><Key>silent</Key></Error>\
        </DeleteResult>";
    let (store, said) = (store(), group_answer(answer.as_bytes()).unwrap());
    let outcome = |key: &str, etag| store.outcome(&doomed(key, etag), &said);
    for etag in [None, Some("e")] {
        assert!(matches!(outcome("deleted", etag), PutOutcome::Won(_)));
        for key in ["both", "busy", "conflict", "unknown", "silent", "unnamed"] {
            assert!(matches!(outcome(key, etag), PutOutcome::Ambiguous(_)), "{key}");
        }
        let PutOutcome::Failed(error) = outcome("denied", etag) else { panic!("it is refused") };
        assert_eq!(error.kind, StoreErrorKind::Denied);
        assert!(error.message.contains("\"denied\"") && error.message.contains("rights"));
    }
    assert!(matches!(outcome("changed", Some("e")), PutOutcome::Lost));
    assert!(matches!(outcome("changed", None), PutOutcome::Ambiguous(_)));
    assert!(matches!(outcome("gone", Some("e")), PutOutcome::Lost));
    assert!(matches!(outcome("gone", None), PutOutcome::Won(_)));
}
