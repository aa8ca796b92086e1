//! What is in the bucket, as programs see it that know nothing of this project: rclone for the bytes,
//! s3fs for types, modes and owners.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::dockerd::output_within;
use crate::support::s3server::TestS3;
use crate::support::wait_for;
use crate::support::watchdog::{Watchdog, mounted};

const LIMIT: Duration = Duration::from_secs(30);
/// Some tools refuse plain http when one of these is set.
const CERTIFICATES: [&str; 3] = ["AWS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"];

fn tool(program: &str) -> Command {
    let mut command = Command::new(program);
    for variable in CERTIFICATES {
        command.env_remove(variable);
    }
    command
}

/// Every object below a prefix with its content, by path, as rclone copies them. Directory markers
/// are no objects to it.
pub fn files(server: &TestS3, prefix: &str) -> BTreeMap<String, String> {
    let copy = tempfile::tempdir().unwrap();
    let mut command = tool("rclone");
    command
        .env("RCLONE_CONFIG", "/dev/null")
        .env("RCLONE_CONFIG_T_TYPE", "s3")
        .env("RCLONE_CONFIG_T_PROVIDER", "Other")
        .env("RCLONE_CONFIG_T_ENDPOINT", server.endpoint())
        .env("RCLONE_CONFIG_T_REGION", server.region())
        .env("RCLONE_CONFIG_T_ACCESS_KEY_ID", server.access_key())
        .env("RCLONE_CONFIG_T_SECRET_ACCESS_KEY", server.secret_key())
        .args(["--retries", "1", "copy", &format!("T:{}/{prefix}", server.bucket())])
        .arg(copy.path());
    let out = output_within(command, LIMIT).expect("rclone runs");
    assert!(out.status.success(), "rclone: {}", String::from_utf8_lossy(&out.stderr));
    let mut found = BTreeMap::new();
    gather(copy.path(), copy.path(), &mut found);
    found
}

fn gather(root: &Path, dir: &Path, found: &mut BTreeMap<String, String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            gather(root, &path, found);
        } else {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            let content = std::fs::read(&path).unwrap();
            found.insert(name, String::from_utf8_lossy(&content).into_owned());
        }
    }
}

/// Asserts that exactly these files rest below the prefix, now: a clean unmount settles.
pub fn rests(server: &TestS3, prefix: &str, wanted: &[(&str, &str)]) {
    assert_eq!(files(server, prefix), tree(wanted), "objects below {prefix}");
}

/// The same within a while, for a volume that is in use.
pub fn comes_to_rest(server: &TestS3, prefix: &str, wanted: &[(&str, &str)]) {
    let wanted = tree(wanted);
    let mut last = BTreeMap::new();
    let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        wait_for("objects to come to rest", LIMIT, || {
            last = files(server, prefix);
            (last == wanted).then_some(())
        });
    }));
    assert!(found.is_ok(), "objects below {prefix}: {last:?}, not {wanted:?}");
}

fn tree(files: &[(&str, &str)]) -> BTreeMap<String, String> {
    files.iter().map(|(name, content)| ((*name).to_owned(), (*content).to_owned())).collect()
}

/// Type, mode, owner, group, size and link target of everything below a prefix, by path, as an s3fs
/// mount shows them: `f 640 0 0 12 `. The prefix itself has the empty path; directories' sizes are
/// left out.
pub fn attributes(server: &TestS3, prefix: &str) -> BTreeMap<String, String> {
    let work = tempfile::tempdir().unwrap();
    let mount = work.path().join("mount");
    std::fs::create_dir(&mount).unwrap();
    let _s3fs = S3fs::mount(server, prefix, work.path(), &mount);
    // Never from this process: a mount that hangs must not hang the test.
    let mut find = Command::new("find");
    find.arg(&mount).args(["-printf", "%P\t%y %m %U %G %s %l\n"]);
    let out = output_within(find, LIMIT).expect("find comes back from the s3fs mount");
    assert!(out.status.success(), "find: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout)
        .lines()
        .map(|line| {
            let (path, shown) = line.split_once('\t').unwrap();
            let mut fields: Vec<&str> = shown.split(' ').collect();
            if fields[0] == "d" {
                fields.remove(4);
            }
            (path.to_owned(), fields.join(" ").trim_end().to_owned())
        })
        .collect()
}

/// A read-only s3fs mount of a prefix; dropping it removes the mount and ends the process.
struct S3fs {
    child: Child,
    watchdog: Option<Watchdog>,
}

impl S3fs {
    fn mount(server: &TestS3, prefix: &str, work: &Path, mount: &Path) -> Self {
        use std::os::unix::fs::OpenOptionsExt;
        let keys = work.join("keys");
        let mut file = std::fs::OpenOptions::new();
        let mut file = file.write(true).create(true).mode(0o600).open(&keys).unwrap();
        let line = format!("{}:{}\n", server.access_key(), server.secret_key());
        std::io::Write::write_all(&mut file, line.as_bytes()).unwrap();
        let log = std::fs::File::create(work.join("log")).unwrap();
        let watchdog = Watchdog::guard(mount, LIMIT * 2);
        let child = tool("s3fs")
            .arg(format!("{}:/{prefix}", server.bucket()))
            .arg(mount)
            .args(["-f", "-o", "ro,use_path_request_style"])
            .arg("-o")
            .arg(format!("url={},endpoint={}", server.endpoint(), server.region()))
            .args([OsStr::new("-o"), OsStr::new(&format!("passwd_file={}", keys.display()))])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("s3fs is installed");
        let mut s3fs = S3fs { child, watchdog: Some(watchdog) };
        wait_for("s3fs to mount", LIMIT, || {
            if let Some(status) = s3fs.child.try_wait().unwrap() {
                let said = std::fs::read_to_string(work.join("log")).unwrap_or_default();
                panic!("s3fs ended with {status}: {said}");
            }
            mounted(mount).then_some(())
        });
        s3fs
    }
}

impl Drop for S3fs {
    fn drop(&mut self) {
        drop(self.watchdog.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
