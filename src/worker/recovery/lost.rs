//! What only a local log and its cache files know.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use crate::data::escape_name;
use crate::meta::records::{ContentRec, ExtentRec, Place, decode};
use crate::meta::{Change, Engine, Fold, RangeMap, Record, keys};
use crate::types::{FileName, Ino, Lsn};

/// No path is deeper.
const DEPTH: usize = 1000;

/// Where the bytes of a range are.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// In the cache file, at their own offset.
    Cache,
    Zero,
    /// A committed extent that starts at `start` in the file.
    Extent {
        start: u64,
        place: Place,
    },
}

/// Changed content of one file.
#[derive(Debug, Default)]
pub(super) struct LostFile {
    /// The file's size after the last change.
    pub size: u64,
    /// Indices into `sources`.
    pub ranges: RangeMap<usize>,
    pub sources: Vec<Source>,
}

impl LostFile {
    fn add(&mut self, range: std::ops::Range<u64>, source: Source) {
        self.sources.push(source);
        self.ranges.insert(range, self.sources.len() - 1);
    }
}

/// What a log holds beyond its last durable batch.
#[derive(Debug, Default)]
pub(super) struct Lost {
    pub files: BTreeMap<Ino, LostFile>,
    /// Batches that may not be in the bucket.
    pub batches: usize,
    /// Names, as the log has them: all of an inode that it speaks of.
    names: HashMap<Ino, Vec<(Ino, FileName)>>,
    /// The map of a file in the last batch with its content.
    maps: HashMap<Ino, u64>,
    /// Where rows begin, by their map and end.
    begins: HashMap<Ino, HashMap<(u64, u64), u64>>,
}

/// A row of a file's map in a batch; without an extent it is taken away.
struct Row {
    ino: Ino,
    map: u64,
    range: Range<u64>,
    extent: Option<ExtentRec>,
}

impl Lost {
    pub fn of(records: &[(Lsn, Record)]) -> Lost {
        let mut fold = Fold::default();
        let mut lost = Lost::default();
        for (lsn, record) in records {
            fold.apply(*lsn, record);
            if let Record::Op { batch, .. } = record {
                lost.learn_names(batch);
            }
        }
        lost.batches = fold.batches.len();
        for record in fold.batches.values() {
            match record {
                Record::Commit { batch, .. } => lost.committed(batch),
                Record::Op { batch, .. } => {
                    let rows = lost.laid(batch);
                    lost.took_away(&rows);
                    for (key, value) in batch.iter() {
                        if let (Some(&keys::INODE), None) = (key.first(), value)
                            && let Some(ino) = keys::parse_ino(key)
                        {
                            lost.files.remove(&ino);
                        }
                    }
                }
                _ => {}
            }
        }
        for (ino, pending) in &fold.pending {
            let file = lost.files.entry(*ino).or_default();
            file.ranges.remove(pending.limit()..u64::MAX);
            for (range, (_, change)) in pending.ranges.iter() {
                let source = match change {
                    Change::Data => Source::Cache,
                    Change::Zero => Source::Zero,
                };
                file.add(range, source);
            }
            if let Some((_, size)) = pending.size {
                file.size = size;
            }
        }
        for file in lost.files.values_mut() {
            file.ranges.remove(file.size..u64::MAX);
        }
        // A size alone is no content.
        lost.files.retain(|_, file| !file.ranges.is_empty());
        lost
    }

    /// Content that a batch committed. It also holds older extents, cut to what is left of them.
    fn committed(&mut self, batch: &crate::meta::Batch) {
        let mut current: HashMap<Ino, (u64, u64)> = HashMap::new();
        for (key, value) in batch.iter() {
            if let (Some(&keys::CONTENT), Some(value)) = (key.first(), value)
                && let (Some(ino), Ok(content)) =
                    (keys::parse_ino(key), decode::<ContentRec>(value))
            {
                current.insert(ino, (content.map, content.generation));
                let file = self.files.entry(ino).or_default();
                if self.maps.insert(ino, content.map).is_some_and(|before| before != content.map) {
                    // It was cut to nothing in between.
                    file.ranges.clear();
                }
                file.size = content.size;
                file.ranges.remove(content.size..u64::MAX);
            }
        }
        let rows = self.laid(batch);
        self.took_away(&rows);
        for Row { ino, map, range, extent } in rows {
            let Some(extent) = extent.filter(|e| current.get(&ino) == Some(&(map, e.generation)))
            else {
                continue;
            };
            let source = match extent.place {
                Place::Zero => Source::Zero,
                place => Source::Extent { start: extent.start, place },
            };
            self.files.entry(ino).or_default().add(range, source);
        }
    }

    /// The rows of maps that a batch lays, and those that it takes away of such as batches before it laid.
    fn laid(&mut self, batch: &crate::meta::Batch) -> Vec<Row> {
        let mut rows = Vec::new();
        for (key, value) in batch.iter() {
            if key.first() != Some(&keys::EXTENT) {
                continue;
            }
            let (Some(ino), Some((map, end))) = (keys::parse_ino(key), keys::parse_extent(key))
            else {
                continue;
            };
            let extent: Option<ExtentRec> = value.and_then(|value| decode(value).ok());
            let begins = self.begins.entry(ino).or_default();
            let start = match &extent {
                Some(extent) => {
                    begins.insert((map, end), extent.start);
                    Some(extent.start)
                }
                None => begins.remove(&(map, end)),
            };
            if let Some(start) = start.filter(|start| *start < end) {
                rows.push(Row { ino, map, range: start..end, extent });
            }
        }
        rows
    }

    /// Forgets what rows showed that are gone, as far as no other shows it.
    fn took_away(&mut self, rows: &[Row]) {
        let mut shown: HashMap<Ino, RangeMap<()>> = HashMap::new();
        for row in rows.iter().filter(|row| row.extent.is_some()) {
            shown.entry(row.ino).or_default().insert(row.range.clone(), ());
        }
        for row in rows.iter().filter(|row| row.extent.is_none()) {
            let Some(file) = self.files.get_mut(&row.ino) else { continue };
            match shown.get(&row.ino) {
                Some(shown) => {
                    let gone = shown.gaps(row.range.clone());
                    gone.into_iter().for_each(|gone| file.ranges.remove(gone));
                }
                None => file.ranges.remove(row.range.clone()),
            }
        }
    }

    fn learn_names(&mut self, batch: &crate::meta::Batch) {
        for (key, value) in batch.iter() {
            if key.first() != Some(&keys::PARENT) {
                continue;
            }
            let (Some(ino), Some(name)) = (keys::parse_ino(key), keys::parse_parent(key)) else {
                continue;
            };
            let names = self.names.entry(ino).or_default();
            names.retain(|known| *known != name);
            if value.is_some() {
                names.push(name);
            }
        }
    }

    pub fn bytes(&self) -> u64 {
        self.files.values().map(|file| file.ranges.total()).sum()
    }

    /// A path for each file, its parts escaped as in keys; by its number where nobody knows the name.
    pub async fn paths(&self, engine: Option<&Engine>) -> BTreeMap<Ino, String> {
        let mut paths = BTreeMap::new();
        for ino in self.files.keys() {
            let path = self.path(*ino, engine).await;
            paths.insert(*ino, path.unwrap_or_else(|| format!("inode-{ino}")));
        }
        paths
    }

    async fn path(&self, ino: Ino, engine: Option<&Engine>) -> Option<String> {
        let mut parts = Vec::new();
        let mut at = ino;
        while at != Ino::ROOT {
            let name = match self.names.get(&at) {
                Some(names) => names.first().cloned(),
                None => name_in(engine?, at).await,
            };
            let (parent, name) = name?;
            parts.push(escape_name(&name));
            at = parent;
            if parts.len() > DEPTH {
                return None;
            }
        }
        parts.reverse();
        Some(parts.join("/"))
    }
}

async fn name_in(engine: &Engine, ino: Ino) -> Option<(Ino, FileName)> {
    let (from, to) = keys::of_inode(keys::PARENT, ino);
    let found = engine.scan(from, to, 1).await.ok()?;
    keys::parse_parent(&found.first()?.0)
}
