//! The model's sequences as system calls, on a mounted volume and on a folder of ext4: every call gives
//! the same errno, the trees look the same after every call, and the volume shows the same again from
//! the bucket alone, as files and as plain objects.

pub mod calls;
mod compare;
mod judge;
mod look;
mod outside;
mod pair;
mod reference;

use std::cell::RefCell;

use proptest::test_runner::{TestCaseError, TestError};

use self::calls::become_user;
use self::pair::Pair;
use self::reference::Reference;
use super::ops::{self, Mix, Op};
use super::support::seeded::{number, runner};

/// Sequences unless `S3VOL_TEST_CASES` says otherwise, and which unless `S3VOL_TEST_SEED` does.
const CASES: u32 = 60;
/// Of those in which others change the bucket.
const SHARED_CASES: u32 = 30;
const SEED: u64 = 3;

/// Sequences that once differed, each with what was wrong.
const KEPT_SHARED: &[&[Op]] = &[
    // One of each.
    &[
        Op::PutNew { dir: 0, name: 0, len: 100, seed: 1 },
        Op::PutBelow { dir: 0, name: 1, len: 100, seed: 2 },
        Op::PutReplaced { file: 0, len: 50, seed: 3 },
        Op::BothChanged { file: 0, len: 70, seed: 4, commit: true },
        Op::ChangedAndDeleted { file: 0, len: 80, seed: 5, commit: false },
        Op::Reopen { empty: true },
        Op::DeleteObject { entry: 3 },
        Op::DeleteObject { entry: 0 },
        Op::Crash { empty: true },
        Op::PutNew { dir: 0, name: 0, len: 10, seed: 6 },
        Op::Reopen { empty: false },
    ],
    // The times of what others replaced were others after a remount.
    &[
        Op::Create { dir: 0, name: 0 },
        Op::PutReplaced { file: 0, len: 50, seed: 1 },
        Op::Reopen { empty: true },
    ],
    &[
        Op::Create { dir: 0, name: 0 },
        Op::Link { entry: 0, dir: 0, name: 1 },
        Op::DeleteObject { entry: 0 },
        Op::Reopen { empty: false },
    ],
];

/// The same without others.
const KEPT: &[&[Op]] = &[
    // fallocate that changes no byte left the times as they were.
    &[Op::Create { dir: 0, name: 0 }, Op::Punch { file: 0, at: 86, len: 121 }],
    &[
        Op::Create { dir: 0, name: 0 },
        Op::Rewrite { file: 0, len: 900, seed: 1 },
        Op::Allocate { file: 0, at: 0, len: 100, keep: false },
    ],
    // So did chown of neither owner.
    &[Op::Create { dir: 0, name: 0 }, Op::Chown { entry: 0, uid: 4, gid: 4 }],
    // An attribute set to what it is counted as a change.
    &[
        Op::Create { dir: 0, name: 0 },
        Op::SetXattr { entry: 0, name: 5, len: 0 },
        Op::SetXattr { entry: 0, name: 5, len: 0 },
    ],
    // The difference that FUSE makes.
    &[
        Op::Make { dir: 0, name: 0, kind: 0, perm: 0 },
        Op::Chmod { entry: 0, perm: 0o3606 },
        Op::As { who: 5, umask: 0 },
        Op::Append { file: 0, len: 140, seed: 96 },
    ],
    // A directory that moved took its children along only until it got another owner.
    &[
        Op::Mkdir { dir: 0, name: 2 },
        Op::Create { dir: 1, name: 0 },
        Op::Rename { entry: 0, dir: 0, name: 0, how: 0 },
        Op::Chown { entry: 0, uid: 1, gid: 1 },
    ],
];

fn replay(options: &'static [&'static str], stream: u64, mix: Mix, cases: u32) {
    let seed = number("S3VOL_TEST_SEED").unwrap_or(SEED);
    let cases = number("S3VOL_TEST_CASES").map_or(cases, |n| n as u32);
    let mut runner = runner(cases, seed, stream);
    // The umask is this thread's own from here on.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).unwrap();
    become_user(0, 0);
    let mut pair = Pair::new(options);
    pair.quiet = mix == Mix::Shared;
    let image = pair.bucket.local("image").join("ext4");
    let _reference = Reference::prepare(&pair.reference, &image);
    pair.mount();
    let kept = if mix == Mix::Shared { KEPT_SHARED } else { KEPT };
    for ops in kept {
        pair.play(ops).unwrap_or_else(|why| panic!("{why}\n{}", ops::as_source(ops)));
    }
    let pair = RefCell::new(pair);
    let outcome = runner
        .run(&ops::sequence(mix), |ops| pair.borrow_mut().play(&ops).map_err(TestCaseError::fail));
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(why, ops)) => panic!("seed {seed}: {why}\n{}", ops::as_source(&ops)),
        Err(other) => panic!("seed {seed}: {other}"),
    }
    let mut pair = pair.into_inner();
    pair.unmount();
    pair.rests().unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    let played = pair.others.played;
    assert_eq!(played > 0, mix == Mix::Shared, "{played} changes from outside");
}

#[test]
#[ignore = "make test-posix"]
fn posix_sequences_do_what_they_do_on_ext4() {
    replay(&[], 0, Mix::Alone, CASES);
}

#[test]
#[ignore = "make test-posix"]
fn posix_sequences_while_settling_at_once_from_a_full_cache_do_what_they_do_on_ext4() {
    replay(&["settle_after=0", "commit=200ms", "cache_size=1MiB"], 1, Mix::Alone, CASES);
}

#[test]
#[ignore = "make test-posix"]
fn posix_sequences_while_others_change_the_bucket_do_what_they_do_on_ext4() {
    replay(&["settle_after=0", "refresh=0"], 2, Mix::Shared, SHARED_CASES);
}
