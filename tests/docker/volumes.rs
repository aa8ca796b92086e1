//! `docker volume create, ls, inspect, rm`, and options, on a Ceph gateway.

use crate::support::dockerd::PLUGIN;
use crate::{engine_behind_a_gateway, listed, outside, turn};

#[test]
fn a_volume_is_created_listed_inspected_used_removed_and_brought_back() {
    let _turn = turn();
    let (engine, server) = engine_behind_a_gateway();
    engine.docker(&["volume", "create", "-d", PLUGIN, "data"]);
    assert!(listed(&engine, "data"));
    let inspected = engine.docker(&["volume", "inspect", "data"]);
    let inspected: serde_json::Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(inspected[0]["Scope"], "global");
    let url = format!("s3://{}/team/data/", server.bucket());
    assert_eq!(inspected[0]["Status"]["url"], url.as_str());
    assert_eq!(inspected[0]["Status"]["state"], "unmounted");

    engine.run(
        "data",
        "umask 022; echo first >/d/a.txt; mkdir -p /d/x/y; echo deep >/d/x/y/z; chmod 640 /d/a.txt; \
         chown 33:44 /d/x/y/z; chmod 2775 /d/x; ln -s ../a.txt /d/x/link; : >/d/empty",
    );
    let script = "cat /d/a.txt /d/x/y/z /d/x/link; stat -c '%a %u %g' /d/a.txt /d/x/y/z /d/x";
    let wanted = "first\ndeep\nfirst\n640 0 0\n644 33 44\n2775 0 0\n";
    assert_eq!(engine.run("data", script), wanted);
    let content =
        [("a.txt", "first\n"), ("empty", ""), ("x/link", "../a.txt"), ("x/y/z", "deep\n")];
    outside::rests(&server, "team/data", &content);
    let seen = outside::attributes(&server, "team/data");
    assert_eq!(seen["a.txt"], "f 640 0 0 6");
    assert_eq!(seen["empty"], "f 644 0 0 0");
    assert_eq!(seen["x"], "d 2775 0 0");
    assert_eq!(seen["x/link"], "l 777 0 0 8 ../a.txt");
    assert_eq!(seen["x/y"], "d 755 0 0");
    assert_eq!(seen["x/y/z"], "f 644 33 44 5");

    engine.docker(&["volume", "rm", "data"]);
    assert!(!listed(&engine, "data"));
    // A mistaken removal is taken back by creating the volume again within its grace.
    outside::rests(&server, "team/data", &content);
    engine.docker(&["volume", "create", "-d", PLUGIN, "data"]);
    assert_eq!(engine.run("data", script), wanted);
}

#[test]
fn wrong_options_are_refused_at_create_with_cause_and_cure() {
    let _turn = turn();
    let (engine, _server) = engine_behind_a_gateway();
    let create = |options: &[&str], name: &str| {
        let mut args = vec!["volume", "create", "-d", PLUGIN];
        args.extend(options.iter().flat_map(|option| ["-o", option]));
        args.push(name);
        engine.docker_fails(&args)
    };
    let said = create(&["setle=auto"], "v1");
    assert!(said.contains("did you mean settle?") && said.contains("cache_size"), "{said}");
    let said = create(&["url=s3://no-such-bucket/x"], "v2");
    assert!(said.contains("no-such-bucket"), "{said}");
    let said = create(&["endpoint=http://127.0.0.1:9"], "v3");
    assert!(said.contains("127.0.0.1:9"), "{said}");
    let said = create(&[], "../etc");
    assert!(said.contains("../etc"), "{said}");
    for name in ["v1", "v2", "v3", "../etc"] {
        assert!(!listed(&engine, name), "{name}");
    }
}

#[test]
fn df_in_a_container_shows_the_quota_and_a_full_volume_can_be_read_and_emptied() {
    let _turn = turn();
    let (engine, _server) = engine_behind_a_gateway();
    let create = ["volume", "create", "-d", PLUGIN, "-o", "size=1m", "-o", "inodes=5", "small"];
    engine.docker(&create);
    let df = "df -k /d | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2-4; \
              df -i /d | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2-4; ";
    let script = "dd if=/dev/zero of=/d/a bs=64k count=8 2>/dev/null; wc -c </d/a; ";
    assert_eq!(engine.run("small", &format!("{script}{df}")), "524288\n1024 512 512\n5 2 3\n");
    let seen = engine.run(
        "small",
        "dd if=/dev/zero of=/d/b bs=64k count=9 2>&1 | grep -o 'No space left on device'; \
         wc -c </d/b; mkdir /d/c /d/e; touch /d/f 2>&1 | grep -o 'No space left on device'; \
         cat /d/a | wc -c; rm /d/a && echo 1 >/d/f && cat /d/f; rm -r /d/*",
    );
    let full = "No space left on device\n";
    assert_eq!(seen, format!("{full}524288\n{full}524288\n1\n"));
    assert_eq!(engine.run("small", df), "1024 0 1024\n5 1 4\n");
}
