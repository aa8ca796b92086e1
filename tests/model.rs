//! The file system against a reference model: random sequences of operations over a volume in this
//! process, without FUSE, while the bucket settles, changes under it, and the process closes or
//! crashes. After each sequence the trees are equal, the bucket holds exactly the plain objects of
//! the tree, and a mount from the bucket alone shows the same again.
//!
//! `S3VOL_MODEL_CASES` says how many sequences (a failing one is printed shrunk, as Rust source, ready
//! to be kept in `model/regressions.rs`); `S3VOL_MODEL_SEED` draws others.

#[path = "model/attributes.rs"]
mod attributes;
#[path = "model/beside.rs"]
mod beside;
#[path = "model/churn.rs"]
mod churn;
#[path = "model/compare.rs"]
mod compare;
#[path = "model/contents.rs"]
mod contents;
#[path = "model/names.rs"]
mod names;
#[path = "model/ops.rs"]
mod ops;
#[path = "model/oracle.rs"]
mod oracle;
#[path = "model/outside.rs"]
mod outside;
#[path = "model/regressions.rs"]
mod regressions;
#[path = "model/rest.rs"]
mod rest;
#[path = "model/run.rs"]
mod run;
mod support;
#[path = "model/world.rs"]
mod world;

use std::io::Write as _;
use std::sync::{Once, OnceLock};
use std::time::Duration;

use proptest::test_runner::{TestCaseError, TestError};

use ops::{Mix, Op};
use run::Run;
use support::seeded::{number, runner};

/// Sequences a test runs unless the environment says otherwise: seconds, not minutes.
const CASES: u32 = 24;
/// The same sequences every time unless the environment says otherwise.
const SEED: u64 = 14;

/// No step takes this long on the slowest machine.
const STUCK: Duration = Duration::from_secs(20);

pub fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
    })
}

/// Runs one sequence on a fresh volume.
pub fn play(ops: &[Op], refresh: Duration) -> Result<(), String> {
    runtime().block_on(async {
        let mut run = Run::new(refresh).await;
        let mut result = Ok(());
        for (number, op) in ops.iter().enumerate() {
            let step = tokio::time::timeout(STUCK, Box::pin(run.step(op))).await;
            result = step.unwrap_or_else(|_| Err("stuck".into()));
            result = result.map_err(|e| format!("op {number} {op:?}: {e}"));
            if result.is_err() {
                break;
            }
        }
        if result.is_ok() {
            let finish = tokio::time::timeout(STUCK * 3, run.finish()).await;
            result = finish
                .unwrap_or_else(|_| Err("stuck".into()))
                .map_err(|e| format!("at the end: {e}"));
        }
        run.world.give_up();
        result
    })
}

/// Making a failing sequence smaller takes minutes, and whoever ends the test meanwhile would never learn
/// why it failed: this goes past what the test harness keeps back.
fn tell(seed: u64, why: &str) {
    let _ = writeln!(std::io::stderr(), "seed {seed} failed, and is made smaller now: {why}");
}

fn explore(mix: Mix, refresh: Duration) {
    let cases = number("S3VOL_MODEL_CASES").map_or(CASES, |n| n as u32);
    let seed = number("S3VOL_MODEL_SEED").unwrap_or(SEED);
    let mut runner = runner(cases, seed, 0);
    let first = Once::new();
    let outcome = runner.run(&ops::sequence(mix), |ops| {
        play(&ops, refresh).map_err(|why| {
            first.call_once(|| tell(seed, &why));
            TestCaseError::fail(why)
        })
    });
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(why, ops)) => panic!("seed {seed}: {why}\n{}", ops::as_source(&ops)),
        Err(other) => panic!("seed {seed}: {other}"),
    }
}

#[test]
fn a_volume_of_its_own() {
    explore(Mix::Alone, Duration::from_secs(3600));
}

#[test]
fn a_volume_that_others_may_change() {
    explore(Mix::Alone, Duration::ZERO);
}

#[test]
fn a_volume_that_others_change() {
    explore(Mix::Shared, Duration::ZERO);
}
