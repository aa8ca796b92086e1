//! Each parser by itself: random bytes, and right ones that were damaged.

use std::collections::BTreeMap;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use s3vol::config::{
    BucketUrl, PluginConfig, VolumeOptions, parse_bool, parse_duration, parse_size,
};
use s3vol::data::{DataError, Source, fetches, pieces, unescape_name};
use s3vol::lease::LeaseRecord;
use s3vol::meta::log::Header;
use s3vol::meta::records::{
    ContentRec, DeadRec, DirentRec, ExtentRec, InodeRec, IntentRec, Place, RestRec, SegmentRec,
    SuperRec, TombRec, WorkRec, decode, encode,
};
use s3vol::meta::{Batch, Fold, Journal, LocalLog, Lookup, MetaError, Record, keys};
use s3vol::settle::from_object;
use s3vol::store::Location;
use s3vol::types::{Ino, Lsn, PutId, Timestamp, VolumeId};

use crate::random::Random;

fn decode_all(bytes: &[u8]) {
    drop(decode::<SuperRec>(bytes));
    drop(decode::<InodeRec>(bytes));
    drop(decode::<ContentRec>(bytes));
    drop(decode::<DirentRec>(bytes));
    drop(decode::<ExtentRec>(bytes));
    drop(decode::<RestRec>(bytes));
    drop(decode::<WorkRec>(bytes));
    drop(decode::<IntentRec>(bytes));
    drop(decode::<SegmentRec>(bytes));
    drop(decode::<DeadRec>(bytes));
    drop(decode::<TombRec>(bytes));
}

fn parse_key(bytes: &[u8]) {
    drop((keys::parse_dirent(bytes), keys::parse_parent(bytes), keys::parse_ino(bytes)));
    drop((keys::parse_extent(bytes), keys::parse_rests(bytes), keys::parse_object(bytes)));
    let _ = (keys::parse_dead(bytes), keys::parse_id(bytes), keys::after_ino(bytes));
    let _ = (keys::inode_prefix(bytes), keys::dead_row_id(0, bytes));
}

/// A number that lies at an edge more often than not.
fn edge() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        Just(u64::MAX),
        Just(1 << 63),
        Just(i64::MAX as u64),
        0..100u64,
        any::<u64>()
    ]
}

/// Records in memory.
struct Rows(BTreeMap<Vec<u8>, Bytes>);

impl Lookup for Rows {
    async fn get_raw(&self, key: &[u8]) -> Result<Option<Bytes>, MetaError> {
        Ok(self.0.get(key).cloned())
    }

    async fn scan(
        &self,
        range: keys::Range,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, MetaError> {
        let copy = |(key, value): (&Vec<u8>, &Bytes)| (key.clone().into(), value.clone());
        Ok(self.0.range(range).take(limit).map(copy).collect())
    }
}

/// How a range of a file would be read.
fn planned(
    rows: &Rows,
    content: &ContentRec,
    range: Range<u64>,
) -> Result<Vec<(Range<u64>, Source)>, DataError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(pieces(rows, Ino(1), content, range))
}

fn extent() -> impl Strategy<Value = (u64, ExtentRec)> {
    let inline = prop::collection::vec(any::<u8>(), 0..40).prop_map(|b| Place::Inline(b.into()));
    let segment = (edge(), edge(), any::<u32>()).prop_map(|(offset, crc_offset, crc_len)| {
        Place::Segment { id: 1, offset, crc: 7, crc_offset, crc_len }
    });
    let place = prop_oneof![inline, segment, Just(Place::Zero)];
    (edge(), edge(), edge(), place)
        .prop_map(|(start, generation, end, place)| (end, ExtentRec { start, generation, place }))
}

proptest! {
    #[test]
    fn records_and_keys(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        decode_all(&bytes);
        parse_key(&bytes);
    }

    /// Lengths that are no lengths must not be reserved.
    #[test]
    fn records_with_long_lengths(at in 0..30usize, bytes in prop::collection::vec(any::<u8>(), 30)) {
        let mut bytes = bytes;
        bytes.splice(at..at, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]);
        decode_all(&bytes);
    }

    #[test]
    fn extents(found in prop::collection::vec(extent(), 1..6), from in edge(), to in edge(), size in edge()) {
        let pieces = found.len() as u64;
        let content = ContentRec { size, pieces, ..ContentRec::default() };
        let rows = found
            .iter()
            .map(|(end, extent)| (keys::extent(Ino(1), 0, *end), encode(extent).into()))
            .collect();
        let found = planned(&Rows(rows), &content, from..to).unwrap_or_default();
        prop_assert!(found.iter().all(|(span, _)| span.start < span.end), "{found:?}");
        drop(fetches(found));
    }

    #[test]
    fn what_an_object_shows(
        name in prop_oneof![Just("mode".to_owned()), Just("mtime".into()), Just("xattrs".into()), ".*"],
        value in prop_oneof![any::<u64>().prop_map(|n| n.to_string()), ".*", "[0-9.:eE+-]{0,40}"],
        dir in any::<bool>(),
    ) {
        let shown = from_object(&[(name, value)].into_iter().collect(), dir);
        prop_assert!(shown.kind.is_none_or(|kind| (kind == s3vol::types::FileKind::Dir) == dir));
    }

    #[test]
    fn texts(text in ".{0,60}") {
        drop((PutId::parse(&text), parse_bool(&text), parse_duration(&text), parse_size(&text)));
        drop((Location::parse(&text), BucketUrl::parse(&text), unescape_name(&text)));
        drop(serde_json::from_str::<LeaseRecord>(&text));
    }

    #[test]
    fn settings(value in ".{0,40}", at in 0..40usize) {
        let names = ["url", "size", "settle", "settle_after", "uid", "umask", "cache_size", "commit", "acl"];
        let given = BTreeMap::from([(names[at % names.len()].to_owned(), value.clone())]);
        drop(VolumeOptions::parse_for_url("s3://bucket/x", &given, &VolumeOptions::default()));
        drop(PluginConfig::parse(&BTreeMap::from([("S3VOL_URL".to_owned(), value)])));
    }
}

/// The log of a process that died, damaged since: what is read of it is a beginning of what was written.
#[test]
fn a_damaged_log_gives_a_beginning_of_itself() {
    let header = Header::here(VolumeId::random()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let written = {
        let opened = LocalLog::<Record>::open(dir.path(), header.clone()).unwrap();
        let mut journal = Journal::new(opened.log, Fold::default());
        for at in 0..20 {
            let mut batch = Batch::new();
            batch.put(keys::inode(Ino(at)), vec![at as u8; 50]);
            let record = Record::Op { conn: 1, unique: at, batch: Arc::new(batch) };
            journal.append(&record).unwrap();
            let (start, end, time) = (at * 10, at * 10 + 10, Timestamp::default());
            let record = Record::Wrote { ino: Ino(at), start, end, size: end, time };
            journal.append(&record).unwrap();
        }
        drop(journal);
        std::fs::read(dir.path().join("log")).unwrap()
    };
    let whole = LocalLog::<Record>::open(dir.path(), header.clone()).unwrap().replayed;
    assert_eq!(whole.len(), 40);
    let lsns: Vec<Lsn> = whole.iter().map(|(lsn, _)| *lsn).collect();
    let used = written.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let mut random = Random(1);
    for _ in 0..300 {
        let mut bytes = written.clone();
        match random.below(3) {
            0 => bytes.truncate(random.below(used)),
            1 => bytes[random.below(used)] ^= 1 << random.below(8),
            _ => {
                let at = random.below(used);
                let noise = random.bytes(64);
                let end = (at + noise.len()).min(bytes.len());
                bytes[at..end].copy_from_slice(&noise[..end - at]);
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(dir.path().join("log")).unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        let found = LocalLog::<Record>::open(dir.path(), header.clone()).unwrap();
        let read: Vec<Lsn> = found.replayed.iter().map(|(lsn, _)| *lsn).collect();
        assert!(lsns.starts_with(&read), "{read:?}");
    }
}
