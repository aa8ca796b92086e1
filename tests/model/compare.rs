//! Whether the file system shows the model's tree.

use std::collections::BTreeMap;

use bytes::Bytes;
use s3vol::fs::{Attr, Show};
use s3vol::types::{Caller, FileKind, Ino};

use crate::oracle::{Id, ROOT};
use crate::run::{LARGEST, NONE, Outcome, Run, failed, file_name, same_bytes};

impl Run {
    /// Reads a directory in pages and compares names and kinds.
    pub async fn list(&mut self, id: Id, ino: Ino, page: usize) -> Outcome {
        let found = self.names(ino, page).await?;
        let expected: BTreeMap<Vec<u8>, FileKind> = self
            .tree
            .node(id)
            .children
            .iter()
            .map(|(name, child)| (name.clone(), self.tree.node(*child).kind))
            .collect();
        let shown = |map: &BTreeMap<Vec<u8>, FileKind>| {
            map.iter()
                .map(|(name, kind)| format!("{} {kind:?}", String::from_utf8_lossy(name)))
                .collect::<Vec<_>>()
        };
        if found.keys().ne(expected.keys()) {
            return Err(format!(
                "directory {ino} holds {:?}, expected {:?}",
                shown(&found),
                shown(&expected)
            ));
        }
        Ok(())
    }

    pub async fn names(
        &self,
        ino: Ino,
        page: usize,
    ) -> Result<BTreeMap<Vec<u8>, FileKind>, String> {
        let fs = self.fs();
        let fh = fs.opendir(Caller::ROOT, ino).await.map_err(failed("opendir"))?;
        let mut found = BTreeMap::new();
        let mut cookie = 0;
        loop {
            let entries = fs
                .readdir(ino, fh, cookie, page, Show::Attributes)
                .await
                .map_err(failed("readdir"))?;
            let Some(last) = entries.last() else { break };
            cookie = last.cookie;
            for entry in entries {
                if entry.name == b"." || entry.name == b".." {
                    continue;
                }
                if found.insert(entry.name.clone(), entry.kind).is_some() {
                    return Err(format!("{:?} is listed twice", entry.name));
                }
            }
        }
        fs.releasedir(Caller::ROOT, ino, fh).await.map_err(failed("releasedir"))?;
        Ok(found)
    }

    /// Compares the whole tree; returns every path's attributes.
    pub async fn compare(&mut self) -> Result<BTreeMap<Vec<u8>, Attr>, String> {
        let mut seen = BTreeMap::new();
        let mut stack = vec![(ROOT, Vec::new())];
        while let Some((dir, path)) = stack.pop() {
            let ino = self.ino(dir);
            self.list(dir, ino, 3)
                .await
                .map_err(|e| format!("in {:?}: {e}", String::from_utf8_lossy(&path)))?;
            let children: Vec<(Vec<u8>, Id)> =
                self.tree.node(dir).children.iter().map(|(n, id)| (n.clone(), *id)).collect();
            for (name, id) in children {
                let path = [path.as_slice(), b"/", &name].concat();
                let at = |e: String| format!("{:?}: {e}", String::from_utf8_lossy(&path));
                let looked = self.fs().lookup(ino, file_name(&name)).await;
                let mut attr = looked.map_err(failed("lookup")).map_err(at)?;
                if self.tree.node(id).is_dir() {
                    // The count of links knows the directories below once somebody looked.
                    self.names(attr.ino, 100).await.map_err(at)?;
                    attr = self.fs().getattr(attr.ino).await.map_err(failed("stat")).map_err(at)?;
                }
                self.tree.node_mut(id).ino.get_or_insert(attr.ino);
                self.compare_node(id, &attr).await.map_err(at)?;
                seen.insert(path.clone(), attr);
                if self.tree.node(id).is_dir() {
                    stack.push((id, path));
                }
            }
        }
        let orphans: Vec<Id> = self.handles.iter().map(|(_, id)| *id).collect();
        for id in orphans {
            let attr = self.fs().getattr(self.ino(id)).await.map_err(failed("getattr"))?;
            self.compare_node(id, &attr).await.map_err(|e| format!("an open file: {e}"))?;
        }
        Ok(seen)
    }

    async fn compare_node(&self, id: Id, attr: &Attr) -> Outcome {
        let fs = self.fs();
        let node = self.tree.node(id);
        let ours =
            (node.ino.unwrap_or(attr.ino), node.kind, node.perm, self.tree.nlink(id), node.uid);
        let theirs = (attr.ino, attr.kind, attr.perm, attr.nlink, attr.uid);
        if ours != theirs || node.gid != attr.gid || node.rdev != attr.rdev {
            return Err(format!("is {attr:?}, expected {ours:?}"));
        }
        if let Some(mtime) = node.mtime
            && mtime != attr.mtime
        {
            return Err(format!("mtime is {:?}, expected {mtime:?}", attr.mtime));
        }
        match node.kind {
            FileKind::File => {
                let len = node.data.len() as u64;
                if attr.size != len {
                    return Err(format!("has {} bytes, expected {len}", attr.size));
                }
                let read = fs.read(attr.ino, NONE, 0, LARGEST * 2).await;
                same_bytes(&read.map_err(failed("read"))?, &node.data)?;
            }
            FileKind::Symlink => {
                let target = fs.readlink(attr.ino).await.map_err(failed("readlink"))?;
                if *target != *node.target || attr.size != target.len() as u64 {
                    return Err(format!("leads to {target:?}, size {}", attr.size));
                }
            }
            _ => {}
        }
        let names = fs.listxattr(attr.ino).await.map_err(failed("listxattr"))?;
        let names: Vec<&[u8]> = names.split(|b| *b == 0).filter(|n| !n.is_empty()).collect();
        let expected: Vec<&[u8]> = node.xattrs.keys().map(Vec::as_slice).collect();
        if names != expected {
            return Err(format!("has attributes {names:?}, expected {expected:?}"));
        }
        for (name, value) in &node.xattrs {
            let found = fs.getxattr(attr.ino, Bytes::from(name.clone())).await;
            if *found.map_err(failed("getxattr"))? != **value {
                return Err("an extended attribute has another value".into());
            }
        }
        Ok(())
    }
}
