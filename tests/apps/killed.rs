//! Databases whose worker is killed under them, again and again: their clients see no error, and nothing that
//! was acknowledged is missing, here and on another host.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use s3vol::fault::points;

use crate::postgres::Postgres;
use crate::shell_with;
use crate::support::orders::Orders;
use crate::support::s3server::TestS3;
use crate::support::unmanaged::Plugin;
use crate::support::wait_for;

/// Where the workers die: each step of a commit and of a publish.
const PLACES: [&str; 10] = [
    points::FLUSH_BEFORE,
    points::LOG_APPEND_AFTER,
    points::PWRITE_AFTER,
    points::BATCH_BEFORE,
    points::FLUSH_AFTER,
    points::PWRITE_BEFORE,
    points::LOG_APPEND_BEFORE,
    points::BATCH_AFTER,
    points::LEASE_AFTER,
    points::SEGMENT_AFTER,
];
/// Within this a busy database comes by, the pause of the supervisor after many crashes included.
const MET: Duration = Duration::from_secs(60);
const LIMIT: Duration = Duration::from_secs(3600);
/// In the tests that always run, and in the long ones.
const FEW: usize = 5;
const MANY: usize = 50;

/// A volume of a plugin whose workers obey orders.
struct Volume {
    plugin: Plugin,
    orders: Orders,
    at: PathBuf,
}

const NAME: &str = "data";

fn plugin(server: &TestS3, orders: &Orders) -> Plugin {
    let url = format!("s3://{}/team", server.bucket());
    let env = [
        ("S3VOL_URL", url.as_str()),
        // The server is near: what a killed worker sent is there at once or never.
        ("S3VOL_TEST_HOT_MARGIN_MS", "1000"),
        ("S3VOL_TEST_RENEW_MS", "1000"),
        orders.env(),
    ];
    let plugin = Plugin::with(Some(server), &env);
    // Other users must reach the mount.
    let open = PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(plugin.dir.path(), open).unwrap();
    plugin
}

impl Volume {
    fn new(server: &TestS3, local: &Path) -> Self {
        let orders = Orders::below(local);
        let mut plugin = plugin(server, &orders);
        plugin.create(NAME, &[]).unwrap();
        let at = plugin.mount_for(NAME, "c", LIMIT);
        Volume { plugin, orders, at }
    }

    /// Kills the worker where this round has it die, and waits until it did.
    fn kill(&self, round: usize) {
        let place = PLACES[round % PLACES.len()];
        self.orders.give(NAME, place, "");
        wait_for(place, MET, || (!self.orders.is_open(NAME, place)).then_some(()));
    }

    /// The same volume on another host.
    fn moved(self, server: &TestS3) -> Volume {
        self.plugin.unmount(NAME, "c");
        let Volume { orders, .. } = self;
        let mut plugin = plugin(server, &orders);
        let at = plugin.mount_for(NAME, "c", LIMIT);
        Volume { plugin, orders, at }
    }
}

fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
    dir
}

/// pgbench says how many transactions it was told to be committed, and ends with an error if a client saw one.
const BENCH: &str = r#"as pgbench -n -h "$2" -c 4 -j 2 -T 3 postgres 2>&1 |
    sed -n 's/^number of transactions actually processed: \([0-9]*\).*/\1/p'"#;

fn postgresql(rounds: usize) {
    let (server, local) = (TestS3::start(), folder());
    let volume = Volume::new(&server, local.path());
    let database = Postgres::on(&volume.at, local.path());
    database.create();
    database.start();
    database.run("as pgbench -h \"$2\" -i -q -s 3 postgres 2>/dev/null");
    let mut committed = 0;
    for round in 0..rounds {
        let said = std::thread::scope(|scope| {
            let bench = scope.spawn(|| database.run(BENCH));
            volume.kill(round);
            bench.join().expect("the client")
        });
        committed += said.trim().parse::<u64>().unwrap_or_else(|e| panic!("{said:?}: {e}"));
        assert_eq!(database.transactions(), committed, "after round {round}");
    }
    assert!(committed > rounds as u64 * 10, "only {committed} transactions");
    database.check();
    database.stop("fast");
    database.check_pages();
    let volume = volume.moved(&server);
    let database = Postgres::on(&volume.at, local.path());
    database.start();
    assert_eq!(database.transactions(), committed, "on the other host");
    database.check();
    database.stop("fast");
    volume.plugin.unmount(NAME, "c");
}

/// `$1` the database, `$2` the journal mode, `$3` a file outside of the volume for what was committed, `$4` one
/// that says to end.
const CLIENT: &str = r#"
import os, sqlite3, sys
path, mode, ledger, end = sys.argv[1:]
db = sqlite3.connect(path)
assert db.execute("pragma journal_mode=" + mode).fetchone()[0] == mode
db.execute("pragma synchronous=full")
db.execute("create table if not exists t(a integer primary key, b blob)")
with open(ledger, "a") as told:
    while not os.path.exists(end):
        with db:
            row = db.execute("insert into t(b) values(randomblob(3000))").lastrowid
            if row % 7 == 0:
                db.execute("update t set b = randomblob(200) where a = ?", (row // 2,))
        print(row, file=told, flush=True)
db.close()
"#;

/// The same, and how many rows there are and which of those that were told are missing.
const CHECK: &str = r#"
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
there = {row for (row,) in db.execute("select a from t")}
told = {int(line) for line in open(sys.argv[2])}
print(db.execute("pragma integrity_check").fetchone()[0], len(told) > 20, sorted(told - there))
db.close()
"#;

fn sqlite(mode: &str, rounds: usize) {
    let (server, local) = (TestS3::start(), folder());
    let volume = Volume::new(&server, local.path());
    let path = |name: &str| local.path().join(name);
    std::fs::write(path("client.py"), CLIENT).unwrap();
    std::fs::write(path("check.py"), CHECK).unwrap();
    for round in 0..rounds {
        let (ledger, end) = (path("ledger"), path(&format!("end-{round}")));
        let mut client = Command::new("python3");
        client.arg(path("client.py")).arg(volume.at.join("db")).arg(mode).arg(&ledger).arg(&end);
        let client = client.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let client = client.spawn().unwrap();
        let told = || std::fs::read_to_string(&ledger).map_or(0, |text| text.lines().count());
        let before = told();
        wait_for("the first transactions", MET, || (told() > before + 5).then_some(()));
        volume.kill(round);
        let there = told();
        wait_for("transactions after the kill", MET, || (told() > there + 5).then_some(()));
        std::fs::write(&end, "").unwrap();
        let done = client.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "round {round}: the client saw an error: {said}");
    }
    let check = |at: &Path| {
        let (script, ledger) = (path("check.py"), path("ledger"));
        shell_with(at, "python3 \"$1\" db \"$2\"", &[&script, &ledger])
    };
    assert_eq!(check(&volume.at), "ok True []\n");
    let volume = volume.moved(&server);
    assert_eq!(check(&volume.at), "ok True []\n", "on the other host");
    volume.plugin.unmount(NAME, "c");
}

#[test]
#[ignore = "make test-apps"]
fn apps_postgresql_sees_no_error_when_its_worker_is_killed() {
    postgresql(FEW);
}

#[test]
#[ignore = "make test-apps"]
fn apps_sqlite_sees_no_error_when_its_worker_is_killed() {
    sqlite("wal", FEW);
    sqlite("delete", FEW);
}

#[test]
#[ignore = "make soak"]
fn soak_postgresql_under_which_workers_are_killed() {
    postgresql(MANY);
}

#[test]
#[ignore = "make soak"]
fn soak_sqlite_under_which_workers_are_killed() {
    sqlite("wal", MANY);
    sqlite("delete", MANY);
}
