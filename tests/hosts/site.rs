//! Hosts on one bucket.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use serde_json::{Value, json};

use crate::ledger::Ledger;
use crate::support::netns::{Netns, SERVER_ADDRESS};
use crate::support::s3server::{self, TestS3};
use crate::support::unmanaged::{Plugin, s3vol_as};
use crate::support::wait_for;

/// The volume of these tests.
pub const NAME: &str = "data";
/// The lease of a dead host, and what it takes to see that it is over.
pub const LEASE: Duration = Duration::from_secs(60);
/// The longest story.
const LIMIT: Duration = Duration::from_secs(3 * 3600);

/// One at a time: each has the servers' address.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock()
}

/// A host, and the plugin on it while it runs.
pub struct Host {
    plugin: Option<Plugin>,
    pub net: Netns,
    dir: Arc<tempfile::TempDir>,
    env: Vec<(String, String)>,
}

impl Host {
    fn new(name: &str) -> Host {
        let dir = Arc::new(tempfile::Builder::new().prefix("s3vol-host-").tempdir().unwrap());
        let mut host = Host { plugin: None, net: Netns::create(name), dir, env: Vec::new() };
        // Hosts boot each for itself.
        host.env("S3VOL_TEST_BOOT_ID", &format!("the boot of {name}"));
        let clock = host.clock().to_str().unwrap().to_owned();
        host.env(s3vol::fault::CLOCK, &clock);
        host
    }

    /// Sets a variable for the next start.
    pub fn env(&mut self, name: &str, value: &str) {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value.to_owned()));
    }

    /// The plugin's folders: its state, its mounts, its log.
    pub fn dir(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    fn clock(&self) -> PathBuf {
        self.dir.path().join("clock")
    }

    /// By how many seconds its clock is ahead, from now on.
    pub fn set_clock(&self, ahead: i64) {
        // Whole, or not there.
        let written = self.dir.path().join("clock-new");
        std::fs::write(&written, ahead.to_string()).unwrap();
        std::fs::rename(written, self.clock()).unwrap();
    }

    /// Starts the plugin, with what is there of its state.
    pub fn start(&mut self, server: &TestS3) {
        assert!(self.plugin.is_none());
        let url = format!("s3://{}/team", server.bucket());
        let own = self.env.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let env: Vec<_> = [("S3VOL_URL", url.as_str())].into_iter().chain(own).collect();
        self.plugin = Some(Plugin::on(&self.net, Arc::clone(&self.dir), server, &env));
    }

    pub fn plugin(&mut self) -> &mut Plugin {
        self.plugin.as_mut().expect("it runs")
    }

    /// Where the volume is seen while it is mounted.
    pub fn place(&self) -> PathBuf {
        self.dir.path().join("vol").join(NAME)
    }

    /// Mounts at once.
    pub fn mount(&mut self) -> PathBuf {
        self.plugin().mount_for(NAME, "c", LIMIT)
    }

    /// Mounts as a user does who starts the container again until it runs; what the refusals said, and how long
    /// it took.
    pub fn mount_when_free(&mut self, within: Duration) -> (Vec<String>, Duration) {
        let (began, mut refused) = (Instant::now(), Vec::new());
        let body = json!({ "Name": NAME, "ID": "c" });
        loop {
            let (status, answer) = self.plugin().call("VolumeDriver.Mount", &body).unwrap();
            if status == 200 {
                let took = began.elapsed();
                // With its watchdog.
                self.mount();
                self.plugin().unmount(NAME, "c");
                return (refused, took);
            }
            refused.push(answer["Err"].as_str().unwrap().to_owned());
            assert!(began.elapsed() < within, "not mounted in {within:?}: {refused:#?}");
        }
    }

    /// The error of a mount.
    pub fn refused(&mut self) -> String {
        self.plugin().err("VolumeDriver.Mount", json!({ "Name": NAME, "ID": "c" }))
    }

    pub fn unmount(&mut self) {
        self.plugin().unmount(NAME, "c");
    }

    pub fn status(&mut self) -> Value {
        self.plugin().status(NAME)
    }

    pub fn log(&self) -> String {
        self.plugin.as_ref().map(Plugin::log).unwrap_or_default()
    }

    /// kill -9 of everything.
    pub fn lose(&mut self) {
        self.plugin.take().expect("it runs").lost();
    }

    /// As the system ends it.
    pub fn stop(&mut self) {
        drop(self.plugin.take().expect("it runs"));
    }

    /// The only worker.
    pub fn worker(&mut self) -> i32 {
        let workers = self.plugin().children("worker");
        assert_eq!(workers.len(), 1, "{workers:?}");
        workers[0] as i32
    }

    pub fn signal_worker(&mut self, signal: nix::sys::signal::Signal) {
        let worker = nix::unistd::Pid::from_raw(self.worker());
        nix::sys::signal::kill(worker, signal).unwrap();
    }
}

/// Two hosts, the bucket, and what must be in it.
pub struct Site {
    pub a: Host,
    pub b: Host,
    pub server: TestS3,
    pub ledger: Ledger,
    _alone: MutexGuard<'static, ()>,
}

impl Site {
    /// With the plugin on both hosts, and the volume made.
    pub fn new(options: &[(&str, &str)]) -> Site {
        let mut site = Site::bare();
        site.start(options);
        site
    }

    /// Before anything runs on the hosts.
    pub fn bare() -> Site {
        let alone = alone();
        let (a, b) = (Host::new("host-a"), Host::new("host-b"));
        // Its address appeared with the first host.
        let address = SocketAddr::from((SERVER_ADDRESS, 0));
        let server = TestS3::with(s3server::Options { address, ..Default::default() }).unwrap();
        Site { a, b, server, ledger: Ledger::default(), _alone: alone }
    }

    pub fn start(&mut self, options: &[(&str, &str)]) {
        self.a.start(&self.server);
        self.a.plugin().create(NAME, options).unwrap();
        self.b.start(&self.server);
        wait_for("the volume to be listed on the other host", Duration::from_secs(30), || {
            let listed = self.b.plugin().ok("VolumeDriver.List", json!({}));
            listed["Volumes"].as_array().is_some_and(|all| all.len() == 1).then_some(())
        });
    }

    /// The program runs on host A while `during` does its part; how it ended.
    pub fn write_on_a<T>(
        &mut self,
        during: impl FnOnce(&mut Host, &mut Host, &TestS3) -> T,
    ) -> (T, std::io::Result<()>) {
        let Site { a, b, server, ledger, .. } = self;
        let (place, end) = (a.place(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let program = scope.spawn(|| ledger.run(&place, &end));
            // A story that fails must not leave it writing.
            let ended = EndOnDrop(&end);
            let told = during(a, b, server);
            drop(ended);
            (told, program.join().expect("the program"))
        })
    }

    /// What the volume is, by its URL.
    pub fn url(&self) -> String {
        format!("s3://{}/team/{NAME}", self.server.bucket())
    }

    /// What a command of the program prints, which must succeed.
    pub fn s3vol(&self, args: &[&str]) -> String {
        let out = s3vol_as("s3vol", Some(&self.server)).args(args).output().unwrap();
        let (said, failed) =
            (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert!(out.status.success(), "{args:?}: {}\n{said}{failed}", out.status);
        said.into_owned()
    }

    /// Names of what had to be recovered.
    pub fn recovered(&self) -> Vec<String> {
        let list = self.s3vol(&["recovered", "list", &self.url()]);
        let names = list.lines().filter_map(|line| line.split_once("  "));
        names.map(|(name, _)| name.to_owned()).collect()
    }

    /// A file out of what was recovered under a name.
    pub fn restored(&self, name: &str, file: &str) -> std::io::Result<Vec<u8>> {
        let into = tempfile::tempdir().unwrap();
        let to = into.path().join("restored");
        self.s3vol(&["recovered", "restore", &self.url(), name, to.to_str().unwrap()]);
        std::fs::read(to.join(file))
    }

    /// The end of every story: both hosts gave the volume back; a host that never saw it finds what is durable,
    /// and the check finds nothing.
    pub fn whole(&mut self) {
        self.whole_and(|_| ());
    }

    /// The same, with more to look at on the host that never saw it.
    pub fn whole_and(&mut self, more: impl FnOnce(&Path)) {
        let mut fresh = Host::new("host-c");
        fresh.start(&self.server);
        let (_, took) = fresh.mount_when_free(Duration::from_secs(30));
        assert!(took < Duration::from_secs(20), "{took:?}");
        let place = fresh.mount();
        self.ledger.check(&place);
        more(&place);
        fresh.unmount();
        fresh.stop();
        let state = tempfile::tempdir().unwrap();
        let state = state.path().to_str().unwrap();
        let said = self.s3vol(&["fsck", "--data", "--state", state, &self.url()]);
        println!("{said}");
    }
}

struct EndOnDrop<'a>(&'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
