//! The simulation: processes that take turns on one thread, and a clock that jumps to whatever happens next.
//!
//! Each process is a current-thread runtime of its own, so that it can be killed: it is never polled again, and
//! whatever it has on its stack and heap is forgotten. A turn polls one until nothing in it is ready; then libc's
//! wait for events says so ([`crate::calls`]), and tells the runtime's earliest timer. When all are idle the clock
//! jumps to the earliest timer or [`Sim::at`].

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::runtime::Runtime;
use tokio::sync::{Notify, oneshot};

use crate::bucket::Bucket;
use crate::disk::Disk;
use crate::model::Line;
use crate::outside::Outside;
use crate::random::Random;
use crate::requests::Requests;
use crate::seam::{Machine, Seam, Time};

/// A schedule that lasts longer is stuck.
const LONGEST: Time = 40 * 24 * 3600 * crate::seam::SECOND;
/// And one in which so much happens without time going by.
const MOST_AT_ONCE: u32 = 200_000;

pub type Event = Box<dyn FnOnce()>;

/// A process of a host.
pub struct Process {
    pub machine: &'static Machine,
    pub host: usize,
    pub name: String,
    runtime: Runtime,
    died: Notify,
    buried: Cell<bool>,
}

// SAFETY: all of a simulation lives on one thread; futures only want to be told that they might move.
unsafe impl Send for Process {}
// SAFETY: as above.
unsafe impl Sync for Process {}

impl Process {
    /// Runs `work` in this process; `None` when it dies before that is done.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let (send, mut receive) = oneshot::channel();
        if self.is_dead() {
            return None;
        }
        self.runtime.spawn(async move {
            let _ = send.send(work.await);
        });
        sim().seam.met.set(true);
        tokio::select! {
            biased;
            () = self.death() => None,
            done = &mut receive => done.ok(),
        }
    }

    pub fn is_dead(&self) -> bool {
        self.machine.dead.get()
    }

    /// Returns when the process was killed.
    pub async fn death(&self) {
        let died = self.died.notified();
        if !self.is_dead() {
            died.await;
        }
    }
}

/// Work that cannot move to another thread, and need not.
pub struct Stays<T>(pub Pin<Box<dyn Future<Output = T>>>);

// SAFETY: as for `Process`.
unsafe impl<T> Send for Stays<T> {}

impl<T> Future for Stays<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        self.0.as_mut().poll(cx)
    }
}

pub struct Sim {
    pub seam: &'static Seam,
    pub bucket: Bucket,
    processes: RefCell<Vec<Arc<Process>>>,
    disks: RefCell<BTreeMap<usize, &'static Disk>>,
    events: RefCell<BTreeMap<(Time, u64), Event>>,
    next_event: Cell<u64>,
    seed: u64,
    /// Where the disks lie, which is elsewhere each time.
    below: PathBuf,
    /// What happened, for the comparison of two runs, and for people.
    pub story: RefCell<Story>,
    pub trouble: RefCell<Option<String>>,
    pub outside: RefCell<Outside>,
    pub requests: RefCell<Requests>,
    /// Which of `fault::points` were passed.
    pub passed: RefCell<BTreeSet<&'static str>>,
    /// Programs write to what is published just then.
    pub aims: Cell<bool>,
    /// And their process may be killed soon after.
    pub kills: Cell<bool>,
    /// So many large files may still be written.
    pub large: Cell<u32>,
    /// The clients' directories are in the bucket.
    pub shown: Cell<bool>,
    /// What the volume may hold, one line after the other.
    pub model: RefCell<Vec<Line>>,
}

// SAFETY: as for `Process`.
unsafe impl Sync for Sim {}

/// A digest of everything that happened, and the last lines of it.
#[derive(Debug, Default)]
pub struct Story {
    pub digest: u64,
    pub lines: std::collections::VecDeque<String>,
    pub aloud: bool,
}

thread_local! {
    static SIM: Cell<Option<&'static Sim>> = const { Cell::new(None) };
}

/// The simulation of this thread.
pub fn sim() -> &'static Sim {
    SIM.with(Cell::get).expect("a thread that simulates")
}

/// The code that runs passes one of `fault::points`.
pub fn passes(point: &'static str) {
    let Some(sim) = SIM.with(Cell::get) else { return };
    if let Some(machine) = sim.seam.running.get() {
        sim.passed.borrow_mut().insert(point);
        machine.passes(point);
    }
}

/// Says what happens: `{seed, time}` come by themselves.
#[macro_export]
macro_rules! tell {
    ($($what:tt)*) => { $crate::sim::sim().tell(format!($($what)*)) };
}

impl Sim {
    pub fn begin(seed: u64, below: PathBuf, aloud: bool) -> &'static Sim {
        let sim: &'static Sim = Box::leak(Box::new(Sim {
            seam: Seam::begin(),
            bucket: Bucket::new(seed),
            processes: RefCell::default(),
            disks: RefCell::default(),
            events: RefCell::default(),
            next_event: Cell::new(0),
            seed,
            below,
            story: RefCell::new(Story { aloud, ..Story::default() }),
            trouble: RefCell::default(),
            model: RefCell::default(),
            outside: RefCell::default(),
            requests: RefCell::default(),
            passed: RefCell::default(),
            aims: Cell::new(false),
            kills: Cell::new(false),
            large: Cell::new(0),
            shown: Cell::new(false),
        }));
        SIM.with(|here| here.set(Some(sim)));
        sim
    }

    /// Whether the process that runs now was killed.
    pub fn is_dead(&self) -> bool {
        self.seam.running.get().is_some_and(|machine| machine.dead.get())
    }

    pub fn now(&self) -> Time {
        self.seam.now.get()
    }

    pub fn tell(&self, what: String) {
        const KEPT: usize = 400;
        let mut story = self.story.borrow_mut();
        let now = self.now();
        let what = what.replace(&*self.below.to_string_lossy(), "");
        let line = format!("{:>9}.{:09} {what}", now / 1_000_000_000, now % 1_000_000_000);
        for byte in line.bytes() {
            story.digest = (story.digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if story.aloud {
            eprintln!("{line}");
        }
        if story.lines.len() == KEPT {
            story.lines.pop_front();
        }
        story.lines.push_back(line);
    }

    /// The schedule has failed; the first reason counts.
    pub fn fail(&self, why: String) {
        self.trouble.borrow_mut().get_or_insert(why);
    }

    /// `event` happens `after` from now, of no process's doing.
    pub fn at(&self, after: Time, event: impl FnOnce() + 'static) {
        let number = self.next_event.get();
        self.next_event.set(number + 1);
        self.events.borrow_mut().insert((self.now() + after, number), Box::new(event));
    }

    /// A new process of a host whose disk is `root`.
    pub fn process(&self, host: usize, root: PathBuf, name: String) -> Arc<Process> {
        let random = Random::new(self.seed, 1000 + self.seam.machines.borrow().len() as u64);
        let machine: &'static Machine =
            Box::leak(Box::new(Machine::new(root, self.disk(host), random)));
        self.seam.machines.borrow_mut().push(machine);
        let before = self.seam.running.replace(Some(machine));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime of one thread");
        self.seam.running.set(before);
        let died = Notify::new();
        let process =
            Arc::new(Process { machine, host, name, runtime, died, buried: Cell::new(false) });
        self.processes.borrow_mut().push(Arc::clone(&process));
        process
    }

    /// The local disk of a host.
    pub fn disk(&self, host: usize) -> &'static Disk {
        self.disks.borrow_mut().entry(host).or_insert_with(|| Box::leak(Box::default()))
    }

    /// Nothing is wrong any more, now.
    pub fn heal(&self) {
        self.bucket.heal();
        for disk in self.disks.borrow().values() {
            disk.fills(None, self.now());
            disk.breaks(0);
        }
    }

    /// And from now on, whatever was to come.
    pub fn stay_well(&self) {
        self.heal();
        self.bucket.well.set(true);
    }

    /// Kills a process: from now on nothing that it does has any effect.
    pub fn kill(&self, process: &Process) {
        if !process.is_dead() {
            tell!("{} is killed", process.name);
            process.machine.die();
            self.seam.met.set(true);
        }
    }

    /// Stops a process, which knows nothing of it, for a while.
    pub fn pause(&self, process: &Arc<Process>, length: Time) {
        tell!("{} is stopped", process.name);
        process.machine.paused.set(true);
        let process = Arc::clone(process);
        self.at(length, move || {
            tell!("{} goes on", process.name);
            process.machine.paused.set(false);
        });
    }

    /// Runs `director`, which no process is, until it is done.
    pub fn run<T: Send + 'static>(
        &self,
        director: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, String> {
        let process = self.process(usize::MAX, PathBuf::from("/"), "director".to_owned());
        let (send, mut receive) = oneshot::channel();
        process.runtime.spawn(async move {
            let _ = send.send(director.await);
        });
        let mut at_once = 0;
        loop {
            self.turns();
            if let Some(trouble) = self.trouble.borrow().clone() {
                return Err(trouble);
            }
            match receive.try_recv() {
                Ok(done) => return Ok(done),
                Err(oneshot::error::TryRecvError::Empty) => {}
                Err(oneshot::error::TryRecvError::Closed) => {
                    return Err("the director panicked".to_owned());
                }
            }
            let event = self.events.borrow().keys().next().map(|(at, _)| *at);
            let timers = self.processes.borrow();
            let awake = timers.iter().filter(|process| !process.machine.paused.get());
            let timers = awake.filter_map(|process| process.machine.timer.get());
            let Some(next) = timers.chain(event).min() else {
                return Err("nothing is left that could happen".to_owned());
            };
            at_once = if next <= self.now() + crate::seam::MICRO { at_once + 1 } else { 0 };
            if next > LONGEST || at_once > MOST_AT_ONCE {
                return Err(format!("the schedule does not end ({at_once} turns at one time)"));
            }
            self.seam.now.set(next.max(self.now()));
            self.happen();
        }
    }

    fn happen(&self) {
        loop {
            let due = {
                let mut events = self.events.borrow_mut();
                match events.first_entry() {
                    Some(first) if first.key().0 <= self.now() => first.remove(),
                    _ => return,
                }
            };
            due();
        }
    }

    /// Everybody's turns, until nobody has anything to do now.
    fn turns(&self) {
        loop {
            self.seam.met.set(false);
            let all = self.processes.borrow().clone();
            for process in &all {
                if !process.is_dead() && !process.machine.paused.get() {
                    self.turn(process);
                }
                if process.is_dead() && !process.buried.replace(true) {
                    process.machine.timer.set(None);
                    self.seam.forget_files(process.machine);
                    process.died.notify_waiters();
                    self.seam.met.set(true);
                    // It stays in memory as it is: to drop it would be to run it.
                    std::mem::forget(Arc::clone(process));
                    self.processes.borrow_mut().retain(|other| !Arc::ptr_eq(other, process));
                }
            }
            if !self.seam.met.get() {
                return;
            }
        }
    }

    fn turn(&self, process: &Process) {
        let machine = process.machine;
        let before = self.seam.running.replace(Some(machine));
        machine.idle.set(false);
        process.runtime.block_on(UntilIdle { machine });
        self.seam.running.set(before);
    }
}

/// Is ready when the runtime that polls it waits for something to happen, or is dead.
struct UntilIdle {
    machine: &'static Machine,
}

impl Future for UntilIdle {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.machine.idle.get() || self.machine.dead.get() {
            return Poll::Ready(());
        }
        *self.machine.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}
