//! Hosts whose clocks are wrong.

use std::time::{Duration, Instant};

use s3vol::fault::{MUTANT, Mutant};

use crate::site::{LEASE, Site};

const DAY: i64 = 86_400;

/// The clock that is a day ahead sees no lease as over, and what it wrote does not keep others out.
#[test]
#[ignore = "make soak"]
fn soak_hosts_of_which_one_is_a_day_ahead() {
    let mut site = Site::bare();
    site.b.set_clock(DAY);
    site.start(&[("settle_after", "1s")]);
    for _ in 0..2 {
        let place = site.a.mount();
        site.ledger.check(&place);
        let (refused, ended) = site.write_on_a(|_, b, _| {
            let end = Instant::now() + Duration::from_secs(40);
            let mut refused = Vec::new();
            while Instant::now() < end {
                refused.push(b.refused());
            }
            refused
        });
        ended.expect("nobody takes it away");
        assert!(refused.iter().all(|said| said.contains("host host-a holds this volume")));
        site.a.unmount();
        let place = site.b.mount();
        site.ledger.check(&place);
        (0..100).for_each(|_| site.ledger.go_on(&place).unwrap());
        let made = std::fs::metadata(place.join("records")).unwrap();
        println!("the host ahead: {:?} from now", made.created().map(|t| t.elapsed()));
        site.b.unmount();
    }
    // And it takes a lost host's volume neither sooner nor later than others do.
    let place = site.a.mount();
    (0..50).for_each(|_| site.ledger.go_on(&place).unwrap());
    site.a.lose();
    let (_, took) = site.b.mount_when_free(LEASE * 2);
    assert!((LEASE / 2..LEASE * 3 / 2).contains(&took), "{took:?}");
    site.ledger.check(&site.b.place());
    site.b.lose();
    site.a.start(&site.server);
    let (_, took) = site.a.mount_when_free(LEASE * 2);
    assert!((LEASE / 2..LEASE * 3 / 2).contains(&took), "{took:?}");
    site.ledger.check(&place);
    (0..50).for_each(|_| site.ledger.go_on(&place).unwrap());
    site.a.unmount();
    site.whole();
}

/// A clock that is set back and ahead while a program writes.
#[test]
#[ignore = "make soak"]
fn soak_hosts_whose_clock_steps() {
    let mut site = Site::new(&[("settle_after", "1s")]);
    for steps in [[0, -3600, -DAY], [DAY, 0, 7200]] {
        let place = site.a.mount();
        site.ledger.check(&place);
        let ((), ended) = site.write_on_a(|a, _, _| {
            for step in steps {
                a.set_clock(step);
                std::thread::sleep(Duration::from_secs(4));
                a.plugin().kill("worker");
                std::thread::sleep(Duration::from_secs(4));
            }
        });
        ended.expect("no error");
        site.a.unmount();
        let place = site.b.mount();
        site.ledger.check(&place);
        (0..50).for_each(|_| site.ledger.go_on(&place).unwrap());
        site.b.unmount();
    }
    site.whole();
    assert!(site.recovered().is_empty());
}

/// That these stories see a wrong judgement of time: with a lease judged by the host's own clock, the one that is
/// ahead takes the volume of a host that lives.
#[test]
#[ignore = "make soak"]
fn soak_hosts_a_lease_judged_by_a_clock_that_is_ahead_is_noticed() {
    let mut site = Site::bare();
    site.b.set_clock(DAY);
    site.b.env(MUTANT, &(Mutant::LeaseByWallClock as u64).to_string());
    site.start(&[]);
    site.a.mount();
    let (taken, ended) = site.write_on_a(|_, b, _| b.mount_when_free(Duration::from_secs(40)));
    assert!(taken.0.is_empty(), "it was taken at once: {taken:?}");
    ended.expect_err("the host that lost it is told");
    site.ledger.check(&site.b.place());
    site.b.unmount();
}
