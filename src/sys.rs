//! The system calls that the rest of the crate needs and that no crate wraps as it wants them.
//!
//! But for the extended attributes in `store/file/record.rs`, this is the only module with `unsafe` code; each use
//! says why it is sound. Nothing here keeps
//! state, and nothing here looks at a path on a FUSE mount except by its place in a mount table.

mod beside;
mod exec;
mod fd;
mod heap;
mod host;
mod mount;
mod private;
mod process;
mod remove;
mod requests;
mod secrets;

pub use beside::beside;
pub use exec::{
    HandedKind, become_program, came_with_exec, handed, is_handed, memory_file, own_program,
    program_identity, put_back, spare,
};
pub use fd::{Inherited, close_on_exec, inherited, keep_only, replace, reserve_low_fds};
pub use heap::{bound_heap, trim_heap};
pub use host::{DiskSpace, boot_id, disk_space, hostname, shown};
pub use mount::{
    Answers, FUSE_TYPE, FuseMount, MountEntry, MountFlags, MountPoint, answers, cover, detach_all,
    detach_dead, detach_one, holder_of, make_mountpoint, mount_fuse, mount_table, open_fuse_device,
    parse_mount_table, remove_mountpoint, top_mount,
};
pub use private::make_private;
pub use process::{
    ChildFds, Exit, add_oom_score, block_signals, forget_empty_variables, leader_exit,
    name_process, prepare_child, prepare_child_keeping, raise_open_files, reap, reap_child,
    resident_memory, send_signal,
};
pub use remove::remove_if_there;
pub use requests::{BUFFER as REQUEST_BUFFER, Heap, LARGEST as LARGEST_WRITE, buffers_in_place};
pub use secrets::{hide_secrets, is_secret_variable};
