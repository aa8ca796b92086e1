//! Checks a program that is to take the place of the one that runs, before anything of it is believed.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::statfs::{FUSE_SUPER_MAGIC, fstatfs};

use crate::clock::Deadline;
use crate::sys::{self, ChildFds};
use crate::worker::About;

/// How long a program may take to say what it is.
const SAYS: Duration = Duration::from_secs(10);
/// It says less.
const LONGEST_ANSWER: usize = 64 << 10;
/// Bytes of an ELF file's head up to the machine.
const HEAD: usize = 20;
const MAGIC: &[u8] = b"\x7fELF";

/// Why a program is refused. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    #[error("the program {} cannot be read: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("the program {} lies on a volume, or on another FUSE file system; copy it to a local disk first", .0.display())]
    OnVolume(PathBuf),
    #[error("{} is no regular file; name the program's own file", .0.display())]
    NoFile(PathBuf),
    #[error(
        "{} does not belong to root, or others may write to it: `chown root` and `chmod go-w` it, if you trust what \
         is in it", .0.display()
    )]
    OfOthers(PathBuf),
    #[error("{} is no program that this machine runs: it is {found}; take the one for {wanted}", path.display())]
    OtherMachine { path: PathBuf, found: String, wanted: String },
    #[error("the program cannot be put into {}: {source}", place.display())]
    Place { place: PathBuf, source: io::Error },
    #[error(
        "{} does not say what it is ({why}); name the s3vol program itself, of a version that can take the place of \
         another", path.display()
    )]
    Silent { path: PathBuf, why: String },
    #[error(
        "version {version} does not read what is in use here: {}; take a version that does, or unmount all volumes \
         and install it", lacks.join(", ")
    )]
    Lacks { version: String, lacks: Vec<String> },
    #[error(
        "version {version} leaves what this one could not read if it had to come back: {}; take a version between the \
         two, or unmount all volumes and install it", leaves.join(", ")
    )]
    NoWayBack { version: String, leaves: Vec<String> },
    #[error(
        "version {version} leaves what the installed version {installed} could not read, which a restart may lead to: \
         {}; install a version between the two, or unmount all volumes and install it", leaves.join(", ")
    )]
    NoRestart { version: String, installed: String, leaves: Vec<String> },
}

impl ProgramError {
    pub(super) fn unreadable(path: &Path, source: io::Error) -> Self {
        ProgramError::Unreadable { path: path.to_owned(), source }
    }
}

fn says() -> Duration {
    crate::fault::duration(crate::fault::UP, SAYS)
}

/// Opens a program that may take over, as far as its file tells. `mounts` is where volumes are seen.
pub(super) fn open(path: &Path, mounts: &Path) -> Result<File, ProgramError> {
    let failed = |source| ProgramError::Unreadable { path: path.to_owned(), source };
    // A volume could let us wait, and goes on only with us: not even opened, where that can be told.
    if path.starts_with(mounts) {
        return Err(ProgramError::OnVolume(path.to_owned()));
    }
    // Neither a link nor a pipe is followed or waited for.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let file = match File::options().read(true).custom_flags(flags).open(path) {
        Err(e) if e.raw_os_error() == Some(libc::ELOOP) => {
            return Err(ProgramError::NoFile(path.to_owned()));
        }
        opened => opened.map_err(failed)?,
    };
    // However the path leads there. Others' could stall us as well.
    let system = fstatfs(&file).map_err(|error| failed(error.into()))?;
    if system.filesystem_type() == FUSE_SUPER_MAGIC {
        return Err(ProgramError::OnVolume(path.to_owned()));
    }
    let found = file.metadata().map_err(failed)?;
    if !found.is_file() {
        return Err(ProgramError::NoFile(path.to_owned()));
    }
    if found.uid() != 0 || found.mode() & 0o022 != 0 {
        return Err(ProgramError::OfOthers(path.to_owned()));
    }
    let own = File::open("/proc/self/exe").and_then(|own| head(&own)).map_err(failed)?;
    let head = head(&file).map_err(failed)?;
    let (found, wanted) = (machine(&head), machine(&own));
    if found != wanted {
        return Err(ProgramError::OtherMachine { path: path.to_owned(), found, wanted });
    }
    Ok(file)
}

fn head(file: &File) -> io::Result<Vec<u8>> {
    let mut head = vec![0; HEAD];
    let len = file.read_at(&mut head, 0)?;
    head.truncate(len);
    Ok(head)
}

/// For which kind of machine a file is, in words.
fn machine(head: &[u8]) -> String {
    let (Some(class), Some(order), Some(machine)) = (head.get(4), head.get(5), head.get(18..20))
    else {
        return "no ELF program".to_owned();
    };
    if !head.starts_with(MAGIC) {
        return "no ELF program".to_owned();
    }
    let bits = match class {
        1 => "32-bit",
        2 => "64-bit",
        _ => "unknown",
    };
    let (order, number) = match order {
        1 => ("little-endian", u16::from_le_bytes([machine[0], machine[1]])),
        _ => ("big-endian", u16::from_be_bytes([machine[0], machine[1]])),
    };
    let name = match number {
        3 => "x86".to_owned(),
        40 => "ARM".to_owned(),
        62 => "x86-64".to_owned(),
        183 => "AArch64".to_owned(),
        243 => "RISC-V".to_owned(),
        other => format!("machine {other}"),
    };
    format!("a {bits} {order} {name} program")
}

/// Asks the program, in a process of its own, what it is and reads. Blocks, for [`SAYS`] at most. Call it on a thread
/// that waits: the process ends with that.
pub(super) fn ask(program: &Path, named: &Path) -> Result<About, ProgramError> {
    let silent = |why: String| ProgramError::Silent { path: named.to_owned(), why };
    let mut command = Command::new(program);
    command.arg("about").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    // It needs none of what is secret here.
    command.env_clear();
    sys::prepare_child(&mut command, ChildFds { first: None, second: None }, Signal::SIGKILL);
    let mut child =
        command.spawn().map_err(|error| silent(format!("it cannot be started: {error}")))?;
    let said = match child.stdout.take() {
        Some(out) => hear(File::from(std::os::fd::OwnedFd::from(out)), Deadline::after(says())),
        None => Err("its output cannot be read".to_owned()),
    };
    // It has said all, or is too late.
    let ended = child.kill().and_then(|()| child.wait());
    if let Err(error) = ended {
        tracing::warn!(%error, "the process of a program that was asked is left");
    }
    let said = said.map_err(silent)?;
    let about: About = serde_json::from_slice(&said)
        .map_err(|error| silent(format!("it answers `about` with something else: {error}")))?;
    match about.program.as_str() {
        "s3vol" => Ok(about),
        other => Err(silent(format!("it says that it is {other:?}"))),
    }
}

fn hear(mut out: File, deadline: Deadline) -> Result<Vec<u8>, String> {
    let mut said = Vec::new();
    loop {
        let timeout = PollTimeout::try_from(deadline.left()).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(out.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) => return Err(format!("it does not answer within {} s", says().as_secs_f32())),
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => continue,
            Err(error) => return Err(error.to_string()),
        }
        let mut more = [0; 4096];
        match out.read(&mut more) {
            Ok(0) => return Ok(said),
            Ok(len) => said.extend_from_slice(&more[..len]),
            Err(error) => return Err(error.to_string()),
        }
        if said.len() > LONGEST_ANSWER {
            return Err("it says too much".to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_are_told_by_the_head_of_the_file() {
        let own = head(&File::open("/proc/self/exe").unwrap()).unwrap();
        assert!(machine(&own).contains("-bit"), "{}", machine(&own));
        assert_eq!(machine(b"#!/bin/sh\nexec something else"), "no ELF program");
        assert_eq!(machine(b"\x7fELF"), "no ELF program");
        let mut other = own.clone();
        other[18..20].copy_from_slice(&183u16.to_le_bytes());
        other[4] = 2;
        other[5] = 1;
        assert_eq!(machine(&other), "a 64-bit little-endian AArch64 program");
    }

    #[test]
    fn what_is_no_file_of_root_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (path, mounts) = (dir.path().join("program"), dir.path().join("vol"));
        std::fs::copy("/proc/self/exe", &path).unwrap();
        let mode = |mode| {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
            std::fs::set_permissions(&path, mode).unwrap();
        };
        mode(0o755);
        open(&path, &mounts).unwrap();
        mode(0o775);
        assert!(matches!(open(&path, &mounts), Err(ProgramError::OfOthers(_))));
        mode(0o755);
        std::os::unix::fs::symlink(&path, dir.path().join("link")).unwrap();
        let link = open(&dir.path().join("link"), &mounts);
        assert!(matches!(link, Err(ProgramError::NoFile(_))));
        assert!(matches!(open(dir.path(), &mounts), Err(ProgramError::NoFile(_))));
        let below = open(&mounts.join("v/program"), &mounts);
        assert!(matches!(below, Err(ProgramError::OnVolume(_))));
        let missing = open(&dir.path().join("none"), &mounts);
        assert!(matches!(missing, Err(ProgramError::Unreadable { .. })));
    }
}
