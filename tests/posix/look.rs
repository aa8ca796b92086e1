//! How a tree looks from outside.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::calls::Place;

/// A file to do something with: by name, or one that is open and has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Path(Vec<u8>),
    /// Number of the open file.
    Open(usize),
}

/// What `lstat` and `readlink` say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u64,
    /// 0 for a directory: it says nothing about what is in there.
    pub size: u64,
    pub rdev: u64,
    pub target: Vec<u8>,
    pub ino: u64,
    pub mtime: (i64, i64),
    pub ctime: (i64, i64),
}

impl Node {
    fn is(&self, kind: u32) -> bool {
        self.mode & libc::S_IFMT == kind
    }

    pub fn is_file(&self) -> bool {
        self.is(libc::S_IFREG)
    }

    pub fn is_dir(&self) -> bool {
        self.is(libc::S_IFDIR)
    }
}

/// Every path below a folder, the folder itself as the empty path.
#[derive(Debug, Clone, Default)]
pub struct Look {
    pub nodes: BTreeMap<Vec<u8>, Node>,
    pub nameless: Vec<usize>,
}

impl Look {
    /// To be called as root.
    pub fn at(place: &Place) -> Look {
        Look::try_at(place).unwrap_or_else(|e| panic!("{}: {e}", place.root.display()))
    }

    /// The same where names may go meanwhile.
    pub fn try_at(place: &Place) -> io::Result<Look> {
        let mut nodes = BTreeMap::new();
        walk(&place.root, Vec::new(), &mut nodes)?;
        Ok(Look { nodes, nameless: place.nameless() })
    }

    pub fn of(&self, wanted: impl Fn(&Vec<u8>, &Node) -> bool) -> Vec<&Vec<u8>> {
        self.nodes.iter().filter(|(path, node)| wanted(path, node)).map(|(path, _)| path).collect()
    }

    pub fn dir(&self, number: u8) -> &[u8] {
        let dirs = self.of(|_, node| node.is_dir());
        dirs[usize::from(number) % dirs.len()]
    }

    pub fn entry(&self, number: u8) -> Option<&[u8]> {
        let entries = self.of(|path, _| !path.is_empty());
        Some(entries.get(usize::from(number) % entries.len().max(1))?.as_slice())
    }

    pub fn file(&self, number: u8) -> Option<Target> {
        let mut files: Vec<Target> =
            self.of(|_, node| node.is_file()).into_iter().cloned().map(Target::Path).collect();
        files.extend(self.nameless.iter().copied().map(Target::Open));
        files.get(usize::from(number) % files.len().max(1)).cloned()
    }

    /// Which paths are names of one inode: each path with the first of them.
    pub fn groups(&self) -> BTreeMap<&[u8], &[u8]> {
        let mut first: BTreeMap<u64, &[u8]> = BTreeMap::new();
        self.nodes
            .iter()
            .map(|(path, node)| (path.as_slice(), *first.entry(node.ino).or_insert(path)))
            .collect()
    }
}

fn walk(at: &Path, path: Vec<u8>, nodes: &mut BTreeMap<Vec<u8>, Node>) -> io::Result<()> {
    let meta = std::fs::symlink_metadata(at)?;
    let is_dir = meta.is_dir();
    let target = match meta.is_symlink() {
        true => std::fs::read_link(at)?.as_os_str().as_bytes().to_vec(),
        false => Vec::new(),
    };
    let node = Node {
        mode: meta.mode(),
        uid: meta.uid(),
        gid: meta.gid(),
        nlink: meta.nlink(),
        size: if is_dir { 0 } else { meta.size() },
        rdev: meta.rdev(),
        target,
        ino: meta.ino(),
        mtime: (meta.mtime(), meta.mtime_nsec()),
        ctime: (meta.ctime(), meta.ctime_nsec()),
    };
    let below = if path.is_empty() { Vec::new() } else { [path.as_slice(), b"/"].concat() };
    nodes.insert(path, node);
    if is_dir {
        for entry in std::fs::read_dir(at)? {
            let name = entry?.file_name();
            walk(&at.join(&name), [&below, name.as_bytes()].concat(), nodes)?;
        }
    }
    Ok(())
}

/// Names and values of a path's extended attributes.
pub fn xattrs(path: &Path) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut found = BTreeMap::new();
    for name in xattr::list(path)? {
        if let Some(value) = xattr::get(path, &name)? {
            found.insert(name.as_bytes().to_vec(), value);
        }
    }
    Ok(found)
}
