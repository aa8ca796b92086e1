//! git, with a repository of some thousand files.

use crate::{Bucket, LIMIT, shell, shell_with};

const FILES: usize = 3000;

/// A history for `git fast-import`: many files in many folders, a second commit that changes some.
const HISTORY: &str = r#"
import sys
out, files = sys.stdout, int(sys.argv[1])
def commit(mark, text):
    out.write(f"commit refs/heads/main\nmark :{mark}\ncommitter n <e> {1700000000 + mark} +0000\n")
    out.write(f"data {len(text)}\n{text}\n")
    if mark > 1: out.write(f"from :{mark - 1}\n")
def file(path, text, mode="100644"):
    out.write(f"M {mode} inline {path}\ndata {len(text)}\n{text}\n")
commit(1, "one")
for i in range(files):
    file(f"d{i % 60}/e{i % 7}/f{i}", f"{i}\n" * (1 + i % 200), "100755" if i % 10 == 0 else "100644")
file("link", "d5/e5/f5", "120000")
commit(2, "two")
for i in range(0, files, 3):
    file(f"d{i % 60}/e{i % 7}/f{i}", f"changed {i}\n", "100755" if i % 10 == 0 else "100644")
"#;

#[test]
#[ignore = "make test-apps"]
fn apps_a_git_repository_is_whole_after_a_move() {
    let mut bucket = Bucket::new();
    let local = bucket.local("git");
    std::fs::write(local.join("history.py"), HISTORY).unwrap();
    shell(
        &local,
        &format!(
            "git init -q -b main origin
             python3 history.py {FILES} | git -C origin fast-import --quiet"
        ),
    );
    let mounted = bucket.mount(&[], LIMIT);
    // Without hard links: those would need one file system.
    shell_with(
        &mounted.path,
        "git clone -q --no-hardlinks \"$1/origin\" repo
         cd repo
         git config user.name n
         git config user.email e
         git mv d1 moved
         chmod +x d2/e2/f2
         git rm -rq d3
         git commit -qam three
         git gc -q
         echo more >>d4/e4/f4
         git commit -qam four
         git fsck --full --strict",
        &[&local],
    );
    let tree = "git ls-files | wc -l; git log --format=%s; git rev-parse HEAD^{tree}";
    let before = shell(&mounted.path.join("repo"), tree);
    let left = FILES - FILES / 60 + 1;
    assert!(before.starts_with(&format!("{left}\nfour\nthree\ntwo\none\n")), "{before}");
    mounted.unmount();
    let mounted = bucket.mount(&[], LIMIT);
    let repo = mounted.path.join("repo");
    assert_eq!(shell(&repo, tree), before);
    // Every file is read again, not only looked at: the index of another host says nothing here.
    let changed = "rm .git/index; git reset -q; git fsck --full --strict; git status --porcelain";
    assert_eq!(shell(&repo, changed), "");
    shell(&repo, "echo again >>link; git commit -qam five; git gc -q; git fsck --full --strict");
    mounted.unmount();
}
