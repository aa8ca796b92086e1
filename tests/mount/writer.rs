//! A program that changes files, and remembers outside of the mount what it was told to have worked.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Names, and which body each file has.
type Tree = BTreeMap<String, u64>;

/// Names that are written, removed and renamed over; `x` and `y` only change places, and so are at rest when
/// they do.
const SLOTS: u64 = 9;

/// Everything that was acknowledged so far.
#[derive(Debug, Default)]
pub struct Story {
    /// The names after each change of names.
    steps: Vec<Tree>,
    /// What the last call would have made, if it worked.
    maybe: Option<Tree>,
    /// Bodies that were written to their end, and those that were synced.
    whole: BTreeSet<u64>,
    synced: BTreeSet<u64>,
    /// Bodies over which another one was written in place.
    rewritten: BTreeSet<u64>,
    /// How many steps there were before the last fsync.
    durable: usize,
    /// Numbers bodies, and chooses what comes next.
    turn: u64,
}

fn body(id: u64) -> Vec<u8> {
    // Inline in a batch, in a segment, and tiny ones.
    let size = match id % 5 {
        0 => 150_000 + id * 7 % 90_000,
        1 | 2 => 60_000 + id * 11 % 50_000,
        _ => 1 + id * 13 % 3_000,
    };
    (0..size).map(|at| (id * 31 + at / 512) as u8).collect()
}

impl Story {
    fn names(&self) -> Tree {
        self.steps.last().cloned().unwrap_or_default()
    }

    /// How many turns it took.
    pub fn turns(&self) -> u64 {
        self.turn
    }

    /// One turn of the program in `dir`: a few calls. After an error the last call may have worked.
    pub fn go_on(&mut self, dir: &Path) -> io::Result<()> {
        self.turn += 1;
        let turn = self.turn;
        let name = format!("f{}", turn * 7 % SLOTS);
        let other = format!("f{}", turn * 5 % SLOTS);
        let exists = self.names().contains_key(&name);
        match turn % 10 {
            0 if exists => self.remove(dir, &name),
            1 | 2 if exists && name != other => self.rename(dir, &name, &other),
            3 if exists => self.write(dir, &name, true),
            4 | 5 => {
                self.write(dir, "new", false)?;
                self.rename(dir, "new", &name)
            }
            6 if turn % 30 == 6 => self.swap(dir),
            _ if exists => self.write(dir, &name, true),
            _ => self.write(dir, &name, false),
        }?;
        if turn.is_multiple_of(4) { self.sync(dir) } else { Ok(()) }
    }

    fn step(
        &mut self,
        change: impl FnOnce(&mut Tree),
        call: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let mut after = self.names();
        change(&mut after);
        self.maybe = Some(after);
        call()?;
        self.steps.extend(self.maybe.take());
        Ok(())
    }

    fn remove(&mut self, dir: &Path, name: &str) -> io::Result<()> {
        let change = |tree: &mut Tree| {
            tree.remove(name);
        };
        self.step(change, || std::fs::remove_file(dir.join(name)))
    }

    fn rename(&mut self, dir: &Path, from: &str, to: &str) -> io::Result<()> {
        let change = |tree: &mut Tree| {
            if let Some(id) = tree.remove(from) {
                tree.insert(to.to_owned(), id);
            }
        };
        self.step(change, || std::fs::rename(dir.join(from), dir.join(to)))
    }

    fn write(&mut self, dir: &Path, name: &str, in_place: bool) -> io::Result<()> {
        let id = self.turn;
        let path = dir.join(name);
        self.rewritten.extend(self.names().get(name).filter(|_| in_place));
        let mut file = None;
        self.step(
            |tree| {
                tree.insert(name.to_owned(), id);
            },
            || {
                let made = match in_place {
                    true => OpenOptions::new().write(true).truncate(true).open(&path)?,
                    false => File::create(&path)?,
                };
                file = Some(made);
                Ok(())
            },
        )?;
        let mut file = file.ok_or_else(|| io::Error::other("it was opened"))?;
        file.write_all(&body(id))?;
        self.whole.insert(id);
        Ok(())
    }

    fn swap(&mut self, dir: &Path) -> io::Result<()> {
        for name in ["x", "y"] {
            if !self.names().contains_key(name) {
                self.turn += 1;
                self.write(dir, name, false)?;
            }
        }
        self.rename(dir, "x", "z")?;
        self.rename(dir, "y", "x")?;
        self.rename(dir, "z", "y")
    }

    /// fsync of one file, which makes all changes of names durable that came before.
    fn sync(&mut self, dir: &Path) -> io::Result<()> {
        let tree = self.names();
        let chosen = tree.iter().nth(self.turn as usize % tree.len().max(1));
        let Some((name, id)) = chosen else { return Ok(()) };
        let steps = self.steps.len();
        File::open(dir.join(name))?.sync_all()?;
        self.durable = steps;
        self.synced.insert(*id);
        Ok(())
    }

    /// Everything that was acknowledged must be there.
    pub fn check(&mut self, dir: &Path) {
        let found = read(dir);
        let now = self.names();
        let same = |tree: &Tree| tree.keys().eq(found.keys());
        let is = match &self.maybe {
            Some(maybe) if same(maybe) && self.differs(&found, maybe).is_none() => maybe.clone(),
            _ => now.clone(),
        };
        let names = (found.keys().collect::<Vec<_>>(), is.keys().collect::<Vec<_>>());
        assert!(same(&is), "found and wanted names at turn {}: {names:?}", self.turn);
        if let Some(wrong) = self.differs(&found, &is) {
            panic!("at turn {}: {wrong}", self.turn);
        }
        // What the call left that was cut off counts from now on.
        self.maybe = None;
        self.steps.push(is);
    }

    /// A file that was written to its end and is not there like that.
    fn differs(&self, found: &BTreeMap<String, Vec<u8>>, tree: &Tree) -> Option<String> {
        tree.iter().filter(|(_, id)| self.whole.contains(id)).find_map(|(name, id)| {
            let (there, wanted) = (found.get(name)?, body(*id));
            let at = there.iter().zip(&wanted).position(|(a, b)| a != b);
            (*there != wanted).then(|| {
                let (found, wanted) = (there.len(), wanted.len());
                format!("{name}, body {id}: {found} of {wanted} bytes, different from {at:?}")
            })
        })
    }

    /// Of a host that was lost with its disk: what was synced must be there, over a prefix of the changes of
    /// names.
    pub fn check_lost(&mut self, dir: &Path) {
        let found = read(dir);
        let first = self.durable.saturating_sub(1);
        let candidates: Vec<Tree> =
            self.steps.iter().skip(first).chain(&self.maybe).cloned().collect();
        let synced: Vec<&Tree> =
            candidates.iter().filter(|tree| tree.keys().eq(found.keys())).collect();
        let names: Vec<_> = found.keys().collect();
        assert!(
            !synced.is_empty() || self.durable == 0,
            "at turn {} the names are no state since the last sync (step {} of {}): {names:?}",
            self.turn,
            self.durable,
            self.steps.len()
        );
        let right = synced.iter().any(|tree| {
            tree.iter().all(|(name, id)| {
                let must = self.synced.contains(id) && !self.rewritten.contains(id);
                !must || found[name] == body(*id)
            })
        });
        assert!(right || synced.is_empty(), "at turn {} a synced file is not whole", self.turn);
        // It goes on from here.
        let mut left = Story { turn: self.turn + 1, ..Story::default() };
        left.steps.push(found.keys().map(|name| (name.clone(), 0)).collect());
        *self = left;
    }
}

fn read(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = std::fs::read_dir(dir).expect("the directory");
    files
        .map(|entry| {
            let entry = entry.expect("an entry");
            let path: PathBuf = entry.path();
            let body = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            (entry.file_name().into_string().expect("our name"), body)
        })
        .collect()
}
