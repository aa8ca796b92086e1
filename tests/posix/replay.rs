//! The model's sequences as system calls, on a mounted volume and on a folder of ext4: every call gives
//! the same errno, the trees look the same after every call, and the volume shows the same again from
//! the bucket alone, as files and as plain objects.

mod calls;
mod look;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use s3vol::data::{MAX_KEY, escape_name};
use s3vol::types::FileName;

use self::calls::{Answer, Given, Place, become_user};
use self::look::{Look, Node, xattrs};
use super::ops::{self, Mix, Op};
use super::support::wait_for;
use super::volume::{Bucket, Mounted};

/// Sequences unless `S3VOL_TEST_CASES` says otherwise, and which unless `S3VOL_TEST_SEED` does.
const CASES: u32 = 60;
const SEED: u64 = 3;
const LIMIT: Duration = Duration::from_secs(900);
/// How long a request of a process that was killed may still arrive, and some more.
const SETTLED: Duration = Duration::from_secs(150);
/// EXT4_SUPER_MAGIC of linux/magic.h.
const EXT4: i64 = 0xef53;

/// A volume and a folder of ext4 beside it; paths below both are equally long.
struct Pair {
    bucket: Bucket,
    options: &'static [&'static str],
    mounted: Option<Mounted>,
    reference: PathBuf,
    sequences: u32,
    crashed: bool,
    /// What every sequence left in the volume.
    left: BTreeMap<String, Left>,
}

/// A tree with all it holds.
struct Left {
    look: Look,
    contents: BTreeMap<Vec<u8>, Vec<u8>>,
    xattrs: BTreeMap<Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>>,
}

impl Left {
    fn at(place: &Place) -> Left {
        let look = Look::at(place);
        let files = look.nodes.iter().filter(|(_, node)| node.is_file()).map(|(path, _)| path);
        let contents =
            files.map(|path| (path.clone(), std::fs::read(place.at(path)).unwrap())).collect();
        let xattrs =
            look.nodes.keys().map(|path| (path.clone(), xattrs(&place.at(path)))).collect();
        Left { look, contents, xattrs }
    }

    /// Whether contents and extended attributes are the same.
    fn holds_the_same(&self, other: &Left) -> Result<(), String> {
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

fn shown(path: &[u8]) -> String {
    let short = &path[..path.len().min(60)];
    format!("{:?} ({} bytes)", String::from_utf8_lossy(short), path.len())
}

impl Pair {
    fn new(options: &'static [&'static str]) -> Pair {
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
        }
    }

    fn mount(&mut self) {
        self.mounted = Some(self.bucket.mount(self.options, LIMIT));
    }

    /// The process dies, and another one takes the volume over.
    fn crash(&mut self) {
        self.mounted.take().unwrap().kill();
        self.crashed = true;
        self.mounted = Some(self.bucket.mount_again(self.options, LIMIT));
    }

    fn unmount(&mut self) {
        // Only what fits no key may stay behind.
        let keys = self.left.iter().flat_map(|(name, left)| {
            left.look.nodes.keys().map(move |path| key_of(name, path).len())
        });
        let long = keys.max().is_some_and(|longest| longest >= MAX_KEY);
        if long {
            return self.mounted.take().unwrap().unmount_leaving();
        }
        // What a killed process had asked of the bucket may still arrive: its files wait for that.
        let settled = |pair: &Pair| {
            let said = pair.mounted.as_ref().unwrap().status();
            said.contains(" 0 bytes to commit, 0 files to settle").then_some(())
        };
        if std::mem::take(&mut self.crashed) {
            wait_for("everything is plain objects", SETTLED, || settled(self));
        }
        self.mounted.take().unwrap().unmount();
    }

    /// Plays one sequence in both.
    fn play(&mut self, ops: &[Op]) -> Result<(), String> {
        let name = format!("s{:04}", self.sequences);
        self.sequences += 1;
        let at = self.mounted.as_ref().unwrap().path.join(&name);
        let mut ours = Place::new(at);
        let mut theirs = Place::new(self.reference.join(&name));
        for place in [&ours, &theirs] {
            std::fs::create_dir(&place.root).unwrap();
            // A umask of somebody else does not count here.
            let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
            std::fs::set_permissions(&place.root, open).unwrap();
        }
        let mut actor = (0, 0);
        let mut before = (Look::at(&ours), Look::at(&theirs));
        for (number, op) in ops.iter().enumerate() {
            let at = |e: String| format!("op {number} {op:?}: {e}");
            if let Op::As { who, umask } = *op {
                actor = (who, umask);
            }
            match op {
                Op::Reopen { .. } | Op::Crash { .. } => {
                    for place in [&mut ours, &mut theirs] {
                        place.files.clear();
                        place.dirs.clear();
                    }
                    self.crash();
                }
                op => step(&mut ours, &mut theirs, &before.1, op, actor).map_err(at)?,
            }
            if actor.0 != 0 && changes_content(op) {
                take_setgid_as_fuse_does(&ours, &theirs);
            }
            let after = (Look::at(&ours), Look::at(&theirs));
            same_looks(&before, &after).map_err(at)?;
            before = after;
        }
        for place in [&mut ours, &mut theirs] {
            place.files.clear();
            place.dirs.clear();
        }
        let left = Left::at(&ours);
        left.holds_the_same(&Left::at(&theirs)).map_err(|e| format!("at the end: {e}"))?;
        self.left.insert(name, left);
        Ok(())
    }

    /// After an unmount: plain objects, and the same files from nothing but the bucket.
    fn rests(&mut self) -> Result<(), String> {
        for (name, left) in &self.left {
            self.at_rest(name, left).map_err(|e| format!("at rest, {name}: {e}"))?;
        }
        self.mount();
        let root = self.mounted.as_ref().unwrap().path.clone();
        for (name, left) in &self.left {
            let found = Left::at(&Place::new(root.join(name)));
            let same = left.look.nodes.iter().eq(&found.look.nodes);
            if !same {
                let differs =
                    left.look.nodes.iter().find(|(p, n)| found.look.nodes.get(*p) != Some(n));
                let now = differs.map(|(path, _)| found.look.nodes.get(path));
                return Err(format!("after a remount, {name}: {differs:?} is {now:?}"));
            }
            left.holds_the_same(&found).map_err(|e| format!("after a remount, {name}: {e}"))?;
        }
        self.unmount();
        Ok(())
    }

    fn at_rest(&self, name: &str, left: &Left) -> Result<(), String> {
        let objects = self.bucket.server.objects(&format!("volume/{name}/"));
        let mut objects: BTreeMap<String, _> = objects.into_iter().collect();
        let long = |path: &[u8]| key_of(name, path).len() >= MAX_KEY;
        let stuck = left.look.nodes.keys().any(|path| long(path));
        for (path, node) in left.look.nodes.iter().filter(|_| !stuck) {
            let slash = if node.is_dir() { "/" } else { "" };
            let key = format!("{}{slash}", key_of(name, path));
            let object = objects.remove(&key).ok_or_else(|| format!("no object {key:?}"))?;
            let content = left.contents.get(path).unwrap_or(&node.target);
            if object.body.as_ref() != content.as_slice() {
                return Err(format!("the object {key:?} holds something else"));
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
        if !stuck && !objects.is_empty() {
            return Err(format!("should not be there: {:?}", objects.keys()));
        }
        Ok(())
    }
}

fn key_of(sequence: &str, path: &[u8]) -> String {
    let names = path.split(|b| *b == b'/').filter(|name| !name.is_empty());
    let segments = names.map(|name| escape_name(&FileName::new(name).unwrap()));
    ["volume".to_owned(), sequence.to_owned()]
        .into_iter()
        .chain(segments)
        .collect::<Vec<_>>()
        .join("/")
}

fn step(
    ours: &mut Place,
    theirs: &mut Place,
    seen: &Look,
    op: &Op,
    actor: (u8, u16),
) -> Result<(), String> {
    become_user(actor.0, actor.1);
    let answers = (ours.play(op, seen), theirs.play(op, seen));
    become_user(0, 0);
    let (Some(here), Some(there)) = answers else { return Ok(()) };
    let judged = |place: &Place, answer: &Answer| match answer {
        Ok(Given::Sought { target, at, hole, found }) => {
            right_seek(&place.content(target), u64::from(*at), *hole, *found)
        }
        _ => Ok(()),
    };
    judged(ours, &here)?;
    judged(theirs, &there).map_err(|e| format!("the reference: {e}"))?;
    match (&here, &there) {
        (Ok(Given::Sought { .. }), Ok(Given::Sought { .. })) => Ok(()),
        (Err(here), Err(there)) if here != there => {
            let name = |e: &i32| std::io::Error::from_raw_os_error(*e);
            Err(format!("{}; on ext4 {}", name(here), name(there)))
        }
        _ if here != there => Err(format!("{}; on ext4 {}", brief(&here), brief(&there))),
        _ => Ok(()),
    }
}

fn changes_content(op: &Op) -> bool {
    matches!(
        op,
        Op::Write { .. }
            | Op::Append { .. }
            | Op::Truncate { .. }
            | Op::Rewrite { .. }
            | Op::Punch { .. }
            | Op::Zero { .. }
            | Op::Allocate { .. }
            | Op::CopyRange { .. }
    )
}

/// Where no group may execute a file, ext4 takes its set-group-ID bit away when somebody outside that
/// group writes to it; FUSE's own side of the kernel leaves it there.
fn take_setgid_as_fuse_does(ours: &Place, theirs: &Place) {
    for (path, here) in Look::at(ours).nodes {
        let there = std::fs::symlink_metadata(theirs.at(&path)).map_or(0, |meta| meta.mode());
        if here.is_file() && here.mode & 0o2010 == 0o2000 && there == here.mode & !0o2000 {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(there);
            std::fs::set_permissions(ours.at(&path), mode).unwrap();
        }
    }
}

fn brief(answer: &Answer) -> String {
    match answer {
        Ok(Given::Bytes(bytes)) => format!("{} bytes", bytes.len()),
        Err(errno) => std::io::Error::from_raw_os_error(*errno).to_string(),
        other => format!("{other:?}"),
    }
}

/// A hole reads as zeros, and nothing but zeros is skipped.
fn right_seek(data: &[u8], at: u64, hole: bool, found: Result<u64, i32>) -> Result<(), String> {
    let size = data.len() as u64;
    let zeros = |from: u64, to: u64| data[from as usize..to as usize].iter().all(|b| *b == 0);
    let right = match found {
        Ok(found) if !(at..=size).contains(&found) => false,
        Ok(found) if hole => at < size && (found == size || zeros(found, found + 1)),
        Ok(found) => found < size && zeros(at, found),
        Err(libc::ENXIO) => at >= size || !hole && zeros(at, size),
        Err(_) => false,
    };
    if right { Ok(()) } else { Err(format!("found {found:?} of {size} bytes")) }
}

/// The same names with the same attributes, and the same times that moved.
fn same_looks(before: &(Look, Look), after: &(Look, Look)) -> Result<(), String> {
    let (ours, theirs) = after;
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

/// Makes sure that the reference lies on ext4: where it does not, on one in a file.
struct Reference {
    at: PathBuf,
    looped: bool,
}

impl Reference {
    fn prepare(at: &Path, image: &Path) -> Reference {
        let kind = nix::sys::statfs::statfs(at).unwrap().filesystem_type().0;
        let looped = kind as i64 != EXT4;
        if looped {
            std::fs::File::create(image).unwrap().set_len(1 << 30).unwrap();
            run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(image));
            run(Command::new("mount").args(["-o", "loop"]).arg(image).arg(at));
        }
        Reference { at: at.to_path_buf(), looped }
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        if self.looped {
            let _ = Command::new("umount").arg("-l").arg(&self.at).status();
        }
    }
}

fn run(command: &mut Command) {
    let done = command.stdin(Stdio::null()).output().unwrap();
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
}

fn replay(options: &'static [&'static str], stream: u64) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("S3VOL_TEST_SEED").unwrap_or(SEED);
    let config = Config {
        cases: number("S3VOL_TEST_CASES").map_or(CASES, |n| n as u32),
        max_shrink_iters: 300,
        max_shrink_time: 120_000,
        failure_persistence: None,
        ..Config::default()
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..16].copy_from_slice(&stream.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    // The umask is this thread's own from here on.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).unwrap();
    become_user(0, 0);
    let mut pair = Pair::new(options);
    let image = pair.bucket.local("image").join("ext4");
    let _reference = Reference::prepare(&pair.reference, &image);
    pair.mount();
    let pair = RefCell::new(pair);
    let outcome = TestRunner::new_with_rng(config, rng).run(&ops::sequence(Mix::Alone), |ops| {
        pair.borrow_mut().play(&ops).map_err(TestCaseError::fail)
    });
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(why, ops)) => panic!("seed {seed}: {why}\n{}", ops::as_source(&ops)),
        Err(other) => panic!("seed {seed}: {other}"),
    }
    let mut pair = pair.into_inner();
    pair.unmount();
    pair.rests().unwrap_or_else(|why| panic!("seed {seed}: {why}"));
}

#[test]
#[ignore = "make test-posix"]
fn posix_sequences_do_what_they_do_on_ext4() {
    replay(&[], 0);
}

#[test]
#[ignore = "make test-posix"]
fn posix_sequences_while_settling_at_once_from_a_full_cache_do_what_they_do_on_ext4() {
    replay(&["settle_after=0", "commit=200ms", "cache_size=1MiB"], 1);
}
