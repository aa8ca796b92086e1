//! One sequence after the other on a volume and on a folder of ext4 beside it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use s3vol::data::{MAX_KEY, escape_name};
use s3vol::types::FileName;

use super::calls::Place;
use super::compare::{Left, same_everything, same_looks};
use super::judge::{changes_content, step, take_setgid_as_fuse_does};
use super::look::Look;
use super::outside::Others;
use crate::ops::Op;
use crate::volume::{Bucket, Mounted};

const LIMIT: Duration = Duration::from_secs(900);
/// How long a request of a process that was killed may still arrive, and some more.
const SETTLED: Duration = Duration::from_secs(150);
/// The same for one sequence: its killed processes sent what they did a moment ago.
const QUIET: Duration = Duration::from_secs(45);
/// Between two looks at what is left to do.
const PAUSE: Duration = Duration::from_millis(50);

/// A volume and a folder of ext4 beside it; paths below both are equally long.
pub struct Pair {
    // Before the bucket, which takes the folders away.
    pub mounted: Option<Mounted>,
    pub bucket: Bucket,
    options: &'static [&'static str],
    pub reference: PathBuf,
    sequences: u32,
    crashed: bool,
    /// What every sequence left in the volume.
    left: BTreeMap<String, Left>,
    pub others: Others,
    /// Nothing may be left to do after a sequence.
    pub quiet: bool,
    /// What the sequences before left to do.
    unsettled: u64,
}

/// One sequence in both.
pub struct Sequence {
    /// Its folder.
    pub name: String,
    pub ours: Place,
    pub theirs: Place,
}

impl Sequence {
    pub fn looks(&self) -> (Look, Look) {
        (Look::at(&self.ours), Look::at(&self.theirs))
    }

    fn close(&mut self) {
        for place in [&mut self.ours, &mut self.theirs] {
            place.files.clear();
            place.dirs.clear();
        }
    }
}

impl Pair {
    pub fn new(options: &'static [&'static str]) -> Pair {
        let bucket = Bucket::new();
        let reference = bucket.local("ref");
        Pair {
            bucket,
            options,
            mounted: None,
            reference,
            sequences: 0,
            crashed: false,
            left: BTreeMap::new(),
            others: Others::default(),
            quiet: false,
            unsettled: 0,
        }
    }

    pub fn mount(&mut self) {
        self.mounted = Some(self.bucket.mount(self.options, LIMIT));
    }

    /// The process dies, and another one takes the volume over; with `empty` the host is lost with it,
    /// after all was brought into the bucket.
    fn crash(&mut self, empty: bool) {
        let mounted = self.mounted.take().unwrap();
        if empty {
            mounted.drain();
        }
        mounted.kill();
        self.crashed = true;
        self.mount_after(empty);
    }

    /// A clean unmount, and a mount on the same host or on one that never saw the volume.
    fn remount(&mut self, empty: bool) {
        // What waits for the requests of a process that was killed goes on waiting.
        let rests = self.mounted.take().unwrap().unmount_in_the_middle();
        self.crashed &= !rests;
        self.mount_after(empty);
    }

    fn mount_after(&mut self, empty: bool) {
        self.mounted = Some(match empty {
            true => self.bucket.mount(self.options, LIMIT),
            false => self.bucket.mount_again(self.options, LIMIT),
        });
    }

    pub fn unmount(&mut self) {
        // Only what fits no key may stay behind.
        let keys = self.left.iter().flat_map(|(name, left)| {
            left.look.nodes.keys().map(move |path| key_of(name, path).len())
        });
        let long = keys.max().is_some_and(|longest| longest >= MAX_KEY);
        if long {
            return self.mounted.take().unwrap().unmount_leaving();
        }
        // What a killed process had asked of the bucket may still arrive: its files wait for that.
        let mounted = self.mounted.as_ref().unwrap();
        let until = Instant::now() + SETTLED;
        while std::mem::take(&mut self.crashed) {
            let said = mounted.status();
            self.crashed = !said.contains(" 0 bytes to commit, 0 files to settle");
            assert!(Instant::now() < until, "not everything comes to rest:\n{said}");
            std::thread::sleep(PAUSE);
        }
        self.mounted.take().unwrap().unmount();
    }

    /// Plays one sequence in both.
    pub fn play(&mut self, ops: &[Op]) -> Result<(), String> {
        let name = format!("s{:04}", self.sequences);
        self.sequences += 1;
        let ours = Place::new(self.mounted.as_ref().unwrap().path.join(&name));
        let theirs = Place::new(self.reference.join(&name));
        for place in [&ours, &theirs] {
            std::fs::create_dir(&place.root).unwrap();
            // A umask of somebody else does not count here.
            let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
            std::fs::set_permissions(&place.root, open).unwrap();
        }
        let mut playing = Sequence { name, ours, theirs };
        let mut actor = (0, 0);
        let mut before = playing.looks();
        for (number, op) in ops.iter().enumerate() {
            let at = |e: String| format!("op {number} {op:?}: {e}");
            if let Op::As { who, umask } = *op {
                actor = (who, umask);
            }
            let remounted = matches!(op, Op::Reopen { .. } | Op::Crash { .. });
            match *op {
                Op::Reopen { empty } => {
                    playing.close();
                    self.remount(empty);
                }
                Op::Crash { empty } => {
                    playing.close();
                    self.crash(empty);
                }
                _ if op.is_outside() => {
                    before = self.outside(op, &mut playing, before).map_err(at)?;
                    continue;
                }
                _ => step(&mut playing.ours, &mut playing.theirs, &before.1, op, actor)
                    .map_err(at)?,
            }
            if actor.0 != 0 && changes_content(op) {
                take_setgid_as_fuse_does(&playing.ours, &playing.theirs);
            }
            let after = playing.looks();
            if remounted {
                same_everything(&before.0, &after.0).map_err(at)?;
            }
            same_looks(&before, &after).map_err(at)?;
            before = after;
        }
        playing.close();
        if self.quiet {
            self.comes_to_rest(&playing)?;
        }
        let left = Left::at(&playing.ours);
        left.holds_the_same(&Left::at(&playing.theirs)).map_err(|e| format!("at the end: {e}"))?;
        self.left.insert(playing.name, left);
        Ok(())
    }

    /// Nothing of this sequence is left to settle or to tidy.
    fn comes_to_rest(&mut self, playing: &Sequence) -> Result<(), String> {
        let can = self.settle(playing)?;
        let mounted = self.mounted.as_ref().unwrap();
        let until = Instant::now() + QUIET;
        loop {
            let left = mounted.drain().unsettled_files;
            mounted.resume();
            let before = std::mem::replace(&mut self.unsettled, left);
            if left <= before || !can {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(format!("{left} left to do, {before} before:\n{}", mounted.status()));
            }
            self.unsettled = before;
            std::thread::sleep(PAUSE);
        }
    }

    /// After an unmount: plain objects, and the same files from nothing but the bucket.
    pub fn rests(&mut self) -> Result<(), String> {
        for (name, left) in &self.left {
            self.at_rest(name, left).map_err(|e| format!("at rest, {name}: {e}"))?;
        }
        self.mount();
        let root = self.mounted.as_ref().unwrap().path.clone();
        for (name, left) in &self.left {
            let found = Left::at(&Place::new(root.join(name)));
            same_everything(&left.look, &found.look)
                .map_err(|e| format!("after a remount, {name}: {e}"))?;
            left.holds_the_same(&found).map_err(|e| format!("after a remount, {name}: {e}"))?;
        }
        self.unmount();
        Ok(())
    }

    /// Plain objects are all that is there below a sequence's folder.
    pub fn at_rest(&self, name: &str, left: &Left) -> Result<(), String> {
        let objects = self.bucket.server.objects(&format!("volume/{name}/"));
        let mut objects: BTreeMap<String, _> = objects.into_iter().collect();
        let stuck = left.stuck(name);
        for (path, node) in left.look.nodes.iter().filter(|_| !stuck) {
            let slash = if node.is_dir() { "/" } else { "" };
            let key = format!("{}{slash}", key_of(name, path));
            let Some(object) = objects.remove(&key) else {
                if self.others.made_by_its_keys(&key) {
                    continue;
                }
                return Err(format!("no object {key:?}"));
            };
            let content = left.contents.get(path).unwrap_or(&node.target);
            if object.body.as_ref() != content.as_slice() {
                return Err(format!("the object {key:?} holds something else"));
            }
            if self.others.put(&key, &object) {
                continue;
            }
            let wanted = [("mode", node.mode), ("uid", node.uid), ("gid", node.gid)];
            for (attribute, value) in wanted {
                if object.metadata.get(attribute) != Some(&value.to_string()) {
                    return Err(format!(
                        "{key:?}: {attribute} of {:?}, not {value}",
                        object.metadata
                    ));
                }
            }
        }
        // What is open without a name may still need the object that it was.
        if !stuck && left.look.nameless.is_empty() && !objects.is_empty() {
            return Err(format!("should not be there: {:?}", objects.keys()));
        }
        Ok(())
    }
}

impl Left {
    /// Whether some name fits no key.
    pub fn stuck(&self, sequence: &str) -> bool {
        self.look.nodes.keys().any(|path| key_of(sequence, path).len() >= MAX_KEY)
    }
}

/// The key of a file; a directory's has a slash more.
pub fn key_of(sequence: &str, path: &[u8]) -> String {
    let names = path.split(|b| *b == b'/').filter(|name| !name.is_empty());
    let segments = names.map(|name| escape_name(&FileName::new(name).unwrap()));
    ["volume".to_owned(), sequence.to_owned()]
        .into_iter()
        .chain(segments)
        .collect::<Vec<_>>()
        .join("/")
}
