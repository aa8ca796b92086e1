//! Where a file is by now, as its extended attributes tell.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use xattr::FileExt;

use super::rig::{Mount, Place, SOON, run_ok};
use super::support::s3server::TestS3;
use super::support::wait_for;

const STATUS: &str = "user.s3vol.status";
const DURABLE: &str = "user.s3vol.durable";
/// Nothing is committed or settled by itself.
const BY_HAND: [&str; 2] = ["commit=5m", "settle_after=1d"];

fn said(path: &Path, name: &str) -> String {
    let value = xattr::get(path, name).unwrap().unwrap_or_else(|| panic!("no {name}"));
    String::from_utf8(value).unwrap()
}

/// Its status, which begins so, and whether it is durable.
fn stands(path: &Path, begins: &str, durable: bool) {
    let status = said(path, STATUS);
    assert!(status.starts_with(begins) && !status.contains('\n'), "{status:?}, not {begins:?}");
    assert_eq!(said(path, DURABLE), if durable { "1" } else { "0" }, "{status}");
}

fn sync(path: &Path) {
    File::open(path).unwrap().sync_all().unwrap();
}

/// Requests that no renewal of the lease makes.
fn requests(server: &TestS3) -> usize {
    let renewal = |key: &str| key.contains("/lease/") || key.ends_with("format.json");
    server.log().iter().filter(|request| !renewal(&request.key)).count()
}

#[test]
fn any_file_tells_where_it_is_without_a_request() {
    let (server, place) = (TestS3::start(), Place::new());
    let url = format!("s3://{}/v", server.bucket());
    let mount = Mount::start(Some(&server), &place, &url, &BY_HAND);
    let (dir, file, link) = (place.file("dir"), place.file("dir/file"), place.file("link"));
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(&file, b"12345").unwrap();
    std::os::unix::fs::symlink("dir/file", &link).unwrap();
    let before = requests(&server);
    stands(&file, "local: 5 bytes are in no commit yet", false);
    stands(&dir, "local: its last change is on its way", false);
    assert_eq!(requests(&server), before, "asking costs nothing");

    sync(&file);
    let before = requests(&server);
    stands(&file, "committed: since commit 1, no object yet", true);
    stands(&dir, "committed: since change ", true);
    // Of a link Linux shows no `user.` attributes.
    assert!(said(&link, "trusted.s3vol.status").starts_with("committed: since change "));
    std::fs::rename(&dir, place.file("moved")).unwrap();
    let (dir, file) = (place.file("moved"), place.file("moved/file"));
    stands(&file, "local: its last change is on its way", false);
    assert_eq!(requests(&server), before, "asking costs nothing");
    sync(&dir);
    stands(&file, "committed: since commit 1", true);
    mount.end_well();

    let mount = Mount::start(Some(&server), &place, &url, &BY_HAND);
    let etag = server.get("v/moved/file").unwrap().etag;
    let etag = etag.trim_matches('"').to_owned();
    let rests = format!("object v/moved/file, ETag {etag}, of commit 1");
    // Looking a name up the first time may look what others did there.
    for path in [&file, &link, &place.at] {
        path.symlink_metadata().unwrap();
    }
    let before = requests(&server);
    stands(&file, &format!("at rest: {rests}"), true);
    stands(&dir, "at rest: object v/moved/, ETag ", true);
    stands(&place.at, "at rest: ", true);
    assert!(said(&link, "trusted.s3vol.status").starts_with("at rest: object v/link, "));
    assert_eq!(requests(&server), before, "asking costs nothing");

    let mut more = OpenOptions::new().append(true).open(&file).unwrap();
    more.write_all(b"678").unwrap();
    stands(&file, "local: 3 bytes", false);
    more.sync_all().unwrap();
    let older = format!("committed: since commit 2; older than that is the {rests}");
    stands(&file, &older, true);
    std::fs::remove_file(&file).unwrap();
    let status = more.get_xattr(STATUS).unwrap().unwrap();
    assert!(status.starts_with(b"removed: "), "{}", String::from_utf8_lossy(&status));
    assert_eq!(more.get_xattr(DURABLE).unwrap().as_deref(), Some(&b"0"[..]));
    drop(more);
    mount.end_well();
}

#[test]
fn what_was_synced_is_durable_also_while_it_is_published() {
    let (server, place) = (TestS3::start(), Place::new());
    let url = format!("s3://{}/v", server.bucket());
    // Nobody commits what a publish notes.
    let mount = Mount::start(Some(&server), &place, &url, &["commit=5m", "settle_after=0s"]);
    let file = place.file("file");
    for round in 0..3 {
        std::fs::write(&file, format!("content {round}")).unwrap();
        sync(&file);
        wait_for("rest", SOON, || {
            let status = said(&file, STATUS);
            assert_eq!(said(&file, DURABLE), "1", "{status}");
            status.starts_with("at rest: ").then_some(())
        });
    }
    mount.end_well();
}

#[test]
fn what_a_file_tells_of_itself_is_not_set_nor_listed_nor_copied() {
    let (server, place) = (TestS3::start(), Place::new());
    let url = format!("s3://{}/v", server.bucket());
    let mount = Mount::start(Some(&server), &place, &url, &["settle_after=0s"]);
    let file = place.file("file");
    std::fs::write(&file, b"x").unwrap();
    sync(&file);
    wait_for("rest", SOON, || said(&file, STATUS).starts_with("at rest: ").then_some(()));
    for name in [STATUS, DURABLE, "user.s3vol.other"] {
        let refused = |done: std::io::Result<()>| done.unwrap_err().raw_os_error();
        assert_eq!(refused(xattr::set(&file, name, b"1")), Some(libc::EOPNOTSUPP), "{name}");
        assert_eq!(refused(xattr::remove(&file, name)), Some(libc::EOPNOTSUPP), "{name}");
    }
    assert_eq!(xattr::get(&file, "user.s3vol.other").unwrap(), None);
    xattr::set(&file, "user.mine", b"1").unwrap();
    let copy = place.dir.path().join("copy");
    let inside = place.file("copy");
    for to in [&copy, &inside] {
        run_ok("cp", &["-a".as_ref(), file.as_os_str(), to.as_os_str()]);
        let listed: Vec<_> = xattr::list(to).unwrap().collect();
        assert_eq!(listed, ["user.mine"], "{}", to.display());
    }
    assert_eq!(xattr::get(&copy, STATUS).unwrap(), None);
    mount.end_well();
}
