//! `moto_server`, a Python program that speaks S3: somebody else's reading of the protocol.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::wait_for;

const VERSION: &str = "5.2.5";

/// A running `moto_server`; dropping it ends it.
#[derive(Debug)]
pub struct Moto {
    child: Child,
    pub endpoint: String,
    pub bucket: String,
}

impl Moto {
    /// Starts one on a free loopback port, with one empty bucket. Installs moto first if need be.
    pub async fn start() -> Self {
        let python = python();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new(&python)
            .args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("{} does not start: {e}", python.display()));
        let endpoint = format!("http://127.0.0.1:{port}");
        let mut moto = Moto { child, endpoint, bucket: "moto-bucket".into() };
        wait_for("moto listens", Duration::from_secs(60), || {
            if let Some(status) = moto.child.try_wait().unwrap() {
                panic!("moto ended at once: {status}");
            }
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        let url = format!("{}/{}", moto.endpoint, moto.bucket);
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let made = http.put(url).send().await.unwrap();
        assert!(made.status().is_success(), "moto does not make a bucket: {}", made.status());
        moto
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The Python of a virtual environment below `target/` that has moto and boto3; made once.
pub fn python() -> PathBuf {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("moto-{VERSION}"));
    fs::create_dir_all(&home).unwrap();
    let lock = File::create(home.join("lock")).unwrap();
    lock.lock().unwrap();
    let python = home.join("venv/bin/python");
    let ready = home.join("ready");
    if !ready.exists() {
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(home.join("venv")));
        let package = format!("moto[server]=={VERSION}");
        run(Command::new(&python).args(["-m", "pip", "install", "--quiet", &package]));
        File::create(&ready).unwrap();
    }
    python
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(
        output.status.success(),
        "moto cannot be installed, and the store must be tested against it: {command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
