//! Trees of files, packed, copied and compared by the usual programs.

use std::path::{Path, PathBuf};

use crate::{Bucket, LIMIT, shell, shell_with};

/// What a tree can hold: modes, owners, times, links, holes, special files, attributes, ACLs,
/// capabilities, names that are no UTF-8 and names that are no good keys.
const TREE: &str = r#"
    mkdir -p a/b/c 'with space' empty
    for i in $(seq 200); do head -c $((i * 37)) /dev/urandom >a/f$i; done
    head -c 3000000 /dev/urandom >a/b/large
    truncate -s 5M a/b/sparse; echo middle | dd of=a/b/sparse bs=1 seek=2000000 conv=notrunc status=none
    ln a/f1 a/b/hard; ln a/f1 'with space/hard too'
    ln -s ../f2 a/b/soft; ln -s nowhere dangling; ln dangling a/same-dangling
    mkfifo a/fifo
    touch $'a/\xff\xfe' $'a/new\nline' 'a/%2F..' a/.s3vol 'a/trailing '
    chmod 4755 a/f3; chmod 2750 a/b; chmod 1777 empty; chmod 000 a/f4; chmod 0400 a/f5
    chown 1234:5678 a/f6 a/b/c; chown -h 4321 dangling
    setfattr -n user.note -v hello a/f7; setfattr -n user.large -v "$(head -c 3000 /dev/zero | tr '\0' x)" a/f8
    setfattr -n trusted.seen -v yes a/b
    setfacl -m u:1234:rw,g:5678:r a/f9; setfacl -d -m u:1234:rwx a/b/c
    cp "$(type -P true)" a/true; setcap cap_net_raw+ep a/true
    touch -d '2001-02-03 04:05:06.123456789' a/f10; touch -h -d '1999-01-01' dangling
    find . -depth -type d -exec touch -d '2010-10-10 10:10:10.101010101' {} +
"#;

/// A tree on the local disk.
fn tree(bucket: &Bucket) -> PathBuf {
    let dir = bucket.local("tree");
    shell(&dir, TREE);
    dir
}

/// What rsync would have to change so that `there` is as `here`: with everything that it knows of,
/// contents included.
fn difference(here: &Path, there: &Path) -> String {
    compare("", here, there)
}

fn compare(but: &str, here: &Path, there: &Path) -> String {
    let rsync = "rsync -naHAX --checksum --delete --itemize-changes";
    shell_with(Path::new("/"), &format!("{rsync} {but} \"$1/\" \"$2/\""), &[here, there])
}

#[test]
#[ignore = "make test-apps"]
fn apps_an_unpacked_archive_is_the_same_after_a_move_and_at_rest() {
    let mut bucket = Bucket::new();
    let archive = bucket.local("archive").join("archive.tar");
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    shell_with(project, "tar -cf \"$1\" src tests docs Cargo.lock", &[&archive]);
    let tree = tree(&bucket);
    let mounted = bucket.mount(&[], LIMIT);
    shell_with(&mounted.path, "tar -xpf \"$1\"", &[&archive]);
    let all = "--xattrs --xattrs-include='*' --acls --numeric-owner --sparse";
    shell_with(
        &mounted.path,
        &format!("mkdir tree; tar -C \"$1\" {all} -cf - . | tar -C tree {all} -xpf -"),
        &[&tree],
    );
    let unpacked = mounted.path.join("tree");
    assert_eq!(difference(&tree, &unpacked), "");
    mounted.unmount();
    let lock = std::fs::read(project.join("Cargo.lock")).unwrap();
    assert_eq!(bucket.object("Cargo.lock"), Some(lock));
    let mounted = bucket.mount(&[], LIMIT);
    // Contents, modes, owners and times.
    shell_with(&mounted.path, "tar -df \"$1\"", &[&archive]);
    assert_eq!(difference(&tree, &unpacked), "");
    // And out again.
    let back = bucket.local("back");
    shell_with(&back, &format!("tar -C \"$1\" {all} -cf - . | tar {all} -xpf -"), &[&unpacked]);
    assert_eq!(difference(&tree, &back), "");
    mounted.unmount();
}

#[test]
#[ignore = "make test-apps"]
fn apps_rsync_finds_nothing_to_do_the_second_time_nor_after_a_move() {
    let mut bucket = Bucket::new();
    let tree = tree(&bucket);
    let mounted = bucket.mount(&[], LIMIT);
    let copy = mounted.path.join("copy");
    let rsync = "rsync -aHAX --itemize-changes \"$1/\" \"$2/\"";
    let first = shell_with(Path::new("/"), rsync, &[&tree, &copy]);
    assert!(first.lines().count() > 200, "{first}");
    assert_eq!(shell_with(Path::new("/"), rsync, &[&tree, &copy]), "");
    assert_eq!(difference(&tree, &copy), "");
    mounted.unmount();
    let mounted = bucket.mount(&[], LIMIT);
    assert_eq!(shell_with(Path::new("/"), rsync, &[&tree, &copy]), "");
    assert_eq!(difference(&tree, &copy), "");
    mounted.unmount();
}

#[test]
#[ignore = "make test-apps"]
fn apps_cp_makes_the_same_tree_from_outside_and_inside() {
    let mut bucket = Bucket::new();
    let tree = tree(&bucket);
    let mounted = bucket.mount(&[], LIMIT);
    let (first, second) = (mounted.path.join("first"), mounted.path.join("second"));
    shell_with(
        Path::new("/"),
        "cp -a \"$1\" \"$2\"; cp -a \"$2\" \"$3\"",
        &[&tree, &first, &second],
    );
    assert_eq!(difference(&tree, &first), "");
    assert_eq!(difference(&tree, &second), "");
    mounted.unmount();
    let mounted = bucket.mount(&[], LIMIT);
    assert_eq!(difference(&tree, &first), "");
    assert_eq!(difference(&tree, &second), "");
    mounted.unmount();
}

#[test]
#[ignore = "make test-apps"]
fn apps_a_debian_package_unpacks_and_verifies() {
    let mut bucket = Bucket::new();
    let local = bucket.local("deb");
    // Sets the group id, has symlinks and a few hundred files.
    shell(&local, "chmod 777 .; apt-get download -qq coreutils perl-base passwd");
    let mounted = bucket.mount(&[], LIMIT);
    let unpack = "for deb in \"$1\"/*.deb; do dpkg-deb -x \"$deb\" \"$2\"; done";
    let (here, there) = (bucket.local("unpacked"), mounted.path.join("root"));
    shell_with(Path::new("/"), unpack, &[&local, &here]);
    shell_with(Path::new("/"), unpack, &[&local, &there]);
    // Symlinks come last, when the folders already have their times: those are of now, on any disk.
    let but = "--omit-dir-times";
    assert_eq!(compare(but, &here, &there), "");
    mounted.unmount();
    let mounted = bucket.mount(&[], LIMIT);
    assert_eq!(compare(but, &here, &there), "");
    // The packages' own checksums, and a program from there.
    shell_with(
        &there,
        "for deb in \"$1\"/*.deb; do dpkg-deb --ctrl-tarfile \"$deb\" | tar -xO ./md5sums | md5sum -c --quiet; done
         test \"$(usr/bin/perl -e 'print 6 * 7')\" = 42
         test -u usr/bin/passwd",
        &[&local],
    );
    mounted.unmount();
}
