//! `docs/SEMANTICS.md` and `docs/DURABILITY.md` name tests; this checks that each row names some, and that they
//! exist.

use std::fs;
use std::path::Path;

const PAGES: [&str; 2] = ["docs/SEMANTICS.md", "docs/DURABILITY.md"];

fn named(page: &str) -> Vec<(String, String)> {
    page.split('`')
        .filter_map(|quoted| quoted.split_once("::"))
        .filter(|(file, test)| {
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '/';
            file.chars().all(plain) && test.chars().all(plain)
        })
        .map(|(file, test)| (file.to_owned(), test.to_owned()))
        .collect()
}

#[test]
fn every_promise_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = |page| fs::read_to_string(root.join(page)).unwrap();
    let named: Vec<_> = PAGES.iter().flat_map(|of| named(&page(*of))).collect();
    assert!(named.len() > 20, "the pages name only {} tests", named.len());
    for (file, test) in named {
        let path = root.join("tests").join(format!("{file}.rs"));
        let source = fs::read_to_string(&path)
            .unwrap_or_else(|e| panic!("{} is named in the page: {e}", path.display()));
        assert!(source.contains(&format!("fn {test}(")), "{file} has no test {test}");
    }
}

#[test]
fn every_row_names_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages: String =
        PAGES.iter().map(|page| fs::read_to_string(root.join(page)).unwrap()).collect();
    // The tables whose last column says so.
    let (mut backed, mut rows) = (false, Vec::new());
    for line in pages.lines() {
        match line {
            _ if line.ends_with("| Backed by |") => backed = true,
            _ if backed && line.starts_with("| ") => rows.push(line),
            _ if line.is_empty() => backed = false,
            _ => {}
        }
    }
    assert!(rows.len() > 50, "the pages have only {} rows", rows.len());
    for row in rows {
        assert!(!named(row).is_empty(), "no test is named: {row}");
    }
}
