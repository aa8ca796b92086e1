//! PostgreSQL: load, crash, recover, and move.

use std::path::{Path, PathBuf};

use crate::{Bucket, LIMIT, Server, shell_with};

/// `$1` is the data directory, `$2` a folder on the local disk for the socket and the log.
const TOOLS: &str = r#"
PATH=/usr/lib/postgresql/15/bin:$PATH
as() { setpriv --reuid=postgres --regid=postgres --init-groups -- "$@"; }
start() { as pg_ctl -D "$1" -w -t 120 -s -l "$2/log" -o "-k $2 -c listen_addresses=''" start || { tail -20 "$2/log"; false; }; }
stop() { as pg_ctl -D "$1" -w -t 120 -s -m "$3" stop; }
sql() { as psql -XAtq -v ON_ERROR_STOP=1 -h "$2" -c "$3" postgres; }
"#;

/// Every transaction of pgbench moves the same sum in all four tables.
pub const SUMS: &str = "select (select sum(abalance) from pgbench_accounts), \
    (select sum(bbalance) from pgbench_branches), (select sum(tbalance) from pgbench_tellers), \
    (select sum(delta) from pgbench_history), (select count(*) from pgbench_history), \
    (select count(*) from pgbench_accounts)";

/// How many transactions the row of [`SUMS`] stands for.
pub fn transactions(row: &str) -> u64 {
    let fields: Vec<&str> = row.trim().split('|').collect();
    let [accounts, branches, tellers, history, count, rows] = fields[..] else { panic!("{row}") };
    assert!([branches, tellers, history].iter().all(|sum| *sum == accounts), "{row}");
    assert_eq!(rows, "300000");
    count.parse().unwrap()
}

pub struct Postgres {
    data: PathBuf,
    local: PathBuf,
    _server: Server,
}

impl Postgres {
    /// With its data below `volume`, and its socket and its log in `local`.
    pub fn on(volume: &Path, local: &Path) -> Self {
        Postgres::at(&volume.join("data"), local)
    }

    /// With its data in that folder.
    pub fn at(data: &Path, local: &Path) -> Self {
        let data = data.to_owned();
        let server = Server { pid_file: local.join("pid") };
        Postgres { data, local: local.to_owned(), _server: server }
    }

    pub fn run(&self, script: &str) -> String {
        shell_with(Path::new("/"), &format!("{TOOLS}\n{script}"), &[&self.data, &self.local])
    }

    pub fn create(&self) {
        self.run(
            "install -d -o postgres -g postgres -m 700 \"$1\"
             as initdb -D \"$1\" -A trust --data-checksums >/dev/null",
        );
    }

    pub fn start(&self) {
        self.run("start \"$@\"; head -1 \"$1/postmaster.pid\" >\"$2/pid\"");
    }

    pub fn stop(&self, how: &str) {
        self.run(&format!("stop \"$@\" {how}; rm \"$2/pid\""));
    }

    /// The sums, which must agree, and how many transactions there are.
    pub fn transactions(&self) -> u64 {
        transactions(&self.run(&format!("sql \"$@\" '{SUMS}'")))
    }

    /// Every index against its table, and every page's checksum.
    pub fn check(&self) {
        self.run("as pg_amcheck -h \"$2\" --install-missing --heapallindexed --all");
    }

    pub fn check_pages(&self) {
        self.run("as pg_checksums -D \"$1\" --check >/dev/null");
    }
}

#[test]
#[ignore = "make test-apps"]
fn apps_postgresql_recovers_from_a_crash_and_moves_to_another_host() {
    let mut bucket = Bucket::new();
    let local = bucket.local("postgres");
    shell_with(&local, "chown postgres .", &[]);
    let mounted = bucket.mount(&[], LIMIT);
    let server = Postgres::on(&mounted.path, &local);
    server.create();
    server.start();
    server.run("as pgbench -h \"$2\" -i -q -s 3 postgres 2>/dev/null");
    server.run("as pgbench -n -h \"$2\" -c 4 -j 2 -t 250 postgres >/dev/null 2>&1");
    assert_eq!(server.transactions(), 1000);
    server.stop("immediate");
    server.start();
    assert_eq!(server.transactions(), 1000, "after the crash");
    server.run("as pgbench -n -h \"$2\" -c 4 -j 2 -t 50 postgres >/dev/null 2>&1");
    server.check();
    server.stop("fast");
    server.check_pages();
    mounted.unmount();

    let mounted = bucket.mount(&[], LIMIT);
    server.start();
    assert_eq!(server.transactions(), 1200, "on the other host");
    server.check();
    // This crash is recovered from on a third host.
    server.run("as pgbench -n -h \"$2\" -c 4 -j 2 -t 50 postgres >/dev/null 2>&1");
    server.stop("immediate");
    mounted.unmount();

    let mounted = bucket.mount(&[], LIMIT);
    server.start();
    assert_eq!(server.transactions(), 1400, "on the third host");
    server.check();
    server.stop("fast");
    server.check_pages();
    mounted.unmount();
}
