//! What others do to the bucket while it is mounted, to objects at rest; the folder of ext4 gets the
//! plain file operation that it amounts to.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;
use std::time::Duration;

use s3vol::data::MAX_KEY;

use super::compare::{Left, alike, shown};
use super::look::{Look, Node, xattrs};
use super::pair::{Pair, Sequence, key_of};
use crate::ops::{Op, bytes, name_of};
use crate::support::s3server::Object;
use crate::support::wait_for;

/// No file grows past this, bytes.
const LARGEST: u32 = 600_000;
/// How long a request of a process that was killed keeps its key from settling, and some more.
const HOT: Duration = Duration::from_secs(60);
/// Objects without attributes show with these, and belong to root.
const FILE_MODE: u32 = 0o644;
const DIR_MODE: u32 = 0o755;

/// What others did so far.
#[derive(Default)]
pub struct Others {
    /// What they put last at a key.
    objects: BTreeMap<String, Vec<u8>>,
    /// Directories that had no marker when they were made, by the keys of their markers.
    bare: BTreeSet<String>,
    /// What they removed; a key that returns has its attributes.
    tombs: BTreeMap<String, Tomb>,
    number: u32,
    /// How many of these operations were played.
    pub played: u32,
}

struct Tomb {
    mode: u32,
    uid: u32,
    gid: u32,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Tomb {
    fn of(path: &Path) -> Tomb {
        let meta = std::fs::symlink_metadata(path).unwrap();
        let (mode, uid, gid) = (meta.mode() & 0o7777, meta.uid(), meta.gid());
        Tomb { mode, uid, gid, xattrs: xattrs(path).unwrap() }
    }

    fn show(&self, path: &Path) {
        lchown(path, Some(self.uid), Some(self.gid)).unwrap();
        std::fs::set_permissions(path, Permissions::from_mode(self.mode)).unwrap();
        for (name, value) in &self.xattrs {
            xattr::set(path, std::str::from_utf8(name).unwrap(), value).unwrap();
        }
    }
}

impl Others {
    /// Whether an object is as they put it, and so without attributes of ours.
    pub fn put(&self, key: &str, object: &Object) -> bool {
        object.metadata.is_empty() && self.objects.get(key).is_some_and(|body| *body == object.body)
    }

    pub fn made_by_its_keys(&self, marker: &str) -> bool {
        self.bare.contains(marker)
    }

    /// The same bytes put within a second are the same version, so no two are equal.
    fn unlike_any(&mut self, seed: u8, len: u32) -> Vec<u8> {
        self.number += 1;
        let mut data = bytes(seed, len);
        data.extend_from_slice(&self.number.to_le_bytes());
        data
    }

    /// What a new object or directory of theirs looks like on ext4.
    fn shows(&mut self, key: &str, path: &Path, mode: u32) {
        let plain = Tomb { mode, uid: 0, gid: 0, xattrs: BTreeMap::new() };
        self.tombs.remove(key).unwrap_or(plain).show(path);
    }
}

fn below(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}

fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|b| *b == b'/').map_or(b"", |at| &path[..at])
}

impl Sequence {
    fn is_open(&self, node: &Node) -> bool {
        self.theirs.files.iter().any(|file| file.metadata().unwrap().ino() == node.ino)
    }

    /// A regular file that nobody has open.
    fn resting_file(&self, seen: &Look, number: u8) -> Option<Vec<u8>> {
        let files = seen.of(|_, node| node.is_file() && !self.is_open(node));
        files.get(usize::from(number) % files.len().max(1)).map(|path| path.to_vec())
    }
}

impl Pair {
    /// Plays one of them and waits until it shows; how both look then.
    pub fn outside(
        &mut self,
        op: &Op,
        playing: &mut Sequence,
        before: (Look, Look),
    ) -> Result<(Look, Look), String> {
        if !self.settle(playing)? || !self.change(op, playing, &before.1)? {
            return Ok(before);
        }
        self.others.played += 1;
        let mut differs = String::new();
        let same = |differs: &mut String| {
            let ours = Left::try_at(&playing.ours).map_err(|e| e.to_string());
            let theirs = Left::at(&playing.theirs);
            let compared = ours.and_then(|ours| {
                alike(&ours.look, &theirs.look)?;
                ours.holds_the_same(&theirs)
            });
            compared.map_err(|why| *differs = why).ok()
        };
        shows_soon(|| same(&mut differs))
            .ok_or_else(|| format!("not within {SHOWS:?}: {differs}"))?;
        // A directory's times are those before its names were looked at: looked at again.
        let after = playing.looks();
        alike(&after.0, &after.1)?;
        let touched = matches!(op, Op::ChangedAndDeleted { .. });
        for (path, there) in after.1.nodes.iter().filter(|(_, node)| node.is_dir() && !touched) {
            let moved = |before: &Look, now: &Node| {
                let old = before.nodes.get(path).filter(|old| old.ino == now.ino)?;
                Some((old.mtime != now.mtime, old.ctime != now.ctime))
            };
            let here = moved(&before.0, &after.0.nodes[path]);
            if moved(&before.1, there) == Some((true, true)) && here == Some((false, false)) {
                return Err(format!("names came or went in {}, unseen in its times", shown(path)));
            }
        }
        Ok(after)
    }

    /// Brings all of a sequence to rest; false when something in it never can be.
    pub fn settle(&mut self, playing: &Sequence) -> Result<bool, String> {
        let left = Left::at(&playing.ours);
        if left.stuck(&playing.name) {
            return Ok(false);
        }
        let mounted = self.mounted.as_ref().unwrap();
        wait_for("the sequence to be at rest", HOT, || {
            let said = mounted.drain();
            mounted.resume();
            match self.at_rest(&playing.name, &left) {
                Ok(()) => Some(Ok(true)),
                Err(why) if said.unsettled_files == 0 => Some(Err(format!("settled, but {why}"))),
                // Keys of a process that was killed wait for what it may have sent.
                Err(_) => None,
            }
        })
    }

    /// Does it to the bucket and to ext4; false when there is nothing to do it to.
    fn change(&mut self, op: &Op, playing: &Sequence, seen: &Look) -> Result<bool, String> {
        let theirs = &playing.theirs;
        let key = |path: &[u8]| key_of(&playing.name, path);
        match *op {
            Op::PutNew { dir, name, len, seed } => {
                let path = below(seen.dir(dir), &name_of(name));
                if seen.nodes.contains_key(&path) || key(&path).len() > MAX_KEY {
                    return Ok(false);
                }
                self.put_new(&key(&path), &theirs.at(&path), len, seed);
            }
            Op::PutBelow { dir, name, len, seed } => {
                let path = below(seen.dir(dir), &name_of(name));
                let file = below(&path, b"x");
                if seen.nodes.contains_key(&path) || key(&file).len() > MAX_KEY {
                    return Ok(false);
                }
                std::fs::create_dir(theirs.at(&path)).unwrap();
                let marker = key(&path) + "/";
                self.others.shows(&marker, &theirs.at(&path), DIR_MODE);
                self.others.bare.insert(marker);
                self.put_new(&key(&file), &theirs.at(&file), len, seed);
            }
            Op::PutReplaced { file, len, seed } => {
                let Some(path) = playing.resting_file(seen, file) else { return Ok(false) };
                let at = theirs.at(&path);
                if seen.nodes[&path].nlink > 1 {
                    // That link is broken.
                    std::fs::remove_file(&at).unwrap();
                    self.others.tombs.remove(&key(&path));
                    self.put_new(&key(&path), &at, len, seed);
                } else {
                    let kept = Tomb::of(&at);
                    std::fs::write(&at, self.put(&key(&path), len, seed)).unwrap();
                    kept.show(&at);
                }
            }
            Op::DeleteObject { entry } => {
                let Some(path) = seen.entry(entry) else { return Ok(false) };
                let node = &seen.nodes[path];
                if node.is_dir() || playing.is_open(node) {
                    return Ok(false);
                }
                self.bucket.server.delete_foreign(&key(path));
                if node.is_file() && node.nlink == 1 {
                    self.others.tombs.insert(key(path), Tomb::of(&theirs.at(path)));
                }
                std::fs::remove_file(theirs.at(path)).unwrap();
                self.vanish(playing, parent(path))?;
            }
            Op::BothChanged { file, len, seed, commit } => {
                let Some(path) = playing.resting_file(seen, file) else { return Ok(false) };
                if seen.nodes[&path].nlink > 1 {
                    return Ok(false);
                }
                let _open = rewrite(playing, &path, len, seed, commit);
                let data = self.put(&key(&path), len / 2 + 1, seed.wrapping_add(1));
                let conflict = conflict(playing, &path, seen)?;
                let at = theirs.at(&path);
                std::fs::rename(&at, theirs.at(&conflict)).unwrap();
                std::fs::write(&at, data).unwrap();
                self.others.tombs.remove(&key(&path));
                self.others.shows(&key(&path), &at, FILE_MODE);
            }
            Op::ChangedAndDeleted { file, len, seed, commit } => {
                let Some(path) = playing.resting_file(seen, file) else { return Ok(false) };
                if seen.nodes[&path].nlink > 1 {
                    return Ok(false);
                }
                let _open = rewrite(playing, &path, len, seed, commit);
                self.bucket.server.delete_foreign(&key(&path));
                // The volume may take that for a name that came or went.
                touch(&theirs.at(parent(&path)));
            }
            _ => unreachable!("not an outside change"),
        }
        Ok(true)
    }

    fn put(&mut self, key: &str, len: u32, seed: u8) -> Vec<u8> {
        let data = self.others.unlike_any(seed, len);
        self.bucket.server.put_foreign(key, data.clone(), &[]);
        self.others.objects.insert(key.to_owned(), data.clone());
        data
    }

    fn put_new(&mut self, key: &str, path: &Path, len: u32, seed: u8) {
        let data = self.put(key, len, seed);
        std::fs::write(path, data).unwrap();
        self.others.shows(key, path, FILE_MODE);
    }

    /// The last key below a directory without a marker takes the directory along.
    fn vanish(&mut self, playing: &Sequence, dir: &[u8]) -> Result<(), String> {
        let marker = key_of(&playing.name, dir) + "/";
        let at = playing.theirs.at(dir);
        let empty = std::fs::read_dir(&at).unwrap().next().is_none();
        let ino = std::fs::metadata(&at).unwrap().ino();
        // What somebody has open is not taken away.
        let open = playing.theirs.dirs.iter().any(|dir| dir.metadata().unwrap().ino() == ino);
        if dir.is_empty() || !empty || open || self.bucket.server.get(&marker).is_some() {
            return Ok(());
        }
        if !self.others.bare.contains(&marker) {
            return Err(format!("a directory of ours has no marker: {marker:?}"));
        }
        self.others.tombs.insert(marker, Tomb::of(&at));
        std::fs::remove_dir(&at).unwrap();
        self.vanish(playing, parent(dir))
    }
}

/// Others see the same within a moment: the kernel is told of it by a thread of its own.
const SHOWS: Duration = Duration::from_secs(30);

fn shows_soon<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let until = std::time::Instant::now() + SHOWS;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if std::time::Instant::now() > until {
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Changes a file in both; while it is open for writing it does not settle by itself.
fn rewrite(playing: &Sequence, path: &[u8], len: u32, seed: u8, commit: bool) -> File {
    let data = bytes(seed, len.min(LARGEST));
    let open = |at: &Path| File::options().write(true).truncate(true).open(at).unwrap();
    open(&playing.theirs.at(path)).write_all(&data).unwrap();
    let mut ours = open(&playing.ours.at(path));
    ours.write_all(&data).unwrap();
    if commit {
        ours.sync_all().unwrap();
    }
    ours
}

/// The name under which ours stands beside theirs.
fn conflict(playing: &Sequence, path: &[u8], seen: &Look) -> Result<Vec<u8>, String> {
    const MARK: &[u8] = b".s3vol-conflict-";
    let name = &path[parent(path).len()..];
    let name = name.strip_prefix(b"/").unwrap_or(name);
    let is_it = |other: &[u8]| {
        // A long name is cut to make room.
        let mark = other.windows(MARK.len()).position(|w| w == MARK);
        mark.is_some_and(|at| name.starts_with(&other[..at]))
    };
    let find = || {
        let now = Look::try_at(&playing.ours).ok()?;
        let new = now.nodes.keys().filter(|other| !seen.nodes.contains_key(*other));
        let mut found = new.filter(|other| parent(other) == parent(path)).filter(|other| {
            let start = other.len() - other.iter().rev().take_while(|b| **b != b'/').count();
            is_it(&other[start..])
        });
        let one = found.next().cloned()?;
        assert!(found.next().is_none(), "two conflicts: {:?}", now.nodes.keys());
        Some(one)
    };
    shows_soon(find).ok_or_else(|| "no conflict shows".to_owned())
}

fn touch(path: &Path) {
    let now = std::time::SystemTime::now();
    File::open(path).unwrap().set_modified(now).unwrap();
}
