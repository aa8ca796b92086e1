//! `mount -t fuse.s3vol`.

use std::process::Command;
use std::time::Duration;

use super::rig::{GIVEN_BACK, Place, clean, finish, mount_of, object, run_ok, s3vol, s3vol_as};
use super::support::s3server::TestS3;
use super::support::wait_for;

#[test]
fn called_by_its_helper_name() {
    let (server, place) = (TestS3::start(), Place::new());
    let url = format!("s3://{}/v", server.bucket());
    let mut command = s3vol_as("/sbin/mount.fuse.s3vol", Some(&server));
    command.env("S3VOL_STATE", place.state()).arg(&url).arg(&place.at);
    let (code, _, error) = finish(command.args(["-n", "-o", "rw,noatime,_netdev,uid=7,gid=8"]));
    assert_eq!(code, Some(0), "{error}");
    assert_eq!(mount_of(&place.at).unwrap(), ("fuse.s3vol".to_owned(), url));
    std::fs::write(place.file("f"), "x").unwrap();
    run_ok("umount", &[place.at.as_os_str()]);
    wait_for("the object", GIVEN_BACK, || object(&server, "v/f"));
    let state = place.state();
    wait_for("the end of the background process", GIVEN_BACK, || {
        let (_, out, _) = finish(s3vol(&server).args(["status", "--json", "--state"]).arg(&state));
        (out.trim() == "[]").then_some(())
    });
}

/// As fstab does it: `mount(8)` finds the helper in /sbin, here one of a private mount namespace.
const SCRIPT: &str = r#"
set -e
mount -t tmpfs none "$WORK/ns"
mkdir "$WORK/ns/upper" "$WORK/ns/work"
mount -t overlay none -o "lowerdir=/usr/sbin,upperdir=$WORK/ns/upper,workdir=$WORK/ns/work" /usr/sbin
ln -s "$BINARY" /usr/sbin/mount.fuse.s3vol
mount -t fuse.s3vol "$URL" "$AT" -o settle_after=1s,nosuid
echo hello > "$AT/f"
grep " $AT " /proc/self/mountinfo
umount "$AT"
"#;

#[test]
fn mount_8_finds_it() {
    let (server, place) = (TestS3::start(), Place::new());
    let url = format!("s3://{}/v", server.bucket());
    std::fs::create_dir(place.dir.path().join("ns")).unwrap();
    let mut command = Command::new("unshare");
    clean(&mut command, Some(&server));
    command.args(["--mount", "--propagation", "private", "sh", "-c", SCRIPT]);
    command.env("WORK", place.dir.path()).env("BINARY", env!("CARGO_BIN_EXE_s3vol"));
    command.env("URL", &url).env("AT", &place.at).env("S3VOL_STATE", place.state());
    let (code, out, error) = finish(&mut command);
    assert_eq!(code, Some(0), "{out}{error}");
    assert!(out.contains(&format!("- fuse.s3vol {url} ")), "{out}");
    let settled = || object(&server, "v/f").filter(|text| text == "hello\n");
    wait_for("the object", Duration::from_secs(60), settled);
    let state = place.state();
    wait_for("the end of the background process", GIVEN_BACK, || {
        let (_, out, _) = finish(s3vol(&server).args(["status", "--json", "--state"]).arg(&state));
        (out.trim() == "[]").then_some(())
    });
}
