//! Leaving a mount and entering it again, by the program itself.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};

use super::rig::{GIVEN_BACK, Mount, Place, SOON, finish, mount_of, object, run_ok, s3vol};
use super::support::s3server::{Action, Op, Rule, TestS3};
use super::support::wait_for;
use super::support::watchdog::mounted;

/// A process that was asked to leave has gone within 2 s, and the next one opens; CI's machines are slow.
const ENTERED: Duration = Duration::from_secs(6);

fn url(server: &TestS3) -> String {
    format!("s3://{}/v", server.bucket())
}

fn umount(place: &Place) {
    run_ok("umount", &[place.at.as_os_str()]);
}

/// The last words of a process: its last line for people, of a log that it shares with others.
fn last_words(log: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines().filter_map(|line| line.strip_prefix("s3vol: ")).map(str::to_owned).collect()
}

fn words_of(place: &Place) -> Vec<String> {
    last_words(&place.dir.path().join("log"))
}

fn code(status: ExitStatus) -> i32 {
    status.code().expect("an exit code")
}

/// Unmounts and mounts at once, and waits for the end of the first.
fn again(server: &TestS3, place: &Place, mut first: Mount, options: &[&str]) -> (Mount, i32) {
    umount(place);
    assert!(!mounted(&place.at), "the place is not free although umount has returned");
    let asked = Instant::now();
    let second = Mount::start(Some(server), place, &url(server), options);
    assert!(asked.elapsed() < ENTERED, "{:?}: {}", asked.elapsed(), second.said());
    let ended = code(first.ended(SOON));
    (second, ended)
}

#[test]
fn umount_and_mount_follow_each_other_at_once() {
    let (server, place) = (TestS3::start(), Place::new());
    // What is written late is committed by the end, and not at rest.
    let options = ["settle_after=1h"];
    let mut mount = Mount::start(Some(&server), &place, &url(&server), &options);
    for round in 0..4 {
        let name = format!("f{round}");
        std::fs::write(place.file(&name), &name).unwrap();
        let (next, ended) = again(&server, &place, mount, &options);
        assert_eq!(ended, 0, "{}", next.said());
        for earlier in 0..=round {
            let name = format!("f{earlier}");
            assert_eq!(std::fs::read_to_string(place.file(&name)).unwrap(), name);
        }
        mount = next;
    }
    mount.end_well();
    assert_eq!(object(&server, "v/f3").as_deref(), Some("f3"));
    let words = words_of(&place);
    assert_eq!(words.len(), 5, "{words:?}");
    assert!(words[4].starts_with("everything is at rest: 4 files with 8 bytes"), "{words:?}");
}

/// How many objects of the engine's log each mount had to read.
fn logs_read(said: &str) -> Vec<u64> {
    let opened = said.lines().filter(|line| line.contains("metadata engine opened"));
    let log = |line: &str| {
        line.split("log=").nth(1)?.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    opened.map(|line| log(line).expect(line)).collect()
}

#[test]
#[ignore = "soak lane: 40 rounds"]
fn soak_rounds_of_mounts_leave_no_growing_log() {
    let (server, place) = (TestS3::start(), Place::new());
    server.set_latency(Duration::from_millis(20));
    let mut mount = Mount::start(Some(&server), &place, &url(&server), &[]);
    for round in 0..40 {
        std::fs::write(place.file(&format!("f{round}")), "x").unwrap();
        let (next, ended) = again(&server, &place, mount, &[]);
        assert_eq!(ended, 0, "{}", next.said());
        mount = next;
    }
    let read = logs_read(&mount.said());
    assert!(read.len() == 41 && read.iter().all(|log| *log < 60), "{read:?}");
    mount.end_well();
}

#[test]
fn a_volume_in_use_is_not_left() {
    let (server, place, other) = (TestS3::start(), Place::new(), Place::new());
    let mount = Mount::start(Some(&server), &place, &url(&server), &[]);
    let mut command = s3vol(&server);
    command.args(["mount", "--state"]).arg(place.state()).arg(url(&server)).arg(&other.at);
    let (ended, _, error) = finish(&mut command);
    assert_eq!(ended, Some(1));
    let served =
        format!("already served by process {} at {}", mount.child.id(), place.at.display());
    assert!(error.contains(&served), "{error}");
    // At its own place, too, whoever asks.
    let mut command = s3vol(&server);
    command.args(["mount", "--state"]).arg(other.state()).arg(url(&server)).arg(&place.at);
    let (ended, _, error) = finish(&mut command);
    assert_eq!(ended, Some(1));
    assert!(error.contains("is mounted at"), "{error}");
    std::fs::write(place.file("f"), "still served").unwrap();
    mount.end_well();
}

#[test]
fn of_two_that_wait_for_a_volume_one_gets_it() {
    let (server, place, beside) = (TestS3::start(), Place::new(), Place::new());
    let mut first = Mount::start(Some(&server), &place, &url(&server), &[]);
    std::fs::write(place.file("f"), "x").unwrap();
    umount(&place);
    let mut one = Mount::begin(Some(&server), &place, &url(&server), &[]);
    let mut two = Mount::begin_at(&mut s3vol(&server), &place, &beside.at, &url(&server), &[]);
    assert_eq!(code(first.ended(SOON)), 0);
    let (lost, other) = wait_for("one of them to be refused", SOON, || {
        let one = one.child.try_wait().unwrap().map(|status| (status, &beside));
        one.or_else(|| two.child.try_wait().unwrap().map(|status| (status, &place)))
    });
    assert_eq!(code(lost), 1);
    wait_for("the other to be mounted", SOON, || mount_of(&other.at));
    assert_eq!(std::fs::read_to_string(other.file("f")).unwrap(), "x");
    let words = words_of(&place);
    assert!(
        words.iter().any(|line| line.contains("already served") || line.contains("in use by")),
        "{words:?}"
    );
}

#[test]
fn nothing_but_its_names_waits_for_requests_of_a_killed_mount() {
    let (server, place, elsewhere) = (TestS3::start(), Place::new(), Place::new());
    server.fault(Rule::new(Op::Put, "v/late", 1, Action::Hold));
    let options = ["commit=100ms", "settle_after=200ms"];
    let mount = Mount::start(Some(&server), &place, &url(&server), &options);
    std::fs::write(place.file("late"), "late").unwrap();
    wait_for("its publish", SOON, || (server.held() == 1).then_some(()));
    mount.kill();
    // At once, over what the killed one left mounted.
    let asked = Instant::now();
    let mount = Mount::start(Some(&server), &place, &url(&server), &options);
    assert!(asked.elapsed() < ENTERED, "{:?}", asked.elapsed());
    assert_eq!(std::fs::read_to_string(place.file("late")).unwrap(), "late");
    std::fs::write(place.file("other"), "other").unwrap();

    // Nobody waits for an unmount: it goes on for the one name, and makes room for whoever comes.
    let lingers = |mount: &Mount, number: usize| {
        wait_for("only the late request to be left", SOON, || {
            let waits = "anybody may mount the volume meanwhile";
            (mount.said().matches(waits).count() == number).then_some(())
        });
    };
    umount(&place);
    lingers(&mount, 1);
    assert_eq!(object(&server, "v/other").as_deref(), Some("other"));
    let asked = Instant::now();
    let next = Mount::start(Some(&server), &place, &url(&server), &options);
    assert!(asked.elapsed() < ENTERED, "{:?}", asked.elapsed());
    let mut left = mount;
    assert_eq!(code(left.ended(SOON)), 0);
    let asked =
        "and the next mount, which asked for the volume, settles the rest: 1 files with 4 bytes";
    assert!(words_of(&place)[0].contains(asked), "{:?}", words_of(&place));

    // Another host has it at once as well.
    umount(&place);
    lingers(&next, 2);
    let there = Mount::start(Some(&server), &elsewhere, &url(&server), &options);
    assert_eq!(std::fs::read_to_string(elsewhere.file("late")).unwrap(), "late");
    let mut left = next;
    assert_eq!(code(left.ended(SOON)), 0);
    assert!(
        words_of(&place)[1].contains("another host has taken the volume"),
        "{:?}",
        words_of(&place)
    );

    // Somebody waits for the end that a signal asks for: it does not wait, and says what is left.
    let mut there = there;
    let asked = Instant::now();
    there.signal(libc::SIGTERM);
    assert_eq!(code(there.ended(SOON)), 3, "{}", there.said());
    assert!(asked.elapsed() < ENTERED, "{:?}", asked.elapsed());
    let words = words_of(&elsewhere);
    assert!(words[0].contains("but 1 files with 4 bytes are not plain objects yet"), "{words:?}");
    server.release();
}

#[test]
fn with_the_bucket_away_the_next_mount_asks_first_and_says_what_is_kept() {
    let (server, place) = (TestS3::start(), Place::new());
    let options = ["commit=300s"];
    let mut mount = Mount::start(Some(&server), &place, &url(&server), &options);
    server.stop();
    std::fs::write(place.file("precious"), "not lost").unwrap();
    umount(&place);
    let asked = Instant::now();
    let mut next = Mount::begin(Some(&server), &place, &url(&server), &options);
    assert_eq!(code(mount.ended(ENTERED)), 4, "{}", mount.said());
    assert!(!next.ended(SOON).success());
    assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());
    let words = words_of(&place);
    let kept = place.state().display().to_string();
    let left = |line: &&String| line.contains("bytes are not in the bucket, of ");
    assert!(words.iter().find(left).is_some_and(|line| line.contains(&kept)), "{words:?}");
    let said = |line: &&String| line.contains("has left the volume for this mount");
    assert!(words.iter().find(said).is_some_and(|line| line.contains(&kept)), "{words:?}");

    server.restart();
    // A publish may have been announced in the local log; that it was not sent is there, too.
    let mount = Mount::start(Some(&server), &place, &url(&server), &[]);
    assert_eq!(std::fs::read_to_string(place.file("precious")).unwrap(), "not lost");
    mount.end_well();
    assert_eq!(object(&server, "v/precious").as_deref(), Some("not lost"));
}

/// A mount that is killed again and again, and mounted again at once.
fn killed(rounds: u32, latency: Duration) {
    let (server, place) = (TestS3::start(), Place::new());
    server.set_latency(latency);
    let options = ["commit=200ms", "settle_after=100ms"];
    for round in 0..rounds {
        let asked = Instant::now();
        let mount = Mount::start(Some(&server), &place, &url(&server), &options);
        let limit = ENTERED + latency * 100;
        assert!(asked.elapsed() < limit, "round {round}: {:?}: {}", asked.elapsed(), mount.said());
        for earlier in 0..round {
            let text = std::fs::read_to_string(place.file(&format!("f{earlier}"))).unwrap();
            assert_eq!(text, earlier.to_string(), "round {round}");
        }
        std::fs::write(place.file(&format!("f{round}")), round.to_string()).unwrap();
        mount.kill();
    }
    let mut mount = Mount::start(Some(&server), &place, &url(&server), &options);
    umount(&place);
    // Requests of the killed ones may still arrive, so it may leave names to the next one.
    mount.signal(libc::SIGTERM);
    let ended = code(mount.ended(GIVEN_BACK));
    assert!(ended == 0 || ended == 3, "{ended}: {}", mount.said());
    let read = logs_read(&mount.said());
    assert!(read.iter().all(|log| *log < 100), "{read:?}");
}

#[test]
fn a_killed_mount_is_mounted_again_at_once() {
    killed(4, Duration::ZERO);
}

#[test]
#[ignore = "soak lane: 20 rounds at 20 ms a request"]
fn soak_a_mount_that_is_killed_twenty_times() {
    killed(20, Duration::from_millis(20));
}

#[test]
fn a_mount_that_is_killed_while_it_claims_the_volume_keeps_nobody_waiting() {
    let (server, place) = (TestS3::start(), Place::new());
    Mount::start(Some(&server), &place, &url(&server), &[]).end_well();
    let die: PathBuf = place.dir.path().join("die");
    std::fs::write(&die, "").unwrap();
    let mut command = s3vol(&server);
    command.env("S3VOL_TEST_DIE_CLAIMED", &die);
    let mut cut = Mount::begin_as(&mut command, &place, &url(&server), &[]);
    assert_eq!(cut.ended(SOON).code(), None, "{}", cut.said());
    let asked = Instant::now();
    let mount = Mount::start(Some(&server), &place, &url(&server), &[]);
    assert!(asked.elapsed() < ENTERED, "{:?}: {}", asked.elapsed(), mount.said());
    std::fs::write(place.file("f"), "x").unwrap();
    mount.end_well();
    assert_eq!(object(&server, "v/f").as_deref(), Some("x"));
}

#[test]
fn a_service_is_stopped_and_started_again() {
    let (server, place) = (TestS3::start(), Place::new());
    for round in 0..3 {
        let mut mount = Mount::start(Some(&server), &place, &url(&server), &[]);
        std::fs::write(place.file(&format!("f{round}")), "x").unwrap();
        mount.signal(libc::SIGTERM);
        assert_eq!(code(mount.ended(SOON)), 0, "{}", mount.said());
        assert!(!mounted(&place.at));
    }
    // Started before the stopped one has ended, as a script does.
    let mut mount = Mount::start(Some(&server), &place, &url(&server), &[]);
    mount.signal(libc::SIGTERM);
    let next = Mount::start(Some(&server), &place, &url(&server), &[]);
    assert_eq!(code(mount.ended(SOON)), 0);
    assert!(place.file("f2").exists());
    next.end_well();
}

#[test]
fn the_last_line_tells_what_stays_in_motion_by_choice_and_of_followers_and_in_the_background() {
    let (server, place) = (TestS3::start(), Place::new());
    let mut mount = Mount::start(Some(&server), &place, &url(&server), &["settle=never"]);
    std::fs::write(place.file("db"), "pages").unwrap();
    mount.signal(libc::SIGTERM);
    assert_eq!(code(mount.ended(SOON)), 0);
    let words = words_of(&place);
    assert!(
        words[0].contains("1 files with 5 bytes are not plain objects, as settle=never"),
        "{words:?}"
    );

    let mut follower = Mount::start(Some(&server), &place, &url(&server), &["readonly=true"]);
    assert_eq!(std::fs::read_to_string(place.file("db")).unwrap(), "pages");
    umount(&place);
    assert!(!mounted(&place.at));
    let again = Mount::start(Some(&server), &place, &url(&server), &["readonly=true"]);
    assert_eq!(code(follower.ended(SOON)), 0);
    assert_eq!(std::fs::read_to_string(place.file("db")).unwrap(), "pages");
    again.end_well();
    assert_eq!(words_of(&place)[1], "unmounted; nothing was written here");

    let mut command = s3vol(&server);
    command.args(["mount", "--detach", "--state"]).arg(place.state());
    let (ended, _, error) = finish(command.arg(url(&server)).arg(&place.at));
    assert_eq!(ended, Some(0), "{error}");
    umount(&place);
    let volumes = std::fs::read_dir(place.state().join("volumes")).unwrap();
    let logs: Vec<PathBuf> = volumes.map(|v| v.unwrap().path().join("worker.log")).collect();
    wait_for("its last words", SOON, || {
        logs.iter()
            .any(|log| last_words(log).iter().any(|l| l.starts_with("everything is at rest")))
            .then_some(())
    });
}

#[test]
fn nothing_waits_for_a_local_disk_that_takes_long_to_give_back_what_is_removed() {
    let (server, place) = (TestS3::start(), Place::new());
    let trash = place.state().join("volumes/trash");
    let left = || std::fs::read_dir(&trash).unwrap().count();
    std::fs::create_dir_all(&trash).unwrap();
    // Nobody else empties it meanwhile: as if each step took for ever.
    let slow = Flock::lock(File::open(&trash).unwrap(), FlockArg::LockExclusive);
    let slow = slow.map_err(|(_, errno)| errno).unwrap();
    let mount = Mount::start(Some(&server), &place, &url(&server), &["settle_after=1h"]);
    std::fs::write(place.file("large"), vec![7; 3 << 20]).unwrap();
    let before = left();
    std::fs::remove_file(place.file("large")).unwrap();
    wait_for("the file in the trash", SOON, || (left() > before).then_some(()));
    std::fs::write(place.file("cached"), vec![7; 3 << 20]).unwrap();
    File::open(place.file("cached")).unwrap().sync_all().unwrap();
    mount.kill();
    // What the killed one had cached, too.
    let mount = Mount::start(Some(&server), &place, &url(&server), &["settle_after=1h"]);
    assert!(left() > before + 1, "{}", left());
    assert!(std::fs::read(place.file("cached")).unwrap() == vec![7; 3 << 20]);
    let began = Instant::now();
    mount.end_well();
    assert!(began.elapsed() < ENTERED, "{:?}", began.elapsed());
    assert!(left() > before + 2, "{}", left());
    // The process that goes on with it waits for its turn.
    drop(slow);
    wait_for("an empty trash", SOON, || (left() == 0).then_some(()));
}
