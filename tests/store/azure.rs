//! `az://` against Microsoft's emulator.

use std::process::Command;

use s3vol::store::{Location, Store, StoreSettings};
use s3vol::types::KeyPrefix;

use super::suite;
use super::support::azurite::{ACCOUNT, Azurite, KEY};

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
