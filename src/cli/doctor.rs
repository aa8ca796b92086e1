//! `s3vol doctor`: what may be wrong, and what to do about it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use parking_lot::Mutex;

use super::args::{DoctorArgs, options};
use super::reach::{plugin_sockets, sockets};
use super::status::served;
use super::tool::{Line, run};
use super::{environment, settings};
use crate::config::{BucketUrl, ConfigErrors, VolumeOptions};
use crate::doctor::{Bundle, Finding, Grade, Secrets, Subject, examine};
use crate::driver::{ControlClient, DriverSettings};
use crate::worker::{EventPage, Since};

/// What happened is told at once.
const EVENTS: Duration = Duration::from_secs(2);
/// Something is bad.
const EXIT_BAD: u8 = 4;

/// Prints one line a finding. Returns the exit code.
pub fn doctor(args: DoctorArgs) -> anyhow::Result<u8> {
    let config = settings(args.state.clone())?;
    let given = options(&args.options)?;
    let url = match &args.url {
        Some(url) => Some(BucketUrl::parse(url).map_err(|p| ConfigErrors::one("URL", p))?),
        None if config.home.embedded => None,
        None => Some(config.home.url.clone()),
    };
    let bucket = match url {
        Some(url) => {
            // Any prefix will do to read the store's options.
            let below = url.join("probe").to_string();
            let options = VolumeOptions::parse_for_url(&below, &given, &config.defaults)?;
            Some((url, options))
        }
        None if !given.is_empty() => {
            return Err(ConfigErrors::one("-o", "options of a store need its URL").into());
        }
        None => None,
    };
    let plugins = match args.socket {
        Some(socket) => vec![socket],
        None => plugin_sockets().into_iter().filter(|socket| socket.exists()).collect(),
    };
    let subject = Subject {
        state: config.state.clone(),
        mounts: config.mounts.clone(),
        docker: args.docker,
        plugins: plugins.clone(),
        bucket,
    };
    // Before it takes minutes: the file may be there already.
    let file = args
        .bundle
        .as_deref()
        .map(|path| Bundle::create(path).with_context(|| path.display().to_string()));
    let file = file.transpose()?;
    let line = Mutex::new(Line::new());
    let progress = |text: &str| line.lock().show(text);
    let findings = run(examine(&subject, &progress))?;
    line.lock().clear();
    let environment = environment();
    let secrets = Secrets::of(&environment);
    let findings: Vec<Finding> =
        findings.into_iter().map(|finding| finding.without(&secrets)).collect();
    let mut out = std::io::stdout().lock();
    match args.json {
        true => {
            serde_json::to_writer_pretty(&mut out, &findings)?;
            writeln!(out)?;
        }
        false => write!(out, "{}", table(&findings))?,
    }
    if let (Some(file), Some(path)) = (file, &args.bundle) {
        let status = match served(&config.state) {
            Ok((served, silent)) => {
                let served = serde_json::to_string_pretty(&served)?;
                [&[served], silent.as_slice()].concat().join("\n")
            }
            Err(error) => format!("{error:#}"),
        };
        let bundle = Bundle {
            findings: &findings,
            status,
            events: events(&plugins, &config.state).unwrap_or_else(|e| format!("{e:#}")),
            state: &config.state,
            environment: &environment,
        };
        bundle.write(file).with_context(|| path.display().to_string())?;
        eprintln!("written to {}; look at it before you send it to anybody", path.display());
    }
    let bad = findings.iter().any(|finding| finding.grade == Grade::Bad);
    Ok(if bad { EXIT_BAD } else { 0 })
}

/// What these plugins remember to have happened, or, without one, the processes of the state folder.
fn events(plugins: &[PathBuf], state: &Path) -> anyhow::Result<String> {
    let mut told = ask_events(plugins)?;
    if told.is_empty() {
        let folder = DriverSettings::control_sockets(state);
        told = ask_events(&sockets(&folder).with_context(|| folder.display().to_string())?)?;
    }
    let lines: Result<Vec<String>, _> =
        told.iter().flat_map(|page| &page.events).map(serde_json::to_string).collect();
    Ok(lines?.join("\n"))
}

fn ask_events(sockets: &[PathBuf]) -> anyhow::Result<Vec<EventPage>> {
    let pages = run(async {
        let ask = sockets.iter().map(|socket| async move {
            // One that remembers nothing waits for something to tell.
            ControlClient::new(socket).events(&Since::start(), EVENTS).await.ok()
        });
        futures::future::join_all(ask).await
    })?;
    Ok(pages.into_iter().flatten().collect())
}

fn table(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.about.len()).max().unwrap_or(0);
    let mut text = String::new();
    for finding in findings {
        let grade = match finding.grade {
            Grade::Good => "good",
            Grade::Note => "note",
            Grade::Bad => "BAD ",
        };
        let (about, said) = (finding.about, &finding.text);
        text.push_str(&format!("{grade}  {about:<width$}  {said}\n"));
        if let Some(cure) = &finding.cure {
            text.push_str(&format!("      {:<width$}  -> {cure}\n", ""));
        }
    }
    let count = |grade| findings.iter().filter(|finding| finding.grade == grade).count();
    let (bad, notes) = (count(Grade::Bad), count(Grade::Note));
    text.push_str(&match (bad, notes) {
        (0, 0) => "nothing is wrong\n".to_owned(),
        (0, notes) => format!("nothing is wrong; {notes} to note\n"),
        (bad, notes) => format!("{bad} bad, {notes} to note\n"),
    });
    text
}
