use super::*;

#[test]
fn a_mountinfo_line_is_read_with_escapes_and_optional_fields() {
    let text = b"36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 shared:2 - fuse.s3vol s3://b/p\\134x rw\n\
                 garbage\n\
                 22 1 0:20 / / rw - ext4 /dev/vda rw\n";
    let table = parse_mount_table(text);
    assert_eq!(table.len(), 2);
    assert_eq!(table[0].path, Path::new("/mnt 2"));
    assert_eq!(table[0].kind, "fuse.s3vol");
    assert_eq!(table[0].source, "s3://b/p\\x");
    assert_eq!(table[0].device, "98:0");
    assert!(table[0].is_ours() && !table[1].is_ours());
    assert!(table[0].shared && !table[1].shared);
}

#[test]
fn a_path_lies_on_the_mount_that_is_nearest_and_on_top() {
    let text =
        b"1 0 0:1 / / rw - ext4 a rw\n2 1 0:2 / /a/b rw - ext4 b rw\n3 1 0:3 / /a rw - xfs c rw\n\
                 4 1 0:4 / /a/b rw shared:1 - ext4 d rw\n";
    let table = parse_mount_table(text);
    let source = |path: &str| holder_of(&table, Path::new(path)).unwrap().source.as_str();
    assert_eq!(
        [source("/x"), source("/a/bc"), source("/a/b/c"), source("/a/b")],
        ["a", "c", "d", "d"]
    );
}

#[test]
fn a_mount_point_is_one_name_below_its_root() {
    let root = Path::new("/s3vol/vol");
    assert!(MountPoint::new(root, Path::new("/s3vol/vol/data")).is_ok());
    for bad in ["/s3vol/vol", "/s3vol/vol/a/b", "/s3vol/vol/..", "/etc/x", "/s3vol/volume"] {
        assert!(MountPoint::new(root, Path::new(bad)).is_err(), "{bad}");
    }
}

#[test]
fn a_symlink_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/etc", dir.path().join("v")).unwrap();
    let at = MountPoint::new(dir.path(), &dir.path().join("v")).unwrap();
    make_mountpoint(&at).unwrap();
    assert!(at.open().is_err());
    assert!(remove_mountpoint(&at).is_err(), "only directories are removed");
}

#[test]
fn a_foreign_mount_is_not_detached() {
    let error = detach_all(Path::new("/proc")).unwrap_err();
    assert!(error.to_string().contains("not one of s3vol"), "{error}");
}
