use super::args::{Command, mount_options, options, try_parse};
use crate::sys::MountFlags;

fn parse(line: &str) -> Result<Command, clap::Error> {
    try_parse(line.split_whitespace().map(Into::into))
}

#[test]
fn mount_in_its_two_forms() {
    let Command::Mount(typed) =
        parse("s3vol mount --state /s -o commit=1s -o uid=7,gid=8 s3://b/x /mnt").unwrap()
    else {
        panic!("not a mount");
    };
    assert_eq!((typed.volume.url.as_str(), typed.detach), ("s3://b/x", false));
    assert_eq!(typed.volume.options, ["commit=1s", "uid=7,gid=8"]);
    let line = "/sbin/mount.fuse.s3vol s3://b/x /mnt -sv -t fuse.s3vol -o \
                rw,_netdev,nofail,x-systemd.automount,ro,commit=1s";
    let Command::Mount(helper) = parse(line).unwrap() else { panic!("not a mount") };
    assert!(helper.detach);
    assert_eq!(helper.mountpoint.to_str(), Some("/mnt"));
    let (given, flags) = mount_options(&helper.volume.options).unwrap();
    assert_eq!(flags, MountFlags::default());
    let given: Vec<_> = given.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(given, [("commit", "1s"), ("readonly", "")]);
}

#[test]
fn what_mount_enforces_is_a_flag_and_what_nobody_can_do_is_refused() {
    let flags = |text: &str| mount_options(&[text.to_owned()]).map(|(_, flags)| flags);
    assert_eq!(
        flags("nosuid,noexec,sync").unwrap(),
        MountFlags { nosuid: true, noexec: true, sync: true }
    );
    assert_eq!(
        flags("user,exec").unwrap(),
        MountFlags { nosuid: true, noexec: false, sync: false }
    );
    let refused = flags("dirsync").unwrap_err().to_string();
    assert!(refused.contains("dirsync"), "{refused}");
}

#[test]
fn wrong_usage_is_told_from_help() {
    for line in ["s3vol", "s3vol mount s3://b/x", "s3vol nonsense", "s3vol status --nonsense"] {
        assert!(parse(line).unwrap_err().use_stderr(), "{line}");
    }
    for line in ["s3vol --help", "s3vol --version", "s3vol mount --help"] {
        assert!(!parse(line).unwrap_err().use_stderr(), "{line}");
    }
    assert!(options(&["uid=1,uid=2".to_owned()]).is_err());
}

#[test]
fn roles_of_the_plugin() {
    assert_eq!(parse("s3vol driver").unwrap(), Command::Driver);
    assert_eq!(parse("s3vol worker").unwrap(), Command::Worker);
    assert_eq!(
        parse("s3vol umount /m").unwrap(),
        Command::Umount { path: "/m".into(), dead: false }
    );
    assert_eq!(
        parse("s3vol umount /m --dead").unwrap(),
        Command::Umount { path: "/m".into(), dead: true }
    );
    let Command::Plugin(plugin) = parse("s3vol plugin").unwrap() else { panic!("not the plugin") };
    assert_eq!(plugin.socket.to_str(), Some("/run/docker/plugins/s3vol.sock"));
}
