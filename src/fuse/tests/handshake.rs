//! The handshake and its hand-over, with a socket in the kernel's place.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use fuser::{Filesystem, InitFlags, KernelConfig, Request};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, socketpair};

use crate::fuse::handoff::Agreement;
use crate::fuse::session::serve_filesystem;
use crate::fuse::{FuseError, HandoffFiles, Serving};

const RESEND: [u8; 16] = [16, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Answers nothing but INIT.
struct Silent;

impl Filesystem for Silent {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        crate::fuse::negotiate::negotiate(config)
    }
}

/// INIT as Linux 6.18 sends it, offering everything.
fn init(unique: u64) -> Vec<u8> {
    let offered = !(1u64 << 31);
    let mut message = Vec::new();
    for word in [104u32, 26] {
        message.extend(word.to_ne_bytes());
    }
    message.extend(unique.to_ne_bytes());
    message.extend([0; 24]); // nodeid, uid, gid, pid, extensions
    for word in [7u32, 45, 131072, offered as u32, (offered >> 32) as u32] {
        message.extend(word.to_ne_bytes());
    }
    message.extend([0; 44]);
    assert_eq!(message.len(), 104);
    message
}

fn kernel() -> (OwnedFd, OwnedFd) {
    let flags = SockFlag::SOCK_CLOEXEC;
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap()
}

fn serve(device: OwnedFd, dir: &Path) -> Result<Serving, FuseError> {
    serve_filesystem(device, Silent, &HandoffFiles::new(dir), 2)
}

/// Everything that was written to the "kernel" so far.
fn received(kernel: &OwnedFd) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(len @ 1..) = recv(kernel.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
        messages.push(buffer[..len].to_vec());
    }
    messages
}

fn send(kernel: &OwnedFd, message: &[u8]) {
    assert_eq!(nix::unistd::write(kernel, message).unwrap(), message.len());
}

/// A mount made in `dir`; the reply to its INIT.
fn first_worker(dir: &Path, unique: u64) -> Vec<u8> {
    let (kernel, device) = kernel();
    send(&kernel, &init(unique));
    let _serving = serve(device, dir).unwrap();
    let mut messages = received(&kernel);
    assert_eq!(messages.len(), 1, "only the reply to INIT");
    messages.remove(0)
}

fn word(message: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(message[at..at + 4].try_into().unwrap())
}

#[test]
fn init_is_answered_from_the_request_alone() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let buffers = crate::sys::buffers_in_place();
    let reply = first_worker(a.path(), 2);
    assert!(crate::sys::buffers_in_place() > buffers, "`fuser` allocates buffers of another size");
    assert_eq!(reply, first_worker(b.path(), 2));

    assert_eq!(word(&reply, 4), 0, "no error");
    assert_eq!(word(&reply, 16), 7);
    let flags = u64::from(word(&reply, 28)) | u64::from(word(&reply, 48)) << 32;
    let agreed = InitFlags::from_bits_retain(flags);
    let wanted = InitFlags::FUSE_DO_READDIRPLUS
        | InitFlags::FUSE_READDIRPLUS_AUTO
        | InitFlags::FUSE_PARALLEL_DIROPS
        | InitFlags::FUSE_POSIX_ACL
        | InitFlags::FUSE_DONT_MASK
        | InitFlags::FUSE_MAX_PAGES;
    assert!(agreed.contains(wanted), "{agreed:?}");
    let never = InitFlags::FUSE_WRITEBACK_CACHE
        | InitFlags::FUSE_ATOMIC_O_TRUNC
        | InitFlags::FUSE_POSIX_LOCKS
        | InitFlags::FUSE_FLOCK_LOCKS
        | InitFlags::FUSE_PASSTHROUGH
        | InitFlags::FUSE_HANDLE_KILLPRIV
        | InitFlags::FUSE_HANDLE_KILLPRIV_V2
        | InitFlags::FUSE_SETXATTR_EXT
        | InitFlags::FUSE_AUTO_INVAL_DATA
        | InitFlags::FUSE_NO_OPENDIR_SUPPORT;
    assert!(!agreed.intersects(never), "{agreed:?}");
    assert_eq!(word(&reply, 36), 1 << 20, "max_write");
    assert_eq!(word(&reply, 40), 1, "time granularity");
}

#[test]
fn a_successor_says_nothing_but_resend() {
    let dir = tempfile::tempdir().unwrap();
    first_worker(dir.path(), 2);
    let (kernel, device) = kernel();
    let _serving = serve(device, dir.path()).unwrap();
    assert_eq!(received(&kernel), [RESEND.to_vec()]);
}

#[test]
fn a_successor_finishes_an_interrupted_handshake() {
    let dir = tempfile::tempdir().unwrap();
    let reply = first_worker(dir.path(), 2);
    let handoff = HandoffFiles::new(dir.path());
    let agreement = Agreement { answered: false, ..handoff.load().unwrap().unwrap() };
    handoff.store(&agreement).unwrap();
    let (kernel, device) = kernel();
    let _serving = serve(device, dir.path()).unwrap();
    assert_eq!(received(&kernel), [reply, RESEND.to_vec()]);
    assert!(handoff.load().unwrap().unwrap().answered);
}

#[test]
fn a_successor_that_negotiates_otherwise_refuses() {
    let dir = tempfile::tempdir().unwrap();
    first_worker(dir.path(), 2);
    let handoff = HandoffFiles::new(dir.path());
    let mut agreement = handoff.load().unwrap().unwrap();
    agreement.reply[28] ^= 1;
    handoff.store(&agreement).unwrap();
    let (kernel, device) = kernel();
    assert!(matches!(serve(device, dir.path()), Err(FuseError::Incompatible)));
    assert_eq!(received(&kernel), Vec::<Vec<u8>>::new());
}

#[test]
fn a_new_mount_does_not_believe_what_a_former_one_left() {
    let dir = tempfile::tempdir().unwrap();
    first_worker(dir.path(), 2);
    let reply = first_worker(dir.path(), 4);
    assert_eq!(word(&reply, 8), 4, "the reply to the new INIT");
}

#[test]
fn another_protocol_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (kernel, device) = kernel();
    let mut newer = init(2);
    newer[40] = 8;
    send(&kernel, &newer);
    assert!(matches!(serve(device, dir.path()), Err(FuseError::BadInit(_))));
}

#[tokio::test]
async fn the_end_of_the_connection_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let (kernel, device) = kernel();
    send(&kernel, &init(2));
    let mut serving = serve(device, dir.path()).unwrap();
    drop(kernel);
    assert!(matches!(serving.wait().await, Err(FuseError::Connection { .. })));
}
