//! `gs://` against our own stub of Google's XML API: nothing here ran against Google.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use object_store::{ObjectStoreExt as _, PutMode, PutOptions};
use s3vol::store::{
    Attributes, Condition, ListRequest, Location, Properties, Send, Store, StoreErrorKind,
    StoreSettings, Verb,
};
use s3vol::types::{KeyPrefix, ObjectKey};

use super::TIMEOUT;
use super::probe::FULL;
use super::suite::{self, FIRST, failed, lost, won};
use super::support::gcs::{BUCKET, EMAIL, TestGcs};

/// A service account's file with a key of its own.
pub fn service_account(dir: &Path) -> std::path::PathBuf {
    let made = Command::new("openssl")
        .args(["genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let account = serde_json::json!({
        "type": "service_account",
        "private_key_id": "key-1",
        "private_key": String::from_utf8(made.stdout).unwrap(),
        "client_email": EMAIL,
    });
    let file = dir.join("account.json");
    std::fs::write(&file, account.to_string()).unwrap();
    file
}

/// Credentials come from the environment alone, which a process with threads must not change: the
/// tests of the stub run in a process of their own.
#[test]
fn the_stub_for_google() {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["google::with_an_account", "--ignored", "--nocapture", "--test-threads=2"])
        .env("GOOGLE_SERVICE_ACCOUNT", service_account(dir.path()))
        .env("HOME", dir.path())
        .output()
        .unwrap();
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && stdout.contains("6 passed"), "{stdout}\n{stderr}");
    println!("{stdout}");
}

mod with_an_account {
    use super::*;

    fn store(server: &TestGcs, bucket: &str) -> Store {
        let location = Location::parse(&format!("gs://{bucket}")).unwrap();
        let settings =
            StoreSettings { endpoint: Some(server.endpoint()), ..StoreSettings::default() };
        Store::open(&location, &settings).unwrap()
    }

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new(name)
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs the environment that google::the_stub_for_google gives it"]
    async fn the_suite() {
        let server = TestGcs::start();
        let store = store(&server, BUCKET);
        store.check(&KeyPrefix::new("")).await.unwrap();
        suite::run(&store, suite::Traits::GOOGLE).await;
        assert_eq!(server.names(), [""; 0], "the suite leaves nothing behind");
        assert_eq!(server.uploads(), 0);
        let (signed, bearing) = server.requests();
        assert!(signed > 0 && bearing > 0);
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs the environment that google::the_stub_for_google gives it"]
    async fn the_probe_finds_what_google_documents() {
        let server = TestGcs::start();
        let found = store(&server, BUCKET).probe(&KeyPrefix::new("probe")).await.unwrap();
        for verb in FULL {
            let none = matches!(verb, Verb::CompleteConditional | Verb::PartCopy | Verb::Checksum);
            assert_eq!(found.has(verb), !none, "{verb:?}");
        }
        assert_eq!(server.names(), [""; 0], "the probe cleans up");
        assert_eq!(server.uploads(), 0);
    }

    /// Listings tell no generation, which is what conditions are about.
    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs the environment that google::the_stub_for_google gives it"]
    async fn a_listed_version_is_a_condition() {
        let server = TestGcs::start();
        let store = store(&server, BUCKET);
        server.put_foreign("k", "one");
        let listed = async || {
            let request =
                ListRequest { prefix: "k".into(), delimiter: false, token: None, max_keys: 10 };
            let mut page = store.list(request, TIMEOUT).await.unwrap();
            let mut version = page.entries.pop().unwrap().version;
            version.generation = None;
            version
        };
        let one = listed().await;
        let none = Attributes::new();
        let when = |version| Send { condition: Condition::Is(version), ..Send::plain(TIMEOUT) };
        let _ = won(store
            .copy(&key("k"), &one, &key("c"), &none, &Properties::default(), Send::plain(TIMEOUT))
            .await);
        let _ = won(store
            .put(&key("k"), "two".into(), &none, &Properties::default(), when(one.clone()))
            .await);
        lost(
            store
                .put(&key("k"), "three".into(), &none, &Properties::default(), when(one.clone()))
                .await,
        );
        lost(
            store
                .copy(
                    &key("k"),
                    &one,
                    &key("c"),
                    &none,
                    &Properties::default(),
                    Send::plain(TIMEOUT),
                )
                .await,
        );
        lost(store.delete(&key("k"), when(one)).await);
        let _ = won(store.delete(&key("k"), when(listed().await)).await);
    }

    /// Names as other programs write them, and names that only look like ours.
    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs the environment that google::the_stub_for_google gives it"]
    async fn foreign_names_are_read_as_they_are() {
        let server = TestGcs::start();
        let store = store(&server, BUCKET);
        for name in ["?q=1#f", "100%", "%41", "back\\slash", "a b+c", "ü/é~", "%s3vol-x.a"] {
            server.put_foreign(name, "foreign");
            let request =
                ListRequest { prefix: String::new(), delimiter: false, token: None, max_keys: 10 };
            let page = store.list(request, TIMEOUT).await.unwrap();
            let listed: Vec<_> = page.entries.iter().map(|e| e.key.as_str()).collect();
            assert_eq!(listed, [name]);
            if !name.starts_with("%s3vol-x.") {
                let got = store.get(&key(name), None, None, TIMEOUT).await.unwrap();
                assert_eq!(got.data, "foreign", "{name}");
                let _ = won(store.delete(&key(name), Send::plain(TIMEOUT)).await);
                assert_eq!(server.names(), [""; 0], "{name}");
            }
        }
        let _ = won(store
            .put(
                &key("d/"),
                "".into(),
                &Attributes::new(),
                &Properties::default(),
                Send::plain(TIMEOUT),
            )
            .await);
        assert!(server.names().contains(&"d/.s3vol-dir".to_owned()), "{:?}", server.names());
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs the environment that google::the_stub_for_google gives it"]
    async fn refusals_have_their_cause() {
        let server = TestGcs::start();
        let error = store(&server, "no-such-bucket").check(&KeyPrefix::new("")).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::NoBucket, "{error}");
        let good = store(&server, BUCKET);
        let none = Attributes::new();
        let not_after = Some(good.now(TIMEOUT).await.unwrap().plus(-5_000));
        let late = Send { not_after, ..Send::plain(Duration::from_secs(5)) };
        let error =
            failed(good.put(&key("k"), "x".into(), &none, &Properties::default(), late).await);
        assert_eq!(error.kind, StoreErrorKind::Timeout, "{error}");
        // Google overlooks conditions there, so none is sent.
        let upload =
            good.create_upload(&key("k"), &none, &Properties::default(), TIMEOUT).await.unwrap();
        let tag = good.upload_part(&key("k"), &upload, FIRST, "new".into(), TIMEOUT).await.unwrap();
        let create = Send { condition: Condition::Absent, ..Send::plain(TIMEOUT) };
        let error = failed(good.complete_upload(&key("k"), &upload, &[tag], 3, create).await);
        assert_eq!(error.kind, StoreErrorKind::Unsupported, "{error}");
        assert_eq!(server.names(), [""; 0]);
        good.abort_upload(&key("k"), &upload, TIMEOUT).await.unwrap();
        assert_eq!(server.uploads(), 0);
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs the environment that google::the_stub_for_google gives it"]
    async fn the_engine_creates_once() {
        let server = TestGcs::start();
        let engine = store(&server, BUCKET).engine(&KeyPrefix::new("v/meta")).unwrap();
        let path = object_store::path::Path::from("manifest/1");
        let create = || PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let store = engine.as_dyn();
        store.put_opts(&path, "one".into(), create()).await.unwrap();
        let again = store.put_opts(&path, "two".into(), create()).await.unwrap_err();
        assert!(matches!(again, object_store::Error::AlreadyExists { .. }), "{again}");
        assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "one");
        assert_eq!(server.names(), ["v/meta/manifest/1"]);
    }
}
