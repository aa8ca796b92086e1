//! The catalog's rules, on an in-memory bucket.

#[path = "support/memory.rs"]
mod memory;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use memory::{Memory, MemoryOpener};
use parking_lot::Mutex;
use s3vol::catalog::{Catalog, CatalogError, Definition, Purge, Purged, RetainAll};
use s3vol::config::PluginConfig;
use s3vol::types::VolumeName;

async fn catalog(dir: &tempfile::TempDir, memory: &Arc<Memory>) -> Catalog {
    catalog_with(dir, memory, &[]).await
}

async fn catalog_with(
    dir: &tempfile::TempDir,
    memory: &Arc<Memory>,
    more: &[(&str, &str)],
) -> Catalog {
    let state = dir.path().display().to_string();
    let own = [("S3VOL_URL", "s3://b/team"), ("S3VOL_STATE", &state)];
    let env = own.iter().chain(more).map(|(name, value)| (name.to_string(), value.to_string()));
    let config = PluginConfig::parse(&env.collect()).unwrap();
    let opener = Arc::new(MemoryOpener(Arc::clone(memory)));
    Catalog::open(&config, opener, "test".to_owned()).await.unwrap()
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

#[tokio::test]
async fn overlapping_writers_are_refused() {
    let (dir, memory) = (tempfile::tempdir().unwrap(), Arc::new(Memory::default()));
    let catalog = catalog(&dir, &memory).await;
    create(&catalog, "web", &[]).await.unwrap();
    for url in ["s3://b/team/web", "s3://b/team/web/below"] {
        let error = create(&catalog, "x", &[("url", url)]).await.unwrap_err().to_string();
        assert!(error.contains("overlaps"), "{url}: {error}");
    }
    let same = [("url", "s3://b/team/web"), ("readonly", "true")];
    let reader = create(&catalog, "reader", &same).await.unwrap();
    assert_eq!(reader.uuid, catalog.known(&name("web")).unwrap().uuid);
    memory.put_object("b/other/.s3vol/v/1/format.json", "{}");
    let around = [("url", "s3://b/other"), ("state_url", "s3://b/team")];
    let error = create(&catalog, "around", &around).await.unwrap_err().to_string();
    assert!(error.contains("holds the state of volumes"), "{error}");
}

#[tokio::test]
async fn a_careless_store_is_refused_unless_promised_alone() {
    let (dir, memory) = (tempfile::tempdir().unwrap(), Arc::new(Memory::default()));
    memory.careless.store(true, Ordering::SeqCst);
    let catalog = catalog(&dir, &memory).await;
    let error = create(&catalog, "v", &[]).await.unwrap_err().to_string();
    assert!(error.contains("create-if-absent") && error.contains("single_host=true"), "{error}");
    assert!(memory.keys().is_empty(), "{:?}", memory.keys());
    create(&catalog, "v", &[("single_host", "")]).await.unwrap();
}

#[tokio::test]
async fn removal_waits_for_the_grace_and_spares_what_was_there() {
    let (dir, memory) = (tempfile::tempdir().unwrap(), Arc::new(Memory::default()));
    memory.put_object("b/team/old/photo.jpg", "x");
    let catalog = catalog(&dir, &memory).await;
    let purge = Noting::default();
    let old = create(&catalog, "old", &[]).await.unwrap();
    let new = create(&catalog, "new", &[]).await.unwrap();
    assert!(old.adopted && !new.adopted);
    create(&catalog, "held", &[]).await.unwrap();
    let error = catalog.remove(&name("held"), &purge).await.unwrap_err().to_string();
    assert!(error.contains("in use on beta (9)"), "{error}");

    catalog.remove(&name("old"), &purge).await.unwrap();
    assert!(!memory.keys().contains(&"b/team/.s3vol/volumes/old.json".to_owned()));
    // Its state is found again.
    assert_eq!(create(&catalog, "old", &[]).await.unwrap().uuid, old.uuid);

    catalog.remove(&name("new"), &purge).await.unwrap();
    catalog.sweep(&purge).await.unwrap();
    assert_eq!(create(&catalog, "new", &[]).await.unwrap().uuid, new.uuid);
    catalog.remove(&name("new"), &purge).await.unwrap();
    memory.clock.store(25 * 3600 * 1000, Ordering::SeqCst);
    let error = create(&catalog, "new", &[]).await.unwrap_err().to_string();
    assert!(error.contains("being deleted"), "{error}");
    catalog.sweep(&purge).await.unwrap();
    assert_eq!(*purge.0.lock(), ["new"]);
    assert_ne!(create(&catalog, "new", &[]).await.unwrap().uuid, new.uuid);
}

#[tokio::test]
async fn the_mirror_survives_and_follows_the_bucket() {
    let (dir, memory) = (tempfile::tempdir().unwrap(), Arc::new(Memory::default()));
    let here = catalog(&dir, &memory).await;
    create(&here, "a", &[]).await.unwrap();
    drop(here);
    let again = catalog(&dir, &memory).await;
    memory.unreachable.store(true, Ordering::SeqCst);
    assert!(again.known(&name("a")).is_some());
    memory.unreachable.store(false, Ordering::SeqCst);

    let other_dir = tempfile::tempdir().unwrap();
    let there = catalog(&other_dir, &memory).await;
    create(&there, "b", &[]).await.unwrap();
    memory.put_object("b/team/.s3vol/volumes/broken.json", "{");
    again.refresh(&|_| false).await.unwrap();
    assert_eq!(again.all().len(), 2);
    there.remove(&name("b"), &RetainAll).await.unwrap();
    again.refresh(&|_| false).await.unwrap();
    assert_eq!(again.all().len(), 1);
    // A definition that vanished stays while the volume is in use.
    memory.remove("b/team/.s3vol/volumes/a.json");
    again.refresh(&|_| true).await.unwrap();
    assert!(again.known(&name("a")).is_some());
    again.refresh(&|_| false).await.unwrap();
    assert!(again.known(&name("a")).is_none());
}

#[tokio::test]
async fn a_host_may_read_only_what_others_write() {
    let (dir, memory) = (tempfile::tempdir().unwrap(), Arc::new(Memory::default()));
    let writer = catalog(&dir, &memory).await;
    let reads = [("readonly", "true")];
    let error = create(&writer, "web", &reads).await.unwrap_err().to_string();
    assert!(error.contains("mount it once without readonly"), "{error}");
    assert!(memory.keys().is_empty(), "{:?}", memory.keys());
    let web = create(&writer, "web", &[]).await.unwrap();
    assert!(!web.options.readonly);

    let other = tempfile::tempdir().unwrap();
    let reader = catalog(&other, &memory).await;
    let before = memory.keys();
    let followed = create(&reader, "web", &reads).await.unwrap();
    assert_eq!(followed.uuid, web.uuid);
    let here = |catalog: &Catalog| catalog.known(&name("web")).unwrap().options.readonly;
    assert!(followed.options.readonly && here(&reader));
    drop(reader);
    let reader = catalog(&other, &memory).await;
    reader.refresh(&|_| true).await.unwrap();
    assert!(here(&reader), "it is remembered");
    assert!(create(&reader, "web", &[]).await.unwrap().options.readonly, "nothing else was said");

    // Its removal there is none of the volume's.
    reader.remove(&name("web"), &Noting::default()).await.unwrap();
    assert!(!here(&reader));
    create(&reader, "web", &reads).await.unwrap();
    // A host that reads everything only removes nothing either.
    let env = [("S3VOL_READONLY", "true")];
    let all = catalog_with(&other, &memory, &env).await;
    assert!(here(&all));
    all.remove(&name("web"), &Noting::default()).await.unwrap();
    drop(all);
    assert!(!create(&reader, "web", &[("readonly", "false")]).await.unwrap().options.readonly);
    assert_eq!(memory.keys(), before);
    writer.refresh(&|_| true).await.unwrap();
    assert!(!here(&writer));
}
