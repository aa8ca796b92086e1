//! A local disk that somebody else fills, and frees again.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::site::Site;
use crate::support::wait_for;

/// A small file system at a path; gone when dropped.
struct Small(PathBuf);

impl Small {
    fn at(path: PathBuf) -> Small {
        std::fs::create_dir(&path).unwrap();
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("none"), &path, Some("tmpfs"), flags, Some("size=64m")).unwrap();
        Small(path)
    }

    /// Takes all that is left.
    fn fill(&self) -> PathBuf {
        let path = self.0.join("of somebody else");
        let mut file = File::options().create(true).append(true).open(&path).unwrap();
        while file.write(&[7; 4096]).is_ok() {}
        path
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Gone with the last file that is open on it.
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

fn larger_than_the_cache(path: &Path) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    for n in 0..90u32 {
        file.write_all(&n.to_le_bytes().repeat(1 << 18))?;
    }
    file.sync_all()
}

#[test]
#[ignore = "make soak"]
fn soak_hosts_whose_disk_fills_and_is_freed() {
    let mut site = Site::bare();
    let disk = Small::at(site.a.dir().join("state"));
    site.start(&[("settle_after", "1s")]);
    let place = site.a.mount();
    let big = place.join("big");
    let ((), ended) = site.write_on_a(|a, _, _| {
        for round in 0..6 {
            let filler = disk.fill();
            std::thread::scope(|scope| {
                let writer = scope.spawn(|| larger_than_the_cache(&big));
                std::thread::sleep(Duration::from_secs(2));
                if round % 2 == 1 {
                    a.plugin().kill("worker");
                }
                std::thread::sleep(Duration::from_secs(2));
                std::fs::remove_file(&filler).unwrap();
                writer.join().expect("the writer").expect("it waits for room, and has it");
            });
        }
    });
    ended.expect("a disk that is full for some seconds is a pause");
    // It moves while there is no room.
    let filler = disk.fill();
    site.a.unmount();
    let place = site.b.mount();
    site.ledger.check(&place);
    let found = std::fs::read(place.join("big")).unwrap();
    let wanted = (0..90u32).flat_map(|n| n.to_le_bytes().repeat(1 << 18));
    assert!(found.len() == 90 << 20 && found.into_iter().eq(wanted), "big is another one");
    (0..50).for_each(|_| site.ledger.go_on(&place).unwrap());
    site.b.unmount();
    // And is mounted there all the same; what it may need comes free in time.
    let body = serde_json::json!({ "Name": "data", "ID": "c" });
    let (status, answer) = site.a.plugin().call("VolumeDriver.Mount", &body).unwrap();
    println!("mount on a full disk: {status} {answer}");
    std::fs::remove_file(filler).unwrap();
    if status != 200 {
        wait_for("the mount", Duration::from_secs(60), || {
            (site.a.plugin().call("VolumeDriver.Mount", &body).unwrap().0 == 200).then_some(())
        });
    }
    site.ledger.check(&place_of(&site));
    site.a.unmount();
    site.whole();
    site.a.stop();
    assert!(site.recovered().is_empty());
}

fn place_of(site: &Site) -> PathBuf {
    site.a.place()
}
