//! The managed plugin as the tests install it.

use std::path::{Path, PathBuf};

use super::s3server::TestS3;

/// Where it is laid out.
pub fn rootfs() -> PathBuf {
    let dir = std::env::var_os("S3VOL_TEST_ROOTFS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("build/plugin"), PathBuf::from);
    assert!(dir.join("config.json").exists(), "run `make test` or `make plugin-rootfs` first");
    dir
}

/// The settings of a plugin whose volumes lie in the server's bucket, below `team/`.
pub fn settings(server: &TestS3) -> Vec<(String, String)> {
    [
        ("S3VOL_URL", format!("s3://{}/team", server.bucket())),
        ("AWS_ENDPOINT_URL", server.endpoint()),
        ("AWS_REGION", server.region().to_owned()),
        ("AWS_ACCESS_KEY_ID", server.access_key().to_owned()),
        ("AWS_SECRET_ACCESS_KEY", server.secret_key().to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}
