//! What this machine says about itself.

use std::io;
use std::path::Path;

/// Space of the file system that holds a path, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSpace {
    pub total: u64,
    /// Free for processes without special rights.
    pub available: u64,
    /// All that there can be; 0 where the file system has no such limit.
    pub inodes: u64,
    pub inodes_available: u64,
}

/// Identity of this boot of the kernel: local caches of another boot are not trusted.
pub fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// The machine's name, for messages to people only.
pub fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .unwrap_or_else(|_| "unknown host".to_owned())
}

/// What somebody else wrote, for messages: without control characters, which terminals obey, and not without end.
pub fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// Space left where `path` lies. Not for paths on a volume of our own: that would ask ourselves.
pub fn disk_space(path: &Path) -> io::Result<DiskSpace> {
    let stat = nix::sys::statvfs::statvfs(path)?;
    let unit = stat.fragment_size() as u64;
    Ok(DiskSpace {
        total: stat.blocks() as u64 * unit,
        available: stat.blocks_available() as u64 * unit,
        inodes: stat.files() as u64,
        inodes_available: stat.files_available() as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_names_its_boot_and_its_space() {
        assert_eq!(boot_id().unwrap().len(), 36);
        assert!(!hostname().is_empty());
        let space = disk_space(Path::new("/")).unwrap();
        assert!(space.total >= space.available && space.total > 0);
    }
}
