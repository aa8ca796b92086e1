//! Each file below examples/ as it stands there, on engines and hosts of the tests' own. Images bear the names that
//! the files say, and are made from scratch: they do what the example needs of them. `make test-examples` runs this
//! and installs what it needs; it needs root and /dev/fuse.

mod compose;
mod image;
mod podman;
mod postgres;
mod readers;
#[path = "../support/mod.rs"]
mod support;
mod swarm;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use support::dockerd::{Dockerd, Options};
use support::netns::SERVER_ADDRESS;
use support::plugin::{rootfs, settings};
use support::s3server::{self, TestS3};
use support::wait_for;

const SOON: Duration = Duration::from_secs(60);

/// The folder of an example.
fn example(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name);
    assert!(folder.join("README.md").exists(), "{} has no README.md", folder.display());
    folder
}

/// Engines, each on a host of its own, and the bucket that the examples name. No plugin yet.
fn hosts(names: &[&str]) -> (Vec<Dockerd>, TestS3) {
    let start = |name: &&str| {
        let engine = Dockerd::start(&Options { host: Some((*name).to_owned()) });
        engine.host().leads_nowhere_else();
        engine
    };
    let engines: Vec<Dockerd> = names.iter().map(start).collect();
    // The address is there since the first host is.
    let server = TestS3::with(s3server::Options {
        address: SocketAddr::from((SERVER_ADDRESS, 0)),
        bucket: "my-bucket".into(),
        ..Default::default()
    });
    (engines, server.unwrap())
}

/// The same with the plugin on each, whose volumes lie in `s3://my-bucket/team`.
fn hosts_with_plugin(names: &[&str]) -> (Vec<Dockerd>, TestS3) {
    let (engines, server) = hosts(names);
    for engine in &engines {
        engine.install_plugin(&rootfs(), &settings(&server));
    }
    (engines, server)
}

/// Runs docker-compose in the folder of an example, which must succeed; returns all that it printed.
fn compose(engine: &Dockerd, folder: &str, args: &[&str]) -> String {
    let out = engine.compose(&example(folder), args);
    let said = [out.stdout, out.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    let said = said.concat();
    assert!(out.status.success(), "{args:?}: {said}\n--- dockerd\n{}", engine.log_tail(3000));
    said
}

/// What a page of a host holds.
fn page(engine: &Dockerd, port: u16, path: &str) -> std::io::Result<String> {
    let address = format!("{}:{port}", engine.host().address());
    let stream = std::net::TcpStream::connect(address)?;
    stream.set_read_timeout(Some(SOON))?;
    support::scrape::get(stream, path)
}

/// The text of an object, once it is there and `is` so.
fn object(server: &TestS3, key: &str, is: impl Fn(&str) -> bool) -> String {
    wait_for(&format!("the object {key}"), SOON, || {
        let object = server.get(key)?;
        let text = String::from_utf8_lossy(&object.body).into_owned();
        is(&text).then_some(text)
    })
}
