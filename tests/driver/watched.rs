//! What the plugin's socket tells those who watch.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use s3vol::catalog::{CatalogError, Definition, Purge, Purged};
use s3vol::driver::ControlClient;
use s3vol::metrics::names;
use s3vol::worker::{Since, What};

use serde_json::json;

use crate::Host;
use crate::workers::FakeWorkers;

const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_worker_that_tells_nothing_is_shown_as_silent() {
    let host = Host::new();
    let plugin = host.start().await;
    plugin.create("v").await;
    plugin.mount("v", "1").await;
    let groups = ControlClient::new(&plugin.socket).groups(SOON).await.unwrap();
    let of = |name: &str| {
        let of_volume = groups.iter().find(|group| group.volume.as_deref() == Some("v")).unwrap();
        of_volume.samples.iter().find(|sample| sample.name == name).map(|sample| sample.total())
    };
    assert_eq!(of(names::UP.name), Some(0.0));
    assert_eq!(of(names::MOUNTS.name), Some(1.0));
    assert_eq!(of(names::FILES.name), None);
}

#[tokio::test]
async fn a_volume_whose_worker_cannot_come_back_is_shown_as_down() {
    let host = Host::new();
    let plugin = host.start().await;
    plugin.create("v").await;
    plugin.create("unused").await;
    plugin.mount("v", "1").await;
    plugin.workers.die().await;
    let groups = ControlClient::new(&plugin.socket).groups(SOON).await.unwrap();
    let volumes: Vec<_> = groups.iter().filter_map(|group| group.volume.as_deref()).collect();
    assert_eq!(volumes, ["v"]);
    let samples = &groups.last().unwrap().samples;
    let shown: Vec<_> = samples.iter().map(|s| (&*s.name, s.total())).collect();
    assert_eq!(shown, [(names::UP.name, 0.0), (names::MOUNTS.name, 1.0)]);
}

#[tokio::test]
async fn ends_of_workers_are_told() {
    let host = Host::new();
    let plugin = host.start().await;
    plugin.create("v").await;
    plugin.mount("v", "1").await;
    let client = ControlClient::new(&plugin.socket);
    let begun = client.events(&Since::default(), SOON).await.unwrap();
    assert!(begun.events.is_empty(), "{begun:?}");
    plugin.workers.succeed("v");
    let page = client.events(&Since::page(&begun), SOON).await.unwrap();
    let told: Vec<_> = page.events.iter().map(|e| (e.volume.as_str(), e.event)).collect();
    assert_eq!(told, [("v", What::Died)]);
    assert!(page.events[0].text.as_ref().unwrap().contains("successor"), "{page:?}");
    plugin.workers.crash("v");
    let page = client.events(&Since::page(&page), SOON).await.unwrap();
    assert_eq!(page.events[0].text.as_deref(), Some("code 1"));
    // Who asks with the number of another process gets all that there is.
    let other = Since { after: Some(7), instance: Some("another".to_owned()) };
    assert_eq!(client.events(&other, SOON).await.unwrap().events.len(), 2);
}

/// Finds nothing that would have to be deleted.
struct Deletes;

#[async_trait]
impl Purge for Deletes {
    async fn holder(&self, _volume: &Definition) -> Result<Option<String>, CatalogError> {
        Ok(None)
    }

    async fn purge(&self, _volume: &Definition) -> Result<Purged, CatalogError> {
        Ok(Purged::Done)
    }
}

#[tokio::test]
async fn a_purge_is_told() {
    let mut host = Host::new();
    host.purge = Arc::new(Deletes);
    host.env.push(("S3VOL_GRACE", "0s"));
    let plugin = host.start().await;
    plugin.create("v").await;
    plugin.ok("Remove", json!({ "Name": "v" })).await;
    drop(plugin);
    // It looks at what is due when it starts.
    let plugin = host.plugin(FakeWorkers::new("supervisor-2"), "boot-1").await;
    let page = ControlClient::new(&plugin.socket).events(&Since::start(), SOON).await.unwrap();
    let told: Vec<_> = page.events.iter().map(|e| (e.volume.as_str(), e.event)).collect();
    assert_eq!(told, [("v", What::Purged)]);
}
