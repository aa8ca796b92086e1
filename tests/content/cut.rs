//! A file that is cut or removed while a commit of it is under way.

use super::*;

/// More than the segments that one commit sends at a time: it reads the rest when they have arrived.
const LONG_FILE: usize = 72 * MIB;
const AT_A_TIME: u32 = 4;

fn long_file() -> Vec<u8> {
    (0..LONG_FILE).map(|at| 1 + (at / 4099 % 255) as u8).collect()
}

impl OneFile {
    /// Begins a commit of the long file and does `meanwhile` before its first segments arrive.
    async fn commit_held(&self, meanwhile: impl Future<Output = ()>) {
        let first = Rule::new(Op::Put, "/segments/", AT_A_TIME, Action::Hold);
        self.commit_held_by(&long_file(), first, meanwhile).await;
    }

    async fn commit_held_by(&self, wrote: &[u8], hold: Rule, meanwhile: impl Future<Output = ()>) {
        self.write(0, wrote).await;
        let held = hold.times.map(u64::from);
        self.server.fault(hold);
        let commit = tokio::spawn({
            let (volume, file) = (Arc::clone(&self.volume), Arc::clone(&self.file));
            async move { volume.commit(vec![file]).await }
        });
        tokio::task::block_in_place(|| {
            wait_for("segments under way", LONG, || {
                (Some(self.server.held()) == held).then_some(())
            });
        });
        meanwhile.await;
        self.server.release();
        commit.await.unwrap().unwrap();
    }

    /// The file as another host finds it that has nothing but the bucket.
    async fn elsewhere(&self) -> Vec<u8> {
        let _receipt = self.volume.meta.flush(LONG).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let other = volume(&self.server, dir.path()).await;
        let file = other.inode(self.file.ino).await.unwrap();
        other.read(&file, 0, 2 * LONG_FILE).await.unwrap().to_vec()
    }

    async fn resize(&self, size: usize) {
        self.volume.set_size(&self.file, size as u64).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_cut_during_its_commit_is_whole_or_cut_on_another_host() {
    let whole = long_file();
    // In what is sent already, in what is read later, and to nothing.
    for (cut, then) in [(MIB + 5, None), (68 * MIB + 5, Some(LONG_FILE)), (0, Some(LONG_FILE + 1))]
    {
        let world = OneFile::new().await;
        world
            .commit_held(async {
                world.resize(cut).await;
                if let Some(size) = then {
                    world.resize(size).await;
                }
            })
            .await;
        let found = world.elsewhere().await;
        assert!(
            found == whole || found == whole[..cut],
            "cut to {cut}, then {then:?}: {} bytes, the first {} right",
            found.len(),
            found.iter().zip(&whole).take_while(|(found, wrote)| found == wrote).count(),
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_rewritten_behind_a_cut_during_its_commit_is_right_here_and_after_the_next_commit() {
    let (whole, end) = (long_file(), 70 * MIB);
    for cut in [68 * MIB + 5, 0] {
        let world = OneFile::new().await;
        world
            .commit_held(async {
                world.resize(cut).await;
                world.write(end as u64, b"end").await;
            })
            .await;
        let mut wanted = whole[..cut].to_vec();
        wanted.resize(end, 0);
        wanted.extend_from_slice(b"end");
        assert!(world.read(0, LONG_FILE).await == wanted, "cut to {cut}");
        world.volume.evict_all().unwrap();
        assert!(world.read(0, LONG_FILE).await == wanted, "cut to {cut}, evicted");
        world.commit().await;
        assert!(world.elsewhere().await == wanted, "cut to {cut}, elsewhere");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_cut_after_its_commit_has_read_it_is_whole_on_another_host() {
    let world = OneFile::new().await;
    let whole = &long_file()[..MIB];
    let one = Rule::new(Op::Put, "/segments/", 1, Action::Hold);
    world.commit_held_by(whole, one, world.resize(0)).await;
    assert!(world.elsewhere().await == whole);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_removed_during_its_commit_leaves_nothing_on_the_local_disk() {
    let world = OneFile::new().await;
    world
        .commit_held(async {
            let name = named("file");
            world.fs.unlink(Caller::ROOT, Ino::ROOT, name).await.unwrap();
        })
        .await;
    let cached = walk(&world.dir.path().join("cache"));
    assert_eq!(cached, Vec::<std::path::PathBuf>::new());
}

/// The files below a folder.
fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(walk(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found
}
