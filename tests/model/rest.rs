//! What lies in the bucket once everything has settled.

use std::collections::{BTreeMap, BTreeSet};

use s3vol::data::{MAX_KEY, escape_name};
use s3vol::settle::from_object;
use s3vol::types::FileKind;

use crate::oracle::{Id, ROOT};
use crate::run::{Outcome, Run, failed, file_name, same_bytes};
use crate::world::server;

impl Run {
    /// Every name with the key where it belongs; directories end in `/`.
    pub fn keys(&self) -> BTreeMap<String, Id> {
        let mut keys = BTreeMap::new();
        let mut stack = vec![(ROOT, self.world.prefix.clone())];
        while let Some((dir, prefix)) = stack.pop() {
            for (name, id) in &self.tree.node(dir).children {
                let mut key = format!("{prefix}{}", escape_name(&file_name(name)));
                if self.tree.node(*id).is_dir() {
                    key.push('/');
                    stack.push((*id, key.clone()));
                }
                keys.insert(key, *id);
            }
        }
        keys
    }

    /// What stays in motion: it has a name whose key no store takes.
    pub fn stuck(&self) -> BTreeSet<Id> {
        self.keys().into_iter().filter(|(key, _)| key.len() > MAX_KEY).map(|(_, id)| id).collect()
    }

    /// One plain object a file, with its content and attributes; a marker a directory; nothing else.
    pub async fn at_rest(&self) -> Outcome {
        let mut expected = self.keys();
        let stuck = self.stuck();
        for (key, object) in server().objects(&self.world.prefix) {
            let at = |what: String| format!("at rest, {key:?}: {what}");
            let Some(id) = expected.remove(&key) else {
                if !stuck.is_empty() {
                    // It may hold what a file in motion still needs.
                    continue;
                }
                return Err(at(format!("should not be there: {:?}", object.metadata)));
            };
            if stuck.contains(&id) {
                continue;
            }
            let node = self.tree.node(id);
            let body: &[u8] = match node.kind {
                FileKind::File => &node.data,
                FileKind::Symlink => &node.target,
                _ => b"",
            };
            same_bytes(&object.body, body).map_err(at)?;
            if node.theirs.as_ref() == Some(&key) {
                continue;
            }
            let mode = (node.kind.mode_bits() | node.perm).to_string();
            if object.metadata.get("mode") != Some(&mode) {
                return Err(at(format!("mode {:?}, expected {mode}", object.metadata)));
            }
            let shown = from_object(&object.metadata, node.is_dir());
            if (shown.uid, shown.gid) != (Some(node.uid), Some(node.gid)) {
                return Err(at(format!("owner {shown:?}")));
            }
            if matches!(node.kind, FileKind::CharDevice | FileKind::BlockDevice)
                && shown.rdev != Some(node.rdev)
            {
                return Err(at(format!("device {shown:?}")));
            }
            // A directory's time moves with its names, which its marker does not show.
            if !node.is_dir() {
                let attr = self.fs().getattr(self.ino(id)).await.map_err(failed("getattr"))?;
                if shown.mtime != Some(attr.mtime) {
                    return Err(at(format!("mtime {:?}, expected {:?}", shown.mtime, attr.mtime)));
                }
            }
        }
        expected.retain(|_, id| {
            let node = self.tree.node(*id);
            !(stuck.contains(id) || node.is_dir() && node.theirs.is_some())
        });
        if !expected.is_empty() {
            return Err(format!("at rest, missing: {:?}", expected.keys()));
        }
        match self.world.segments() {
            left if left.is_empty() || !stuck.is_empty() => Ok(()),
            left => Err(format!("segments are left: {left:?}")),
        }
    }
}
