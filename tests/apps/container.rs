//! The databases where people run them: in a container, on a volume of the managed plugin, whose workers are
//! killed under them. The image is made from Debian packages by plugin/databases.sh.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::dockerd::{Dockerd, Options, PLUGIN};
use crate::support::orders::Orders;
use crate::support::plugin::{rootfs, settings};
use crate::support::s3server::TestS3;
use crate::support::wait_for;
use crate::{killed, mariadb, postgres, shell_with};

pub const IMAGE: &str = "databases";
/// A first start makes the database, and any start may have to recover.
const START: Duration = Duration::from_secs(120);

const POSTGRES: &str = r#"
set -eu
PATH=/usr/lib/postgresql/15/bin:$PATH
as() { setpriv --reuid=postgres --regid=postgres --init-groups -- "$@"; }
chown postgres /data
[ -s /data/PG_VERSION ] || as initdb -D /data -A trust --data-checksums
exec setpriv --reuid=postgres --regid=postgres --init-groups -- \
  postgres -D /data -k /tmp -c listen_addresses=
"#;

const MARIADB: &str = r#"
set -eu
as="setpriv --reuid=nobody --regid=nogroup --clear-groups --"
chown nobody /data
small=--innodb-log-file-size=16m
[ -d /data/shop ] || $as mariadb-install-db --no-defaults --datadir=/data $small \
  --auth-root-authentication-method=normal --skip-test-db
exec $as mariadbd --no-defaults --datadir=/data $small --skip-networking --socket=/tmp/sock
"#;

fn image() -> PathBuf {
    let tar = std::env::var_os("S3VOL_TEST_DATABASES").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("build/databases.tar"),
        PathBuf::from,
    );
    assert!(tar.exists(), "run `make test-apps`, or plugin/databases.sh first");
    tar
}

/// Of the plugin, besides its settings: workers that obey orders and have little patience.
const ENVIRONMENT: [(&str, &str); 3] = [
    (s3vol::fault::POINTS, "/s3vol/points"),
    // The server is near: what a killed worker sent is there at once or never.
    (s3vol::fault::HOT_MARGIN, "1000"),
    (s3vol::fault::RENEW_EVERY, "1000"),
];

/// An engine with the image, and the plugin on a server of ours.
pub struct Site {
    pub server: TestS3,
    pub engine: Dockerd,
    pub orders: Orders,
}

impl Site {
    pub fn new() -> Self {
        let server = TestS3::start();
        let engine = Dockerd::start(&Options::default());
        engine.import(&image(), IMAGE);
        // As it is laid out, with variables that no user can set.
        let laid = tempfile::tempdir().unwrap();
        shell_with(laid.path(), "cp -a \"$1\"/. .", &[&rootfs()]);
        let path = laid.path().join("config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let more = ENVIRONMENT.map(|(name, value)| json!({ "name": name, "value": value }));
        config["env"].as_array_mut().expect("variables").extend(more);
        std::fs::write(&path, config.to_string()).unwrap();
        engine.install_plugin(laid.path(), &settings(&server));
        let orders = Orders::below(&engine.plugin_dir());
        Site { server, engine, orders }
    }

    pub fn create(&self, name: &str) {
        self.engine.docker(&["volume", "create", "-d", PLUGIN, name]);
    }
}

/// Runs a script in a running container; returns what it printed.
pub fn exec(engine: &Dockerd, container: &str, script: &str) -> String {
    let script = format!("set -o pipefail; PATH=/usr/lib/postgresql/15/bin:$PATH; {script}");
    engine.docker(&["exec", container, "/bin/bash", "-c", &script])
}

/// A running database in a container of its own.
pub struct Database<'d> {
    engine: &'d Dockerd,
    name: &'static str,
}

impl<'d> Database<'d> {
    /// Starts it on volume `name` and waits until `ready` succeeds in it.
    fn start(engine: &'d Dockerd, name: &'static str, script: &str, ready: &str) -> Self {
        let mount = format!("{name}:/data");
        let mut args = vec!["run", "-d", "--name", name, "--network", "none", "-v", &mount];
        args.extend([IMAGE, "/bin/bash", "-c", script]);
        engine.docker(&args);
        wait_for(name, START, || {
            let up = engine.docker(&["inspect", "-f", "{{.State.Running}}", name]);
            assert_eq!(up.trim(), "true", "{}", engine.docker(&["logs", name]));
            let out = engine.try_docker(&["exec", name, "/bin/bash", "-c", ready]).unwrap();
            out.status.success().then_some(())
        });
        Database { engine, name }
    }

    pub fn postgresql(engine: &'d Dockerd) -> Self {
        let ready = "psql -h /tmp -U postgres -c 'select 1'";
        Database::start(engine, "postgresql", POSTGRES, ready)
    }

    pub fn run(&self, script: &str) -> String {
        exec(self.engine, self.name, script)
    }

    /// How many transactions of pgbench there are, whose sums must agree.
    pub fn transactions(&self) -> u64 {
        let psql = format!("psql -XAtq -h /tmp -U postgres -c '{}'", postgres::SUMS);
        postgres::transactions(&self.run(&psql))
    }

    /// Every index against its table.
    pub fn check(&self) {
        self.run("pg_amcheck -h /tmp -U postgres --install-missing --heapallindexed --all");
    }

    /// Ends the container (`stop` or `kill`) and removes it.
    pub fn end(self, how: &str) {
        let mut args = vec![how];
        args.extend((how == "stop").then_some(["-t", "60"]).into_iter().flatten());
        args.push(self.name);
        self.engine.docker(&args);
        self.engine.docker(&["rm", self.name]);
    }
}

fn mariadb(site: &Site) {
    let engine = &site.engine;
    let client = "mariadb --no-defaults --socket=/tmp/sock -u root -N -B -e";
    let start = || Database::start(engine, "mariadb", MARIADB, &format!("{client} 'select 1'"));
    let sql = |server: &Database, text: &str| server.run(&format!("{client} \"{text}\""));
    site.create("mariadb");
    let server = start();
    sql(&server, mariadb::LOAD);
    let loaded = mariadb::checked(&sql(&server, mariadb::CHECK));
    server.end("stop");
    let server = start();
    assert_eq!(mariadb::checked(&sql(&server, mariadb::CHECK)), loaded, "after a stop");
    sql(&server, "insert into shop.inno(n, pad) values (1, 'committed before the crash')");
    let loaded = mariadb::checked(&sql(&server, mariadb::CHECK));
    server.end("kill");
    let server = start();
    assert_eq!(mariadb::checked(&sql(&server, mariadb::CHECK)), loaded, "after a crash");
    server.end("stop");
}

#[test]
#[ignore = "make test-apps"]
fn apps_databases_in_containers_keep_what_they_committed_though_workers_are_killed() {
    let site = Site::new();
    killed::postgresql(&site, killed::FEW);
    mariadb(&site);
    killed::sqlite(&site, "wal", killed::FEW);
    killed::sqlite(&site, "delete", killed::FEW);
}

#[test]
#[ignore = "make soak"]
fn soak_databases_in_containers_under_which_workers_are_killed() {
    let site = Site::new();
    killed::postgresql(&site, killed::MANY);
    killed::sqlite(&site, "wal", killed::MANY);
    killed::sqlite(&site, "delete", killed::MANY);
}
