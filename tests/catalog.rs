//! The catalog's rules, on an in-memory bucket.

#[path = "catalog/at_once.rs"]
mod at_once;
#[path = "support/memory.rs"]
mod memory;
#[path = "catalog/once.rs"]
mod once;

#[path = "support/s3server/mod.rs"]
mod s3server;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};
use std::time::Duration;

use memory::{Memory, MemoryOpener};
use parking_lot::Mutex;
use s3server::{Logged, Op, Options, Rule, TestS3, rounds};
use s3vol::catalog::{Catalog, CatalogError, Definition, Opener, Purge, Purged, RetainAll, Stores};
use s3vol::config::PluginConfig;
use s3vol::store::Known;
use s3vol::types::VolumeName;
use s3vol::worker::EnginePurge;

/// The bucket `bkt`: in memory, or behind a Ceph gateway.
enum World {
    Memory(Arc<Memory>),
    Gateway(Box<TestS3>),
}

/// Runs a test in both.
macro_rules! in_both {
    ($($name:ident),* $(,)?) => {$(
        mod $name {
            #[tokio::test]
            async fn in_memory() {
                super::$name(super::World::memory()).await;
            }

            #[tokio::test]
            async fn behind_a_gateway() {
                super::$name(super::World::gateway()).await;
            }
        }
    )*};
}

in_both!(
    overlapping_writers_are_refused,
    a_careless_store_is_refused_unless_promised_alone,
    removal_waits_for_the_grace_and_spares_what_was_there,
    a_host_deletes_what_it_removed_without_having_known_it,
    the_mirror_survives_and_follows_the_bucket,
    a_record_that_is_no_definition_is_in_nobodys_way,
    a_host_may_read_only_what_others_write,
    a_change_that_was_refused_says_what_differs_and_who_did_it,
);

impl World {
    fn memory() -> Self {
        World::Memory(Arc::default())
    }

    fn gateway() -> Self {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            let env = [
                ("AWS_ACCESS_KEY_ID", s3server::ACCESS_KEY),
                ("AWS_SECRET_ACCESS_KEY", s3server::SECRET_KEY),
                ("AWS_EC2_METADATA_DISABLED", "true"),
            ];
            for (name, value) in env {
                // SAFETY: all tests reach the environment through the standard library, which locks it.
                unsafe { std::env::set_var(name, value) };
            }
        });
        let server =
            TestS3::with(Options { bucket: "bkt".to_owned(), ..Options::default() }).unwrap();
        server.speak_as_gateway();
        World::Gateway(Box::new(server))
    }

    fn server(&self) -> &TestS3 {
        match self {
            World::Memory(_) => panic!("only behind a gateway"),
            World::Gateway(server) => server,
        }
    }

    fn put_object(&self, key: &str, body: &'static str) {
        match self {
            World::Memory(memory) => memory.put_object(&format!("bkt/{key}"), body),
            World::Gateway(server) => server.put_foreign(key, body, &[]),
        }
    }

    fn remove(&self, key: &str) {
        match self {
            World::Memory(memory) => memory.remove(&format!("bkt/{key}")),
            World::Gateway(server) => assert!(server.delete_foreign(key)),
        }
    }

    fn keys(&self) -> Vec<String> {
        match self {
            World::Memory(memory) => memory
                .keys()
                .iter()
                .map(|key| key.strip_prefix("bkt/").unwrap().to_owned())
                .collect(),
            World::Gateway(server) => server.keys(""),
        }
    }

    /// From now on every condition is overlooked.
    fn be_careless(&self) {
        match self {
            World::Memory(memory) => memory.careless.store(true, Ordering::SeqCst),
            World::Gateway(server) => {
                server.fault(Rule::always(Some(Op::Put), "", s3server::Action::IgnoreConditions));
            }
        }
    }

    fn be_careful(&self) {
        match self {
            World::Memory(memory) => memory.careless.store(false, Ordering::SeqCst),
            World::Gateway(server) => server.clear_faults(),
        }
    }

    fn be_reachable(&self, reachable: bool) {
        match (self, reachable) {
            (World::Memory(memory), _) => memory.unreachable.store(!reachable, Ordering::SeqCst),
            (World::Gateway(server), true) => server.restart(),
            (World::Gateway(server), false) => server.stop(),
        }
    }

    /// By the store's clock, which a new process reads in whole seconds.
    fn pass_a_minute(&self) {
        match self {
            World::Memory(memory) => memory.clock.store(60_000, Ordering::SeqCst),
            World::Gateway(server) => server.set_clock_offset(60),
        }
    }
}

async fn catalog(dir: &tempfile::TempDir, world: &World) -> Catalog {
    catalog_with(dir, world, &[]).await
}

/// On the host whose state folder is `dir`, as a process that has just started.
async fn catalog_with(dir: &tempfile::TempDir, world: &World, more: &[(&str, &str)]) -> Catalog {
    let mut env = BTreeMap::from([
        ("S3VOL_URL".to_owned(), "s3://bkt/team".to_owned()),
        ("S3VOL_STATE".to_owned(), dir.path().display().to_string()),
    ]);
    env.extend(more.iter().map(|(name, value)| (name.to_string(), value.to_string())));
    let opener: Arc<dyn Opener> = match world {
        World::Memory(memory) => Arc::new(MemoryOpener(Arc::clone(memory))),
        World::Gateway(server) => {
            env.insert("S3VOL_ENDPOINT".to_owned(), server.endpoint());
            Arc::new(Stores::knowing(Known::of_host(dir.path())))
        }
    };
    let config = PluginConfig::parse(&env).unwrap();
    let host = more.iter().find(|(name, _)| *name == "S3VOL_TEST_HOST").map_or("test", |(_, h)| h);
    Catalog::open(&config, opener, host.to_owned()).await.unwrap()
}

fn name(text: &str) -> VolumeName {
    VolumeName::new(text).unwrap()
}

async fn create(
    catalog: &Catalog,
    volume: &str,
    options: &[(&str, &str)],
) -> Result<Definition, CatalogError> {
    let options = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    catalog.create(&name(volume), &options).await
}

/// Removes the volume on another host in the moment between a look at it and its change.
struct Overtaking(Catalog);

#[async_trait::async_trait]
impl Purge for Overtaking {
    async fn holder(&self, volume: &Definition) -> Result<Option<String>, CatalogError> {
        self.0.remove(&volume.name, &RetainAll).await?;
        Ok(None)
    }

    async fn purge(&self, _volume: &Definition) -> Result<Purged, CatalogError> {
        Ok(Purged::Done)
    }
}

/// Notes what it is asked to purge.
#[derive(Default)]
struct Noting(Mutex<Vec<String>>);

#[async_trait::async_trait]
impl Purge for Noting {
    async fn holder(&self, volume: &Definition) -> Result<Option<String>, CatalogError> {
        Ok((volume.name.as_str() == "held").then(|| "beta (9)".to_owned()))
    }

    async fn purge(&self, volume: &Definition) -> Result<Purged, CatalogError> {
        self.0.lock().push(volume.name.to_string());
        Ok(Purged::Done)
    }
}

async fn overlapping_writers_are_refused(world: World) {
    let dir = tempfile::tempdir().unwrap();
    let catalog = catalog(&dir, &world).await;
    create(&catalog, "web", &[]).await.unwrap();
    for url in ["s3://bkt/team/web", "s3://bkt/team/web/below"] {
        let error = create(&catalog, "x", &[("url", url)]).await.unwrap_err().to_string();
        assert!(error.contains("overlaps"), "{url}: {error}");
    }
    let same = [("url", "s3://bkt/team/web"), ("readonly", "true")];
    let reader = create(&catalog, "reader", &same).await.unwrap();
    assert_eq!(reader.uuid, catalog.known(&name("web")).unwrap().uuid);
    world.put_object("other/.s3vol/v/1/format.json", "{}");
    let around = [("url", "s3://bkt/other"), ("state_url", "s3://bkt/team")];
    let error = create(&catalog, "around", &around).await.unwrap_err().to_string();
    assert!(error.contains("holds the state of volumes"), "{error}");
}

async fn a_careless_store_is_refused_unless_promised_alone(world: World) {
    let dir = tempfile::tempdir().unwrap();
    world.be_careless();
    let catalog = catalog(&dir, &world).await;
    let error = create(&catalog, "v", &[]).await.unwrap_err().to_string();
    assert!(error.contains("create-if-absent") && error.contains("single_host=true"), "{error}");
    assert!(world.keys().is_empty(), "{:?}", world.keys());
    create(&catalog, "v", &[("single_host", "")]).await.unwrap();
    // A store that was mended is not refused by what was known.
    world.be_careful();
    create(&catalog, "w", &[]).await.unwrap();
}

async fn removal_waits_for_the_grace_and_spares_what_was_there(world: World) {
    let dir = tempfile::tempdir().unwrap();
    world.put_object("team/old/photo.jpg", "x");
    let catalog = catalog(&dir, &world).await;
    let purge = Noting::default();
    let old = create(&catalog, "old", &[]).await.unwrap();
    let new = create(&catalog, "new", &[]).await.unwrap();
    assert!(old.adopted && !new.adopted);
    create(&catalog, "held", &[]).await.unwrap();
    let error = catalog.remove(&name("held"), &purge).await.unwrap_err().to_string();
    assert!(error.contains("in use on beta (9)"), "{error}");

    catalog.remove(&name("old"), &purge).await.unwrap();
    assert!(!world.keys().contains(&"team/.s3vol/volumes/old.json".to_owned()));
    // Its state is found again.
    assert_eq!(create(&catalog, "old", &[]).await.unwrap().uuid, old.uuid);

    catalog.remove(&name("new"), &purge).await.unwrap();
    catalog.sweep(&purge).await.unwrap();
    assert_eq!(create(&catalog, "new", &[]).await.unwrap().uuid, new.uuid);
    catalog.remove(&name("new"), &purge).await.unwrap();
    drop(catalog);
    world.pass_a_minute();
    let catalog = catalog_with(&dir, &world, &[("S3VOL_GRACE", "0s")]).await;
    let error = create(&catalog, "new", &[]).await.unwrap_err().to_string();
    assert!(error.contains("being deleted"), "{error}");
    catalog.sweep(&purge).await.unwrap();
    assert_eq!(*purge.0.lock(), ["new"]);
    assert_ne!(create(&catalog, "new", &[]).await.unwrap().uuid, new.uuid);
}

async fn a_host_deletes_what_it_removed_without_having_known_it(world: World) {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let there = catalog(&dirs[0], &world).await;
    create(&there, "web", &[]).await.unwrap();
    let here = catalog_with(&dirs[1], &world, &[("S3VOL_GRACE", "0s")]).await;
    let purge = Noting::default();
    here.remove(&name("web"), &purge).await.unwrap();
    assert!(here.known(&name("web")).is_none());
    drop(here);
    world.pass_a_minute();
    // Nor does a new process of it forget.
    let here = catalog_with(&dirs[1], &world, &[("S3VOL_GRACE", "0s")]).await;
    here.sweep(&purge).await.unwrap();
    assert_eq!(*purge.0.lock(), ["web"]);
    assert!(!world.keys().contains(&"team/.s3vol/volumes/web.json".to_owned()));
}

async fn the_mirror_survives_and_follows_the_bucket(world: World) {
    let dir = tempfile::tempdir().unwrap();
    let here = catalog(&dir, &world).await;
    create(&here, "a", &[]).await.unwrap();
    drop(here);
    let again = catalog(&dir, &world).await;
    world.be_reachable(false);
    assert!(again.known(&name("a")).is_some());
    world.be_reachable(true);

    let other_dir = tempfile::tempdir().unwrap();
    let there = catalog(&other_dir, &world).await;
    create(&there, "b", &[]).await.unwrap();
    world.put_object("team/.s3vol/volumes/broken.json", "{");
    again.refresh(&|_| false).await.unwrap();
    assert_eq!(again.all().len(), 2);
    there.remove(&name("b"), &RetainAll).await.unwrap();
    again.refresh(&|_| false).await.unwrap();
    assert_eq!(again.all().len(), 1);
    // A definition that vanished stays while the volume is in use.
    world.remove("team/.s3vol/volumes/a.json");
    again.refresh(&|_| true).await.unwrap();
    assert!(again.known(&name("a")).is_some());
    again.refresh(&|_| false).await.unwrap();
    assert!(again.known(&name("a")).is_none());
}

async fn a_record_that_is_no_definition_is_in_nobodys_way(world: World) {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let here = catalog(&dir, &world).await;
    let made = create(&here, "prod", &[]).await.unwrap();
    // Somebody copied the volume's definition and edited it, but not its name.
    let copied = serde_json::to_string(&made).unwrap().replace("/prod/", "/test/");
    assert_ne!(copied, serde_json::to_string(&made).unwrap());
    world.put_object("team/.s3vol/volumes/test.json", Box::leak(copied.into_boxed_str()));
    let long = format!("{}{}", " ".repeat(2 << 20), serde_json::to_string(&made).unwrap());
    world.put_object("team/.s3vol/volumes/long.json", Box::leak(long.into_boxed_str()));
    world.put_object("team/.s3vol/volumes/denied.json", "{}");
    if let World::Gateway(server) = &world {
        let refuse = s3server::Action::Status(403);
        server.fault(Rule::always(Some(Op::Get), "volumes/denied.json", refuse));
    }
    let there = catalog(&other, &world).await;
    for host in [&here, &there] {
        host.refresh(&|_| false).await.unwrap();
        let known: Vec<_> = host.all().iter().map(|d| (d.name.clone(), d.uuid)).collect();
        assert_eq!(known, [(name("prod"), made.uuid)]);
        assert_eq!(host.known(&name("prod")).unwrap().options.url, made.options.url);
    }
    let error = there.lookup(&name("test")).await.unwrap_err().to_string();
    assert!(error.contains("volumes/test.json") && error.contains("volume prod"), "{error}");
    let error = create(&there, "test", &[]).await.unwrap_err().to_string();
    assert!(error.contains("the definition of volume prod"), "{error}");
    // Other names are looked up, made and removed as ever.
    assert_eq!(there.lookup(&name("nobody")).await.unwrap(), None);
    create(&there, "next", &[]).await.unwrap();
    there.remove(&name("next"), &RetainAll).await.unwrap();
}

async fn a_host_may_read_only_what_others_write(world: World) {
    let dir = tempfile::tempdir().unwrap();
    let writer = catalog(&dir, &world).await;
    let reads = [("readonly", "true")];
    let error = create(&writer, "web", &reads).await.unwrap_err().to_string();
    assert!(error.contains("mount it once without readonly"), "{error}");
    assert!(world.keys().is_empty(), "{:?}", world.keys());
    let web = create(&writer, "web", &[]).await.unwrap();
    assert!(!web.options.readonly);

    let other = tempfile::tempdir().unwrap();
    let reader = catalog(&other, &world).await;
    let before = world.keys();
    let followed = create(&reader, "web", &reads).await.unwrap();
    assert_eq!(followed.uuid, web.uuid);
    let here = |catalog: &Catalog| catalog.known(&name("web")).unwrap().options.readonly;
    assert!(followed.options.readonly && here(&reader));
    drop(reader);
    let reader = catalog(&other, &world).await;
    reader.refresh(&|_| true).await.unwrap();
    assert!(here(&reader), "it is remembered");
    assert!(create(&reader, "web", &[]).await.unwrap().options.readonly, "nothing else was said");

    // Its removal there is none of the volume's.
    reader.remove(&name("web"), &Noting::default()).await.unwrap();
    assert!(!here(&reader));
    create(&reader, "web", &reads).await.unwrap();
    // A host that reads everything only removes nothing either.
    let env = [("S3VOL_READONLY", "true")];
    let all = catalog_with(&other, &world, &env).await;
    assert!(here(&all));
    all.remove(&name("web"), &Noting::default()).await.unwrap();
    drop(all);
    assert!(!create(&reader, "web", &[("readonly", "false")]).await.unwrap().options.readonly);
    assert_eq!(world.keys(), before);
    writer.refresh(&|_| true).await.unwrap();
    assert!(!here(&writer));
}

async fn a_change_that_was_refused_says_what_differs_and_who_did_it(world: World) {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let here = catalog(&dir, &world).await;
    let there = catalog_with(&other, &world, &[("S3VOL_TEST_HOST", "beta")]).await;
    create(&here, "web", &[]).await.unwrap();
    let error = here.remove(&name("web"), &Overtaking(there)).await.unwrap_err().to_string();
    assert!(
        error.contains("it was removed by beta") && error.contains("written by beta"),
        "{error}"
    );
}

#[tokio::test]
async fn a_store_that_refuses_every_version_keeps_no_volume_for_ever() {
    let (world, dir) = (World::memory(), tempfile::tempdir().unwrap());
    let catalog = catalog(&dir, &world).await;
    create(&catalog, "web", &[]).await.unwrap();
    let World::Memory(memory) = &world else { panic!("in memory") };
    memory.refuses_versions.store(true, Ordering::SeqCst);
    catalog.remove(&name("web"), &Noting::default()).await.unwrap();
    assert!(catalog.known(&name("web")).is_none());
}

/// The requests that were refused for their condition.
fn refused(log: &[Logged]) -> Vec<&Logged> {
    log.iter().filter(|entry| entry.status == 412).collect()
}

/// Wherever it is looked for: on the host that probed, on one that did not, and where nobody knows.
#[tokio::test]
async fn what_a_probe_found_is_known_to_every_process_from_its_first_request() {
    let (world, dir) = (World::gateway(), tempfile::tempdir().unwrap());
    let server = world.server();
    let first = catalog(&dir, &world).await;
    for volume in ["a", "b", "c"] {
        create(&first, volume, &[]).await.unwrap();
    }
    drop(first);
    let other = tempfile::tempdir().unwrap();
    for (host, volume) in [(&dir, "a"), (&other, "b")] {
        let process = catalog(host, &world).await;
        server.clear_log();
        process.remove(&name(volume), &RetainAll).await.unwrap();
        let log = server.log();
        assert!(refused(&log).is_empty(), "{volume}: {log:#?}");
    }
    let stores = server.keys("team/.s3vol/stores/");
    assert_eq!(stores.len(), 1);
    world.remove(&stores[0]);
    let stranger = tempfile::tempdir().unwrap();
    let process = catalog(&stranger, &world).await;
    server.clear_log();
    process.remove(&name("c"), &RetainAll).await.unwrap();
    assert_eq!(refused(&server.log()).len(), 2, "with quotes, and for a version that is stale");
    // What it learned by that is known there, too.
    create(&process, "c", &[]).await.unwrap();
    drop(process);
    let process = catalog(&stranger, &world).await;
    server.clear_log();
    process.remove(&name("c"), &RetainAll).await.unwrap();
    assert!(refused(&server.log()).is_empty());
}

#[tokio::test]
async fn a_create_on_a_known_store_takes_nine_requests_in_five_rounds() {
    let (world, dir) = (World::gateway(), tempfile::tempdir().unwrap());
    let server = world.server();
    let catalog = catalog(&dir, &world).await;
    create(&catalog, "first", &[]).await.unwrap();
    server.set_latency(Duration::from_millis(300));
    server.clear_log();
    create(&catalog, "second", &[]).await.unwrap();
    let log = server.log();
    let shown: Vec<_> = log.iter().map(|entry| (entry.op, &entry.key, entry.status)).collect();
    assert!(log.len() <= 9, "{} requests: {shown:#?}", log.len());
    let rounds = rounds(&log).len();
    assert!(rounds <= 5, "{rounds} rounds: {shown:#?}");
}

/// The keys of states.
fn formats(server: &TestS3) -> Vec<String> {
    let mut keys = server.keys("team/.s3vol/v/");
    keys.retain(|key| key.ends_with("/format.json"));
    keys
}

#[tokio::test]
async fn a_place_that_could_not_be_looked_at_again_leads_to_its_state() {
    let (world, dir) = (World::gateway(), tempfile::tempdir().unwrap());
    let server = world.server();
    let catalog = catalog(&dir, &world).await;
    create(&catalog, "first", &[]).await.unwrap();
    for (deletes, volume) in [(true, "web"), (false, "shop")] {
        // Two places are looked at before the claim.
        let deaf = Rule::always(Some(Op::List), "by-prefix", s3server::Action::Status(403));
        server.fault(deaf.after(2));
        if !deletes {
            server.fault(Rule::always(
                Some(Op::Delete),
                "by-prefix",
                s3server::Action::Status(403),
            ));
        }
        let error = create(&catalog, volume, &[]).await.unwrap_err();
        assert!(matches!(error, CatalogError::Store(_)), "{error}");
        server.clear_faults();
        // Another host was led there meanwhile, or is now.
        let there = formats(server);
        let made = create(&catalog, volume, &[]).await.unwrap();
        let format = format!("team/.s3vol/v/{}/format.json", made.uuid);
        assert!(there.contains(&format), "{volume}: {there:?}");
    }
}

#[tokio::test]
async fn a_place_that_is_refused_keeps_its_state_as_long_as_something_leads_there() {
    drafts_go_at_once();
    let (world, dir) = (World::gateway(), tempfile::tempdir().unwrap());
    let server = world.server();
    let catalog = catalog(&dir, &world).await;
    let inside = [("url", "s3://bkt/team/web/inside")];
    create(&catalog, "inside", &inside).await.unwrap();
    let entries = server.objects("team/.s3vol/by-prefix/");
    for leads in [false, true] {
        for (key, _) in server.objects("team/.s3vol/") {
            server.delete_foreign(&key);
        }
        let url = [("url", "s3://bkt/team/web")];
        let dir = tempfile::tempdir().unwrap();
        let catalog = self::catalog(&dir, &world).await;
        create(&catalog, "first", &[]).await.unwrap();
        // The other one is made between the two looks.
        server.fault(Rule::new(Op::List, "by-prefix", 1, s3server::Action::Hold).after(2));
        if leads {
            server.fault(Rule::always(
                Some(Op::Delete),
                "by-prefix",
                s3server::Action::Status(403),
            ));
        }
        let meanwhile = async {
            while server.held() == 0 {
                tokio::task::yield_now().await;
            }
            for (key, entry) in &entries {
                server.restore(key, entry.clone());
            }
            server.release();
        };
        let (made, ()) = tokio::join!(create(&catalog, "web", &url), meanwhile);
        let error = made.unwrap_err().to_string();
        assert!(error.contains("overlaps"), "{error}");
        server.clear_faults();
        let expected = if leads { 2 } else { 1 };
        assert_eq!(formats(server).len(), expected, "{:?}", formats(server));
        let claims = || server.keys("team/.s3vol/by-prefix/").len();
        assert_eq!(claims(), expected + 1);
        // What could not be taken away goes later.
        catalog.sweep(&RetainAll).await.unwrap();
        assert_eq!((formats(server).len(), claims()), (1, 2));
    }
}

/// What a creation leaves that is cut short is taken away soon.
fn drafts_go_at_once() {
    // SAFETY: all tests reach the environment through the standard library, which locks it.
    unsafe { std::env::set_var(s3vol::fault::DRAFT_AGE, "0") };
}

/// A process that dies while it creates `web`, when a request to `key` is on its way.
async fn dies_creating(server: &TestS3, catalog: Catalog, key: &str) {
    server.fault(Rule::always(Some(Op::Put), key, s3server::Action::Hold));
    let held = server.held();
    let creating = tokio::spawn(async move { create(&catalog, "web", &[]).await.map(drop) });
    while server.held() == held {
        tokio::task::yield_now().await;
    }
    creating.abort();
    assert!(creating.await.unwrap_err().is_cancelled());
    server.clear_faults();
}

#[tokio::test]
async fn a_creation_that_was_cut_short_goes_on_with_the_next_one() {
    drafts_go_at_once();
    for key in ["by-prefix", "volumes/web.json"] {
        let (world, dir) = (World::gateway(), tempfile::tempdir().unwrap());
        let server = world.server();
        dies_creating(server, catalog(&dir, &world).await, key).await;
        let left = formats(server);
        let next = catalog(&dir, &world).await;
        let made = create(&next, "web", &[]).await.unwrap();
        let format = format!("team/.s3vol/v/{}/format.json", made.uuid);
        // As long as it is not known whether the place will lead there, nobody may use that identity again.
        assert_eq!(left == [format.as_str()], key == "volumes/web.json");
        next.sweep(&RetainAll).await.unwrap();
        assert_eq!(formats(server), [format]);
        assert_eq!(create(&next, "web", &[]).await.unwrap().uuid, made.uuid);
    }
}

#[tokio::test]
async fn a_creation_that_was_cut_short_and_is_not_repeated_leaves_nothing() {
    drafts_go_at_once();
    let (world, dir) = (World::gateway(), tempfile::tempdir().unwrap());
    let server = world.server();
    for key in ["by-prefix", "volumes/web.json"] {
        dies_creating(server, catalog(&dir, &world).await, key).await;
        assert_eq!(formats(server).len(), 1);
        catalog(&dir, &world).await.sweep(&RetainAll).await.unwrap();
        let mut left = server.keys("team/");
        left.retain(|key| !key.contains("/stores/"));
        assert!(left.is_empty(), "{left:?}");
    }
    // What somebody has named meanwhile stays.
    dies_creating(server, catalog(&dir, &world).await, "volumes/web.json").await;
    let other = tempfile::tempdir().unwrap();
    let there = catalog(&other, &world).await;
    let made = create(&there, "web", &[]).await.unwrap();
    let here = catalog(&dir, &world).await;
    here.sweep(&RetainAll).await.unwrap();
    assert_eq!(formats(server), [format!("team/.s3vol/v/{}/format.json", made.uuid)]);
    assert_eq!(create(&here, "web", &[]).await.unwrap().uuid, made.uuid);
}

#[tokio::test]
async fn a_claim_that_was_sent_twice_on_its_way_is_ours() {
    let (world, dir) = (World::gateway(), tempfile::tempdir().unwrap());
    let server = world.server();
    let catalog = catalog(&dir, &world).await;
    create(&catalog, "first", &[]).await.unwrap();
    for key in ["by-prefix", "format.json", "volumes/"] {
        let twice = s3server::Action::ApplyThenProxy(412);
        server.fault(Rule::new(Op::Put, key, 1, twice));
    }
    let web = create(&catalog, "web", &[]).await.unwrap();
    assert_eq!(server.faults_left(), 0);
    assert!(formats(server).contains(&format!("team/.s3vol/v/{}/format.json", web.uuid)));
}

/// A volume in a bucket of its own, which is gone or refuses.
#[tokio::test]
async fn a_volume_whose_bucket_is_gone_can_be_removed() {
    let (world, dir, own) = (World::gateway(), tempfile::tempdir().unwrap(), TestS3::start());
    let grace = [("S3VOL_GRACE", "0s")];
    let catalog = catalog_with(&dir, &world, &grace).await;
    let (url, endpoint) = (format!("s3://{}/data", own.bucket()), own.endpoint());
    let place = [("url", url.as_str()), ("endpoint", &endpoint), ("path_style", "true")];
    let purge = EnginePurge::new();
    for on_remove in ["delete", "retain"] {
        let on_remove = [("on_remove", on_remove)];
        create(&catalog, "web", &[&place[..], &on_remove].concat()).await.unwrap();
        own.remove_bucket();
        catalog.remove(&name("web"), &purge).await.unwrap();
        catalog.sweep(&purge).await.unwrap();
        assert!(catalog.known(&name("web")).is_none(), "{on_remove:?}");
        assert_eq!(world.server().keys("team/.s3vol/volumes/"), [""; 0]);
        own.restore_bucket();
    }
    create(&catalog, "web", &[&place[..], &[("on_remove", "delete")]].concat()).await.unwrap();
    create(&catalog, "kept", &[("on_remove", "retain")]).await.unwrap();
    own.fault(Rule::always(None, "", s3server::Action::Status(403)));
    world.server().fault(Rule::always(Some(Op::Get), "/v/", s3server::Action::Status(403)));
    catalog.remove(&name("kept"), &purge).await.unwrap();
    // Somebody may use it.
    catalog.remove(&name("web"), &purge).await.unwrap_err();
    assert!(catalog.known(&name("web")).is_some());
}
