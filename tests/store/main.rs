//! Every store keeps the same contract: one suite, run against the test server, somebody else's
//! server and a local directory; then what only the test server can show.

mod azure;
mod boto;
mod check;
mod conditions;
mod credentials;
mod directory;
mod engine;
mod faults;
mod gateway;
mod google;
mod keys;
mod named;
mod objects;
mod parts;
mod probe;
mod properties;
mod suite;
#[path = "../support/mod.rs"]
mod support;

use std::time::Duration;

use s3vol::store::{Location, StaticKeys, Store, StoreSettings, Verb};
use s3vol::types::{KeyPrefix, Secret};

use support::moto::Moto;
use support::s3server::TestS3;

/// For one request; tests that wait for it to pass use a shorter one.
pub const TIMEOUT: Duration = Duration::from_secs(20);

/// The store of a bucket behind an endpoint.
pub fn s3(endpoint: &str, bucket: &str, access_key: &str, secret_key: &str) -> Store {
    let location = Location::parse(&format!("s3://{bucket}")).unwrap();
    Store::open(&location, &settings(endpoint, access_key, secret_key)).unwrap()
}

/// How a server on loopback is reached.
pub fn settings(endpoint: &str, access_key: &str, secret_key: &str) -> StoreSettings {
    StoreSettings {
        endpoint: Some(endpoint.to_owned()),
        region: Some("us-east-1".into()),
        path_style: Some(true),
        keys: Some(StaticKeys {
            key: access_key.to_owned(),
            secret: Secret::new(secret_key),
            token: None,
        }),
        ..StoreSettings::default()
    }
}

/// The store of a test server's bucket.
pub fn store_of(server: &TestS3) -> Store {
    s3(&server.endpoint(), server.bucket(), server.access_key(), server.secret_key())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_test_server() {
    let server = TestS3::start();
    suite::run(&store_of(&server), suite::Traits::FULL).await;
    assert_eq!(server.keys(""), [""; 0], "the suite leaves nothing behind");
    assert_eq!(server.uploads(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn moto() {
    let moto = Moto::start().await;
    let store = s3(&moto.endpoint, &moto.bucket, "any", "any");
    suite::run(&store, suite::Traits::MOTO).await;
    // Whether it is caught creating a key twice is a matter of luck.
    let found = store.probe(&KeyPrefix::new("probe")).await.unwrap();
    for verb in [Verb::PutIfMatch, Verb::DeleteConditional, Verb::ReadAfterWrite] {
        assert!(found.has(verb), "{verb:?} of {found:?}");
    }
    for verb in [Verb::Copy, Verb::CopyConditional, Verb::CompleteConditional, Verb::Expiry] {
        assert!(!found.has(verb), "{verb:?} of {found:?}");
    }
}
