//! Images from scratch under the names of real ones.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::dockerd::{Dockerd, output_within};

/// `$1` is the root to be.
const BUSYBOX: &str = r#"
mkdir -p "$1/bin" "$1/etc" "$1/tmp" "$1/proc" "$1/sys" "$1/dev"
chmod 1777 "$1/tmp"
cp "$(command -v busybox)" "$1/bin/busybox"
for applet in $("$1/bin/busybox" --list); do
  [ "$applet" = busybox ] || ln -s busybox "$1/bin/$applet"
done
printf '%s:/bin/sh\n' root:x:0:0::/ www-data:x:33:33::/ postgres:x:999:999::/tmp >"$1/etc/passwd"
printf '%s:\n' root:x:0 www-data:x:33 postgres:x:999 >"$1/etc/group"
"#;

/// The root file system of an image, in an archive.
pub struct Image {
    dir: tempfile::TempDir,
}

impl Image {
    /// All of busybox-static, and what a shell script adds to the root file system `$1`.
    pub fn new(script: &str) -> Image {
        let dir = tempfile::tempdir().unwrap();
        let image = Image { dir };
        let pack = "tar -C \"$1\" --numeric-owner -cf \"$2\" .";
        let mut command = Command::new("sh");
        command.args(["-euc", &format!("{BUSYBOX}\n{script}\n{pack}"), "sh"]);
        command.arg(image.dir.path().join("root")).arg(image.tar());
        let out = output_within(command, Duration::from_secs(60)).unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        image
    }

    pub fn tar(&self) -> PathBuf {
        self.dir.path().join("tar")
    }

    /// Gives it to an engine, with instructions as in a Dockerfile.
    pub fn import(&self, engine: &Dockerd, name: &str, changes: &[&str]) {
        let tar = self.tar();
        let mut args = vec!["import"];
        args.extend(changes.iter().flat_map(|change| ["-c", change]));
        args.extend([path(&tar), name]);
        engine.docker(&args);
    }
}

pub fn path(path: &Path) -> &str {
    path.to_str().expect("a path of the test's own")
}

/// `alpine`, for an engine.
pub fn alpine(engine: &Dockerd) {
    Image::new("").import(engine, "alpine", &["CMD [\"/bin/sh\"]"]);
}
