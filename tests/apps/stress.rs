//! The file system stressors of stress-ng, which verify what they do.

use std::path::Path;

use crate::{Bucket, LIMIT, shell_with};

/// Stressor, bounded operations, and what else it needs.
const STRESSORS: [(&str, u32, &str); 13] = [
    ("dentry", 4000, "--dentries 500"),
    ("dir", 2000, "--dir-dirs 500"),
    ("rename", 3000, ""),
    ("link", 1, ""),
    ("symlink", 1, ""),
    ("chmod", 300, ""),
    ("fallocate", 40, "--fallocate-bytes 8m"),
    ("hdd", 200, "--hdd-bytes 8m --hdd-opts wr-rnd,rd-rnd,fsync"),
    ("mmap", 20, "--mmap-bytes 4m --mmap-file"),
    ("seek", 2000, "--seek-size 8m"),
    ("xattr", 40, ""),
    ("flock", 5000, ""),
    ("locka", 2000, ""),
];

#[test]
#[ignore = "make test-apps"]
fn apps_stress_ng_finds_no_fault_and_leaves_nothing_behind() {
    let mut bucket = Bucket::new();
    let mounted = bucket.mount(&[], LIMIT);
    let dir = mounted.path.join("stress");
    for (name, ops, more) in STRESSORS {
        // Two workers a stressor, so that they meet; the time only bounds what hangs.
        let said = shell_with(
            &mounted.path,
            &format!(
                "mkdir -p stress
                 stress-ng --{name} 2 --{name}-ops {ops} {more} --verify --metrics-brief \
                   --temp-path \"$PWD/stress\" --timeout 60 2>&1"
            ),
            &[],
        );
        assert!(said.contains("successful run completed"), "{name}: {said}");
        assert!(!said.contains("fail:"), "{name}: {said}");
        let left = shell_with(Path::new("/"), "ls -A \"$1\"; rm -r \"$1\"", &[&dir]);
        assert_eq!(left, "", "{name} left files");
    }
    mounted.unmount();
    let mounted = bucket.mount(&[], LIMIT);
    assert_eq!(shell_with(&mounted.path, "find . -mindepth 1", &[]), "");
    mounted.unmount();
}
