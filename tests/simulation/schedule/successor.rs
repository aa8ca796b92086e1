//! A worker dies and its mount stays: the next one gets the kernel's connection, its open files, and once more what
//! the dead one had not answered.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use s3vol::worker::Successor;

use super::{Director, Kind, Mounted, home};
use crate::client::{Hands, work};
use crate::host;
use crate::random::Random;
use crate::requests::{self, Wire};
use crate::sim::{Process, sim};
use crate::tell;

/// A mount whose workers do not start is given up.
const ATTEMPTS: u64 = 12;

impl Director {
    /// The worker may die between carrying a request out and answering it. `stream` is of this time only.
    pub(super) fn dies_unanswered(&self, process: &Process, stream: u64) {
        let random = Random::new(self.plan.seed, 70_000 + stream);
        if self.plan.has(Kind::Resend) && self.plan.has(Kind::Kill) && random.chance(150) {
            let at = (s3vol::fault::points::LOG_APPEND_AFTER, random.below(30));
            process.machine.dies_there.set(Some(at));
        }
    }

    /// A worker of `process`'s host has died. Somebody goes on, or its mount is gone.
    pub(super) async fn goes_on(&mut self, process: &Process, round: u64) -> Result<(), String> {
        let random = Random::new(self.plan.seed, 40_000 + round);
        let number = process.host;
        if !self.plan.has(Kind::Resend) || !random.chance(500) {
            requests::forget(number);
            return self.after_death(process);
        }
        for attempt in 0..ATTEMPTS {
            let process = self.hosts[number].process();
            if self.plan.has(Kind::Kill) && random.chance(150) {
                process.machine.dies_at.set(Some(random.below(60)));
            }
            let Some(mounted) = self.succeed(number, &process).await else {
                tokio::time::sleep(Duration::from_secs(random.between(1, 10))).await;
                continue;
            };
            self.disk_trouble(number, 1000 + round * 20 + attempt);
            self.dies_unanswered(&process, 1000 + round * 20 + attempt);
            if self.plan.has(Kind::Kill) && random.chance(200) {
                let at = process.machine.changes.get() + random.below(150);
                process.machine.dies_at.set(Some(at));
            }
            let mut works = Vec::new();
            for client in 0..self.plan.clients {
                let hands = Hands { fs: Arc::clone(mounted.bare.fs()), home: home(client) };
                let stream = 50_000 + round * 1000 + attempt * 20 + client as u64;
                let random = Random::new(self.plan.seed, stream);
                let wire = Wire::of(number, &hands.home);
                let ops = self.plan.ops.div_ceil(3);
                works.push(process.run(work(hands, wire, (self.line, client), ops, random)));
            }
            let done = join_all(works).await;
            if !done.iter().any(Option::is_none) && !process.is_dead() {
                return self.part(&mounted).await;
            }
        }
        tell!("the mount is given up");
        requests::forget(number);
        self.after_death(process)
    }

    async fn succeed(&self, number: usize, process: &Arc<Process>) -> Option<Mounted> {
        let volume = self.volume.clone().expect("it was made");
        let (host, options) = (&self.hosts[number], self.options.clone());
        let opened = host::mount_as(host, process, &volume, options, Successor::Yes).await?;
        process.machine.dies_at.set(None);
        match opened {
            Ok(bare) => {
                tell!("{} goes on with the mount", process.name);
                Some(Mounted { process: Arc::clone(process), bare })
            }
            Err(error) => {
                tell!("{}: {error}", process.name);
                sim().kill(process);
                None
            }
        }
    }
}
