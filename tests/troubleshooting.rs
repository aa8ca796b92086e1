//! `docs/TROUBLESHOOTING.md` has an entry for each error message that a user can meet. The messages are found in the
//! source: texts of error types, of the calls that make errors, and of the log at ERROR; and in scripts that set the plugin
//! up. What only a defect of the program could show is in `troubleshooting/internal.txt`, with the reason.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const PAGE: &str = "docs/TROUBLESHOOTING.md";
const INTERNAL: &str = "tests/troubleshooting/internal.txt";

/// A beginning of a message with fewer bytes would be that of many.
const SHORTEST: usize = 8;

/// In the page and here: what a message fills in.
const FILLED: char = '…';

/// Methods that put a text to an error.
const METHODS: &[&str] = &["context", "with_context", "map_err", "ok_or_else"];

/// Calls and variants whose text is, or becomes part of, what somebody reads as an error.
const SAY: &[&str] = &[
    "#[error",
    "bail!",
    "anyhow!",
    "ensure!",
    "Err",
    "Refused",
    "Held",
    "Damaged",
    "Late",
    "NoSpace",
    "This",
    "StoreError::new",
    "ConfigError::new",
    "ConfigErrors::one",
    "errors.push",
    "FuseError::connection",
    "WorkerError::local",
    "Reply::error",
    "io::Error::other",
    "io::Error::new",
    "system",
    "unreadable",
    "wrong",
    "unsupported",
    "tracing::error!",
];

/// Errors that are written as structures.
const SAY_IN: &[&str] = &["StoreError", "NotUp"];

/// Behind these a text counts for what stands around them.
const AROUND: &[&str] = &["format!", "String::from", "Some"];

/// Scripts that only developers run.
const FOR_DEVELOPERS: &[&str] =
    &["coverage", "databases", "deny", "garage", "reproducible", "test"];

/// With these a script ends.
const ENDS: &[&str] = &["die \"", "usage \""];

/// A text in the source, and the code before it without comments and texts.
struct Text {
    at: String,
    text: String,
    before: String,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![root().join("src")]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true if path.ends_with("tests") => {}
                true => folders.push(path),
                false if path.ends_with("tests.rs") => {}
                false => found.push(path),
            }
        }
    }
    found.sort();
    found
}

/// The texts of a file, up to its tests.
fn texts(path: &Path) -> Vec<Text> {
    let source = fs::read_to_string(path).unwrap();
    let end = source.find("#[cfg(test)]\nmod tests {").unwrap_or(source.len());
    let chars: Vec<char> = source[..end].chars().collect();
    let name = path.strip_prefix(root()).unwrap().display().to_string();
    let (mut found, mut code, mut line, mut at) = (Vec::new(), String::new(), 1, 0);
    while at < chars.len() {
        let next = chars.get(at + 1).copied().unwrap_or(' ');
        let start = at;
        match chars[at] {
            '/' if next == '/' => {
                at = (at..chars.len()).find(|&i| chars[i] == '\n').unwrap_or(chars.len());
            }
            '\'' if next == '\\' => {
                at = (at + 3..chars.len()).find(|&i| chars[i] == '\'').unwrap() + 1;
            }
            '\'' if chars.get(at + 2) == Some(&'\'') => at += 3,
            'r' if next == '#' && chars.get(at + 2) == Some(&'"') => {
                at = (at + 3..).find(|&i| chars[i] == '"' && chars[i + 1] == '#').unwrap() + 2;
            }
            '"' => {
                at += 1;
                while chars[at] != '"' {
                    at += if chars[at] == '\\' { 2 } else { 1 };
                }
                at += 1;
                let text: String = chars[start + 1..at - 1].iter().collect();
                let before = code.trim_end().to_owned();
                found.push(Text { at: format!("{name}:{line}"), text: shown(&text), before });
                code.push_str("\"\"");
            }
            other => {
                code.push(other);
                at += 1;
            }
        }
        line += chars[start..at].iter().filter(|&&c| c == '\n').count();
    }
    found
}

/// As people read it: escapes resolved, one [`FILLED`] for each value.
fn shown(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('\n') => while chars.next_if(|c| c.is_whitespace()).is_some() {},
                Some('n') => out.push(' '),
                Some(escaped) => out.push(escaped),
                None => {}
            },
            '{' | '}' if chars.next_if_eq(&c).is_some() => out.push(c),
            '{' => {
                while chars.next().is_some_and(|c| c != '}') {}
                out.push(FILLED);
            }
            c => out.push(c),
        }
    }
    out.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether what stands around the text makes it a message.
fn is_said(text: &Text) -> bool {
    let mut code = text.before.as_str();
    loop {
        // The rest of `name: `, `let message = `, `return ` and a closure's head.
        let name = |code: &str| {
            let plain = |c: char| c.is_alphanumeric() || "_:.!#[".contains(c);
            code.chars().rev().take_while(|&c| plain(c)).count()
        };
        let kind = code.strip_suffix(',').map(str::trim_end).unwrap_or("");
        let kind = &kind[kind.len() - name(kind)..];
        if kind.starts_with("StoreErrorKind::")
            || code.ends_with("let message =")
            || code.ends_with("return") && text.at.starts_with("src/config/")
        {
            return true;
        }
        let Some(open) = opener(code) else { return false };
        let (block, rest) = (code[open..].starts_with('{'), code[..open].trim_end());
        let called = &rest[rest.len() - name(rest)..];
        let is = |name: &&str| called == *name || called.ends_with(&format!("::{name}"));
        let method = |name: &&str| called.ends_with(&format!(".{name}"));
        match block {
            true if SAY_IN.iter().any(&is) => return true,
            true => {}
            false if SAY.iter().any(is) => return true,
            false if METHODS.iter().any(method) => return true,
            false if called.is_empty() || AROUND.contains(&called) => {}
            false => return false,
        }
        code = rest[..rest.len() - called.len()].trim_end();
    }
}

/// Where the innermost bracket was opened that is still open at the end of this code.
fn opener(code: &str) -> Option<usize> {
    let mut depth = 0;
    for (at, c) in code.char_indices().rev() {
        match c {
            ')' | ']' | '}' => depth += 1,
            '(' | '[' | '{' if depth == 0 => return Some(at),
            '(' | '[' | '{' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// What scripts end with, by place.
fn of_scripts() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root().join("plugin")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if FOR_DEVELOPERS.contains(&name.as_str()) {
            continue;
        }
        let script = fs::read_to_string(&path).unwrap();
        for end in ENDS {
            for (at, _) in script.match_indices(end) {
                let line = script[..at].lines().count();
                let text = of_shell(&script[at + end.len()..]);
                found.push((format!("plugin/{name}.sh:{line}"), text));
            }
        }
    }
    found
}

/// A text of the shell up to its closing quote, as people read it.
fn of_shell(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' => break,
            '\\' => out.extend(chars.next()),
            '$' => {
                let (open, close) = match chars.peek() {
                    Some('(') => ('(', ')'),
                    Some('{') => ('{', '}'),
                    _ => {
                        let mut first = true;
                        while chars
                            .next_if(|&c| c.is_alphanumeric() || c == '_' || first && c == '*')
                            .is_some()
                        {
                            first = false;
                        }
                        out.push(FILLED);
                        continue;
                    }
                };
                let mut depth = 0;
                for c in chars.by_ref() {
                    depth += i32::from(c == open) - i32::from(c == close);
                    if depth == 0 {
                        break;
                    }
                }
                out.push(FILLED);
            }
            c => out.push(c),
        }
    }
    out.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What is left of a message or an entry when it begins or ends with something filled in.
fn bare(text: &str) -> &str {
    text.trim_matches(|c: char| c == FILLED || c.is_whitespace() || c == ':' || c == ';')
}

/// Every message with its place: at least two words that are always the same.
fn messages() -> Vec<(String, String)> {
    let program = sources().into_iter().flat_map(|path| texts(&path)).filter(is_said);
    let mut found: Vec<_> = program.map(|text| (text.at, text.text)).chain(of_scripts()).collect();
    found.retain(|(_, text)| {
        let words = text.split(|c: char| !c.is_alphabetic()).filter(|word| word.len() > 1);
        words.count() >= 2 && text.contains(' ')
    });
    found
}

/// What stands in the first column of the page's tables of messages.
fn entries() -> Vec<String> {
    let page = fs::read_to_string(root().join(PAGE)).unwrap();
    let (mut inside, mut found) = (false, Vec::new());
    for line in page.lines() {
        inside = line.starts_with("| Message |") || inside && line.starts_with('|');
        if let Some((first, _)) =
            line.strip_prefix("| `").filter(|_| inside).and_then(|row| row.split_once(" | "))
        {
            found.extend(first.split("<br>").map(|one| one.trim().trim_matches('`').to_owned()));
        }
    }
    found
}

fn internal() -> Vec<(String, String)> {
    let list = fs::read_to_string(root().join(INTERNAL)).unwrap();
    let lines = list.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| line.split_once(" => ").unwrap_or_else(|| panic!("{line:?} has no reason")))
        .map(|(message, why)| (message.to_owned(), why.to_owned()))
        .collect()
}

/// Whether this entry is the message, or its beginning.
fn is_of(entry: &str, message: &str) -> bool {
    entry == message || bare(entry).len() >= SHORTEST && bare(message).starts_with(bare(entry))
}

#[test]
fn every_message_has_an_entry_or_a_reason() {
    let (messages, entries, internal) = (messages(), entries(), internal());
    assert!(messages.len() > 250, "only {} messages were found", messages.len());
    let known = |message: &str| {
        entries.iter().any(|entry| is_of(entry, message))
            || internal.iter().any(|(entry, _)| is_of(entry, message))
    };
    let missing: Vec<_> = messages
        .iter()
        .filter(|(_, message)| !known(message))
        .map(|(at, message)| format!("{at}: {message}"))
        .collect();
    assert!(
        missing.is_empty(),
        "add to {PAGE} a row that says cause and cure, or to {INTERNAL} why no user sees it:\n{}",
        missing.join("\n")
    );
}

#[test]
fn every_entry_is_a_message() {
    let program = sources().into_iter().flat_map(|path| texts(&path)).map(|text| text.text);
    let said: Vec<String> = program.chain(of_scripts().into_iter().map(|(_, text)| text)).collect();
    let listed = entries().into_iter().chain(internal().into_iter().map(|(entry, _)| entry));
    let mut seen = BTreeSet::new();
    for entry in listed {
        assert!(said.iter().any(|text| is_of(&entry, text)), "nothing says {entry:?} any more");
        assert!(seen.insert(entry.clone()), "{entry:?} is there twice");
    }
}

#[test]
fn few_messages_are_internal() {
    let (messages, internal) = (messages(), internal());
    let hidden = messages
        .iter()
        .filter(|(_, message)| internal.iter().any(|(entry, _)| is_of(entry, message)));
    let hidden = hidden.count();
    assert!(hidden * 4 < messages.len(), "{hidden} of {} messages are internal", messages.len());
}

#[test]
fn texts_are_found_by_what_stands_around_them() {
    let text =
        |before: &str| Text { at: "src/x.rs:1".into(), text: String::new(), before: before.into() };
    for said in [
        "#[error(",
        "x.map_err(|e| format!(",
        "return Err(match x { 1 => ",
        "StoreError { kind, message: format!(",
        "(StoreErrorKind::Denied, format!(",
        "Err(CatalogError::Refused(format!(",
        ".with_context(|| { format!(",
        "tracing::error!(volume = %x, \"\", ",
    ] {
        assert!(is_said(&text(said)), "{said}");
    }
    for other in [
        "let x = f(",
        "tracing::info!(",
        "x.expect(",
        "Err(f(",
        "writeln!(out, ",
        "const X: &str = ",
    ] {
        assert!(!is_said(&text(other)), "{other}");
    }
    assert_eq!(
        of_shell(
            r#"$1, at ${x#*=}$(f "a" (b)): \`y\` of $* \"z\"
  and more" || die "other""#
        ),
        "…, at ……: `y` of … \"z\" and more"
    );
    assert!(of_scripts().len() > 30);
    assert_eq!(shown("{} of {x:?}\\\n   is \\\"bad\\\" {{}}"), "… of …is \"bad\" {}");
}
