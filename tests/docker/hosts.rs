//! Two engines with a network and a name of their own, as two hosts on one bucket.

use std::net::SocketAddr;
use std::time::Duration;

use crate::support::dockerd::{Dockerd, Options, PLUGIN};
use crate::support::netns::SERVER_ADDRESS;
use crate::support::s3server::{self, TestS3};
use crate::support::{wait_for, watchdog};
use crate::{listed, outside, rootfs, settings, turn};

fn start_host(name: &str) -> Dockerd {
    let engine = Dockerd::start(&Options { host: Some(name.to_owned()) });
    engine.import_busybox(|_| ());
    engine
}

/// Two hosts, with the plugin on one bucket whose server both reach.
fn two_hosts() -> (Dockerd, Dockerd, TestS3) {
    let a = start_host("host-a");
    // Its address appears with the first host.
    let address = SocketAddr::from((SERVER_ADDRESS, 0));
    let server = TestS3::with(s3server::Options { address, ..Default::default() }).unwrap();
    let b = start_host("host-b");
    for engine in [&a, &b] {
        engine.install_plugin(&rootfs(), &settings(&server));
    }
    (a, b, server)
}

#[test]
fn a_volume_moves_between_two_hosts_and_has_one_writer() {
    let _turn = turn();
    let (a, b, server) = two_hosts();
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

#[test]
#[ignore = "make soak"]
fn soak_a_volume_moves_back_and_forth_many_times() {
    let _turn = turn();
    let (a, b, server) = two_hosts();
    a.docker(&["volume", "create", "-d", PLUGIN, "shared"]);
    let mut log = String::new();
    for (turn, engine) in (0..100).zip([&a, &b].into_iter().cycle()) {
        let script = format!(
            "cat /d/log 2>/dev/null; echo {turn} >>/d/log; rm -rf /d/tree; mkdir /d/tree; \
             i=0; while [ $i -lt 50 ]; do echo {turn} >/d/tree/$i; i=$((i+1)); done"
        );
        assert_eq!(engine.run("shared", &script), log, "turn {turn}");
        log.push_str(&format!("{turn}\n"));
        let rest = outside::files(&server, "team/shared");
        assert_eq!((rest.len(), &rest["log"]), (51, &log), "turn {turn}");
    }
}
