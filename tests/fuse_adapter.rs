//! The file system through the real kernel.
//!
//! Needs root and /dev/fuse: `cargo test --test fuse_adapter -- --ignored`. The mount is touched by
//! child processes, or by threads that nobody of the server waits for.

mod support;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use s3vol::data::NothingOutside;
use s3vol::fs::Fs;
use s3vol::fuse::{HandoffFiles, serve};
use s3vol::sys;
use support::s3server::TestS3;
use support::volume::volume;

/// Detaches the mount whatever happens.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = sys::detach_all(&self.0);
    }
}

impl Mounted {
    /// Runs a shell script in the mount; it must succeed within a minute.
    async fn sh(&self, script: &str) -> String {
        let child = tokio::process::Command::from({
            let mut command = Command::new("timeout");
            let script = format!("cd '{}'\n{script}", self.0.display());
            command.args(["60", "sh", "-exuc", &script]).stdin(Stdio::null());
            command
        })
        .output();
        let done = child.await.unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{}: {said}", done.status);
        String::from_utf8(done.stdout).unwrap()
    }
}

impl Mounted {
    async fn xattrs(&self) {
        self.sh("touch x").await;
        let file = self.0.join("x");
        let check = move || {
            assert_eq!(xattr::get(&file, "user.none").unwrap(), None);
            xattr::set(&file, "user.one", b"1").unwrap();
            xattr::set(&file, "user.empty", b"").unwrap();
            assert_eq!(xattr::get(&file, "user.one").unwrap().as_deref(), Some(&b"1"[..]));
            assert_eq!(xattr::get(&file, "user.empty").unwrap().as_deref(), Some(&b""[..]));
            let mut names: Vec<_> = xattr::list(&file).unwrap().collect();
            names.sort();
            assert_eq!(names, ["user.empty", "user.one"]);
            xattr::remove(&file, "user.one").unwrap();
            assert!(xattr::remove(&file, "user.one").is_err());
        };
        tokio::task::spawn_blocking(check).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mounted_volume_behaves_as_a_file_system() {
    let server = TestS3::start();
    let dir = tempfile::tempdir().unwrap();
    let volume = volume(&server, dir.path()).await;
    let fs = Arc::new(Fs::new(volume, Arc::new(NothingOutside)));

    let mountpoint = dir.path().join("mnt");
    let at = sys::MountPoint::new(dir.path(), &mountpoint).unwrap();
    sys::make_mountpoint(&at).unwrap();
    let device = sys::open_fuse_device().unwrap();
    sys::mount_fuse(&at, &device, sys::FuseMount::of("s3vol-test")).unwrap();
    let mounted = Mounted(mountpoint);
    let handoff = HandoffFiles::new(dir.path());
    let mut serving = serve(device, fs, tokio::runtime::Handle::current(), &handoff, 2).unwrap();

    // Names.
    mounted.sh("mkdir -p a/b; echo hello > a/b/f; test \"$(cat a/b/f)\" = hello").await;
    mounted.sh("mv a/b/f a/g; ! test -e a/b/f; rmdir a/b; ! rmdir a; test -d a").await;
    mounted.sh("ln a/g a/h; test \"$(stat -c %h a/g)\" = 2; rm a/g; cat a/h").await;
    mounted.sh("ln -s ../elsewhere a/s; test \"$(readlink a/s)\" = ../elsewhere").await;
    mounted
        .sh("mkfifo p; test -p p; mknod z c 1 5; test -c z; test \"$(stat -c %t,%T z)\" = 1,5")
        .await;
    mounted
        .sh("umask 027; touch m; mkdir n; test \"$(stat -c %a m)$(stat -c %a n)\" = 640750")
        .await;

    // Content.
    mounted
        .sh("head -c 3000000 /dev/urandom > /tmp/s3vol-smoke.$$; cp /tmp/s3vol-smoke.$$ big; sync big; \
             cmp /tmp/s3vol-smoke.$$ big; truncate -s 5000000 big; truncate -s 3000000 big; \
             cmp /tmp/s3vol-smoke.$$ big; cp big copy; cmp big copy; rm /tmp/s3vol-smoke.$$")
        .await;
    mounted.sh("echo one > t; echo two >> t; test \"$(cat t)\" = \"$(printf 'one\\ntwo')\"; : > t; ! test -s t").await;
    mounted.sh("fallocate -l 65536 r; fallocate -p -o 4096 -l 4096 r; test \"$(stat -c %s r)\" = 65536").await;

    // Attributes.
    mounted.sh("touch q; chmod 4711 q; chown 12:34 q; test \"$(stat -c %u,%g q)\" = 12,34").await;
    // Before 1970, with a fraction: seconds are rounded down and nanoseconds added.
    mounted
        .sh("touch -d '1965-03-04 05:06:07.25 UTC' q; \
             test \"$(date -r q +%s.%N)\" = -152391233.250000000")
        .await;

    mounted.xattrs().await;

    // Direct I/O, locks, durability of single writes.
    mounted.sh("dd if=/dev/zero of=d bs=4096 count=8 oflag=direct status=none; dd if=d of=/dev/null bs=4096 iflag=direct status=none; test \"$(stat -c %s d)\" = 32768").await;
    mounted.sh("flock d true; dd if=/dev/zero of=d bs=512 count=2 oflag=dsync status=none").await;

    // Many names.
    mounted
        .sh("mkdir many; cd many; for i in $(seq 1500); do : > file-$i; done; \
             test \"$(ls -U | sort | uniq | wc -l)\" = 1500; test \"$(ls -lU | grep -c file-)\" = 1500; \
             rm -rf ../many; ! test -e ../many")
        .await;
    mounted.sh("df . > /dev/null; ls -la").await;

    drop(mounted);
    serving.wait().await.unwrap();
}
