//! A volume that is handed from host to host.

use std::time::{Duration, Instant};

use crate::site::{NAME, Site};
use crate::support::unmanaged::runs;
use crate::support::wait_for;

/// It is written on one host, then on the other, for so many turns each; what one left is there on the next.
fn back_and_forth(site: &mut Site, moves: usize, turns: usize) {
    for number in 0..moves {
        let place = site.a.mount();
        site.ledger.check(&place);
        for _ in 0..turns {
            site.ledger.go_on(&place).unwrap();
        }
        if number == 0 && moves > 1 {
            let refused = site.b.refused();
            assert!(refused.contains("host host-a holds this volume"), "{refused}");
        }
        site.a.unmount();
        // At once: who lingers has it no more.
        let asked = Instant::now();
        let place = site.b.mount();
        assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
        site.ledger.check(&place);
        for _ in 0..turns {
            site.ledger.go_on(&place).unwrap();
        }
        site.b.unmount();
    }
    site.whole();
    assert!(site.recovered().is_empty(), "a clean move leaves nothing to recover");
    for host in [&site.a, &site.b] {
        assert!(!host.log().contains("kept aside"), "{}", host.log());
    }
}

#[test]
fn a_volume_moves_between_two_hosts_with_every_synced_byte() {
    let mut site = Site::new(&[("settle_after", "0s")]);
    back_and_forth(&mut site, 1, 40);
}

#[test]
#[ignore = "make soak"]
fn soak_hosts_hand_a_volume_over_many_times() {
    let mut site = Site::new(&[]);
    back_and_forth(&mut site, 20, 150);
}

/// The worker dies while it gives the volume back: its successor finishes that, or the other host waits.
#[test]
#[ignore = "make soak"]
fn soak_hosts_whose_worker_dies_at_the_hand_over() {
    let mut site = Site::new(&[("settle_after", "1h")]);
    for round in 0..4u64 {
        let place = site.a.mount();
        site.ledger.check(&place);
        (0..100).for_each(|_| site.ledger.go_on(&place).unwrap());
        let worker = site.a.worker();
        let (plugin, asked) = (site.a.plugin(), Instant::now());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // Sooner or later in the drain, which settles a hundred files.
                std::thread::sleep(Duration::from_millis(30 + 60 * round));
                // SAFETY: plain system call on a process that nobody has waited for yet.
                unsafe { libc::kill(worker, libc::SIGKILL) };
            });
            let body = serde_json::json!({ "Name": NAME, "ID": "c" });
            let answer = plugin.call("VolumeDriver.Unmount", &body).unwrap();
            println!("unmounted in {:?}: {answer:?}", asked.elapsed());
        });
        wait_for("its end", Duration::from_secs(10), || (!runs(worker as u64)).then_some(()));
        let (refused, took) = site.b.mount_when_free(Duration::from_secs(150));
        println!("round {round}: mounted on the other after {took:?}, {} refusals", refused.len());
        let place = site.b.place();
        site.ledger.check(&place);
        (0..20).for_each(|_| site.ledger.go_on(&place).unwrap());
        site.b.unmount();
    }
    site.whole();
}
