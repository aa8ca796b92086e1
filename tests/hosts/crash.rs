//! A host that is lost, and comes back later.

use std::time::Duration;

use crate::site::{LEASE, Site};
use crate::support::wait_for;

/// kill -9 of the whole plugin under a program that writes; the other host mounts when the lease is over; the
/// lost one returns with the state that it had.
#[test]
#[ignore = "make soak"]
fn soak_hosts_take_over_from_a_host_that_was_lost() {
    // Nothing is committed that nobody syncs.
    let mut site = Site::new(&[("commit", "300s"), ("settle_after", "2s")]);
    let mut lost = Vec::new();
    for round in 0..3u64 {
        let place = site.a.mount();
        site.ledger.check(&place);
        let file = format!("never synced {round}");
        let written = place.join(&file);
        let ((), ended) = site.write_on_a(|a, _, _| {
            // The moment of the kill is the point of this story.
            std::thread::sleep(Duration::from_millis(3000 + 777 * round));
            std::fs::write(&written, &file).unwrap();
            a.lose();
        });
        assert!(ended.is_err(), "a dead mount answers nothing");
        lost.push(file);

        let (refused, took) = site.b.mount_when_free(LEASE * 2);
        assert!(refused[0].contains("host host-a holds this volume"), "{refused:#?}");
        // Renewed up to 20 s before the kill; each refusal takes 15 s.
        assert!((LEASE / 2..LEASE * 3 / 2).contains(&took), "{took:?}");
        println!(
            "round {round}: {} turns, taken over {took:?} after the loss",
            site.ledger.turns()
        );
        let place = site.b.place();
        site.ledger.check(&place);
        (0..50).for_each(|_| site.ledger.go_on(&place).unwrap());

        site.a.start(&site.server);
        let refused = site.a.refused();
        assert!(refused.contains("host host-b holds this volume"), "{refused}");
        site.b.unmount();
        let (_, took) = site.a.mount_when_free(Duration::from_secs(30));
        assert!(took < Duration::from_secs(20), "{took:?}");
        site.ledger.check(&site.a.place());
        wait_for("what was recovered", Duration::from_secs(60), || {
            (site.recovered().len() as u64 > round).then_some(())
        });
        site.a.unmount();
    }
    site.whole();
    let found = site.recovered();
    for file in &lost {
        let bodies = found.iter().filter_map(|name| site.restored(name, file).ok());
        assert_eq!(bodies.collect::<Vec<_>>(), [file.as_bytes()], "{file} in one of {found:?}");
    }
}
