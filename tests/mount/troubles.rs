//! What happens to a volume beside the usual is told by `s3vol events`, as lines and as JSON, and counted.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use s3vol::fault;
use serde_json::{Value, json};

use super::metrics::Reads;
use super::plugin::Plugin;
use super::rig::{SOON, object, s3vol};
use super::support::s3server::{Action, Op, Rule, TestS3};
use super::support::scrape::Scrape;
use super::support::wait_for;

const WEB: &str = "volume=\"web\"";

/// A plugin that deletes removed volumes with the next list.
fn plugin(server: &TestS3) -> Plugin {
    let url = format!("s3://{}/team", server.bucket());
    let env = [("S3VOL_URL", url.as_str()), ("S3VOL_GRACE", "0s"), (fault::LISTED, "100")];
    Plugin::with(Some(server), &env)
}

/// `s3vol events` in both forms.
struct Told {
    json: Reads,
    lines: Reads,
}

impl Told {
    /// From the first event on that the plugin remembers.
    fn by(plugin: &Plugin, server: &TestS3) -> Told {
        let begin = |form: &[&str]| {
            let mut command = s3vol(server);
            command.args(["events", "--past"]).args(form).arg("--socket").arg(plugin.socket());
            Reads::begin(&mut command)
        };
        Told { json: begin(&["--json"]), lines: begin(&[]) }
    }

    fn has(&self, event: &str) -> bool {
        self.lines.said().contains(&format!(" {event} "))
    }

    /// What is said of the first such event, which both have.
    fn wait(&self, volume: &str, event: &str) -> Option<String> {
        let whole = |reads: &Reads| -> Vec<String> {
            let said = reads.said();
            // The last line may be half written.
            let lines = said.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            lines.map(|line| line.trim_end().to_owned()).collect()
        };
        let what = format!("{event} of {volume}");
        let found = wait_for(&format!("{what} as JSON"), SOON, || {
            let events = whole(&self.json);
            let mut events = events.iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
            events.find(|told| told["volume"] == volume && told["event"] == event)
        });
        let text = found["text"].as_str().map(str::to_owned);
        let at = found["at"].as_str().unwrap();
        assert!(at.parse::<jiff::Timestamp>().is_ok(), "{found}");
        let line = match &text {
            Some(text) => format!("{at} {event:<10} {volume}  {text}"),
            None => format!("{at} {event:<10} {volume}"),
        };
        wait_for(&format!("{what} as a line: {line}"), SOON, || {
            whole(&self.lines).contains(&line).then_some(())
        });
        text
    }
}

fn synced(place: &Path, name: &str, text: &str) {
    std::fs::write(place.join(name), text).unwrap();
    File::open(place.join(name)).unwrap().sync_all().unwrap();
}

/// A file that was known on both sides is changed on both.
fn conflict(server: &TestS3, place: &Path) {
    assert_eq!(std::fs::read_to_string(place.join("both")).unwrap(), "theirs");
    synced(place, "both", "written here");
    server.put_foreign("team/web/both", "others wrote too", &[]);
    let aside = wait_for("both to be kept", SOON, || {
        let names = std::fs::read_dir(place).unwrap().map(|e| e.unwrap().file_name());
        names.map(|n| n.into_string().unwrap()).find(|n| n.starts_with("both.s3vol-conflict-"))
    });
    assert_eq!(std::fs::read_to_string(place.join(aside)).unwrap(), "written here");
}

/// A plugin with `web`, settings with which a conflict is found soon, and `both`, put by somebody else.
fn web(server: &TestS3) -> Plugin {
    server.put_foreign("team/web/both", "theirs", &[]);
    server.put_foreign("team/web/there", vec![7; 100_000], &[]);
    let plugin = plugin(server);
    plugin.create("web", &[("settle_after", "1d"), ("refresh", "1s")]).unwrap();
    plugin
}

/// A host is lost with content that was not synced, another one writes the volume meanwhile, and the first comes back
/// to it while the bucket does not take what it had.
fn back_too_late(server: &TestS3) -> Plugin {
    let url = format!("s3://{}/team", server.bucket());
    let env = [("S3VOL_URL", url.as_str())];
    let mut first = Plugin::with(Some(server), &env);
    first.create("web", &[("commit", "5m"), ("settle_after", "1d")]).unwrap();
    let place = first.mount("web", "c1");
    synced(&place, "known", "synced");
    std::fs::write(place.join("mine"), "never synced").unwrap();
    first.lost();
    let dir = Arc::clone(&first.dir);
    drop(first);
    // Its lease runs out.
    server.set_clock_offset(100);
    let mut other = Plugin::with(Some(server), &env);
    let place = other.mount("web", "c1");
    synced(&place, "theirs", "of the other host");
    other.unmount("web", "c1");
    drop(other);
    server.fault(Rule::always(Some(Op::Put), "/recovered/", Action::Status(503)));
    let mut first = Plugin::again(dir, Some(server), &env);
    let place = first.mount("web", "c2");
    assert_eq!(std::fs::read_to_string(place.join("theirs")).unwrap(), "of the other host");
    assert!(!place.join("mine").exists());
    first
}

#[test]
fn a_conflict_is_told() {
    let server = TestS3::start();
    let mut plugin = web(&server);
    let told = Told::by(&plugin, &server);
    let place = plugin.mount("web", "c1");
    told.wait("web", "mounted");
    conflict(&server, &place);
    let text = told.wait("web", "conflict").unwrap();
    assert!(text.starts_with("1 since it was mounted"), "{text}");
    // And the log names it, as the event says.
    let named = |line: &&str| line.contains("both are kept") && line.contains("both");
    assert!(plugin.log().lines().any(|line| named(&line)), "{}", plugin.log());
    plugin.unmount("web", "c1");
}

#[test]
fn what_is_kept_apart_is_told_and_counted_until_the_bucket_has_it() {
    let server = TestS3::start();
    let plugin = back_too_late(&server);
    let told = Told::by(&plugin, &server);
    let text = told.wait("web", "recovered").unwrap();
    assert!(Path::new(&text).join("log").exists(), "{text}");
    let folders =
        || Scrape::socket(&plugin.socket()).unwrap().values("s3vol_recovered_folders", &[WEB]);
    assert_eq!(folders(), [1.0]);
    server.clear_faults();
    // Its uploads are tried again after a minute; a successor begins with them.
    plugin.kill("worker");
    wait_for("the bucket to have it", SOON, || (folders() == [0.0]).then_some(()));
    assert!(!Path::new(&text).exists());
    let kept = server.keys("").into_iter().filter(|key| key.contains("/recovered/"));
    assert!(kept.count() >= 2, "a manifest, and the content");
    plugin.unmount("web", "c2");
}

#[test]
fn what_a_host_had_that_lost_its_volume_is_told_when_the_bucket_has_it() {
    let server = TestS3::start();
    let mut plugin = Plugin::start(&server);
    plugin.create("web", &[("commit", "5m"), ("settle_after", "1d")]).unwrap();
    let told = Told::by(&plugin, &server);
    let place = plugin.mount("web", "c1");
    synced(&place, "known", "synced");
    std::fs::write(place.join("mine"), "never synced").unwrap();
    let other = Plugin::start(&server);
    let mut takeover = s3vol(&server);
    takeover.args(["takeover", "--yes", "web", "--socket"]).arg(other.socket());
    let taken = takeover.output().unwrap();
    assert!(taken.status.success(), "{}", String::from_utf8_lossy(&taken.stderr));
    // Only to have it look; it may know already.
    drop(File::open(place.join("mine")).map(|file| file.sync_all()));
    told.wait("web", "fenced");
    let (_, answer) =
        plugin.call("VolumeDriver.Unmount", &json!({ "Name": "web", "ID": "c1" })).unwrap();
    let text = told.wait("web", "recovered").unwrap();
    let name = server.keys("").into_iter().find(|key| key.contains("/recovered/")).unwrap();
    let name = name.split("/recovered/").nth(1).unwrap().split('/').next().unwrap();
    assert!(text.contains(name) && text.contains("s3vol recovered"), "{text} {answer}");
}

#[test]
fn a_purge_is_told() {
    let server = TestS3::start();
    let mut plugin = plugin(&server);
    let told = Told::by(&plugin, &server);
    plugin.create("web", &[]).unwrap();
    let place = plugin.mount("web", "c1");
    synced(&place, "f", "goes");
    plugin.unmount("web", "c1");
    assert!(object(&server, "team/web/f").is_some());
    plugin.ok("VolumeDriver.Remove", json!({ "Name": "web" }));
    wait_for("the purge", SOON, || {
        plugin.ok("VolumeDriver.List", json!({}));
        told.has("purged").then_some(())
    });
    assert_eq!(told.wait("web", "purged"), None);
    // The volume's own objects first, and its definition at the end.
    wait_for("nothing of it", SOON, || {
        let left = server.keys("").into_iter().filter(|key| key.contains("web")).count();
        (left == 0).then_some(())
    });
}

/// Reads past what the kernel has.
fn read_directly(path: &Path, offset: u64, bytes: &mut [u8]) {
    use std::os::unix::fs::FileExt;
    let file = File::options().read(true).custom_flags(libc::O_DIRECT).open(path).unwrap();
    file.read_exact_at(bytes, offset).unwrap();
}

#[test]
fn hits_retries_and_conflicts_are_counted_when_they_happen() {
    let server = TestS3::start();
    let mut plugin = web(&server);
    let place = plugin.mount("web", "c1");
    let scrape = || Scrape::socket(&plugin.socket()).unwrap();
    let (hits, misses) = ("s3vol_cache_hits_total", "s3vol_cache_misses_total");
    let begun = scrape();
    for name in [hits, misses, "s3vol_store_retries_total", "s3vol_conflicts_total"] {
        assert_eq!(begun.sum(name, &[WEB]), 0.0, "{name}\n{}", begun.0);
    }

    // The first read asks the bucket, which does not answer at once; the second one this host.
    server.fault(Rule::new(Op::Get, "team/web/there", 1, Action::Status(503)));
    let mut found = vec![0; 4096];
    read_directly(&place.join("there"), 0, &mut found);
    assert_eq!((server.faults_left(), found), (0, vec![7; 4096]));
    let read = scrape();
    assert!(read.sum(misses, &[WEB]) >= 1.0, "{}", read.0);
    assert_eq!(read.sum("s3vol_store_retries_total", &[WEB]), 1.0, "{}", read.0);
    let throttled = ["verb=\"get\"", "outcome=\"throttled\"", WEB];
    assert_eq!(read.sum("s3vol_store_requests_total", &throttled), 1.0, "{}", read.0);
    let mut all = Vec::new();
    File::open(place.join("there")).unwrap().read_to_end(&mut all).unwrap();
    assert_eq!(all, [7; 100_000]);
    let before = scrape();
    for _ in 0..3 {
        read_directly(&place.join("there"), 8192, &mut [0; 4096]);
    }
    let after = scrape();
    let grew = |name: &str| after.sum(name, &[WEB]) - before.sum(name, &[WEB]);
    assert_eq!((grew(hits), grew(misses)), (3.0, 0.0), "{}", after.0);

    conflict(&server, &place);
    let counted = wait_for("the conflict to be counted", SOON, || {
        let now = scrape();
        (now.sum("s3vol_conflicts_total", &[WEB]) > 0.0).then_some(now)
    });
    assert_eq!(counted.sum("s3vol_conflicts_total", &[WEB]), 1.0);
    plugin.unmount("web", "c1");
}

/// The first three columns.
type Row = (String, String, String);

/// The rows of the last whole table.
fn last_table(said: &str) -> Option<Vec<Row>> {
    // The last one may be half written.
    let table = said.rsplit("VOLUME").nth(1)?;
    let row = |line: &str| {
        let mut words = line.split_whitespace().map(str::to_owned);
        Some((words.next()?, words.next()?, words.next()?))
    };
    Some(table.lines().skip(1).filter_map(row).collect())
}

#[test]
fn a_watched_status_follows_the_volumes_of_a_plugin() {
    let server = TestS3::start();
    let mut plugin = plugin(&server);
    let mut watch = s3vol(&server);
    watch.arg("status").arg("--socket").arg(plugin.socket());
    watch.args(["--watch", "--interval", "0.2"]);
    let mut watching = Reads::begin(&mut watch);
    let table = |what: &str, is: &dyn Fn(&[Row]) -> bool| {
        wait_for(what, SOON, || last_table(&watching.said()).filter(|rows| is(rows)).map(drop))
    };
    table("no volume", &|_| watching.said().contains("no volume is served"));
    for name in ["web", "other"] {
        plugin.create(name, &[("commit", "300s")]).unwrap();
    }
    let place = plugin.mount("web", "c1");
    let names = |rows: &[Row]| -> Vec<String> { rows.iter().map(|row| row.0.clone()).collect() };
    table("the first volume", &|rows| names(rows) == ["web"] && rows[0].1 == "active");
    plugin.mount("other", "c2");
    table("both, by name", &|rows| names(rows) == ["other", "web"]);

    // One of them is used.
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let user = scope.spawn(|| {
            let mut n = 0;
            while !done.load(std::sync::atomic::Ordering::SeqCst) {
                std::fs::write(place.join(format!("f{}", n % 10)), vec![7; 10_000]).unwrap();
                n += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let rate = |row: &Row| row.2.parse::<f64>().unwrap_or(0.0);
        let moves = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            table("its rates", &|rows| {
                names(rows) == ["other", "web"] && rate(&rows[1]) > 10.0 && rate(&rows[0]) < 1.0
            });
        }));
        done.store(true, std::sync::atomic::Ordering::SeqCst);
        user.join().unwrap();
        moves.unwrap();
    });
    plugin.unmount("other", "c2");
    table("its end", &|rows| {
        rows.iter().all(|row| row.0 != "other" || row.1 == "draining") && !rows.is_empty()
    });
    plugin.ok("VolumeDriver.Remove", json!({ "Name": "other" }));
    table("one that is left", &|rows| names(rows) == ["web"]);
    // A driver that is started anew is waited for, and its volume is the same.
    plugin.kill("driver");
    table("the volume with the new driver", &|rows| {
        names(rows) == ["web"] && rows[0].1 == "active"
    });
    assert_eq!(watching.interrupt(), Some(0), "{}", watching.said());
    plugin.unmount("web", "c1");
}
