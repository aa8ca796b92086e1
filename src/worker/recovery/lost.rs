//! What only a local log and its cache files know.

use std::collections::{BTreeMap, HashMap};

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
                file.size = content.size;
                file.ranges.remove(content.size..u64::MAX);
            }
        }
        for (key, value) in batch.iter() {
            if let (Some(&keys::EXTENT), Some(value)) = (key.first(), value)
                && let (Some(ino), Some((map, end)), Ok(extent)) =
                    (keys::parse_ino(key), keys::parse_extent(key), decode::<ExtentRec>(value))
                && current.get(&ino) == Some(&(map, extent.generation))
                && extent.start < end
            {
                let source = match extent.place {
                    Place::Zero => Source::Zero,
                    place => Source::Extent { start: extent.start, place },
                };
                self.files.entry(ino).or_default().add(extent.start..end, source);
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
