//! A network that is cut and heals when somebody else has the volume.

use std::io::Read;
use std::time::{Duration, Instant};

use crate::site::{LEASE, NAME, Site};
use crate::support::s3server::OTHER_ACCESS_KEY;
use crate::support::s3server::OTHER_SECRET_KEY;
use crate::support::wait_for;

#[test]
#[ignore = "make soak"]
fn soak_hosts_whose_network_is_cut_and_heals_late() {
    let mut site = Site::bare();
    // So that the server's log tells the hosts apart.
    site.b.env("AWS_ACCESS_KEY_ID", OTHER_ACCESS_KEY);
    site.b.env("AWS_SECRET_ACCESS_KEY", OTHER_SECRET_KEY);
    site.a.env("S3VOL_TEST_SYNC_TIMEOUT_MS", "20000");
    site.start(&[("settle_after", "1s")]);
    let place = site.a.mount();
    std::fs::write(place.join("open"), "known to both").unwrap();
    let mut open = std::fs::File::open(place.join("open")).unwrap();
    open.sync_all().unwrap();
    let written = place.join("cut off");
    let ((), ended) = site.write_on_a(|a, b, _| {
        std::thread::sleep(Duration::from_secs(4));
        a.net.cut();
        std::fs::write(&written, "written while the network was cut").unwrap();
        let (refused, took) = b.mount_when_free(LEASE * 2);
        assert!(refused[0].contains("host host-a holds this volume"), "{refused:#?}");
        println!("taken over {took:?} after the cut");
    });
    let error = ended.expect_err("an fsync without a network must fail");
    assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
    let theirs = site.b.place();
    site.ledger.check(&theirs);
    std::fs::write(theirs.join("open"), "changed by the new owner").unwrap();
    std::fs::File::open(theirs.join("open")).unwrap().sync_all().unwrap();
    (0..100).for_each(|_| site.ledger.go_on(&theirs).unwrap());

    // It serves what it had, as long as it does not know.
    let told = std::fs::File::open(&written).unwrap().sync_all().unwrap_err();
    assert_eq!(told.raw_os_error(), Some(libc::EIO), "{told}");
    site.server.clear_log();
    let healed = Instant::now();
    site.a.net.heal();
    wait_for("the old owner to learn of it", Duration::from_secs(120), || {
        (site.a.status()["state"] == "fenced").then_some(())
    });
    println!("fenced {:?} after the network healed: {}", healed.elapsed(), site.a.status());
    // Everything that is asked of it is refused, clearly.
    let refused = |what: &str, result: std::io::Result<()>| {
        let error = result.expect_err(what);
        let number = error.raw_os_error();
        assert!([Some(libc::EIO), Some(libc::ESTALE)].contains(&number), "{what}: {error}");
    };
    refused("a sync", std::fs::File::open(&written).and_then(|file| file.sync_all()));
    refused(
        "a new file",
        std::fs::File::create(place.join("new")).and_then(|file| file.sync_all()),
    );
    let mut text = String::new();
    // What was read before may still be in the kernel's pages; it is what was there.
    match open.read_to_string(&mut text) {
        Ok(_) => assert_eq!(text, "known to both"),
        Err(error) => refused("a read", Err(error)),
    }
    (0..100).for_each(|_| site.ledger.go_on(&theirs).unwrap());
    drop(open);
    // An unmount cannot say that everything is in the volume.
    let (status, answer) = {
        let body = serde_json::json!({ "Name": NAME, "ID": "c" });
        site.a.plugin().call("VolumeDriver.Unmount", &body).unwrap()
    };
    assert_eq!(status, 500, "{answer}");
    assert!(answer["Err"].as_str().unwrap().contains("another host has taken it over"), "{answer}");
    let found = wait_for("what was recovered", Duration::from_secs(60), || site.recovered().pop());
    let body = site.restored(&found, "cut off").unwrap();
    assert_eq!(body, b"written while the network was cut");
    for request in site.server.log() {
        let ours = request.access_key.as_deref() != Some(OTHER_ACCESS_KEY);
        let changed = ours && !request.only_reads() && request.status < 300;
        assert!(
            !changed || request.key.contains(".s3vol/"),
            "the old owner published: {request:?}"
        );
    }

    site.b.unmount();
    let (_, took) = site.a.mount_when_free(Duration::from_secs(60));
    println!("mounted again on the first {took:?} later");
    site.ledger.check(&place);
    assert_eq!(std::fs::read(place.join("open")).unwrap(), b"changed by the new owner");
    assert!(!written.exists(), "what came too late is beside the volume, not in it");
    (0..20).for_each(|_| site.ledger.go_on(&place).unwrap());
    site.a.unmount();
    site.whole();
}

/// One that heals before anybody else came: nothing is lost, and nobody is told of an error.
#[test]
#[ignore = "make soak"]
fn soak_hosts_whose_network_is_cut_for_a_while() {
    let mut site = Site::new(&[("settle_after", "1s")]);
    site.a.mount();
    let ((), ended) = site.write_on_a(|a, _, _| {
        for seconds in [3, 12, 25] {
            std::thread::sleep(Duration::from_secs(3));
            a.net.cut();
            std::thread::sleep(Duration::from_secs(seconds));
            a.net.heal();
        }
        std::thread::sleep(Duration::from_secs(12));
    });
    ended.expect("a pause, and no error");
    site.a.unmount();
    site.whole();
    assert!(site.recovered().is_empty());
}
