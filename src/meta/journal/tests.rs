use tempfile::TempDir;

use super::super::log::Header;
use super::*;
use crate::types::VolumeId;

fn open(dir: &TempDir) -> (LocalLog<Record>, Fold) {
    let header = Header { volume: VolumeId(uuid::Uuid::from_u128(7)), boot: "boot".to_owned() };
    let opened = LocalLog::open(dir.path(), header).unwrap();
    assert_eq!(opened.damage, None);
    let mut fold = Fold::default();
    for (lsn, record) in &opened.replayed {
        fold.apply(*lsn, record);
    }
    (opened.log, fold)
}

fn time(secs: i64) -> Timestamp {
    Timestamp { secs, ..Timestamp::default() }
}

fn wrote(ino: u64, start: u64, end: u64, size: u64) -> Record {
    Record::Wrote { ino: Ino(ino), start, end, size, time: time(9) }
}

fn op(unique: u64, batch: Batch) -> Record {
    Record::Op { conn: 5, unique, batch: Arc::new(batch) }
}

#[test]
fn a_rotated_log_replays_to_the_same_state() {
    let dir = TempDir::new().unwrap();
    let (log, fold) = open(&dir);
    let mut journal = Journal::new(log, fold);
    let mut add = |record: Record| journal.append(&record).unwrap();
    add(Record::Connected { conn: 5 });
    for ino in [7, 8, 8] {
        add(Record::Opened { ino: Ino(ino) });
    }
    add(Record::OpenedBy { conn: 5, unique: 24, ino: Ino(7) });
    add(wrote(7, 0, 100, 100));
    // The first write is now two ranges of one record.
    add(wrote(7, 40, 60, 100));
    add(wrote(8, 0, 10, 10));
    add(Record::Zeroed { ino: Ino(8), start: 4, end: 6, size: 10, time: time(10) });
    add(Record::Cut { ino: Ino(7), size: 50, time: time(11) });
    let durable = add(op(21, Batch::new()));
    add(op(22, Batch::new()));
    add(Record::Commit { inodes: vec![(Ino(8), Lsn(6))], batch: Arc::default() });
    let before = journal.fold.clone();
    journal.fold.durable(durable);
    journal.log.rotate(journal.fold.snapshot().into_iter()).unwrap();
    let live = journal.fold.clone();
    drop(journal);

    let (log, fold) = open(&dir);
    assert_eq!(fold.pending, live.pending);
    assert_eq!((&fold.times, &fold.opens), (&live.times, &live.opens));
    assert_eq!(fold.batches.keys().collect::<Vec<_>>(), live.batches.keys().collect::<Vec<_>>());
    assert_eq!(fold.pending, before.pending);
    let journal = Journal::new(log, fold);
    assert!(journal.answered(21) && journal.answered(22) && !journal.answered(23));
    assert!(journal.opened(24) && !journal.answered(24) && !journal.opened(26));
}

#[test]
fn times_set_after_a_write_are_not_undone_by_a_replay() {
    let mut fold = Fold::default();
    fold.apply(Lsn(1), &wrote(7, 0, 4, 4));
    let mut batch = Batch::new();
    batch.put(keys::inode(Ino(7)), vec![1]);
    fold.apply(Lsn(2), &op(0, batch));
    assert!(fold.times.is_empty() && fold.pending.contains_key(&Ino(7)));
    let mut batch = Batch::new();
    batch.delete(keys::inode(Ino(7)));
    fold.apply(Lsn(3), &op(0, batch));
    assert!(fold.pending.is_empty());
}

#[test]
fn answers_of_another_connection_are_forgotten() {
    let mut fold = Fold::default();
    fold.apply(Lsn(1), &Record::Connected { conn: 5 });
    fold.apply(Lsn(2), &op(2, Batch::new()));
    assert!(fold.answers.known.contains(&2));
    fold.apply(Lsn(3), &Record::Connected { conn: 6 });
    fold.apply(Lsn(4), &op(4, Batch::new()));
    assert!(fold.answers.known.is_empty());
}

#[test]
fn nothing_is_acknowledged_between_the_last_commit_and_the_end() {
    let dir = TempDir::new().unwrap();
    let (log, fold) = open(&dir);
    let mut journal = Journal::new(log, fold);
    journal.append(&wrote(7, 0, 4, 4)).unwrap();
    journal.refuse_content();
    assert!(matches!(journal.append(&wrote(7, 0, 4, 4)), Err(LogError::Ended)));
    assert!(!journal.seal());
    let inodes = vec![(Ino(7), Lsn(1))];
    journal.append(&Record::Commit { inodes, batch: Arc::default() }).unwrap();
    assert!(journal.seal());
    assert!(matches!(journal.append(&op(0, Batch::new())), Err(LogError::Ended)));
}
