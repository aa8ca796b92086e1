//! `file://` on disks of different abilities.

use std::path::{Path, PathBuf};
use std::process::Command;

use s3vol::store::{Attributes, Location, Properties, Send, Store, StoreSettings, Verb};
use s3vol::types::KeyPrefix;

use super::probe::FULL;
use super::suite::{self, Under, won};

/// A store in a directory, which is made.
fn store_in(dir: &Path) -> Store {
    std::fs::create_dir(dir.join("bucket")).unwrap();
    let url = format!("file://{}/bucket/prefix", dir.display());
    Store::open(&Location::parse(&url).unwrap(), &StoreSettings::default()).unwrap()
}

async fn the_contract_holds(store: &Store) {
    store.check(&KeyPrefix::new("prefix")).await.unwrap();
    suite::run(store, suite::Traits::FILE).await;
    let found = store.probe(&KeyPrefix::new("probe")).await.unwrap();
    let missing: Vec<_> = FULL.into_iter().filter(|verb| !found.has(*verb)).collect();
    assert_eq!(missing, [Verb::PartCopy, Verb::Checksum], "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_extended_attributes() {
    let dir = tempfile::tempdir().unwrap();
    the_contract_holds(&store_in(dir.path())).await;
}

/// Attributes lie in sidecars where the file system takes no extended attributes. `ramfs` is such a
/// one, mounted where no other process sees it.
#[test]
fn without_extended_attributes() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: mounting a file system without extended attributes needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new("unshare")
        .args([
            "--mount",
            "sh",
            "-ec",
            "mount -t ramfs ramfs \"$S3VOL_TEST_DIR\"; exec \"$0\" \"$@\"",
        ])
        .arg(std::env::current_exe().unwrap())
        .args(["directory::on_a_disk_without", "--ignored", "--nocapture"])
        .env("S3VOL_TEST_DIR", dir.path())
        .output()
        .unwrap();
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && stdout.contains("2 passed"), "{stdout}\n{stderr}");
}

mod on_a_disk_without {
    use super::*;

    fn a_place() -> tempfile::TempDir {
        let dir = tempfile::tempdir_in(std::env::var_os("S3VOL_TEST_DIR").unwrap()).unwrap();
        let probe = dir.path().join("probe");
        std::fs::write(&probe, "").unwrap();
        assert!(xattr::set(&probe, "user.test", b"x").is_err(), "this disk has attributes");
        dir
    }

    fn sidecars(dir: &Path) -> Vec<PathBuf> {
        let attrs = dir.join("bucket/prefix/.s3vol-file/attrs");
        let found = std::fs::read_dir(attrs).into_iter().flatten();
        found.map(|entry| entry.unwrap().path()).collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs the disk that directory::without_extended_attributes gives it"]
    async fn the_contract_holds_too() {
        let dir = a_place();
        the_contract_holds(&store_in(dir.path())).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs the disk that directory::without_extended_attributes gives it"]
    async fn attributes_lie_beside_and_go_with_their_file() {
        let dir = a_place();
        let store = store_in(dir.path());
        let under = Under { store: &store, prefix: KeyPrefix::new("prefix") };
        let put = async |key: &str, note: &str| {
            let attributes: Attributes = [("note".to_owned(), note.to_owned())].into();
            let send = Send::plain(super::super::TIMEOUT);
            won(store
                .put(&under.key(key), "x".into(), &attributes, &Properties::default(), send)
                .await)
        };
        let note = async |key: &str| {
            let info = store.head(&under.key(key), super::super::TIMEOUT).await.unwrap().unwrap();
            info.attributes.get("note").cloned()
        };
        put("a/b", "inner").await;
        put("a", "outer").await;
        assert_eq!(note("a").await.as_deref(), Some("outer"));
        assert_eq!(note("a/b").await.as_deref(), Some("inner"));
        put("a", "again").await;
        assert_eq!(note("a").await.as_deref(), Some("again"));
        let with_both = sidecars(dir.path()).len();
        // A file that somebody else puts into the place has no attributes of ours.
        let path = dir.path().join("bucket/prefix/a/b");
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "by hand").unwrap();
        assert_eq!(note("a/b").await, None);
        for key in ["a", "a/b"] {
            let send = Send::plain(super::super::TIMEOUT);
            let _ = won(store.delete(&under.key(key), send).await);
        }
        assert!(sidecars(dir.path()).len() < with_both, "{:?}", sidecars(dir.path()));
        assert_eq!(under.names().await, [""; 0]);
    }
}
