//! What others do to the bucket, always to objects at rest: the volume is settled first.

use std::sync::atomic::{AtomicU32, Ordering};

use s3vol::data::{MAX_KEY, escape_name};
use s3vol::types::FileKind;

use crate::ops::{Op, bytes, name_of};
use crate::oracle::{Entry, Id, Node, ROOT};
use crate::run::{Outcome, Run, file_name};
use crate::world::server;

impl Run {
    pub async fn outside(&mut self, op: &Op) -> Outcome {
        self.settle().await?;
        match *op {
            Op::PutNew { dir, name, len, seed } => {
                let dirs = self.tree.dirs();
                let dir = dirs[usize::from(dir) % dirs.len()];
                let name = name_of(name);
                if self.tree.child(dir, &name).is_some() || !self.reachable(dir) {
                    return Ok(());
                }
                let key = format!("{}{}", self.dir_key(dir), escape_name(&file_name(&name)));
                if key.len() > MAX_KEY {
                    return Ok(());
                }
                self.put(&key, dir, &name, len, seed);
                let id = self.tree.child(dir, &name).expect("just put");
                self.revive(&key, id);
            }
            Op::PutBelow { dir, name, len, seed } => {
                let dirs = self.tree.dirs();
                let dir = dirs[usize::from(dir) % dirs.len()];
                let name = name_of(name);
                if self.tree.child(dir, &name).is_some() {
                    return Ok(());
                }
                let key = format!("{}{}/", self.dir_key(dir), escape_name(&file_name(&name)));
                if key.len() >= MAX_KEY {
                    return Ok(());
                }
                let mut below = Node::new(FileKind::Dir, self.world.spec.options.dir_mode, None);
                below.theirs = Some(key.clone());
                let below = self.tree.add(dir, &name, below);
                self.revive(&key, below);
                let key = format!("{key}x");
                self.put(&key, below, b"x", len, seed);
                let id = self.tree.child(below, b"x").expect("just put");
                self.revive(&key, id);
            }
            Op::PutReplaced { file, len, seed } => {
                let Some(entry) = self.resting_file(file) else { return Ok(()) };
                let key = self.key(&entry);
                if self.tree.node(entry.id).links > 1 {
                    // That link is broken.
                    self.tree.unlink(entry.dir, &entry.name);
                    self.put(&key, entry.dir, &entry.name, len, seed);
                } else {
                    let data = unlike_any(seed, len);
                    server().put_foreign(&key, data.clone(), &[]);
                    let node = self.tree.node_mut(entry.id);
                    node.data = data;
                    node.mtime = None;
                    node.theirs = Some(key);
                }
            }
            Op::DeleteObject { entry } => {
                let entries = self.tree.entries();
                if entries.is_empty() {
                    return Ok(());
                }
                let entry = entries[usize::from(entry) % entries.len()].clone();
                let node = self.tree.node(entry.id);
                if node.opens > 0 || node.is_dir() || self.stuck().contains(&entry.id) {
                    return Ok(());
                }
                let key = self.key(&entry);
                server().delete_foreign(&key);
                self.bury(key, entry.id);
                self.tree.unlink(entry.dir, &entry.name);
                self.vanished(entry.dir);
            }
            Op::BothChanged { file, len, seed, commit } => {
                let Some(entry) = self.resting_file(file) else { return Ok(()) };
                if self.tree.node(entry.id).links > 1 {
                    return Ok(());
                }
                self.rewrite(entry.id, len, seed).await?;
                if commit {
                    self.world.commit().await?;
                }
                let key = self.key(&entry);
                let (dir, name) = (entry.dir, entry.name.clone());
                self.tree.node_mut(dir).children.remove(&name);
                self.put(&key, dir, &name, len / 2 + 1, seed.wrapping_add(1));
                self.find_conflict(dir, &name, entry.id).await?;
            }
            Op::ChangedAndDeleted { file, len, seed, commit } => {
                let Some(entry) = self.resting_file(file) else { return Ok(()) };
                if self.tree.node(entry.id).links > 1 {
                    return Ok(());
                }
                self.rewrite(entry.id, len, seed).await?;
                if commit {
                    self.world.commit().await?;
                }
                server().delete_foreign(&self.key(&entry));
                self.kept(entry.dir);
            }
            _ => unreachable!("not an outside change"),
        }
        // Names came or went in some directory.
        for id in self.tree.dirs() {
            self.tree.node_mut(id).mtime = None;
            // What changed shows on use: a name that went counts until its directory is looked at.
            if let Some(ino) = self.tree.node(id).ino {
                self.names(ino, 100).await.map_err(|e| format!("after it: {e}"))?;
            }
        }
        Box::pin(self.compare()).await.map_err(|e| format!("after it: {e}"))?;
        Ok(())
    }

    /// The last file of a directory that has no marker takes the directory along.
    fn vanished(&mut self, dir: Id) {
        let node = self.tree.node(dir);
        if dir == ROOT || node.theirs.is_none() || !node.children.is_empty() {
            return;
        }
        if node.opens > 0 {
            // What somebody has open is not taken away: it gets a marker.
            return self.kept(dir);
        }
        let entry = self.tree.entries().into_iter().find(|e| e.id == dir);
        let entry = entry.expect("every directory has a name");
        self.bury(self.dir_key(dir), dir);
        self.tree.unlink(entry.dir, &entry.name);
        self.vanished(entry.dir);
    }

    /// A directory whose last key went while something here is to be published in it gets a marker.
    fn kept(&mut self, dir: Id) {
        let key = self.dir_key(dir);
        if dir != ROOT && server().keys(&key).is_empty() {
            self.tree.node_mut(dir).theirs = None;
            let entry = self.tree.entries().into_iter().find(|e| e.id == dir);
            self.kept(entry.expect("every directory has a name").dir);
        }
    }

    /// The last name of a file, or a directory.
    fn bury(&mut self, key: String, id: Id) {
        let node = self.tree.node(id);
        if node.is_dir() || node.kind == FileKind::File && node.links == 1 {
            self.tombs.insert(key, node.clone());
        }
    }

    fn revive(&mut self, key: &str, id: Id) {
        if let Some(tomb) = self.tombs.remove(key) {
            let node = self.tree.node_mut(id);
            (node.perm, node.uid, node.gid) = (tomb.perm, tomb.uid, tomb.gid);
            node.xattrs = tomb.xattrs;
        }
    }

    fn put(&mut self, key: &str, dir: Id, name: &[u8], len: u32, seed: u8) {
        let data = unlike_any(seed, len);
        server().put_foreign(key, data.clone(), &[]);
        let mut node = Node::new(FileKind::File, self.world.spec.options.file_mode, None);
        node.data = data;
        node.theirs = Some(key.to_owned());
        self.tree.add(dir, name, node);
    }

    /// Ours stands beside theirs under a name that says so.
    async fn find_conflict(&mut self, dir: Id, name: &[u8], id: Id) -> Outcome {
        const MARK: &[u8] = b".s3vol-conflict-";
        let names = self.names(self.ino(dir), 100).await?;
        let known = &self.tree.node(dir).children;
        // A long name is cut to make room.
        let ours = |n: &[u8]| {
            n.windows(MARK.len())
                .position(|w| w == MARK)
                .is_some_and(|at| name.starts_with(&n[..at]))
        };
        let mut aside = names.keys().filter(|n| ours(n) && !known.contains_key(*n));
        match (aside.next().cloned(), aside.next()) {
            (Some(aside), None) => {
                self.tree.node_mut(dir).children.insert(aside, id);
                Ok(())
            }
            _ => Err(format!("no conflict name: {names:?}")),
        }
    }

    fn reachable(&self, dir: Id) -> bool {
        dir == ROOT || self.tree.node(dir).links > 0
    }

    fn resting_file(&self, index: u8) -> Option<Entry> {
        let stuck = self.stuck();
        let entries: Vec<Entry> = self
            .tree
            .entries()
            .into_iter()
            .filter(|e| {
                let node = self.tree.node(e.id);
                node.kind == FileKind::File && node.opens == 0 && !stuck.contains(&e.id)
            })
            .collect();
        entries.get(usize::from(index) % entries.len().max(1)).cloned()
    }

    fn dir_key(&self, dir: Id) -> String {
        if dir == ROOT {
            return self.world.prefix.clone();
        }
        let keys = self.keys();
        let found = keys.into_iter().find(|(_, id)| *id == dir);
        found.map(|(key, _)| key).expect("every directory has a name")
    }

    fn key(&self, entry: &Entry) -> String {
        format!("{}{}", self.dir_key(entry.dir), escape_name(&file_name(&entry.name)))
    }
}

/// The same bytes put within a second are the same version, whoever put them; so no two are equal.
fn unlike_any(seed: u8, len: u32) -> Vec<u8> {
    static NUMBER: AtomicU32 = AtomicU32::new(1);
    let mut data = bytes(seed, len);
    data.extend_from_slice(&NUMBER.fetch_add(1, Ordering::Relaxed).to_le_bytes());
    data
}
