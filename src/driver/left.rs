//! Who still sees mounts that ended with an earlier run: containers that have to be started again.
//!
//! The plugin's own view of a dead mount is taken away at its start; a container keeps its own until it ends. Processes
//! of other containers can be seen only where the plugin is no container itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::sys::{FUSE_TYPE, mount_table, parse_mount_table};

/// A container's id has so many digits.
const ID: usize = 64;
/// As Docker shows it.
const SHORT: usize = 12;

/// Names what sees a mount of `url` in another view of the file system than this process's: containers by their ids,
/// others by a process. Mounts that this process sees, too, are served: they may be made meanwhile. Reads /proc only.
pub(super) fn who_sees(url: &str) -> Vec<String> {
    // It may have ended.
    let view = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    let Some(own) = view("self") else { return Vec::new() };
    let mut known = BTreeSet::from([own]);
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().filter(|name| name.bytes().all(|b| b.is_ascii_digit()))
        else {
            continue;
        };
        // One process of each view is enough; one that ends meanwhile sees nothing.
        if !view(pid).is_some_and(|view| known.insert(view)) {
            continue;
        }
        let table = fs::read(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
        let sees = |mount: &crate::sys::MountEntry| mount.kind == FUSE_TYPE && mount.source == url;
        let seen: BTreeSet<String> =
            parse_mount_table(&table).into_iter().filter(sees).map(|mount| mount.device).collect();
        if !seen.is_empty() {
            let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            let command = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            let process = || format!("process {pid} ({})", command.trim());
            found.entry(container_of(&groups).unwrap_or_else(process)).or_default().extend(seen);
        }
    }
    // Last, so that none that was seen came after it.
    let served: BTreeSet<String> =
        mount_table().unwrap_or_default().into_iter().map(|mount| mount.device).collect();
    let dead = |(who, seen): (String, BTreeSet<String>)| (!seen.is_subset(&served)).then_some(who);
    found.into_iter().filter_map(dead).collect()
}

/// The container that a process belongs to, by its control groups.
fn container_of(groups: &str) -> Option<String> {
    let is_id = |word: &&str| word.len() == ID && word.bytes().all(|b| b.is_ascii_hexdigit());
    let mut words = groups.split(|c: char| !c.is_ascii_alphanumeric());
    Some(words.find(is_id)?[..SHORT].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_told_by_their_control_groups() {
        let id = "0123456789abcdef".repeat(4);
        let short = Some("0123456789ab".to_owned());
        assert_eq!(container_of(&format!("0::/system.slice/docker-{id}.scope\n")), short);
        assert_eq!(container_of(&format!("12:pids:/docker/{id}\n0::/docker/{id}\n")), short);
        assert_eq!(container_of("0::/user.slice/session-1.scope\n"), None);
    }
}
