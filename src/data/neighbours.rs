//! Prefetch of the small files of a directory that is read file by file.
//!
//! Programs read them in the order of the listing, by name or by inode number. Three files tell which; in the next
//! directory one is enough, and counts as the third. What lies in the directories after that `series` prefetches. At most twice as many are prefetched as were read. Where wasted
//! bytes cost money, none are.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use super::ahead::bring_small;
use super::course::SMALL;
use super::{DataError, Inode, Volume};
use crate::clock::boottime;
use crate::meta::keys;
use crate::meta::records::{DirentRec, decode};
use crate::types::{FileKind, FileName, Ino};

/// Files prefetched for a reader at most.
const MOST: usize = 128;
/// A directory with this many names is left alone.
const NAMES: usize = 8192;
/// Directories whose files are prefetched and not read yet.
pub(super) const COMING: usize = 16;
/// Directories known to be read file by file, or to come next.
const ROWS: usize = 8 + COMING;
/// Directories of which that is not known yet.
const CANDIDATES: usize = 32;
/// This many files tell an order, if they are no farther apart than this.
const TELLING: usize = 3;
const APART: usize = 16;
/// How long an order seen in one directory counts in another.
const LATELY: Duration = Duration::from_secs(10);

/// What decides which file comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Listing,
    Name,
    Number,
}

impl Order {
    /// Sorts what is in the order of the listing.
    pub fn sort(self, entries: &mut [(FileName, Ino)]) {
        match self {
            Order::Listing => {}
            Order::Name => entries.sort_by(|one, other| one.0.as_bytes().cmp(other.0.as_bytes())),
            Order::Number => entries.sort_by_key(|(_, ino)| *ino),
        }
    }
}

/// Half of a directory was read, and all of it is prefetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn {
    pub dir: Ino,
    pub order: Order,
    /// How many files were read.
    pub read: usize,
}

/// What a directory holds, in an order.
pub(super) struct Entries {
    pub files: Vec<(FileName, Ino)>,
    pub dirs: Vec<(FileName, Ino)>,
}

/// A directory that is read file by file.
#[derive(Debug)]
pub(super) struct Row {
    dir: Ino,
    files: Vec<Ino>,
    places: HashMap<Ino, usize>,
    order: Order,
    /// How many were read, up to where, and up to where they were prefetched.
    read: usize,
    at: usize,
    begun: usize,
    /// How many of these reads were seen, and whether that half of them were was told.
    seen: usize,
    told: bool,
}

impl Row {
    fn new(dir: Ino, files: Vec<Ino>, order: Order, at: usize) -> Self {
        let read = TELLING - 1;
        let places = files.iter().enumerate().map(|(place, ino)| (*ino, place)).collect();
        Row { dir, files, places, order, read, at, begun: at, seen: 0, told: false }
    }

    /// A directory that comes next, of which the first `begun` files are prefetched.
    pub fn ahead(dir: Ino, files: Vec<Ino>, order: Order, begun: usize) -> Self {
        Row { begun, ..Row::new(dir, files, order, 0) }
    }

    /// Whether half of the files were read and all are prefetched; once.
    fn turns(&mut self) -> Option<Turn> {
        let all = self.files.len();
        let now = !self.told && self.begun == all && self.seen * 2 >= all;
        self.told |= now;
        now.then_some(Turn { dir: self.dir, order: self.order, read: self.seen })
    }

    /// A file is read. Returns those to fetch now.
    fn goes_on(&mut self, place: usize, most: usize) -> Vec<Ino> {
        if place + 1 == self.at {
            // The same file again.
            return Vec::new();
        }
        if place + APART < self.at || place > self.begun + APART {
            // Somewhere else: start over.
            (self.read, self.at, self.begun) = (1, place + 1, place + 1);
            return Vec::new();
        }
        self.read += 1;
        self.seen += 1;
        self.at = self.at.max(place + 1);
        let to = (self.at + (self.read * 2).min(most)).min(self.files.len());
        let from = self.begun.max(self.at).min(to);
        self.begun = self.begun.max(to);
        self.files[from..to].to_vec()
    }
}

/// The last misses in a directory, and how many it takes to look for an order.
#[derive(Debug)]
struct Candidate {
    dir: Ino,
    missed: VecDeque<Ino>,
    since: usize,
    enough: usize,
}

#[derive(Debug, Default)]
struct Known {
    rows: VecDeque<Row>,
    candidates: VecDeque<Candidate>,
    /// The order in which files were read last, and when.
    last: Option<(Order, Duration)>,
}

/// How small files are read. A leaf lock.
#[derive(Debug, Default)]
pub(super) struct Neighbours(Mutex<Known>);

/// What to fetch now, and whether to look for the next directory.
#[derive(Debug, Default, PartialEq, Eq)]
struct Next {
    files: Vec<Ino>,
    turn: Option<Turn>,
}

/// What to do about a miss.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    /// Find the order of these, the last of which is that file.
    For(Vec<Ino>),
    /// It is the first of a directory: try the last order.
    Like(Order),
}

impl Neighbours {
    /// A small file is read. `None`: it is in no row.
    fn read(&self, ino: Ino, most: usize) -> Option<Next> {
        let mut known = self.0.lock();
        let at = known.rows.iter().position(|row| row.places.contains_key(&ino))?;
        let mut row = known.rows.remove(at)?;
        let place = row.places.get(&ino).copied();
        let before = row.read;
        let files = place.map(|place| row.goes_on(place, most)).unwrap_or_default();
        let turn = row.turns();
        if row.read > before {
            known.last = Some((row.order, boottime()));
        }
        known.rows.push_front(row);
        Some(Next { files, turn })
    }

    fn missed(&self, dir: Ino, ino: Ino) -> Option<Look> {
        let mut known = self.0.lock();
        let at = known.candidates.iter().position(|candidate| candidate.dir == dir);
        let mut candidate = match at.and_then(|at| known.candidates.remove(at)) {
            Some(candidate) => candidate,
            None => Candidate { dir, missed: VecDeque::new(), since: 0, enough: TELLING },
        };
        let first = candidate.missed.is_empty();
        candidate.missed.push_back(ino);
        candidate.since += 1;
        if candidate.missed.len() > TELLING {
            candidate.missed.pop_front();
        }
        let enough = candidate.since >= candidate.enough;
        if enough {
            // Reads in no order are looked at less and less often.
            (candidate.since, candidate.enough) = (0, candidate.enough * 2);
        }
        let missed = candidate.missed.iter().copied().collect();
        known.candidates.truncate(CANDIDATES - 1);
        known.candidates.push_front(candidate);
        match known.last {
            Some((order, at)) if first && boottime().saturating_sub(at) < LATELY => {
                Some(Look::Like(order))
            }
            _ => enough.then_some(Look::For(missed)),
        }
    }

    /// A row is known, of which the file at `place` was missed. Returns those to fetch now. That alone confirms no
    /// order: a program may read one file of each directory.
    fn found(&self, mut row: Row, place: usize, most: usize) -> Next {
        let files = row.goes_on(place, most);
        let turn = row.turns();
        self.comes(row);
        Next { files, turn }
    }

    /// A directory that is read, or comes next.
    pub(super) fn comes(&self, row: Row) {
        let mut known = self.0.lock();
        known.rows.retain(|other| other.dir != row.dir);
        known.rows.truncate(ROWS - 1);
        known.rows.push_front(row);
    }
}

/// Without their names.
pub(super) fn inos(entries: Vec<(FileName, Ino)>) -> Vec<Ino> {
    entries.into_iter().map(|(_, ino)| ino).collect()
}

/// The files of a directory in an order, the place of the last of `missed`, and its distance from the first; `None`
/// if they are not in that order.
fn in_order(
    files: &[(FileName, Ino)],
    order: Order,
    missed: &[Ino],
) -> Option<(Vec<Ino>, usize, usize)> {
    let mut sorted = files.to_vec();
    order.sort(&mut sorted);
    let files = inos(sorted);
    let places: Option<Vec<usize>> =
        missed.iter().map(|ino| files.iter().position(|other| other == ino)).collect();
    let places = places?;
    let (first, last) = (*places.first()?, *places.last()?);
    let follows = places.windows(2).all(|pair| pair[0] < pair[1]) && last - first <= APART;
    follows.then(|| (files, last, last - first))
}

impl Volume {
    /// A small file is read from its start.
    pub(super) fn follow_small(&self, inode: &Arc<Inode>, missing: bool) {
        if self.options.requester_pays {
            return;
        }
        match self.neighbours.read(inode.ino, self.most_ahead()) {
            Some(next) => self.bring_next(next),
            None if missing => {
                let (this, ino) = (Weak::clone(&self.this), inode.ino);
                tokio::spawn(async move {
                    let Some(volume) = this.upgrade() else { return };
                    if let Err(error) = volume.look_for_row(ino).await {
                        tracing::debug!(%ino, %error, "looking for the order of reads failed");
                    }
                });
            }
            None => {}
        }
    }

    pub(super) fn most_ahead(&self) -> usize {
        MOST.min((self.room.limit() / 8 / SMALL) as usize)
    }

    fn bring_next(&self, next: Next) {
        self.bring_neighbours(next.files);
        if let Some(turn) = next.turn {
            self.goes_on_after(turn);
        }
    }

    pub(super) fn bring_neighbours(&self, files: Vec<Ino>) {
        for ino in files {
            drop(tokio::spawn(bring_small(Weak::clone(&self.this), ino)));
        }
    }

    /// Files and directories of a directory, in an order; `None` where they are very many.
    pub(super) async fn entries(
        &self,
        dir: Ino,
        order: Order,
    ) -> Result<Option<Entries>, DataError> {
        let page = self.meta.scan(keys::dirents_after(dir, 0), NAMES).await?;
        if page.len() == NAMES {
            return Ok(None);
        }
        let (mut files, mut dirs) = (Vec::new(), Vec::new());
        for (key, value) in &page {
            let dirent: DirentRec = decode(value)?;
            let Some((_, name)) = keys::parse_dirent(key) else { continue };
            match dirent.kind {
                FileKind::File => files.push((name, dirent.ino)),
                FileKind::Dir => dirs.push((name, dirent.ino)),
                _ => {}
            }
        }
        order.sort(&mut files);
        order.sort(&mut dirs);
        Ok(Some(Entries { files, dirs }))
    }

    /// Looks for the order in which the directory of a missed file is read.
    async fn look_for_row(&self, ino: Ino) -> Result<(), DataError> {
        let Some((dir, _)) = self.names_of(ino).await?.into_iter().next() else { return Ok(()) };
        let Some(look) = self.neighbours.missed(dir, ino) else { return Ok(()) };
        let Some(Entries { files, .. }) = self.entries(dir, Order::Listing).await? else {
            return Ok(());
        };
        let found = match look {
            Look::Like(order) => in_order(&files, order, &[ino]).map(|found| (order, found)),
            Look::For(missed) => [Order::Listing, Order::Name, Order::Number]
                .into_iter()
                .filter_map(|order| Some((order, in_order(&files, order, &missed)?)))
                .min_by_key(|(_, (_, _, apart))| *apart),
        };
        let Some((order, (files, at, _))) = found else { return Ok(()) };
        let row = Row::new(dir, files, order, at);
        self.bring_next(self.neighbours.found(row, at, self.most_ahead()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(count: u64) -> Vec<(FileName, Ino)> {
        // Listed by hash, created in another order than by name.
        let mut files: Vec<_> = (0..count)
            .map(|n| (FileName::new(format!("file {n:04}")).unwrap(), Ino(10 + n * 37 % count)))
            .collect();
        files.sort_by_key(|(name, _)| keys::cookie(name));
        files
    }

    #[test]
    fn three_files_tell_the_order_in_which_they_are_read() {
        let files = files(100);
        for order in [Order::Listing, Order::Name, Order::Number] {
            let (sorted, ..) = in_order(&files, order, &[files[0].1]).unwrap();
            let missed = &sorted[7..10];
            let (found, at, apart) = in_order(&files, order, missed).unwrap();
            assert_eq!((found[at], at, apart), (missed[2], 9, 2));
            let others = [Order::Listing, Order::Name, Order::Number].into_iter();
            let nearer = others.filter(|other| *other != order).filter_map(|other| {
                in_order(&files, other, missed).filter(|(_, _, apart)| *apart <= 2)
            });
            assert_eq!(nearer.count(), 0, "{order:?}");
        }
        let mixed = [files[50].1, files[3].1, files[70].1];
        assert!(in_order(&files, Order::Listing, &mixed).is_none());
    }

    #[test]
    fn no_more_are_fetched_ahead_than_twice_as_many_as_were_read() {
        let files: Vec<Ino> = (0..1000).map(Ino).collect();
        let mut row = Row::new(Ino(1), files, Order::Name, 3);
        let mut fetched = 0;
        for place in 3..1000 {
            fetched += row.goes_on(place, MOST).len();
            let beyond = row.begun - row.at;
            assert!(beyond <= (row.read * 2).min(MOST), "{place}: {beyond}");
        }
        assert_eq!(fetched, 996, "all but the first, each once");
        assert!(row.goes_on(100, MOST).is_empty(), "a read elsewhere");
        assert_eq!(row.goes_on(101, MOST).len(), 4);
    }

    #[test]
    fn one_file_of_another_directory_fetches_few_and_says_nothing_of_the_next_one() {
        let neighbours = Neighbours::default();
        let begin = |dir: u64| {
            let files = (0..1000).map(|file| Ino(dir * 1000 + file)).collect();
            neighbours.found(Row::new(Ino(dir), files, Order::Name, 0), 0, MOST).files.len()
        };
        let last = || neighbours.0.lock().last.map(|(_, at)| at);
        assert_eq!((begin(1), last()), (2 * TELLING, None));
        let read =
            (1..500).map(|file| neighbours.read(Ino(1000 + file), MOST).unwrap().files.len());
        assert!(read.max().unwrap() <= 3);
        let after = last();
        assert!(after.is_some());
        for dir in 2..ROWS as u64 {
            let first = Ino(dir * 1000);
            assert_eq!(neighbours.missed(Ino(dir), first), Some(Look::Like(Order::Name)));
            assert_eq!(begin(dir), 2 * TELLING, "as in the first one");
            assert_eq!(neighbours.read(first, MOST), Some(Next::default()), "read again");
            assert_eq!(last(), after);
        }
        assert_eq!(neighbours.read(Ino(2001), MOST).map(|next| next.files.len()), Some(3));
        assert!(last() > after, "the second file of a directory");
    }

    #[test]
    fn whoever_reads_in_no_order_is_looked_at_less_and_less() {
        let neighbours = Neighbours::default();
        let looks = (0..100).filter(|n| neighbours.missed(Ino(1), Ino(100 + n)).is_some());
        assert_eq!(looks.count(), 5);
    }
}
