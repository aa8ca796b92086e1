//! Another version of the program takes the place of the one that runs, under programs that use volumes, and does not
//! where it should not.
//!
//! Other versions are copies of the program with a note at their end (`fault::noted`). Needs root and /dev/fuse.

#[path = "upgrade/landed.rs"]
mod landed;
#[path = "upgrade/pause.rs"]
mod pause;
mod support;
#[path = "upgrade/users.rs"]
mod users;

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use s3vol::fault;
use serde_json::{Value, json};
use support::s3server::TestS3;
use support::unmanaged::{Plugin, other_program as program, s3vol_as};
use support::wait_for;
use users::{Seen, repeat};

const SOON: Duration = Duration::from_secs(30);
/// What containers may notice, on a machine that does nothing else.
const PAUSE: Duration = Duration::from_secs(1);

/// The same on this one: as many processes as want to run share its processors.
fn pause() -> Duration {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap();
    let load: f64 = load.split(' ').next().unwrap().parse().unwrap();
    let processors = std::thread::available_parallelism().unwrap().get() as f64;
    PAUSE.mul_f64((load / processors).max(1.0))
}

/// What a program gets here that does not come up.
const UP_MS: &str = "1500";
/// How long one that comes up has to go on here.
const PROVES_MS: &str = "300";

fn start(server: &TestS3, more: &[(&str, &str)]) -> Plugin {
    let url = format!("s3://{}/team", server.bucket());
    let mut env = vec![("S3VOL_URL", url.as_str()), (fault::PROVES, PROVES_MS)];
    env.extend(more);
    Plugin::with(Some(server), &env)
}

fn stage(plugin: &Plugin) -> Option<String> {
    let asked = plugin.call("S3vol.Program", &json!({})).ok()?.1;
    Some(asked["Program"]["upgrade"]["stage"].as_str()?.to_owned())
}

/// What `ps` shows for a name.
fn name(pid: u64) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap().trim().to_owned()
}

fn version(plugin: &Plugin) -> String {
    let asked = plugin.ok("S3vol.Program", json!({}));
    asked["Program"]["version"].as_str().unwrap().to_owned()
}

/// The file that a process runs; nothing when it has just ended.
fn runs(pid: u64) -> String {
    let link = std::fs::read_link(format!("/proc/{pid}/exe"));
    link.map_or_else(|_| String::new(), |link| link.to_str().unwrap().to_owned())
}

/// What the processes of the plugin run: supervisor, driver, workers.
fn programs(plugin: &Plugin) -> BTreeSet<String> {
    let children = ["driver", "worker"].iter().flat_map(|role| plugin.children(role));
    children.chain([plugin.pid()]).map(runs).collect()
}

/// The kinds of descriptors of a process, with how many there are.
fn descriptors(pid: u64) -> Vec<String> {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let mut kinds: Vec<String> = open
        .filter_map(|fd| Some(std::fs::read_link(fd.path()).ok()?.to_str()?.to_owned()))
        .map(|target| target.split(':').next().unwrap().to_owned())
        .collect();
    kinds.sort();
    kinds
}

/// Ended children that nobody has waited for.
fn zombies(plugin: &Plugin) -> usize {
    let path = format!("/proc/{0}/task/{0}/children", plugin.pid());
    let pids = std::fs::read_to_string(path).unwrap();
    let ended = |pid: &&str| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z'))
    };
    pids.split_whitespace().filter(ended).count()
}

#[test]
fn a_newer_program_and_the_old_one_again_take_over_under_programs_that_use_volumes() {
    let server = TestS3::start();
    let mut plugin = start(&server, &[]);
    let dir = tempfile::tempdir().unwrap();
    let newer = program(dir.path(), "newer", "version=0.1.1-newer");
    let installed = program(dir.path(), "old", "");
    plugin.create("v", &[("commit", "1s"), ("settle_after", "1s")]).unwrap();
    plugin.create("w", &[]).unwrap();
    let place = plugin.mount("v", "c1");
    let other = plugin.mount("w", "c2");
    std::fs::write(other.join("f"), "of another volume").unwrap();

    let pid = plugin.pid();
    let mut before = Vec::new();
    let Seen { longest, written } = users::in_use(&place, &other, || {
        std::thread::sleep(Duration::from_millis(300));
        plugin.upgrade_to(&newer);
        let running = programs(&plugin);
        assert_eq!(running.len(), 1, "{running:?}\n{}", plugin.log());
        let running = running.first().unwrap();
        assert!(
            running.starts_with(plugin.dir.path().join("state/program").to_str().unwrap()),
            "{running}"
        );
        let (_, said) = plugin.upgrade(&["--status"]);
        assert!(said.contains("version 0.1.1-newer runs"), "{said}");
        // Said only when it is noted.
        let note = std::fs::read_to_string(plugin.dir.path().join("state/program/note.json"));
        assert!(note.unwrap().contains("0.1.1-newer"));
        let all = ["driver", "worker"].iter().flat_map(|role| plugin.children(role));
        for pid in all.chain([pid]) {
            assert_eq!(name(pid), "s3vol", "{pid}");
        }
        assert_eq!(plugin.status("v")["mounts"], 1);
        before = descriptors(pid);
        std::thread::sleep(Duration::from_millis(300));
        plugin.upgrade_to(&installed);
        std::thread::sleep(Duration::from_millis(300));
    });
    println!("the longest calls: {longest:?}");
    for (what, longest) in longest {
        assert!(longest < pause(), "{what} took {longest:?}\n{}", plugin.log());
    }
    // One process from the first to the last moment, with what it had.
    assert_eq!((plugin.pid(), zombies(&plugin)), (pid, 0));
    assert_eq!(descriptors(pid), before);
    // And nothing that the first one was started with by chance.
    let devices = before.iter().filter(|kind| *kind == "/dev/fuse").count();
    assert_eq!(
        (devices, before.iter().filter(|kind| *kind == "pipe").count()),
        (2, 2),
        "{before:?}"
    );
    assert_eq!(std::fs::read(place.join("log")).unwrap(), written);
    plugin.unmount("v", "c1");
    plugin.unmount("w", "c2");
    assert_eq!(server.get("team/v/log").expect("it is at rest").body, written);
    assert!(!plugin.log().contains("worker died"), "{}", plugin.log());
}

/// The longest calls of programs that use a volume, by what they do, while `meanwhile` goes on.
fn longest(place: &Path, meanwhile: impl FnOnce()) -> Vec<(&'static str, Duration)> {
    let done = AtomicBool::new(false);
    let pace = || std::thread::sleep(Duration::from_millis(2));
    std::thread::scope(|scope| {
        let written = scope.spawn(|| {
            let file = File::create(place.join("written")).unwrap();
            repeat(&done, |n| {
                file.write_all_at(&n.to_be_bytes(), n % 1024 * 8).unwrap();
                pace();
            })
        });
        let read = scope.spawn(|| {
            let file = File::open(place.join("files/0")).unwrap();
            repeat(&done, |_| {
                // The kernel has the content, and asks for the attributes now and then.
                file.read_at(&mut [0; 8], 0).unwrap();
                std::fs::metadata(place.join("files/0")).unwrap();
                pace();
            })
        });
        let listed = scope.spawn(|| {
            repeat(&done, |_| {
                assert!(std::fs::read_dir(place.join("files")).unwrap().count() > 0);
                pace();
            })
        });
        let named = scope.spawn(|| {
            repeat(&done, |n| {
                let (a, b) = (place.join(format!("a{n}")), place.join(format!("b{n}")));
                File::create(&a).unwrap();
                std::fs::rename(&a, &b).unwrap();
                std::fs::remove_file(&b).unwrap();
            })
        });
        let synced = scope.spawn(|| {
            let mut file = File::create(place.join("synced")).unwrap();
            repeat(&done, |n| {
                file.write_all(&n.to_be_bytes()).unwrap();
                file.sync_all().unwrap();
            })
        });
        meanwhile();
        done.store(true, Ordering::SeqCst);
        let all = [
            ("write", written),
            ("read and stat", read),
            ("list", listed),
            ("create, rename, remove", named),
            ("write and fsync", synced),
        ];
        all.into_iter().map(|(what, thread)| (what, thread.join().unwrap().0)).collect()
    })
}

/// Prints what docs/UPGRADING.md tells of the pause. Its length is this machine's, so nothing is expected of it.
#[test]
#[ignore = "measures, on a machine that does nothing else"]
fn soak_the_pause_that_programs_see_with_a_store_that_is_far_away() {
    for latency in [0, 20, 100] {
        let server = TestS3::start();
        let mut plugin = start(&server, &[(fault::PROVES, "2000")]);
        let dir = tempfile::tempdir().unwrap();
        let newer = program(dir.path(), "newer", "version=0.1.1-newer");
        plugin.create("v", &[]).unwrap();
        let place = plugin.mount("v", "c1");
        std::fs::create_dir(place.join("files")).unwrap();
        for n in 0..500 {
            std::fs::write(place.join(format!("files/{n}")), vec![7; 4096]).unwrap();
        }
        File::open(place.join("files/0")).unwrap().sync_all().unwrap();
        server.set_latency(Duration::from_millis(latency));
        let usual = longest(&place, || std::thread::sleep(Duration::from_secs(5)));
        let pause = longest(&place, || plugin.upgrade_to(&newer));
        println!("{latency} ms for each request; the longest calls, and without an upgrade:");
        for ((what, usual), (_, longest)) in usual.into_iter().zip(pause) {
            println!("  {what:24} {:5} ms {:5} ms", longest.as_millis(), usual.as_millis());
        }
        plugin.unmount("v", "c1");
    }
}

/// A plugin with one volume in use.
struct Used {
    plugin: Plugin,
    place: PathBuf,
    dir: tempfile::TempDir,
    /// Last, so that the plugin can bring everything there.
    _server: TestS3,
}

impl Used {
    fn new() -> Used {
        Used::with(&[])
    }

    fn with(more: &[(&str, &str)]) -> Used {
        let server = TestS3::start();
        let env: Vec<(&str, &str)> = [(fault::UP, UP_MS)].iter().chain(more).copied().collect();
        let mut plugin = start(&server, &env);
        plugin.create("v", &[("settle_after", "1h")]).unwrap();
        let place = plugin.mount("v", "c1");
        std::fs::write(place.join("f"), "before").unwrap();
        Used { plugin, place, dir: tempfile::tempdir().unwrap(), _server: server }
    }

    fn refused(&self, program: &Path, why: &str, cure: &str) {
        let before =
            (self.plugin.pid(), self.plugin.children("worker"), self.plugin.children("driver"));
        let (well, said) = self.plugin.upgrade(&["--from", program.to_str().unwrap()]);
        assert!(
            !well && said.contains(why) && said.contains(cure),
            "{said}\n{}",
            self.plugin.log()
        );
        let after =
            (self.plugin.pid(), self.plugin.children("worker"), self.plugin.children("driver"));
        assert_eq!(before, after, "nothing has changed");
        self.goes_on();
    }

    fn goes_on(&self) {
        assert_eq!(std::fs::read_to_string(self.place.join("f")).unwrap(), "before");
        assert_eq!(self.plugin.status("v")["mounts"], 1);
        assert_eq!(
            programs(&self.plugin),
            BTreeSet::from([env!("CARGO_BIN_EXE_s3vol").to_owned()])
        );
        // The driver tidies up when it hears of the end.
        wait_for("an empty place", SOON, || {
            let left = std::fs::read_dir(self.plugin.dir.path().join("state/program"));
            (left.map_or(0, Iterator::count) == 0).then_some(())
        });
        assert_eq!(zombies(&self.plugin), 0);
    }
}

#[test]
fn what_is_no_program_for_this_plugin_is_refused_with_cause_and_cure() {
    let used = Used::new();
    let file = |name: &str, bytes: &[u8]| {
        let path = used.dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        path
    };
    used.refused(
        &file("script", b"#!/bin/sh\necho 1\n"),
        "it is no ELF program",
        "take the one for",
    );
    used.refused(Path::new("/bin/true"), "does not say what it is", "name the s3vol program");
    used.refused(&used.dir.path().join("none"), "cannot be read", "No such file");
    used.refused(&used.place.join("f"), "lies on a volume", "copy it to a local disk");
    // The same by another way.
    let root = Path::new("/proc/self/root");
    let round = root.join(used.place.strip_prefix("/").unwrap()).join("f");
    used.refused(&round, "lies on a volume", "copy it to a local disk");

    let mut head = [0; 20];
    File::open(env!("CARGO_BIN_EXE_s3vol")).unwrap().read_exact(&mut head).unwrap();
    head[18..20].copy_from_slice(&243u16.to_le_bytes());
    used.refused(&file("other", &head), "RISC-V", "take the one for");

    let hangs = program(used.dir.path(), "hangs", "version=9 about=hangs");
    used.refused(&hangs, "it does not answer within 1.5 s", "name the s3vol program");
    std::fs::set_permissions(&hangs, Permissions::from_mode(0o777)).unwrap();
    used.refused(&hangs, "others may write to it", "chmod go-w");
    let lacks = program(used.dir.path(), "lacks", "version=9 without=local-state");
    used.refused(
        &lacks,
        "does not read what is in use here: local-state 1",
        "take a version that does",
    );
    let leaves = program(used.dir.path(), "leaves", "version=9 writes=local-state");
    used.refused(
        &leaves,
        "could not read if it had to come back: local-state 2 (it reads 1-1)",
        "unmount all volumes",
    );
    let fails = program(used.dir.path(), "fails", "version=9 trial=ends");
    used.refused(&fails, "cannot go on with what runs", "0.1.0 goes on");
    let hangs = program(used.dir.path(), "hangs", "version=9 trial=hangs");
    used.refused(&hangs, "did not come up within 1.5 s", "0.1.0 goes on");
    assert_eq!(
        descriptors(used.plugin.pid()).iter().filter(|kind| *kind == "/dev/fuse").count(),
        1
    );
}

#[test]
fn the_program_before_comes_back_when_the_new_one_does_not_come_up() {
    let used = Used::new();
    let done = AtomicBool::new(false);
    let mut before = None;
    std::thread::scope(|scope| {
        let user = scope.spawn(|| {
            repeat(&done, |n| {
                std::fs::write(used.place.join("g"), n.to_string()).unwrap();
                std::fs::remove_file(used.place.join("g")).unwrap();
            })
        });
        for (note, why) in [
            ("becomes=fails", "could not go on"),
            ("becomes=halfway", "could not go on"),
            ("hands=more", "could not go on"),
            ("spawn=driver", "its driver cannot be started within 1.5 s"),
            ("spawn=worker", "its worker of volume v cannot be started within 1.5 s"),
            ("driver=ends", "its driver ended with code 1"),
            ("worker=ends", "its worker of volume v does not open it"),
            ("worker=leaves", "its worker of volume v does not open it"),
            ("worker=hangs", "its worker of volume v does not open it within 1.5 s"),
        ] {
            let fails = program(used.dir.path(), "fails", &format!("version=9 {note}"));
            let (well, said) = used.plugin.upgrade(&["--from", fails.to_str().unwrap()]);
            assert!(!well && said.contains(why), "{note}: {said}\n{}", used.plugin.log());
            assert!(said.contains("0.1.0 goes on"), "{said}");
            used.goes_on();
            // Of what the program was started with only that is left which is meant.
            let now = descriptors(used.plugin.pid());
            assert_eq!(*before.get_or_insert_with(|| now.clone()), now, "{note}");
        }
        done.store(true, Ordering::SeqCst);
        assert!(user.join().unwrap().1 > 0);
    });
    // And one that comes up is taken all the same.
    let good = program(used.dir.path(), "good", "version=2");
    used.plugin.upgrade_to(&good);
    assert_eq!(std::fs::read_to_string(used.place.join("f")).unwrap(), "before");
}

/// Waits until the upgrade is to serve for a while, and ends its only process of this role as a crash would.
fn crash(plugin: &Plugin, role: &str) {
    let newer = wait_for("a process of the new program", SOON, || {
        let all = plugin.children(role);
        let newer = all.into_iter().find(|pid| runs(*pid).contains("/state/program/"));
        newer.filter(|_| stage(plugin).as_deref() == Some("replacing"))
    });
    // SAFETY: plain system call on a child of our own child, which has not reaped it.
    assert_eq!(unsafe { libc::kill(newer as i32, libc::SIGKILL) }, 0);
}

#[test]
fn what_crashes_soon_after_it_came_up_has_not_come_up() {
    let used = Used::with(&[(fault::UP, "30000"), (fault::PROVES, "20000")]);
    let newer = program(used.dir.path(), "newer", "version=9");
    for (role, why) in [
        ("worker", "its worker of volume v ended with code 137"),
        ("driver", "its driver ended with code 137"),
    ] {
        std::thread::scope(|scope| {
            let upgrade = scope.spawn(|| used.plugin.upgrade(&["--from", newer.to_str().unwrap()]));
            // All of it serves.
            wait_for("the worker", SOON, || {
                let newer = |pid: &u64| runs(*pid).contains("/state/program/");
                used.plugin.children("worker").iter().any(newer).then_some(())
            });
            std::fs::write(used.place.join("g"), "asks the new worker").unwrap();
            crash(&used.plugin, role);
            let (well, said) = upgrade.join().unwrap();
            assert!(!well && said.contains(why), "{said}\n{}", used.plugin.log());
        });
        used.goes_on();
    }
}

#[test]
fn on_the_way_back_a_volume_that_cannot_be_opened_yet_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let refuse = dir.path().join("refuse");
    let used = Used::with(&[(fault::REFUSE, refuse.to_str().unwrap())]);
    // Its own worker ends before it looks there.
    std::fs::write(&refuse, "").unwrap();
    let fails = program(used.dir.path(), "fails", "version=9 worker=ends");
    let (well, said) = used.plugin.upgrade(&["--from", fails.to_str().unwrap()]);
    assert!(!well && said.contains("does not open it"), "{said}");
    assert!(!refuse.exists(), "{}", used.plugin.log());
    used.goes_on();
}

#[test]
fn an_upgrade_that_cannot_be_noted_is_none_that_lasts_and_is_said_so() {
    let used = Used::new();
    let newer = program(used.dir.path(), "newer", "version=9");
    // Nothing can be written under that name.
    let in_the_way = used.plugin.dir.path().join("state/program/note.json.new");
    std::fs::create_dir_all(&in_the_way).unwrap();
    let (well, said) = used.plugin.upgrade(&["--from", newer.to_str().unwrap()]);
    assert!(!well && said.contains("version 9 runs, but could not be noted"), "{said}");
    std::fs::remove_dir(&in_the_way).unwrap();
    wait_for("the note", SOON, || {
        let (_, said) = used.plugin.upgrade(&["--status"]);
        said.ends_with("to 9: done\n").then_some(())
    });
    assert!(in_the_way.with_extension("").exists());
}

/// What a plugin leaves that was upgraded to `newer`, and ended.
fn left_with(newer: &Path, server: &TestS3, env: &[(&str, &str)]) -> Arc<tempfile::TempDir> {
    let plugin = Plugin::with(Some(server), env);
    plugin.upgrade_to(newer);
    Arc::clone(&plugin.dir)
}

#[test]
fn a_newer_program_that_does_not_come_up_is_left_alone_after_three_starts() {
    let server = TestS3::start();
    let url = format!("s3://{}/team", server.bucket());
    let env = [("S3VOL_URL", url.as_str()), (fault::PROVES, PROVES_MS)];
    let files = tempfile::tempdir().unwrap();
    let newer = program(files.path(), "newer", "version=0.1.1-newer");
    let dir = left_with(&newer, &server, &env);
    // Three starts of which nothing is known but that they were begun; a fourth is one of the installed program.
    let tries = dir.path().join("state/program/tries");
    std::fs::write(&tries, "2").unwrap();
    let plugin = Plugin::again(Arc::clone(&dir), Some(&server), &env);
    assert_eq!(version(&plugin), "0.1.1-newer", "{}", plugin.log());
    wait_for("that it came up", SOON, || (!tries.exists()).then_some(()));
    // One that serves the socket already leaves no trace of another that is started by mistake.
    let mut second = s3vol_as("s3vol", Some(&server));
    second.arg("plugin").arg("--socket").arg(plugin.socket());
    second.env("S3VOL_STATE", dir.path().join("state")).env("S3VOL_MOUNTS", dir.path().join("vol"));
    let second = second.envs(env).output().unwrap();
    let said = String::from_utf8([second.stdout, second.stderr].concat()).unwrap();
    assert!(said.contains("another process serves this socket"), "{said}");
    assert!(!tries.exists());
    drop(plugin);
    std::fs::write(&tries, "3").unwrap();
    for _ in 0..2 {
        let plugin = Plugin::again(Arc::clone(&dir), Some(&server), &env);
        assert_eq!(version(&plugin), "0.1.0");
        assert_eq!(plugin.log().matches("did not come up 3 times").count(), 1, "it is dropped");
        let noted = |plugin: &Plugin| plugin.log().contains("driver serves");
        wait_for("the driver", SOON, || noted(&plugin).then_some(()));
    }
}

#[test]
fn a_newer_program_is_used_after_a_restart_until_another_is_installed() {
    let server = TestS3::start();
    let url = format!("s3://{}/team", server.bucket());
    let env = [("S3VOL_URL", url.as_str()), (fault::PROVES, PROVES_MS)];
    let files = tempfile::tempdir().unwrap();
    let newer = program(files.path(), "newer", "version=0.1.1-newer");
    let dir = left_with(&newer, &server, &env);

    let mut plugin = Plugin::again(Arc::clone(&dir), Some(&server), &env);
    assert_eq!(version(&plugin), "0.1.1-newer", "{}", plugin.log());
    plugin.create("v", &[]).unwrap();
    plugin.mount("v", "c1");
    assert_eq!(programs(&plugin).len(), 1);
    plugin.unmount("v", "c1");
    drop(plugin);

    // Damaged, it is not used.
    let place = dir.path().join("state/program");
    let kept = std::fs::read_dir(&place).unwrap().flatten().map(|file| file.path());
    let kept = kept.into_iter().find(|path| path.to_str().unwrap().contains("/s3vol-")).unwrap();
    let whole = std::fs::metadata(&kept).unwrap().len();
    let file = OpenOptions::new().write(true).open(&kept).unwrap();
    file.set_len(whole - 1).unwrap();
    drop(file);
    let plugin = Plugin::again(Arc::clone(&dir), Some(&server), &env);
    assert_eq!(version(&plugin), "0.1.0");
    assert!(plugin.log().contains("its hash is not the one that was noted"), "{}", plugin.log());
    plugin.upgrade_to(&newer);
    assert_eq!(version(&plugin), "0.1.1-newer");
    drop(plugin);

    // Another one was installed.
    let other = program(files.path(), "other", "version=0.2.0");
    let plugin = Plugin::of(&other, dir, &server, &env);
    assert_eq!(version(&plugin), "0.2.0");
    let said = plugin.log();
    assert!(said.contains("another version of the plugin was installed since"), "{said}");
    // Nor does it come back with the version that it came over.
    let dir = Arc::clone(&plugin.dir);
    drop(plugin);
    let plugin = Plugin::again(dir, Some(&server), &env);
    assert_eq!(version(&plugin), "0.1.0", "{}", plugin.log());
}

#[test]
fn what_the_installed_program_could_not_read_is_not_written_by_a_later_one() {
    let used = Used::new();
    let reads = program(used.dir.path(), "reads", "version=8 reads=local-state");
    let writes = program(used.dir.path(), "writes", "version=9 writes=local-state");
    used.plugin.upgrade_to(&reads);
    let (well, said) = used.plugin.upgrade(&["--from", writes.to_str().unwrap()]);
    let why =
        "the installed version 0.1.0 could not read, which a restart may lead to: local-state 2";
    assert!(!well && said.contains(why), "{said}");
    assert_eq!(version(&used.plugin), "8");
    assert_eq!(std::fs::read_to_string(used.place.join("f")).unwrap(), "before");
}

#[test]
fn of_two_upgrades_at_once_one_is_refused() {
    let used = Used::new();
    let hangs = program(used.dir.path(), "hangs", "version=8 trial=hangs");
    let good = program(used.dir.path(), "good", "version=9");
    std::thread::scope(|scope| {
        let first = scope.spawn(|| used.plugin.upgrade(&["--from", hangs.to_str().unwrap()]));
        wait_for("the trial", SOON, || {
            (stage(&used.plugin).as_deref() == Some("trial")).then_some(())
        });
        let (well, said) = used.plugin.upgrade(&["--from", good.to_str().unwrap()]);
        assert!(!well && said.contains("an upgrade to version 8 is under way"), "{said}");
        assert!(!first.join().unwrap().0);
    });
    used.goes_on();
    let _: Value = used.plugin.status("v");
}

#[test]
fn sigterm_during_an_upgrade_ends_the_plugin_in_order() {
    let mut used = Used::new();
    let hangs = program(used.dir.path(), "hangs", "version=8 worker=hangs");
    let mut command: Command = s3vol_as("s3vol", None);
    command.arg("upgrade").arg("--socket").arg(used.plugin.socket());
    let mut asks = command.arg("--from").arg(&hangs).spawn().unwrap();
    wait_for("a worker of the new program", SOON, || {
        let workers = used.plugin.children("worker");
        workers.iter().any(|pid| runs(*pid).contains("/state/program/")).then_some(())
    });
    // SAFETY: plain system call on our child, which nobody has waited for.
    assert_eq!(unsafe { libc::kill(used.plugin.pid() as i32, libc::SIGTERM) }, 0);
    used.plugin.ended();
    assert!(!support::watchdog::mounted(&used.place));
    // It asks on until nobody has answered for long.
    asks.kill().unwrap();
    asks.wait().unwrap();
}

#[test]
fn who_lost_a_mount_with_an_earlier_run_is_named_with_what_to_do() {
    let server = TestS3::start();
    let url = format!("s3://{}/team", server.bucket());
    let env = [("S3VOL_URL", url.as_str())];
    let mut plugin = Plugin::with(Some(&server), &env);
    plugin.create("v", &[]).unwrap();
    let place = plugin.mount("v", "c1");
    std::fs::write(place.join("f"), "kept").unwrap();
    // As a container: it has a view of its own.
    let mut container = Command::new("unshare").args(["--mount", "sleep", "60"]).spawn().unwrap();
    let view = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap();
    let pid = container.id().to_string();
    wait_for("another view", SOON, || (view(&pid) != view("self")).then_some(()));
    plugin.lost();
    let dir = Arc::clone(&plugin.dir);
    drop(plugin);
    let mut plugin = Plugin::again(dir, Some(&server), &env);
    let told = wait_for("what is said of it", SOON, || {
        let log = plugin.log();
        log.lines()
            .find(|line| line.contains("the plugin ended while it was mounted"))
            .map(str::to_owned)
    });
    assert!(told.contains(&format!("process {pid} (sleep)")), "{told}");
    assert!(told.contains("docker ps -q --filter volume=v | xargs docker restart"), "{told}");
    container.kill().unwrap();
    container.wait().unwrap();
    let place = plugin.mount("v", "c2");
    assert_eq!(std::fs::read_to_string(place.join("f")).unwrap(), "kept");
    plugin.unmount("v", "c2");
}
