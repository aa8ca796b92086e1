//! Access control lists: the same steps on the mounted volume and on the local disk.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;
/// The id of entries that name nobody.
const NOBODY: u32 = u32::MAX;

/// A list as the kernel wants it: version 2, then tag, permissions and id of each entry.
fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut value = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in entries {
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&perm.to_le_bytes());
        value.extend_from_slice(&id.to_le_bytes());
    }
    value
}

fn named(mask: u16) -> Vec<u8> {
    list(&[
        (USER_OBJ, 6, NOBODY),
        (USER, 4, 1),
        (GROUP_OBJ, 5, NOBODY),
        (MASK, mask, NOBODY),
        (OTHER, 0, NOBODY),
    ])
}

/// What a file shows of its permissions.
fn shown(path: &Path) -> String {
    let mode = path.symlink_metadata().unwrap().mode();
    let get = |name| xattr::get(path, name).map_err(|e| e.raw_os_error());
    format!("{mode:o} access {:?} default {:?}", get(ACCESS), get(DEFAULT))
}

fn set(path: &Path, name: &str, value: &[u8]) -> Result<(), Option<i32>> {
    xattr::set(path, name, value).map_err(|e| e.raw_os_error())
}

fn run(program: &str, arguments: &[&str], directory: &Path) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(directory).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
}

fn readable_by(uid: &str, name: &str, directory: &Path) -> bool {
    let who = [&format!("--reuid={uid}"), &format!("--regid={uid}"), "--clear-groups"];
    run("setpriv", &[who[0], who[1], who[2], "cat", name], directory)
}

/// The same in every place: each step and what it shows.
pub fn steps(place: &Path) -> Vec<String> {
    let mut seen = Vec::new();
    let dir = place.join("acl");
    std::fs::create_dir(&dir).unwrap();
    std::fs::set_permissions(&dir, PermissionsExt::from_mode(0o755)).unwrap();
    let file = dir.join("file");
    std::fs::write(&file, "content").unwrap();

    for mask in [7, 4, 0] {
        seen.push(format!("mask {mask}: {:?}", set(&file, ACCESS, &named(mask))));
        seen.push(shown(&file));
        for uid in ["1", "2"] {
            seen.push(format!("{uid} reads: {}", readable_by(uid, "file", &dir)));
        }
    }
    for mode in [0o604, 0o6777] {
        std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
        seen.push(format!("chmod {mode:o}: {}", shown(&file)));
    }
    let plain = list(&[(USER_OBJ, 7, NOBODY), (GROUP_OBJ, 5, NOBODY), (OTHER, 4, NOBODY)]);
    seen.push(format!("plain: {:?}", set(&file, ACCESS, &plain)));
    seen.push(shown(&file));
    seen.push(format!("default of a file: {:?}", set(&file, DEFAULT, &plain)));
    seen.push(format!("damaged: {:?}", set(&file, ACCESS, &plain[..plain.len() - 8])));
    seen.push(format!("unknown: {:?}", set(&file, "system.nothing", b"x")));

    for (number, default) in [None, Some(named(7)), Some(plain), None].into_iter().enumerate() {
        match &default {
            Some(value) => seen.push(format!("default: {:?}", set(&dir, DEFAULT, value))),
            None => {
                let removed = xattr::remove(&dir, DEFAULT).map_err(|e| e.raw_os_error());
                seen.push(format!("no default: {removed:?}"));
            }
        }
        seen.push(shown(&dir));
        for umask in ["077", "002"] {
            let made = format!("made-{number}-{umask}");
            let script = format!(
                "umask {umask}; : > {made}; mkdir {made}.d; mkfifo {made}.f; ln -s x {made}.l"
            );
            assert!(run("sh", &["-ec", &script], &dir), "{script}");
            for end in ["", ".d", ".f", ".l"] {
                seen.push(format!("{made}{end}: {}", shown(&dir.join(format!("{made}{end}")))));
            }
        }
    }
    seen
}
