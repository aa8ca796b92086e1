//! A server with accounts none of which may use a bucket of another, and credentials with names as files.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::s3server::{Options, TestS3};
use super::wait_for;

/// Access keys; the secret of each is `secret-of-<key>`.
pub const PLUGINS: &str = "key-of-plugin";
pub const ONE: &str = "key-of-one";
pub const ONE_LATER: &str = "key-of-one-later";
pub const TWO: &str = "key-of-two";
pub const FIRST: &str = "bucket-one";
pub const SECOND: &str = "bucket-two";
/// A changed file counts within this.
pub const CHANGED: Duration = Duration::from_secs(5);

pub fn secret(key: &str) -> String {
    format!("secret-of-{key}")
}

/// Three accounts, none of which may use a bucket of another.
pub fn accounts() -> TestS3 {
    let keys = [PLUGINS, ONE, ONE_LATER, TWO].map(|key| (key.to_owned(), secret(key)));
    let server = TestS3::with(Options { keys: keys.to_vec(), ..Options::default() }).unwrap();
    server.only(server.bucket(), &[PLUGINS]);
    server.only(FIRST, &[ONE]);
    server.only(SECOND, &[TWO]);
    server
}

/// What the file of a name has.
pub fn lines(key: &str) -> String {
    format!("AWS_ACCESS_KEY_ID={key}\nAWS_SECRET_ACCESS_KEY={}\n", secret(key))
}

/// The same in the shared format of AWS.
pub fn profile(key: &str) -> String {
    format!("[default]\naws_access_key_id = {key}\naws_secret_access_key = {}\n", secret(key))
}

/// Writes the file of a name as an administrator should: beside it, and renamed.
pub fn put(files: &Path, name: &str, text: &str) -> PathBuf {
    let folder = files.join("credentials");
    std::fs::create_dir_all(&folder).unwrap();
    let (new, path) = (folder.join(".new"), folder.join(name));
    std::fs::write(&new, text).unwrap();
    std::fs::set_permissions(&new, Permissions::from_mode(0o600)).unwrap();
    std::fs::rename(&new, &path).unwrap();
    path
}

/// Whose requests came to a bucket since the log began.
pub fn askers(server: &TestS3, bucket: &str) -> Vec<String> {
    let mut keys: Vec<String> = server
        .log()
        .into_iter()
        .filter(|request| request.bucket == bucket)
        .filter_map(|request| request.access_key)
        .collect();
    keys.sort();
    keys.dedup();
    keys
}

/// Waits until only `key` asks for the bucket.
pub fn used(server: &TestS3, bucket: &str, key: &str) {
    let since = Instant::now();
    wait_for("the changed keys", CHANGED, || {
        let log = server.take_log();
        let mut asked = log.into_iter().filter(|request| request.bucket == bucket);
        asked.next_back().filter(|last| last.access_key.as_deref() == Some(key)).map(drop)
    });
    assert!(since.elapsed() <= CHANGED);
}
