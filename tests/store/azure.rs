//! `az://` against Microsoft's emulator.

use std::process::Command;

use s3vol::store::{Location, PutOutcome, Store, StoreErrorKind, StoreSettings};
use s3vol::types::KeyPrefix;

use super::named::{put, settings, write};
use super::suite::{self, won};
use super::support::accounts::CHANGED;
use super::support::azurite::{ACCOUNT, Azurite, KEY, OTHER_ACCOUNT, OTHER_KEY, SECOND_KEY};
use super::support::wait_for_async;

/// Credentials come from the environment alone, which a process with threads must not change: the
/// suite runs in a process of its own.
#[tokio::test(flavor = "multi_thread")]
async fn azurite() {
    let azurite = Azurite::start().await;
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["azure::the_suite", "--exact", "--ignored", "--nocapture"])
        .env("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT)
        .env("AZURE_STORAGE_ACCOUNT_KEY", KEY)
        .env("AZURE_STORAGE_ENDPOINT", &azurite.endpoint)
        .env("S3VOL_TEST_CONTAINER", &azurite.container)
        .output()
        .unwrap();
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && stdout.contains("1 passed"), "{stdout}\n{stderr}");
    println!("{stdout}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the environment that azure::azurite gives it"]
async fn the_suite() {
    let container = std::env::var("S3VOL_TEST_CONTAINER").unwrap();
    let location = Location::parse(&format!("az://{container}")).unwrap();
    let store = Store::open(&location, &StoreSettings::default()).unwrap();
    store.check(&KeyPrefix::new("")).await.unwrap();
    suite::run(&store, suite::Traits::AZURITE).await;
    println!("{:?}", store.probe(&KeyPrefix::new("probe")).await.unwrap());
}

fn lines(account: &str, key: &str) -> String {
    format!("AZURE_STORAGE_ACCOUNT_NAME={account}\nAZURE_STORAGE_ACCOUNT_KEY={key}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_of_azure_is_found_by_its_name_and_follows_its_file() {
    let (dir, azurite) = (tempfile::tempdir().unwrap(), Azurite::start().await);
    let location = Location::parse(&format!("az://{}", azurite.container)).unwrap();
    let open = || Store::open(&location, &settings(dir.path(), azurite.endpoint.clone()));
    let missing = open().unwrap_err();
    assert!(missing.message.contains("has no credentials team"), "{missing}");
    for (text, lacks) in [
        (format!("AZURE_STORAGE_ACCOUNT_KEY={KEY}\n"), "AZURE_STORAGE_ACCOUNT_NAME is missing"),
        (format!("AZURE_STORAGE_ACCOUNT_NAME={ACCOUNT}\n"), "AZURE_STORAGE_ACCOUNT_KEY is missing"),
    ] {
        put(dir.path(), &text);
        let wrong = open().unwrap_err();
        assert!(wrong.message.contains(lacks) && !wrong.message.contains(KEY), "{wrong}");
    }
    put(dir.path(), &lines(ACCOUNT, KEY));
    let store = open().unwrap();
    store.check(&KeyPrefix::new("")).await.unwrap();
    let _ = won(write(&store, "a").await);

    // One that is none, and then the account's other key: both while it is open.
    put(dir.path(), &lines(ACCOUNT, OTHER_KEY));
    let error =
        wait_for_async("the changed file", CHANGED, async || match write(&store, "b").await {
            PutOutcome::Failed(error) => Some(error),
            _ => None,
        });
    let error = error.await;
    assert_eq!(error.kind, StoreErrorKind::Denied, "{error}");
    let listed = store.check(&KeyPrefix::new("")).await.unwrap_err();
    assert_eq!(listed.kind, StoreErrorKind::Denied, "{listed}");
    for said in ["the credentials team of the host", "credentials/team"] {
        assert!(error.message.contains(said), "{said}: {error}");
        assert!(listed.message.contains(said), "{said}: {listed}");
    }
    // A listing looks at the file again by itself.
    put(dir.path(), &lines(ACCOUNT, SECOND_KEY));
    store.check(&KeyPrefix::new("")).await.unwrap();
    let _ = won(write(&store, "c").await);
    assert_eq!(store.credentials().unwrap().changes, 2);

    // Another account is another place, which has no such container.
    put(dir.path(), &lines(OTHER_ACCOUNT, OTHER_KEY));
    let other = azurite.endpoint.replace(ACCOUNT, OTHER_ACCOUNT);
    let store = Store::open(&location, &settings(dir.path(), other)).unwrap();
    let error = store.check(&KeyPrefix::new("")).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::NoBucket, "{error}");
}
