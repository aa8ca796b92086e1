//! A program that writes and syncs, and keeps outside of the mount what it was told to be durable.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Names that are replaced by a rename, again and again.
const CURRENT: u64 = 4;
/// Pages of one file that are written in place.
const PAGES: u64 = 48;
const PAGE: u64 = 4096;
const RECORD: u64 = 64;
/// Files that are written once; older ones are removed.
const KEPT: usize = 60;

/// What is durable of one thing, and what was tried last: after a loss it is one of these or between.
#[derive(Debug, Clone, Copy, Default)]
struct Span {
    durable: u64,
    tried: u64,
}

impl Span {
    fn holds(self, found: u64) -> bool {
        (self.durable..=self.tried).contains(&found)
    }
}

/// Everything that was acknowledged by an fsync so far.
#[derive(Debug, Default)]
pub struct Ledger {
    turn: u64,
    /// Files that were synced, and never changed since.
    once: BTreeMap<String, u64>,
    /// Files whose removal is durable, and those whose removal may be.
    gone: BTreeSet<String>,
    going: BTreeSet<String>,
    current: BTreeMap<String, Span>,
    records: Span,
    pages: BTreeMap<u64, Span>,
}

fn body(id: u64) -> Vec<u8> {
    let size = match id % 6 {
        0 => 200_000 + id * 7 % 90_000,
        1 | 2 => 50_000 + id * 11 % 50_000,
        _ => 20 + id * 13 % 3_000,
    };
    let mut body = format!("{id:019}\n").into_bytes();
    body.extend((20..size).map(|at| (id * 31 + at / 256) as u8));
    body
}

/// Which body this is: all of it.
fn which(found: &[u8]) -> Option<u64> {
    let id = std::str::from_utf8(found.get(..19)?).ok()?.parse().ok()?;
    (body(id) == found).then_some(id)
}

fn record(number: u64) -> Vec<u8> {
    format!("{number:>0$}\n", RECORD as usize - 1).into_bytes()
}

fn page(number: u64, version: u64) -> Vec<u8> {
    let line = format!("{number:>31} {version:>31}\n");
    line.repeat((PAGE / 64) as usize).into_bytes()
}

fn version(found: &[u8], number: u64) -> Option<u64> {
    let version = std::str::from_utf8(found.get(32..63)?).ok()?.trim().parse().ok()?;
    (page(number, version) == found).then_some(version)
}

impl Ledger {
    /// How many calls of fsync were answered with success.
    pub fn turns(&self) -> u64 {
        self.turn
    }

    /// One durable change in `dir`. After an error it may be there or not.
    pub fn go_on(&mut self, dir: &Path) -> io::Result<()> {
        let turn = self.turn + 1;
        match turn % 5 {
            0 => self.replace(dir, turn),
            1 | 2 => self.append(dir),
            3 => self.overwrite(dir, turn),
            _ if self.once.len() >= KEPT => self.remove(dir),
            _ => self.create(dir, turn),
        }?;
        self.turn = turn;
        Ok(())
    }

    /// Goes on until `end`; the error that ended it before.
    pub fn run(&mut self, dir: &Path, end: &AtomicBool) -> io::Result<()> {
        while !end.load(Ordering::SeqCst) {
            self.go_on(dir)?;
        }
        Ok(())
    }

    fn create(&mut self, dir: &Path, turn: u64) -> io::Result<()> {
        let name = format!("once-{turn:06}");
        // A try before this one may have made it.
        let mut file = File::create(dir.join(&name))?;
        file.write_all(&body(turn))?;
        file.sync_all()?;
        self.once.insert(name, turn);
        Ok(())
    }

    fn remove(&mut self, dir: &Path) -> io::Result<()> {
        let (name, id) = self.once.pop_first().expect("there are many");
        self.going.insert(name.clone());
        match std::fs::remove_file(dir.join(&name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                self.going.remove(&name);
                self.once.insert(name, id);
                return Err(error);
            }
            _ => File::open(dir)?.sync_all()?,
        }
        self.gone.append(&mut self.going);
        Ok(())
    }

    fn replace(&mut self, dir: &Path, turn: u64) -> io::Result<()> {
        let name = format!("current-{}", turn % CURRENT);
        let temporary = dir.join("temporary");
        let mut file = File::create(&temporary)?;
        file.write_all(&body(turn))?;
        let span = self.current.entry(name.clone()).or_default();
        span.tried = turn;
        std::fs::rename(&temporary, dir.join(&name))?;
        file.sync_all()?;
        span.durable = turn;
        Ok(())
    }

    fn append(&mut self, dir: &Path) -> io::Result<()> {
        let path = dir.join("records");
        let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        file.seek(SeekFrom::Start(self.records.durable * RECORD))?;
        let next = self.records.durable + 1;
        self.records.tried = self.records.tried.max(next);
        file.write_all(&record(next))?;
        file.sync_data()?;
        self.records.durable = next;
        Ok(())
    }

    fn overwrite(&mut self, dir: &Path, turn: u64) -> io::Result<()> {
        let path = dir.join("pages");
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        let numbers = [turn * 7 % PAGES, turn * 11 % PAGES, turn * 13 % PAGES];
        for number in numbers {
            self.pages.entry(number).or_default().tried = turn;
            file.write_all_at(&page(number, turn), number * PAGE)?;
        }
        file.sync_data()?;
        for number in numbers {
            self.pages.entry(number).or_default().durable = turn;
        }
        Ok(())
    }

    /// Everything that is durable must be there, and nothing else than what was tried. What is found counts as
    /// durable from now on.
    pub fn check(&mut self, dir: &Path) {
        let at = format!("after {} turns, in {}", self.turn, dir.display());
        let read = |name: &str| std::fs::read(dir.join(name));
        for (name, id) in &self.once {
            let found =
                read(name).unwrap_or_else(|e| panic!("{at}: {name}, which is durable: {e}"));
            assert!(found == body(*id), "{at}: {name} has {} other bytes", found.len());
        }
        for name in &self.gone {
            assert!(!dir.join(name).exists(), "{at}: {name} was removed, and that was synced");
        }
        for (name, span) in &mut self.current {
            let found = match read(name) {
                Err(e) if e.kind() == io::ErrorKind::NotFound && span.durable == 0 => Some(0),
                found => which(&found.unwrap_or_else(|e| panic!("{at}: {name}: {e}"))),
            };
            match found {
                Some(id) if span.holds(id) => *span = Span { durable: id, tried: id },
                _ => panic!("{at}: {name} is {found:?}, not of {span:?}"),
            }
        }
        self.check_records(dir, &at);
        self.check_pages(dir, &at);
        // What may have been made and was not synced means nothing any more.
        self.going.clear();
    }

    fn check_records(&mut self, dir: &Path, at: &str) {
        let mut found = Vec::new();
        match File::open(dir.join("records")) {
            Ok(mut file) => drop(file.read_to_end(&mut found).unwrap()),
            Err(e) => assert!(self.records.durable == 0, "{at}: records: {e}"),
        }
        let whole = found.len() as u64 / RECORD;
        assert!(self.records.holds(whole), "{at}: {whole} records, not of {:?}", self.records);
        for (number, line) in (1..).zip(found.chunks_exact(RECORD as usize)) {
            assert!(line == record(number), "{at}: record {number} is another one");
        }
        self.records = Span { durable: whole, tried: whole };
    }

    fn check_pages(&mut self, dir: &Path, at: &str) {
        if self.pages.values().all(|span| span.durable == 0) {
            return;
        }
        let file = File::open(dir.join("pages")).unwrap_or_else(|e| panic!("{at}: pages: {e}"));
        for (number, span) in &mut self.pages {
            let mut found = Vec::new();
            let mut part = (&file).take(PAGE);
            (&file).seek(SeekFrom::Start(number * PAGE)).unwrap();
            part.read_to_end(&mut found).unwrap_or_else(|e| panic!("{at}: page {number}: {e}"));
            let empty = found.iter().all(|byte| *byte == 0);
            match if empty { Some(0) } else { version(&found, *number) } {
                Some(version) if span.holds(version) => {
                    *span = Span { durable: version, tried: version };
                }
                other => panic!("{at}: page {number} has version {other:?}, not of {span:?}"),
            }
        }
    }
}

/// The ledger finds what it is there for: it is tried on a folder of the local disk that loses things.
#[test]
fn a_ledger_tells_what_is_missing() {
    type Loss = fn(&Path);
    let losses: [(&str, Loss); 6] = [
        ("nothing", |_| ()),
        ("which is durable", |d| std::fs::remove_file(last(d, "once-")).unwrap()),
        ("other bytes", |d| std::fs::write(last(d, "once-"), "else").unwrap()),
        ("not of Span", |d| drop(std::fs::copy(d.join("once-000004"), d.join("current-0")))),
        ("records, not of", |d| cut(&d.join("records"), 3 * RECORD)),
        ("has version", |d| {
            let file = OpenOptions::new().write(true).open(d.join("pages")).unwrap();
            file.write_all_at(&[0; 8192], 0).unwrap();
        }),
    ];
    for (what, loss) in losses {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::default();
        (0..200).for_each(|_| ledger.go_on(dir.path()).unwrap());
        ledger.check(dir.path());
        loss(dir.path());
        let check = std::panic::AssertUnwindSafe(|| ledger.check(dir.path()));
        match std::panic::catch_unwind(check) {
            Ok(()) => assert_eq!(what, "nothing"),
            Err(said) => {
                let said = said.downcast_ref::<String>().expect("a text");
                assert!(said.contains(what), "{what}: {said}");
            }
        }
    }
}

fn last(dir: &Path, start: &str) -> std::path::PathBuf {
    let names =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    dir.join(names.filter(|name| name.starts_with(start)).max().unwrap())
}

fn cut(path: &Path, size: u64) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(size).unwrap();
}
