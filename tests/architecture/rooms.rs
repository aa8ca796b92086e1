//! No circles: the modules of one room use each other in one direction only, so that each can be read after what it uses.
//!
//! A room is a folder with the file of its name, and its modules are what lies in the folder: a file, or again a room.
//! The room's own file is none of them. It is read first, has what they share and names them all; so they may use it, and
//! it may use them. To the room around it all of them together are one module.
//!
//! A name counts for the file that has it, whichever file passes it on by `pub use`. Tests inside files do not count.
//! Calls of methods are not seen.

use std::collections::{BTreeMap, BTreeSet};

use super::{nothing, sources, tokens};

/// The names of modules on the way to a file, and behind them that of an item.
type Path = Vec<String>;

/// One name that a file imports.
struct Import {
    path: Path,
    name: String,
    /// It is passed on to others.
    public: bool,
}

/// A file without its tests: what it imports, and what else it says.
#[derive(Default)]
struct Code {
    imports: Vec<Import>,
    rest: Vec<String>,
}

impl Code {
    fn of(tokens: &[String]) -> Self {
        let mut code = Code::default();
        let mut at = 0;
        while at < tokens.len() {
            let says = |words: &[&str]| {
                tokens.len() >= at + words.len()
                    && tokens[at..].iter().zip(words).all(|(token, word)| token == word)
            };
            if says(&["#", "[", "cfg", "(", "test", ")", "]"]) {
                at = after_item(tokens, at + 7);
            } else if says(&["mod"]) && tokens.get(at + 2).is_some_and(|token| token == ";") {
                at += 3;
            } else if says(&["use"]) && !says(&["use", "<"]) {
                at = import(tokens, at + 1, &[], is_public(&code.rest), &mut code.imports) + 1;
            } else {
                code.rest.push(tokens[at].clone());
                at += 1;
            }
        }
        code
    }

    /// Whether it uses a name beyond its imports: what it only passes on it does not use.
    fn says(&self, name: &str) -> bool {
        (0..self.rest.len()).any(|at| {
            let before = at.checked_sub(1).map(|i| self.rest[i].as_str());
            self.rest[at] == name && !matches!(before, Some("." | "::" | "fn"))
        })
    }

    /// The paths of at least two parts that it says beyond its imports.
    fn paths(&self) -> Vec<Path> {
        let mut found = Vec::new();
        let mut at = 0;
        while at < self.rest.len() {
            let inside = at > 0 && ["::", "."].contains(&self.rest[at - 1].as_str());
            let mut path = vec![self.rest[at].clone()];
            at += 1;
            while self.rest.get(at).is_some_and(|token| token == "::")
                && self.rest.get(at + 1).is_some_and(|token| is_word(token))
            {
                path.push(self.rest[at + 1].clone());
                at += 2;
            }
            if path.len() > 1 && is_word(&path[0]) && !inside {
                found.push(path);
            }
        }
        found
    }
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Whether these tokens end with `pub` or `pub(…)`.
fn is_public(before: &[String]) -> bool {
    let open = before.iter().rposition(|token| token == "(");
    let ends = match before.last().map(String::as_str) {
        Some(")") => open.unwrap_or(0),
        _ => before.len(),
    };
    ends.checked_sub(1).is_some_and(|i| before[i] == "pub")
}

/// Behind the `;` or the block that ends what begins at `at`.
fn after_item(tokens: &[String], at: usize) -> usize {
    let mut depth = 0;
    for (i, token) in tokens.iter().enumerate().skip(at) {
        match token.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        match token.as_str() {
            _ if depth < 0 => return i,
            ";" | "}" if depth == 0 => return i + 1,
            _ => {}
        }
    }
    tokens.len()
}

/// Reads one branch of an import. Returns where it ends: at a `,`, a `}` or the `;`.
fn import(
    tokens: &[String],
    mut at: usize,
    trunk: &[String],
    public: bool,
    found: &mut Vec<Import>,
) -> usize {
    let mut path = trunk.to_vec();
    let mut name = None;
    loop {
        match tokens[at].as_str() {
            "::" => {}
            "as" => {
                name = Some(tokens[at + 1].clone());
                at += 1;
            }
            "{" => {
                at += 1;
                while tokens[at] != "}" {
                    at = import(tokens, at, &path, public, found);
                    at += usize::from(tokens[at] == ",");
                }
                return at + 1;
            }
            "," | "}" | ";" => break,
            // Of a group: the trunk itself.
            "self" if !path.is_empty() => {}
            part => path.push(part.to_owned()),
        }
        at += 1;
    }
    if let Some(name) = name.or_else(|| path.last().cloned()) {
        found.push(Import { path, name, public });
    }
    at
}

/// All files by their place; the crate's own at the empty one.
struct Tree(BTreeMap<Path, Code>);

impl Tree {
    fn of_the_crate() -> Self {
        let files = sources().into_iter().filter(|source| {
            source.module() != "main" && !source.modules.contains(&"tests".to_owned())
        });
        Tree(
            files
                .map(|source| {
                    let place = if source.is_root() { Vec::new() } else { source.modules };
                    (place, Code::of(&source.tokens))
                })
                .collect(),
        )
    }

    /// The file that has what `path` names for the file at `from`; none for what is another crate's, or a module.
    fn home(&self, from: &[String], path: &[String]) -> Option<Path> {
        self.home_after(&mut BTreeSet::new(), from, path)
    }

    /// `seen`: the imports by which it was passed on.
    fn home_after(
        &self,
        seen: &mut BTreeSet<(Path, String)>,
        from: &[String],
        path: &[String],
    ) -> Option<Path> {
        let mut place = from.to_vec();
        for (i, part) in path.iter().enumerate() {
            let below = [&place[..], std::slice::from_ref(part)].concat();
            match part.as_str() {
                "crate" if i == 0 => place.clear(),
                "self" if i == 0 => {}
                "super" => drop(place.pop()),
                _ if self.0.contains_key(&below) => place = below,
                _ => {
                    let imports = &self.0.get(&place)?.imports;
                    let passed = imports.iter().find(|import| import.name == *part);
                    // A module within a file that imports from it looks as if it was passed on in a circle.
                    return match passed.filter(|_| seen.insert((place.clone(), part.clone()))) {
                        Some(import) => {
                            let path = [&import.path[..], &path[i + 1..]].concat();
                            self.home_after(seen, &place, &path)
                        }
                        None => (i > 0).then_some(place),
                    };
                }
            }
        }
        None
    }

    /// Who uses whom.
    fn uses(&self) -> BTreeSet<(Path, Path)> {
        let mut found = BTreeSet::new();
        for (place, code) in &self.0 {
            let used = code.imports.iter().filter(|i| !i.public || code.says(&i.name));
            let paths = used.map(|i| i.path.clone()).chain(code.paths());
            let homes = paths.filter_map(|path| self.home(place, &path));
            found.extend(homes.filter(|home| home != place).map(|home| (place.clone(), home)));
        }
        found
    }

    /// The circles, each with the uses that it is made of.
    fn circles(&self) -> Vec<String> {
        let uses = self.uses();
        let rooms: BTreeSet<&[String]> =
            self.0.keys().filter_map(|place| Some(place.split_last()?.1)).collect();
        let mut circles = Vec::new();
        for room in rooms {
            let inside = |place: &Path| place.strip_prefix(room)?.first().cloned();
            let uses: Vec<(String, String, String)> = uses
                .iter()
                .filter_map(|(from, to)| {
                    let (user, used) = (inside(from)?, inside(to)?);
                    let text = format!("{} uses {}", from.join("/"), to.join("/"));
                    (user != used).then_some((user, used, text))
                })
                .collect();
            for circle in round(uses.iter().map(|(user, used, _)| (&**user, &**used))) {
                let of_it = |(user, used, text): &(String, String, String)| {
                    let both = circle.contains(&**user) && circle.contains(&**used);
                    both.then(|| format!("\n    {text}"))
                };
                let names: Vec<&str> = circle.iter().copied().collect();
                let why: String = uses.iter().filter_map(of_it).collect();
                circles.push(format!("src/{}: {}{why}", room.join("/"), names.join(", ")));
            }
        }
        circles
    }
}

/// Those that reach each other, and themselves.
fn round<'u>(uses: impl Iterator<Item = (&'u str, &'u str)>) -> BTreeSet<BTreeSet<&'u str>> {
    let mut reach: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (user, used) in uses {
        reach.entry(user).or_default().insert(used);
    }
    loop {
        let farther = |used: &BTreeSet<&'u str>| {
            used.iter().filter_map(|used| reach.get(used)).flatten().copied().collect::<Vec<_>>()
        };
        let next: BTreeMap<&str, BTreeSet<&str>> = reach
            .iter()
            .map(|(user, used)| (*user, used.iter().copied().chain(farther(used)).collect()))
            .collect();
        if next == reach {
            break;
        }
        reach = next;
    }
    let back = |from: &str, to: &str| reach.get(from).is_some_and(|used| used.contains(to));
    let circle = |user: &&'u str| {
        let circle = reach[user].iter().copied().filter(|used| back(used, user)).collect();
        back(user, user).then_some(circle)
    };
    reach.keys().filter_map(circle).collect()
}

#[test]
fn no_modules_of_a_room_use_each_other_in_a_circle() {
    nothing("modules that use each other in a circle", Tree::of_the_crate().circles());
}

fn circles_of(files: &[(&str, &str)]) -> Vec<String> {
    let place = |path: &str| path.split('/').map(str::to_owned).collect();
    let files = files.iter().map(|(path, text)| (place(path), Code::of(&tokens(text))));
    let circles = Tree(files.collect()).circles();
    circles.iter().map(|text| text.lines().next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn circles_are_found_however_they_are_written() {
    let found =
        |a: &str, b: &str| circles_of(&[("a", ""), ("a/x", a), ("a/y", b)]) == ["src/a: x, y"];
    assert!(found("use super::y::Y;", "use crate::a::x::X;"));
    assert!(found("use super::{b, y::{self, Y}};", "fn f() { super::x::go() }"));
    assert!(found("use super::y; fn f() { y::go() }", "fn f(x: crate::a::x::X) {}"));
    assert!(found("use super::y::Y as Z;", "impl super::x::X for Y {}"));
    assert!(!found("use super::y;", "use super::x::X;"), "a module that nothing is taken from");
    assert!(!found("use super::y::Y;", "#[cfg(test)] mod tests { use super::super::x::X; }"));
    assert!(!found("use super::y::Y;", "#[cfg(test)] use super::x::X; fn f(y: super::Y) {}"));
    assert!(!found("use super::y::Y;", "fn f(y: y::Y) { self.x::<Y>() }"));
}

#[test]
fn a_name_counts_for_the_file_that_has_it() {
    let passes = "mod x; mod y; pub(in crate::a) use x::X; use y::Y as Z; pub use y::f;";
    let found = |a: &str, b: &str| circles_of(&[("a", passes), ("a/x", a), ("a/y", b)]);
    assert_eq!(found("use super::Z;", "use super::X;"), ["src/a: x, y"]);
    assert_eq!(found("use crate::a::f;", "use super::X;"), ["src/a: x, y"]);
    assert_eq!(found("use super::W;", "use super::X;"), [""; 0], "what is the room's own");
    let around = |b: &str| circles_of(&[("a", passes), ("a/x", "use crate::b::B;"), ("b", b)]);
    assert_eq!(
        around("use crate::a::X;"),
        ["src/: a, b"],
        "a room is one module of the room around it"
    );
    assert_eq!(around("pub use crate::a::X;"), [""; 0], "what is only passed on");
    assert_eq!(around("pub use crate::a::X; fn f(x: X) {}"), ["src/: a, b"]);
}
