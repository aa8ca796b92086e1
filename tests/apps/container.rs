//! The databases where people run them: in a container, on a volume of the managed plugin. The image
//! is made from Debian packages by plugin/databases.sh.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::dockerd::{Dockerd, Options, PLUGIN};
use crate::support::plugin::{rootfs, settings};
use crate::support::s3server::TestS3;
use crate::support::wait_for;
use crate::{mariadb, postgres};

const IMAGE: &str = "databases";
/// A first start makes the database, and any start may have to recover.
const START: Duration = Duration::from_secs(120);

const POSTGRES: &str = r#"
set -eu
PATH=/usr/lib/postgresql/15/bin:$PATH
as() { setpriv --reuid=postgres --regid=postgres --init-groups -- "$@"; }
chown postgres /data
[ -s /data/PG_VERSION ] || as initdb -D /data -A trust
exec setpriv --reuid=postgres --regid=postgres --init-groups -- \
  postgres -D /data -k /tmp -c listen_addresses=
"#;

const MARIADB: &str = r#"
set -eu
as="setpriv --reuid=nobody --regid=nogroup --clear-groups --"
chown nobody /data
[ -d /data/shop ] || $as mariadb-install-db --no-defaults --datadir=/data \
  --auth-root-authentication-method=normal --skip-test-db
exec $as mariadbd --no-defaults --datadir=/data --skip-networking --socket=/tmp/sock
"#;

fn image() -> PathBuf {
    let tar = std::env::var_os("S3VOL_TEST_DATABASES").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("build/databases.tar"),
        PathBuf::from,
    );
    assert!(tar.exists(), "run `make test-apps`, or plugin/databases.sh first");
    tar
}

/// A running database in a container of its own.
struct Database<'d> {
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

    fn run(&self, script: &str) -> String {
        self.engine.exec(self.name, script)
    }

    /// Ends the container (`stop` or `kill`) and removes it.
    fn end(self, how: &str) {
        let mut args = vec![how];
        args.extend((how == "stop").then_some(["-t", "60"]).into_iter().flatten());
        args.push(self.name);
        self.engine.docker(&args);
        self.engine.docker(&["rm", self.name]);
    }
}

fn postgresql(engine: &Dockerd) {
    let start = || {
        let ready = "psql -h /tmp -U postgres -c 'select 1'";
        Database::start(engine, "postgresql", POSTGRES, ready)
    };
    let sums = |server: &Database| {
        let psql = format!("psql -XAtq -h /tmp -U postgres -c '{}'", postgres::SUMS);
        postgres::transactions(&server.run(&psql))
    };
    let bench = "pgbench -n -h /tmp -U postgres -c 2 -t 100 postgres 2>&1";
    engine.docker(&["volume", "create", "-d", PLUGIN, "postgresql"]);
    let server = start();
    server.run("pgbench -h /tmp -U postgres -i -q -s 3 postgres 2>&1");
    server.run(bench);
    server.end("stop");
    let server = start();
    assert_eq!(sums(&server), 200, "after a stop");
    server.run(bench);
    server.end("kill");
    let server = start();
    assert_eq!(sums(&server), 400, "after a crash");
    server.end("stop");
}

fn mariadb(engine: &Dockerd) {
    let client = "mariadb --no-defaults --socket=/tmp/sock -u root -N -B -e";
    let start = || Database::start(engine, "mariadb", MARIADB, &format!("{client} 'select 1'"));
    let sql = |server: &Database, text: &str| server.run(&format!("{client} \"{text}\""));
    engine.docker(&["volume", "create", "-d", PLUGIN, "mariadb"]);
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
fn apps_databases_in_containers_keep_what_they_committed() {
    let server = TestS3::start();
    let engine = Dockerd::start(&Options::default());
    engine.import(&image(), IMAGE);
    engine.install_plugin(&rootfs(), &settings(&server));
    postgresql(&engine);
    mariadb(&engine);
}
