//! `check` tells each cause of an unusable bucket apart, soon enough for somebody who waits.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use s3vol::store::{Store, StoreError, StoreErrorKind};
use s3vol::types::KeyPrefix;

use super::support::s3server::{Action, Op, Rule, TestS3};
use super::support::stub::Stub;
use super::support::tls::TlsServer;
use super::{s3, store_of};

/// The refusal of a store, within ten seconds and with none of the secrets.
async fn refusal(store: &Store) -> StoreError {
    let began = Instant::now();
    let error = store.check(&KeyPrefix::new("prefix")).await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}: {error}", began.elapsed());
    let text = format!("{error} {error:?}");
    for secret in ["the-wrong-secret", "test-secret-key", "X-Amz-Signature"] {
        assert!(!text.contains(secret), "{text}");
    }
    error
}

#[tokio::test]
async fn a_good_bucket_passes_and_stays_as_it_is() {
    let server = TestS3::start();
    store_of(&server).check(&KeyPrefix::new("prefix")).await.unwrap();
    assert!(server.keys("").is_empty());
    assert_eq!(server.count(Op::Put) + server.count(Op::Delete), 0);
}

#[tokio::test]
async fn each_cause_has_a_message_of_its_own() {
    use StoreErrorKind::{ClockSkew, Denied, NoBucket, Tls, Unreachable};
    let server = TestS3::start();
    let (endpoint, bucket) = (server.endpoint(), server.bucket());
    let (key, secret) = (server.access_key(), server.secret_key());
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let tls = TlsServer::start();
    let behind = TestS3::start();
    behind.set_clock_offset(3600);
    let denied = TestS3::start();
    denied.fault(Rule::always(None, "", Action::Status(403)));

    // The words are the cause and what the user can look for.
    let cases = [
        (
            "wrong secret",
            s3(&endpoint, bucket, key, "the-wrong-secret"),
            Denied,
            "secret does not fit",
        ),
        ("unknown key", s3(&endpoint, bucket, "unknown-key", secret), Denied, "does not know"),
        (
            "missing bucket",
            s3(&endpoint, "no-such-bucket", key, secret),
            NoBucket,
            "no-such-bucket",
        ),
        ("closed port", s3(&closed, bucket, key, secret), Unreachable, "connection"),
        (
            "unknown host",
            s3("http://no-such-host.invalid:9000", bucket, key, secret),
            Unreachable,
            "resolved",
        ),
        ("clock", store_of(&behind), ClockSkew, "clock is 1 hour behind"),
        ("access denied", store_of(&denied), Denied, "denied"),
        ("certificate", s3(&tls.endpoint, bucket, key, secret), Tls, "certificate"),
        (
            "plain HTTP at a TLS port",
            s3(&tls.endpoint.replace("https", "http"), bucket, key, secret),
            Unreachable,
            "",
        ),
        (
            "TLS at a plain HTTP port",
            s3(&endpoint.replace("http", "https"), bucket, key, secret),
            Tls,
            "http://",
        ),
    ];
    let mut messages = Vec::<(&str, String)>::new();
    let mut wrong = Vec::new();
    for (name, store, kind, word) in &cases {
        let error = refusal(store).await;
        println!("{name}: {:?}: {error}", error.kind);
        if error.kind != *kind || !error.to_string().to_lowercase().contains(word) {
            wrong.push(format!(
                "{name}: {:?} instead of {kind:?} and {word:?}: {error}",
                error.kind
            ));
        }
        // Without the names of the case, nothing but the cause differs.
        let message = [endpoint.as_str(), &closed, &tls.endpoint, &denied.endpoint()]
            .iter()
            .fold(error.to_string(), |text, name| text.replace(name, "ENDPOINT"));
        if let Some((other, _)) = messages.iter().find(|(_, m)| *m == message) {
            wrong.push(format!("{name} reads like {other}: {message}"));
        }
        messages.push((name, message));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn a_wrong_region_names_the_right_one() {
    let only_in_the_message = "<Error><Code>AuthorizationQueryParametersError</Code><Message>Error \
                               parsing the X-Amz-Credential parameter; the region 'us-east-1' is \
                               wrong; expecting 'eu-9'</Message></Error>";
    for answer in [
        "<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-9</Region></Error>",
        only_in_the_message,
    ] {
        let server = Stub::start(([127, 0, 0, 1], 0).into(), move |_| (400, answer.to_owned()));
        let error = refusal(&s3(&server.endpoint(), "bucket", "key", "the-wrong-secret")).await;
        assert_eq!(error.kind, StoreErrorKind::Unsupported, "{error}");
        assert!(error.message.contains("set region=eu-9"), "{error}");
    }
}
