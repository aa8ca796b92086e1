//! The folder of ext4.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// EXT4_SUPER_MAGIC of linux/magic.h.
const EXT4: i64 = 0xef53;

/// Makes sure that the reference lies on ext4: where it does not, on one in a file.
pub struct Reference {
    at: PathBuf,
    looped: bool,
}

impl Reference {
    pub fn prepare(at: &Path, image: &Path) -> Reference {
        let kind = nix::sys::statfs::statfs(at).unwrap().filesystem_type().0;
        let looped = kind as i64 != EXT4;
        if looped {
            std::fs::File::create(image).unwrap().set_len(1 << 30).unwrap();
            run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(image));
            run(Command::new("mount").args(["-o", "loop"]).arg(image).arg(at));
        }
        Reference { at: at.to_path_buf(), looped }
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        if self.looped {
            let _ = Command::new("umount").arg("-l").arg(&self.at).status();
        }
    }
}

fn run(command: &mut Command) {
    let done = command.stdin(Stdio::null()).output().unwrap();
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
}
