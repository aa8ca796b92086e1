//! Databases in containers whose worker is killed under them, again and again: their clients see no error, and
//! nothing that was acknowledged is missing, there and on another host.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use s3vol::fault::points;

use crate::container::{Database, IMAGE, Site, exec};
use crate::postgres::Postgres;
use crate::shell_with;
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
/// Within this a busy database comes by, the pause of the supervisor after many crashes included. What a round
/// does goes by every place at least once, so that it is the pace of the machine alone that is waited for.
const MET: Duration = Duration::from_secs(180);
const LIMIT: Duration = Duration::from_secs(600);
/// In the tests that always run, and in the long ones.
pub const FEW: usize = 5;
pub const MANY: usize = 50;

/// Orders the worker of a volume to die where this round has it die; returns the place.
fn order(site: &Site, name: &str, round: usize) -> &'static str {
    let place = PLACES[round % PLACES.len()];
    site.orders.give(name, place, "");
    place
}

/// The volume of a container that has ended, on another host, where no Docker is.
fn elsewhere<R>(site: &Site, name: &str, look: impl FnOnce(&Path) -> R) -> R {
    let url = format!("s3://{}/team", site.server.bucket());
    let mut plugin = Plugin::with(Some(&site.server), &[("S3VOL_URL", &url)]);
    // Other users must reach the mount.
    std::fs::set_permissions(plugin.dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    plugin.create(name, &[]).unwrap();
    let at = plugin.mount_for(name, "c", LIMIT);
    let seen = look(&at);
    plugin.unmount(name, "c");
    seen
}

fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
    dir
}

/// pgbench says how many transactions it was told to be committed, and ends with an error if a client saw one. Before
/// it a checkpoint, and one transaction of more than a commit of s3vol takes along with its records: random text, so
/// that it is not compressed.
const BENCH: &str = r"psql -h /tmp -U postgres -q -c checkpoint;
    psql -h /tmp -U postgres -q -v ON_ERROR_STOP=1 -c 'create table if not exists large(b text)' -c 'truncate large' -c 'insert into large select string_agg(md5(random()::text), null) from generate_series(1, 40000)' || exit 1;
    pgbench -n -h /tmp -U postgres -c 4 -j 2 -T 3 postgres 2>&1 |
    sed -n 's/^number of transactions actually processed: \([0-9]*\).*/\1/p'";

pub fn postgresql(site: &Site, rounds: usize) {
    let name = "postgresql";
    site.create(name);
    let database = Database::postgresql(&site.engine);
    database.run("pgbench -h /tmp -U postgres -i -q -s 3 postgres 2>&1");
    let mut committed = 0;
    for round in 0..rounds {
        let place = order(site, name, round);
        let begun = Instant::now();
        loop {
            let said = database.run(BENCH);
            committed += said.trim().parse::<u64>().unwrap_or_else(|e| panic!("{said:?}: {e}"));
            assert_eq!(database.transactions(), committed, "in round {round}, at {place}");
            if !site.orders.is_open(name, place) {
                break;
            }
            assert!(
                begun.elapsed() < MET,
                "{place} was never passed in round {round}, after {committed} transactions"
            );
        }
    }
    assert!(committed > rounds as u64 * 10, "only {committed} transactions");
    database.check();
    // The container dies, too.
    database.end("kill");
    let database = Database::postgresql(&site.engine);
    assert_eq!(database.transactions(), committed, "after a crash of the container");
    database.check();
    database.end("stop");
    let local = folder();
    elsewhere(site, name, |at| {
        // The same names of users need not have the same numbers.
        shell_with(at, "chown -R postgres \"$1\" && chmod 700 \"$1\"", &[at]);
        let database = Postgres::at(at, local.path());
        database.check_pages();
        database.start();
        assert_eq!(database.transactions(), committed, "on the other host");
        database.check();
        database.stop("fast");
    });
    eprintln!("postgresql: {rounds} kills, {committed} transactions");
}

/// The database, the journal mode, a file outside of the volume for what was committed, and one that says to end.
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
            if row % 10 == 0:
                db.execute("insert into t(b) values(randomblob(300000))")
        print(row, file=told, flush=True)
db.close()
"#;

/// Whether the file is whole, how many rows were told to be committed, and which of those are missing.
const CHECK: &str = r#"
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
there = {row for (row,) in db.execute("select a from t")}
told = {int(line) for line in open(sys.argv[2])}
print(db.execute("pragma integrity_check").fetchone()[0], len(told), sorted(told - there))
db.close()
"#;

pub fn sqlite(site: &Site, mode: &str, rounds: usize) {
    let (engine, local) = (&site.engine, folder());
    let name = format!("sqlite-{mode}");
    site.create(&name);
    let path = |name: &str| local.path().join(name);
    std::fs::write(path("client.py"), CLIENT).unwrap();
    std::fs::write(path("check.py"), CHECK).unwrap();
    let (volume, shared) = (format!("{name}:/data"), format!("{}:/local", local.path().display()));
    let client = format!(
        "python3 /local/client.py /data/db {mode} /local/ledger /local/end >/local/said 2>&1; echo $? >/local/code"
    );
    let mut args = vec!["run", "-d", "--name", &name, "--network", "none", "-v", &volume];
    args.extend(["-v", &shared, IMAGE, "/bin/bash", "-c"]);
    let script = format!("{client}; exec sleep 1000000");
    args.push(&script);
    engine.docker(&args);
    let said = || std::fs::read_to_string(path("said")).unwrap_or_default();
    let code = || std::fs::read_to_string(path("code")).ok().filter(|code| code.ends_with('\n'));
    let told = || std::fs::read_to_string(path("ledger")).map_or(0, |text| text.lines().count());
    let more = |what: &str| {
        let before = told();
        wait_for(what, MET, || {
            assert_eq!(code(), None, "the client ended: {}", said());
            (told() > before + 5).then_some(())
        });
    };
    for round in 0..rounds {
        more("transactions");
        let place = order(site, &name, round);
        wait_for(place, MET, || (!site.orders.is_open(&name, place)).then_some(()));
    }
    more("transactions after the last kill");
    std::fs::write(path("end"), "").unwrap();
    let code = wait_for("the end of the client", MET, code);
    assert_eq!(code, "0\n", "the client saw an error: {}", said());
    let committed = told();
    let whole = format!("ok {committed} []\n");
    assert_eq!(exec(engine, &name, "python3 /local/check.py /data/db /local/ledger"), whole);
    engine.docker(&["rm", "-f", &name]);
    let seen = elsewhere(site, &name, |at| {
        let (script, ledger) = (path("check.py"), path("ledger"));
        shell_with(at, "python3 \"$1\" db \"$2\"", &[&script, &ledger])
    });
    assert_eq!(seen, whole, "on the other host");
    eprintln!("sqlite, {mode}: {rounds} kills, {committed} transactions");
}
