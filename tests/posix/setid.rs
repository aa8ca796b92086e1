//! What a change of content does to the set-ID bits, and what fallocate and the limits of sizes do, here and
//! on ext4.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use super::ops::user;
use super::replay::calls::become_user;
use super::volume::Bucket;

const LIMIT: Duration = Duration::from_secs(300);
const MIB: u64 = 1 << 20;

/// A way to change content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Buffered,
    Direct,
    Synchronous,
    Truncate,
    TruncateOpen,
    OpenTruncated,
    Reserve,
    Punch,
    Zero,
    Copy,
    Map,
}

const WAYS: &[Way] = &[
    Way::Buffered,
    Way::Direct,
    Way::Synchronous,
    Way::Truncate,
    Way::TruncateOpen,
    Way::OpenTruncated,
    Way::Reserve,
    Way::Punch,
    Way::Zero,
    Way::Copy,
    Way::Map,
];

const MODES: &[u32] =
    &[0o6666, 0o6755, 0o6777, 0o4755, 0o4666, 0o2755, 0o2777, 0o2666, 0o6676, 0o6767];

#[repr(align(4096))]
struct Aligned([u8; 4096]);

fn done(result: i64) {
    assert!(result >= 0, "{}", std::io::Error::last_os_error());
}

fn fallocate(file: &File, mode: i32, offset: u64, len: u64) -> Result<(), i32> {
    // SAFETY: an open descriptor and numbers.
    match unsafe { libc::fallocate(file.as_raw_fd(), mode, offset as i64, len as i64) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error().raw_os_error().unwrap()),
    }
}

fn copy(from: &File, to: &File, mut at: i64, len: usize) -> Result<usize, i32> {
    let mut start = 0;
    // SAFETY: open descriptors, and two offsets that outlive the call.
    let copied = unsafe {
        libc::copy_file_range(from.as_raw_fd(), &mut start, to.as_raw_fd(), &mut at, len, 0)
    };
    usize::try_from(copied).map_err(|_| std::io::Error::last_os_error().raw_os_error().unwrap())
}

fn change(path: &Path, way: Way) {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    let open = |options: &OpenOptions| options.open(path).unwrap();
    match way {
        Way::Buffered => open(&options).write_all_at(&[2; 4096], 0).unwrap(),
        Way::Direct => {
            let block = Box::new(Aligned([2; 4096]));
            open(options.custom_flags(libc::O_DIRECT)).write_all_at(&block.0, 0).unwrap();
        }
        Way::Synchronous => {
            open(options.custom_flags(libc::O_SYNC)).write_all_at(&[2; 4096], 0).unwrap();
        }
        Way::Truncate => {
            let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
            // SAFETY: a C string that outlives the call.
            done(i64::from(unsafe { libc::truncate(path.as_ptr(), 100) }));
        }
        Way::TruncateOpen => open(&options).set_len(100).unwrap(),
        Way::OpenTruncated => drop(open(options.truncate(true))),
        Way::Reserve => fallocate(&open(&options), 0, 0, 16384).unwrap(),
        Way::Punch => {
            let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            fallocate(&open(&options), mode, 0, 4096).unwrap();
        }
        Way::Zero => {
            fallocate(&open(&options), libc::FALLOC_FL_ZERO_RANGE, 0, 4096).unwrap();
        }
        Way::Copy => {
            let source = File::open(path.with_file_name("source")).unwrap();
            assert_eq!(copy(&source, &open(&options), 0, 4096), Ok(4096));
        }
        Way::Map => {
            let file = open(&options);
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            // SAFETY: a new map of an open file, written within its length and unmapped here.
            unsafe {
                let fd = file.as_raw_fd();
                let map =
                    libc::mmap(std::ptr::null_mut(), 4096, protection, libc::MAP_SHARED, fd, 0);
                assert_ne!(map, libc::MAP_FAILED);
                map.cast::<u8>().write(3);
                done(i64::from(libc::msync(map, 4096, libc::MS_SYNC)));
                done(i64::from(libc::munmap(map, 4096)));
            }
        }
    }
}

/// The mode that a file of `mode`, of another owner or group or not, has after an ordinary user's change.
fn after(dir: &Path, way: Way, mode: u32, owner: (u32, u32)) -> u32 {
    let path = dir.join("file");
    std::fs::write(&path, vec![1; 8192]).unwrap();
    std::os::unix::fs::chown(&path, Some(owner.0), Some(owner.1)).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    let changed = path.clone();
    // Who a thread becomes ends with it.
    let user = std::thread::spawn(move || {
        become_user(1, 0o022);
        change(&changed, way);
    });
    user.join().unwrap();
    let mode = std::fs::metadata(&path).unwrap().mode() & 0o7777;
    std::fs::remove_file(&path).unwrap();
    mode
}

#[test]
#[ignore = "make test-posix"]
fn posix_a_change_of_content_takes_the_set_id_bits_as_on_ext4() {
    let mut bucket = Bucket::new();
    let theirs = bucket.local("ext4");
    let mounted = bucket.mount(&[], LIMIT);
    for dir in [&theirs, &mounted.path] {
        std::fs::write(dir.join("source"), [9; 4096]).unwrap();
    }
    let mut wrong = Vec::new();
    let (uid, gid, _) = user(1);
    for owner in [(uid, gid), (0, gid), (uid, 0), (0, 0)] {
        for way in WAYS {
            for mode in MODES.iter().filter(|mode| owner.0 == uid || **mode & 0o002 != 0) {
                let (there, here) =
                    (after(&theirs, *way, *mode, owner), after(&mounted.path, *way, *mode, owner));
                // The kernel's side of FUSE keeps the bit of a group that may not execute the file.
                let kept = mode & 0o2010 == 0o2000 && here == there | 0o2000;
                if here != there && !kept {
                    wrong.push(format!(
                        "{way:?} of {mode:o} of {owner:?}: {here:o}, on ext4 {there:o}"
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    mounted.unmount();
}

#[test]
#[ignore = "make test-posix"]
fn posix_past_the_largest_file_and_the_callers_limit_is_efbig() {
    let mut bucket = Bucket::new();
    let mounted = bucket.mount(&[], LIMIT);
    let file = File::create_new(mounted.path.join("file")).unwrap();
    let source = mounted.path.join("source");
    std::fs::write(&source, [9; 4096]).unwrap();
    let source = File::open(source).unwrap();
    // What lies in no object yet lies on the local disk, which has limits of its own.
    let local = File::create_new(bucket.local("ext4").join("file")).unwrap();
    let errno = |result: std::io::Result<usize>| result.map_err(|e| e.raw_os_error().unwrap());
    for at in [i64::MAX - 9, 1 << 62, 1 << 50] {
        let wanted = errno(local.write_at(&[1; 5], at as u64));
        assert!(wanted == Ok(5) || wanted == Err(libc::EFBIG), "{wanted:?}");
        assert_eq!(errno(file.write_at(&[1; 5], at as u64)), wanted, "write at {at}");
        assert_eq!(copy(&source, &file, at, 5), wanted, "copy_file_range to {at}");
    }
    // In a process of its own, because the limit is the process's.
    let script = "trap '' XFSZ; ulimit -f 8; exec python3 -c '
import os, sys
source, to = os.open(sys.argv[1], os.O_RDONLY), os.open(sys.argv[2], os.O_RDWR)
assert os.copy_file_range(source, to, 4096, 0, 0) == 4096
for call in (lambda: os.copy_file_range(source, to, 4096, 0, 16384),
             lambda: os.pwrite(to, b\"x\", 16384)):
    try:
        call()
        sys.exit(\"nothing is limited\")
    except OSError as e:
        assert e.errno == 27, e
' \"$0\" \"$1\"";
    let out = std::process::Command::new("bash")
        .args(["-c", script])
        .args([mounted.path.join("source"), mounted.path.join("file")])
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
    drop((file, source));
    mounted.unmount();
}

#[test]
#[ignore = "make test-posix"]
fn posix_what_is_reserved_counts_once_as_on_ext4() {
    let mut bucket = Bucket::new();
    let theirs = bucket.local("ext4");
    let mounted = bucket.mount(&["settle_after=0", "commit=100ms"], LIMIT);
    let play = |dir: &Path| {
        let file = File::create_new(dir.join("file")).unwrap();
        let mut seen = Vec::new();
        let mut look = |what: &str, file: &File| {
            // ext4 knows when its blocks are allocated.
            file.sync_all().unwrap();
            seen.push(format!("{what}: {}", file.metadata().unwrap().blocks()));
        };
        fallocate(&file, 0, 0, MIB).unwrap();
        look("reserved", &file);
        file.write_all_at(&[1; 65536], 0).unwrap();
        look("a part is written", &file);
        file.write_all_at(&vec![2; MIB as usize], 0).unwrap();
        look("all is written", &file);
        fallocate(&file, libc::FALLOC_FL_KEEP_SIZE, MIB, MIB).unwrap();
        look("more is reserved", &file);
        file.write_all_at(&[3; 4096], MIB).unwrap();
        look("and written", &file);
        fallocate(&file, 0, 2 * MIB, MIB).unwrap();
        look("and more", &file);
        file.set_len(MIB).unwrap();
        look("cut", &file);
        file.set_len(0).unwrap();
        look("empty", &file);
        seen
    };
    assert_eq!(play(&mounted.path), play(&theirs));
    // Also after a remount.
    let kept = File::create_new(mounted.path.join("kept")).unwrap();
    fallocate(&kept, 0, 0, MIB).unwrap();
    kept.sync_all().unwrap();
    drop(kept);
    mounted.unmount();
    let mounted = bucket.mount(&[], LIMIT);
    assert_eq!(std::fs::metadata(mounted.path.join("kept")).unwrap().blocks(), MIB / 512);
    mounted.unmount();
}

#[test]
#[ignore = "make test-posix"]
fn posix_no_more_is_reserved_than_df_shows() {
    let mut bucket = Bucket::new();
    for options in [&["size=64MiB"] as &[&str], &[]] {
        let mounted = bucket.mount(options, LIMIT);
        let file = File::create(mounted.path.join("file")).unwrap();
        let shown = nix::sys::statvfs::statvfs(&mounted.path).unwrap();
        let free = shown.blocks_available() as u64 * shown.fragment_size() as u64;
        if options.is_empty() {
            assert!(free >= 1 << 50, "a limit that nobody set: {free}");
        }
        for mode in [0, libc::FALLOC_FL_KEEP_SIZE] {
            assert_eq!(fallocate(&file, mode, 0, free + 4096), Err(libc::ENOSPC), "{options:?}");
        }
        fallocate(&file, 0, 0, free / 2).unwrap();
        file.set_len(0).unwrap();
        drop(file);
        mounted.unmount();
    }
}
