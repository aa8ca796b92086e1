//! Containers, the plugin and the daemon end and come back, all of it on a Ceph gateway: what was found out
//! about the store must be known to every process that comes.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::support::dockerd::{Dockerd, PLUGIN};
use crate::support::{wait_for, watchdog};
use crate::{engine, engine_behind_a_gateway, listed, outside, turn};

/// How often the volume was opened since the daemon started.
fn opened(engine: &Dockerd) -> usize {
    engine.log_tail(usize::MAX).matches("the volume is served").count()
}

#[test]
fn a_stopped_container_gives_the_volume_back_quickly_and_another_resumes_it() {
    let _turn = turn();
    let (engine, server) = engine_behind_a_gateway();
    engine.docker(&["volume", "create", "-d", PLUGIN, "data"]);
    engine.start_container(
        "box",
        "data",
        "trap 'exit 0' TERM; i=0; while [ $i -lt 200 ]; do echo $i >/d/$i; i=$((i+1)); done; \
         echo ready >/d/ready; while :; do sleep 0.1; done",
    );
    wait_for("the container to write", Duration::from_secs(30), || {
        (engine.exec("box", "cat /d/ready 2>/dev/null || :") == "ready\n").then_some(())
    });
    let begun = Instant::now();
    engine.docker(&["stop", "box"]);
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(8), "docker stop took {took:?}");
    let rest = outside::files(&server, "team/data");
    assert_eq!((rest.len(), rest["199"].as_str()), (201, "199\n"), "settled by the unmount");

    engine.docker(&["start", "box"]);
    engine.docker(&["rm", "-f", "box"]);
    assert_eq!(engine.run("data", "cat /d/7"), "7\n");
    assert_eq!(opened(&engine), 1, "the lingering worker was woken, not replaced");

    let mountpoint = engine.plugin_dir().join("vol/data");
    assert!(watchdog::mounted(&mountpoint), "it lingers");
    wait_for("the unused volume to be unmounted", Duration::from_secs(45), || {
        (!watchdog::mounted(&mountpoint)).then_some(())
    });
    assert_eq!(engine.run("data", "cat /d/7"), "7\n");
    assert_eq!(opened(&engine), 2);
}

#[test]
fn volumes_survive_the_plugin_and_the_daemon_restarting() {
    let _turn = turn();
    let (mut engine, server) = engine_behind_a_gateway();
    engine.docker(&["volume", "create", "-d", PLUGIN, "data"]);
    engine.run("data", "echo kept >/d/file");
    engine.docker(&["plugin", "disable", "-f", PLUGIN]);
    outside::rests(&server, "team/data", &[("file", "kept\n")]);
    engine.docker(&["plugin", "enable", PLUGIN]);
    assert_eq!(engine.run("data", "cat /d/file"), "kept\n");

    engine.start_container("box", "data", "echo running >/d/running; sleep 600");
    wait_for("the container to write", Duration::from_secs(20), || {
        (engine.exec("box", "cat /d/running 2>/dev/null || :") == "running\n").then_some(())
    });
    engine.down();
    outside::comes_to_rest(&server, "team/data", &[("file", "kept\n"), ("running", "running\n")]);
    engine.up();
    assert!(listed(&engine, "data"));
    engine.docker(&["rm", "-f", "box"]);
    let script = "cat /d/file /d/running; echo again >/d/file; cat /d/file";
    assert_eq!(engine.run("data", script), "kept\nrunning\nagain\n");
    outside::rests(&server, "team/data", &[("file", "again\n"), ("running", "running\n")]);
    // By a process that never probed.
    engine.docker(&["volume", "rm", "data"]);
    assert!(!listed(&engine, "data"));
}

#[test]
fn a_killed_plugin_comes_back_and_its_volume_with_all_it_had() {
    let _turn = turn();
    let (engine, server) = engine_behind_a_gateway();
    engine.docker(&["volume", "create", "-d", PLUGIN, "data"]);
    engine.start_container("box", "data", "echo synced >/d/file; sync; sleep 600");
    wait_for("the file", Duration::from_secs(20), || {
        (engine.exec("box", "cat /d/file 2>/dev/null || :") == "synced\n").then_some(())
    });
    let id = engine.docker(&["plugin", "inspect", "-f", "{{.Id}}", PLUGIN]);
    let plugin =
        wait_for("the plugin's process", Duration::from_secs(5), || supervisor_of(id.trim()));
    nix::sys::signal::kill(plugin, nix::sys::signal::Signal::SIGKILL).unwrap();
    // The container keeps a dead mount and must be ended; the volume itself comes back.
    let _ = engine.try_docker(&["rm", "-f", "box"]);
    wait_for("the volume to be mountable again", Duration::from_secs(60), || {
        let out = engine.try_run("data", "cat /d/file");
        (out.stdout == b"synced\n").then_some(())
    });
    outside::rests(&server, "team/data", &[("file", "synced\n")]);
}

/// The connections of a volume that are mounted on this machine: a dead one that is still there is another one.
fn connections(engine: &Dockerd, volume: &str) -> BTreeSet<String> {
    let at = format!("/vol/{volume}");
    let root = engine.plugin_dir().parent().unwrap().to_owned();
    let table = s3vol::sys::mount_table().unwrap().into_iter();
    let below = table.filter(|mount| mount.kind == "fuse.s3vol" && mount.path.starts_with(&root));
    let ours = below.filter(|mount| mount.path.to_str().unwrap().ends_with(&at));
    ours.map(|mount| mount.device).collect()
}

#[test]
fn what_a_plugin_left_that_was_disabled_or_killed_in_use_is_cleaned_and_said_at_the_next_start() {
    let _turn = turn();
    let (engine, server) = engine();
    engine.docker(&["volume", "create", "-d", PLUGIN, "-o", "commit=300s", "data"]);
    engine.docker(&["volume", "create", "-d", PLUGIN, "unused"]);
    engine.run("unused", "echo x >/d/x");
    let script = "[ -e /d/file ] || echo first >/d/file; echo more >>/d/file; echo $$ >/ready; \
                  while :; do sleep 0.1; done";
    engine.start_container("box", "data", script);
    let ready = |lines: usize| {
        let wanted = format!("first\n{}", "more\n".repeat(lines));
        wait_for("the container to write", Duration::from_secs(30), || {
            let found =
                engine.try_docker(&["exec", "box", "/bin/sh", "-c", "cat /d/file"]).unwrap();
            (found.stdout == wanted.as_bytes()).then_some(())
        });
    };
    ready(1);
    let mut seen = BTreeSet::from([connections(&engine, "data")]);
    let box_id = engine.docker(&["ps", "-q", "--filter", "name=box"]).trim().to_owned();
    for (round, how) in ["disabled", "killed"].into_iter().enumerate() {
        let before = engine.log_tail(usize::MAX).len();
        if how == "disabled" {
            engine.docker(&["plugin", "disable", "-f", PLUGIN]);
        } else {
            let id = engine.docker(&["plugin", "inspect", "-f", "{{.Id}}", PLUGIN]);
            let plugin = wait_for("the plugin's process", Duration::from_secs(5), || {
                supervisor_of(id.trim())
            });
            nix::sys::signal::kill(plugin, nix::sys::signal::Signal::SIGKILL).unwrap();
        }
        // The container is told, and does not hang.
        wait_for("the end of its mount", Duration::from_secs(30), || {
            let script = "cat /d/file 2>&1 | grep -c 'not connected'";
            let out = engine.try_docker(&["exec", "box", "/bin/sh", "-c", script]).unwrap();
            (out.stdout == b"1\n").then_some(())
        });
        if how == "disabled" {
            engine.docker(&["plugin", "enable", PLUGIN]);
        }
        let said = wait_for("what the plugin says of it", Duration::from_secs(60), || {
            let log = engine.log_tail(usize::MAX)[before..].to_owned();
            let line = log.lines().find(|l| l.contains("the plugin ended while it was mounted"));
            line.map(str::to_owned)
        });
        assert!(said.contains("Transport endpoint is not connected"), "{how}: {said}");
        assert!(said.contains("data"), "{how}: {said}");
        // Only of who lost something.
        let log = engine.log_tail(usize::MAX)[before..].to_owned();
        assert_eq!(log.matches("the plugin ended while it was mounted").count(), 1, "{how}: {log}");
        // The command that it says names the container.
        let cure = "docker ps -q --filter volume=data | xargs docker restart";
        assert!(said.contains(cure), "{how}: {said}");
        assert_eq!(engine.docker(&["ps", "-q", "--filter", "volume=data"]).trim(), box_id);
        engine.docker(&["restart", "-t", "1", &box_id]);
        ready(round + 2);
        let now = connections(&engine, "data");
        assert!(now.len() == 1 && seen.insert(now.clone()), "{how}: {now:?} after {seen:?}");
    }
    engine.docker(&["rm", "-f", "box"]);
    outside::rests(&server, "team/data", &[("file", "first\nmore\nmore\nmore\n")]);
    assert_eq!(engine.run("unused", "cat /d/x"), "x\n");
}

/// The plugin's first process: the child of the shim that names the plugin's id.
fn supervisor_of(id: &str) -> Option<nix::unistd::Pid> {
    let entries = std::fs::read_dir("/proc").ok()?;
    entries.flatten().find_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        if line != b"/bin/s3vol\0plugin\0" {
            return None;
        }
        let stat = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let parent = stat.lines().find_map(|l| l.strip_prefix("PPid:"))?.trim().to_owned();
        let shim = std::fs::read(format!("/proc/{parent}/cmdline")).ok()?;
        String::from_utf8_lossy(&shim).contains(id).then(|| nix::unistd::Pid::from_raw(pid))
    })
}
