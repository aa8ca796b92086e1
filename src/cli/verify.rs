//! `s3vol verify`: one line a path of a list.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};

use anyhow::{Context, bail};
use futures::stream::{self, StreamExt};

use super::args::VerifyArgs;
use super::tool::{Line, run, volume_at};
use crate::verify::{Expected, Verdict, expected, verify as judge};
use crate::worker::{Verified, verify_places};

/// Paths that are read at a time.
const PARALLEL: usize = 8;
/// No line of a list is longer, bytes: a path has at most 4,096, each of which may be escaped.
const LONGEST: u64 = 16 << 10;

/// Proves what the bucket holds. Returns the exit code.
pub fn verify(args: VerifyArgs) -> anyhow::Result<u8> {
    let at = volume_at(&args.volume)?;
    let name = args.manifest.display().to_string();
    let list: Box<dyn Read + Send> = match name.as_str() {
        "-" => Box::new(io::stdin()),
        _ => Box::new(File::open(&args.manifest).with_context(|| name.clone())?),
    };
    run(async move {
        let Verified { places, plain } = verify_places(&at, args.plain).await?;
        if let Some(why) = plain {
            eprintln!("s3vol: only plain objects count: {why}");
        }
        let mut counts: BTreeMap<&'static str, u64> = BTreeMap::new();
        let mut line = Line::new();
        let mut verdicts = stream::iter(lines(BufReader::new(list), name))
            .map(|one| {
                let places = &places;
                async move {
                    let one = one?;
                    let verdict = judge(places, &one).await?;
                    anyhow::Ok((one, verdict))
                }
            })
            .buffered(PARALLEL);
        let mut out = io::stdout();
        while let Some(judged) = verdicts.next().await {
            let (one, verdict) = judged?;
            *counts.entry(verdict.name()).or_default() += 1;
            if !(args.quiet && verdict.is_ok()) {
                line.clear();
                show(&mut out, &one, &verdict, args.json)?;
            }
            let done: u64 = counts.values().sum();
            line.show(&format!("{done} paths"));
        }
        drop(verdicts);
        line.clear();
        if let Some(rows) = places.rows {
            rows.close().await;
        }
        summary(&counts)
    })?
}

/// The last line goes beside the output, which may be another program's input.
fn summary(counts: &BTreeMap<&'static str, u64>) -> anyhow::Result<u8> {
    let all: u64 = counts.values().sum();
    if all == 0 {
        bail!("the list names no path");
    }
    let texts: Vec<String> = counts.iter().map(|(name, count)| format!("{count} {name}")).collect();
    eprintln!("s3vol: {all} paths: {}", texts.join(", "));
    Ok(if counts.keys().all(|name| *name == "ok") { 0 } else { 4 })
}

fn show(out: &mut impl Write, one: &Expected, verdict: &Verdict, json: bool) -> io::Result<()> {
    let path = String::from_utf8_lossy(&one.path);
    if !json {
        return writeln!(out, "{}: {verdict}", path.escape_debug());
    }
    let mut record =
        serde_json::json!({ "path": path, "verdict": verdict.name(), "expected": one.hash });
    match verdict {
        Verdict::Ok(note) => record["note"] = (*note).into(),
        Verdict::Differs { found, note } => {
            record["found"] = found.as_str().into();
            record["note"] = (*note).into();
        }
        Verdict::Missing => {}
        Verdict::Unreadable(why) => record["note"] = why.as_str().into(),
    }
    writeln!(out, "{record}")
}

/// The lines of a list, one in memory at a time.
fn lines(
    mut list: BufReader<Box<dyn Read + Send>>,
    name: String,
) -> impl Iterator<Item = anyhow::Result<Expected>> {
    let mut number = 0;
    std::iter::from_fn(move || {
        loop {
            number += 1;
            let mut line = Vec::new();
            let read = list.by_ref().take(LONGEST).read_until(b'\n', &mut line);
            match read.with_context(|| name.clone()) {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) => return Some(Err(error)),
            }
            let line = line.strip_suffix(b"\n").unwrap_or(&line);
            match expected(line).with_context(|| format!("line {number} of {name}")) {
                Ok(None) => {}
                Ok(Some(one)) => return Some(Ok(one)),
                Err(error) => return Some(Err(error)),
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_line_by_line_and_a_bad_line_is_named() {
        let hash = "0".repeat(64);
        let text = format!("{hash}  a\n\n{hash} *b\nnonsense\n");
        let list: Box<dyn Read + Send> = Box::new(io::Cursor::new(text.into_bytes()));
        let found: Vec<_> = lines(BufReader::new(list), "list".into()).collect();
        let paths: Vec<_> =
            found.iter().map(|one| one.as_ref().ok().map(|one| one.path.clone())).collect();
        assert_eq!(paths, [Some(b"a".to_vec()), Some(b"b".to_vec()), None]);
        let error = found[2].as_ref().unwrap_err();
        assert!(format!("{error:#}").contains("line 4 of list"), "{error:#}");
    }
}
