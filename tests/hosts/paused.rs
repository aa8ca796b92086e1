//! A worker that stands still for longer than its lease, and goes on in the middle of a commit.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::site::{LEASE, Site};
use crate::support::s3server::{Action, Op, Rule};
use crate::support::wait_for;

#[test]
#[ignore = "make soak"]
fn soak_hosts_whose_worker_stands_still_in_the_middle_of_a_commit() {
    let mut site = Site::new(&[("settle_after", "1s")]);
    // The upload of content, the commit itself, and the lease; each is on its way when the worker stands still,
    // and arrives before or after the other host has the volume.
    let moments = [("/segments/", true), ("/wal/", true), ("/wal/", false), ("/lease/", true)];
    for (number, (part, late)) in moments.into_iter().enumerate() {
        let place = site.a.mount();
        site.ledger.check(&place);
        let file = format!("not synced {number}");
        let written = place.join(&file);
        let ((), ended) = site.write_on_a(|a, b, server| {
            std::thread::sleep(Duration::from_secs(2));
            std::fs::write(&written, &file).unwrap();
            server.fault(Rule::new(Op::Put, part, 1, Action::Hold));
            wait_for(part, Duration::from_secs(40), || (server.held() > 0).then_some(()));
            // Nothing may be started here from now on: that would close files of the mount that stands still.
            a.signal_worker(Signal::SIGSTOP);
            if !late {
                server.release();
            }
            let (_, took) = b.mount_when_free(LEASE * 2);
            println!("{part} ({late}): taken over {took:?} after the stop");
            if late {
                server.release();
            }
            a.signal_worker(Signal::SIGCONT);
        });
        let error = ended.expect_err("the old owner must not acknowledge");
        let number = error.raw_os_error();
        assert!([Some(libc::EIO), Some(libc::ESTALE)].contains(&number), "{part}: {error}");
        let theirs = site.b.place();
        site.ledger.check(&theirs);
        (0..50).for_each(|_| site.ledger.go_on(&theirs).unwrap());
        wait_for("the old owner to learn of it", Duration::from_secs(60), || {
            (site.a.status()["state"] == "fenced").then_some(())
        });
        site.a
            .plugin()
            .call("VolumeDriver.Unmount", &serde_json::json!({ "Name": "data", "ID": "c" }))
            .unwrap();
        site.b.unmount();
        let (_, took) = site.a.mount_when_free(Duration::from_secs(90));
        println!("{part}: back on the first after {took:?}");
        site.ledger.check(&site.a.place());
        site.a.unmount();
    }
    site.whole();
}
