//! The plugin socket.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr, socket};

/// Listens on `path`. A socket that nobody serves any more is replaced; one that answers, or a file
/// that is no socket, is an error.
pub(super) fn bind(path: &Path) -> io::Result<UnixListener> {
    clear(path)?;
    UnixListener::bind(path)
}

/// Whether [`bind`] could succeed, shown by a socket that is left there. Nobody can connect to that: a connection that was
/// taken and given up would have to be made again, and dockerd then asks without saying what.
pub(super) fn can_bind(path: &Path) -> io::Result<()> {
    clear(path)?;
    let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    Ok(socket::bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?)
}

/// Takes away what nobody serves any more.
fn clear(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "a file that is no socket is in the way",
        )),
        Ok(_) if UnixStream::connect(path).is_ok() => {
            Err(io::Error::new(io::ErrorKind::AddrInUse, "another process serves this socket"))
        }
        Ok(_) => std::fs::remove_file(path),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_socket_is_replaced_a_live_one_and_a_file_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/s3vol.sock");
        let live = bind(&path).unwrap();
        assert_eq!(bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(can_bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(live);
        // What that leaves is replaced in turn, and nobody gets through meanwhile.
        can_bind(&path).unwrap();
        let refused = UnixStream::connect(&path).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        can_bind(&path).unwrap();
        bind(&path).unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "precious").unwrap();
        assert_eq!(bind(&file).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    }
}
