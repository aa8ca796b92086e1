//! A Swarm of three nodes, of which two have the plugin.

use std::time::Duration;

use crate::image::{alpine, path};
use crate::support::dockerd::Dockerd;
use crate::support::netns::Netns;
use crate::support::plugin::{rootfs, settings};
use crate::support::wait_for;
use crate::{SOON, example, hosts, object};

/// A dead node's lease runs for a minute, and Swarm waits between its attempts.
const MOVE: Duration = Duration::from_secs(180);

/// The container of a service on a node, if one runs there.
fn task(node: &Dockerd, service: &str) -> Option<String> {
    let found = node.docker(&["ps", "-q", "-f", &format!("name={service}")]);
    found.lines().next().map(str::to_owned)
}

/// Sees a node that was cut off back before its engine ends: else that waits for the store.
struct Healed<'h>(&'h Netns);

impl Drop for Healed<'_> {
    fn drop(&mut self) {
        self.0.heal();
    }
}

#[test]
#[ignore = "make test-examples"]
fn examples_swarm_readers_run_on_all_nodes_and_a_service_moves_with_its_data() {
    let (engines, server) = hosts(&["manager", "node-a", "node-b"]);
    let [manager, nodes @ ..] = &engines[..] else { panic!("three") };
    for node in nodes {
        alpine(node);
        node.install_plugin(&rootfs(), &settings(&server));
    }
    let address = manager.host().address();
    // Beside the file: a node counts as dead after three of these, and 15 s are long.
    manager.docker(&["swarm", "init", "--advertise-addr", address, "--dispatcher-heartbeat", "1s"]);
    let token = manager.docker(&["swarm", "join-token", "-q", "worker"]);
    for node in nodes {
        node.docker(&["swarm", "join", "--token", token.trim(), &format!("{address}:2377")]);
    }
    let deploy = |file: &str, stack: &str| {
        let file = example("swarm").join(file);
        manager.docker(&["stack", "deploy", "-c", path(&file), stack]);
    };

    deploy("readers.yml", "feed");
    for node in nodes {
        let reader = wait_for("a reader", MOVE, || task(node, "feed_reader"));
        let last = wait_for("the writer", MOVE, || {
            let writes = |node: &Dockerd| {
                node.try_docker(&[
                    "exec",
                    &task(node, "feed_writer")?,
                    "tail",
                    "-n",
                    "1",
                    "/feed/log",
                ])
                .ok()
            };
            let last = nodes.iter().find_map(writes).filter(|out| out.status.success())?;
            Some(String::from_utf8_lossy(&last.stdout).into_owned()).filter(|line| line.len() > 10)
        });
        wait_for("the reader to see it", SOON, || {
            node.docker(&["logs", &reader]).contains(&last).then_some(())
        });
    }
    manager.docker(&["stack", "rm", "feed"]);
    object(&server, "team/feed/log", |text| !text.is_empty());

    deploy("moving.yml", "counter");
    let (first, container) = wait_for("the service", MOVE, || {
        nodes.iter().enumerate().find_map(|(at, node)| Some((at, task(node, "counter_app")?)))
    });
    let (dies, lives) = (&nodes[first], &nodes[1 - first]);
    let log = wait_for("some lines of it", SOON, || {
        let log = dies.docker(&["exec", &container, "cat", "/data/log"]);
        (log.lines().count() > 3).then_some(log)
    });
    let name = |node: &Dockerd| node.host().name().to_owned();
    assert!(log.starts_with(&format!("started on {}\n", name(dies))), "{log}");
    // The last line may not have been synced.
    let synced = &log[..log.trim_end().rfind('\n').unwrap() + 1];
    let _healed = Healed(dies.host());
    dies.host().cut();
    let container = wait_for("the service on the other node", MOVE, || task(lives, "counter_app"));
    let moved = wait_for("what it writes there", SOON, || {
        let log = lives.docker(&["exec", &container, "cat", "/data/log"]);
        log.contains(&format!("started on {}\n", name(lives))).then_some(log)
    });
    assert!(moved.starts_with(synced), "{moved}\nfrom\n{log}");
    let attempts = manager.docker(&["service", "ps", "--no-trunc", "counter_app"]);
    let said = format!("{} holds this volume", name(dies));
    assert!(attempts.contains(&said), "the failed attempts name the holder: {attempts}");
    manager.docker(&["stack", "rm", "counter"]);
    wait_for("the log at rest", SOON, || server.get("team/counter/log"));
    // Else each engine waits for the others when it ends.
    for engine in nodes.iter().chain([manager]) {
        engine.docker(&["swarm", "leave", "-f"]);
    }
}
