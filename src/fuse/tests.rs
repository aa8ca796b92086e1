//! What can be seen without a working file system behind the adapter.

mod handover;
mod handshake;
mod listing;

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use fuser::RenameFlags;

use super::adapter::calls;
use super::adapter::convert;
use super::adapter::directory::resume_at;
use super::adapter::request::{Op, Runner, Said};
use super::errno::errno;
use super::notify::{Item, Key, Queue, Range};
use crate::data::Programs;
use crate::fs::{DirEntry, Fallocate, FsError, RenameMode, XattrMode};
use crate::types::{FileKind, FileName, Ino, Timestamp};

/// As the program has it.
#[global_allocator]
static HEAP: crate::sys::Heap = crate::sys::Heap;

#[test]
fn every_reason_has_its_errno() {
    let table = [
        (FsError::NotFound, libc::ENOENT),
        (FsError::Exists, libc::EEXIST),
        (FsError::NotDir, libc::ENOTDIR),
        (FsError::IsDir, libc::EISDIR),
        (FsError::NotEmpty, libc::ENOTEMPTY),
        (FsError::Invalid("x"), libc::EINVAL),
        (FsError::NameTooLong, libc::ENAMETOOLONG),
        (FsError::AccessDenied, libc::EACCES),
        (FsError::NotPermitted, libc::EPERM),
        (FsError::ReadOnly, libc::EROFS),
        (FsError::NoSpace("x".into()), libc::ENOSPC),
        (FsError::Quota, libc::EDQUOT),
        (FsError::FileTooBig, libc::EFBIG),
        (FsError::TooManyLinks, libc::EMLINK),
        (FsError::NoXattr, libc::ENODATA),
        (FsError::Range, libc::ERANGE),
        (FsError::TooBig, libc::E2BIG),
        (FsError::Unsupported, libc::EOPNOTSUPP),
        (FsError::BadHandle, libc::EBADF),
        (FsError::NoSeek, libc::ENXIO),
        (FsError::Stale, libc::ESTALE),
        (FsError::io("x", std::io::Error::other("y")), libc::EIO),
    ];
    for (error, expected) in table {
        assert_eq!(errno(&error).code(), expected, "{error:?}");
    }
}

#[test]
fn a_resent_request_keeps_its_number_and_is_marked() {
    let first = convert::caller_of(1, 2, 3, 42);
    let again = convert::caller_of(1, 2, 3, 42 | 1 << 63);
    assert_eq!((first.unique, first.resent), (42, false));
    assert_eq!((again.unique, again.resent), (42, true));
}

/// `fuser` 0.18 makes `epoch - (|secs| + nanos)` of a time before 1970.
#[test]
fn times_before_1970_arrive_as_sent() {
    let as_fuser_builds_it = UNIX_EPOCH - Duration::new(2, 800_000_000);
    let sent = Timestamp { secs: -2, nanos: 800_000_000 };
    assert_eq!(convert::received_time(as_fuser_builds_it), sent);
    assert_eq!(convert::received_time(UNIX_EPOCH), Timestamp { secs: 0, nanos: 0 });
    let later = UNIX_EPOCH + Duration::new(7, 5);
    assert_eq!(convert::received_time(later), Timestamp { secs: 7, nanos: 5 });
}

#[test]
fn flags_are_understood_or_refused() {
    let rename = |bits| convert::rename_mode(RenameFlags::from_bits_retain(bits)).ok();
    assert_eq!(rename(0), Some(RenameMode::Replace));
    assert_eq!(rename(libc::RENAME_NOREPLACE), Some(RenameMode::NoReplace));
    assert_eq!(rename(libc::RENAME_EXCHANGE), Some(RenameMode::Exchange));
    assert_eq!(rename(libc::RENAME_WHITEOUT), None);
    assert_eq!(rename(libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE), None);

    assert_eq!(convert::xattr_mode(libc::XATTR_CREATE).ok(), Some(XattrMode::Create));
    assert_eq!(convert::xattr_mode(libc::XATTR_REPLACE).ok(), Some(XattrMode::Replace));
    assert!(convert::xattr_mode(4).is_err());

    let keep = libc::FALLOC_FL_KEEP_SIZE;
    let punch = libc::FALLOC_FL_PUNCH_HOLE;
    assert_eq!(convert::fallocate_mode(punch | keep).ok(), Some(Fallocate::PunchHole));
    assert!(matches!(convert::fallocate_mode(punch), Err(FsError::Unsupported)));
    let collapse = convert::fallocate_mode(libc::FALLOC_FL_COLLAPSE_RANGE);
    assert!(matches!(collapse, Err(FsError::Unsupported)));

    assert_eq!(convert::seek(5, libc::SEEK_HOLE).ok(), Some((5, true)));
    assert!(matches!(convert::seek(-1, libc::SEEK_DATA), Err(FsError::NoSeek)));
    assert!(matches!(convert::seek(0, libc::SEEK_SET), Err(FsError::Invalid(_))));
}

fn inode(offset: i64, len: i64) -> Item {
    Item::Inode(Range { offset, len })
}

#[test]
fn notifications_about_the_same_thing_are_merged() {
    let mut queue = Queue::default();
    let name = Key::Entry(Ino(1), FileName::new("a").unwrap());
    assert!(queue.add(&Key::Inode(Ino(2)), &inode(-1, 0)));
    assert!(queue.add(&name, &Item::Delete { child: Ino(2) }));
    assert!(queue.add(&Key::Inode(Ino(2)), &inode(100, 50)));
    assert!(queue.add(&Key::Inode(Ino(2)), &inode(200, 10)));
    assert!(queue.add(&name, &Item::Entry));
    assert_eq!(queue.take(), Some((Key::Inode(Ino(2)), inode(100, 110))));
    assert_eq!(queue.take(), Some((name, Item::Delete { child: Ino(2) })));
    assert_eq!(queue.take(), None);
}

#[test]
fn ranges_to_the_end_stay_so() {
    let tail = Range { offset: 100, len: 0 };
    assert_eq!(tail.and(Range { offset: 10, len: 5 }), Range { offset: 10, len: 0 });
    assert_eq!(Range { offset: -1, len: 0 }.and(tail), tail);
}

#[test]
fn a_full_queue_takes_what_merges_and_refuses_the_rest() {
    let mut queue = Queue::default();
    let mut count = 0u64;
    while queue.add(&Key::Inode(Ino(count)), &inode(-1, 0)) {
        count += 1;
        assert!(count < 1_000_000, "the queue has no bound");
    }
    assert!(queue.add(&Key::Inode(Ino(0)), &inode(0, 0)));
    assert_eq!(queue.take(), Some((Key::Inode(Ino(0)), inode(0, 0))));
    assert!(queue.add(&Key::Inode(Ino(count)), &inode(-1, 0)));
}

const OP: Op = Op { call: calls::LOOKUP, ino: 1, unique: 2, begun: Duration::ZERO };

/// The thread that ran a request's end.
fn driven(
    runtime: &tokio::runtime::Runtime,
    wait: impl Future<Output = ()> + Send + 'static,
) -> std::sync::mpsc::Receiver<std::thread::ThreadId> {
    let (sender, done) = std::sync::mpsc::channel();
    Runner::new(runtime.handle().clone(), Default::default(), Default::default()).drive(
        OP,
        async move {
            wait.await;
            sender.send(std::thread::current().id()).unwrap();
        },
    );
    done
}

#[test]
fn what_need_not_wait_is_answered_on_the_fuse_thread() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let done = driven(&runtime, async {});
    assert_eq!(done.try_recv(), Ok(std::thread::current().id()));
}

#[test]
fn what_waits_is_answered_by_a_task() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (wake, woken) = tokio::sync::oneshot::channel();
    let done = driven(&runtime, async { woken.await.unwrap() });
    assert!(done.try_recv().is_err());
    wake.send(()).unwrap();
    let thread = done.recv_timeout(Duration::from_secs(20)).unwrap();
    assert_ne!(thread, std::thread::current().id());
}

/// Timers need the runtime already at the first poll.
#[test]
fn requests_may_use_timers() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let done = driven(&runtime, async {
        let never = std::future::pending::<()>();
        assert!(tokio::time::timeout(Duration::from_millis(1), never).await.is_err());
    });
    done.recv_timeout(Duration::from_secs(20)).unwrap();
}

#[test]
fn it_is_known_how_many_requests_wait() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let programs: Arc<Programs> = Arc::default();
    let runner = Runner::new(runtime.handle().clone(), Default::default(), Arc::clone(&programs));
    let none_waits = || {
        let until = std::time::Instant::now() + Duration::from_secs(20);
        while programs.waiting() > 0 && std::time::Instant::now() < until {
            std::thread::yield_now();
        }
        programs.waiting() == 0
    };
    runner.drive(OP, async {});
    assert!(!programs.wait(), "it was answered at once");
    for panics in [false, true] {
        let (wake, woken) = tokio::sync::oneshot::channel();
        runner.drive(OP, async move {
            woken.await.unwrap();
            assert!(!panics, "a bug in an operation");
        });
        assert_eq!(programs.waiting(), 1);
        wake.send(()).unwrap();
        assert!(none_waits());
    }
    runner.drive(OP, std::future::pending());
    assert_eq!(programs.waiting(), 1);
    runtime.shutdown_timeout(Duration::from_secs(20));
    assert!(none_waits(), "of a request that is left to the next worker nobody waits here");
}

#[test]
fn a_panic_ends_the_request_and_not_the_loop() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let done = driven(&runtime, async { panic!("a bug in an operation") });
    // The sender, which stands for the reply, was dropped; a dropped reply sends EIO.
    assert_eq!(done.try_recv(), Err(std::sync::mpsc::TryRecvError::Disconnected));
}

#[test]
fn a_request_that_its_worker_does_not_end_is_left_to_the_next_one() {
    use std::sync::mpsc::RecvTimeoutError;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let done = driven(&runtime, std::future::pending());
    runtime.shutdown_timeout(Duration::from_secs(20));
    // The sender stands for the reply: dropped it would have sent EIO.
    assert_eq!(done.recv_timeout(Duration::from_millis(1)), Err(RecvTimeoutError::Timeout));
}

#[test]
fn a_panic_of_a_task_ends_its_request_only() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (wake, woken) = tokio::sync::oneshot::channel::<()>();
    let done = driven(&runtime, async {
        woken.await.unwrap();
        panic!("a bug in an operation");
    });
    wake.send(()).unwrap();
    let ended = done.recv_timeout(Duration::from_secs(20));
    assert_eq!(ended, Err(std::sync::mpsc::RecvTimeoutError::Disconnected));
}

#[test]
fn of_many_failed_requests_some_are_said_and_the_others_counted() {
    let mut said = Said::default();
    let at = Duration::from_secs(100);
    let mut says = |now| said.says(now);
    let first = (0..1000).filter_map(|_| says(at)).count();
    assert!((1..100).contains(&first), "{first}");
    assert_eq!(says(at + Duration::from_secs(1)), Some(1000 - first as u64));
    assert_eq!(says(at + Duration::from_secs(1)), Some(0));
}

#[test]
fn names_that_share_a_cookie_are_not_torn_apart() {
    let entry = |cookie| DirEntry {
        ino: Ino(cookie),
        kind: FileKind::File,
        name: b"x".to_vec(),
        cookie,
        attr: None,
    };
    let batch: Vec<_> = [5, 7, 7, 7, 9].map(entry).into();
    let mut before = 3;
    let mut resumes = Vec::new();
    for at in 0..batch.len() {
        before = resume_at(&batch, at, before);
        resumes.push(before);
    }
    assert_eq!(resumes, [5, 5, 5, 7, 9]);
}
