//! SQLite in both of its journal modes, synced at every step.

use crate::{Bucket, LIMIT, shell_with};

const SCRIPT: &str = r#"
import sqlite3, sys
for mode in ("delete", "wal"):
    db = sqlite3.connect(mode + ".db")
    assert db.execute("pragma journal_mode=" + mode).fetchone()[0] == mode
    db.execute("pragma synchronous=full")
    assert db.execute("pragma synchronous").fetchone()[0] == 2
    if sys.argv[1] == "write":
        db.execute("create table t(a integer primary key, b blob)")
        for i in range(200):
            with db:
                db.execute("insert into t(b) values(?)", (bytes([i]) * 3000,))
        with db:
            db.execute("update t set b = zeroblob(10) where a % 3 = 0")
        db.execute("vacuum")
    rows = db.execute("select count(*), sum(length(b)) from t").fetchone()
    print(mode, db.execute("pragma integrity_check").fetchone()[0], *rows)
    db.close()
"#;

#[test]
#[ignore = "make test-apps"]
fn apps_sqlite_databases_are_whole_after_a_move() {
    let mut bucket = Bucket::new();
    let script = bucket.local("script").join("sqlite.py");
    std::fs::write(&script, SCRIPT).unwrap();
    let wanted = "delete ok 200 402660\nwal ok 200 402660\n";
    for step in ["write", "read"] {
        let mounted = bucket.mount(&[], LIMIT);
        let seen = shell_with(&mounted.path, &format!("python3 \"$1\" {step}"), &[&script]);
        assert_eq!(seen, wanted, "{step}");
        mounted.unmount();
    }
}
