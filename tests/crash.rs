//! kill -9, and what the next mount of the same or another host finds.
//!
//! Needs root and /dev/fuse.

mod support;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use support::host::{Host, fsync};
use support::s3server::TestS3;

/// Cheap randomness with a seed that a failure prints.
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

type Tree = BTreeMap<String, Vec<u8>>;

/// What a program did in one directory and was told to have worked.
struct Program {
    tree: Tree,
    /// What the last call would have made, if it worked.
    maybe: Option<Tree>,
    random: Random,
}

impl Program {
    /// One call; an error leaves open whether it worked.
    fn act(&mut self, dir: &Path) -> io::Result<()> {
        let name = format!("f{}", self.random.next(12));
        let path = dir.join(&name);
        let mut after = self.tree.clone();
        let exists = self.tree.contains_key(&name);
        match self.random.next(10) {
            0 if exists => {
                after.remove(&name);
                self.maybe = Some(after);
                std::fs::remove_file(&path)?;
            }
            1 | 2 if exists => {
                let to = format!("f{}", self.random.next(12));
                if let Some(body) = after.remove(&name) {
                    after.insert(to.clone(), body);
                }
                self.maybe = Some(after);
                std::fs::rename(&path, dir.join(to))?;
            }
            3 if exists => {
                let size = self.random.next(40_000);
                if let Some(body) = after.get_mut(&name) {
                    body.resize(size as usize, 0);
                }
                self.maybe = Some(after);
                OpenOptions::new().write(true).open(&path)?.set_len(size)?;
            }
            _ if exists => {
                let at = self.random.next(60_000);
                let data =
                    vec![self.random.next(255) as u8 + 1; self.random.next(30_000) as usize + 1];
                let body = after.get_mut(&name).expect("it exists");
                let end = at as usize + data.len();
                body.resize(body.len().max(end), 0);
                body[at as usize..end].copy_from_slice(&data);
                self.maybe = Some(after);
                let file = OpenOptions::new().write(true).open(&path)?;
                // The kernel may hand over a part before the process dies under it.
                if file.write_at(&data, at)? < data.len() {
                    return Err(std::io::Error::other("the write was cut short"));
                }
                if self.random.next(8) == 0 {
                    self.tree = self.maybe.take().expect("just made");
                    file.sync_all()?;
                    return Ok(());
                }
            }
            _ => {
                after.insert(name, Vec::new());
                self.maybe = Some(after);
                File::create_new(&path)?;
            }
        }
        self.tree = self.maybe.take().expect("just made");
        Ok(())
    }
}

fn read_tree(dir: &Path) -> Tree {
    let mut tree = Tree::new();
    for entry in std::fs::read_dir(dir).expect("the directory") {
        let entry = entry.expect("an entry");
        let body = std::fs::read(entry.path()).expect("its content");
        tree.insert(entry.file_name().into_string().expect("our name"), body);
    }
    tree
}

/// Whether every byte is as before or as after.
fn is_between(found: &Tree, before: &Tree, after: &Tree) -> bool {
    if found == before || found == after {
        return true;
    }
    let byte = |body: &[u8], at: usize| body.get(at).copied().unwrap_or(0);
    found.keys().eq(after.keys())
        && found.keys().eq(before.keys())
        && found.iter().all(|(name, body)| {
            let (b, a) = (&before[name], &after[name]);
            // The kernel sends a large write in parts, and the kill may come between two of them.
            let sizes = b.len().min(a.len())..=b.len().max(a.len());
            sizes.contains(&body.len())
                && (0..body.len()).all(|n| body[n] == byte(b, n) || body[n] == byte(a, n))
        })
}

/// What differs, in short.
fn difference(found: &Tree, wanted: &Tree) -> String {
    let mut text = String::new();
    for name in found.keys().chain(wanted.keys()) {
        let (f, w) = (found.get(name), wanted.get(name));
        if f != w {
            let at = f.zip(w).and_then(|(f, w)| f.iter().zip(w).position(|(f, w)| f != w));
            let sizes = (f.map(Vec::len), w.map(Vec::len));
            text += &format!("{name}: sizes found, wanted {sizes:?}, first difference {at:?}\n");
        }
    }
    text
}

#[test]
fn a_killed_process_loses_nothing_that_was_acknowledged() {
    let server = TestS3::start();
    let mut host = Host::new("commit=150ms,settle_after=300ms");
    let mut programs: Vec<Program> = (0..3)
        .map(|n| Program { tree: Tree::new(), maybe: None, random: Random(0x9e37_79b9 + n) })
        .collect();
    host.mount(&server);
    for n in 0..programs.len() {
        std::fs::create_dir(host.path(&format!("d{n}"))).expect("a directory");
    }
    for round in 0..6u64 {
        let mnt = host.mnt();
        std::thread::scope(|scope| {
            for (n, program) in programs.iter_mut().enumerate() {
                let dir = mnt.join(format!("d{n}"));
                scope.spawn(move || while program.act(&dir).is_ok() {});
            }
            // The moment of the kill is the point of this test; nothing is waited for.
            std::thread::sleep(Duration::from_millis(700 + round * 180));
            host.kill();
        });
        host.mount(&server);
        for (n, program) in programs.iter_mut().enumerate() {
            let found = read_tree(&host.path(&format!("d{n}")));
            // The call that the kill met may have worked, not worked, or written a part.
            let after = program.maybe.take().unwrap_or_else(|| program.tree.clone());
            if !is_between(&found, &program.tree, &after) {
                let wrong = difference(&found, &program.tree);
                panic!("round {round}, program {n}:\n{wrong}");
            }
            program.tree = found;
        }
    }
    // And by another host, after a clean end.
    host.end();
    let mut other = Host::new("commit=150ms");
    other.mount(&server);
    for (n, program) in programs.iter().enumerate() {
        let found = read_tree(&other.path(&format!("d{n}")));
        assert!(found == program.tree, "elsewhere:\n{}", difference(&found, &program.tree));
    }
}

#[test]
fn another_host_finds_every_synced_byte_and_a_prefix_of_the_names() {
    let server = TestS3::start();
    for round in 0..3u64 {
        let mut host = Host::new("commit=200ms,settle_after=200ms");
        host.mount(&server);
        let dir = host.path(&format!("r{round}"));
        std::fs::create_dir(&dir).expect("a directory");
        let (mut synced, mut made) = (0, 0);
        std::thread::scope(|scope| {
            scope.spawn(|| -> io::Result<()> {
                for n in 1.. {
                    let path = dir.join(format!("{n:06}"));
                    let mut file = File::create_new(&path)?;
                    made = n;
                    file.write_all(format!("content of {n}").repeat(n).as_bytes())?;
                    if n % 5 == 0 {
                        file.sync_all()?;
                        synced = n;
                    }
                }
                Ok(())
            });
            std::thread::sleep(Duration::from_millis(1500));
            host.kill();
        });
        // The lease of the lost host runs out.
        server.set_clock_offset(100 * (round as i64 + 1));
        let mut other = Host::new("commit=200ms");
        other.mount(&server);
        let found = read_tree(&other.path(&format!("r{round}")));
        assert!(synced > 0 && found.len() >= synced && found.len() <= made + 1, "{}", found.len());
        for (n, name) in (1..).zip(found.keys()) {
            assert_eq!(*name, format!("{n:06}"), "a hole in the history");
        }
        for n in (5..=synced).step_by(5) {
            let want = format!("content of {n}").repeat(n);
            assert!(found[&format!("{n:06}")] == want.as_bytes(), "{n} was synced");
        }
        other.end();
    }
}

#[test]
fn a_file_renamed_over_another_is_old_or_new_after_the_host_is_lost() {
    let server = TestS3::start();
    for round in 0..3u64 {
        let mut host = Host::new("commit=100ms,settle_after=0s");
        host.mount(&server);
        let (target, temporary) = (host.path("target"), host.path("temporary"));
        let body = |n: u64| format!("{n:08}").repeat(20_000);
        std::fs::write(&target, body(0)).expect("the first");
        fsync(&target).expect("a sync");
        std::thread::scope(|scope| {
            scope.spawn(|| -> io::Result<()> {
                for n in 1.. {
                    std::fs::write(&temporary, body(n))?;
                    std::fs::rename(&temporary, &target)?;
                }
                Ok(())
            });
            std::thread::sleep(Duration::from_millis(900 + round * 70));
            host.kill();
        });
        server.set_clock_offset(100 * (round as i64 + 1));
        let mut other = Host::new("commit=100ms");
        other.mount(&server);
        let found = std::fs::read_to_string(other.path("target")).expect("the target");
        let n: u64 = found.get(..8).and_then(|n| n.parse().ok()).expect("not empty");
        assert!(found == body(n), "a mixture of {n} and others, {} bytes", found.len());
        other.end();
    }
}

#[test]
fn a_later_mount_that_dies_before_its_first_commit_loses_nothing() {
    let server = TestS3::start();
    let mut host = Host::new("commit=5m,settle_after=0s");
    host.mount(&server);
    std::fs::write(host.path("old"), b"old").expect("a file");
    host.end();
    for round in 0..2 {
        host.mount(&server);
        std::fs::write(host.path(&format!("new-{round}")), b"acknowledged").expect("a file");
        // The dead mount stays; the next one takes it away.
        host.crash();
    }
    host.mount(&server);
    assert_eq!(read_tree(&host.mnt()).len(), 3);
    assert_eq!(std::fs::read(host.path("new-0")).expect("it"), b"acknowledged");
    host.end();
}

#[test]
fn a_restart_of_the_host_makes_its_log_void_and_keeps_what_was_synced() {
    let server = TestS3::start();
    let mut host = Host::new("commit=5m,settle=never");
    host.mount(&server);
    std::fs::write(host.path("synced"), b"synced").expect("a file");
    fsync(&host.path("synced")).expect("a sync");
    let file = OpenOptions::new().write(true).open(host.path("synced")).expect("it");
    file.write_at(b"S", 0).expect("a write");
    std::fs::write(host.path("not synced"), b"lost with the host").expect("a file");
    drop(file);
    host.kill();
    server.set_clock_offset(100);
    host.env("S3VOL_TEST_BOOT_ID", "another boot");
    host.mount(&server);
    assert_eq!(std::fs::read(host.path("synced")).expect("it"), b"synced");
    let kept = std::fs::metadata(host.local("log/recovery-1/log")).expect("the void log is kept");
    assert!(kept.len() > 100);
    assert!(host.unmount().success());
    assert!(host.local("log/recovery-1/log").exists(), "a clean end deletes no kept log");
}

#[test]
fn a_log_that_lost_what_the_bucket_has_undoes_nothing_that_was_synced() {
    let server = TestS3::start();
    let mut host = Host::new("commit=5m,settle=never");
    host.mount(&server);
    let (path, log) = (host.path("file"), host.local("log/log"));
    std::fs::write(&path, b"short").expect("a file");
    let then = std::fs::metadata(&log).expect("the log").len();
    std::fs::write(&path, b"longer than that").expect("the same file");
    fsync(&path).expect("a sync");
    host.kill();
    let file = OpenOptions::new().read(true).write(true).open(&log).expect("the log");
    let mut byte = [0];
    file.read_exact_at(&mut byte, then).expect("what came after the first write");
    file.write_at(&[byte[0] ^ 1], then).expect("damage");
    host.mount(&server);
    assert_eq!(std::fs::read(&path).expect("it"), b"longer than that");
    host.end();
}

#[test]
fn an_open_file_without_a_name_and_times_set_by_hand_survive_as_they_should() {
    let server = TestS3::start();
    let mut host = Host::new("commit=5m,settle=never");
    host.mount(&server);
    std::fs::write(host.path("dated"), b"old").expect("a file");
    let then = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    File::open(host.path("dated")).expect("it").set_modified(then).expect("a time");
    let file = File::create_new(host.path("nameless")).expect("a file");
    std::fs::remove_file(host.path("nameless")).expect("no name");
    file.write_at(b"still there", 0).expect("a write");
    host.kill();
    drop(file);
    host.mount(&server);
    let dated = std::fs::metadata(host.path("dated")).expect("it");
    assert_eq!(dated.modified().expect("a time"), then);
    assert_eq!(read_tree(&host.mnt()).keys().collect::<Vec<_>>(), ["dated"]);
    let before = Instant::now();
    assert!(host.unmount().success());
    assert!(before.elapsed() < Duration::from_secs(30));
}

#[test]
fn what_is_written_while_the_mount_is_taken_away_is_refused_or_kept() {
    let server = TestS3::start();
    let mut host = Host::new("commit=5m,settle_after=0s");
    host.mount(&server);
    let file = File::create_new(host.path("busy")).expect("a file");
    let written = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut written = 0u64;
            while file.write_at(&[b'x'; 512], written * 512).is_ok() {
                written += 1;
            }
            written
        });
        std::thread::sleep(Duration::from_millis(300));
        assert!(host.unmount().success(), "{}", host.log());
        writer.join().expect("the writer")
    });
    drop(file);
    let mut other = Host::new("commit=5m");
    other.mount(&server);
    let found = std::fs::read(other.path("busy")).expect("the file");
    assert!(written > 0 && found.len() as u64 >= written * 512, "{} of {written}", found.len());
    assert!(found.iter().all(|b| *b == b'x'));
}
