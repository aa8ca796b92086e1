//! A volume on a Ceph gateway, from its first mount to its removal.

use std::collections::BTreeMap;
use std::sync::Arc;

use s3vol::catalog::{Catalog, Stores};
use s3vol::config::PluginConfig;
use s3vol::store::Known;
use s3vol::types::VolumeName;
use s3vol::worker::EnginePurge;

use super::purge::credentials;
use super::rig::{Mount, Place, finish, object, s3vol};
use super::support::s3server::TestS3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_is_made_used_and_removed_by_processes_of_which_one_probed() {
    credentials();
    let (server, place) = (TestS3::gateway(), Place::new());
    let env = BTreeMap::from([
        ("S3VOL_URL".to_owned(), format!("s3://{}/team", server.bucket())),
        ("S3VOL_ENDPOINT".to_owned(), server.endpoint()),
        ("S3VOL_STATE".to_owned(), place.state().display().to_string()),
        ("S3VOL_GRACE".to_owned(), "0s".to_owned()),
    ]);
    let config = PluginConfig::parse(&env).unwrap();
    let known = || Known::of_host(&place.state());
    let catalog = || async {
        let stores = Arc::new(Stores::knowing(known()));
        Catalog::open(&config, stores, "test".to_owned()).await.unwrap()
    };
    let name = VolumeName::new("web").unwrap();
    catalog().await.create(&name, &BTreeMap::new()).await.unwrap();

    let url = format!("s3://{}/team/web", server.bucket());
    let endpoint = format!("endpoint={}", server.endpoint());
    let settle = "settle_after=0s";
    server.clear_log();
    let mount = Mount::start(Some(&server), &place, &url, &[&endpoint, settle]);
    std::fs::write(place.file("a"), "first").unwrap();
    mount.end_well();
    assert_eq!(object(&server, "team/web/a").unwrap(), "first");
    let mount = Mount::start(Some(&server), &place, &url, &[&endpoint, settle]);
    std::fs::write(place.file("a"), "the second").unwrap();
    std::fs::rename(place.file("a"), place.file("b")).unwrap();
    let log = place.dir.path().join("log");
    mount.end_well();
    let said = std::fs::read_to_string(log).unwrap();
    assert_eq!(said.matches(": unmount took ").count(), 2, "{said}");
    assert_eq!(said.matches(": mount took ").count(), 2, "{said}");
    assert!(said.matches(" requests (").count() >= 4, "{said}");
    assert_eq!(object(&server, "team/web/b").unwrap(), "the second");
    assert!(object(&server, "team/web/a").is_none());
    // All conditions were written so that the gateway understands them: what was refused was to be.
    let log = server.log();
    let refused: Vec<_> =
        log.iter().filter(|e| e.status == 412 && !e.key.ends_with("/trial")).collect();
    assert!(refused.is_empty(), "{refused:#?}");

    let purge = EnginePurge::new().knowing(known());
    let catalog = catalog().await;
    catalog.remove(&name, &purge).await.unwrap();
    catalog.sweep(&purge).await.unwrap();
    let left = server.keys("");
    assert!(left.iter().all(|key| key.contains("/.s3vol/stores/")), "{left:?}");
}

#[test]
fn the_probe_by_hand_makes_it_known() {
    let (server, place) = (TestS3::gateway(), Place::new());
    let url = format!("s3://{}/team", server.bucket());
    let mut command = s3vol(&server);
    command.env("S3VOL_STATE", place.state()).args(["probe", &url]);
    let (code, out, error) = finish(&mut command);
    assert_eq!(code, Some(0), "{out}{error}");
    let known = Known::of_host(&place.state());
    let known = known.of(&format!("s3://{}", server.bucket()), &server.endpoint());
    let found = known.current().expect("it is kept on this host");
    assert!(found.capabilities.has(s3vol::store::Verb::UnquotedEtag), "{found:?}");
    let recorded = server.keys(".s3vol/stores/");
    assert_eq!(recorded, [format!(".s3vol/stores/{}.json", known.name())], "and for other hosts");
}
