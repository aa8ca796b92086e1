//! What a simulated process sees of its machine: the clock, randomness, its disk, and the wait for something to
//! happen. The symbols of libc in [`super::calls`] ask here.
//!
//! All of it belongs to one thread, the one that simulates. On every other thread, and on that one outside of a
//! simulated process, the calls go to the kernel.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::task::Waker;

use crate::disk::Disk;
use crate::random::Random;

/// Nanoseconds.
pub type Time = u64;
/// What a look at a clock takes.
pub const LOOK: Time = 50;
pub const MICRO: Time = 1_000;
pub const MILLI: Time = 1_000_000;
pub const SECOND: Time = 1_000_000_000;

/// When a simulation begins, by a clock that is right: seconds since 1970.
pub const BEGAN: i64 = 1_790_000_000;
/// And by the monotonic clocks.
const UPTIME: Time = 5_000 * SECOND;

/// One simulated process as libc sees it.
#[derive(Debug)]
pub struct Machine {
    /// The process was killed: nothing that it still does has any effect.
    pub dead: Cell<bool>,
    /// The process was stopped, and knows nothing of it.
    pub paused: Cell<bool>,
    /// How much its host's wall clock is ahead, nanoseconds.
    pub ahead: Cell<i64>,
    pub random: Random,
    /// The host's local disk: where it lies, and how it is.
    pub root: PathBuf,
    pub disk: &'static Disk,
    /// Changes of the disk so far, and the one at which the process is killed.
    pub changes: Cell<u64>,
    pub dies_at: Cell<Option<u64>>,
    /// The place in the code (`fault::points`) at which it is killed, and how often it passes there before.
    pub dies_there: Cell<Option<(&'static str, u64)>>,
    /// Nothing is ready to run; the earliest timer, if there is one.
    pub idle: Cell<bool>,
    pub timer: Cell<Option<Time>>,
    /// Of the future that runs the process until it is idle.
    pub waker: RefCell<Option<Waker>>,
}

// SAFETY: all of a simulation lives on one thread; futures only want to be told that they might move.
unsafe impl Sync for Machine {}

impl Machine {
    pub fn new(root: PathBuf, disk: &'static Disk, random: Random) -> Self {
        Machine {
            dead: Cell::new(false),
            paused: Cell::new(false),
            ahead: Cell::new(0),
            random,
            root,
            disk,
            changes: Cell::new(0),
            dies_at: Cell::new(None),
            dies_there: Cell::new(None),
            idle: Cell::new(false),
            timer: Cell::new(None),
            waker: RefCell::new(None),
        }
    }

    pub fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    /// The process passes a place at which it may be killed.
    pub fn passes(&self, point: &'static str) {
        match self.dies_there.get() {
            Some((at, 0)) if at == point => self.die(),
            Some((at, times)) if at == point => self.dies_there.set(Some((at, times - 1))),
            _ => {}
        }
    }

    pub fn die(&self) {
        self.dead.set(true);
        self.wake();
    }
}

/// What becomes of a change of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Made,
    /// The process dies in the middle of it.
    Torn,
    /// With EIO.
    Fails,
}

/// The machines of one simulation.
#[derive(Debug, Default)]
pub struct Seam {
    pub now: Cell<Time>,
    pub machines: RefCell<Vec<&'static Machine>>,
    /// Whose code runs.
    pub running: Cell<Option<&'static Machine>>,
    /// Which process opened a descriptor, by its place in `machines`.
    pub files: RefCell<BTreeMap<i32, &'static Machine>>,
    /// Whether the last turn met anything that came from elsewhere.
    pub met: Cell<bool>,
}

thread_local! {
    static SEAM: Cell<Option<&'static Seam>> = const { Cell::new(None) };
}

/// The simulation of this thread, while a process of it runs.
pub fn running() -> Option<(&'static Seam, &'static Machine)> {
    let seam = SEAM.try_with(Cell::get).ok().flatten()?;
    Some((seam, seam.running.get()?))
}

impl Seam {
    /// Makes this thread one that simulates.
    pub fn begin() -> &'static Seam {
        let seam: &'static Seam = Box::leak(Box::default());
        SEAM.with(|here| here.set(Some(seam)));
        seam
    }

    pub fn wall(&self, machine: &Machine) -> i64 {
        BEGAN * SECOND as i64 + self.now.get() as i64 + machine.ahead.get()
    }

    pub fn monotonic(&self) -> Time {
        UPTIME + self.now.get()
    }

    /// Whose file a descriptor is.
    pub fn owner(&self, fd: i32) -> Option<&'static Machine> {
        self.files.borrow().get(&fd).copied()
    }

    /// The local disk under a process that was killed is left as it is: its descriptors lead nowhere from now on,
    /// which also lets its locks go.
    pub fn forget_files(&self, machine: &'static Machine) {
        let mut files = self.files.borrow_mut();
        files.retain(|fd, owner| {
            let goes = std::ptr::eq(*owner, machine);
            if goes {
                crate::calls::lead_nowhere(*fd);
            }
            !goes
        });
    }
}

impl Machine {
    /// Counts a change of the disk, and says what becomes of it.
    pub fn changes(&self, now: Time) -> Change {
        if self.dead.get() {
            return Change::Fails;
        }
        let number = self.changes.get();
        self.changes.set(number + 1);
        if self.dies_at.get().is_some_and(|at| number >= at) {
            self.die();
            return Change::Torn;
        }
        if self.fails(now) {
            return Change::Fails;
        }
        Change::Made
    }

    /// Whether a call of the disk fails.
    pub fn fails(&self, now: Time) -> bool {
        let rate = self.disk.broken();
        let fails = rate > 0 && self.random.chance(rate);
        if fails {
            self.disk.fails(now);
        }
        fails
    }
}
