//! The version that landed last and this one take each other's place. `plugin/earlier.sh` builds the former, of the commit
//! in `tests/upgrade/landed`; `make test-upgrade` runs this.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use s3vol::fault;

use super::support::s3server::TestS3;
use super::support::unmanaged::{Plugin, clean, other_program, runs};
use super::support::wait_for;
use super::users::{Seen, in_use};
use super::{PROVES_MS, SOON, pause};

/// Where the program of the version that landed last lies.
const EARLIER: &str = "S3VOL_TEST_EARLIER";

/// Both programs.
struct Two {
    earlier: PathBuf,
    this: PathBuf,
    dir: tempfile::TempDir,
}

impl Two {
    fn new() -> Two {
        let earlier = std::env::var(EARLIER)
            .unwrap_or_else(|_| panic!("{EARLIER} names no program; use `make test-upgrade`"));
        let dir = tempfile::tempdir().unwrap();
        let this = other_program(dir.path(), "this", "");
        let two = Two { earlier: earlier.into(), this, dir };
        assert!(!same(&two.earlier, &two.this), "both are one program");
        two
    }
}

/// Whether two files have the same content.
fn same(a: &Path, b: &Path) -> bool {
    std::fs::read(a).unwrap() == std::fs::read(b).unwrap()
}

/// `s3vol upgrade --from` by the program `by`.
fn upgrade(plugin: &Plugin, by: &Path, from: &Path) {
    let mut command = Command::new(by);
    clean(&mut command, None);
    command.arg("upgrade").arg("--socket").arg(plugin.socket()).arg("--from").arg(from);
    let done = command.output().unwrap();
    let said = [done.stdout, done.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(done.status.success(), "{said}\n{}", plugin.log());
    all_run(plugin, from);
}

/// Supervisor, driver and workers are processes of `program`.
fn all_run(plugin: &Plugin, program: &Path) {
    let children = ["driver", "worker"].iter().flat_map(|role| plugin.children(role));
    let all: Vec<u64> = children.chain([plugin.pid()]).collect();
    assert_eq!(all.len(), 4, "{all:?}");
    for pid in all {
        let file = format!("/proc/{pid}/exe");
        assert!(same(Path::new(&file), program), "{pid} runs another program\n{}", plugin.log());
    }
}

/// What a program finds that has a host of its own, and what it adds.
fn fresh(program: &Path, server: &TestS3, env: &[(&str, &str)], log: &[u8], add: &str) {
    let mut plugin = Plugin::of(program, Arc::new(tempfile::tempdir().unwrap()), server, env);
    let place = plugin.mount("v", "c");
    assert_eq!(std::fs::read(place.join("log")).unwrap(), log, "{}", plugin.log());
    let mut added = File::options().create(true).append(true).open(place.join("added")).unwrap();
    added.write_all(add.as_bytes()).unwrap();
    added.sync_all().unwrap();
    drop(added);
    let other = plugin.mount("w", "c");
    let names: Vec<_> =
        std::fs::read_dir(&other).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["f"], "all that was made is removed");
    assert_eq!(std::fs::read_to_string(other.join("f")).unwrap(), "of another volume");
    plugin.unmount("v", "c");
    plugin.unmount("w", "c");
}

#[test]
#[ignore = "make test-upgrade"]
fn upgrade_from_the_version_that_landed_last_and_back_under_programs_that_use_volumes() {
    let (two, server) = (Two::new(), TestS3::start());
    let url = format!("s3://{}/team", server.bucket());
    let env = [("S3VOL_URL", url.as_str()), (fault::PROVES, PROVES_MS)];
    let host = Arc::new(tempfile::tempdir().unwrap());
    let mut plugin = Plugin::of(&two.earlier, Arc::clone(&host), &server, &env);
    plugin.create("v", &[("commit", "1s"), ("settle_after", "1s")]).unwrap();
    plugin.create("w", &[]).unwrap();
    let (place, other) = (plugin.mount("v", "c1"), plugin.mount("w", "c2"));
    std::fs::write(other.join("f"), "of another volume").unwrap();
    let pid = plugin.pid();
    all_run(&plugin, &two.earlier);

    let grown = |from: u64| {
        let length = || std::fs::metadata(place.join("log")).map_or(0, |log| log.len());
        wait_for("more in the log", SOON, || Some(length()).filter(|now| *now > from + 80))
    };
    let Seen { longest, written } = in_use(&place, &other, || {
        let mut length = grown(0);
        // A host is upgraded by the program that it has, which has to understand what the other one answers.
        for (by, from) in [
            (&two.earlier, &two.this),
            (&two.this, &two.earlier),
            (&two.earlier, &two.this),
            (&two.earlier, &two.earlier),
        ] {
            upgrade(&plugin, by, from);
            length = grown(length);
            for volume in ["v", "w"] {
                assert_eq!(plugin.status(volume)["mounts"], 1, "{volume}");
            }
        }
    });
    println!("the longest calls: {longest:?}");
    for (what, longest) in longest {
        assert!(longest < pause(), "{what} took {longest:?}\n{}", plugin.log());
    }
    assert_eq!(plugin.pid(), pid);
    assert!(!plugin.log().contains("worker died"), "{}", plugin.log());
    assert_eq!(std::fs::read(place.join("log")).unwrap(), written);

    // What is noted by one is used by the other after a restart, and what is left on the disk is read.
    std::fs::write(place.join("late"), "before the restart").unwrap();
    upgrade(&plugin, &two.this, &two.this);
    plugin.unmount("v", "c1");
    plugin.unmount("w", "c2");
    assert_eq!(server.get("team/v/log").expect("it is at rest").body, written);
    drop(plugin);
    let mut plugin = Plugin::of(&two.earlier, Arc::clone(&host), &server, &env);
    plugin.mount("v", "c1");
    plugin.mount("w", "c2");
    all_run(&plugin, &two.this);
    assert_eq!(std::fs::read_to_string(place.join("late")).unwrap(), "before the restart");
    // A host that has this version installed goes back, too.
    std::fs::write(place.join("late"), "not synced").unwrap();
    upgrade(&plugin, &two.this, &two.earlier);
    assert_eq!(std::fs::read_to_string(place.join("late")).unwrap(), "not synced");
    plugin.lost();
    drop(plugin);
    // As a crash of the host leaves it: the log on the disk is of the earlier version.
    let mut plugin = Plugin::of(&two.this, host, &server, &env);
    plugin.mount("v", "c1");
    plugin.mount("w", "c2");
    all_run(&plugin, &two.this);
    assert_eq!(std::fs::read_to_string(place.join("late")).unwrap(), "not synced");
    plugin.unmount("v", "c1");
    plugin.unmount("w", "c2");
    let ended = plugin.pid();
    drop(plugin);
    wait_for("its end", SOON, || (!runs(ended)).then_some(()));

    fresh(&two.this, &server, &env, &written, "a");
    fresh(&two.earlier, &server, &env, &written, "b");
    fresh(&two.this, &server, &env, &written, "c");
    let added = wait_for("what all of them added", Duration::from_secs(60), || {
        server.get("team/v/added").map(|object| object.body)
    });
    assert_eq!(added, "abc");
    drop(two.dir);
}
