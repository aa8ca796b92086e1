//! `s3vol rebuild`: says what would be lost, asks, does it, and says what was.

use std::io::Write;

use parking_lot::Mutex;

use super::EXIT_NOT_JUDGED;
use super::args::RebuildArgs;
use super::tool::{Line, agrees, run, volume_at};
use crate::worker::{Rebuilt, plan_rebuild};

/// Makes a new state from the objects. Returns the exit code.
pub fn rebuild(args: RebuildArgs) -> anyhow::Result<u8> {
    let at = volume_at(&args.volume)?;
    let line = Mutex::new(Line::new());
    let done = run(async {
        let plan = plan_rebuild(&at).await?;
        eprintln!("{}", plan.plan());
        if !args.yes && !agrees("Continue?") {
            eprintln!("s3vol: nothing was changed; with --yes it does not ask");
            return anyhow::Ok(None);
        }
        let mut told = |what: &str, done: u64| line.lock().show(&format!("{what}: {done}"));
        Ok(Some(plan.run(&mut told).await?))
    })?;
    line.lock().clear();
    let Some(rebuilt) = done? else { return Ok(EXIT_NOT_JUDGED) };
    std::io::stdout().lock().write_all(text(&rebuilt).as_bytes())?;
    Ok(if rebuilt.lost.is_empty() && rebuilt.links.apart.is_empty() { 0 } else { 4 })
}

fn text(rebuilt: &Rebuilt) -> String {
    let Rebuilt { id, found, links, .. } = rebuilt;
    let mut text = match rebuilt.before {
        true => format!("the volume has the state {id} now, which an earlier rebuild made\n"),
        false => format!(
            "the volume has the state {id} now: {} files, {} directories, {} symbolic links, {} special files; {} \
             more names of files\n",
            found.files, found.directories, found.symlinks, found.special, links.joined
        ),
    };
    if let Some(kept) = &rebuilt.kept {
        text.push_str(&format!("the old state is kept in {kept}\n"));
    }
    for lost in &rebuilt.lost {
        text.push_str(&format!("lost: {lost}\n"));
    }
    if rebuilt.more_lost > 0 {
        text.push_str(&format!("lost: the same of {} more\n", rebuilt.more_lost));
    }
    for key in &links.apart {
        text.push_str(&format!(
            "lost: {key} was another name of a file, and shows another state of it; it is a file of its own now\n"
        ));
    }
    if !rebuilt.told {
        text.push_str("lost: whatever was not at rest; no records are left that could name it\n");
    }
    if links.silent > 0 {
        text.push_str(&format!(
            "lost: hard links among {} files whose objects do not say which file they belong to\n",
            links.silent
        ));
    }
    text.push_str(
        "lost of every file: times but that of its last change, extended attributes that no object carries, holes\n",
    );
    text
}
