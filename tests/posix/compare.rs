//! Whether two trees look the same and hold the same.

use std::collections::BTreeMap;
use std::io;
use std::time::SystemTime;

use super::calls::Place;
use super::look::{Look, Node, xattrs};

/// A tree with all it holds.
pub struct Left {
    pub look: Look,
    pub contents: BTreeMap<Vec<u8>, Vec<u8>>,
    pub xattrs: BTreeMap<Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>>,
}

impl Left {
    pub fn at(place: &Place) -> Left {
        Left::try_at(place).unwrap_or_else(|e| panic!("{}: {e}", place.root.display()))
    }

    /// The same where names may go meanwhile.
    pub fn try_at(place: &Place) -> io::Result<Left> {
        let look = Look::try_at(place)?;
        let (mut contents, mut attributes) = (BTreeMap::new(), BTreeMap::new());
        for (path, node) in &look.nodes {
            if node.is_file() {
                contents.insert(path.clone(), std::fs::read(place.at(path))?);
            }
            attributes.insert(path.clone(), xattrs(&place.at(path))?);
        }
        Ok(Left { look, contents, xattrs: attributes })
    }

    /// Whether contents and extended attributes are the same.
    pub fn holds_the_same(&self, other: &Left) -> Result<(), String> {
        for (path, content) in &self.contents {
            let theirs = &other.contents[path];
            if content != theirs {
                let at = content.iter().zip(theirs).position(|(a, b)| a != b);
                return Err(format!("{}: content differs at {at:?}", shown(path)));
            }
        }
        for (path, ours) in &self.xattrs {
            let theirs = &other.xattrs[path];
            if ours != theirs {
                return Err(format!("{}: attributes {ours:?}, there {theirs:?}", shown(path)));
            }
        }
        Ok(())
    }
}

pub fn shown(path: &[u8]) -> String {
    let short = &path[..path.len().min(60)];
    format!("{:?} ({} bytes)", String::from_utf8_lossy(short), path.len())
}

/// The same names with the same attributes, and the same times that moved.
pub fn same_looks(before: &(Look, Look), after: &(Look, Look)) -> Result<(), String> {
    alike(&after.0, &after.1)?;
    for (path, here) in &after.0.nodes {
        let there = &after.1.nodes[path];
        let moved = |look: &Look, now: &Node| {
            let old = look.nodes.get(path).filter(|old| old.ino == now.ino)?;
            Some((old.mtime != now.mtime, old.ctime != now.ctime))
        };
        let moved = (moved(&before.0, here), moved(&before.1, there));
        if let (Some(here), Some(there)) = moved
            && here != there
        {
            let path = shown(path);
            return Err(format!("{path}: mtime and ctime moved: {here:?}; on ext4 {there:?}"));
        }
    }
    Ok(())
}

/// One place before and after something that changes nothing, inode numbers and times included.
pub fn same_everything(before: &Look, after: &Look) -> Result<(), String> {
    if before.nodes == after.nodes {
        return Ok(());
    }
    let paths = before.nodes.keys().chain(after.nodes.keys());
    let differs = paths.map(|path| (shown(path), before.nodes.get(path), after.nodes.get(path)));
    Err(format!("(path, before, after) {:?}", differs.filter(|d| d.1 != d.2).collect::<Vec<_>>()))
}

/// The same names with the same attributes.
pub fn alike(ours: &Look, theirs: &Look) -> Result<(), String> {
    if !ours.nodes.keys().eq(theirs.nodes.keys()) {
        let names = |look: &Look| look.nodes.keys().map(|p| shown(p)).collect::<Vec<_>>();
        return Err(format!("names {:?}; on ext4 {:?}", names(ours), names(theirs)));
    }
    if ours.groups() != theirs.groups() {
        return Err(format!("links {:?}; on ext4 {:?}", ours.groups(), theirs.groups()));
    }
    for (path, here) in &ours.nodes {
        let there = &theirs.nodes[path];
        let alike = |n: &Node| (n.mode, n.uid, n.gid, n.nlink, n.size, n.rdev, n.target.clone());
        if alike(here) != alike(there) {
            return Err(format!("{}: {here:?}; on ext4 {there:?}", shown(path)));
        }
        // A time that somebody set.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        if now.abs_diff(there.mtime.0 as u64) > 3600 && here.mtime != there.mtime {
            return Err(format!(
                "{}: mtime {:?}; on ext4 {:?}",
                shown(path),
                here.mtime,
                there.mtime
            ));
        }
    }
    Ok(())
}
