//! The pages for people: every link between them leads to a page, and to a heading that is there; and what workflows run.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn pages() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let examples =
        fs::read_dir(root().join("examples")).unwrap().map(|entry| entry.unwrap().path());
    let folders = [root(), root().join("docs"), root().join("examples")];
    for folder in folders.into_iter().chain(examples.filter(|path| path.is_dir())) {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        found.extend(entries.filter(|path| path.extension().is_some_and(|end| end == "md")));
    }
    found.sort();
    found
}

/// The lines outside of code blocks.
fn prose(page: &Path) -> Vec<String> {
    let text = fs::read_to_string(page).unwrap();
    let mut code = false;
    let lines = text.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        !code && !fence
    });
    lines.map(str::to_owned).collect()
}

/// What a heading is called in links.
fn anchor(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || " -_".contains(*c);
    heading.trim().to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")
}

fn anchors(page: &Path) -> BTreeSet<String> {
    let headings = prose(page).into_iter().filter(|line| line.starts_with('#'));
    headings.map(|line| anchor(line.trim_start_matches('#'))).collect()
}

/// The targets of `[text](target)`.
fn links(line: &str) -> Vec<&str> {
    let ends = line.match_indices("](").map(|(at, _)| &line[at + 2..]);
    ends.filter_map(|rest| rest.split_once(')')).map(|(target, _)| target).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for page in pages() {
        for line in prose(&page) {
            for target in links(&line) {
                if target.starts_with("http://") || target.starts_with("https://") {
                    continue;
                }
                seen += 1;
                let (file, heading) = target.split_once('#').unwrap_or((target, ""));
                let there = match file {
                    "" => page.clone(),
                    file => page.parent().unwrap().join(file),
                };
                let found =
                    there.exists() && (heading.is_empty() || anchors(&there).contains(heading));
                if !found {
                    wrong.push(format!("{}: {target}", page.display()));
                }
            }
        }
    }
    assert!(seen > 100, "the pages have only {seen} links");
    assert!(wrong.is_empty(), "these lead nowhere:\n{}", wrong.join("\n"));
}

#[test]
fn the_index_names_every_page() {
    let index = root().join("docs/README.md");
    let named: BTreeSet<PathBuf> = prose(&index)
        .iter()
        .flat_map(|line| links(line))
        .map(|file| index.parent().unwrap().join(file).canonicalize().unwrap())
        .collect();
    for page in fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path()) {
        let page = page.canonicalize().unwrap();
        let is_page =
            page.extension().is_some_and(|end| end == "md") && !page.ends_with("docs/README.md");
        assert!(
            !is_page || named.contains(&page),
            "docs/README.md does not name {}",
            page.display()
        );
    }
}

#[test]
fn the_index_of_examples_names_every_folder() {
    let index = fs::read_to_string(root().join("examples/README.md")).unwrap();
    let folders = fs::read_dir(root().join("examples")).unwrap().map(|entry| entry.unwrap().path());
    for folder in folders.filter(|path| path.is_dir()) {
        let name = folder.file_name().unwrap().to_str().unwrap();
        assert!(index.contains(&format!("]({name}")), "examples/README.md does not name {name}");
    }
}

#[test]
fn anchors_are_as_pages_are_shown() {
    assert_eq!(anchor(" The state is lost: `s3vol rebuild`"), "the-state-is-lost-s3vol-rebuild");
    assert_eq!(anchor("7. Lose host B"), "7-lose-host-b");
    assert_eq!(links("[a](b.md#c) and [d](e)"), ["b.md#c", "e"]);
}

/// A lane that nobody runs finds nothing.
#[test]
fn the_checks_run_every_lane_and_a_release_passes_them() {
    let read = |file: &str| fs::read_to_string(root().join(file)).unwrap();
    let (makefile, checks) = (read("Makefile"), read(".github/workflows/check.yml"));
    let lanes: BTreeSet<&str> = makefile
        .lines()
        .filter_map(|line| line.split_once(": ##"))
        .map(|(target, _)| target)
        .filter(|target| target.starts_with("test-"))
        .collect();
    assert!(lanes.len() >= 6, "{lanes:?}");
    let run: BTreeSet<&str> = checks
        .lines()
        .filter_map(|line| line.trim().strip_prefix("lane: [")?.strip_suffix(']'))
        .flat_map(|list| list.split(", "))
        .collect();
    assert_eq!(run, lanes, "check.yml runs other lanes than the Makefile has");
    let release = read(".github/workflows/release.yml");
    let jobs: Vec<&str> = release.split("\njobs:\n").nth(1).unwrap().split("\n\n").collect();
    assert!(jobs[0].contains("  check:\n    uses: ./.github/workflows/check.yml"), "{}", jobs[0]);
    for job in &jobs[1..] {
        assert!(job.contains("\n    needs: "), "a job waits for nothing: {job}");
    }
    assert!(checks.contains("\n  workflow_call:\n"));
}
