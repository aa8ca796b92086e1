//! A volume that another host holds: the Mount says so, and the driver goes on watching for a while.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use s3vol::catalog::{CatalogError, Definition, Purge, Purged};
use serde_json::json;

use crate::{Host, Plugin};

const HELD: &str = "host other holds this volume";

/// Another host, which holds every volume for as long as the test wants.
#[derive(Default)]
struct Other {
    gone: AtomicBool,
    asked: AtomicU64,
}

#[async_trait]
impl Purge for Other {
    async fn holder(&self, _volume: &Definition) -> Result<Option<String>, CatalogError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        Ok((!self.gone.load(Ordering::SeqCst)).then(|| "other (1)".to_owned()))
    }

    async fn purge(&self, _volume: &Definition) -> Result<Purged, CatalogError> {
        Ok(Purged::Later("not in this test".to_owned()))
    }
}

async fn refused(other: &Arc<Other>) -> (Host, Plugin) {
    let mut host = Host::new();
    host.purge = Arc::clone(other) as Arc<dyn Purge>;
    let plugin = host.start().await;
    let behaviour = &plugin.workers.behaviour;
    plugin.create("v").await;
    behaviour.held.store(true, Ordering::SeqCst);
    behaviour.ready.send_replace(Some(Err(HELD.to_owned())));
    let error = plugin.err("Mount", json!({ "Name": "v", "ID": "1" })).await;
    assert!(error.contains(HELD), "{error}");
    plugin.workers.logged("stop v").await;
    assert_eq!(plugin.mounts("v").await, 0);
    (host, plugin)
}

fn starts(plugin: &Plugin) -> usize {
    plugin.workers.log().iter().filter(|entry| *entry == "start v").count()
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let poll = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), poll).await.unwrap_or_else(|_| panic!("{what}"));
}

fn free(other: &Other, plugin: &Plugin) {
    plugin.workers.behaviour.ready.send_replace(Some(Ok(())));
    other.gone.store(true, Ordering::SeqCst);
}

#[tokio::test]
async fn a_held_volume_is_watched_and_kept_for_the_next_mount() {
    let other = Arc::new(Other::default());
    let (_host, plugin) = refused(&other).await;
    free(&other, &plugin);
    let drains = &plugin.workers.behaviour.drains;
    until("it is taken and let go at once", || drains.load(Ordering::SeqCst) == 1).await;
    assert_eq!(starts(&plugin), 2);
    plugin.mount("v", "2").await;
    assert_eq!(plugin.workers.behaviour.resumes.load(Ordering::SeqCst), 1);
    assert_eq!(starts(&plugin), 2);
    // It is an ordinary mount now, which nothing ends by itself.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(plugin.workers.log().last().map(String::as_str), Some("start v"));
}

#[tokio::test]
async fn what_nobody_mounts_is_let_go_again() {
    let other = Arc::new(Other::default());
    let (_host, plugin) = refused(&other).await;
    free(&other, &plugin);
    until("it is taken", || starts(&plugin) == 2).await;
    until("and let go", || plugin.workers.log().last().map(String::as_str) == Some("stop v")).await;
    let asked = other.asked.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(other.asked.load(Ordering::SeqCst), asked, "nothing is asked of the bucket");
    assert_eq!(starts(&plugin), 2);
}

#[tokio::test]
async fn a_host_that_stays_is_not_watched_for_ever() {
    let other = Arc::new(Other::default());
    let (_host, plugin) = refused(&other).await;
    until("it is watched", || other.asked.load(Ordering::SeqCst) > 0).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let asked = other.asked.load(Ordering::SeqCst);
    free(&other, &plugin);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(other.asked.load(Ordering::SeqCst), asked);
    assert_eq!(starts(&plugin), 1);
}

#[tokio::test]
async fn a_removed_volume_is_not_watched() {
    let other = Arc::new(Other::default());
    let (_host, plugin) = refused(&other).await;
    until("it is watched", || other.asked.load(Ordering::SeqCst) > 0).await;
    free(&other, &plugin);
    plugin.ok("Remove", json!({ "Name": "v" })).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(starts(&plugin) <= 2, "{:?}", plugin.workers.log());
    let log = plugin.workers.log();
    assert_eq!(log.last().map(String::as_str), Some("stop v"), "{log:?}");
}
