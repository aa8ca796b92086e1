//! `s3vol fsck`: a report for a person, or as JSON.

use std::io::Write;

use parking_lot::Mutex;

use super::args::FsckArgs;
use super::tool::{Line, agrees, run, volume_at};
use crate::fsck::{Finding, Outcome, Progress, Report};
use crate::worker::{self, FsckHow};

/// Checks a volume, and mends it if that is asked for. Returns the exit code.
pub fn fsck(args: FsckArgs) -> anyhow::Result<u8> {
    let at = volume_at(&args.volume)?;
    let line = Mutex::new(Line::new());
    let mut agree = |finding: &Finding| {
        line.lock().clear();
        let question = finding.mend.question().unwrap_or_default();
        args.yes
            || agrees(&format!(
                "{}: {}: {}\n  to repair it: {question}. Continue?",
                finding.kind.name(),
                finding.what,
                finding.detail
            ))
    };
    let mut watch = |Progress { stage, done }: Progress| {
        line.lock().show(&format!("{stage}: {done}"));
    };
    let how =
        FsckHow { data: args.data, all: args.json, repair: args.repair.then_some(&mut agree) };
    let report = run(worker::fsck(&at, how, &mut watch))?;
    line.lock().clear();
    let report = report?;
    let mut out = std::io::stdout().lock();
    match args.json {
        true => {
            let mut json = serde_json::to_value(&report)?;
            json["url"] = at.options.url.clone().into();
            json["exit_code"] = report.exit_code().into();
            serde_json::to_writer_pretty(&mut out, &json)?;
            writeln!(out)?;
        }
        false => out.write_all(text(&report).as_bytes())?,
    }
    Ok(report.exit_code())
}

/// For a person: every finding, then how many of each kind, then what was looked at.
fn text(report: &Report) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        text.push_str(&format!("{finding}\n"));
    }
    let more = report.counts.values().sum::<u64>() - report.findings.len() as u64;
    if more > 0 {
        text.push_str(&format!("and {more} more\n"));
    }
    for (kind, count) in &report.counts {
        let of_kind = report.findings.iter().filter(|finding| finding.kind == *kind);
        let mended = of_kind.filter(|finding| finding.outcome == Outcome::Mended).count();
        text.push_str(&format!("{count:>8} {}, {mended} repaired\n", kind.name()));
    }
    let checked = &report.checked;
    text.push_str(&format!(
        "looked at {} inodes, {} names, {} extents, {} segments, {} objects",
        checked.inodes, checked.names, checked.extents, checked.segments, checked.objects
    ));
    if checked.bytes_read > 0 {
        text.push_str(&format!(", {} MiB of content", checked.bytes_read.div_ceil(1 << 20)));
    }
    text.push('\n');
    if checked.unseen_objects > 0 {
        let objects = checked.unseen_objects;
        text.push_str(&format!("{objects} objects of others wait to be seen by a mount\n"));
    }
    for (queue, count) in &checked.waiting {
        text.push_str(&format!("waiting: {count} {queue}\n"));
    }
    for what in &report.not_judged {
        text.push_str(&format!("not judged: {what}\n"));
    }
    text.push_str(match report.exit_code() {
        0 => "clean\n",
        1 => "repaired\n",
        _ => "something is left\n",
    });
    text
}
