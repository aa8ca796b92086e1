//! Uploads in parts, and what is left of them.

use std::os::unix::fs::MetadataExt;

use super::*;

impl Fixture {
    fn own(&self, path: &str) -> std::path::PathBuf {
        self.dir.path().join("v/.s3vol-file").join(path)
    }

    async fn begin(&self, attributes: &Attributes) -> UploadId {
        let none = Properties::default();
        self.store.create_upload(&k("v/big"), attributes, &none, T).await.unwrap()
    }

    async fn part(
        &self,
        id: &UploadId,
        number: u32,
        body: &'static str,
    ) -> Result<String, StoreError> {
        let part = Part { number, offset: u64::from(number - 1) * 3 };
        self.store.upload_part(&k("v/big"), id, part, body.into(), T).await
    }

    /// All parts of `onetwo3`, the last one first.
    async fn parts(&self, id: &UploadId) -> Vec<String> {
        let mut tags = std::collections::BTreeMap::new();
        for (number, body) in [(3, "3"), (1, "one"), (2, "two")] {
            tags.insert(number, self.part(id, number, body).await.unwrap());
        }
        tags.into_values().collect()
    }

    async fn complete(&self, id: &UploadId, tags: &[String], send: Send) -> PutOutcome {
        self.store.complete_upload(&k("v/big"), id, tags, 7, send).await
    }
}

#[tokio::test]
async fn uploads_become_one_object() {
    let f = fixture();
    let mut attributes = Attributes::new();
    attributes.insert("mode".into(), "33188".into());
    let id = f.begin(&attributes).await;
    let tags = f.parts(&id).await;
    let done = f.complete(&id, &tags, Send::plain(T)).await;
    assert_eq!(won(done).size, 7);
    assert_eq!(f.body("v/big").await, "onetwo3");
    let info = f.store.head(&k("v/big"), T).await.unwrap().unwrap();
    assert_eq!(info.attributes, attributes);
    f.store.abort_upload(&k("v/big"), &id, T).await.unwrap();
    let foreign = UploadId("../../x".into());
    assert!(f.store.abort_upload(&k("v/big"), &foreign, T).await.is_err());
}

#[tokio::test]
async fn a_completion_moves_no_bytes() {
    let f = fixture();
    let id = f.begin(&Attributes::new()).await;
    let tags = f.parts(&id).await;
    let held = || std::fs::read_dir(f.own("uploads").join(&id.0)).unwrap().flatten();
    let large: Vec<u64> =
        held().map(|e| e.metadata().unwrap()).filter(|m| m.len() == 7).map(|m| m.ino()).collect();
    won(f.complete(&id, &tags, when(Condition::Absent)).await);
    let made = std::fs::metadata(f.dir.path().join("v/big")).unwrap();
    assert_eq!(large, [made.ino()], "the file into which the parts went is the object");
    assert_eq!(made.nlink(), 1);
    for left in ["uploads", "tmp"] {
        assert_eq!(std::fs::read_dir(f.own(left)).unwrap().count(), 0, "{left}");
    }
}

#[tokio::test]
async fn a_part_that_arrives_after_the_completion_is_not_in_the_object() {
    let f = fixture();
    let id = f.begin(&Attributes::new()).await;
    let tags = f.parts(&id).await;
    // Its sender has given up, and it has the file open already.
    let content = f.own("uploads").join(&id.0).join("content");
    let lock = nix::fcntl::Flock::lock(
        std::fs::File::open(&content).unwrap(),
        nix::fcntl::FlockArg::LockExclusive,
    )
    .unwrap();
    let late = async { f.part(&id, 2, "TWO").await };
    let done = async {
        // The part waits for the lock by now.
        while waiting(&content) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        std::fs::rename(&content, f.own("tmp/x")).unwrap();
        drop(lock);
        std::fs::rename(f.own("tmp/x"), f.dir.path().join("v/other")).unwrap();
    };
    let (late, ()) = tokio::join!(late, done);
    assert_eq!(late.unwrap_err().kind, StoreErrorKind::NotFound);
    assert_eq!(f.body("v/other").await, "onetwo3");
    assert!(!matches!(f.complete(&id, &tags, Send::plain(T)).await, PutOutcome::Won(_)));
}

/// How many wait for a lock on a file, by the kernel's list.
fn waiting(path: &std::path::Path) -> usize {
    let ino = format!(":{} ", std::fs::metadata(path).unwrap().ino());
    let locks = std::fs::read_to_string("/proc/locks").unwrap();
    locks.lines().filter(|line| line.contains("->") && line.contains(&ino)).count()
}

#[tokio::test]
async fn only_all_parts_of_one_upload_become_an_object() {
    let f = fixture();
    let other = f.begin(&Attributes::new()).await;
    let others = f.parts(&other).await;
    let id = f.begin(&Attributes::new()).await;
    let tags = f.parts(&id).await;
    let [one, two, three] = tags.clone().try_into().unwrap();
    for wrong in [
        vec![one.clone(), three.clone()],
        vec![two.clone(), one.clone(), three],
        vec![one, two, others[2].clone()],
        vec!["../x".to_owned()],
        vec![],
    ] {
        let done = f.complete(&id, &wrong, Send::plain(T)).await;
        assert!(matches!(done, PutOutcome::Ambiguous(_)), "{wrong:?}: {done:?}");
        assert!(f.store.head(&k("v/big"), T).await.unwrap().is_none());
    }
    // One that was longer when it was sent first.
    f.part(&id, 3, "longer").await.unwrap();
    f.part(&id, 3, "3").await.unwrap();
    won(f.complete(&id, &tags, Send::plain(T)).await);
    assert_eq!(f.body("v/big").await, "onetwo3");
}

#[tokio::test]
async fn the_sweep_spares_what_is_being_written_whatever_time_it_bears() {
    let f = fixture();
    let id = f.begin(&Attributes::new()).await;
    let tags = f.parts(&id).await;
    let long_ago = std::fs::FileTimes::new().set_modified(std::time::SystemTime::UNIX_EPOCH);
    let file = std::fs::File::create(f.own("tmp/written")).unwrap();
    file.set_times(long_ago).unwrap();
    let dir = f.own("uploads").join(&id.0);
    std::fs::File::open(&dir).unwrap().set_times(long_ago).unwrap();
    f.store.check(&KeyPrefix::new("v/")).await.unwrap();
    assert!(f.own("tmp/written").exists());
    won(f.complete(&id, &tags, Send::plain(T)).await);
}
