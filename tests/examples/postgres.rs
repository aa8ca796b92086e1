//! PostgreSQL: it crashes, and it moves.

use std::time::Duration;

use crate::image::Image;
use crate::support::dockerd::Dockerd;
use crate::support::wait_for;
use crate::{compose, hosts_with_plugin};

/// A first start makes the database, and any start may have to recover.
const START: Duration = Duration::from_secs(120);

/// Debian's PostgreSQL with the libraries that it loads, and an entry point that does what that of the real image
/// does for this example.
const IMAGE: &str = r#"
at=usr/lib/postgresql/15
tar -C / -c --exclude='*llvm*' --exclude=bitcode $at/bin $at/lib usr/share/postgresql/15 | tar -C "$1" -x
for program in postgres psql initdb; do ldd /$at/bin/$program; done |
  grep -o '/[^ ]*' | sort -u | while read -r library; do
    mkdir -p "$1${library%/*}"
    cp -L "$library" "$1$library"
  done
mkdir -p "$1/usr/local/bin" "$1/var/lib/postgresql/data"
cat >"$1/usr/local/bin/docker-entrypoint.sh" <<'END'
#!/bin/sh
set -eu
if [ "$(id -u)" = 0 ]; then
  chown postgres "$PGDATA"
  chmod 700 "$PGDATA"
  exec su postgres -s /bin/sh "$0" "$@"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  echo "$POSTGRES_PASSWORD" >/tmp/password
  initdb -U postgres --pwfile=/tmp/password -A trust --no-locale
fi
exec "$@" -k /tmp -h '*'
END
chmod 755 "$1/usr/local/bin/docker-entrypoint.sh"
"#;

const CHANGES: [&str; 5] = [
    "ENTRYPOINT [\"docker-entrypoint.sh\"]",
    "CMD [\"postgres\"]",
    "VOLUME /var/lib/postgresql/data",
    "ENV PGDATA=/var/lib/postgresql/data",
    "ENV PATH=/usr/local/bin:/usr/lib/postgresql/15/bin:/bin",
];

fn up(engine: &Dockerd) {
    compose(engine, "compose-postgres", &["up", "-d"]);
    wait_for("PostgreSQL", START, || {
        let container = engine.docker(&["ps", "-q"]);
        let ready =
            ["exec", container.trim(), "psql", "-h", "/tmp", "-U", "postgres", "-c", "select 1"];
        engine.try_docker(&ready).unwrap().status.success().then_some(())
    });
}

fn sql(engine: &Dockerd, text: &str) -> String {
    let psql = ["exec", "-T", "db", "psql", "-XAtq", "-h", "/tmp", "-U", "postgres", "-c", text];
    compose(engine, "compose-postgres", &psql)
}

#[test]
#[ignore = "make test-examples"]
fn examples_postgresql_recovers_from_a_crash_and_moves_to_another_host() {
    let (engines, server) = hosts_with_plugin(&["db-a", "db-b"]);
    let image = Image::new(IMAGE);
    for engine in &engines {
        image.import(engine, "postgres:15", &CHANGES);
    }
    let [a, b] = &engines[..] else { panic!("two") };
    let create = "volume create -d s3vol -o settle=never -o cache_size=20g database";
    let file = std::fs::read_to_string(crate::example("compose-postgres").join("compose.yml"));
    assert!(file.unwrap().contains(&format!("docker {create}")), "the file says what is done once");
    a.docker(&create.split(' ').collect::<Vec<_>>());
    up(a);
    sql(a, "create table orders as select n from generate_series(1, 1000) n");
    a.docker(&["kill", a.docker(&["ps", "-q"]).trim()]);
    up(a);
    sql(a, "insert into orders values (1001)");
    let sum = "select count(*), sum(n) from orders";
    assert_eq!(sql(a, sum), "1001|501501\n", "after the crash");
    // Neither option takes anything away that is external.
    compose(a, "compose-postgres", &["down", "-v"]);
    up(b);
    assert_eq!(sql(b, sum), "1001|501501\n", "on the other host");
    compose(b, "compose-postgres", &["down"]);
    let mut files = server.keys("team/database/");
    files.retain(|key| !key.ends_with('/'));
    assert_eq!(files, [""; 0], "files never become plain objects");
    // The image's own volume is this one, and no anonymous one is left.
    assert_eq!(b.docker(&["volume", "ls", "-q"]), "database\n");
}
