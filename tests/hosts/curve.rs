//! What a volume takes of its host and of its bucket over hours.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use crate::site::Host;
use crate::support::s3server::{Logged, TestS3};

/// No worker may have more than this of its own. The pages of the program are not: all workers of a host share them,
/// and those of a build for tests are several times as large.
const MOST_MEMORY_KIB: u64 = 150 << 10;

/// What is measured, with its unit, and by how much it may differ between equal halves. Each is a median, so no
/// single moment counts. The log is rewritten shorter when it has 64 MiB.
const MEASURES: [(&str, u64); 9] = [
    ("worker KiB", 8 << 10),
    ("worker fds", 60),
    ("plugin KiB", 4 << 10),
    ("plugin fds", 4),
    ("log KiB", 16 << 10),
    ("cache KiB", 8 << 10),
    ("state objects", 200),
    ("state KiB", 16 << 10),
    ("objects", 150),
];

/// What the state itself takes at most, beside what was replaced lately: records, and content of some MiB in motion.
const MOST_STATE: u64 = 64 << 20;
/// How long it may be until somebody collects what is to go: maintenance comes every minute, and when a worker takes
/// over a long log.
const COLLECTED_WITHIN: Duration = Duration::from_secs(150);

/// One moment.
#[derive(Debug, Clone)]
pub struct Sample {
    at: Duration,
    /// Bytes of the state now, and written into it since the sample before.
    state: u64,
    written: u64,
    host: &'static str,
    steps: u64,
    values: [u64; MEASURES.len()],
}

#[derive(Debug, Default)]
pub struct Curve {
    samples: Vec<Sample>,
    most_memory: u64,
    /// Bytes written into the state since the last sample.
    written: u64,
    /// What lay in the folders of the state at the end of each leg.
    ends: Vec<(Duration, BTreeMap<String, Held>)>,
}

/// Objects, and their bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Held {
    objects: u64,
    bytes: u64,
}

/// The folder below the volume's state in which a key lies, without the parts of it that are numbers.
fn folder(key: &str) -> String {
    let below = key.split_once(".s3vol/v/").map_or("", |(_, below)| below);
    let folders: Vec<&str> = below.split('/').skip(1).collect();
    let named = folders.iter().rev().skip(1).rev();
    let named: Vec<&str> =
        named.copied().filter(|part| part.bytes().any(|b| !b.is_ascii_digit())).collect();
    named.join("/")
}

fn status_kib(pid: u64, field: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse().ok()
}

/// What a process has in memory that comes from no file, now and at most until now.
fn own_kib(pid: u64) -> Option<(u64, u64)> {
    let of_files = status_kib(pid, "RssFile:")?;
    let now = status_kib(pid, "VmRSS:")?.saturating_sub(of_files);
    Some((now, now.max(status_kib(pid, "VmHWM:")?.saturating_sub(of_files))))
}

fn descriptors(pid: u64) -> Option<u64> {
    Some(std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as u64)
}

/// What the files below a folder take of the disk.
fn disk_kib(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(data) if data.is_dir() => disk_kib(&entry.path()),
            Ok(data) => data.blocks() / 2,
            // It went meanwhile.
            Err(_) => 0,
        })
        .sum()
}

impl Curve {
    /// Looks once; nothing if the worker is just being succeeded.
    pub fn look(
        &mut self,
        at: Duration,
        name: &'static str,
        host: &mut Host,
        server: &TestS3,
        steps: u64,
    ) {
        let to_state = |r: &&Logged| r.status < 300 && r.key.contains(".s3vol/v/");
        self.written += server.log().iter().filter(to_state).map(|r| r.bytes_in).sum::<u64>();
        let volumes = host.dir().join("state/volumes");
        let plugin = host.plugin();
        let [worker] = plugin.children("worker")[..] else { return };
        let rest = [plugin.pid()].into_iter().chain(plugin.children("driver"));
        let rest: Vec<u64> = rest.collect();
        let Some((memory, peak)) = own_kib(worker) else { return };
        self.most_memory = self.most_memory.max(peak);
        let local = |part: &str| {
            let folders = std::fs::read_dir(&volumes).into_iter().flatten().flatten();
            folders.map(|folder| disk_kib(&folder.path().join(part))).sum()
        };
        let (state, objects): (Vec<_>, Vec<_>) =
            server.objects("").into_iter().partition(|(key, _)| key.contains(".s3vol/"));
        let bytes = state.iter().map(|(_, object)| object.body.len() as u64).sum::<u64>();
        let values = [
            memory,
            descriptors(worker).unwrap_or(0),
            rest.iter().filter_map(|pid| own_kib(*pid)).map(|(memory, _)| memory).sum(),
            rest.iter().filter_map(|pid| descriptors(*pid)).sum(),
            local("log"),
            local("cache"),
            state.len() as u64,
            bytes >> 10,
            objects.len() as u64,
        ];
        let written = std::mem::take(&mut self.written);
        self.samples.push(Sample { at, state: bytes, written, host: name, steps, values });
    }

    /// The state has no more than what it holds and what was written into it of late: what it keeps for `kept` after
    /// it was replaced, and what waits to be collected.
    pub fn judge_state(&self, kept: Duration) -> Result<String, String> {
        let bound = |sample: &Sample| {
            let since = sample.at.saturating_sub(kept + COLLECTED_WITHIN);
            let late = self.samples.iter().filter(|s| (since..=sample.at).contains(&s.at));
            MOST_STATE + late.map(|s| s.written).sum::<u64>()
        };
        let worst = self.samples.iter().max_by_key(|s| s.state * 100 / bound(s));
        let Some(worst) = worst else { return Err("no samples".to_owned()) };
        let all = self.samples.iter().map(|s| s.written).sum::<u64>();
        let text = format!(
            "{} KiB were written into the state; it had {} KiB at minute {:.1}, and may have had {} KiB",
            all >> 10,
            worst.state >> 10,
            worst.at.as_secs_f64() / 60.0,
            bound(worst) >> 10
        );
        if worst.state > bound(worst) { Err(text) } else { Ok(text) }
    }

    /// Looks once where in the state its objects lie.
    pub fn look_into_state(&mut self, at: Duration, server: &TestS3) {
        let mut held: BTreeMap<String, Held> = BTreeMap::new();
        for (key, object) in server.objects("") {
            if key.contains(".s3vol/v/") {
                let folder = held.entry(folder(&key)).or_default();
                folder.objects += 1;
                folder.bytes += object.body.len() as u64;
            }
        }
        self.ends.push((at, held));
    }

    /// A table with a line for each folder of the state: what it held at the end of each leg.
    pub fn folders(&self) -> String {
        let mut text = String::from("| objects, KiB at minute |");
        for (at, _) in &self.ends {
            let _ = write!(text, " {:.1} |", at.as_secs_f64() / 60.0);
        }
        let _ = write!(text, "\n|---|{}", "---|".repeat(self.ends.len()));
        let all: std::collections::BTreeSet<&String> =
            self.ends.iter().flat_map(|(_, held)| held.keys()).collect();
        for name in all {
            let _ = write!(text, "\n| {name} |");
            for (_, held) in &self.ends {
                let Held { objects, bytes } = held.get(name).copied().unwrap_or_default();
                let _ = write!(text, " {objects}, {} |", bytes >> 10);
            }
        }
        text
    }

    /// A table with a line for each of these spans: the medians, and the largest memory of a worker.
    pub fn table(&self, span: Duration) -> String {
        let mut text = String::from("| minute | host | steps |");
        text.extend(MEASURES.iter().map(|(name, _)| format!(" {name} |")));
        text.push_str("\n|---|---|---|");
        text.push_str(&"---|".repeat(MEASURES.len()));
        let number = |sample: &Sample| sample.at.as_millis() / span.as_millis();
        for some in self.samples.chunk_by(|a, b| number(a) == number(b) && a.host == b.host) {
            let minute = some[0].at.as_secs_f64() / 60.0;
            let steps = some.last().map_or(0, |sample| sample.steps);
            let _ = write!(text, "\n| {minute:.0} | {} | {steps} |", some[0].host);
            text.extend(medians(some).map(|median| format!(" {median} |")));
        }
        let _ = write!(text, "\n\nthe most memory of a worker: {} KiB", self.most_memory);
        text
    }

    /// Compares the first half with the second, without what came before `warm`: nothing may grow.
    pub fn judge(&self, warm: Duration) -> Result<String, String> {
        let after: Vec<Sample> = self.samples.iter().filter(|s| s.at >= warm).cloned().collect();
        if after.len() < 10 {
            return Err(format!("only {} samples", after.len()));
        }
        let (first, second) = after.split_at(after.len() / 2);
        let mut text = String::from("| | first half | second half |\n|---|---|---|");
        let mut grown = Vec::new();
        for (((name, slack), before), after) in
            MEASURES.iter().zip(medians(first)).zip(medians(second))
        {
            let _ = write!(text, "\n| {name} | {before} | {after} |");
            if after > before + before / 5 + slack {
                grown.push(*name);
            }
        }
        if self.most_memory > MOST_MEMORY_KIB {
            grown.push("the most memory of a worker");
        }
        if grown.is_empty() { Ok(text) } else { Err(format!("{text}\n\nit grows: {grown:?}")) }
    }
}

fn medians(samples: &[Sample]) -> [u64; MEASURES.len()] {
    std::array::from_fn(|measure| {
        let mut values: Vec<u64> = samples.iter().map(|sample| sample.values[measure]).collect();
        values.sort_unstable();
        values[values.len() / 2]
    })
}

#[test]
fn a_curve_that_grows_is_told_from_one_that_swings() {
    let curve = |value: fn(u64) -> u64| Curve {
        samples: (0..200)
            .map(|n| Sample {
                at: Duration::from_secs(n * 10),
                state: value(n) << 10,
                written: 1 << 20,
                host: "a",
                steps: n,
                values: [value(n); MEASURES.len()],
            })
            .collect(),
        most_memory: 1,
        written: 0,
        ends: Vec::new(),
    };
    let warm = Duration::from_secs(100);
    curve(|n| 100_000 + n % 7 * 40_000).judge(warm).expect("it swings");
    // One moment of much is no growth, nor is falling.
    curve(|n| if n == 150 { 9_000_000 } else { 100_000 - n }).judge(warm).expect("it falls");
    let grown = curve(|n| 100_000 + n * 500).judge(warm).expect_err("it grows");
    assert!(MEASURES.iter().all(|(name, _)| grown.contains(name)), "{grown}");
    curve(|_| 60 << 10).judge_state(Duration::from_secs(300)).expect("written of late");
    let kept = curve(|n| (n + 40) << 10).judge_state(Duration::from_secs(300));
    assert!(kept.expect_err("all of it is kept").contains("minute 33.2"));
    let much = Curve { most_memory: MOST_MEMORY_KIB + 1, ..curve(|_| 5) };
    assert!(much.judge(warm).expect_err("too much").contains("memory of a worker\"]"));
}
