//! Content at its limits, through a real mount: huge and sparse files, direct and synchronous I/O,
//! several appenders, shared maps, names and paths as long as they get, file capabilities.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::volume::{Bucket, Mounted};

const LIMIT: Duration = Duration::from_secs(300);
const TIB: u64 = 1 << 40;
/// Nothing goes up but what is synced.
const QUIET: &[&str] = &["commit=300s", "settle_after=1h"];

/// Bytes that lie nowhere else.
fn pattern(seed: u32, len: usize) -> Vec<u8> {
    let mut state = seed;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect()
}

fn in_the_bucket(bucket: &Bucket, wanted: &[u8]) -> bool {
    let objects = bucket.server.objects("");
    objects.iter().any(|(_, object)| object.body.windows(wanted.len()).any(|w| w == wanted))
}

fn seek(file: &File, from: u64, whence: i32) -> Result<u64, nix::Error> {
    // SAFETY: an open descriptor and two numbers.
    let found = unsafe { libc::lseek(file.as_raw_fd(), from as i64, whence) };
    nix::Error::result(found).map(|at| at as u64)
}

fn check_sparse(mounted: &Mounted) {
    let path = mounted.path.join("sparse");
    let meta = std::fs::metadata(&path).unwrap();
    assert_eq!(meta.len(), TIB);
    assert!(meta.blocks() * 512 <= 64 << 10, "{} blocks", meta.blocks());
    let file = File::open(&path).unwrap();
    for (at, wanted) in [(0, pattern(1, 4096)), (TIB - 4096, pattern(2, 4096))] {
        let mut found = vec![0; 4096];
        file.read_exact_at(&mut found, at).unwrap();
        assert!(found == wanted, "at {at}");
    }
    let mut middle = vec![1; 1 << 20];
    file.read_exact_at(&mut middle, TIB / 2).unwrap();
    assert!(middle.iter().all(|b| *b == 0));
    assert_eq!(seek(&file, 0, libc::SEEK_HOLE), Ok(4096));
    assert_eq!(seek(&file, 4096, libc::SEEK_DATA), Ok(TIB - 4096));
    assert_eq!(seek(&file, TIB - 1, libc::SEEK_HOLE), Ok(TIB));
    assert_eq!(seek(&file, TIB, libc::SEEK_DATA), Err(nix::Error::ENXIO));
}

#[test]
#[ignore = "make test-posix"]
fn posix_a_sparse_file_of_one_tebibyte_stays_small_and_in_motion() {
    let mut bucket = Bucket::new();
    let options = &["settle_after=0", "commit=200ms"];
    let mounted = bucket.mount(options, LIMIT);
    let file = File::create_new(mounted.path.join("sparse")).unwrap();
    file.write_all_at(&pattern(1, 4096), 0).unwrap();
    file.write_all_at(&pattern(2, 4096), TIB - 4096).unwrap();
    file.sync_all().unwrap();
    drop(file);
    check_sparse(&mounted);
    // Settling does not send a tebibyte of zeros; it says so.
    mounted.says("sparse: more than half of it is holes");
    mounted.unmount_leaving();
    assert!(bucket.object("sparse").is_none());
    let total: usize = bucket.server.objects("").iter().map(|(_, o)| o.body.len()).sum();
    assert!(total < 8 << 20, "{total} bytes in the bucket");
    let mounted = bucket.mount(options, LIMIT);
    check_sparse(&mounted);
    // Cut to its first part it rests as any other file.
    let file = OpenOptions::new().write(true).open(mounted.path.join("sparse")).unwrap();
    file.set_len(8192).unwrap();
    drop(file);
    mounted.unmount();
    assert!(bucket.object("sparse") == Some([pattern(1, 4096), vec![0; 4096]].concat()));
}

/// Memory as O_DIRECT wants it.
#[repr(align(4096))]
struct Aligned([u8; 16384]);

#[test]
#[ignore = "make test-posix"]
fn posix_direct_io_and_the_page_cache_show_the_same() {
    let mut bucket = Bucket::new();
    let mounted = bucket.mount(&[], LIMIT);
    let path = mounted.path.join("direct");
    let buffered = File::create_new(&path).unwrap();
    buffered.write_all_at(&pattern(1, 65536), 0).unwrap();
    let mut warm = vec![0; 65536];
    File::open(&path).unwrap().read_exact(&mut warm).unwrap();
    let direct =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(&path).unwrap();
    let mut block = Box::new(Aligned([0; 16384]));
    direct.read_exact_at(&mut block.0, 16384).unwrap();
    assert!(block.0[..] == pattern(1, 65536)[16384..32768]);
    block.0.copy_from_slice(&pattern(2, 16384));
    direct.write_all_at(&block.0, 16384).unwrap();
    let mut wanted = pattern(1, 65536);
    wanted[16384..32768].copy_from_slice(&pattern(2, 16384));
    assert!(std::fs::read(&path).unwrap() == wanted, "the page cache shows old bytes");
    buffered.write_all_at(&pattern(3, 100), 20000).unwrap();
    wanted[20000..20100].copy_from_slice(&pattern(3, 100));
    direct.read_exact_at(&mut block.0, 16384).unwrap();
    assert!(block.0[..] == wanted[16384..32768], "direct I/O shows old bytes");
    // Past the end it grows.
    block.0.copy_from_slice(&pattern(4, 16384));
    direct.write_all_at(&block.0, 65536).unwrap();
    wanted.extend(pattern(4, 16384));
    assert!(std::fs::read(&path).unwrap() == wanted);
    drop((buffered, direct));
    mounted.unmount();
    assert!(bucket.object("direct") == Some(wanted));
}

#[test]
#[ignore = "make test-posix"]
fn posix_a_synchronous_write_is_in_the_bucket_when_it_returns() {
    let mut bucket = Bucket::new();
    let mounted = bucket.mount(QUIET, LIMIT);
    let mut plain = File::create_new(mounted.path.join("plain")).unwrap();
    for (seed, flag) in [(1, libc::O_SYNC), (2, libc::O_DSYNC)] {
        for len in [100, 300_000] {
            let bytes = pattern(seed * 1000 + len, len as usize);
            let unsynced = pattern(seed * 1000 + len + 7, len as usize);
            plain.write_all(&unsynced).unwrap();
            assert!(!in_the_bucket(&bucket, &unsynced), "this test would not see a lost sync");
            let path = mounted.path.join(format!("sync-{seed}-{len}"));
            let mut file = OpenOptions::new();
            let file = file.write(true).create_new(true).custom_flags(flag).open(path).unwrap();
            file.write_all_at(&bytes, 0).unwrap();
            // In pieces of at most this where it travels beside others.
            for piece in bytes.chunks(100).take(10) {
                assert!(in_the_bucket(&bucket, piece), "flag {flag:#o}, {len} bytes");
            }
        }
    }
    drop(plain);
    mounted.unmount();
}

#[test]
#[ignore = "make test-posix"]
fn posix_records_of_several_appenders_are_neither_lost_nor_torn() {
    const WRITERS: u64 = 4;
    const RECORDS: u64 = 400;
    let mut bucket = Bucket::new();
    let mounted = bucket.mount(&["settle_after=0", "commit=200ms"], LIMIT);
    let path = mounted.path.join("log");
    // Processes of their own, each with its own descriptor.
    let script = "import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
for n in range(int(sys.argv[3])):
    head = b'%s:%05d:' % (sys.argv[2].encode(), n)
    line = head + b'x' * (40 + n * 7 % 5000) + b'\\n'
    assert os.write(fd, line) == len(line)";
    let writers: Vec<_> = (0..WRITERS)
        .map(|n| {
            Command::new("python3")
                .args(["-c", script])
                .arg(&path)
                .args([n.to_string(), RECORDS.to_string()])
                .spawn()
                .unwrap()
        })
        .collect();
    for mut writer in writers {
        assert!(writer.wait().unwrap().success());
    }
    let check = |log: Vec<u8>| {
        let mut next = [0; WRITERS as usize];
        for line in log.split_inclusive(|b| *b == b'\n') {
            let text = std::str::from_utf8(line).unwrap();
            let mut parts = text.splitn(3, ':');
            let writer: usize = parts.next().unwrap().parse().unwrap();
            let number: u64 = parts.next().unwrap().parse().unwrap();
            assert_eq!(number, next[writer], "of writer {writer}");
            let rest = parts.next().unwrap();
            assert_eq!(rest.len() as u64, 41 + number * 7 % 5000);
            assert!(
                rest.ends_with("x\n")
                    && rest.bytes().filter(|b| *b == b'x').count() + 1 == rest.len()
            );
            next[writer] += 1;
        }
        assert_eq!(next, [RECORDS; WRITERS as usize]);
    };
    check(std::fs::read(&path).unwrap());
    mounted.unmount();
    check(bucket.object("log").unwrap());
}

#[test]
#[ignore = "make test-posix"]
fn posix_a_shared_map_read_and_write_are_coherent_between_two_processes() {
    let mut bucket = Bucket::new();
    let mounted = bucket.mount(&["settle_after=0", "commit=200ms"], LIMIT);
    let path = mounted.path.join("map");
    std::fs::write(&path, pattern(1, 65536)).unwrap();
    // The other process: `m N B` stores a byte through its map, `w N B` writes it, `r N` reads it by
    // pread, `p N` through the map, `s` synchronizes.
    let script = "import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
m = mmap.mmap(fd, 65536, mmap.MAP_SHARED)
for line in sys.stdin:
    op, *args = line.split(); args = [int(a) for a in args]; out = 0
    if op == 'm': m[args[0]] = args[1]
    if op == 'w': os.pwrite(fd, bytes([args[1]]), args[0])
    if op == 'r': out = os.pread(fd, 1, args[0])[0]
    if op == 'p': out = m[args[0]]
    if op == 's': m.flush()
    print(out, flush=True)";
    let start = || {
        Command::new("python3")
            .args(["-c", script])
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let mut both = [start(), start()].map(|mut child| {
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        (child, input, BufReader::new(output))
    });
    let mut ask = |who: usize, line: String| {
        let (_, input, output) = &mut both[who];
        writeln!(input, "{line}").unwrap();
        let mut answer = String::new();
        output.read_line(&mut answer).unwrap();
        answer.trim().parse::<u8>().unwrap()
    };
    let mut wanted = pattern(1, 65536);
    for round in 0..200_usize {
        let (at, byte) = (round * 327 % 65536, (round % 251) as u8 ^ 0x5a);
        let (one, other) = (round % 2, (round + 1) % 2);
        ask(one, format!("{} {at} {byte}", if round % 3 == 0 { "w" } else { "m" }));
        wanted[at] = byte;
        assert_eq!(ask(other, format!("p {at}")), byte, "round {round}: by the map");
        assert_eq!(ask(other, format!("r {at}")), byte, "round {round}: by read");
        if round % 50 == 0 {
            ask(one, "s".into());
        }
    }
    ask(0, "s".into());
    for (mut child, input, _) in both {
        drop(input);
        assert!(child.wait().unwrap().success());
    }
    assert!(std::fs::read(&path).unwrap() == wanted);
    mounted.unmount();
    assert!(bucket.object("map") == Some(wanted));
}

#[test]
#[ignore = "make test-posix"]
fn posix_a_file_has_as_many_links_as_on_ext4() {
    const MOST: u64 = 65_000;
    let mut bucket = Bucket::new();
    // Each name would become an object.
    let mounted = bucket.mount(&["settle=never"], LIMIT);
    let file = mounted.path.join("f");
    std::fs::write(&file, "many names").unwrap();
    let dir = mounted.path.join("d");
    std::fs::create_dir(&dir).unwrap();
    for n in 1..MOST {
        std::fs::hard_link(&file, dir.join(n.to_string())).unwrap();
    }
    assert_eq!(std::fs::metadata(&file).unwrap().nlink(), MOST);
    let more = std::fs::hard_link(&file, dir.join("more")).unwrap_err();
    assert_eq!(more.raw_os_error(), Some(libc::EMLINK));
    std::fs::remove_file(dir.join("7")).unwrap();
    std::fs::hard_link(&file, dir.join("more")).unwrap();
    mounted.unmount();
    let mounted = bucket.mount(&["settle=never"], LIMIT);
    let path = mounted.path.join("d/more");
    assert_eq!(std::fs::metadata(&path).unwrap().nlink(), MOST);
    assert_eq!(std::fs::read(&path).unwrap(), b"many names");
    mounted.unmount();
}

/// Walks down one name at a time, as no path is long enough.
fn descend(root: &Path, levels: usize, make: bool) -> std::os::fd::OwnedFd {
    use nix::fcntl::{OFlag, open, openat};
    use nix::sys::stat::{Mode, mkdirat};
    let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut at = open(root, flags, Mode::empty()).unwrap();
    for level in 0..levels {
        let name = format!("{level:0>200}");
        if make {
            mkdirat(&at, name.as_str(), Mode::S_IRWXU).unwrap();
        }
        at = openat(&at, name.as_str(), flags, Mode::empty()).unwrap();
    }
    at
}

#[test]
#[ignore = "make test-posix"]
fn posix_paths_longer_than_any_key_work_and_are_named_in_the_status() {
    use nix::fcntl::{OFlag, openat};
    use nix::sys::stat::Mode;
    const LEVELS: usize = 40;
    let mut bucket = Bucket::new();
    let options = &["settle_after=0", "commit=200ms"];
    let mounted = bucket.mount(options, LIMIT);
    let deep = descend(&mounted.path, LEVELS, true);
    let file = openat(&deep, "file", OFlag::O_CREAT | OFlag::O_RDWR, Mode::S_IRWXU).unwrap();
    let file = File::from(file);
    file.write_all_at(b"deep down", 0).unwrap();
    file.sync_all().unwrap();
    // A path of PATH_MAX bytes with its NUL is the longest; one more is refused.
    let mut path = mounted.path.as_os_str().as_bytes().to_vec();
    let mut level = 0;
    while path.len() + 201 <= 4095 {
        path.extend(format!("/{level:0>200}").bytes());
        level += 1;
    }
    let dots = (4095 - path.len()) / 2;
    path.extend(b"/.".repeat(dots));
    path.resize(4095, b'/');
    let longest = Path::new(std::ffi::OsStr::from_bytes(&path));
    assert!(std::fs::metadata(longest).unwrap().is_dir());
    let over = std::fs::metadata(longest.join("x")).unwrap_err();
    assert_eq!(over.raw_os_error(), Some(libc::ENAMETOOLONG));
    drop((file, deep));
    mounted.says("the key would be longer than 1024 bytes");
    mounted.unmount_leaving();
    let mounted = bucket.mount(options, LIMIT);
    let deep = descend(&mounted.path, LEVELS, false);
    let file = openat(&deep, "file", OFlag::O_RDONLY, Mode::empty()).unwrap();
    let mut found = String::new();
    File::from(file).read_to_string(&mut found).unwrap();
    assert_eq!(found, "deep down");
    // Moved to where a key can hold it, it rests.
    nix::fcntl::renameat(&deep, "file", nix::fcntl::AT_FDCWD, &mounted.path.join("up")).unwrap();
    drop(deep);
    mounted.unmount_leaving();
    assert_eq!(bucket.object("up").as_deref(), Some(&b"deep down"[..]));
}

#[test]
#[ignore = "make test-posix"]
fn posix_file_capabilities_survive_a_remount_and_count() {
    // cap_net_bind_service=ep, in the second form of the attribute.
    let capability: Vec<u8> =
        [0x0200_0001_u32, 1 << 10, 0, 0, 0].iter().flat_map(|n| n.to_le_bytes()).collect();
    let mut bucket = Bucket::new();
    let mounted = bucket.mount(&[], LIMIT);
    let program = mounted.path.join("cat");
    std::fs::copy("/bin/cat", &program).unwrap();
    xattr::set(&program, "security.capability", &capability).unwrap();
    let check = |mounted: &Mounted| {
        let program = mounted.path.join("cat");
        let kept = xattr::get(&program, "security.capability").unwrap();
        assert_eq!(kept.as_deref(), Some(&capability[..]));
        let shown = Command::new(&program).arg("/proc/self/status").uid(1001).output().unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        let effective = shown.lines().find_map(|l| l.strip_prefix("CapEff:")).unwrap().trim();
        assert_eq!(u64::from_str_radix(effective, 16).unwrap(), 1 << 10, "{shown}");
    };
    check(&mounted);
    mounted.unmount();
    let mounted = bucket.mount(&[], LIMIT);
    check(&mounted);
    // Whoever changes the program takes its capabilities away.
    let file = OpenOptions::new().write(true).open(mounted.path.join("cat")).unwrap();
    file.write_all_at(b"x", 0).unwrap();
    assert_eq!(xattr::get(mounted.path.join("cat"), "security.capability").unwrap(), None);
    drop(file);
    mounted.unmount();
}
