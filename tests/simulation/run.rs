//! Schedules in processes of their own: each begins in the same state of this program, so that a seed always does
//! the same, and none can harm another.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, FromRawFd, RawFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use s3vol::fault::Mutant;

use crate::aside::aside;
use crate::schedule::{Kind, Plan, run};
use crate::sim::Sim;
use crate::voice::{Voice, said};

/// A schedule that works for longer is in a loop without an end, seconds.
const LONGEST: libc::rlim_t = 120;
/// And one that takes so long, on a machine that has other work too, waits for something that never comes.
const PATIENCE: Duration = Duration::from_secs(900);

/// What became of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Of everything that happened.
    pub digest: u64,
    /// Simulated seconds, and requests.
    pub seconds: u64,
    pub requests: u64,
    /// The `fault::points` that were passed, with a space between.
    pub passed: String,
    pub trouble: Option<String>,
    /// The last of what happened.
    pub story: String,
}

/// A schedule that runs.
pub struct Running {
    child: libc::pid_t,
    pipe: File,
    began: Instant,
    dir: PathBuf,
}

/// What makes things happen below a folder.
pub type Directs = Box<dyn FnOnce(PathBuf) -> BoxFuture<'static, Result<(), String>> + Send>;

/// Begins one.
pub fn begin(plan: &Plan, mutant: Option<Mutant>, voice: Voice) -> Running {
    let (seed, plan) = (plan.seed, plan.clone());
    begin_with(seed, mutant, voice, Box::new(move |dir| Box::pin(run(plan, dir))))
}

/// Begins one that is no seed's.
pub fn begin_with(seed: u64, mutant: Option<Mutant>, voice: Voice, directs: Directs) -> Running {
    let shm = PathBuf::from("/dev/shm");
    let base = if shm.is_dir() { shm } else { std::env::temp_dir() };
    let dir = tempfile::Builder::new().prefix("s3vol-sim-").tempdir_in(base).expect("a folder");
    let dir = dir.keep();
    let mut ends: [RawFd; 2] = [0; 2];
    // SAFETY: room for two descriptors.
    assert_eq!(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
    // SAFETY: the child runs this one thread, starts its own, and ends without returning from here.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "no process");
    if child == 0 {
        let limit = libc::rlimit { rlim_cur: LONGEST, rlim_max: LONGEST };
        // SAFETY: a value that is only read.
        unsafe { libc::setrlimit(libc::RLIMIT_CPU, &limit) };
        let below = dir.clone();
        let outcome = aside(64 << 20, move || simulate(seed, mutant, voice, directs, below));
        let bytes = match outcome {
            Ok(outcome) => outcome.to_text().into_bytes(),
            Err(_) => b"0 0 0 1\n\nthe simulation itself panicked\n".to_vec(),
        };
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            // SAFETY: the bytes are there.
            let n = unsafe { libc::write(ends[1], rest.as_ptr().cast(), rest.len()) };
            if n <= 0 {
                break;
            }
            rest = &rest[n as usize..];
        }
        #[cfg(coverage)]
        write_counts();
        // SAFETY: nothing of this copy of the process is to run any more.
        unsafe { libc::_exit(0) };
    }
    // SAFETY: both are open, and nobody else has them.
    let pipe = unsafe {
        libc::close(ends[1]);
        File::from_raw_fd(ends[0])
    };
    Running { child, pipe, began: Instant::now(), dir }
}

/// What was counted is written at the end of a program, which a schedule has none of.
#[cfg(coverage)]
fn write_counts() {
    unsafe extern "C" {
        fn __llvm_profile_write_file() -> libc::c_int;
    }
    // SAFETY: the compiler's own, which takes nothing.
    unsafe { __llvm_profile_write_file() };
}

impl Running {
    /// What it says until it ends; an error when its time is over before.
    fn read(&mut self) -> std::io::Result<String> {
        let (mut text, mut part) = (Vec::new(), [0; 16 << 10]);
        loop {
            let left = PATIENCE.saturating_sub(self.began.elapsed());
            let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut wanted = [PollFd::new(self.pipe.as_fd(), PollFlags::POLLIN)];
            match poll(&mut wanted, left) {
                Err(nix::errno::Errno::EINTR) => continue,
                Ok(0) => return Err(ErrorKind::TimedOut.into()),
                ready => ready?,
            };
            match self.pipe.read(&mut part)? {
                0 => return String::from_utf8(text).map_err(std::io::Error::other),
                some => text.extend_from_slice(&part[..some]),
            }
        }
    }

    /// Waits for its end.
    pub fn end(mut self) -> Outcome {
        let child = self.child;
        // No thread for this: others may be forking.
        let read = self.read().or_else(|_| {
            // SAFETY: it was not waited for yet, so the number is still its.
            unsafe { libc::kill(child, libc::SIGKILL) };
            self.pipe.read_to_end(&mut Vec::new()).map(|_| String::new())
        });
        let mut status = 0;
        // SAFETY: it is our child.
        unsafe { libc::waitpid(child, &mut status, 0) };
        let _ = std::fs::remove_dir_all(&self.dir);
        let text = read.unwrap_or_default();
        match Outcome::parse(&text) {
            Some(outcome) => outcome,
            None => Outcome {
                digest: 0,
                seconds: 0,
                requests: 0,
                passed: String::new(),
                trouble: Some(format!("it does not end, or died (status {status:#x})")),
                story: text,
            },
        }
    }
}

impl Outcome {
    fn to_text(&self) -> String {
        let Outcome { digest, seconds, requests, passed, trouble, story } = self;
        let failed = u8::from(trouble.is_some());
        let trouble = trouble.as_deref().unwrap_or("").replace('\n', " ");
        format!("{digest} {seconds} {requests} {failed}\n{passed}\n{trouble}\n{story}")
    }

    fn parse(text: &str) -> Option<Outcome> {
        let (head, rest) = text.split_once('\n')?;
        let (passed, rest) = rest.split_once('\n')?;
        let (trouble, story) = rest.split_once('\n')?;
        let numbers: Vec<u64> = head.split(' ').filter_map(|n| n.parse().ok()).collect();
        let [digest, seconds, requests, failed] = numbers[..] else { return None };
        let trouble = (failed == 1).then(|| trouble.to_owned());
        let (passed, story) = (passed.to_owned(), story.to_owned());
        Some(Outcome { digest, seconds, requests, passed, trouble, story })
    }
}

fn simulate(
    seed: u64,
    mutant: Option<Mutant>,
    voice: Voice,
    directs: Directs,
    dir: PathBuf,
) -> Outcome {
    // SAFETY: no other thread of this process is left that could read it.
    unsafe { std::env::set_var(s3vol::fault::ONE_THREAD, "1") };
    if let Some(mutant) = mutant {
        mutant.release();
    }
    voice.begin();
    let sim = Sim::begin(seed, dir.clone(), voice != Voice::Silent);
    s3vol::fault::watch(crate::sim::passes);
    std::panic::set_hook(Box::new(|info| {
        let what = info.payload_as_str().unwrap_or("something");
        let at = info.location().map(ToString::to_string).unwrap_or_default();
        crate::sim::sim().fail(format!("a panic at {at}: {what}"));
    }));
    let done = sim.run(directs(dir)).and_then(|done| done);
    let mut trouble = sim.trouble.borrow().clone().or(done.err());
    if voice == Voice::Unheard && said() == 0 {
        trouble.get_or_insert("the code said nothing".to_owned());
    }
    let story = sim.story.borrow();
    Outcome {
        digest: story.digest,
        seconds: sim.now() / crate::seam::SECOND,
        requests: sim.bucket.requests.get(),
        passed: sim.passed.borrow().iter().copied().collect::<Vec<_>>().join(" "),
        trouble,
        story: story.lines.iter().map(|line| format!("{line}\n")).collect(),
    }
}

/// The plan as it is written in [`VARIABLE`].
pub fn describe(plan: &Plan) -> String {
    let Plan { seed, rounds, ops, clients, without } = plan;
    let mut text = format!("{seed} rounds={rounds} ops={ops} clients={clients}");
    if !without.is_empty() {
        let names = Kind::ALL.iter().filter(|(kind, _)| without.contains(kind));
        let names: Vec<&str> = names.map(|(_, name)| *name).collect();
        text.push_str(&format!(" without={}", names.join(",")));
    }
    text
}

pub fn parse(text: &str) -> Option<Plan> {
    let mut words = text.split_whitespace();
    let mut plan = Plan::of(words.next()?.parse().ok()?);
    for word in words {
        let (name, value) = word.split_once('=')?;
        match name {
            "rounds" => plan.rounds = value.parse().ok()?,
            "ops" => plan.ops = value.parse().ok()?,
            "clients" => plan.clients = value.parse().ok()?,
            "without" => {
                let kind = |name| Kind::ALL.iter().find(|(_, n)| *n == name).map(|(kind, _)| *kind);
                plan.without = value.split(',').map(kind).collect::<Option<_>>()?;
            }
            _ => return None,
        }
    }
    Some(plan)
}

/// Holds a plan to be run once more.
pub const VARIABLE: &str = "S3VOL_SIMULATION";

/// A smaller plan that fails, too, found within so many attempts.
pub fn shrink(plan: &Plan, mutant: Option<Mutant>, attempts: u32) -> Plan {
    let mut smallest = plan.clone();
    let mut left = attempts;
    let mut fails = |plan: &Plan| {
        if left == 0 {
            return false;
        }
        left -= 1;
        begin(plan, mutant, Voice::Silent).end().trouble.is_some()
    };
    loop {
        let mut smaller = Vec::new();
        let Plan { rounds, ops, clients, ref without, .. } = smallest;
        for rounds in [rounds / 2, rounds.saturating_sub(1)] {
            smaller.push(Plan { rounds, ..smallest.clone() });
        }
        for ops in [ops / 2, ops.saturating_sub(1)] {
            smaller.push(Plan { ops, ..smallest.clone() });
        }
        smaller.push(Plan { clients: clients.saturating_sub(1), ..smallest.clone() });
        for (kind, _) in Kind::ALL {
            if !without.contains(kind) {
                let without = without.iter().chain([kind]).copied().collect();
                smaller.push(Plan { without, ..smallest.clone() });
            }
        }
        let fits = |p: &Plan| p.rounds > 0 && p.ops > 0 && p.clients > 0 && *p != smallest;
        match smaller.into_iter().filter(fits).find(|plan| fails(plan)) {
            Some(plan) => smallest = plan,
            None => return smallest,
        }
    }
}
