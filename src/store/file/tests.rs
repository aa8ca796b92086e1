use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;
use crate::store::{Condition, Properties, Store, StoreSettings, Verb};

const T: Duration = Duration::from_secs(10);

struct Fixture {
    dir: tempfile::TempDir,
    store: Store,
}

fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let location = Location::parse(&format!("file://{}/v", dir.path().display())).unwrap();
    let store = Store::open(&location, &StoreSettings::default()).unwrap();
    Fixture { dir, store }
}

fn k(key: &str) -> ObjectKey {
    ObjectKey::new(key)
}

fn when(condition: Condition) -> Send {
    Send { condition, ..Send::plain(T) }
}

impl Fixture {
    async fn put(&self, key: &str, body: &'static str, condition: Condition) -> PutOutcome {
        self.store
            .put(&k(key), body.into(), &Attributes::new(), &Properties::default(), when(condition))
            .await
    }

    async fn write(&self, key: &str, body: &'static str) -> Version {
        won(self.put(key, body, Condition::None).await)
    }

    async fn body(&self, key: &str) -> Bytes {
        self.store.get(&k(key), None, None, T).await.unwrap().data
    }

    async fn list(
        &self,
        prefix: &str,
        delimiter: bool,
        max_keys: u32,
    ) -> (Vec<String>, Vec<String>) {
        let (mut keys, mut prefixes, mut token) = (Vec::new(), Vec::new(), None);
        loop {
            let request = ListRequest { prefix: prefix.into(), delimiter, token, max_keys };
            let page = self.store.list(request, T).await.unwrap();
            assert!(page.entries.len() + page.prefixes.len() <= max_keys as usize);
            keys.extend(page.entries.into_iter().map(|e| e.key.as_str().to_owned()));
            prefixes.extend(page.prefixes);
            token = page.next;
            if token.is_none() {
                return (keys, prefixes);
            }
        }
    }
}

fn won(outcome: PutOutcome) -> Version {
    match outcome {
        PutOutcome::Won(version) => version,
        other => panic!("{other:?}"),
    }
}

fn lost(outcome: PutOutcome) -> bool {
    matches!(outcome, PutOutcome::Lost)
}

#[tokio::test]
async fn the_probe_finds_every_verb() {
    let f = fixture();
    let caps = f.store.probe(&KeyPrefix::new("v/scratch")).await.unwrap();
    for verb in [
        Verb::CreateIfAbsent,
        Verb::PutIfMatch,
        Verb::CompleteConditional,
        Verb::CopyConditional,
        Verb::DeleteConditional,
        Verb::Copy,
        Verb::Expiry,
        Verb::ReadAfterWrite,
    ] {
        assert!(caps.has(verb), "{verb:?}");
    }
    assert!(!caps.has(Verb::UnquotedEtag));
    assert_eq!(f.list("", false, 1000).await.0, Vec::<String>::new(), "it cleaned up");
}

#[tokio::test]
async fn odd_keys_live_side_by_side() {
    let f = fixture();
    let mut keys = vec![
        "v/a",
        "v/a/b",
        "v/a/",
        "v/a//b",
        "v/a-b",
        "v/a0",
        "v/é\n",
        "v/../x",
        "v/%s3vol-x.y",
        "v/.s3vol-file/x",
        "v/d/e/f",
    ];
    for key in &keys {
        let body = if key.ends_with('/') { "" } else { *key };
        f.write(key, body).await;
    }
    for key in &keys {
        let body = if key.ends_with('/') { "" } else { *key };
        assert_eq!(f.body(key).await, body, "{key}");
    }
    keys.sort_unstable();
    for max in [1, 2, 3, 1000] {
        assert_eq!(f.list("", false, max).await.0, keys, "pages of {max}");
    }
    let (entries, prefixes) = f.list("v/", true, 2).await;
    assert_eq!(entries, ["v/%s3vol-x.y", "v/a", "v/a-b", "v/a0", "v/é\n"]);
    assert_eq!(prefixes, ["v/../", "v/.s3vol-file/", "v/a/", "v/d/"]);
    assert_eq!(f.list("v/a/", false, 10).await.0, ["v/a/", "v/a//b", "v/a/b"]);
    assert_eq!(f.list("v/a", false, 10).await.0.len(), 6);
    for key in &keys {
        won(f.store.delete(&k(key), Send::plain(T)).await);
        assert!(f.store.head(&k(key), T).await.unwrap().is_none(), "{key}");
    }
    assert_eq!(f.list("", false, 10).await.0, Vec::<String>::new());
    assert!(!f.dir.path().join("v/d").exists(), "holders go with what they held");
}

#[tokio::test]
async fn files_lie_at_natural_paths_with_real_attributes() {
    let f = fixture();
    let mut attributes = Attributes::new();
    for (name, value) in [("mode", "33184"), ("mtime", "1000000.5"), ("s3volput", "x")] {
        attributes.insert(name.into(), value.into());
    }
    let put = f
        .store
        .put(&k("v/dir/file"), "hi".into(), &attributes, &Properties::default(), Send::plain(T))
        .await;
    let version = won(put);
    let path = f.dir.path().join("v/dir/file");
    assert_eq!(std::fs::read(&path).unwrap(), b"hi");
    let meta = std::fs::metadata(&path).unwrap();
    assert_eq!(
        (meta.mode() & 0o777, meta.mtime(), meta.mtime_nsec()),
        (0o640, 1_000_000, 500_000_000)
    );
    let info = f.store.head(&k("v/dir/file"), T).await.unwrap().unwrap();
    assert_eq!(info.attributes, attributes);
    assert_eq!(info.version, version);
    // A chmod by hand counts.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let info = f.store.head(&k("v/dir/file"), T).await.unwrap().unwrap();
    assert_eq!(info.attributes["mode"], (0o100600).to_string());
    assert_eq!(info.attributes["s3volput"], "x");
}

#[tokio::test]
async fn sees_what_others_put_there() {
    let f = fixture();
    let root = f.dir.path().join("v");
    std::fs::create_dir_all(root.join("by/hand")).unwrap();
    std::fs::write(root.join("by/hand/file"), "x").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", root.join("by/link")).unwrap();
    assert_eq!(f.list("v/by/", false, 10).await.0, ["v/by/", "v/by/hand/", "v/by/hand/file"]);
    let info = f.store.head(&k("v/by/hand/file"), T).await.unwrap().unwrap();
    assert_eq!(info.version.size, 1);
    assert!(info.attributes.contains_key("mode") && info.attributes.contains_key("mtime"));
    assert!(f.store.head(&k("v/by/link"), T).await.unwrap().is_none(), "links are not followed");
    let old = info.version;
    std::fs::write(root.join("by/hand/file"), "yy").unwrap();
    assert!(lost(f.put("v/by/hand/file", "z", Condition::Is(old.clone())).await));
    let e = f.store.get(&k("v/by/hand/file"), None, Some(&old), T).await.unwrap_err();
    assert_eq!(e.kind, StoreErrorKind::Changed);
}

#[tokio::test]
async fn versions_never_come_back() {
    let f = fixture();
    let mut seen = std::collections::HashSet::new();
    for _ in 0..20 {
        assert!(seen.insert(f.write("v/k", "same").await.etag));
    }
}

#[tokio::test]
async fn ranges_are_cut_at_the_end() {
    let f = fixture();
    f.write("v/k", "0123456789").await;
    for (range, expected) in [(0..3, "012"), (8..20, "89"), (10..12, ""), (50..60, "")] {
        let got = f.store.get(&k("v/k"), Some(range), None, T).await.unwrap();
        assert_eq!(got.data, expected);
        assert_eq!(got.info.version.size, 10);
    }
}

#[tokio::test]
async fn an_expired_change_does_nothing() {
    let f = fixture();
    f.write("v/k", "old").await;
    let past = Some(host_time().plus(-1));
    let send = || Send { not_after: past, ..Send::plain(T) };
    let put = f
        .store
        .put(&k("v/k"), "new".into(), &Attributes::new(), &Properties::default(), send())
        .await;
    assert!(matches!(put, PutOutcome::Ambiguous(e) if e.kind == StoreErrorKind::Timeout));
    let deleted = f.store.delete(&k("v/k"), send()).await;
    assert!(matches!(deleted, PutOutcome::Ambiguous(_)));
    assert_eq!(f.body("v/k").await, "old");
    let own = f.dir.path().join("v/.s3vol-file/tmp");
    assert_eq!(std::fs::read_dir(own).unwrap().count(), 0, "no temporary file stays");
}

#[tokio::test]
async fn a_missing_directory_is_a_missing_bucket() {
    let dir = tempfile::tempdir().unwrap();
    let location = Location::parse(&format!("file://{}/no/v", dir.path().display())).unwrap();
    let store = Store::open(&location, &StoreSettings::default()).unwrap();
    let e = store.check(&location.prefix).await.unwrap_err();
    assert_eq!(e.kind, StoreErrorKind::NoBucket);
    assert!(e.message.contains("create it"), "{}", e.message);
    let e = store.head(&k("v/x"), T).await.unwrap_err();
    assert_eq!(e.kind, StoreErrorKind::NoBucket);
}

#[tokio::test]
async fn the_engine_has_its_folder_and_its_kill_switch() {
    use object_store::ObjectStoreExt;
    let f = fixture();
    let engine = f.store.engine(&KeyPrefix::new("v/.s3vol/meta")).unwrap();
    engine.as_dyn().put(&"wal/1".into(), "x".into()).await.unwrap();
    assert_eq!(std::fs::read(f.dir.path().join("v/.s3vol/meta/wal/1")).unwrap(), b"x");
    assert_eq!(f.store.requests().put, 1);
    engine.kill();
    let path = "wal/2".into();
    let late = engine.as_dyn().put(&path, "x".into());
    assert!(tokio::time::timeout(Duration::from_millis(200), late).await.is_err());
    assert!(!f.dir.path().join("v/.s3vol/meta/wal/2").exists());
}

#[tokio::test]
async fn a_file_lives_next_to_its_directory() {
    for order in [["v/a", "v/a/b", "v/a/"], ["v/a/b", "v/a", "v/a/"], ["v/a/", "v/a", "v/a/b"]] {
        let f = fixture();
        let body = |key: &str| if key.ends_with('/') { String::new() } else { key.to_owned() };
        for key in order {
            let mut attributes = Attributes::new();
            attributes.insert("note".into(), key.into());
            let (key, create) = (k(key), when(Condition::Absent));
            won(f
                .store
                .put(&key, body(key.as_str()).into(), &attributes, &Properties::default(), create)
                .await);
        }
        for (n, key) in order.into_iter().enumerate() {
            for (m, other) in order.into_iter().enumerate() {
                let info = f.store.head(&k(other), T).await.unwrap();
                assert_eq!(info.is_some(), m >= n, "{other} after {n} deletions of {order:?}");
                let note = info.and_then(|info| info.attributes.get("note").cloned());
                assert_eq!(note.as_deref(), (m >= n).then_some(other));
                if m >= n {
                    assert_eq!(f.body(other).await, body(other));
                }
            }
            won(f.store.delete(&k(key), Send::plain(T)).await);
        }
        assert_eq!(f.list("", false, 10).await.0, Vec::<String>::new());
    }
}

mod uploads;
