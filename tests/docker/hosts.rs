//! Two engines with a network and a name of their own, as two hosts on one bucket.

use std::net::SocketAddr;
use std::time::Duration;

use crate::support::dockerd::{Dockerd, Options, PLUGIN, SERVER_ADDRESS};
use crate::support::s3server::{self, TestS3};
use crate::support::{wait_for, watchdog};
use crate::{alone, listed, outside, rootfs, settings};

fn start_host(name: &str) -> Dockerd {
    let engine = Dockerd::start(&Options { host: Some(name.to_owned()) });
    engine.import_busybox(|_| ());
    engine
}

#[test]
fn a_volume_moves_between_two_hosts_and_has_one_writer() {
    let _alone = alone();
    let a = start_host("host-a");
    let address = SocketAddr::from((SERVER_ADDRESS, 0));
    let server = TestS3::with(s3server::Options { address, ..Default::default() }).unwrap();
    let b = start_host("host-b");
    for engine in [&a, &b] {
        engine.install_plugin(&rootfs(), &settings(&server));
    }
    a.docker(&["volume", "create", "-d", PLUGIN, "-o", "commit=3s", "shared"]);
    wait_for("the volume to be listed on the other host", Duration::from_secs(30), || {
        listed(&b, "shared").then_some(())
    });
    a.run("shared", "echo from a >/d/file; chown 5:6 /d/file; chmod 664 /d/file");
    // At once: what A unmounted cleanly is free, though A's worker still lingers.
    let script = "stat -c '%a %u %g' /d/file; cat /d/file; echo from b >>/d/file";
    assert_eq!(b.run("shared", script), "664 5 6\nfrom a\n");
    outside::rests(&server, "team/shared", &[("file", "from a\nfrom b\n")]);
    assert_eq!(outside::attributes(&server, "team/shared")["file"], "f 664 5 6 14");

    a.start_container("holder", "shared", "sleep 600");
    let said = b.try_run("shared", "cat /d/file");
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("host-a holds this volume"), "the holder is named: {said}");
    assert_eq!(a.exec("holder", "cat /d/file; echo a again >>/d/file"), "from a\nfrom b\n");
    a.docker(&["rm", "-f", "holder"]);
    // B keeps it for longer than A lingers, and A's leaving must not disturb it.
    b.start_container("holder", "shared", "cat /d/file; sleep 600");
    let mountpoint = a.plugin_dir().join("vol/shared");
    wait_for("the volume to be unmounted on A", Duration::from_secs(45), || {
        (!watchdog::mounted(&mountpoint)).then_some(())
    });
    let content = "from a\nfrom b\na again\n";
    assert_eq!(b.exec("holder", "cat /d/file; echo b again >>/d/file; sync"), content);
    b.docker(&["rm", "-f", "holder"]);
    let content = "from a\nfrom b\na again\nb again\n";
    outside::rests(&server, "team/shared", &[("file", content)]);
    assert_eq!(a.run("shared", "cat /d/file"), content);
    for engine in [&a, &b] {
        let log = engine.log_tail(usize::MAX);
        assert!(!log.contains("kept aside"), "a clean move leaves nothing to recover:\n{log}");
    }
}
