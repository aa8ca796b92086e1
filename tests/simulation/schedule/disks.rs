//! What the local disks do: others fill them and make room again, calls fail for a while, and bytes are others after a
//! process has ended.

use super::{Director, Kind};
use crate::random::Random;
use crate::rot;
use crate::seam::SECOND;
use crate::sim::sim;
use crate::tell;

/// Others leave so many pages of the host's disk.
fn fills(host: usize, left: Option<u64>) {
    if !sim().bucket.well.get() {
        match left {
            Some(left) => tell!("the disk of host {host} has {left} pages left"),
            None => tell!("the disk of host {host} has room"),
        }
        sim().disk(host).fills(left, sim().now());
    }
}

fn breaks(host: usize, permille: u64) {
    if !sim().bucket.well.get() {
        tell!("of a thousand calls of the disk of host {host} {permille} fail");
        sim().disk(host).breaks(permille);
    }
}

impl Director {
    /// `stream` is of this time only.
    pub(super) fn disk_trouble(&self, host: usize, stream: u64) {
        let random = Random::new(self.plan.seed, 30_000 + stream);
        if self.plan.has(Kind::Full) && random.chance(120) {
            let left = *random.of(&[0, 0, 10, 100, 600, 3000]);
            sim().at(random.below(20 * SECOND), move || fills(host, Some(left)));
            sim().at(random.between(20 * SECOND, 200 * SECOND), move || fills(host, None));
        }
        if self.plan.has(Kind::Broken) && random.chance(120) {
            let permille = *random.of(&[5, 20, 100, 400]);
            sim().at(random.below(20 * SECOND), move || breaks(host, permille));
            sim().at(random.between(20 * SECOND, 60 * SECOND), move || breaks(host, 0));
        }
    }

    /// What changed on a host's disk while no process ran there.
    pub(super) fn rot(&mut self, host: usize, round: u64) {
        let random = Random::new(self.plan.seed, 60_000 + round);
        if !self.plan.has(Kind::Rot) {
            return;
        }
        let state = self.hosts[host].state();
        let rots = random.chance(150);
        if rots {
            let flipped = rot::of_clean(&state, &random);
            tell!("{flipped} bytes of the cache of host {host} are others");
        }
        // Not both: with its end lost the log takes for uncommitted what is clean.
        if random.chance(50) && !rots && rot::of_log(&state, &random) {
            tell!("a byte of the log of host {host} is another one");
            // What comes behind it is lost, as if the host were.
            self.rotten = Some(host);
            self.owner = self.owner.filter(|owner| *owner != host);
        }
    }
}
