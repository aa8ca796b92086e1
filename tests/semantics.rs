//! `docs/SEMANTICS.md` names tests; this checks that each row names some, and that they exist.

use std::fs;
use std::path::Path;

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
    let page = fs::read_to_string(root.join("docs/SEMANTICS.md")).unwrap();
    let named = named(&page);
    assert!(named.len() > 20, "the page names only {} tests", named.len());
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
    let page = fs::read_to_string(root.join("docs/SEMANTICS.md")).unwrap();
    let rows: Vec<_> = page
        .lines()
        .filter(|line| line.starts_with("| ") && !line.ends_with("| Backed by |"))
        .collect();
    assert!(rows.len() > 20, "the page has only {} rows", rows.len());
    for row in rows {
        assert!(!named(row).is_empty(), "no test is named: {row}");
    }
}
