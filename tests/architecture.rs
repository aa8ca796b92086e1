//! The layering of the crate, read from its source: who may use whom, who may name which foreign
//! crate, and what every module file looks like.

#[path = "architecture/rooms.rs"]
mod rooms;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// From the bottom up. A module may use only modules of lower levels: siblings stay apart.
const LEVELS: [&[&str]; 13] = [
    &["fault", "metrics", "types"],
    &["clock", "sys"],
    &["config", "credentials", "telemetry"],
    &["store"],
    &["meta", "lease"],
    &["catalog", "data"],
    &["fs", "settle"],
    &["follow", "fsck", "verify"],
    &["fuse"],
    &["worker"],
    &["supervisor", "driver"],
    &["doctor"],
    &["cli"],
];

/// A longer file holds more than one idea.
const MOST_LINES: usize = 700;

fn level(module: &str) -> Option<usize> {
    LEVELS.iter().position(|level| level.contains(&module))
}

/// A source file of the crate, `src/a/b.rs`, as the path `["a", "b"]`.
struct Source {
    path: PathBuf,
    modules: Vec<String>,
    text: String,
    tokens: Vec<String>,
}

impl Source {
    fn module(&self) -> &str {
        &self.modules[0]
    }

    fn is_root(&self) -> bool {
        ["lib", "main"].contains(&self.module())
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let inside = path.strip_prefix(&root).unwrap().with_extension("");
                let modules: Vec<String> =
                    inside.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
                let text = fs::read_to_string(&path).unwrap();
                let tokens = tokens(&text);
                found.push(Source { path: inside, modules, text, tokens });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.len() > LEVELS.len(), "the source was not found below {}", root.display());
    found
}

/// Identifiers, `::` and single signs, without comments and literals.
fn tokens(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(&here) = chars.get(at) {
        let next = chars.get(at + 1).copied().unwrap_or(' ');
        match here {
            '/' if next == '/' => at = after_line(&chars, at),
            '/' if next == '*' => at = after_block_comment(&chars, at),
            '"' => at = after_string(&chars, at),
            // A character, unless it is the start of a lifetime.
            '\'' if next == '\\' => at = after_escaped_char(&chars, at),
            '\'' if chars.get(at + 2) == Some(&'\'') => at += 3,
            ':' if next == ':' => {
                tokens.push("::".to_owned());
                at += 2;
            }
            _ if here.is_alphabetic() || here == '_' => {
                let end = (at..chars.len())
                    .find(|&i| !(chars[i].is_alphanumeric() || chars[i] == '_'))
                    .unwrap_or(chars.len());
                let word: String = chars[at..end].iter().collect();
                let raw = ["r", "br", "cr"].contains(&word.as_str())
                    && matches!(chars.get(end), Some('"' | '#'));
                at = match raw.then(|| after_raw_string(&chars, end)).flatten() {
                    Some(after) => after,
                    None => {
                        tokens.push(word);
                        end
                    }
                };
            }
            _ => {
                if !here.is_whitespace() {
                    tokens.push(here.to_string());
                }
                at += 1;
            }
        }
    }
    tokens
}

fn after_line(chars: &[char], at: usize) -> usize {
    (at..chars.len()).find(|&i| chars[i] == '\n').unwrap_or(chars.len())
}

fn after_block_comment(chars: &[char], mut at: usize) -> usize {
    let mut depth = 0;
    while at + 1 < chars.len() {
        match (chars[at], chars[at + 1]) {
            ('/', '*') => depth += 1,
            ('*', '/') => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    chars.len()
}

fn after_string(chars: &[char], mut at: usize) -> usize {
    at += 1;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

fn after_escaped_char(chars: &[char], at: usize) -> usize {
    (at + 3..chars.len()).find(|&i| chars[i] == '\'').map_or(chars.len(), |i| i + 1)
}

/// `at` is behind the `r`. Nothing if this is a raw identifier.
fn after_raw_string(chars: &[char], at: usize) -> Option<usize> {
    let hashes = chars[at..].iter().take_while(|&&c| c == '#').count();
    let mut i = at + hashes;
    if chars.get(i) != Some(&'"') {
        return None;
    }
    i += 1;
    while i < chars.len() {
        if chars[i] == '"' && chars[i + 1..].iter().take_while(|&&c| c == '#').count() >= hashes {
            return Some(i + 1 + hashes);
        }
        i += 1;
    }
    Some(chars.len())
}

/// The names that follow a path's prefix: one, or the first of each branch of a group.
fn branches(tokens: &[String], at: usize) -> Vec<&str> {
    if tokens.get(at).is_none_or(|token| token != "{") {
        return tokens.get(at).map(String::as_str).into_iter().collect();
    }
    let (mut depth, mut starts, mut names) = (0, true, Vec::new());
    for token in &tokens[at..] {
        match token.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            "," => starts = depth == 1,
            name if depth == 1 && starts => {
                names.push(name);
                starts = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names
}

/// The top-level modules that a file at this place in the tree names, by `crate::` or by as many
/// `super::` as lead to the root.
///
/// A module of tests inside a file says `super` once more and stays within it, so a name that is
/// also a child of the file is taken for the child.
fn uses<'a>(tokens: &'a [String], modules: &[String], children: &[&str]) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    let mut supers = 0;
    for at in 0..tokens.len().saturating_sub(1) {
        let path = tokens[at + 1] == "::";
        if path && ["crate", "s3vol"].contains(&tokens[at].as_str()) {
            found.extend(branches(tokens, at + 2));
        }
        if path && tokens[at] == "super" {
            supers += 1;
            if supers >= modules.len() && tokens.get(at + 2).is_none_or(|t| t != "super") {
                let names = branches(tokens, at + 2);
                found.extend(names.into_iter().filter(|name| !children.contains(name)));
            }
        } else if tokens[at] != "::" {
            supers = 0;
        }
    }
    found.retain(|name| level(name).is_some());
    found
}

/// Whether the file says `name::…` as the name of a crate, or imports it.
fn names_crate(tokens: &[String], name: &str) -> bool {
    (0..tokens.len()).any(|at| {
        let before = |back: usize| at.checked_sub(back).map(|i| tokens[i].as_str());
        let after = tokens.get(at + 1).map(String::as_str);
        tokens[at] == name
            && match before(1) {
                // `a::name` is something else's, `::name` and `use name` are the crate.
                Some("::") => before(2).is_none_or(|t| {
                    ["use", "dyn", "impl", "as", "for"].contains(&t)
                        || !t.starts_with(|c: char| c.is_alphanumeric() || c == '>')
                }),
                Some("use" | "crate") => true,
                _ => after == Some("::"),
            }
    })
}

fn outsiders(name: &str, homes: &[&str]) -> Vec<String> {
    sources()
        .iter()
        .filter(|source| !homes.contains(&source.module()) && names_crate(&source.tokens, name))
        .map(|source| source.path.display().to_string())
        .collect()
}

fn nothing(what: &str, found: Vec<String>) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

#[test]
fn a_module_uses_only_lower_ones() {
    let sources = sources();
    let mut wrong = Vec::new();
    for source in sources.iter().filter(|source| !source.is_root()) {
        let Some(own) = level(source.module()) else {
            wrong.push(format!("{}: has no level, add it to LEVELS", source.path.display()));
            continue;
        };
        let children: Vec<&str> = sources
            .iter()
            .filter(|other| other.modules.len() == source.modules.len() + 1)
            .filter(|other| other.modules.starts_with(&source.modules))
            .filter_map(|other| other.modules.last())
            .map(String::as_str)
            .collect();
        for used in uses(&source.tokens, &source.modules, &children) {
            if used != source.module() && level(used) >= Some(own) {
                wrong.push(format!("{} uses {used}", source.path.display()));
            }
        }
    }
    nothing("a module may use only what stands below it", wrong);
}

#[test]
fn every_module_of_the_crate_has_a_level() {
    let lib = sources().into_iter().find(|source| source.module() == "lib").unwrap();
    let declared: Vec<&str> = lib
        .tokens
        .windows(3)
        .filter(|window| window[0] == "mod" && window[2] == ";")
        .map(|window| window[1].as_str())
        .collect();
    let unknown = declared.iter().filter(|name| level(name).is_none());
    nothing("modules without a level", unknown.map(|name| name.to_string()).collect());
}

#[test]
fn fuser_is_named_only_by_fuse() {
    nothing("only fuse may name fuser", outsiders("fuser", &["fuse"]));
}

/// And by the reader that shares no code with it.
#[test]
fn slatedb_is_named_only_by_meta() {
    nothing("only meta may name slatedb", outsiders("slatedb", &["meta", "verify"]));
    nothing("only meta may name slatedb_common", outsiders("slatedb_common", &["meta"]));
}

/// `meta` may say `slatedb::object_store`, and after importing that, `object_store`.
#[test]
fn object_store_is_named_only_by_store() {
    let homes = ["store", "meta", "verify"];
    nothing("only store may name object_store", outsiders("object_store", &homes));
    let imports = |source: &Source| {
        source.tokens.windows(2).any(|pair| pair == ["use", "object_store"])
            && ["meta", "verify"].contains(&source.module())
    };
    let direct = sources().into_iter().filter(imports).map(|s| s.path.display().to_string());
    nothing("meta reaches object_store through slatedb", direct.collect());
}

#[test]
fn no_file_is_too_long() {
    let long = sources().into_iter().filter(|source| source.text.lines().count() > MOST_LINES);
    nothing(
        &format!("files above {MOST_LINES} lines"),
        long.map(|source| source.path.display().to_string()).collect(),
    );
}

/// A second reader of the same documents finds mistakes of the first one only if it shares nothing with it.
#[test]
fn verify_shares_nothing_with_the_file_system_but_the_types_of_records() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| source.module() == "verify") {
        // Its tests compare the two.
        let code: Vec<&str> = source.text.split("#[cfg(test)]").take(1).collect();
        let tokens = tokens(code[0]);
        for window in tokens.windows(5).filter(|window| window[0] == "crate" && window[1] == "::") {
            let allowed = match window[2].as_str() {
                "store" | "types" => true,
                "meta" => window[4] == "records",
                _ => false,
            };
            if !allowed {
                wrong.push(format!("{} uses {}", source.path.display(), window[2]));
            }
        }
    }
    nothing("the second reader may use the store and the types of records", wrong);
}

/// `tests.rs` says it by its name.
#[test]
fn every_module_opens_with_what_it_is() {
    let silent = sources()
        .into_iter()
        .filter(|source| source.module() != "main" && !source.modules.ends_with(&["tests".into()]))
        .filter(|source| !source.text.starts_with("//! "));
    nothing("files without a //! line", silent.map(|s| s.path.display().to_string()).collect());
}

fn used_by(text: &str, modules: &[&str]) -> Vec<String> {
    let modules: Vec<String> = modules.iter().map(|part| part.to_string()).collect();
    let tokens = tokens(text);
    uses(&tokens, &modules, &["sys"]).into_iter().map(str::to_owned).collect()
}

#[test]
fn uses_are_found_however_they_are_written() {
    assert_eq!(used_by("use crate::meta;", &["fs"]), ["meta"]);
    assert_eq!(used_by("fn f() { crate::meta::go() }", &["fs"]), ["meta"]);
    assert_eq!(used_by("use crate::{data::{A, fuse}, types, cli as c};", &["fs"]).len(), 3);
    assert_eq!(used_by("use super::meta::Engine;", &["fs"]), ["meta"]);
    assert_eq!(used_by("use super::super::{meta, data};", &["fs", "core"]), ["data", "meta"]);
    assert_eq!(used_by("use super::meta::Engine;", &["fs", "core"]), [""; 0]);
    assert_eq!(used_by("use super::sys::Child;", &["fs"]), [""; 0]);
}

#[test]
fn comments_and_literals_are_no_uses() {
    let text = r##"// crate::cli
        /* a /* crate::cli */ b */ const A: &str = "\"crate::cli"; const B: char = '"';
        const C: &str = r#"" crate::cli"#; fn d<'a>(e: &'a u8) { crate::data::f('\'') }"##;
    assert_eq!(used_by(text, &["fs"]), ["data"]);
}

#[test]
fn crates_are_told_from_modules_of_the_same_name() {
    let names = |text: &str| names_crate(&tokens(text), "object_store");
    assert!(names("use object_store::path::Path;"));
    assert!(names("use object_store as os;"));
    assert!(names("type A = dyn ::object_store::ObjectStore;"));
    assert!(names("fn f(a: &dyn object_store::ObjectStore) {}"));
    assert!(!names("use slatedb::object_store::ObjectStore;"));
    assert!(!names("use slatedb::{object_store};"));
    assert!(!names("let object_store = 1;"));
}
