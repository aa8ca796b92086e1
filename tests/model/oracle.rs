//! A POSIX tree in memory, simple enough to be believed.

use std::collections::BTreeMap;

use s3vol::types::{FileKind, Ino, Timestamp};

pub type Id = u32;
pub const ROOT: Id = 0;

#[derive(Debug, Clone)]
pub struct Node {
    pub kind: FileKind,
    pub perm: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u32,
    pub data: Vec<u8>,
    pub target: Vec<u8>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub children: BTreeMap<Vec<u8>, Id>,
    /// Names of a file; a directory's count is computed.
    pub links: u32,
    pub opens: u32,
    /// Known only after utimens.
    pub mtime: Option<Timestamp>,
    /// `None` when somebody else made it and it was not looked up yet.
    pub ino: Option<Ino>,
    /// The key at which it is somebody else's object (a directory: no marker at all), without
    /// attributes of ours.
    pub theirs: Option<String>,
}

impl Node {
    pub fn new(kind: FileKind, perm: u32, ino: Option<Ino>) -> Self {
        Node {
            kind,
            perm,
            uid: 0,
            gid: 0,
            rdev: 0,
            data: Vec::new(),
            target: Vec::new(),
            xattrs: BTreeMap::new(),
            children: BTreeMap::new(),
            links: 0,
            opens: 0,
            mtime: None,
            ino,
            theirs: None,
        }
    }

    pub fn is_dir(&self) -> bool {
        self.kind == FileKind::Dir
    }
}

/// One name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub dir: Id,
    pub name: Vec<u8>,
    pub id: Id,
}

#[derive(Debug)]
pub struct Tree {
    pub nodes: BTreeMap<Id, Node>,
    next: Id,
}

/// Every error that would be right.
pub type Refused = Vec<&'static str>;

impl Tree {
    pub fn new(perm: u32) -> Self {
        let root = Node::new(FileKind::Dir, perm, Some(Ino::ROOT));
        Tree { nodes: BTreeMap::from([(ROOT, root)]), next: 1 }
    }

    pub fn node(&self, id: Id) -> &Node {
        &self.nodes[&id]
    }

    pub fn node_mut(&mut self, id: Id) -> &mut Node {
        self.nodes.get_mut(&id).expect("the model's own id")
    }

    pub fn dirs(&self) -> Vec<Id> {
        let mut dirs = vec![ROOT];
        dirs.extend(self.entries().into_iter().filter(|e| self.node(e.id).is_dir()).map(|e| e.id));
        dirs
    }

    /// Every name, in a stable order.
    pub fn entries(&self) -> Vec<Entry> {
        let mut found = Vec::new();
        let mut stack = vec![ROOT];
        while let Some(dir) = stack.pop() {
            for (name, &id) in &self.node(dir).children {
                found.push(Entry { dir, name: name.clone(), id });
                if self.node(id).is_dir() {
                    stack.push(id);
                }
            }
        }
        found
    }

    /// Regular files, those that are only open included.
    pub fn files(&self) -> Vec<Id> {
        self.nodes.iter().filter(|(_, n)| n.kind == FileKind::File).map(|(id, _)| *id).collect()
    }

    pub fn nlink(&self, id: Id) -> u32 {
        let node = self.node(id);
        if !node.is_dir() || node.links == 0 && id != ROOT {
            return node.links;
        }
        2 + node.children.values().filter(|child| self.node(**child).is_dir()).count() as u32
    }

    pub fn child(&self, dir: Id, name: &[u8]) -> Option<Id> {
        self.node(dir).children.get(name).copied()
    }

    pub fn add(&mut self, dir: Id, name: &[u8], node: Node) -> Id {
        let id = self.next;
        self.next += 1;
        self.nodes.insert(id, node);
        self.link(dir, name, id);
        id
    }

    pub fn link(&mut self, dir: Id, name: &[u8], id: Id) {
        self.node_mut(dir).children.insert(name.to_vec(), id);
        self.node_mut(id).links += 1;
    }

    /// Takes a name away, and the node with its last name and handle.
    pub fn unlink(&mut self, dir: Id, name: &[u8]) {
        let id = self.node_mut(dir).children.remove(name).expect("the model's own name");
        self.node_mut(id).links -= 1;
        self.drop_if_gone(id);
    }

    pub fn drop_if_gone(&mut self, id: Id) {
        let node = self.node(id);
        if node.links == 0 && node.opens == 0 && id != ROOT {
            self.nodes.remove(&id);
        }
    }

    fn is_inside(&self, id: Id, dir: Id) -> bool {
        id == dir || self.node(dir).children.values().any(|child| self.is_inside(id, *child))
    }

    /// rename(2); `how`: 0 replaces, 1 refuses to, 2 exchanges.
    pub fn rename(&mut self, from: &Entry, dir: Id, name: &[u8], how: u8) -> Result<(), Refused> {
        let source = from.id;
        let target = self.child(dir, name);
        let mut wrong = Vec::new();
        if self.is_inside(dir, source) {
            wrong.push("invalid");
        }
        let is_dir = |id| self.node(id).is_dir();
        match (how, target) {
            (1, Some(_)) => wrong.push("exists"),
            (2, None) => wrong.push("not found"),
            (2, Some(target)) if self.is_inside(from.dir, target) => wrong.push("invalid"),
            (0, Some(target)) if target != source => match (is_dir(source), is_dir(target)) {
                (true, false) => wrong.push("not a directory"),
                (false, true) => wrong.push("is a directory"),
                (true, true) if !self.node(target).children.is_empty() => wrong.push("not empty"),
                _ => {}
            },
            _ => {}
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        match target {
            Some(target) if target == source => {}
            Some(target) if how == 2 => {
                self.node_mut(from.dir).children.insert(from.name.clone(), target);
                self.node_mut(dir).children.insert(name.to_vec(), source);
            }
            target => {
                if target.is_some() {
                    self.unlink(dir, name);
                }
                self.link(dir, name, source);
                self.unlink(from.dir, &from.name);
            }
        }
        Ok(())
    }

    /// Nothing is open any more.
    pub fn close_all(&mut self) {
        let ids: Vec<Id> = self.nodes.keys().copied().collect();
        for id in ids {
            self.node_mut(id).opens = 0;
            self.drop_if_gone(id);
        }
    }
}
