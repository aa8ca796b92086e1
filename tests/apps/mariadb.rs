//! MariaDB: load, restart, crash, and move.

use std::path::{Path, PathBuf};

use crate::volume::Mounted;
use crate::{Bucket, LIMIT, Server, shell_with};

/// `$1` is the data directory, `$2` a folder on the local disk for the socket and the log. The server
/// is no child of the shell that waits for it, hence `setsid`.
const TOOLS: &str = r#"
as() { setpriv --reuid=nobody --regid=nogroup --clear-groups -- "$@"; }
options() { echo "--no-defaults --datadir=$1 --skip-networking --socket=$2/sock --pid-file=$2/pid"; }
sql() { mariadb --no-defaults --socket="$2/sock" -u root -N -B -e "$3"; }
start() {
  as setsid mariadbd $(options "$@") >>"$2/log" 2>&1 </dev/null &
  local server=$!
  for _ in $(seq 1200); do
    sql "$1" "$2" 'select 1' >/dev/null 2>&1 && return
    kill -0 $server 2>/dev/null || break
    sleep 0.1
  done
  tail -20 "$2/log"
  return 1
}
stop() {
  local server=$(cat "$2/pid")
  case $3 in
  clean) sql "$1" "$2" shutdown ;;
  crash) kill -KILL $server ;;
  esac
  for _ in $(seq 1200); do kill -0 $server 2>/dev/null || { rm -f "$2/pid"; return 0; }; sleep 0.1; done
  tail -20 "$2/log"
  return 1
}
"#;

/// One table an engine, with rows of many sizes, an index and an overflow page here and there.
pub const LOAD: &str = "
    create database shop; use shop;
    create table inno(id int primary key auto_increment, n int, pad varchar(500), body mediumblob, key(n), key(pad(40))) engine=InnoDB;
    create table aria(id int primary key, n int, pad varchar(500), key(n)) engine=Aria transactional=1;
    create table isam(id int primary key, n int, pad varchar(500), key(n)) engine=MyISAM;
    insert into inno(n, pad, body) select seq % 97, repeat(char(65 + seq % 26), seq % 500), repeat(seq, seq % 3000) from seq_1_to_6000;
    insert into aria select id, n, pad from inno; insert into isam select id, n, pad from inno;
    update inno set n = n + 1000 where id % 5 = 0;
    delete from inno where id % 7 = 0;
    alter table inno add column more int default 7, algorithm=copy;";

pub const CHECK: &str = "use shop;
    check table inno, aria, isam extended;
    select count(*), sum(n), sum(length(pad)), sum(crc32(body)), sum(more) from inno;
    select count(*), sum(crc32(pad)) from aria; select count(*), sum(crc32(pad)) from isam;";

/// What the tables add up to, if CHECK TABLE says OK to every one.
pub fn checked(said: &str) -> String {
    let (verdicts, sums): (Vec<&str>, Vec<&str>) =
        said.lines().partition(|line| line.starts_with("shop."));
    let fine = verdicts.iter().filter(|line| line.ends_with("\tstatus\tOK")).count();
    assert_eq!((fine, verdicts.len()), (3, 3), "{said}");
    sums.join("\n")
}

struct Mariadb {
    data: PathBuf,
    local: PathBuf,
    _server: Server,
}

impl Mariadb {
    fn on(mounted: &Mounted, local: &Path) -> Self {
        let server = Server { pid_file: local.join("pid") };
        let data = mounted.path.join("data");
        Mariadb { data, local: local.to_owned(), _server: server }
    }

    fn run(&self, script: &str) -> String {
        shell_with(Path::new("/"), &format!("{TOOLS}\n{script}"), &[&self.data, &self.local])
    }

    fn sql(&self, statements: &str) -> String {
        self.run(&format!("sql \"$@\" \"{statements}\""))
    }

    fn check(&self) -> String {
        checked(&self.sql(CHECK))
    }
}

#[test]
#[ignore = "make test-apps"]
fn apps_mariadb_recovers_from_a_crash_and_moves_to_another_host() {
    let mut bucket = Bucket::new();
    let local = bucket.local("mariadb");
    shell_with(&local, "chown nobody .", &[]);
    let mounted = bucket.mount(&[], LIMIT);
    let server = Mariadb::on(&mounted, &local);
    server.run(
        "install -d -o nobody -g nogroup -m 700 \"$1\"
         as mariadb-install-db --no-defaults --datadir=\"$1\" --auth-root-authentication-method=normal \
           --skip-test-db >\"$2/install\" 2>&1 || { cat \"$2/install\"; false; }",
    );
    server.run("start \"$@\"");
    server.sql(LOAD);
    let loaded = server.check();
    server.run("stop \"$@\" clean; start \"$@\"");
    assert_eq!(server.check(), loaded, "after a restart");
    server.sql("insert into shop.inno(n, pad) values (1, 'committed before the crash')");
    let loaded = server.check();
    server.run("stop \"$@\" crash; start \"$@\"");
    assert_eq!(server.check(), loaded, "after a crash");
    server.run("stop \"$@\" clean");
    mounted.unmount();

    let mounted = bucket.mount(&[], LIMIT);
    server.run("start \"$@\"");
    assert_eq!(server.check(), loaded, "on the other host");
    server.sql("insert into shop.inno(n, pad) values (2, 'written there')");
    let loaded = server.check();
    server.run("stop \"$@\" crash");
    mounted.unmount();

    let mounted = bucket.mount(&[], LIMIT);
    server.run("start \"$@\"");
    assert_eq!(server.check(), loaded, "on the third host");
    server.run("stop \"$@\" clean");
    mounted.unmount();
}
