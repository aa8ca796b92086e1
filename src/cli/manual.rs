//! Man pages and completions, made of the command line's own description and of the table of settings, so that
//! neither can say anything else than the program does.
//!
//! Packages and `make install` call this; nothing of it is read again.

use std::io::Write;
use std::path::Path;

use anyhow::Context;
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

use super::args::{HELPER, command_line};
use crate::config::schema::{PLUGIN_SETTINGS, SETTINGS, Scope, Setting};

const PROGRAM: &str = "s3vol";
const MANUAL: &str = "s3vol";

/// Writes all pages into a folder, which is made if it is not there.
pub fn man(folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    for (name, page) in pages()? {
        let path = folder.join(name);
        std::fs::write(&path, page).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// Prints the completions for a shell.
pub fn completions(shell: Shell) -> anyhow::Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut people(command_line()), PROGRAM, &mut text);
    Ok(std::io::stdout().write_all(&text)?)
}

/// File names and texts: the program, each of its commands, and the helper of mount(8).
fn pages() -> std::io::Result<Vec<(String, Vec<u8>)>> {
    let mut line = people(command_line());
    line.build();
    let mut pages = vec![program(&line)?, helper()?];
    for command in line.get_subcommands() {
        commands(command, &mut pages)?;
    }
    Ok(pages)
}

/// What people call: the roles that processes of ours have are nobody's business.
fn people(line: clap::Command) -> clap::Command {
    let about = line.get_about().cloned().unwrap_or_default();
    let shown = line.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    clap::Command::new(PROGRAM)
        .about(about)
        .version(env!("CARGO_PKG_VERSION"))
        .disable_help_subcommand(true)
        .subcommand_required(true)
        .subcommands(shown)
}

fn commands(command: &clap::Command, pages: &mut Vec<(String, Vec<u8>)>) -> std::io::Result<()> {
    let man = page_of(command, "1");
    let mut page = Vec::new();
    man.render(&mut page)?;
    let mut also = Roff::new();
    also.control("SH", ["SEE ALSO"]);
    also.text([bold("s3vol"), roman("(1)")]);
    also.to_writer(&mut page)?;
    pages.push((man.get_filename(), page));
    for below in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        commands(below, pages)?;
    }
    Ok(())
}

fn page_of(command: &clap::Command, section: &str) -> Man {
    let source = format!("{PROGRAM} {}", env!("CARGO_PKG_VERSION"));
    Man::new(command.clone()).section(section).date(date()).source(source).manual(MANUAL)
}

/// The day of the commit that packages are made of, as they say it everywhere (`SOURCE_DATE_EPOCH`, in seconds).
fn date() -> String {
    let given = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.parse().ok());
    let at = given.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    at.unwrap_or(jiff::Timestamp::UNIX_EPOCH).strftime("%Y-%m-%d").to_string()
}

/// `s3vol(1)`.
fn program(line: &clap::Command) -> std::io::Result<(String, Vec<u8>)> {
    let man = page_of(line, "1");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    let mut roff = Roff::new();
    roff.control("SH", ["DESCRIPTION"]);
    paragraphs(&mut roff, DESCRIPTION);
    roff.to_writer(&mut page)?;
    man.render_subcommands_section(&mut page)?;
    man.render_options_section(&mut page)?;
    let mut roff = Roff::new();
    volume_options(&mut roff);
    roff.control("SH", ["ENVIRONMENT"]);
    for setting in PLUGIN_SETTINGS {
        let meaning = format!("{} Default: {}.", setting.meaning, quoted(setting.default));
        item(&mut roff, vec![bold(setting.name)], &meaning);
    }
    for (names, meaning) in ENVIRONMENT {
        item(&mut roff, inline(names), meaning);
    }
    list(&mut roff, "FILES", FILES);
    list(&mut roff, "EXIT STATUS", EXITS);
    roff.control("SH", ["EXAMPLES"]);
    examples(&mut roff, EXAMPLES);
    roff.control("SH", ["SEE ALSO"]);
    let mut also = vec![bold(HELPER), roman("(8), "), bold("mount"), roman("(8), ")];
    also.extend([bold("fstab"), roman("(5), "), bold("docker-volume-create"), roman("(1)")]);
    roff.text(also);
    roff.control("PP", []);
    roff.text(inline(
        "The pages in `/usr/share/doc/s3vol/docs` of the package, `docs/` of the source.",
    ));
    roff.to_writer(&mut page)?;
    Ok((man.get_filename(), page))
}

/// `mount.fuse.s3vol(8)`.
fn helper() -> std::io::Result<(String, Vec<u8>)> {
    let mut roff = Roff::new();
    let source = format!("{PROGRAM} {}", env!("CARGO_PKG_VERSION"));
    let date = date();
    roff.control("TH", [HELPER, "8", date.as_str(), source.as_str(), MANUAL]);
    roff.control("SH", ["NAME"]);
    roff.text([roman(format!("{HELPER} - mount a volume that lives in a bucket"))]);
    roff.control("SH", ["SYNOPSIS"]);
    roff.text([
        bold("mount -t fuse.s3vol"),
        roman(" [-o "),
        italic("OPTION"),
        roman("[,...]] "),
        italic("URL DIR"),
    ]);
    roff.control("SH", ["DESCRIPTION"]);
    paragraphs(&mut roff, HELPER_DESCRIPTION);
    list(&mut roff, "MOUNT OPTIONS", MOUNT_OPTIONS);
    volume_options(&mut roff);
    list(&mut roff, "FILES", FILES);
    list(&mut roff, "EXIT STATUS", HELPER_EXITS);
    roff.control("SH", ["EXAMPLES"]);
    examples(&mut roff, HELPER_EXAMPLES);
    roff.control("SH", ["SEE ALSO"]);
    let also = ["s3vol", "(1), ", "s3vol-mount", "(1), ", "mount", "(8), ", "fstab", "(5)"];
    let also = also.chunks(2).flat_map(|pair| [bold(pair[0]), roman(pair[1])]);
    roff.text(also.collect::<Vec<_>>());
    let mut page = Vec::new();
    roff.to_writer(&mut page)?;
    Ok((format!("{HELPER}.8"), page))
}

fn volume_options(roff: &mut Roff) {
    roff.control("SH", ["VOLUME OPTIONS"]);
    paragraphs(roff, VOLUME_OPTIONS);
    for setting in SETTINGS {
        item(roff, vec![bold(setting.name), roman("="), italic(setting.kind)], &about(setting));
    }
}

fn about(setting: &Setting) -> String {
    let scope = match setting.scope {
        Scope::Default => "",
        Scope::One => " Only for one volume.",
    };
    format!("{}{scope} Default: {}.", setting.meaning, quoted(setting.default))
}

/// A default is a value, or words about one.
fn quoted(default: &str) -> String {
    let words = default.contains(' ') || default.contains('`');
    if words { default.to_owned() } else { format!("`{default}`") }
}

fn list(roff: &mut Roff, heading: &str, items: &[(&str, &str)]) {
    roff.control("SH", [heading]);
    for (name, meaning) in items {
        item(roff, inline(name), meaning);
    }
}

fn item(roff: &mut Roff, name: Vec<Inline>, meaning: &str) {
    roff.control("TP", []);
    roff.text(name);
    roff.text(inline(meaning));
}

fn paragraphs(roff: &mut Roff, texts: &[&str]) {
    for (at, text) in texts.iter().enumerate() {
        // A heading begins a paragraph.
        if at > 0 {
            roff.control("PP", []);
        }
        roff.text(inline(text));
    }
}

fn examples(roff: &mut Roff, examples: &[(&str, &[&str])]) {
    for (at, (what, lines)) in examples.iter().enumerate() {
        if at > 0 {
            roff.control("PP", []);
        }
        roff.text(inline(what));
        roff.control("PP", []);
        roff.control("RS", ["4"]);
        roff.control("nf", []);
        for line in *lines {
            roff.text([roman(*line)]);
        }
        roff.control("fi", []);
        roff.control("RE", []);
    }
}

/// `code` bold, *words* in italics, as the texts of the schema have them.
fn inline(text: &str) -> Vec<Inline> {
    let mut parts = Vec::new();
    for (at, part) in text.split('`').enumerate() {
        match at % 2 {
            1 => parts.push(bold(part)),
            _ => parts.extend(part.split('*').enumerate().map(|(at, part)| match at % 2 {
                1 => italic(part),
                _ => roman(part),
            })),
        }
    }
    parts
}

const DESCRIPTION: &[&str] = &[
    "s3vol keeps each volume in a bucket. While programs use a volume it is a POSIX file system, and `fsync` is durable \
     in the bucket when it returns; at rest every file is one plain object that any S3 tool reads and writes.",
    "`s3vol plugin` serves volumes to Docker, `s3vol mount` and `mount -t fuse.s3vol` mount one without Docker. The \
     other commands look at volumes, or repair them. Each has a page of its own, such as s3vol-mount(1).",
];

const VOLUME_OPTIONS: &[&str] = &[
    "Given as `-o name=value` to `docker volume create -d s3vol`, `s3vol mount` and mount(8). `S3VOL_<NAME>` in the \
     environment is the default of all volumes. Sizes: `512MiB`, `10g`, or bytes; durations: `500ms`, `5s`, `24h`, or \
     seconds; flags: `true` or nothing, `false`.",
];

const ENVIRONMENT: &[(&str, &str)] = &[
    ("`S3VOL_<OPTION>`", "The default of a volume option, such as `S3VOL_COMMIT=2s`."),
    (
        "`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, `AWS_REGION`, `AWS_ENDPOINT_URL`",
        "Credentials and place of S3 buckets. Without keys the role of the machine, task or pod is used. \
         `docs/STORES.md` lists all names.",
    ),
    ("`AZURE_STORAGE_ACCOUNT_NAME`, `AZURE_STORAGE_ACCOUNT_KEY`", "The same for Azure."),
    ("`GOOGLE_SERVICE_ACCOUNT_KEY`", "The same for Google."),
];

const FILES: &[(&str, &str)] = &[
    (
        "`/var/lib/s3vol`",
        "Local state of mounts made by root and of s3vol.service: logs of what is not in the bucket yet, and caches. Other \
         users have it in `~/.local/state/s3vol`. Do not delete it by hand while it holds changes that are not in the bucket.",
    ),
    (
        "`/etc/s3vol/environment`",
        "Settings and keys of s3vol.service, and of units that name it. Readable by root only.",
    ),
    (
        "`/etc/s3vol/credentials/NAME`",
        "Keys of the credentials that volumes name by `-o credentials=NAME`. Readable by root only.",
    ),
    (SOCKET_ITEM, "The socket on which dockerd finds the plugin."),
    ("`/run/s3vol`", "Where s3vol.service mounts its volumes."),
];
const SOCKET_ITEM: &str = "`/run/docker/plugins/s3vol.sock`";

const EXITS: &[(&str, &str)] = &[
    (
        "`0`",
        "It was done. Of a mount: everything is at rest, or in the bucket and left to the mount that follows.",
    ),
    ("`1`", "It failed; the last line says why. Of `s3vol fsck`: it was repaired."),
    (
        "`3`",
        "Of a mount and of `s3vol settle`: everything is in the bucket, but not everything is a plain object yet.",
    ),
    (
        "`4`",
        "Of a mount: something is not in the bucket, and is kept for the next mount on this host. Of tools that judge: \
         something is left, or bad.",
    ),
    ("`5`", "Of a mount: another host took the volume first."),
    ("`8`", "Of tools that judge: it could not be looked at."),
    ("`64`", "Wrong usage or a wrong setting."),
];

const EXAMPLES: &[(&str, &[&str])] = &[
    (
        "Mount a volume until Ctrl-C, and look at it from another terminal:",
        &["s3vol mount s3://my-bucket/data /mnt/data", "s3vol status --watch"],
    ),
    (
        "Ask a bucket what it honours, before anything is trusted to it:",
        &["s3vol doctor s3://my-bucket"],
    ),
    (
        "A volume of Docker's, with a quota:",
        &[
            "docker volume create -d s3vol -o size=100g data",
            "docker run --rm -v data:/data alpine ls /data",
        ],
    ),
    (
        "Bring it to rest now, and check it:",
        &["s3vol settle data", "s3vol fsck s3://my-bucket/team/data"],
    ),
];

const HELPER_DESCRIPTION: &[&str] = &[
    "mount(8) and systemd start `mount.fuse.s3vol` for file systems of the type `fuse.s3vol`. It does what \
     `s3vol mount --detach` does: it returns once the volume is mounted, and a process of its own serves it until `umount`.",
    "Credentials come from the environment of mount(8). At boot that has none, so such a mount needs a machine with a \
     role; elsewhere let a service with an `EnvironmentFile` run `s3vol mount`.",
    "After `umount` what was written goes to the bucket. The last line of `volumes/<uuid>/worker.log` in the state folder \
     says what is left.",
];

const MOUNT_OPTIONS: &[(&str, &str)] = &[
    ("`ro`", "The volume option `readonly`: only read, and follow the host that writes."),
    (
        "`nosuid`, `noexec`, `sync`",
        "As in mount(8), and enforced by the kernel. `user` implies the first two.",
    ),
    (
        "`rw`, `nodev`, `noatime`, `relatime`, `auto`, `noauto`, `nofail`, `_netdev`, `x-...`",
        "Taken, and without a meaning of their own: device nodes never work, and access times are kept as with `relatime`.",
    ),
    ("`dev`, `dirsync`, `strictatime`, `lazytime`", "Refused."),
];

const HELPER_EXITS: &[(&str, &str)] = &[
    ("`0`", "The volume is mounted."),
    ("`1`", "It could not be mounted; the last line says why."),
    ("`64`", "Wrong usage or a wrong option."),
];

const HELPER_EXAMPLES: &[(&str, &[&str])] = &[
    ("By hand:", &["mount -t fuse.s3vol -o commit=2s s3://my-bucket/data /mnt/data"]),
    (
        "In fstab(5), on a machine with a role:",
        &["s3://my-bucket/data  /mnt/data  fuse.s3vol  _netdev,nofail,commit=2s  0  0"],
    ),
];

#[cfg(test)]
mod tests {
    use super::super::args::SOCKET;
    use super::*;

    fn page(name: &str) -> String {
        let (_, page) = pages().unwrap().into_iter().find(|(page, _)| page == name).unwrap();
        // As it is read: without the marks for fonts and hyphens.
        let text = String::from_utf8(page).unwrap();
        ["\\fB", "\\fI", "\\fR", "\\"].iter().fold(text, |text, mark| text.replace(mark, ""))
    }

    /// The visible commands, with the names of their pages.
    fn all() -> Vec<(String, clap::Command)> {
        fn below(command: &clap::Command, found: &mut Vec<(String, clap::Command)>) {
            for command in command.get_subcommands() {
                let name = command.get_display_name().unwrap_or_else(|| command.get_name());
                found.push((format!("{name}.1"), command.clone()));
                below(command, found);
            }
        }
        let mut line = people(command_line());
        line.build();
        let mut found = Vec::new();
        below(&line, &mut found);
        found
    }

    #[test]
    fn every_option_of_every_command_has_a_line() {
        let mut seen = 0;
        for (name, command) in all() {
            let page = page(&name);
            for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
                let shown = match arg.get_long() {
                    Some(long) => format!("--{long}"),
                    None => arg.get_value_names().unwrap()[0].to_string(),
                };
                assert!(page.contains(&shown), "{name} does not name {shown}");
                seen += 1;
            }
        }
        assert!(seen > 40, "only {seen} options were found");
    }

    #[test]
    fn every_setting_is_in_the_pages() {
        let (program, helper) = (page("s3vol.1"), page("mount.fuse.s3vol.8"));
        for setting in SETTINGS {
            let line = format!("\n{}={}\n", setting.name, setting.kind);
            assert!(program.contains(&line) && helper.contains(&line), "{}", setting.name);
        }
        for setting in PLUGIN_SETTINGS {
            assert!(program.contains(&format!("\n{}\n", setting.name)), "{}", setting.name);
        }
        for (name, command) in all().iter().filter(|(_, command)| !command.has_subcommands()) {
            assert!(!page(name).is_empty() && command.get_about().is_some(), "{name}");
        }
        assert!(program.contains(SOCKET) && SOCKET_ITEM.contains(SOCKET));
    }

    #[test]
    fn the_pages_name_no_role_of_a_process() {
        let program = page("s3vol.1");
        assert!(program.contains("s3vol-mount(1)"));
        for hidden in command_line().get_subcommands().filter(|command| command.is_hide_set()) {
            let name = hidden.get_name();
            assert!(!program.contains(&format!("s3vol-{name}(1)")), "{name}");
            assert!(!pages().unwrap().iter().any(|(page, _)| *page == format!("s3vol-{name}.1")));
        }
    }

    #[test]
    fn completions_know_the_commands_that_people_call() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut people(command_line()), PROGRAM, &mut text);
            let text = String::from_utf8(text).unwrap();
            for known in ["mount", "takeover", "--interval", "restore"] {
                let known =
                    if shell == Shell::Fish { known.trim_start_matches('-') } else { known };
                assert!(text.contains(known), "{shell}: {known}");
            }
            assert!(!text.contains("nobody serves them"), "{shell}");
            assert!(!text.contains("completions"), "{shell}");
        }
    }

    #[test]
    fn each_page_has_a_date_and_a_version_in_its_heading() {
        for (name, page) in pages().unwrap() {
            let page = String::from_utf8(page).unwrap();
            let heading = page.lines().find(|line| line.starts_with(".TH ")).unwrap();
            let version = format!("\"s3vol {}\" s3vol", env!("CARGO_PKG_VERSION"));
            assert!(heading.ends_with(&version), "{name}: {heading}");
            let date = heading.split(' ').nth(3).unwrap();
            assert!(date.len() == 10 && date.matches('-').count() == 2, "{name}: {heading}");
        }
    }

    #[test]
    fn marks_become_fonts() {
        let parts = inline("use `a*b` with *care*");
        assert_eq!(parts, [roman("use "), bold("a*b"), roman(" with "), italic("care"), roman("")]);
    }
}
