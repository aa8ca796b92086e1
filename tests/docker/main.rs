//! The managed plugin in a real dockerd: what `docker` users do, and what they must find in the
//! bucket afterwards, read by programs of other people. Needs root, docker.io, busybox-static,
//! docker-compose, rclone and s3fs, and the plugin laid out in build/plugin; `make test` brings them.

mod content;
mod hosts;
mod life;
mod outside;
mod site;
#[path = "../support/mod.rs"]
mod support;
mod tools;
mod volumes;

use std::sync::{Mutex, MutexGuard};

use support::dockerd::{Dockerd, Options};
use support::plugin::{rootfs, settings};
use support::s3server::TestS3;

/// One test at a time: two cores, and one dockerd is heavy enough.
static ONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// An engine with the plugin on a server of ours, and the test image.
fn engine() -> (Dockerd, TestS3) {
    engine_on(TestS3::start())
}

/// The same on a server that speaks as a Ceph gateway.
fn engine_behind_a_gateway() -> (Dockerd, TestS3) {
    engine_on(TestS3::gateway())
}

fn engine_on(server: TestS3) -> (Dockerd, TestS3) {
    let engine = Dockerd::start(&Options::default());
    engine.import_busybox(|_| ());
    engine.install_plugin(&rootfs(), &settings(&server));
    (engine, server)
}

/// Whether `docker volume ls` shows the volume.
fn listed(engine: &Dockerd, name: &str) -> bool {
    engine.docker(&["volume", "ls", "-q"]).lines().any(|line| line == name)
}
