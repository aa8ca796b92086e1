//! The list of failpoints, and the places in the source.

use std::collections::BTreeMap;
use std::path::Path;

use s3vol::fault::points;

/// Files of the source and what they say.
fn sources(dir: &Path, found: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            found.push((path.display().to_string(), text));
        }
    }
}

/// The constant of a point, by how its text is made from it.
fn constant(point: &str) -> String {
    point.replace('-', "_").to_uppercase()
}

#[test]
fn each_point_is_at_one_place_and_no_place_has_another() {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (file, text) in &files {
        for (at, _) in text.match_indices("at(points::") {
            let rest = &text[at + "at(points::".len()..];
            let name = rest.split(')').next().unwrap_or_default();
            places.entry(name.to_owned()).or_default().push(file.clone());
        }
        // By its constant only, so that this list is the whole truth.
        let literal = text.contains("fault::at(\"")
            || text.contains("use crate::fault::{at, points}") && text.contains(" at(\"");
        assert!(!literal, "{file} names a point by a text of its own");
    }
    let listed: Vec<String> = points::ALL.iter().map(|point| constant(point)).collect();
    assert!(listed.len() > 40, "{listed:?}");
    for name in &listed {
        let at = places.get(name).map_or(0, Vec::len);
        assert_eq!(at, 1, "{name}: {:?}", places.get(name));
    }
    let unlisted: Vec<_> = places.keys().filter(|name| !listed.contains(name)).collect();
    assert!(unlisted.is_empty(), "{unlisted:?}");
}

#[test]
fn each_step_has_a_point_before_and_one_after() {
    for point in points::ALL {
        let Some(step) = point.strip_suffix("-before") else { continue };
        let after = format!("{step}-after");
        assert!(points::ALL.contains(&after.as_str()), "{after} is missing");
    }
}
