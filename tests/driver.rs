//! The volume driver against a stand-in for dockerd with its worst habits, an in-memory bucket and
//! workers without file systems.

#[path = "driver/held.rs"]
mod held;
#[path = "support/memory.rs"]
mod memory;
#[path = "foreign/random.rs"]
#[allow(dead_code)]
mod random;
#[path = "driver/rests.rs"]
mod rests;
#[path = "driver/watched.rs"]
mod watched;
#[path = "support/workers.rs"]
mod workers;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use memory::{Memory, MemoryOpener};
use s3vol::catalog::{Catalog, Purge, RetainAll};
use s3vol::config::PluginConfig;
use s3vol::driver::{ControlClient, Driver, DriverSettings, serve};
use s3vol::worker::WorkerStatus;
use serde_json::{Value, json};
use tokio::net::{UnixListener, UnixStream};
use workers::FakeWorkers;

/// One plugin process: ends when dropped.
struct Plugin {
    socket: PathBuf,
    server: tokio::task::JoinHandle<()>,
    workers: Arc<FakeWorkers>,
    _driver: Arc<Driver>,
}

impl Drop for Plugin {
    fn drop(&mut self) {
        self.server.abort();
    }
}

struct Host {
    dir: tempfile::TempDir,
    memory: Arc<Memory>,
    env: Vec<(&'static str, &'static str)>,
    purge: Arc<dyn Purge>,
    linger: Duration,
}

impl Host {
    fn new() -> Host {
        Host::on(Arc::new(Memory::default()))
    }

    fn on(memory: Arc<Memory>) -> Host {
        Host {
            dir: tempfile::tempdir().unwrap(),
            memory,
            env: vec![("S3VOL_URL", "s3://b/team")],
            purge: Arc::new(RetainAll),
            linger: Duration::from_millis(300),
        }
    }

    fn state(&self) -> &Path {
        self.dir.path()
    }

    async fn plugin(&self, workers: Arc<FakeWorkers>, boot: &str) -> Plugin {
        let mut env: BTreeMap<String, String> =
            self.env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        env.insert("S3VOL_STATE".to_owned(), self.state().display().to_string());
        let config = PluginConfig::parse(&env).unwrap();
        let opener = Arc::new(MemoryOpener(Arc::clone(&self.memory)));
        let catalog = Arc::new(Catalog::open(&config, opener, "test".to_owned()).await.unwrap());
        let settings = DriverSettings {
            budget: Duration::from_secs(2),
            linger: self.linger,
            keep: Duration::from_millis(600),
            unheard: Duration::from_millis(400),
            ..DriverSettings::new(self.state(), "/mounts")
        };
        let socket = self.state().join("plugin.sock");
        drop(std::fs::remove_file(&socket));
        let listener = UnixListener::bind(&socket).unwrap();
        let workers_of_driver: Arc<dyn s3vol::driver::Workers> = workers.clone();
        let driver =
            Driver::start_in_boot(settings, catalog, workers_of_driver, self.purge.clone(), boot)
                .await
                .unwrap();
        let server = tokio::spawn(serve(listener, Arc::clone(&driver)));
        Plugin { socket, server, workers, _driver: driver }
    }

    async fn start(&self) -> Plugin {
        self.plugin(FakeWorkers::new("supervisor-1"), "boot-1").await
    }
}

impl Plugin {
    /// A call as dockerd sends it: `Accept` and nothing else; 30 s.
    async fn raw(&self, call: &str, body: &str) -> (StatusCode, Value) {
        let work = async {
            let stream = UnixStream::connect(&self.socket).await.unwrap();
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
            let connection = tokio::spawn(connection);
            let answer = sender.send_request(request(call, body)).await.unwrap();
            let status = answer.status();
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            connection.abort();
            (status, serde_json::from_slice(&body).unwrap())
        };
        tokio::time::timeout(Duration::from_secs(30), work).await.unwrap()
    }

    async fn ok(&self, call: &str, body: Value) -> Value {
        let (status, answer) = self.raw(&format!("VolumeDriver.{call}"), &body.to_string()).await;
        assert_eq!(status, StatusCode::OK, "{call} {body}: {answer}");
        answer
    }

    async fn err(&self, call: &str, body: Value) -> String {
        let (status, answer) = self.raw(&format!("VolumeDriver.{call}"), &body.to_string()).await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR, "{call} {body}: {answer}");
        answer["Err"].as_str().unwrap().to_owned()
    }

    async fn create(&self, name: &str) {
        self.ok("Create", json!({ "Name": name, "Opts": {} })).await;
    }

    async fn mount(&self, name: &str, id: &str) {
        let answer = self.ok("Mount", json!({ "Name": name, "ID": id })).await;
        assert_eq!(answer["Mountpoint"], format!("/mounts/{name}"));
    }

    async fn unmount(&self, name: &str, id: &str) {
        self.ok("Unmount", json!({ "Name": name, "ID": id })).await;
    }

    async fn mounts(&self, name: &str) -> u64 {
        let answer = self.ok("Get", json!({ "Name": name })).await;
        answer["Volume"]["Status"]["mounts"].as_u64().unwrap()
    }

    /// Sends a call and hangs up without waiting for the answer.
    async fn hang_up(&self, call: &str, body: Value, until: impl Future<Output = ()>) {
        let stream = UnixStream::connect(&self.socket).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        let connection = tokio::spawn(connection);
        let sent = sender.send_request(request(&format!("VolumeDriver.{call}"), &body.to_string()));
        tokio::select! {
            answer = sent => panic!("answered early: {answer:?}"),
            () = until => {}
        }
        connection.abort();
        // Closed when it has ended, cut off or by itself.
        drop(connection.await);
    }
}

fn request(call: &str, body: &str) -> Request<Full<Bytes>> {
    Request::post(format!("/{call}"))
        .header("Host", "plugin.moby.localhost")
        .header("Accept", "application/vnd.docker.plugins.v1.2+json")
        .body(Full::new(Bytes::from(body.to_owned())))
        .unwrap()
}

/// Waits for `condition`, which nothing announces.
async fn eventually<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let work = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), work)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_as_dockerd_and_podman_send_them() {
    let host = Host::new();
    let plugin = host.start().await;
    for body in ["", "{}"] {
        let (status, answer) = plugin.raw("Plugin.Activate", body).await;
        assert_eq!((status, &answer["Implements"][0]), (StatusCode::OK, &json!("VolumeDriver")));
        let (status, answer) = plugin.raw("VolumeDriver.Capabilities", body).await;
        assert_eq!((status, &answer["Capabilities"]["Scope"]), (StatusCode::OK, &json!("global")));
        let (status, answer) = plugin.raw("VolumeDriver.List", body).await;
        assert_eq!((status, &answer["Volumes"]), (StatusCode::OK, &json!([])));
    }
    for call in ["Create", "Get", "Path", "Mount", "Unmount", "Remove"] {
        for (body, expected) in
            [("", "has no body"), ("{", "not understood"), ("[]", "not underst")]
        {
            let (status, answer) = plugin.raw(&format!("VolumeDriver.{call}"), body).await;
            assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
            assert!(answer["Err"].as_str().unwrap().contains(expected), "{call}: {answer}");
        }
        for name in ["../x", "a/b", "", ".s3vol", "a b"] {
            let error = plugin.err(call, json!({ "Name": name, "ID": "1" })).await;
            assert!(error.contains("not allowed"), "{call} {name}: {error}");
        }
    }
    let (status, _) = plugin.raw("VolumeDriver.Nothing", "{}").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    // The connect probe of `docker plugin enable`.
    drop(UnixStream::connect(&plugin.socket).await.unwrap());
    plugin.raw("VolumeDriver.List", "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_stays_usable() {
    let host = Host::new();
    let plugin = host.start().await;
    let stream = UnixStream::connect(&plugin.socket).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..3 {
        let answer = sender.send_request(request("VolumeDriver.List", "{}")).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        answer.into_body().collect().await.unwrap();
        sender.ready().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_lives() {
    let host = Host::new();
    let plugin = host.start().await;
    plugin.create("web").await;
    plugin.create("web").await;
    let error =
        plugin.err("Create", json!({ "Name": "web", "Opts": { "url": "s3://missing/x" } })).await;
    assert!(error.contains("not s3://missing/x/; these never change"), "{error}");
    let error = plugin.err("Create", json!({ "Name": "x", "Opts": { "comit": "9s" } })).await;
    assert!(error.contains("did you mean commit?"), "{error}");
    let error =
        plugin.err("Create", json!({ "Name": "x", "Opts": { "url": "s3://missing/x" } })).await;
    assert!(error.contains("there is no bucket"), "{error}");

    let got = plugin.ok("Get", json!({ "Name": "web" })).await;
    assert_eq!(got["Volume"]["Mountpoint"], "/mounts/web");
    assert_eq!(got["Volume"]["Status"]["state"], "unmounted");
    assert_eq!(got["Volume"]["Status"]["url"], "s3://b/team/web/");
    got["Volume"]["CreatedAt"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert_eq!(plugin.ok("List", json!({})).await["Volumes"][0]["Name"], "web");
    assert_eq!(plugin.ok("Path", json!({ "Name": "web" })).await["Mountpoint"], "/mounts/web");

    plugin.mount("web", "1").await;
    let got = plugin.ok("Get", json!({ "Name": "web" })).await;
    assert_eq!(got["Volume"]["Status"]["state"], "active");
    assert_eq!(got["Volume"]["Status"]["uncommitted_bytes"], 5);
    let error = plugin.err("Remove", json!({ "Name": "web" })).await;
    assert!(error.contains("in use by 1 mount"), "{error}");
    plugin.unmount("web", "1").await;
    plugin.workers.logged("stop web").await;
    plugin.ok("Remove", json!({ "Name": "web" })).await;
    plugin.ok("Remove", json!({ "Name": "web" })).await;
    let error = plugin.err("Get", json!({ "Name": "web" })).await;
    assert!(error.contains("no volume web"), "{error}");
    assert_eq!(plugin.ok("List", json!({})).await["Volumes"], json!([]));
    // Within the grace the same name brings it back.
    plugin.create("web").await;
    assert_eq!(plugin.ok("List", json!({})).await["Volumes"][0]["Name"], "web");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn docker_cp_mounts_the_same_id_twice() {
    let host = Host::new();
    let plugin = host.start().await;
    plugin.create("v").await;
    plugin.mount("v", "c1").await;
    plugin.mount("v", "c1").await;
    assert_eq!(plugin.mounts("v").await, 2);
    plugin.unmount("v", "c1").await;
    assert_eq!(plugin.workers.behaviour.drains.load(Ordering::SeqCst), 0);
    plugin.unmount("v", "unknown").await;
    plugin.unmount("never-made", "c1").await;
    assert_eq!(plugin.mounts("v").await, 1);
    plugin.unmount("v", "c1").await;
    assert!(plugin.workers.behaviour.drains.load(Ordering::SeqCst) > 0);
    // Copy-up: the next mount finds the lingering worker.
    plugin.mount("v", "c2").await;
    assert_eq!(plugin.workers.log(), ["start v"]);
    assert_eq!(plugin.workers.behaviour.resumes.load(Ordering::SeqCst), 1);
    plugin.unmount("v", "c2").await;
    plugin.workers.logged("stop v").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_gone_is_replaced() {
    let host = Host::new();
    let plugin = host.start().await;
    plugin.create("v").await;
    plugin.mount("v", "1").await;
    plugin.workers.behaviour.gone.store(true, Ordering::SeqCst);
    plugin.unmount("v", "1").await;
    plugin.mount("v", "2").await;
    assert_eq!(plugin.workers.log(), ["start v", "stop v", "start v"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_call_joins_the_one_whose_connection_was_lost() {
    let host = Host::new();
    let plugin = host.start().await;
    plugin.create("v").await;
    plugin.workers.behaviour.ready.send_replace(None);
    plugin
        .hang_up("Mount", json!({ "Name": "v", "ID": "1" }), plugin.workers.logged("start v"))
        .await;
    // dockerd's repetition, as it really comes: without its body.
    let (_, answer) = plugin.raw("VolumeDriver.Mount", "").await;
    assert!(answer["Err"].as_str().unwrap().contains("no body"));
    let again = plugin.mount("v", "1");
    let open = async {
        plugin.workers.behaviour.ready.send_replace(Some(Ok(())));
    };
    tokio::join!(again, open);
    assert_eq!(plugin.mounts("v").await, 1);
    assert_eq!(plugin.workers.log(), ["start v"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mount_that_nobody_heard_of_is_taken_back() {
    let host = Host::new();
    let plugin = host.start().await;
    plugin.create("v").await;
    plugin.workers.behaviour.ready.send_replace(None);
    plugin
        .hang_up("Mount", json!({ "Name": "v", "ID": "1" }), plugin.workers.logged("start v"))
        .await;
    plugin.workers.behaviour.ready.send_replace(Some(Ok(())));
    plugin.workers.logged("stop v").await;
    assert_eq!(plugin.mounts("v").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unmount_releases_its_count_when_it_arrives() {
    let host = Host::new();
    let plugin = host.start().await;
    plugin.create("v").await;
    plugin.mount("v", "1").await;
    plugin.workers.behaviour.committed.send_replace(false);
    let started = Instant::now();
    let error = plugin.err("Unmount", json!({ "Name": "v", "ID": "1" })).await;
    assert!(error.contains("goes on sending"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(4));
    assert_eq!(plugin.mounts("v").await, 0);
    assert_eq!(plugin.workers.log(), ["start v"]);
    // Whoever asks again is told no more than whoever asked first.
    let error = plugin.err("Unmount", json!({ "Name": "v", "ID": "1" })).await;
    assert!(error.contains("goes on sending"), "{error}");
    // It releases the volume by itself when everything is committed.
    plugin.workers.behaviour.committed.send_replace(true);
    plugin.workers.logged("stop v").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unmount_after_another_mount_of_its_id_repeats_none_that_nobody_heard_of() {
    let host = Host::new();
    let plugin = host.start().await;
    plugin.create("v").await;
    let behaviour = &plugin.workers.behaviour;
    for first_is_over in [false, true] {
        plugin.mount("v", "1").await;
        behaviour.committed.send_replace(false);
        let before = behaviour.drains.load(Ordering::SeqCst);
        let drains = || behaviour.drains.load(Ordering::SeqCst) - before;
        let begun = eventually("a drain", || async { drains() > 0 });
        plugin.hang_up("Unmount", json!({ "Name": "v", "ID": "1" }), begun).await;
        // The container is started again, with the ID that it had.
        plugin.mount("v", "1").await;
        behaviour.committed.send_replace(first_is_over);
        let drained = drains();
        let commits = async {
            eventually("its own drain", || async { drains() > drained }).await;
            behaviour.committed.send_replace(true);
        };
        tokio::join!(plugin.unmount("v", "1"), commits);
        assert_eq!(plugin.mounts("v").await, 0);
    }
    plugin.workers.logged("stop v").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_of_several_mounts_drains_though_it_failed() {
    let host = Host::new();
    let plugin = host.start().await;
    plugin.create("v").await;
    plugin.mount("v", "1").await;
    let behaviour = &plugin.workers.behaviour;
    behaviour.ready.send_replace(None);
    let fails = plugin.err("Mount", json!({ "Name": "v", "ID": "2" }));
    let leaves = async {
        eventually("the mount", || async { plugin.mounts("v").await == 2 }).await;
        plugin.unmount("v", "1").await;
        assert_eq!(behaviour.drains.load(Ordering::SeqCst), 0);
    };
    tokio::join!(fails, leaves);
    plugin.workers.logged("stop v").await;
    assert!(behaviour.drains.load(Ordering::SeqCst) > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mount_stops_a_drain() {
    let host = Host::new();
    let plugin = host.start().await;
    plugin.create("v").await;
    plugin.mount("v", "1").await;
    plugin.workers.behaviour.committed.send_replace(false);
    let drains = async {
        eventually("a drain", || async {
            plugin.workers.behaviour.drains.load(Ordering::SeqCst) > 0
        })
        .await;
        plugin.mount("v", "2").await;
        plugin.workers.behaviour.committed.send_replace(true);
    };
    tokio::join!(plugin.unmount("v", "1"), drains);
    // Longer than the linger time: the worker is in use and stays.
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(plugin.workers.log(), ["start v"]);
    assert_eq!(plugin.mounts("v").await, 1);
}

#[tokio::test]
async fn the_successor_of_a_worker_that_nobody_uses_is_drained_and_let_go() {
    let mut host = Host::new();
    host.linger = Duration::from_secs(3);
    let plugin = host.start().await;
    let drains = || plugin.workers.behaviour.drains.load(Ordering::SeqCst);
    let stops = || plugin.workers.log().iter().filter(|entry| *entry == "stop v").count();
    plugin.create("v").await;
    plugin.mount("v", "1").await;
    plugin.unmount("v", "1").await;
    // That of the call, and that of whoever sees to the end.
    eventually("both drains", || async { drains() == 2 }).await;
    plugin.workers.succeed("v");
    eventually("a drain of the successor", || async { drains() == 3 }).await;
    assert_eq!(stops(), 0);
    plugin.mount("v", "2").await;
    plugin.workers.succeed("v");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!((drains(), stops()), (3, 0), "it is in use");
    plugin.unmount("v", "2").await;
    plugin.workers.succeed("v");
    plugin.workers.logged("stop v").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mount_that_must_wait_answers_in_time_and_goes_on() {
    let host = Host::new();
    let plugin = host.start().await;
    plugin.create("v").await;
    plugin.workers.behaviour.ready.send_replace(None);
    let error = plugin.err("Mount", json!({ "Name": "v", "ID": "1" })).await;
    assert!(error.contains("held by here (1)") && error.contains("try again"), "{error}");
    assert_eq!(plugin.workers.log(), ["start v"]);
    plugin.workers.behaviour.ready.send_replace(Some(Ok(())));
    plugin.mount("v", "1").await;
    assert_eq!(plugin.workers.log(), ["start v"]);
    assert_eq!(plugin.mounts("v").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_that_comes_up_too_late_is_kept_only_for_a_while() {
    let host = Host::new();
    let plugin = host.start().await;
    plugin.create("v").await;
    plugin.workers.behaviour.ready.send_replace(None);
    plugin.err("Mount", json!({ "Name": "v", "ID": "1" })).await;
    plugin.workers.logged("stop v").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_workers_error_is_shown_as_it_is() {
    let host = Host::new();
    let plugin = host.start().await;
    plugin.create("v").await;
    let text = "held by alpha (77) since 12:00; stop its containers there";
    plugin.workers.behaviour.ready.send_replace(Some(Err(text.to_owned())));
    let error = plugin.err("Mount", json!({ "Name": "v", "ID": "1" })).await;
    assert!(error.contains(text), "{error}");
    plugin.workers.logged("stop v").await;
    assert_eq!(plugin.mounts("v").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn known_volumes_need_no_bucket() {
    let host = Host::new();
    let plugin = host.start().await;
    plugin.create("v").await;
    plugin.mount("v", "1").await;
    host.memory.unreachable.store(true, Ordering::SeqCst);
    for call in ["Get", "Path", "List", "Capabilities"] {
        plugin.ok(call, json!({ "Name": "v" })).await;
        let started = Instant::now();
        plugin.ok(call, json!({ "Name": "v" })).await;
        // A lookup that waits for the bucket takes half a second.
        assert!(started.elapsed() < Duration::from_millis(400), "{call}: {:?}", started.elapsed());
    }
    let started = Instant::now();
    let error = plugin.err("Get", json!({ "Name": "other" })).await;
    assert!(error.contains("does not answer"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    let before = host.memory.requests.load(Ordering::SeqCst);
    let started = Instant::now();
    plugin.err("Get", json!({ "Name": "other" })).await;
    assert!(started.elapsed() < Duration::from_millis(400), "the breaker is open");
    assert_eq!(host.memory.requests.load(Ordering::SeqCst), before);
    plugin.unmount("v", "1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_driver_keeps_counts_and_finds_its_workers() {
    let host = Host::new();
    let workers = FakeWorkers::new("supervisor-1");
    let first = host.plugin(Arc::clone(&workers), "boot-1").await;
    first.create("v").await;
    first.create("w").await;
    first.mount("v", "1").await;
    first.mount("v", "1").await;
    first.mount("w", "2").await;
    drop(first);
    // Killed meanwhile, and the driver was not there to see it.
    workers.crash("w");
    host.memory.unreachable.store(true, Ordering::SeqCst);
    let second = host.plugin(Arc::clone(&workers), "boot-1").await;
    assert_eq!(second.mounts("v").await, 2);
    eventually("w is started again", || async {
        workers.log().iter().filter(|e| *e == "start w").count() == 2
    })
    .await;
    assert_eq!(workers.log().iter().filter(|e| *e == "start v").count(), 1);
    second.unmount("v", "1").await;
    second.unmount("v", "1").await;
    workers.logged("stop v").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counts_end_with_the_mounts_they_speak_of() {
    let host = Host::new();
    let first = host.start().await;
    first.create("v").await;
    first.mount("v", "1").await;
    first.workers.die().await;
    drop(first);
    // The plugin was started anew: the old mounts are gone, the local log may hold changes.
    let workers = FakeWorkers::new("supervisor-2");
    let second = host.plugin(Arc::clone(&workers), "boot-1").await;
    assert_eq!(second.mounts("v").await, 0);
    workers.logged("start v").await;
    workers.logged("stop v").await;
    second.unmount("v", "1").await;
    second.mount("v", "2").await;
    workers.die().await;
    drop(second);
    // The machine was started anew: the local log is void.
    let workers = FakeWorkers::new("supervisor-3");
    let third = host.plugin(Arc::clone(&workers), "boot-2").await;
    assert_eq!(third.mounts("v").await, 0);
    assert_eq!(workers.log(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_host_sees_the_volume_at_once() {
    let a = Host::new();
    let plugin_a = a.start().await;
    let b = Host::on(Arc::clone(&a.memory));
    let plugin_b = b.start().await;
    plugin_a.ok("Create", json!({ "Name": "v", "Opts": { "commit": "1s" } })).await;
    let got = plugin_b.ok("Get", json!({ "Name": "v" })).await;
    let same = plugin_a.ok("Get", json!({ "Name": "v" })).await;
    assert_eq!(got["Volume"]["Status"]["uuid"], same["Volume"]["Status"]["uuid"]);
    plugin_b.mount("v", "1").await;

    let mut c = Host::on(Arc::clone(&a.memory));
    c.env.push(("S3VOL_CAPTURE", "false"));
    let plugin_c = c.start().await;
    plugin_c.err("Get", json!({ "Name": "v" })).await;
    plugin_c.create("v").await;
    plugin_c.ok("Get", json!({ "Name": "v" })).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_comes_over_the_socket_is_answered() {
    let host = Host::new();
    let plugin = host.start().await;
    plugin.create("known").await;
    let right =
        json!({ "Name": "known", "ID": "1", "Opts": { "size": "1g", "mode": 7, "url": null } });
    let right = right.to_string().into_bytes();
    for seed in 0..200 {
        let mut random = random::Random(seed);
        let mut body = random.damaged(&right);
        if random.below(2) == 0 {
            body = random.damaged(&body);
        }
        let body = String::from_utf8_lossy(&body).into_owned();
        for call in ["Create", "Get", "Path", "Unmount", "List", "Capabilities"] {
            let (status, answer) = plugin.raw(&format!("VolumeDriver.{call}"), &body).await;
            let said = answer["Err"].as_str().unwrap_or_default();
            assert!(status == StatusCode::OK || !said.is_empty(), "{call} {body:?}: {answer}");
        }
    }
    plugin.ok("Get", json!({ "Name": "known" })).await;
}

/// A mount by hand that uses the plugin's state folder, at the volume's socket.
fn by_hand(host: &Host, id: &str, leaves: bool) -> (PathBuf, tokio::task::JoinHandle<()>) {
    let folder = DriverSettings::control_sockets(host.state());
    std::fs::create_dir_all(&folder).unwrap();
    let socket = folder.join(format!("{id}.sock"));
    let listener = UnixListener::bind(&socket).unwrap();
    let status = WorkerStatus { mountpoint: "/by/hand".into(), ..workers::status() };
    let goes = tokio_util::sync::CancellationToken::new();
    let (gone, at) = (goes.clone(), socket.clone());
    let router = axum::Router::new()
        .route(
            "/status",
            axum::routing::get(move || async move { serde_json::to_string(&status).unwrap() }),
        )
        .route(
            "/leave",
            axum::routing::post(move || async move {
                if leaves {
                    goes.cancel();
                }
                if leaves { StatusCode::OK } else { StatusCode::CONFLICT }
            }),
        );
    let serving = axum::serve(listener, router);
    let process = tokio::spawn(async move {
        let ends = async {
            gone.cancelled().await;
            // What it still has to do.
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        tokio::select! {
            served = serving.into_future() => served.unwrap(),
            () = ends => std::fs::remove_file(&at).unwrap(),
        }
    });
    (socket, process)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_that_is_mounted_by_hand_keeps_its_process_and_that_its_socket() {
    let host = Host::new();
    let plugin = host.start().await;
    plugin.create("v").await;
    let id = plugin.ok("Get", json!({ "Name": "v" })).await["Volume"]["Status"]["uuid"].clone();
    let (socket, process) = by_hand(&host, id.as_str().unwrap(), false);
    let error = plugin.err("Mount", json!({ "Name": "v", "ID": "1" })).await;
    assert!(error.contains("already served by process 1 at /by/hand"), "{error}");
    let client = ControlClient::new(&socket);
    assert_eq!(client.status(Duration::from_secs(5)).await.unwrap().pid, 1);
    assert_eq!(plugin.mounts("v").await, 0);
    process.abort();
    drop(process.await);
    std::fs::remove_file(&socket).unwrap();

    // One that is ending is not in the way.
    let (_, process) = by_hand(&host, id.as_str().unwrap(), true);
    plugin.mount("v", "2").await;
    process.await.unwrap();
    assert_eq!(plugin.workers.log().iter().filter(|entry| *entry == "start v").count(), 1);
}
