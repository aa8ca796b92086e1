//! PostgreSQL on a volume while another version of the program takes the place of the one that serves it, and the first
//! one again: its clients see no error, and nothing that was committed is missing.

use std::os::unix::fs::PermissionsExt;

use crate::LIMIT;
use crate::postgres::Postgres;
use crate::support::s3server::TestS3;
use crate::support::unmanaged::{Plugin, other_program};

/// pgbench says how many transactions were committed, and ends with an error if a client saw one.
const BENCH: &str = r#"as pgbench -n -h "$2" -c 4 -j 2 -T 8 postgres 2>&1 |
    sed -n 's/^number of transactions actually processed: \([0-9]*\).*/\1/p'"#;

#[test]
#[ignore = "make test-apps"]
fn apps_postgresql_goes_on_while_the_plugin_is_upgraded_and_back() {
    let server = TestS3::start();
    let url = format!("s3://{}/team", server.bucket());
    let mut plugin = Plugin::with(Some(&server), &[("S3VOL_URL", &url)]);
    let local = tempfile::tempdir().unwrap();
    // Other users must reach the mount and the socket.
    for (folder, mode) in [(plugin.dir.path(), 0o755), (local.path(), 0o777)] {
        std::fs::set_permissions(folder, PermissionsExt::from_mode(mode)).unwrap();
    }
    let programs = tempfile::tempdir().unwrap();
    let newer = other_program(programs.path(), "newer", "version=0.1.1-newer");
    let installed = other_program(programs.path(), "installed", "");
    plugin.create("db", &[("settle", "never")]).unwrap();
    let place = plugin.mount_for("db", "c1", LIMIT);
    let database = Postgres::on(&place, local.path());
    database.create();
    database.start();
    database.run("as pgbench -h \"$2\" -i -q -s 3 postgres 2>&1");
    let committed: u64 = std::thread::scope(|scope| {
        let bench = scope.spawn(|| database.run(BENCH));
        plugin.upgrade_to(&newer);
        plugin.upgrade_to(&installed);
        bench.join().unwrap().trim().parse().unwrap()
    });
    assert!(committed > 0);
    assert_eq!(database.transactions(), committed);
    database.check();
    database.stop("fast");
    assert!(!plugin.log().contains("the worker died"), "{}", plugin.log());
    plugin.unmount("db", "c1");
}
