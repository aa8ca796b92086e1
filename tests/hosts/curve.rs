//! What a volume takes of its host and of its bucket over hours.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use crate::site::Host;
use crate::support::s3server::TestS3;

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

/// One moment.
#[derive(Debug, Clone)]
pub struct Sample {
    at: Duration,
    host: &'static str,
    steps: u64,
    values: [u64; MEASURES.len()],
}

#[derive(Debug, Default)]
pub struct Curve {
    samples: Vec<Sample>,
    most_memory: u64,
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
        let values = [
            memory,
            descriptors(worker).unwrap_or(0),
            rest.iter().filter_map(|pid| own_kib(*pid)).map(|(memory, _)| memory).sum(),
            rest.iter().filter_map(|pid| descriptors(*pid)).sum(),
            local("log"),
            local("cache"),
            state.len() as u64,
            state.iter().map(|(_, object)| object.body.len() as u64).sum::<u64>() >> 10,
            objects.len() as u64,
        ];
        self.samples.push(Sample { at, host: name, steps, values });
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
                host: "a",
                steps: n,
                values: [value(n); MEASURES.len()],
            })
            .collect(),
        most_memory: 1,
    };
    let warm = Duration::from_secs(100);
    curve(|n| 100_000 + n % 7 * 40_000).judge(warm).expect("it swings");
    // One moment of much is no growth, nor is falling.
    curve(|n| if n == 150 { 9_000_000 } else { 100_000 - n }).judge(warm).expect("it falls");
    let grown = curve(|n| 100_000 + n * 500).judge(warm).expect_err("it grows");
    assert!(MEASURES.iter().all(|(name, _)| grown.contains(name)), "{grown}");
    let much = Curve { most_memory: MOST_MEMORY_KIB + 1, ..curve(|_| 5) };
    assert!(much.judge(warm).expect_err("too much").contains("memory of a worker\"]"));
}
