//! `s3vol status --watch`: a table of the volumes that is written again and again.

use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use super::args::StatusArgs;
use super::tool::size;
use super::{reach, settings};
use crate::driver::{ControlClient, ControlError};
use crate::metrics::{Family, Group, names};

/// The plugin gives each of its workers 2 s.
const ANSWER: Duration = Duration::from_secs(5);
/// Seconds between two tables.
const LEAST: f64 = 0.1;
const MOST: f64 = 86_400.0;
/// Moves the cursor home and clears what is below.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Runs until Ctrl-C, SIGTERM, the end of whoever reads, or `--count` tables. Without a terminal the tables follow
/// each other.
pub(super) fn watch(args: &StatusArgs) -> anyhow::Result<()> {
    let sources = Sources::new(args)?;
    // What is no number becomes the least.
    let interval = if args.interval.is_nan() { LEAST } else { args.interval.clamp(LEAST, MOST) };
    let pace = Duration::from_secs_f64(interval);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut shown = Shown::default();
        let mut left = args.count;
        let mut reached = false;
        loop {
            let next = tokio::time::Instant::now() + pace;
            let groups = tokio::select! {
                groups = sources.groups() => groups,
                _ = interrupt.recv() => return Ok(()),
                _ = terminate.recv() => return Ok(()),
            };
            let groups = match groups {
                Ok(groups) => groups,
                // A plugin that is restarted is waited for.
                Err(error) if reached => {
                    eprintln!("s3vol: {error:#}");
                    Vec::new()
                }
                Err(error) => return Err(error),
            };
            reached = true;
            match write_block(&mut shown, &groups, args.json) {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                done => done?,
            }
            left = left.map(|left| left.saturating_sub(1));
            if left == Some(0) {
                return Ok(());
            }
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                _ = interrupt.recv() => return Ok(()),
                _ = terminate.recv() => return Ok(()),
            }
        }
    })
}

fn write_block(shown: &mut Shown, groups: &[Group], json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, groups).map_err(io::Error::from)?;
        return writeln!(out);
    }
    let table = shown.table(groups, Instant::now());
    if out.is_terminal() {
        write!(out, "{CLEAR}{table}")?;
    } else {
        writeln!(out, "{table}")?;
    }
    out.flush()
}

/// Who is asked: the plugin, or the processes of one state folder.
enum Sources {
    Plugin(Box<ControlClient>),
    Folder(PathBuf),
}

impl Sources {
    fn new(args: &StatusArgs) -> anyhow::Result<Self> {
        if args.state.is_none()
            && let Some(plugin) = reach::plugin_if_any(args.socket.as_deref())?
        {
            return Ok(Sources::Plugin(Box::new(plugin)));
        }
        let state = settings(args.state.clone())?.state;
        Ok(Sources::Folder(crate::driver::DriverSettings::control_sockets(&state)))
    }

    async fn groups(&self) -> anyhow::Result<Vec<Group>> {
        let folder = match self {
            Sources::Plugin(client) => return Ok(client.groups(ANSWER).await?),
            Sources::Folder(folder) => folder,
        };
        let sockets = super::reach::sockets(folder)?;
        let asked = sockets.iter().map(|socket| async move {
            match ControlClient::new(socket).group(ANSWER).await {
                Ok(group) => Some(group),
                // Left by a process that was killed.
                Err(ControlError::Unreachable { .. }) => None,
                Err(_) => {
                    let name = socket.file_stem().map(|name| name.to_string_lossy().into_owned());
                    Some(Group { volume: name, samples: Vec::new() })
                }
            }
        });
        let told = futures::future::join_all(asked).await;
        Ok(told.into_iter().flatten().collect())
    }
}

/// What counters said last, for the rates.
#[derive(Default)]
struct Shown {
    last: HashMap<String, (Instant, Counters)>,
}

/// What only grows, in the order of the columns.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Counters {
    operations: f64,
    read: f64,
    written: f64,
    requests: f64,
    errors: f64,
}

fn sum(group: &Group, family: &Family) -> f64 {
    group.samples.iter().filter(|s| s.name == family.name).map(|s| s.total()).sum()
}

impl Counters {
    fn of(group: &Group) -> Self {
        Counters {
            operations: sum(group, &names::OPERATION_SECONDS),
            read: sum(group, &names::READ_BYTES),
            written: sum(group, &names::WRITTEN_BYTES),
            requests: sum(group, &names::STORE_REQUESTS),
            errors: sum(group, &names::OPERATION_ERRORS),
        }
    }
}

impl Shown {
    fn table(&mut self, groups: &[Group], now: Instant) -> String {
        let mut text = format!(
            "{:<20} {:<10} {:>8} {:>10} {:>10} {:>8} {:>20} {:>16} {:>10} {:>6}\n",
            "VOLUME",
            "STATE",
            "OPS/s",
            "READ/s",
            "WRITE/s",
            "REQ/s",
            "UNCOMMITTED",
            "UNSETTLED",
            "CACHE",
            "ERRORS"
        );
        let mut volumes: Vec<(&str, &Group)> =
            groups.iter().filter_map(|g| Some((g.volume.as_deref()?, g))).collect();
        volumes.sort_by_key(|(name, _)| *name);
        let mut seen = HashMap::new();
        for (name, group) in &volumes {
            let counters = Counters::of(group);
            let before = self.last.get(*name).copied();
            // A process that was started anew counts from zero.
            let before = before.filter(|(_, before)| before.operations <= counters.operations);
            text.push_str(&row(name, group, counters, before, now));
            seen.insert((*name).to_owned(), (now, counters));
        }
        if volumes.is_empty() {
            text.push_str("no volume is served\n");
        }
        self.last = seen;
        text
    }
}

fn row(
    name: &str,
    group: &Group,
    counters: Counters,
    before: Option<(Instant, Counters)>,
    now: Instant,
) -> String {
    let is =
        |sample: &&crate::metrics::Sample| sample.name == names::STATE.name && sample.total() > 0.0;
    let state = group.samples.iter().find(is).and_then(|sample| sample.label("state"));
    let state = state.unwrap_or("no answer");
    let rate = |of: fn(&Counters) -> f64| {
        let (at, before) = before?;
        let seconds = now.saturating_duration_since(at).as_secs_f64();
        (seconds > 0.0).then(|| (of(&counters) - of(&before)).max(0.0) / seconds)
    };
    let number = |rate: Option<f64>| rate.map_or("-".to_owned(), |rate| format!("{rate:.1}"));
    let bytes = |rate: Option<f64>| rate.map_or("-".to_owned(), size);
    let (uncommitted, age) = (sum(group, &names::UNCOMMITTED), sum(group, &names::UNCOMMITTED_AGE));
    let (files, files_age) =
        (sum(group, &names::UNSETTLED_FILES), sum(group, &names::UNSETTLED_AGE));
    let lag = |what: String, age: f64| match age > 0.0 {
        true => format!("{what} ({})", span(age)),
        false => what,
    };
    format!(
        "{:<20} {:<10} {:>8} {:>10} {:>10} {:>8} {:>20} {:>16} {:>10} {:>6}\n",
        name,
        state,
        number(rate(|c| c.operations)),
        bytes(rate(|c| c.read)),
        bytes(rate(|c| c.written)),
        number(rate(|c| c.requests)),
        lag(size(uncommitted), age),
        lag(format!("{files}"), files_age),
        size(sum(group, &names::CACHE_SIZE)),
        counters.errors,
    )
}

/// Seconds as people read them: `3 s`, `5 min`, `2 h`, `4 d`.
fn span(seconds: f64) -> String {
    if seconds < 120.0 {
        format!("{seconds:.0} s")
    } else if seconds < 7200.0 {
        format!("{:.0} min", seconds / 60.0)
    } else if seconds < 172_800.0 {
        format!("{:.0} h", seconds / 3600.0)
    } else {
        format!("{:.0} d", seconds / 86_400.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Sample;

    fn group(read: u64) -> Group {
        Group {
            volume: Some("web".to_owned()),
            samples: vec![
                Sample::count(&names::STATE, 0).with("state", "fenced"),
                Sample::count(&names::STATE, 1).with("state", "active"),
                Sample::count(&names::READ_BYTES, read),
                Sample::count(&names::UNCOMMITTED, 3 << 20),
                Sample::number(&names::UNCOMMITTED_AGE, 4.2),
            ],
        }
    }

    #[test]
    fn rates_come_with_the_second_table() {
        let (mut shown, begun) = (Shown::default(), Instant::now());
        let first = shown.table(&[group(0)], begun);
        assert!(first.contains(&format!("{:<20} {:<10} {:>8}", "web", "active", "-")), "{first}");
        assert!(first.contains("3.0 MiB (4 s)"), "{first}");
        let second = shown.table(&[group(4 << 20)], begun + Duration::from_secs(2));
        assert!(second.contains(" 2.0 MiB"), "{second}");
        assert!(shown.table(&[], begun).contains("no volume is served"));
    }

    #[test]
    fn who_does_not_answer_is_shown_as_such() {
        let silent = Group { volume: Some("web".to_owned()), samples: Vec::new() };
        let table = Shown::default().table(&[silent], Instant::now());
        assert!(table.contains("no answer"), "{table}");
    }

    #[test]
    fn sizes_and_spans_are_short() {
        assert_eq!([size(0.0), size(1536.0), size(5e9)], ["0 B", "1.5 KiB", "4.7 GiB"]);
        assert_eq!(
            [span(3.2), span(600.0), span(9000.0), span(4e5)],
            ["3 s", "10 min", "2 h", "5 d"]
        );
    }
}
