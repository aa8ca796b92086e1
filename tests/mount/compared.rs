//! `make bench-peers`: that its program still understands `s3vol`, at its smallest scale and without peers.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::rig::finish;

/// The store as a program. `cargo test` builds it, unless it was told to build less.
fn store() -> PathBuf {
    let store = Path::new(env!("CARGO_BIN_EXE_s3vol")).with_file_name("examples").join("demo-s3");
    if !store.exists() {
        let mut build = Command::new(env!("CARGO"));
        let built = build.args(["build", "--locked", "--example", "demo-s3"]).status().unwrap();
        assert!(built.success());
    }
    store
}

#[test]
fn the_comparison_with_others_runs() {
    let work = tempfile::tempdir().unwrap();
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers/peers.py");
    let (code, table, progress) = finish(
        Command::new("python3")
            .arg(program)
            .env("S3VOL", env!("CARGO_BIN_EXE_s3vol"))
            .env("STORE", store())
            .env("WORK", work.path())
            .envs([("PEERS", "local s3vol"), ("NAMES", "cp ls"), ("SCALE", "1/1000")])
            .envs([("LATENCY", "0"), ("KEEP_CACHES", "1"), ("RUN_SECONDS", "120")]),
    );
    assert_eq!(code, Some(0), "{progress}");
    let cells: Vec<Vec<&str>> =
        table.lines().map(|line| line.split('|').map(str::trim).collect()).collect();
    for workload in ["cp -r of 100 files of 4 KiB", "ls -lR of 100 files, cold"] {
        for system in ["local", "s3vol"] {
            let row = cells.iter().find(|row| row.get(1..3) == Some(&[workload, system]));
            let seconds = row.map(|row| row[3].parse::<f64>());
            assert!(matches!(seconds, Some(Ok(_))), "{workload} on {system}:\n{progress}\n{table}");
        }
    }
    assert_eq!(work.path().read_dir().unwrap().count(), 0, "it cleans up after itself");
}
