//! The managed plugin in a real dockerd: what `docker` users do, and what they must find in the
//! bucket afterwards, read by programs of other people. Needs root, docker.io, busybox-static,
//! docker-compose, rclone and s3fs, and the plugin laid out in build/plugin; `make test` brings them.

mod accounts;
mod content;
mod hosts;
mod life;
mod outside;
mod setup;
mod site;
#[path = "../support/mod.rs"]
mod support;
mod tools;
mod upgrade;
mod volumes;

use std::sync::{Condvar, Mutex, PoisonError};

use support::dockerd::{Dockerd, Options};
use support::plugin::{rootfs, settings};
use support::s3server::TestS3;

/// Two tests at a time: a dockerd is heavy, and most of the time it waits.
static FREE: Mutex<u32> = Mutex::new(2);
static FREED: Condvar = Condvar::new();

/// The turn of a test, as long as this lives.
struct Turn;

fn turn() -> Turn {
    let free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
    let free = FREED.wait_while(free, |free| *free == 0);
    *free.unwrap_or_else(PoisonError::into_inner) -= 1;
    Turn
}

impl Drop for Turn {
    fn drop(&mut self) {
        *FREE.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        FREED.notify_one();
    }
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
