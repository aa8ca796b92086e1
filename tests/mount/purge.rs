//! `docker volume rm`, until nothing is left but what others made.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Once};
use std::time::Duration;

use s3vol::catalog::{Catalog, Definition, Purge, Purged, Stores, find_state};
use s3vol::config::PluginConfig;
use s3vol::types::VolumeName;
use s3vol::worker::{EnginePurge, VolumeAt, plan_rebuild};

use super::rig::{Mount, Place, SOON, object};
use super::support::s3server::{ACCESS_KEY, Action, Op, Rule, SECRET_KEY, TestS3};
use super::support::wait_for;

/// The stores of this process find their keys where users put them.
pub fn credentials() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let env = [
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ];
        for (name, value) in env {
            // SAFETY: all tests reach the environment through the standard library, which locks it.
            unsafe { std::env::set_var(name, value) };
        }
    });
}

async fn catalog(home: &str, endpoint: Option<&str>, state: &Path, grace: &str) -> Catalog {
    credentials();
    let mut env = BTreeMap::from([
        ("S3VOL_URL".to_owned(), home.to_owned()),
        ("S3VOL_STATE".to_owned(), state.display().to_string()),
        ("S3VOL_GRACE".to_owned(), grace.to_owned()),
    ]);
    if let Some(endpoint) = endpoint {
        env.insert("S3VOL_ENDPOINT".to_owned(), endpoint.to_owned());
    }
    let config = PluginConfig::parse(&env).unwrap();
    Catalog::open(&config, Arc::new(Stores::default()), "test".to_owned()).await.unwrap()
}

async fn on(server: &TestS3, place: &Place, grace: &str) -> Catalog {
    let home = format!("s3://{}/team", server.bucket());
    catalog(&home, Some(&server.endpoint()), &place.dir.path().join("catalog"), grace).await
}

async fn create(catalog: &Catalog, name: &VolumeName) -> Definition {
    catalog.create(name, &BTreeMap::new()).await.unwrap()
}

fn volume() -> VolumeName {
    VolumeName::new("web").unwrap()
}

fn mount(server: &TestS3, place: &Place) -> Mount {
    let url = format!("s3://{}/team/web", server.bucket());
    let endpoint = format!("endpoint={}", server.endpoint());
    Mount::start(Some(server), place, &url, &[&endpoint])
}

fn fill(place: &Place) {
    std::fs::create_dir(place.file("sub")).unwrap();
    for name in ["ours", "theirs-now", "same-bytes", "sub/deep"] {
        std::fs::write(place.file(name), format!("content of {name}")).unwrap();
    }
}

/// The volume gets some files, which then rest.
fn use_once(server: &TestS3, place: &Place) {
    let mount = mount(server, place);
    fill(place);
    mount.end_well();
}

/// What other programs put among the volume's objects.
fn foreign(server: &TestS3) {
    server.put_foreign("team/web/photo.jpg", "jpeg", &[]);
    server.put_foreign("team/web/theirs-now", "replaced", &[]);
    // Equal bytes have equal ETags.
    server.put_foreign("team/web/same-bytes", "content of same-bytes", &[]);
    server.put_foreign("team/website/index", "a neighbour", &[]);
}

/// Without what was found out about the store, which is no volume's.
fn keys(server: &TestS3, prefix: &str) -> Vec<String> {
    server.keys(prefix).into_iter().filter(|key| !key.contains("/.s3vol/stores/")).collect()
}

fn only_foreign(server: &TestS3) {
    let left = keys(server, "");
    let expected =
        ["team/web/photo.jpg", "team/web/same-bytes", "team/web/theirs-now", "team/website/index"];
    assert_eq!(left, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_that_was_used_after_its_removal_comes_back() {
    let (server, place) = (TestS3::start(), Place::new());
    let catalog = on(&server, &place, "0s").await;
    create(&catalog, &volume()).await;
    use_once(&server, &place);
    catalog.remove(&volume(), &EnginePurge::new()).await.unwrap();
    // By its URL nobody sees that.
    let second = mount(&server, &place);
    std::fs::write(place.file("late"), "written after the removal").unwrap();
    second.end_well();
    catalog.sweep(&EnginePurge::new()).await.unwrap();
    for name in ["ours", "late", "sub/deep"] {
        assert!(object(&server, &format!("team/web/{name}")).is_some(), "{name}");
    }
    let back = catalog.lookup(&volume()).await.unwrap().expect("it is back");
    assert_eq!(back.removing, None);
    // The next removal counts.
    catalog.remove(&volume(), &EnginePurge::new()).await.unwrap();
    catalog.sweep(&EnginePurge::new()).await.unwrap();
    assert_eq!(keys(&server, ""), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_that_somebody_takes_while_its_removal_looks_for_users_stays() {
    let (server, place) = (TestS3::start(), Place::new());
    let catalog = Arc::new(on(&server, &place, "0s").await);
    create(&catalog, &volume()).await;
    use_once(&server, &place);
    catalog.remove(&volume(), &EnginePurge::new()).await.unwrap();
    // The first look at the engine is for the epoch that is judged.
    server.fault(Rule::new(Op::List, "manifest", 1, Action::Hold).after(1));
    let sweep = tokio::spawn({
        let catalog = Arc::clone(&catalog);
        async move { catalog.sweep(&EnginePurge::new()).await }
    });
    wait_for("the second look", SOON, || (server.held() > 0).then_some(()));
    let second = mount(&server, &place);
    server.release();
    sweep.await.unwrap().unwrap();
    std::fs::write(place.file("late"), "written after the removal").unwrap();
    second.end_well();
    for name in ["ours", "late", "sub/deep"] {
        assert!(object(&server, &format!("team/web/{name}")).is_some(), "{name}");
    }
    catalog.sweep(&EnginePurge::new()).await.unwrap();
    let back = catalog.lookup(&volume()).await.unwrap().expect("it is back");
    assert_eq!(back.removing, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_that_was_never_mounted_goes_as_well() {
    let (server, place) = (TestS3::start(), Place::new());
    let catalog = on(&server, &place, "0s").await;
    create(&catalog, &volume()).await;
    foreign(&server);
    catalog.remove(&volume(), &EnginePurge::new()).await.unwrap();
    catalog.sweep(&EnginePurge::new()).await.unwrap();
    only_foreign(&server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_that_was_used_after_its_removal_and_removed_again_goes() {
    let (server, place) = (TestS3::start(), Place::new());
    let catalog = on(&server, &place, "0s").await;
    create(&catalog, &volume()).await;
    for _ in 0..2 {
        let mount = mount(&server, &place);
        std::fs::write(place.file("f"), "written").unwrap();
        mount.end_well();
        catalog.remove(&volume(), &EnginePurge::new()).await.unwrap();
    }
    catalog.sweep(&EnginePurge::new()).await.unwrap();
    assert_eq!(keys(&server, ""), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_objects_of_a_rebuilt_volume_stay_when_its_old_name_is_removed() {
    let (server, place) = (TestS3::start(), Place::new());
    let catalog = on(&server, &place, "0s").await;
    let old = create(&catalog, &volume()).await;
    use_once(&server, &place);
    catalog.remove(&volume(), &EnginePurge::new()).await.unwrap();
    let definition = "team/.s3vol/volumes/web.json";
    let leads = server.get(definition).unwrap().body;
    let at = VolumeAt {
        options: old.options,
        volumes: place.dir.path().join("rebuilt"),
        stores: place.dir.path().join("stores"),
    };
    let rebuilt = plan_rebuild(&at).await.unwrap().run(&mut |_, _| {}).await.unwrap();
    // As one in another catalog, of which a rebuild knows nothing.
    server.put_foreign(definition, leads, &[]);
    catalog.sweep(&EnginePurge::new()).await.unwrap();
    assert!(server.get(definition).is_none(), "the name goes");
    for name in ["ours", "theirs-now", "same-bytes", "sub/deep"] {
        assert!(object(&server, &format!("team/web/{name}")).is_some(), "{name}");
    }
    let found = find_state(&Stores::default(), &at.options).await.unwrap().expect("the new one");
    assert_eq!(found.id, rebuilt.id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_others_made_stays() {
    let (server, place) = (TestS3::start(), Place::new());
    let catalog = on(&server, &place, "0s").await;
    let first = create(&catalog, &volume()).await;
    use_once(&server, &place);
    foreign(&server);
    catalog.remove(&volume(), &EnginePurge::new()).await.unwrap();
    assert!(object(&server, "team/web/ours").is_some(), "removal itself deletes nothing");
    catalog.sweep(&EnginePurge::new()).await.unwrap();
    only_foreign(&server);
    // The name is free, for another volume around what stays.
    let second = create(&catalog, &volume()).await;
    assert_ne!(first.uuid, second.uuid);
    assert!(second.adopted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_off_anywhere_it_goes_on() {
    let (server, place) = (TestS3::start(), Place::new());
    let catalog = on(&server, &place, "0s").await;
    create(&catalog, &volume()).await;
    use_once(&server, &place);
    foreign(&server);
    catalog.remove(&volume(), &EnginePurge::new()).await.unwrap();
    let purge = EnginePurge::with_slice(Duration::ZERO);
    let mut sweeps = 0;
    // As if it were killed after a few deletions: all others fail, in one way or another.
    while !keys(&server, "team/.s3vol/").is_empty() {
        let action = match sweeps % 3 {
            0 => Action::Status(503),
            1 => Action::ApplyThenStatus(500),
            _ => Action::ApplyThenDropReply,
        };
        let passing = sweeps / 3;
        for op in [Op::Delete, Op::DeleteMany] {
            server.fault(Rule::always(Some(op), "team/", action.clone()).after(passing));
        }
        catalog.sweep(&purge).await.unwrap();
        server.clear_faults();
        for kept in ["photo.jpg", "theirs-now", "same-bytes"] {
            assert!(object(&server, &format!("team/web/{kept}")).is_some(), "{kept} is gone");
        }
        sweeps += 1;
        assert!(sweeps < 60, "it does not end: {:?}", server.keys(""));
    }
    assert!(sweeps > 3, "only {sweeps} sweeps");
    only_foreign(&server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_store_does_not_delete_is_named_and_keeps_nothing_else() {
    let (server, place) = (TestS3::start(), Place::new());
    let catalog = on(&server, &place, "0s").await;
    let definition = create(&catalog, &volume()).await;
    use_once(&server, &place);
    catalog.remove(&volume(), &EnginePurge::new()).await.unwrap();
    // As an object that is locked.
    server.fault(Rule::always(Some(Op::Delete), "web/ours", Action::Status(403)));
    for _ in 0..2 {
        let purged = EnginePurge::new().purge(&definition).await.unwrap();
        let Purged::Later(why) = purged else { panic!("{purged:?}") };
        assert!(why.contains("team/web/ours cannot be deleted") && why.contains("403"), "{why}");
        assert_eq!(keys(&server, "team/web/"), ["team/web/ours"]);
    }
    server.clear_faults();
    catalog.sweep(&EnginePurge::new()).await.unwrap();
    assert_eq!(keys(&server, "team/web/"), [""; 0]);
    assert_eq!(keys(&server, "team/.s3vol/"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_that_the_store_does_not_delete_keep_nothing_behind_them() {
    let (server, place) = (TestS3::start(), Place::new());
    let catalog = on(&server, &place, "0s").await;
    let definition = create(&catalog, &volume()).await;
    let mount = mount(&server, &place);
    for folder in ["locked", "hidden"] {
        std::fs::create_dir(place.file(folder)).unwrap();
        for number in 0..510 {
            std::fs::write(place.file(&format!("{folder}/{number}")), "x").unwrap();
        }
    }
    std::fs::write(place.file("ours"), "x").unwrap();
    mount.end_well();
    catalog.remove(&volume(), &EnginePurge::new()).await.unwrap();
    server.fault(Rule::always(Some(Op::Delete), "web/locked/", Action::Status(403)));
    server.fault(Rule::always(Some(Op::Head), "web/hidden/", Action::Status(403)));
    // Each call has time for one page.
    let purge = EnginePurge::with_slice(Duration::ZERO);
    for _ in 0..4 {
        let purged = purge.purge(&definition).await.unwrap();
        let Purged::Later(why) = purged else { panic!("{purged:?}") };
        assert!(why.contains("403") || why.contains("others are still left"), "{why}");
    }
    let left = keys(&server, "team/web/");
    assert!(
        left.iter().all(|key| key.contains("/locked/") || key.contains("/hidden/")),
        "{left:?}"
    );
    assert!(left.len() >= 1020, "{}", left.len());
    // Of its state as well.
    server.clear_faults();
    let lease = "/lease/00000000000000000001";
    server.fault(Rule::always(Some(Op::Delete), lease, Action::Status(403)));
    let error = EnginePurge::new().purge(&definition).await.unwrap_err().to_string();
    assert!(error.contains("403"), "{error}");
    let left = keys(&server, "team/.s3vol/v/");
    assert_eq!(left.len(), 2, "{left:?}");
    server.clear_faults();
    catalog.sweep(&EnginePurge::new()).await.unwrap();
    assert_eq!(keys(&server, ""), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_crash_its_lease_runs_out_and_it_goes_on() {
    let (server, place) = (TestS3::start(), Place::new());
    let catalog = Arc::new(on(&server, &place, "0s").await);
    create(&catalog, &volume()).await;
    use_once(&server, &place);
    foreign(&server);
    catalog.remove(&volume(), &EnginePurge::new()).await.unwrap();
    server.fault(Rule::always(Some(Op::Delete), "team/web/", Action::Hold));
    let killed = tokio::spawn({
        let catalog = Arc::clone(&catalog);
        async move { catalog.sweep(&EnginePurge::new()).await }
    });
    wait_for("the first deletion", SOON, || (server.held() > 0).then_some(()));
    killed.abort();
    assert!(killed.await.unwrap_err().is_cancelled());
    server.clear_faults();

    // Nobody mounts what is half gone, not even by its URL.
    let other = Place::new();
    let url = format!("s3://{}/team/web", server.bucket());
    let endpoint = format!("endpoint={}", server.endpoint());
    let mut refused = Mount::begin(Some(&server), &other, &url, &[&endpoint]);
    assert!(!refused.ended(SOON).success());
    assert!(refused.said().contains("the volume was removed"), "{}", refused.said());
    let error = catalog.create(&volume(), &BTreeMap::new()).await.unwrap_err().to_string();
    assert!(error.contains("being deleted"), "{error}");

    // Its lease still stands.
    catalog.sweep(&EnginePurge::new()).await.unwrap();
    assert!(!server.keys("team/.s3vol/v/").is_empty());
    server.set_clock_offset(61);
    catalog.sweep(&EnginePurge::new()).await.unwrap();
    server.release();
    only_foreign(&server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_crash_the_same_host_goes_on_at_once() {
    let (server, place) = (TestS3::start(), Place::new());
    let catalog = Arc::new(on(&server, &place, "0s").await);
    create(&catalog, &volume()).await;
    use_once(&server, &place);
    let here = EnginePurge::new().with_local(place.state().join("volumes"));
    catalog.remove(&volume(), &here).await.unwrap();
    server.fault(Rule::always(Some(Op::Delete), "team/web/", Action::Hold));
    let killed = tokio::spawn({
        let (catalog, volumes) = (Arc::clone(&catalog), place.state().join("volumes"));
        async move { catalog.sweep(&EnginePurge::new().with_local(volumes)).await }
    });
    wait_for("the first deletion", SOON, || (server.held() > 0).then_some(()));
    killed.abort();
    assert!(killed.await.unwrap_err().is_cancelled());
    server.clear_faults();
    // Any other host waits for its lease.
    catalog.sweep(&EnginePurge::new()).await.unwrap();
    assert!(!server.keys("team/.s3vol/v/").is_empty());
    catalog.sweep(&here).await.unwrap();
    assert_eq!(keys(&server, ""), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn within_the_grace_it_comes_back_whole() {
    let (server, place) = (TestS3::start(), Place::new());
    let catalog = on(&server, &place, "1h").await;
    let first = create(&catalog, &volume()).await;
    use_once(&server, &place);
    let before = server.keys("team/web/");
    catalog.remove(&volume(), &EnginePurge::new()).await.unwrap();
    catalog.sweep(&EnginePurge::new()).await.unwrap();
    assert_eq!(server.keys("team/web/"), before);
    assert_eq!(create(&catalog, &volume()).await.uuid, first.uuid);
    catalog.sweep(&EnginePurge::new()).await.unwrap();
    let mount_2 = mount(&server, &place);
    let text = std::fs::read_to_string(place.file("sub/deep")).unwrap();
    assert_eq!(text, "content of sub/deep");
    mount_2.end_well();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_while_somebody_holds_it() {
    let (server, place) = (TestS3::start(), Place::new());
    let catalog = on(&server, &place, "0s").await;
    create(&catalog, &volume()).await;
    let mount = mount(&server, &place);
    fill(&place);
    let error = catalog.remove(&volume(), &EnginePurge::new()).await.unwrap_err().to_string();
    let host = s3vol::sys::hostname();
    assert!(error.contains(&format!("in use on {host} (")), "{error}");
    mount.end_well();
    catalog.remove(&volume(), &EnginePurge::new()).await.unwrap();
    // Taken again between the removal and its time: it is waited for.
    let again = self::mount(&server, &place);
    catalog.sweep(&EnginePurge::new()).await.unwrap();
    assert!(object(&server, "team/web/ours").is_some());
    assert_eq!(std::fs::read_to_string(place.file("ours")).unwrap(), "content of ours");
    again.end_well();
    // It was used since, so it is back, and goes with its next removal.
    catalog.sweep(&EnginePurge::new()).await.unwrap();
    assert!(object(&server, "team/web/ours").is_some());
    catalog.remove(&volume(), &EnginePurge::new()).await.unwrap();
    catalog.sweep(&EnginePurge::new()).await.unwrap();
    assert_eq!(keys(&server, "team/"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lease_of_a_worker_of_this_host_that_died_is_in_nobodys_way() {
    let (server, place) = (TestS3::start(), Place::new());
    let catalog = on(&server, &place, "0s").await;
    let web = create(&catalog, &volume()).await;
    let volumes = place.state().join("volumes");
    let folder = volumes.join(web.uuid.to_string());
    let here = || EnginePurge::new().with_local(volumes.clone());
    let mount = mount(&server, &place);
    fill(&place);
    let error = catalog.remove(&volume(), &here()).await.unwrap_err().to_string();
    assert!(error.contains("in use on"), "a running worker keeps it: {error}");
    File::open(place.file("ours")).unwrap().sync_all().unwrap();
    mount.kill();
    assert!(folder.join("log/log").exists());
    // For any other host it is held.
    assert!(catalog.remove(&volume(), &EnginePurge::new()).await.is_err());
    catalog.remove(&volume(), &here()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_local_folder_goes_too_unless_it_has_what_no_bucket_has() {
    for synced in [true, false] {
        let (server, place) = (TestS3::start(), Place::new());
        let catalog = on(&server, &place, "0s").await;
        let web = create(&catalog, &volume()).await;
        let volumes = place.state().join("volumes");
        let folder = volumes.join(web.uuid.to_string());
        let purge = EnginePurge::new().with_local(volumes);
        let url = format!("s3://{}/team/web", server.bucket());
        let endpoint = format!("endpoint={}", server.endpoint());
        let mount = Mount::start(Some(&server), &place, &url, &[&endpoint, "commit=5m"]);
        fill(&place);
        if synced {
            mount.end_well();
        } else {
            mount.kill();
        }
        assert!(folder.exists());
        catalog.remove(&volume(), &purge).await.unwrap();
        server.set_clock_offset(200);
        catalog.sweep(&purge).await.unwrap();
        assert_eq!(keys(&server, "team/"), [""; 0]);
        assert_eq!(folder.exists(), !synced, "{}", folder.display());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_is_emptied_as_well() {
    let place = Place::new();
    let store = place.dir.path().join("store");
    std::fs::create_dir(&store).unwrap();
    let home = format!("file://{}", store.display());
    let catalog = catalog(&home, None, &place.dir.path().join("catalog"), "0s").await;
    create(&catalog, &volume()).await;
    let mount = Mount::start(None, &place, &format!("{home}/web"), &[]);
    fill(&place);
    mount.end_well();
    std::fs::write(store.join("web/by-hand"), "stays").unwrap();
    catalog.remove(&volume(), &EnginePurge::new()).await.unwrap();
    catalog.sweep(&EnginePurge::new()).await.unwrap();
    let names = |path: &Path| -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(path)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            // Where the store keeps attributes that the disk cannot.
            .filter(|name| name != ".s3vol-file")
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(&store.join("web")), ["by-hand"]);
    let state = store.join(".s3vol/v");
    assert!(!state.exists() || names(&state).is_empty(), "{:?}", names(&state));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_that_went_with_their_bucket_keep_no_volume() {
    let place = Place::new();
    let folder = |name: &str| {
        let folder = place.dir.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        folder
    };
    let (store, own) = (folder("store"), folder("own"));
    let home = format!("file://{}", store.display());
    let url = format!("file://{}/web", own.display());
    let catalog = catalog(&home, None, &place.dir.path().join("catalog"), "0s").await;
    let options = [("url", &url), ("state_url", &home)];
    let options = options.map(|(name, value)| (name.to_owned(), value.clone()));
    catalog.create(&volume(), &BTreeMap::from(options)).await.unwrap();
    let mount = Mount::start(None, &place, &url, &[&format!("state_url={home}")]);
    fill(&place);
    mount.end_well();
    assert!(own.join("web/ours").exists());
    std::fs::remove_dir_all(&own).unwrap();
    catalog.remove(&volume(), &EnginePurge::new()).await.unwrap();
    catalog.sweep(&EnginePurge::new()).await.unwrap();
    assert!(catalog.known(&volume()).is_none());
}
