//! The examples for monitoring in Debian's Prometheus: it takes the rules, and a scrape of a plugin with a volume
//! finds every metric. `make test-monitoring` runs this and installs what it needs; it needs root and /dev/fuse.

#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use support::s3server::TestS3;
use support::scrape::{all_samples, get};
use support::unmanaged::Plugin;
use support::wait_for;

const SOON: Duration = Duration::from_secs(60);

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/monitoring")
}

/// Runs promtool, which must agree.
fn promtool(args: &[&std::ffi::OsStr]) -> String {
    let run = Command::new("promtool").args(args).output();
    let out = run.unwrap_or_else(|e| panic!("promtool, of Debian's package prometheus: {e}"));
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{said}{}", String::from_utf8_lossy(&out.stderr));
    said
}

/// An address that was free a moment ago.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A Prometheus of our own. Killed when dropped.
struct Prometheus {
    child: Child,
    address: SocketAddr,
    dir: tempfile::TempDir,
}

impl Prometheus {
    /// With the configuration of the example, but for the address of the plugin and the pace.
    fn start(plugin: &str) -> Prometheus {
        let dir = tempfile::tempdir().unwrap();
        let example = std::fs::read_to_string(examples().join("prometheus.yml")).unwrap();
        assert!(example.contains("127.0.0.1:9469") && example.contains("15s"));
        let config = example.replace("127.0.0.1:9469", plugin).replace("15s", "1s");
        let config = config.replace("scrape_timeout: 10s", "scrape_timeout: 1s");
        std::fs::write(dir.path().join("prometheus.yml"), config).unwrap();
        std::fs::copy(examples().join("alerts.yml"), dir.path().join("alerts.yml")).unwrap();
        let address = free_address();
        let log = File::create(dir.path().join("log")).unwrap();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", dir.path().join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| panic!("prometheus, of Debian's package of that name: {e}"));
        let prometheus = Prometheus { child, address, dir };
        wait_for("Prometheus", SOON, || {
            let stream = TcpStream::connect(prometheus.address).ok()?;
            get(stream, "/-/ready").ok()
        });
        prometheus
    }

    /// What its API answers.
    fn asks(&self, path: &str) -> Value {
        let stream = TcpStream::connect(self.address).unwrap();
        let body = get(stream, path).unwrap_or_else(|e| panic!("{path}: {e}\n{}", self.log()));
        let answer: Value = serde_json::from_str(&body).unwrap_or_else(|e| panic!("{e}: {body}"));
        assert_eq!(answer["status"], "success", "{answer}");
        answer["data"].clone()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "make test-monitoring"]
fn monitoring_rules_and_configuration_are_valid() {
    let (rules, config) = (examples().join("alerts.yml"), examples().join("prometheus.yml"));
    let said = promtool(&["check".as_ref(), "rules".as_ref(), rules.as_os_str()]);
    assert!(said.contains("SUCCESS"), "{said}");
    promtool(&["check".as_ref(), "config".as_ref(), config.as_os_str()]);
    let dashboard = std::fs::read_to_string(examples().join("grafana.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    assert_eq!(dashboard["title"], "s3vol");
}

/// `alerts.test.yml` has for each alert what it fires on, and what it stays silent on.
#[test]
#[ignore = "make test-monitoring"]
fn monitoring_each_alert_fires_when_it_should_and_only_then() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/monitoring/alerts.test.yml");
    let said = promtool(&["test".as_ref(), "rules".as_ref(), cases.as_os_str()]);
    assert!(said.contains("SUCCESS"), "{said}");
    let names = |text: &str, before: &str| -> BTreeSet<String> {
        let lines = text.lines().filter_map(|line| line.trim().strip_prefix(before));
        lines.map(str::to_owned).collect()
    };
    let rules = std::fs::read_to_string(examples().join("alerts.yml")).unwrap();
    let alerts = names(&rules, "- alert: ");
    assert!(alerts.len() > 10, "{alerts:?}");
    let cases = std::fs::read_to_string(cases).unwrap();
    let (mut fire, mut silent) = (BTreeSet::new(), BTreeSet::new());
    for case in cases.split("- eval_time: ").skip(1) {
        let seen = if case.contains("exp_alerts: []") { &mut silent } else { &mut fire };
        seen.extend(names(case, "alertname: "));
    }
    assert_eq!(
        (&fire, &silent),
        (&alerts, &alerts),
        "each alert has to fire once and to stay silent once"
    );
}

/// What an expression asks for, as names with their labels.
fn selectors(expression: &str) -> Vec<String> {
    let expression = expression.replace(r#"instance=~"$instance",volume=~"$volume""#, "");
    let expression = expression.replace(r#"instance=~"$instance""#, "").replace("{,", "{");
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for (at, _) in expression.match_indices("s3vol_") {
        let rest = &expression[at..];
        let name = rest.find(|c| !part(c)).unwrap_or(rest.len());
        let labels = match rest[name..].starts_with('{') {
            true => rest[name..].find('}').expect("a bracket that ends") + 1,
            false => 0,
        };
        found.push(rest[..name + labels].to_owned());
    }
    found
}

#[test]
#[ignore = "make test-monitoring"]
fn monitoring_a_scrape_finds_every_metric_and_the_alerts_fire() {
    let server = TestS3::start();
    let url = format!("s3://{}/team", server.bucket());
    let address = free_address().to_string();
    let env = [("S3VOL_URL", url.as_str()), ("S3VOL_METRICS", address.as_str())];
    let mut plugin = Plugin::with(Some(&server), &env);
    plugin.create("web", &[]).unwrap();
    let place = plugin.mount("web", "c1");
    std::fs::write(place.join("f"), "some text").unwrap();
    File::open(place.join("f")).unwrap().sync_all().unwrap();

    let prometheus = Prometheus::start(&address);
    // A worker that answers late leaves its samples out of a scrape, so several are waited for.
    let (all, mut seen) = (all_samples(), BTreeSet::new());
    wait_for("every metric and no other", SOON, || {
        let found = prometheus.asks("/api/v1/label/__name__/values");
        let found = found.as_array()?.iter().filter_map(|name| Some(name.as_str()?.to_owned()));
        let names: BTreeSet<String> = found.filter(|name| name.starts_with("s3vol_")).collect();
        if names != seen {
            eprintln!("not yet equal: {:?}", names.symmetric_difference(&all));
            seen = names;
        }
        (seen == all).then_some(())
    });
    let text = get(TcpStream::connect(&address).unwrap(), "/metrics").unwrap();
    let linted = plugin.dir.path().join("scrape");
    std::fs::write(&linted, text).unwrap();
    let lint = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(File::open(&linted).unwrap())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&lint.stderr).into_owned();
    assert!(lint.status.success(), "{said}");

    // Each alert is loaded, and none fires on a volume in order.
    let rules = prometheus.asks("/api/v1/rules");
    let rules = rules["groups"][0]["rules"].as_array().unwrap().clone();
    assert!(rules.len() > 10, "{rules:?}");
    // What they and the dashboard look at is there, also the values of its labels.
    let dashboard = std::fs::read_to_string(examples().join("grafana.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array()).flatten();
    let shown = targets.map(|target| target["expr"].as_str().unwrap());
    let asked: BTreeSet<String> = rules
        .iter()
        .map(|rule| rule["query"].as_str().unwrap())
        .chain(shown)
        .flat_map(selectors)
        .collect();
    assert!(asked.len() > 30, "{asked:?}");
    for selector in asked {
        let query = utf8_percent_encode(&selector, NON_ALPHANUMERIC);
        let found = prometheus.asks(&format!("/api/v1/query?query={query}"));
        assert_ne!(found["result"], serde_json::json!([]), "nothing is served for {selector}");
    }
    wait_for("the rules to be looked at", SOON, || {
        let rules = prometheus.asks("/api/v1/rules");
        let rules = rules["groups"][0]["rules"].as_array().unwrap().clone();
        rules.iter().all(|rule| rule["health"] == "ok").then_some(())
    });
    // A scrape that a busy machine answers late makes one pending until the next.
    wait_for("no alert", SOON, || {
        (prometheus.asks("/api/v1/alerts")["alerts"] == serde_json::json!([])).then_some(())
    });

    // A process that is stopped is seen as one that does not answer.
    let worker = plugin.children("worker")[0];
    // SAFETY: plain system call on a child of our own child, which has not reaped it.
    assert_eq!(unsafe { libc::kill(worker as i32, libc::SIGKILL) }, 0);
    server.stop();
    wait_for("the alert", SOON, || {
        let alerts = prometheus.asks("/api/v1/alerts");
        let pending = alerts["alerts"].as_array()?.iter().any(|alert| {
            alert["labels"]["alertname"] == "S3volWorkerDown" && alert["labels"]["volume"] == "web"
        });
        pending.then_some(())
    });
    server.restart();
    wait_for("the end of the alert", SOON, || {
        let found = prometheus.asks("/api/v1/query?query=s3vol_up");
        (found["result"][0]["value"][1] == "1").then_some(())
    });
    // Its next process answers before it serves the volume.
    wait_for("the volume served again", SOON, || {
        let found =
            prometheus.asks("/api/v1/query?query=s3vol_state%7Bstate%3D%22active%22%7D%3D%3D1");
        found["result"][0]["value"].is_array().then_some(())
    });
    plugin.unmount("web", "c1");
}

/// Writes `docs/dashboard.svg`: the row *Safety* while a site is edited, a database commits, a backup is written, and
/// the bucket is away for 20 seconds.
#[test]
#[ignore = "two minutes; draws docs/dashboard.svg"]
fn picture_of_the_dashboard() {
    // Less than what the watchdog of mounts allows.
    const ALL: Duration = Duration::from_secs(120);
    let server = TestS3::start();
    server.set_latency(Duration::from_millis(20));
    let url = format!("s3://{}/team", server.bucket());
    let address = free_address().to_string();
    let env = [("S3VOL_URL", url.as_str()), ("S3VOL_METRICS", address.as_str())];
    let mut plugin = Plugin::with(Some(&server), &env);
    let volumes: [(&str, &[(&str, &str)]); 3] = [
        ("site", &[]),
        ("database", &[("settle", "never")]),
        ("backup", &[("settle_after", "10s")]),
    ];
    let places = volumes.map(|(name, options)| {
        plugin.create(name, options).unwrap();
        plugin.mount(name, "c1")
    });
    let prometheus = Prometheus::start(&address);
    let began = Instant::now();
    std::thread::scope(|scope| {
        let [site, database, backup] = &places;
        let runs = || began.elapsed() < ALL;
        scope.spawn(move || {
            for page in (0..).take_while(|_| runs()) {
                std::fs::write(site.join(format!("page-{}.html", page % 40)), format!("{page}"))
                    .unwrap();
                std::thread::sleep(Duration::from_millis(700));
            }
        });
        scope.spawn(move || {
            let file = File::create(database.join("log")).unwrap();
            while runs() {
                (&file).write_all(&[1; 4096]).unwrap();
                file.sync_data().unwrap();
                std::thread::sleep(Duration::from_millis(200));
            }
        });
        scope.spawn(move || {
            for night in (0..).take_while(|_| runs()) {
                std::fs::write(backup.join(format!("night-{night}")), vec![night as u8; 24 << 20])
                    .unwrap();
                std::thread::sleep(Duration::from_secs(25));
            }
        });
        scope.spawn(|| {
            std::thread::sleep(ALL / 2);
            server.stop();
            std::thread::sleep(Duration::from_secs(20));
            server.restart();
        });
    });
    let drawn = Command::new("python3")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/monitoring/picture.py"))
        .args([&format!("http://{}", prometheus.address), &ALL.as_secs().to_string(), "Safety"])
        .output()
        .unwrap();
    assert!(drawn.status.success(), "{}", String::from_utf8_lossy(&drawn.stderr));
    let text = String::from_utf8(drawn.stdout).unwrap();
    assert!(volumes.iter().all(|(name, _)| text.contains(&format!(">{name}<"))), "{text}");
    std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/dashboard.svg"), text).unwrap();
    for (name, _) in volumes {
        plugin.unmount(name, "c1");
    }
}
