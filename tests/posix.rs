//! Other people's file system suites on a mounted volume: pjdfstest for the rules of POSIX, fsx for
//! content. `make test-posix` runs them; they need root and /dev/fuse.

#[path = "posix/acl.rs"]
mod acl;
#[path = "posix/content.rs"]
mod content;
#[path = "model/ops.rs"]
#[allow(dead_code, reason = "some of it is the model's alone")]
mod ops;
#[path = "posix/replay.rs"]
mod replay;
#[path = "posix/setid.rs"]
mod setid;
mod support;
#[path = "posix/tools.rs"]
mod tools;
#[path = "posix/volume.rs"]
mod volume;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tools::tool;
use volume::{Bucket, Mounted};

/// What one suite may take before its mount is taken away under it.
const LIMIT: Duration = Duration::from_secs(1200);
const OPERATIONS: u32 = 20_000;
/// Operations between two mounts from nothing.
const BETWEEN_MOUNTS: u32 = 2_000;
const SEEDS: [u32; 5] = [1, 2, 3, 4, 5];

fn configuration(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/posix").join(name)
}

// --- pjdfstest ---

/// Runs pjdfstest in `place`: what became of each test, and everything it said.
fn pjdfstest(place: &Path, second: &Path) -> (BTreeMap<String, String>, String) {
    let done = Command::new(tool("pjdfstest", "0.2.2"))
        .arg("-c")
        .arg(configuration("pjdfstest.toml"))
        .arg("-s")
        .arg(second)
        .arg("-p")
        .arg(place)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    let mut results = BTreeMap::new();
    for line in said.lines().filter(|line| line.contains("::") && !line.starts_with('\t')) {
        let mut words = line.split_whitespace();
        if let (Some(name), Some(result @ ("ok" | "skipped" | "FAILED")), None) =
            (words.next(), words.next(), words.next())
        {
            results.insert(name.to_owned(), result.to_owned());
        }
    }
    let errors = String::from_utf8_lossy(&done.stderr);
    assert!(results.len() >= 398, "{} of 398 tests ran: {said}\n{errors}", results.len());
    (results, said)
}

/// Tests that do not pass here although they do on ext4: what they do instead.
fn expected() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(configuration("expected.txt")).unwrap();
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let mut words = line.splitn(3, ' ');
            let (name, result, reason) = (words.next(), words.next(), words.next());
            assert!(reason.is_some_and(|r| r.len() > 20), "a reason is missing: {line}");
            (name.unwrap().to_owned(), result.unwrap().to_owned())
        })
        .collect()
}

/// On a volume with these options and on the local disk.
fn passes_what_ext4_passes(options: &[&str]) {
    let mut bucket = Bucket::new();
    let second = tempfile::tempdir_in("/dev/shm").unwrap();
    let (local, _) = pjdfstest(&bucket.local("ext4"), second.path());
    let mounted = bucket.mount(options, LIMIT);
    let (ours, said) = pjdfstest(&mounted.path, second.path());
    mounted.unmount();

    let mut expected = expected();
    let mut wrong = Vec::new();
    for (name, result) in &ours {
        let wanted = expected.remove(name).unwrap_or_else(|| "ok".to_owned());
        let passes_locally = local.get(name).is_some_and(|r| r == "ok");
        if *result == wanted || wanted == "ok" && result == "skipped" && !passes_locally {
            continue;
        }
        let on_disk = local.get(name).map_or("not run", String::as_str);
        wrong.push(format!("{name}: {result}, wanted {wanted}; on the local disk {on_disk}"));
    }
    wrong
        .extend(expected.keys().map(|name| format!("{name}: expected, but there is no such test")));
    assert!(wrong.is_empty(), "{}\n\n{said}", wrong.join("\n"));
}

#[test]
#[ignore = "make test-posix"]
fn posix_pjdfstest_passes_what_ext4_passes() {
    passes_what_ext4_passes(&[]);
}

#[test]
#[ignore = "make soak"]
fn soak_pjdfstest_while_settling_at_once_from_a_full_cache() {
    passes_what_ext4_passes(&["settle_after=0", "commit=200ms", "refresh=0", "cache_size=1MiB"]);
}

// --- Access control lists ---

#[test]
#[ignore = "make test-posix"]
fn posix_access_control_lists_do_what_they_do_on_the_local_disk() {
    let mut bucket = Bucket::new();
    let mounted = bucket.mount(&[], LIMIT);
    let local = acl::steps(&bucket.local("ext4"));
    let ours = acl::steps(&mounted.path);
    mounted.unmount();
    assert_eq!(ours.len(), local.len());
    let differences: Vec<_> = ours.iter().zip(&local).filter(|(a, b)| a != b).collect();
    assert!(differences.is_empty(), "here, and on the local disk: {differences:#?}");
}

// --- fsx ---

/// One run of fsx on one file.
struct Fsx {
    /// Names the file.
    number: u32,
    seed: u32,
    operations: u32,
}

impl Fsx {
    fn run(&self, program: &Path, directory: &Path, artifacts: &Path) -> Result<(), String> {
        let file = directory.join(format!("fsx-{}", self.number));
        let done = Command::new(program)
            .arg("-f")
            .arg(configuration("fsx.toml"))
            .args(["-N", &self.operations.to_string(), "-S", &self.seed.to_string()])
            .arg("-P")
            .arg(artifacts)
            .arg(&file)
            .stdin(Stdio::null())
            .output()
            .map_err(|e| e.to_string())?;
        if done.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&done.stderr);
        let lines: Vec<&str> = said.lines().collect();
        let mut short: Vec<&str> = lines.iter().take(20).copied().collect();
        short.extend(lines.iter().rev().take(20).rev());
        Err(format!("seed {}, {}:\n{}", self.seed, done.status, short.join("\n")))
    }
}

/// All seeds at once on one mount. Each round has its own: fsx cannot start in the middle of a
/// sequence, since its copy_file_range knows nothing of operations that are only imagined.
fn all_seeds(mounted: &Mounted, artifacts: &Path, round: u32, operations: u32) {
    let program = tool("fsx", "0.3.2");
    let failed: Vec<String> = std::thread::scope(|scope| {
        let runs: Vec<_> = SEEDS
            .into_iter()
            .map(|number| {
                let (program, directory) = (&program, &mounted.path);
                let fsx = Fsx { number, seed: number + round * 100, operations };
                scope.spawn(move || fsx.run(program, directory, artifacts))
            })
            .collect();
        runs.into_iter().filter_map(|run| run.join().unwrap().err()).collect()
    });
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}

/// What the files hold, read through the mount.
fn contents(mounted: &Mounted) -> BTreeMap<String, Vec<u8>> {
    SEEDS
        .into_iter()
        .map(|seed| {
            let name = format!("fsx-{seed}");
            let content = std::fs::read(mounted.path.join(&name)).unwrap();
            (name, content)
        })
        .collect()
}

/// The files hold the same on a host that never saw them, and so do their objects.
fn same_elsewhere(bucket: &mut Bucket, wanted: &BTreeMap<String, Vec<u8>>, options: &[&str]) {
    for (name, content) in wanted {
        let object = bucket.object(name).unwrap_or_else(|| panic!("{name} has no object"));
        assert!(object == *content, "the object of {name} differs");
    }
    let mounted = bucket.mount(options, LIMIT);
    for (name, content) in contents(&mounted) {
        assert!(content == wanted[&name], "{name} differs after a remount");
    }
    mounted.unmount();
}

fn fsx(options: &[&str]) {
    let mut bucket = Bucket::new();
    let artifacts = bucket.local("artifacts");
    let mounted = bucket.mount(options, LIMIT);
    all_seeds(&mounted, &artifacts, 0, OPERATIONS);
    let wanted = contents(&mounted);
    mounted.unmount();
    same_elsewhere(&mut bucket, &wanted, options);
}

#[test]
#[ignore = "make test-posix"]
fn posix_fsx() {
    fsx(&[]);
}

#[test]
#[ignore = "make test-posix"]
fn posix_fsx_with_a_cache_that_is_always_full() {
    fsx(&["cache_size=1MiB"]);
}

#[test]
#[ignore = "make test-posix"]
fn posix_fsx_while_settling_at_once() {
    fsx(&["settle_after=0", "commit=200ms"]);
}

#[test]
#[ignore = "make test-posix"]
fn posix_fsx_remounted_from_nothing() {
    let mut bucket = Bucket::new();
    let artifacts = bucket.local("artifacts");
    for round in 0..OPERATIONS / BETWEEN_MOUNTS {
        let mounted = bucket.mount(&[], LIMIT);
        all_seeds(&mounted, &artifacts, round, BETWEEN_MOUNTS);
        let wanted = contents(&mounted);
        mounted.unmount();
        same_elsewhere(&mut bucket, &wanted, &[]);
    }
}
