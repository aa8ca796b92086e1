//! `s3vol settle`: brings a volume to rest now, and waits for it.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use serde_json::json;

use super::args::{NamedArgs, SettleArgs, options};
use super::mount::local_spec;
use super::tool::state_of;
use super::{reach, settings};
use crate::clock::Deadline;
use crate::config::{PluginConfig, VolumeOptions};
use crate::driver::ControlClient;
use crate::store::Known;
use crate::worker::{SettleReply, WorkerSpec, settle_volume};

/// An answer comes after a slice of settling.
const ANSWER: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_secs(1);
/// So often in a row nothing could be settled: then nothing can.
const STUCK: u32 = 3;
/// As `s3vol mount` ends where not everything is at rest.
const LEFT: u8 = 3;

/// Who settles.
enum Place {
    Worker(ControlClient),
    Plugin(ControlClient),
    /// Nobody serves the volume here.
    Ourselves(Box<WorkerSpec>),
}

/// Returns the exit code: 0 when everything is at rest, or wants to stay in motion; 3 when something is left.
pub fn settle(args: SettleArgs) -> anyhow::Result<u8> {
    let config = settings(args.named.state.clone())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut waits = Waits::new(args.timeout.map(Duration::from_secs));
    let last = match runtime.block_on(find(&args.named, &config))? {
        Place::Ourselves(spec) => {
            // A name lookup that hangs must not hold the command.
            runtime.shutdown_timeout(Duration::from_secs(1));
            settle_volume(&spec, |reply| waits.pause(reply))?
        }
        served => runtime.block_on(async {
            loop {
                let reply: SettleReply = match &served {
                    Place::Worker(worker) => worker.settle(ANSWER).await?,
                    Place::Plugin(plugin) => {
                        let name = json!({ "Name": args.named.volume });
                        plugin.call("/S3vol.Settle", &name, ANSWER).await?
                    }
                    Place::Ourselves(_) => bail!("nobody serves the volume"),
                };
                match waits.pause(&reply) {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => return Ok(reply),
                }
            }
        })?,
    };
    waits.end();
    let (text, code) = outcome(&last);
    writeln!(std::io::stdout(), "{text}")?;
    Ok(code)
}

async fn find(args: &NamedArgs, config: &PluginConfig) -> anyhow::Result<Place> {
    if !reach::is_url(&args.volume) {
        let served = reach::serving(&config.state, |status| status.name == args.volume).await?;
        return Ok(match served {
            Some((worker, _)) => Place::Worker(worker),
            None => Place::Plugin(reach::plugin(args.socket.as_deref(), &args.volume)?),
        });
    }
    let given = options(&args.options)?;
    let mut volume = VolumeOptions::parse_for_url(&args.volume, &given, &config.defaults)?;
    if volume.readonly {
        bail!("settling writes to the bucket; leave readonly out");
    }
    if let Some((worker, _)) =
        reach::serving(&config.state, |status| status.url == volume.url).await?
    {
        return Ok(Place::Worker(worker));
    }
    let known = Known::of_host(&config.state);
    let id = state_of(&mut volume, &args.volume, &known).await?;
    let spec = local_spec(config, &args.volume, id, volume, PathBuf::new()).await?;
    Ok(Place::Ourselves(Box::new(spec)))
}

/// What was said last, and for how long it is waited.
struct Waits {
    end: Option<Deadline>,
    stuck: u32,
    said: String,
    terminal: bool,
}

impl Waits {
    fn new(timeout: Option<Duration>) -> Self {
        Waits {
            end: timeout.map(Deadline::after),
            stuck: 0,
            said: String::new(),
            terminal: std::io::stderr().is_terminal(),
        }
    }

    /// Shows how far it is; `None` when it is not worth to ask again.
    fn pause(&mut self, reply: &SettleReply) -> Option<Duration> {
        self.show(reply);
        self.stuck = if reply.stuck && !reply.late { self.stuck + 1 } else { 0 };
        let done = reply.unsettled_files == 0 && reply.error.is_none();
        let late = self.end.is_some_and(|end| end.passed());
        if done || late || reply.never && reply.stuck || self.stuck >= STUCK {
            return None;
        }
        Some(if reply.stuck || reply.error.is_some() { PAUSE } else { Duration::ZERO })
    }

    fn show(&mut self, reply: &SettleReply) {
        let mut line = format!("{} to settle", files(reply));
        if reply.uncommitted_bytes > 0 {
            line.push_str(&format!(", {} bytes to commit", reply.uncommitted_bytes));
        }
        if reply.late {
            line.push_str(", of which some wait for requests that may still arrive");
        }
        if let Some(error) = &reply.error {
            line.push_str(&format!(": {error}"));
        }
        if line == self.said {
            return;
        }
        // Progress is for whoever looks; one who does not misses nothing.
        let mut out = std::io::stderr().lock();
        let _ = match self.terminal {
            true => write!(out, "\r\x1b[K{line}"),
            false => writeln!(out, "{line}"),
        };
        // As above.
        let _ = out.flush();
        self.said = line;
    }

    fn end(&self) {
        if self.terminal {
            eprintln!();
        }
    }
}

fn files(reply: &SettleReply) -> String {
    match reply.unsettled_bytes {
        Some(bytes) => format!("{} files with {bytes} bytes", reply.unsettled_files),
        None => format!("{} files", reply.unsettled_files),
    }
}

/// The last line or lines, and the exit code.
fn outcome(reply: &SettleReply) -> (String, u8) {
    match (&reply.error, reply.unsettled_files) {
        (None, 0) => ("everything is at rest".to_owned(), 0),
        (None, _) if reply.never => {
            (format!("{} stay in motion, as settle=never wants it", files(reply)), 0)
        }
        (error, _) => {
            let mut text = format!("{} are not at rest", files(reply));
            if let Some(error) = error {
                text.push_str(&format!(": {error}"));
            } else if reply.late {
                text.push_str("; names wait for requests that may still arrive");
            }
            for reason in &reply.unsettleable {
                text.push_str(&format!("\n  stays in motion: {reason}"));
            }
            (text, LEFT)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_asked_again_as_long_as_that_helps() {
        let mut waits = Waits::new(None);
        let some = SettleReply { unsettled_files: 2, ..SettleReply::default() };
        assert_eq!(waits.pause(&some), Some(Duration::ZERO));
        let stuck = SettleReply { stuck: true, ..some.clone() };
        assert_eq!(waits.pause(&stuck), Some(PAUSE));
        let late = SettleReply { late: true, ..stuck.clone() };
        for _ in 0..10 {
            assert_eq!(waits.pause(&late), Some(PAUSE));
        }
        assert_eq!(waits.pause(&stuck), Some(PAUSE));
        assert_eq!(waits.pause(&stuck), Some(PAUSE));
        assert_eq!(waits.pause(&stuck), None);
        let never = SettleReply { never: true, ..stuck.clone() };
        assert_eq!((Waits::new(None).pause(&never), outcome(&never).1), (None, 0));
        assert_eq!(Waits::new(Some(Duration::ZERO)).pause(&some), None);
        let done = SettleReply::default();
        assert_eq!((Waits::new(None).pause(&done), outcome(&done).1), (None, 0));
        let why = SettleReply { unsettleable: vec!["v/x: too long".into()], ..stuck };
        assert_eq!(outcome(&why).1, LEFT);
        assert!(outcome(&why).0.contains("v/x: too long"));
    }
}
