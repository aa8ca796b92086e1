//! The connection to the kernel, which outlives the worker.
//!
//! The kernel sends INIT once in the life of a mount, and `fuser` insists on it. So `fuser` never sees
//! the real descriptor while it shakes hands: it gets one end of a socket pair on which INIT is played
//! to it, and its reply is taken from the other end. Then the real descriptor is put in the place of
//! the socket. The worker that made the mount takes INIT from the kernel and passes the reply on; a
//! successor plays the stored INIT, and goes on only if its reply is the same byte for byte, because
//! the kernel will not hear another.
//!
//! Requests that the dead worker had read and not answered are asked for again by FUSE_NOTIFY_RESEND
//! (Linux 6.9). All loops read one shared descriptor: the kernel fails requests that were read through a
//! clone when that clone is closed.
//!
//! The former worker must be gone before [`serve`] is called for the same mount.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fuser::{Config, Filesystem, Session, SessionACL};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType};
use tokio::sync::oneshot;

use super::adapter::Adapter;
use super::following::Following;
use super::handoff::Agreement;
use super::{FuseError, HandoffFiles, Notifier};
use crate::follow::ReadFs;
use crate::fs::Fs;

/// The kernel queues INIT before mount(2) returns, so it is there at once or never.
const INIT_DEADLINE: Duration = Duration::from_secs(10);

/// After this long without INIT it may be that a worker had read it and died before storing it.
const INIT_RESEND_AFTER: Duration = Duration::from_secs(1);

/// Bytes of `fuse_in_header`.
const HEADER: usize = 40;
const OPCODE_INIT: u32 = 26;
const PROTOCOL: u32 = 7;

/// FUSE_HAS_RESEND, bit 39, in the second word of INIT's flags.
const HAS_RESEND: u32 = 1 << (39 - 32);

/// A `fuse_out_header` alone: 16 bytes long, code 7 (FUSE_NOTIFY_RESEND), unique 0.
const NOTIFY_RESEND: [u8; 16] = [16, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// A volume that is being served.
#[derive(Debug)]
pub struct Serving {
    notifier: Notifier,
    handoff: HandoffFiles,
    ended: oneshot::Receiver<io::Result<()>>,
    thread: Option<JoinHandle<()>>,
    notifying: Option<JoinHandle<()>>,
}

impl Serving {
    /// For telling the kernel about changes that it did not make.
    pub fn notifier(&self) -> Notifier {
        self.notifier.clone()
    }

    /// Returns when the mount is gone: unmounted or aborted. May be called again if it was cancelled.
    pub async fn wait(&mut self) -> Result<(), FuseError> {
        let ended = (&mut self.ended).await;
        self.notifier.close();
        if let Some(thread) = self.thread.take() {
            // It has sent its result or panicked: it ends by itself, at once. The panic's own words
            // were printed by its hook.
            thread.join().map_err(|_| FuseError::Panicked)?;
        }
        if let Some(thread) = self.notifying.take() {
            // There is nothing left in the kernel that it could wait for.
            thread.join().map_err(|_| FuseError::Panicked)?;
        }
        match ended {
            Ok(Ok(())) => self.handoff.clear(),
            Ok(Err(error)) => Err(FuseError::connection("the FUSE loops ended", error)),
            Err(_) => Err(FuseError::Panicked),
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.notifier.close();
    }
}

/// Serves `fs` on the FUSE descriptor `fd` with `loops` threads, and `runtime` for requests that have to
/// wait. Makes the connection or takes it over, whichever it needs. Blocks until that is done.
pub fn serve(
    fd: OwnedFd,
    fs: Arc<Fs>,
    runtime: tokio::runtime::Handle,
    handoff: &HandoffFiles,
    loops: usize,
) -> Result<Serving, FuseError> {
    serve_filesystem(fd, Adapter::new(fs, runtime), handoff, loops)
}

/// [`serve`] for a volume that is only read.
pub fn serve_following(
    fd: OwnedFd,
    fs: Arc<ReadFs>,
    runtime: tokio::runtime::Handle,
    handoff: &HandoffFiles,
    loops: usize,
) -> Result<Serving, FuseError> {
    let told = Arc::clone(&fs);
    let tell = move |notifier: &Notifier| told.tell(Arc::new(notifier.clone()));
    serve_telling(fd, Following::new(fs, runtime), handoff, loops, tell)
}

pub(super) fn serve_filesystem<F: Filesystem>(
    device: OwnedFd,
    filesystem: F,
    handoff: &HandoffFiles,
    loops: usize,
) -> Result<Serving, FuseError> {
    serve_telling(device, filesystem, handoff, loops, |_| {})
}

/// `tell` gets the notifier before the first request is read.
fn serve_telling<F: Filesystem>(
    device: OwnedFd,
    filesystem: F,
    handoff: &HandoffFiles,
    loops: usize,
    tell: impl FnOnce(&Notifier),
) -> Result<Serving, FuseError> {
    let stored = handoff.load()?;
    let fresh = match &stored {
        None => Some(await_init(&device)?),
        Some(agreement) => unexpected_init(&device, agreement)?,
    };
    let session = match (fresh, stored) {
        (Some(request), _) => first(&device, filesystem, handoff, loops, request)?,
        (None, Some(agreement)) => successor(&device, filesystem, handoff, loops, agreement)?,
        (None, None) => return Err(FuseError::NoInit(INIT_DEADLINE)),
    };
    start(session, handoff.clone(), tell)
}

/// Makes the connection.
fn first<F: Filesystem>(
    device: &OwnedFd,
    filesystem: F,
    handoff: &HandoffFiles,
    loops: usize,
    request: Vec<u8>,
) -> Result<Session<F>, FuseError> {
    let (session, reply) = rehearse(filesystem, loops, &request)?;
    // Stored first: if this worker dies in between, the next one answers.
    let mut agreement = Agreement { request, reply, answered: false };
    handoff.store(&agreement)?;
    write(device, &agreement.reply).map_err(|e| FuseError::connection("replying to INIT", e))?;
    agreement.answered = true;
    handoff.store(&agreement)?;
    connect(device, &session)?;
    tracing::info!("FUSE connection made");
    Ok(session)
}

/// Takes the connection over.
fn successor<F: Filesystem>(
    device: &OwnedFd,
    filesystem: F,
    handoff: &HandoffFiles,
    loops: usize,
    mut agreement: Agreement,
) -> Result<Session<F>, FuseError> {
    let (session, reply) = rehearse(filesystem, loops, &agreement.request)?;
    if reply != agreement.reply {
        return Err(FuseError::Incompatible);
    }
    if !agreement.answered {
        match write(device, &agreement.reply) {
            // ENOENT: the kernel has it already.
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(e) => return Err(FuseError::connection("replying to INIT", e)),
        }
        agreement.answered = true;
        handoff.store(&agreement)?;
    }
    connect(device, &session)?;
    match resend(device) {
        Ok(()) => tracing::info!("FUSE connection taken over"),
        Err(error) => tracing::warn!(
            %error,
            "FUSE connection taken over, but the kernel cannot send unanswered requests again: \
             programs that waited for the former worker wait until they are killed"
        ),
    }
    Ok(session)
}

/// Plays INIT to `fuser`; its reply goes to nobody yet.
fn rehearse<F: Filesystem>(
    filesystem: F,
    loops: usize,
    request: &[u8],
) -> Result<(Session<F>, Vec<u8>), FuseError> {
    let failed = |e: Errno| FuseError::connection("the rehearsed handshake", e);
    let (ours, theirs) = nix::sys::socket::socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .map_err(failed)?;
    write(&ours, request).map_err(failed)?;
    let mut config = Config::default();
    config.acl = SessionACL::All;
    config.n_threads = Some(loops.max(1));
    config.clone_fd = false;
    let session = Session::from_fd(filesystem, theirs, SessionACL::All, config)
        .map_err(|e| FuseError::connection("the handshake", e))?;
    let mut reply = vec![0; 4096];
    let len = nix::sys::socket::recv(ours.as_raw_fd(), &mut reply, MsgFlags::MSG_DONTWAIT)
        .map_err(failed)?;
    reply.truncate(len);
    Ok((session, reply))
}

/// Puts the real descriptor in the place of the session's socket.
fn connect<F: Filesystem>(device: &OwnedFd, session: &Session<F>) -> Result<(), FuseError> {
    crate::sys::replace(session, device)
        .map_err(|e| FuseError::connection("putting the descriptor in place", e))
}

fn start<F: Filesystem>(
    session: Session<F>,
    handoff: HandoffFiles,
    tell: impl FnOnce(&Notifier),
) -> Result<Serving, FuseError> {
    let device = session.as_fd().as_raw_fd();
    let (notifier, notifying) =
        Notifier::start(session.notifier(), device).map_err(FuseError::Thread)?;
    tell(&notifier);
    let (sender, ended) = oneshot::channel();
    let thread = std::thread::Builder::new()
        .name("fuse-session".to_owned())
        .spawn(move || {
            // Nobody waits any more: the worker is ending.
            let _ = sender.send(session.run());
        })
        .inspect_err(|_| notifier.close())
        .map_err(FuseError::Thread)?;
    Ok(Serving { notifier, handoff, ended, thread: Some(thread), notifying: Some(notifying) })
}

/// The INIT of a new mount.
fn await_init(device: &OwnedFd) -> Result<Vec<u8>, FuseError> {
    let started = Instant::now();
    let mut asked_again = false;
    loop {
        let patience = if asked_again { INIT_DEADLINE } else { INIT_RESEND_AFTER };
        match patience.checked_sub(started.elapsed()) {
            Some(left) if readable(device, left)? => {
                let request = read(device)?;
                check_init(&request)?;
                return Ok(request);
            }
            Some(_) => {}
            None if asked_again => return Err(FuseError::NoInit(INIT_DEADLINE)),
            None => {
                asked_again = true;
                if let Err(error) = resend(device) {
                    tracing::debug!(%error, "cannot ask for INIT again");
                }
            }
        }
    }
}

/// The INIT of a new mount although an agreement is stored, which is then of a former mount. INIT is
/// the first thing that a new connection sends. Any other request that is read here is not lost: it
/// comes again by the RESEND that follows, which is why nothing is read where there is no RESEND.
/// (A FORGET does not come again; lookup counts are not relied upon across workers.)
fn unexpected_init(device: &OwnedFd, stored: &Agreement) -> Result<Option<Vec<u8>>, FuseError> {
    let resends = word(&stored.request, HEADER + 16).is_some_and(|flags| flags & HAS_RESEND != 0);
    if !resends || !readable(device, Duration::ZERO)? {
        return Ok(None);
    }
    let request = read(device)?;
    if word(&request, 4) != Some(OPCODE_INIT) {
        return Ok(None);
    }
    check_init(&request)?;
    Ok(Some(request))
}

fn check_init(request: &[u8]) -> Result<(), FuseError> {
    if word(request, 4) != Some(OPCODE_INIT) {
        return Err(FuseError::BadInit("another operation"));
    }
    // With a newer major version `fuser` would wait for a second INIT, which nobody plays to it.
    if word(request, HEADER) != Some(PROTOCOL) {
        return Err(FuseError::BadInit("another major version"));
    }
    Ok(())
}

/// The host-endian 32-bit word at `at`.
fn word(message: &[u8], at: usize) -> Option<u32> {
    let bytes = message.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

fn readable(device: &OwnedFd, patience: Duration) -> Result<bool, FuseError> {
    let mut fds = [PollFd::new(device.as_fd(), PollFlags::POLLIN)];
    let millis = u16::try_from(patience.as_millis()).unwrap_or(u16::MAX);
    match nix::poll::poll(&mut fds, PollTimeout::from(millis)) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(e) => Err(FuseError::connection("waiting for INIT", e)),
    }
}

fn read(device: &OwnedFd) -> Result<Vec<u8>, FuseError> {
    let mut buffer = vec![0; crate::sys::REQUEST_BUFFER];
    loop {
        match nix::unistd::read(device, &mut buffer) {
            Ok(len) => {
                buffer.truncate(len);
                buffer.shrink_to_fit();
                return Ok(buffer);
            }
            // ENOENT: the request was taken back while it was read.
            Err(Errno::EINTR | Errno::ENOENT) => {}
            Err(e) => return Err(FuseError::connection("reading INIT", e)),
        }
    }
}

fn resend(device: &OwnedFd) -> Result<(), Errno> {
    write(device, &NOTIFY_RESEND)
}

/// One message is one write.
fn write(device: &OwnedFd, message: &[u8]) -> Result<(), Errno> {
    loop {
        match nix::unistd::write(device, message) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e),
        }
    }
}
