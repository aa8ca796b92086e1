//! `azurite`, Microsoft's emulator of Azure Blob Storage, from npm.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use object_store::azure::{AzureAccessKey, AzureAuthorizer, AzureCredential};
use object_store::client::HttpRequestBody;

use super::wait_for;

const VERSION: &str = "3.37.0";
/// Known to everybody, and built into the emulator.
pub const ACCOUNT: &str = "devstoreaccount1";
pub const KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// Another key of the same account, as accounts have two.
pub const SECOND_KEY: &str = "c2Vjb25kIGtleSBvZiB0aGUgZW11bGF0b3IncyBhY2NvdW50";
/// An account of somebody else, who may not use what the first one has.
pub const OTHER_ACCOUNT: &str = "otherstoreaccount";
pub const OTHER_KEY: &str = "a2V5IG9mIHNvbWVib2R5IGVsc2UncyBhY2NvdW50IGhlcmU=";

/// A running emulator; dropping it ends it.
#[derive(Debug)]
pub struct Azurite {
    child: Child,
    pub endpoint: String,
    pub container: String,
}

impl Azurite {
    /// Starts one on a free loopback port, with one empty container. Installs it first if need be.
    pub async fn start() -> Self {
        let program = installed();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new("node")
            .arg(&program)
            .args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string()])
            .args(["--inMemoryPersistence", "--silent", "--skipApiVersionCheck"])
            .env(
                "AZURITE_ACCOUNTS",
                format!("{ACCOUNT}:{KEY}:{SECOND_KEY};{OTHER_ACCOUNT}:{OTHER_KEY}"),
            )
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("{} does not start: {e}", program.display()));
        let endpoint = format!("http://127.0.0.1:{port}/{ACCOUNT}");
        let mut azurite = Azurite { child, endpoint, container: "container".into() };
        wait_for("azurite listens", Duration::from_secs(60), || {
            if let Some(status) = azurite.child.try_wait().unwrap() {
                panic!("azurite ended at once: {status}");
            }
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        azurite.make_container().await;
        azurite
    }

    async fn make_container(&self) {
        let url = format!("{}/{}?restype=container", self.endpoint, self.container);
        let mut request = http::Request::put(&url).body(HttpRequestBody::empty()).unwrap();
        let credential = AzureCredential::AccessKey(AzureAccessKey::try_new(KEY).unwrap());
        AzureAuthorizer::new(&credential, ACCOUNT).try_authorize(&mut request).unwrap();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let made = http
            .put(&url)
            .headers(request.headers().clone())
            .header("content-length", "0")
            .send()
            .await
            .unwrap();
        let status = made.status();
        assert!(status.is_success(), "no container: {status} {}", made.text().await.unwrap());
    }
}

impl Drop for Azurite {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The emulator's blob service below `target/`; installed once.
fn installed() -> PathBuf {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("azurite-{VERSION}"));
    fs::create_dir_all(&home).unwrap();
    let lock = File::create(home.join("lock")).unwrap();
    lock.lock().unwrap();
    let program = home.join("node_modules/azurite/dist/src/blob/main.js");
    let ready = home.join("ready");
    if !ready.exists() {
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-audit", "--no-fund", "--silent", "--prefix"]).arg(&home);
        let output = npm.arg(format!("azurite@{VERSION}")).output().unwrap();
        assert!(
            output.status.success() && program.exists(),
            "azurite cannot be installed, and az:// must be tested against it: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        File::create(&ready).unwrap();
    }
    program
}
