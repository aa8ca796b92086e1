use std::sync::Arc;

use parking_lot::Mutex;
use tempfile::TempDir;

use super::*;

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
enum Record {
    Named(String),
    Data(Vec<u8>),
}

fn header(boot: &str) -> Header {
    Header { volume: VolumeId(uuid::Uuid::from_u128(7)), boot: boot.to_owned() }
}

fn open(dir: &TempDir) -> Opened<Record> {
    LocalLog::open(dir.path(), header("boot-a")).unwrap()
}

fn named(n: u64) -> Record {
    Record::Named(format!("record {n}"))
}

/// A log of three records and an epoch; returns where each frame ends.
fn three(dir: &TempDir) -> Vec<u64> {
    let mut log = open(dir).log;
    log.append_epoch(Epoch(4)).unwrap();
    let mut ends = vec![log.len_bytes()];
    for n in 1..=3 {
        assert_eq!(log.append(&named(n)).unwrap(), Lsn(n));
        ends.push(log.len_bytes());
    }
    ends
}

fn file(dir: &TempDir) -> PathBuf {
    dir.path().join(FILE)
}

#[test]
fn what_was_appended_is_replayed_in_order_with_its_epochs() {
    let dir = TempDir::new().unwrap();
    three(&dir);
    let mut opened = open(&dir);
    assert_eq!(opened.replayed, (1..=3).map(|n| (Lsn(n), named(n))).collect::<Vec<_>>());
    assert_eq!((opened.epoch, opened.void.is_none()), (Some(Epoch(4)), true));
    opened.log.append_epoch(Epoch(6)).unwrap();
    assert_eq!(opened.log.append(&named(4)).unwrap(), Lsn(4));
    drop(opened);
    let opened = open(&dir);
    assert_eq!(opened.epochs, [Epoch(4), Epoch(6)]);
    assert_eq!(opened.log.next_lsn(), Lsn(5));
    assert_eq!(opened.damage, None);
}

#[test]
fn a_tail_torn_at_any_byte_is_cut_and_the_log_goes_on() {
    let dir = TempDir::new().unwrap();
    let ends = three(&dir);
    let whole = std::fs::read(file(&dir)).unwrap();
    for cut in ends[0]..=whole.len() as u64 {
        std::fs::write(file(&dir), &whole[..cut as usize]).unwrap();
        let left = ends[1..].iter().filter(|end| **end <= cut).count();
        let mut opened = open(&dir);
        assert_eq!(opened.replayed.len(), left, "cut at {cut}");
        assert_eq!(opened.damage, None, "cut at {cut}");
        assert_eq!(opened.log.append(&named(9)).unwrap(), Lsn(left as u64 + 1));
        drop(opened);
        assert_eq!(open(&dir).replayed.last(), Some(&(Lsn(left as u64 + 1), named(9))));
    }
}

#[test]
fn a_log_torn_inside_its_head_begins_anew() {
    let dir = TempDir::new().unwrap();
    drop(open(&dir));
    let whole = std::fs::read(file(&dir)).unwrap();
    for cut in 0..whole.len() {
        std::fs::write(file(&dir), &whole[..cut]).unwrap();
        let mut opened = open(&dir);
        assert!(opened.void.is_none() && opened.replayed.is_empty());
        assert_eq!(opened.log.append(&named(1)).unwrap(), Lsn(1));
    }
}

#[test]
fn any_damaged_byte_in_the_middle_stops_there_says_so_and_keeps_a_copy() {
    let dir = TempDir::new().unwrap();
    let ends = three(&dir);
    let whole = std::fs::read(file(&dir)).unwrap();
    for at in ends[1]..ends[2] {
        let mut bad = whole.clone();
        bad[at as usize] ^= 0x20;
        std::fs::write(file(&dir), &bad).unwrap();
        let opened = open(&dir);
        assert_eq!(opened.replayed, [(Lsn(1), named(1))], "damaged at {at}");
        let damage = opened.damage.unwrap();
        assert_eq!((damage.offset, damage.lost), (ends[1], whole.len() as u64 - ends[1]));
        assert_eq!(std::fs::read(damage.kept_in.join(FILE)).unwrap(), bad);
        drop(opened.log);
        let again = open(&dir);
        assert_eq!((again.damage, again.replayed.len()), (None, 1));
    }
}

#[test]
fn another_boot_or_volume_voids_the_log_and_keeps_it_whole() {
    let dir = TempDir::new().unwrap();
    three(&dir);
    let before = std::fs::read(file(&dir)).unwrap();
    let opened = LocalLog::<Record>::open(dir.path(), header("boot-b")).unwrap();
    let void = opened.void.unwrap();
    assert_eq!(void.reason, VoidReason::Rebooted);
    assert_eq!(std::fs::read(void.kept_in.join(FILE)).unwrap(), before);
    assert!(opened.replayed.is_empty() && opened.epochs.is_empty());
    drop(opened.log);

    let other = Header { volume: VolumeId::random(), ..header("boot-b") };
    let opened = LocalLog::<Record>::open(dir.path(), other.clone()).unwrap();
    let second = opened.void.unwrap();
    assert_eq!(second.reason, VoidReason::OtherVolume);
    assert_ne!(second.kept_in, void.kept_in);

    std::fs::write(file(&dir), b"something else entirely").unwrap();
    let opened = LocalLog::<Record>::open(dir.path(), other).unwrap();
    assert_eq!(opened.void.map(|void| void.reason), Some(VoidReason::Unreadable));
}

#[test]
fn rotation_keeps_what_is_needed_with_its_numbers() {
    let dir = TempDir::new().unwrap();
    three(&dir);
    let mut log = open(&dir).log;
    let before = log.len_bytes();
    log.rotate([(Lsn(2), named(2))].into_iter()).unwrap();
    assert!(log.len_bytes() < before);
    assert_eq!(log.append(&named(4)).unwrap(), Lsn(4));
    log.rotate(std::iter::empty()).unwrap();
    drop(log);
    let mut opened = open(&dir);
    assert_eq!(opened.epoch, Some(Epoch(4)));
    assert!(opened.replayed.is_empty());
    assert_eq!(opened.log.append(&named(5)).unwrap(), Lsn(5));
}

/// Accepts bytes up to a size, then is full, having written a part.
struct SmallDisk {
    bytes: Arc<Mutex<Vec<u8>>>,
    room: usize,
    cuts: bool,
}

impl Media for SmallDisk {
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut disk = self.bytes.lock();
        let fits = bytes.len().min(self.room - offset as usize);
        disk.truncate(offset as usize);
        disk.extend_from_slice(&bytes[..fits]);
        match fits == bytes.len() {
            true => Ok(()),
            false => Err(io::Error::from(io::ErrorKind::StorageFull)),
        }
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        if !self.cuts {
            return Err(io::Error::other("no"));
        }
        self.bytes.lock().truncate(len as usize);
        Ok(())
    }

    fn allocate(&mut self, _range: Range<u64>) -> io::Result<()> {
        Ok(())
    }
}

/// Puts the log on a disk with room for so many more bytes. What that has in the end, [`written_back`] opens.
fn on_small_disk(
    dir: &TempDir,
    log: &mut LocalLog<Record>,
    more: usize,
    cuts: bool,
) -> Arc<Mutex<Vec<u8>>> {
    let bytes = std::fs::read(file(dir)).unwrap();
    let room = bytes.len() + more;
    let bytes = Arc::new(Mutex::new(bytes));
    log.media = Box::new(SmallDisk { bytes: Arc::clone(&bytes), room, cuts });
    bytes
}

/// How many records another process replays, and what it finds damaged.
fn written_back(
    dir: &TempDir,
    log: LocalLog<Record>,
    bytes: &Mutex<Vec<u8>>,
) -> (usize, Option<Damage>) {
    std::fs::write(file(dir), &*bytes.lock()).unwrap();
    drop(log);
    let opened = open(dir);
    (opened.replayed.len(), opened.damage)
}

#[test]
fn a_full_disk_refuses_the_record_and_leaves_nothing_of_it() {
    let dir = TempDir::new().unwrap();
    three(&dir);
    let mut log = open(&dir).log;
    let bytes = on_small_disk(&dir, &mut log, 60, true);
    let before = bytes.lock().clone();
    let error = log.append(&Record::Data(vec![1; 100])).unwrap_err();
    assert!(matches!(error, LogError::NoSpace { .. }), "{error:?}");
    assert_eq!(*bytes.lock(), before);
    assert_eq!(log.append(&named(4)).unwrap(), Lsn(4));
    assert_eq!(written_back(&dir, log, &bytes), (4, None));
}

#[test]
fn a_failed_append_that_cannot_be_undone_ends_the_log() {
    let dir = TempDir::new().unwrap();
    let mut log = open(&dir).log;
    on_small_disk(&dir, &mut log, 10, false);
    assert!(matches!(log.append(&named(1)), Err(LogError::NoSpace { .. })));
    assert!(matches!(log.append(&named(1)), Err(LogError::Broken)));
    assert!(matches!(log.append_epoch(Epoch(1)), Err(LogError::Broken)));
}

#[test]
fn a_failed_append_is_undone_by_the_next_one_on_a_disk_that_is_well_again() {
    let dir = TempDir::new().unwrap();
    three(&dir);
    let mut log = open(&dir).log;
    let bytes = on_small_disk(&dir, &mut log, 10, false);
    assert!(log.append(&named(4)).is_err());
    assert!(matches!(log.append(&named(4)), Err(LogError::Broken)));
    log.media = Box::new(SmallDisk { bytes: Arc::clone(&bytes), room: 1 << 20, cuts: true });
    assert_eq!(log.append(&named(4)).unwrap(), Lsn(4));
    assert_eq!(written_back(&dir, log, &bytes), (4, None));
}

#[test]
fn a_rotation_that_fails_leaves_the_old_log() {
    let dir = TempDir::new().unwrap();
    three(&dir);
    let mut log = open(&dir).log;
    std::fs::remove_file(dir.path().join(NEW_FILE)).unwrap();
    std::fs::create_dir(dir.path().join(NEW_FILE)).unwrap();
    assert!(log.rotate(std::iter::empty()).is_err());
    assert_eq!(log.append(&named(4)).unwrap(), Lsn(4));
    drop(log);
    assert_eq!(open(&dir).replayed.len(), 4);
}

#[test]
fn one_process_a_state_folder() {
    let dir = TempDir::new().unwrap();
    let lock = StateDirLock::acquire(dir.path()).unwrap();
    let error = StateDirLock::acquire(dir.path()).unwrap_err();
    assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
    drop(lock);
    StateDirLock::acquire(dir.path()).unwrap();
}

#[test]
fn this_host_has_a_boot_id() {
    let volume = VolumeId::random();
    let header = Header::here(volume).unwrap();
    assert_eq!(header, Header::here(volume).unwrap());
    assert!(header.boot.len() > 30, "{header:?}");
}
