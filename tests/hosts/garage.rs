//! A store that cannot be shared between hosts: Garage, which overlooks the conditions of a PUT.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::unmanaged::{Plugin, s3vol_as};
use crate::support::wait_for;

const KEY: &str = "GK31c2f218a2e44f485b94239e";
const SECRET: &str = "b892c0665f0ada8a4755dae98baa3b133590e11dae3bcc1f9d769d67f16c3835";
const VERSION: &str = "2.5.0";

/// Where `make soak` installs it.
fn program() -> PathBuf {
    let program = std::env::var_os("S3VOL_TEST_GARAGE").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("build/garage/bin/garage"),
        PathBuf::from,
    );
    assert!(program.exists(), "run `make soak`, or plugin/garage.sh first");
    program
}

struct Garage {
    child: Child,
    dir: tempfile::TempDir,
    port: u16,
}

impl Garage {
    /// One node with one bucket, `shared`.
    fn start() -> Garage {
        let dir = tempfile::tempdir().unwrap();
        // Bound all at once, so that they differ.
        let free = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [port, rpc] = free.each_ref().map(|socket| socket.local_addr().unwrap().port());
        drop(free);
        let path = dir.path().display();
        let secret = SECRET;
        let config = format!(
            "metadata_dir = \"{path}/meta\"\ndata_dir = \"{path}/data\"\ndb_engine = \"sqlite\"\n\
             replication_factor = 1\nrpc_bind_addr = \"127.0.0.1:{rpc}\"\n\
             rpc_public_addr = \"127.0.0.1:{rpc}\"\nrpc_secret = \"{secret}\"\n\
             [s3_api]\ns3_region = \"garage\"\napi_bind_addr = \"127.0.0.1:{port}\"\n"
        );
        let file = dir.path().join("garage.toml");
        std::fs::write(&file, config).unwrap();
        let log = File::create(dir.path().join("log")).unwrap();
        let child = Command::new(program())
            .arg("-c")
            .arg(&file)
            .args(["server", "--single-node", "--default-bucket"])
            .env("GARAGE_DEFAULT_ACCESS_KEY", KEY)
            .env("GARAGE_DEFAULT_SECRET_KEY", SECRET)
            .env("GARAGE_DEFAULT_BUCKET", "shared")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Garage { child, dir, port }
    }

    fn env(&self) -> [(&'static str, String); 4] {
        [
            ("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", self.port)),
            ("AWS_REGION", "garage".to_owned()),
            ("AWS_ACCESS_KEY_ID", KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
        ]
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Garage {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- garage\n{}", self.log());
        }
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "make soak"]
fn soak_garage_is_refused_with_its_reason() {
    let version = Command::new(program()).arg("--version").output().unwrap();
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    assert!(version.contains(VERSION), "{version}");
    let mut garage = Garage::start();
    let mut probe = s3vol_as("s3vol", None);
    probe.envs(garage.env()).args(["probe", "s3://shared/team"]);
    let out = wait_for("the bucket", Duration::from_secs(60), || {
        let ended = garage.child.try_wait().unwrap();
        assert!(ended.is_none(), "{ended:?}");
        Some(probe.output().unwrap()).filter(|out| out.status.success())
    });
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    println!("{said}");
    let honours = |what: &str| {
        let line = said.lines().find(|line| line.contains(what)).expect("a line for each verb");
        line.trim_start().starts_with("yes")
    };
    assert!(!honours("create if absent"), "{said}");
    assert!(!honours("replace if unchanged"), "{said}");
    assert!(honours("read after write"), "{said}");

    // No volume is made there, unless one host promises to be the only one.
    let env = garage.env();
    let env = env.each_ref().map(|(name, value)| (*name, value.as_str()));
    let env = [&env[..], &[("S3VOL_URL", "s3://shared/team")]].concat();
    let mut plugin = Plugin::with(None, &env);
    let refused = plugin.create("data", &[]).expect_err("two hosts could both win");
    println!("{refused}");
    assert!(
        refused.contains("does not honour create-if-absent (If-None-Match: * on PUT)"),
        "{refused}"
    );
    assert!(refused.contains("single_host=true"), "{refused}");
    plugin.create("alone", &[("single_host", "true"), ("settle_after", "0s")]).unwrap();
    let place = plugin.mount("alone", "c");
    std::fs::write(place.join("file"), "on one host").unwrap();
    plugin.unmount("alone", "c");
    drop(plugin);
    let mut other = Plugin::with(None, &env);
    let place = other.mount("alone", "c");
    assert_eq!(std::fs::read_to_string(place.join("file")).unwrap(), "on one host");
    other.unmount("alone", "c");
}
