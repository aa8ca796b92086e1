use proptest::prelude::*;

use super::*;
use crate::meta::log::Header;
use crate::meta::{Engine, EngineConfig, Fold, Journal, LocalLog, Logged, Meta};
use crate::store::{Location, Store, StoreSettings};
use crate::types::VolumeId;

const INO: Ino = Ino(7);
/// A file of so many bytes meets every border; more only adds time.
const SIZE: u64 = 96;

async fn meta(dir: &tempfile::TempDir) -> Meta {
    std::fs::create_dir(dir.path().join("bucket")).unwrap();
    std::fs::create_dir(dir.path().join("log")).unwrap();
    let url = format!("file://{}/bucket", dir.path().display());
    let location = Location::parse(&url).unwrap();
    let store = Store::open(&location, &StoreSettings::default()).unwrap();
    let objects = store.engine(&location.prefix.join("state")).unwrap().into_inner();
    let engine = Engine::open(EngineConfig::new(objects, "meta", None)).await.unwrap();
    let header = Header::here(VolumeId::random()).unwrap();
    let log = LocalLog::open(&dir.path().join("log"), header).unwrap().log;
    let superblock = super::super::Volume::first_superblock();
    Meta::new(engine, Journal::new(log, Fold::default()), superblock, 0)
}

#[derive(Debug, Clone)]
enum Op {
    Inline(u64, u64),
    Segment(u64, u64),
    Zero(u64, u64),
    Clear(u64, u64),
    /// Everything so far is dead.
    Drop,
}

fn op() -> impl Strategy<Value = Op> {
    let range = || (0..SIZE, 1..=SIZE / 2).prop_map(|(a, len)| (a, (a + len).min(SIZE)));
    prop_oneof![
        4 => range().prop_map(|(a, b)| Op::Inline(a, b)),
        4 => range().prop_map(|(a, b)| Op::Segment(a, b)),
        2 => range().prop_map(|(a, b)| Op::Zero(a, b)),
        2 => range().prop_map(|(a, b)| Op::Clear(a, b)),
        1 => Just(Op::Drop),
    ]
}

/// Where one byte of the file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Zero,
    Inline(u8),
    Segment(u128, u64),
}

/// Bytes of inline extents differ by batch and place.
fn byte(generation: u64, offset: u64) -> u8 {
    (generation * 41 + offset * 7) as u8
}

fn place(op: &Op, generation: u64, start: u64, end: u64) -> Place {
    match op {
        Op::Inline(..) => {
            Place::Inline((start..end).map(|at| byte(generation, at)).collect::<Vec<_>>().into())
        }
        Op::Segment(..) => Place::Segment {
            id: u128::from(generation),
            offset: 1000 + start,
            crc: 5,
            crc_offset: 1000 + start,
            crc_len: (end - start) as u32,
        },
        _ => Place::Zero,
    }
}

/// A content with one map, of which everything up to a generation is dead.
fn content(drop_gen: u64) -> ContentRec {
    ContentRec { drop_gen, map: 3, pieces: u64::MAX, ..ContentRec::default() }
}

async fn shown(meta: &Meta, drop_gen: u64) -> Vec<Option<At>> {
    let mut bytes = vec![None; SIZE as usize];
    for (range, extent) in live_extents(meta, INO, &content(drop_gen), 0..SIZE).await.unwrap() {
        for at in range.clone() {
            let skip = at - range.start;
            let byte = &mut bytes[at as usize];
            assert_eq!(*byte, None, "two extents hold byte {at}");
            *byte = Some(match &extent.place {
                Place::Zero => At::Zero,
                Place::Inline(data) => {
                    assert_eq!(data.len() as u64, range.end - range.start);
                    At::Inline(data[skip as usize])
                }
                Place::Segment { id, offset, crc_offset, crc_len, .. } => {
                    let piece = *crc_offset..*crc_offset + u64::from(*crc_len);
                    assert!(piece.contains(&(offset + skip)), "outside of its checksum");
                    At::Segment(*id, offset + skip)
                }
            });
        }
    }
    bytes
}

/// `together` operations in one change.
async fn run(ops: Vec<Op>, together: usize) -> Result<(), TestCaseError> {
    let dir = tempfile::tempdir().unwrap();
    let meta = meta(&dir).await;
    let mut model: Vec<Option<(u64, At)>> = vec![None; SIZE as usize];
    let mut drop_gen = 0;
    let (mut index, mut rows) = (0, 0);
    for group in ops.chunks(together) {
        let mut txn = meta.begin().await.unwrap();
        let mut delta = SegmentDelta::default();
        let mut editor = Editor::new(&mut txn, INO, &content(drop_gen));
        for op in group {
            index += 1;
            let generation = index;
            match *op {
                Op::Inline(start, end) | Op::Segment(start, end) | Op::Zero(start, end) => {
                    let place = place(op, generation, start, end);
                    editor.overlay(start..end, place, generation, &mut delta).await.unwrap();
                    for at in start..end {
                        let what = match op {
                            Op::Inline(..) => At::Inline(byte(generation, at)),
                            Op::Segment(..) => At::Segment(u128::from(generation), 1000 + at),
                            _ => At::Zero,
                        };
                        model[at as usize] = Some((generation, what));
                    }
                }
                Op::Clear(start, end) => {
                    editor.clear(start..end, &mut delta).await.unwrap();
                    model[start as usize..end as usize].fill(None);
                }
                Op::Drop => {
                    drop_gen = generation - 1;
                    editor.drop_gen = drop_gen;
                    model.fill(None);
                }
            }
        }
        rows += delta.take_rows();
        delta.apply(&mut txn).await.unwrap();
        txn.commit(Logged::Op { unique: 0 }, || {}).await.unwrap();
        let all = meta.scan(keys::of_inode(keys::EXTENT, INO), 1000).await.unwrap();
        prop_assert_eq!(all.len() as i64, rows, "rows are counted");
        let expected: Vec<Option<At>> = model.iter().map(|b| b.map(|(_, at)| at)).collect();
        prop_assert_eq!(shown(&meta, drop_gen).await, expected);
    }
    // With nothing dropped, a segment's live bytes are those that still show.
    if drop_gen == 0 {
        for generation in 1..=ops.len() as u64 {
            let id = u128::from(generation);
            let live = model
                .iter()
                .filter(|b| matches!(b, Some((_, At::Segment(of, _))) if *of == id))
                .count() as u64;
            let counted: Option<SegmentRec> = meta.get(&keys::segment(id)).await.unwrap();
            prop_assert_eq!(counted.map_or(0, |rec| rec.live), live);
        }
    }
    meta.engine.abandon();
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() })]

    #[test]
    fn extents_are_an_array_of_bytes(
        ops in prop::collection::vec(op(), 1..24),
        together in 1..8usize,
    ) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(run(ops, together))?;
    }
}

/// A database writes thousands of pages between two fsyncs; one lookup each kept the sequencer for
/// longer than an fsync waits.
#[tokio::test]
async fn many_ranges_in_one_change_are_one_pass_over_the_extents() {
    let dir = tempfile::tempdir().unwrap();
    let meta = meta(&dir).await;
    const EXTENTS: u64 = 2000;
    for (step, allowed) in [(1, 1), (3, 30), (5, 30)] {
        let mut txn = meta.begin().await.unwrap();
        let mut delta = SegmentDelta::default();
        let mut editor = Editor::new(&mut txn, INO, &content(0));
        for at in (0..EXTENTS).step_by(step as usize).map(|page| page * 10) {
            editor.overlay(at..at + 10, Place::Zero, step, &mut delta).await.unwrap();
        }
        assert!(editor.scans <= allowed, "every {step}th extent: {} scans", editor.scans);
        txn.commit(Logged::Op { unique: 0 }, || {}).await.unwrap();
    }
    let found = live_extents(&meta, INO, &content(0), 0..u64::MAX).await.unwrap();
    assert_eq!(found.len() as u64, EXTENTS);
    // Few ranges far from each other do not read what lies between them.
    let mut txn = meta.begin().await.unwrap();
    let mut delta = SegmentDelta::default();
    let mut editor = Editor::new(&mut txn, INO, &content(0));
    for at in [100, 5_000, 10_000, 19_000] {
        editor.clear(at..at + 10, &mut delta).await.unwrap();
    }
    assert_eq!(editor.scans, 4);
    assert!(editor.page <= 2 * PAGE_FIRST, "{}", editor.page);
    meta.engine.abandon();
}

#[tokio::test]
async fn a_look_at_many_extents_ends_where_it_says() {
    let dir = tempfile::tempdir().unwrap();
    let meta = meta(&dir).await;
    const EXTENTS: u64 = 2000;
    let mut txn = meta.begin().await.unwrap();
    let mut delta = SegmentDelta::default();
    let mut editor = Editor::new(&mut txn, INO, &content(0));
    for at in (0..EXTENTS).map(|page| page * 10) {
        editor.overlay(at..at + 10, Place::Zero, 1, &mut delta).await.unwrap();
    }
    txn.commit(Logged::Op { unique: 0 }, || {}).await.unwrap();
    let all = 0..EXTENTS * 10;
    let mut at = 0;
    let mut looks = 0;
    while at < all.end {
        let (found, known) =
            first_extents(&meta, INO, &content(0), at..all.end, 100).await.unwrap();
        assert!(!found.is_empty() && found.len() < 200, "{}", found.len());
        assert_eq!((found[0].0.start, found[found.len() - 1].0.end), (at, known));
        (at, looks) = (known, looks + 1);
    }
    assert!((10..=20).contains(&looks), "{looks}");
    let few = first_extents(&meta, INO, &content(0), 5..25, 100).await.unwrap();
    assert_eq!((few.0.len(), few.1), (3, 25));
    meta.engine.abandon();
}
