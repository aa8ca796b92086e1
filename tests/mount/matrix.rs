//! The crash matrix: kill -9 at each failpoint (`src/fault/points.rs`) under a program that writes, and what
//! there is then: for the program itself, on the same host, on one whose local disk is lost, and on another.
//!
//! `make test` goes once to each point; `make soak` has the whole product.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use s3vol::fault::points::{self, ALL};
use s3vol::fault::{MUTANT, Mutant};
use serde_json::json;

use super::plugin::Plugin;
use super::rig::{Mount, Place, SOON, finish, s3vol_as};
use super::support::orders::Orders;
use super::support::s3server::TestS3;
use super::support::wait_for;
use super::support::watchdog::release;
use super::writer::Story;

const OPTIONS: [&str; 3] = ["commit=300ms", "settle_after=0s", "refresh=1d"];
/// So that what happens once a minute happens while a test looks.
const HASTE: [(&str, &str); 6] = [
    ("S3VOL_TEST_HOT_MARGIN_MS", "0"),
    ("S3VOL_TEST_RENEW_MS", "300"),
    ("S3VOL_TEST_MAINTENANCE_MS", "300"),
    ("S3VOL_TEST_LONG_LOG", "2000000"),
    ("S3VOL_TEST_LISTED_MS", "200"),
    ("S3VOL_GRACE", "0s"),
];
/// Within this a writer comes by at a point.
const MET: Duration = Duration::from_secs(30);

/// When a point is passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// All the time, under a program that writes.
    InUse,
    /// While a volume is opened.
    Opening,
    /// While a volume is given back.
    Ending,
    /// By the driver.
    Driver,
    /// While a volume is opened that another host had meanwhile; see `takeover.rs`.
    Lost,
    /// By `s3vol takeover`.
    ByHand,
    /// By a host that comes back to a volume which it lost.
    Recovering,
}

fn when(point: &str) -> When {
    let begins = |start: &[&str]| start.iter().any(|start| point.starts_with(start));
    match point {
        _ if begins(&["claim", "manifest"]) => When::Opening,
        _ if begins(&["export"]) => When::Ending,
        _ if begins(&["purge", "catalog", "mirror"]) => When::Driver,
        _ if begins(&["aside"]) => When::Lost,
        _ if begins(&["takeover"]) => When::ByHand,
        _ if begins(&["recovered"]) => When::Recovering,
        _ => When::InUse,
    }
}

fn points_of(moment: When) -> Vec<&'static str> {
    ALL.iter().copied().filter(|point| when(point) == moment).collect()
}

/// Runs `work` on each of these, on some threads at once.
fn side_by_side<T: Sync>(threads: usize, all: &[T], work: impl Fn(usize, &[T]) + Sync) {
    std::thread::scope(|scope| {
        for (number, some) in all.chunks(all.len().div_ceil(threads)).enumerate() {
            let work = &work;
            scope.spawn(move || work(number, some));
        }
    });
}

fn created(plugin: &Plugin, name: &str) {
    let options: Vec<(&str, &str)> =
        OPTIONS.iter().filter_map(|option| option.split_once('=')).collect();
    plugin.create(name, &options).unwrap();
}

fn home(server: &TestS3) -> String {
    format!("s3://{}/team", server.bucket())
}

/// A plugin with hasty workers and orders of its own.
fn hasty(server: &TestS3, orders: &Orders, more: &[(&str, &str)]) -> Plugin {
    let url = home(server);
    let own = [("S3VOL_URL", url.as_str()), orders.env()];
    Plugin::with(Some(server), &[&own, &HASTE[..], more].concat())
}

/// The writer goes on until all orders of a point are carried out, and the successor answers.
fn write_until_met(story: &mut Story, dir: &Path, what: &str, open: impl Fn() -> bool) {
    let end = Instant::now() + MET;
    while open() {
        assert!(Instant::now() < end, "{what} was never passed in {} turns", story.turns());
        story.go_on(dir).unwrap_or_else(|e| panic!("the program saw an error at {what}: {e}"));
    }
    for _ in 0..3 {
        story.go_on(dir).unwrap_or_else(|e| panic!("the program saw an error after {what}: {e}"));
    }
}

/// Kills the workers of a volume at these points in turn; the program that writes never hears of it.
fn workers_die(server: &TestS3, points: &[&'static str], name: &str, twice: bool) {
    let scratch = tempfile::tempdir().unwrap();
    let orders = Orders::below(scratch.path());
    let mut plugin = hasty(server, &orders, &[]);
    let mut stories = Vec::new();
    // A supervisor waits longer from crash to crash, so each volume has few of them.
    for (number, some) in points.chunks(5).enumerate() {
        let name = format!("{name}-{number}");
        created(&plugin, &name);
        let dir = plugin.mount(&name, "c");
        let mut story = Story::default();
        for point in some {
            let what = format!("{name}: {point}");
            if twice {
                orders.give(&name, &format!("{point}.again"), "");
            }
            orders.give(&name, point, "");
            if when(point) == When::Opening {
                // Who opens the volume is whoever succeeds this one.
                orders.give(&name, points::LOG_APPEND_AFTER, "");
            }
            write_until_met(&mut story, &dir, &what, || {
                orders.is_open(&name, point) || orders.is_open(&name, &format!("{point}.again"))
            });
            story.check(&dir);
        }
        plugin.unmount(&name, "c");
        stories.push((name, story));
    }
    // And what there is elsewhere.
    drop(plugin);
    let mut other = hasty(server, &orders, &[]);
    for (name, mut story) in stories {
        let dir = other.mount(&name, "c");
        story.check(&dir);
        other.unmount(&name, "c");
    }
}

#[test]
fn a_program_sees_no_error_when_its_worker_dies_anywhere() {
    let server = TestS3::start();
    let mut all = points_of(When::InUse);
    all.extend(points_of(When::Opening));
    side_by_side(3, &all, |number, some| workers_die(&server, some, &format!("v{number}"), false));
}

/// A mount by hand that dies at a point while a program writes; what the program knows.
fn killed(
    server: &TestS3,
    place: &Place,
    orders: &Orders,
    url: &str,
    point: &str,
    fault: &str,
) -> Story {
    let mut story = Story::default();
    let start = || {
        let mut command = s3vol_as("s3vol", Some(server));
        command.envs([orders.env(), (MUTANT, fault)]).envs(HASTE);
        Mount::begin_as(&mut command, place, url, &OPTIONS)
    };
    match when(point) {
        When::InUse => {
            let mut mount = start().up();
            // Not in the first moment: some of it is committed and at rest by then.
            for _ in 0..25 {
                story.go_on(&place.at).unwrap();
            }
            orders.give("v", point, "");
            let end = Instant::now() + MET;
            while story.go_on(&place.at).is_ok() {
                assert!(Instant::now() < end, "{point} was never passed");
            }
            mount.ended(SOON);
        }
        When::Opening => {
            let mount = start().up();
            for _ in 0..25 {
                story.go_on(&place.at).unwrap();
            }
            mount.kill();
            orders.give("v", point, "");
            start().ended(SOON);
        }
        When::Ending => {
            let mut mount = start().up();
            for _ in 0..25 {
                story.go_on(&place.at).unwrap();
            }
            orders.give("v", point, "");
            mount.signal(libc::SIGTERM);
            mount.ended(SOON);
        }
        When::Driver | When::ByHand | When::Lost | When::Recovering => {
            panic!("{point} is passed by no mount that a program uses")
        }
    }
    assert!(!orders.is_open("v", point), "{point} was never passed");
    release(&place.at);
    story
}

/// What is found after a mount died, and by whom.
#[derive(Debug, Clone, Copy)]
enum Finder {
    Same,
    /// The same machine, whose state folder is lost.
    Empty,
    Other,
}

/// `fault`: the number of the fault that the program is given, "0" for none.
fn found_by(finder: Finder, point: &'static str, fault: &str) {
    let (server, place) = (TestS3::start(), Place::new());
    let orders = Orders::below(place.dir.path());
    let url = format!("s3://{}/v", server.bucket());
    let mut story = killed(&server, &place, &orders, &url, point, fault);
    let other = Place::new();
    let at = match finder {
        Finder::Same => &place,
        Finder::Empty => {
            std::fs::remove_dir_all(place.state()).unwrap();
            &place
        }
        Finder::Other => &other,
    };
    if !matches!(finder, Finder::Same) {
        // The lease of a host that is no more runs out.
        server.set_clock_offset(100);
    }
    let start = |at: &Place| {
        let mut command = s3vol_as("s3vol", Some(&server));
        command.envs([orders.env(), (MUTANT, fault)]).envs(HASTE);
        Mount::begin_as(&mut command, at, &url, &OPTIONS).up()
    };
    let mount = start(at);
    match finder {
        Finder::Same => story.check(&at.at),
        Finder::Empty | Finder::Other => story.check_lost(&at.at),
    }
    if matches!(finder, Finder::Same) {
        for _ in 0..5 {
            story.go_on(&at.at).unwrap();
        }
    }
    mount.end_committed();
    // Whatever it was, it is whole for one who has nothing but the bucket.
    let third = Place::new();
    let mount = start(&third);
    if matches!(finder, Finder::Same) {
        story.check(&third.at);
    }
    mount.end_committed();
}

fn all_found_by(finder: Finder, points: &[&'static str]) {
    side_by_side(3, points, |_, some| {
        for point in some {
            eprintln!("{finder:?}: {point}");
            found_by(finder, point, "0");
        }
    });
}

fn of_workers() -> Vec<&'static str> {
    [When::InUse, When::Opening, When::Ending].into_iter().flat_map(points_of).collect()
}

#[test]
fn a_mount_that_dies_while_it_gives_the_volume_back_has_lost_nothing() {
    all_found_by(Finder::Same, &points_of(When::Ending));
}

/// A point and a finder that show a fault which the program is given.
#[test]
#[ignore = "make soak"]
fn soak_matrix_finds_a_program_that_is_broken() {
    let shown = [
        (Mutant::ReplyBeforeLog, Finder::Same, points::PWRITE_AFTER),
        (Mutant::SyncWithoutFlush, Finder::Other, points::BATCH_AFTER),
    ];
    side_by_side(2, &shown, |_, some| {
        for (mutant, finder, point) in some {
            let fault = (*mutant as u64).to_string();
            // One run may have luck.
            let found = (0..8).any(|_| {
                let run = std::panic::catch_unwind(|| found_by(*finder, point, &fault));
                // By what the writer knows, and by nothing else.
                let said = run.err().and_then(|said| said.downcast::<String>().ok());
                said.is_some_and(|said| said.contains("at turn "))
            });
            assert!(found, "{mutant:?} was not found");
        }
    });
}

#[test]
#[ignore = "make soak"]
fn soak_matrix_on_the_same_host() {
    all_found_by(Finder::Same, &of_workers());
}

#[test]
#[ignore = "make soak"]
fn soak_matrix_on_the_same_host_without_its_disk() {
    all_found_by(Finder::Empty, &of_workers());
}

#[test]
#[ignore = "make soak"]
fn soak_matrix_on_another_host() {
    all_found_by(Finder::Other, &of_workers());
}

#[test]
#[ignore = "make soak"]
fn soak_matrix_of_workers_whose_successors_die_too() {
    let server = TestS3::start();
    let mut all = points_of(When::InUse);
    all.extend(points_of(When::Opening));
    side_by_side(3, &all, |number, some| workers_die(&server, some, &format!("t{number}"), true));
}

/// The whole plugin dies at a point of one of its workers, and is started again.
fn plugin_dies(point: &'static str) {
    let server = TestS3::start();
    let scratch = tempfile::tempdir().unwrap();
    let orders = Orders::below(scratch.path());
    let mut plugin = hasty(&server, &orders, &[]);
    created(&plugin, "v");
    let dir = plugin.mount("v", "c");
    let mut story = Story::default();
    for _ in 0..25 {
        story.go_on(&dir).unwrap();
    }
    let others: Vec<String> = std::iter::once(plugin.pid())
        .chain(plugin.children("driver"))
        .map(|pid| pid.to_string())
        .collect();
    orders.give("v", point, &others.join(" "));
    if when(point) == When::Opening {
        orders.give("v", points::LOG_APPEND_AFTER, "");
    }
    let end = Instant::now() + MET;
    while story.go_on(&dir).is_ok() {
        assert!(Instant::now() < end, "{point} was never passed");
    }
    plugin.ended();
    assert!(!orders.is_open("v", point), "{point} was never passed");
    let url = home(&server);
    let own = [("S3VOL_URL", url.as_str()), orders.env()];
    let folders = plugin.dir.clone();
    drop(plugin);
    let mut plugin = Plugin::again(folders, Some(&server), &[&own, &HASTE[..]].concat());
    let dir = plugin.mount("v", "c");
    story.check(&dir);
    story.go_on(&dir).unwrap();
    plugin.unmount("v", "c");
}

#[test]
fn a_plugin_that_is_killed_as_a_whole_has_lost_nothing() {
    let some = [points::LOG_APPEND_AFTER, points::FLUSH_BEFORE, points::SEND_AFTER];
    side_by_side(3, &some, |_, some| some.iter().for_each(|point| plugin_dies(point)));
}

#[test]
#[ignore = "make soak"]
fn soak_matrix_of_the_whole_plugin() {
    let mut all = points_of(When::InUse);
    all.extend(points_of(When::Opening));
    side_by_side(3, &all, |_, some| {
        for point in some {
            eprintln!("the whole plugin: {point}");
            plugin_dies(point);
        }
    });
}

/// A call that is made again until it works, as dockerd makes it; its driver may die under it.
fn until_it_works(plugin: &Plugin, call: &str, body: &serde_json::Value) {
    wait_for(call, SOON, || {
        let answer = plugin.call(call, body);
        matches!(answer, Ok((200, _))).then_some(())
    });
}

/// A volume is made, used and removed, and the driver dies at a point of that, after passing it some times.
fn driver_dies(point: &'static str, passes: u32) -> bool {
    let server = TestS3::start();
    let scratch = tempfile::tempdir().unwrap();
    let orders = Orders::below(scratch.path());
    let mut plugin = hasty(&server, &orders, &[]);
    orders.give("driver", point, &format!("skip={passes}"));
    let options = json!({ "commit": "300ms", "settle_after": "0s" });
    until_it_works(&plugin, "VolumeDriver.Create", &json!({ "Name": "v", "Opts": options }));
    let dir = wait_for("the mount", SOON, || {
        let asked = json!({ "Name": "v", "ID": "c" });
        let (code, answer) = plugin.call("VolumeDriver.Mount", &asked).ok()?;
        (code == 200).then(|| PathBuf::from(answer["Mountpoint"].as_str().unwrap()))
    });
    std::fs::write(dir.join("ours"), "ours").unwrap();
    std::fs::create_dir(dir.join("sub")).unwrap();
    until_it_works(&plugin, "VolumeDriver.Unmount", &json!({ "Name": "v", "ID": "c" }));
    server.put_foreign("team/v/theirs", "theirs", &[]);
    until_it_works(&plugin, "VolumeDriver.Remove", &json!({ "Name": "v" }));
    let mut met = false;
    wait_for("the removal", Duration::from_secs(60), || {
        // A driver that is asked for its volumes looks after the removed ones, too.
        let _ = plugin.call("VolumeDriver.List", &json!({}));
        if !std::mem::replace(&mut met, !orders.is_open("driver", point)) && met {
            // The lease under which a dead driver deleted runs out.
            server.set_clock_offset(100);
        }
        // What was written of a volume that nothing names yet stays, one small object.
        let kept = |key: &String| {
            key.contains("/.s3vol/stores/")
                || key == "team/v/theirs"
                || key.ends_with("/format.json")
        };
        server.keys("").iter().all(kept).then_some(())
    });
    // The name is free, whatever happened.
    until_it_works(&plugin, "VolumeDriver.Create", &json!({ "Name": "v" }));
    let dir = plugin.mount("v", "d");
    assert_eq!(std::fs::read_to_string(dir.join("theirs")).unwrap(), "theirs");
    plugin.unmount("v", "d");
    met
}

#[test]
fn a_driver_that_dies_while_it_makes_or_removes_a_volume_goes_on() {
    side_by_side(3, &points_of(When::Driver), |_, some| {
        for point in some {
            assert!(driver_dies(point, 0), "{point} was never passed");
        }
    });
}

#[test]
#[ignore = "make soak"]
fn soak_matrix_of_the_driver() {
    let missed = AtomicBool::new(false);
    side_by_side(3, &points_of(When::Driver), |_, some| {
        for point in some {
            for passes in 0..12 {
                eprintln!("the driver: {point}, after {passes}");
                // As often as it is passed at all.
                if !driver_dies(point, passes) {
                    missed.fetch_or(passes == 0, Ordering::SeqCst);
                    break;
                }
            }
        }
    });
    assert!(!missed.load(Ordering::SeqCst), "a point was never passed");
}

/// `s3vol takeover` of the volume at `url`; its exit code, `None` when it was killed.
fn take_over(server: &TestS3, orders: &Orders, url: &str) -> (Option<i32>, String) {
    let elsewhere = tempfile::tempdir().unwrap();
    let mut command = s3vol_as("s3vol", Some(server));
    command.envs([orders.env()]).args(["takeover", "--yes", "--state"]);
    let (code, out, errors) = finish(command.arg(elsewhere.path()).arg(url));
    (code, out + &errors)
}

/// A mount with hasty workers and orders.
fn hasty_mount(server: &TestS3, orders: &Orders, place: &Place, url: &str) -> Mount {
    let mut command = s3vol_as("s3vol", Some(server));
    command.envs([orders.env()]).envs(HASTE);
    Mount::begin_as(&mut command, place, url, &OPTIONS)
}

/// The command dies at a point, under a program that writes on the host from which it takes the volume.
fn takeover_dies(point: &'static str) {
    let (server, old, new) = (TestS3::start(), Place::new(), Place::new());
    let orders = Orders::below(old.dir.path());
    let url = format!("s3://{}/v", server.bucket());
    let mut holder = hasty_mount(&server, &orders, &old, &url).up();
    let mut story = Story::default();
    for _ in 0..25 {
        story.go_on(&old.at).unwrap();
    }
    orders.give("takeover", point, "");
    let (code, said) = take_over(&server, &orders, &url);
    assert_eq!(code, None, "{said}");
    assert!(!orders.is_open("takeover", point), "{point} was never passed");
    if point == points::TAKEOVER_BEFORE {
        for _ in 0..10 {
            story.go_on(&old.at).expect("nothing was taken");
        }
    } else {
        let end = Instant::now() + MET;
        while story.go_on(&old.at).is_ok() {
            assert!(Instant::now() < end, "the old host never learns of it");
        }
    }
    // Once more, by somebody who saw it fail.
    let (code, said) = take_over(&server, &orders, &url);
    assert_eq!(code, Some(0), "{said}");
    let begun = Instant::now();
    let mount = hasty_mount(&server, &orders, &new, &url).up();
    assert!(begun.elapsed() < Duration::from_secs(30), "a lease was waited for");
    story.check_lost(&new.at);
    for _ in 0..5 {
        story.go_on(&new.at).unwrap();
    }
    holder.signal(libc::SIGTERM);
    let status = holder.ended(Duration::from_secs(60));
    assert!(matches!(status.code(), Some(0 | 5)), "{status}: {}", holder.said());
    story.check(&new.at);
    mount.end_committed();
}

#[test]
fn a_takeover_by_hand_that_dies_is_made_again_and_loses_nothing() {
    let points = points_of(When::ByHand);
    assert_eq!(points.len(), 2);
    side_by_side(2, &points, |_, some| some.iter().for_each(|point| takeover_dies(point)));
}

/// A host comes back to a volume that another one has used, and dies at a point of bringing up what only it had.
fn recovery_dies(point: &'static str, passes: u32) {
    let (server, old, new) = (TestS3::start(), Place::new(), Place::new());
    let orders = Orders::below(old.dir.path());
    let url = format!("s3://{}/v", server.bucket());
    let lazy = ["commit=5m", "settle_after=1d"];
    let mount = {
        let mut command = s3vol_as("s3vol", Some(&server));
        Mount::begin_as(&mut command, &old, &url, &lazy).up()
    };
    std::fs::write(old.file("small"), "only there").unwrap();
    let large: Vec<u8> = (0..3_000_000_u32).map(|at| (at >> 9) as u8).collect();
    std::fs::write(old.file("large"), &large).unwrap();
    mount.kill();
    release(&old.at);
    let (code, said) = take_over(&server, &orders, &url);
    assert_eq!(code, Some(0), "{said}");
    let mount = hasty_mount(&server, &orders, &new, &url).up();
    std::fs::write(new.file("other"), "of the new owner").unwrap();
    mount.end_committed();

    orders.give("v", point, &format!("skip={passes}"));
    hasty_mount(&server, &orders, &old, &url).ended(SOON);
    assert!(!orders.is_open("v", point), "{point} was never passed");
    release(&old.at);
    let mount = hasty_mount(&server, &orders, &old, &url).up();
    assert_eq!(std::fs::read_to_string(old.file("other")).unwrap(), "of the new owner");
    let list = || finish(s3vol_as("s3vol", Some(&server)).args(["recovered", "list", &url])).1;
    let name = wait_for("what was not synced", SOON, || {
        let list = list();
        let line = list.lines().find(|line| line.contains("2 files"))?;
        line.split_whitespace().next().map(|name| name.trim_end_matches(':').to_owned())
    });
    mount.end_committed();
    let into = old.dir.path().join("restored");
    let mut command = s3vol_as("s3vol", Some(&server));
    let (code, out, errors) =
        finish(command.args(["recovered", "restore", &url, &name]).arg(&into));
    assert_eq!(code, Some(0), "{out}{errors}");
    assert_eq!(std::fs::read_to_string(into.join("small")).unwrap(), "only there");
    assert_eq!(std::fs::read(into.join("large")).unwrap(), large);
}

#[test]
fn what_was_not_synced_comes_up_though_its_host_dies_bringing_it_up() {
    let points = points_of(When::Recovering);
    assert_eq!(points.len(), 4);
    side_by_side(4, &points, |_, some| some.iter().for_each(|point| recovery_dies(point, 0)));
    // Between the bytes and the list of them.
    recovery_dies(points::RECOVERED_PUT_BEFORE, 1);
}
