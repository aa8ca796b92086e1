//! A volume on Azure by the name of its credentials, against Microsoft's emulator.

use std::fs::File;

use super::rig::{Mount, Place, SOON, s3vol_as};
use super::support::accounts::put;
use super::support::azurite::{ACCOUNT, Azurite, KEY, OTHER_KEY, SECOND_KEY};

fn lines(key: &str) -> String {
    format!("AZURE_STORAGE_ACCOUNT_NAME={ACCOUNT}\nAZURE_STORAGE_ACCOUNT_KEY={key}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_on_azure_uses_the_credentials_of_its_name_and_no_others() {
    let (place, azurite) = (Place::new(), Azurite::start().await);
    let files = place.dir.path().join("files");
    let url = format!("az://{}/v", azurite.container);
    let endpoint = format!("endpoint={}", azurite.endpoint);
    let options = ["credentials=team", "commit=1s", "settle_after=1s", &endpoint];
    let begin = |place: &Place, own: &str| {
        let mut command = s3vol_as("s3vol", None);
        command.env("S3VOL_FILES", &files);
        // Those of the process itself, which a name never falls back to.
        command.env("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT).env("AZURE_STORAGE_ACCOUNT_KEY", own);
        Mount::begin_as(&mut command, place, &url, &options)
    };
    put(&files, "team", &lines(OTHER_KEY));
    let mut refused = begin(&place, KEY);
    assert!(!refused.ended(SOON).success());
    let said = refused.said();
    assert!(said.contains("the credentials team of the host"), "{said}");
    assert!(!said.contains(OTHER_KEY) && !said.contains(KEY), "{said}");

    put(&files, "team", &lines(KEY));
    let mount = begin(&place, OTHER_KEY).up();
    std::fs::create_dir(place.file("sub")).unwrap();
    std::fs::write(place.file("sub/one"), "by the first key").unwrap();
    File::open(place.file("sub/one")).unwrap().sync_all().unwrap();
    put(&files, "team", &lines(SECOND_KEY));
    std::fs::write(place.file("two"), vec![2; 300_000]).unwrap();
    File::open(place.file("two")).unwrap().sync_all().unwrap();
    mount.end_well();

    // Another host, which has nothing of it.
    let other = Place::new();
    let mount = begin(&other, OTHER_KEY).up();
    assert_eq!(std::fs::read_to_string(other.file("sub/one")).unwrap(), "by the first key");
    assert_eq!(std::fs::read(other.file("two")).unwrap(), vec![2; 300_000]);
    mount.end_well();
}
