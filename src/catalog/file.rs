//! Small local files that are whole or absent after a crash.

use std::io::Write;
use std::path::Path;

/// Replaces `path` with `bytes`: written beside it, synced, renamed, and the folder synced. Blocks;
/// callers on an async runtime use `sys::beside`.
pub fn write_durably(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or_else(|| Path::new("/"));
    std::fs::create_dir_all(folder)?;
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let mut file = std::fs::File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    std::fs::File::open(folder)?.sync_all()
}
