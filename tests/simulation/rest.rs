//! What lies in the bucket in the end: one plain object a name, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use s3vol::settle::from_object;
use s3vol::types::FileKind;

use crate::host::PREFIX;
use crate::model::Seen;
use crate::sim::sim;

/// `shown`: all that the volume shows below its clients' directories. `collected`: no garbage may be left.
pub fn check(shown: &BTreeMap<String, Seen>, collected: bool) -> Result<(), String> {
    let objects = sim().bucket.objects.borrow();
    let mut expected: BTreeSet<String> = BTreeSet::new();
    for (path, seen) in shown {
        let slash = if seen.kind == FileKind::Dir { "/" } else { "" };
        let key = format!("{PREFIX}{path}{slash}");
        let object = objects.get(&key).ok_or(format!("{key} is not at rest"))?;
        let wrong = |what: String| Err(format!("{key} at rest has {what}"));
        if object.body != seen.bytes {
            return wrong(format!("{} bytes that are not the file's", object.body.len()));
        }
        if object.attributes.is_empty() {
            // Somebody else's.
            expected.insert(key);
            continue;
        }
        let is = from_object(&object.attributes, seen.kind == FileKind::Dir);
        if (is.kind, is.perm, is.uid) != (Some(seen.kind), Some(seen.perm), Some(seen.uid)) {
            return wrong(format!("{is:?}, and the file {seen:?}"));
        }
        if seen.kind != FileKind::Dir && is.mtime != Some(seen.mtime) {
            return wrong(format!("the time {:?}, and the file {:?}", is.mtime, seen.mtime));
        }
        expected.insert(key);
    }
    let mut homes = BTreeSet::new();
    for key in objects.keys() {
        if let Some(path) = key.strip_prefix(PREFIX) {
            // The directories of the clients.
            if path.ends_with('/') && path.matches('/').count() == 1 {
                homes.insert(key.clone());
            } else if !expected.contains(key) {
                return Err(format!("{key} lies there, and no name leads to it"));
            }
        } else if collected && (key.contains("/segments/") || key.contains("/parked/")) {
            return Err(format!("{key} is garbage, and not collected"));
        }
    }
    if homes.is_empty() && !shown.is_empty() {
        return Err("the clients' directories have no markers".to_owned());
    }
    Ok(())
}
