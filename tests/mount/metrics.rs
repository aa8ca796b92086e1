//! What is counted, where it is served, and `s3vol status --watch`.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use s3vol::metrics::{FAMILIES, names};

use super::plugin::Plugin;
use super::rig::{Mount, Place, SOON, finish, s3vol};
use super::support::s3server::TestS3;
use super::support::scrape::{Scrape, all_samples, samples_of};
use super::support::unmanaged::s3vol_as;
use super::support::wait_for;

fn written(place: &Path, name: &str, bytes: &[u8]) {
    std::fs::write(place.join(name), bytes).unwrap();
    File::open(place.join(name)).unwrap().sync_all().unwrap();
}

fn scrape(plugin: &Plugin) -> Scrape {
    Scrape::socket(&plugin.socket()).unwrap()
}

/// Sends a signal to a child of a child of ours, which has not reaped it.
fn signal(pid: u64, signal: i32) {
    // SAFETY: plain system call.
    assert_eq!(unsafe { libc::kill(pid as i32, signal) }, 0);
}

#[test]
fn what_is_served_is_what_the_page_lists() {
    let page = include_str!("../../docs/METRICS.md");
    let in_page: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `s3vol_"))
        .filter_map(|rest| rest.split('`').next())
        .collect();
    let in_table: BTreeSet<&str> =
        FAMILIES.iter().map(|f| f.name.strip_prefix("s3vol_").unwrap()).collect();
    assert_eq!(in_page, in_table);

    let server = TestS3::start();
    let mut plugin = Plugin::start(&server);
    let before: BTreeSet<String> =
        [names::BUILD, names::START].iter().flat_map(samples_of).collect();
    assert_eq!(scrape(&plugin).names(), before, "without a volume");
    plugin.create("web", &[]).unwrap();
    plugin.mount("web", "c1");
    assert_eq!(scrape(&plugin).names(), all_samples());
    plugin.unmount("web", "c1");
}

#[test]
fn counters_move_with_what_happens() {
    let server = TestS3::start();
    let url = format!("s3://{}/team", server.bucket());
    let env = [("S3VOL_URL", url.as_str()), ("S3VOL_PRICES", "put=1000,get=0,down=0")];
    let mut plugin = Plugin::with(Some(&server), &env);
    plugin.create("web", &[("commit", "300s"), ("settle_after", "1h")]).unwrap();
    let place = plugin.mount("web", "c1");
    let web = "volume=\"web\"";
    let before = scrape(&plugin);
    written(&place, "f", &[7; 100_000]);
    let after = scrape(&plugin);
    let grew = |name: &str, labels: &[&str]| {
        let labels: Vec<&str> = labels.iter().copied().chain([web]).collect();
        after.sum(name, &labels) - before.sum(name, &labels)
    };
    assert_eq!(grew("s3vol_written_bytes_total", &[]), 100_000.0);
    assert_eq!(grew("s3vol_fsync_duration_seconds_count", &[]), 1.0, "{}", after.0);
    let operations = "s3vol_operation_duration_seconds_count";
    assert_eq!(grew(operations, &["operation=\"fsync\""]), 1.0);
    assert_eq!(grew(operations, &["operation=\"create\""]), 1.0);
    assert!(grew(operations, &["operation=\"write\""]) >= 1.0);
    let puts = grew("s3vol_store_requests_total", &["verb=\"put\"", "outcome=\"done\""]);
    assert!(puts >= 1.0, "{}", after.0);
    assert!(grew("s3vol_store_request_duration_seconds_count", &["verb=\"put\""]) >= puts);
    assert!(grew("s3vol_store_sent_bytes_total", &[]) >= 100_000.0);
    let all_puts = grew("s3vol_store_requests_total", &["verb=\"put\""]);
    // A dollar each, by our own prices.
    let cost = grew("s3vol_estimated_cost_dollars_total", &["part=\"requests\""]);
    // One may just be under way.
    assert!(cost > 0.0 && (cost - all_puts).abs() <= 1.0, "{cost} for {all_puts}");
    let is = |name: &str, labels: &[&str]| after.sum(name, labels);
    assert_eq!(is("s3vol_up", &[web]), 1.0);
    assert_eq!(is("s3vol_mounts", &[web]), 1.0);
    assert_eq!(is("s3vol_state", &[web, "state=\"active\""]), 1.0);
    assert_eq!(is("s3vol_state", &[web]), 1.0, "one state");
    assert_eq!(is("s3vol_lease_state", &[web, "state=\"held\""]), 1.0);
    assert!(is("s3vol_lease_remaining_seconds", &[web]) > 0.0);
    assert_eq!(is("s3vol_size_bytes", &[web]), 100_000.0);
    assert!(is("s3vol_unsettled_files", &[web]) >= 1.0);
    assert_eq!(is("s3vol_unsettled_bytes", &[web]), 100_000.0);
    assert_eq!(is("s3vol_operation_errors_total", &[web]), 0.0);
    assert!(is("s3vol_worker_memory_bytes", &[web]) > 1e6);

    // Written and not synced: it grows old, and a sync makes it young.
    std::fs::write(place.join("g"), [1; 50_000]).unwrap();
    let old = wait_for("an age", SOON, || {
        let now = scrape(&plugin);
        (now.sum("s3vol_uncommitted_age_seconds", &[web]) > 0.5).then_some(now)
    });
    assert!(old.sum("s3vol_uncommitted_bytes", &[web]) >= 50_000.0, "{}", old.0);
    File::open(place.join("g")).unwrap().sync_all().unwrap();
    let young = wait_for("everything to be in the bucket", SOON, || {
        let now = scrape(&plugin);
        (now.sum("s3vol_uncommitted_bytes", &[web]) == 0.0).then_some(now)
    });
    assert_eq!(young.sum("s3vol_uncommitted_age_seconds", &[web]), 0.0, "{}", young.0);
    assert!(young.sum("s3vol_unsettled_age_seconds", &[web]) > 0.0, "{}", young.0);

    // Reads that the kernel does not answer itself: from the cache.
    let misses = young.sum("s3vol_cache_misses_total", &[web]);
    assert_eq!(misses, 0.0, "everything was written here");
    plugin.kill("worker");
    wait_for("the successor to be counted", SOON, || {
        let now = scrape(&plugin);
        let up = now.sum("s3vol_up", &[web]) == 1.0
            && now.sum("s3vol_state", &[web, "state=\"active\""]) == 1.0;
        (up && now.sum("s3vol_worker_restarts_total", &[web]) == 1.0).then_some(())
    });
    plugin.unmount("web", "c1");
}

#[test]
fn reads_are_told_apart_by_where_they_come_from() {
    let (server, place) = (TestS3::start(), Place::new());
    let url = format!("s3://{}/v", server.bucket());
    server.put_foreign("v/there", &b"put by somebody else"[..], &[]);
    let mount = Mount::start(Some(&server), &place, &url, &[]);
    assert_eq!(std::fs::read(place.file("there")).unwrap(), b"put by somebody else");
    let socket = control_socket(&place);
    let found = Scrape::socket(&socket).unwrap();
    assert!(found.sum("s3vol_cache_misses_total", &[]) >= 1.0, "{}", found.0);
    assert!(found.sum("s3vol_cache_bytes", &[]) > 0.0, "{}", found.0);
    assert!(found.sum("s3vol_read_bytes_total", &[]) >= 20.0);
    // Its own socket has all of it but what a plugin knows.
    let expected: BTreeSet<String> = FAMILIES
        .iter()
        .filter(|family| **family != names::RESTARTS && **family != names::MOUNTS)
        .flat_map(samples_of)
        .collect();
    assert_eq!(found.names(), expected);

    // So has one that only follows, without what is a writer's.
    let reader = Place::new();
    written(&place.at, "own", b"put by the writer");
    let following = Mount::start(Some(&server), &reader, &url, &["readonly"]);
    assert_eq!(std::fs::read(reader.file("own")).unwrap(), b"put by the writer");
    let found = Scrape::socket(&control_socket(&reader)).unwrap();
    assert_eq!(found.sum("s3vol_lease_state", &["state=\"none\""]), 1.0, "{}", found.0);
    assert_eq!(found.sum("s3vol_cache_misses_total", &[]), 1.0, "{}", found.0);
    assert!(found.sum("s3vol_store_requests_total", &[]) > 0.0);
    following.end_well();
    mount.end_well();
}

fn control_socket(place: &Place) -> PathBuf {
    let folder = std::fs::read_dir(place.state().join("run")).unwrap();
    let sockets: Vec<PathBuf> = folder.map(|entry| entry.unwrap().path()).collect();
    assert_eq!(sockets.len(), 1, "{sockets:?}");
    sockets[0].clone()
}

#[test]
fn a_process_that_hangs_holds_up_no_scrape() {
    let server = TestS3::start();
    let mut plugin = Plugin::start(&server);
    plugin.create("hangs", &[]).unwrap();
    plugin.mount("hangs", "c1");
    let hanging = plugin.children("worker")[0];
    plugin.create("goes", &[]).unwrap();
    plugin.mount("goes", "c1");
    signal(hanging, libc::SIGSTOP);
    let begun = Instant::now();
    let found = scrape(&plugin);
    let took = begun.elapsed();
    signal(hanging, libc::SIGCONT);
    assert!(took < Duration::from_secs(8), "{took:?}");
    assert_eq!(found.sum("s3vol_up", &["volume=\"hangs\""]), 0.0, "{}", found.0);
    assert_eq!(found.sum("s3vol_up", &["volume=\"goes\""]), 1.0);
    assert_eq!(found.values("s3vol_files", &["volume=\"hangs\""]), [0.0; 0]);
    assert_eq!(found.values("s3vol_files", &["volume=\"goes\""]).len(), 1);
    for volume in ["hangs", "goes"] {
        plugin.unmount(volume, "c1");
    }
}

/// An address that was free a moment ago.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn an_address_is_served_when_asked_for() {
    let server = TestS3::start();
    let url = format!("s3://{}/team", server.bucket());
    let address = free_address().to_string();
    let env = [("S3VOL_URL", url.as_str()), ("S3VOL_METRICS", address.as_str())];
    let plugin = Plugin::with(Some(&server), &env);
    let found = wait_for("the address", SOON, || Scrape::address(&address).ok());
    assert_eq!(found.sum("s3vol_build_info", &[]), 1.0);
    assert_eq!(found.names(), scrape(&plugin).names());

    // Another one that wants it, too, serves its volumes, says why, and has it later.
    let mut other = Plugin::with(Some(&server), &env);
    wait_for("the reason", SOON, || {
        other.log().contains("metrics cannot be served there").then_some(())
    });
    other.create("v", &[]).unwrap();
    other.mount("v", "c1");
    drop(plugin);
    wait_for("the address once more", SOON, || {
        let found = Scrape::address(&address).ok()?;
        (found.sum("s3vol_up", &["volume=\"v\""]) == 1.0).then_some(())
    });
    other.unmount("v", "c1");
}

#[test]
fn no_address_is_served_unless_asked_for() {
    let server = TestS3::start();
    let plugin = Plugin::start(&server);
    scrape(&plugin);
    let sockets = |pid: u64| -> usize {
        let inodes: BTreeSet<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok())
            .filter_map(|to| {
                Some(to.to_str()?.strip_prefix("socket:[")?.trim_end_matches(']').to_owned())
            })
            .collect();
        ["tcp", "tcp6"]
            .iter()
            .flat_map(|table| {
                let text = std::fs::read_to_string(format!("/proc/{pid}/net/{table}"));
                text.unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>()
            })
            .filter(|line| {
                let fields: Vec<&str> = line.split_whitespace().collect();
                // 0A is LISTEN.
                fields.get(3) == Some(&"0A")
                    && fields.get(9).is_some_and(|inode| inodes.contains(*inode))
            })
            .count()
    };
    for pid in plugin.children("driver").into_iter().chain([plugin.pid()]) {
        assert_eq!(sockets(pid), 0, "{pid} listens");
    }
    let counted = sockets(u64::from(std::process::id()));
    let _listener = TcpListener::bind("127.0.0.1:0").unwrap();
    assert!(sockets(u64::from(std::process::id())) > counted, "the test sees no listener");
}

#[test]
fn wrong_settings_are_told_at_the_start() {
    for (name, value, says) in [
        ("S3VOL_METRICS", "9469", "127.0.0.1:9469"),
        ("S3VOL_METRICS", "localhost:9469", "127.0.0.1:9469"),
        ("S3VOL_PRICES", "put=cheap", "put=0.005"),
        ("S3VOL_PRICES", "/no/such/file", "/no/such/file"),
    ] {
        let place = Place::new();
        let mut command = s3vol_as("s3vol", None);
        command.arg("plugin").arg("--socket").arg(place.dir.path().join("plugin.sock"));
        command.env("S3VOL_STATE", place.state()).env("S3VOL_MOUNTS", place.dir.path().join("vol"));
        let (code, out, errors) = finish(command.env(name, value));
        assert_eq!(code, Some(64), "{name}={value}: {out}{errors}");
        assert!(errors.contains(name) && errors.contains(says), "{name}={value}: {errors}");
    }
}

/// A command whose output is read while it runs. Killed when dropped.
pub struct Reads {
    pub child: Child,
    out: PathBuf,
    _dir: tempfile::TempDir,
}

impl Reads {
    pub fn begin(command: &mut Command) -> Reads {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let file = File::create(&out).unwrap();
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        Reads { child: command.spawn().unwrap(), out, _dir: dir }
    }

    pub fn said(&self) -> String {
        let mut text = String::new();
        File::open(&self.out).unwrap().read_to_string(&mut text).unwrap();
        text
    }

    /// Ctrl-C.
    pub fn interrupt(&mut self) -> Option<i32> {
        // SAFETY: plain system call; the child was not waited for, so its number is its own.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, libc::SIGINT) }, 0);
        wait_for("its end", SOON, || self.child.try_wait().unwrap()).code()
    }
}

impl Drop for Reads {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_watched_status_is_written_again_and_again_until_ctrl_c() {
    let (server, place) = (TestS3::start(), Place::new());
    let url = format!("s3://{}/v", server.bucket());
    let mount = Mount::start(Some(&server), &place, &url, &["commit=300s"]);
    let state = place.state();
    let watch = |server: &TestS3| {
        let mut command = s3vol(server);
        command.arg("status").arg("--state").arg(&state).args(["--watch", "--interval", "0.3"]);
        command
    };
    let mut watching = Reads::begin(&mut watch(&server));
    // No terminal: one block after the other.
    wait_for("two blocks", SOON, || (watching.said().matches("VOLUME").count() >= 2).then_some(()));
    std::fs::write(place.file("f"), [7; 300_000]).unwrap();
    wait_for("what was written", SOON, || watching.said().contains("293.").then_some(()));
    assert_eq!(watching.interrupt(), Some(0), "{}", watching.said());
    let said = watching.said();
    assert!(!said.contains('\x1b'), "{said}");
    assert!(said.lines().any(|line| line.starts_with("v ") && line.contains("active")), "{said}");

    let (code, out, errors) = finish(watch(&server).args(["--count", "2", "--json"]));
    assert_eq!((code, errors.as_str()), (Some(0), ""));
    let blocks: Vec<serde_json::Value> =
        out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(blocks.len(), 2);
    assert_eq!(blocks[1][0]["volume"], "v");
    mount.end_well();
}
