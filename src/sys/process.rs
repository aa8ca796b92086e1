//! Children, signals and limits.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Code(i32),
    Signal(i32),
}

impl Exit {
    /// The number a shell would show.
    pub fn code(self) -> i32 {
        match self {
            Exit::Code(code) => code,
            Exit::Signal(signal) => 128 + signal,
        }
    }
}

/// The descriptors that a child finds as 3 and 4. All others, except 0 to 2, are closed by exec.
pub struct ChildFds {
    pub first: Option<OwnedFd>,
    pub second: Option<OwnedFd>,
}

/// Arranges that the child of `command` gets `fds`, dies with `parent_death` when the thread that
/// spawned it dies, has no blocked signals, and leads its own process group.
///
/// The numbers 3 and 4 must be reserved in this process ([`super::reserve_low_fds`]).
pub fn prepare_child(command: &mut Command, fds: ChildFds, parent_death: Signal) {
    prepare_child_keeping(command, fds, parent_death, Vec::new());
}

/// As [`prepare_child`]; the child also has the descriptors `kept`, under the numbers that they have here. They must
/// stay open until it was started.
pub fn prepare_child_keeping(
    command: &mut Command,
    fds: ChildFds,
    parent_death: Signal,
    kept: Vec<RawFd>,
) {
    let parent = std::process::id();
    command.process_group(0);
    let child_side = move || -> io::Result<()> {
        // SAFETY: only system calls follow, on descriptors that the closure owns and on plain
        // integers; nothing allocates or locks between fork and exec.
        unsafe {
            for (number, fd) in [(3, &fds.first), (4, &fds.second)] {
                if let Some(fd) = fd {
                    check(libc::dup2(fd.as_raw_fd(), number))?;
                } else if !kept.contains(&number) {
                    libc::close(number);
                }
            }
            // Whatever else some library opened without close-on-exec. Old kernels lack the call.
            libc::syscall(libc::SYS_close_range, 5u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
            for number in &kept {
                check(libc::fcntl(*number, libc::F_SETFD, 0))?;
            }
            check(libc::prctl(libc::PR_SET_PDEATHSIG, parent_death as libc::c_ulong, 0, 0, 0))?;
            // The parent may have died before that.
            if libc::getppid() as u32 != parent {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut none);
            check(libc::pthread_sigmask(libc::SIG_SETMASK, &none, std::ptr::null_mut()))?;
        }
        Ok(())
    };
    // SAFETY: the closure is async-signal-safe, see inside.
    unsafe { command.pre_exec(child_side) };
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Names this process as `ps` and `pidof` do: one that was started by a descriptor has its number for a name.
pub fn name_process(name: &std::ffi::CStr) {
    // Nothing hangs on it.
    let _ = nix::sys::prctl::set_name(name);
}

/// Blocks the given signals in this thread and returns a descriptor that reports them.
pub fn block_signals(signals: &[Signal]) -> io::Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in signals {
        set.add(*signal);
    }
    set.thread_block()?;
    Ok(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

/// One child that has ended, if any; orphans that landed here included.
pub fn reap() -> io::Result<Option<(u32, Exit)>> {
    loop {
        return match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => Ok(Some((pid.as_raw() as u32, Exit::Code(code)))),
            Ok(WaitStatus::Signaled(pid, signal, _)) => {
                Ok(Some((pid.as_raw() as u32, Exit::Signal(signal as i32))))
            }
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => Ok(None),
            Ok(_) | Err(Errno::EINTR) => continue,
            Err(e) => Err(e.into()),
        };
    }
}

/// Waits for the end of the child `pid`, and leaves all others.
pub fn reap_child(pid: u32) -> io::Result<Exit> {
    let child = i32::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
    loop {
        return match waitpid(Pid::from_raw(child), None) {
            Ok(WaitStatus::Exited(_, code)) => Ok(Exit::Code(code)),
            Ok(WaitStatus::Signaled(_, signal, _)) => Ok(Exit::Signal(signal as i32)),
            Ok(_) | Err(Errno::EINTR) => continue,
            Err(e) => Err(e.into()),
        };
    }
}

/// How the first thread of a child has ended, while other threads of it are still in the kernel, so that
/// [`reap`] does not tell of it. `None` while it runs.
pub fn leader_exit(pid: u32) -> io::Result<Option<Exit>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_leader_exit(&stat).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, "/proc/PID/stat has another form")
    })
}

/// From the text of `/proc/PID/stat`, whose second field may hold anything, parentheses included.
fn parse_leader_exit(stat: &str) -> Option<Option<Exit>> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    if !matches!(*fields.first()?, "Z" | "X") {
        return Some(None);
    }
    // The 52nd of all, in the form of wait(2).
    let status: i32 = fields.get(49)?.parse().ok()?;
    Some(Some(match status & 0x7f {
        0 => Exit::Code((status >> 8) & 0xff),
        signal => Exit::Signal(signal),
    }))
}

/// Sends a signal to a child of this process that has not been reaped yet.
pub fn send_signal(pid: u32, signal: Signal) -> io::Result<()> {
    let pid = i32::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
    match kill(Pid::from_raw(pid), signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Makes a child a likelier victim of the OOM killer than its parent.
pub fn add_oom_score(pid: u32, more: i32) -> io::Result<()> {
    let own = std::fs::read_to_string("/proc/self/oom_score_adj")?;
    let score = (own.trim().parse::<i32>().unwrap_or(0) + more).min(1000);
    std::fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string())
}

/// Raises the soft limit of open files to the hard one; returns it.
pub fn raise_open_files() -> io::Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}

/// Removes variables without a value from this process's environment: dockerd passes every variable of the
/// plugin's manifest, unset ones as empty strings. For the first thing that a program does.
pub fn forget_empty_variables() {
    for (name, value) in std::env::vars_os() {
        if value.is_empty() {
            // SAFETY: no other thread runs yet.
            unsafe { std::env::remove_var(name) };
        }
    }
}

/// Memory that this process holds (resident), bytes.
pub fn resident_memory() -> io::Result<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?.unwrap_or(4096);
    let pages = pages.ok_or_else(|| io::Error::other("statm tells no pages"))?;
    Ok(pages * size.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(state: &str, status: i32) -> String {
        let between = vec!["0"; 48].join(" ");
        format!("17 (a) Z (b) {state} {between} {status}\n")
    }

    #[test]
    fn the_end_of_a_first_thread_is_told_by_proc() {
        assert_eq!(parse_leader_exit(&stat("S", 0)), Some(None));
        assert_eq!(parse_leader_exit(&stat("Z", 9)), Some(Some(Exit::Signal(9))));
        assert_eq!(parse_leader_exit(&stat("Z", 75 << 8)), Some(Some(Exit::Code(75))));
        assert_eq!(parse_leader_exit(&stat("Z", 0)), Some(Some(Exit::Code(0))));
        assert_eq!(parse_leader_exit("nonsense"), None);
        assert_eq!(leader_exit(std::process::id()).unwrap(), None);
    }
}
